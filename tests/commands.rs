//! Every command that we print works as printed: those of the report, the model card, the terminal, the README, the
//! book, the configurations and the help. Only trainings get extra arguments, which make them short.
#![cfg(unix)] // printed commands are for a POSIX shell

#[path = "support/command.rs"]
mod command;
#[path = "support/fake_hub.rs"]
mod fake_hub;
#[path = "support/fake_repo.rs"]
mod fake_repo;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use command::{Done, Workplace};
use fake_hub::FakeHub;
use fake_repo::{FakeRepos, WRITE};

const BINARY: &str = env!("CARGO_BIN_EXE_kakusan");
/// The commands that the help lists.
static KAKUSAN: LazyLock<Vec<String>> = LazyLock::new(|| {
    let help = Workplace::new().run(&["--help"]).expect(0).stdout();
    let listed = between(&help, "Commands:\n", "\n\n").lines().filter_map(|line| line.split_whitespace().next());
    listed.filter(|word| *word != "help").map(str::to_owned).collect()
});
/// This one does not end by itself: `tests/serve.rs` starts it.
const ENDLESS: &str = "serve";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A workplace with the shipped configurations, and a few images of each kind at the README's paths.
fn workplace() -> Workplace {
    let place = Workplace::new();
    let folder = |name: &str| {
        fs::create_dir_all(place.path(name)).unwrap();
        place.path(name)
    };
    let configs = folder("configs");
    for entry in fs::read_dir(root().join("configs")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), configs.join(entry.file_name())).unwrap();
    }
    let mask = folder("docs/book/src/images").join("lower-half.png");
    fs::copy(root().join("docs/book/src/images/lower-half.png"), mask).unwrap();
    image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * y % 251) as u8])).save(place.path("digit.png")).unwrap();
    let (mnist, cifar) = (folder("path/to/mnist"), folder("path/to/cifar"));
    let pixel = |i: usize| (i * 37 % 251) as u8;
    let images: Vec<u8> =
        [0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 28, 0, 0, 0, 28].into_iter().chain((0..20 * 784).map(pixel)).collect();
    let labels: Vec<u8> = [0, 0, 8, 1, 0, 0, 0, 20].into_iter().chain((0..20).map(|i| i % 10)).collect();
    fs::write(mnist.join("train-images-idx3-ubyte"), images).unwrap();
    fs::write(mnist.join("train-labels-idx1-ubyte"), labels).unwrap();
    for batch in 1..=5 {
        let record = |label: u8| [label].into_iter().chain((0..3072).map(|i| pixel(i + batch)));
        fs::write(cifar.join(format!("data_batch_{batch}.bin")), (0..10).flat_map(record).collect::<Vec<u8>>())
            .unwrap();
    }
    for (i, class) in ["cat", "dog"].into_iter().enumerate() {
        let folder = folder(&format!("path/to/pictures/{class}"));
        for number in 0..4 {
            let picture =
                image::RgbImage::from_fn(40, 36, |x, y| image::Rgb([pixel((x + y) as usize + i), pixel(number), 90]));
            picture.save(folder.join(format!("{number}.png"))).unwrap();
        }
    }
    place
}

/// The arguments that make a training of the named configuration short; empty for other commands.
fn short(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some(file) = words.iter().position(|word| *word == "--config").map(|at| words[at + 1]) else {
        return String::new();
    };
    let text = fs::read_to_string(root().join(file)).unwrap();
    let mut sets = vec!["train.batch_size=8", "sample.steps=3", "sample.batch_size=12", "sample.trajectory_steps=2"];
    if !text.contains("\"BasicUNet\"") {
        sets.extend(["model.block_out_channels=[4,8,8]", "model.norm_num_groups=4", "model.attention_head_dim=4"]);
    }
    if text.contains("\nclusters = ") {
        sets.push("data.clusters=2");
    }
    let mut more = String::new();
    match (text.contains("\"drawn\""), line.contains("--data")) {
        (_, true) => {}
        (true, false) => sets.extend(["data.sources=[\"drawn\"]", "data.drawn_per_class=6"]),
        (false, false) if text.contains("cifar10") => more += " --data path/to/cifar",
        (false, false) => more += " --data path/to/mnist", // Fashion-MNIST has the same files
    }
    sets.iter().for_each(|set| more += &format!(" --set '{set}'"));
    more + " --max-steps 1"
}

