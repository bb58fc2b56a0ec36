//! Interprets folders of pictures, on disk or in an archive: finds the splits, the classes, and what belongs to
//! neither.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use crate::{
    Class, DataConfig, Error, folder,
    photos::{Entry, Photo},
    splits::split_of,
};

/// A folder: its pictures in the order of their names, and its subfolders.
#[derive(Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
    /// Parquet files.
    pub(crate) tables: Vec<(OsString, PathBuf)>,
    /// A file of labels or captions, which is not read.
    pub(crate) metadata: Option<OsString>,
    pub(crate) folders: BTreeMap<OsString, Tree>,
    /// The names of subfolders without pictures.
    empty: BTreeSet<String>,
    /// The number of parquet files in an archive, where they are not read.
    pub(crate) packed_tables: usize,
}

/// A picture.
pub(crate) struct File {
    pub(crate) name: OsString,
    pub(crate) photo: Photo,
}

/// The training data in a folder.
pub(crate) enum Content {
    Pictures(Pictures),
    /// Only parquet files, no pictures; the split they belong to, and all splits that there are.
    Tables {
        files: Vec<PathBuf>,
        split: Option<String>,
        splits: Vec<String>,
    },
}

/// Pictures and their labels.
pub(crate) struct Pictures {
    pub(crate) entries: Vec<Entry>,
    pub(crate) class_names: Vec<String>,
    /// The split that was chosen, and its folders: `train, in train/`.
    pub(crate) split: Option<String>,
    /// Remarks for the user.
    pub(crate) notes: Vec<String>,
    /// The reason if the labels carry no information.
    pub(crate) unlabelled: Option<String>,
    /// All splits that there are, each with its number of pictures where it is known.
    pub(crate) splits: Vec<(String, Option<usize>)>,
}

impl Tree {
    /// A folder that consists of only this parquet file.
    pub(crate) fn of_table(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_owned();
        Self { tables: vec![(name, path.to_owned())], ..Self::default() }
    }

    /// Sorts the files by name, compared byte by byte.
    pub(crate) fn sort(&mut self) {
        self.files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.tables.sort_unstable();
    }

    /// Sorts the files of all folders.
    pub(crate) fn sort_all(&mut self) {
        self.sort();
        self.folders.values_mut().for_each(Self::sort_all);
    }

    /// Removes folders without a picture or table, and records the names of those directly in this folder.
    fn prune(&mut self) {
        self.folders.values_mut().for_each(Self::prune);
        let is_empty = |tree: &Self| tree.files.is_empty() && tree.tables.is_empty() && tree.folders.is_empty();
        let empty = self.folders.extract_if(.., |_, folder| is_empty(folder));
        self.empty.extend(empty.map(|(name, _)| text(&name)));
    }

    /// The number of pictures in this folder and below.
    fn count(&self) -> usize {
        self.files.len() + self.folders.values().map(Self::count).sum::<usize>()
    }

    fn merge(&mut self, other: Self) {
        self.files.extend(other.files);
        self.tables.extend(other.tables);
        self.metadata = self.metadata.take().or(other.metadata);
        self.packed_tables += other.packed_tables;
        self.empty.extend(other.empty);
        for (name, folder) in other.folders {
            self.folders.entry(name).or_default().merge(folder);
        }
        self.sort();
    }

    /// The pictures in this folder and below. A folder's files come before its subfolders.
    fn into_photos(self) -> Vec<Photo> {
        let mut photos: Vec<Photo> = self.files.into_iter().map(|file| file.photo).collect();
        photos.extend(self.folders.into_values().flat_map(Self::into_photos));
        photos
    }

    /// The parquet files in this folder and below, each with its file name.
    fn into_tables(self) -> Vec<(OsString, PathBuf)> {
        let mut tables = self.tables;
        tables.extend(self.folders.into_values().flat_map(Self::into_tables));
        tables
    }

    /// The number of parquet files in this folder and below.
    fn count_tables(&self) -> usize {
        self.packed_tables + self.tables.len() + self.folders.values().map(Self::count_tables).sum::<usize>()
    }

    fn has_metadata(&self) -> Option<String> {
        let own = self.metadata.as_deref().map(text);
        own.or_else(|| self.folders.values().find_map(Self::has_metadata))
    }

