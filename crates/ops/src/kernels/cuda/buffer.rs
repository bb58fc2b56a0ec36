//! Features and gradients in a card's memory, and the tensors that become or are them.

use std::sync::Arc;

use candle_core::op::BackpropOp;
use candle_core::{Result, Storage, Tensor};

use super::card::{Address, Argument, Card, PIECE, THREADS, WARP, arguments, each, launch, numbers};

/// Numbers in a card's memory.
#[derive(Debug)]
pub(crate) struct Buffer<C: Card> {
    card: C,
    memory: C::Memory,
    len: usize,
}

impl<C: Card> Buffer<C> {
    /// `len` numbers that nothing was written to.
    pub(crate) fn new(card: &C, len: usize) -> Result<Self> {
        let memory = card.allocate(4 * numbers(len)?)?;
        Ok(Self { card: card.clone(), memory, len })
    }

    /// `len` numbers, one for each of this.
    pub(crate) fn alike(&self) -> Result<Self> {
        Self::new(&self.card, self.len)
    }

    pub(crate) fn card(&self) -> &C {
        &self.card
    }

    pub(crate) fn memory(&self) -> &C::Memory {
        &self.memory
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn address(&self) -> Address {
        C::address(&self.memory)
    }

    /// A copy of a tensor.
    pub(crate) fn of(tensor: &Tensor) -> Result<Self> {
        let x = Read::<C>::new(tensor)?;
        let y = Self::new(&x.card, x.len)?;
        each(&x.card, "copy", x.len, arguments![&x, &y, x.len])?;
        Ok(y)
    }

    /// These numbers as a tensor.
    pub(crate) fn tensor(&self, dims: &[usize]) -> Result<Tensor> {
        let copy = |to: Address| each(&self.card, "copy", self.len, arguments![self, to, self.len]);
        Ok(tensor(self.card.storage(self.len, copy)?, dims))
    }

    /// The buffer itself if there is no other reference to it, else a copy.
    pub(crate) fn owned(this: Arc<Self>) -> Result<Self> {
        Arc::try_unwrap(this).or_else(|shared| {
            let copy = shared.alike()?;
            each(&shared.card, "copy", shared.len, arguments![&*shared, &copy, shared.len])?;
            Ok(copy)
        })
    }
}

impl<C: Card> From<&Buffer<C>> for Argument {
    fn from(buffer: &Buffer<C>) -> Self {
        buffer.address().into()
    }
}

/// A tensor that holds these numbers.
pub(crate) fn tensor(storage: Storage, dims: &[usize]) -> Tensor {
    Tensor::from_storage(storage, dims, BackpropOp::none(), false)
}

/// A tensor that kernels read: weights, mostly.
pub(crate) struct Read<C: Card> {
    pub(crate) card: C,
    input: C::Input,
    pub(crate) len: usize,
}

impl<C: Card> Read<C> {
    /// The numbers of a tensor, on the card that it is on.
    pub(crate) fn new(tensor: &Tensor) -> Result<Self> {
        Self::on(&C::of(tensor)?, tensor)
    }

    /// The same where that has to be `card`.
    pub(crate) fn on(card: &C, tensor: &Tensor) -> Result<Self> {
        let len = numbers(tensor.elem_count())?;
        Ok(Self { card: card.clone(), input: card.input(&tensor.contiguous()?)?, len })
    }

    pub(crate) fn address(&self) -> Address {
        C::input_address(&self.input)
    }
}

impl<C: Card> From<&Read<C>> for Argument {
    fn from(input: &Read<C>) -> Self {
        input.address().into()
    }
}

/// `[b, rows, columns] -> [b, columns, rows]`
pub(crate) fn transpose<C: Card>(
    card: &C,
    [b, rows, columns]: [usize; 3],
    from: impl Into<Argument>,
    to: impl Into<Argument>,
) -> Result<()> {
    if rows == 1 || columns == 1 {
        let count = b * rows * columns;
        return each(card, "copy", count, arguments![from, to, count]);
    }
    let tiles = b * rows.div_ceil(WARP) * columns.div_ceil(WARP);
    launch(card, "transpose", tiles, arguments![from, to, rows, columns])
}

/// The sums over the rows of each group of a matrix `[groups, rows, stride]`, of its first `width` columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) groups: usize,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

/// How many columns a block takes, how many rows, and how many parts these make.
pub(crate) struct Parts {
    pub(crate) lanes: usize,
    pub(crate) part: usize,
    pub(crate) parts: usize,
    /// Blocks for the columns of one part.
    pub(crate) tiles: usize,
}

impl Parts {
    /// For sums: of at most 32 numbers in a row, so that they keep their digits.
    pub(crate) fn new(rows: usize, width: usize) -> Self {
        Self::of(rows, width, 32)
    }

    /// For numbers that do not meet: few to a thread, so that there are many blocks.
    pub(crate) fn small(rows: usize, width: usize) -> Self {
        Self::of(rows, width, PIECE / THREADS)
    }

    fn of(rows: usize, width: usize, each: usize) -> Self {
        let lanes = width.next_power_of_two().min(WARP);
        let part = THREADS / lanes * each;
        Self { lanes, part, parts: rows.div_ceil(part).max(1), tiles: width.div_ceil(lanes) }
    }
}

impl Rows {
    /// Writes the sums of `a`, or of `a * b`, to the first columns of `[groups, out_stride]`.
    pub(crate) fn sum<C: Card>(self, card: &C, [a, b]: [Address; 2], out: Address, out_stride: usize) -> Result<()> {
        let Self { groups, rows, width, stride } = self;
        let Parts { lanes, part, parts, tiles } = Parts::new(rows, width);
        let pass = |to: Argument, out_stride: usize| {
            let sizes = arguments![a, b, to, rows, width, stride, out_stride, part, parts, lanes];
            launch(card, "sum_rows", tiles * parts * groups, sizes)
        };
        if parts == 1 {
            return pass(out.into(), out_stride);
        }
        let sums = Buffer::new(card, groups * parts * width)?;
        pass((&sums).into(), width)?;
        let of_parts = Self { groups, rows: parts, width, stride: width };
        of_parts.sum(card, [sums.address(), Address::NULL], out, out_stride)
    }
}
