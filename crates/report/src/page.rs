//! The report of a run: `report.html`.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use kakusan_data::{SourceKind, SourceUsed};
use kakusan_pipeline::{EpochSummary, LrScheduler, OptimizerName, RunConfig, TrainConfig};

use crate::shell::{quote_path, sample_command};

/// A picture of the run.
#[derive(Debug)]
pub(crate) struct Figure {
    /// Its file under `images/`.
    pub(crate) file: &'static str,
    pub(crate) title: String,
    pub(crate) caption: String,
    /// `None` if the picture could not be drawn; the caption then says why.
    pub(crate) png: Option<Vec<u8>>,
}

/// The content of the report.
pub(crate) struct Page<'a> {
    pub(crate) config: &'a RunConfig,
    pub(crate) config_toml: &'a str,
    pub(crate) source: &'a SourceUsed,
    pub(crate) class_counts: Vec<(String, usize)>,
    pub(crate) dir: &'a Path,
    /// The name under which the command was called.
    pub(crate) program: &'a str,
    /// The classes that take turns in the samples, with their labels, for a class-conditional model.
    pub(crate) classes: &'a [(u32, String)],
    pub(crate) parameters: usize,
    pub(crate) epochs: &'a [EpochSummary],
    pub(crate) state: State,
    pub(crate) figures: &'a [Figure],
    /// Samples drawn after epochs: the epoch and the picture.
    pub(crate) previews: &'a [(usize, Vec<u8>)],
}

/// The progress of the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Stopped,
    Finished,
}

/// Up to this many epochs, the table is shown; a longer one is collapsed.
const EPOCHS_SHOWN: usize = 20;
/// The picture that precedes the table of epochs.
const LOSS: &str = "loss.png";

pub(crate) const STYLE: &str = "\
:root { color-scheme: light; --ink: #1b1b1b; --paper: #fdfdfb; --pale: #66665f; --line: #deded8; --accent: #1f5f99 }
@media screen and (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --ink: #e8e8e4; --paper: #171716; --pale: #a2a29c; --line: #3a3a37; --accent: #7db4e6 }
  img { opacity: .93 }
}
body { margin: 0 auto; max-width: 54rem; padding: 2rem 1.25rem 4rem; font: 1.05rem/1.6 Georgia, 'Times New Roman', serif;
       color: var(--ink); background: var(--paper) }
h1, h2 { font-weight: 600; line-height: 1.2 } h1 { font-size: 2rem; margin: .5rem 0 1rem } h2 { margin: 2.75rem 0 .75rem }
p { margin: .75rem 0; max-width: 42rem } p.lead { font-size: 1.15rem; line-height: 1.5 }
p.notice { border-left: 4px solid var(--accent); padding-left: 1rem }
figure { margin: 1.25rem 0 } figcaption { color: var(--pale); font-size: .97rem; margin-top: .6rem; max-width: 42rem }
.scroll { overflow-x: auto }
.row { display: flex; flex-wrap: wrap; gap: 1.25rem } .row figure { flex: 1 1 14rem; margin: 0; max-width: 26rem }
img { display: block; max-width: 100%; height: auto; box-sizing: border-box; background: white;
      border: 1px solid var(--line); border-radius: 4px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { text-align: right; padding: .25rem 0 .25rem 1.75rem; border-bottom: 1px solid var(--line) } th { font-weight: 600 }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
table.facts th { color: var(--pale); font-weight: 400 } table.facts td { text-align: left; overflow-wrap: anywhere }
pre, code { font: .88rem/1.5 ui-monospace, Menlo, Consolas, monospace } code { overflow-wrap: anywhere }
pre { overflow-x: auto; padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 4px }
details { margin-top: 2.5rem } summary { cursor: pointer; color: var(--accent) }
@media (max-width: 40rem) { body { padding-top: 1rem } h1 { font-size: 1.6rem } img.wide { max-width: none; width: 46rem } }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt } pre { white-space: pre-wrap }
  h2 { break-after: avoid } figure, table, pre { break-inside: avoid } details::details-content { content-visibility: visible }
}";

