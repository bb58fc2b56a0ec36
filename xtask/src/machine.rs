//! What this machine offers.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The CUDA compiler, where a build would find it.
pub(crate) fn nvcc() -> Option<PathBuf> {
    let named = ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].iter().filter_map(|name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        Some(if *name == "NVCC" { path } else { path.join("bin/nvcc") })
    });
    named
        .chain([PathBuf::from("nvcc"), PathBuf::from("/usr/local/cuda/bin/nvcc")])
        .find(|path| answers(path, "--version"))
}

/// The names of the NVIDIA cards that the driver sees.
pub(crate) fn cards() -> Vec<String> {
    let query = Command::new("nvidia-smi").args(["--query-gpu=name,memory.total", "--format=csv,noheader"]).output();
    match query {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
        }
        _ => vec![],
    }
}

/// The features of the crate `kakusan` that fit this machine.
pub(crate) fn features() -> Vec<&'static str> {
    if !cards().is_empty() && nvcc().is_some() { vec!["cuda"] } else { vec![] }
}

/// The widest vector instructions; the kernels choose among them at run time, in every build.
pub(crate) fn vector_instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            "AVX-512"
        } else if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            "AVX2 and FMA"
        } else {
            "SSE2"
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "none that the kernels know"
    }
}

fn answers(program: &PathBuf, argument: &str) -> bool {
    let status = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
