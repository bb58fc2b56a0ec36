//! The JSON schema of configuration files, for editors.

use kakusan_data::DataConfig;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::config::SampleConfig;
use super::document::{CLASS_NAME, NULL};
use super::origin::FROM;
use crate::{Registry, TrainConfig};

/// The JSON schema (draft 7) of a configuration file: all tables and keys with their types, defaults and descriptions,
/// and the models and schedulers of the default [`Registry`], by their `_class_name`. It refuses unknown keys as
/// [`RunConfig`](crate::RunConfig) does, but knows less of ranges and of what goes together.
///
/// ```
/// let schema = kakusan_pipeline::config_schema();
/// assert!(schema["properties"]["train"]["properties"]["epochs"]["description"].is_string());
/// ```
pub fn config_schema() -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let data = DataConfig::json_schema(&mut generator).to_value();
    let train = TrainConfig::json_schema(&mut generator).to_value();
    let sample = SampleConfig::json_schema(&mut generator).to_value();
    let models = kakusan_models::config_schemas(&mut generator);
    let schedulers = kakusan_scheduler::config_schemas(&mut generator);
    let registry = Registry::default();
    let of_model = |name: &str| registry.models.defaults(name).unwrap_or_default();
    let of_scheduler = |name: &str| {
        registry.schedulers.build(name, &Map::new()).map(|scheduler| scheduler.config()).unwrap_or_default()
    };
    let models = models.into_iter().map(|(name, schema)| class(name, schema.to_value(), of_model(name)));
    let mut models: Vec<Value> = models.collect();
    let schedulers = schedulers.into_iter().map(|(name, schema)| class(name, schema.to_value(), of_scheduler(name)));
    let mut schedulers: Vec<Value> = schedulers.collect();
    let from = json!({
        "type": "string",
        "description": "The pretrained model with whose weights the training begins: the folder of a run or a \
                        pipeline, or owner/name[@revision] on the Hub. The other keys take the place of its own.",
    });
    let mut pretrained = any_of("A pretrained model", &models);
    pretrained["required"] = json!([FROM]);
    models.push(pretrained);
    models.iter_mut().for_each(|model| model["properties"][FROM] = from.clone());
    schedulers.push(any_of("That of the pretrained model", &schedulers));
    let mut root = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A configuration of Kakusan",
        "description": "What `kakusan train --config FILE` reads.",
        "type": "object",
        "properties": {
            "data": table(data),
            "model": {
                "description": "The network, by its `_class_name`; the other keys are those of diffusers' config.json.",
                "oneOf": models,
            },
            "scheduler": {
                "description": "The noise process of the training, by its `_class_name`; the other keys are those of \
                                diffusers' scheduler_config.json.",
                "oneOf": schedulers,
            },
            "train": table(train),
            "sample": table(sample),
        },
        "required": ["model"],
        "anyOf": [
            { "required": ["scheduler"], "properties": { "scheduler": { "required": [CLASS_NAME] } } },
            { "properties": { "model": { "required": [FROM] } } },
        ],
        "additionalProperties": false,
        "definitions": generator.take_definitions(false),
    });
    if let Ok(schema) = <&mut Schema>::try_from(&mut root) {
        generator.transforms_mut().for_each(|transform| transform.transform(schema));
    }
    tidy(&mut root);
    root
}

/// The schema of a table whose keys have no null: an absent key has its default.
fn table(mut schema: Value) -> Value {
    replace_nulls(&mut schema, None);
    schema
}

/// The schema of a table of this class, with the defaults of its keys.
fn class(name: &str, mut schema: Value, defaults: Map<String, Value>) -> Value {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (key, property) in properties.iter_mut() {
            if let (Some(property), Some(default)) = (property.as_object_mut(), defaults.get(key)) {
                property.insert("default".to_owned(), default.clone());
            }
        }
    }
    replace_nulls(&mut schema, Some(NULL));
    if let Some(schema) = schema.as_object_mut() {
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert(CLASS_NAME.to_owned(), json!({ "const": name }));
        }
        schema.insert("title".to_owned(), name.into());
        schema.insert("required".to_owned(), json!([CLASS_NAME]));
        schema.insert("additionalProperties".to_owned(), false.into());
        schema.insert("patternProperties".to_owned(), json!({ "^_": {} })); // ignored, as in diffusers
    }
    schema
}