/// Runs a command line from a document, for `cargo xtask` or for the command itself.
fn run(place: &Workplace, line: &str, hub: Option<&FakeHub>) -> Done {
    let typed = line.replacen("cargo xtask", BINARY, 1);
    let mut shell = place.shell(&(typed + &short(line)), ".");
    if let Some(hub) = hub {
        shell.env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", "0").env("HF_TOKEN", WRITE);
    }
    let done = Done(shell.output().unwrap());
    assert_eq!(done.code(), Some(0), "{line}\n{}\n{}", done.stdout(), done.stderr());
    done
}

/// The command lines of a text, without their comments, that begin with one of these words.
fn commands<'a>(lines: impl Iterator<Item = &'a str>, programs: &[&str]) -> Vec<&'a str> {
    let is_ours = |line: &&str| {
        let rest = programs.iter().find_map(|program| line.strip_prefix(program)?.strip_prefix(' '));
        rest.and_then(|rest| rest.split_whitespace().next())
            .is_some_and(|word| word != ENDLESS && KAKUSAN.iter().any(|known| known == word))
    };
    lines.map(str::trim).filter(is_ours).map(|line| line.split(" # ").next().unwrap_or(line).trim()).collect()
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let rest = text.split_once(begin).unwrap_or_else(|| panic!("no {begin:?} in {text}")).1;
    rest.split_once(end).unwrap().0
}

/// The commands in a finished run's report and output, and those in its model card.
fn told(place: &Workplace, run: &str, said: &str) -> (Vec<String>, String) {
    let page = fs::read_to_string(place.path(run).join("report.html")).unwrap();
    let again = between(between(&page, "<h2>Drawing more</h2>", "</body>"), "<pre>", "</pre>");
    let plain = again.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    let mut typed: Vec<String> = plain.lines().map(str::to_owned).collect();
    typed.push(between(said, "Draw more with: ", "\n").to_owned());
    let card = fs::read_to_string(place.path(run).join("README.md")).unwrap();
    (typed, between(&card, "```sh\n", "\n```").to_owned())
}

struct Picture {
    size: (usize, usize),
    rgb: Vec<[u8; 3]>,
}

fn picture(path: &Path) -> Picture {
    let image = image::open(path).unwrap().into_rgb8();
    let size = (image.width() as usize, image.height() as usize);
    Picture { size, rgb: image.pixels().map(|pixel| pixel.0).collect() }
}

impl Picture {
    /// Image `i` of `sample`'s grid, whose pixels are 3 x 3 squares and whose images are two squares apart.
    fn tile(&self, i: usize, side: usize) -> Vec<[u8; 3]> {
        let (row, column, scale) = (i / 8, i % 8, 3);
        let at = |n: usize| (2 + n * (side + 2)) * scale;
        let pixel = |p: usize| (at(row) + p / side * scale) * self.size.0 + at(column) + p % side * scale;
        (0..side * side).map(|p| self.rgb[pixel(p)]).collect()
    }

    /// Whether this picture contains an image, with pixels enlarged by `scale`.
    fn shows(&self, tile: &[[u8; 3]], side: usize, scale: usize) -> bool {
        let (width, height) = self.size;
        let reach = (side - 1) * scale;
        (0..height.saturating_sub(reach)).any(|y| {
            (0..width.saturating_sub(reach)).any(|x| {
                let at = |p: usize| (y + p / side * scale) * width + x + p % side * scale;
                (0..side * side).all(|p| self.rgb[at(p)] == tile[p])
            })
        })
    }
}

