//! What the backend asks of a card, and what it passes to kernels.

use std::fmt::Debug;

use candle_core::{Result, Storage, Tensor, Var, bail};

use crate::op::conv_shape::ConvShape;

/// A card: memory, kernels, and the two products that a library computes better than kernels of ours.
///
/// All work on a card is done in the order in which it was asked for, candle's included; only [`read`](Self::read)
/// waits for it.
pub(crate) trait Card: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// Memory of a pool, which gets it back when this is dropped.
    type Memory: Debug + Send + Sync + 'static;
    /// A tensor's numbers, which kernels only read.
    type Input;

    /// The card that a tensor is on.
    fn of(tensor: &Tensor) -> Result<Self>;
    /// Memory that nothing was written to.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory>;
    fn address(memory: &Self::Memory) -> Address;
    /// Memory that holds these bytes.
    fn upload(&self, bytes: &[u8]) -> Result<Self::Memory>;
    /// Waits for the card, then copies the beginning of its memory.
    fn read(&self, from: &Self::Memory, to: &mut [u8]) -> Result<()>;

    /// The tensor on this card, wherever it is.
    fn bring(&self, tensor: &Tensor) -> Result<Tensor>;
    /// A contiguous tensor of this card.
    fn input(&self, tensor: &Tensor) -> Result<Self::Input>;
    fn input_address(input: &Self::Input) -> Address;
    /// candle's memory for `len` numbers, all of which `fill` writes.
    fn storage(&self, len: usize, fill: impl FnOnce(Address) -> Result<()>) -> Result<Storage>;
    /// Lets `update` change the numbers of f32 variables of this card, in place.
    fn update(&self, vars: &[&Var], update: impl FnOnce(&[Address]) -> Result<()>) -> Result<()>;

    /// Starts a kernel on some blocks of [`THREADS`] threads, at least one.
    fn launch(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<()>;
    /// A convolution of features by weights `[co, k, k, ci]`, with the same padding on opposite sides: writes what
    /// `pass` names from the other two. No size is 0.
    fn convolve(&self, pass: Pass, s: &ConvShape, x: Address, weights: Address, y: Address) -> Result<()>;
    /// A product of matrices; no size is 0.
    fn multiply(&self, s: &Product, a: Address, b: Address, c: Address) -> Result<()>;
}

/// Threads of a block, and numbers that a block takes of an elementwise pass: as in `common.cuh`.
pub(crate) const THREADS: usize = 256;
pub(crate) const PIECE: usize = 1024;
/// Threads that run together.
pub(crate) const WARP: usize = 32;

/// A place in a card's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) u64);

impl Address {
    /// No place: what a kernel takes for an argument that is absent.
    pub(crate) const NULL: Self = Self(0);

    /// That of a number further on.
    pub(crate) fn plus(self, numbers: usize) -> Self {
        Self(self.0 + 4 * numbers as u64)
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument {
    Address(u64),
    Index(u32),
    Int(i32),
    Float(f32),
    Double(f64),
}

impl From<Address> for Argument {
    fn from(Address(address): Address) -> Self {
        Self::Address(address)
    }
}

/// Sizes of features and weights, which [`numbers`] has checked.
impl From<usize> for Argument {
    fn from(index: usize) -> Self {
        Self::Index(index as u32)
    }
}

impl From<i32> for Argument {
    fn from(int: i32) -> Self {
        Self::Int(int)
    }
}

impl From<bool> for Argument {
    fn from(flag: bool) -> Self {
        Self::Int(flag.into())
    }
}

impl From<f32> for Argument {
    fn from(float: f32) -> Self {
        Self::Float(float)
    }
}

impl From<f64> for Argument {
    fn from(double: f64) -> Self {
        Self::Double(double)
    }
}

/// The arguments of a kernel, in its order.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        &[$(Into::<$crate::kernels::cuda::card::Argument>::into($argument)),*]
    };
}
pub(crate) use arguments;

/// Starts a kernel; nothing for no blocks.
pub(crate) fn launch<C: Card>(card: &C, kernel: &'static str, blocks: usize, arguments: &[Argument]) -> Result<()> {
    match blocks {
        0 => Ok(()),
        1..=0x7fff_ffff => card.launch(kernel, blocks as u32, arguments),
        _ => bail!("{kernel}: {blocks} blocks are more than a launch can have; use a smaller batch"),
    }
}

/// Starts an elementwise kernel on `count` numbers.
pub(crate) fn each<C: Card>(card: &C, kernel: &'static str, count: usize, arguments: &[Argument]) -> Result<()> {
    launch(card, kernel, count.div_ceil(PIECE), arguments)
}

/// Refuses more numbers than kernels can count.
pub(crate) fn numbers(count: usize) -> Result<usize> {
    if count > i32::MAX as usize {
        bail!("{count} numbers in one tensor are more than the CUDA kernels can count; use a smaller batch")
    }
    Ok(count)
}

/// What a convolution computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// `y`
    Forward,
    /// The gradient of the weights, from `x` and the gradient in place of `y`.
    Weights,
    /// The gradient in place of `x`, from that in place of `y`.
    Input,
}

/// For each of a `batch`, one behind the other: `c [m, n] = a [m, k] b [k, n]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Product {
    pub(crate) batch: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Whether the memory holds `a` as `[k, m]`, and `b` as `[n, k]`.
    pub(crate) transposed: [bool; 2],
    /// Whether to add to what is in `c`.
    pub(crate) add: bool,
}

/// The arguments of a library that counts in columns: it computes `cᵀ [m, n] = bᵀ [m, k] aᵀ [k, n]`, so its first
/// matrix is `b`, and what this backend calls rows are its columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByColumns {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Whether `b` and `a` are to be transposed, from what they are by columns.
    pub(crate) transposed: [bool; 2],
    /// From one column of `b`, `a` and `c` to the next.
    pub(crate) leading: [usize; 3],
    /// From one `b`, `a` and `c` of the batch to the next.
    pub(crate) strides: [usize; 3],
}

impl Product {
    pub(crate) fn by_columns(&self) -> ByColumns {
        let &Self { m, n, k, transposed: [of_a, of_b], .. } = self;
        let leading = [if of_b { k } else { n }, if of_a { m } else { k }, n];
        ByColumns { m: n, n: m, k, transposed: [of_b, of_a], leading, strides: [k * n, m * k, m * n] }
    }
}
