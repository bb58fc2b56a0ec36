use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use kakusan_ops::{CudaCard, describe_cuda, is_out_of_memory, open_cuda};

use crate::{Error, Result};

/// Where to compute: `cpu`, `cuda`, `cuda:1`, or `auto`: the first CUDA device if this build and machine have one.
///
/// ```
/// use kakusan_pipeline::DeviceChoice;
///
/// assert_eq!("cuda:1".parse(), Ok(DeviceChoice::Cuda(1)));
/// assert!("cpu".parse::<DeviceChoice>().unwrap().open().unwrap().device.is_cpu());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// CUDA if there is a device, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this number.
    Cuda(usize),
}

/// An opened device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Opened {
    /// The device.
    pub device: Device,
    /// Why this is the CPU although CUDA was preferred; show it to the user.
    pub fallback: Option<DeviceFallback>,
}

/// This build supports CUDA, but no CUDA device could be opened, so the CPU is used instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no CUDA device can be opened, so the CPU is used: {reason}; `nvidia-smi` lists the devices, and --device cpu \
     selects the CPU without this warning"
)]
pub struct DeviceFallback {
    /// The driver's message.
    pub reason: String,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number
                    .map(Self::Cuda)
                    .ok_or_else(|| format!("`{text}` is not a device; expected cpu, cuda, cuda:N or auto"))
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device. If the build supports CUDA but `auto` finds no CUDA device, it opens the CPU, and
    /// [`Opened::fallback`] says why.
    ///
    /// # Errors
    /// When CUDA was requested and this build or machine does not have it.
    pub fn open(self) -> Result<Opened> {
        self.open_for(0)
    }

    /// As [`open`](Self::open), for the process with this number among those on its machine that train together. Each
    /// has a card of its own: `auto` and `cuda` are the card with that number, `cuda:N` the one that many after card N.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for(self, local_rank: usize) -> Result<Opened> {
        self.open_with(local_rank, candle_core::utils::cuda_is_available(), open_cuda)
    }

    /// As [`open_for`](Self::open_for), for a build with or without CUDA, and with the function that opens a CUDA
    /// device.
    fn open_with(
        self,
        local_rank: usize,
        has_cuda: bool,
        open_cuda: impl Fn(usize) -> std::result::Result<Device, candle_core::Error>,
    ) -> Result<Opened> {
        // converted to our error, which has no backtrace
        let open_cuda = |number| open_cuda(number).map_err(|e| Error::from(e).to_string());
        let opened = |device| Opened { device, fallback: None };
        match self {
            Self::Cpu => Ok(opened(Device::Cpu)),
            Self::Auto if !has_cuda => Ok(opened(Device::Cpu)),
            Self::Auto => Ok(open_cuda(local_rank).map_or_else(
                |reason| Opened { device: Device::Cpu, fallback: Some(DeviceFallback { reason }) },
                opened,
            )),
            Self::Cuda(_) if !has_cuda => Err(Error::Device(
                "this build has no CUDA: build with `--features cuda` (needs the CUDA toolkit), or use --device cpu"
                    .into(),
            )),
            Self::Cuda(first) => {
                let number = first.saturating_add(local_rank);
                open_cuda(number).map(opened).map_err(|reason| {
                    Error::Device(format!(
                        "cuda:{number} cannot be opened: {reason}; `nvidia-smi` lists the devices; or use --device cpu"
                    ))
                })
            }
        }
    }
}

/// The device's name on the command line.
#[cfg(feature = "train")]
pub(crate) fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// An error of work on the device. If its memory is full, the error says what was `asked` of it and what to reduce.
pub(crate) fn explain(error: Error, device: &Device, asked: impl FnOnce() -> String, advice: &'static str) -> Error {
    if matches!(error, Error::OutOfMemory { .. }) || !is_out_of_memory(&error) {
        return error;
    }
    let card = match describe_cuda(device) {
        Ok(Some(CudaCard { name, memory, free_memory, .. })) => {
            format!("{name} ({} GiB, {} of them free)", gibibytes(memory), gibibytes(free_memory))
        }
        _ => "the device".to_owned(),
    };
    Error::OutOfMemory { card, asked: asked(), advice, last_checkpoint: None }
}

fn gibibytes(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use std::backtrace::Backtrace;
    use std::cell::Cell;

    use super::*;

    type Card = std::result::Result<Device, candle_core::Error>;

    fn no_card(_: usize) -> Card {
        let inner = Box::new(candle_core::Error::Msg("no CUDA-capable device is detected".into()));
        Err(candle_core::Error::WithBacktrace { inner, backtrace: Box::new(Backtrace::force_capture()) })
    }

    fn untouched(_: usize) -> Card {
        panic!("no card was asked for")
    }

    #[test]
    fn auto_says_why_it_is_the_cpu_where_the_build_has_cuda() {
        let opened = DeviceChoice::Auto.open_with(0, true, no_card).unwrap();
        assert!(opened.device.is_cpu());
        let fallback = opened.fallback.unwrap();
        assert_eq!(fallback.reason, "no CUDA-capable device is detected"); // and no backtrace
        let said = fallback.to_string();
        assert!(
            ["the CPU is used", "no CUDA-capable device", "--device cpu"].iter().all(|word| said.contains(word)),
            "{said}"
        );
    }

    #[test]
    fn nothing_is_said_where_nothing_is_amiss() {
        let first = Cell::new(None);
        let card = |number| {
            first.set(Some(number));
            Ok(Device::Cpu)
        };
        assert_eq!(DeviceChoice::Auto.open_with(0, true, card).unwrap().fallback, None);
        assert_eq!(first.get(), Some(0));
        for (choice, has_cuda) in [(DeviceChoice::Auto, false), (DeviceChoice::Cpu, false), (DeviceChoice::Cpu, true)] {
            let opened = choice.open_with(0, has_cuda, untouched).unwrap();
            assert!(opened.device.is_cpu() && opened.fallback.is_none(), "{choice}");
        }
    }

    #[test]
    fn a_card_that_was_asked_for_is_never_replaced() {
        let said = DeviceChoice::Cuda(1).open_with(0, false, untouched).unwrap_err().to_string();
        assert!(said.contains("--features cuda") && said.contains("--device cpu"), "{said}");
        let said = DeviceChoice::Cuda(1).open_with(0, true, no_card).unwrap_err().to_string();
        let begin = "cuda:1 cannot be opened: no CUDA-capable device is detected; ";
        assert!(said.starts_with(begin) && said.ends_with("--device cpu") && said.lines().count() == 1, "{said}");
    }
}