    /// Interprets the content of the folder `dir`.
    ///
    /// - Folders named after splits, in the spellings that `datasets` accepts ([`split_of`]), are splits, if all
    ///   folders are named so, at least two splits occur, or `config.split` names one of them. The training split is
    ///   used, or `config.split`. Several folders of one split are merged.
    /// - A folder that contains only one folder of folders is replaced by that folder.
    /// - As in torchvision's `ImageFolder`, each subfolder with pictures is a class. The classes are numbered in the
    ///   order of their names.
    /// - If there are pictures next to the subfolders, or there are no subfolders, there is only one class, named after
    ///   the folder, unless `config.classes` names folders.
    ///
    /// The images are ordered by class, then by folder, then by file. Names are compared byte by byte.
    ///
    /// # Errors
    /// [`Error::Images`] if there are no pictures, [`Error::Config`] for a missing split, and the errors of
    /// `config.classes`.
    pub(crate) fn read(mut self, dir: &Path, config: &DataConfig) -> Result<Content, Error> {
        let wrong = |reason: String| Error::Images { path: dir.to_owned(), reason };
        self.prune();
        let (mut place, mut notes, mut split) = (dir.to_owned(), Vec::new(), None);
        let mut counts = BTreeMap::new();
        loop {
            if split.is_none()
                && let Some(splits) = Splits::of(&self, config.split.as_deref(), true)
            {
                splits.count(&self, &mut counts);
                split = Some(splits.take(&mut self, &place, config.split.as_deref(), &mut notes)?);
                continue;
            }
            match self.folders.pop_first() {
                Some((name, only))
                    if self.files.is_empty()
                        && self.folders.is_empty()
                        && only.files.is_empty()
                        && !only.folders.is_empty() =>
                {
                    place.push(&name);
                    self = only;
                }
                Some((name, folder)) => {
                    self.folders.insert(name, folder);
                    break;
                }
                None => break,
            }
        }
        if self.count() == 0 {
            return tables(self, dir, config.split.as_deref(), split, counts.into_keys().collect());
        }
        let mut within = BTreeSet::new();
        for folder in self.folders.values_mut() {
            folder.choose_within(config.split.as_deref(), &mut within, &mut counts);
        }
        if split.is_none() && !within.is_empty() {
            split = Some(format!("{}, in {}", config.split.as_deref().unwrap_or("train"), list(&within)));
        }
        self.prune();
        match (&split, &config.split) {
            (None, Some(wanted)) => {
                let reason = format!(
                    "is \"{wanted}\", but {} has no folders for splits (train, validation, test); remove it",
                    dir.display()
                );
                return Err(Error::Config { key: "split", reason });
            }
            (None, None) => {
                let like = self.folders.keys().map(text).filter(|name| split_of(name).is_some());
                notes.extend(like.map(|name| {
                    format!("{name} counts as a class, because the other folders are not splits; data.split = \"{name}\" uses only this folder")
                }));
            }
            _ => {}
        }
        if self.count() == 0 {
            return Err(wrong("holds no picture in the requested split".to_owned()));
        }
        let empty = self.empty.iter().filter(|name| !self.folders.contains_key(OsStr::new(name)));
        let empty: Vec<&String> = empty.collect();
        if !empty.is_empty() {
            notes.push(format!("folders without pictures are not classes: {}", list(empty)));
        }
        match self.count_tables() {
            0 => {}
            1 => notes.push("a parquet file is ignored, because there are pictures".to_owned()),
            several => notes.push(format!("{several} parquet files are ignored, because there are pictures")),
        }
        let metadata = self.has_metadata();
        if let Some(metadata) = &metadata {
            notes.push(format!("{metadata} is not read: folders are the classes"));
        }

        let folders: Vec<String> = self.folders.keys().map(text).collect();
        let chosen = config.classes.as_deref();
        let stray = self.files.first().map(|file| text(&file.name));
        let strays = self.files.len();
        if let (Some(stray), false, Some(_)) = (&stray, folders.is_empty(), chosen) {
            notes.push(format!("ignored {} next to the class folders, such as {stray}", pictures(strays)));
            self.files.clear();
        }
        let name = folder::name(&place);
        let unlabelled = match (&stray, folders.as_slice(), chosen) {
            (None, [_, _, ..], _) | (_, [_, ..], Some(_)) => None,
            (Some(stray), [_, ..], None) => {
                let (stray, several) =
                    (place.join(stray), if strays > 1 { format!(" and {} more", strays - 1) } else { String::new() });
                let reason = format!(
                    "{}{several} next to the folders {} has no class, so the folders do not count as classes: \
                     move it into a class's folder or elsewhere, or name the classes in data.classes",
                    stray.display(),
                    list(&folders)
                );
                Some(reason)
            }
            (None, [only], None) => Some(format!(
                "all pictures are of one class, `{only}`, the only folder in {}: give each class a folder, or accept \
                 one class with data.classes = [\"{only}\"]",
                place.display()
            )),
            (_, [], _) => {
                let labels = metadata.map(|file| format!(" ({file} is not read)")).unwrap_or_default();
                Some(format!(
                    "the pictures in {} are not in class folders{labels}: put those of each class into a folder",
                    place.display()
                ))
            }
        };
        let by_class: Vec<(String, Tree)> = match self.files.is_empty() {
            true => self.folders.into_iter().map(|(name, folder)| (text(&name), folder)).collect(),
            false => vec![(name, self)],
        };
        let class_names: Vec<String> = by_class.iter().map(|(name, _)| name.clone()).collect();
        let kept = match chosen {
            Some(classes) => Class::labels(classes, &class_names, |_| true)?,
            None => (0..class_names.len() as u32).collect(),
        };
        let labelled = (0u32..).zip(by_class).filter(|(label, _)| kept.contains(label));
        let entry = |label, photo| Entry { photo, label, header: None };
        let entries = labelled
            .flat_map(|(label, (_, folder))| folder.into_photos().into_iter().map(move |photo| entry(label, photo)))
            .collect();
        let splits = counts.into_iter().map(|(name, count)| (name, Some(count))).collect();
        Ok(Content::Pictures(Pictures { entries, class_names, split, notes, unlabelled, splits }))
    }

