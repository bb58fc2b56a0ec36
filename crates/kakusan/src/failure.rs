//! How an error is shown, and with which exit code the command ends.

use std::process::ExitCode;

use kakusan::pipeline::{ConfigError, Error};
use miette::{Diagnostic, LabeledSpan, NamedSource, Report, SourceCode};

use crate::terminal::warn;

/// A configuration error beside the lines that it is about.
#[derive(Debug)]
struct Shown {
    error: ConfigError,
    source: Option<NamedSource<String>>,
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.source {
            Some(_) => f.write_str(&self.error.message),
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for Shown {}

impl Diagnostic for Shown {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::underline(self.error.span.clone()?);
        Some(Box::new(std::iter::once(label)))
    }
}

/// Shows the error on standard error and gives its exit code.
pub(crate) fn show(error: &Error) -> ExitCode {
    if let Error::Config(config) = error {
        let text = config.span.as_ref().and(config.text.clone());
        let source = text.map(|text| NamedSource::new(&config.origin, text));
        warn(&format!("{:?}", Report::new(Shown { error: (**config).clone(), source })));
    } else {
        warn(&format!("error: {error}"));
    }
    ExitCode::from(if error.is_usage() { 2 } else { 1 })
}
