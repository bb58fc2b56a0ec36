//! Cache of weights in the layout that kernels read, valid while the weights do not change.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, RwLock};

use candle_core::{Result, Storage, Tensor, bail};

/// Promises that some weights do not change, for as long as it lives: kernels prepare each of them once.
///
/// A sampling holds one, and so does a training step up to the optimiser. Without it every convolution brings its
/// weights into its own layout at each call, which for large networks and small batches takes as long as the
/// convolution. Views of a weight, such as those of a frozen model, are recognised by their memory. Weights that change
/// meanwhile (`Var::set`, an optimiser's step) give results from a mixture of old and new ones; other weights are not
/// affected.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor};
/// use kakusan_ops::PreparedWeights;
/// let weight = Tensor::zeros((16, 16, 3, 3), DType::F32, &Device::Cpu)?;
/// let mut x = Tensor::ones((1, 16, 8, 8), DType::F32, &Device::Cpu)?;
/// let prepared = PreparedWeights::new([&weight]);
/// for _ in 0..10 {
///     x = (&x + kakusan_ops::conv2d(&x, &weight, None, 1)?)?;
/// }
/// drop(prepared); // from here on the weight may change
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the weights are prepared for each call once it is dropped"]
pub struct PreparedWeights(Vec<Memory>);

/// Where a weight's numbers begin. While an [`Entry`] holds the weight, no other has the same.
type Memory = (usize, usize);

/// The name of a layout and the sizes that it depends on.
pub(crate) type Form = (&'static str, [usize; 6]);

/// The weights that do not change at the moment.
static CACHE: LazyLock<RwLock<HashMap<Memory, Entry>>> = LazyLock::new(RwLock::default);

struct Entry {
    _weight: Tensor,
    /// How many [`PreparedWeights`] hold it.
    holders: usize,
    forms: Arc<Forms>,
}

type Forms = Mutex<HashMap<Form, Arc<OnceLock<Arc<dyn Any + Send + Sync>>>>>;

fn memory(weight: &Tensor) -> Memory {
    let (storage, layout) = weight.storage_and_layout();
    (std::ptr::from_ref::<Storage>(&storage).addr(), layout.start_offset())
}

impl PreparedWeights {
    /// Holds `weights`.
    pub fn new<'a>(weights: impl IntoIterator<Item = &'a Tensor>) -> Self {
        let weights = weights.into_iter().filter(|weight| weight.is_contiguous());
        let weights: Vec<_> = weights.map(|weight| (memory(weight), weight.detach())).collect();
        let mut cache = CACHE.write().unwrap_or_else(PoisonError::into_inner);
        let held = weights.into_iter().map(|(memory, weight)| {
            let entry = cache.entry(memory);
            entry.or_insert_with(|| Entry { _weight: weight, holders: 0, forms: Arc::default() }).holders += 1;
            memory
        });
        Self(held.collect())
    }
}

impl Drop for PreparedWeights {
    fn drop(&mut self) {
        let mut cache = CACHE.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone = Vec::new();
        for memory in &self.0 {
            if let Some(entry) = cache.get_mut(memory) {
                entry.holders -= 1;
                if entry.holders == 0 {
                    gone.extend(cache.remove(memory));
                }
            }
        }
        drop(cache); // before what it held
    }
}

/// A `form` of a weight: made by `make`, or kept from before if a [`PreparedWeights`] holds the weight.
pub(crate) fn prepared<T: Any + Send + Sync>(
    weight: &Tensor,
    form: Form,
    make: impl FnOnce() -> Result<T>,
) -> Result<Arc<T>> {
    let forms = {
        let cache = CACHE.read().unwrap_or_else(PoisonError::into_inner);
        if cache.is_empty() || !weight.is_contiguous() {
            None
        } else {
            cache.get(&memory(weight)).map(|entry| entry.forms.clone())
        }
    };
    let Some(forms) = forms else { return Ok(Arc::new(make()?)) };
    let slot = forms.lock().unwrap_or_else(PoisonError::into_inner).entry(form).or_default().clone();
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
        Err(_) => bail!("two layouts of a weight are called {}", form.0),
    }
}
