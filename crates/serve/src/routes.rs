//! The API: its routes and their description are one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::models::{ModelListed, SchedulerChoice};
use crate::refusal::{Problem, Refusal, blocking};
use crate::server::Shared;
use crate::{draw_routes, run_routes};

const ABOUT: &str = "Draws from diffusion models, and watches trainings. One thread draws; requests wait for it in a \
                     queue, and those that agree in their settings are drawn in one batch. The image of a seed does not \
                     depend on the batch. Names are those of diffusers. Every answer of a status of 400 or above is a \
                     `Problem`. Requests that change something are refused (403) when a page of another site makes them.";

#[derive(OpenApi)]
#[openapi(info(title = "kakusan serve", description = ABOUT), security((), ("token" = [])))]
struct Description;

/// A PNG file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it only names a type in the description")]
pub(crate) struct Png(Vec<u8>);

/// What is said of the whole API.
pub(crate) fn description() -> utoipa::openapi::OpenApi {
    let mut description = Description::openapi();
    let mut components = description.components.take().unwrap_or_default();
    let token =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("Where the server has a token")).build();
    components.add_security_scheme("token", SecurityScheme::Http(token));
    description.components = Some(components);
    description
}

pub(crate) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(openapi))
        .routes(routes!(limits))
        .routes(routes!(models))
        .routes(routes!(schedulers))
        .merge(draw_routes::routes())
        .merge(run_routes::routes())
}

/// This description.
#[utoipa::path(get, path = "/api/openapi.json", tag = "server", responses((status = 200, body = Object)))]
async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], crate::openapi())
}

/// How much may be asked for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "max_images": 64, "max_steps": 1000, "max_queue": 64, "max_per_client": 32, "max_body_bytes": 16777216,
    "max_picture_pixels": 16777216, "max_seconds": 600
}))]
struct LimitsListed {
    /// Images of one request.
    max_images: usize,
    /// Sampling steps.
    max_steps: usize,
    /// Requests that wait.
    max_queue: usize,
    /// Requests of one address that wait or are drawn.
    max_per_client: usize,
    /// Bytes of a request's body.
    max_body_bytes: usize,
    /// Pixels of a picture in a request.
    max_picture_pixels: u64,
    /// Seconds that drawing may take.
    max_seconds: u64,
}

/// How much may be asked for.
#[utoipa::path(get, path = "/api/limits", tag = "server", responses((status = 200, body = LimitsListed)))]
async fn limits(State(shared): State<Arc<Shared>>) -> Json<LimitsListed> {
    let limits = &shared.settings.limits;
    Json(LimitsListed {
        max_images: limits.max_images,
        max_steps: limits.max_steps,
        max_queue: limits.max_queue,
        max_per_client: limits.max_per_client,
        max_body_bytes: limits.max_body_bytes,
        max_picture_pixels: limits.max_picture_pixels,
        max_seconds: limits.max_time.as_secs(),
    })
}

/// The models that can be drawn from.
#[utoipa::path(get, path = "/api/models", tag = "models", responses((status = 200, body = Vec<ModelListed>)))]
async fn models(State(shared): State<Arc<Shared>>) -> Result<Json<Vec<ModelListed>>, Refusal> {
    let models = shared.models.clone();
    blocking(move || Ok(Json(models.all().iter().map(|model| model.listed()).collect()))).await
}

/// The schedulers that fit a model.
#[utoipa::path(
    get, path = "/api/models/{name}/schedulers", tag = "models", params(("name" = String, Path, description = "A model's name")),
    responses((status = 200, body = Vec<SchedulerChoice>), (status = 404, body = Problem))
)]
async fn schedulers(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Vec<SchedulerChoice>>, Refusal> {
    let models = shared.models.clone();
    blocking(move || Ok(Json(models.find(&name)?.fitting(models.registry())))).await
}
