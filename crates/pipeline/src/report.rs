//! A run told on one page: `report.html`, and in short as the model card.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use kakusan_data::{SourceKind, SourceUsed};

use crate::{EpochSummary, RunConfig};

/// A picture of the run.
pub(crate) struct Figure {
    /// Its file under `images/`.
    pub(crate) file: &'static str,
    pub(crate) title: String,
    pub(crate) caption: String,
    pub(crate) png: Vec<u8>,
}

/// All that the report tells.
pub(crate) struct Report<'a> {
    pub(crate) config: &'a RunConfig,
    pub(crate) config_toml: &'a str,
    pub(crate) source: &'a SourceUsed,
    pub(crate) class_counts: Vec<(String, usize)>,
    pub(crate) dir: &'a Path,
    pub(crate) parameters: usize,
    pub(crate) epochs: &'a [EpochSummary],
    pub(crate) finished: bool,
    pub(crate) figures: &'a [Figure],
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfb; --pale: #6a6a66; --line: #deded8; --accent: #1f5f99 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e4; --paper: #171716; --pale: #a2a29c; --line: #3a3a37; --accent: #7db4e6 } }
body { margin: 0 auto; max-width: 52rem; padding: 2rem 1.25rem 4rem; font: 1.05rem/1.6 Georgia, 'Times New Roman', serif;
       color: var(--ink); background: var(--paper) }
h1, h2 { font-weight: 600; line-height: 1.2 } h2 { margin-top: 2.5rem }
p.lead { font-size: 1.15rem } .pale, figcaption { color: var(--pale) }
figure { margin: 1rem 0 } figcaption { font-size: .97rem; margin-top: .6rem }
img { max-width: 100%; height: auto; background: white; border: 1px solid var(--line); border-radius: 4px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .scroll { overflow-x: auto }
th, td { text-align: right; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
pre, code { font: .88rem/1.5 ui-monospace, Menlo, Consolas, monospace }
pre { overflow-x: auto; padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 4px }
summary { cursor: pointer; color: var(--accent) }
@media print { details { display: none } h2 { break-after: avoid } figure { break-inside: avoid } }";

impl Report<'_> {
    /// The page: self-contained, the pictures within.
    pub(crate) fn html(&self) -> String {
        let title = escape(&self.title());
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p class=\"lead\">{}</p>\n",
            escape(&self.lead())
        );
        if !self.finished {
            let resume = format!("kakusan train --resume {}", self.dir.display());
            let text = "<p><strong>This training was stopped before its end.</strong> Go on with <code>";
            page += &format!("{text}{}</code>.</p>\n", escape(&resume));
        }
        page += &format!("<h2>The images</h2>\n<p>{}</p>\n{}", escape(&self.about_data()), self.counts_table());
        for figure in self.figures {
            page += &format!("<h2>{}</h2>\n", escape(&figure.title));
            if figure.file == "loss.png" {
                page += &self.epochs_table();
            }
            let (alt, caption) = (escape(&figure.title), escape(&figure.caption));
            let data = BASE64.encode(&figure.png);
            page += &format!(
                "<figure><img src=\"data:image/png;base64,{data}\" alt=\"{alt}\"><figcaption>{caption}</figcaption></figure>\n"
            );
        }
        if self.finished {
            page += &format!(
                "<h2>Drawing more</h2>\n<p>Another seed gives other images:</p>\n<pre>{}</pre>\n",
                escape(&self.sample_command(1))
            );
        }
        page += &format!(
            "<details><summary>The whole configuration</summary>\n<pre>{}</pre></details>\n</body>\n</html>\n",
            escape(self.config_toml)
        );
        page
    }

    /// The `README.md` of the run folder, in the form of a model card.
    pub(crate) fn model_card(&self) -> String {
        let state = if self.finished { "" } else { "\nThis training was stopped before its end.\n" };
        let mut card = format!(
            "---\nlibrary_name: kakusan\npipeline_tag: unconditional-image-generation\ntags:\n- diffusion\n---\n\n\
             # {}\n{state}\n{}\n\n{}\n\n",
            self.title(),
            self.lead(),
            self.about_data()
        );
        if self.finished {
            let _ = write!(card, "![samples](images/samples.png)\n\n```sh\n{}\n```\n\n", self.sample_command(0));
        }
        card += "| epoch | average loss |\n|---|---|\n";
        for epoch in self.epochs {
            let _ = writeln!(card, "| {} | {:.7} |", epoch.epoch, epoch.mean_loss);
        }
        let _ = write!(card, "\nThe configuration:\n\n```toml\n{}```\n", self.config_toml);
        card
    }

    fn title(&self) -> String {
        let classes: Vec<&str> = self.class_counts.iter().map(|(name, _)| name.as_str()).collect();
        format!("Learning to draw {}", list(&classes))
    }

    fn lead(&self) -> String {
        let train = &self.config.train;
        format!(
            "A {} with {} parameters learnt to take noise away, in {} epochs of {} images at a time with a learning \
             rate of {}. All its randomness began with seed {}.",
            self.config.model.class_name(),
            thousands(self.parameters),
            self.epochs.len(),
            train.batch_size,
            train.learning_rate,
            train.seed
        )
    }

    fn about_data(&self) -> String {
        let count: usize = self.class_counts.iter().map(|(_, count)| count).sum();
        let note = match self.source.kind {
            SourceKind::Drawn => {
                " They stand in for MNIST, whose handwritten digits were not at hand; train with --data DIR, or with a \
                 network, to learn from those."
            }
            _ => "",
        };
        format!("{} images from {}.{note}", thousands(count), self.source.description)
    }

    fn counts_table(&self) -> String {
        let rows = self
            .class_counts
            .iter()
            .map(|(name, count)| format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(name), thousands(*count)));
        format!("<table>\n<tr><th>class</th><th>images</th></tr>\n{}</table>\n", rows.collect::<String>())
    }

    fn epochs_table(&self) -> String {
        let rows = self.epochs.iter().map(|epoch| {
            format!(
                "<tr><td>{}</td><td>{:.5}</td><td>{:.1}</td><td>{:.0}</td></tr>\n",
                epoch.epoch, epoch.mean_loss, epoch.seconds, epoch.images_per_second
            )
        });
        let head = "<tr><th>epoch</th><th>average loss</th><th>seconds</th><th>images/s</th></tr>";
        format!("<div class=\"scroll\"><table>\n{head}\n{}</table></div>\n", rows.collect::<String>())
    }

    fn sample_command(&self, seed: u64) -> String {
        let sample = &self.config.sample;
        format!(
            "kakusan sample --model {} --steps {} --batch {} --seed {seed} --out samples.png",
            self.dir.display(),
            sample.steps,
            sample.batch_size
        )
    }
}

/// `1, 4 and 8`.
fn list(words: &[&str]) -> String {
    match words {
        [] => "images".into(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A number as people write it: 309,057.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_numbers_are_grouped() {
        assert_eq!(escape("<script a=\"b\">&"), "&lt;script a=&quot;b&quot;&gt;&amp;");
        assert_eq!([5, 999, 1000, 309_057, 1_000_000].map(thousands), ["5", "999", "1,000", "309,057", "1,000,000"]);
        assert_eq!(list(&["1", "4", "8"]), "1, 4 and 8");
    }
}
