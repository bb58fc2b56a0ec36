//! Geometric changes of training images of which the model is told, so that it does not draw changed images: the
//! non-leaking augmentation of EDM (Karras et al. 2022, appendix F.2; the transformations of Karras et al. 2020,
//! appendix B).

use std::f64::consts::PI;

use kakusan_rng::Generator;

/// The low-pass filter of the wavelet sym6 (Daubechies 1992), by which the images are doubled in size before they are
/// resampled, and halved after it.
const SYM6: [f32; 12] = [
    0.015404109,
    0.003490712,
    -0.117990114,
    -0.048311744,
    0.49105594,
    0.78764117,
    0.33792943,
    -0.07263752,
    -0.021060292,
    0.0447249,
    0.0017677118,
    -0.0078007085,
];
/// A quarter of the filter's length: as many pixels of the original size it needs on each side.
const REACH: usize = SYM6.len() / 4;
/// The grey that is everywhere outside an image.
const OUTSIDE: f32 = 0.5;

// Standard deviations: of scales and stretches in powers of two, of shifts in parts of the image's side.
const SCALE_STD: f64 = 0.2;
const STRETCH_STD: f64 = 0.2;
const SHIFT_STD: f64 = 0.125;

/// How one training image is changed. The default leaves it as it is.
///
/// ```
/// use kakusan_data::Augmentation;
/// use kakusan_rng::Generator;
///
/// let (mut image, mut rng) = (vec![0.25; 3 * 32 * 32], Generator::new(0));
/// let augmentation = Augmentation::draw(0.12, &mut rng); // each kind of change for 12 of 100 images
/// augmentation.apply(&mut image, [3, 32, 32]);
/// assert_eq!(augmentation.labels().len(), Augmentation::LABELS);
/// assert_eq!(Augmentation::default().labels(), [0.0; 9]);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Augmentation {
    /// Whether it is mirrored left to right.
    pub flip_x: bool,
    /// Whether it is mirrored top to bottom.
    pub flip_y: bool,
    /// It is enlarged by `2^(0.2 scale)`.
    pub scale: f32,
    /// It is rotated by this angle, counterclockwise.
    pub angle: f32,
    /// It is stretched by `2^(0.2 stretch)` in one direction, and shrunk as much across it.
    pub stretch: f32,
    /// The direction of the stretching, an angle.
    pub direction: f32,
    /// It is moved by this times an eighth of its width and height, right and down.
    pub shift: [f32; 2],
}

impl Augmentation {
    /// How many numbers [`labels`](Self::labels) has.
    pub const LABELS: usize = 9;

    /// Draws a change: a mirror image left to right for every second image, and with probability `p` each of: a mirror
    /// image top to bottom (for half of these), another scale, a rotation, a stretching (for half of these in any
    /// direction, else along the axes), a shift. The numbers are normal, the angles uniform.
    pub fn draw(p: f64, rng: &mut Generator) -> Self {
        let chance = |p: f64, rng: &mut Generator| rng.rand(1).iter().any(|&x| f64::from(x) < p);
        let normal = |rng: &mut Generator| rng.randn(1).first().copied().unwrap_or_default();
        let angle = |rng: &mut Generator| rng.uniform(1, -PI, PI).first().copied().unwrap_or_default();
        let mut change = Self { flip_x: chance(0.5, rng), flip_y: chance(p / 2.0, rng), ..Self::default() };
        if chance(p, rng) {
            change.scale = normal(rng);
        }
        if chance(p, rng) {
            change.angle = angle(rng);
        }
        if chance(p, rng) {
            change.stretch = normal(rng);
            if chance(0.5, rng) {
                change.direction = angle(rng);
            }
        }
        if chance(p, rng) {
            change.shift = [normal(rng), normal(rng)];
        }
        change
    }

    /// What the model is told: nine numbers, which are 0 for an image that was not changed. EDM's `augment_labels`.
    pub fn labels(&self) -> [f32; Self::LABELS] {
        let [flip_x, flip_y] = [self.flip_x, self.flip_y].map(|flip| f32::from(u8::from(flip)));
        let [along_x, along_y] = [self.stretch * self.direction.cos(), self.stretch * self.direction.sin()];
        let [right, down] = self.shift;
        [flip_x, flip_y, self.scale, self.angle.cos() - 1.0, self.angle.sin(), along_x, along_y, right, down]
    }

