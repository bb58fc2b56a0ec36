//! The column of labels: integers, or text or booleans, whose distinct values in sorted order are the classes, as
//! `class_encode_column` of Hugging Face's `datasets` defines them.

use std::collections::BTreeMap;

use ::parquet::{
    basic::Type,
    data_type::{BoolType, ByteArrayType, Int32Type, Int64Type},
    file::metadata::ParquetMetaData,
};

use super::{Classes, NO_LABELS, Rows, Table, lacks, leaves};
use crate::{Class, Error, photos::Entry};

/// The most classes. A column with more distinct values is not a column of classes.
const MAX_CLASSES: usize = 1 << 20;

/// The content of a column of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Numbers of classes, with the classes' names if the file has them.
    Numbers(Option<Vec<String>>),
    Text,
    Truth,
}

/// Finds the leaf column of labels and its content. The inner error says why there are no labels.
///
/// # Errors
/// If the file does not have the column `named`.
pub(super) fn column(
    metadata: &ParquetMetaData,
    named: Option<&str>,
) -> Result<Result<(usize, Column), String>, String> {
    let (leaves, declared) = (leaves(metadata), Declared::of(metadata));
    let find = |name: &str| leaves.iter().find(|leaf| leaf.path == name);
    let classes: Vec<_> = declared.classes().into_iter().filter_map(find).collect();
    let leaf = match (named, find("label"), classes.as_slice()) {
        (Some(NO_LABELS), ..) => return Ok(Err(format!("`label_column` is \"{NO_LABELS}\""))),
        (Some(name), ..) => find(name).ok_or_else(|| lacks(name, &leaves))?,
        (None, Some(label), _) => label,
        (None, None, [only]) => only,
        (None, None, []) => {
            let others = leaves.iter().filter(|leaf| !leaf.path.contains('.') && !leaf.holds_files());
            let others: Vec<&str> = others.map(|leaf| leaf.path.as_str()).collect();
            return Ok(Err(match others.as_slice() {
                [] => "has no column of labels".to_owned(),
                others => format!("has no column `label`; `label_column` may name one of {}", others.join(", ")),
            }));
        }
        (None, None, several) => {
            let names: Vec<&str> = several.iter().map(|leaf| leaf.path.as_str()).collect();
            let names = names.join(", ");
            return Ok(Err(format!("has several columns of classes; name one of {names} as `label_column`")));
        }
    };
    Ok(match leaf.kind {
        _ if !leaf.flat => Err(format!("column {} holds a list in each row, but a label is one value", leaf.path)),
        Type::INT32 | Type::INT64 => Ok((leaf.index, Column::Numbers(declared.names(&leaf.path)))),
        Type::BYTE_ARRAY => Ok((leaf.index, Column::Text)),
        Type::BOOLEAN => Ok((leaf.index, Column::Truth)),
        kind => Err(format!("column {} is of type {kind}, but labels are whole numbers, text or booleans", leaf.path)),
    })
}

/// The metadata about the columns that Hugging Face's `datasets` wrote into the file.
struct Declared(serde_json::Value);

impl Declared {
    fn of(metadata: &ParquetMetaData) -> Self {
        let pairs = metadata.file_metadata().key_value_metadata();
        let text = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_deref());
        let json: Option<serde_json::Value> = text.and_then(|text| serde_json::from_str(text).ok());
        Self(json.and_then(|json| json.pointer("/info/features").cloned()).unwrap_or_default())
    }

    /// The columns that are declared to hold classes.
    fn classes(&self) -> Vec<&str> {
        let features = self.0.as_object().into_iter().flatten();
        features.filter(|(_, feature)| feature["_type"] == "ClassLabel").map(|(name, _)| name.as_str()).collect()
    }

    /// The names of the classes of a column.
    fn names(&self, column: &str) -> Option<Vec<String>> {
        let names = self.0.get(column)?.get("names")?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }
}

/// Collects the labels of all files, row group by row group.
pub(super) struct Labels<'a> {
    classes: Classes<'a>,
    /// The content of the column, the same in all files.
    column: Column,
    /// The distinct values of a column of text or booleans, numbered in the order in which they first occur.
    found: BTreeMap<String, u32>,
    /// The highest label so far.
    highest: u32,
    /// The reason if there are no labels at all.
    none: Option<String>,
    /// What is wrong with the first row without a label.
    missing: Option<String>,
}

impl<'a> Labels<'a> {
    /// # Errors
    /// If `classes` requires labels and a file has none.
    pub(super) fn new(tables: &[&Table], classes: Classes<'a>) -> Result<Self, Error> {
        let (mut column, mut none) = (None, None);
        for table in tables.iter().filter(|table| table.image.is_some()) {
            let reason = match (&table.label, &column) {
                (Err(reason), _) => Some(reason.clone()),
                (Ok((here, _)), None) => {
                    column = Some(here.clone());
                    None
                }
                (Ok((here, _)), Some(before)) => {
                    let same = std::mem::discriminant(here) == std::mem::discriminant(before);
                    (!same).then(|| "has labels of another type than the previous files".to_owned())
                }
            };
            if let Some(reason) = reason {
                if let Classes::Known(_) = classes {
                    return Err(Error::Parquet { path: table.path.clone(), reason });
                }
                none.get_or_insert(format!("{}: {reason}", table.path.display()));
            }
        }
        let mut column = column.unwrap_or(Column::Numbers(None));
        if let (Column::Numbers(names), Classes::Known(known)) = (&mut column, classes) {
            *names = Some(known.to_vec());
        }
        Ok(Self { classes, column, found: BTreeMap::new(), highest: 0, none, missing: None })
    }

