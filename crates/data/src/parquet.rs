//! Image sets in the Hub's format: parquet files with a column of images and usually a column of labels. An image is a
//! picture's file, as plain bytes or as a struct with the field `bytes`.
//!
//! candle-datasets' row reader drops bad rows and panics on bad images, so the columns are read here.

mod checked_file;
mod labels;
mod pages;
mod thrift;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::parquet::{
    basic::{ConvertedType, LogicalType, Type},
    column::reader::ColumnReaderImpl,
    data_type::{ByteArray, ByteArrayType, DataType},
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};
use rayon::prelude::*;

use self::{
    checked_file::CheckedFile,
    labels::{Column, Labels},
    pages::{Pages, Sizes},
};
use crate::{
    Class, Error,
    photos::{Entry, Photo},
    raster,
};

/// A file that claims more images is refused. MNIST has 60,000 images in a row group of 18 MB; the Hub writes groups of
/// 100 to 1,000 images.
const MAX_IMAGES: usize = 100_000_000;

/// The value of `label_column` that means no column.
pub(crate) const NO_LABELS: &str = "none";

/// The columns to read. A column without a name is detected.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Columns<'a> {
    pub(crate) image: Option<&'a str>,
    /// [`NO_LABELS`] reads no labels.
    pub(crate) label: Option<&'a str>,
}

/// Which images to read, and how to check their labels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Classes<'a> {
    /// All images; each must belong to one of these classes, by number.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))] // the sets of the Hub that are known by name
    Known(&'a [String]),
    /// All images, with any classes or none.
    Any,
    /// Only the images of these classes.
    Some(&'a [Class]),
}

/// The images and labels of some files.
pub(crate) struct Rows {
    pub(crate) entries: Vec<Entry>,
    /// The names of the classes: the file's, or the known ones, or their numbers.
    pub(crate) class_names: Vec<String>,
    /// The reason if the images have no classes.
    pub(crate) unlabelled: Option<String>,
}

/// One file with its footer. Each access opens the file again, because clones of a handle share its position.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    metadata: ParquetMetaData,
    /// The length of the file, in bytes.
    len: u64,
    /// The column of pictures. `None` if there are no rows.
    image: Option<Chunks>,
    /// The column of labels, or why there is none.
    label: Result<(Column, Chunks), String>,
}

/// A leaf column, with the sizes of its pages in each row group.
#[derive(Debug)]
struct Chunks {
    leaf: usize,
    sizes: Vec<Sizes>,
}

/// A picture in a table: its row within a row group.
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

