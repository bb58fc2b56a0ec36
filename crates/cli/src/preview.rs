//! Shows pictures in the terminal: through the graphics protocol of kitty and iTerm, as coloured half blocks in others.

use std::env;
use std::io::IsTerminal;
use std::path::Path;

use crate::terminal::say;

/// The largest width of a picture, in characters: a grid of eight images is recognisable at this width.
const MAX_WIDTH: u32 = 96;

/// Prints a title and, below it, a picture of the run, if the terminal can show it.
pub(crate) fn show(title: &str, picture: &Path) {
    let term = env::var("TERM").unwrap_or_default();
    let plain = term.is_empty() || term == "dumb" || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !std::io::stdout().is_terminal() {
        return;
    }
    let Ok(image) = image::open(picture) else { return };
    let (width, _) = viuer::terminal_size();
    let config = viuer::Config {
        absolute_offset: false,
        width: Some(MAX_WIDTH.min(u32::from(width))),
        // other terminals would have to be queried, and may not answer
        use_kitty: term.contains("kitty") || term.contains("ghostty"),
        ..viuer::Config::default()
    };
    say(title);
    let _ = viuer::print(&image, &config); // a terminal without support shows nothing
}
