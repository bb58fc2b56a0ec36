use std::path::PathBuf;

/// Unexpected content in the files of a saved model. As in diffusers, the model is loaded nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// `config.json` names no class, or another one than the pipeline's index; the index's class was built.
    #[error(
        "{}: its `_class_name` is {}; it is read as {class_name}, the class in the pipeline's index",
        path.display(), found.as_deref().unwrap_or("missing")
    )]
    OtherClass {
        /// The file.
        path: PathBuf,
        /// The value found, as JSON.
        found: Option<String>,
        /// The class that was built.
        class_name: String,
    },
    /// `config.json` has fields that the class does not have.
    #[error("{} has fields that {class_name} does not have; they are ignored: {}", path.display(), listed(fields))]
    UnknownFields {
        /// The file.
        path: PathBuf,
        /// The model's class.
        class_name: String,
        /// Their names.
        fields: Vec<String>,
    },
    /// The weights hold tensors that the model does not have.
    #[error("{} has tensors that the model does not have; they are ignored: {}", path.display(), listed(names))]
    UnexpectedTensors {
        /// The file, or the index of a sharded checkpoint.
        path: PathBuf,
        /// Their names in the file.
        names: Vec<String>,
    },
}

/// Names from a file, at most 32 of them. Control characters are escaped: the text may reach a terminal.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 32;
    let mut text: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{}`", name.escape_debug())).collect();
    if names.len() > SHOWN {
        text.push(format!("and {} more", names.len() - SHOWN));
    }
    text.join(", ")
}
