use std::path::PathBuf;

/// Something unusual about the files of a saved model, which was loaded nevertheless, as diffusers loads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// `config.json` is read as one of another class than it says, or says none.
    #[error(
        "{}: its `_class_name` is {}, and it is read as {class_name}, which the pipeline's index says",
        path.display(), found.as_deref().unwrap_or("missing")
    )]
    OtherClass {
        /// The file.
        path: PathBuf,
        /// What stands there, as JSON.
        found: Option<String>,
        /// The class that was built.
        class_name: String,
    },
    /// `config.json` has fields that the class does not have.
    #[error("{} has fields that {class_name} does not know, and they have no effect: {}", path.display(), listed(fields))]
    UnknownFields {
        /// The file.
        path: PathBuf,
        /// The model's class.
        class_name: String,
        /// Their names.
        fields: Vec<String>,
    },
    /// The weights hold tensors that the model does not have.
    #[error("{} holds tensors that the model does not have, and they are left out: {}", path.display(), listed(names))]
    UnexpectedTensors {
        /// The file, or the index of a sharded checkpoint.
        path: PathBuf,
        /// Their names in the file.
        names: Vec<String>,
    },
}

/// Names from a file, the first of them where there are many; nothing in them reaches a terminal as it is.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 32;
    let mut text: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{}`", name.escape_debug())).collect();
    if names.len() > SHOWN {
        text.push(format!("and {} more", names.len() - SHOWN));
    }
    text.join(", ")
}