/// Reads the rows of all files in order. If the pictures' files take at most `held_bytes` in total, they are held in
/// memory. Otherwise only their headers are read now, one row group at a time.
///
/// # Errors
/// [`Error::Io`] if a file cannot be opened; [`Error::Parquet`] if it is damaged or does not have a configured column;
/// and an error if the labels do not satisfy the requested [`Classes`].
pub(crate) fn read(paths: &[PathBuf], columns: Columns, classes: Classes, held_bytes: u64) -> Result<Rows, Error> {
    let tables = paths.iter().map(|path| Table::open(path, columns).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let all_bytes = tables.iter().map(|table| table.image_bytes()).fold(0, u64::saturating_add);
    let mut held_left = if all_bytes <= held_bytes { held_bytes } else { 0 };
    let mut labels = Labels::new(&tables.iter().map(Arc::as_ref).collect::<Vec<_>>(), classes)?;
    let (mut entries, mut of_rows) = (Vec::new(), Vec::new());
    for table in &tables {
        let Some(images) = &table.image else { continue };
        let mut first = 0;
        for group in 0..table.metadata.num_row_groups() {
            let rows = table.guarded(|| table.rows(group, entries.len(), first))?;
            of_rows.extend(labels.of_group(table, group, first, rows)?);
            let pictures = table.guarded(|| table.values::<ByteArrayType>(images, group, 0, rows))?;
            let held: Vec<bool> = pictures.iter().map(|bytes| hold(bytes.as_ref(), &mut held_left)).collect();
            let header = |(bytes, held): (&Option<ByteArray>, &bool)| match (bytes, held) {
                (_, true) => None,
                (Some(bytes), false) => Some(raster::header(bytes.data())),
                (None, false) => Some(Err(NULL.to_owned())),
            };
            let headers: Vec<_> = pictures.par_iter().zip(&held).map(header).collect();
            for (row, ((bytes, header), held)) in pictures.into_iter().zip(headers).zip(held).enumerate() {
                // Copy: a slice of the original would keep its whole page in memory.
                let bytes = bytes.filter(|_| held).map(|bytes| bytes.data().into());
                let cell = Cell { table: table.clone(), group, row };
                entries.push(Entry { photo: Photo::Cell { cell, row: first + row, bytes }, label: 0, header });
            }
            first += rows;
        }
        table.guarded(|| match usize::try_from(table.metadata.file_metadata().num_rows()) {
            Ok(claimed) if claimed == first => Ok(()),
            claimed => Err(format!("has {first} images, but its header claims {}", claimed.unwrap_or_default())),
        })?;
    }
    labels.give(entries, of_rows)
}

/// The reason for a picture that is null or whose bytes are null.
const NULL: &str = "is a null";

/// Whether to hold a picture's file in memory. If so, subtracts its size from `left`.
fn hold(bytes: Option<&ByteArray>, left: &mut u64) -> bool {
    let rest = bytes.filter(|_| *left > 0).and_then(|bytes| left.checked_sub(bytes.len() as u64));
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

impl Cell {
    pub(crate) fn path(&self) -> &Path {
        &self.table.path
    }

    /// The bytes of the picture's file, read from the table.
    pub(crate) fn bytes(&self) -> Result<ByteArray, String> {
        unpanicked(|| {
            let images = self.table.image.as_ref().ok_or("is not there")?;
            let picture = self.table.values::<ByteArrayType>(images, self.group, self.row, 1)?.pop().flatten();
            picture.ok_or_else(|| NULL.to_owned())
        })
    }
}

/// Turns a panic into an error: the parquet crate panics on some damaged files.
fn unpanicked<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    result.unwrap_or_else(|_| Err("not a valid parquet file: the parquet reader failed on it".to_owned()))
}

impl Table {
    fn open(path: &Path, columns: Columns) -> Result<Self, Error> {
        let unread = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(unread)?;
        let len = file.metadata().map_err(unread)?.len();
        let read = unpanicked(|| {
            let file = CheckedFile(file);
            file.check_footer()?;
            let metadata = ParquetMetaDataReader::new().parse_and_finish(&file);
            let metadata = metadata.map_err(|error| format!("not a valid parquet file: {error}"))?;
            let mut table = Self { path: path.to_owned(), metadata, len, image: None, label: Err(String::new()) };
            if table.metadata.file_metadata().num_rows() == 0 {
                return Ok(table); // a file without rows, whatever its columns
            }
            table.image = Some(table.chunks(&file, image_column(&table.metadata, columns.image)?)?);
            table.label = match labels::column(&table.metadata, columns.label)? {
                Ok((leaf, column)) => Ok((column, table.chunks(&file, leaf)?)),
                Err(reason) => Err(reason),
            };
            Ok(table)
        });
        read.map_err(|reason| Error::Parquet { path: path.to_owned(), reason })
    }

    fn chunks(&self, file: &CheckedFile, leaf: usize) -> Result<Chunks, String> {
        let sizes = self.metadata.row_groups().iter().map(|group| {
            let chunk = group.column(leaf);
            Sizes::read(file, chunk).map_err(|reason| format!("column {}: {reason}", chunk.column_path().string()))
        });
        Ok(Chunks { leaf, sizes: sizes.collect::<Result<_, _>>()? })
    }

    /// Adds this file's path to an error, and turns panics into errors.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, String>) -> Result<T, Error> {
        unpanicked(work).map_err(|reason| Error::Parquet { path: self.path.clone(), reason })
    }

    /// The size of all pictures' files together, in bytes.
    fn image_bytes(&self) -> u64 {
        let sizes = self.image.iter().flat_map(|image| &image.sizes);
        sizes.map(Sizes::unpacked).fold(0, u64::saturating_add)
    }

    /// The number of rows of a group. `before` is the number of rows in all earlier groups, `first` of them in this
    /// file.
    fn rows(&self, group: usize, before: usize, first: usize) -> Result<usize, String> {
        let rows = self.metadata.row_group(group).num_rows();
        let rows = usize::try_from(rows).ok().filter(|rows| before.saturating_add(*rows) <= MAX_IMAGES);
        let rows = rows.ok_or_else(|| format!("claims more than {MAX_IMAGES} images"))?;
        // A picture takes more than one byte, but run-length encoding can claim millions of values in a few bytes.
        match (first + rows) as u64 <= self.len {
            true => Ok(rows),
            false => Err(format!("claims {} images in {} bytes", first + rows, self.len)),
        }
    }

    /// `count` values of a column of a row group, starting at row `first`. `None` for a null.
    fn values<T: DataType>(
        &self,
        column: &Chunks,
        group: usize,
        first: usize,
        count: usize,
    ) -> Result<Vec<Option<T::T>>, String> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let metadata = self.metadata.row_group(group);
        let chunk = metadata.column(column.leaf);
        let name = chunk.column_path().string();
        let wrong = |error: ::parquet::errors::ParquetError| format!("column {name}: {error}");
        if chunk.column_type() != T::get_physical_type() {
            return Err(format!("column {name} is not of type {}", T::get_physical_type()));
        }
        let file = File::open(&self.path).map_err(|error| format!("cannot be read: {error}"))?;
        let rows = usize::try_from(metadata.num_rows()).unwrap_or_default();
        let sizes = column.sizes.get(group).ok_or("has a row group too many")?.clone();
        let pages = Pages::new(CheckedFile(file), chunk, rows, sizes).map_err(wrong)?;
        let whole = chunk.column_descr().max_def_level();
        let mut reader = ColumnReaderImpl::<T>::new(chunk.column_descr_ptr(), Box::new(pages));
        reader.skip_records(first).map_err(wrong)?;
        // A null has a definition level but no value.
        let (mut levels, mut present) = (Vec::new(), Vec::new());
        let (records, ..) = reader.read_records(count, Some(&mut levels), None, &mut present).map_err(wrong)?;
        if whole == 0 {
            levels = vec![0; present.len()];
        }
        let nulls = levels.iter().filter(|level| **level != whole).count();
        if (records, levels.len(), present.len() + nulls) != (count, count, count) {
            let found = present.len() + nulls;
            return Err(format!("column {name} has {found} values in a group of {rows} rows"));
        }
        let mut present = present.into_iter();
        Ok(levels.into_iter().map(|level| if level == whole { present.next() } else { None }).collect())
    }
}

