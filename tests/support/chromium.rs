//! Chromium without a window, driven by its DevTools protocol: JSON messages through two pipes, each ended by a zero.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

/// How long a condition may take to become true.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page.
pub(crate) struct Chromium {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    last_id: u64,
    /// What the page complained of: exceptions and refused content.
    pub(crate) complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

/// The browser's program: that of the variable `CHROMIUM`, else the first in `PATH`.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return Some(named.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    places.find(|place| place.is_file())
}

impl Chromium {
    pub(crate) fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Chromium reads commands from file 3 and writes answers to file 4: here, our ends of its input and output.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#])
            .arg(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--lang=en-US"])
            .args(["--remote-debugging-pipe", "--no-first-run", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser =
            Self { child, commands, answers, session: None, last_id: 0, complaints: vec![], _profile: profile };
        browser.open("about:blank");
        browser
    }

    /// Opens another tab and turns to it. Returns what [`turn_to`](Self::turn_to) needs to come back.
    pub(crate) fn open(&mut self, url: &str) -> Option<String> {
        let before = self.session.take();
        let target = self.call("Target.createTarget", json!({ "url": url }))["targetId"].clone();
        let attached = self.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        before
    }

    pub(crate) fn turn_to(&mut self, session: Option<String>) {
        self.session = session;
        self.call("Page.bringToFront", json!({}));
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut bytes = vec![];
            self.answers.read_until(0, &mut bytes).unwrap();
            assert_eq!(bytes.pop(), Some(0), "the browser has ended during {method}");
            let answer: Value = serde_json::from_slice(&bytes).unwrap();
            self.listen(&answer);
            if answer["id"] == json!(self.last_id) {
                return answer.get("error").map_or_else(|| Ok(answer["result"].clone()), |error| Err(error.clone()));
            }
        }
    }

    /// Remembers what a page complains of. A server that is down or refuses a request is no fault of the page.
    fn listen(&mut self, event: &Value) {
        let complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &event["params"]["exceptionDetails"],
            Some("Log.entryAdded") if is_fault(&event["params"]["entry"]) => &event["params"]["entry"],
            _ => return,
        };
        self.complaints.push(complaint.to_string());
    }

    pub(crate) fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// The value of an expression of JavaScript; of a promise, what it resolves to.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        self.try_value(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn try_value(&mut self, expression: &str) -> Result<Value, Value> {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.try_call("Runtime.evaluate", params)?;
        match answer.get("exceptionDetails") {
            Some(exception) => Err(exception.clone()),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    /// Waits until an expression is true. While a page loads, what it reads may not be there.
    pub(crate) fn wait(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        while self.try_value(&format!("(async () => Boolean(await ({expression})))()")) != Ok(json!(true)) {
            if Instant::now() > end {
                let text = self.value("document.body.innerText");
                panic!("not within {PATIENCE:?}: {expression}\n{}\n{:?}", text.as_str().unwrap_or(""), self.complaints);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where an element is, after it has come into view: left, top, width, height.
    pub(crate) fn place(&mut self, selector: &str) -> [f64; 4] {
        self.wait(&format!("document.querySelector({selector:?})?.checkVisibility()"));
        let place = self.value(&format!(
            "(() => {{ const element = document.querySelector({selector:?});
                element.scrollIntoView({{ block: 'center', behavior: 'instant' }});
                const {{ x, y, width, height }} = element.getBoundingClientRect(); return [x, y, width, height] }})()"
        ));
        std::array::from_fn(|i| place[i].as_f64().unwrap())
    }

    fn mouse(&mut self, kind: &str, x: f64, y: f64) {
        let params = json!({ "type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1 });
        self.call("Input.dispatchMouseEvent", params);
    }

    pub(crate) fn click(&mut self, selector: &str) {
        let [left, top, width, height] = self.place(selector);
        let (x, y) = (left + width / 2.0, top + height / 2.0);
        self.mouse("mousePressed", x, y);
        self.mouse("mouseReleased", x, y);
    }

    /// Presses the pointer on an element, drags it through points in 0..1 of its size, and lets it go.
    pub(crate) fn drag(&mut self, selector: &str, points: &[[f64; 2]]) {
        let [left, top, width, height] = self.place(selector);
        let at = |[x, y]: [f64; 2]| (left + x * width, top + y * height);
        let (first, last) = (at(points[0]), at(points[points.len() - 1]));
        self.mouse("mousePressed", first.0, first.1);
        for &point in points {
            let (x, y) = at(point);
            self.mouse("mouseMoved", x, y);
        }
        self.mouse("mouseReleased", last.0, last.1);
    }

    /// Presses a key such as `ArrowLeft` where the focus is.
    pub(crate) fn key(&mut self, key: &str) {
        let code = match key {
            "End" => 35,
            "Home" => 36,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            " " => 32,
            _ => panic!("no code of the key {key} is known"),
        };
        for kind in ["keyDown", "keyUp"] {
            let params = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// The size of the page, and the theme that the system asks for.
    pub(crate) fn resize(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let theme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [theme] }));
    }

    /// Saves a picture of the whole page.
    pub(crate) fn photograph(&mut self, file: &Path) {
        let height = self.value("document.documentElement.scrollHeight");
        let width = self.value("innerWidth");
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let answer = self
            .call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true, "clip": clip }));
        let bytes = base64::engine::general_purpose::STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
}

/// Whether a line of the browser's log is the page's fault: the server may be down, and this test reads many pixels.
fn is_fault(entry: &Value) -> bool {
    entry["source"] != "network" && entry["source"] != "rendering"
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