#[test]
fn printed_commands_of_each_configuration_sample_and_the_first_reproduces_the_pixels() {
    let mut configs: Vec<PathBuf> =
        fs::read_dir(root().join("configs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    configs.sort();
    for config in configs {
        let place = workplace();
        let text = fs::read_to_string(&config).unwrap();
        let heads = commands(text.lines().map(|line| line.trim_start_matches('#')), &["cargo xtask"]);
        let name = config.file_name().unwrap().to_str().unwrap();
        let at = heads.iter().position(|line| line.contains(name)).unwrap();
        let (before, heads) = heads.split_at(at); // the training of the model that is fine-tuned
        before.iter().for_each(|line| drop(run(&place, line, None)));
        let (train, others) = heads.split_first().unwrap();
        let said = run(&place, train, None).stdout();
        let folder = format!("runs/{}", config.file_stem().unwrap().to_str().unwrap());
        others.iter().for_each(|line| drop(run(&place, line, None)));

        let (typed, card) = told(&place, &folder, &said);
        for line in &typed {
            Done(place.shell(line, ".").output().unwrap()).expect(0);
        }
        assert!(card.starts_with("kakusan sample --model . "), "{card}");
        Done(place.shell(&card, &folder).output().unwrap()).expect(0);
        let of_card = fs::read(place.path(&folder).join("samples-0.png")).unwrap();
        let shown = picture(&place.path(&folder).join("images/samples.png"));
        let drawn = picture(&place.path("samples-0.png"));
        assert!(image::load_from_memory(&of_card).unwrap().into_rgb8().into_raw() == drawn.rgb.as_flattened());
        let side = if text.contains("sample_size = 32") { 32 } else { 28 };
        let scale = (1..=8).find(|&scale| shown.shows(&drawn.tile(0, side), side, scale));
        let scale = scale.unwrap_or_else(|| panic!("{}: {} draws other images", folder, typed[0]));
        assert!((1..12).all(|i| shown.shows(&drawn.tile(i, side), side, scale)), "{folder}");
        let other = picture(&place.path("samples-1.png"));
        assert!((0..12).all(|i| !shown.shows(&other.tile(i, side), side, scale)), "{folder}");
    }
}

/// The commands in the shell code of a document.
fn of_document(text: &str) -> Vec<&str> {
    let blocks = text.split("```sh\n").skip(1);
    commands(
        blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines()),
        &["cargo xtask", "kakusan"],
    )
}

/// The README's commands, then those of the book's pages, then the examples of the help, each from where the one before
/// left the folder; a command that comes again is not run again. The pages in other languages have the same commands
/// (`xtask/src/tidy/book.rs`).
#[test]
fn the_commands_of_the_readme_the_book_and_the_help_work_in_order() {
    let (place, hub) = (workplace(), FakeHub::start());
    FakeRepos::on(&hub);
    let src = root().join("docs/book/src");
    let contents = fs::read_to_string(src.join("SUMMARY.md")).unwrap();
    let pages = contents.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(page, _)| page);
    let pages = pages.filter(|page| page.starts_with("en/")).map(|page| fs::read_to_string(src.join(page)).unwrap());
    let pages: Vec<String> = pages.collect();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let called = Done(place.kakusan(&["--help"]).env("KAKUSAN_CALLED_AS", "cargo xtask").output().unwrap());
    let help = called.expect(0).stdout();
    let (of_readme, of_help) = (of_document(&readme), commands(help.lines(), &["cargo xtask"]));
    let book: Vec<&str> = pages.iter().flat_map(|page| of_document(page)).collect();
    assert!(of_readme.len() > 5 && book.len() > 20 && of_help.len() >= 10, "{of_readme:?} {book:?} {of_help:?}");
    let (mut once, all) = (BTreeSet::new(), || of_readme.iter().chain(&book));
    assert!(
        book.iter().all(|line| once.insert(line)),
        "a command of the book comes twice: a reader has run it already"
    );
    let is_shown = |word: &String| word == ENDLESS || all().any(|line| line.split(' ').any(|part| part == word));
    assert!(KAKUSAN.iter().all(is_shown), "{book:?}");
    let mut run_already = BTreeSet::new();
    for line in all().chain(&of_help).filter(|line| run_already.insert(**line)) {
        if line.contains("--model google/") {
            hub.serve_folder("google/ddpm-cat-256", &place.path("runs/184-v"));
        }
        run(&place, line, Some(&hub));
    }
}