impl Page<'_> {
    /// The page: self-contained, with the pictures embedded.
    pub(crate) fn html(&self) -> String {
        let title = escape(&self.title());
        let finished = self.state == State::Finished;
        let renews = if self.state == State::Running { "<meta http-equiv=\"refresh\" content=\"10\">\n" } else { "" };
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n{renews}\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p class=\"lead\">{} This page describes the training, step by step.</p>\n",
            escape(&self.lead())
        );
        page += &self.facts_table();
        page += &self.notice();
        page += &format!("<h2>The images</h2>\n<p>{}</p>\n{}", escape(&self.about_data()), self.counts_table());
        let training = self.figures.iter().position(|figure| figure.file == LOSS).unwrap_or(self.figures.len());
        let (before, after) = self.figures.split_at(training);
        page.extend(before.iter().map(section));
        page += &format!("<h2>The network</h2>\n<p>{}</p>\n", escape(&self.about_model()));
        match after {
            [loss, results @ ..] => {
                let with_epochs = format!("</h2>\n{}", self.epochs_table());
                page += &section(loss).replacen("</h2>\n", &with_epochs, 1);
                page += &self.previews_section();
                page.extend(results.iter().map(section));
            }
            [] => page += &self.epochs_table(),
        }
        if finished {
            page += &crate::evaluation::place();
            let (same, other) = (self.config.train.seed, self.config.train.seed.wrapping_add(1));
            page += "<h2>Drawing more</h2>\n<p>The seed determines the images. The first command draws those above again, \
                     pixel for pixel; the second draws new ones:</p>\n";
            let model = quote_path(self.dir);
            let command = |seed| sample_command(self.program, &model, self.config, self.classes, seed);
            page += &format!("<pre>{}</pre>\n", [same, other].map(|seed| escape(&command(seed))).join("\n"));
        }
        page += &format!(
            "<details><summary>The whole configuration</summary>\n<p>Another run with this configuration and the same images \
             gives the same weights.</p>\n<pre>{}</pre></details>\n</body>\n</html>\n",
            escape(self.config_toml)
        );
        page
    }

    /// A notice about a training that has not finished.
    fn notice(&self) -> String {
        let resume = format!("{} train --resume {}", self.program, quote_path(self.dir));
        let (what, then) = match self.state {
            State::Finished => return String::new(),
            State::Running => (
                "This training is in progress.",
                "This page is updated during the training and reloads itself. If the training was killed, resume it with",
            ),
            State::Stopped => ("This training was stopped before its end.", "Nothing is lost; resume it with"),
        };
        let resume = escape(&resume);
        format!("<p class=\"notice\"><strong>{what}</strong> {then} <code>{resume}</code>.</p>\n")
    }

    /// What was drawn after some of the epochs, always from the same noise.
    fn previews_section(&self) -> String {
        if self.previews.is_empty() {
            return String::new();
        }
        let figure = |(epoch, png): &(usize, Vec<u8>)| {
            let ([width, height], data) = (size(png), BASE64.encode(png));
            format!(
                "<figure><img src=\"data:image/png;base64,{data}\" alt=\"A grid of samples\" width=\"{width}\" \
                 height=\"{height}\"><figcaption>after epoch {epoch}</figcaption></figure>\n"
            )
        };
        let figures: String = self.previews.iter().map(figure).collect();
        format!(
            "<h2>Samples during the training</h2>\n<p>Always from the same noise.</p>\n<div class=\"row\">\n{figures}</div>\n"
        )
    }

    pub(crate) fn title(&self) -> String {
        let classes: Vec<&str> = self.class_counts.iter().map(|(name, _)| name.as_str()).collect();
        format!("Learning to draw {}", list(&classes))
    }

    pub(crate) fn lead(&self) -> String {
        let numbers = thousands(self.parameters);
        match self.state {
            State::Finished => format!(
                "A network with {numbers} parameters was trained to remove noise from images. Starting from pure noise, it \
                 draws new images."
            ),
            State::Running | State::Stopped => format!(
                "A network with {numbers} parameters is being trained to remove noise from images. Starting from pure noise, \
                 it will draw new images."
            ),
        }
    }

    fn facts_table(&self) -> String {
        let train = &self.config.train;
        let epochs = match self.epochs.len() {
            done if self.state == State::Finished || done == train.epochs => done.to_string(),
            done => format!("{done} of {} begun", train.epochs),
        };
        let seconds: f64 = self.epochs.iter().map(|epoch| epoch.seconds).sum();
        let mut facts = vec![
            ("model", format!("{}, {} parameters", self.config.model.class_name(), thousands(self.parameters))),
            ("scheduler", self.config.scheduler.class_name().to_owned()),
            ("images", thousands(self.image_count())),
            ("epochs", format!("{epochs}, {} images per step", train.batch_size)),
            ("optimiser", optimizer_in_words(train)),
            ("seed", train.seed.to_string()),
            ("training time", if seconds > 0.0 { format!("{seconds:.1} s") } else { "none yet".into() }),
        ];
        if let Some(origin) = &self.config.origin {
            facts.insert(1, ("begun with the weights of", origin.name().to_owned()));
        }
        let rows = facts.iter().map(|(name, fact)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(fact)));
        format!("<table class=\"facts\">\n{}</table>\n", rows.collect::<String>())
    }

    pub(crate) fn image_count(&self) -> usize {
        self.class_counts.iter().map(|(_, count)| count).sum()
    }

    fn about_model(&self) -> String {
        let name = self.config.model.class_name();
        let shape = match name {
            "BasicUNet" => {
                " Three convolutions process the image at decreasing resolution, and three more return to full size; skip \
                 connections add the features of the first to those of the last."
            }
            _ => "",
        };
        let parameters = thousands(self.parameters);
        format!("A {name} with {parameters} parameters: the numbers that training adjusts.{shape}")
    }

    fn about_data(&self) -> String {
        format!("{} images from {}.{}", thousands(self.image_count()), self.source.description, self.stand_in())
    }

    pub(crate) fn stand_in(&self) -> &'static str {
        match self.source.kind {
            Some(SourceKind::Drawn) => {
                " They stand in for MNIST, which was not available; to train on its handwritten digits, use --data DIR, or \
                 a machine that can reach the Hub."
            }
            _ => "",
        }
    }

    fn counts_table(&self) -> String {
        let rows = self
            .class_counts
            .iter()
            .map(|(name, count)| format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(name), thousands(*count)));
        format!("<table>\n<tr><th>class</th><th>images</th></tr>\n{}</table>\n", rows.collect::<String>())
    }

    fn epochs_table(&self) -> String {
        let validates = self.epochs.iter().any(|epoch| epoch.validated.is_some());
        let rows =
            self.epochs.iter().map(|EpochSummary { epoch, mean_loss, seconds, images_per_second, validated }| {
                let speed = match images_per_second.is_finite() {
                    true => thousands(images_per_second.round() as usize),
                    false => "–".into(),
                };
                let held_out = match validated {
                    Some(validated) => format!("<td>{:.5}</td>", validated.of_sampling()),
                    None if validates => "<td>–</td>".into(),
                    None => String::new(),
                };
                format!(
                    "<tr><td>{epoch}</td><td>{mean_loss:.5}</td>{held_out}<td>{seconds:.1}</td><td>{speed}</td></tr>\n"
                )
            });
        if self.epochs.is_empty() {
            return "<p>No training step was done yet.</p>\n".into();
        }
        let held_out = if validates { "<th>held-out images</th>" } else { "" };
        let head = format!("<tr><th>epoch</th><th>average loss</th>{held_out}<th>seconds</th><th>images/s</th></tr>");
        let table = format!("<div class=\"scroll\"><table>\n{head}\n{}</table></div>\n", rows.collect::<String>());
        match self.epochs.len() {
            ..=EPOCHS_SHOWN => table,
            many => format!("<details>\n<summary>All {} epochs</summary>\n{table}</details>\n", thousands(many)),
        }
    }
}

