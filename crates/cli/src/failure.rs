//! Prints an error and chooses the exit code.

use std::ops::Range;
use std::process::ExitCode;

use kakusan::pipeline::{ConfigError, Error};
use kakusan::report::quote_path;
use miette::{Diagnostic, LabeledSpan, MietteHandlerOpts, NamedSource, Report, SourceCode};

use crate::program::program;
use crate::terminal::warn;

/// A configuration error with the lines of the file that it refers to.
#[derive(Debug)]
struct Shown {
    error: ConfigError,
    span: Range<usize>,
    source: NamedSource<String>,
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.error.message)
    }
}

impl std::error::Error for Shown {}

impl Diagnostic for Shown {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(LabeledSpan::underline(self.span.clone()))))
    }
}

/// Prints the error to standard error and returns its exit code.
pub(crate) fn show(error: &Error) -> ExitCode {
    match located(error) {
        Some(shown) => {
            // a name that is broken over two lines cannot be searched for
            let _ = miette::set_hook(Box::new(|_| Box::new(MietteHandlerOpts::new().wrap_lines(false).build())));
            warn(&format!("{:?}", Report::new(shown)));
        }
        None => warn(&format!("error: {error}")),
    }
    if let Error::NotAPipeline { dir, .. } = error
        && dir.join("config.toml").is_file()
    {
        warn(&format!("Resume it with: {} train --resume {}", program(), quote_path(dir)));
    }
    code(error)
}

/// The exit code of an error.
pub(crate) fn code(error: &Error) -> ExitCode {
    ExitCode::from(if error.is_usage() { 2 } else { 1 })
}

/// The error with its position in a file, if it has one.
fn located(error: &Error) -> Option<Shown> {
    let Error::Config(error) = error else { return None };
    let (span, text) = (error.span.clone()?, error.text.clone()?);
    Some(Shown { error: (**error).clone(), span, source: NamedSource::new(&error.origin, text) })
}
