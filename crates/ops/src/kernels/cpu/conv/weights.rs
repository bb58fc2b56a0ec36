//! The weights of a pass in the order in which its kernels read them.
//!
//! A kernel takes them by panels: two vectors of output channels. Small weights are brought into this form once and
//! held. Large ones are not, because Winograd's form of a 3x3 kernel is four times as large as the kernel: it would
//! have to come from memory at each call, where the kernel itself comes in a quarter of the time. A task brings these
//! into form panel by panel, in working memory that stays in the cache.

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::pass::{Pass, Way};
use super::winograd;
use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::{arch, fetch, lanes, min_tasks, with_numbers};
use crate::kernels::cpu::scratch::with_scratch;
use crate::kernels::cpu::transpose::transpose;
use crate::op::conv_shape::ConvShape;

/// Floats of the largest form that is held: 2 MiB.
const HELD: usize = 1 << 19;

/// Input channels whose kernels are brought into Winograd's form together, where it is not held.
const CHANNELS: usize = 64;

/// Input channels whose kernels are turned together.
const TURNED: usize = 16;

/// A pass and its weights.
pub(crate) struct Prepared {
    pub(super) pass: Pass,
    /// As they are, `[., ., k, k]`.
    weight: Tensor,
    order: Order,
    /// The form for the pass's way, if it is held.
    held: Option<Buffer>,
}

impl Prepared {
    /// For the pass from images to results.
    pub(crate) fn forward(s: &ConvShape, weight: &Tensor) -> Result<Self> {
        let &ConvShape { ci, k, .. } = s;
        Self::new(weight, Order { by_output: ci * k * k, by_input: k * k, turned: false }, |bounded| {
            Pass::forward(s, bounded)
        })
    }

    /// For the pass from the results' gradients to the images', with the kernel turned round.
    pub(crate) fn backward(s: &ConvShape, weight: &Tensor) -> Result<Self> {
        let &ConvShape { ci, k, .. } = s;
        Self::new(weight, Order { by_output: k * k, by_input: ci * k * k, turned: true }, |bounded| {
            Pass::backward(s, bounded)
        })
    }

    fn new(weight: &Tensor, order: Order, pass: impl FnOnce(bool) -> Pass) -> Result<Self> {
        let weight = weight.contiguous()?.detach();
        let (pass, held) = with_numbers(&weight, |numbers| {
            let pass = pass(winograd::bounded(numbers));
            let weights = Weights { numbers, order, held: None };
            let held = if hold(&pass) { Some(weights.hold(&pass)?) } else { None };
            Ok((pass, held))
        })?;
        Ok(Self { pass, weight, order, held })
    }

    /// Runs `read` on the weights.
    pub(super) fn read<R>(&self, read: impl FnOnce(Weights) -> R) -> Result<R> {
        let Self { order, held, .. } = self;
        with_numbers(&self.weight, |numbers| Ok(read(Weights { numbers, order: *order, held: held.as_deref() })))
    }

    /// Whether every task brings the weights into form for itself.
    pub(super) fn by_task(&self) -> bool {
        self.held.is_none()
    }
}

/// Output channels of a panel, but for the last.
pub(super) fn panel(pass: &Pass) -> usize {
    if pass.way == Way::Narrow { 1 } else { 2 * lanes() }
}

/// Floats of the form of `width` output channels.
fn form(pass: &Pass, width: usize) -> usize {
    match pass.way {
        Way::Winograd => winograd::form(pass.k, pass.c * width),
        _ => pass.k * pass.window() * width,
    }
}

fn hold(pass: &Pass) -> bool {
    pass.way == Way::Narrow || form(pass, pass.o) <= HELD
}

/// Where in a tensor the channels of a pass are.
#[derive(Clone, Copy)]
struct Order {
    /// From one output channel of the pass to the next, and from one input channel.
    by_output: usize,
    by_input: usize,
    /// Whether the pass reads each kernel from its end.
    turned: bool,
}

/// The weights of a pass: as they are, and in form if that is held.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    numbers: &'a [f32],
    order: Order,
    held: Option<&'a [f32]>,
}

impl<'a> Weights<'a> {
    /// Floats of working memory that [`direct`](Self::direct) and [`winograd`](Self::winograd) need.
    pub(super) fn room(&self, pass: &Pass) -> usize {
        let direct = pass.k * pass.window() * panel(pass);
        match (self.held, pass.way) {
            (Some(_), Way::Winograd) => direct,
            (Some(_), _) => 0,
            (None, Way::Winograd) => direct.max(winograd::form(pass.k, CHANNELS.min(pass.c) * panel(pass))),
            (None, _) => direct,
        }
    }

