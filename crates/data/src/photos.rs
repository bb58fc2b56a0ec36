//! Decodes pictures of any size and format into images of one size.

#[cfg(feature = "parquet")]
use std::sync::Arc;
use std::{
    borrow::Cow,
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
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

/// What to do about an image that cannot be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadImage {
    /// An error that names it.
    #[default]
    Fail,
    /// It is skipped and reported.
    Skip,
}

/// An image that cannot be decoded, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BadImage {
    /// Its file.
    pub path: PathBuf,
    /// Its row, where the file is a table.
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

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Photo {
    /// In a file.
    File(PathBuf),
    /// In an archive.
    Member(Member),
    /// In a row of a table: its bytes in memory, or to be read from its cell.
    #[cfg(feature = "parquet")]
    Cell { cell: Cell, row: usize, bytes: Option<Arc<[u8]>> },
    /// In memory, decoded and resized.
    Held(Picture),
}

/// A picture that may become an image of a set.
pub(crate) struct Entry {
    pub(crate) photo: Photo,
    pub(crate) label: u32,
    /// What its header says, where that was read already.
    pub(crate) header: Option<Result<Header, String>>,
}

/// How pictures become images: torchvision's `Resize(resolution)` and, where that is one side, a crop to the square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transform {
    /// The side of the images, or both; the pictures' own size if absent.
    pub(crate) resolution: Option<Resolution>,
    /// The middle is cut out; a place drawn at random if not.
    pub(crate) center_crop: bool,
    /// Grey or RGB; if absent grey where all pictures are.
    pub(crate) channels: Option<usize>,
    /// The colour of transparent pixels.
    pub(crate) background: [u8; 3],
    pub(crate) on_bad_image: OnBadImage,
    /// Sets of up to so many bytes, decoded, are held in memory.
    pub(crate) cache_bytes: u64,
}

/// Pictures that are decoded, or at least cut out, each time they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Photos {
    photos: Vec<Photo>,
    transform: Transform,
    channels: usize,
}

/// A rectangle of a picture.
pub(crate) struct Window<'a> {
    picture: Cow<'a, Picture>,
    corner: (usize, usize),
    size: (usize, usize),
    flip: bool,
}

impl Window<'_> {
    /// Hands out the pixels as bytes, `[c, h, w]`; of 16 bits the nearest.
    pub(crate) fn for_each_byte(&self, use_pixel: impl FnMut(u8)) {
        self.picture.for_each_in_window(self.corner, self.size, self.flip, Sample::to_byte, Sample::to_byte, use_pixel);
    }

    /// Hands out the pixels at their depth as numbers from 0 to 1, `[c, h, w]`.
    pub(crate) fn for_each_number(&self, use_pixel: impl FnMut(f32)) {
        self.picture.for_each_in_window(self.corner, self.size, self.flip, Sample::to_f32, Sample::to_f32, use_pixel);
    }
}

/// The bytes of a file's beginning in which its header should lie.
const HEADER_BYTES: u64 = 1 << 16;

impl Photo {
    /// The picture's file or bytes, without more than a file's first `most`.
    fn bytes(&self, most: u64) -> Result<Cow<'_, [u8]>, String> {
        match self {
            Self::File(path) => {
                let unread = |error: std::io::Error| format!("cannot be read: {error}");
                let file = File::open(path).map_err(unread)?;
                let size = file.metadata().map_err(unread)?.len();
                if size > MAX_FILE_BYTES {
                    return Err(format!("has {size} bytes; a picture has {MAX_FILE_BYTES} at most"));
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
            Self::Held(_) => Ok((&[][..]).into()),
        }
    }

    fn header(&self) -> Result<Header, String> {
        let beginning = raster::header(&self.bytes(HEADER_BYTES)?);
        match (&beginning, self) {
            (Err(_), Self::File(_) | Self::Member(_)) => raster::header(&self.bytes(MAX_FILE_BYTES)?),
            _ => beginning,
        }
    }

    /// Where it is, for a message.
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Member(member) => member.path().display().to_string(),
            #[cfg(feature = "parquet")]
            Self::Cell { cell, row, .. } => format!("{}, row {row}", cell.path().display()),
            Self::Held(_) => "an image in memory".to_owned(),
        }
    }

    fn bad(&self, reason: String) -> BadImage {
        match self {
            Self::File(path) => BadImage { path: path.clone(), row: None, reason },
            Self::Member(member) => BadImage { path: member.path(), row: None, reason },
            #[cfg(feature = "parquet")]
            Self::Cell { cell, row, .. } => BadImage { path: cell.path().to_owned(), row: Some(*row), reason },
            Self::Held(_) => BadImage { path: PathBuf::new(), row: None, reason },
        }
    }
}

impl Transform {
    /// No change: the images have the right form.
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
                "has {} x {} pixels, and would have {width} x {height} once it is resized; \
                 {MAX_PIXELS} pixels at most are taken",
                header.width, header.height
            )),
            false => Ok(header),
        }
    }

    /// Pictures held in memory are held whole: where each epoch cuts out another part, and where some have 16 bits.
    fn keeps_whole(&self, good: &[Good]) -> bool {
        self.random_crop() || good.iter().any(|good| good.header.deep)
    }

    /// Width and height before the crop.
    fn resized(&self, Header { width, height, .. }: Header) -> (usize, usize) {
        self.resolution.map_or((width, height), |resolution| raster::resized(width, height, resolution))
    }

    /// Width and height of the images, if there are any.
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
                Err(format!("{sizes}: {first}, {other}; set `resolution` to bring all to one"))
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

/// Makes a set of pictures: those that fit are decoded and held, of the others the headers are read. Gives the set, in
/// the pictures' order, and the bad ones left out. `place` names where they are from.
///
/// # Errors
/// [`Error::BadImage`] where bad images are not left out, and [`Error::Images`] when no good one is there or their
/// sizes differ with no resolution to bring them to.
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
            return Err(wrong(format!("holds no image but bad ones, {count} of them; {}", first_bad(&images))));
        }
        images
    };
    match (images.is_empty(), bad.first()) {
        (false, _) => Ok((images, bad)),
        (true, Some(first)) => Err(wrong(format!("holds no image but bad ones, {} of them; {first}", bad.len()))),
        (true, None) => Err(wrong(format!("holds no image; {}", raster::FORMATS))),
    }
}

/// What is wrong with the first image of a set in which all are bad.
fn first_bad(images: &ImageSet) -> String {
    match images.image(0) {
        Err(Error::BadImage(bad)) => bad.to_string(),
        other => other.err().map(|error| error.to_string()).unwrap_or_default(),
    }
}

/// A picture whose header is good.
struct Good {
    photo: Photo,
    label: u32,
    header: Header,
}

/// Decodes all pictures; those of 8 bits that need no cropping any more are packed as the images that they are.
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

/// A set that is held in memory, in another size or other colours if `transform` says so.
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
    /// The middle of the picture, to the pixel where torchvision's `CenterCrop` has it, or where chance says.
    fn of(picture: Cow<'a, Picture>, [_, height, width]: [usize; 3], chance: Chance) -> Result<Self, String> {
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

/// Half of `room`; a half more is rounded to even, as Python rounds.
fn middle(room: usize) -> usize {
    let half = room / 2;
    if room % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}
