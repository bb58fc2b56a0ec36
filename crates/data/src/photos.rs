//! Decodes pictures of any size and format into images of one size.

use std::{
    borrow::Cow,
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

#[cfg(feature = "parquet")]
use crate::parquet::Cell;
use crate::{
    Error, ImageSet, Resolution,
    archive::Member,
    image_set::Chance,
    raster::{self, Header, MAX_FILE_BYTES, MAX_PIXELS, Picture, Raster, Sample},
};

/// What to do if an image cannot be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnBadImage {
    /// Return an error that names the image.
    #[default]
    Fail,
    /// Skip and report the image.
    Skip,
}

/// An image that cannot be decoded, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BadImage {
    /// The file of the image.
    pub path: PathBuf,
    /// The row of the image, if the file is a table.
    pub row: Option<usize>,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.row {
            Some(row) => write!(f, "{path}: the image in row {row} {}", self.reason),
            None => write!(f, "{path}: {}", self.reason),
        }
    }
}

/// The location of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Photo {
    /// In a file.
    File(PathBuf),
    /// In an archive.
    Member(Member),
    /// In a row of a table: its bytes in memory, or the cell to read them from.
    #[cfg(feature = "parquet")]
    Cell { cell: Cell, row: usize, bytes: Option<Arc<[u8]>> },
    /// In memory, as the bytes of a file.
    Bytes { name: PathBuf, bytes: Arc<[u8]> },
    /// In memory, decoded and resized.
    Held(Picture),
}

/// A picture that is a candidate for an image set.
pub(crate) struct Entry {
    pub(crate) photo: Photo,
    pub(crate) label: u32,
    /// The result of reading the picture's header, if it was read already.
    pub(crate) header: Option<Result<Header, String>>,
}

/// How pictures become images: torchvision's `Resize(resolution)`, followed by a square crop if `resolution` is one
/// side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transform {
    /// The side of the images, or both sides. If absent, pictures keep their size.
    pub(crate) resolution: Option<Resolution>,
    /// Crop the centre; if false, crop at a random position.
    pub(crate) center_crop: bool,
    /// Grey or RGB. If absent, grey if all pictures are grey.
    pub(crate) channels: Option<usize>,
    /// The background colour for transparent pixels.
    pub(crate) background: [u8; 3],
    pub(crate) on_bad_image: OnBadImage,
    /// The largest set, in decoded bytes, that is held in memory.
    pub(crate) cache_bytes: u64,
}

/// Pictures that are decoded, or at least cropped, at each use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Photos {
    photos: Vec<Photo>,
    transform: Transform,
    channels: usize,
}

/// A rectangular part of a picture.
pub(crate) struct Window<'a> {
    picture: Cow<'a, Picture>,
    corner: (usize, usize),
    size: (usize, usize),
    flip: bool,
}

impl Window<'_> {
    /// Calls `use_pixel` with each value as a byte, in the order `[c, h, w]`. 16-bit values are rounded to 8 bits.
    pub(crate) fn for_each_byte(&self, use_pixel: impl FnMut(u8)) {
        self.picture.for_each_in_window(self.corner, self.size, self.flip, Sample::to_byte, Sample::to_byte, use_pixel);
    }

    /// Calls `use_pixel` with each value as a number from 0 to 1, at its full depth, in the order `[c, h, w]`.
    pub(crate) fn for_each_number(&self, use_pixel: impl FnMut(f32)) {
        self.picture.for_each_in_window(self.corner, self.size, self.flip, Sample::to_f32, Sample::to_f32, use_pixel);
    }
}

/// How many bytes of a file are read first to find its header.
const HEADER_BYTES: u64 = 1 << 16;

