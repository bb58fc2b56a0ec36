//! The model card of a published pipeline: the `README.md` of its folder, with the metadata of the Hub, how to use the
//! model from there, and the figures of `eval`.

use std::fmt::Write;

use kakusan_data::{SourceKind, SourceUsed};
use kakusan_eval::Evaluation;
use kakusan_pipeline::{DDPMPipeline, RunConfig};

use crate::evaluation::measurement;
use crate::model_card::{BEGIN, END, in_public, metadata};
use crate::page::thousands;
use crate::shell::class_options;

/// What the model card of a published pipeline is made of.
///
/// ```
/// use candle_core::Device;
/// use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
/// use kakusan_pipeline::DDPMPipeline;
/// use kakusan_report::Publication;
/// use kakusan_rng::Generator;
/// use kakusan_scheduler::LinearMixScheduler;
/// use std::sync::Arc;
///
/// let config = Arc::new(BasicUNetConfig::default());
/// let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
/// let pipeline = DDPMPipeline::new(config, weights, Arc::new(LinearMixScheduler::default()))?;
/// let mut publication = Publication::new("ada/digits", &pipeline);
/// publication.license = Some("mit");
/// let card = publication.card(Some("# Digits\n\nMy own words.\n"));
/// assert!(card.contains("license: mit\n") && card.contains("My own words.") && card.contains("ada/digits"));
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Publication<'a> {
    /// The repository, `owner/name`.
    pub repo_id: &'a str,
    /// The pipeline.
    pub pipeline: &'a DDPMPipeline,
    /// The Hub's name of the license.
    pub license: Option<&'a str>,
    /// The configuration of the run, and where its images come from.
    pub run: Option<(&'a RunConfig, Option<&'a SourceUsed>)>,
    /// The figures of the model.
    pub evaluation: Option<&'a Evaluation>,
}

impl<'a> Publication<'a> {
    /// A pipeline of which nothing else is known.
    pub fn new(repo_id: &'a str, pipeline: &'a DDPMPipeline) -> Self {
        Self { repo_id, pipeline, license: None, run: None, evaluation: None }
    }

    /// The model card, made from the `README.md` of the folder if there is one. Its text and its metadata stay, except
    /// that the license and the figures given here replace those in it. Missing metadata are added. How to use the
    /// model is told in the place that a run's card has for it, or at the end.
    pub fn card(&self, readme: Option<&str>) -> String {
        let (head, body) = split(readme.unwrap_or_default());
        let mut head = Metadata::read(head);
        if head.get("library_name").is_none_or(|block| block == "library_name: kakusan\n") {
            let library = if self.pipeline.is_in_diffusers() { "diffusers" } else { "kakusan" };
            head.set("library_name", format!("library_name: {library}\n"));
        }
        for block in Metadata::read(metadata(self.pipeline.model_config().wants_labels())).blocks {
            head.add(block);
        }
        if let Some(license) = self.license {
            head.set("license", format!("license: {license}\n"));
        }
        if let Some(dataset) = self.dataset() {
            head.add(("datasets".into(), format!("datasets:\n- {dataset}\n")));
        }
        if let Some(results) = self.results() {
            head.set("model-index", results);
        }
        let usage = format!("{BEGIN}{}{END}", self.usage(command(body)));
        let body = match (body.split_once(BEGIN), readme) {
            (Some((before, rest)), _) => match rest.split_once(END) {
                Some((_, after)) => format!("{before}{usage}{after}"),
                None => format!("{before}{usage}{rest}"),
            },
            (None, Some(_)) => format!("{}\n\n{usage}", body.trim_end()),
            (None, None) => format!("\n# {}\n\n{}\n\n{usage}", self.name(), self.about()),
        };
        let head: String = head.blocks.into_iter().map(|(_, block)| block).collect();
        format!("---\n{head}---\n{body}")
    }

    /// The figures with the repository in place of the folder, and without paths of this machine.
    pub fn evaluation_in_public(&self) -> Option<Evaluation> {
        let evaluation = self.evaluation?;
        Some(Evaluation { model: self.repo_id.to_owned(), data: self.data_in_public(evaluation), ..evaluation.clone() })
    }

    fn data_in_public(&self, evaluation: &Evaluation) -> String {
        match self.own_source(evaluation) {
            Some((config, source)) => in_public(source, config),
            None if evaluation.data.starts_with("the Hub's data set ") => evaluation.data.clone(),
            None => "other images".to_owned(),
        }
    }

    /// The run's images, if the figures were measured against them.
    fn own_source(&self, evaluation: &Evaluation) -> Option<(&'a RunConfig, &'a SourceUsed)> {
        let (config, source) = self.run?;
        source.filter(|source| source.description == evaluation.data).map(|source| (config, source))
    }

    fn name(&self) -> &str {
        self.repo_id.split('/').next_back().unwrap_or_default()
    }

