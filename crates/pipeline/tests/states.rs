//! The state of a training: each kind of model, optimiser and average resumes from a checkpoint bit for bit, saves the
//! averages that it reports, and does not change what is not trained.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use kakusan_data::{ImageSet, draw_digits};
use kakusan_models::Weights;
use kakusan_pipeline::{Registry, RunConfig, Trainer};
use kakusan_rng::Generator;

const UNET: &str = r#"
sample_size = 8
in_channels = 1
out_channels = 1
block_out_channels = [4, 8]
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 2
"#;

/// Class and settings of each kind of model, and a scheduler whose levels can condition it.
fn kinds() -> Vec<(&'static str, String, &'static str)> {
    let mut kinds = vec![("BasicUNet", "sample_size = 8".to_owned(), "LinearMixScheduler")];
    for (embedding, scheduler) in [
        ("\"positional\"", "DDPMScheduler"),
        ("\"fourier\"", "ScoreSdeVeScheduler"),
        ("\"learned\"\nnum_train_timesteps = 1000", "DDPMScheduler"),
    ] {
        for (class, classes) in
            [("UNet2DModel", ""), ("UNet2DModel", "num_class_embeds = 4"), ("ClassConditionedUnet", "num_classes = 4")]
        {
            kinds.push((class, format!("{UNET}time_embedding_type = {embedding}\n{classes}"), scheduler));
        }
    }
    kinds
}

/// Digits of two classes: every third pixel of every third row.
fn images() -> Arc<ImageSet> {
    let digits = draw_digits(&[1, 2], 5, 0).unwrap();
    let small = |image: usize| -> Vec<u8> {
        let pixels = digits.image(image).unwrap();
        (0..64).map(|i| pixels[(i / 8 * 3 + 2) * 28 + i % 8 * 3 + 2]).collect()
    };
    let pixels = (0..digits.len()).flat_map(small).collect();
    let classes = digits.labels().to_vec();
    Arc::new(ImageSet::new([1, 8, 8], pixels, classes, digits.class_names().to_vec()).unwrap())
}

type Numbers = BTreeMap<String, Vec<u32>>;

/// The bits of each tensor.
fn bits<'a>(weights: impl Iterator<Item = (&'a str, &'a candle_core::Var)>) -> Numbers {
    let bits = |var: &candle_core::Var| -> Vec<u32> {
        var.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    weights.map(|(name, var)| (name.to_owned(), bits(var))).collect()
}

fn saved(path: &Path) -> Numbers {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let bits = |tensor: candle_core::Tensor| -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    tensors.into_iter().map(|(name, tensor)| (name, bits(tensor))).collect()
}

fn state(trainer: &Trainer) -> (Numbers, Numbers) {
    (bits(trainer.weights().iter()), bits(trainer.sampling_weights().unwrap().iter()))
}

