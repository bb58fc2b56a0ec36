#![cfg(test)]

//! The kernels as a library of the host: compiled when a test first needs them, by the C++ compiler of the machine.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::{fs, process};

use candle_core::{Result, bail};

use super::super::SOURCES;
use super::super::card::{Argument, THREADS};
use super::Order;

/// Compilers to try; on Debian the package g++ has one.
const COMPILERS: [&str; 3] = ["c++", "g++", "clang++"];

/// The file that the others need.
const COMMON: &str = SOURCES[0].0;

type Launch = unsafe extern "C" fn(*const c_char, c_uint, c_uint, c_int, *mut *mut c_void, c_uint) -> *const c_char;

#[derive(Debug)]
pub(crate) struct Library {
    launch: Launch,
    /// The names of its kernels.
    kernels: Vec<String>,
    /// What has the others, where these are not all.
    others: Option<Arc<Library>>,
    /// Holds the code of `launch`.
    _library: libloading::Library,
}

impl Library {
    /// All kernels as they are.
    pub(crate) fn of_kernels() -> Arc<Self> {
        static KERNELS: LazyLock<Arc<Library>> =
            LazyLock::new(|| Arc::new(Library::new(&SOURCES.map(|(_, text)| text.to_owned()).concat(), None)));
        KERNELS.clone()
    }

    /// The kernels of `file`, changed by a fault: `from` becomes `to`.
    ///
    /// # Panics
    /// When the file does not hold `from` exactly once: the fault would not be planted.
    pub(crate) fn with_fault(file: &str, from: &str, to: &str) -> Arc<Self> {
        let of_file = |(name, text): &(&str, &str)| {
            if *name == file {
                assert_eq!(text.matches(from).count(), 1, "{file} holds `{from}` not once");
                return Some(text.replace(from, to));
            }
            // what all need concerns all
            (file == COMMON || *name == COMMON).then(|| (*text).to_owned())
        };
        Arc::new(Self::new(&SOURCES.iter().filter_map(of_file).collect::<String>(), Some(Self::of_kernels())))
    }

    fn new(kernels: &str, others: Option<Arc<Library>>) -> Self {
        let names = kernels.lines().filter_map(|line| line.strip_prefix("KERNEL ")?.split('(').next());
        let names: Vec<String> = names.map(str::to_owned).collect();
        let entries: String = names.iter().map(|name| format!("ENTRY({name})\n")).collect();
        let [machine, launch] = [include_str!("machine.h"), include_str!("launch.cpp")];
        let source = format!("{machine}\n{kernels}\nstatic const Entry_ entries[] = {{\n{entries}}};\n{launch}");
        let path = compiled(&source);
        // SAFETY: the library is ours, and runs nothing when it is loaded.
        let library = unsafe { libloading::Library::new(&path) }.expect("the library that was just compiled");
        // SAFETY: `launch.cpp` defines it with this type.
        let launch: Launch = *unsafe { library.get(b"launch") }.expect("launch.cpp");
        Self { launch, kernels: names, others, _library: library }
    }

    pub(crate) fn launch(&self, kernel: &str, blocks: u32, order: Order, arguments: &[Argument]) -> Result<()> {
        if let Some(others) = self.others.as_ref().filter(|_| !self.kernels.iter().any(|name| name == kernel)) {
            return others.launch(kernel, blocks, order, arguments);
        }
        let name = CString::new(kernel).map_err(candle_core::Error::wrap)?;
        // as kernels are launched on a card: by the addresses of the arguments
        let mut values: Vec<u64> = arguments
            .iter()
            .map(|&argument| match argument {
                Argument::Address(address) => address,
                Argument::Index(index) => index.into(),
                Argument::Int(int) => u64::from(int.cast_unsigned()),
                Argument::Float(float) => float.to_bits().into(),
                Argument::Double(double) => double.to_bits(),
            })
            .collect();
        let mut addresses: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let (count, threads) = (arguments.len() as c_uint, THREADS as c_uint);
        // SAFETY: the kernel checks the number of its arguments; that they are of the types and sizes which it expects
        // is what the tests are for.
        let wrong =
            unsafe { (self.launch)(name.as_ptr(), blocks, threads, order as c_int, addresses.as_mut_ptr(), count) };
        if wrong.is_null() {
            return Ok(());
        }
        // SAFETY: a string of the library, which lives as long as this.
        let wrong = unsafe { CStr::from_ptr(wrong) };
        bail!("{kernel}: {}", wrong.to_string_lossy())
    }
}

/// The library of a program; that of an earlier run, if the program is the same.
fn compiled(source: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let dir = Path::new(env!("OUT_DIR")).join("kernels");
    fs::create_dir_all(&dir).expect("a folder for the kernels");
    let stem = format!("{:016x}", hasher.finish());
    let library = dir.join(format!("{stem}.so"));
    if library.is_file() {
        return library;
    }
    let [program, fresh] = ["cpp", "so"].map(|end| dir.join(format!("{stem}-{}.{end}", process::id())));
    fs::write(&program, source).expect("the kernels' program");
    let mut missing = true;
    for compiler in COMPILERS {
        let mut command = Command::new(compiler);
        // rounded as written, and no checks that take a jump between stacks for a fault
        command.args(["-std=c++17", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-w", "-o"]);
        match command.args([&fresh, &program]).status() {
            Ok(status) => {
                assert!(status.success(), "{compiler} does not compile the kernels, {}", program.display());
                missing = false;
                break;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{compiler}: {error}"),
        }
    }
    assert!(!missing, "the tests of the CUDA kernels need a C++ compiler: {COMPILERS:?} (on Debian: g++)");
    fs::rename(&fresh, &library).expect("a name for the library");
    library
}