    /// Changes the pixels `[c, h, w]`, from 0 to 1. Values a little outside that range may come out, since the
    /// resampling preserves edges. What comes from outside the image is its mirror image, and grey beyond that.
    pub fn apply(&self, pixels: &mut [f32], [_, height, width]: [usize; 3]) {
        if height == 0 || width == 0 {
            return;
        }
        for channel in pixels.chunks_exact_mut(height * width) {
            if self.flip_x {
                channel.chunks_exact_mut(width).for_each(<[f32]>::reverse);
            }
            if self.flip_y {
                let upside_down: Vec<f32> = channel.chunks_exact(width).rev().flatten().copied().collect();
                channel.copy_from_slice(&upside_down);
            }
        }
        let still = Self { flip_x: self.flip_x, flip_y: self.flip_y, ..Self::default() };
        if *self != still {
            let inverse = self.inverse([width as f64, height as f64]);
            for channel in pixels.chunks_exact_mut(height * width) {
                resample(channel, [height, width], &inverse);
            }
        }
    }

    /// From places in the new image to places in the old one, both in pixels from the centre.
    fn inverse(&self, [width, height]: [f64; 2]) -> Affine {
        let [angle, direction] = [self.angle, self.direction].map(f64::from);
        let [scale, stretch] =
            [f64::from(self.scale) * SCALE_STD, f64::from(self.stretch) * STRETCH_STD].map(f64::exp2);
        let [right, down] = [self.shift[0], self.shift[1]].map(|shift| f64::from(shift) * SHIFT_STD);
        Affine::scale([1.0 / scale; 2])
            .after(&Affine::rotation(angle))
            .after(&Affine::rotation(-direction))
            .after(&Affine::scale([1.0 / stretch, stretch]))
            .after(&Affine::rotation(direction))
            .after(&Affine::shift([-right * width, -down * height]))
    }
}

/// A map of the plane: `matrix p + offset`.
#[derive(Debug, Clone, Copy)]
struct Affine {
    matrix: [[f64; 2]; 2],
    offset: [f64; 2],
}

impl Affine {
    fn scale([x, y]: [f64; 2]) -> Self {
        Self { matrix: [[x, 0.0], [0.0, y]], offset: [0.0; 2] }
    }

    fn rotation(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self { matrix: [[cos, -sin], [sin, cos]], offset: [0.0; 2] }
    }

    fn shift(offset: [f64; 2]) -> Self {
        Self { offset, ..Self::scale([1.0; 2]) }
    }

    /// First `first`, then this one.
    fn after(&self, first: &Self) -> Self {
        let column = |j: usize| self.turn([first.matrix[0][j], first.matrix[1][j]]);
        let ([a, c], [b, d]) = (column(0), column(1));
        Self { matrix: [[a, b], [c, d]], offset: self.at(first.offset) }
    }

    fn turn(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        self.matrix.map(|[a, b]| a * x + b * y)
    }

    fn at(&self, p: [f64; 2]) -> [f64; 2] {
        let [x, y] = self.turn(p);
        [x + self.offset[0], y + self.offset[1]]
    }
}

/// One channel, row by row.
struct Plane {
    height: usize,
    width: usize,
    pixels: Vec<f32>,
}

