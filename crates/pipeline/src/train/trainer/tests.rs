#![cfg(test)]

use super::*;
use crate::{DDPMPipeline, Labels, Registry};

fn trainer(set: &[&str]) -> Trainer {
    let text = r#"
        data = { name = "mnist", classes = [1, 8] }
        model = { _class_name = "BasicUNet" }
        scheduler = { _class_name = "LinearMixScheduler" }
        train = { epochs = 3, batch_size = 3 }
    "#;
    let set: Vec<String> = set.iter().map(|text| format!("train.{text}")).collect();
    let config = RunConfig::parse(text, "test", &set, &Registry::default()).unwrap();
    let images = kakusan_data::draw_digits(&[1, 8], 5, 0).unwrap();
    Trainer::new(&config, Arc::new(images), &Device::Cpu).unwrap()
}

/// Runs the rest of the training: its steps, and the final weights.
fn to_the_end(trainer: &mut Trainer) -> (Vec<Step>, Vec<Vec<f32>>) {
    let steps = std::iter::from_fn(|| trainer.step().unwrap()).collect();
    let numbers = |weights: &Weights| -> Vec<f32> {
        weights.iter().flat_map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    };
    (steps, vec![numbers(&trainer.weights), numbers(&trainer.sampling_weights().unwrap())])
}

#[test]
fn another_batch_size_begins_the_epoch_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = trainer(&[]);
    while old.steps_done() < 6 {
        old.step().unwrap();
    }
    let checkpoint = old.save_checkpoint(dir.path(), 0.0).unwrap();
    let mut changed = trainer(&["batch_size=5"]);
    assert!(matches!(changed.load_checkpoint(&checkpoint), Err(Error::Checkpoint { .. })));
    changed.load_changed_checkpoint(&checkpoint).unwrap();
    // six steps in one and a half epochs of four steps, and two in each of the two remaining epochs
    assert_eq!((changed.steps_done(), changed.epochs_done()), (6, 1));
    assert_eq!((changed.total_steps(), changed.total_epochs()), (10, 3));
    changed.step().unwrap();
    let checkpoint = changed.save_checkpoint(dir.path(), 0.0).unwrap();
    let mut resumed = trainer(&["batch_size=5"]);
    resumed.load_checkpoint(&checkpoint).unwrap();
    assert_eq!((resumed.total_steps(), resumed.total_epochs()), (10, 3));
    assert!(to_the_end(&mut resumed) == to_the_end(&mut changed));
}

#[test]
fn weights_and_averages_that_are_no_numbers_are_found_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    for value in [f32::NAN, f32::INFINITY] {
        let mut trainer = trainer(&["use_ema=true"]);
        trainer.step().unwrap();
        trainer.check_sound().unwrap();
        let (name, var) = trainer.weights.iter().nth(1).map(|(name, var)| (name.to_owned(), var.clone())).unwrap();
        let good = var.as_tensor().copy().unwrap();
        var.set(&Tensor::full(value, var.dims(), &Device::Cpu).unwrap()).unwrap();
        let said = trainer.save_checkpoint(dir.path(), 0.0).unwrap_err().to_string();
        assert!(said.starts_with(&format!("the weight {name} is not finite after step 1")), "{said}");
        trainer.averages[0].step().unwrap();
        var.set(&good).unwrap();
        let said = trainer.save_checkpoint(dir.path(), 0.0).unwrap_err().to_string();
        assert!(said.starts_with(&format!("the average of the weight {name} is not finite")), "{said}");
    }
    assert!(checkpoint::newest_first(dir.path()).unwrap().is_empty());
}

#[test]
fn every_optimiser_goes_on_from_its_checkpoint_bit_for_bit() {
    let settings: [&[&str]; 5] = [
        &["optimizer=adamw", "use_ema=true", "lr_scheduler=cosine", "lr_warmup_steps=2", "max_grad_norm=0.1"],
        &["optimizer=sgd", "momentum=0.9"],
        &["optimizer=sgd", "weight_decay=0.1"],
        &["optimizer=muon", "pixel_scale=1.1"],
        &["gradient_accumulation_steps=3", "loss=huber"],
    ];
    for (i, set) in settings.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = trainer(set);
        let per_epoch = whole.steps_per_epoch();
        assert_eq!(per_epoch, if i == 4 { 2 } else { 4 });
        for stop in [1, per_epoch, per_epoch + 1] {
            while whole.steps_done() < stop {
                whole.step().unwrap();
            }
            whole.save_checkpoint(dir.path(), 0.0).unwrap();
            let mut resumed = trainer(set);
            resumed.load_checkpoint(&dir.path().join(format!("checkpoint-{stop}"))).unwrap();
            assert_eq!(resumed.steps_done(), stop);
            let mut straight = trainer(set);
            while straight.steps_done() < stop {
                straight.step().unwrap();
            }
            assert!(to_the_end(&mut resumed) == to_the_end(&mut straight), "{set:?} after {stop} steps");
        }
        for other in settings.iter().filter(|other| *other != set) {
            let stop = per_epoch + 1;
            let loaded = trainer(other).load_checkpoint(&dir.path().join(format!("checkpoint-{stop}")));
            assert!(matches!(loaded, Err(Error::Checkpoint { .. } | Error::Model(_))), "{set:?} to {other:?}");
        }
    }
}

