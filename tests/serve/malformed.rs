//! Requests as programs with errors, or worse ones, send them.

use serde_json::{Value, json};

/// A request, the statuses that may answer it, and a word of the reason; the raw ones are refused before there is one.
pub(crate) struct Malformed {
    pub(crate) text: Vec<u8>,
    pub(crate) statuses: &'static [u16],
    pub(crate) reason: &'static str,
}

fn raw(text: impl Into<Vec<u8>>, statuses: &'static [u16], reason: &'static str) -> Malformed {
    Malformed { text: text.into(), statuses, reason }
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into()
}

/// Every kind.
pub(crate) fn all() -> Vec<Malformed> {
    const JSON: &str = "Content-Type: application/json\r\n";
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let text = |body: &str, statuses, reason| raw(post("/api/draws", JSON, body), statuses, reason);
    let with = |changes: Value, reason| {
        let mut body = json!({"model": "grey"});
        let own = body.as_object_mut().unwrap();
        own.extend(changes.as_object().unwrap().clone());
        raw(post("/api/draws", JSON, &body.to_string()), &[422], reason)
    };
    let model =
        |name: &str| raw(post("/api/draws", JSON, &json!({"model": name}).to_string()), &[404], "there is no model");
    let nested = "[".repeat(100_000);
    let long_name = "x".repeat(5000);
    vec![
        // HTTP
        raw("\r\n\r\nhello\r\n\r\n", &[400], ""),
        raw("GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", &[400, 505], ""),
        raw("GET /api/models HTTP/1.1\r\nConnection: close\r\n\r\n", &[403], "another name"),
        raw("GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[403], "another name"),
        raw("GET / HTTP/1.1\r\nHost: \u{e9}\r\nConnection: close\r\n\r\n", &[403], "another name"),
        raw(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(200_000)), &[431], ""),
        raw(get(&format!("/{}", "x".repeat(70_000))), &[414, 431], ""),
        raw("GET / HTTP/1.1\r\nHost: localhost\r\nBad Header\r\n\r\n", &[400], ""),
        raw("POST /api/draws HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", &[400], ""),
        raw("POST /api/draws HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", &[400], ""),
        raw(
            "POST /api/draws HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            &[411],
            "how long it is",
        ),
        // addresses
        raw(get("/nothing"), &[404], "nothing at this address"),
        raw(get("/../../etc/passwd"), &[404], "nothing at this address"),
        raw(get("/api/models/%2e%2e/schedulers"), &[404], "there is no model"),
        raw(get("/api/models/..%2f..%2fetc/schedulers"), &[404], "there is no model"),
        raw(get("/api/models/%ff/schedulers"), &[400], "cannot be read"),
        raw(get("/api/runs/..%2fgrey"), &[404], "there is no run"),
        raw(get("/api/runs/grey/pictures/..%2fmodel_index.json"), &[404], "there is no run"),
        raw(get("/api/draws/0-1"), &[404], "there is no such draw"),
        raw(get("/api/draws/0-1/steps/-1.png"), &[404], "there is no such draw"),
        raw(get("/api/draws/x/images/0.png"), &[404], "there is no such draw"),
        raw("DELETE /api/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[405], "another method"),
        raw("BREW / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", &[405], "another method"),
        // bodies
        raw(post("/api/draws", "", "{\"model\": \"grey\"}"), &[415], "application/json"),
        raw(post("/api/draws", "Content-Type: text/plain\r\n", "{\"model\": \"grey\"}"), &[415], "application/json"),
        raw(
            post("/api/draws", "Content-Type: application/x-www-form-urlencoded\r\n", "model=grey"),
            &[415],
            "application/json",
        ),
        raw(
            "POST /api/draws HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: 99999999999\r\n\r\n",
            &[413],
            "smaller pictures",
        ),
        text("", &[400], "not JSON"),
        text("{\"model\": \"grey\"", &[400], "not JSON"),
        text("{\"model\": \"grey\"} and more", &[400], "not JSON"),
        text("{'model': 'grey'}", &[400], "not JSON"),
        text("\u{0}\u{1}", &[400], "not JSON"),
        text(&nested, &[400], "not JSON"),
        text("{\"model\": \"grey\", \"eta\": 1e999}", &[400], "not JSON"),
        text("[]", &[400], "not an object"),
        text("null", &[400], "not an object"),
        text("{}", &[422], "`model` is missing"),
        text("{\"model\": 184}", &[422], "model: invalid type"),
        text("{\"model\": null}", &[422], "model: invalid type"),
        // models
        model("gray"),
        model(""),
        model(".."),
        model("../runs/grey"),
        model("/etc"),
        model("grey\u{0}"),
        model("runs\\grey"),
        model(&long_name),
        model("outside"), // a link that leads out of the folder
        // fields
        with(json!({"stepz": 3}), "there is no field `stepz`"),
        with(json!({"num_inference_step": 3}), "did you mean `num_inference_steps`?"),
        with(json!({"num_inference_steps": 0}), "1 to 1000"),
        with(json!({"num_inference_steps": 1001}), "1 to 1000"),
        with(json!({"num_inference_steps": -1}), "num_inference_steps: invalid value"),
        with(json!({"num_inference_steps": 2.5}), "num_inference_steps: invalid type"),
        with(json!({"num_inference_steps": "20"}), "num_inference_steps: invalid type"),
        with(json!({"batch_size": 0}), "asks for no image"),
        with(json!({"batch_size": 65}), "1 to 64"),
        with(json!({"batch_size": u64::MAX}), "1 to 64"),
        with(json!({"seeds": []}), "asks for no image"),
        with(json!({"seeds": (0..65).collect::<Vec<_>>()}), "asks for 65 images"),
        with(json!({"seeds": [1], "batch_size": 2}), "both say the seeds"),
        with(json!({"seeds": [-1]}), "seeds[0]: invalid value"),
        with(json!({"seed": u64::MAX, "batch_size": 2}), "go beyond"),
        with(json!({"scheduler": "dimm"}), "did you mean"),
        with(json!({"scheduler": "FlowMatchEulerDiscreteScheduler"}), "the model was trained with"),
        with(json!({"eta": 1.5, "scheduler": "ddim"}), "from 0 to 1"),
        with(json!({"eta": 0.5}), "eta"),
        with(json!({"class_label": 1}), "no classes"),
        with(json!({"class_labels": [1]}), "no classes"),
        with(json!({"model": "pets"}), "needs a class"),
        with(json!({"model": "pets", "class_label": 3}), "there is no class 3"),
        with(json!({"model": "pets", "class_labels": [0, 1]}), "2 classes for 1 images"),
        with(json!({"model": "pets", "class_label": 1, "class_labels": [1]}), "both say the classes"),
        with(json!({"guidance_scale": 3.0}), "guidance needs a class-conditional model"),
        with(json!({"guide": ["color=#1e90ff:40"]}), "did you mean `colour`?"),
        with(json!({"guide": ["image=/etc/passwd:1"]}), "for the command line"),
        with(json!({"guide": vec!["colour=0.5:1"; 9]}), "at most 8"),
        with(json!({"strength": 0.5}), "add init"),
        with(json!({"mask": {"png": ""}}), "add init"),
        with(json!({"mask_way": "blend"}), "no effect without mask"),
        with(json!({"mask_way": "smear"}), "unknown variant"),
        with(json!({"init": {"png": "%%%"}}), "not base64"),
        with(json!({"init": {"png": "aGVsbG8="}}), "init"),
        with(json!({"init": "aGVsbG8="}), "init: invalid type"),
        with(json!({"init": {"png": LARGE}}), "at most 16777216 are read"),
        with(json!({"init": {"png": HUGE}}), "decompression bomb"),
        with(json!({"interpolate": {"from": 1, "to": 1, "frames": 3}}), "two different seeds"),
        with(json!({"interpolate": {"from": 1, "to": 2, "frames": 1}}), "at least 2"),
        with(json!({"interpolate": {"from": 1, "to": 2}}), "missing field `frames`"),
        with(json!({"interpolate": {"from": 1, "to": 2, "frames": 3}, "seed": 1}), "both say the seeds"),
    ]
}

/// The heads of PNGs that claim 5,000 x 5,000 and 60,000 x 60,000 pixels.
const LARGE: &str = "iVBORw0KGgoAAAANSUhEUgAAE4gAABOICAAAAAB489gXAAAACUlEQVR4nGMAAAABAAFe/335AAAAAElFTkSuQmCC";
const HUGE: &str = "iVBORw0KGgoAAAANSUhEUgAA6mAAAOpgCAAAAACluSqeAAAACUlEQVR4nGMAAAABAAFe/335AAAAAElFTkSuQmCC";
