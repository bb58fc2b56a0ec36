//! Image sets as the Hub keeps them: a parquet file with a column `image`, whose `bytes` are a PNG file, and a column `label`.
//!
//! candle-datasets opens the file; its own row reader drops bad rows and panics on bad images, so the columns are read here.

use std::{fs::File, io::Cursor, path::Path};

use ::parquet::{
    data_type::{ByteArray, ByteArrayType, DataType, Int64Type},
    file::reader::{RowGroupReader, SerializedFileReader},
};
use candle_datasets::hub::FileReader;
use rayon::prelude::*;

use crate::Error;

/// Beyond these a file is not believed. MNIST has 60,000 images of 784 bytes.
const MAX_IMAGES: usize = 4_000_000;
const MAX_SIDE: u32 = 1024;
const MAX_BYTES: usize = 1 << 32;

/// Height, width, pixels `[n, height, width]`, labels `[n]`.
type Images = (usize, usize, Vec<u8>, Vec<u8>);

/// Reads the grey 8-bit images and their labels, in the file's order.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be opened; [`Error::Parquet`] for one that is damaged, lacks a column or a value, has a label
/// of `classes` or more, or images that are no grey 8-bit PNG or not all of one size.
pub(crate) fn read(path: &Path, classes: usize) -> Result<Images, Error> {
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    // The parquet crate meets some kinds of damage with a panic.
    let images = std::panic::catch_unwind(|| decode(file, classes));
    let images = images.unwrap_or_else(|_| Err("not a sound parquet file: its reader gave up on it".to_owned()));
    images.map_err(|reason| Error::Parquet { path: path.to_owned(), reason })
}

fn decode(file: File, classes: usize) -> Result<Images, String> {
    let reader = SerializedFileReader::new(file).map_err(|error| format!("not a sound parquet file: {error}"))?;
    let (image_column, label_column) = (column(&reader, "image.bytes")?, column(&reader, "label")?);
    let (mut pngs, mut labels) = (Vec::new(), Vec::new());
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(|error| format!("row group {group}: {error}"))?;
        let rows = usize::try_from(group.metadata().num_rows()).ok().filter(|rows| pngs.len() + rows <= MAX_IMAGES);
        let rows = rows.ok_or_else(|| format!("claims more than {MAX_IMAGES} images"))?;
        values::<ByteArrayType>(&*group, image_column, "image.bytes", rows, &mut pngs)?;
        values::<Int64Type>(&*group, label_column, "label", rows, &mut labels)?;
    }
    let claimed = reader.metadata().file_metadata().num_rows();
    if usize::try_from(claimed) != Ok(pngs.len()) || pngs.is_empty() {
        return Err(format!("holds {} images where it claims {claimed}", pngs.len()));
    }
    let label = |(row, &label): (usize, &i64)| match u8::try_from(label) {
        Ok(class) if usize::from(class) < classes => Ok(class),
        _ => Err(format!("row {row} has the label {label}; expected 0 to {}", classes.saturating_sub(1))),
    };
    let labels = labels.iter().enumerate().map(label).collect::<Result<_, _>>()?;
    let (height, width, pixels) = unpack_all(&pngs)?;
    Ok((height, width, pixels, labels))
}

/// The index of the leaf column `name`, which must have one value a row.
fn column(reader: &SerializedFileReader<File>, name: &str) -> Result<usize, String> {
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let names = || columns.iter().map(|column| column.path().string()).collect::<Vec<_>>().join(", ");
    let found = columns.iter().position(|column| column.path().string() == name && column.max_rep_level() == 0);
    found.ok_or_else(|| format!("has no column {name} with one value a row; its columns are {}", names()))
}

/// Appends the `rows` values of one column of one row group.
fn values<T: DataType>(
    group: &dyn RowGroupReader,
    column: usize,
    name: &str,
    rows: usize,
    into: &mut Vec<T::T>,
) -> Result<(), String> {
    let reader = group.get_column_reader(column).map_err(|error| format!("column {name}: {error}"))?;
    let mut reader = T::get_column_reader(reader)
        .ok_or_else(|| format!("column {name} is not of type {}", T::get_physical_type()))?;
    // A null has a level and no value.
    let (records, values, _) = reader
        .read_records(rows, Some(&mut Vec::new()), None, into)
        .map_err(|error| format!("column {name}: {error}"))?;
    match (records, values) == (rows, rows) {
        true => Ok(()),
        false => Err(format!("column {name} has {values} values in a group of {rows} rows")),
    }
}

/// Height, width and all pixels of images that must be as large as the first.
fn unpack_all(pngs: &[ByteArray]) -> Result<(usize, usize, Vec<u8>), String> {
    let first = pngs.first().map(ByteArray::data).unwrap_or_default();
    let (width, height) = open(first).map_err(|reason| format!("row 0: {reason}"))?.info().size();
    let size = height as usize * width as usize;
    let bytes = size.checked_mul(pngs.len()).filter(|bytes| width.max(height) <= MAX_SIDE && *bytes <= MAX_BYTES);
    let bytes = bytes.ok_or_else(|| {
        format!(
            "{} images of {width} x {height} pixels are too many or too large ({MAX_SIDE} a side at most)",
            pngs.len()
        )
    })?;
    let mut pixels = vec![0; bytes];
    let unpack = |(row, (out, png)): (usize, (&mut [u8], &ByteArray))| {
        unpack(png.data(), (width, height), out).map_err(|reason| format!("row {row}: {reason}"))
    };
    pixels.par_chunks_exact_mut(size).zip(pngs).enumerate().try_for_each(unpack)?;
    Ok((height as usize, width as usize, pixels))
}

