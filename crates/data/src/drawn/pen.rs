//! From strokes to pixels: the variation of a hand, and the ink of a pen.
//!
//! Uses only sums, products, quotients and square roots, which IEEE 754 defines exactly. The digits are therefore the
//! same on every machine.

use kakusan_rng::Generator;

use super::glyphs::{Knot, Style};

/// Height and width of a digit's image, in pixels.
pub(super) const SIDE: usize = 28;
/// The box that a digit fills, as in MNIST, in pixels.
const BOX: f32 = 20.0;
/// Straight pieces of a curve between two knots.
const PIECES: usize = 8;

/// A piece of the pen's path: two ends and the pen's radius at each, in pixels.
type Piece = [(f32, f32, f32); 2];

/// Draws one digit in the given style, white on black: `SIDE * SIDE` pixels.
pub(super) fn draw(style: &Style, rng: &mut Generator, out: &mut [u8]) {
    let hand = Hand::new(style, rng);
    let strokes: Vec<Vec<Knot>> = style.strokes.iter().map(|s| hand.bend(s, rng)).collect();
    let pieces = ink(&strokes, rng);
    render(&pieces, rng, out);
}

/// The parameters that are constant within one digit: slant, proportions, overall bends.
struct Hand {
    /// The centre of the style's strokes.
    middle: Knot,
    width: f32,
    slant: f32,
    tilt: f32,
    waist: f32,
    taper: f32,
    bend_x: [f32; 3],
    bend_y: [f32; 3],
}

impl Hand {
    fn new(style: &Style, rng: &mut Generator) -> Self {
        let knots = || style.strokes.iter().copied().flatten();
        let (left, right) = knots().fold((f32::MAX, f32::MIN), |(l, r), k| (l.min(k.0), r.max(k.0)));
        Self {
            middle: ((left + right) / 2.0, 0.5),
            width: 1.10 + 0.19 * bell(rng),
            slant: 0.18 + 0.25 * bell(rng),
            tilt: 0.09 * bell(rng),
            waist: 0.11 * bell(rng),
            taper: 0.22 * bell(rng),
            bend_x: [0.16, 0.25, 0.25].map(|s| s * bell(rng)),
            bend_y: [0.16, 0.12, 0.20].map(|s| s * bell(rng)),
        }
    }

    /// The knots of a stroke with this hand's variation.
    fn bend(&self, stroke: &[Knot], rng: &mut Generator) -> Vec<Knot> {
        let mut bent: Vec<Knot> = Vec::with_capacity(stroke.len());
        for (i, &knot) in stroke.iter().enumerate() {
            if i > 0 && stroke[i - 1] == knot {
                bent.push(bent[i - 1]); // a corner stays one point
                continue;
            }
            let x = knot.0 - self.middle.0 + 0.021 * bell(rng);
            let y = knot.1 - self.middle.1 + 0.021 * bell(rng);
            // Move the waist, taper one end, bend the digit; then apply the aspect, the slant and the tilt.
            let y1 = y
                + self.waist * (1.0 - 4.0 * y * y)
                + self.bend_y[0] * x * y
                + self.bend_y[1] * x * x
                + self.bend_y[2] * x * x * x;
            let x1 = x * (1.0 + self.taper * y)
                + self.bend_x[0] * (y * y - 0.1)
                + self.bend_x[1] * y * (y * y - 0.1)
                + self.bend_x[2] * x * x * y;
            let x2 = x1 * self.width - self.slant * y1;
            bent.push((x2 - self.tilt * y1, y1 + self.tilt * x2));
        }
        bent
    }
}

