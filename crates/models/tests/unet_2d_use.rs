//! How UNet2DModel is used: training with dropout, labels, configurations, files, and what it says to what does not
//! fit.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kakusan_models::{Dropout, Error, Model, ModelConfig, Registry, VarBuilder, Weights, save};
use kakusan_ops::{Adam, AdamConfig, backward};
use kakusan_rng::Generator;
use kakusan_weights::WEIGHTS_FILE;
use serde_json::{Value, json};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A network of two down blocks with some fields changed.
fn fields(more: Value) -> Value {
    let mut fields = json!({"sample_size": 8, "block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fields
}

fn config(more: Value) -> Result<Arc<dyn ModelConfig>, Error> {
    Registry::default().from_map("UNet2DModel", fields(more).as_object().unwrap())
}

fn initialised(more: Value) -> (Weights, Box<dyn Model>) {
    let config = config(more).unwrap();
    Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb)).unwrap()
}

fn noise(seed: u64, dims: &[usize]) -> Tensor {
    Tensor::from_vec(Generator::new(seed).randn(dims.iter().product()), dims, &Device::Cpu).unwrap()
}

fn levels(levels: &[f32]) -> Tensor {
    Tensor::new(levels, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn what_is_dropped_follows_from_seed_step_image_and_layer() -> TestResult {
    let (_, model) = initialised(json!({"dropout": 0.3}));
    let (x, level) = (noise(1, &[5, 3, 8, 8]), levels(&[1.0, 2.0, 3.0, 4.0, 5.0]));
    let train = |seed, step, from: usize, count| {
        let dropout = Dropout { seed, step, first_image: from };
        let (x, level) = (x.narrow(0, from, count)?, level.narrow(0, from, count)?);
        Ok::<_, Box<dyn std::error::Error>>(values(&model.forward_train(&x, &level, None, None, dropout)?))
    };
    let whole = train(7, 0, 0, 5)?;
    assert_eq!(whole, train(7, 0, 0, 5)?);
    assert_eq!(whole, [train(7, 0, 0, 2)?, train(7, 0, 2, 3)?].concat());
    assert_ne!(whole, train(7, 1, 0, 5)?);
    assert_ne!(whole, train(8, 0, 0, 5)?);
    assert_ne!(whole, values(&model.forward(&x, &level, None)?));

    let (_, model) = initialised(json!({}));
    let trained = model.forward_train(&x, &level, None, None, Dropout { seed: 7, step: 0, first_image: 0 })?;
    assert_eq!(values(&trained), values(&model.forward(&x, &level, None)?));
    let (_, model) = initialised(json!({"dropout": 1.0}));
    let dropped = model.forward_train(&x, &level, None, None, Dropout { seed: 7, step: 0, first_image: 0 })?;
    assert!(values(&dropped).iter().all(|y| y.is_finite()));
    Ok(())
}

#[test]
fn gradient_checkpointing_changes_no_number() -> TestResult {
    // every kind of block, with dropout: what is computed twice must drop the same numbers twice
    let kinds = [
        json!({"dropout": 0.3, "add_attention": true}),
        json!({"dropout": 0.3, "downsample_type": "resnet", "upsample_type": "resnet", "norm_num_groups": 2,
            "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"]}),
        json!({"dropout": 0.3, "block_out_channels": [32, 64], "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
            "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"]}),
    ];
    for kind in kinds {
        let (weights, mut model) = initialised(kind.clone());
        let (x, level) = (noise(1, &[2, 3, 8, 8]), levels(&[1.0, 500.0]));
        let dropout = Dropout { seed: 7, step: 3, first_image: 0 };
        let train = |model: &dyn Model| -> Result<_, Box<dyn std::error::Error>> {
            let y = model.forward_train(&x, &level, None, None, dropout)?;
            let gradients = backward(&y.sqr()?.mean_all()?)?;
            let of = |var: &candle_core::Var| gradients.get(var).map(values).ok_or("a weight has no gradient");
            Ok((values(&y), weights.trained().map(|(_, var)| of(var)).collect::<Result<Vec<_>, _>>()?))
        };
        let (y, gradients) = train(model.as_ref())?;
        model.enable_gradient_checkpointing()?;
        let (again, checkpointed) = train(model.as_ref())?;
        assert_eq!(y, again, "{kind}");
        let largest = |a: &[f32]| a.iter().fold(0f32, |most, a| most.max(a.abs()));
        // some gradients are nothing but rounding: what a softmax takes off again
        let overall = gradients.iter().map(|a| largest(a)).fold(0.0, f32::max);
        for (a, b) in gradients.iter().zip(&checkpointed) {
            let off = a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(off <= 1e-5 * largest(a) + 1e-7 * overall, "{kind}: off by {off} of {}", largest(a));
        }
        assert_eq!(values(&model.forward(&x, &level, None)?).len(), 2 * 3 * 8 * 8);
    }
    let config = Registry::default().from_map("BasicUNet", json!({}).as_object().unwrap())?;
    let (_, mut model) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    let refused = model.enable_gradient_checkpointing().unwrap_err();
    assert_eq!(refused.to_string(), "BasicUNet does not support gradient checkpointing");
    Ok(())
}

