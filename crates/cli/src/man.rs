use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_mangen::Man;
use kakusan::pipeline::{Error, Result, write_whole};

use crate::terminal::say;

const DETAILS: &str = "\
Examples:
  man | man -l -                      read it
  man ~/.local/share/man/man1         install it for `man kakusan`, and a page for each command: `man kakusan-train`";

#[derive(Args)]
#[command(after_help = DETAILS)]
pub(crate) struct ManArgs {
    /// The folder to write the pages to; without it, the page of the whole command is printed
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the manual page of `command`, or writes it and those of all commands.
pub(crate) fn man(args: &ManArgs, command: Command) -> Result<ExitCode> {
    let mut command = command.disable_help_subcommand(true);
    command.build(); // gives the subcommands their full names
    let page = |of: &Command| {
        let (man, mut text) = (Man::new(of.clone()), vec![]);
        let rendered = man.render(&mut text).map(|()| (man.get_filename(), text));
        rendered.map_err(|e| Error::Unfit(format!("the manual page cannot be written: {e}")))
    };
    let Some(dir) = &args.dir else {
        say(String::from_utf8_lossy(&page(&command)?.1).trim_end());
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(dir).map_err(|source| Error::Io { action: "create", path: dir.clone(), source })?;
    let all = std::iter::once(&command).chain(command.get_subcommands());
    let pages = all.map(page).collect::<Result<Vec<_>>>()?;
    for (name, text) in &pages {
        write_whole(&dir.join(name), text)?;
    }
    say(&format!("{} manual pages: {}", pages.len(), dir.display()));
    Ok(ExitCode::SUCCESS)
}