#[test]
fn every_kind_of_training_goes_on_bit_for_bit() {
    const SEED: u64 = 5;
    let images = images();
    let optimisers = [
        ("optimizer=adam", vec!["exp_avg", "exp_avg_sq"]),
        ("optimizer=adamw max_grad_norm=0.01", vec!["exp_avg", "exp_avg_sq"]),
        ("optimizer=sgd weight_decay=0.1", vec![]),
        ("optimizer=sgd momentum=0.9 max_grad_norm=0.01", vec!["momentum_buffer"]),
    ];
    for (class, model, scheduler) in kinds() {
        for (optimiser, remembered) in &optimisers {
            for averages in ["use_ema=false", "use_ema=true", "ema_sigma_rel=[0.05,0.1]"] {
                let use_ema = averages != "use_ema=false";
                if averages.contains("sigma_rel") && *optimiser != "optimizer=adam" {
                    continue; // no average sees the optimiser
                }
                let case = format!("{class} {scheduler} {optimiser} {averages}\n{model}");
                let text = format!(
                    "data = {{ name = \"mnist\", classes = [1, 2] }}\ntrain = {{ epochs = 2, batch_size = 4 }}\n\
                     scheduler = {{ _class_name = \"{scheduler}\" }}\n[model]\n_class_name = \"{class}\"\n{model}"
                );
                let set = format!("{optimiser} seed={SEED} {averages} learning_rate=0.01");
                let set: Vec<String> = set.split(' ').map(|text| format!("train.{text}")).collect();
                let config = RunConfig::parse(&text, "test", &set, &Registry::default()).unwrap();
                let trainer = || Trainer::new(&config, images.clone(), &Device::Cpu).unwrap();

                let mut straight = trainer();
                let fixed = fixed(straight.weights());
                assert_eq!(fixed.len(), usize::from(model.contains("fourier")), "{case}");
                let (begin, _) =
                    Weights::initialise(&Device::Cpu, &mut Generator::new(SEED), |vb| config.model.build(vb)).unwrap();
                assert_eq!(bits(straight.weights().iter()), bits(begin.iter()), "{case}");
                let begin = bits(begin.iter());

                // the average, computed independently
                let mut average: BTreeMap<String, Vec<f32>> = begin
                    .iter()
                    .map(|(name, bits)| (name.clone(), bits.iter().map(|&x| f32::from_bits(x)).collect()))
                    .collect();
                let dir = tempfile::tempdir().unwrap();
                let stop = 4; // in the second of two epochs of three steps
                while let Some(step) = straight.step().unwrap() {
                    let now = bits(straight.weights().iter());
                    let rate = (1.0 - step.ema_decay.unwrap_or(0.0)) as f32;
                    for (name, average) in average.iter_mut().filter(|(name, _)| !fixed.contains(*name)) {
                        average.iter_mut().zip(&now[name]).for_each(|(a, &b)| *a -= rate * (*a - f32::from_bits(b)));
                    }
                    if step.step == stop {
                        straight.save_checkpoint(dir.path(), 0.0).unwrap();
                    }
                }
                assert_eq!(straight.steps_done(), 6);
                let average: Numbers =
                    average.into_iter().map(|(name, x)| (name, x.into_iter().map(f32::to_bits).collect())).collect();
                let end = state(&straight);
                assert!(if use_ema { average == end.1 } else { end.0 == end.1 }, "{case}");
                // softmax ignores a bias that all keys share: it changes by rounding only, if at all
                for (name, bits) in begin.iter().filter(|(name, _)| !name.ends_with("to_k.bias")) {
                    assert_eq!(end.0[name] == *bits, fixed.contains(name), "{name} of {case}");
                    assert_eq!(end.1[name] == *bits, fixed.contains(name), "{name} of {case}");
                }

                let checkpoint = dir.path().join(format!("checkpoint-{stop}"));
                let held: BTreeSet<String> = saved(&checkpoint.join("optimizer.safetensors")).into_keys().collect();
                let trained = begin.keys().filter(|name| !fixed.contains(*name));
                let expected = trained.flat_map(|name| remembered.iter().map(move |what| format!("{what}.{name}")));
                assert_eq!(held, expected.collect(), "{case}");
                for component in ["unet", "unet_ema"].into_iter().take(1 + usize::from(use_ema)) {
                    let saved = saved(&checkpoint.join(component).join(kakusan_weights::WEIGHTS_FILE));
                    assert!(fixed.iter().all(|name| saved[name] == begin[name]), "{component} of {case}");
                }

                let mut resumed = trainer();
                resumed.load_checkpoint(&checkpoint).unwrap_or_else(|e| panic!("{e}: {case}"));
                assert_eq!(resumed.steps_done(), stop);
                while resumed.step().unwrap().is_some() {}
                assert!(state(&resumed) == end, "{case}");
                if averages.contains("sigma_rel") {
                    let wider = [&straight, &resumed].map(|trainer| {
                        let checkpoint = trainer.save_checkpoint(dir.path(), 0.0).unwrap();
                        saved(&checkpoint.join("unet_ema_1").join(kakusan_weights::WEIGHTS_FILE))
                    });
                    assert!(wider[0] == wider[1] && wider[0] != end.1, "{case}");
                }
            }
        }
    }
}

/// The names of the tensors that are not trained.
fn fixed(weights: &Weights) -> BTreeSet<String> {
    let trained: BTreeSet<&str> = weights.trained().map(|(name, _)| name).collect();
    weights.iter().map(|(name, _)| name).filter(|name| !trained.contains(name)).map(str::to_owned).collect()
}
