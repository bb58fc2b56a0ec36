//! The routes that draw.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::mpsc::{Sender, channel};
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::draw::{Draw, Stage, State as DrawState};
use crate::draws::STOPPING;
use crate::events::{event, stream};
use crate::guard::Client;
use crate::pictures;
use crate::plan::Plan;
use crate::refusal::{Problem, Refusal, blocking};
use crate::request::{DrawRequest, read};
use crate::routes::Png;
use crate::server::Shared;

pub(crate) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(begin))
        .routes(routes!(state, cancel))
        .routes(routes!(draw_events))
        .routes(routes!(step))
        .routes(routes!(image))
        .routes(routes!(sheet))
        .routes(routes!(images))
}

/// A draw that was accepted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"id": "0-81f0c3d2a5b49e7700ff12ab34cd56ef", "position": 0}))]
struct Accepted {
    /// Its identifier.
    id: String,
    /// How many requests are before it; null if it is drawn already.
    position: Option<usize>,
}

/// Why a request for images is refused, for the description of the API alone.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "the answers themselves are made of `Refusal`")]
enum Refused {
    /// The body cannot be read
    #[response(status = 400)]
    Unreadable(Problem),
    /// There is no such model
    #[response(status = 404)]
    Unknown(Problem),
    /// The body is too large
    #[response(status = 413)]
    TooLarge(Problem),
    /// The field that is named cannot be done
    #[response(status = 422)]
    Impossible(Problem),
    /// This client has too many draws; see Retry-After
    #[response(status = 429)]
    TooMany(Problem),
    /// The queue is full, or the server stops; see Retry-After
    #[response(status = 503)]
    Busy(Problem),
}

/// Draws images.
///
/// The answer comes at once; `/api/draws/{id}/events` tells how far it is. A draw is cancelled when all who listened to
/// its events have been gone for ten seconds, and no client asks for its state.
#[utoipa::path(
    post, path = "/api/draws", tag = "draws", request_body = DrawRequest,
    responses(
        (status = 202, body = Accepted),
        Refused
    )
)]
async fn begin(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Refusal> {
    let draw = admit(&shared, client, request, true).await?;
    let DrawState { id, position, .. } = draw.state();
    let place = HeaderValue::from_str(&format!("/api/draws/{id}")).map_err(|e| Refusal::internal(e.to_string()))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(Accepted { id, position })).into_response())
}

/// Reads and checks a request, and lets it wait.
async fn admit(
    shared: &Arc<Shared>,
    Client(client): Client,
    request: Request,
    trajectory: bool,
) -> Result<Arc<Draw>, Refusal> {
    if shared.draws.is_closed() {
        return Err(Refusal::busy(STOPPING));
    }
    let body = shared.bodies.json(request, &shared.settings.limits).await?;
    let _place = shared.decoding.acquire().await.map_err(|_| Refusal::busy(STOPPING))?;
    let request = read(&body.bytes)?;
    let of_plan = shared.clone();
    let plan = blocking(move || {
        let settings = &of_plan.settings;
        Plan::new(&request, trajectory, &of_plan.models, &settings.limits, &settings.program)
    });
    shared.draws.admit(plan.await?, client)
}

/// The state of a draw.
#[utoipa::path(
    get, path = "/api/draws/{id}", tag = "draws", params(("id" = String, Path, description = "The draw's identifier")),
    responses((status = 200, body = DrawState), (status = 404, body = Problem))
)]
async fn state(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Json<DrawState>, Refusal> {
    let draw = shared.draws.find(&id)?;
    draw.attendance.ask();
    Ok(Json(draw.state()))
}

/// Cancels a draw; forgets one that is finished.
#[utoipa::path(
    delete, path = "/api/draws/{id}", tag = "draws",
    params(("id" = String, Path, description = "The draw's identifier")),
    responses((status = 204), (status = 404, body = Problem))
)]
async fn cancel(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    let draw = shared.draws.find(&id)?;
    shared.draws.cancel(&draw, "it was cancelled");
    Ok(StatusCode::NO_CONTENT)
}

/// Counts as somebody who listens to a draw, until it is dropped.
struct Listening(Arc<Draw>);

impl Listening {
    fn to(draw: Arc<Draw>) -> Self {
        draw.attendance.come();
        Self(draw)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.attendance.leave();
    }
}

/// Tells how far a draw is, by server-sent events.
///
/// The `data` of each is the draw's state. `state` comes first, and when the place in the queue changes; `step` after a
/// step; `done`, `failed` or a last `state` (cancelled) end the stream. A client that is slower than the drawing misses
/// steps, not the last one.
#[utoipa::path(
    get, path = "/api/draws/{id}/events", tag = "draws",
    params(("id" = String, Path, description = "The draw's identifier")),
    responses(
        (status = 200, body = DrawState, content_type = "text/event-stream"),
        (status = 404, body = Problem),
        (status = 503, body = Problem, description = "Too many streams are open; see Retry-After")
    )
)]
async fn draw_events(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let draw = shared.draws.find(&id)?;
    let place = shared.stream_place()?;
    let (sender, receiver) = channel(4);
    let listening = Listening::to(draw.clone());
    tokio::spawn(tell(draw, sender));
    Ok(stream(receiver, (listening, place)))
}

