//! The commands `sample`, `info`, `schedulers` and `convert`.

#[path = "support/command.rs"]
mod command;
#[path = "sample/edit.rs"]
mod edit;

use std::fs;
use std::ops::ControlFlow;

use command::{Workplace, few_of_each_class};
use kakusan::candle::Device;
use kakusan::pipeline::{DDPMPipeline, Registry, SampleOptions};
use kakusan::rng::CudaGenerator;
use safetensors::SafeTensors;

#[test]
fn the_command_samples_what_the_training_sampled_and_saves_it_as_a_tensor() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "2"]).expect(0);
    let args =
        ["sample", "--model", "run", "--batch", "3", "--steps", "4", "--seed", "5", "--save-tensor", "a.safetensors"];
    let said = place.run(&args).expect(0).stdout();
    assert!(said.contains("3 images in 4 steps: samples.png"), "{said}");

    let read = |name: &str| -> Vec<f32> {
        let bytes = fs::read(place.path(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let images = file.tensor("images").unwrap();
        assert_eq!((images.dtype(), images.shape()), (safetensors::Dtype::F32, [3, 1, 28, 28].as_slice()));
        images.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let images = read("a.safetensors");
    assert!(images.iter().all(|value| (0.0..=1.0).contains(value)));

    // the picture shows the tensor: tiles of 28 x 28 pixels, each three wide, dark ink on white, six apart
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(place.path("samples.png")).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    assert_eq!(reader.info().size(), (3 * 90 + 6, 90 + 6));
    let texts: Vec<_> =
        reader.info().uncompressed_latin1_text.iter().map(|t| (t.keyword.clone(), t.text.clone())).collect();
    assert!(texts.contains(&("seed".to_owned(), "5".to_owned())), "{texts:?}");
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut rgb).unwrap();
    for (i, value) in images.iter().enumerate() {
        let (image, y, x) = (i / 784, i % 784 / 28, i % 28);
        let at = ((6 + y * 3) * (3 * 90 + 6) + 6 + image * 90 + x * 3) * 3;
        assert_eq!(rgb[at], (255.0 * (1.0 - value)).round() as u8);
    }

    let mut again = args;
    again[10] = "b.safetensors";
    place.run(&again).expect(0);
    assert_eq!(images, read("b.safetensors"));
    again[8] = "6";
    place.run(&again).expect(0);
    assert_ne!(images, read("b.safetensors"));
}

#[test]
fn an_image_of_a_seed_does_not_depend_on_the_others() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "2"]).expect(0);
    let ddpm = ["--set", "scheduler._class_name=DDPMScheduler", "--set", "scheduler.prediction_type=sample"];
    place.train("ddpm", &[&ddpm[..], &["--max-steps", "2"]].concat()).expect(0);
    let draw = |seeds: &str, dir: &str| {
        let more = ["--scheduler", "ddim", "--eta", "0.5", "--steps", "6", "--seeds", seeds, "--separate", dir];
        let args = [&["sample", "--model", "ddpm", "--animate", "a.png"], more.as_slice()].concat();
        place.run(&args).expect(0);
    };
    draw("3..5", "together");
    draw("4", "alone");
    let file = |dir: &str| fs::read(place.path(dir).join("seed-4.png")).unwrap();
    let pixels = |bytes: &[u8]| {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(reader.info().color_type, png::ColorType::Grayscale);
        let text = |keyword: &str| {
            let texts = &reader.info().uncompressed_latin1_text;
            texts.iter().find(|text| text.keyword == keyword).unwrap().text.clone()
        };
        assert_eq!([text("seed"), text("scheduler"), text("steps"), text("eta")], ["4", "DDIMScheduler", "6", "0.5"]);
        pixels
    };
    assert_eq!(pixels(&file("together")), pixels(&file("alone")));
    let film = fs::read(place.path("a.png")).unwrap();
    let reader = png::Decoder::new(std::io::Cursor::new(film)).read_info().unwrap();
    assert_eq!(reader.info().animation_control().unwrap().num_frames, 7);

    let refused = |args: &[&str]| place.run(&[&["sample", "--model", "run"], args].concat()).expect(2).stderr();
    assert!(refused(&["--class", "1"]).contains("has no classes"));
    assert!(refused(&["--guidance", "2"]).contains("guidance needs a class-conditional model"));
    assert!(refused(&["--seeds", "5..3"]).contains("5..3 is empty"));
    let failed = place.run(&["sample", "--model", "run", "--scheduler", "quick"]).expect(1).stderr();
    assert!(failed.contains("no scheduler is called `quick`") && failed.contains("known are"), "{failed}");
    let failed = place.run(&["sample", "--model", "run", "--eta", "1"]).expect(1).stderr();
    assert!(failed.contains("LinearMixScheduler has no use for `eta`"), "{failed}");
}

