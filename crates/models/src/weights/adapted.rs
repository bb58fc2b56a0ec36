//! A pretrained model's weights for a network that has other classes or other ends: fine-tuning.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use candle_core::{Device, Shape};
use kakusan_rng::Generator;
use kakusan_weights::Checkpoint;
use serde_json::Value;

use super::{Entry, draw, names_in, values};
use crate::{Error, ModelConfig, OutlinedTensor, Registry, Result, Weights};

/// The keys with the number of classes.
const CLASSES: [&str; 2] = ["num_class_embeds", "num_classes"];
/// The keys that change the first and the last layer alone, and what tells the network of an augmentation.
const ENDS: [&str; 3] = ["in_channels", "out_channels", "augment_dim"];

/// How a network differs from the pretrained model whose weights it begins with ([`Weights::adapted`]).
///
/// It may have more classes (`num_class_embeds`, `num_classes`) and other ends (`in_channels`, `out_channels`): their
/// tensors begin as random ones. Keys without tensors, such as `sample_size` and `dropout`, may differ freely. Any
/// other change leaves tensors that do not fit.
#[derive(Debug, Clone)]
pub struct Adaptation {
    /// The tensors with a row for each class.
    tables: BTreeSet<String>,
    /// The tensors of the ends.
    ends: BTreeSet<String>,
    /// The keys with the number of classes that differ, with the pretrained model's values.
    classes: Vec<(String, Value)>,
    /// The other keys that differ and on which tensors depend, with the pretrained model's values.
    others: Vec<(String, Value)>,
}

/// A tensor that does not begin as the pretrained model's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A table with more rows. The first `kept` are the pretrained model's.
    Rows {
        /// The tensor.
        name: String,
        /// Rows of the pretrained model.
        kept: usize,
        /// All rows.
        rows: usize,
    },
    /// A tensor that is initialised as in an untrained network.
    Drawn {
        /// The tensor.
        name: String,
        /// The shape of the pretrained model's tensor, if there is one.
        found: Option<Vec<usize>>,
        /// The shape.
        shape: Vec<usize>,
    },
    /// A tensor of the pretrained model that the network does not have.
    Unused {
        /// The tensor, as the file names it.
        name: String,
    },
}

impl Change {
    /// The name of the tensor.
    pub fn name(&self) -> &str {
        match self {
            Self::Rows { name, .. } | Self::Drawn { name, .. } | Self::Unused { name } => name,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Rows { name, kept, rows } if kept + 1 == *rows => write!(f, "{name}: row {kept} is new, and random"),
            Self::Rows { name, kept, rows } => write!(f, "{name}: rows {kept} to {} are new, and random", rows - 1),
            Self::Drawn { name, found: Some(found), shape } => {
                write!(f, "{name}: new and random, {shape:?} in place of {found:?}")
            }
            Self::Drawn { name, found: None, shape } => {
                write!(f, "{name}: new and random, {shape:?}; the pretrained model has none")
            }
            Self::Unused { name } => write!(f, "{}: not used; the network has no such tensor", name.escape_debug()),
        }
    }
}

/// A tensor of a network for which a pretrained model has none of a fitting shape.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Misfit {
    /// The tensor.
    pub name: String,
    /// The shape of the pretrained model's tensor, if there is one.
    pub found: Option<Vec<usize>>,
    /// The shape in the network.
    pub expected: Vec<usize>,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { name, found, expected } = self;
        match found {
            Some(found) => write!(f, "{name}: its shape is {found:?}, expected {expected:?}"),
            None => write!(f, "{name}: missing; expected shape {expected:?}"),
        }
    }
}

impl Adaptation {
    /// Compares the configurations of a pretrained model and of the network that begins with its weights, both of one
    /// class, which `registry` knows.
    ///
    /// # Errors
    /// When the pretrained model's configuration is refused.
    pub fn between(pretrained: &dyn ModelConfig, config: &dyn ModelConfig, registry: &Registry) -> Result<Self> {
        let (old, new) = (pretrained.to_map(), config.to_map());
        let shapes_before = shapes(pretrained)?;
        // the pretrained model's tensors with the new values of `keys`; none if these keys alone make no network
        let shapes_with = |keys: &[&str]| {
            let given = new.iter().filter(|(key, _)| keys.contains(&key.as_str()));
            let fields = old.iter().chain(given).map(|(key, value)| (key.clone(), value.clone())).collect();
            registry.from_map(pretrained.class_name(), &fields).and_then(|with| shapes(with.as_ref())).ok()
        };
        let changed_by = |keys: &[&str]| -> BTreeSet<String> {
            let tensors = shapes_with(keys).unwrap_or_default().into_iter();
            tensors.filter(|(name, shape)| shapes_before.get(name) != Some(shape)).map(|(name, _)| name).collect()
        };
        let (mut classes, mut others) = (vec![], vec![]);
        for (key, value) in old.iter().filter(|(key, value)| new.get(*key) != Some(value)) {
            if CLASSES.contains(&key.as_str()) {
                classes.push((key.clone(), value.clone()));
            } else if !ENDS.contains(&key.as_str()) && shapes_with(&[key]).as_ref() != Some(&shapes_before) {
                others.push((key.clone(), value.clone()));
            }
        }
        Ok(Self { tables: changed_by(&CLASSES), ends: changed_by(&ENDS), classes, others })
    }