    /// Chooses the wanted split, or the training split, in every folder, from this one down, with folders of at least
    /// two splits.
    fn choose_within(
        &mut self,
        wanted: Option<&str>,
        found: &mut BTreeSet<String>,
        counts: &mut BTreeMap<String, usize>,
    ) {
        if let Some(splits) = Splits::of(self, wanted, false) {
            let names = splits.names(wanted);
            found.extend(names.iter().map(text));
            splits.count(self, counts);
            splits.keep(self, &names);
        }
        self.folders.values_mut().for_each(|folder| folder.choose_within(wanted, found, counts));
    }
}

/// The subfolders of a folder that is divided into splits.
struct Splits {
    /// The names of all subfolders, and the split that each is named after.
    folders: Vec<(OsString, Option<&'static str>)>,
}

impl Splits {
    /// The splits of a folder. `None` if the folder is not divided into splits.
    fn of(tree: &Tree, wanted: Option<&str>, one_will_do: bool) -> Option<Self> {
        let folders: Vec<_> =
            tree.folders.keys().map(|name| (name.clone(), split_of(&name.to_string_lossy()))).collect();
        let kinds: BTreeSet<&str> = folders.iter().filter_map(|(_, split)| *split).collect();
        let all = folders.iter().all(|(_, split)| split.is_some());
        let splits = Self { folders };
        let asked_for = wanted.is_some() && !splits.names(wanted).is_empty();
        (kinds.len() > 1 || !kinds.is_empty() && one_will_do && (all || asked_for)).then_some(splits)
    }