async fn tell(draw: Arc<Draw>, events: Sender<String>) {
    let (mut changes, mut told) = (draw.changes(), None);
    loop {
        let state = draw.state();
        let name = match state.state {
            Stage::Done => "done",
            Stage::Failed => "failed",
            Stage::Drawing if state.step > 0 && told.is_some_and(|told| told != state.step) => "step",
            _ => "state",
        };
        told = Some(state.step);
        if events.send(event(name, &state)).await.is_err() || state.state.is_over() {
            return;
        }
        tokio::select! {
            () = changes.next() => {}
            () = events.closed() => return,
        }
    }
}

/// The images of a step, side by side in the order of their seeds, without margins; 1 is white, also in grey ones.
///
/// Step 0 is the noise, the last one the finished images.
#[utoipa::path(
    get, path = "/api/draws/{id}/steps/{file}", tag = "draws",
    params(
        ("id" = String, Path, description = "The draw's identifier"),
        ("file" = String, Path, description = "The step and .png", example = "0.png")
    ),
    responses((status = 200, body = Png, content_type = "image/png"), (status = 404, body = Problem))
)]
async fn step(
    State(shared): State<Arc<Shared>>,
    Path((id, file)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let (draw, step) = (shared.draws.find(&id)?, number(&file)?);
    let bytes = draw.step(step).ok_or_else(|| {
        Refusal::not_found(match draw.plan.settings.trajectory {
            true => format!("there are no images of step {step} yet"),
            false => "the steps of this draw are not kept: ask with trajectory true".to_owned(),
        })
    })?;
    let shape = draw.plan.model.shape;
    let png = blocking(move || pictures::strip(&bytes, shape)).await?;
    Ok(picture(png, None))
}

/// A finished image as a PNG of its own size, with its settings in the file's text; 1 is white, also in a grey one.
#[utoipa::path(
    get, path = "/api/draws/{id}/images/{file}", tag = "draws",
    params(
        ("id" = String, Path, description = "The draw's identifier"),
        ("file" = String, Path, description = "The image's number from 0 and .png", example = "0.png")
    ),
    responses(
        (status = 200, body = Png, content_type = "image/png"),
        (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The draw is not finished")
    )
)]
async fn image(
    State(shared): State<Arc<Shared>>,
    Path((id, file)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let (draw, i) = (shared.draws.find(&id)?, number(&file)?);
    let name = match (&draw.plan.settings.interpolate, draw.plan.settings.seeds.get(i)) {
        (None, Some(seed)) => format!("seed-{seed}.png"),
        _ => format!("{i:04}.png"),
    };
    let png = blocking(move || pictures::image(&draw, i)).await?;
    Ok(picture(png, Some(&name)))
}

/// All finished images on one sheet, as `kakusan sample` draws it: grey images as dark ink on white.
#[utoipa::path(
    get, path = "/api/draws/{id}/sheet.png", tag = "draws",
    params(("id" = String, Path, description = "The draw's identifier")),
    responses(
        (status = 200, body = Png, content_type = "image/png"),
        (status = 404, body = Problem),
        (status = 409, body = Problem, description = "The draw is not finished")
    )
)]
async fn sheet(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let draw = shared.draws.find(&id)?;
    let png = blocking(move || pictures::sheet(&draw)).await?;
    Ok(picture(png, Some("samples.png")))
}

/// Cancels a draw, unless it is finished, when its client goes; forgets it otherwise.
struct Waiting {
    shared: Arc<Shared>,
    listening: Listening,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.draws.cancel(&self.listening.0, "its client has gone");
    }
}

/// Draws images, and answers when they are there: one image with its own pixels, or the sheet of several.
///
/// Closing the connection cancels it.
#[utoipa::path(
    post, path = "/api/images", tag = "draws", request_body = DrawRequest,
    responses(
        (status = 200, body = Png, content_type = "image/png"),
        Refused,
        (status = 500, body = Problem, description = "The drawing failed")
    )
)]
async fn images(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Response, Refusal> {
    let draw = admit(&shared, client, request, false).await?;
    let waiting = Waiting { shared: shared.clone(), listening: Listening::to(draw.clone()) };
    let mut changes = draw.changes();
    while !draw.stage().is_over() {
        changes.next().await;
    }
    let state = draw.state();
    let why = state.error.unwrap_or_default();
    match state.state {
        Stage::Done => {}
        Stage::Failed if why != STOPPING => return Err(Refusal::internal(why)),
        _ => return Err(Refusal::busy(why)),
    }
    let drawn = draw.clone();
    let png =
        blocking(move || if drawn.plan.count == 1 { pictures::image(&drawn, 0) } else { pictures::sheet(&drawn) });
    let png = png.await?;
    drop(waiting);
    Ok(picture(png, None))
}

/// The number in the name of a picture.
fn number(file: &str) -> Result<usize, Refusal> {
    let number = file.strip_suffix(".png").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    number
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Refusal::not_found("there is no such picture: its name is a number and .png, as in 0.png"))
}

/// The answer with a picture that will never change.
fn picture(png: Vec<u8>, name: Option<&str>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("image/png")),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600, immutable")),
    ];
    let mut answer = (headers, png).into_response();
    let disposition = name.map(|name| HeaderValue::from_str(&format!("inline; filename=\"{name}\"")));
    if let Some(Ok(disposition)) = disposition {
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    }
    answer
}