#[test]
fn a_batch_in_parts_is_the_batch() -> TestResult {
    let (weights, model) = initialised(json!({"num_class_embeds": 3}));
    let (x, level) = (noise(1, &[20, 3, 8, 8]), Tensor::arange(0f32, 20.0, &Device::Cpu)?);
    let labels = Tensor::new((0..20u32).map(|i| i % 3).collect::<Vec<_>>(), &Device::Cpu)?;
    let of = |part: std::ops::Range<usize>| {
        let of = |x: &Tensor| x.narrow(0, part.start, part.len());
        model.forward(&of(&x)?, &of(&level)?, Some(&of(&labels)?))
    };
    let predicted = kakusan_ops::predict(20, &Device::Cpu, of)?;
    assert!((predicted - of(0..20)?)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-6);
    let (_, parts) = kakusan_ops::gradients(20, &Device::Cpu, |part| Ok::<_, Error>(of(part)?.sqr()?.sum_all()?))?;
    let whole = backward(&of(0..20)?.sqr()?.sum_all()?)?;
    for (name, var) in weights.iter() {
        let (a, b) = (values(parts.get(var).unwrap()), values(whole.get(var).unwrap()));
        let largest = b.iter().fold(1f32, |largest, x| largest.max(x.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 2e-5 * largest), "{name}");
    }
    Ok(())
}

/// The composed operations, which other devices run, in f64.
#[test]
fn the_reference_agrees() -> TestResult {
    let skip = json!({"down_block_types": ["SkipDownBlock2D", "SkipDownBlock2D"], "norm_num_groups": null,
        "up_block_types": ["SkipUpBlock2D", "SkipUpBlock2D"], "block_out_channels": [8, 16]});
    let resnet = json!({"down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"], "downsample_type": "resnet",
        "up_block_types": ["ResnetUpsampleBlock2D", "UpBlock2D"], "resnet_time_scale_shift": "scale_shift",
        "time_embedding_type": "fourier", "center_input_sample": true});
    let learned = json!({"time_embedding_type": "learned", "num_train_timesteps": 9, "downsample_padding": 0,
        "dropout": 0.2});
    for more in [skip, resnet, learned] {
        let (weights, model) = initialised(more.clone());
        let wide = weights.iter().map(|(name, var)| Ok((name.to_owned(), var.to_dtype(DType::F64)?.detach())));
        let wide = wide.collect::<Result<HashMap<_, _>, candle_core::Error>>()?;
        let candles = candle_nn::VarBuilder::from_tensors(wide, DType::F64, &Device::Cpu);
        let reference =
            config(more.clone())?.build(VarBuilder::new_with_args(candles.into(), DType::F64, &Device::Cpu))?;
        let (x, level) = (noise(1, &[2, 3, 8, 8]), levels(&[3.0, 8.0]));
        let dropout = Dropout { seed: 1, step: 2, first_image: 3 };
        let y = model.forward_train(&x, &level, None, None, dropout)?;
        let exact = reference.forward_train(&x.to_dtype(DType::F64)?, &level, None, None, dropout)?;
        let error = (y.to_dtype(DType::F64)? - &exact)?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert!(error < 3e-6 * exact.abs()?.max_all()?.to_scalar::<f64>()?, "{more}: {error:.1e}");
    }
    Ok(())
}