/// The schema of a table without a class, which a pretrained model has: it has the keys of all classes.
fn any_of(title: &str, classes: &[Value]) -> Value {
    let mut properties = Map::new();
    for (key, property) in classes.iter().filter_map(|class| class["properties"].as_object()).flatten() {
        let property = properties.entry(key.clone()).or_insert_with(|| property.clone());
        if let Some(property) = property.as_object_mut() {
            property.remove("default"); // it is the pretrained model's
        }
    }
    properties.remove(CLASS_NAME);
    json!({ "title": title, "type": "object", "properties": properties, "additionalProperties": false })
}

/// TOML has no null: removes it from what a schema allows, or lets a text stand for it.
fn replace_nulls(schema: &mut Value, word: Option<&str>) {
    let is_null = |schema: &Value| *schema == json!({ "type": "null" });
    if let Some(object) = schema.as_object_mut() {
        if object.get("default").is_some_and(Value::is_null) {
            object.remove("default");
        }
        let types = object.get_mut("type").and_then(Value::as_array_mut);
        if let Some(types) = types.filter(|types| types.contains(&"null".into())) {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
            if let Some(values) = object.get_mut("enum").and_then(Value::as_array_mut) {
                values.retain(|value| !value.is_null());
            }
            if let Some(word) = word {
                let outside = ["description", "default"].map(|key| (key, object.remove(key)));
                let inner = Value::Object(std::mem::take(object));
                object.insert("anyOf".to_owned(), json!([inner, { "const": word }]));
                object.extend(outside.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
            }
        } else if let Some(options) = object.get_mut("anyOf").and_then(Value::as_array_mut)
            && options.iter().any(is_null)
        {
            options.retain(|option| !is_null(option));
            options.extend(word.map(|word| json!({ "const": word })));
        }
    }
    for_each_below(schema, &mut |schema| replace_nulls(schema, word));
}

/// Removes what editors do not need: Rust's names of number types, line breaks of the source, links into it.
fn tidy(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        object.remove("format");
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text = plain(text);
        }
    }
    for_each_below(schema, &mut tidy);
}

/// Calls `visit` with the schemas within a schema.
fn for_each_below(schema: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    let Some(object) = schema.as_object_mut() else { return };
    for (key, value) in object {
        match (key.as_str(), value) {
            ("properties" | "definitions" | "patternProperties", Value::Object(schemas)) => {
                schemas.values_mut().for_each(&mut *visit);
            }
            ("anyOf" | "oneOf" | "allOf", Value::Array(schemas)) => schemas.iter_mut().for_each(&mut *visit),
            ("items", schema) => visit(schema),
            _ => {}
        }
    }
}

/// A doc comment as plain text: its paragraphs, without the example, the default and the targets of links.
fn plain(text: &str) -> String {
    let text = text.split("\n\n```").next().unwrap_or_default();
    let text = text.split("\n\nThe default is `").next().unwrap_or_default();
    let paragraphs: Vec<String> = text.split("\n\n").map(|lines| lines.trim().replace('\n', " ")).collect();
    let (mut plain, mut rest) = (String::new(), paragraphs.join("\n\n"));
    // [`Name`], [`Name`](path) and [words](path) are links; [1, 2] is not
    while let Some((before, (inner, after))) =
        rest.split_once('[').and_then(|(before, link)| Some((before, link.split_once(']')?)))
    {
        plain += before;
        let target = after.strip_prefix('(').and_then(|target| target.split_once(')'));
        match target {
            Some((_, after)) => {
                plain += inner;
                rest = after.to_owned();
            }
            None if inner.starts_with('`') && inner.ends_with('`') => {
                plain += inner;
                rest = after.to_owned();
            }
            None => {
                plain += &format!("[{inner}]");
                rest = after.to_owned();
            }
        }
    }
    plain + &rest
}
