//! Every shipped configuration loads. For a wrong one, the error says where it is wrong and what would be right.

#[cfg(feature = "schema")]
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use kakusan_models::Weights;
use kakusan_pipeline::{ConfigError, DDPMPipeline, Registry, RunConfig};
use kakusan_rng::Generator;
#[cfg(feature = "schema")]
use serde_json::Value;

const TEXT: &str = r#"[data]
name = "mnist"
classes = [1, 8, 4]
sources = ["drawn"]

[model]
_class_name = "BasicUNet"
sample_size = 28

[scheduler]
_class_name = "LinearMixScheduler"

[train]
epochs = 2
batch_size = 64
"#;

fn parse(text: &str, set: &[&str]) -> Result<RunConfig, ConfigError> {
    let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
    RunConfig::parse(text, "my.toml", &set, &Registry::default())
}

fn error(text: &str) -> String {
    parse(text, &[]).unwrap_err().to_string()
}

/// What makes a shipped configuration loadable: nothing, or a model of random weights in place of the trained one that
/// it fine-tunes.
fn pretrained(path: &Path, place: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let Some(name) = text.lines().find_map(|line| line.strip_prefix("from = \"runs/")?.split('"').next()) else {
        return vec![];
    };
    let first = RunConfig::load(&path.with_file_name(format!("{name}.toml")), &[], &Registry::default()).unwrap();
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| first.model.build(vb)).unwrap();
    DDPMPipeline::new(first.model, weights, first.scheduler).unwrap().save_pretrained(place).unwrap();
    vec![format!("model.from={:?}", place.to_str().unwrap())]
}

#[test]
fn the_shipped_configurations_load() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let place = tempfile::tempdir().unwrap();
    let (mut count, mut fine_tunings) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let set = pretrained(&path, place.path());
        let config = RunConfig::load(&path, &set, &Registry::default()).unwrap_or_else(|e| panic!("{e}"));
        let again = parse(&config.to_toml().unwrap(), &[]).unwrap();
        assert_eq!(config.to_toml().unwrap(), again.to_toml().unwrap());
        count += 1;
        fine_tunings += usize::from(config.origin.is_some());
    }
    assert!(count >= 2 && fine_tunings >= 1);
}

#[test]
fn overrides_are_toml_values_or_words() {
    let config = parse(TEXT, &["train.epochs=7", "data.classes=[3,5]", "data.name=mnist", "sample.steps = 9"]).unwrap();
    assert_eq!((config.train.epochs, config.train.batch_size, config.sample.steps), (7, 64, 9));
    assert_eq!(config.data.unwrap().classes, Some(vec![3.into(), 5.into()]));
    for (wrong, expected) in [
        ("epochs=7", "expected table.key=value"),
        ("train.epochs", "expected table.key=value"),
        ("trian.epochs=7", "there is no table [trian]; did you mean `train`?"),
        ("train.epoch=7", "--set train.epoch: there is no key `epoch` in [train]; did you mean `epochs`?"),
        ("train.epochs=many", "--set train.epochs: `epochs`: invalid type: string \"many\""),
        ("data.classes=[1,11]", "`classes` names 11"),
    ] {
        let message = parse(TEXT, &[wrong]).unwrap_err().to_string();
        assert!(message.contains(expected), "{wrong}: {message}");
    }
}