#[test]
fn scaled_pixels_are_trained_on_as_latents_of_these_values_would_be() {
    let config = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
        let text = r#"
            data = { name = "mnist", classes = [1, 8] }
            model = { _class_name = "BasicUNet" }
            scheduler = { _class_name = "DDPMScheduler" }
            train = { epochs = 1, batch_size = 5 }
        "#;
        RunConfig::parse(text, "test", &set, &Registry::default())
    };
    let scale = ["train.pixel_scale=1.25", "scheduler.clip_sample_range=1.25"];
    let digits = kakusan_data::draw_digits(&[1, 8], 5, 0).unwrap();
    let everything = digits.first_pixels_f32(digits.len()).unwrap();
    let latents: Vec<f32> = everything.iter().map(|pixel| (pixel * 1.25 - 0.125) * 2.0 - 1.0).collect();
    let names = digits.class_names().to_vec();
    let latents = ImageSet::from_f32([1, 28, 28], latents, digits.labels().to_vec(), names).unwrap().as_latents();

    let mut scaled = Trainer::new(&config(&scale).unwrap(), Arc::new(digits), &Device::Cpu).unwrap();
    let mut plain = Trainer::new(&config(&[]).unwrap(), Arc::new(latents.clone()), &Device::Cpu).unwrap();
    let losses = |trainer: &mut Trainer| to_the_end(trainer).0.iter().map(|step| step.loss).collect::<Vec<_>>();
    let (scaled, plain) = (losses(&mut scaled), losses(&mut plain));
    assert!(scaled.iter().zip(&plain).all(|(a, b)| (a / b - 1.0).abs() < 1e-4), "{scaled:?}, {plain:?}");

    let refused = Trainer::new(&config(&scale).unwrap(), Arc::new(latents), &Device::Cpu).err().unwrap().to_string();
    assert!(refused.starts_with("train.pixel_scale has no effect on latents"), "{refused}");
    let refused = config(&scale[..1]).unwrap_err().to_string();
    assert!(refused.contains("the scheduler clips images at 1: set scheduler.clip_sample_range = 1.25"), "{refused}");
}

#[test]
fn clusters_of_similar_images_begin_with_similar_rows() {
    let text = r#"
        data = { name = "mnist", classes = [1, 8], clusters = 4, sources = ["drawn"], drawn_per_class = 40 }
        scheduler = { _class_name = "DDPMScheduler" }
        train = { class_dropout = 0.1 }
        [model]
        _class_name = "ClassConditionedUnet"
        num_classes = 41
        class_emb_size = 24
        sample_size = 28
        in_channels = 1
        out_channels = 1
        layers_per_block = 1
        block_out_channels = [8]
        norm_num_groups = 8
        add_attention = false
        down_block_types = ["DownBlock2D"]
        up_block_types = ["UpBlock2D"]
    "#;
    let config = RunConfig::parse(text, "test", &[], &Registry::default()).unwrap();
    let images = kakusan_data::load(config.data.as_ref().unwrap()).unwrap().images;
    let means = images.label_means().unwrap().to_vec();
    let drawn = || Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.model.build(vb)).unwrap().0;
    let begun = |config: &RunConfig| Trainer::new(config, images.clone(), &Device::Cpu).unwrap().weights;
    // rows of `known` are their means' projections, and nothing else differs: other rows and the other tensors
    let check = |begun: Weights, known: &[usize]| {
        let drawn = drawn();
        let rows = |weights: &Weights| {
            let (_, table) = weights.iter().find(|(name, _)| *name == "class_emb.weight").unwrap();
            table.to_vec2::<f32>().unwrap()
        };
        let (before, after) = (rows(&drawn), rows(&begun));
        let pixels = means[4].len();
        let projection = Generator::new(0).randn(pixels * 24);
        let mean = |pixel: usize| known.iter().map(|&row| f64::from(means[row][pixel])).sum::<f64>();
        let mean: Vec<f64> = (0..pixels).map(|pixel| mean(pixel) / known.len() as f64).collect();
        let projected = |row: usize, column: usize| -> f64 {
            (0..pixels).map(|i| (f64::from(means[row][i]) - mean[i]) * f64::from(projection[i * 24 + column])).sum()
        };
        let expected = known.iter().flat_map(|&row| (0..24).map(move |column| (row, column)));
        let expected: Vec<f64> = expected.map(|(row, column)| projected(row, column)).collect();
        let size = |values: &[f64]| (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt();
        let table: Vec<f64> = before.iter().flatten().map(|&x| f64::from(x)).collect();
        let scale = size(&table) / size(&expected);
        for (i, expected) in expected.iter().enumerate() {
            let found = f64::from(after[known[i / 24]][i % 24]);
            assert!((found - expected * scale).abs() < 1e-4, "{found}, expected {}", expected * scale);
        }
        for row in (0..41).filter(|row| !known.contains(row)) {
            assert_eq!(before[row], after[row]);
        }
        for ((name, drawn), (_, begun)) in drawn.iter().zip(begun.iter()) {
            let values = |var: &candle_core::Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(name == "class_emb.weight" || values(drawn) == values(begun), "{name}");
        }
    };
    check(begun(&config), &[4, 5, 6, 7, 32, 33, 34, 35]); // of 1 and 8

    // a fine-tuning of a model that knows 1: of 8 alone; and of one whose classes are unknown: of none
    let dir = tempfile::tempdir().unwrap();
    let mut pipeline = DDPMPipeline::new(config.model.clone(), drawn(), config.scheduler.clone()).unwrap();
    let data = text.lines().find(|line| line.contains("data = ")).unwrap();
    let text = format!("{data}\nmodel.from = {:?}\ntrain.class_dropout = 0.1", dir.path());
    let fine_tuning = || RunConfig::parse(&text, "test", &[], &Registry::default()).unwrap();
    pipeline.save_pretrained(dir.path()).unwrap();
    check(begun(&fine_tuning()), &[]);
    pipeline.set_labels(Labels::new((4..8).map(|label| (label, "1".to_owned())).collect()));
    pipeline.save_pretrained(dir.path()).unwrap();
    check(begun(&fine_tuning()), &[32, 33, 34, 35]);
}
