use std::path::PathBuf;
use std::str::FromStr;

use kakusan_config::did_you_mean;

use super::{BrightnessGuidance, ColourGuidance};
use crate::{Error, Result};

/// A guide as text, `NAME=VALUE:STRENGTH`: what it asks for, and how strongly.
///
/// ```
/// use kakusan_pipeline::{ColourGuidance, GuideKind, GuideSpec};
///
/// let spec: GuideSpec = "colour=#1e90ff:40".parse()?;
/// assert_eq!(spec.kind, GuideKind::Colour(ColourGuidance::rgb([0x1e, 0x90, 0xff])));
/// assert_eq!(spec.strength, 40.0);
/// let wrong = "color=#1e90ff:40".parse::<GuideSpec>().unwrap_err();
/// let message = "there is no guide `color`; did you mean `colour`? It is used as in colour=#1e90ff:40";
/// assert_eq!(wrong.to_string(), message);
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct GuideSpec {
    /// What it asks for.
    pub kind: GuideKind,
    /// The strength.
    pub strength: f64,
}

/// What a [`GuideSpec`] asks for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GuideKind {
    /// `colour=#1e90ff`, `colour=#19f`, or a level of grey from 0 to 1, `colour=0.5`.
    Colour(ColourGuidance),
    /// `brightness=0.8`, from 0 to 1.
    Brightness(BrightnessGuidance),
    /// `image=FILE`, the picture to resemble.
    Image(PathBuf),
    /// `class=NAMES`, the classes to show, by name or number.
    Class(String),
}

/// The names, each in an example.
const EXAMPLES: [(&str, &str); 4] = [
    ("colour", "colour=#1e90ff:40"),
    ("brightness", "brightness=0.8:20"),
    ("image", "image=picture.png:100"),
    ("class", "class=3:5"),
];

impl FromStr for GuideSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: String| Err(Error::Unfit(reason));
        let Some((name, rest)) = text.split_once('=') else {
            return refuse(format!("`{text}` is not of the form NAME=VALUE:STRENGTH, as {}", EXAMPLES[0].1));
        };
        let names = EXAMPLES.map(|(name, _)| name);
        let example = |name: &str| EXAMPLES.iter().find(|(known, _)| *known == name).map(|(_, example)| *example);
        let Some(example) = example(name) else {
            let nearest = kakusan_config::nearest(name, &names).and_then(example).unwrap_or(EXAMPLES[0].1);
            let hint = did_you_mean(name, &names);
            let stop = if hint.ends_with('?') { "" } else { "." };
            return refuse(format!("there is no guide `{name}`{hint}{stop} It is used as in {nearest}"));
        };
        let Some((value, strength)) = rest.rsplit_once(':') else {
            return refuse(format!("`{text}` has no strength: add one, as in {example}"));
        };
        let strength = match strength.parse::<f64>() {
            Ok(strength) if strength.is_finite() => strength,
            _ => {
                return refuse(format!(
                    "the strength `{strength}` is not a number; it follows the colon, as in {example}"
                ));
            }
        };
        let kind = match name {
            "colour" => colour(value).map(GuideKind::Colour),
            "brightness" => level(value).map(|level| GuideKind::Brightness(BrightnessGuidance::new(level))),
            "image" if !value.is_empty() => Some(GuideKind::Image(value.into())),
            "class" if !value.is_empty() => Some(GuideKind::Class(value.to_owned())),
            _ => None,
        };
        let expected = match name {
            "colour" => "a colour such as #1e90ff, or a level of grey from 0 to 1",
            "brightness" => "a level from 0 to 1",
            "image" => "a picture's file",
            _ => "the name or number of a class",
        };
        match kind {
            Some(kind) => Ok(Self { kind, strength }),
            None => refuse(format!("`{value}` is not {expected}, as in {example}")),
        }
    }
}

fn level(text: &str) -> Option<f32> {
    text.parse().ok().filter(|level| (0.0..=1.0).contains(level))
}

fn colour(text: &str) -> Option<ColourGuidance> {
    let Some(digits) = text.strip_prefix('#') else { return level(text).map(ColourGuidance::level) };
    let digits = digits.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect::<Option<Vec<_>>>()?;
    match digits.as_slice() {
        [r, g, b] => Some(ColourGuidance::rgb([r * 17, g * 17, b * 17])),
        [r1, r0, g1, g0, b1, b0] => Some(ColourGuidance::rgb([r1 * 16 + r0, g1 * 16 + g0, b1 * 16 + b0])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_errors_show_the_right_one() {
        let read = |text: &str| text.parse::<GuideSpec>().map(|spec| (spec.kind, spec.strength));
        let rgb = |colour| GuideKind::Colour(ColourGuidance::rgb(colour));
        assert_eq!(read("colour=#1E90ff:40").unwrap(), (rgb([0x1e, 0x90, 0xff]), 40.0));
        assert_eq!(read("colour=#19f:-2.5e1").unwrap(), (rgb([0x11, 0x99, 0xff]), -25.0));
        assert_eq!(read("colour=0.5:1").unwrap(), (GuideKind::Colour(ColourGuidance::level(0.5)), 1.0));
        assert_eq!(read("image=C:/a=b.png:10").unwrap(), (GuideKind::Image("C:/a=b.png".into()), 10.0));
        assert_eq!(read("class=3,5:2").unwrap(), (GuideKind::Class("3,5".into()), 2.0));
        for (text, part) in [
            ("colour", "not of the form NAME=VALUE:STRENGTH, as colour=#1e90ff:40"),
            ("brigthness=0.8:20", "did you mean `brightness`? It is used as in brightness=0.8:20"),
            ("x=1:1", "known are colour, brightness, image, class. It is used as in colour=#1e90ff:40"),
            ("brightness=0.8", "has no strength: add one, as in brightness=0.8:20"),
            ("brightness=1.5:20", "`1.5` is not a level from 0 to 1"),
            ("brightness=nan:20", "`nan` is not a level from 0 to 1"),
            ("brightness=0.8:inf", "the strength `inf` is not a number"),
            ("colour=#1e90f:40", "`#1e90f` is not a colour such as #1e90ff"),
            ("colour=#1e90fé:40", "is not a colour"),
            ("image=:3", "`` is not a picture's file, as in image=picture.png:100"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