#[test]
fn fouriers_frequencies_are_kept_but_not_trained() -> TestResult {
    let more = json!({"time_embedding_type": "fourier"});
    let (weights, model) = initialised(more.clone());
    let frequencies =
        |weights: &Weights| values(weights.iter().find(|(name, _)| *name == "time_proj.weight").unwrap().1);
    let before = frequencies(&weights);
    assert_eq!(weights.vars().len(), weights.iter().len() - 1);
    let loss = model.forward(&noise(1, &[1, 3, 8, 8]), &levels(&[0.5]), None)?.sqr()?.mean_all()?;
    Adam::new(weights.vars(), AdamConfig::default())?.step(&backward(&loss)?)?;
    assert_eq!(frequencies(&weights), before);

    let dir = tempfile::tempdir()?;
    save(config(more.clone())?.as_ref(), &weights, dir.path())?;
    let again = config(more)?;
    let path = dir.path().join(WEIGHTS_FILE);
    let (loaded, model_again) = Weights::load(&path, &Device::Cpu, |name| name.to_owned(), |vb| again.build(vb))?;
    assert_eq!(frequencies(&loaded), before);
    let [a, b] = [&model, &model_again].map(|model| model.forward(&noise(1, &[1, 3, 8, 8]), &levels(&[0.5]), None));
    assert_eq!(values(&a?), values(&b?));
    Ok(())
}

#[test]
fn a_configuration_goes_round_as_diffusers_writes_it() -> TestResult {
    let text = config(json!({"sample_size": [8, 16], "attention_head_dim": null,
        "down_block_types": ["UNetResDownBlock2D", "AttnDownBlock2D"]}))?
    .to_json();
    assert!(text.contains("\"UNetResDownBlock2D\",\n    \"AttnDownBlock2D\""), "{text}");
    assert!(text.contains("\"mid_block_scale_factor\": 1,") && text.contains("\"dropout\": 0.0,"), "{text}");
    assert!(text.contains("\"norm_eps\": 1e-05,") && text.contains("\"class_embed_type\": null,"), "{text}");
    assert_eq!(text.matches("\n  \"").count(), 28 + 2);
    let again = Registry::default().from_json(&text, "config.json")?;
    assert_eq!(again.to_json(), text);
    assert_eq!(again.sample_shape()?, [3, 8, 16]);
    let open = config(json!({"sample_size": null}))?;
    assert!(matches!(open.sample_shape(), Err(Error::NoSampleSize(name)) if name == "UNet2DModel"));
    assert_eq!(Registry::default().from_map("UNet2DModel", &serde_json::Map::new())?.to_map()["attention_head_dim"], 8);
    Ok(())
}

#[test]
fn parts_are_listed_in_order() -> TestResult {
    let submodules = config(json!({"num_class_embeds": 3}))?.submodules()?;
    let names: Vec<_> = submodules.iter().map(|submodule| submodule.name.as_str()).collect();
    let expected = ["conv_in", "time_embedding", "class_embedding", "down_blocks.0", "down_blocks.1", "mid_block"];
    assert_eq!(names[..6], expected);
    assert_eq!(names[6..], ["up_blocks.0", "up_blocks.1", "conv_norm_out", "conv_out"]);
    assert_eq!(submodules[4].class_name.as_deref(), Some("AttnDownBlock2D"));
    assert_eq!(submodules[2].parameters, 3 * 16);
    assert_eq!(submodules.iter().map(|submodule| submodule.parameters).sum::<usize>(), 11_767 + 3 * 16);
    Ok(())
}

