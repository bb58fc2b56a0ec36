//! Watching runs that another process trains.

use std::fs;
use std::io::Write;
use std::path::Path;

use kakusan_serve::Limits;
use serde_json::{Value, json};

use crate::{Within, command, picture, pixels, workplace};

/// A line of metrics.jsonl.
fn line(step: usize, epoch: usize) -> String {
    json!({"step": step, "epoch": epoch, "loss": 0.5, "lr": 0.001, "grad_norm": 1.0, "seconds": step}).to_string()
        + "\n"
}

fn append(path: &Path, text: &str) {
    fs::File::options().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_run_is_watched_while_another_process_writes_it() {
    let place = workplace();
    let run = place.path("runs/digits");
    fs::create_dir_all(run.join("images")).unwrap();
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    fs::copy(command::config("184.toml"), run.join("config.toml")).unwrap();
    fs::write(run.join("data.json"), r#"{"source": {"kind": "drawn", "description": "x"}, "images": 256}"#).unwrap();
    let log = run.join("metrics.jsonl");
    append(&log, &(line(1, 1) + &line(2, 1) + &line(3, 2)[..20]));
    let server = Within::start(&place, Limits::default());
    let client = server.client;
    let runs = client.get("/api/runs").expect(200).json();
    assert_eq!(runs.as_array().unwrap().len(), 1, "{runs}"); // the others are no runs
    assert_eq!((runs[0]["step"].as_u64(), runs[0]["epochs"].as_u64()), (Some(2), Some(5)), "{runs}");
    assert_eq!((runs[0]["total_steps"].as_u64(), runs[0]["class"].as_str()), (Some(10), Some("BasicUNet")), "{runs}");
    if cfg!(target_os = "linux") {
        assert_eq!(runs[0]["state"], "failed"); // no process has locked it, and it has no checkpoint
    }

    let mut events = client.events("/api/events?runs=none,digits");
    let mut next = |wanted: &str| events.find(|(name, _)| name == wanted).unwrap().1;
    assert_eq!(next("runs"), runs);
    let steps = |records: &Value| -> Vec<u64> {
        records["records"].as_array().unwrap().iter().map(|record| record["step"].as_u64().unwrap()).collect()
    };
    append(&log, &(line(3, 2)[20..].to_owned() + &line(4, 2)));
    let records = next("records");
    assert_eq!((steps(&records), records["next"].as_u64()), (vec![3, 4], Some(5)));
    assert_eq!(records["name"], "digits");
    let png = pixel_png();
    fs::write(run.join("images/epoch-001.png"), &png).unwrap();
    fs::write(run.join("images/notes.txt"), "no picture").unwrap();
    assert_eq!(next("pictures")["pictures"], json!(["epoch-001.png"]));
    // the training begins, and resumes from an earlier step: its log is replaced
    let folder = fs::File::open(run.join("checkpoints")).unwrap();
    folder.lock().unwrap();
    fs::write(run.join("other"), line(1, 1) + &line(2, 1)).unwrap();
    fs::rename(run.join("other"), &log).unwrap();
    let records = next("records");
    assert_eq!((steps(&records), records["restarted"].as_bool()), (vec![1, 2], Some(true)));
    let run_now = client.get("/api/runs/digits").expect(200).json();
    if cfg!(target_os = "linux") {
        assert_eq!(run_now["state"], "training");
    }
    drop(folder);
    assert_eq!((&run_now["pictures"], &run_now["figures"]), (&json!(["epoch-001.png"]), &Value::Null));
    assert!(run_now["config_toml"].as_str().unwrap().contains("BasicUNet"));
    let picture = client.get("/api/runs/digits/pictures/epoch-001.png").expect(200);
    assert!(picture.body == png && picture.has("content-type: image/png"));
    for other in ["notes.txt", "..%2Fconfig.toml", "..", "none.png"] {
        client.get(&format!("/api/runs/digits/pictures/{other}")).expect(404);
    }
    let metrics = client.get("/api/runs/digits/metrics?from=2").expect(200).json();
    assert_eq!((steps(&metrics), metrics["next"].as_u64()), (vec![2], Some(3)));
    assert!(client.get("/api/runs/digits/metrics?from=x").expect(422).reason().contains("?from=0"));
    assert!(client.get("/api/runs/digit").expect(404).reason().contains("did you mean `digits`?"));
}

fn pixel_png() -> Vec<u8> {
    picture(1, |_, _| 7).1
}

#[test]
fn a_training_is_watched_and_drawn_from_before_it_ends() {
    let place = command::Workplace::new();
    place.train("runs/digits", &["--max-steps", "3"]).expect(0);
    let server = Within::start(&place, Limits::default());
    let client = server.client;
    let run = client.get("/api/runs/digits").expect(200).json();
    assert_eq!(
        (run["state"].as_str(), run["step"].as_u64(), run["total_steps"].as_u64()),
        (Some("finished"), Some(3), Some(3))
    );
    assert!(run["pictures"].as_array().unwrap().contains(&json!("samples.png")), "{run}");
    let model = &client.get("/api/models").expect(200).json()[0];
    assert_eq!((&model["name"], &model["unfinished"]), (&json!("digits"), &json!(false)), "{model}");

    fs::remove_file(place.path("runs/digits/model_index.json")).unwrap(); // as if it had been stopped
    if cfg!(target_os = "linux") {
        assert_eq!(client.get("/api/runs").expect(200).json()[0]["state"], "stopped");
    }
    let model = &client.get("/api/models").expect(200).json()[0];
    assert_eq!((&model["name"], &model["unfinished"]), (&json!("digits"), &json!(true)), "{model}");
    let body = json!({"model": "digits", "seed": 5, "num_inference_steps": 3});
    let drawn = client.post("/api/images", &body).expect(200).body;
    place.run(&["sample", "--model", "runs/digits", "--seeds", "5", "--steps", "3", "--separate", "own"]).expect(0);
    assert!(pixels(&drawn) == pixels(&fs::read(place.path("own/seed-5.png")).unwrap()));
}
