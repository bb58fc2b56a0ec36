//! Loads CUDA's libraries when the first of their functions is called.
//!
//! candle asks cudarc for its feature `dynamic-linking`, which excludes `dynamic-loading`, so a program with CUDA would
//! not start on a machine without a driver. This module does what `dynamic-loading` would do. `libraries.s` defines the
//! functions that cudarc and candle call, each as a jump through a pointer. The linker takes them instead of those in
//! the libraries, which are then not needed at the start. A pointer leads to [`resolve`] at first, and then to the
//! function in the library.
//!
//! candle's own kernels are compiled for CUDA's runtime and tell it of themselves before `main`; without the runtime
//! that does nothing.
//!
//! Functions that are not listed there are linked as before, and bring their library back as one that the program needs
//! at its start. The test below notices that.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use candle_core::cuda_backend::cudarc::driver::sys::CUDA_VERSION;
use candle_core::{Result, bail};

// The one operand is `resolve`; other braces in the file would be operands, too.
std::arch::global_asm!(include_str!("libraries.s"), resolve = sym resolve);

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}
const RTLD_NOW: c_int = 2;

/// A library of CUDA.
struct Library {
    /// What the names of its functions begin with, followed by a capital letter.
    prefix: &'static str,
    /// Its file, without the version.
    file: &'static str,
    /// The version in the name of its file.
    version: u32,
    /// Where it comes from.
    part_of: &'static str,
    /// What its functions return if the library is missing: its code for "not initialised".
    missing: extern "C" fn() -> c_int,
}

const MAJOR: u32 = CUDA_VERSION / 1000;

/// In the order in which a user would install them.
static LIBRARIES: [Library; 8] = [
    Library { prefix: "cu", file: "libcuda.so", version: 1, part_of: "NVIDIA's driver", missing: code::<3> },
    Library { prefix: "cublas", file: "libcublas.so", version: MAJOR, part_of: TOOLKIT, missing: code::<1> },
    Library { prefix: "cublasLt", file: "libcublasLt.so", version: MAJOR, part_of: TOOLKIT, missing: code::<1> },
    Library { prefix: "curand", file: "libcurand.so", version: 10, part_of: TOOLKIT, missing: code::<101> },
    Library { prefix: "nvrtc", file: "libnvrtc.so", version: MAJOR, part_of: TOOLKIT, missing: code::<11> },
    Library { prefix: "cuda", file: "libcudart.so", version: MAJOR, part_of: TOOLKIT, missing: code::<3> },
    Library { prefix: "cudnn", file: "libcudnn.so", version: 9, part_of: "cuDNN", missing: code::<1001> },
    Library { prefix: "nccl", file: "libnccl.so", version: 2, part_of: "NCCL", missing: code::<3> },
];
const TOOLKIT: &str = "the CUDA toolkit";

/// Their handles, or null.
static HANDLES: [OnceLock<Handle>; LIBRARIES.len()] = [const { OnceLock::new() }; LIBRARIES.len()];

struct Handle(*mut c_void);
// SAFETY: the loader's functions may be called with a handle on any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

extern "C" fn code<const CODE: c_int>() -> c_int {
    CODE
}

/// Instead of a function that returns a text.
extern "C" fn no_text() -> *const c_char {
    c"a library of CUDA is missing".as_ptr()
}

/// Loads the libraries that one card needs, except CUDA's runtime, of which nothing that we use needs more than its
/// start.
pub(crate) fn check() -> Result<()> {
    load(|prefix| !["cuda", "nccl"].contains(&prefix))
}

/// Loads NCCL, which only processes that train together on several cards need.
#[cfg(feature = "nccl")]
pub(crate) fn check_nccl() -> Result<()> {
    load(|prefix| prefix == "nccl")
}

fn load(is_needed: impl Fn(&str) -> bool) -> Result<()> {
    for (library, handle) in LIBRARIES.iter().zip(&HANDLES).filter(|(library, _)| is_needed(library.prefix)) {
        if handle.get_or_init(|| library.load()).0.is_null() {
            let Library { file, version, part_of, .. } = library;
            bail!(
                "{file}.{version}, a part of {part_of}, is not found; install it, or name its folder in LD_LIBRARY_PATH"
            );
        }
    }
    Ok(())
}