    /// The folders of the wanted split, or of the training split: the folder with exactly this name, or all folders
    /// that are spellings of it.
    fn names(&self, wanted: Option<&str>) -> Vec<OsString> {
        let wanted = wanted.unwrap_or("train");
        let named = |exact: bool| {
            let is = move |(name, split): &&(OsString, Option<&str>)| match exact {
                true => name.to_str() == Some(wanted),
                false => split.is_some() && *split == split_of(wanted),
            };
            self.folders.iter().filter(is).map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let canonical = ["train", "validation", "test"].contains(&wanted);
        match named(true) {
            exact if !exact.is_empty() && !canonical => exact,
            _ => named(false),
        }
    }

    /// Adds the number of pictures in each split to `counts`.
    fn count(&self, tree: &Tree, counts: &mut BTreeMap<String, usize>) {
        for (name, split) in &self.folders {
            let split = split.map_or_else(|| text(name), str::to_owned);
            *counts.entry(split).or_default() += tree.folders.get(name).map_or(0, Tree::count);
        }
    }

    /// The splits that exist, with their folders, for a message.
    fn known(&self) -> String {
        let known = self.folders.iter().map(|(name, split)| match split {
            Some(split) if text(name) != *split => format!("{} ({split})", text(name)),
            _ => text(name),
        });
        list(&known.collect::<Vec<_>>())
    }

    /// Replaces the folder's content by the wanted split, notes this for the user, and returns a description of the
    /// split.
    fn take(
        self,
        tree: &mut Tree,
        place: &Path,
        wanted: Option<&str>,
        notes: &mut Vec<String>,
    ) -> Result<String, Error> {
        let names = self.names(wanted);
        if names.is_empty() {
            let reason = match wanted {
                Some(wanted) => format!("is \"{wanted}\", but the splits in {} are {}", place.display(), self.known()),
                None => {
                    format!("is missing, and {} has no training split: name one of {}", place.display(), self.known())
                }
            };
            return Err(Error::Config { key: "split", reason });
        }
        let beside: Vec<(String, usize)> = tree
            .folders
            .iter()
            .filter(|(name, _)| !names.contains(name))
            .map(|(name, tree)| (text(name), tree.count()))
            .collect();
        let taken: Vec<String> = names.iter().map(text).collect();
        let split = match wanted {
            Some(wanted) => wanted.to_owned(),
            None => "train".to_owned(),
        };
        if !beside.is_empty() {
            let beside: Vec<String> =
                beside.iter().map(|(name, count)| format!("{name} ({})", pictures(*count))).collect();
            notes.push(format!("the split {split} is used, from {}, without {}", list(&taken), list(&beside)));
        }
        if let Some(first) = tree.files.first() {
            let (count, first) = (pictures(tree.files.len()), text(&first.name));
            notes.push(format!("ignored {count} next to the split folders, such as {first}"));
        }
        self.keep(tree, &names);
        let folders: Vec<String> = taken.iter().map(|name| format!("{name}/")).collect();
        Ok(format!("{split}, in {}", list(&folders)))
    }

    /// Replaces the pictures and folders of `tree` by the content of the named subfolders.
    fn keep(self, tree: &mut Tree, names: &[OsString]) {
        let mut whole = std::mem::take(tree);
        for name in names {
            tree.merge(whole.folders.remove(name).unwrap_or_default());
        }
        tree.metadata = tree.metadata.take().or(whole.metadata);
        tree.packed_tables += whole.packed_tables;
    }
}

/// A folder without pictures: its parquet files, or those of one split if the file names indicate splits.
/// `splits` are the folders' splits, and `split` the one of them that was chosen.
fn tables(
    tree: Tree,
    dir: &Path,
    wanted: Option<&str>,
    split: Option<String>,
    splits: Vec<String>,
) -> Result<Content, Error> {
    let mut tables = tree.into_tables();
    if tables.is_empty() {
        let reason = format!("holds no picture: no file below it ends in {}, and none in .parquet", folder::endings());
        return Err(Error::Images { path: dir.to_owned(), reason });
    }
    let stem = |name: &OsString| {
        Path::new(name).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let known: BTreeSet<&str> = tables.iter().filter_map(|(name, _)| split_of(&stem(name))).collect();
    let known: Vec<String> = known.into_iter().map(str::to_owned).collect();
    if split.is_some() || known.is_empty() && wanted.is_none() {
        return Ok(Content::Tables { files: tables.into_iter().map(|(_, path)| path).collect(), split, splits });
    }
    let of = wanted.unwrap_or("train");
    tables.retain(|(name, _)| split_of(&stem(name)).is_some_and(|split| Some(split) == split_of(of)));
    if tables.is_empty() {
        let there = match known.as_slice() {
            [] => "the names of the parquet files contain no split; remove it".to_owned(),
            known => format!("the splits of the parquet files are {}", list(known)),
        };
        let is = wanted.map_or("is missing".to_owned(), |wanted| format!("is \"{wanted}\""));
        return Err(Error::Config { key: "split", reason: format!("{is}, but in {} {there}", dir.display()) });
    }
    let split = Some(of.to_owned());
    Ok(Content::Tables { files: tables.into_iter().map(|(_, path)| path).collect(), split, splits: known })
}

fn text(name: &(impl AsRef<OsStr> + ?Sized)) -> String {
    name.as_ref().to_string_lossy().into_owned()
}

fn pictures(count: usize) -> String {
    if count == 1 { "1 picture".to_owned() } else { format!("{count} pictures") }
}

/// Formats names as `a, b and c`. A long list is cut.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    const MOST: usize = 10;
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    match names.as_slice() {
        [] => String::new(),
        [only] => (*only).to_owned(),
        many if many.len() > MOST => format!("{} and {} more", many[..MOST].join(", "), many.len() - MOST),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}
