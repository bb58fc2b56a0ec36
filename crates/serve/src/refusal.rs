//! Why a request is refused, as JSON.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({"error": "num_inference_steps is 5000; at most 1000 are drawn here", "field": "num_inference_steps"}))]
pub(crate) struct Problem {
    /// What is wrong, and what to do.
    pub(crate) error: String,
    /// The field of the request's body that is the cause.
    pub(crate) field: Option<String>,
}

/// A request that is not done.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    status: StatusCode,
    problem: Problem,
    /// Seconds after which it may be tried again.
    retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, problem: Problem { error: error.into(), field: None }, retry_after: None }
    }

    /// A body that is read, but whose `field` cannot be done.
    pub(crate) fn field(field: &str, error: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error).at(field)
    }

    pub(crate) fn at(mut self, field: &str) -> Self {
        self.problem.field = Some(field.to_owned());
        self
    }

    pub(crate) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// This client asks for too much at once.
    pub(crate) fn too_many(error: impl Into<String>) -> Self {
        Self { retry_after: Some(2), ..Self::new(StatusCode::TOO_MANY_REQUESTS, error) }
    }

    /// All clients together ask for too much, or the server stops.
    pub(crate) fn busy(error: impl Into<String>) -> Self {
        Self { retry_after: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, error) }
    }

    pub(crate) fn internal(error: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.problem)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Runs what waits for the disk or computes, away from the threads that answer.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::internal("this request failed unexpectedly; the server is still at work")),
    }
}