    /// The labels of a row group; `first` is the number of rows before it in the file. `None` for a row without a valid
    /// class.
    pub(super) fn of_group(
        &mut self,
        table: &Table,
        group: usize,
        first: usize,
        rows: usize,
    ) -> Result<Vec<Option<u32>>, Error> {
        let (Ok((column, chunks)), None) = (&table.label, &self.none) else { return Ok(vec![None; rows]) };
        let labels = table.guarded(|| match column {
            Column::Numbers(_) => {
                let kind = table.metadata.row_group(group).column(chunks.leaf).column_type();
                let numbers: Vec<Option<i64>> = match kind {
                    Type::INT32 => {
                        let numbers = table.values::<Int32Type>(chunks, group, 0, rows)?;
                        numbers.into_iter().map(|number| number.map(i64::from)).collect()
                    }
                    _ => table.values::<Int64Type>(chunks, group, 0, rows)?,
                };
                Ok(numbers.into_iter().map(|number| self.number(number)).collect::<Vec<_>>())
            }
            Column::Text => {
                let texts = table.values::<ByteArrayType>(chunks, group, 0, rows)?.into_iter();
                Ok(texts.map(|text| self.name(text.as_ref().map(|text| text.data()))).collect())
            }
            Column::Truth => {
                let name = |truth| if truth { &b"True"[..] } else { b"False" };
                let truths = table.values::<BoolType>(chunks, group, 0, rows)?.into_iter();
                Ok(truths.map(|truth| self.name(truth.map(name))).collect())
            }
        })?;
        let mut checked = Vec::with_capacity(rows);
        for (row, label) in labels.into_iter().enumerate() {
            let path = &table.path;
            checked.push(match (label, self.classes) {
                (Ok(label), _) => Some(label),
                (Err(wrong), Classes::Known(_)) => {
                    return Err(Error::Parquet { path: path.clone(), reason: format!("row {} {wrong}", first + row) });
                }
                (Err(wrong), _) => {
                    self.missing.get_or_insert_with(|| format!("{}: row {} {wrong}", path.display(), first + row));
                    None
                }
            });
        }
        Ok(checked)
    }

    fn number(&mut self, number: Option<i64>) -> Result<u32, String> {
        let number = number.ok_or("has no label")?;
        let classes = match &self.column {
            Column::Numbers(Some(names)) => names.len(),
            _ => MAX_CLASSES,
        };
        let label = u32::try_from(number).ok().filter(|&label| (label as usize) < classes);
        let label =
            label.ok_or_else(|| format!("has the label {number}; expected 0 to {}", classes.saturating_sub(1)))?;
        self.highest = self.highest.max(label);
        Ok(label)
    }

    fn name(&mut self, name: Option<&[u8]>) -> Result<u32, String> {
        let name = std::str::from_utf8(name.ok_or("has no label")?).map_err(|_| "has a label that is not text")?;
        if let Some(&label) = self.found.get(name) {
            return Ok(label);
        }
        let label = u32::try_from(self.found.len()).ok().filter(|&label| (label as usize) < MAX_CLASSES);
        let label =
            label.ok_or_else(|| format!("has one distinct label too many; at most {MAX_CLASSES} are supported"))?;
        self.found.insert(name.to_owned(), label);
        Ok(label)
    }

    /// Assigns the labels to the images, and removes the images whose class is not wanted.
    ///
    /// # Errors
    /// If a wanted class does not occur.
    pub(super) fn give(self, entries: Vec<Entry>, mut labels: Vec<Option<u32>>) -> Result<Rows, Error> {
        let class_names = match self.column {
            Column::Numbers(Some(names)) => names,
            Column::Numbers(None) => (0..=self.highest).map(|label| label.to_string()).collect(),
            Column::Text | Column::Truth => {
                let mut places = vec![0; self.found.len()];
                for (place, &label) in self.found.values().enumerate() {
                    places[label as usize] = place as u32;
                }
                labels.iter_mut().flatten().for_each(|label| *label = places[*label as usize]);
                self.found.into_keys().collect()
            }
        };
        let kept = match (self.classes, &self.none) {
            (Classes::Some(_), Some(reason)) => {
                let reason = format!("names classes, but the images have none: {reason}");
                return Err(Error::Config { key: "classes", reason });
            }
            (Classes::Some(classes), None) => Some(Class::labels(classes, &class_names, |_| true)?),
            (Classes::Any | Classes::Known(_), _) => None,
        };
        let wanted = |label: &Option<u32>| match &kept {
            Some(kept) => label.is_some_and(|label| kept.contains(&label)),
            None => true,
        };
        let rows: Vec<_> = entries.into_iter().zip(labels).filter(|(_, label)| wanted(label)).collect();
        let missing = self.missing.filter(|_| rows.iter().any(|(_, label)| label.is_none()));
        let unlabelled = self.none.or(missing);
        let class_names = if unlabelled.is_some() { vec!["images".to_owned()] } else { class_names };
        let label = |label: Option<u32>| if unlabelled.is_some() { 0 } else { label.unwrap_or_default() };
        let entries = rows.into_iter().map(|(entry, given)| Entry { label: label(given), ..entry }).collect();
        Ok(Rows { entries, class_names, unlabelled })
    }
}
