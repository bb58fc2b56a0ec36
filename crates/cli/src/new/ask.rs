//! Questions on a terminal: a line each, with the answer to an empty line in brackets.

use std::io::{BufRead, Write};

use kakusan::pipeline::{Error, Result};

/// Asks on a terminal; elsewhere takes the default answers.
pub(super) struct Questions<R, W> {
    /// Where answers come from and questions go; `None` if there is no terminal.
    pub(super) terminal: Option<(R, W)>,
}

impl<R: BufRead, W: Write> Questions<R, W> {
    /// The answer to a question, read by `parse`, whose message about a wrong answer is shown before the question is
    /// asked again.
    ///
    /// # Errors
    /// When the input ends, or the default does not pass `parse`.
    pub(super) fn ask<T>(
        &mut self,
        question: &str,
        default: &str,
        parse: impl Fn(&str) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let Some((input, output)) = &mut self.terminal else {
            return parse(default).map_err(Error::Unfit);
        };
        loop {
            let mut answer = String::new();
            let shown = write!(output, "{question} [{default}]: ").and_then(|()| output.flush());
            let read = shown.and_then(|()| input.read_line(&mut answer));
            if !matches!(read, Ok(1..)) {
                return Err(Error::Unfit("the input ended before all questions were answered".into()));
            }
            let answer = answer.trim();
            match parse(if answer.is_empty() { default } else { answer }) {
                Ok(value) => return Ok(value),
                Err(reason) => drop(writeln!(output, "{reason}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::whole;

    #[test]
    fn a_wrong_answer_is_asked_again_and_an_empty_one_is_the_default() {
        let mut shown = vec![];
        let mut questions = Questions { terminal: Some((&b"x\n0\n 7 \n\n"[..], &mut shown)) };
        let parse = whole(1..=9usize);
        assert_eq!(questions.ask("How many", "3", &parse).unwrap(), 7);
        assert_eq!(questions.ask("How many", "3", &parse).unwrap(), 3);
        let ended = questions.ask("How many", "3", &parse).unwrap_err().to_string();
        assert!(ended.contains("the input ended"), "{ended}");
        let shown = String::from_utf8(shown).unwrap();
        assert_eq!(shown.matches("How many [3]: ").count(), 5);
        assert_eq!(shown.matches("expected a whole number from 1 to 9\n").count(), 2);
        let mut elsewhere = Questions::<&[u8], Vec<u8>> { terminal: None };
        assert_eq!(elsewhere.ask("How many", "3", parse).unwrap(), 3);
    }
}
