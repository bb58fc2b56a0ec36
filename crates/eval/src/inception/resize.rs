//! torch's bilinear resizing without antialiasing.

/// A plane `[h, w]` resized to `side` x `side`, as `torch.nn.functional.interpolate(mode="bilinear",
/// align_corners=False)`.
pub(super) fn resize(plane: &[f32], [h, w]: [usize; 2], side: usize) -> Vec<f32> {
    if (h, w) == (side, side) {
        return plane.to_vec();
    }
    let (rows, columns) = (places(h, side), places(w, side));
    let mut resized = Vec::with_capacity(side * side);
    for &(y0, y1, down) in &rows {
        let (above, below) = (&plane[y0 * w..(y0 + 1) * w], &plane[y1 * w..(y1 + 1) * w]);
        resized.extend(columns.iter().map(|&(x0, x1, right)| {
            let between = |row: &[f32]| (1.0 - right) * row[x0] + right * row[x1];
            (1.0 - down) * between(above) + down * between(below)
        }));
    }
    resized
}

/// For each new place the two old ones around it, and the weight of the second.
fn places(old: usize, new: usize) -> Vec<(usize, usize, f32)> {
    let scale = old as f32 / new as f32;
    let place = |i: usize| {
        let at = (scale * (i as f32 + 0.5) - 0.5).max(0.0);
        let first = (at as usize).min(old - 1);
        (first, (first + 1).min(old - 1), (at - first as f32).clamp(0.0, 1.0))
    };
    (0..new).map(place).collect()
}
