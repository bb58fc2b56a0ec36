//! The command `serve`: its server is called as programs and browsers call it, well and badly.
#![cfg(unix)] // signals, and commands for a POSIX shell

#[path = "serve/abuse.rs"]
mod abuse;
#[path = "serve/client.rs"]
mod client;
#[path = "support/command.rs"]
mod command;
#[path = "serve/load.rs"]
mod load;
#[path = "serve/malformed.rs"]
mod malformed;
#[path = "serve/models.rs"]
mod models;
#[path = "serve/watch.rs"]
mod watch;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use client::{Answer, Client};
use command::{Done, Workplace};
use kakusan::candle::Device;
use kakusan::pipeline::{DDPMPipeline, Labels, Registry};
use kakusan_serve::{Limits, Server, Settings, Stop};
use serde_json::{Value, json};

/// A workplace with the models `grey` and `pets`, which has classes and colours.
fn workplace() -> Workplace {
    let place = Workplace::new();
    models::save(&place.path("runs/grey"), 1, None, 0);
    models::save(&place.path("runs/pets"), 3, Some(3), 1);
    place
}

/// The network of `model` with three labels of one class.
fn save_with_one_class(model: &Path, dir: &Path) {
    let mut pipeline = DDPMPipeline::from_pretrained(model, &Registry::default(), &Device::Cpu).unwrap();
    let names = (0..3).map(|label| (label, "cat".to_owned())).collect();
    pipeline.set_labels(Labels::new(names).with_counts([(0, 10), (1, 30), (2, 20)].into()));
    pipeline.save_pretrained(dir).unwrap();
}

/// The command, while it serves.
struct Serving {
    child: Child,
    client: Client,
}

