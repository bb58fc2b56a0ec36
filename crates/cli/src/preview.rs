//! Pictures in the terminal: by its own protocol in kitty and iTerm, by coloured half blocks in others.

use std::env;
use std::io::IsTerminal;
use std::path::Path;

use crate::terminal::say;

/// Columns that a picture takes at most: a grid of eight images is recognisable in these.
const COLUMNS: u32 = 96;

/// Shows a picture of the run under a line that says what it is, on a terminal that can.
pub(crate) fn show(title: &str, picture: &Path) {
    let term = env::var("TERM").unwrap_or_default();
    let plain = term.is_empty() || term == "dumb" || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !std::io::stdout().is_terminal() {
        return;
    }
    let Ok(image) = image::open(picture) else { return };
    let (columns, _) = viuer::terminal_size();
    let config = viuer::Config {
        absolute_offset: false,
        width: Some(COLUMNS.min(u32::from(columns))),
        // others are asked whether they can by a question that they may leave unanswered
        use_kitty: term.contains("kitty") || term.contains("ghostty"),
        ..viuer::Config::default()
    };
    say(title);
    let _ = viuer::print(&image, &config); // a terminal that cannot shows nothing
}
