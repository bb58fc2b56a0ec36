/// serde's message about a value, with types in plain words: `expected usize` becomes `expected a whole number of at
/// least 0`.
///
/// ```
/// let of_serde = "invalid value: integer `-1`, expected usize";
/// let ours = "invalid value: integer `-1`, expected a whole number of at least 0";
/// assert_eq!(kakusan_config::types_in_words(of_serde), ours);
/// ```
pub fn types_in_words(message: &str) -> String {
    let Some((before, expected)) = message.rsplit_once("expected ") else { return message.to_owned() };
    let end = expected.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(expected.len());
    let (name, after) = expected.split_at(end);
    let words = match name {
        "usize" | "u64" => "a whole number of at least 0".to_owned(),
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "isize" | "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        _ => return message.to_owned(),
    };
    format!("{before}expected {words}{after}")
}
