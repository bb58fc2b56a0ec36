//! Single pictures and masks, brought to the form of a model's images as training brings its pictures to it.

use std::path::{Path, PathBuf};

use crate::{
    Error, OnBadImage, Resolution, folder,
    photos::{Entry, Photo, Transform, image_set, middle},
    raster::{self, Header, MAX_FILE_BYTES, Picture, Sample},
    tree::Tree,
};

/// The most pictures that are read at once.
const MOST_PICTURES: usize = 4096;

/// A picture in the form of a model's images.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReadPicture {
    /// The file.
    pub path: PathBuf,
    /// Numbers from 0 to 1, `[c, h, w]`.
    pub pixels: Vec<f32>,
    /// The width and height of the file's picture, upright.
    pub size: [usize; 2],
    /// What was changed to give it this form, in words; `None` if it had it.
    pub changed: Option<String>,
}

/// Reads a picture as an image of `[channels, height, width]`, or all pictures in a folder and below it, in the order
/// of their names.
///
/// The size and the channels change as in training: for square images, the shorter side is resized to the side and the
/// middle is cropped; for others, both sides are resized. Colour becomes grey, grey becomes colour. What is transparent
/// becomes white.
///
/// ```
/// use kakusan_data::read_pictures;
///
/// let refused = read_pictures("no/such.png".as_ref(), [1, 28, 28]).unwrap_err();
/// assert!(refused.to_string().contains("no/such.png cannot be read"));
/// ```
///
/// # Errors
/// [`Error::Images`] for images of other channels than 1 or 3, for a file that is no picture, an empty folder, and one
/// of more than 4096 pictures.
pub fn read_pictures(path: &Path, shape: [usize; 3]) -> Result<Vec<ReadPicture>, Error> {
    let wrong = |reason: String| Error::Images { path: path.to_owned(), reason };
    check_shape(shape).map_err(wrong)?;
    if !path.is_dir() {
        return Ok(vec![read_picture(path, shape)?]);
    }
    let mut paths = vec![];
    files(folder::find(path)?, &mut paths);
    match paths.len() {
        0 => Err(wrong(format!("holds no picture; {}", raster::FORMATS))),
        count if count > MOST_PICTURES => {
            Err(wrong(format!("holds {count} pictures, more than {MOST_PICTURES}; name a folder of fewer")))
        }
        _ => paths.iter().map(|path| read_picture(path, shape)).collect(),
    }
}

/// As [`read_pictures`] for one picture whose file's `bytes` are in memory, for programs that receive them. One of more
/// than `most_pixels` is refused before it is decoded. Messages call it `name`.
///
/// ```
/// use kakusan_data::decode_picture;
///
/// let refused = decode_picture("the upload", b"GIF89a, or not".to_vec(), [1, 28, 28], 1 << 24).unwrap_err();
/// assert!(refused.to_string().contains("the upload"));
/// ```
///
/// # Errors
/// [`Error::Images`] for images of other channels than 1 or 3, for bytes that are no picture, and for one of too many
/// pixels.
pub fn decode_picture(name: &str, bytes: Vec<u8>, shape: [usize; 3], most_pixels: u64) -> Result<ReadPicture, Error> {
    let (path, photo) = in_memory(name, bytes, most_pixels)?;
    check_shape(shape).map_err(|reason| Error::Images { path: path.clone(), reason })?;
    of_photo(&path, photo, shape)
}

/// As [`read_mask`] for a mask whose file's `bytes` are in memory, with the limits of [`decode_picture`].
///
/// # Errors
/// As [`read_mask`], and for one of too many pixels.
pub fn decode_mask(
    name: &str,
    bytes: Vec<u8>,
    size: [usize; 2],
    picture: &ReadPicture,
    most_pixels: u64,
) -> Result<Vec<bool>, Error> {
    let (path, photo) = in_memory(name, bytes, most_pixels)?;
    mask_of(&path, &photo, size, picture)
}

fn in_memory(name: &str, bytes: Vec<u8>, most_pixels: u64) -> Result<(PathBuf, Photo), Error> {
    let path = PathBuf::from(name);
    let wrong = |reason: String| Error::Images { path: path.clone(), reason };
    let Header { width, height, .. } = raster::header(&bytes).map_err(wrong)?;
    if (width as u64).saturating_mul(height as u64) > most_pixels {
        return Err(wrong(format!(
            "has {width} x {height} pixels, and at most {most_pixels} are read: make it smaller"
        )));
    }
    let photo = Photo::Bytes { name: path.clone(), bytes: bytes.into() };
    Ok((path, photo))
}

fn check_shape([channels, height, width]: [usize; 3]) -> Result<(), String> {
    if !matches!(channels, 1 | 3) {
        return Err(format!("is a picture, of 1 or 3 channels, but the model's images have {channels}"));
    }
    if height.max(width) > 8192 || height.min(width) == 0 {
        return Err(format!("cannot be resized to {width} x {height} pixels, the model's: 1 to 8192 are possible"));
    }
    Ok(())
}

