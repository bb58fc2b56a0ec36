//! Pipelines in every layout that diffusers reads, from folders and from a fake Hub; conversion between the layouts.

#[path = "../../../tests/support/fake_hub.rs"]
mod fake_hub;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use fake_hub::{FakeHub, Fault};
use kakusan_hub::{Hub, HubConfig};
use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
use kakusan_pipeline::{DDPMPipeline, Error, Labels, Registry, convert};
use kakusan_rng::Generator;
use kakusan_scheduler::LinearMixScheduler;
use kakusan_weights::{FloatType, SaveOptions};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const STEM: &str = "diffusion_pytorch_model";

fn pipeline() -> DDPMPipeline {
    let config = Arc::new(BasicUNetConfig::default());
    let mut rng = Generator::new(0);
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut rng, |vb| config.build(vb)).unwrap();
    DDPMPipeline::new(config, weights, Arc::new(LinearMixScheduler::default())).unwrap()
}

fn options(change: impl FnOnce(&mut SaveOptions)) -> SaveOptions {
    let mut options = SaveOptions::default();
    change(&mut options);
    options
}

fn half() -> SaveOptions {
    options(|o| (o.dtype, o.variant) = (Some(FloatType::F16), Some("fp16".into())))
}

fn load(dir: &Path) -> Result<DDPMPipeline, Error> {
    DDPMPipeline::from_pretrained(dir, &Registry::default(), &Device::Cpu)
}

fn refusal(dir: &Path) -> String {
    load(dir).err().map(|error| error.to_string()).unwrap_or_default()
}

fn values(pipeline: &DDPMPipeline) -> Vec<f32> {
    let tensors = pipeline.weights().iter();
    tensors.flat_map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

fn is_near(a: &DDPMPipeline, b: &DDPMPipeline) -> bool {
    values(a).iter().zip(values(b)).all(|(a, b)| (a - b).abs() < 1e-3)
}

/// Moves the components' files into the pipeline's folder, as in the oldest repositories.
fn flatten(dir: &Path) {
    for component in ["unet", "scheduler"] {
        for entry in fs::read_dir(dir.join(component)).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), dir.join(entry.file_name())).unwrap();
        }
        fs::remove_dir(dir.join(component)).unwrap();
    }
}

fn hub(server: &FakeHub, cache: &Path) -> Hub {
    Hub::new(HubConfig::new(server.url(), cache))
}

#[test]
fn folders_of_every_layout_load() -> TestResult {
    let (dir, saved) = (tempfile::tempdir()?, pipeline());
    saved.save_pretrained(dir.path())?;
    let index = fs::read_to_string(dir.path().join("model_index.json"))?;
    assert_eq!(values(&load(dir.path())?), values(&saved));
    flatten(dir.path());
    assert_eq!(values(&load(dir.path())?), values(&saved));

    let dir = tempfile::tempdir()?;
    saved.save_pretrained_with(dir.path(), &options(|o| o.max_shard_size = 200_000))?;
    assert!(dir.path().join(format!("unet/{STEM}.safetensors.index.json")).is_file());
    assert_eq!(values(&load(dir.path())?), values(&saved));
    assert_eq!(fs::read_to_string(dir.path().join("model_index.json"))?, index);

    let dir = tempfile::tempdir()?;
    saved.save_pretrained_with(dir.path(), &half())?;
    assert!(is_near(&load(dir.path())?, &saved) && values(&load(dir.path())?) != values(&saved));
    saved.save_pretrained(dir.path())?;
    assert_eq!(values(&load(dir.path())?), values(&saved));
    let variant =
        |name| DDPMPipeline::from_pretrained_variant(dir.path(), Some(name), &Registry::default(), &Device::Cpu);
    assert!(is_near(&variant("fp16")?, &saved));
    let none = variant("ema").err().unwrap().to_string();
    assert!(none.contains("none of variant `ema`, only of fp16"), "{none}");
    Ok(())
}

