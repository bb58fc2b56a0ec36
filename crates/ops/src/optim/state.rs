//! What an optimiser or an average remembers of a parameter.

use std::any::Any;

use candle_core::{Result, Tensor, Var, bail};

use crate::kernels::{Backend, BackendKind, Work};

/// A tensor of the parameter's shape, in the memory of the parameter's backend.
#[derive(Debug)]
pub(crate) struct State {
    backend: BackendKind,
    /// The backend's [`Backend::State`].
    value: Box<dyn Any + Send + Sync>,
}

impl State {
    /// A copy of `tensor`.
    pub(crate) fn new(tensor: &Tensor) -> Result<Self> {
        let backend = BackendKind::of(tensor);
        Ok(Self { backend, value: backend.run(Copy(tensor))? })
    }

    /// The tensor again, for the parameter that it was made for.
    pub(crate) fn tensor(&self, param: &Var) -> Result<Tensor> {
        self.backend.run(Read { state: self, param })
    }
}

/// The state in the memory of backend `B`; `None` if it is in another's.
pub(crate) fn mutable<B: Backend>(state: &mut State) -> Option<&mut B::State> {
    state.value.downcast_mut()
}

struct Copy<'a>(&'a Tensor);

impl Work for Copy<'_> {
    type Output = Result<Box<dyn Any + Send + Sync>>;

    fn on<B: Backend>(self) -> Self::Output {
        Ok(Box::new(B::state(self.0)?))
    }
}

struct Read<'a> {
    state: &'a State,
    param: &'a Var,
}

impl Work for Read<'_> {
    type Output = Result<Tensor>;

    fn on<B: Backend>(self) -> Result<Tensor> {
        match self.state.value.downcast_ref() {
            Some(state) => B::state_tensor(state, self.param),
            None => bail!("a parameter's state lies in another backend's memory"),
        }
    }
}