#[test]
fn errors_name_the_place_and_the_remedy() {
    let with = |from: &str, to: &str| error(&TEXT.replace(from, to));
    for (message, expected) in [
        (
            with("epochs = 2", "gradient_checkpointing = true"),
            "my.toml:14:1: `gradient_checkpointing` has no effect on a BasicUNet",
        ),
        (with("epochs = 2", "epoch = 2"), "my.toml:14:1: there is no key `epoch` in [train]; did you mean `epochs`?"),
        (with("[train]", "[training]"), "my.toml:13:2: there is no table [training]; did you mean `train`?"),
        (with("sample_size = 28", "size = 28"), "my.toml:8:1: there is no key `size` in [model]"),
        (
            with("sample_size = 28", "sample_size = 30"),
            "my.toml:8:1: BasicUNet: sample_size is 30; it must be a multiple of 4",
        ),
        (with("BasicUNet", "BasicUnet"), "my.toml:7:1: no model is called `BasicUnet`; did you mean `BasicUNet`?"),
        (with("LinearMixScheduler", "LinearMix"), "my.toml:11:1: no scheduler is called `LinearMix`"),
        (with("_class_name = \"BasicUNet\"", ""), "my.toml:6:2: [model] needs `_class_name`, one of BasicUNet"),
        (with("\"drawn\"", "\"draw\""), "my.toml:4:1: `sources`: there is no `draw`; did you mean `drawn`?"),
        (with("[1, 8, 4]", "[1, 12]"), "my.toml:3:1: `classes` names 12"),
        (with("[1, 8, 4]", "[]"), "my.toml:3:1: `classes` is empty"),
        (with("epochs = 2", "epochs = 0"), "my.toml:14:1: `epochs` is 0; it must be between 1 and"),
        (with("epochs = 2", "epochs = -2"), "my.toml:14:1: `epochs`: invalid value: integer `-2`"),
        (with("epochs = 2", "epochs = \"2\""), "my.toml:14:1: `epochs`: invalid type: string \"2\""),
        (with("epochs = 2", "learning_rate = -1.0"), "my.toml:14:1: `learning_rate` is -1"),
        (with("epochs = 2", "learning_rate = nan"), "my.toml:14:1: `learning_rate` is NaN"),
        (with("[train]", "[train"), "my.toml:13:"),
        (with("name = \"mnist\"", ""), "missing field `name`"),
        (error(""), "[model] needs `_class_name`"),
        (
            error(&format!("{TEXT}[sample]\nsteps = 9223372036854775807\n")),
            "my.toml:17:1: `steps`: LinearMixScheduler cannot sample in 9223372036854775807 steps",
        ),
    ] {
        assert!(message.contains(expected), "{message}\nlacks\n{expected}");
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let load = |path: &Path| RunConfig::load(path, &[], &Registry::default()).unwrap_err().to_string();
    let dir = tempfile::tempdir().unwrap();
    assert!(load(&dir.path().join("none.toml")).contains("none.toml: cannot be read"));
    let big = dir.path().join("big.toml");
    std::fs::write(&big, vec![b'#'; 2 << 20]).unwrap();
    assert!(load(&big).contains("a configuration may have at most"));
    std::fs::write(&big, [0xff, 0xfe, 0x00]).unwrap();
    assert!(load(&big).contains("cannot be read"));
}

#[test]
fn training_keys_are_checked_and_none_is_ignored() {
    for (set, expected) in [
        (&["train.optimizer=adagrad"][..], "`optimizer`: there is no `adagrad`"),
        (&["train.optimizer=adamm"], "did you mean `adam`?"),
        (&["train.betas=[0.9,1.0]"], "`betas` is [0.9, 1.0]; both must be at least 0 and below 1"),
        (&["train.eps=-1.0"], "`eps` is -1; it must be a number from 0 on"),
        (&["train.momentum=0.9"], "`momentum` has no effect here; remove it, or set optimizer = \"sgd\" or \"muon\""),
        (
            &["train.weight_decay=0.1"],
            "`weight_decay` has no effect here; remove it, or set optimizer = \"adamw\", \"muon\"",
        ),
        (&["train.pixel_scale=0.9"], "`pixel_scale` is 0.9; it must be between 1 and 2"),
        (&["train.optimizer=sgd", "train.betas=[0.9,0.99]"], "`betas` has no effect here"),
        (&["train.max_grad_norm=0"], "`max_grad_norm`"),
        (&["train.gradient_accumulation_steps=0"], "`gradient_accumulation_steps` is 0; it must be between 1 and"),
        (&["train.lr_scheduler=cosin"], "did you mean `cosine`?"),
        (&["train.lr_warmup_steps=5"], "`lr_warmup_steps` has no effect here; remove it, or set lr_scheduler ="),
        (&["train.lr_scheduler=cosine", "train.lr_num_cycles=2"], "\"cosine_with_restarts\""),
        (&["train.lr_scheduler=constant_with_warmup"], "needs `lr_warmup_steps`"),
        (&["train.lr_scheduler=piecewise_constant"], "needs rules, such as lr_step_rules"),
        (&["train.lr_scheduler=piecewise_constant", "train.lr_step_rules=1:x,2"], "`lr_step_rules` is \"1:x,2\""),
        (&["train.lr_scheduler=polynomial", "train.learning_rate=1e-8"], "must be above 1e-7"),
        (&["train.loss=mae"], "there is no `mae`"),
        (&["train.huber_delta=1.0"], "`huber_delta` has no effect here; remove it, or set loss = \"huber\""),
        (&["train.snr_gamma=5.0"], "`snr_gamma` needs a scheduler with a signal-to-noise ratio"),
        (&["train.weighting_scheme=logit"], "`weighting_scheme`: there is no `logit`"),
        (&["train.weighting_scheme=mode"], "`weighting_scheme` needs a scheduler of a flow, such as FlowMatchEuler"),
        (&["train.logit_std=1.0"], "`logit_std` has no effect here; remove it, or set weighting_scheme ="),
        (&["train.weighting_scheme=mode", "train.mode_scale=2.0"], "`mode_scale` is 2; it must be between -1 and 1.75"),
        (&["train.weighting_scheme=mode", "train.p_mean=0.0"], "`p_mean` is for EDM, `weighting_scheme` for a flow"),
        (&["train.p_mean=-1.2"], "`p_mean` needs a scheduler with EDM's preconditioning, such as EDMEulerScheduler"),
        (&["train.p_std=0.0"], "`p_std` is 0; it must be a number above 0"),
        (&["scheduler._class_name=EDMEulerScheduler", "train.snr_gamma=5.0"], "`snr_gamma` needs a scheduler with"),
        (
            &["train.ema_sigma_rel=[0.1,0.05]"],
            "`ema_sigma_rel` is [0.1, 0.05]; it must be one to four ascending numbers",
        ),
        (&["train.ema_sigma_rel=[0.05,0.4]"], "from 0.001 to 0.28, such as [0.05, 0.1]"),
        (&["train.ema_sigma_rel=[0.05]", "train.use_ema=true"], "`ema_sigma_rel` averages in place of `use_ema`"),
        (&["train.ema_snapshots=4"], "`ema_snapshots` has no effect here; remove it, or set ema_sigma_rel ="),
        (&["train.ema_power=0.5"], "`ema_power` has no effect here; remove it, or set use_ema = true"),
        (&["train.use_ema=true", "train.ema_max_decay=1.5"], "`ema_max_decay` is 1.5; it must be between 0 and 1"),
        (&["train.use_ema=true", "train.ema_min_decay=1.0"], "`ema_min_decay` is 1; it must be between 0 and"),
        (&["train.use_ema=true", "train.ema_inv_gamma=0.0"], "`ema_inv_gamma` is 0; it must be a number above 0"),
    ] {
        let message = parse(TEXT, set).unwrap_err().to_string();
        assert!(message.contains(expected), "{set:?}: {message}\nlacks\n{expected}");
    }
    let all = [
        "scheduler._class_name=DDPMScheduler",
        "train.optimizer=adamw",
        "train.betas=[0.95,0.999]",
        "train.weight_decay=1e-6",
        "train.lr_scheduler=cosine",
        "train.lr_warmup_steps=500",
        "train.max_grad_norm=1.0",
        "train.gradient_accumulation_steps=2",
        "train.snr_gamma=5.0",
        "train.use_ema=true",
        "train.ema_inv_gamma=2.0",
    ];
    let config = parse(TEXT, &all).unwrap();
    let again = parse(&config.to_toml().unwrap(), &[]).unwrap();
    assert_eq!(config.train, again.train);
}

#[test]
fn what_draws_is_checked_with_its_steps_and_options() {
    let ddpm = TEXT.replace("LinearMixScheduler", "DDPMScheduler");
    let config = parse(&ddpm, &["sample.scheduler=ddim", "sample.eta=0.5", "sample.steps=20"]).unwrap();
    assert_eq!(
        (config.sample_scheduler.class_name(), config.scheduler.class_name()),
        ("DDIMScheduler", "DDPMScheduler")
    );
    let error = |set: &[&str]| parse(&ddpm, set).unwrap_err().to_string();
    assert!(error(&["sample.scheduler=fast"]).contains("--set sample.scheduler: no scheduler is called `fast`"));
    assert!(error(&["sample.scheduler=lcm", "sample.steps=51"]).contains("--set sample.steps: `steps`: LCMScheduler"));
    assert!(error(&["sample.eta=0.5"]).contains("--set sample.eta: `eta`: DDPMScheduler has no use for `eta`"));
    assert!(error(&["sample.guidance_scale=2.0"]).contains("set train.class_dropout"));
}

#[test]
fn null_has_a_word_in_toml_and_comes_back() {
    let unet = r#"
        data = { name = "mnist", sources = ["drawn"] }
        scheduler = { _class_name = "DDPMScheduler" }
        [model]
        _class_name = "UNet2DModel"
        sample_size = 28
        attention_head_dim = "null"
        in_channels = 1
        out_channels = 1
        block_out_channels = [32, 64]
        down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
        up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
    "#;
    let config = parse(unet, &[]).unwrap();
    assert_eq!(config.model.to_map()["attention_head_dim"], serde_json::Value::Null);
    let again = parse(&config.to_toml().unwrap(), &[]).unwrap();
    assert!(*again.model == *config.model);
}

#[test]
fn a_sampler_that_does_not_fit_and_a_target_out_of_reach_are_told() {
    let ddpm = TEXT.replace("LinearMixScheduler", "DDPMScheduler");
    for (text, sampler) in
        [(ddpm.as_str(), "edm_euler"), (&ddpm, "linear_mix"), (&ddpm, "flow_match_euler"), (TEXT, "ddim")]
    {
        let message = parse(text, &[&format!("sample.scheduler={sampler}")]).unwrap_err().to_string();
        assert!(message.contains("cannot sample this model") && message.contains("that fit are"), "{message}");
    }
    let vp = TEXT.replace("LinearMixScheduler", "ScoreSdeVpScheduler");
    for text in [&vp, TEXT] {
        for sampler in Registry::default().schedulers.class_names() {
            let Err(refused) = parse(text, &[&format!("sample.scheduler={sampler}")]) else { continue };
            let message = refused.to_string();
            assert!(message.contains("cannot sample") && !message.contains("that fit are \n"), "{message}");
        }
    }
    let wrong = error(&TEXT.replace("LinearMixScheduler", "DPMSolver++"));
    assert!(
        wrong.contains("no scheduler is called `DPMSolver++`; did you mean `DPMSolverMultistepScheduler`?"),
        "{wrong}"
    );

    assert!(parse(TEXT, &[]).unwrap().warnings().is_empty());
    for (sampler, inverts) in [("ddim_inverse", true), ("DPMSolverMultistepInverseScheduler", true), ("ddim", false)] {
        let warnings = parse(&ddpm, &[&format!("sample.scheduler={sampler}")]).unwrap().warnings();
        let told = warnings.iter().any(|warning| warning.to_string().contains("turns images into noise"));
        assert_eq!(told, inverts, "{sampler}");
    }
    for (key, value) in [("scheduler.beta_end", "nan"), ("scheduler.trained_betas", "[0.1, inf]")] {
        let message = parse(&ddpm, &[&format!("{key}={value}")]).unwrap_err().to_string();
        assert!(message.contains(value) && message.contains("it must be finite"), "{message}");
    }
    for (scheduler, least) in [("prediction_type=epsilon", "-"), ("prediction_type=sample", "-1.00")] {
        let warnings = parse(&ddpm, &[&format!("scheduler.{scheduler}")]).unwrap().warnings();
        let warning = warnings[0].to_string();
        assert!(
            warning.contains("never predicts less than -0.28") && warning.contains(&format!("down to {least}")),
            "{warning}"
        );
    }
}

/// A training draws the same images as `sample --scheduler` with the saved pipeline.
#[test]
fn a_sampler_is_built_from_what_the_training_saves() {
    let text = TEXT.replace("LinearMixScheduler", "DDPMScheduler");
    let config = parse(&text, &["sample.scheduler=heun"]).unwrap();
    assert_eq!(config.sample_scheduler.config()["beta_start"], 0.0001);
    let registry = Registry::default().schedulers;
    let saved = registry.from_json(&kakusan_scheduler::to_json(config.scheduler.as_ref())).unwrap();
    let later = registry.swap("HeunDiscreteScheduler", saved.as_ref()).unwrap();
    let [later, ours] =
        [later, config.sample_scheduler].map(|scheduler| kakusan_scheduler::to_json(scheduler.as_ref()));
    assert_eq!(later, ours);
}

/// Checks a value by a JSON schema, as far as ours goes: an unknown keyword of validation is a panic.
#[cfg(feature = "schema")]
fn obeys(schema: &Value, value: &Value, root: &Value) -> Result<(), String> {
    let all = |key: &str| schema.get(key).and_then(Value::as_array).into_iter().flatten();
    for (key, rule) in schema.as_object().into_iter().flatten() {
        let is_type = |kind: &str| match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            other => panic!("the type {other}"),
        };
        let bound = |ok: fn(&f64, &f64) -> bool| value.as_f64().is_none_or(|value| ok(&value, &rule.as_f64().unwrap()));
        let holds = match key.as_str() {
            "title" | "description" | "default" | "definitions" | "$schema" | "patternProperties" => true,
            "$ref" => {
                let place = rule.as_str().unwrap().strip_prefix('#').unwrap();
                obeys(root.pointer(place).unwrap(), value, root)?;
                true
            }
            "type" => match rule {
                Value::String(kind) => is_type(kind),
                kinds => kinds.as_array().unwrap().iter().any(|kind| is_type(kind.as_str().unwrap())),
            },
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => bound(f64::ge),
            "maximum" => bound(f64::le),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "items" => value.as_array().into_iter().flatten().all(|item| obeys(rule, item, root).is_ok()),
            "allOf" => all(key).all(|schema| obeys(schema, value, root).is_ok()),
            "anyOf" => all(key).any(|schema| obeys(schema, value, root).is_ok()),
            "oneOf" => all(key).filter(|schema| obeys(schema, value, root).is_ok()).count() == 1,
            "required" => rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    value
                        .get(name)
                        .map_or(Ok(()), |value| obeys(schema, value, root))
                        .map_err(|e| format!("{name}: {e}"))?;
                }
                true
            }
            "additionalProperties" => {
                let known = |name: &String| schema["properties"].get(name).is_some();
                let is_free = |name: &String| schema.get("patternProperties").is_some() && name.starts_with('_');
                *rule != false
                    || value.as_object().is_none_or(|own| own.keys().all(|name| known(name) || is_free(name)))
            }
            other => panic!("the keyword {other}"),
        };
        if !holds {
            return Err(format!("{key} {rule} refuses {value}"));
        }
    }
    Ok(())
}

