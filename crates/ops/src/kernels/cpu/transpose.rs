//! From channels first to channels last and back.

use super::host::arch;

/// Writes `to[j * to_row + i] = from[i * from_row + j]` for `i` below `rows` and `j` below `columns`.
#[inline(always)]
pub(crate) fn transpose(from: &[f32], from_row: usize, to: &mut [f32], to_row: usize, rows: usize, columns: usize) {
    match arch() {
        #[cfg(target_arch = "x86_64")]
        pulp::x86::Arch::V4(simd) => {
            simd.vectorize(x86::Transpose { simd, from, from_row, to, to_row, rows, columns });
        }
        _ => plain(from, from_row, to, to_row, rows, columns),
    }
}

fn plain(from: &[f32], from_row: usize, to: &mut [f32], to_row: usize, rows: usize, columns: usize) {
    const BLOCK: usize = 8;
    for i in (0..rows).step_by(BLOCK) {
        let size = BLOCK.min(rows - i);
        for j in 0..columns {
            let to = &mut to[j * to_row + i..][..size];
            for (b, to) in to.iter_mut().enumerate() {
                *to = from[(i + b) * from_row + j];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::__m512;

    use pulp::x86::V4;
    use pulp::{NullaryFnOnce, Simd, cast, f32x16};

    const LANES: usize = 16;

    /// By blocks of 16x16 numbers in registers.
    pub(super) struct Transpose<'a> {
        pub(super) simd: V4,
        pub(super) from: &'a [f32],
        pub(super) from_row: usize,
        pub(super) to: &'a mut [f32],
        pub(super) to_row: usize,
        pub(super) rows: usize,
        pub(super) columns: usize,
    }

    impl NullaryFnOnce for Transpose<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self { simd, from, from_row, to, to_row, rows, columns } = self;
            for i in (0..rows).step_by(LANES) {
                let height = LANES.min(rows - i);
                for j in (0..columns).step_by(LANES) {
                    let width = LANES.min(columns - j);
                    let last = from.get((i + height - 1) * from_row + j..).unwrap_or_default();
                    if height == LANES && last.len() >= LANES {
                        whole(simd, &from[i * from_row + j..], from_row, &mut to[j * to_row + i..], to_row, width);
                        continue;
                    }
                    let mut block = [simd.splat_f32s(0.0); LANES];
                    for (b, row) in block[..height].iter_mut().enumerate() {
                        *row = load(simd, &from[(i + b) * from_row + j..], width);
                    }
                    let block = turn(simd, block);
                    for (b, &column) in block[..width].iter().enumerate() {
                        store(simd, &mut to[(j + b) * to_row + i..][..height], column);
                    }
                }
            }
        }
    }

    /// A block of whole rows, of which `width` columns are stored. It stays in registers, because no loop depends on
    /// sizes.
    #[inline(always)]
    fn whole(simd: V4, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize, width: usize) {
        let mut block = [simd.splat_f32s(0.0); LANES];
        for (b, row) in block.iter_mut().enumerate() {
            *row = load(simd, &from[b * from_row..], LANES);
        }
        for (b, column) in turn(simd, block).into_iter().enumerate() {
            if b < width {
                to[b * to_row..][..LANES].copy_from_slice(&cast::<_, [f32; LANES]>(column));
            }
        }
    }

    /// At least `width` numbers, up to 16: a whole vector is faster than part of one.
    #[inline(always)]
    fn load(simd: V4, from: &[f32], width: usize) -> f32x16 {
        match from.first_chunk::<LANES>() {
            Some(whole) => cast(*whole),
            None => simd.partial_load_f32s(&from[..width]),
        }
    }

    #[inline(always)]
    fn store(simd: V4, to: &mut [f32], vector: f32x16) {
        match to.as_chunks_mut::<LANES>() {
            ([whole], _) => *whole = cast(vector),
            (_, to) => simd.partial_store_f32s(to, vector),
        }
    }

    /// Rows to columns: pairs of floats, pairs of pairs, then quarters of vectors change places.
    #[inline(always)]
    fn turn(simd: V4, rows: [f32x16; LANES]) -> [f32x16; LANES] {
        let f = simd.avx512f;
        let mut a: [__m512; LANES] = [cast(rows[0]); LANES];
        for (a, row) in a.iter_mut().zip(rows) {
            *a = cast(row);
        }
        let mut b = a;
        for i in (0..LANES).step_by(2) {
            b[i] = f._mm512_unpacklo_ps(a[i], a[i + 1]);
            b[i + 1] = f._mm512_unpackhi_ps(a[i], a[i + 1]);
        }
        // vector 4 i + j: numbers j of each quarter, from rows 4 i to 4 i + 3
        for i in (0..LANES).step_by(4) {
            a[i] = cast(f._mm512_unpacklo_pd(cast(b[i]), cast(b[i + 2])));
            a[i + 1] = cast(f._mm512_unpackhi_pd(cast(b[i]), cast(b[i + 2])));
            a[i + 2] = cast(f._mm512_unpacklo_pd(cast(b[i + 1]), cast(b[i + 3])));
            a[i + 3] = cast(f._mm512_unpackhi_pd(cast(b[i + 1]), cast(b[i + 3])));
        }
        let mut columns = rows;
        for j in 0..4 {
            // quarters 0 and 2, and 1 and 3, of two vectors each
            let (even, odd) =
                (f._mm512_shuffle_f32x4::<0x88>(a[j], a[j + 4]), f._mm512_shuffle_f32x4::<0xdd>(a[j], a[j + 4]));
            let (even2, odd2) = (
                f._mm512_shuffle_f32x4::<0x88>(a[j + 8], a[j + 12]),
                f._mm512_shuffle_f32x4::<0xdd>(a[j + 8], a[j + 12]),
            );
            columns[j] = cast(f._mm512_shuffle_f32x4::<0x88>(even, even2));
            columns[j + 4] = cast(f._mm512_shuffle_f32x4::<0x88>(odd, odd2));
            columns[j + 8] = cast(f._mm512_shuffle_f32x4::<0xdd>(even, even2));
            columns[j + 12] = cast(f._mm512_shuffle_f32x4::<0xdd>(odd, odd2));
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_finds_its_place() {
        for (rows, columns) in [(1, 1), (3, 17), (16, 16), (17, 3), (31, 33), (64, 28), (7, 49), (2, 40)] {
            let (from_row, to_row) = (columns + 3, rows + 5);
            let from: Vec<f32> = (0..rows * from_row).map(|x| x as f32).collect();
            for turn in [plain, transpose] {
                let mut to = vec![-1.0; columns * to_row];
                turn(&from, from_row, &mut to, to_row, rows, columns);
                for (at, &number) in to.iter().enumerate() {
                    let (i, j) = (at % to_row, at / to_row);
                    let expected = if i < rows { from[i * from_row + j] } else { -1.0 };
                    assert_eq!(number, expected, "{rows}x{columns} at {i}, {j}");
                }
            }
        }
    }
}