#[test]
fn the_noise_of_torchs_cuda_generator_is_drawn_without_a_card() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "2"]).expect(0);
    let draw = |more: &[&str]| {
        let args = ["sample", "--model", "run", "--batch", "3", "--steps", "4", "--save-tensor", "a.safetensors"];
        place.run(&[&args, more].concat()).expect(0);
        let bytes = fs::read(place.path("a.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let images = file.tensor("images").unwrap().data().as_chunks::<4>().0.to_vec();
        images.into_iter().map(f32::from_le_bytes).collect::<Vec<_>>()
    };
    let (of_cpu, of_cuda) = (draw(&["--seed", "5"]), draw(&["--seed", "5", "--generator", "cuda"]));
    assert_ne!(of_cpu, of_cuda);

    let (registry, cpu) = (Registry::default(), Device::Cpu);
    let pipeline = DDPMPipeline::from_pretrained(&place.path("run"), &registry, &cpu).unwrap();
    let options = SampleOptions::new(3).steps(4);
    let sample = pipeline.sample_with(&options, &mut CudaGenerator::new(5), |_| ControlFlow::Continue(())).unwrap();
    let unit = pipeline.scheduler().process().pixel_range().to_unit(&sample).unwrap();
    assert_eq!(of_cuda, unit.flatten_all().unwrap().to_vec1::<f32>().unwrap());

    let refused = ["sample", "--model", "run", "--interpolate", "1..2", "--generator", "cuda"];
    let said = place.run(&refused).expect(2).stderr();
    assert!(said.contains("--generator has no effect"), "{said}");
    let said = place.run(&["sample", "--model", "run", "--generator", "gpu"]).expect(2).stderr();
    assert!(said.contains("cpu, cuda"), "{said}");
}

/// A model as Python saves it, with changes to its files.
fn odd(place: &Workplace, name: &str, change: impl FnOnce(&std::path::Path)) {
    for file in [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ] {
        let to = place.path(name).join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(place.path("plain").join(file), to).unwrap();
    }
    change(&place.path(name));
}

#[test]
fn unknown_fields_and_tensors_are_reported_and_ignored() {
    let place = Workplace::new();
    place.train("plain", &["--max-steps", "1"]).expect(0);
    let edit = |file: &str, from: &str, to: &str| {
        let (file, from, to) = (file.to_owned(), from.to_owned(), to.to_owned());
        move |dir: &std::path::Path| {
            let text = fs::read_to_string(dir.join(&file)).unwrap();
            assert!(text.contains(&from));
            fs::write(dir.join(&file), text.replacen(&from, &to, 1)).unwrap();
        }
    };
    odd(&place, "noted", edit("unet/config.json", "{", "{\"notes\": \"trained on my cats\","));
    odd(&place, "untitled", edit("unet/config.json", "\"_class_name\": \"BasicUNet\",", ""));
    odd(&place, "extra", |dir| {
        let file = dir.join("unet/diffusion_pytorch_model.safetensors");
        let bytes = fs::read(&file).unwrap();
        let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let spare = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1], &[7; 8]).unwrap();
        tensors.push(("spare.weight".into(), spare));
        fs::write(file, safetensors::serialize(tensors, None).unwrap()).unwrap();
    });
    let draw = |model: &str, more: &[&str]| {
        let args = ["sample", "--model", model, "--batch", "1", "--steps", "2", "--save-tensor", "t.safetensors"];
        place.run(&[&args, more].concat())
    };
    assert_eq!(draw("plain", &["--strict"]).expect(0).stderr(), "");
    let sound = fs::read(place.path("t.safetensors")).unwrap();
    for (model, word) in [("noted", "`notes`"), ("untitled", "`_class_name` is missing"), ("extra", "`spare.weight`")] {
        let said = draw(model, &[]).expect(0).stderr();
        assert!(said.starts_with("warning: ") && said.contains(word) && said.lines().count() == 1, "{said}");
        assert_eq!(fs::read(place.path("t.safetensors")).unwrap(), sound);
        assert!(place.run(&["info", model]).expect(0).stderr().contains(word));
        for said in
            [draw(model, &["--strict"]).expect(1).stderr(), place.run(&["info", model, "--strict"]).expect(1).stderr()]
        {
            assert!(said.starts_with("error: ") && said.contains(word), "{said}");
        }
    }
}