    /// The tensors of the network that do not begin as those of the pretrained model in `checkpoint`. Reads no values.
    ///
    /// # Errors
    /// [`Error::Misfit`] with all tensors that do not fit.
    pub fn changes(&self, checkpoint: &Checkpoint, config: &dyn ModelConfig) -> Result<Vec<Change>> {
        let (mut names, problems) = names_in(checkpoint, |name| config.tensor_name(name));
        if !problems.is_empty() {
            return Err(Error::Mismatch { path: checkpoint.path().to_owned(), problems });
        }
        let (mut changes, mut misfits) = (vec![], vec![]);
        for OutlinedTensor { name, shape, .. } in config.outline()?.tensors() {
            let expected = shape.dims().to_vec();
            let found = names.remove(name).and_then(|name| Some(checkpoint.info(name)?.shape.clone()));
            let is_table = self.tables.contains(name);
            match found {
                Some(found) if found == expected => {}
                Some(found) if is_table && grows(&found, &expected) => {
                    changes.push(Change::Rows { name: name.clone(), kept: found[0], rows: expected[0] });
                }
                found if self.ends.contains(name) || is_table && found.is_none() => {
                    changes.push(Change::Drawn { name: name.clone(), found, shape: expected });
                }
                found => misfits.push(Misfit { name: name.clone(), found, expected }),
            }
        }
        if !misfits.is_empty() {
            let mut keys = self.others.clone();
            if misfits.iter().any(|misfit| self.tables.contains(&misfit.name)) {
                keys.extend(self.classes.clone());
            }
            return Err(Error::Misfit { path: checkpoint.path().to_owned(), misfits, keys });
        }
        changes.extend(names.into_values().map(|name| Change::Unused { name: name.to_owned() }));
        Ok(changes)
    }
}

/// Whether a table has the same columns and more rows.
fn grows(found: &[usize], expected: &[usize]) -> bool {
    matches!((found, expected), ([few, columns @ ..], [more, others @ ..]) if few < more && columns == others)
}

fn shapes(config: &dyn ModelConfig) -> Result<BTreeMap<String, Vec<usize>>> {
    let outline = config.outline()?;
    Ok(outline.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.shape.dims().to_vec())).collect())
}

impl Weights {
    /// Loads the weights of a pretrained model into the network that `config` describes. What the pretrained model does
    /// not have is drawn from `rng` as torch initialises it, in the network's order: whole tensors, or the new rows of
    /// a table of classes. Gives the weights and what is not the pretrained model's.
    ///
    /// # Errors
    /// [`Error::Misfit`] with all tensors that do not fit; [`Error::Mismatch`] for values that are no finite floats.
    pub fn adapted(
        checkpoint: &Checkpoint,
        config: &dyn ModelConfig,
        adaptation: &Adaptation,
        device: &Device,
        rng: &mut Generator,
    ) -> Result<(Self, Vec<Change>)> {
        let changes = adaptation.changes(checkpoint, config)?;
        let (names, mut problems) = names_in(checkpoint, |name| config.tensor_name(name));
        let mut entries = vec![];
        for tensor in config.outline()?.tensors() {
            let name = names.get(&tensor.name).copied();
            let change = changes.iter().find(|change| change.name() == tensor.name);
            let begun = match change {
                Some(Change::Rows { kept, rows, .. }) => {
                    let with_rows = |rows: usize| Shape::from([&[rows][..], &tensor.shape.dims()[1..]].concat());
                    values(checkpoint, name, &with_rows(*kept)).map(|mut values| {
                        values.extend(draw(&tensor.spec, &with_rows(rows - kept), rng));
                        values
                    })
                }
                Some(Change::Drawn { .. }) => Ok(draw(&tensor.spec, &tensor.shape, rng)),
                _ => values(checkpoint, name, &tensor.shape),
            };
            match begun {
                Ok(values) => entries.push(Entry::new(tensor, values, device)?),
                Err(problem) => problems.push(format!("{}: {problem}", tensor.name)),
            }
        }
        if !problems.is_empty() {
            return Err(Error::Mismatch { path: checkpoint.path().to_owned(), problems });
        }
        Ok((Self { entries, device: device.clone() }, changes))
    }
}