/// The pen's path through all strokes, fitted into MNIST's box and centred by its mass.
fn ink(strokes: &[Vec<Knot>], rng: &mut Generator) -> Vec<Piece> {
    let paths: Vec<Vec<Knot>> = strokes.iter().map(|stroke| curve(stroke)).collect();
    let points = || paths.iter().flatten();
    let (left, right) = points().fold((f32::MAX, f32::MIN), |(l, r), p| (l.min(p.0), r.max(p.0)));
    let (top, bottom) = points().fold((f32::MAX, f32::MIN), |(l, r), p| (l.min(p.1), r.max(p.1)));
    let extent = (right - left).max(bottom - top);
    let path = Moments::of(&paths);

    // Thin pens are more common than thick ones. The radius is bounded so that the pen does not fill the digit's holes.
    let u = uniform(rng);
    let thick = 0.80 + 0.80 * u + 0.70 * u * u * u;
    let px = 17.0 / extent; // pixels for a unit of the path, approximately
    let room = (140.0 + 9.0 * path.spread * px * px) / (path.length * px); // width in pixels per pixel of path length
    let radius = thick.min(0.26 * room);
    let scale = (BOX - 0.4 - uniform(rng) - 2.0 * radius) / extent;

    // Centre the ink's mass in the image, with a jitter of up to half a pixel, but keep all ink within the image.
    let place = |centre: f32, low: f32, high: f32, jitter: f32| {
        let slack = (SIDE as f32 - 4.0 - (high - low) * scale - 2.0 * radius).max(0.0) / 2.0;
        let middle = (low + high) / 2.0;
        SIDE as f32 / 2.0 - middle * scale + ((middle - centre) * scale + jitter).clamp(-slack, slack)
    };
    let dx = place(path.centre.0, left, right, uniform(rng) - 0.5);
    let dy = place(path.centre.1, top, bottom, uniform(rng) - 0.5);

    let mut pieces = Vec::new();
    for path in &paths {
        // The pressure varies along the path and is light at both ends of a stroke.
        let pressure: [f32; 3] = [0.10, 0.12, 0.08].map(|s| s * bell(rng));
        let last = (path.len() - 1) as f32;
        let at = |i: usize| {
            let t = 2.0 * i as f32 / last - 1.0;
            let t2 = t * t;
            let press = 1.0 + pressure[0] * t + pressure[1] * (t2 - 0.33) + pressure[2] * t * (t2 - 0.6);
            let land = 0.12 * t2 * t2 * t2 * t2;
            (path[i].0 * scale + dx, path[i].1 * scale + dy, (radius * (press - land)).max(0.5))
        };
        pieces.extend((1..path.len()).map(|i| [at(i - 1), at(i)]));
    }
    pieces
}

/// Measurements of the complete path.
struct Moments {
    length: f32,
    centre: Knot,
    /// The area that the path covers, as the square root of its covariance's determinant. A slant does not change it.
    spread: f32,
}

impl Moments {
    fn of(paths: &[Vec<Knot>]) -> Self {
        let (mut length, mut x, mut y, mut xx, mut xy, mut yy) = (1e-6, 0.0, 0.0, 0.0, 0.0, 0.0);
        for [a, b] in paths.iter().flat_map(|path| path.array_windows()) {
            let (px, py, dx, dy) = ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0, b.0 - a.0, b.1 - a.1);
            let m = (dx * dx + dy * dy).sqrt();
            length += m;
            x += m * px;
            y += m * py;
            xx += m * px * px;
            xy += m * px * py;
            yy += m * py * py;
        }
        let (x, y) = (x / length, y / length);
        let (xx, xy, yy) = (xx / length - x * x, xy / length - x * y, yy / length - y * y);
        Self { length, centre: (x, y), spread: (xx * yy - xy * xy).max(0.0).sqrt() }
    }
}

