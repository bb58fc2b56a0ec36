//! The routes that watch runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::mpsc::{Sender, channel};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::events::{event, stream};
use crate::listen::stopped;
use crate::refusal::{Problem, Refusal, blocking};
use crate::routes::Png;
use crate::runs::{RunDetails, RunRecords, RunSummary, Runs, pictures};
use crate::server::Shared;

/// How often runs that somebody watches are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// The most runs that a stream tells the steps of.
const MOST_RUNS: usize = 16;

pub(crate) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(runs))
        .routes(routes!(run))
        .routes(routes!(metrics))
        .routes(routes!(run_events))
        .routes(routes!(picture))
}

/// The runs, the one whose log grew last first.
#[utoipa::path(get, path = "/api/runs", tag = "runs", responses((status = 200, body = Vec<RunSummary>)))]
async fn runs(State(shared): State<Arc<Shared>>) -> Result<Json<Vec<RunSummary>>, Refusal> {
    let runs = shared.runs.clone();
    blocking(move || Ok(Json(runs.all()))).await
}

/// One run.
#[utoipa::path(
    get, path = "/api/runs/{name}", tag = "runs", params(("name" = String, Path, description = "The run's name")),
    responses((status = 200, body = RunDetails), (status = 404, body = Problem))
)]
async fn run(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Json<RunDetails>, Refusal> {
    let runs = shared.runs.clone();
    blocking(move || runs.details(&name).map(Json)).await
}

/// The steps of a run so far.
#[utoipa::path(
    get, path = "/api/runs/{name}/metrics", tag = "runs",
    params(
        ("name" = String, Path, description = "The run's name"),
        ("from" = Option<usize>, Query, description = "The first step that is wanted")
    ),
    responses((status = 200, body = RunRecords), (status = 404, body = Problem), (status = 422, body = Problem))
)]
async fn metrics(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<RunRecords>, Refusal> {
    let from = match query.get("from").map(|text| text.parse()) {
        None => 0,
        Some(Ok(from)) => from,
        Some(Err(_)) => return Err(Refusal::field("from", "from is the number of a step, as in ?from=0")),
    };
    let runs = shared.runs.clone();
    blocking(move || runs.records(&name, from).map(|(records, _)| Json(RunRecords::new(records, from)))).await
}

/// New steps of a run.
#[derive(Debug, Serialize, ToSchema)]
struct NewRecords {
    /// The run.
    name: String,
    #[serde(flatten)]
    new: RunRecords,
    /// Whether the log was replaced, so that earlier records count no more: the training resumed from a checkpoint.
    restarted: bool,
}

/// Pictures of a run that are new or have changed.
#[derive(Debug, Serialize, ToSchema)]
struct NewPictures {
    /// The run.
    name: String,
    /// Their names.
    pictures: Vec<String>,
}

/// The data of an event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it only names the types in the description")]
enum RunEvent {
    /// Of `runs`.
    Runs(Vec<RunSummary>),
    /// Of `records`.
    Records(NewRecords),
    /// Of `pictures`.
    Pictures(NewPictures),
}

/// Tells what the runs do, by server-sent events.
///
/// `runs` comes first, and whenever something in the list of runs changes: its data is that of `/api/runs`. `records`
/// (`NewRecords`) has the steps that a run named by `runs` has done since the stream began, and `pictures`
/// (`NewPictures`) the names of its pictures that are new or have changed since; `/api/runs/{name}/metrics` and
/// `/api/runs/{name}` have what was there before. The stream ends when the server stops.
#[utoipa::path(
    get, path = "/api/events", tag = "runs",
    params(("runs" = Option<String>, Query, description = "The runs whose steps and pictures are told", example = "184,ema")),
    responses(
        (status = 200, body = RunEvent, content_type = "text/event-stream"),
        (status = 422, body = Problem),
        (status = 503, body = Problem, description = "Too many streams are open; see Retry-After")
    )
)]
async fn run_events(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let named = query.get("runs").map_or("", String::as_str).split(',').filter(|name| !name.is_empty());
    let told: Vec<Told> = named.map(Told::new).collect();
    if told.len() > MOST_RUNS {
        let reason = format!("{} runs are too many to watch at once: name up to {MOST_RUNS}", told.len());
        return Err(Refusal::field("runs", reason));
    }
    let place = shared.stream_place()?;
    let (sender, receiver) = channel(4);
    tokio::spawn(tell(shared, told, sender));
    Ok(stream(receiver, place))
}