/// Latents have 4 channels, inputs for inpainting 9.
#[test]
fn images_with_other_numbers_of_channels_are_sampled_and_three_channels_shown() {
    let place = Workplace::new();
    place.train("plain", &["--max-steps", "1"]).expect(0);
    for (channels, shown) in [(2, "the first of them"), (4, "the first three of them"), (9, "the first three of them")]
    {
        let model = format!("of{channels}");
        odd(&place, &model, |dir| {
            let config = dir.join("unet/config.json");
            let text =
                fs::read_to_string(&config).unwrap().replace("channels\": 1", &format!("channels\": {channels}"));
            fs::write(config, text).unwrap();
            let file = dir.join("unet/diffusion_pytorch_model.safetensors");
            let bytes = fs::read(&file).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            // the input's channels are repeated in the first layer, the output's in the last
            let repeated: Vec<_> = tensors
                .tensors()
                .into_iter()
                .map(|(name, tensor)| {
                    let (mut shape, data) = (tensor.shape().to_vec(), tensor.data());
                    let data = match name.as_str() {
                        "down_layer1.weight" => {
                            shape[1] = channels;
                            data.chunks(data.len() / shape[0]).flat_map(|kernel| kernel.repeat(channels)).collect()
                        }
                        "up_layer3.weight" | "up_layer3.bias" => {
                            shape[0] = channels;
                            data.repeat(channels)
                        }
                        _ => data.to_vec(),
                    };
                    (name, shape, data)
                })
                .collect();
            let views = repeated.iter().map(|(name, shape, data)| {
                (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
            });
            fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
        });
        let args = ["sample", "--model", &model, "--batch", "2", "--steps", "2", "--save-tensor", "t.safetensors"];
        let said =
            place.run(&[&args[..], &["--separate", "each", "--animate", "film.png"]].concat()).expect(0).stderr();
        assert!(said.contains(&format!("{channels} channels")) && said.contains(shown), "{said}");
        let bytes = fs::read(place.path("t.safetensors")).unwrap();
        let tensor = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensor.tensor("images").unwrap().shape(), [2, channels, 28, 28]);
        for file in ["samples.png", "each/0001.png", "film.png"] {
            let picture = image::open(place.path(file)).unwrap();
            assert!(picture.width() >= 28, "{file}");
        }
    }
}