    /// The data set of the Hub on which the model was trained.
    fn dataset(&self) -> Option<&'a str> {
        let (config, source) = self.run?;
        let drawn = source.is_none_or(|source| matches!(source.kind, None | Some(SourceKind::Drawn)));
        config.data.as_ref().filter(|_| !drawn)?.hub_repo()
    }

    fn about(&self) -> String {
        let (pipeline, config) = (self.pipeline, self.pipeline.model_config());
        let shape = match pipeline.sample_shape() {
            Ok([channels, height, width]) => format!(" that draws images of {channels} x {height} x {width}"),
            Err(_) => String::new(),
        };
        format!(
            "A {} of a {} with {} parameters and a {}{shape}.",
            pipeline.class().class_name(),
            config.class_name(),
            thousands(pipeline.weights().parameter_count()),
            pipeline.scheduler().class_name()
        )
    }

    /// How to draw images, and how good they are. `command` is that of the run, without its beginning.
    fn usage(&self, command: Option<&str>) -> String {
        let repo = self.repo_id;
        let mut text = format!("## How to use it\n\n{}\n{}", self.in_python(), self.in_rust());
        let options = command.map_or_else(|| self.default_options(), str::to_owned);
        let _ = write!(text, "\nOn the command line:\n\n```sh\nkakusan sample --model {repo} {options}\n```\n");
        if let Some(evaluation) = self.evaluation_in_public() {
            let held_out = evaluation.held_out.as_ref().map_or("–", |held_out| held_out.images.as_str());
            let _ = write!(
                text,
                "\n## How good the images are\n\n{} The data: {}.\n\n| | samples | {held_out} |\n|---|---|---|\n",
                measurement(&evaluation),
                evaluation.data
            );
            for row in evaluation.rows() {
                let _ = writeln!(text, "| {} |", row.map(|cell| cell.replace('|', "\\|")).join(" | "));
            }
        }
        text
    }

    /// The options of a command for a folder whose card has none.
    fn default_options(&self) -> String {
        let Some(label) = self.class() else { return "--batch 16".to_owned() };
        let name = self.pipeline.labels().name(label);
        format!("{} --batch 16", class_options(&[(label, name)]))
    }

    fn steps(&self) -> usize {
        let own = self.run.map(|(config, _)| config.sample.steps);
        own.unwrap_or_else(|| self.pipeline.class().default_steps().min(50))
    }

    /// A class to show: that of the first name, or 0.
    fn class(&self) -> Option<u32> {
        self.pipeline.model_config().num_classes()?;
        Some(self.pipeline.labels().names().keys().next().copied().unwrap_or_default())
    }

    fn in_python(&self) -> String {
        let (repo, steps, pipeline) = (self.repo_id, self.steps(), self.pipeline);
        let class = pipeline.class().class_name();
        if !pipeline.is_in_diffusers() {
            let classes = [pipeline.model_config().class_name(), pipeline.scheduler().class_name()].join("` and `");
            return format!(
                "In Python, the weights are PyTorch's. diffusers does not have both of the classes `{classes}`:\n\n\
                 ```python\nfrom huggingface_hub import hf_hub_download\nfrom safetensors.torch import load_file\n\n\
                 weights = load_file(hf_hub_download(\"{repo}\", \"unet/diffusion_pytorch_model.safetensors\"))\n```\n"
            );
        }
        let load = format!("from diffusers import {class}\n\npipeline = {class}.from_pretrained(\"{repo}\")\n");
        match (self.class(), pipeline.sample_shape()) {
            (Some(label), Ok(shape)) => {
                let [channels, height, width] = shape;
                format!(
                    "In Python, the network takes the classes; diffusers' pipeline has no argument for them:\n\n\
                     ```python\nimport torch\n{load}\
                     unet, scheduler = pipeline.unet, pipeline.scheduler\n\
                     scheduler.set_timesteps({steps})\n\
                     images = torch.randn(16, {channels}, {height}, {width}) * scheduler.init_noise_sigma\n\
                     labels = torch.full((16,), {label})\n\
                     with torch.no_grad():\n    for t in scheduler.timesteps:\n        \
                     output = unet(scheduler.scale_model_input(images, t), t, class_labels=labels).sample\n        \
                     images = scheduler.step(output, t, images).prev_sample\n\
                     images = (images / 2 + 0.5).clamp(0, 1)\n```\n"
                )
            }
            _ => format!(
                "In Python:\n\n```python\n{load}\
                 images = pipeline(batch_size=16, num_inference_steps={steps}).images\n\
                 images[0].save(\"sample.png\")\n```\n"
            ),
        }
    }

    fn in_rust(&self) -> String {
        let (repo, steps) = (self.repo_id, self.steps());
        let (imports, draw) = match self.class() {
            None => (
                "use kakusan::pipeline::{DDPMPipeline, Registry};\n",
                format!("let images = pipeline.sample(16, {steps}, &mut Generator::new(0))?;\n"),
            ),
            Some(label) => (
                "use kakusan::pipeline::{DDPMPipeline, Registry, SampleOptions};\n",
                format!(
                    "let options = SampleOptions::new(16).steps({steps}).class_labels(vec![{label}; 16]);\n\
                     let images = pipeline.sample_with(&options, &mut Generator::new(0), |_| ControlFlow::Continue(()))?;\n"
                ),
            ),
        };
        let control = if self.class().is_some() { "use std::ops::ControlFlow;\n\n" } else { "" };
        format!(
            "In Rust, with `kakusan = {{ version = \"{}\", features = [\"hub\"] }}`:\n\n\
             ```rust\n{control}use kakusan::candle::Device;\nuse kakusan::hub::{{Hub, HubConfig}};\n{imports}\
             use kakusan::rng::Generator;\n\n\
             let hub = Hub::new(HubConfig::from_env()?);\n\
             let pipeline = DDPMPipeline::from_hub(\"{repo}\", \"main\", &hub, &Registry::default(), &Device::Cpu)?;\n\
             {draw}```\n",
            env!("CARGO_PKG_VERSION")
        )
    }

    /// The figures as the Hub reads them.
    fn results(&self) -> Option<String> {
        let evaluation = self.evaluation_in_public()?;
        let figures = &evaluation.samples;
        let network = &evaluation.network;
        let is_fid = network.name == "InceptionV3 of the FID";
        let frechet = if is_fid { "fid" } else { "frechet-distance" };
        let own = self.own_source(self.evaluation?).is_some();
        let dataset = self.dataset().filter(|_| own).unwrap_or("custom");
        let mut text = format!(
            "model-index:\n- name: {}\n  results:\n  - task:\n      type: unconditional-image-generation\n    dataset:\n      \
             name: {}\n      type: {dataset}\n    metrics:\n",
            quote(self.name()),
            quote(&evaluation.data)
        );
        let of = format!("{} samples, {} features of {}", figures.images, network.features, network.name);
        for (kind, name, value) in [
            (frechet, "Fréchet distance", figures.frechet_distance),
            ("kid", "KID", figures.kid),
            ("precision", "precision", figures.precision),
            ("recall", "recall", figures.recall),
        ] {
            if value.is_finite() {
                let name = quote(&format!("{name} ({of})"));
                let _ = write!(text, "    - type: {kind}\n      name: {name}\n      value: {value}\n");
            }
        }
        Some(text)
    }
}

