//! Image sets as the Hub keeps them: parquet files with a column of images, a struct whose `bytes` are a picture's file, and mostly one of labels.
//!
//! candle-datasets' own row reader drops bad rows and panics on bad images, so the columns are read here.

mod source;
mod thrift;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::parquet::{
    basic::Type,
    column::reader::ColumnReaderImpl,
    data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type},
    file::{metadata::ParquetMetaData, metadata::ParquetMetaDataReader, serialized_reader::SerializedPageReader},
};
use rayon::prelude::*;

use self::source::Source;
use crate::{
    Error,
    photos::{Entry, Photo},
    raster,
};

/// Beyond these a file is not believed. MNIST has 60,000 images in a row group of 18 MB; the Hub writes groups of 100 to 1,000 images.
const MAX_IMAGES: usize = 100_000_000;
const MAX_GROUP_BYTES: i64 = 1 << 32;
const MAX_CLASSES: usize = 1 << 20;

/// Which columns to read; those that are not named are found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Columns<'a> {
    pub(crate) image: Option<&'a str>,
    pub(crate) label: Option<&'a str>,
}

/// The images and labels of some files.
pub(crate) struct Rows {
    pub(crate) entries: Vec<Entry>,
    /// The names of the classes: the file's own, or `classes`, or their numbers.
    pub(crate) class_names: Vec<String>,
}

/// One file, its footer read. Each access opens the file anew: clones of one handle would share its place.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    metadata: ParquetMetaData,
    /// The leaf column of the pictures' files.
    image: usize,
    label: Option<usize>,
    names: Option<Vec<String>>,
}

/// A picture in a table: its row in one of the row groups.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    table: Arc<Table>,
    group: usize,
    row: usize,
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        (&self.table.path, self.group, self.row) == (&other.table.path, other.group, other.row)
    }
}

impl Eq for Cell {}

/// Reads the rows of all files, in order. Up to `held_bytes` of pictures' files are held in memory; of more than that only the headers are read
/// now, one row group after the other.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be opened; [`Error::Parquet`] for one that is damaged, lacks a column or a value, or has a label that
/// is no class.
pub(crate) fn read(
    paths: &[PathBuf],
    columns: Columns,
    classes: Option<&[String]>,
    held_bytes: u64,
) -> Result<Rows, Error> {
    let tables = paths.iter().map(|path| Table::open(path, columns).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let held = tables.iter().map(|table| table.image_bytes()).fold(0, u64::saturating_add) <= held_bytes;
    let names = classes.or_else(|| tables.iter().find_map(|table| table.names.as_deref()));
    let classes = names.map_or(MAX_CLASSES, <[String]>::len);
    let (mut entries, mut most) = (Vec::new(), 0);
    for table in &tables {
        table.guarded(|| {
            let mut first = 0;
            for group in 0..table.metadata.num_row_groups() {
                let rows = table.rows(group).filter(|rows| entries.len() + rows <= MAX_IMAGES);
                let rows = rows.ok_or_else(|| format!("claims more than {MAX_IMAGES} images"))?;
                let mut labels = Vec::with_capacity(rows);
                for (row, label) in table.labels(group, rows)?.into_iter().enumerate() {
                    let known = u32::try_from(label).ok().filter(|&label| (label as usize) < classes);
                    labels.push(known.ok_or_else(|| {
                        format!(
                            "row {} has the label {label}; expected 0 to {}",
                            first + row,
                            classes.saturating_sub(1)
                        )
                    })?);
                }
                most = labels.iter().copied().fold(most, u32::max);
                let images = table.images(group, 0, rows)?;
                let headers: Vec<_> = match held {
                    true => rayon::iter::repeat_n(None, rows).collect(),
                    false => images.par_iter().map(|bytes| Some(raster::header(bytes.data()))).collect(),
                };
                for (row, ((bytes, label), header)) in images.into_iter().zip(labels).zip(headers).enumerate() {
                    let bytes = held.then(|| bytes.data().into()); // a copy: the original holds on to its whole page
                    let cell = Cell { table: table.clone(), group, row };
                    entries.push(Entry { photo: Photo::Cell { cell, row: first + row, bytes }, label, header });
                }
                first += rows;
            }
            match usize::try_from(table.metadata.file_metadata().num_rows()) {
                Ok(claimed) if claimed == first && first > 0 => Ok(()),
                claimed => Err(format!("holds {first} images where it claims {}", claimed.unwrap_or_default())),
            }
        })?;
    }
    let class_names = match (names, tables.iter().any(|table| table.label.is_some())) {
        (Some(names), _) => names.to_vec(),
        (None, true) => (0..=most).map(|label| label.to_string()).collect(),
        (None, false) => vec!["images".to_owned()],
    };
    Ok(Rows { entries, class_names })
}

impl Cell {
    pub(crate) fn path(&self) -> &Path {
        &self.table.path
    }

    /// The file of the picture, read from the table.
    pub(crate) fn bytes(&self) -> Result<ByteArray, String> {
        let read = || self.table.images(self.group, self.row, 1)?.pop().ok_or_else(|| "is not there".to_owned());
        unpanicked(read)
    }
}

/// The parquet crate meets some kinds of damage with a panic.
fn unpanicked<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    result.unwrap_or_else(|_| Err("not a sound parquet file: its reader gave up on it".to_owned()))
}