#[test]
fn an_index_that_does_not_fit_is_refused_by_name() -> TestResult {
    let dir = tempfile::tempdir()?;
    pipeline().save_pretrained(dir.path())?;
    let path = dir.path().join("model_index.json");
    let index = fs::read_to_string(&path)?;
    let refused = |from: &str, to: &str| {
        assert!(index.contains(from), "{from} in {index}");
        fs::write(&path, index.replace(from, to)).unwrap();
        refusal(dir.path())
    };
    let unknown = refused("DDPMPipeline", "DDPMPipelin");
    assert!(unknown.contains("`DDPMPipelin` is not a known pipeline; did you mean `DDPMPipeline`?"), "{unknown}");
    let other = refused("\"BasicUNet\"", "\"UNet3D\"");
    assert!(other.contains("no model is called `UNet3D`"), "{other}");
    let library = refused("\"kakusan\"", "\"os\"");
    assert!(library.contains("of os; known are diffusers, kakusan"), "{library}");
    assert!(refused("\"unet\"", "\"net\"").contains("`unet` is missing"));
    let damaged = refused("{", "");
    assert!(damaged.contains("model_index.json is damaged"), "{damaged}");
    let left_out = refused("\"unet\"", "\"vqvae\": [null, null],\n  \"unet\"");
    assert_eq!(left_out, "");
    let scheduler = refused("\"LinearMixScheduler\"", "\"dpmsolver\"");
    assert!(scheduler.contains("is called `dpmsolver`; did you mean `DPMSolverMultistepScheduler`?"), "{scheduler}");
    Ok(())
}

/// diffusers 0.42.1 accepts each of these: it draws images, and prints a warning for most.
#[test]
fn what_is_odd_is_passed_over_aloud_or_refused_where_nothing_may_be() -> TestResult {
    let dir = tempfile::tempdir()?;
    let saved = pipeline();
    saved.save_pretrained(dir.path())?;
    assert!(load(dir.path())?.warnings().is_empty() && load(dir.path())?.strict().is_ok());
    let said = |file: &str, from: &str, to: &str| {
        let path = dir.path().join(file);
        let sound = fs::read_to_string(&path).unwrap();
        assert!(sound.contains(from), "{from} in {sound}");
        fs::write(&path, sound.replacen(from, to, 1)).unwrap();
        let loaded = load(dir.path()).unwrap();
        assert_eq!(values(&loaded), values(&saved));
        let warnings: Vec<String> = loaded.warnings().iter().map(ToString::to_string).collect();
        let refused = loaded.strict().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(warnings.iter().all(|warning| refused.contains(warning)), "{refused}");
        fs::write(&path, sound).unwrap();
        warnings.join("; ")
    };
    let config = "unet/config.json";
    let notes = said(config, "{", "{\"notes\": \"trained on my cats\", \"x\": [1],");
    assert!(notes.contains("fields that BasicUNet does not have") && notes.contains("`notes`, `x`"), "{notes}");
    let class = "\"_class_name\": \"BasicUNet\",";
    let missing = said(config, class, "");
    assert!(missing.contains("config.json: its `_class_name` is missing; it is read as BasicUNet"), "{missing}");
    let list = said(config, class, "\"_class_name\": [\"BasicUNet\"],");
    assert!(list.contains("is [\"BasicUNet\"]; it is read as BasicUNet"), "{list}");
    let other = said(config, class, "\"_class_name\": \"UNet2DModel\",");
    assert!(other.contains("is \"UNet2DModel\"; it is read as BasicUNet"), "{other}");

    // the index names the scheduler's class, the file has its settings
    let scheduler = "scheduler/scheduler_config.json";
    let class = "\"_class_name\": \"LinearMixScheduler\",";
    let missing = said(scheduler, class, "");
    assert!(missing.contains("its `_class_name` is missing; it is read as LinearMixScheduler"), "{missing}");
    let list = said(scheduler, class, "\"_class_name\": [\"LinearMixScheduler\"],");
    assert!(list.contains("is [\"LinearMixScheduler\"]; it is read as LinearMixScheduler"), "{list}");
    let other = said(scheduler, class, "\"_class_name\": \"DDIMScheduler\", \"beta_end\": 0.03,");
    assert!(
        other.contains("is \"DDIMScheduler\"; it is read as LinearMixScheduler, the class in the pipeline's index")
    );

    let index = "model_index.json";
    let class = "\"_class_name\": \"DDPMPipeline\",";
    let missing = said(index, class, "");
    assert!(missing.contains("its `_class_name` is missing; it is read as DDPMPipeline"), "{missing}");
    let list = said(index, class, "\"_class_name\": [\"DDPMPipeline\"],");
    assert!(list.contains("is [\"DDPMPipeline\"]; it is read as DDPMPipeline"), "{list}");
    for part in ["\"../../unet\": [\"diffusers\", \"UNet2DModel\"],", "\"vqvae\": \"mine\",", "\"n\": 3,"] {
        let name = part.split('"').nth(1).unwrap();
        let unknown = said(index, "\"scheduler\"", &format!("{part}\n \"scheduler\""));
        assert!(
            unknown.contains("components that a DDPMPipeline does not have") && unknown.contains(&format!("`{name}`")),
            "{unknown}"
        );
    }

    let path = dir.path().join(format!("unet/{STEM}.safetensors"));
    let bytes = fs::read(&path)?;
    let mut tensors = SafeTensors::deserialize(&bytes)?.tensors();
    tensors.push(("time.weight".into(), TensorView::new(Dtype::U8, vec![1], &[0])?));
    fs::write(&path, safetensors::serialize(tensors.clone(), None)?)?;
    let loaded = load(dir.path())?;
    assert_eq!(values(&loaded), values(&saved));
    let warning = loaded.warnings()[0].to_string();
    assert!(warning.contains("tensors that the model does not have") && warning.contains("`time.weight`"), "{warning}");
    // a missing tensor is an error nevertheless; the message also names the unexpected one, which may be it
    tensors.retain(|(name, _)| name != "up_layer3.bias");
    fs::write(&path, safetensors::serialize(tensors, None)?)?;
    let refused = refusal(dir.path());
    assert!(refused.contains("up_layer3.bias: missing") && refused.contains("time.weight: unexpected"), "{refused}");
    Ok(())
}

