use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use kakusan_distributed::Group;

use super::Sum;
use crate::{Error, Result};

const NO_NCCL: &str = "this build has no NCCL: build with `--features nccl` (needs NCCL and the CUDA toolkit), or pass \
                       --all-reduce tree";

/// How the gradients of several processes become one sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AllReduceMethod {
    /// `Tree` on CPUs. On CUDA cards `Nccl` where this build has it, otherwise `Tree`; a card alone computes the whole
    /// batch at once.
    #[default]
    Auto,
    /// In the order of a tree that depends on the batch alone, through the memory of the host: the same bits for any
    /// number of processes on CPUs, and for any number of cards of one model.
    Tree,
    /// By NCCL, from card to card: fast, and the last bits depend on the number of processes.
    Nccl,
}

impl FromStr for AllReduceMethod {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tree" => Ok(Self::Tree),
            "nccl" => Ok(Self::Nccl),
            _ => Err(format!("`{text}` is no way to add gradients; expected auto, tree or nccl")),
        }
    }
}

impl fmt::Display for AllReduceMethod {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tree => "tree",
            Self::Nccl => "nccl",
        })
    }
}

impl AllReduceMethod {
    /// The method for a training on a card or on a CPU, in so many processes.
    ///
    /// # Errors
    /// When NCCL is asked for and cannot be had.
    pub(crate) fn resolve(self, on_card: bool, processes: usize) -> Result<Self> {
        let unfit = |reason: &str| Err(Error::Unfit(reason.to_owned()));
        match self {
            Self::Auto if on_card && processes > 1 && cfg!(feature = "nccl") => Ok(Self::Nccl),
            Self::Auto if on_card && processes == 1 => Ok(Self::Auto),
            Self::Auto | Self::Tree => Ok(Self::Tree),
            Self::Nccl if processes == 1 => {
                unfit("NCCL adds the gradients of several processes, and this is one alone")
            }
            Self::Nccl if !on_card => unfit("NCCL adds on CUDA cards: pass --device cuda, or --all-reduce tree"),
            Self::Nccl if !cfg!(feature = "nccl") => unfit(NO_NCCL),
            Self::Nccl => Ok(Self::Nccl),
        }
    }

    /// Opens a method that was [resolved](Self::resolve), with all members of the group.
    pub(crate) fn open(self, device: &Device, group: &dyn Group) -> Result<Sum> {
        match self {
            Self::Nccl => nccl(device, group),
            // a process alone on a CPU adds by the same tree without an exchange
            Self::Tree if group.size() > 1 || !device.is_cpu() => Ok(Sum::Tree),
            _ => Ok(Sum::Alone),
        }
    }
}

#[cfg(feature = "nccl")]
fn nccl(device: &Device, group: &dyn Group) -> Result<Sum> {
    use std::sync::Arc;

    use kakusan_ops::Nccl;

    let own = if group.leads() { Nccl::unique_id()? } else { Nccl::check().map(|()| vec![])? };
    let all = group.all_gather(&own)?; // a rank without NCCL says so here
    let id = all.first().map_or(&[][..], Vec::as_slice);
    Ok(Sum::Library(Arc::new(Nccl::join(device, group.rank(), group.size(), id)?)))
}

#[cfg(not(feature = "nccl"))]
fn nccl(_: &Device, _: &dyn Group) -> Result<Sum> {
    Err(Error::Unfit(NO_NCCL.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_add_by_nccl_where_there_is_a_choice() {
        let resolved = |method: AllReduceMethod, on_card, processes| {
            method.resolve(on_card, processes).map(|method| method.to_string()).unwrap_or_else(|e| e.to_string())
        };
        use AllReduceMethod::{Auto, Nccl, Tree};
        assert_eq!(resolved(Auto, false, 3), "tree");
        assert_eq!(resolved(Auto, false, 1), "tree");
        assert_eq!(resolved(Auto, true, 1), "auto");
        assert_eq!(resolved(Tree, true, 1), "tree");
        assert_eq!(resolved(Auto, true, 2), if cfg!(feature = "nccl") { "nccl" } else { "tree" });
        assert!(resolved(Nccl, true, 1).contains("one alone"));
        assert!(resolved(Nccl, false, 2).contains("--device cuda"));
        assert!(cfg!(feature = "nccl") || resolved(Nccl, true, 2).contains("--features nccl"));
        for method in [Auto, Tree, Nccl] {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
        assert!("mpi".parse::<AllReduceMethod>().unwrap_err().contains("expected auto, tree or nccl"));
    }
}
