//! The options with which a loss guides `sample`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use kakusan::candle::{Device, Tensor};
use kakusan::data::read_pictures;
use kakusan::eval::ClassGuidance;
use kakusan::pipeline::{
    DDPMPipeline, Error, Guidance, GuidanceWay, Guide, GuideKind, GuideSpec, ImageGuidance, MaskedGuidance, Predicted,
    Registry, Result, SampleOptions,
};

use crate::eval::data_classifier;
use crate::terminal::say;

#[derive(Args)]
#[command(next_help_heading = "Guidance by a loss")]
pub(crate) struct GuideArgs {
    /// Guide each step towards images of this kind; may be repeated. NAME=VALUE is colour=#1e90ff (or a level of grey,
    /// colour=0.5), brightness=0.8, image=picture.png or class=3 (several take turns: class=3,5; for models without
    /// classes, too). STRENGTH multiplies the loss: for pictures of 28 pixels 10 is seen and 40 is strong, larger ones
    /// need more; a negative one guides away. Grey pixels are ink: --out draws their images dark on white
    #[arg(long = "guide", value_name = "NAME=VALUE:STRENGTH", value_parser = Asked::parse)]
    guides: Vec<Asked>,
    /// Take the gradient `through` the network (twice the time, truer images) or `around` it (hardly any
    /// time; not for models that predict the image itself)
    #[arg(long, value_name = "WAY", default_value_t, requires = "guides", value_parser = way)]
    guide_way: GuidanceWay,
    /// Guide the steps A to B alone, both included, counted from 0
    #[arg(long, value_name = "A..B", requires = "guides", value_parser = steps)]
    guide_steps: Option<[usize; 2]>,
    /// Guide only the part of the images where this picture is white; grey is between
    #[arg(long, value_name = "FILE", requires = "guides")]
    guide_mask: Option<PathBuf>,
    /// The images from which the classifier of --guide class=... learns the classes: a folder, or a configuration, as
    /// for `eval --data` [default: those of the run]
    #[arg(long, value_name = "DIR|FILE.toml", requires = "guides")]
    guide_data: Option<PathBuf>,
}

/// A guide, and the text that it was parsed from.
#[derive(Debug, Clone)]
struct Asked {
    spec: GuideSpec,
    text: String,
}

impl Asked {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let spec = text.parse::<GuideSpec>().map_err(|e| e.to_string())?;
        Ok(Self { spec, text: text.to_owned() })
    }
}

fn way(text: &str) -> std::result::Result<GuidanceWay, String> {
    text.parse::<GuidanceWay>().map_err(|e| e.to_string())
}

fn steps(text: &str) -> std::result::Result<[usize; 2], String> {
    let ends = text.split_once("..").map(|(first, last)| (first.trim().parse(), last.trim().parse()));
    match ends {
        Some((Ok(first), Ok(last))) if first <= last => Ok([first, last]),
        _ => Err("expected the first and the last step, counted from 0, as in 0..19".to_owned()),
    }
}

impl GuideArgs {
    /// `options` with the guides that were asked for. Reads pictures, and trains the classifier of the data if it is
    /// needed and was not trained before.
    pub(crate) fn apply(
        &self,
        mut options: SampleOptions,
        model: &str,
        pipeline: &DDPMPipeline,
        registry: &Registry,
    ) -> Result<SampleOptions> {
        let shape = pipeline.sample_shape()?;
        let asks_for_class = |asked: &Asked| matches!(asked.spec.kind, GuideKind::Class(_));
        if self.guide_data.is_some() && !self.guides.iter().any(asks_for_class) {
            return Err(Error::Unfit("--guide-data has no effect without a class: add --guide class=3:5".into()));
        }
        let mask = self.guide_mask.as_ref().map(|file| picture(file, [1, shape[1], shape[2]])).transpose()?;
        options.guidance_way = self.guide_way;
        for Asked { spec, .. } in &self.guides {
            let mut guidance: Arc<dyn Guidance> = match &spec.kind {
                GuideKind::Colour(colour) => Arc::new(colour.clone()),
                GuideKind::Brightness(brightness) => Arc::new(brightness.clone()),
                GuideKind::Image(file) => Arc::new(ImageGuidance::new(&picture(file, shape)?)?),
                GuideKind::Class(names) => Arc::new(self.class(names, model, registry)?),
                other => return Err(Error::Unfit(format!("{other:?} cannot be used here"))),
            };
            if let Some(mask) = &mask {
                guidance = Arc::new(MaskedGuidance::new(guidance, mask)?);
            }
            let guide = Guide::shared(guidance, spec.strength);
            options = options.guide(match self.guide_steps {
                Some([first, last]) => guide.steps(first..last.saturating_add(1)),
                None => guide,
            });
        }
        Ok(options)
    }