impl Table {
    fn open(path: &Path, columns: Columns) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let wrong = |reason| Error::Parquet { path: path.to_owned(), reason };
        let read = unpanicked(|| {
            let file = Source(file);
            file.check_footer()?;
            let metadata = ParquetMetaDataReader::new().parse_and_finish(&file);
            let metadata = metadata.map_err(|error| format!("not a sound parquet file: {error}"))?;
            let declared = Declared::of(&metadata);
            let image = image_column(&metadata, columns.image)?;
            let label = label_column(&metadata, columns.label, &declared)?;
            let names = label.as_ref().and_then(|(_, name)| declared.names(name));
            for group in metadata.row_groups() {
                for leaf in [Some(image), label.as_ref().map(|(leaf, _)| *leaf)].into_iter().flatten() {
                    let chunk = group.column(leaf);
                    let (start, len) = chunk.byte_range();
                    let checked = thrift::check_pages(&file.0, start, len);
                    checked.map_err(|reason| format!("column {}: {reason}", chunk.column_path().string()))?;
                }
            }
            Ok(Self { path: path.to_owned(), metadata, image, label: label.map(|(leaf, _)| leaf), names })
        });
        read.map_err(wrong)
    }

    /// Names this file in what goes wrong with it.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, String>) -> Result<T, Error> {
        unpanicked(work).map_err(|reason| Error::Parquet { path: self.path.clone(), reason })
    }

    /// What all pictures' files take.
    fn image_bytes(&self) -> u64 {
        let groups = self.metadata.row_groups().iter();
        groups.map(|group| group.column(self.image).uncompressed_size().max(0) as u64).fold(0, u64::saturating_add)
    }

    fn rows(&self, group: usize) -> Option<usize> {
        usize::try_from(self.metadata.row_group(group).num_rows()).ok()
    }

    fn images(&self, group: usize, first: usize, count: usize) -> Result<Vec<ByteArray>, String> {
        self.values::<ByteArrayType>(self.image, group, first, count)
    }

    /// The labels of a group; zeros where there is no column of them.
    fn labels(&self, group: usize, rows: usize) -> Result<Vec<i64>, String> {
        let Some(leaf) = self.label else { return Ok(vec![0; rows]) };
        match self.metadata.row_group(group).column(leaf).column_type() {
            Type::INT32 => Ok(self.values::<Int32Type>(leaf, group, 0, rows)?.into_iter().map(i64::from).collect()),
            _ => self.values::<Int64Type>(leaf, group, 0, rows),
        }
    }

    /// `count` values of one column of one row group, after the `first`.
    fn values<T: DataType>(&self, leaf: usize, group: usize, first: usize, count: usize) -> Result<Vec<T::T>, String> {
        let (metadata, rows) = (self.metadata.row_group(group), self.rows(group).unwrap_or_default());
        let chunk = metadata.column(leaf);
        let name = chunk.column_path().string();
        let wrong = |error: ::parquet::errors::ParquetError| format!("column {name}: {error}");
        if chunk.uncompressed_size() > MAX_GROUP_BYTES {
            let bytes = chunk.uncompressed_size();
            return Err(format!("column {name} has {bytes} bytes in a row group; {MAX_GROUP_BYTES} at most are read"));
        }
        if chunk.column_type() != T::get_physical_type() {
            return Err(format!("column {name} is not of type {}", T::get_physical_type()));
        }
        let file = File::open(&self.path).map_err(|error| format!("cannot be read: {error}"))?;
        let pages = SerializedPageReader::new(Arc::new(Source(file)), chunk, rows, None).map_err(wrong)?;
        let mut reader = ColumnReaderImpl::<T>::new(chunk.column_descr_ptr(), Box::new(pages));
        reader.skip_records(first).map_err(wrong)?;
        // A null has a level and no value.
        let mut into = Vec::new();
        let read = reader.read_records(count, Some(&mut Vec::new()), None, &mut into);
        let (records, values, _) = read.map_err(wrong)?;
        match (records, values) == (count, count) {
            true => Ok(into),
            false => Err(format!("column {name} has {values} values in a group of {rows} rows")),
        }
    }
}

