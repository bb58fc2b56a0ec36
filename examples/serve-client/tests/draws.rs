//! The client draws with a server. `tests/serve.rs` at the top of the repository does the same with `client.py`.

use std::process::Command;
use std::thread;

use kakusan_serve::{Server, Settings};

#[path = "../../../tests/serve/models.rs"]
mod models;

#[test]
fn the_client_draws_and_tells_why_it_cannot() {
    let place = tempfile::tempdir().unwrap();
    models::save(&place.path().join("grey"), 1, None, 0);
    let settings = Settings { runs: place.path().to_owned(), port: 0, ..Settings::default() };
    let server = Server::bind(settings).unwrap();
    let (address, stop) = (format!("http://{}", server.address()), server.stop());
    let server = thread::spawn(move || server.run());
    let file = place.path().join("four.png");
    let draw = |model: &str| {
        let mut client = Command::new(env!("CARGO_BIN_EXE_serve-client"));
        client.arg(model).arg(&file).arg(&address).output().unwrap()
    };
    let drawn = draw("grey");
    let said = String::from_utf8(drawn.stdout).unwrap();
    assert!(drawn.status.success(), "{said}{}", String::from_utf8_lossy(&drawn.stderr));
    assert!(said.contains("the same by: kakusan sample --model "), "{said}");
    assert!(std::fs::read(&file).unwrap().starts_with(b"\x89PNG"));
    let refused = draw("gray");
    let reason = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && reason.contains("did you mean `grey`?"), "{reason}");
    stop.stop();
    server.join().unwrap().unwrap();
}
