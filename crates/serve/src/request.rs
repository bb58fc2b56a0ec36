//! The body of a draw, as clients write it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::refusal::Refusal;

/// What to draw. The names are those of diffusers where it has any.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "184", "batch_size": 4, "seed": 0, "num_inference_steps": 20}))]
pub(crate) struct DrawRequest {
    /// The name of a model, as `/api/models` lists it.
    pub(crate) model: String,
    /// The number of images, with the seeds `seed`, `seed + 1` ... [default: 1]
    pub(crate) batch_size: Option<usize>,
    /// The seed of each image, instead of `seed` and `batch_size`.
    pub(crate) seeds: Option<Vec<u64>>,
    /// The seed of the first image. [default: 0]
    pub(crate) seed: Option<u64>,
    /// Sampling steps. [default: the model's, as listed]
    pub(crate) num_inference_steps: Option<usize>,
    /// The class of the scheduler, `DDIMScheduler` or `ddim`. [default: the model's]
    pub(crate) scheduler: Option<String>,
    /// The share of fresh noise in each step, 0 to 1, for schedulers such as DDIM.
    pub(crate) eta: Option<f64>,
    /// The class of all images, by its number, for a model that has classes. A class that has several labels takes them
    /// in turn.
    pub(crate) class_label: Option<u32>,
    /// The class of each image; fewer than the images take turns.
    pub(crate) class_labels: Option<Vec<u32>>,
    /// Classifier-free guidance; 1 is off. [default: 1]
    pub(crate) guidance_scale: Option<f64>,
    /// Losses that guide the sampling, `colour=#1e90ff:40` or `brightness=0.8:20`.
    pub(crate) guide: Option<Vec<String>>,
    /// Whether the images of each step are kept. [default: true; false for `/api/images`]
    pub(crate) trajectory: Option<bool>,
    /// A picture to start from, instead of noise.
    pub(crate) init: Option<Picture>,
    /// The share of the steps that is done from `init`, above 0 and up to 1. [default: 0.6; with `mask` 1]
    pub(crate) strength: Option<f64>,
    /// Where `init` is repainted: white. As large as `init`, or as the model's images.
    pub(crate) mask: Option<Picture>,
    /// How it is repainted. [default: blend]
    pub(crate) mask_way: Option<MaskWay>,
    /// Images on the way from the noise of one seed to that of another, instead of `seeds`.
    pub(crate) interpolate: Option<Interpolate>,
}

/// A picture in a request: PNG, JPEG, WebP, GIF, TIFF or BMP.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Picture {
    /// The bytes of its file in base64; a `data:` URL is read, too.
    pub(crate) png: String,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture of {} letters", self.png.len())
    }
}

/// How the masked part of a picture is repainted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MaskWay {
    /// The rest of the picture is put back after each step, noised.
    Blend,
    /// RePaint: some steps are also undone and done again.
    Repaint,
}

/// The ends of an interpolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Interpolate {
    /// The seed of the first image.
    pub(crate) from: u64,
    /// The seed of the last image.
    pub(crate) to: u64,
    /// The number of images, with both ends.
    pub(crate) frames: usize,
}

const FIELDS: [&str; 17] = [
    "model",
    "batch_size",
    "seeds",
    "seed",
    "num_inference_steps",
    "scheduler",
    "eta",
    "class_label",
    "class_labels",
    "guidance_scale",
    "guide",
    "trajectory",
    "init",
    "strength",
    "mask",
    "mask_way",
    "interpolate",
];

/// Reads a body. The error names the field, and the nearest right name of one that does not exist.
pub(crate) fn read(body: &[u8]) -> Result<DrawRequest, Refusal> {
    let bad = |reason: String| Refusal::new(axum::http::StatusCode::BAD_REQUEST, reason);
    let value: Value = serde_json::from_slice(body).map_err(|e| bad(format!("the body is not JSON: {e}")))?;
    let fields: &Map<String, Value> = value
        .as_object()
        .ok_or_else(|| bad("the body is JSON, but not an object, as in {\"model\": \"184\", \"seed\": 0}".into()))?;
    if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let hint = kakusan_config::did_you_mean(unknown, &FIELDS);
        let name: String = unknown.chars().take(80).flat_map(char::escape_debug).collect();
        return Err(Refusal::field(&name, format!("there is no field `{name}`{hint}")));
    }
    if !fields.contains_key("model") {
        return Err(Refusal::field("model", "`model` is missing: name one that GET /api/models lists"));
    }
    serde_path_to_error::deserialize(&value).map_err(|e| {
        let path = e.path().to_string();
        let field = path.split(['.', '[']).next().unwrap_or_default();
        Refusal::field(field, format!("{path}: {}", e.inner()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_struct() {
        use utoipa::PartialSchema;
        let schema = serde_json::to_value(DrawRequest::schema()).unwrap();
        let mut of_schema: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut fields = FIELDS.to_vec();
        of_schema.sort_unstable();
        fields.sort_unstable();
        assert_eq!(of_schema, fields);
        assert_eq!(schema["required"], serde_json::json!(["model"]));
        let example = schema["example"].to_string();
        assert_eq!(read(example.as_bytes()).unwrap().batch_size, Some(4));
    }
}