impl Photo {
    /// The bytes of the picture's file. Of a file or archive member, at most the first `most` bytes.
    pub(crate) fn bytes(&self, most: u64) -> Result<Cow<'_, [u8]>, String> {
        match self {
            Self::File(path) => {
                let unread = |error: std::io::Error| format!("cannot be read: {error}");
                let file = File::open(path).map_err(unread)?;
                let size = file.metadata().map_err(unread)?.len();
                if size > MAX_FILE_BYTES {
                    return Err(format!("has {size} bytes; a picture may have at most {MAX_FILE_BYTES}"));
                }
                let mut bytes = Vec::with_capacity(size.min(most) as usize);
                file.take(most).read_to_end(&mut bytes).map_err(unread)?;
                Ok(bytes.into())
            }
            Self::Member(member) => Ok(member.bytes(most)?.into()),
            #[cfg(feature = "parquet")]
            Self::Cell { bytes: Some(bytes), .. } => Ok((&bytes[..]).into()),
            #[cfg(feature = "parquet")]
            Self::Cell { cell, .. } => Ok(cell.bytes()?.data().to_vec().into()),
            Self::Bytes { bytes, .. } => Ok((&bytes[..]).into()),
            Self::Held(_) => Ok((&[][..]).into()),
        }
    }

    pub(crate) fn header(&self) -> Result<Header, String> {
        let beginning = raster::header(&self.bytes(HEADER_BYTES)?);
        match (&beginning, self) {
            (Err(_), Self::File(_) | Self::Member(_)) => raster::header(&self.bytes(MAX_FILE_BYTES)?),
            _ => beginning,
        }
    }

    /// The location, for a message.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Member(member) => member.path().display().to_string(),
            #[cfg(feature = "parquet")]
            Self::Cell { cell, row, .. } => format!("{}, row {row}", cell.path().display()),
            Self::Bytes { name, .. } => name.display().to_string(),
            Self::Held(_) => "an image in memory".to_owned(),
        }
    }

    pub(crate) fn bad(&self, reason: String) -> BadImage {
        match self {
            Self::File(path) => BadImage { path: path.clone(), row: None, reason },
            Self::Member(member) => BadImage { path: member.path(), row: None, reason },
            #[cfg(feature = "parquet")]
            Self::Cell { cell, row, .. } => BadImage { path: cell.path().to_owned(), row: Some(*row), reason },
            Self::Bytes { name, .. } => BadImage { path: name.clone(), row: None, reason },
            Self::Held(_) => BadImage { path: PathBuf::new(), row: None, reason },
        }
    }
}

impl Transform {
    /// No change: the images have the right form already.
    #[cfg(any(feature = "hub", all(test, feature = "parquet")))]
    pub(crate) fn none(channels: usize) -> Self {
        Self {
            resolution: None,
            center_crop: true,
            channels: Some(channels),
            background: [0; 3],
            on_bad_image: OnBadImage::Fail,
            cache_bytes: u64::MAX,
        }
    }

    /// Whether crops are random.
    fn random_crop(&self) -> bool {
        matches!(self.resolution, Some(Resolution::Shorter(_))) && !self.center_crop
    }

    fn header(&self, entry: &Entry) -> Result<Header, String> {
        let header = entry.header.clone().unwrap_or_else(|| entry.photo.header())?;
        let (width, height) = self.resized(header);
        match width as u64 * height as u64 > MAX_PIXELS {
            true => Err(format!(
                "has {} x {} pixels, and would have {width} x {height} after resizing; \
                 at most {MAX_PIXELS} pixels are accepted",
                header.width, header.height
            )),
            false => Ok(header),
        }
    }

    /// Whether pictures in memory are kept uncropped: if crops are random, or if some pictures have 16 bits.
    fn keeps_whole(&self, good: &[Good]) -> bool {
        self.random_crop() || good.iter().any(|good| good.header.deep)
    }

    /// The width and height before the crop.
    fn resized(&self, Header { width, height, .. }: Header) -> (usize, usize) {
        self.resolution.map_or((width, height), |resolution| raster::resized(width, height, resolution))
    }

    /// The width and height of the images. `None` if there are no images.
    fn common_size(&self, good: &[Good]) -> Result<Option<(usize, usize)>, String> {
        let Some(first) = good.first() else { return Ok(None) };
        if let Some(resolution) = self.resolution {
            return Ok(Some(resolution.width_and_height()));
        }
        let size = |good: &Good| (good.header.width, good.header.height);
        let say =
            |good: &Good| format!("{} has {} x {} pixels", good.photo.name(), good.header.width, good.header.height);
        match good.iter().find(|good| size(good) != size(first)) {
            None => Ok(Some(size(first))),
            Some(other) => {
                let (first, other) = (say(first), say(other));
                let sizes = "holds images of several sizes";
                Err(format!("{sizes}: {first}, {other}; set `resolution` to resize all to one"))
            }
        }
    }

