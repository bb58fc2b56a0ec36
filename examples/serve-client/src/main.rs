//! Draws with a server of `kakusan serve`, prints each step, and saves the picture.
//!
//! cargo run -p serve-client -- MODEL [FILE.png] [http://127.0.0.1:7860]
//!
//! `client.py` next to this file is the same in Python.

use std::error::Error;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().ok_or("name a model, one of those that /api/models lists")?;
    let file = args.next().unwrap_or_else(|| "four.png".into());
    let server = args.next().unwrap_or_else(|| "http://127.0.0.1:7860".into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(draw(&server, &model, &file))
}

async fn draw(server: &str, model: &str, file: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::new();
    let body = json!({"model": model, "batch_size": 4, "seed": 7, "num_inference_steps": 20});
    let request = client.post(format!("{server}/api/draws")).header("content-type", "application/json");
    let accepted: Value = serde_json::from_slice(&send(request.body(body.to_string())).await?.bytes().await?)?;
    let id = accepted["id"].as_str().ok_or("the server gave no identifier")?;
    let address = format!("{server}/api/draws/{id}");

    // events are separated by an empty line
    let (mut events, mut text) = (send(client.get(format!("{address}/events"))).await?, vec![]);
    while let Some(chunk) = events.chunk().await? {
        text.extend_from_slice(&chunk);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            follow(&String::from_utf8(event)?)?;
        }
    }
    let picture = send(client.get(format!("{address}/sheet.png"))).await?.bytes().await?;
    std::fs::write(file, picture)?;
    println!("{file}");
    Ok(())
}

/// Prints how far the draw is.
fn follow(event: &str) -> Result<(), Box<dyn Error>> {
    let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else { return Ok(()) };
    let state: Value = serde_json::from_str(data)?;
    match state["state"].as_str() {
        Some("waiting") => println!("{} before this one", state["position"]),
        Some("drawing") => println!("step {} of {}", state["step"], state["steps"]),
        Some("done") => println!("the same by: {}", state["command"].as_str().unwrap_or_default()),
        _ => return Err(state["error"].as_str().unwrap_or("it was not drawn").into()),
    }
    Ok(())
}

/// Sends a request, with the server's token if it has one; the reason of a refusal is an error.
async fn send(request: RequestBuilder) -> Result<Response, Box<dyn Error>> {
    let answer = match std::env::var("KAKUSAN_TOKEN") {
        Ok(token) => request.bearer_auth(token).send().await?,
        Err(_) => request.send().await?,
    };
    if answer.status().is_success() {
        return Ok(answer);
    }
    let problem: Value = serde_json::from_slice(&answer.bytes().await?)?;
    Err(problem["error"].as_str().unwrap_or("the server refused").into())
}
