//! The CUDA kernels as machine code: what nvcc says of their registers.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::root;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the kernels are compiled for: A100 and H100.
pub(crate) const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90"];

/// What a kernel needs of a multiprocessor.
#[derive(Debug, PartialEq)]
struct Usage {
    kernel: String,
    registers: u32,
    /// Bytes of registers that did not fit and are written to memory.
    spilled: u32,
}

/// Compiles all kernels for an architecture and prints what they need; an error if one spills registers.
pub(crate) fn compile(architecture: &str) -> Result<()> {
    let folder = root().join("target/cuda-kernels");
    fs::create_dir_all(&folder)?;
    let (program, code) = (folder.join("kernels.cu"), folder.join(format!("{architecture}.cubin")));
    fs::write(&program, source()?)?;
    let mut nvcc = Command::new("nvcc");
    nvcc.args(["-std=c++17", "-Werror", "all-warnings", "-cubin", "-arch", architecture, "-Xptxas", "-v", "-o"]);
    let output = nvcc.arg(&code).arg(&program).output()?;
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    if !output.status.success() {
        return Err(format!("the kernels do not compile for {architecture}:\n{said}").into());
    }
    let all = usages(&said);
    println!("{architecture}: kernel, registers, bytes spilled");
    all.iter().for_each(|usage| println!("  {:24} {:4} {:4}", usage.kernel, usage.registers, usage.spilled));
    if all.is_empty() {
        return Err(format!("nvcc names no kernel:\n{said}").into());
    }
    let spilling: Vec<_> = all.iter().filter(|usage| usage.spilled > 0).map(|usage| usage.kernel.as_str()).collect();
    if spilling.is_empty() { Ok(()) } else { Err(format!("registers are spilled by {}", spilling.join(", ")).into()) }
}

/// The program that the files of the kernels are, as the crate puts them together.
fn source() -> Result<String> {
    let folder = root().join("crates/ops/src/kernels/cuda");
    let entries = fs::read_dir(&folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "cu"));
    files.sort();
    files.insert(0, folder.join("common.cuh"));
    Ok(files.iter().map(fs::read_to_string).collect::<std::io::Result<String>>()?)
}

/// What ptxas says of each kernel.
fn usages(said: &str) -> Vec<Usage> {
    let mut all: Vec<Usage> = vec![];
    for line in said.lines() {
        if let Some(name) = line.split_once("Compiling entry function '").and_then(|(_, rest)| rest.split('\'').next())
        {
            all.push(Usage { kernel: name.to_owned(), registers: 0, spilled: 0 });
        } else if let Some(usage) = all.last_mut() {
            usage.spilled += before(line, " bytes spill stores") + before(line, " bytes spill loads");
            usage.registers += before(line, " registers");
        }
    }
    all.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    all
}

/// The number before some words of a line, 0 where they are not in it.
fn before(line: &str, words: &str) -> u32 {
    let number = line.split_once(words).and_then(|(start, _)| start.rsplit([' ', ',']).next()?.parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spilled_registers_are_found() {
        let said = "ptxas info    : 0 bytes gmem\n\
                    ptxas info    : Compiling entry function 'b' for 'sm_90'\n\
                    ptxas info    : Function properties for b\n    \
                    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
                    ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem\n\
                    ptxas info    : Compiling entry function 'a' for 'sm_90'\n    \
                    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                    ptxas info    : Used 16 registers, used 0 barriers\n";
        let usage = |kernel: &str, registers, spilled| Usage { kernel: kernel.to_owned(), registers, spilled };
        assert_eq!(usages(said), [usage("a", 16, 0), usage("b", 40, 16)]);
    }

    #[test]
    fn all_files_of_the_kernels_are_in_the_crates_program() {
        let list = fs::read_to_string(root().join("crates/ops/src/kernels/cuda/mod.rs")).unwrap();
        let program = source().unwrap();
        let listed = list.matches("include_str!(").count();
        assert!(program.starts_with("// What the kernels share."));
        let files = fs::read_dir(root().join("crates/ops/src/kernels/cuda")).unwrap().flatten();
        let files =
            files.filter(|file| [".cu", ".cuh"].iter().any(|end| file.file_name().to_string_lossy().ends_with(end)));
        assert_eq!(files.count(), listed);
    }
}
