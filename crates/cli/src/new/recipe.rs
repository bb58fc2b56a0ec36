//! The text of a configuration: the recipe of `configs/184-fast.toml`, in the size that was planned.

use std::path::Path;

use kakusan::report::{quote_path, thousands};

use super::plan::BATCH;
use crate::facts::line;
use crate::program::program;

/// From so many pure pixels on, a network is trained on pixels a little beyond black and white.
const PURE: f64 = 0.2;
/// From so many steps on, a network also learns to draw without a class, for guidance. In shorter trainings it costs
/// more than guidance gives (docs/fast.md).
const GUIDED: usize = 4000;
/// From this width on, a network has attention: narrower ones are for times in which it costs more than it gives.
const ATTENTIVE: usize = 32;
/// Previews of a training that is long enough to wait for.
const PREVIEWS: usize = 5;

/// What the text says.
pub(super) struct Recipe {
    /// The lines of `[data]`; none to measure a network.
    pub(super) data: Vec<String>,
    pub(super) images: usize,
    /// Height and width.
    pub(super) size: [usize; 2],
    pub(super) channels: usize,
    /// The number of classes that the model is told, and of those that have images.
    pub(super) classes: Option<(usize, usize)>,
    /// The channels of the first block.
    pub(super) width: usize,
    pub(super) steps: usize,
    /// The share of the pixels that are black or white.
    pub(super) black_or_white: f64,
}

impl Recipe {
    /// The configuration, with comments. `parameters` and `seconds` are of the network and its step, where known.
    pub(super) fn text(&self, parameters: usize, seconds: f64) -> String {
        let Self { size: [height, width], channels, steps, .. } = *self;
        let blocks = self.blocks();
        let list = |word: &str| format!("[{}]", vec![format!("\"{word}\""); blocks.len()].join(", "));
        let dropout = self.has_guidance();
        let pure = self.black_or_white >= PURE;
        let mut lines = self.data.clone();
        let mut add = |code: &str, comment: &str| lines.push(line(code, comment));
        add("\n[model]", "");
        add("_class_name = \"UNet2DModel\"", &format!("{} parameters", thousands(parameters)));
        match height == width {
            true => add(&format!("sample_size = {height}"), ""),
            false => add(&format!("sample_size = [{height}, {width}]"), "height, width"),
        }
        add(&format!("in_channels = {channels}"), "");
        add(&format!("out_channels = {channels}"), "");
        add("layers_per_block = 1", "");
        add(&format!("block_out_channels = {blocks:?}"), "the widest network that gets enough steps in the time");
        add(&format!("norm_num_groups = {}", if self.width > 8 { 8 } else { 4 }), "");
        match self.width >= ATTENTIVE {
            true => add("add_attention = true", "in the middle, where the image is smallest"),
            false => add("add_attention = false", "it costs more than it gives in a short training"),
        }
        add(&format!("down_block_types = {}", list("DownBlock2D")), "");
        add(&format!("up_block_types = {}", list("UpBlock2D")), "");
        if let Some((classes, _)) = self.classes {
            let (known, comment) = match dropout {
                true => (classes + 1, format!("{classes} classes, and the last one for \"no class\"")),
                false => (classes, "a network that is told the class learns it sooner".to_owned()),
            };
            add(&format!("num_class_embeds = {known}"), &comment);
        }

        add("\n[scheduler]", "");
        add("_class_name = \"DDPMScheduler\"", "zero SNR at the last step and v-prediction, else whole images");
        add("beta_schedule = \"squaredcos_cap_v2\"", "come out too dark or too light (Lin et al. 2023)");
        add("rescale_betas_zero_snr = true", "");
        add("prediction_type = \"v_prediction\"", "");
        add("timestep_spacing = \"trailing\"", "");
        if pure {
            add("clip_sample_range = 1.04", "as train.pixel_scale");
        }

        let epochs = steps.div_ceil(self.images.div_ceil(BATCH).max(1));
        add("\n[train]", "");
        add(&format!("max_steps = {steps}"), &format!("{} s each when this was written", significant(seconds)));
        add(&format!("epochs = {epochs}"), "the passes over the images that so many steps take");
        add(&format!("batch_size = {BATCH}"), "");
        add("optimizer = \"muon\"", "the loss of 900 steps of Adam after 500");
        add("momentum = 0.9", "");
        add(&format!("learning_rate = {:.1e}", 8e-3 * 16.0 / self.width.max(16) as f64), "");
        add("lr_scheduler = \"cosine\"", "down to 0 at the last step, so train it to its end");
        add(&format!("lr_warmup_steps = {}", (steps / 20).min(50)), "");
        add("use_ema = true", "sample with the average of the weights");
        if pure {
            add("pixel_scale = 1.04", "black and white stay pure although the network misses them by a little");
        }
        if dropout {
            add("class_dropout = 0.1", "images without their class, so that `sample --guidance 1.4` works");
        }
        if steps >= GUIDED && epochs >= PREVIEWS {
            add(&format!("sample_every = {}", epochs / PREVIEWS), "epochs from one preview to the next");
        }
        add("seed = 0", "");

        add("\n[sample]", "");
        add("scheduler = \"DDIMScheduler\"", "");
        add("eta = 1.0", "new noise in each step corrects errors of earlier steps");
        add("steps = 50", "");
        let count = match self.classes {
            Some((_, used @ 1..=64)) => 64 / used * used, // as many of each class
            _ => 64,
        };
        add(&format!("batch_size = {count}"), "");
        lines.join("\n") + "\n"
    }

    /// The first lines: what the file is for, and how it is used.
    pub(super) fn head(&self, file: &Path, minutes: f64) -> String {
        let [height, width] = self.size;
        let classes = self.classes.map_or(String::new(), |(_, used)| format!(" of {used} classes"));
        let colour = if self.channels == 1 { "grey" } else { "in colour" };
        let images = thousands(self.images);
        format!(
            "# {images} images{classes}, {height} x {width}, {colour}: written by `kakusan new` for {minutes} min.\n\
             #   {} train --config {}\n\n",
            program(),
            quote_path(file)
        )
    }

    /// The output channels of the blocks; each but the last halves the image.
    fn blocks(&self) -> Vec<usize> {
        let halves_thrice = self.size.iter().all(|side| *side >= 64 && side.is_multiple_of(8));
        let factors: &[usize] = if halves_thrice { &[1, 2, 4, 4] } else { &[1, 2, 4] };
        factors.iter().map(|factor| factor * self.width).collect()
    }

    fn has_guidance(&self) -> bool {
        self.classes.is_some() && self.steps >= GUIDED
    }
}

/// A time with two digits that count.
pub(super) fn significant(seconds: f64) -> String {
    let digits = (1.0 - seconds.max(1e-4).log10().floor()).clamp(0.0, 5.0) as usize;
    format!("{seconds:.digits$}")
}
