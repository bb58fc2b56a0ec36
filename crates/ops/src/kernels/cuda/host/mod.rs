#![cfg(test)]

//! A card for tests: the kernels as C++ on the CPU, on tensors of candle that are on the CPU too.
//!
//! Memory begins as NaN and lies between guards of NaN, so that what is read but was never written, or lies outside,
//! spoils a result; guards that were written to, and inputs that changed, are errors of the launch.

mod library;
mod products;
mod tests;

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::thread::ThreadId;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, Var, bail};

use super::card::{Address, Argument, Card, Pass, Product};
use crate::op::conv_shape::ConvShape;
use library::Library;

/// In which order the threads of a block run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Forward,
    Reverse,
    Shuffled,
}

/// Kernels, and what is allocated.
#[derive(Debug, Clone)]
pub(crate) struct HostCard(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    library: Arc<Library>,
    order: Order,
    allocated: Mutex<Vec<Weak<Guarded>>>,
}

impl PartialEq for HostCard {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The card of each thread: a test's own.
static CARDS: LazyLock<Mutex<HashMap<ThreadId, HostCard>>> = LazyLock::new(Mutex::default);

fn cards() -> std::sync::MutexGuard<'static, HashMap<ThreadId, HostCard>> {
    CARDS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HostCard {
    /// A card with other kernels, or other habits.
    pub(crate) fn new(library: Arc<Library>, order: Order) -> Self {
        Self(Arc::new(Parts { library, order, allocated: Mutex::default() }))
    }

    /// Runs `test`, whose tensors are on this card.
    pub(crate) fn with<R>(self, test: impl FnOnce() -> R) -> R {
        struct End(Option<HostCard>);
        impl Drop for End {
            fn drop(&mut self) {
                let thread = std::thread::current().id();
                match self.0.take() {
                    Some(before) => cards().insert(thread, before),
                    None => cards().remove(&thread),
                };
            }
        }
        let _end = End(cards().insert(std::thread::current().id(), self));
        test()
    }

    fn current() -> Self {
        let thread = std::thread::current().id();
        if let Some(card) = cards().get(&thread) {
            return card.clone();
        }
        let card = Self::new(Library::of_kernels(), Order::Forward);
        cards().insert(thread, card.clone());
        card
    }

    fn guarded(&self, bytes: usize, original: Option<Vec<u8>>) -> Arc<Guarded> {
        let memory = Arc::new(Guarded::new(bytes, original));
        self.allocated().push(Arc::downgrade(&memory));
        memory
    }

    fn allocated(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Guarded>>> {
        self.0.allocated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all memory is as a launch may leave it.
    fn check(&self, what: &str) -> Result<()> {
        let mut allocated = self.allocated();
        allocated.retain(|memory| memory.strong_count() > 0);
        for memory in allocated.iter().filter_map(Weak::upgrade) {
            if let Some(wrong) = memory.wrong() {
                bail!("{what}: {wrong}")
            }
        }
        Ok(())
    }
}

/// Bytes between guards. Only kernels write to it, one launch after the other on the thread of the test.
pub(crate) struct Guarded {
    words: Box<[UnsafeCell<u32>]>,
    bytes: usize,
    /// What an input has to stay.
    original: Option<Vec<u8>>,
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

// SAFETY: a buffer passes between threads only as a whole, with the features or gradients that it holds; kernels run on
// the thread that launches them and end before the launch does.
unsafe impl Send for Guarded {}
// SAFETY: as above; nothing reads it while a kernel that writes to it runs.
unsafe impl Sync for Guarded {}

impl Guarded {
    /// Words on each side.
    const GUARD: usize = 2048;

    /// NaN, also as half of a double, and another one at each place: a copy from one guard to another is seen.
    fn poison(place: usize) -> u32 {
        0xfff0_0000 | ((place as u32 / 4) & 0x000f_ffff)
    }

    fn new(bytes: usize, original: Option<Vec<u8>>) -> Self {
        // a double begins at a multiple of 8
        let words = 2 * Self::GUARD + bytes.div_ceil(8) * 2 + 2;
        let memory = Self { words: (0..words).map(|_| UnsafeCell::new(0)).collect(), bytes, original };
        for word in &memory.words {
            // SAFETY: nothing else refers to it yet.
            unsafe { *word.get() = Self::poison(word.get().addr()) };
        }
        if let Some(from) = &memory.original {
            // SAFETY: the memory has `bytes` bytes from there on, and nothing else refers to it yet.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), memory.begin(), from.len()) };
        }
        memory
    }

    fn first(&self) -> usize {
        let begin = self.words[Self::GUARD].get().addr();
        Self::GUARD + usize::from(!begin.is_multiple_of(8))
    }

    fn begin(&self) -> *mut u8 {
        self.words[self.first()].get().cast()
    }

    fn copy(&self) -> Vec<u8> {
        // SAFETY: `bytes` bytes from there on are this memory's; no kernel runs.
        unsafe { std::slice::from_raw_parts(self.begin(), self.bytes) }.to_vec()
    }

    fn wrong(&self) -> Option<&'static str> {
        // SAFETY: no kernel runs.
        let poisoned = |word: &UnsafeCell<u32>| unsafe { *word.get() } == Self::poison(word.get().addr());
        let (first, words) = (self.first(), self.bytes.div_ceil(4));
        if !self.words[..first].iter().chain(&self.words[first + words..]).all(poisoned) {
            return Some("a kernel wrote outside of its memory");
        }
        let changed = self.original.as_ref().is_some_and(|original| *original != self.copy());
        changed.then_some("a kernel wrote to its input")
    }
}

fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::U8 => flat.to_vec1::<u8>()?,
        _ => flat.to_vec1::<f32>()?.into_iter().flat_map(f32::to_ne_bytes).collect(),
    })
}

