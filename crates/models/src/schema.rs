//! The JSON schemas of the models' configurations.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::json;

use crate::{BasicUNet, BasicUNetConfig, ClassConditionedUnet, UNet2DConfig, UNet2DModel};

/// The schema of the configuration of each of this crate's models, by its class name.
pub fn config_schemas(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
    vec![
        (BasicUNet::CLASS_NAME, BasicUNetConfig::json_schema(generator)),
        (UNet2DModel::CLASS_NAME, UNet2DConfig::json_schema(generator)),
        (ClassConditionedUnet::CLASS_NAME, class_conditioned(UNet2DConfig::json_schema(generator))),
    ]
}

/// The keys of the network, and two of its own.
fn class_conditioned(mut schema: Schema) -> Schema {
    schema.insert("description".to_owned(), "The configuration of `ClassConditionedUnet`.".into());
    if let Some(properties) = schema.get_mut("properties").and_then(|properties| properties.as_object_mut()) {
        // these are refused, because the classes are told otherwise
        properties.retain(|key, _| !["class_embed_type", "num_class_embeds"].contains(&key.as_str()));
        for (key, description) in [
            ("num_classes", "How many classes there are."),
            ("class_emb_size", "The size of a class's embedding: each of its numbers becomes a channel."),
        ] {
            let schema = json!({ "type": "integer", "minimum": 1, "description": description });
            properties.insert(key.to_owned(), schema);
        }
    }
    schema
}