#[cfg(feature = "schema")]
#[test]
fn the_schema_takes_the_shipped_configurations_and_refuses_what_the_loader_refuses() {
    let schema = kakusan_pipeline::config_schema();
    let json = |text: &str| serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
    let loads = |text: &str| RunConfig::parse(text, "test", &[], &Registry::default()).is_ok();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let config = json(&text);
        assert_eq!(obeys(&schema, &config, &schema), Ok(()), "{}", path.display());
        for table in ["data", "model", "scheduler", "train", "sample"].map(|name| format!("[{name}]\n")) {
            let wrong = text.replace(&table, &format!("{table}steqs = 1\n"));
            let is_wrong = wrong == text || obeys(&schema, &json(&wrong), &schema).is_err() && !loads(&wrong);
            assert!(is_wrong, "{table} of {wrong}");
        }
        if config["model"].get("from").is_some() {
            continue; // it loads only with its pretrained model
        }
        let whole = RunConfig::load(&path, &[], &Registry::default()).unwrap().to_toml().unwrap();
        assert_eq!(obeys(&schema, &json(&whole), &schema), Ok(()), "{whole}");
        for wrong in [text.clone() + "[tain]\n", text.replace("_class_name", "_class")] {
            assert!(obeys(&schema, &json(&wrong), &schema).is_err() && !loads(&wrong), "{wrong}");
        }
    }
    let base = "[data]\nname = \"mnist\"\n[model]\n_class_name = \"UNet2DModel\"\nsample_size = 32\n\
                block_out_channels = [32, 64, 64, 64]\n[scheduler]\n_class_name = \"DDPMScheduler\"\n";
    for (good, line) in [
        (true, ""),
        (true, "attention_head_dim = \"null\"\n"),
        (true, "sample_size = [32, 64]\n"),
        (true, "_anything = 1\n"),
        (false, "attention_head_dim = \"none\"\n"),
        (false, "act_fn = \"silly\"\n"),
        (false, "layers_per_block = 1.5\n"),
        (false, "layers_per_block = -1\n"),
        (false, "class_embed_type = 3\n"),
    ] {
        let text = match line.starts_with("sample_size") {
            true => base.replace("sample_size = 32\n", line),
            false => base.replace("[scheduler]", &format!("{line}[scheduler]")),
        };
        assert_eq!((obeys(&schema, &json(&text), &schema).is_ok(), loads(&text)), (good, good), "{text}");
    }
    for (good, line) in [
        (true, "train.lr_scheduler = \"cosine\"\n"),
        (true, "train.betas = [0.9, 0.99]\n"),
        (false, "train.betas = [0.9]\n"),
        (false, "train.lr_scheduler = \"cosin\"\n"),
        (false, "train.epochs = \"3\"\n"),
        (true, "sample.guidance_interval = [0.3, 5]\ntrain.class_dropout = 0.1\nsample.guidance_scale = 2\n"),
        (false, "sample.eta = \"half\"\n"),
    ] {
        let text = format!("{line}{}", base.replace("sample_size", "num_class_embeds = 11\nsample_size"));
        assert_eq!((obeys(&schema, &json(&text), &schema).is_ok(), loads(&text)), (good, good), "{text}");
    }
}