#[test]
fn a_pictures_format_follows_from_its_extension() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    let draw =
        |more: &[&str]| place.run(&[&["sample", "--model", "run", "--batch", "2", "--steps", "3"], more].concat());
    let pixels = |name: &str| image::open(place.path(name)).unwrap().into_rgb8();
    draw(&["--out", "a.png", "--animate", "film.apng"]).expect(0);
    for (name, magic, most) in [
        ("a.jpg", &b"\xff\xd8\xff"[..], 40),
        ("b.JPEG", b"\xff\xd8\xff", 40),
        ("a.webp", b"RIFF", 0),
        ("a.gif", b"GIF89a", 0),
        ("plain", b"\x89PNG", 0),
    ] {
        draw(&["--out", name]).expect(0);
        let bytes = fs::read(place.path(name)).unwrap();
        assert!(bytes.starts_with(magic), "{name}");
        if most == 0 {
            assert_eq!(image::load_from_memory(&bytes).unwrap().into_rgb8(), pixels("a.png"), "{name}");
        }
    }
    draw(&["--animate", "film.gif"]).expect(0);
    let frames = |decoder: &mut dyn Iterator<Item = image::ImageResult<image::Frame>>| -> Vec<(u32, Vec<u8>)> {
        let frame = |frame: image::ImageResult<image::Frame>| {
            let frame = frame.unwrap();
            let (numerator, denominator) = frame.delay().numer_denom_ms();
            (numerator / denominator, frame.into_buffer().into_raw())
        };
        decoder.map(frame).collect()
    };
    use image::AnimationDecoder;
    let open = |name: &str| std::io::BufReader::new(fs::File::open(place.path(name)).unwrap());
    let gif = image::codecs::gif::GifDecoder::new(open("film.gif")).unwrap();
    let png = image::codecs::png::PngDecoder::new(open("film.apng")).unwrap().apng().unwrap();
    let (gif, png) = (frames(&mut gif.into_frames()), frames(&mut png.into_frames()));
    assert!(gif.len() == 4 && gif == png);

    for (args, words) in [
        (["--out", "x.tiff"], ["--out", ".png, .jpg, .jpeg, .webp, .gif"]),
        (["--out", "-"], ["--out", "the standard output is not supported"]),
        (["--animate", "x.webp"], ["--animate", ".png, .apng, .gif"]),
        (["--save-tensor", "x.npy"], ["--save-tensor", ".safetensors"]),
        (["--out", "no/x.png"], ["there is no folder no", "create it first"]),
        (["--out", "."], ["it is a folder", "name a file"]),
        (["--animate", "samples.png"], ["--out and --animate", "name two files"]),
    ] {
        let said = draw(&args).expect(2).stderr();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert!(!place.path("samples.png").exists() || place.path("film.gif").exists());
}

#[test]
fn schedulers_are_listed_with_a_line_each() {
    let place = Workplace::new();
    let said = place.run(&["schedulers"]).expect(0).stdout();
    assert!(said.lines().count() >= 30 && said.lines().all(|line| line.split_whitespace().count() > 4), "{said}");
    let said = place.run(&["schedulers", "ddpm"]).expect(0).stdout();
    assert!(said.contains("\"variance_type\": \"fixed_small\""), "{said}");
}