/// What Hugging Face's `datasets` wrote into the file about its columns.
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

    /// The names of a column's classes.
    fn names(&self, column: &str) -> Option<Vec<String>> {
        let names = self.0.get(column)?.get("names")?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }
}

/// The leaf column that holds the pictures' files.
fn image_column(metadata: &ParquetMetaData, named: Option<&str>) -> Result<usize, String> {
    let leaves = leaves(metadata);
    let holds_files = |path: &str| leaves.iter().position(|leaf| leaf.path == path && leaf.flat);
    if let Some(name) = named {
        let path = format!("{name}.bytes");
        return holds_files(&path).ok_or_else(|| lacks(&path, &leaves));
    }
    let files = |leaf: &&Leaf| leaf.flat && leaf.kind == Type::BYTE_ARRAY && leaf.path.ends_with(".bytes");
    let found: Vec<&Leaf> = leaves.iter().filter(files).collect();
    let usual = ["image.bytes", "img.bytes"].into_iter().find_map(holds_files);
    match (found.as_slice(), usual) {
        ([], _) => Err(lacks("of images (a struct with `bytes`)", &leaves)),
        ([only], _) => Ok(only.index),
        (_, Some(usual)) => Ok(usual),
        (several, None) => {
            let names: Vec<&str> = several.iter().map(|leaf| leaf.path.trim_end_matches(".bytes")).collect();
            Err(format!("has several columns of images; name one of {} as `image_column`", names.join(", ")))
        }
    }
}

/// The leaf column of labels and its name, if there is one.
fn label_column(
    metadata: &ParquetMetaData,
    named: Option<&str>,
    declared: &Declared,
) -> Result<Option<(usize, String)>, String> {
    let leaves = leaves(metadata);
    let whole = |name: &str| {
        let leaf = leaves.iter().find(|leaf| leaf.path == name && leaf.flat)?;
        matches!(leaf.kind, Type::INT32 | Type::INT64).then(|| (leaf.index, name.to_owned()))
    };
    if let Some(name) = named {
        let other = leaves.iter().find(|leaf| leaf.path == name && leaf.flat);
        let refused = || match other {
            Some(leaf) => format!("column {name} is of type {}, but labels are whole numbers", leaf.kind),
            None => lacks(name, &leaves),
        };
        return whole(name).map(Some).ok_or_else(refused);
    }
    let classes: Vec<_> = declared.classes().into_iter().filter_map(whole).collect();
    match (whole("label"), classes.as_slice()) {
        (Some(label), _) => Ok(Some(label)),
        (None, [only]) => Ok(Some(only.clone())),
        (None, []) => Ok(None),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|(_, name)| name.as_str()).collect();
            Err(format!("has several columns of classes; name one of {} as `label_column`", names.join(", ")))
        }
    }
}

struct Leaf {
    index: usize,
    path: String,
    kind: Type,
    /// One value a row.
    flat: bool,
}

fn leaves(metadata: &ParquetMetaData) -> Vec<Leaf> {
    let columns = metadata.file_metadata().schema_descr().columns().iter().enumerate();
    let leaf = |(index, column): (usize, &::parquet::schema::types::ColumnDescPtr)| Leaf {
        index,
        path: column.path().string(),
        kind: column.physical_type(),
        flat: column.max_rep_level() == 0,
    };
    columns.map(leaf).collect()
}

