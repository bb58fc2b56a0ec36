#![cfg(test)]

use std::path::Path;

use std::sync::Arc;

use kakusan_data::{SourceKind, SourceUsed};
use kakusan_models::{Model, ModelConfig, Weights};
use kakusan_pipeline::{Event, Registry, Trainer, run_config};
use kakusan_scheduler::Scheduler;
use png::ColorType;

use super::*;
use crate::page::Figure;
use crate::{Notice, Report};

const SHIPPED: [&str; 11] = [
    "184",
    "184-fast",
    "184-unet2d",
    "184-v",
    "cifar10",
    "ddpm-184",
    "fashion",
    "finetune",
    "folder",
    "mnist-class-planes",
    "mnist-classes",
];

fn shipped(name: &str, set: &[&str]) -> RunConfig {
    let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(format!("{name}.toml"));
    let load = |name: &str, set: &[String]| RunConfig::load(&file(name), set, &Registry::default()).unwrap();
    let mut set: Vec<String> = ["sample.batch_size=12"].iter().chain(set).map(|&text| text.to_owned()).collect();
    if name != "finetune" {
        return load(name, &set);
    }
    // with random weights in place of the trained ones, and read as its run would store it: they are not needed again
    let (place, first) = (tempfile::tempdir().unwrap(), load("184-fast", &[]));
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| first.model.build(vb)).unwrap();
    DDPMPipeline::new(first.model, weights, first.scheduler).unwrap().save_pretrained(place.path()).unwrap();
    set.push(format!("model.from={:?}", place.path().to_str().unwrap()));
    let config = load(name, &set);
    std::fs::write(place.path().join("config.toml"), config.to_toml().unwrap()).unwrap();
    run_config(place.path(), &[], &Registry::default()).unwrap()
}

/// A ring of ink on paper, where paper is the scheduler's lowest value. It has enough of both for noise to be visible.
fn ring([channels, height, width]: [usize; 3]) -> Vec<u8> {
    let pixel = |channel: usize, y: usize, x: usize| {
        let from_middle = |at: usize, size: usize| (at as f32 + 0.5) / size as f32 - 0.5;
        let radius = from_middle(y, height).hypot(from_middle(x, width));
        if (0.15..0.35).contains(&radius) { 235 - 40 * channel as u8 } else { 10 }
    };
    let places = (0..channels).flat_map(|c| (0..height).map(move |y| (c, y)));
    places.flat_map(|(c, y)| (0..width).map(move |x| pixel(c, y, x))).collect()
}

/// Fifteen images of three classes, sorted; all show the same ring.
fn rings(shape: [usize; 3]) -> ImageSet {
    let labels = [0, 1, 2].map(|class| [class; 5]).concat();
    let names = ["a", "b", "c"].map(str::to_owned).to_vec();
    ImageSet::new(shape, ring(shape).repeat(15), labels, names).unwrap()
}

/// A model that knows that every image is the ring, and predicts what `scheduler` expects for it.
struct Oracle {
    config: Arc<dyn ModelConfig>,
    scheduler: Arc<dyn Scheduler>,
    /// `[1, c, h, w]`, in the scheduler's range.
    clean: Tensor,
}

impl Model for Oracle {
    fn config(&self) -> &dyn ModelConfig {
        self.config.as_ref()
    }

    fn forward(&self, x: &Tensor, level: &Tensor, _: Option<&Tensor>) -> kakusan_models::Result<Tensor> {
        let clean = self.clean.broadcast_as(x.shape())?.contiguous()?;
        let ones = Tensor::ones((x.dim(0)?, 1, 1, 1), DType::F32, &Device::Cpu)?;
        let zeros = ones.zeros_like()?;
        let (process, levels) = (self.scheduler.process(), level.to_vec1::<f32>()?);
        let share = |clean: &Tensor, noise: &Tensor| process.add_noise(clean, noise, &levels).unwrap();
        let signal = clean.broadcast_mul(&share(&ones, &zeros))?;
        let noise = (x - signal)?.broadcast_div(&share(&zeros, &ones))?;
        Ok(process.target(&clean, &noise, &levels).unwrap())
    }
}

/// A model that always predicts the same number.
struct Stuck(Arc<dyn ModelConfig>, f32);

impl Model for Stuck {
    fn config(&self) -> &dyn ModelConfig {
        self.0.as_ref()
    }

    fn forward(&self, x: &Tensor, _: &Tensor, _: Option<&Tensor>) -> kakusan_models::Result<Tensor> {
        Ok(Tensor::full(self.1, x.shape(), &Device::Cpu)?)
    }
}