/// The command prints the same: `cargo xtask schema > docs/schema.json` regenerates the file.
#[cfg(feature = "schema")]
#[test]
fn the_schema_in_the_repository_is_current() {
    let text = include_str!("../../../docs/schema.json");
    let ours = serde_json::to_string_pretty(&kakusan_pipeline::config_schema()).unwrap() + "\n";
    assert!(ours == text, "docs/schema.json is not current: cargo xtask schema > docs/schema.json");
}

#[cfg(feature = "schema")]
#[test]
fn the_schema_has_exactly_the_keys_of_each_class_in_plain_words() {
    let (schema, registry) = (kakusan_pipeline::config_schema(), Registry::default());
    let classes = |table: &str| {
        let of_table = schema["properties"][table]["oneOf"].as_array().unwrap().iter();
        let classes = of_table.filter_map(|class| Some((class["properties"]["_class_name"]["const"].as_str()?, class)));
        let keys = |class: &Value| -> Vec<String> {
            let all = class["properties"].as_object().unwrap().keys();
            all.filter(|key| !["_class_name", "from"].contains(&key.as_str())).cloned().collect()
        };
        classes.map(|(name, class)| (name.to_owned(), keys(class))).collect::<BTreeMap<_, _>>()
    };
    let keys = |config: &serde_json::Map<String, Value>, refused: &[&str]| -> Vec<String> {
        let known = config.keys().filter(|key| !key.starts_with('_') && !refused.contains(&key.as_str()));
        let mut known: Vec<String> = known.cloned().collect();
        known.sort();
        known
    };
    let models = registry.models.class_names().into_iter().map(|name| {
        let refused: &[&str] = match name {
            // its classes are told by other keys
            "ClassConditionedUnet" => &["augment_dim", "class_embed_type", "num_class_embeds"],
            _ => &["augment_dim"], // follows from data.augment
        };
        (name.to_owned(), keys(&registry.models.defaults(name).unwrap(), refused))
    });
    assert_eq!(classes("model"), models.collect());
    let schedulers = registry.schedulers.class_names().into_iter().map(|name| {
        let config = registry.schedulers.build(&name, &serde_json::Map::new()).unwrap().config();
        let known = keys(&config, &[]);
        (name, known)
    });
    assert_eq!(classes("scheduler"), schedulers.collect());

    let text = schema.to_string();
    assert!(!text.contains("](crate") && !text.contains("[`") && !text.contains("\"null\"]") && !text.contains("```"));
    let train = &schema["properties"]["train"]["properties"];
    assert_eq!(train["max_steps"]["type"], "integer");
    assert!(train["max_steps"].get("default").is_none() && train["epochs"]["default"] == 5);
    let interval = schema["properties"]["sample"]["properties"]["guidance_interval"]["description"].as_str().unwrap();
    assert!(interval.contains("`[low, high]`, σ of `x₀ + σ ε` (`SampleOptions::guidance_interval`)."), "{interval}");
    let head = schema.pointer("/properties/model/oneOf/1/properties/attention_head_dim/anyOf").unwrap();
    assert_eq!(head[1], serde_json::json!({ "const": "null" }));
}
