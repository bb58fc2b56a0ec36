//! The hardware and software of this machine.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The CUDA compiler that a build would use.
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

/// The features of the command that fit this machine.
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
        "none that the kernels use"
    }
}

/// The vector instructions narrower than the kernels' own choice, as `--vectors` spells them.
pub(crate) fn narrower_vectors() -> &'static [&'static str] {
    match vector_instructions() {
        "AVX-512" => &["avx2", "scalar"],
        "AVX2 and FMA" | "NEON" => &["scalar"],
        _ => &[],
    }
}

fn answers(program: &PathBuf, argument: &str) -> bool {
    let status = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// The name of the processor, else its architecture.
pub(crate) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let asked = || first_line(Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]));
    model.map(|(_, name)| name.to_owned()).or_else(asked).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The operating system.
pub(crate) fn system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.map_or(std::env::consts::OS, |name| name.trim_matches('"')).to_owned();
    match first_line(Command::new("uname").arg("-sr")) {
        Some(kernel) => format!("{name}, {kernel}"),
        None => name,
    }
}

/// The first line that a command prints.
pub(crate) fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
}