/// `Adam, learning rate 0.001`, followed by the settings that are not the default.
fn optimizer_in_words(train: &TrainConfig) -> String {
    let name = match train.optimizer {
        OptimizerName::Adam => "Adam",
        OptimizerName::AdamW => "AdamW",
        OptimizerName::Sgd => "SGD",
        OptimizerName::Muon => "Muon",
    };
    let schedule = match train.lr_scheduler {
        LrScheduler::Constant => "",
        LrScheduler::ConstantWithWarmup => " after a warm-up",
        LrScheduler::Linear => " with linear decay",
        LrScheduler::Cosine => " with cosine decay",
        LrScheduler::CosineWithRestarts => " with cosine decay and restarts",
        LrScheduler::Polynomial => " with polynomial decay",
        LrScheduler::PiecewiseConstant => " with a piecewise constant schedule",
    };
    let average = if train.use_ema || train.ema_sigma_rel.is_some() { ", weights averaged" } else { "" };
    format!("{name}, learning rate {}{schedule}{average}", train.learning_rate)
}

/// A picture under its heading, embedded in the page. The stated size keeps the page from jumping while it loads.
fn section(figure: &Figure) -> String {
    let (title, caption) = (escape(&figure.title), escape(&figure.caption));
    let Some(png) = &figure.png else { return format!("<h2>{title}</h2>\n<p class=\"notice\">{caption}</p>\n") };
    let [width, height] = size(png);
    let wide = if width > 1000 { " class=\"wide\"" } else { "" }; // scrolls on a small screen
    let data = BASE64.encode(png);
    format!(
        "<h2>{title}</h2>\n<figure><div class=\"scroll\"><img src=\"data:image/png;base64,{data}\" alt=\"{}\" \
         width=\"{width}\" height=\"{height}\"{wide}></div><figcaption>{caption}</figcaption></figure>\n",
        escape(alt(figure))
    )
}