    fn decode(&self, photo: &Photo, channels: usize) -> Result<Picture, String> {
        let picture = raster::decode(&photo.bytes(MAX_FILE_BYTES)?, channels, self.background)?;
        Ok(match self.resolution {
            Some(resolution) => picture.resized(resolution),
            None => picture,
        })
    }

    fn leave_out(&self, image: BadImage, bad: &mut Vec<BadImage>) -> Result<(), Error> {
        match self.on_bad_image {
            OnBadImage::Fail => return Err(Error::BadImage(image)),
            OnBadImage::Skip => bad.push(image),
        }
        Ok(())
    }
}

/// Makes a set of pictures. If they fit into memory they are decoded and held; otherwise only their headers are read.
/// Returns the set, in the pictures' order, and the bad pictures that were skipped. `place` names the pictures' origin.
///
/// # Errors
/// [`Error::BadImage`] if a picture is bad and bad pictures are not skipped. [`Error::Images`] if no picture is good,
/// or their sizes differ and there is no resolution to resize them to.
pub(crate) fn image_set(
    entries: Vec<Entry>,
    class_names: Vec<String>,
    transform: Transform,
    place: &Path,
) -> Result<(ImageSet, Vec<BadImage>), Error> {
    let wrong = |reason: String| Error::Images { path: place.to_owned(), reason };
    let (mut good, mut bad) = (Vec::with_capacity(entries.len()), Vec::new());
    let headers: Vec<_> = entries.par_iter().map(|entry| transform.header(entry)).collect();
    for (Entry { photo, label, .. }, header) in entries.into_iter().zip(headers) {
        match header {
            Ok(header) => good.push(Good { photo, label, header }),
            Err(reason) => transform.leave_out(photo.bad(reason), &mut bad)?,
        }
    }
    let (width, height) = transform.common_size(&good).map_err(wrong)?.unwrap_or((1, 1));
    let channels = transform.channels.unwrap_or(if good.iter().all(|good| good.header.grey) { 1 } else { 3 });
    let shape = [channels, height, width];

    let whole = transform.keeps_whole(&good);
    let bytes = |good: &Good| {
        let kept = if whole { transform.resized(good.header) } else { (width, height) };
        (channels * kept.0 * kept.1) as u64 * if good.header.deep { 2 } else { 1 }
    };
    let images = if good.iter().map(bytes).fold(0, u64::saturating_add) <= transform.cache_bytes {
        hold(good, class_names, transform, shape, &mut bad)?
    } else {
        let labels = good.iter().map(|good| good.label).collect();
        let photos = good.into_iter().map(|good| good.photo).collect();
        let images = ImageSet::of_photos(shape, Photos { photos, transform, channels }, labels, class_names)?;
        if images.may_skip() && images.first_pixels_f32(1)?.is_empty() {
            let count = bad.len() + images.len();
            return Err(wrong(format!(
                "has only images that cannot be decoded, {count} of them; {}",
                first_bad(&images)
            )));
        }
        images
    };
    match (images.is_empty(), bad.first()) {
        (false, _) => Ok((images, bad)),
        (true, Some(first)) => {
            Err(wrong(format!("has only images that cannot be decoded, {} of them; {first}", bad.len())))
        }
        (true, None) => Err(wrong(format!("holds no image; {}", raster::FORMATS))),
    }
}

/// What is wrong with the first image of a set whose images are all bad.
fn first_bad(images: &ImageSet) -> String {
    match images.image(0) {
        Err(Error::BadImage(bad)) => bad.to_string(),
        other => other.err().map(|error| error.to_string()).unwrap_or_default(),
    }
}

/// A picture with a valid header.
struct Good {
    photo: Photo,
    label: u32,
    header: Header,
}

