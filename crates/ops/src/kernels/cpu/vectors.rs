//! Which of the machine's vector instructions the kernels use.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use candle_core::{Result, bail};
use pulp::{Arch, Simd};

/// Vector instructions for which there are kernels, the widest first.
///
/// ```standalone_crate
/// use kakusan_ops::{Vectors, limit_vectors, vectors};
///
/// limit_vectors(Vectors::Scalar).unwrap(); // every machine has these
/// assert_eq!(vectors().to_string(), "scalar");
/// assert!(limit_vectors("avx2".parse().unwrap()).is_err()); // decided, for as long as the program runs
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vectors {
    /// x86-64 with AVX-512 (x86-64-v4): 16 numbers of f32.
    Avx512,
    /// x86-64 with AVX2 and FMA (x86-64-v3): 8 numbers.
    Avx2,
    /// 64-bit ARM: 4 numbers.
    Neon,
    /// What every machine has.
    Scalar,
}

impl Vectors {
    const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Scalar];

    fn of(arch: Arch) -> Self {
        match arch {
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Arch::V4(_) => Self::Avx512,
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Arch::V3(_) => Self::Avx2,
            #[cfg(target_arch = "aarch64")]
            Arch::Neon(_) => Self::Neon,
            _ => Self::Scalar,
        }
    }

    /// How to dispatch to them, where this machine has them.
    fn arch(self) -> Option<Arch> {
        match self {
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Self::Avx512 => pulp::x86::V4::try_new().map(Arch::V4),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Self::Avx2 => pulp::x86::V3::try_new().map(Arch::V3),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => pulp::aarch64::Neon::try_new().map(Arch::Neon),
            Self::Scalar => Some(Arch::Scalar),
            #[allow(unreachable_patterns)] // the others, which are other machines'
            _ => None,
        }
    }
}

impl fmt::Display for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Scalar => "scalar",
        })
    }
}

impl FromStr for Vectors {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|vectors| vectors.to_string() == text);
        found.ok_or_else(|| format!("there are no vectors `{text}`; expected avx512, avx2, neon or scalar"))
    }
}

static ARCH: OnceLock<Arch> = OnceLock::new();

/// The vectors that all kernels use: the widest that this machine has, or those of [`limit_vectors`].
pub(crate) fn arch() -> Arch {
    *ARCH.get_or_init(Arch::new)
}

/// Vectors of half the width and their numbers, if these hold `n` numbers and the machine computes twice as many of
/// them.
pub(crate) fn narrower(n: usize) -> Option<(Arch, usize)> {
    match arch() {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        Arch::V4(simd) if n <= pulp::x86::V3::F32_LANES => Some((Arch::V3(*simd), pulp::x86::V3::F32_LANES)),
        _ => None,
    }
}

/// The vectors that the kernels use; decided with the first question, if not before.
pub fn vectors() -> Vectors {
    Vectors::of(arch())
}

/// Lets the kernels use `limit` even where the machine has wider vectors, to measure and to compare. Call it before any
/// operation: the choice is made once. Sums may round differently than with other vectors.
///
/// # Errors
/// When this machine does not have them, and when the kernels use others already.
pub fn limit_vectors(limit: Vectors) -> Result<()> {
    let Some(arch) = limit.arch() else { bail!("this machine has no {limit} vectors") };
    let decided = Vectors::of(*ARCH.get_or_init(|| arch));
    if decided != limit {
        bail!("the kernels use {decided} already, {limit} must be chosen before the first operation")
    }
    Ok(())
}