#[test]
fn threads_change_nothing_and_vectors_only_the_rounding() {
    let place = Workplace::new();
    let run = |name: &str, more: &[&str]| -> Vec<f64> {
        place.train(name, &[&["--max-steps", "3"], more].concat()).expect(0);
        let lines = fs::read_to_string(place.path(name).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
        lines.lines().map(loss).collect()
    };
    let one = run("one", &["--threads", "1"]);
    assert_eq!(one, run("three", &["--threads", "3"]));
    let weights = |name: &str| fs::read(place.path(name).join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(weights("one"), weights("three"));
    let scalar = run("scalar", &["--vectors", "scalar"]);
    assert!(one.iter().zip(&scalar).all(|(a, b)| (a - b).abs() < 1e-4 * a), "{one:?}, {scalar:?}");
}

#[test]
fn info_describes_a_saved_model_and_the_build() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    let said = place.run(&["info", "run", "--tensors"]).expect(0).stdout();
    for expected in
        ["BasicUNet with LinearMixScheduler", "309,057 parameters, 1.2 MiB", "down_layer2.weight", "[64, 32, 5, 5]"]
    {
        assert!(said.contains(expected), "{said}");
    }
    let said = place.run(&["info"]).expect(0).stdout();
    assert!(said.contains("threads:") && said.contains("vectors:") && said.contains("LinearMixScheduler"), "{said}");
}

#[test]
fn weights_are_averaged_after_the_training() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "3", "--set", "train.ema_sigma_rel=[0.05,0.1]"]).expect(0);
    let done = place.run(&["average", "run", "--sigma-rel", "0.15", "--out", "wide"]).expect(0);
    let said = done.stdout();
    assert!(said.contains("The average of width 0.15 up to step 3, from 6 snapshots: wide"), "{said}");
    assert!(said.contains("Its profile over the steps is within") && said.contains("sample --model wide"), "{said}");
    place.run(&["sample", "--model", "wide", "--batch", "1", "--steps", "2"]).expect(0);
    let said = place.run(&["average", "run", "--sigma-rel", "0.15", "--out", "wide"]).expect(2).stderr();
    assert!(said.contains("wide exists already; name a new folder"), "{said}");
    let said = place.run(&["average", "run", "--sigma-rel", "0.5", "--out", "new"]).expect(2).stderr();
    assert!(said.contains("expected a number from 0.001 to 0.28"), "{said}");
    place.train("plain", &["--max-steps", "1"]).expect(0);
    let said = place.run(&["average", "plain", "--sigma-rel", "0.15", "--out", "new"]).expect(2).stderr();
    assert!(said.contains("train with ema_sigma_rel = [0.05, 0.1]"), "{said}");
}

#[test]
fn weights_are_converted_and_sample_the_same() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    let said = place.run(&["convert", "run", "pieces", "--max-shard-size", "0.3MB"]).expect(0).stdout();
    assert!(said.contains("one model's weights: pieces"), "{said}");
    assert!(place.path("pieces/unet/diffusion_pytorch_model.safetensors.index.json").is_file());
    assert!(!place.path("pieces/checkpoints").exists());
    for model in ["run", "pieces"] {
        let out = format!("{model}.safetensors");
        let arguments = ["sample", "--model", model, "--batch", "1", "--steps", "2", "--save-tensor", &out];
        place.run(&arguments).expect(0);
    }
    assert_eq!(fs::read(place.path("run.safetensors")).unwrap(), fs::read(place.path("pieces.safetensors")).unwrap());
    place.run(&["convert", "pieces", "half", "--dtype", "f16", "--variant", "fp16"]).expect(0);
    let half = fs::metadata(place.path("half/unet/diffusion_pytorch_model.fp16.safetensors")).unwrap().len();
    assert!((309_057 * 2..320_000 * 2).contains(&half), "{half}");

    let said = place.run(&["convert", "run", "half"]).expect(2).stderr();
    assert!(said.contains("choose another folder"), "{said}");
    let said = place.run(&["convert", "run", "new", "--dtype", "f8"]).expect(2).stderr();
    assert!(said.contains("known are f32, f16, bf16"), "{said}");
    place.run(&["convert", "run", "new", "--max-shard-size", "10"]).expect(2);
    place.run(&["convert", "nowhere", "new"]).expect(1);
}

#[test]
fn help_teaches() {
    let place = Workplace::new();
    let said = place.run(&["--help"]).expect(0).stdout();
    for expected in ["train", "sample", "info", "convert", "configs/184.toml", "Exit codes"] {
        assert!(said.contains(expected), "{said}");
    }
    for command in ["train", "sample", "info"] {
        let usage = format!("kakusan {command} ");
        assert!(place.run(&[command, "--help"]).expect(0).stdout().contains(&usage));
    }
}

