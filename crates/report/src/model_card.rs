//! The model card of a run: its `README.md`.

use std::fmt::Write;

use kakusan_data::{DatasetName, SourceKind, SourceUsed};
use kakusan_pipeline::{Origin, Result, RunConfig};

use crate::page::{Page, State, thousands};
use crate::shell::sample_command;

/// Between these lines of the card it says how to use the model: for the run's folder, and in a published card for the
/// repository.
pub(crate) const BEGIN: &str = "<!-- how to use it -->\n";
pub(crate) const END: &str = "<!-- end of how to use it -->\n";

impl Page<'_> {
    /// The `README.md` of the run folder, in the form of a model card. It may be published, so it contains no path of
    /// this machine.
    ///
    /// # Errors
    /// When the configuration has no TOML form.
    pub(crate) fn model_card(&self) -> Result<String> {
        let state = match self.state {
            State::Running => "\nThis training is in progress.\n",
            State::Stopped => "\nThis training was stopped before its end.\n",
            State::Finished => "",
        };
        let kind = metadata(self.config.model.wants_labels());
        let origin = self.config.origin.clone().map(Origin::without_path);
        let base =
            origin.as_ref().and_then(Origin::repo_id).map(|id| format!("base_model: {id}\n")).unwrap_or_default();
        let mut card = format!(
            "---\nlibrary_name: kakusan\n{base}{kind}---\n\n# {}\n{state}\n{}\n\n{} images from {}.{}\n\n",
            self.title(),
            self.lead(),
            thousands(self.image_count()),
            in_public(self.source, self.config),
            self.stand_in()
        );
        if let Some(origin) = &origin {
            let _ = write!(card, "The training began with the weights of {}.\n\n", origin.name());
        }
        if self.state == State::Finished {
            // a program that was called by its path has only its name elsewhere
            let program = if self.program.contains(['/', '\\']) { "kakusan" } else { self.program };
            let command = sample_command(program, ".", self.config, self.classes, self.config.train.seed);
            let _ = write!(
                card,
                "![samples](images/samples.png)\n\n{BEGIN}To draw these samples again, run in this folder:\n\n```sh\n{command}\n```\n{END}\n"
            );
        }
        card += "## The training\n\n| epoch | average loss |\n|---|---|\n";
        for epoch in self.epochs {
            let _ = writeln!(card, "| {} | {:.7} |", epoch.epoch, epoch.mean_loss);
        }
        let mut config = self.config.clone();
        config.origin = origin;
        if let Some(data) = &mut config.data {
            data.dir = None;
        }
        let _ = write!(card, "\nThe configuration:\n\n```toml\n{}```\n", config.to_toml()?);
        Ok(card)
    }
}

/// Where the images of a run come from, without the path of a folder.
pub(crate) fn in_public(source: &SourceUsed, config: &RunConfig) -> String {
    if source.kind != Some(SourceKind::Dir) {
        return source.description.clone();
    }
    let name = match config.data.as_ref().map(|data| data.name) {
        Some(DatasetName::Mnist) => "MNIST",
        Some(DatasetName::FashionMnist) => "Fashion-MNIST",
        Some(DatasetName::Cifar10) => "CIFAR-10",
        _ => "a folder of pictures",
    };
    name.to_owned()
}

/// The metadata that follow from the kind of the model. A class-conditional model is of no kind that the Hub knows.
pub(crate) fn metadata(wants_labels: bool) -> &'static str {
    match wants_labels {
        true => "tags:\n- diffusion\n- kakusan\n- class-conditional\n",
        false => "pipeline_tag: unconditional-image-generation\ntags:\n- diffusion\n- kakusan\n",
    }
}
