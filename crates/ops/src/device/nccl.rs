//! NCCL: sums over the cards of several processes.

use std::ffi::{c_char, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtrMut};
use candle_core::cuda_backend::cudarc::nccl::result::{self, NcclError};
use candle_core::cuda_backend::cudarc::nccl::sys;
use candle_core::{CpuStorage, CudaStorage, Device, Error, InplaceOp1, Layout, Result, Tensor, bail};

use super::AllReduce;

/// How long a sum may take. NCCL itself waits for ever for a process that died while the cards exchange numbers.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A process among others, each of which has a card of its own.
///
/// One process takes a [`unique_id`](Self::unique_id) and passes it to all, who then [`join`](Self::join).
pub struct Nccl {
    communicator: Mutex<Communicator>,
    stream: Arc<CudaStream>,
    rank: usize,
    size: usize,
}

struct Communicator(sys::ncclComm_t);
// SAFETY: NCCL allows any thread to use a communicator, one at a time.
unsafe impl Send for Communicator {}

impl Drop for Communicator {
    fn drop(&mut self) {
        // SAFETY: it was initialised, and nothing uses it from here on. What still runs on the card ends.
        let _ = unsafe { result::comm_abort(self.0) };
    }
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Nccl({} of {})", self.rank, self.size)
    }
}

impl Nccl {
    /// Finds NCCL. A process that cannot should tell the others before they [`join`](Self::join): they would wait for
    /// it.
    ///
    /// # Errors
    /// When NCCL is not installed.
    pub fn check() -> Result<()> {
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        super::libraries::check_nccl()?;
        Ok(())
    }

    /// What the processes need to find each other: 128 bytes, which hold an address of this process.
    ///
    /// # Errors
    /// When NCCL is not installed or cannot listen.
    pub fn unique_id() -> Result<Vec<u8>> {
        Self::check()?;
        let id = result::get_uniqueid().map_err(explain)?;
        Ok(id.internal.iter().map(|&c| c as u8).collect())
    }

    /// Joins the others as process `rank` of `size`, with a card that [`open_cuda`](crate::open_cuda) opened. Returns
    /// when all have joined.
    ///
    /// # Errors
    /// When NCCL is not installed, the device is no card, two processes have the same card, or `id` is not of
    /// [`unique_id`](Self::unique_id).
    pub fn join(device: &Device, rank: usize, size: usize, id: &[u8]) -> Result<Self> {
        Self::check()?;
        let Device::Cuda(device) = device else { bail!("NCCL adds on CUDA cards, not on {device:?}") };
        let Ok(internal) = <[u8; 128]>::try_from(id) else { bail!("an NCCL id has 128 bytes, not {}", id.len()) };
        let id = sys::ncclUniqueId { internal: internal.map(|byte| byte as c_char) };
        let (Ok(rank_number), Ok(count)) = (i32::try_from(rank), i32::try_from(size)) else {
            bail!("NCCL has no rank {rank} of {size}")
        };
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        let mut communicator = ptr::null_mut();
        // SAFETY: the pointer is valid for the call, which initialises what it points to if it succeeds.
        unsafe { result::comm_init_rank(&mut communicator, count, id, rank_number) }.map_err(explain)?;
        Ok(Self { communicator: Mutex::new(Communicator(communicator)), stream, rank, size })
    }

    /// Waits for the card, which NCCL lets wait for ever if another process is gone.
    fn wait(&self) -> Result<()> {
        let done = self.stream.record_event(None).map_err(Error::wrap)?;
        let begin = Instant::now();
        while !done.is_complete() {
            if begin.elapsed() > TIMEOUT {
                let seconds = TIMEOUT.as_secs();
                bail!("NCCL has not added the gradients of {} processes in {seconds} s: one may have died", self.size)
            }
            thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }
}

impl AllReduce for Nccl {
    fn name(&self) -> &'static str {
        "NCCL"
    }

    fn sum(&self, numbers: &Tensor) -> Result<()> {
        numbers.inplace_op1(self)?;
        self.wait()
    }
}

impl InplaceOp1 for Nccl {
    fn name(&self) -> &'static str {
        "nccl-all-reduce"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("NCCL adds on CUDA cards, and the tensor is on the CPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("NCCL got a strided tensor {:?}", layout.shape())
        };
        let mut slice = storage.as_cuda_slice_mut::<f32>()?.slice_mut(start..end);
        let (address, _used) = slice.device_ptr_mut(&self.stream);
        let communicator = self.communicator.lock().unwrap_or_else(PoisonError::into_inner);
        let (numbers, float, sum) =
            (address as *mut c_void, sys::ncclDataType_t::ncclFloat32, sys::ncclRedOp_t::ncclSum);
        self.stream.context().bind_to_thread().map_err(Error::wrap)?;
        // SAFETY: the slice has so many numbers on the communicator's card, and lives until work that the stream gets
        // later frees it.
        let queued = unsafe {
            result::all_reduce(
                numbers,
                numbers,
                end - start,
                float,
                sum,
                communicator.0,
                self.stream.cu_stream().cast(),
            )
        };
        queued.map_err(explain)?;
        Ok(())
    }
}

/// cudarc's error has no text.
fn explain(error: NcclError) -> Error {
    Error::Msg(format!("NCCL: {:?} (NCCL_DEBUG=WARN tells more)", error.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This needs no card.
    #[test]
    fn what_is_not_nccls_is_refused() {
        let said = |result: Result<Nccl>| result.unwrap_err().to_string();
        if let Err(missing) = Nccl::check() {
            assert!(missing.to_string().contains("libnccl.so.2"), "{missing}");
            assert!(Nccl::unique_id().is_err());
            return;
        }
        let id = Nccl::unique_id().unwrap();
        assert_eq!(id.len(), 128);
        assert!(said(Nccl::join(&Device::Cpu, 0, 2, &id)).contains("not on Cpu"));
    }
}