/// What a stream has told of a run.
struct Told {
    name: String,
    /// The next step, once the run was looked at.
    next: Option<usize>,
    generation: usize,
    pictures: HashMap<String, (u64, Option<SystemTime>)>,
}

impl Told {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), next: None, generation: 0, pictures: HashMap::new() }
    }

    /// The events of the run since the last look; a run that does not exist has none.
    fn look(&mut self, runs: &Runs) -> Vec<String> {
        let (mut events, name) = (vec![], self.name.clone());
        let Ok((dir, (records, generation))) =
            runs.find(&name).and_then(|dir| Ok((dir, runs.records(&name, self.next.unwrap_or(0))?)))
        else {
            return events;
        };
        let restarted = self.next.is_some() && generation != self.generation;
        let records = match restarted {
            true => runs.records(&name, 0).map(|(records, _)| records).unwrap_or_default(),
            false => records,
        };
        let is_first = self.next.is_none();
        let new = RunRecords::new(records, if restarted { 0 } else { self.next.unwrap_or(0) });
        (self.next, self.generation) = (Some(new.next), generation);
        if !is_first && (restarted || !new.records.is_empty()) {
            events.push(event("records", &NewRecords { name: name.clone(), new, restarted }));
        }
        let now = pictures(&dir).into_iter().map(|(name, about)| (name, (about.len(), about.modified().ok())));
        let now: HashMap<_, _> = now.collect();
        let is_new = |(name, about): &(&String, &(u64, Option<SystemTime>))| self.pictures.get(*name) != Some(*about);
        let mut new: Vec<String> = now.iter().filter(is_new).map(|(name, _)| name.clone()).collect();
        if !is_first && !new.is_empty() {
            new.sort();
            events.push(event("pictures", &NewPictures { name, pictures: new }));
        }
        self.pictures = now;
        events
    }
}

async fn tell(shared: Arc<Shared>, mut told: Vec<Told>, sender: Sender<String>) {
    let (mut list, mut stop) = (None, shared.stop.clone());
    loop {
        let runs = shared.runs.clone();
        let look = blocking(move || {
            let mut events: Vec<String> = told.iter_mut().flat_map(|told| told.look(&runs)).collect();
            let now = runs.all();
            if list.as_ref() != Some(&now) {
                events.insert(0, event("runs", &now));
            }
            Ok((events, told, now))
        });
        let Ok((events, of_runs, now)) = look.await else { return };
        (told, list) = (of_runs, Some(now));
        for event in events {
            if sender.send(event).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = sender.closed() => return,
            () = stopped(&mut stop) => return,
        }
    }
}

/// A picture of a run.
#[utoipa::path(
    get, path = "/api/runs/{name}/pictures/{file}", tag = "runs",
    params(
        ("name" = String, Path, description = "The run's name"),
        ("file" = String, Path, description = "The picture's name, as listed", example = "samples.png")
    ),
    responses((status = 200, body = Png, content_type = "image/png"), (status = 404, body = Problem))
)]
async fn picture(
    State(shared): State<Arc<Shared>>,
    Path((name, file)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let runs = shared.runs.clone();
    let (bytes, kind) = blocking(move || runs.picture(&name, &file)).await?;
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers.map(|(name, value)| (name, HeaderValue::from_static(value))), bytes).into_response())
}
