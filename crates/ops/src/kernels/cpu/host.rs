//! What the CPU kernels share: the machine's vectors, memory that is written once, and views of a tensor's numbers.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::buffer::LINE;
use super::denormals::FlushDenormals;
pub(crate) use super::vectors::arch;

/// Tasks that a thread takes at least: all of them on a pool of one thread, which gains nothing from cutting work up.
pub(crate) fn min_tasks() -> usize {
    if rayon::current_num_threads() == 1 { usize::MAX } else { 1 }
}

/// [`min_tasks`] for tasks that read or write `numbers` numbers each, if these are too small to be sent to other
/// threads one by one: a thread that sleeps takes tens of microseconds to wake.
pub(crate) fn min_tasks_of(numbers: usize) -> usize {
    const WORTH: usize = 4 * PIECE;
    min_tasks().max(WORTH / numbers.max(1))
}

/// The same for tasks of `products` multiplications each.
pub(crate) fn min_tasks_of_products(products: usize) -> usize {
    const WORTH: usize = 1 << 21;
    min_tasks().max(WORTH / products.max(1))
}

/// Floats of a vector.
pub(crate) fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    arch().dispatch(Lanes)
}

/// Asks memory for numbers that are read soon, where the machine does not foresee it.
#[inline(always)]
pub(crate) fn fetch(numbers: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Elements per task of an elementwise pass: enough to hide the cost of a task, few enough to balance two threads.
pub(crate) const PIECE: usize = 1 << 15;

/// Makes `N` vectors of `len` elements, cut into pieces of `piece` elements; `write` fills piece `i` of all of them,
/// many pieces at once on rayon's threads, and may answer something, gathered in order.
///
/// A piece begins as zeros, written by the thread that fills it while it lies in its cache: cheaper than a zeroed
/// vector, and nothing uninitialised is ever seen. Which thread writes a piece changes nothing in it.
pub(crate) fn build<T, const N: usize, R>(
    len: usize,
    piece: usize,
    write: impl Fn(usize, [&mut [T]; N]) -> R + Sync,
) -> Result<([Vec<T>; N], Vec<R>)>
where
    T: WithDType,
    R: Send,
{
    let mut vecs = [const { Vec::new() }; N];
    for vec in &mut vecs {
        if let Err(error) = Vec::try_reserve_exact(vec, len) {
            bail!("no memory for a result of {len} elements: {error}")
        }
    }
    let piece = piece.max(1);
    let mut pieces = vecs.each_mut().map(|vec| vec.spare_capacity_mut()[..len].chunks_mut(piece));
    let tasks: Vec<[&mut [MaybeUninit<T>]; N]> =
        (0..len.div_ceil(piece)).map(|_| pieces.each_mut().map(|piece| piece.next().unwrap_or_default())).collect();
    let task = |(i, pieces): (usize, [&mut [MaybeUninit<T>]; N])| {
        let _flush = FlushDenormals::new();
        let pieces = pieces.map(|piece| {
            piece.fill(MaybeUninit::new(T::zero()));
            // SAFETY: every element of the piece was written on the line above.
            unsafe { piece.assume_init_mut() }
        });
        write(i, pieces)
    };
    let answers = if tasks.len() == 1 {
        tasks.into_iter().enumerate().map(task).collect()
    } else {
        tasks.into_par_iter().enumerate().with_min_len(min_tasks()).map(task).collect()
    };
    for vec in &mut vecs {
        // SAFETY: the pieces cover the first `len` elements, and each was filled by its task, all of which have ended.
        unsafe { vec.set_len(len) };
    }
    Ok((vecs, answers))
}

/// A stretch of `piece` elements of `slice`, the `i`th; shorter at the end.
pub(crate) fn piece<T>(slice: &[T], i: usize, piece: usize) -> &[T] {
    let start = (i * piece).min(slice.len());
    &slice[start..slice.len().min(start + piece)]
}

/// The numbers of a contiguous layout.
pub(crate) fn numbers<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("a kernel got a strided tensor of shape {:?}", layout.shape()),
    }
}

/// Runs `read` on the numbers of a CPU tensor, in row-major order.
pub(crate) fn with_numbers<T: WithDType, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(numbers(storage, layout)?),
        _ => bail!("a kernel for the CPU got a tensor on {:?}", tensor.device()),
    }
}