impl Library {
    fn load(&self) -> Handle {
        let name = PathBuf::from(format!("{}.{}", self.file, self.version));
        let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("lib").join(&name)));
        let installed = Path::new("/usr/local/cuda/lib64").join(&name);
        // the first is searched for where the system has its libraries
        let places = [Some(name), beside, Some(installed)];
        let handle = places.into_iter().flatten().find_map(|path| {
            let path = CString::new(path.into_os_string().into_encoded_bytes()).ok()?;
            // SAFETY: the path ends in a zero; the libraries are NVIDIA's, whose initialisation has no precondition.
            let handle = unsafe { dlopen(path.as_ptr(), RTLD_NOW) };
            (!handle.is_null()).then_some(handle)
        });
        Handle(handle.unwrap_or(std::ptr::null_mut()))
    }

    /// Whether a function of this name is in it, of all libraries.
    fn has(&self, function: &str) -> bool {
        let rest = function.trim_start_matches("__").strip_prefix(self.prefix);
        rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
            && !(self.prefix == "cublas" && function.starts_with("cublasLt"))
    }
}

/// What a function in `libraries.s` jumps through; its name follows in memory.
#[repr(C)]
struct Entry {
    function: AtomicPtr<c_void>,
    name: [c_char; 0],
}

/// Finds the function of an entry, and puts it into the entry if there is one.
unsafe extern "C" fn resolve(entry: *const Entry) -> *mut c_void {
    // SAFETY: libraries.s passes the address of an entry, which lives as long as the program and is followed by a name.
    let (entry, name) = unsafe { (&*entry, CStr::from_ptr((&raw const (*entry).name).cast())) };
    let text = name.to_str().unwrap_or_default();
    let Some(i) = LIBRARIES.iter().position(|library| library.has(text)) else { return no_text as *mut c_void };
    let (library, handle) = (&LIBRARIES[i], HANDLES[i].get_or_init(|| LIBRARIES[i].load()));
    if !handle.0.is_null() {
        // SAFETY: the handle is of an open library, and no library is ever closed.
        let function = unsafe { dlsym(handle.0, name.as_ptr()) };
        if !function.is_null() {
            entry.function.store(function, Ordering::Relaxed);
            return function;
        }
    }
    let returns_text = library.prefix != "cu" && (text.ends_with("String") || text.ends_with("Name"));
    if returns_text { no_text as *mut c_void } else { library.missing as *mut c_void }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_belongs_to_one_library() {
        let of = |name: &str| -> Vec<&str> {
            LIBRARIES.iter().filter(|library| library.has(name)).map(|library| library.prefix).collect()
        };
        let names = include_str!("libraries.s").lines().filter_map(|line| line.trim().strip_prefix("delayed "));
        let names: Vec<&str> = names.collect();
        assert!(names.len() > 100 && names.iter().all(|name| of(name).len() == 1));
        assert_eq!(of("cublasLtMatmul"), ["cublasLt"]);
        assert_eq!(of("cublasLoggerConfigure"), ["cublas"]);
        assert_eq!(of("__cudaRegisterFatBinary"), ["cuda"]);
    }

    /// Nothing of CUDA is loaded at the start, so a program with CUDA starts where there is none.
    #[test]
    fn no_library_is_needed_at_the_start() {
        let needed = std::process::Command::new("readelf").arg("-d").arg(std::env::current_exe().unwrap()).output();
        let Ok(needed) = needed else { return }; // binutils are not installed; the linker came with the compiler
        let needed = String::from_utf8_lossy(&needed.stdout).into_owned();
        assert!(needed.contains("libc.so"), "{needed}");
        let cuda: Vec<&str> = needed
            .lines()
            .filter(|line| line.contains("(NEEDED)") && ["libcu", "libnv"].iter().any(|name| line.contains(name)))
            .collect();
        assert!(cuda.is_empty(), "add the missing functions to libraries.s: {cuda:?}");
    }

    /// Where there is no driver, its functions say so instead of crashing.
    #[test]
    fn a_missing_function_returns_an_error() {
        use candle_core::cuda_backend::cudarc::driver;
        if check().is_err() && HANDLES[0].get().is_some_and(|handle| handle.0.is_null()) {
            let error = driver::result::init().unwrap_err();
            assert_eq!(error.0, driver::sys::CUresult::CUDA_ERROR_NOT_INITIALIZED);
            let said = crate::open_cuda(0).unwrap_err().to_string();
            assert!(said.contains("libcuda.so.1") && said.contains("driver"), "{said}");
        }
    }
}
