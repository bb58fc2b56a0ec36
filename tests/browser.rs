//! The page of `kakusan serve` in a browser that clicks: a training is watched live, images are drawn, edited and
//! compared, and the server restarts under the open page. `cargo xtask ci browser` runs it where Chromium is found.
//! Pictures of the page are left in `target/browser`.

#![cfg(unix)]

#[path = "support/chromium.rs"]
mod chromium;
#[path = "support/command.rs"]
mod command;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use chromium::Chromium;
use command::{QUICK, Workplace, config};

/// A child that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the server; returns it with its address.
fn serve(workplace: &Workplace, port: &str) -> (Running, String) {
    let mut server = workplace.kakusan(&["serve", "--runs", "runs", "--port", port]);
    let mut server = Running(server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut output = BufReader::new(server.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("http://") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the server has ended without an address");
    }
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    let url = line.split_whitespace().find_map(|word| word.find("http://").map(|at| word[at..].to_owned())).unwrap();
    (server, url)
}

/// The pixels of the canvas `index` of those that match, as one text.
fn pixels(selector: &str, index: usize) -> String {
    format!(
        "(() => {{ const canvas = document.querySelectorAll({selector:?})[{index}];
            return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.join() }})()"
    )
}

/// A browser at the page of a server with a trained model, `digits`, and a training that goes on, `live`.
struct Visit {
    browser: Chromium,
    url: String,
    server: Option<Running>,
    workplace: Workplace,
    _training: Running,
}

