//! Inputs that once failed: each test runs the original command. `cases/` holds one folder for each input; `cases/hub`
//! is served by a fake Hub.

#[path = "support/command.rs"]
mod command;
#[path = "support/fake_hub.rs"]
mod fake_hub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use command::{Done, WEIGHTS, Workplace};
use fake_hub::{FakeHub, Fault};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases").join(name).canonicalize().unwrap()
}

/// The command with the arguments of a line, in the folder of a case; `$W/` stands for the workplace.
fn typed(place: &Workplace, folder: &str, line: &str) -> Command {
    let workplace = place.path("");
    let words: Vec<String> =
        line.split_whitespace().map(|word| word.replace("$W/", workplace.to_str().unwrap())).collect();
    let mut command = place.kakusan(&words.iter().map(String::as_str).collect::<Vec<_>>());
    command.current_dir(case(folder));
    command
}

fn run(place: &Workplace, folder: &str, line: &str) -> Done {
    Done(typed(place, folder, line).output().unwrap())
}

#[track_caller]
fn tells(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word}\nnot in\n{said}");
    }
    assert!(!said.contains("panicked") && !said.contains("stack backtrace"), "{said}");
}

/// The command failed with a message that contains these words, and left no run.
#[track_caller]
fn is_refused(place: &Workplace, done: Done, code: i32, words: &[&str]) {
    tells(&done.expect(code).stderr(), words);
    assert!(!place.path("r").exists());
}

/// The training in `$W/r` succeeded: all steps done, the model saved, the pictures drawn. Returns its output.
#[track_caller]
fn is_trained(place: &Workplace, done: Done, steps: usize) -> String {
    let done = done.expect(0);
    assert!(!done.stderr().contains("warning"), "{}", done.stderr());
    let run = place.path("r");
    assert_eq!(fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count(), steps);
    for file in ["model_index.json", "scheduler/scheduler_config.json", WEIGHTS, "report.html"] {
        assert!(run.join(file).is_file(), "{file}");
    }
    for picture in ["corrupted", "loss", "predictions", "mean", "trajectory", "samples"] {
        let file = run.join(format!("images/{picture}.png"));
        image::open(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    done.stdout()
}

#[test]
fn a_batch_with_only_a_bad_image_is_skipped() {
    let place = Workplace::new();
    let line = "train --config config.toml --data images --set data.on_bad_image=skip --set data.cache_mb=0 \
                --set train.batch_size=1 --set train.max_steps=100 --set train.epochs=9 --out $W/r";
    let done = run(&place, "bad-image-alone-in-its-batch", line);
    let said = is_trained(&place, done, 27); // three good images, nine epochs
    tells(&said, &["Epoch 9 of 9"]);
    assert_eq!(said.matches("Skipped: ").count(), 1, "{said}");
    assert_eq!(said.matches("05.jpg").count(), 1, "{said}");
    run(&place, "bad-image-alone-in-its-batch", "train --resume $W/r").expect(0);
}

#[test]
fn a_picture_next_to_class_folders_is_named() {
    let place = Workplace::new();
    let line = "train --config config.toml --data images --set model.num_class_embeds=2 --out $W/r";
    let folder = "stray-picture-beside-class-folders";
    let words = ["contact_sheet.png", "cat and dog", "has no class", "data.classes"];
    is_refused(&place, run(&place, folder, line), 2, &words);
    // what the refusal advises
    let done = run(&place, folder, &format!("{line} --set data.classes=[\"cat\",\"dog\"]"));
    tells(&is_trained(&place, done, 3), &["Data: 9 images", "contact_sheet.png", "Classes: cat (6), dog (3)."]);
    tells(&run(&place, ".", "info $W/r").expect(0).stdout(), &["classes: 0 cat, 1 dog"]);
    // its checkpoint knows the names, too
    fs::remove_file(place.path("r/model_index.json")).unwrap();
    tells(&run(&place, ".", "info $W/r --strict").expect(0).stdout(), &["has not finished", "classes: 0 cat, 1 dog"]);
    run(&place, ".", "sample --model $W/r --class dog --batch 1 --steps 2 --out $W/dog.png").expect(0);
}

#[test]
fn weights_that_are_not_finite_are_reported() {
    let place = Workplace::new();
    let train = "train --config config.toml --data images --set train.learning_rate=100 --max-steps 1 --out $W/r";
    let said = run(&place, "diverging", train).expect(1).stderr();
    tells(&said, &["after step 1: the training has diverged"]);
    assert!(!place.path("r/model_index.json").exists() && !place.path("r").join(WEIGHTS).exists());
    let sample = "sample --model $W/r --batch 2 --steps 5 --save-tensor $W/t.safetensors";
    run(&place, "diverging", sample).expect(1);
    assert!(!place.path("t.safetensors").exists());
}

#[test]
fn split_folders_are_not_classes() {
    let place = Workplace::new();
    let done = run(&place, "split-folders", "train --config folder.toml --data images --out $W/r");
    let words = ["Data: 8 images", "the split train is used", "without val (8 pictures)", "Classes: cat (4), dog (4)."];
    tells(&is_trained(&place, done, 2), &words);
}

#[test]
fn a_number_selects_the_folder_of_that_name() {
    let place = Workplace::new();
    let line = "train --config folder.toml --data images --set data.classes=[2] --out $W/r";
    let said = is_trained(&place, run(&place, "folders-named-by-numbers", line), 1);
    tells(&said, &["Data: 1 image from", "Classes: 2 (1); 11 of 12 are not used."]);
}

#[test]
fn five_timesteps_are_enough() {
    let place = Workplace::new();
    let line = "train --config config.toml --data ../diverging/images --set scheduler.num_train_timesteps=5 \
                --set sample.steps=2 --set sample.trajectory_steps=2 --out $W/r";
    is_trained(&place, run(&place, "few-timesteps", line), 3);
    let saved = fs::read_to_string(place.path("r/scheduler/scheduler_config.json")).unwrap();
    assert!(saved.contains("\"num_train_timesteps\": 5"), "{saved}");
    run(&place, ".", "sample --model $W/r --batch 1 --steps 5 --out $W/x.png").expect(0);
}

/// `checkpoints/plain`, overwritten with the files of `checkpoints/NAME`.
fn checkpoint(place: &Workplace, name: &str) {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::write(&to, fs::read(entry.path()).unwrap()).unwrap();
            }
        }
    }
    copy(&case("checkpoints/plain"), &place.path(name));
    let odd = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/checkpoints").join(name);
    if odd.is_dir() {
        copy(&odd, &place.path(name));
    }
}