/// Finds the leaf column that holds the pictures' files.
fn image_column(metadata: &ParquetMetaData, named: Option<&str>) -> Result<usize, String> {
    let leaves = leaves(metadata);
    let found = |path: &str| leaves.iter().find(|leaf| leaf.path == path);
    if let Some(name) = named {
        let leaf = found(&format!("{name}.bytes")).or_else(|| found(name));
        let leaf = leaf.ok_or_else(|| lacks(&format!("{name}.bytes or {name}"), &leaves))?;
        return match leaf.holds_files() {
            true => Ok(leaf.index),
            false => Err(format!(
                "column {} holds {}, but a picture's file is one byte array in each row",
                leaf.path,
                leaf.what()
            )),
        };
    }
    let of_structs = |leaf: &&Leaf| leaf.holds_files() && leaf.path.ends_with(".bytes");
    let plain = |leaf: &&Leaf| leaf.holds_files() && !leaf.path.contains('.');
    let mut found: Vec<&Leaf> = leaves.iter().filter(of_structs).collect();
    if found.is_empty() {
        found = leaves.iter().filter(plain).collect();
    }
    let column = |leaf: &Leaf| leaf.path.trim_end_matches(".bytes").to_owned();
    let usual = ["image", "img"].into_iter().find_map(|name| found.iter().find(|leaf| column(leaf) == name));
    match (found.as_slice(), usual) {
        ([], _) => Err(lacks("of images (a struct with `bytes`, or plain bytes)", &leaves)),
        ([only], _) => Ok(only.index),
        (_, Some(usual)) => Ok(usual.index),
        (several, None) => {
            let names: Vec<String> = several.iter().map(|leaf| column(leaf)).collect();
            Err(format!("has several columns of images; name one of {} as `image_column`", names.join(", ")))
        }
    }
}