fn unpack(png: &[u8], size: (u32, u32), out: &mut [u8]) -> Result<(), String> {
    let mut reader = open(png)?;
    let info = reader.info();
    if info.size() != size {
        let (width, height) = info.size();
        return Err(format!("its image is {width} x {height} pixels where the first has {} x {}", size.0, size.1));
    }
    if (info.color_type, info.bit_depth) != (png::ColorType::Grayscale, png::BitDepth::Eight) {
        return Err(format!(
            "its image is {:?} with {:?} bits; expected grey with eight",
            info.color_type, info.bit_depth
        ));
    }
    reader.next_frame(out).map_err(|error| format!("its image is damaged: {error}"))?;
    Ok(())
}

fn open(png: &[u8]) -> Result<png::Reader<Cursor<&[u8]>>, String> {
    png::Decoder::new(Cursor::new(png)).read_info().map_err(|error| format!("its image is no sound PNG: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::parquet::{
        file::properties::WriterProperties, file::writer::SerializedFileWriter, schema::parser::parse_message_type,
    };

    use super::*;

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

    fn read_bytes(bytes: &[u8]) -> Result<Images, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path(), 10)
    }

    fn reason(bytes: &[u8]) -> String {
        match read_bytes(bytes) {
            Err(error @ Error::Parquet { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn images_and_labels_of_all_groups_in_order() {
        let bytes = write(SCHEMA, &[&[(grey(3, 2, 0), 7), (grey(3, 2, 100), 0)], &[(grey(3, 2, 250), 9)]]);
        let (height, width, pixels, labels) = read_bytes(&bytes).unwrap();
        assert_eq!((height, width, labels), (2, 3, vec![7, 0, 9]));
        assert_eq!(pixels, [0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 104, 105, 250, 251, 252, 253, 254, 255]);
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_row() {
        let good = (grey(3, 2, 0), 1);
        for (bad, expected) in [
            ((None, 1), "column image.bytes has 1 values in a group of 2 rows"),
            ((grey(3, 2, 0), 10), "row 1 has the label 10; expected 0 to 9"),
            ((grey(3, 2, 0), -1), "row 1 has the label -1"),
            ((grey(2, 3, 0), 1), "row 1: its image is 2 x 3 pixels where the first has 3 x 2"),
            ((Some(png(3, 2, png::ColorType::Rgb, &[0; 18])), 1), "row 1: its image is Rgb with Eight bits"),
            ((Some(b"GIF89a".to_vec()), 1), "row 1: its image is no sound PNG"),
            ((Some(Vec::new()), 1), "row 1: its image is no sound PNG"),
            ((grey(3, 2, 0).map(|png| png[..50].to_vec()), 1), "row 1: its image is damaged"),
        ] {
            let text = reason(&write(SCHEMA, &[&[good.clone(), bad]]));
            assert!(text.contains(expected), "{text}");
        }
        assert!(reason(&write(SCHEMA, &[&[(grey(1025, 1, 0), 1)]])).contains("1025 x 1"));
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
        assert!(reason(&bytes).contains("column label is not of type INT64"));
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
                if let Ok((height, width, pixels, labels)) = read_bytes(&bytes) {
                    assert_eq!((pixels.len(), labels.len()), (4 * height * width, 4), "byte {i}");
                }
            }
        }
        assert!(reason(b"rubbish").contains("parquet"));
        assert!(reason(&[0xa5; 4096]).contains("parquet"));
    }

    /// The Hub's own file: set `KAKUSAN_HUB_DIR` to the folder that holds `ylecun-mnist/`, and `KAKUSAN_MNIST_DIR` to MNIST's IDX files.
    #[test]
    fn the_hubs_mnist_is_mnist() {
        let Some(hub) = std::env::var_os("KAKUSAN_HUB_DIR") else { return };
        let path = Path::new(&hub).join("ylecun-mnist/mnist/train/0000.parquet");
        let (height, width, pixels, labels) = read(&path, 10).unwrap();
        assert_eq!((height, width, pixels.len(), labels.len()), (28, 28, 60_000 * 784, 60_000));
        let counts: Vec<usize> = (0..10).map(|class| labels.iter().filter(|&&label| label == class).count()).collect();
        assert_eq!(counts, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);

        let Some(idx) = std::env::var_os("KAKUSAN_MNIST_DIR") else { return };
        let mnist = crate::DatasetName::Mnist;
        let set = crate::idx::read(&crate::idx::find(Path::new(&idx), mnist).unwrap(), mnist.class_names()).unwrap();
        assert_eq!(set.labels(), labels);
        assert!((0..set.len()).all(|i| set.image(i) == &pixels[i * 784..(i + 1) * 784]));
    }
}