/// A centripetal Catmull-Rom curve through the knots, as a polyline of short pieces; sharp where a knot occurs twice.
fn curve(knots: &[Knot]) -> Vec<Knot> {
    let mut path = vec![knots[0]];
    for smooth in knots.chunk_by(|a, b| a != b) {
        for i in 1..smooth.len() {
            let (p1, p2) = (smooth[i - 1], smooth[i]);
            let p0 = if i > 1 { smooth[i - 2] } else { beyond(p1, p2) };
            let p3 = smooth.get(i + 1).copied().unwrap_or(beyond(p2, p1));
            let (t01, t12, t23) = (stride(p0, p1), stride(p1, p2), stride(p2, p3));
            let leave = |a: f32, b: f32, c: f32| t12 * ((b - a) / t01 - (c - a) / (t01 + t12)) + (c - b);
            let arrive = |b: f32, c: f32, d: f32| t12 * ((d - c) / t23 - (d - b) / (t12 + t23)) + (c - b);
            let (ax, ay) = (leave(p0.0, p1.0, p2.0), leave(p0.1, p1.1, p2.1));
            let (bx, by) = (arrive(p1.0, p2.0, p3.0), arrive(p1.1, p2.1, p3.1));
            for k in 1..=PIECES {
                let t = k as f32 / PIECES as f32;
                let hermite = |p: f32, a: f32, q: f32, b: f32| {
                    let (d, s) = (q - p, t * t);
                    p + a * t + (3.0 * d - 2.0 * a - b) * s + (a + b - 2.0 * d) * s * t
                };
                path.push((hermite(p1.0, ax, p2.0, bx), hermite(p1.1, ay, p2.1, by)));
            }
        }
    }
    path
}

/// The reflection of `b` in `a`.
fn beyond(a: Knot, b: Knot) -> Knot {
    (2.0 * a.0 - b.0, 2.0 * a.1 - b.1)
}

/// The square root of the distance: the step of the centripetal parameter.
fn stride(a: Knot, b: Knot) -> f32 {
    let (dx, dy) = (a.0 - b.0, a.1 - b.1);
    (dx * dx + dy * dy).sqrt().sqrt().max(1e-3)
}

/// Inks every pixel by its distance from the path; the edges are soft and slightly rough.
fn render(pieces: &[Piece], rng: &mut Generator, out: &mut [u8]) {
    const SOFT: f32 = 1.25; // pixels from full ink to no ink
    let mut edge = [f32::MAX; SIDE * SIDE]; // the distance from the ink's edge, negative inside
    for [a, b] in pieces {
        let reach = a.2.max(b.2) + SOFT + 1.0;
        let (x0, x1) = (span(a.0.min(b.0) - reach), span(a.0.max(b.0) + reach));
        let (y0, y1) = (span(a.1.min(b.1) - reach), span(a.1.max(b.1) + reach));
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let inverse = 1.0 / (dx * dx + dy * dy).max(1e-9);
        for y in y0..y1 {
            for x in x0..x1 {
                let (px, py) = (x as f32 + 0.5 - a.0, y as f32 + 0.5 - a.1);
                let t = ((px * dx + py * dy) * inverse).clamp(0.0, 1.0);
                let (qx, qy) = (px - t * dx, py - t * dy);
                let d = (qx * qx + qy * qy).sqrt() - (a.2 + t * (b.2 - a.2));
                let e = &mut edge[y * SIDE + x];
                *e = e.min(d);
            }
        }
    }
    let mut rough = [0.0; SIDE * SIDE];
    rng.fill_rand(&mut rough);
    for ((pixel, edge), rough) in out.iter_mut().zip(edge).zip(rough) {
        *pixel = ((0.5 - (edge + 0.35 * (rough - 0.5)) / SOFT).clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
    }
}

/// A coordinate as the index of a pixel within the image.
fn span(v: f32) -> usize {
    v.clamp(0.0, SIDE as f32) as usize
}

/// A uniform number from [0, 1).
pub(super) fn uniform(rng: &mut Generator) -> f32 {
    let mut u = [0.0];
    rng.fill_rand(&mut u);
    u[0]
}

/// A bell-shaped random number with mean 0 and standard deviation 1, at most 3.5 in magnitude: a sum of four uniforms.
fn bell(rng: &mut Generator) -> f32 {
    let mut u = [0.0; 4];
    rng.fill_rand(&mut u);
    (u[0] + u[1] + u[2] + u[3] - 2.0) * 3.0f32.sqrt()
}