/// A leaf column.
struct Leaf {
    index: usize,
    path: String,
    kind: Type,
    /// Has one value per row.
    flat: bool,
    text: bool,
}

impl Leaf {
    fn holds_files(&self) -> bool {
        self.flat && self.kind == Type::BYTE_ARRAY && !self.text
    }

    /// A description of the column's type, for a message.
    fn what(&self) -> String {
        match (self.flat, self.text) {
            (false, _) => "a list in each row".to_owned(),
            (true, true) => "text".to_owned(),
            (true, false) => format!("values of type {}", self.kind),
        }
    }
}

fn leaves(metadata: &ParquetMetaData) -> Vec<Leaf> {
    let columns = metadata.file_metadata().schema_descr().columns().iter().enumerate();
    let is_text = |column: &::parquet::schema::types::ColumnDescriptor| {
        let text = [ConvertedType::UTF8, ConvertedType::ENUM, ConvertedType::JSON].contains(&column.converted_type());
        text || matches!(column.logical_type_ref(), Some(LogicalType::String | LogicalType::Enum | LogicalType::Json))
    };
    let leaf = |(index, column): (usize, &Arc<::parquet::schema::types::ColumnDescriptor>)| Leaf {
        index,
        path: column.path().string(),
        kind: column.physical_type(),
        flat: column.max_rep_level() == 0,
        text: is_text(column),
    };
    columns.map(leaf).collect()
}