impl Serving {
    fn start(place: &Workplace, args: &[&str]) -> Self {
        let mut command = place.kakusan(&["serve"]);
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("listens at") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "it does not listen");
        }
        let port = line.split_once("127.0.0.1:").unwrap().1.split('/').next().unwrap().parse().unwrap();
        Self { child, client: Client(port) }
    }

    /// Asks it to stop, as systemd does, and returns its exit code.
    fn terminate(mut self) -> Option<i32> {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server in this process, which allows what a test wants.
struct Within {
    client: Client,
    stop: Stop,
    thread: Option<thread::JoinHandle<()>>,
}

impl Within {
    fn start(place: &Workplace, limits: Limits) -> Self {
        Self::with(Settings { runs: place.path("runs"), port: 0, limits, ..Settings::default() })
    }

    fn with(settings: Settings) -> Self {
        let server = Server::bind(settings).unwrap();
        let (client, stop) = (Client(server.address().port()), server.stop());
        Self { client, stop, thread: Some(thread::spawn(move || server.run().unwrap())) }
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A draw that takes far longer than any test.
fn long() -> Value {
    json!({"model": "grey", "batch_size": 64, "num_inference_steps": 1000, "trajectory": false})
}

/// The pixels of a PNG, and its width.
fn pixels(png: &[u8]) -> (Vec<u8>, usize) {
    let image = image::load_from_memory_with_format(png, image::ImageFormat::Png).unwrap();
    (image.as_bytes().to_vec(), image.width() as usize)
}

#[test]
fn a_draw_has_the_commands_files_and_its_steps_and_the_command_it_names_draws_the_same() {
    let place = workplace();
    save_with_one_class(&place.path("runs/pets"), &place.path("runs/cats"));
    models::save(&place.path("runs/wide"), 1, Some(4), 3); // with no images of classes 2 and 3
    let serving = Serving::start(&place, &["--port", "0"]);
    let client = serving.client;
    for (body, args) in [
        (
            json!({"model": "wide", "seed": 7, "batch_size": 2, "num_inference_steps": 3, "class_labels": [2, 0]}),
            "--model runs/wide --seeds 7..8 --steps 3 --class 2,cat",
        ),
        (
            json!({"model": "cats", "seed": 7, "batch_size": 4, "num_inference_steps": 3}),
            "--model runs/cats --seeds 7..10 --steps 3 --class cat",
        ),
        (
            json!({"model": "grey", "seeds": [3, 5], "num_inference_steps": 4}),
            "--model runs/grey --seeds 3,5 --steps 4",
        ),
        (
            json!({"model": "pets", "seed": 7, "batch_size": 3, "num_inference_steps": 3, "scheduler": "ddim",
                   "eta": 0.5, "class_labels": [0, 1], "guidance_scale": 2.5}),
            "--model runs/pets --seeds 7..9 --steps 3 --scheduler ddim --eta 0.5 --class cat,dog,cat --guidance 2.5",
        ),
    ] {
        let id = client.draw(&body);
        let events: Vec<_> = client.events(&format!("/api/draws/{id}/events")).collect();
        assert!(events[0].0 == "state" || events.len() == 1, "{events:?}");
        let (name, state) = events.last().unwrap();
        assert_eq!((name.as_str(), state["state"].as_str()), ("done", Some("done")), "{state}");
        let (steps, count) = (state["steps"].as_u64().unwrap(), state["images"].as_u64().unwrap());
        assert_eq!((state["step"].as_u64(), count as usize), (Some(steps), state["seeds"].as_array().unwrap().len()));

        let line = format!("kakusan sample {args} --separate own --out own.png");
        let warned = Done(place.shell(&line, ".").output().unwrap()).expect(0).stderr();
        for warning in state["warnings"].as_array().unwrap() {
            assert!(warned.contains(warning.as_str().unwrap()), "{warned}");
        }
        assert_eq!(warned.matches("warning: ").count(), state["warnings"].as_array().unwrap().len(), "{warned}");
        assert_eq!(args.contains("wide"), warned.contains("no images of it"), "{warned}");
        let get = |path: String| client.get(&format!("/api/draws/{id}/{path}")).expect(200).body;
        for (i, seed) in state["seeds"].as_array().unwrap().iter().enumerate() {
            let file = fs::read(place.path(&format!("own/seed-{seed}.png"))).unwrap();
            assert!(get(format!("images/{i}.png")) == file, "{seed}");
        }
        assert!(get("sheet.png".into()) == fs::read(place.path("own.png")).unwrap());
        let command = state["command"].as_str().unwrap().replacen(env!("CARGO_BIN_EXE_kakusan"), "kakusan", 1);
        Done(place.shell(&command, ".").output().unwrap()).expect(0);
        assert_eq!(fs::read(place.path("samples.png")).unwrap(), get("sheet.png".into()), "{command}");

        // each step is a strip of all images; the last one shows the finished images
        let strips: Vec<_> = (0..=steps).map(|step| pixels(&get(format!("steps/{step}.png")))).collect();
        assert!(strips.windows(2).all(|pair| pair[0].0 != pair[1].0));
        let (last, width) = &strips[steps as usize];
        let row = |strip: &[u8], across: usize, y: usize| strip[y * across..(y + 1) * across].to_vec();
        for i in 0..count as usize {
            let (image, own_width) = pixels(&get(format!("images/{i}.png")));
            let (across, own) = (last.len() / 16, image.len() / 16);
            assert_eq!((*width, own_width), (16 * count as usize, 16));
            for y in 0..16 {
                assert_eq!(row(last, across, y)[i * own..(i + 1) * own], row(&image, own, y));
            }
        }
        let beyond = client.get(&format!("/api/draws/{id}/steps/{}.png", steps + 1)).expect(404);
        assert!(beyond.reason().contains("no images of step"), "{}", beyond.reason());
        let sheet = client.post("/api/images", &body).expect(200).body;
        assert!(sheet == get("sheet.png".into()));
    }

    // the images of an interpolation have one label
    let body = json!({"model": "cats", "interpolate": {"from": 1, "to": 2, "frames": 3}, "num_inference_steps": 2});
    let line = "kakusan sample --model runs/cats --interpolate 1..2 --frames 3 --steps 2 --class=1 --animate way.png";
    Done(place.shell(line, ".").output().unwrap()).expect(0);
    let file = fs::read(place.path("samples.png")).unwrap();
    assert!(pixels(&client.post("/api/images", &body).expect(200).body) == pixels(&file));

    // the client in Python draws the same as one request
    let python = Command::new("python3").arg("--version").output();
    if python.is_ok_and(|python| python.status.success()) {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/serve-client/client.py");
        let address = format!("http://127.0.0.1:{}", client.0);
        let mut python = Command::new("python3");
        let python = python.arg(program).args(["grey", "four.png", &address]).current_dir(place.path("."));
        let said = Done(python.output().unwrap()).expect(0).stdout();
        assert!(said.contains("the same by: ") && said.ends_with("four.png\n"), "{said}");
        let body = json!({"model": "grey", "batch_size": 4, "seed": 7, "num_inference_steps": 20});
        let four = client.post("/api/images", &body).expect(200).body;
        assert!(fs::read(place.path("four.png")).unwrap() == four);
    }
    assert_eq!(serving.terminate(), Some(0));
}

#[test]
fn requests_that_agree_are_drawn_together_and_each_image_is_that_of_its_seed() {
    let place = workplace();
    let server = Within::start(&place, Limits::default());
    let client = server.client;
    let body = |seed: u64, label: u32| json!({"model": "pets", "seed": seed, "batch_size": 2, "num_inference_steps": 60, "class_label": label});
    let alone: Vec<Vec<u8>> =
        (0..4).map(|i| client.post("/api/images", &body(10 * i, i as u32 % 2)).expect(200).body).collect();

    let first = client.draw(&long());
    let mut events = client.events(&format!("/api/draws/{first}/events"));
    events.find(|(name, _)| name == "step").unwrap(); // the thread that draws is busy
    let ids: Vec<String> = (0..4).map(|i| client.draw(&body(10 * i, i as u32 % 2))).collect();
    let other = client.draw(&json!({"model": "grey", "num_inference_steps": 2}));
    let state = |id: &str| client.get(&format!("/api/draws/{id}")).expect(200).json();
    for (position, id) in ids.iter().chain([&other]).enumerate() {
        assert_eq!(state(id)["position"].as_u64(), Some(position as u64));
    }
    client.send("DELETE", &format!("/api/draws/{first}"), "", "").expect(204);
    let mut of_first = client.events(&format!("/api/draws/{}/events", ids[0]));
    of_first.find(|(name, _)| name == "step").unwrap();
    assert!(ids.iter().all(|id| state(id)["state"] == "drawing"), "{}", state(&ids[3]));
    assert_eq!(state(&other)["position"].as_u64(), Some(0));
    assert_eq!(client.wait(&other)["state"], "done");
    for (id, alone) in ids.iter().zip(&alone) {
        assert_eq!(state(id)["state"], "done");
        assert!(client.get(&format!("/api/draws/{id}/sheet.png")).expect(200).body == *alone);
    }
}

#[test]
fn a_model_is_loaded_once_and_again_when_it_has_changed() {
    let place = workplace();
    let server = Within::start(&place, Limits { held_models: 1, ..Limits::default() });
    let draw = |model: &str, label: Option<u32>| {
        let body = json!({"model": model, "num_inference_steps": 2, "class_label": label});
        server.client.post("/api/images", &body).expect(200).body
    };
    let before = draw("grey", None);
    draw("pets", Some(0)); // takes its place
    assert!(draw("grey", None) == before);
    models::save(&place.path("runs/grey"), 1, None, 7);
    let after = draw("grey", None);
    let line = "kakusan sample --model runs/grey --seeds 0 --steps 2 --separate own";
    Done(place.shell(line, ".").output().unwrap()).expect(0);
    assert!(pixels(&after) != pixels(&before));
    assert!(pixels(&after) == pixels(&fs::read(place.path("own/seed-0.png")).unwrap()));
    fs::remove_dir_all(place.path("runs/grey")).unwrap();
    server.client.post("/api/draws", &json!({"model": "grey"})).expect(404);
}

/// A PNG of grey pixels as requests bring it, and its bytes.
fn picture(side: u32, pixel: impl Fn(u32, u32) -> u8) -> (Value, Vec<u8>) {
    let mut bytes = vec![];
    let image = image::GrayImage::from_fn(side, side, |x, y| image::Luma([pixel(x, y)]));
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    (json!({ "png": base64(&bytes) }), bytes)
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let number = (0..3).fold(0u32, |number, i| number << 8 | u32::from(*chunk.get(i).unwrap_or(&0)));
        let letter = |i: usize| match i <= chunk.len() {
            true => char::from(LETTERS[(number >> (18 - 6 * i) & 63) as usize]),
            false => '=',
        };
        [0, 1, 2, 3].map(letter)
    };
    bytes.chunks(3).flat_map(group).collect()
}

#[test]
fn pictures_are_edited_as_the_command_edits_them() {
    let place = workplace();
    let server = Within::start(&place, Limits::default());
    let client = server.client;
    let init = picture(16, |x, y| (x * 16 + y) as u8);
    let mask = picture(16, |x, _| if x < 8 { 255 } else { 0 });
    fs::write(place.path("init.png"), &init.1).unwrap();
    fs::write(place.path("mask.png"), &mask.1).unwrap();
    let (init, mask) = (init.0, mask.0);
    for body in [
        json!({"model": "grey", "batch_size": 2, "num_inference_steps": 10, "init": init, "strength": 0.4}),
        json!({"model": "grey", "seed": 4, "num_inference_steps": 5, "init": init, "mask": mask}),
        json!({"model": "grey", "num_inference_steps": 5, "init": init, "mask": mask, "mask_way": "repaint"}),
        json!({"model": "grey", "num_inference_steps": 4, "interpolate": {"from": 3, "to": 9, "frames": 4}}),
        json!({"model": "pets", "num_inference_steps": 4, "class_label": 1, "guide": ["colour=#1e90ff:40"]}),
    ] {
        let id = client.draw(&body);
        let state = client.wait(&id);
        assert_eq!(state["state"], "done", "{state}");
        let command = state["command"].as_str().unwrap();
        Done(place.shell(command, ".").output().unwrap()).expect(0);
        let sheet = client.get(&format!("/api/draws/{id}/sheet.png")).expect(200).body;
        let (own, drawn) = (fs::read(place.path("samples.png")).unwrap(), sheet);
        assert!(pixels(&own) == pixels(&drawn), "{command}");
        if body["init"].is_null() || body["mask_way"].is_null() {
            let texts = |png: &[u8]| {
                let reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
                let texts = reader.info().uncompressed_latin1_text.iter();
                texts.map(|text| (text.keyword.clone(), text.text.clone())).collect::<Vec<_>>()
            };
            let without_model =
                |png: &[u8]| texts(png).into_iter().filter(|(name, _)| name != "model").collect::<Vec<_>>();
            assert_eq!(without_model(&own), without_model(&drawn), "{command}");
        }
    }
}

#[test]
fn a_draw_that_nobody_waits_for_any_more_makes_room() {
    let place = workplace();
    let server = Within::start(&place, Limits { leave_time: Duration::from_millis(300), ..Limits::default() });
    let client = server.client;
    let short = json!({"model": "grey", "num_inference_steps": 2});
    let post = |body: &Value| {
        format!(
            "POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.to_string().len()
        )
    };

    // a page that is closed
    let id = client.draw(&long());
    let mut events = client.events(&format!("/api/draws/{id}/events"));
    events.find(|(name, _)| name == "step").unwrap();
    drop(events);
    client.post("/api/images", &short).expect(200);
    let state = client.get(&format!("/api/draws/{id}")).expect(200).json();
    assert_eq!(
        (state["state"].as_str(), state["error"].as_str()),
        (Some("cancelled"), Some("no client waited for it any more"))
    );

    // a program that closes its connection, and one that never listens
    let mut stream = TcpStream::connect(("127.0.0.1", client.0)).unwrap();
    stream.write_all(post(&long()).as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(300)); // it is drawn, or about to be
    drop(stream);
    client.post("/api/images", &short).expect(200);
    let id = client.draw(&long());
    client.post("/api/images", &short).expect(200);
    assert_eq!(client.get(&format!("/api/draws/{id}")).expect(200).json()["state"], "cancelled");

    // a reload in mid-stream: another listener comes before the first has been away for long
    let server = Within::start(&place, Limits { leave_time: Duration::from_secs(30), ..Limits::default() });
    let id = server.client.draw(&json!({"model": "grey", "batch_size": 8, "num_inference_steps": 300}));
    let path = format!("/api/draws/{id}/events");
    let (name, _) = server.client.events(&path).nth(1).unwrap();
    assert!(["step", "state"].contains(&name.as_str()), "{name}");
    let twice = [server.client.events(&path), server.client.events(&path)]; // a page that is opened twice
    for events in twice {
        assert_eq!(events.last().unwrap().0, "done");
    }
}

#[test]
fn more_than_there_is_room_for_is_refused_with_a_reason_and_a_time() {
    let place = workplace();
    let limits = Limits { max_queue: 2, max_per_client: 100, max_streams: 1, max_connections: 8, ..Limits::default() };
    let server = Within::start(&place, limits);
    let client = server.client;
    let first = client.draw(&long());
    let mut events = client.events(&format!("/api/draws/{first}/events"));
    events.find(|(name, _)| name == "step").unwrap();
    client.draw(&long());
    client.draw(&long());
    let full = client.post("/api/draws", &long()).expect(503);
    assert!(full.has("retry-after: ") && full.reason().contains("2 requests wait"), "{full:?}");
    let streams = client.get(&format!("/api/draws/{first}/events")).expect(503);
    assert!(streams.has("retry-after: ") && streams.reason().contains("too many pages"), "{streams:?}");
    let mut open = vec![];
    let refused = loop {
        assert!(open.len() < 64, "all connections are taken");
        let mut stream = client.connect();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        match Answer::read(&mut stream) {
            Some(answer) => break answer,
            None => open.push(stream), // it has a place and keeps it, so that one of the next ones has none
        }
    };
    assert_eq!(refused.expect(503).reason(), "too many connections are open: try again in a moment");
    drop(open);

    let server = Within::start(&place, Limits { max_per_client: 2, ..Limits::default() });
    server.client.draw(&long());
    server.client.draw(&long());
    let many = server.client.post("/api/draws", &long()).expect(429);
    assert!(many.has("retry-after: ") && many.reason().contains("2 requests of yours"), "{many:?}");

    // the oldest finished draw makes room, and steps that would take too much room are not begun
    let server = Within::start(&place, Limits { kept_draws: 1, kept_bytes: 40_000, ..Limits::default() });
    let body = |steps: usize| json!({"model": "grey", "num_inference_steps": steps});
    let ids = [1, 2].map(|steps| server.client.draw(&body(steps)));
    assert_eq!(server.client.wait(&ids[1])["state"], "done");
    assert!(server.client.get(&format!("/api/draws/{}", ids[0])).expect(404).reason().contains("dropped to make room"));
    let much = server.client.post("/api/draws", &body(100)).expect(422).json();
    assert!(much["field"] == "trajectory" && much["error"].as_str().unwrap().contains("all 100 steps"), "{much}");

    // a draw that takes too long ends, and the next one begins
    let server = Within::start(&place, Limits { max_time: Duration::from_millis(200), ..Limits::default() });
    let state = server.client.wait(&server.client.draw(&long()));
    assert!(state["state"] == "failed" && state["error"].as_str().unwrap().contains("took longer than"), "{state}");
    server.client.post("/api/images", &json!({"model": "grey", "num_inference_steps": 1})).expect(200);
}

#[test]
fn a_server_stops_within_seconds_and_a_page_finds_the_next_one() {
    let place = workplace();
    let serving = Serving::start(&place, &["--port", "0"]);
    let (client, port) = (serving.client, serving.client.0.to_string());
    let taken = place.run(&["serve", "--port", &port]).expect(1).stderr();
    assert!(taken.contains("Another program listens there") && taken.contains("--port"), "{taken}");

    let first = client.draw(&long());
    let mut events = client.events(&format!("/api/draws/{first}/events"));
    events.find(|(name, _)| name == "step").unwrap();
    let waits = thread::spawn(move || client.post("/api/images", &long()));
    loop {
        // until the request before it waits
        let id = client.draw(&long());
        if client.get(&format!("/api/draws/{id}")).expect(200).json()["position"] == 1 {
            break;
        }
        client.send("DELETE", &format!("/api/draws/{id}"), "", "").expect(204);
    }
    assert_eq!(serving.terminate(), Some(0));
    let refused: Answer = waits.join().unwrap().expect(503);
    assert!(refused.reason().contains("the server is stopping") && refused.has("retry-after: "), "{refused:?}");
    let (name, last) = events.last().unwrap();
    assert_eq!((name.as_str(), last["state"].as_str()), ("failed", Some("failed")));

    let again = Serving::start(&place, &["--port", &port]);
    let gone = again.client.get(&format!("/api/draws/{first}")).expect(404);
    assert!(gone.reason().contains("the server was started again"), "{gone:?}");
}

/// The description of the API is that of the server.
#[test]
fn the_description_has_every_route_and_its_examples_are_true() {
    let place = workplace();
    let server = Within::start(&place, Limits::default());
    let client = server.client;
    let description = client.get("/api/openapi.json").expect(200).json();
    assert_eq!(description, serde_json::from_str::<Value>(&kakusan_serve::openapi()).unwrap());
    let paths = description["paths"].as_object().unwrap();
    for (path, methods) in paths {
        let address = path.replace("{name}", "grey").replace("{id}", "none").replace("{file}", "0.png");
        for method in ["get", "post", "delete", "put", "patch"] {
            let is_there = !methods[method].is_null();
            let answer = match (method, path.as_str()) {
                ("get", "/api/events") => continue, // it does not end
                _ => client.send(&method.to_uppercase(), &address, "", ""),
            };
            assert_eq!(is_there, answer.status != 405, "{method} {address}: {answer:?}");
            let statuses = methods[method]["responses"].as_object();
            let told = |status: u16| statuses.is_some_and(|told| told.contains_key(&status.to_string()));
            assert!(!is_there || told(answer.status) || answer.status == 415, "{method} {address}: {answer:?}");
        }
    }
    let methods = paths.values().flat_map(|methods| methods.as_object().unwrap().values());
    let mut identifiers: Vec<&str> = methods.map(|method| method["operationId"].as_str().unwrap()).collect();
    let count = identifiers.len();
    identifiers.sort_unstable();
    identifiers.dedup();
    assert_eq!(identifiers.len(), count, "{identifiers:?}"); // programs that write clients name functions by them
    // what the book, the page and the clients call is described
    for path in [
        "/api/models",
        "/api/draws",
        "/api/images",
        "/api/draws/{id}/events",
        "/api/runs/{name}/metrics",
        "/api/limits",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    let schemas = &description["components"]["schemas"];
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for (name, answer) in [
        ("ModelListed", client.get("/api/models").json()[0].clone()),
        ("SchedulerChoice", client.get("/api/models/grey/schedulers").expect(200).json()[0].clone()),
        ("LimitsListed", client.get("/api/limits").json()),
        ("Problem", client.get("/api/draws/none").json()),
    ] {
        assert_eq!(keys(&answer), keys(&schemas[name]["properties"]), "{name}");
        assert_eq!(keys(&answer), keys(&schemas[name]["example"]), "{name}");
    }
    let mut example = schemas["DrawRequest"]["example"].clone();
    example["model"] = json!("grey");
    let state = client.wait(&client.draw(&example));
    assert_eq!(keys(&state), keys(&schemas["State"]["properties"]));
    assert_eq!(keys(&state["settings"]), keys(&schemas["DrawSettings"]["properties"]));
    let choices = client.get("/api/models/grey/schedulers").expect(200).json();
    for choice in choices.as_array().unwrap() {
        let eta = choice["takes_eta"].as_bool().unwrap().then_some(0.5);
        let body = json!({"model": "grey", "scheduler": choice["class_name"], "num_inference_steps": 10, "eta": eta});
        assert_eq!(client.wait(&client.draw(&body))["state"], "done", "{choice}");
    }
}

#[test]
fn a_run_is_listed_with_the_settings_that_it_sampled_with() {
    let place = workplace();
    fs::copy(command::config("ddpm-184.toml"), place.path("runs/grey/config.toml")).unwrap();
    let server = Within::start(&place, Limits::default());
    let models = server.client.get("/api/models").expect(200).json();
    let of = |model: &Value| ["scheduler", "sample_scheduler", "eta", "steps"].map(|key| model[key].clone());
    assert_eq!(of(&models[0]), [json!("DDPMScheduler"), json!("DDIMScheduler"), json!(1.0), json!(50)]);
    assert_eq!(of(&models[1])[..3], [json!("DDPMScheduler"), Value::Null, Value::Null]);
}

/// `tests/commands.rs` runs the other commands of the documents; these do not end.
#[test]
fn the_books_commands_serve() {
    let place = workplace();
    models::save(&place.path("runs/184-v"), 1, None, 0);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/book/src/en/serve.md");
    let page = fs::read_to_string(page).unwrap();
    let lines: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("cargo xtask serve")).collect();
    assert!(lines.len() > 1, "{lines:?}");
    for line in lines {
        let words = line.split(" #").next().unwrap_or_default().split_whitespace();
        let serving = Serving::start(&place, &words.chain(["--port", "0"]).collect::<Vec<_>>());
        let models = serving.client.get("/api/models").expect(200).json();
        assert_eq!(models.as_array().unwrap().len(), if line.contains("digits=") { 4 } else { 3 }, "{models}");
        assert_eq!(serving.terminate(), Some(0));
    }
}