#[test]
fn printed_commands_begin_as_the_command_was_called() {
    let place = workplace();
    let line = "cargo xtask train --config configs/mnist-classes.toml --out \"runs/it's \\\"mine\\\" ünd\"";
    let typed = line.replacen("cargo xtask", BINARY, 1) + &short(line);
    let done = Done(place.shell(&typed, ".").env("KAKUSAN_CALLED_AS", "cargo xtask").output().unwrap()).expect(0);
    let (typed, card) = told(&place, "runs/it's \"mine\" ünd", &done.stdout());
    let words = "cargo xtask sample --model 'runs/it'\\''s \"mine\" ünd' --scheduler DDPMScheduler --class 0..9 \
                 --guidance=1.4 --steps 3 --batch 12 --seed ";
    assert!(typed.iter().all(|line| line.starts_with(words)), "{typed:?}");
    assert!(card.starts_with("cargo xtask sample --model . --scheduler"), "{card}");
    for line in &typed {
        Done(place.shell(&line.replacen("cargo xtask", BINARY, 1), ".").output().unwrap()).expect(0);
    }
    let help = Done(place.kakusan(&["sample", "--help"]).env("KAKUSAN_CALLED_AS", "cargo xtask").output().unwrap());
    assert!(help.expect(0).stdout().contains("Usage: cargo xtask sample"));

    // a card may be published: it contains no path of this machine, and does not claim that the model has no classes
    let card = fs::read_to_string(place.path("runs/it's \"mine\" ünd/README.md")).unwrap();
    assert!(card.contains("class-conditional") && !card.contains("unconditional"), "{card}");
    run(&place, "cargo xtask train --config configs/folder.toml --data path/to/pictures --out r", None);
    let card = fs::read_to_string(place.path("r/README.md")).unwrap();
    assert!(card.contains("8 images from a folder of pictures.") && card.contains("unconditional-image-generation"));

    // classes by name, as stored in the model's folder
    let line =
        "cargo xtask train --config configs/folder.toml --data path/to/pictures --out c --set model.num_class_embeds=2";
    fs::rename(place.path("path/to/pictures/cat"), place.path("path/to/pictures/a cat, or two")).unwrap();
    let said = run(&place, line, None).stdout();
    let (typed, card) = told(&place, "c", &said);
    assert!(typed[0].contains(" --class 'a cat, or two' --class dog --steps 3 "), "{typed:?}");
    typed.iter().for_each(|line| drop(Done(place.shell(line, ".").output().unwrap()).expect(0)));
    Done(place.shell(&card, "c").output().unwrap()).expect(0);
    let card = fs::read_to_string(place.path("r/README.md")).unwrap();
    let here = place.path(".").canonicalize().unwrap();
    assert!(!card.contains("path/to") && !card.contains(here.to_str().unwrap()) && !card.contains("dir ="), "{card}");
}

/// The remedies in error messages work, too.
#[test]
fn the_commands_in_error_messages_work() {
    let place = workplace();
    let config = "cargo xtask train --config configs/184.toml --out 'a run'";
    let diverging = "--set train.optimizer=sgd --set train.checkpoint_every=1 \
                     --set train.lr_scheduler=piecewise_constant --set train.lr_step_rules=1:2,1e33";
    let typed = config.replacen("cargo xtask", BINARY, 1) + &short(config).replace("--max-steps 1", diverging);
    let said = Done(place.shell(&typed, ".").output().unwrap()).expect(1).stderr();
    let again = Done(place.shell(between(&said, "Resume with, for example: ", "\n"), ".").output().unwrap());
    // a tenth of that is also too much; the message names the remedy
    assert!(again.stdout().contains("Resuming after step 2") && again.stderr().contains("Resume with, for example: "));
    let config = fs::read_to_string(place.path("a run/config.toml")).unwrap();
    assert_eq!(between(&config, "learning_rate = ", "\n").parse(), Ok(1e-4));

    // a run without a checkpoint cannot be sampled from
    fs::create_dir(place.path("begun")).unwrap();
    fs::copy(place.path("a run/config.toml"), place.path("begun/config.toml")).unwrap();
    let said = place.run(&["sample", "--model", "begun"]).expect(1).stderr();
    let again = Done(place.shell(between(&said, "Resume it with: ", "\n"), ".").output().unwrap()).expect(1);
    assert!(again.stdout().contains("Run: begun, "), "{}", again.stderr());

    let page = fs::read_to_string(place.path("a run/report.html")).unwrap();
    let resume = between(&page, "resume it with <code>", "</code>");
    assert!(resume.ends_with(" train --resume 'a run'"), "{resume}");
    let again = Done(place.shell(resume, ".").output().unwrap()).expect(1);
    assert!(again.stdout().contains("Resuming after step 2"), "{}", again.stderr());
}