/// Runs the report of a run whose network is `model`. Returns it with the problems it reported and its page.
fn reported(config: &RunConfig, images: ImageSet, model: Box<dyn Model>) -> (Report, Vec<String>, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("images")).unwrap();
    let source = SourceUsed { kind: Some(SourceKind::Dir), description: "a folder".into() };
    let trainer = Trainer::new(config, Arc::new(images), &Device::Cpu).unwrap();
    let run = RunView { config, config_toml: "", dir: dir.path(), source: &source, trainer: &trainer, records: &[] };
    let mut pipeline = run.pipeline().unwrap();
    pipeline.set_model(model);
    let (mut report, mut troubles) = (Report::new("kakusan"), vec![]);
    for event in [Event::Begin(&run), Event::Saved { run: &run, pipeline: &pipeline }] {
        let tell = &mut |notice: Notice| {
            if let Notice::PictureTrouble { picture, reason } = notice {
                troubles.push(format!("{picture}: {reason}"));
            }
        };
        report.observe(&event, tell).unwrap();
    }
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    (report, troubles, page)
}

/// The images in a figure, from left to right and from top to bottom, found by the lines around them.
fn tiles(figure: &Figure, [channels, height, width]: [usize; 3]) -> Vec<Vec<f32>> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(figure.png.as_ref().unwrap())).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!(info.color_type, ColorType::Rgb);
    let (across, down) = (info.width as usize, info.height as usize);
    let at = |x: usize, y: usize| &bytes[3 * (y * across + x)..][..3];
    for scale in [3, 2, 1] {
        let (w, h) = (width * scale, height * scale);
        let is_corner = |x: usize, y: usize| {
            let line = |x: usize, y: usize| at(x, y) == [205; 3];
            at(x - 1, y) == [255; 3]
                && at(x, y - 1) == [255; 3]
                && (0..w + 2).all(|i| line(x + i, y) && line(x + i, y + h + 1))
                && (0..h + 2).all(|i| line(x, y + i) && line(x + w + 1, y + i))
        };
        let mut found = vec![];
        for (y, x) in (1..down - h - 1).flat_map(|y| (1..across - w - 1).map(move |x| (y, x))) {
            if is_corner(x, y) {
                let value = |c: usize, row: usize, column: usize| {
                    let byte = at(x + 1 + column * scale, y + 1 + row * scale)[c];
                    if channels == 1 { 1.0 - f32::from(byte) / 255.0 } else { f32::from(byte) / 255.0 }
                };
                let places = (0..channels).flat_map(|c| (0..height).map(move |row| (c, row)));
                let columns = places.flat_map(|(c, row)| (0..width).map(move |column| value(c, row, column)));
                found.push(columns.collect());
            }
        }
        if !found.is_empty() {
            return found;
        }
    }
    panic!("{} has no image in it", figure.file)
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

#[test]
fn the_pictures_of_every_shipped_configuration_show_what_they_say() {
    for name in SHIPPED {
        let config = shipped(name, &[]);
        let shape = config.model.sample_shape().unwrap();
        let image: Vec<f32> = ring(shape).iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let unit = Tensor::from_slice(&image, (1, shape[0], shape[1], shape[2]), &Device::Cpu).unwrap();
        let clean = config.scheduler.process().pixel_range().from_unit(&unit).unwrap();
        let oracle = Oracle { config: config.model.clone(), scheduler: config.scheduler.clone(), clean };
        let (report, troubles, page) = reported(&config, rings(shape), Box::new(oracle));
        let figures = report.figures();
        assert_eq!(troubles, [""; 0], "{name}");
        let files: Vec<_> = figures.iter().map(|figure| figure.file).collect();
        assert_eq!(
            files,
            ["corrupted.png", "loss.png", "predictions.png", "mean.png", "trajectory.png", SAMPLES],
            "{name}"
        );
        let [corrupted, predictions, mean, trajectory, samples] =
            [0, 2, 3, 4, 5].map(|i| tiles(&figures[i], shape).iter().map(|t| distance(t, &image)).collect::<Vec<_>>());
        let is_image = |distances: &[f32]| distances.iter().all(|&distance| distance < 0.01);

        // the noise increases from left to right: none in the first column, nothing but noise in the last
        assert_eq!(corrupted.len(), 2 * SHOWN, "{name}");
        let (above, below) = corrupted.split_at(SHOWN);
        assert!(is_image(above) && below[0] < 0.02, "{name}: {corrupted:?}");
        assert!(below.is_sorted_by(|a, b| a < b) && below[SHOWN - 1] > 0.25, "{name}: {below:?}");

        assert_eq!(predictions[..2 * SHOWN], corrupted, "{name}: the same images as in the first picture");
        assert_eq!(predictions.len(), 3 * SHOWN, "{name}");
        assert!(is_image(&predictions[2 * SHOWN..]), "{name}: {predictions:?}");
        assert!(mean.len() == 5 && is_image(&mean), "{name}: {mean:?}");

        let rows: Vec<_> = trajectory.chunks(2 * SHOWN).collect();
        assert_eq!((rows.len(), trajectory.len()), (STEPS_SHOWN, STEPS_SHOWN * 2 * SHOWN), "{name}");
        assert!(rows.iter().all(|row| is_image(&row[SHOWN..])), "{name}: {rows:?}");
        let input = |row: &[f32]| row[..SHOWN].iter().sum::<f32>() / SHOWN as f32;
        let inputs: Vec<f32> = rows.iter().map(|row| input(row)).collect();
        assert!(inputs.is_sorted_by(|a, b| a > b), "{name}: {inputs:?}");

        assert_eq!(samples.len(), 12, "{name}");
        assert!(is_image(&samples), "{name}: {samples:?}");
        assert!(!page.contains("digit") && !page.contains("stroke") && !page.contains("There is no picture"));
    }
}