impl Plane {
    fn new(height: usize, width: usize, pixel: impl Fn(usize, usize) -> f32) -> Self {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (y, x))).map(|(y, x)| pixel(y, x)).collect();
        Self { height, width, pixels }
    }

    fn row(&self, y: usize) -> &[f32] {
        &self.pixels[y * self.width..(y + 1) * self.width]
    }

    fn transposed(&self) -> Self {
        Self::new(self.width, self.height, |y, x| self.pixels[x * self.width + y])
    }

    /// Twice as wide: zeros between the pixels, and the filter over them.
    fn doubled(&self) -> Self {
        let (last, reach) = (2 * self.width as isize - 2, SYM6.len() as isize / 2);
        let mut pixels = Vec::with_capacity(2 * self.pixels.len());
        for y in 0..self.height {
            let row = self.row(y);
            for x in 0..2 * self.width as isize {
                let first = x - reach; // of the filter, which lies there reversed
                let taps = SYM6.iter().rev().enumerate().map(|(k, tap)| (first + k as isize, tap));
                let seen = taps.filter(|(place, _)| place % 2 == 0 && (0..=last).contains(place));
                pixels.push(seen.map(|(place, tap)| tap * row[place as usize / 2]).sum());
            }
        }
        Self { width: 2 * self.width, pixels, ..*self }
    }

    /// Half as wide less the filter's reach on both sides: the filter at every second pixel.
    fn halved(&self) -> Self {
        let (width, before) = (self.width / 2 - 2 * REACH, (SYM6.len() - 1) / 2);
        let mut pixels = Vec::with_capacity(self.height * width);
        for y in 0..self.height {
            let row = self.row(y);
            for x in 0..width {
                let first = 2 * (x + REACH) - before;
                pixels.push(SYM6.iter().zip(&row[first..]).map(|(tap, pixel)| tap * pixel).sum());
            }
        }
        Self { width, pixels, ..*self }
    }

    /// The value between four pixels, in proportion to their distances; 0 outside.
    fn between(&self, [x, y]: [f64; 2]) -> f32 {
        let (left, top) = (x.floor(), y.floor());
        let pixel = |x: f64, y: f64| {
            let is_inside = (0.0..self.width as f64).contains(&x) && (0.0..self.height as f64).contains(&y);
            if is_inside { self.pixels[y as usize * self.width + x as usize] } else { 0.0 }
        };
        let ([right, down], row) =
            ([(x - left) as f32, (y - top) as f32], |y: f64| [pixel(left, y), pixel(left + 1.0, y)]);
        let [above, below] = [row(top), row(top + 1.0)].map(|[a, b]| a + (b - a) * right);
        above + (below - above) * down
    }
}

/// Fills a channel with what `inverse` finds in it.
fn resample(channel: &mut [f32], [height, width]: [usize; 2], inverse: &Affine) {
    let centre = [width, height].map(|side| (side as f64 - 1.0) / 2.0);
    // mirror images on all sides, as far as the new image reaches
    let corners = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]];
    let corners = corners.map(|[x, y]| inverse.at([x * centre[0], y * centre[1]]));
    let margin = |axis: usize, sign: f64| {
        let farthest = corners.iter().map(|corner| sign * corner[axis]).fold(f64::MIN, f64::max);
        let side = [width, height][axis] as f64;
        (farthest + 2.0 * REACH as f64 - centre[axis]).clamp(0.0, side - 1.0).ceil() as usize
    };
    let ([left, right], [top, bottom]) =
        ([-1.0, 1.0].map(|sign| margin(0, sign)), [-1.0, 1.0].map(|sign| margin(1, sign)));
    let padded = Plane::new(top + height + bottom, left + width + right, |y, x| {
        channel[mirrored(y, top, height) * width + mirrored(x, left, width)] - OUTSIDE
    });
    let large = padded.doubled().transposed().doubled().transposed();

    // the same map between the doubled images: pixels of half the size, whose centres lie a quarter of one off
    let padding = Affine::shift([(left as f64 - right as f64) / 2.0, (top as f64 - bottom as f64) / 2.0]);
    let inverse = Affine::shift([-0.5; 2])
        .after(&Affine::scale([2.0; 2]))
        .after(&padding)
        .after(inverse)
        .after(&Affine::scale([0.5; 2]))
        .after(&Affine::shift([0.5; 2]));
    let [wide, high] = [width, height].map(|side| 2 * (side + 2 * REACH));
    let middle = |side: usize| (side as f64 - 1.0) / 2.0;
    let new = Plane::new(high, wide, |y, x| {
        let [x, y] = inverse.at([x as f64 - middle(wide), y as f64 - middle(high)]);
        large.between([x + middle(large.width), y + middle(large.height)])
    });
    let small = new.halved().transposed().halved().transposed();
    channel.iter_mut().zip(&small.pixels).for_each(|(to, from)| *to = from + OUTSIDE);
}