#[test]
fn completions_manual_pages_and_the_schema_know_everything() {
    let place = Workplace::new();
    for (shell, mark) in [
        ("bash", "complete -F _kakusan"),
        ("zsh", "#compdef kakusan"),
        ("fish", "complete -c kakusan"),
        ("elvish", "set edit:completion:arg-completer[kakusan]"),
        ("powershell", "Register-ArgumentCompleter -Native -CommandName 'kakusan'"),
    ] {
        let script = place.run(&["completions", shell]).expect(0).stdout();
        assert!(script.contains(mark) && KAKUSAN.iter().all(|word| script.contains(word)), "{shell}: {script}");
    }
    assert!(place.run(&["completions", "tcsh"]).expect(2).stderr().contains("bash"));

    let page = place.run(&["man"]).expect(0).stdout();
    assert!(page.contains(".TH kakusan 1") && page.contains("runs/184"), "{page}");
    place.run(&["man", "share/man1"]).expect(0);
    assert_eq!(fs::read_to_string(place.path("share/man1/kakusan.1")).unwrap().trim_end(), page.trim_end());
    for word in KAKUSAN.iter() {
        let page = fs::read_to_string(place.path(&format!("share/man1/kakusan-{word}.1"))).unwrap();
        assert!(page.contains(&format!(".TH kakusan-{word} 1")), "{page}");
    }
    let xtask = fs::read_to_string(root().join("xtask/src/main.rs")).unwrap();
    let (passed, help) =
        (between(&xtask, "const KAKUSAN", "];"), between(&xtask, "Usage: cargo xtask COMMAND\n\n", "\n"));
    for word in KAKUSAN.iter() {
        let is_in_help = help.trim().split('|').any(|part| part == word);
        assert!(passed.contains(&format!("\"{word}\",")) && is_in_help, "`cargo xtask {word}` is missing");
    }
    let schema = place.run(&["schema"]).expect(0).stdout();
    assert!(schema == fs::read_to_string(root().join("docs/schema.json")).unwrap(), "docs/schema.json is not current");
    fs::write(place.path("file"), "").unwrap();
    assert!(place.run(&["man", "file"]).expect(1).stderr().contains("cannot create file"));
}

/// A folder with two classes, two damaged files and a duplicate in the other class.
fn pets(place: &Workplace) {
    for (i, class) in ["cat", "dog"].into_iter().enumerate() {
        fs::create_dir_all(place.path(&format!("pets/{class}"))).unwrap();
        for number in 0..6u8 {
            let picture =
                image::RgbImage::from_fn(30 + 2 * i as u32, 24, |x, y| image::Rgb([x as u8 * 5, y as u8, number]));
            picture.save(place.path(&format!("pets/{class}/{number}.png"))).unwrap();
        }
    }
    fs::copy(place.path("pets/cat/0.png"), place.path("pets/dog/again.png")).unwrap();
    fs::write(place.path("pets/cat/broken.jpg"), b"\xff\xd8\xff\xe0 and no more").unwrap();
    let whole = fs::read(place.path("pets/dog/1.png")).unwrap();
    fs::write(place.path("pets/dog/half.png"), &whole[..whole.len() / 2]).unwrap();
}