/// A text as YAML writes it in double quotes.
fn quote(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The metadata and the text of a card. A card without metadata is all text.
fn split(card: &str) -> (&str, &str) {
    let rest = card.strip_prefix("---\n").or_else(|| card.strip_prefix("---\r\n"));
    let ends = |rest: &str| {
        let mut at = 0;
        for line in rest.split_inclusive('\n') {
            if line.trim_end() == "---" {
                return Some((at, at + line.len()));
            }
            at += line.len();
        }
        None
    };
    match rest.and_then(|rest| Some((rest, ends(rest)?))) {
        Some((rest, (end, begin))) => (&rest[..end], &rest[begin..]),
        None => ("", card),
    }
}

/// The options of the command that draws samples, if the card has one.
fn command(body: &str) -> Option<&str> {
    let (_, usage) = body.split_once(BEGIN)?;
    let (usage, _) = usage.split_once(END)?;
    usage.lines().find_map(|line| Some(line.split_once(" sample --model ")?.1.split_once(' ')?.1))
}

/// The metadata of a card: YAML, of which only the top level is read. Each key has its block of lines; what precedes
/// the first key has an empty one.
struct Metadata {
    blocks: Vec<(String, String)>,
}

impl Metadata {
    fn read(head: &str) -> Self {
        let mut blocks: Vec<(String, String)> = vec![];
        for line in head.lines() {
            let is_key = !line.starts_with([' ', '\t', '#', '-', ']', '}']);
            match (line.split_once(':').filter(|_| is_key), blocks.last_mut()) {
                (Some((key, _)), _) => {
                    blocks.push((key.trim_matches(['"', '\'', ' ']).to_owned(), format!("{line}\n")))
                }
                (None, Some((_, block))) => *block += &format!("{line}\n"),
                (None, None) => blocks.push((String::new(), format!("{line}\n"))),
            }
        }
        Self { blocks }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.blocks.iter().find(|(own, _)| own == key).map(|(_, block)| block.as_str())
    }

    /// Adds a block, or replaces that of the same key.
    fn set(&mut self, key: &str, block: String) {
        match self.blocks.iter_mut().find(|(own, _)| own == key) {
            Some((_, old)) => *old = block,
            None => self.blocks.push((key.to_owned(), block)),
        }
    }

    /// Adds a block unless there is one of its key.
    fn add(&mut self, (key, block): (String, String)) {
        if self.get(&key).is_none() {
            self.set(&key, block);
        }
    }
}

#[cfg(test)]
mod tests;
