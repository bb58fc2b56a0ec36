//! A server that draws on request: with progress, a queue of bounded length, and no work for a client that has left.
//!
//!     cargo run --release --package server -- runs/184-v
//!     curl --no-buffer 'http://127.0.0.1:8080/draw?seed=7&steps=30'

use std::{convert::Infallible, ops::ControlFlow, sync::mpsc};

use axum::extract::{Query, State};
use axum::response::{Html, IntoResponse, Response, Sse, sse::Event};
use axum::{Router, http::StatusCode, routing::get};
use base64::prelude::{BASE64_STANDARD, Engine};
use kakusan::pipeline::{DDPMPipeline, Registry, Result, SampleOptions};
use kakusan::report::pictures::{Images, file};
use kakusan::{candle::Device, rng::Generator};
use tokio::sync::watch;

type Reports = watch::Sender<Report>;

#[derive(serde::Deserialize)]
struct Job {
    seed: u64,
    steps: usize,
    class: Option<u32>,
}

/// What a client learns: only the newest is kept, so that a slow client costs neither memory nor the worker's time.
enum Report {
    Step(usize, usize), // 3 of 50
    Done(Vec<u8>),      // a PNG
    Failed(kakusan::pipeline::Error),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "runs/184-v".into());
    let pipeline = DDPMPipeline::from_pretrained(dir.as_ref(), &Registry::default(), &Device::Cpu)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, server(pipeline)).await?)
}

fn server(pipeline: DDPMPipeline) -> Router {
    let (jobs, queue) = mpsc::sync_channel::<(Job, Reports)>(16); // at most 16 jobs wait
    std::thread::spawn(move || {
        for (job, reports) in queue.into_iter().filter(|(_, reports)| !reports.is_closed()) {
            let _ = reports.send(draw(&pipeline, &job, &reports).map_or_else(Report::Failed, Report::Done));
        }
    });
    Router::new().route("/", get(Html(include_str!("page.html")))).route("/draw", get(answer)).with_state(jobs)
}

fn draw(pipeline: &DDPMPipeline, job: &Job, reports: &Reports) -> Result<Vec<u8>> {
    let options = SampleOptions::new(1).steps(job.steps).class_labels(job.class.map(|class| vec![class]));
    let images = pipeline.sample_with(&options, &mut Generator::new(job.seed), |step| {
        let sent = reports.send(Report::Step(step.index + 1, step.steps));
        if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) } // the client has left
    })?;
    let (_, channels, height, width) = images.dims4()?;
    let pixels = pipeline.scheduler().process().pixel_range().to_unit(&images)?.flatten_all()?.to_vec1()?;
    Ok(file(Images { pixels: &pixels, channels, height, width }, &[])?)
}

async fn answer(State(jobs): State<mpsc::SyncSender<(Job, Reports)>>, Query(job): Query<Job>) -> Response {
    let (reports, news) = watch::channel(Report::Step(0, job.steps));
    if !(1..=1000).contains(&job.steps) {
        return (StatusCode::BAD_REQUEST, "steps: expected 1 to 1000\n").into_response();
    } else if jobs.try_send((job, reports)).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "16 jobs are waiting: try again later\n").into_response();
    }
    let events = futures_util::stream::unfold(news, |mut news| async {
        news.changed().await.ok()?; // an error after the last report
        let event = match &*news.borrow_and_update() {
            Report::Step(done, of) => Event::default().event("progress").data(format!("{done}/{of}")),
            Report::Done(png) => Event::default().event("image").data(BASE64_STANDARD.encode(png)),
            Report::Failed(reason) => Event::default().event("failed").data(reason.to_string()),
        };
        Some((Ok::<_, Infallible>(event), news))
    });
    Sse::new(events).into_response()
}

#[cfg(test)]
mod tests;
