//! CUDA cards: opening one, describing it, telling that its memory is full, and adding over the cards of processes.

mod all_reduce;
#[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
mod libraries;
#[cfg(feature = "nccl")]
mod nccl;

use std::fmt::Display;

#[cfg(any(test, feature = "cuda"))]
use candle_core::Error;
use candle_core::{Device, Result};

pub use all_reduce::AllReduce;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;

/// A CUDA card and its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CudaCard {
    /// Its name, such as `NVIDIA H200`.
    pub name: String,
    /// Its memory in bytes.
    pub memory: usize,
    /// The bytes of it that no program has allocated.
    pub free_memory: usize,
    /// Its compute capability, such as (9, 0).
    pub capability: (i32, i32),
    /// `multiProcessorCount`
    pub multiprocessors: u32,
    /// `maxThreadsPerMultiProcessor`
    pub threads_per_multiprocessor: u32,
    /// The newest version of CUDA that the driver supports, as CUDA numbers it: 13000 is 13.0.
    pub driver_cuda: i32,
}

/// Opens the CUDA card with this number.
///
/// All threads of the program queue their work on one stream of the card, so that it runs in the order in which they
/// pass tensors to each other. (candle's `Device::new_cuda` has a stream for each thread and does not order them.)
///
/// # Errors
/// When the build has no CUDA, a library of CUDA is missing, or the driver finds no such card.
pub fn open_cuda(number: usize) -> Result<Device> {
    #[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
    libraries::check()?;
    let device = Device::new_cuda_with_stream(number)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = &device {
        // SAFETY: the events order the use of memory by different streams, and this device has one stream. Tensors of
        // another device are never mixed with this one's: candle refuses it, and copies between them wait.
        unsafe { device.disable_event_tracking() };
    }
    Ok(device)
}

/// Describes the card of a device. `None` for the CPU.
///
/// # Errors
/// When the driver does not answer.
#[cfg(feature = "cuda")]
pub fn describe_cuda(device: &Device) -> Result<Option<CudaCard>> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
    let Device::Cuda(device) = device else { return Ok(None) };
    let stream = device.cuda_stream();
    let context = stream.context();
    let count = |attribute| Ok::<_, Error>(context.attribute(attribute).w()?.unsigned_abs());
    let (free_memory, memory) = context.mem_get_info().w()?;
    let mut driver_cuda = 0;
    // SAFETY: the driver writes one int to the pointer.
    unsafe { sys::cuDriverGetVersion(&mut driver_cuda) }.result().w()?;
    Ok(Some(CudaCard {
        name: context.name().w()?,
        memory,
        free_memory,
        capability: context.compute_capability().w()?,
        multiprocessors: count(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        threads_per_multiprocessor: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        driver_cuda,
    }))
}

/// Describes the card of a device. `None` for the CPU.
///
/// # Errors
/// None: this build has no CUDA.
#[cfg(not(feature = "cuda"))]
pub fn describe_cuda(_device: &Device) -> Result<Option<CudaCard>> {
    Ok(None)
}

/// How CUDA and its libraries name the error.
const OUT_OF_MEMORY: [&str; 5] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CURAND_STATUS_ALLOCATION_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
];

/// Whether an error, of candle or one that passes candle's on, says that a card's memory is full.
pub fn is_out_of_memory(error: &impl Display) -> bool {
    let text = error.to_string();
    OUT_OF_MEMORY.iter().any(|code| text.contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_memory_is_told_from_other_errors() {
        let said = r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#;
        assert!(is_out_of_memory(&Error::Msg(said.into()).bt()));
        assert!(!is_out_of_memory(&Error::Msg("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)".into())));
    }

    /// The errors of candle's own calls, as it wraps them; this needs no driver.
    #[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn candles_errors_name_their_codes() {
        use candle_core::cuda_backend::cudarc::{cublas, curand, driver};
        use candle_core::cuda_backend::{CudaError, WrapErr};
        let of = |error: CudaError| Err::<(), _>(error).w().unwrap_err();
        let full: [CudaError; 3] = [
            driver::DriverError(driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY).into(),
            cublas::result::CublasError(cublas::sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED).into(),
            curand::result::CurandError(curand::sys::curandStatus_t::CURAND_STATUS_ALLOCATION_FAILED).into(),
        ];
        assert!(full.map(of).iter().all(is_out_of_memory));
        let other = driver::DriverError(driver::sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert!(!is_out_of_memory(&of(other.into())));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_opens_no_card() {
        assert!(open_cuda(0).unwrap_err().to_string().contains("cuda"));
        assert_eq!(describe_cuda(&Device::Cpu).unwrap(), None);
    }
}