#[test]
fn the_hub_gives_what_the_pipeline_takes_and_no_more() -> TestResult {
    let saved = pipeline();
    let cases: [(&str, SaveOptions, bool, Option<&str>, usize); 4] = [
        ("plain", SaveOptions::default(), false, None, 4),
        ("flat", SaveOptions::default(), true, None, 4),
        ("sharded", options(|o| o.max_shard_size = 600_000), false, None, 8),
        ("half", half(), false, Some("fp16"), 4),
    ];
    for (name, options, is_flat, variant, files) in cases {
        let (dir, cache, server) = (tempfile::tempdir()?, tempfile::tempdir()?, FakeHub::start());
        saved.save_pretrained_with(dir.path(), &options)?;
        if is_flat {
            flatten(dir.path());
        }
        let repo = format!("google/{name}");
        server.serve_folder(&repo, dir.path());
        server.serve(&repo, "README.md", "not asked for");
        server.serve(&repo, &format!("{}{STEM}.bin", if is_flat { "" } else { "unet/" }), "not asked for");
        let hub = hub(&server, cache.path());
        let found = DDPMPipeline::download(&repo, "main", variant, &hub)?;
        let gets = server.requests().into_iter().filter(|request| request.method == "GET");
        let mut got: Vec<String> = gets.map(|request| request.path).filter(|path| !path.starts_with("/api/")).collect();
        got.sort();
        got.dedup();
        assert_eq!(got.len(), files, "{name}: {got:?}");
        let loaded = DDPMPipeline::from_pretrained_variant(&found, variant, &Registry::default(), &Device::Cpu)?;
        assert!(is_near(&loaded, &saved), "{name}");

        // again, without network access
        let mut config = HubConfig::new("http://127.0.0.1:1", cache.path());
        config.offline = true;
        let again = DDPMPipeline::from_hub(&repo, "main", &Hub::new(config), &Registry::default(), &Device::Cpu)?;
        assert_eq!(values(&again), values(&loaded));
    }
    Ok(())
}