/// Decodes all pictures. Pictures of 8 bits that need no further crop are packed as the images' bytes.
fn hold(
    good: Vec<Good>,
    class_names: Vec<String>,
    transform: Transform,
    shape: [usize; 3],
    bad: &mut Vec<BadImage>,
) -> Result<ImageSet, Error> {
    const AT_ONCE: usize = 256;
    let whole = transform.keeps_whole(&good);
    let (mut photos, mut packed, mut labels) = (Vec::new(), Vec::new(), Vec::with_capacity(good.len()));
    for some in good.chunks(AT_ONCE) {
        let decode = |good: &Good| {
            let picture = transform.decode(&good.photo, shape[0])?;
            Window::of(Cow::Owned(picture), shape, Chance::default())
        };
        let middles: Vec<Result<Window, String>> = some.par_iter().map(decode).collect();
        for (middle, good) in middles.into_iter().zip(some) {
            match middle {
                Err(reason) => {
                    transform.leave_out(good.photo.bad(reason), bad)?;
                    continue;
                }
                Ok(middle) if whole => photos.push(Photo::Held(middle.picture.into_owned())),
                Ok(middle) => middle.for_each_byte(|pixel| packed.push(pixel)),
            }
            labels.push(good.label);
        }
    }
    match whole {
        true => ImageSet::of_photos(shape, Photos { photos, transform, channels: shape[0] }, labels, class_names),
        false => ImageSet::new(shape, packed, labels, class_names),
    }
}

/// Applies `transform`'s size and channels to a set that is held in memory.
pub(crate) fn resized(set: ImageSet, transform: &Transform) -> Result<ImageSet, Error> {
    let [channels, height, width] = set.shape();
    let wanted = transform.channels.unwrap_or(channels);
    let size = transform.resolution.map_or((width, height), Resolution::width_and_height);
    if wanted == channels && size == (width, height) {
        return Ok(set);
    }
    let (width, height) = size;
    let shape = [wanted, height, width];
    let image = |i: usize| -> Result<Vec<u8>, Error> {
        let raster = Raster::of_planes(&set.image(i)?, set.shape()).with_channels(wanted);
        let raster = transform.resolution.into_iter().fold(raster, Raster::resized);
        let mut image = Vec::with_capacity(shape.iter().product());
        let picture = Picture::Eight(raster);
        let window = Window::of(Cow::Owned(picture), shape, Chance::default()).map_err(Error::ImageSet)?;
        window.for_each_byte(|pixel| image.push(pixel));
        Ok(image)
    };
    let images = (0..set.len()).into_par_iter().map(image).collect::<Result<Vec<_>, _>>()?;
    ImageSet::new(shape, images.concat(), set.labels().to_vec(), set.class_names().to_vec())
}

impl Photos {
    pub(crate) fn window(&self, i: usize, shape: [usize; 3], chance: Chance) -> Result<Window<'_>, Error> {
        let photo = &self.photos[i];
        let picture = match photo {
            Photo::Held(picture) => Ok(Cow::Borrowed(picture)),
            _ => self.transform.decode(photo, self.channels).map(Cow::Owned),
        };
        let window = picture.and_then(|picture| Window::of(picture, shape, chance));
        window.map_err(|reason| Error::BadImage(photo.bad(reason)))
    }

    pub(crate) fn select(&self, kept: &[usize]) -> Self {
        Self { photos: kept.iter().map(|&i| self.photos[i].clone()).collect(), ..*self }
    }

    pub(crate) fn skips_bad(&self) -> bool {
        self.transform.on_bad_image == OnBadImage::Skip
    }

    pub(crate) fn random_crop(&self) -> bool {
        self.transform.random_crop()
    }

    pub(crate) fn are_held(&self) -> bool {
        self.photos.iter().all(|photo| matches!(photo, Photo::Held(_)))
    }
}

impl<'a> Window<'a> {
    /// A window at the centre of the picture, at exactly the position of torchvision's `CenterCrop`, or at the random
    /// position of `chance`.
    pub(crate) fn of(
        picture: Cow<'a, Picture>,
        [_, height, width]: [usize; 3],
        chance: Chance,
    ) -> Result<Self, String> {
        let (own_width, own_height) = picture.width_and_height();
        let room = own_height.checked_sub(height).zip(own_width.checked_sub(width));
        let Some((below, beside)) = room else {
            return Err(format!("has changed: it has {own_width} x {own_height} pixels now"));
        };
        let corner = match chance.corner {
            Some((top, left)) => (top as usize % (below + 1), left as usize % (beside + 1)),
            None => (middle(below), middle(beside)),
        };
        Ok(Self { picture, corner, size: (height, width), flip: chance.flip })
    }
}

/// Half of `room`, rounded half to even as Python does.
pub(crate) fn middle(room: usize) -> usize {
    let half = room / 2;
    if room % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}