fn lacks(name: &str, leaves: &[Leaf]) -> String {
    let names: Vec<&str> = leaves.iter().map(|leaf| leaf.path.as_str()).collect();
    format!("has no column {name} with one value a row; its columns are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::parquet::{
        file::properties::WriterProperties, file::writer::SerializedFileWriter, schema::parser::parse_message_type,
    };

    use super::*;
    use crate::{ImageSet, photos::Transform, photos::image_set};

    const SCHEMA: &str = "message schema {
        optional group image { optional binary bytes; optional binary path (UTF8); }
        optional int64 label;
    }";

    fn png(width: u32, height: u32, color: png::ColorType, pixels: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.write_header().unwrap().write_image_data(pixels).unwrap();
        bytes
    }

    fn grey(width: u32, height: u32, first: u8) -> Option<Vec<u8>> {
        let pixels: Vec<u8> = (0..width * height).map(|i| first.wrapping_add(i as u8)).collect();
        Some(png(width, height, png::ColorType::Grayscale, &pixels))
    }

    /// A PNG file, or null, and a label.
    type Row = (Option<Vec<u8>>, i64);

    /// A parquet file with one row group for each slice of rows.
    fn write(schema: &str, groups: &[&[Row]]) -> Vec<u8> {
        let (schema, mut bytes) = (Arc::new(parse_message_type(schema).unwrap()), Vec::new());
        let mut writer =
            SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::builder().build())).unwrap();
        for rows in groups {
            let mut group = writer.next_row_group().unwrap();
            let levels: Vec<i16> = rows.iter().map(|(png, _)| if png.is_some() { 2 } else { 1 }).collect();
            let pngs: Vec<ByteArray> = rows.iter().filter_map(|(png, _)| png.clone().map(ByteArray::from)).collect();
            let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&pngs, Some(&levels), None).unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![1; rows.len()]), None).unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; rows.len()]), None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
        bytes
    }

    const MNIST: Columns = Columns { image: Some("image"), label: Some("label") };

    fn digits() -> Vec<String> {
        (0..10).map(|digit| digit.to_string()).collect()
    }

    /// The images as they are, held or read from their rows when they are needed.
    fn read_all(
        bytes: &[u8],
        columns: Columns,
        classes: Option<&[String]>,
        held_bytes: u64,
    ) -> Result<ImageSet, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let rows = read(&[file.path().to_owned()], columns, classes, held_bytes)?;
        let transform = Transform { cache_bytes: held_bytes, ..Transform::none(1) };
        let set = image_set(rows.entries, rows.class_names, transform, file.path())?.0;
        let held = (0..set.len()).map(|i| set.image(i).map(|image| image.to_vec())).collect::<Result<Vec<_>, _>>()?;
        ImageSet::new(set.shape(), held.concat(), set.labels().to_vec(), set.class_names().to_vec())
    }

    fn read_bytes(bytes: &[u8]) -> Result<ImageSet, Error> {
        let held = read_all(bytes, MNIST, Some(&digits()), u64::MAX)?;
        assert_eq!(held, read_all(bytes, MNIST, Some(&digits()), 0)?);
        Ok(held)
    }

    fn reason(bytes: &[u8]) -> String {
        match read_bytes(bytes) {
            Err(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn images_and_labels_of_all_groups_in_order() {
        let bytes = write(SCHEMA, &[&[(grey(3, 2, 0), 7), (grey(3, 2, 100), 0)], &[(grey(3, 2, 250), 9)]]);
        let set = read_bytes(&bytes).unwrap();
        assert_eq!((set.shape(), set.labels()), ([1, 2, 3], &[7, 0, 9][..]));
        let pixels: Vec<u8> = (0..3).flat_map(|i| set.image(i).unwrap().to_vec()).collect();
        assert_eq!(pixels, [0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 104, 105, 250, 251, 252, 253, 254, 255]);
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_row() {
        let good = (grey(3, 2, 0), 1);
        for (bad, expected) in [
            ((None, 1), "column image.bytes has 1 values in a group of 2 rows"),
            ((grey(3, 2, 0), 10), "row 1 has the label 10; expected 0 to 9"),
            ((grey(3, 2, 0), -1), "row 1 has the label -1"),
            ((grey(2, 3, 0), 1), "row 0 has 3 x 2 pixels"),
            ((Some(b"GIF89a".to_vec()), 1), "the image in row 1 is damaged"),
            ((Some(b"<h1>no</h1>".to_vec()), 1), "the image in row 1 is no picture that is known; expected PNG"),
            ((Some(Vec::new()), 1), "the image in row 1 is no picture"),
            ((grey(3, 2, 0).map(|png| png[..50].to_vec()), 1), "the image in row 1 is damaged"),
        ] {
            let text = reason(&write(SCHEMA, &[&[good.clone(), bad]]));
            assert!(text.contains(expected), "{text}");
        }
        assert!(reason(&write(SCHEMA, &[])).contains("holds 0 images"));
        let text = reason(&write(&SCHEMA.replace("label", "class"), &[std::slice::from_ref(&good)]));
        assert!(text.contains("no column label") && text.contains("image.path, class"), "{text}");
        let text = reason(&write(&SCHEMA.replace("bytes", "blob"), &[&[good]]));
        assert!(text.contains("no column image.bytes"), "{text}");
    }

    #[test]
    fn a_label_column_of_another_type_is_refused() {
        let schema = "message schema { optional group image { optional binary bytes; } optional double label; }";
        let (schema, mut bytes) = (Arc::new(parse_message_type(schema).unwrap()), Vec::new());
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[grey(1, 1, 0).unwrap().into()], Some(&[2]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<::parquet::data_type::DoubleType>().write_batch(&[1.0], Some(&[1]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        assert!(reason(&bytes).contains("column label is of type DOUBLE, but labels are whole numbers"));
    }

    /// Cut anywhere or with any byte changed, the file is refused or read, and nothing panics.
    #[test]
    fn damage_anywhere_never_panics() {
        let rows: Vec<_> = (0..4).map(|i| (grey(4, 4, i * 16), i64::from(i))).collect();
        let bytes = write(SCHEMA, &[&rows]);
        for end in 0..bytes.len() {
            reason(&bytes[..end]);
        }
        for i in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[i] ^= flip;
                if let Ok(set) = read_bytes(&bytes) {
                    assert_eq!(set.len(), 4, "byte {i}");
                }
            }
        }
        assert!(reason(b"rubbish").contains("parquet"));
        assert!(reason(&[0xa5; 4096]).contains("parquet"));
    }

    /// A page's header that claims two thousand million numbers of eight bytes in a field that nobody knows.
    #[test]
    fn a_header_that_claims_more_than_there_is_is_refused_at_once() {
        let mut bytes = write(SCHEMA, &[&[(grey(3, 2, 0), 1)]]);
        bytes[4..11].copy_from_slice(&[0xf9, 0xf7, 0xff, 0xff, 0xff, 0xff, 0x07]);
        assert!(reason(&bytes).contains("column image.bytes"), "{}", reason(&bytes));
    }

    /// The fuzzer's: lists of truth values without end in the footer, and a page that claims to unpack to two gigabytes.
    #[test]
    fn claims_that_would_take_time_or_memory_are_refused() {
        let bytes = write(SCHEMA, &[&[(grey(3, 2, 0), 1)]]);
        let lists = [0xf9, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07].repeat(1000);
        let footer = [&lists[..], &(lists.len() as u32).to_le_bytes(), b"PAR1"].concat();
        assert!(reason(&[&bytes[..], &footer].concat()).contains("its footer is damaged"));
        let page = [0x15, 0x00, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x15, 0x00, 0x00]; // its sizes, unpacked and packed
        let mut claims = bytes;
        claims[4..4 + page.len()].copy_from_slice(&page);
        assert!(reason(&claims).contains("a page of 0 bytes claims to unpack to 2147483647"), "{}", reason(&claims));
    }

    /// The Hub's own file: set `KAKUSAN_HUB_DIR` to the folder that holds `ylecun-mnist/`, and `KAKUSAN_MNIST_DIR` to MNIST's IDX files.
    #[test]
    fn the_hubs_mnist_is_mnist() {
        let Some(hub) = std::env::var_os("KAKUSAN_HUB_DIR") else { return };
        let path = Path::new(&hub).join("ylecun-mnist/mnist/train/0000.parquet");
        let rows = read(&[path], MNIST, Some(&digits()), u64::MAX).unwrap();
        let (hubs, _) = image_set(rows.entries, digits(), Transform::none(1), Path::new("ylecun/mnist")).unwrap();
        assert_eq!((hubs.shape(), hubs.len()), ([1, 28, 28], 60_000));
        assert_eq!(hubs.class_counts(), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);

        let Some(idx) = std::env::var_os("KAKUSAN_MNIST_DIR") else { return };
        let mnist = crate::DatasetName::Mnist;
        let set = crate::idx::read(&crate::idx::find(Path::new(&idx), mnist).unwrap(), mnist.class_names()).unwrap();
        assert_eq!(set, hubs);
    }
}