#[test]
fn what_the_hub_lacks_is_said_before_anything_large_is_fetched() -> TestResult {
    let (cache, server) = (tempfile::tempdir()?, FakeHub::start());
    server.serve("a/empty", "README.md", "# nothing");
    server.serve("a/other", "model_index.json", r#"{"_class_name": "StableDiffusionPipeline"}"#);
    let parts = r#""unet": ["kakusan", "BasicUNet"], "scheduler": ["kakusan", "LinearMixScheduler"]"#;
    for repo in ["a/bare", "a/variants", "a/lying"] {
        server.serve(repo, "model_index.json", format!("{{\"_class_name\": \"DDPMPipeline\", {parts}}}"));
        server.serve(repo, "unet/config.json", r#"{"_class_name": "BasicUNet"}"#);
        server.serve(repo, "scheduler/scheduler_config.json", r#"{"_class_name": "LinearMixScheduler"}"#);
    }
    for variant in ["ema", "fp16"] {
        server.serve("a/variants", &format!("unet/{STEM}.{variant}.safetensors"), "?");
    }
    let map = r#"{"weight_map": {"a": "../../secret", "b": "gone.safetensors"}}"#;
    server.serve("a/lying", &format!("unet/{STEM}.safetensors.index.json"), map);
    server.serve("a/lying", "secret", "secret");
    let hub = hub(&server, cache.path());
    let refused = |repo: &str| {
        let error = DDPMPipeline::from_hub(repo, "main", &hub, &Registry::default(), &Device::Cpu).err();
        error.map(|error| error.to_string()).unwrap_or_default()
    };
    for (repo, words) in [
        ("a/empty", vec!["a/empty has no model_index.json at main"]),
        ("a/other", vec!["StableDiffusionPipeline", "DDPMPipeline"]),
        ("a/bare", vec!["a/bare/unet/ holds no weights", "expected diffusion_pytorch_model.safetensors"]),
        ("a/variants", vec!["name one of ema, fp16"]),
        ("a/lying", vec!["\"../../secret\" leads out of the folder", "gone.safetensors, which does not exist"]),
        ("a/none", vec!["has no repository"]),
        ("a/../b", vec!["is not valid"]),
    ] {
        let said = refused(repo);
        assert!(words.iter().all(|word| said.contains(word)), "{repo}: {said}");
    }
    assert!(server.requests().iter().all(|request| !request.path.contains("secret")));
    server.fault(Fault::Altered);
    let fresh = tempfile::tempdir()?;
    let altered = DDPMPipeline::download("a/bare", "main", None, &Hub::new(HubConfig::new(server.url(), fresh.path())));
    assert!(altered.unwrap_err().to_string().contains("is damaged"));
    Ok(())
}

#[test]
fn a_pipeline_is_converted_there_and_back() -> TestResult {
    let (dir, saved) = (tempfile::tempdir()?, pipeline());
    let path = |name: &str| dir.path().join(name);
    saved.save_pretrained(&path("plain"))?;
    fs::write(path("plain/README.md"), "# card")?;
    fs::write(path("plain/metrics.jsonl"), "{}")?;
    let sharded = options(|o| o.max_shard_size = 300_000);
    assert_eq!(convert(&path("plain"), None, &path("sharded"), &sharded)?, 1);
    assert!(fs::read_dir(path("sharded/unet"))?.count() > 4);
    assert_eq!(fs::read_to_string(path("sharded/README.md"))?, "# card");
    assert!(!path("sharded/metrics.jsonl").exists());
    assert_eq!(convert(&path("sharded"), None, &path("again"), &SaveOptions::default())?, 1);
    for file in [format!("unet/{STEM}.safetensors"), "unet/config.json".into(), "model_index.json".into()] {
        assert_eq!(fs::read(path("again").join(&file))?, fs::read(path("plain").join(&file))?, "{file}");
    }
    convert(&path("again"), None, &path("half"), &half())?;
    assert!(is_near(&load(&path("half"))?, &saved));
    flatten(&path("half"));
    convert(&path("half"), Some("fp16"), &path("flat"), &options(|o| o.dtype = Some(FloatType::F32)))?;
    assert_eq!(values(&load(&path("flat"))?), values(&load(&path("half"))?));

    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints");
    for source in
        [golden.join("bin"), golden.join("old_names"), golden.join("torch_1_5.bin"), golden.join("bin_sharded")]
    {
        let target = path("weights");
        convert(&source, None, &target, &SaveOptions::default())?;
        let file = format!("{STEM}.safetensors");
        assert_eq!(fs::read(target.join(&file))?, fs::read(golden.join("plain").join(&file))?, "{}", source.display());
        fs::remove_dir_all(target)?;
    }
    let taken = convert(&path("plain"), None, &path("half"), &half()).unwrap_err();
    assert!(taken.to_string().contains("choose another folder"), "{taken}");
    let nothing = convert(&golden, None, &path("nothing"), &half()).unwrap_err();
    assert!(nothing.to_string().contains("holds no weights"), "{nothing}");
    let evil = convert(&golden.join("executes.bin"), None, &path("evil"), &half()).unwrap_err();
    assert!(evil.to_string().contains("nothing in it was executed"), "{evil}");
    fs::write(path("plain/model_index.json"), r#"{"../x": ["diffusers", "UNet2DModel"]}"#)?;
    let elsewhere = convert(&path("plain"), None, &path("elsewhere"), &half()).unwrap_err();
    assert!(elsewhere.to_string().contains("a component is a folder beside"), "{elsewhere}");
    // a failed conversion leaves nothing that blocks the next attempt
    fs::write(path("again").join(format!("unet/{STEM}.safetensors")), "cut short")?;
    fs::create_dir(path("empty"))?;
    for target in ["damaged", "empty"] {
        convert(&path("again"), None, &path(target), &half()).unwrap_err();
    }
    let left = ["nothing", "evil", "elsewhere", "damaged"].map(|target| path(target).exists());
    assert_eq!((left, fs::read_dir(path("empty"))?.count()), ([false; 4], 0));
    Ok(())
}

#[test]
fn the_scale_of_the_pixels_is_kept_in_the_index() -> TestResult {
    let dir = tempfile::tempdir()?;
    let pixels = Tensor::new(&[0f32, 0.5, 1.0], &Device::Cpu)?;
    let mut pipeline = pipeline();
    let range = pipeline.scheduler().process().pixel_range();
    assert_eq!(pipeline.preprocess(&pixels)?.to_vec1::<f32>()?, range.from_unit(&pixels)?.to_vec1::<f32>()?);
    pipeline.set_pixel_scale(1.5);
    pipeline.save_pretrained(dir.path())?;
    let loaded = load(dir.path())?;
    assert_eq!((loaded.pixel_scale(), loaded.warnings().len()), (1.5, 0));
    let wide = range.from_unit(&Tensor::new(&[-0.25f32, 0.5, 1.25], &Device::Cpu)?)?;
    assert_eq!(loaded.preprocess(&pixels)?.to_vec1::<f32>()?, wide.to_vec1::<f32>()?);
    let index = dir.path().join("model_index.json");
    let text = fs::read_to_string(&index)?;
    fs::write(&index, text.replace("1.5", "\"wide\""))?;
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("`_pixel_scale` is \"wide\", expected a number from 1 to 2"), "{error}");
    Ok(())
}

#[test]
fn the_names_of_classes_are_kept_in_the_index() -> TestResult {
    let dir = tempfile::tempdir()?;
    let names = BTreeMap::from([(3, "cat".to_owned()), (5, "a \"dog\", or two".to_owned()), (10, "2".to_owned())]);
    let mut whole = pipeline();
    assert!(whole.labels().names().is_empty());
    whole.set_labels(Labels::new(names.clone()));
    whole.save_pretrained(dir.path())?;
    let loaded = load(dir.path())?;
    assert_eq!((loaded.labels().names(), loaded.warnings().len()), (&names, 0));
    let index = dir.path().join("model_index.json");
    let text = fs::read_to_string(&index)?;
    // a key that Python's diffusers ignores without a warning, and the key that its DiTPipeline writes
    assert!(text.contains("\"_id2label\""), "{text}");
    fs::write(&index, text.replace("_id2label", "id2label"))?;
    let loaded = load(dir.path())?;
    assert_eq!((loaded.labels().names(), loaded.warnings().len()), (&names, 0));
    fs::write(&index, text.replace("_id2label", "id2label").replace("\"10\"", "\"ten\""))?;
    let loaded = load(dir.path())?;
    assert_eq!((loaded.labels().names().len(), loaded.warnings().len()), (0, 1));
    let converted = tempfile::tempdir()?;
    fs::write(&index, &text)?;
    convert(dir.path(), None, converted.path(), &half())?;
    assert_eq!(fs::read_to_string(converted.path().join("model_index.json"))?, text);
    Ok(())
}