#[test]
fn classes_are_sampled_on_demand() {
    let place = Workplace::new();
    let config = few_of_each_class(&place);
    let train = |out: &str, more: &[&str]| {
        let small = ["model.block_out_channels=[4,8,8]", "model.norm_num_groups=4", "model.attention_head_dim=4"];
        let quick = ["data.sources=[\"drawn\"]", "data.drawn_per_class=6", "train.batch_size=8", "sample.batch_size=4"];
        let steps = ["sample.steps=2", "sample.trajectory_steps=2"];
        let sets = [small.as_slice(), &quick, &steps, more].concat();
        let sets = sets.iter().flat_map(|setting| ["--set", setting]);
        let head = ["train", "--config", config.to_str().unwrap(), "--out", out, "--max-steps", "2"];
        place.run(&head.into_iter().chain(sets).collect::<Vec<_>>())
    };
    train("run", &[]).expect(0);
    let draw = |more: &[&str]| {
        place.run(&[&["sample", "--model", "run", "--scheduler", "ddim", "--steps", "3"], more].concat())
    };
    let tensor = |more: &[&str]| {
        draw(&[&["--batch", "2", "--save-tensor", "t"], more].concat()).expect(0);
        fs::read(place.path("t")).unwrap()
    };
    let three = tensor(&["--class", "3"]);
    assert_ne!(three, tensor(&["--class", "4"]));
    let guided = tensor(&["--class", "3", "--guidance", "3"]);
    assert_ne!(three, guided);
    assert_ne!(guided, tensor(&["--class", "3", "--guidance", "3", "--guidance-rescale", "0.7"]));
    let said = draw(&["--class", "3", "--guidance-rescale", "0.7"]).expect(2).stderr();
    assert!(said.contains("--guidance-rescale has no effect without guidance"), "{said}");
    let said = draw(&["--batch", "2"]).expect(2).stderr();
    assert!(said.contains("name one, as in --class 0; it has 0 to "), "{said}");
    let said = draw(&["--class", "11"]).expect(2).stderr();
    assert!(said.contains("--class: there is no class `11`; this model has 0 to "), "{said}");

    let said = train("few", &["model.num_class_embeds=10"]).expect(2).stderr();
    assert!(said.contains("classes 0 to 9, and one that stands for none") && said.contains("to 11"), "{said}");
    let said = train("none", &["model.num_class_embeds=\"null\""]).expect(2).stderr();
    assert!(said.contains("`class_dropout` needs a model with classes"), "{said}");
    let said = train("guided", &["train.class_dropout=1.5"]).expect(2).stderr();
    assert!(said.contains("between 0 and 1"), "{said}");
}

