//! Programs with errors, and strangers.

use std::time::Duration;

use kakusan_serve::{Limits, Server, Settings};
use serde_json::{Value, json};

use crate::{Within, malformed, models, workplace};

#[test]
fn malformed_requests_get_a_reason_and_do_no_harm() {
    let place = workplace();
    std::os::unix::fs::symlink("/etc", place.path("runs/outside")).unwrap();
    models::save(&place.path("elsewhere/secret"), 1, None, 2);
    std::os::unix::fs::symlink(place.path("elsewhere/secret"), place.path("runs/link")).unwrap();
    let server = Within::start(&place, Limits::default());
    let client = server.client;
    let all = malformed::all();
    assert!(all.len() >= 50);
    for malformed::Malformed { text, statuses, reason } in all {
        let shown: String = String::from_utf8_lossy(&text).chars().take(400).collect();
        let answer = client.raw(&text).unwrap_or_else(|| panic!("no answer to {shown}"));
        assert!(statuses.contains(&answer.status), "{shown}\n{answer:?}");
        assert!(reason.is_empty() || answer.reason().contains(reason), "{shown}\n{}", answer.reason());
    }
    let names: Vec<Value> = client
        .get("/api/models")
        .expect(200)
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["name"].clone())
        .collect();
    assert_eq!(names, ["grey", "pets"]);
    assert!(client.post("/api/draws", &json!({"model": "link"})).expect(404).reason().contains("known are grey, pets"));
    client.post("/api/images", &json!({"model": "grey", "num_inference_steps": 1})).expect(200);

    // those that are slow to say what they want are not waited for
    let limits = Limits { max_read_time: Duration::from_millis(200), ..Limits::default() };
    let server = Within::start(&place, limits);
    let unfinished = server.client.raw(b"GET / HTTP/1.1\r\nHost: loc");
    assert!(unfinished.is_none_or(|answer| answer.status == 408), "the head is waited for");
    let head =
        "POST /api/draws HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    let slow = server.client.raw(head.as_bytes()).unwrap().expect(408);
    assert!(slow.reason().contains("did not arrive within"), "{slow:?}");
}

#[test]
fn strangers_are_refused() {
    let place = workplace();
    let server = Within::start(&place, Limits::default());
    let client = server.client;
    let port = client.0;
    let get = |host: &str| client.send("GET", "/api/models", &format!("Host: {host}\r\n"), "");
    for own in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:7860"] {
        get(own).expect(200);
    }
    for other in ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", "a b", ""] {
        assert!(get(other).expect(403).reason().contains("another name"), "{other}");
    }
    let delete = |headers: &str| client.send("DELETE", "/api/draws/none", headers, "").status;
    let own = format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(delete(&own), 404);
    for origin in ["http://evil.example", "null", "http://localhost:1", "https://localhost"] {
        assert_eq!(delete(&format!("Host: localhost:{port}\r\nOrigin: {origin}\r\n")), 403, "{origin}");
    }
    assert_eq!(delete("Sec-Fetch-Site: cross-site\r\n"), 403);
    let page = client.get("/").expect(200);
    for header in [
        "content-security-policy: default-src 'self'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "frame-ancestors 'none'",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(page.has(header), "{header}: {}", page.head);
    }
    assert!(!page.has("access-control-allow"), "{}", page.head);

    // others may come with the token alone
    let open = Settings { host: "0.0.0.0".into(), port: 0, runs: place.path("runs"), ..Settings::default() };
    assert!(Server::bind(open.clone()).unwrap_err().to_string().contains("KAKUSAN_TOKEN"));
    let short = Settings { token: Some("short".into()), ..open.clone() };
    assert!(Server::bind(short).unwrap_err().to_string().contains("at least 16"));
    let token = "0123456789abcdef";
    let server =
        Within::with(Settings { token: Some(token.into()), allowed_hosts: vec!["box.example".into()], ..open });
    let get = |path: &str, headers: &str| server.client.send("GET", path, headers, "");
    for wrong in [
        "",
        "Authorization: Bearer 0123456789abcdeg\r\n",
        "Authorization: Bearer\r\n",
        "Authorization: Basic 0123456789abcdef\r\n",
        "Cookie: kakusan_1=0123456789abcdef\r\n",
    ] {
        for path in ["/", "/page.js", "/api/models", "/api/openapi.json", "/nothing"] {
            let refused = get(path, wrong).expect(401);
            assert!(refused.reason().contains("token") && refused.has("www-authenticate: bearer"), "{refused:?}");
        }
    }
    get("/api/models", &format!("Authorization: Bearer {token}\r\n")).expect(200);
    get("/api/models", &format!("Host: box.example\r\nAuthorization: bearer {token}\r\n")).expect(200);
    get("/api/models", &format!("Host: 10.0.0.1:80\r\nAuthorization: Bearer {token}\r\n")).expect(200);
    get("/api/models", &format!("Host: evil.example\r\nAuthorization: Bearer {token}\r\n")).expect(403);
    get("/?token=wrong", "").expect(401);
    let welcome = get(&format!("/?token={token}"), "").expect(303);
    let cookie = format!("kakusan_{}={token}", server.client.0);
    assert!(welcome.has(&format!("set-cookie: {cookie}; HttpOnly; SameSite=Strict")) && welcome.has("location: /"));
    get("/", &format!("Cookie: a=b; {cookie}\r\n")).expect(200);
}