/// Width and height of a PNG, read from its header chunk, which is always first.
pub(crate) fn size(png: &[u8]) -> [u32; 2] {
    [16, 20].map(|at| png.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes))
}

/// The alternative text of a picture.
fn alt(figure: &Figure) -> &str {
    match figure.file {
        "corrupted.png" => "A row of images, and below it the same images with increasing noise",
        LOSS => {
            "A curve of the loss over the steps, falling steeply at first and slowly later, with the average of each epoch"
        }
        "predictions.png" => {
            "Three rows: images, the same images with increasing noise, and the predictions from these"
        }
        "mean.png" => "The blurred mean of all images, next to predictions from pure noise",
        "trajectory.png" => {
            "A row for each step: on the left noise that turns into images, on the right the predictions from it"
        }
        "samples.png" => "A grid of new images",
        _ => &figure.title,
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

/// A number with thousands separators: 309,057.
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

/// Escapes text for HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictures::{Images, grid};
    use kakusan_pipeline::Registry;

    const CONFIG: &str = "data = { name = \"mnist\", classes = [1, 8] } # </pre><script>\n\
                          model = { _class_name = \"BasicUNet\" }\n\
                          scheduler = { _class_name = \"LinearMixScheduler\" }\n";

    /// The page and the model card of a run with this many epochs.
    fn told(files: &[&'static str], epochs: usize, state: State, kind: SourceKind) -> (String, String) {
        let config = RunConfig::parse(CONFIG, "test", &[], &Registry::default()).unwrap();
        let figure = |(i, &file): (usize, &&'static str)| Figure {
            file,
            title: format!("Figure <{i}>"),
            caption: format!("caption & \"{i}\""),
            png: grid(Images { pixels: &vec![0.5; i + 1], channels: 1, height: 1, width: 1 }, 8, 3, &[]).ok(),
        };
        let figures: Vec<_> = files.iter().enumerate().map(figure).collect();
        let epochs: Vec<_> = (1..=epochs)
            .map(|epoch| EpochSummary {
                epoch,
                mean_loss: 0.0285728,
                seconds: 0.0,
                images_per_second: f64::INFINITY,
                validated: None,
            })
            .collect();
        let page = Page {
            config: &config,
            config_toml: CONFIG,
            source: &SourceUsed { kind: Some(kind), description: "a <b>folder</b>".into() },
            class_counts: vec![("<script>alert(1)</script>".into(), 6742), ("8".into(), 5851)],
            dir: Path::new("runs/it's \"mine\""),
            program: "bin/kakusan",
            classes: &[],
            parameters: 309_057,
            epochs: &epochs,
            state,
            figures: &figures,
            previews: &figures
                .first()
                .and_then(|figure| Some((1, figure.png.clone()?)))
                .into_iter()
                .collect::<Vec<_>>(),
        };
        (page.html(), page.model_card().unwrap())
    }

    const ALL: [&str; 6] = ["corrupted.png", LOSS, "predictions.png", "mean.png", "trajectory.png", "samples.png"];

    #[test]
    fn every_picture_is_within_and_whole() {
        let (page, _) = told(&ALL, 5, State::Finished, SourceKind::Dir);
        let pictures: Vec<&str> = page.split("src=\"data:image/png;base64,").skip(1).collect();
        assert_eq!(pictures.len(), ALL.len() + 1);
        for picture in pictures {
            let (data, rest) = picture.split_once('"').unwrap();
            let png = BASE64.decode(data).unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
            let (width, height) = reader.info().size();
            reader.next_frame(&mut vec![0; reader.output_buffer_size().unwrap()]).unwrap();
            let (tag, _) = rest.split_once('>').unwrap();
            assert!(
                tag.contains(&format!("width=\"{width}\" height=\"{height}\"")) && tag.contains(" alt=\""),
                "{tag}"
            );
        }
        for i in 0..ALL.len() {
            assert!(page.contains(&format!("<h2>Figure &lt;{i}&gt;</h2>")));
            assert!(page.contains(&format!("<figcaption>caption &amp; &quot;{i}&quot;</figcaption>")));
        }
        let places = [
            "<h2>The images",
            "<h2>Figure &lt;0",
            "<h2>The network",
            "<td>0.02857</td>",
            "<h2>Figure &lt;2",
            "<h2>Drawing more",
        ];
        assert!(places.map(|place| page.find(place).unwrap()).is_sorted(), "in the order of the story");
    }

    #[test]
    fn nothing_breaks_out_of_the_page() {
        let (page, _) = told(&ALL, 1, State::Finished, SourceKind::Dir);
        assert!(!page.contains("<script") && !page.contains("<b>") && page.contains("&lt;/pre&gt;&lt;script&gt;"));
        assert!(!page.contains("http"), "nothing from outside");
        for tag in [
            "html",
            "head",
            "body",
            "style",
            "table",
            "tr",
            "td",
            "th",
            "p",
            "h2",
            "figure",
            "figcaption",
            "div",
            "pre",
            "details",
        ] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn a_run_is_told_however_far_it_came() {
        let (page, card) = told(&ALL, 5, State::Finished, SourceKind::Drawn);
        assert!(page.contains("stand in for MNIST") && card.contains("stand in for MNIST"));
        let command = r#"bin/kakusan sample --model 'runs/it'\''s "mine"' --steps 40 --batch 64 --seed "#;
        assert!(page.contains(&escape(&format!("{command}0"))) && page.contains(&escape(&format!("{command}1"))));
        assert!(card.contains("\nkakusan sample --model . --steps 40 --batch 64 --seed 0 --out samples-0.png\n"));
        assert!(card.contains("| 5 | 0.0285728 |"));
        assert!(page.contains("6,742") && page.contains("309,057") && !page.contains("stopped before"));

        let (page, card) = told(&[], 0, State::Stopped, SourceKind::Dir);
        assert!(page.contains("stopped before its end") && card.contains("stopped before its end"));
        assert!(page.contains(&escape(r#"bin/kakusan train --resume 'runs/it'\''s "mine"'"#)));
        assert!(
            page.contains("No training step was done yet")
                && page.contains("0 of 5 begun")
                && page.contains("The network")
        );
        assert!(!page.contains("kakusan sample") && !page.contains("stand in for") && !page.contains("http-equiv"));

        let (page, _) = told(&ALL, 1000, State::Finished, SourceKind::Dir);
        assert!(page.contains("<summary>All 1,000 epochs</summary>") && page.contains("<td>1000</td>"));

        let (page, card) = told(&ALL[..2], 3, State::Running, SourceKind::Dir);
        assert!(
            page.contains("is in progress")
                && card.contains("is in progress")
                && page.contains("http-equiv=\"refresh\"")
        );
        assert!(page.contains("3 of 5 begun") && page.contains("after epoch 1") && !page.contains("kakusan sample"));
    }

    #[test]
    fn text_is_escaped_and_numbers_are_grouped() {
        assert_eq!(escape("<script a=\"b\">&"), "&lt;script a=&quot;b&quot;&gt;&amp;");
        assert_eq!([5, 999, 1000, 309_057, 1_000_000].map(thousands), ["5", "999", "1,000", "309,057", "1,000,000"]);
        assert_eq!(list(&["1", "4", "8"]), "1, 4 and 8");
    }
}