/// The place in an image of `side` pixels of the place `at` in its padded image, which has `before` pixels before it.
fn mirrored(at: usize, before: usize, side: usize) -> usize {
    let inside = at.abs_diff(before);
    if at < before || inside < side { inside } else { 2 * (side - 1) - inside }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against torch's padding, convolutions and `grid_sample`: `tests/golden/augment.py`.
    #[test]
    fn images_are_changed_as_by_pytorch() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/augment.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |name: String| -> Vec<f32> {
            let tensor = golden.tensor(&name).unwrap();
            tensor.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
        };
        let most = |ours: &[f32], theirs: &[f32]| {
            assert_eq!(ours.len(), theirs.len());
            ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        for (name, shape) in [("grey", [1, 20, 20]), ("rgb", [3, 11, 16])] {
            let [images, changes, labels, changed] =
                ["images", "changes", "labels", "changed"].map(|kind| numbers(format!("{name}.{kind}")));
            let size: usize = shape.iter().product();
            for i in 0..8 {
                let &[flip_x, flip_y, scale, angle, stretch, direction, right, down] = &changes[8 * i..8 * i + 8]
                else {
                    panic!("eight numbers")
                };
                let (flip_x, flip_y, shift) = (flip_x > 0.0, flip_y > 0.0, [right, down]);
                let change = Augmentation { flip_x, flip_y, scale, angle, stretch, direction, shift };
                assert!(most(&change.labels(), &labels[9 * i..9 * i + 9]) < 1e-6, "{change:?}");
                let mut ours = images[size * i..size * (i + 1)].to_vec();
                change.apply(&mut ours, shape);
                let most = most(&ours, &changed[size * i..size * (i + 1)]);
                assert!(most < 2e-6, "{name} {i}, {change:?}: {most}");
            }
        }
    }

    #[test]
    fn an_image_that_stays_is_not_touched_by_the_filters() {
        let image: Vec<f32> = Generator::new(0).rand(2 * 7 * 10);
        let mut same = image.clone();
        for channel in same.chunks_exact_mut(70) {
            resample(channel, [7, 10], &Affine::scale([1.0; 2]));
        }
        let most = image.iter().zip(&same).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 1e-6, "{most}");
    }

    #[test]
    fn quarters_of_a_turn_and_whole_shifts_move_pixels() {
        // smooth, for the filter is not symmetric: what is at half a pixel from the rest is not quite the same turned
        let image: Vec<f32> = (0..256).map(|i| 0.5 + 0.4 * (0.3 * (i % 16) as f32 + 0.02 * i as f32).sin()).collect();
        let mut turned = image.clone();
        Augmentation { angle: std::f32::consts::FRAC_PI_2, ..Augmentation::default() }.apply(&mut turned, [1, 16, 16]);
        let mut moved = image.clone();
        Augmentation { shift: [1.5, -0.5], ..Augmentation::default() }.apply(&mut moved, [1, 16, 16]); // by 3 and -1
        for y in 0..16 {
            for x in 0..16 {
                let (a, b) = (turned[(15 - x) * 16 + y], image[y * 16 + x]);
                assert!((a - b).abs() < 0.02, "turned at {y}, {x}: {a} {b}");
                if x + 3 < 16 && y > 0 {
                    let (a, b) = (moved[(y - 1) * 16 + x + 3], image[y * 16 + x]);
                    assert!((a - b).abs() < 1e-5, "moved at {y}, {x}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn any_size_and_any_change_gives_finite_pixels() {
        let mut rng = Generator::new(2);
        for (height, width) in [(1, 1), (1, 5), (2, 3), (3, 40), (17, 2)] {
            for _ in 0..40 {
                let mut image: Vec<f32> = rng.rand(height * width);
                Augmentation::draw(1.0, &mut rng).apply(&mut image, [1, height, width]);
                assert!(image.iter().all(|pixel| pixel.is_finite() && pixel.abs() < 4.0), "{height} x {width}");
            }
        }
    }

    #[test]
    fn as_many_images_are_changed_as_asked_for() {
        let (count, mut rng) = (20_000, Generator::new(3));
        let mut changed = [0; Augmentation::LABELS];
        for _ in 0..count {
            let labels = Augmentation::draw(0.2, &mut rng).labels();
            changed.iter_mut().zip(labels).for_each(|(sum, label)| *sum += usize::from(label != 0.0));
        }
        // the cosine and the sine of an angle; both directions of a stretching if it is not along an axis
        for (share, expected) in changed.into_iter().zip([0.5, 0.1, 0.2, 0.2, 0.2, 0.2, 0.1, 0.2, 0.2]) {
            assert!((share as f64 / f64::from(count) - expected).abs() < 0.01, "{changed:?}");
        }
    }
}