/// The images that the checkpoint samples, and its warnings.
#[track_caller]
fn drawn(place: &Workplace, name: &str, more: &str) -> (image::RgbImage, String) {
    let done =
        run(place, ".", &format!("sample --model $W/{name} --batch 1 --steps 2 --out $W/x.png {more}")).expect(0);
    let image = image::open(place.path("x.png")).unwrap().into_rgb8();
    fs::remove_file(place.path("x.png")).unwrap();
    (image, done.stderr())
}

/// The checkpoint samples what the plain one samples with the arguments `as_plain`, with a warning that contains
/// `words`; `--strict` refuses it.
#[track_caller]
fn is_drawn_with_a_warning(place: &Workplace, name: &str, as_plain: &str, words: &[&str]) {
    checkpoint(place, "plain");
    let (plain, warnings) = drawn(place, "plain", as_plain);
    assert!(warnings.is_empty(), "{warnings}");
    let (image, warnings) = drawn(place, name, "");
    assert!(image == plain, "{name} is not drawn as the sound one");
    tells(&warnings, words);
    assert_eq!(warnings.matches("warning: ").count(), 1, "{warnings}");
    let strict = format!("sample --model $W/{name} --batch 1 --steps 2 --out $W/x.png --strict");
    tells(&run(place, ".", &strict).expect(1).stderr(), words.get(1..).unwrap());
    assert!(!place.path("x.png").exists());
}

#[test]
fn an_unknown_field_is_ignored() {
    let place = Workplace::new();
    checkpoint(&place, "u_note");
    is_drawn_with_a_warning(&place, "u_note", "", &["warning: ", "u_note/unet/config.json", "UNet2DModel", "`notes`"]);
}

#[test]
fn the_index_decides_the_class_of_a_scheduler() {
    let place = Workplace::new();
    checkpoint(&place, "m_sched");
    let words = ["warning: ", "m_sched/scheduler/scheduler_config.json", "DDPMScheduler", "read as DDIMScheduler"];
    is_drawn_with_a_warning(&place, "m_sched", "--scheduler ddim", &words);
    assert!(drawn(&place, "plain", "").0 != drawn(&place, "m_sched", "").0);
}

#[test]
fn an_extra_tensor_is_ignored() {
    let place = Workplace::new();
    checkpoint(&place, "extra");
    let file = place.path("extra").join(WEIGHTS);
    let bytes = fs::read(&file).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors.push(("foo.weight".to_owned(), TensorView::new(Dtype::F32, vec![3], &[0; 12]).unwrap()));
    fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();
    is_drawn_with_a_warning(&place, "extra", "", &["warning: ", "extra/unet/diffusion_pytorch_model", "`foo.weight`"]);
}

/// A fake Hub with one data set.
fn serve(name: &str) -> FakeHub {
    let hub = FakeHub::start();
    let set = format!("datasets/t/{name}");
    hub.serve_folder(&set, &case(&format!("hub/{set}")));
    hub
}

/// Trains on a data set of the fake Hub.
fn train(place: &Workplace, hub: &FakeHub, name: &str, more: &str, offline: bool) -> Done {
    let mut command =
        typed(place, "hub", &format!("train --config hub.toml --set data.repo=t/{name} --out $W/r {more}"));
    command.env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", if offline { "1" } else { "0" });
    Done(command.output().unwrap())
}

