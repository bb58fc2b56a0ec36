/// Asks the C library to keep freed memory for the next allocation instead of handing it back to the system.
///
/// A training step frees and allocates the same large buffers again and again; with glibc's defaults each is mapped
/// afresh, and the page faults of a 13 MB buffer cost several milliseconds. Call it once at the start of a program that
/// trains or samples. The price: memory once used stays with the process. Does nothing but on Linux with glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // glibc's malloc.h
        const M_TRIM_THRESHOLD: i32 = -1;
        const M_MMAP_THRESHOLD: i32 = -3;
        const MEBIBYTE: i32 = 1 << 20;
        unsafe extern "C" {
            fn mallopt(param: i32, value: i32) -> i32;
        }
        // SAFETY: mallopt takes two ints, locks the allocator itself and only changes thresholds. 32 MiB is the largest
        // threshold for mapping that glibc takes; larger tensors are mapped as before.
        unsafe {
            mallopt(M_MMAP_THRESHOLD, 32 * MEBIBYTE);
            mallopt(M_TRIM_THRESHOLD, 1024 * MEBIBYTE);
        }
    }
}