    /// `[k, window, width]` of the panel of `width` output channels from `first` on, filled up with zeros to a whole
    /// vector. A pass by Winograd's method needs it for images that are not bounded.
    pub(super) fn direct<'b>(&self, pass: &Pass, first: usize, width: usize, room: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        let len = pass.k * pass.window() * width;
        match self.held {
            Some(held) if pass.way != Way::Winograd => &held[pass.k * pass.window() * (pass.first + first)..][..len],
            _ => {
                self.pack(pass, first, &mut room[..len]);
                &room[..len]
            }
        }
    }

    /// Parts of the input channels for each of which [`winograd`](Self::winograd) is called.
    pub(super) fn parts(&self, pass: &Pass) -> usize {
        if self.held.is_some() { pass.c } else { CHANNELS.min(pass.c) }
    }

    /// Values of a panel for some input channels, `[places][inputs, width]`, and the floats from place to place.
    pub(super) fn winograd<'b>(
        &self,
        pass: &Pass,
        (first, width): (usize, usize),
        inputs: Range<usize>,
        room: &'b mut [f32],
    ) -> (&'b [f32], usize)
    where
        'a: 'b,
    {
        let plane = winograd::plane(inputs.len() * width);
        let len = winograd::form(pass.k, inputs.len() * width);
        match self.held {
            Some(held) => (&held[form_before(pass, pass.first + first)..][..len], plane),
            None => {
                self.values(pass, (first, width), inputs, &mut room[..len]);
                (&room[..len], plane)
            }
        }
    }

    /// Asks memory for part `i` of `of` of the weights that [`winograd`](Self::winograd) reads of some inputs.
    pub(super) fn fetch(&self, pass: &Pass, (first, width): (usize, usize), inputs: Range<usize>, [i, of]: [usize; 2]) {
        if self.held.is_some() {
            return;
        }
        let Order { by_output, by_input, .. } = self.order;
        let (outputs, places) = (pass.first + first..pass.first + first + width, pass.k * pass.k);
        // rows of contiguous kernels
        let (rows, by_row, start, len) = if by_input == places {
            (outputs, by_output, inputs.start * by_input, inputs.len() * places)
        } else {
            (inputs, by_input, outputs.start * by_output, width * by_output)
        };
        for row in rows.start + i * rows.len() / of..rows.start + (i + 1) * rows.len() / of {
            fetch(&self.numbers[row * by_row + start..][..len]);
        }
    }

    /// The form of all panels.
    fn hold(&self, pass: &Pass) -> Result<Buffer> {
        let (panel, lanes) = (panel(pass), if pass.way == Way::Narrow { 1 } else { lanes() });
        let widths: Vec<_> = (0..pass.o)
            .step_by(panel)
            .map(|first| (first, panel.min((pass.o - first).next_multiple_of(lanes))))
            .collect();
        let mut form_of_all = Buffer::new(widths.iter().map(|&(_, width)| form(pass, width)).sum())?;
        let pieces = form_of_all.par_chunks_mut(form(pass, panel)).zip(widths).with_min_len(min_tasks());
        pieces.for_each(|(to, (first, width))| {
            let _flush = FlushDenormals::new();
            match pass.way {
                Way::Winograd => self.values(pass, (first, width), 0..pass.c, to),
                _ => self.pack(pass, first, to),
            }
        });
        Ok(form_of_all)
    }

    /// Packs a panel as `[k, window, width]`, where that may be wider than there are channels.
    fn pack(&self, pass: &Pass, first: usize, packed: &mut [f32]) {
        let (c, places) = (pass.c, pass.k * pass.k);
        let width = packed.len() / (places * c);
        let outputs = width.min(pass.o - first);
        with_scratch([TURNED * places * width], |[room]| {
            for start in (0..c).step_by(TURNED) {
                let inputs = start..c.min(start + TURNED);
                self.turn(pass, (first, outputs), inputs.clone(), width, room);
                // [input, place, output] -> [place, input, output]
                for (place, packed) in packed.chunks_exact_mut(c * width).enumerate() {
                    let place = if self.order.turned { places - 1 - place } else { place };
                    for (i, packed) in packed[start * width..inputs.end * width].chunks_exact_mut(width).enumerate() {
                        let (packed, rest) = packed.split_at_mut(outputs);
                        packed.copy_from_slice(&room[(i * places + place) * width..][..outputs]);
                        rest.fill(0.0);
                    }
                }
            }
        });
    }

    /// Brings a panel into Winograd's form.
    fn values(&self, pass: &Pass, (first, width): (usize, usize), inputs: Range<usize>, values: &mut [f32]) {
        let plane = winograd::plane(inputs.len() * width);
        let places = pass.k * pass.k;
        with_scratch([TURNED * places * width], |[room]| {
            for start in inputs.clone().step_by(TURNED) {
                let some = start..inputs.end.min(start + TURNED);
                self.turn(pass, (first, width), some.clone(), width, room);
                let to = &mut values[(start - inputs.start) * width..];
                let kernels = &room[..some.len() * places * width];
                arch().dispatch(winograd::Kernels { k: pass.k, width, turned: self.order.turned, kernels, to, plane });
            }
        });
    }

    /// The kernels of some inputs and of `outputs` channels from `first` on, `[input, place, width]`.
    fn turn(&self, pass: &Pass, (first, outputs): (usize, usize), inputs: Range<usize>, width: usize, to: &mut [f32]) {
        let Order { by_output, by_input, .. } = self.order;
        let places = pass.k * pass.k;
        if [places, by_output] == [1, 1] {
            for (input, to) in inputs.zip(to.chunks_exact_mut(width)) {
                to[..outputs].copy_from_slice(&self.numbers[input * by_input + pass.first + first..][..outputs]);
            }
            return;
        }
        // in one call if the inputs' kernels are contiguous
        let together = if by_input == places { inputs.len() } else { 1 };
        for (i, input) in inputs.step_by(together).enumerate() {
            let from = &self.numbers[(pass.first + first) * by_output + input * by_input..];
            let to = &mut to[i * together * places * width..];
            transpose(from, by_output, to, width, outputs, together * places);
        }
    }
}

/// Floats of the form of all panels before output channel `first`.
fn form_before(pass: &Pass, first: usize) -> usize {
    let panel = panel(pass);
    first / panel * form(pass, panel)
}