/// The data set is read from a Hub with a listing and from one without; the training's output contains these words.
#[track_caller]
fn is_read(name: &str, more: &str, steps: usize, words: &[&str]) {
    for fault in [None, Some(Fault::NoListing)] {
        let (place, hub) = (Workplace::new(), serve(name));
        hub.fault(fault);
        let said = is_trained(&place, train(&place, &hub, name, more, false), steps);
        tells(&said, words);
    }
}

#[test]
fn parquet_files_compressed_with_zstd_are_read() {
    is_read("c_zstd", "", 2, &["Data: 6 images from the Hub's data set t/c_zstd", "Classes: 0 (2), 1 (2), 2 (2)."]);
}

#[test]
fn parquet_files_that_polars_wrote_are_read() {
    is_read("polars", "", 2, &["Data: 6 images from the Hub's data set t/polars"]);
}

#[test]
fn a_file_without_rows_is_accepted() {
    is_read("emptyshard", "", 2, &["Data: 12 images from the Hub's data set t/emptyshard", "3 files"]);
}

#[test]
fn a_row_without_an_image_is_skipped_and_counted() {
    let words = ["Data: 5 images from the Hub's data set t/nullimg", "without 1 bad ones", "Skipped: ", "row 1"];
    is_read("nullimg", "--set data.on_bad_image=skip", 2, &words);
    let (place, hub) = (Workplace::new(), serve("nullimg"));
    is_refused(&place, train(&place, &hub, "nullimg", "", false), 1, &["row 1"]);
}

#[test]
fn labels_below_0_are_none() {
    let no_label = "row 0 has the label -1";
    is_read("lab_neg", "", 2, &["Data: 6 images", "the images have no classes", no_label]);
    let (place, hub) = (Workplace::new(), serve("lab_neg"));
    let done = train(&place, &hub, "lab_neg", "--set model.num_class_embeds=3", false);
    is_refused(&place, done, 2, &["the model needs classes, but the images have none", no_label]);
}

#[test]
fn text_labels_become_classes() {
    let (place, hub) = (Workplace::new(), serve("strlabel"));
    let done = train(&place, &hub, "strlabel", "--set model.num_class_embeds=3", false);
    tells(&is_trained(&place, done, 2), &["Data: 6 images", "Classes: cat (3), cow (1), dog (2)."]);
    tells(&run(&place, ".", "info $W/r").expect(0).stdout(), &["classes: 0 cat, 1 cow, 2 dog"]);
    run(&place, ".", "sample --model $W/r --class cow --batch 1 --steps 2 --out $W/x.png").expect(0);
    assert!(place.path("x.png").is_file());
}

#[test]
fn an_incomplete_split_is_reported() {
    for fault in [None, Some(Fault::NoListing)] {
        let (place, hub) = (Workplace::new(), serve("partial"));
        hub.fault(fault);
        let done = train(&place, &hub, "partial", "", false);
        is_refused(&place, done, 1, &["t/partial has no split \"train\"", "set split = \"partial-train\""]);
        // what the refusal advises
        let done = train(&place, &hub, "partial", "--set data.split=partial-train", false);
        tells(&is_trained(&place, done, 2), &["Data: 6 images"]);
    }
}

#[test]
fn an_interrupted_download_is_not_taken_for_the_data_set() {
    let broken = Fault::Drop("/0001.parquet");
    for (lists, fault) in [(true, broken.clone()), (false, Fault::Unlisted(Box::new(broken)))] {
        let (place, hub) = (Workplace::new(), serve("shards"));
        hub.fault(fault);
        is_refused(
            &place,
            train(&place, &hub, "shards", "", false),
            1,
            &["train/0001.parquet", "sent no complete answer"],
        );
        let words = match lists {
            true => "2 of the 3 files of t/shards",
            false => "is not in the cache",
        };
        is_refused(&place, train(&place, &hub, "shards", "", true), 1, &[words, "HF_HUB_OFFLINE"]);
        hub.fault((!lists).then_some(Fault::NoListing));
        let said = is_trained(&place, train(&place, &hub, "shards", "", false), 2);
        tells(&said, &["Data: 18 images from the Hub's data set t/shards", "3 files"]);
        fs::remove_dir_all(place.path("r")).unwrap();
        let said = is_trained(&place, train(&place, &hub, "shards", "", true), 2);
        tells(&said, &["Data: 18 images"]);
    }
}

#[test]
fn retry_after_is_obeyed() {
    let (place, hub) = (Workplace::new(), serve("shards"));
    hub.fault(Fault::Times(1, Box::new(Fault::Refuse(429, "", "Retry-After: 1\r\n"))));
    let begin = Instant::now();
    let done = train(&place, &hub, "shards", "", false);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    tells(&done.stderr(), &["The Hub asks us to wait (HTTP 429)", "in 1 s."]);
    tells(&is_trained(&place, done, 2), &["Data: 18 images from the Hub's data set t/shards"]);
}
