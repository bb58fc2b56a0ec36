//! Numbers below the normal range, which a CPU multiplies a hundred times slower than others.

use std::marker::PhantomData;

/// While it lives, this thread's vector unit takes denormal numbers (below 1.2e-38 in f32) for zero and makes none.
///
/// A convolution on inputs near 1e-36 is a hundred times slower otherwise, and Adam's moments pass through that range
/// whenever a gradient dies. On other machines than x86-64 nothing changes.
pub(crate) struct FlushDenormals {
    #[cfg(target_arch = "x86_64")]
    before: u32,
    /// It must be dropped on the thread that made it.
    _thread: PhantomData<*const ()>,
}

impl FlushDenormals {
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn new() -> Self {
        const FLUSH_TO_ZERO: u32 = 1 << 15;
        const DENORMALS_ARE_ZERO: u32 = 1 << 6;
        let before = x86::control();
        x86::set_control(before | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
        Self { before, _thread: PhantomData }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn new() -> Self {
        Self { _thread: PhantomData }
    }
}

/// As if a [`FlushDenormals`] lived as long as this thread.
pub(crate) fn flush_on_this_thread() {
    std::mem::forget(FlushDenormals::new());
}

#[cfg(target_arch = "x86_64")]
impl Drop for FlushDenormals {
    fn drop(&mut self) {
        x86::set_control(self.before);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    /// The control word of this thread's SSE unit, MXCSR.
    pub(super) fn control() -> u32 {
        let mut word = 0u32;
        // SAFETY: stores four bytes into a local u32; every x86-64 has SSE.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack, preserves_flags)) };
        word
    }

    /// Sets it. Callers touch only the two bits on denormals and put them back: rounding and exception masks, on which
    /// the compiler relies, stay as they are. The compiler may also assume how a denormal is rounded, so a constant
    /// that it folds can keep a value below 1.2e-38 that the machine would have flushed; our kernels have none.
    pub(super) fn set_control(word: u32) {
        // SAFETY: loads four bytes from a local u32 that came from `control`, two documented bits changed.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, preserves_flags)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use std::hint::black_box;

    #[test]
    fn flushes_while_it_lives_and_no_longer() {
        let half = |x: f32| black_box(x) * black_box(0.5);
        {
            let _flush = FlushDenormals::new();
            let inner = half(f32::MIN_POSITIVE);
            assert_eq!(inner, if cfg!(target_arch = "x86_64") { 0.0 } else { f32::MIN_POSITIVE / 2.0 });
        }
        assert!(half(f32::MIN_POSITIVE) > 0.0);
    }

    #[test]
    fn kernels_run_with_it() -> candle_core::Result<()> {
        let x = Tensor::full(1e-39f32, (3, 2, 8, 8), &Device::Cpu)?;
        let weight = Tensor::full(1f32, (16, 2, 3, 3), &Device::Cpu)?;
        let largest = crate::conv2d(&x, &weight, None, 1)?.max_all()?.to_scalar::<f32>()?;
        assert_eq!(largest == 0.0, cfg!(target_arch = "x86_64"));
        Ok(())
    }
}
