use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use kakusan::pipeline::Result;

use crate::program::NAME;
use crate::terminal::say;

const DETAILS: &str = "\
Install them for the command `kakusan` in your PATH, then start a new shell:
  bash        kakusan completions bash > ~/.local/share/bash-completion/completions/kakusan
  zsh         kakusan completions zsh > ~/.zfunc/_kakusan    (a folder of $fpath, before compinit in ~/.zshrc)
  fish        kakusan completions fish > ~/.config/fish/completions/kakusan.fish
  elvish      eval (kakusan completions elvish | slurp)    in ~/.config/elvish/rc.elv
  powershell  kakusan completions powershell | Out-String | Invoke-Expression    in $PROFILE";

#[derive(Args)]
#[command(after_help = DETAILS)]
pub(crate) struct CompletionsArgs {
    /// The shell that reads them
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the completions of `command` for a shell.
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<ExitCode> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut command, NAME, &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    Ok(ExitCode::SUCCESS)
}