#[test]
fn configurations_that_do_not_fit_name_the_key() {
    for (more, words) in [
        (json!({"blocks": 2}), vec!["unknown field `blocks`"]),
        (json!({"down_block_types": ["DownBlock2D", "KDownBlock2D"]}), vec!["down_block_types[1]", "KDownBlock2D"]),
        (json!({"down_block_types": ["DownBlock2D"]}), vec!["down_block_types names 1", "has 2"]),
        (json!({"block_out_channels": [4, -8]}), vec!["block_out_channels[1]", "-8"]),
        (json!({"block_out_channels": []}), vec!["block_out_channels", "is 0"]),
        (json!({"block_out_channels": [4, 1_000_000]}), vec!["block_out_channels", "1000000"]),
        (json!({"block_out_channels": [65_536, 65_536]}), vec!["parameters"]),
        (json!({"block_out_channels": [4, 10]}), vec!["down_blocks.1", "10 channels", "4 groups", "norm_num_groups"]),
        (json!({"norm_num_groups": null}), vec!["norm_num_groups is null", "Skip"]),
        (json!({"norm_num_groups": 0}), vec!["norm_num_groups is 0"]),
        (json!({"attention_head_dim": 9}), vec!["attention_head_dim is 9", "8 channels"]),
        (json!({"sample_size": 7}), vec!["sample_size has 7", "multiple of 2"]),
        (json!({"sample_size": "8"}), vec!["sample_size"]),
        (json!({"layers_per_block": 0}), vec!["layers_per_block is 0"]),
        (json!({"dropout": 1.5}), vec!["dropout is 1.5"]),
        (json!({"norm_eps": -1}), vec!["norm_eps is -1"]),
        (json!({"mid_block_scale_factor": 0}), vec!["mid_block_scale_factor is 0"]),
        (json!({"freq_shift": 2}), vec!["freq_shift is 2"]),
        (json!({"downsample_padding": 2}), vec!["downsample_padding is 2"]),
        (json!({"downsample_type": "fir"}), vec!["downsample_type", "fir"]),
        (json!({"act_fn": "tanh"}), vec!["act_fn", "tanh"]),
        (json!({"resnet_time_scale_shift": "spatial"}), vec!["resnet_time_scale_shift", "spatial"]),
        (json!({"time_embedding_type": "learned"}), vec!["num_train_timesteps"]),
        (
            json!({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"], "in_channels": 1}),
            vec!["in_channels is 1", "Skip"],
        ),
        (
            json!({"up_block_types": ["SkipUpBlock2D", "UpBlock2D"]}),
            vec!["up_block_types", "UpBlock2D after SkipUpBlock2D"],
        ),
    ] {
        let error = config(more.clone()).unwrap_err();
        assert!(matches!(error, Error::Config { .. }));
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{more}: {text}");
    }
}

#[test]
fn images_timesteps_and_labels_that_do_not_fit_are_refused() -> TestResult {
    let x = noise(1, &[2, 3, 8, 8]);
    let level = levels(&[1.0, 2.0]);
    let says = |more: Value, x: &Tensor, level: &Tensor, labels: Option<&Tensor>, words: &[&str]| {
        let error = initialised(more.clone()).1.forward(x, level, labels).unwrap_err();
        assert!(matches!(error, Error::Input { model: "UNet2DModel", .. }), "{error}");
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{more}: {error}");
    };
    says(json!({}), &noise(1, &[2, 1, 8, 8]), &level, None, &["[2, 1, 8, 8]", "[b, 3, h, w]"]);
    says(json!({}), &noise(1, &[2, 3, 8, 7]), &level, None, &["multiples of 2"]);
    says(json!({}), &noise(1, &[3, 8, 8]), &level, None, &["[3, 8, 8]"]);
    says(json!({}), &x, &levels(&[1.0, 2.0, 3.0]), None, &["timesteps", "[3]", "[2]"]);
    says(json!({"time_embedding_type": "fourier"}), &x, &levels(&[0.0]), None, &["timestep 0", "positive"]);
    let learned = json!({"time_embedding_type": "learned", "num_train_timesteps": 9});
    says(learned.clone(), &x, &levels(&[9.0]), None, &["timestep 9", "0 to 8"]);
    says(learned, &x, &levels(&[0.5]), None, &["timestep 0.5"]);

    let labels = Tensor::new(&[0i64, 3], &Device::Cpu)?;
    let classes = json!({"num_class_embeds": 3});
    says(json!({}), &x, &level, Some(&labels), &["has no classes"]);
    says(classes.clone(), &x, &level, None, &["got no labels"]);
    says(classes.clone(), &x, &level, Some(&labels), &["label 3", "0 to 2"]);
    says(classes, &x, &level, Some(&labels.narrow(0, 0, 1)?), &["[1]", "[2]"]);
    says(json!({"class_embed_type": "identity"}), &x, &level, Some(&labels), &["[2]", "[2, 16]"]);

    let (_, model) = initialised(json!({"num_class_embeds": 4}));
    let own = values(&model.forward(&x, &level, Some(&labels))?);
    let u32s = labels.to_dtype(DType::U32)?;
    assert_eq!(own, values(&model.forward(&x, &level, Some(&u32s))?));
    assert_ne!(own, values(&model.forward(&x, &level, Some(&u32s.zeros_like()?))?));
    let none = model.forward(&x.narrow(0, 0, 0)?, &level.narrow(0, 0, 0)?, Some(&labels.narrow(0, 0, 0)?))?;
    assert_eq!(none.dims(), [0, 3, 8, 8]);
    Ok(())
}

#[test]
fn the_network_is_told_of_changed_images_in_training_alone() -> Result<(), Box<dyn std::error::Error>> {
    let plain = config(json!({"num_class_embeds": 3}))?;
    let told = plain.with_augment_dim(9).unwrap();
    assert_eq!(told.with_augment_dim(0).unwrap().to_json(), plain.to_json());
    let draw = |config: &dyn ModelConfig| {
        Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb)).unwrap()
    };
    let ((weights, model), (plain_weights, plain_model)) = (draw(told.as_ref()), draw(plain.as_ref()));
    // one tensor more; the others are drawn as without it
    let more: Vec<&str> = weights.iter().map(|(name, _)| name).skip(plain_weights.iter().len()).collect();
    assert_eq!(more, ["augment_embedding.weight"]);
    let kept = weights.only(&plain.outline()?);
    assert_eq!(kept.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>(), {
        plain_weights.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    });

    let (x, level, labels) = (noise(1, &[2, 3, 8, 8]), levels(&[500.0, 20.0]), Tensor::new(&[0u32, 2], &Device::Cpu)?);
    let dropout = Dropout { seed: 0, step: 0, first_image: 0 };
    let train = |told: Option<&Tensor>| model.forward_train(&x, &level, Some(&labels), told, dropout);
    let own = values(&plain_model.forward(&x, &level, Some(&labels))?);
    assert_eq!(values(&model.forward(&x, &level, Some(&labels))?), own);
    assert_eq!(values(&train(None)?), own);
    let changes = Tensor::cat(&[Tensor::zeros((1, 9), DType::F32, &Device::Cpu)?, noise(2, &[1, 9])], 0)?;
    let y = train(Some(&changes))?;
    let (first, second) = (values(&y.narrow(0, 0, 1)?), values(&y.narrow(0, 1, 1)?));
    assert_eq!(first, own[..first.len()]);
    assert_ne!(second, own[first.len()..]);

    let gradients = kakusan_ops::backward(&y.sqr()?.sum_all()?)?;
    let (_, weight) = weights.iter().last().unwrap();
    let gradient = gradients.get(weight).expect("a gradient").abs()?.sum(0)?.to_vec1::<f32>()?;
    assert!(gradient.iter().all(|sum| *sum > 0.0), "{gradient:?}");

    let refused = |model: &dyn Model, told: &Tensor| {
        model.forward_train(&x, &level, Some(&labels), Some(told), dropout).unwrap_err().to_string()
    };
    assert!(refused(model.as_ref(), &changes.narrow(1, 0, 8)?).contains("[2, 8], expected [2, 9]"));
    assert!(refused(plain_model.as_ref(), &changes).contains("expected [2, 0] (augment_dim)"));
    Ok(())
}
