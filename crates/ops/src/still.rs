//! What kernels make of weights, kept while the weights stand still.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{Result, Tensor, TensorId};

type Slot = Arc<OnceLock<Arc<dyn Any + Send + Sync>>>;

/// The name of a form and the sizes that it depends on.
pub(crate) type Form = (&'static str, [usize; 4]);

/// The weights in the forms that kernels read, by weight and form.
#[derive(Default)]
pub(crate) struct Still {
    slots: Mutex<HashMap<(TensorId, Form), Slot>>,
}

thread_local! {
    static STILL: RefCell<Option<Arc<Still>>> = const { RefCell::new(None) };
}

/// Runs `work`, during which no weight may change: the forms that the kernels make of weights are made once.
///
/// A sampling is such a work, and so is one training step up to the optimiser. Without this every convolution turns its
/// weights into its own form at each call, which for large networks and small batches takes as long as the convolution.
/// Weights that change meanwhile (`Var::set`, an optimiser's step) give results from a mixture of old and new ones. What is
/// kept is `work`'s own: a call within it keeps its own again.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor};
/// let weight = Tensor::zeros((16, 16, 3, 3), DType::F32, &Device::Cpu)?;
/// let mut x = Tensor::ones((1, 16, 8, 8), DType::F32, &Device::Cpu)?;
/// kakusan_ops::with_still_weights(|| -> candle_core::Result<()> {
///     for _ in 0..10 {
///         x = (&x + kakusan_ops::conv2d(&x, &weight, None, 1)?)?;
///     }
///     Ok(())
/// })?;
/// # Ok(())
/// # }
/// ```
pub fn with_still_weights<R>(work: impl FnOnce() -> R) -> R {
    with(Some(Arc::default()), work)
}

/// What this thread keeps, to be handed to the threads that work for it.
pub(crate) fn current() -> Option<Arc<Still>> {
    STILL.with_borrow(Clone::clone)
}

/// Runs `work` with what another thread keeps.
pub(crate) fn with<R>(still: Option<Arc<Still>>, work: impl FnOnce() -> R) -> R {
    /// Puts the former state back, after a panic too.
    struct Restore(Option<Arc<Still>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            STILL.replace(self.0.take());
        }
    }
    let _restore = Restore(STILL.replace(still));
    work()
}

/// The `form` of a weight: made by `make`, or kept in `still` from before.
pub(crate) fn form<T: Any + Send + Sync>(
    still: Option<&Still>,
    weight: &Tensor,
    form: Form,
    make: impl FnOnce() -> Result<T>,
) -> Result<Arc<T>> {
    let Some(still) = still else { return Ok(Arc::new(make()?)) };
    let slot =
        still.slots.lock().unwrap_or_else(PoisonError::into_inner).entry((weight.id(), form)).or_default().clone();
    let kept = match slot.get() {
        Some(kept) => kept.clone(),
        None => {
            // Two threads may make it at the same time; they make the same, and the first one's stays.
            let made: Arc<dyn Any + Send + Sync> = Arc::new(make()?);
            slot.get_or_init(|| made).clone()
        }
    };
    match kept.downcast() {
        Ok(kept) => Ok(kept),
        Err(_) => candle_core::bail!("two forms of a weight are called {}", form.0),
    }
}