#[test]
fn data_names_every_bad_file_and_suggests_what_a_training_takes() {
    let place = Workplace::new();
    pets(&place);
    let done = place.run(&["data", "pets", "--out", "sheet.png"]).expect(1);
    let said = done.stdout();
    for part in [
        "Data: the pictures of 2 classes in pets.",
        "Images: 13, and 2 that cannot be decoded.",
        "Bad: pets/cat/broken.jpg: is damaged",
        "Bad: pets/dog/half.png: is damaged",
        "Sizes (width x height): 2 different ones, from 30 x 24 to 32 x 24; most often 30 x 24 (7); 13 of 13 are not square.",
        "Modes: RGB (13).",
        "Duplicates: 1 image has the pixels of an earlier one; one group of them is in several classes.",
        "  pets/cat/0.png = pets/dog/again.png",
        "The contact sheet: sheet.png",
        "on_bad_image = \"skip\"",
    ] {
        assert!(said.contains(part), "{said}\nlacks {part}");
    }
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.iter().any(|line| line.split_whitespace().eq(["cat", "6"])), "{said}");
    let sheet = picture(&place.path("sheet.png"));
    assert_eq!(fs::read(place.path("sheet.png")).unwrap(), {
        place.run(&["data", "pets", "--out", "again.png", "--threads", "1"]).expect(1);
        fs::read(place.path("again.png")).unwrap()
    });
    let row = 7 * 24 * 3; // seven of `dog` at 24 x 24, each pixel three wide
    assert!(sheet.size.0 > row && sheet.size.1 > 2 * 24 * 3, "{:?}", sheet.size);

    // the suggestion is a [data] that trains
    let section = &said[said.find("[data]").unwrap()..];
    let rest = "[model]\n_class_name = \"UNet2DModel\"\nsample_size = 24\nblock_out_channels = [4, 8, 8]\nnorm_num_groups = 4\n\
                attention_head_dim = 4\ndown_block_types = [\"DownBlock2D\", \"DownBlock2D\", \"DownBlock2D\"]\n\
                up_block_types = [\"UpBlock2D\", \"UpBlock2D\", \"UpBlock2D\"]\nnum_class_embeds = 2\n\
                [scheduler]\n_class_name = \"DDPMScheduler\"\n[sample]\nsteps = 2\nbatch_size = 2\ntrajectory_steps = 2\n";
    fs::write(place.path("pets.toml"), format!("{section}\n{rest}")).unwrap();
    place.run(&["data", "--config", "pets.toml", "--set", "data.classes=[\"cat\"]"]).expect(1);
    let said = place.run(&["train", "--config", "pets.toml", "--max-steps", "1"]).expect(0).stdout();
    assert!(said.contains("Data: 13 images") && said.contains("without 2 bad ones"), "{said}");

    for file in ["pets/cat/broken.jpg", "pets/dog/half.png"] {
        fs::remove_file(place.path(file)).unwrap();
    }
    assert!(!place.run(&["data", "pets"]).expect(0).stdout().contains("on_bad_image"));
    fs::create_dir(place.path("empty")).unwrap();
    assert!(place.run(&["data", "empty"]).expect(1).stderr().contains("holds no picture"));
    assert!(place.run(&["data", "nowhere"]).expect(2).stderr().contains("there is no nowhere; name a folder"));
    assert!(place.run(&["data"]).expect(2).stderr().contains("DATA"));
    assert!(place.run(&["data", "some/where"]).expect(1).stderr().contains("HF_HUB_OFFLINE"));
}

#[test]
fn new_writes_a_configuration_that_trains_and_replaces_none() {
    let place = Workplace::new();
    pets(&place);
    assert!(place.run(&["new"]).expect(2).stderr().contains("--data DATA (there is no terminal to ask at)"));
    let new = ["new", "--data", "pets", "--minutes", "100000"];
    let done = place.run(&new).expect(0);
    let said = done.stdout();
    assert!(done.stderr().contains("pets/dog/half.png: is damaged"), "{}", done.stderr());
    assert!(said.contains("Measured: a step of 16 images takes") && said.contains("Written: pets.toml."), "{said}");
    let text = fs::read_to_string(place.path("pets.toml")).unwrap();
    for part in
        ["dir = \"pets\"", "resolution = 24", "num_class_embeds = 2 ", "in_channels = 3", "v_prediction", "use_ema"]
    {
        assert!(text.contains(part), "{text}");
    }
    assert!(place.run(&new).expect(2).stderr().contains("pets.toml exists already"));
    let short = " --max-steps 1 --set sample.steps=2 --set sample.trajectory_steps=2 --set sample.batch_size=2";
    let line = between(&said, "Train with: ", "\n").to_owned() + short;
    let trained = Done(place.shell(&line, ".").output().unwrap()).expect(0).stdout();
    assert!(trained.contains("Classes: cat (6), dog (7)."), "{trained}");
    let parameters = between(&said, "in the first block, ", " parameters");
    assert!(trained.contains(&format!("{parameters} parameters")), "{parameters}: {trained}");

    let other = ["--size", "16", "--colour", "grey", "--classes", "none", "--overwrite", "pets.toml"];
    place.run(&[&new[..], &other].concat()).expect(0);
    let text = fs::read_to_string(place.path("pets.toml")).unwrap();
    assert!(text.contains("sample_size = 16\n") && text.contains("in_channels = 1") && !text.contains("class_embeds"));
    for (wrong, words) in [
        (["--classes", "cat,bird"], "there is no class `bird`; expected all, none, or some of cat, dog"),
        (["--size", "30"], "expected a multiple of 4 from 8 to 512"),
        (["--set", "train.epochs=1"], "only the data can be set here"),
        (["--minutes", "0"], "expected a number from 0.1"),
    ] {
        let done = place.run(&[&["new", "--data", "pets", "other.toml"][..], &wrong].concat()).expect(2);
        assert!(done.stderr().contains(words) && !place.path("other.toml").exists(), "{}", done.stderr());
    }
}