fn floats(memory: &Guarded) -> Vec<f32> {
    memory.copy().chunks_exact(4).map(|x| f32::from_ne_bytes([x[0], x[1], x[2], x[3]])).collect()
}

impl Card for HostCard {
    type Memory = Arc<Guarded>;
    type Input = Arc<Guarded>;

    fn of(_: &Tensor) -> Result<Self> {
        Ok(Self::current())
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<Guarded>> {
        Ok(self.guarded(bytes, None))
    }

    fn address(memory: &Arc<Guarded>) -> Address {
        Address(memory.begin().expose_provenance() as u64)
    }

    fn upload(&self, bytes: &[u8]) -> Result<Arc<Guarded>> {
        Ok(self.guarded(bytes.len(), Some(bytes.to_vec())))
    }

    fn read(&self, from: &Arc<Guarded>, to: &mut [u8]) -> Result<()> {
        to.copy_from_slice(&from.copy()[..to.len()]);
        Ok(())
    }

    fn bring(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    fn input(&self, tensor: &Tensor) -> Result<Arc<Guarded>> {
        self.upload(&bytes_of(tensor)?)
    }

    fn input_address(input: &Arc<Guarded>) -> Address {
        Self::address(input)
    }

    fn storage(&self, len: usize, fill: impl FnOnce(Address) -> Result<()>) -> Result<Storage> {
        let memory = self.allocate(4 * len)?;
        fill(Self::address(&memory))?;
        Ok(Storage::Cpu(CpuStorage::F32(floats(&memory))))
    }

    fn update(&self, vars: &[&Var], update: impl FnOnce(&[Address]) -> Result<()>) -> Result<()> {
        let copies = vars.iter().map(|var| {
            let memory = self.allocate(4 * var.elem_count())?;
            let bytes = bytes_of(var)?;
            // SAFETY: the memory has as many bytes, and only this function refers to it.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.begin(), bytes.len()) };
            Ok(memory)
        });
        let copies = copies.collect::<Result<Vec<_>>>()?;
        update(&copies.iter().map(Self::address).collect::<Vec<_>>())?;
        for (var, copy) in vars.iter().zip(&copies) {
            var.set(&Tensor::from_vec(floats(copy), var.shape(), var.device())?)?;
        }
        Ok(())
    }

    fn launch(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<()> {
        self.0.library.launch(kernel, blocks, self.0.order, arguments)?;
        self.check(kernel)
    }

    fn convolve(&self, pass: Pass, s: &ConvShape, x: Address, weights: Address, y: Address) -> Result<()> {
        products::convolve(pass, s, [x, weights, y]);
        self.check("a convolution")
    }

    fn multiply(&self, s: &Product, a: Address, b: Address, c: Address) -> Result<()> {
        products::multiply(s, [a, b, c]);
        self.check("a product")
    }
}