fn lacks(name: &str, leaves: &[Leaf]) -> String {
    let name_of = |leaf: &Leaf| format!("{}{}", leaf.path, if leaf.flat { "" } else { " (lists)" });
    let names: Vec<String> = leaves.iter().map(name_of).collect();
    format!("has no column {name} with one value in each row; its columns are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::parquet::{
        data_type::Int64Type, file::properties::WriterProperties, file::writer::SerializedFileWriter,
        schema::parser::parse_message_type,
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

    /// A PNG file or null, and a label.
    type Row = (Option<Vec<u8>>, i64);

    /// Writes a parquet file with one row group per slice of rows.
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

    /// Reads the images unchanged, either held in memory or read from their rows on demand.
    fn read_all(bytes: &[u8], columns: Columns, classes: Classes, held_bytes: u64) -> Result<ImageSet, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let rows = read(&[file.path().to_owned()], columns, classes, held_bytes)?;
        let transform = Transform { cache_bytes: held_bytes, ..Transform::none(1) };
        let set = image_set(rows.entries, rows.class_names, transform, file.path())?.0;
        let held = (0..set.len()).map(|i| set.image(i).map(|image| image.to_vec())).collect::<Result<Vec<_>, _>>()?;
        ImageSet::new(set.shape(), held.concat(), set.labels().to_vec(), set.class_names().to_vec())
    }

    fn read_bytes(bytes: &[u8]) -> Result<ImageSet, Error> {
        let held = read_all(bytes, MNIST, Classes::Known(&digits()), u64::MAX)?;
        assert_eq!(held, read_all(bytes, MNIST, Classes::Known(&digits()), 0)?);
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
            ((None, 1), "the image in row 1 is a null"),
            ((grey(3, 2, 0), 10), "row 1 has the label 10; expected 0 to 9"),
            ((grey(3, 2, 0), -1), "row 1 has the label -1"),
            ((grey(2, 3, 0), 1), "row 0 has 3 x 2 pixels"),
            ((Some(b"GIF89a".to_vec()), 1), "the image in row 1 is damaged"),
            ((Some(b"<h1>no</h1>".to_vec()), 1), "the image in row 1 is not a picture in a known format; expected PNG"),
            ((Some(Vec::new()), 1), "the image in row 1 is not a picture"),
            ((grey(3, 2, 0).map(|png| png[..50].to_vec()), 1), "the image in row 1 is damaged"),
        ] {
            let text = reason(&write(SCHEMA, &[&[good.clone(), bad]]));
            assert!(text.contains(expected), "{text}");
        }
        assert!(reason(&write(SCHEMA, &[])).contains("holds no image"));
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

    /// If a file is cut at any point or has any byte changed, it is refused or read, but nothing panics.
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

    /// A page header that claims two billion numbers of eight bytes in an unknown field.
    #[test]
    fn a_header_that_claims_more_than_there_is_is_refused_at_once() {
        let mut bytes = write(SCHEMA, &[&[(grey(3, 2, 0), 1)]]);
        bytes[4..11].copy_from_slice(&[0xf9, 0xf7, 0xff, 0xff, 0xff, 0xff, 0x07]);
        assert!(reason(&bytes).contains("column image.bytes"), "{}", reason(&bytes));
    }

    /// Found by the fuzzer: endless lists of booleans in the footer, and a page that claims to decompress to 2 GB.
    #[test]
    fn claims_that_would_take_time_or_memory_are_refused() {
        let bytes = write(SCHEMA, &[&[(grey(3, 2, 0), 1)]]);
        let lists = [0xf9, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07].repeat(1000);
        let footer = [&lists[..], &(lists.len() as u32).to_le_bytes(), b"PAR1"].concat();
        assert!(reason(&[&bytes[..], &footer].concat()).contains("its footer is damaged"));
        let page = [0x15, 0x00, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x15, 0x00, 0x00]; // its two sizes
        let mut claims = bytes;
        claims[4..4 + page.len()].copy_from_slice(&page);
        assert!(reason(&claims).contains("bytes claim to decompress to 2147483647"), "{}", reason(&claims));
    }

    /// Checks that the Hub's parquet file holds the same images as MNIST's IDX files, and returns them.
    fn hubs_mnist(hubs: &Path, idx: &Path) -> ImageSet {
        let path = hubs.join("mnist/train/0000.parquet");
        let rows = read(&[path], MNIST, Classes::Known(&digits()), u64::MAX).unwrap();
        let (hubs, _) = image_set(rows.entries, digits(), Transform::none(1), Path::new("ylecun/mnist")).unwrap();
        let mnist = crate::DatasetName::Mnist;
        assert_eq!(crate::idx::read(&crate::idx::find(idx, mnist, false).unwrap(), mnist.class_names()).unwrap(), hubs);
        hubs
    }

    #[test]
    fn the_hubs_mnist_is_mnist() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mnist");
        let set = hubs_mnist(&folder.join("hub"), &folder);
        assert_eq!(set.class_counts(), [50, 69, 52, 52, 52, 41, 46, 54, 40, 56]);
    }

    mod whole_mnist {
        use super::*;

        #[test]
        #[ignore = "needs all of MNIST, in KAKUSAN_MNIST_DIR and KAKUSAN_HUB_DIR"]
        fn the_hubs_mnist_is_mnist() {
            let folder =
                |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")));
            let set = hubs_mnist(&folder("KAKUSAN_HUB_DIR").join("ylecun-mnist"), &folder("KAKUSAN_MNIST_DIR"));
            assert_eq!(set.class_counts(), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
        }
    }
}
