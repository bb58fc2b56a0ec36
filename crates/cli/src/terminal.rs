//! Output of the command. A closed pipe is not an error: everything printed is also in the run's files.

use std::io::Write;

use kakusan::report::thousands;

/// Prints a line to standard output.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// `1 image`, `2,048 images`.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    format!("{} {thing}{}", thousands(count), if count == 1 { "" } else { "s" })
}

/// Prints a line to standard error.
pub(crate) fn warn(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