#[test]
fn a_loss_guides_the_sampling() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "2"]).expect(0);
    let sample = ["sample", "--model", "run", "--batch", "2", "--steps", "4", "--save-tensor", "t"];
    let draw = |more: &[&str]| place.run(&[&sample[..], more].concat());
    let pixels = |more: &[&str]| -> (Vec<f32>, String) {
        let said = draw(more).expect(0).stdout();
        let bytes = fs::read(place.path("t")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let bytes = file.tensor("images").unwrap().data().as_chunks::<4>().0.iter();
        (bytes.map(|b| f32::from_le_bytes(*b)).collect(), said)
    };
    let mean = |pixels: &[f32]| pixels.iter().sum::<f32>() / pixels.len() as f32;
    let (plain, _) = pixels(&["--separate", "plain"]);
    let (bright, said) = pixels(&["--guide", "brightness=1:2000", "--guide-steps", "1..3"]);
    assert!(mean(&bright) > mean(&plain) + 0.05, "{} {}", mean(&bright), mean(&plain));
    assert!(said.contains("Guide brightness=1:2000: the images have a mean loss of "), "{said}");
    let picture = fs::File::open(place.path("samples.png")).unwrap();
    let reader = png::Decoder::new(std::io::BufReader::new(picture)).read_info().unwrap();
    let text = |keyword: &str| {
        let texts = &reader.info().uncompressed_latin1_text;
        texts.iter().find(|text| text.keyword == keyword).unwrap().text.clone()
    };
    let expected = ["brightness=1:2000", "through", "1..3"];
    assert_eq!(["guide", "guide way", "guide steps"].map(text), expected);

    // the grid of pictures, made as small as an image
    let loss = |strength: &str| -> f32 {
        let guide = format!("image=samples.png:{strength}");
        let (_, said) = pixels(&["--guide", &guide, "--out", "like.png"]);
        let number = said.split("a mean loss of ").nth(1).unwrap().split_whitespace().next().unwrap();
        number.trim_end_matches('.').parse().unwrap()
    };
    assert!(loss("100") < 0.9 * loss("0.001"));
    let (eights, said) =
        pixels(&["--guide", "class=8:50", "--guide", "colour=0.5:10", "--guide-mask", "plain/0000.png"]);
    assert!(eights != plain && said.contains("Guide class=8:50") && said.contains("Guide colour=0.5:10"), "{said}");

    let refused = |code: i32, more: &[&str]| draw(more).expect(code).stderr();
    for (more, part) in [
        (["--guide", "brigthness=1:2"], "did you mean `brightness`? It is used as in brightness=0.8:20"),
        (["--guide", "colour=#ff0000:2"], "the model draws grey images"),
        (["--guide", "class=x:2"], "--guide class=x: there is no class `x`; the data has 0, 1, 2"),
        (["--guide-steps", "0..1"], "--guide <NAME=VALUE:STRENGTH>"),
    ] {
        let said = refused(2, &more);
        assert!(said.contains(part), "{part}: {said}");
    }
    for (more, part) in [
        (["--guide-way", "around"], "this model predicts the image itself"),
        (["--guide-way", "beside"], "`through` or `around` the network, not `beside`"),
        (["--guide-steps", "4..9"], "this sampling has those from 0 to 3"),
        (["--guide-data", "plain"], "--guide-data has no effect without a class"),
    ] {
        let said = refused(2, &[&["--guide", "brightness=1:2"], more.as_slice()].concat());
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = refused(1, &["--guide", "image=run/config.toml:2"]);
    assert!(said.contains("run/config.toml"), "{said}");
}

#[test]
fn values_that_are_no_numbers_are_counted_and_end_with_1() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    // finite weights, as after a diverging step, whose output is not finite
    let file = place.path("run/unet/diffusion_pytorch_model.safetensors");
    let whole = fs::read(&file).unwrap();
    let begin = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let huge = whole[begin..].as_chunks::<4>().0.iter().flat_map(|_| 1e30f32.to_le_bytes());
    fs::write(&file, whole[..begin].iter().copied().chain(huge).collect::<Vec<u8>>()).unwrap();

    let args = ["sample", "--model", "run", "--batch", "2", "--steps", "3", "--save-tensor", "a.safetensors"];
    let said = place.run(&[&args[..], &["--separate", "each"]].concat()).expect(1);
    let words = "error: in 2 of 2 images 1,568 of 1,568 values are not finite (drawn in magenta)";
    assert!(said.stderr().contains(words), "{}", said.stderr());
    let bytes = fs::read(place.path("a.safetensors")).unwrap();
    let tensor = SafeTensors::deserialize(&bytes).unwrap();
    let values = tensor.tensor("images").unwrap().data().as_chunks::<4>().0.to_vec();
    assert!(values.len() == 1568 && values.into_iter().all(|bytes| f32::from_le_bytes(bytes).is_nan()));
    for picture in ["samples.png", "each/0000.png"] {
        let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(place.path(picture)).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        let magenta = rgb.as_chunks::<3>().0.iter().filter(|pixel| **pixel == [255, 0, 255]).count();
        assert_eq!(magenta, if picture == "samples.png" { 2 * 9 * 784 } else { 784 }, "{picture}");
    }
}