/// Reads a mask for images of `[height, width]`: whether each pixel, `[h, w]`, is white, that is, at least half way
/// from black to white. Colour counts as its luma, and what is transparent as black.
///
/// A mask as large as the `picture` changes with it: it is resized (to the nearest pixels) and cropped alike. One of
/// the images' own proportions is resized to them.
///
/// # Errors
/// [`Error::Images`] for a file that is no picture, and for one with other proportions than both.
pub fn read_mask(path: &Path, size: [usize; 2], picture: &ReadPicture) -> Result<Vec<bool>, Error> {
    mask_of(path, &Photo::File(path.to_owned()), size, picture)
}

fn mask_of(path: &Path, photo: &Photo, [height, width]: [usize; 2], picture: &ReadPicture) -> Result<Vec<bool>, Error> {
    let wrong = |reason: String| Error::Images { path: path.to_owned(), reason };
    let mask = photo.bytes(MAX_FILE_BYTES).and_then(|bytes| raster::decode(&bytes, 1, [0; 3])).map_err(wrong)?;
    let (own_width, own_height) = mask.width_and_height();
    let resolution = resolution([height, width]);
    let resized = raster::resized(own_width, own_height, resolution);
    let of_picture = raster::resized(picture.size[0], picture.size[1], resolution);
    let near = |a: (usize, usize), b: (usize, usize)| a.0.abs_diff(b.0) <= 1 && a.1.abs_diff(b.1) <= 1;
    if !near(resized, of_picture) && !near(resized, (width, height)) {
        let [picture_width, picture_height] = picture.size;
        return Err(wrong(format!(
            "has {own_width} x {own_height} pixels, which fit neither the picture ({picture_width} x {picture_height}) \
             nor the model's images ({width} x {height}): make the mask as large as the picture"
        )));
    }
    let white = whites(&mask, (own_width, own_height));
    let corner = (middle(resized.0.saturating_sub(width)), middle(resized.1.saturating_sub(height)));
    let nearest = |at: usize, resized: usize, own: usize| {
        let at = (at as f64 + 0.5) * own as f64 / resized as f64;
        (at as usize).min(own - 1)
    };
    let pixel = |y: usize, x: usize| {
        let (y, x) = (nearest(y + corner.1, resized.1, own_height), nearest(x + corner.0, resized.0, own_width));
        white[y * own_width + x]
    };
    Ok((0..height).flat_map(|y| (0..width).map(move |x| (y, x))).map(|(y, x)| pixel(y, x)).collect())
}

fn read_picture(path: &Path, shape: [usize; 3]) -> Result<ReadPicture, Error> {
    of_photo(path, Photo::File(path.to_owned()), shape)
}

fn of_photo(path: &Path, photo: Photo, shape: [usize; 3]) -> Result<ReadPicture, Error> {
    let wrong = |reason: String| Error::Images { path: path.to_owned(), reason };
    let [channels, height, width] = shape;
    let header = photo.header().map_err(wrong)?;
    let transform = Transform {
        resolution: Some(resolution([height, width])),
        center_crop: true,
        channels: Some(channels),
        background: [255; 3],
        on_bad_image: OnBadImage::Fail,
        cache_bytes: u64::MAX,
    };
    let entry = Entry { photo, label: 0, header: Some(Ok(header)) };
    let read = image_set(vec![entry], vec!["images".to_owned()], transform, path);
    let pixels = read.and_then(|(images, _)| images.pixels_f32(&[0])).map_err(|e| match e {
        Error::BadImage(bad) => wrong(bad.reason), // there is no setting to skip it
        other => other,
    })?;
    let (path, size) = (path.to_owned(), [header.width, header.height]);
    Ok(ReadPicture { path, pixels, size, changed: changed(header, shape) })
}

/// What has to change in a picture.
fn changed(Header { width, height, grey, .. }: Header, [channels, to_height, to_width]: [usize; 3]) -> Option<String> {
    let mut changes = vec![];
    if (width, height) != (to_width, to_height) {
        let cropped = to_width == to_height && width != height;
        let how = if cropped { "resized, and its middle cropped," } else { "resized" };
        changes.push(format!("{width} x {height} pixels, {how} to {to_width} x {to_height}"));
    }
    if !grey && channels == 1 {
        changes.push("in colour, made grey".to_owned());
    }
    (!changes.is_empty()).then(|| changes.join("; "))
}

/// How training brings pictures to this size.
fn resolution([height, width]: [usize; 2]) -> Resolution {
    if height == width { Resolution::Shorter(height) } else { Resolution::Both([height, width]) }
}

/// The files of a folder and of those below it.
fn files(tree: Tree, paths: &mut Vec<PathBuf>) {
    paths.extend(tree.files.into_iter().filter_map(|file| match file.photo {
        Photo::File(path) => Some(path),
        _ => None,
    }));
    tree.folders.into_values().for_each(|folder| files(folder, paths));
}

/// Whether each pixel of a grey picture is white.
fn whites(picture: &Picture, (width, height): (usize, usize)) -> Vec<bool> {
    let mut white = Vec::with_capacity(width * height);
    picture.for_each_in_window((0, 0), (height, width), false, Sample::to_f32, Sample::to_f32, |value| {
        white.push(value >= 0.5);
    });
    white
}