#[test]
fn what_is_no_number_is_seen_and_told() {
    // clipping makes a finite number of an infinite one
    const UNCLIPPED: &str = "scheduler.clip_sample=false";
    for (name, value, set) in [
        ("184", f32::NEG_INFINITY, vec![]),
        ("cifar10", f32::INFINITY, vec![UNCLIPPED]),
        ("ddpm-184", f32::NAN, vec![]),
    ] {
        let config = shipped(name, &set);
        let shape = config.model.sample_shape().unwrap();
        let (report, troubles, page) = reported(&config, rings(shape), Box::new(Stuck(config.model.clone(), value)));
        let figures = report.figures();
        let about: Vec<&str> = troubles.iter().map(|trouble| trouble.split(':').next().unwrap()).collect();
        assert_eq!(about, ["predictions.png", "mean.png", "trajectory.png", SAMPLES], "{name}: {troubles:?}");
        assert!(troubles.iter().all(|trouble| trouble.contains("not finite")), "{troubles:?}");
        assert_eq!(page.matches("not finite (drawn in magenta)").count(), 4);
        let last = tiles(&figures[5], shape);
        let magenta: Vec<f32> = match shape[0] {
            1 => vec![0.0; shape[1] * shape[2]], // magenta's red channel
            _ => [1.0, 0.0, 1.0].iter().flat_map(|&value| vec![value; shape[1] * shape[2]]).collect(),
        };
        assert!(last.len() == 12 && last.iter().all(|tile| *tile == magenta), "{name}");
    }
}

#[test]
fn a_picture_that_cannot_be_drawn_is_told_and_the_others_are_there() {
    let mut config = shipped("184", &[]);
    config.sample.steps = 0; // the configuration's check would refuse this
    let stuck = Stuck(config.model.clone(), 0.5);
    let (report, troubles, page) = reported(&config, rings([1, 28, 28]), Box::new(stuck));
    let figures = report.figures();
    assert_eq!(troubles.len(), 2, "{troubles:?}");
    assert!(troubles[0].starts_with("mean.png: it could not be drawn") && troubles[1].starts_with(SAMPLES));
    let drawn: Vec<bool> = figures.iter().map(|figure| figure.png.is_some()).collect();
    assert_eq!(drawn, [true, true, true, false, true, false]);
    assert_eq!(page.matches("There is no picture: it could not be drawn").count(), 2);
}

#[test]
fn the_images_shown_are_of_all_classes_and_from_all_over_the_set() {
    let chosen = |counts: &[usize]| -> Vec<usize> {
        let labels: Vec<u32> = counts.iter().enumerate().flat_map(|(class, &n)| vec![class as u32; n]).collect();
        let names = (0..counts.len()).map(|class| class.to_string()).collect();
        let set = ImageSet::new([1, 1, 1], vec![0; labels.len()], labels, names).unwrap();
        choose(&set, SHOWN).unwrap().into_iter().map(|(i, _)| i).collect()
    };
    assert_eq!(chosen(&[100]), [0, 12, 25, 37, 50, 62, 75, 87]);
    assert_eq!(chosen(&[30, 0, 30, 30]), [0, 30, 60, 10, 40, 75, 20, 50]);
    assert_eq!(chosen(&[1, 1]), [0, 1]);
    assert_eq!(chosen(&[1; 16]), [0, 2, 4, 6, 8, 10, 12, 14]);
    assert_eq!(chosen(&[1, 5]), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn the_task_is_what_the_scheduler_asks() {
    let task = |class_name: &str, set: serde_json::Value| {
        let serde_json::Value::Object(fields) = set else { panic!("{set}") };
        let scheduler = Registry::default().schedulers.build(class_name, &fields).unwrap();
        let levels = NoiseLevels::of(scheduler.as_ref(), SHOWN).unwrap().levels;
        task(&scheduler.process(), &levels).unwrap().split(' ').take(3).collect::<Vec<_>>().join(" ")
    };
    use serde_json::json;
    assert_eq!(task("LinearMixScheduler", json!({"timestep": 0})), "predict the upper");
    assert_eq!(task("DDPMScheduler", json!({"prediction_type": "sample"})), "predict the upper");
    assert_eq!(task("DDPMScheduler", json!({})), "predict the noise");
    assert_eq!(task("ScoreSdeVeScheduler", json!({})), "predict the noise");
    assert_eq!(task("DDPMScheduler", json!({"prediction_type": "v_prediction"})), "predict a mix");
    assert_eq!(task("FlowMatchEulerDiscreteScheduler", json!({})), "predict a mix");
}