    fn class(&self, names: &str, model: &str, registry: &Registry) -> Result<ClassGuidance> {
        let (classifier, known) = data_classifier(model, self.guide_data.as_deref(), registry)?;
        let class = |name: &str| {
            let label = known.iter().position(|known| known == name.trim());
            label.map(|label| label as u32).ok_or_else(|| {
                let known = known.join(", ");
                Error::Unfit(format!("--guide class={names}: there is no class `{name}`; the data has {known}"))
            })
        };
        let classes = match class(names) {
            Ok(class) => vec![class], // a name may contain commas
            Err(_) => names.split(',').map(class).collect::<Result<Vec<u32>>>()?,
        };
        ClassGuidance::new(Arc::new(classifier), classes)
    }

    /// Prints the mean loss of the finished images, with pixels from 0 to 1 `[n, c, h, w]`.
    pub(crate) fn say_losses(&self, options: &SampleOptions, images: &Tensor) -> Result<()> {
        let images = images.affine(2.0, -1.0)?;
        for (asked, guide) in self.guides.iter().zip(&options.guides) {
            let losses = guide.guidance().loss(&Predicted::new(&images))?.to_vec1::<f32>()?;
            let mean = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
            say(&format!("Guide {}: the images have a mean loss of {mean:.4}.", asked.text));
        }
        Ok(())
    }

    /// The options that were set, as metadata for picture files.
    pub(crate) fn about(&self) -> Vec<(&'static str, String)> {
        if self.guides.is_empty() {
            return vec![];
        }
        let guides: Vec<&str> = self.guides.iter().map(|asked| asked.text.as_str()).collect();
        let mut about = vec![("guide", guides.join(" ")), ("guide way", self.guide_way.to_string())];
        about.extend(self.guide_steps.map(|[first, last]| ("guide steps", format!("{first}..{last}"))));
        about.extend(self.guide_mask.as_ref().map(|file| ("guide mask", file.display().to_string())));
        about
    }
}

/// A picture as an image `[1, c, h, w]` of this shape, with pixels from 0 to 1. What changes in it is printed.
fn picture(file: &Path, shape: [usize; 3]) -> Result<Tensor> {
    let [channels, height, width] = shape;
    let pictures = read_pictures(file, shape)?;
    for picture in &pictures {
        if let Some(changed) = &picture.changed {
            say(&format!("{}: {changed}.", picture.path.display()));
        }
    }
    let pixels: Vec<f32> = pictures.iter().flat_map(|picture| picture.pixels.iter().copied()).collect();
    Ok(Tensor::from_vec(pixels, (pictures.len(), channels, height, width), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_two_whole_numbers_in_order() {
        assert_eq!(steps("0..19"), Ok([0, 19]));
        assert_eq!(steps(" 3 .. 3 "), Ok([3, 3]));
        for wrong in ["3", "5..3", "-1..3", "a..b", "..", "0.."] {
            assert!(steps(wrong).unwrap_err().contains("as in 0..19"), "{wrong}");
        }
    }
}