impl Visit {
    fn begin() -> Self {
        let program = chromium::find().expect("Chromium is needed: install it, or name it in CHROMIUM");
        let workplace = Workplace::new();
        let fast = config("184-fast.toml");
        let head = ["train", "--config", fast.to_str().unwrap(), "--out", "runs/digits", "--set", "train.max_steps=12"];
        workplace.run(&[&head[..], &QUICK[..]].concat()).expect(0);
        let live = ["--set", "train.epochs=400", "--set", "train.sample_every=1", "--set", "data.validation=0.1"];
        let live = Workplace::quick("runs/live", &live);
        let mut training = workplace.kakusan(&live.iter().map(String::as_str).collect::<Vec<_>>());
        let training = Running(training.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let (server, url) = serve(&workplace, "0");
        let mut browser = Chromium::start(&program);
        browser.resize(1440, 900, false);
        Self { browser, url, server: Some(server), workplace, _training: training }
    }

    fn view(&mut self, hash: &str) {
        self.browser.go(&format!("{}#/{hash}", self.url));
    }

    /// Changes a field as a user does who types.
    fn fill(&mut self, selector: &str, value: &str) {
        self.browser.wait(&format!("document.querySelector({selector:?})"));
        self.browser.value(&format!(
            "(() => {{ const field = document.querySelector({selector:?}); field.value = {value:?};
                field.dispatchEvent(new Event('input', {{ bubbles: true }})) }})()"
        ));
    }

    /// Opens a view with the trained model and a setting, by its address, and waits until the form has them.
    fn open(&mut self, view: &str, name: &str, value: &str) {
        self.view(&format!("{view}?model=digits&{name}={value}"));
        let form = format!("#{view} form:not([aria-busy])");
        self.browser.wait(&format!("document.querySelector('{form} [name={name}]')?.value === decodeURI({value:?})"));
        self.browser.wait(&format!("document.querySelector('{form} [name=model]').value === 'digits'"));
        self.browser.wait(&format!("document.querySelector('{form} [name^=scheduler]')"));
    }

    fn watches_a_training(&mut self) {
        self.view("watch?runs=live,digits&run=live");
        let b = &mut self.browser;
        b.wait("document.querySelectorAll('.runs li').length === 2");
        b.wait("document.querySelector('.badge.training')");
        b.wait("document.querySelectorAll('.chart path.line[d]:not([d=\"\"])').length >= 2");
        b.wait("document.querySelector('.chart circle')"); // a validation
        // Steps, curves and pictures grow without a reload.
        let curve = "document.querySelector('.chart .series-0 .line').getAttribute('d').split('L').length";
        let before = b.value(curve);
        b.wait(&format!("{curve} > {before}"));
        b.wait("document.querySelector('.growing img')?.naturalWidth > 0");
        let epochs = "Number(document.querySelector('.growing input').max)";
        let before = b.value(epochs);
        b.wait(&format!("{epochs} > {before}"));
        b.wait("document.querySelector('.pictures img')?.naturalWidth > 0");
        // The values at a step, by keyboard.
        b.value("document.querySelector('.plot').focus()");
        b.key("Home");
        b.wait("document.querySelector('.plot').getAttribute('aria-valuetext').startsWith('step 1,')");
        b.key("ArrowRight");
        b.wait("document.querySelector('.cross').getAttribute('visibility') === 'visible'");
        // One run less in the curves.
        b.click(".runs li:has([aria-label*=digits]) input");
        b.wait("!document.querySelector('.chart .series-1')");
    }

    fn draws_and_goes_back(&mut self) {
        self.open("draw", "num_inference_steps", "10");
        let b = &mut self.browser;
        b.click("#draw .main");
        b.wait("!document.querySelector('#draw .after').hidden");
        b.wait("document.querySelectorAll('#draw .tile').length === 16");
        b.wait("document.querySelector('#draw .sheet:not([aria-busy])')");
        assert_eq!(b.value("document.querySelector('#draw .tile canvas').width"), 28);
        let tile = pixels("#draw .tile canvas", 3);
        let (finished, other) = (b.value(&tile), b.value(&pixels("#draw .tile canvas", 4)));
        assert_ne!(finished, other, "two seeds give two images");

        b.value("document.querySelector('#draw .player input').focus()");
        b.key("Home");
        b.wait(&format!("{tile} !== {finished}"));
        let noise = b.value(&tile);
        b.key("ArrowRight");
        b.wait(&format!("{tile} !== {noise}"));
        b.key("End");
        b.wait(&format!("{tile} === {finished}"));
        b.click("#draw .player button"); // plays from the start to the end
        b.wait(&format!("{tile} !== {finished}"));
        b.wait(&format!("{tile} === {finished}"));

        // Again with the seed of the fourth image: the same image, alone.
        b.click("#draw .tile:nth-child(4)");
        b.click("#draw .actions button");
        b.wait("document.querySelectorAll('#draw .tile').length === 1");
        b.wait("!document.querySelector('#draw .after').hidden");
        b.wait(&format!("{} === {finished}", pixels("#draw .tile canvas", 0)));
        b.click("#draw .rest summary");
        b.wait("/sample .*--model .*digits/.test(document.querySelector('#draw .rest code').textContent)");
        // The address holds the settings, and the file its own.
        b.wait("location.hash.includes('seed=3') && location.hash.includes('batch_size=1')");
        b.wait(
            "fetch(document.querySelector('#draw .after a').href).then((file) => file.text())
                .then((text) => text.startsWith('\\ufffdPNG') && text.includes('tEXt'))",
        );
    }

    /// A refusal stands next to its field.
    fn shows_a_refusal(&mut self) {
        self.open("draw", "seed", "2");
        for (field, value) in [("num_inference_steps", "100000"), ("guide", "beauty=1:2")] {
            self.fill(&format!("#draw [name={field}]"), value);
            let b = &mut self.browser;
            b.click("#draw .main");
            b.wait(&format!(
                "document.querySelector('#draw .field:has([name={field}]) .error').textContent.length > 5"
            ));
            b.wait(&format!("document.activeElement.name === {field:?}"));
            self.fill(&format!("#draw [name={field}]"), "");
        }
    }

    /// A reload while images are drawn, and the page in a second tab.
    fn reloads_in_mid_stream(&mut self) {
        self.open("draw", "num_inference_steps", "300");
        let b = &mut self.browser;
        b.click("#draw .main");
        b.wait("/Step \\d/.test(document.querySelector('#draw .status').textContent)");
        b.call("Page.reload", serde_json::json!({}));
        b.wait("/Step \\d/.test(document.querySelector('#draw .status')?.textContent)");
        let first = b.open(&format!("{}#/draw?model=digits&seed=5", self.url));
        b.wait("document.querySelector('#draw [name=seed]')?.value === '5'");
        b.turn_to(first);
        b.wait("document.querySelector('#draw .head button').checkVisibility()");
        b.click("#draw .head button");
        b.wait("document.querySelector('#draw .status').textContent === 'Cancelled'");
    }

    fn edits_with_a_mask(&mut self) {
        self.open("draw", "num_inference_steps", "10");
        let b = &mut self.browser;
        b.click("#draw .main");
        b.wait("!document.querySelector('#draw .after').hidden");
        b.click("#draw .actions button:nth-child(2)");
        b.wait("document.querySelector('#edit .board')?.checkVisibility()");
        b.drag("#edit .board", &[[0.2, 0.7], [0.5, 0.75], [0.8, 0.7]]);
        b.wait("/^\\d+ % masked/.test(document.querySelector('#edit .mask .hint').textContent)");
        b.key("ArrowDown"); // and further down by keyboard
        b.key(" ");
        b.wait("document.querySelector('#edit form:not([aria-busy])')");
        self.fill("#edit [name=num_inference_steps]", "10");
        let b = &mut self.browser;
        b.click("#edit .main");
        b.wait(
            "!document.querySelector('#edit .after').hidden && document.querySelectorAll('#edit .tile').length === 4",
        );
        b.wait("document.querySelector('#edit .sheet:not([aria-busy])')");
        let counted = b.value(
            "(() => { const read = (selector) => { const canvas = document.querySelector(selector);
                    return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data };
                const [before, mask, after] = ['.board canvas', '.overlay', '.tile canvas'].map((name) => read(`#edit ${name}`));
                const counted = { masked: 0, redrawn: 0, kept: 0, changed: 0 };
                for (let i = 0; i < mask.length; i += 4) {
                    const differs = before[i] !== after[i];
                    if (mask[i + 3]) { counted.masked += 1; counted.redrawn += differs }
                    else { counted.kept += 1; counted.changed += differs }
                }
                return counted })()",
        );
        let of = |name: &str| counted[name].as_u64().unwrap();
        assert!(of("masked") > 40 && of("kept") > 400, "{counted}");
        assert!(of("redrawn") > 0, "{counted}");
        assert_eq!(of("changed"), 0, "{counted}");
        // Another picture takes its place.
        b.click("#edit [data-t=draw_one]");
        b.wait("document.querySelector('#edit .mask .hint').textContent.startsWith('0 % masked')");
        b.drag("#edit .board", &[[0.3, 0.2], [0.6, 0.3]]);
    }

    fn goes_between_two_images(&mut self) {
        self.view("edit?model=digits&mode=between&frames=5&num_inference_steps=10");
        let form = "#edit form:has([name=frames]):not([aria-busy])";
        self.browser.wait(&format!("document.querySelector('{form} [name=frames]')?.value === '5'"));
        let b = &mut self.browser;
        b.value("document.querySelector('#edit form:has([name=frames])').requestSubmit()");
        b.wait("document.querySelector('#edit .screen').checkVisibility()");
        b.wait("document.querySelector('#edit .screen').width === 28");
        let first = b.value(&pixels("#edit .screen", 0));
        b.value("document.querySelector('#edit .gallery:has(.screen) .player input').focus()");
        b.key("End");
        b.wait(&format!("{} !== {first}", pixels("#edit .screen", 0)));
    }

    fn compares_schedulers(&mut self) {
        self.open("compare", "steps_list", "3,%206");
        let b = &mut self.browser;
        b.value(
            "document.querySelectorAll('#compare input[name=schedulers]').forEach((box) =>
                (box.checked = ['DDIMScheduler', 'DPMSolverMultistepScheduler'].includes(box.value)))",
        );
        b.click("#compare .main");
        b.wait("document.querySelector('#compare .status').textContent === '4 of 4 drawn'");
        b.wait("[...document.querySelectorAll('#compare td small')].every((time) => / s$/.test(time.textContent))");
        b.wait("[...document.querySelectorAll('#compare canvas')].every((canvas) => canvas.width === 56)");
        assert_ne!(b.value(&pixels("#compare canvas", 0)), b.value(&pixels("#compare canvas", 1)));
        // All of them begin with the same noise.
        b.value("document.querySelector('#compare .player input').focus()");
        b.key("Home");
        b.wait(&format!("{} === {}", pixels("#compare canvas", 0), pixels("#compare canvas", 1)));
        b.key("End");
    }

    fn switches_language_and_theme(&mut self) {
        let b = &mut self.browser;
        b.click("#language");
        b.wait("document.documentElement.lang === 'ja' && document.querySelector('nav a').textContent === '学習'");
        let paper = "getComputedStyle(document.body).backgroundColor";
        let light = b.value(paper);
        b.click("#theme");
        b.click("#theme");
        b.wait(&format!("document.documentElement.dataset.theme === 'dark' && {paper} !== {light}"));
        b.call("Page.reload", serde_json::json!({}));
        b.wait("document.documentElement.dataset.theme === 'dark' && document.documentElement.lang === 'ja'");
        b.wait("document.querySelector('#language').textContent === 'English'");
        b.click("#language");
        b.click("#theme");
        b.wait(&format!("document.documentElement.dataset.theme === 'auto' && {paper} === {light}"));
    }

    fn survives_a_restart(&mut self) {
        self.view("watch?run=live");
        self.browser.wait("document.querySelector('.chart path.line')");
        self.server = None;
        self.browser.wait("document.querySelector('#lost').checkVisibility()");
        let port = self.url.trim_end_matches('/').rsplit(':').next().unwrap().to_owned();
        self.server = Some(serve(&self.workplace, &port).0);
        let b = &mut self.browser;
        b.wait("!document.querySelector('#lost').checkVisibility()");
        let step = "document.querySelector('.facts dd')?.textContent";
        b.wait(step);
        let before = b.value(step);
        b.wait(&format!("{step} !== {before}"));
    }

    /// Each view, narrow and wide, light and dark.
    fn photographs(&mut self) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../browser");
        std::fs::create_dir_all(&folder).unwrap();
        for view in ["watch", "draw", "edit", "compare"] {
            self.browser.value(&format!("location.hash = document.querySelector('nav a[href^=\"#/{view}\"]').hash"));
            self.browser.wait(&format!("document.querySelector('#{view}').checkVisibility()"));
            for (width, height) in [(1440, 900), (390, 844)] {
                for dark in [false, true] {
                    let b = &mut self.browser;
                    b.resize(width, height, dark);
                    b.wait(&format!("innerWidth === {width} && document.documentElement.scrollWidth <= {width}"));
                    b.wait(
                        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))",
                    );
                    let theme = if dark { "dark" } else { "light" };
                    b.photograph(&folder.join(format!("{view}-{width}-{theme}.png")));
                }
            }
        }
        self.browser.resize(1440, 900, false);
    }
}

#[test]
#[ignore = "needs Chromium: cargo xtask ci browser"]
fn the_page_works() {
    let mut visit = Visit::begin();
    visit.draws_and_goes_back();
    visit.shows_a_refusal();
    visit.reloads_in_mid_stream();
    visit.edits_with_a_mask();
    visit.compares_schedulers();
    visit.watches_a_training();
    visit.photographs();
    visit.goes_between_two_images();
    visit.switches_language_and_theme();
    visit.survives_a_restart();
    assert_eq!(visit.browser.complaints, Vec::<String>::new());
}
