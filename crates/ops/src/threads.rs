//! The threads that the kernels run on.

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use candle_core::{Result, bail};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::kernels::cpu::denormals::flush_on_this_thread;

/// Builds rayon's global pool, on which the kernels run, with `count` workers, or without a count with one for each
/// physical core that this process may use: what computes in vectors gains nothing from a core's second thread. Returns
/// how many. Call it once at the start of a program; no result depends on the number.
///
/// The workers are named `kakusan-N`, and take denormal numbers for zero for as long as they live: our kernels do so on
/// any thread, and so do candle's matrix products, which run on this pool. The parts of a large batch run on as many
/// further threads, `kakusan-part-N`; the workers wait meanwhile.
///
/// Not reached by it: candle's own threads for elementwise operations on 65,536 numbers or more, as many as
/// `CANDLE_NUM_THREADS` or else `RAYON_NUM_THREADS` says, or else the physical cores. candle reads that from the
/// environment alone, when it first needs them. They change no result, but wait for work by spinning for a moment,
/// which takes time from ours where `count` is far below the cores; set `CANDLE_NUM_THREADS` too to limit them.
///
/// # Errors
/// When the pool was built before with another number, and when the system gives no threads.
///
/// ```standalone_crate
/// use std::num::NonZeroUsize;
///
/// assert_eq!(kakusan_ops::use_threads(NonZeroUsize::new(3)).unwrap(), 3);
/// assert_eq!(rayon::current_num_threads(), 3);
/// assert!(kakusan_ops::use_threads(NonZeroUsize::new(2)).is_err());
/// ```
pub fn use_threads(count: Option<NonZeroUsize>) -> Result<usize> {
    let count = count.map_or_else(usable_cores, NonZeroUsize::get);
    let pool = ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(|number| format!("kakusan-{number}"))
        .start_handler(|_| flush_on_this_thread());
    match pool.build_global() {
        Ok(()) => Ok(count),
        Err(error) => match error.source() {
            Some(cause) => bail!("{count} threads cannot be started: {cause}"),
            // without a cause: there is a pool
            None if rayon::current_num_threads() == count => Ok(count),
            None => bail!("{} threads are at work already, {count} cannot be had", rayon::current_num_threads()),
        },
    }
}

/// Threads for each of so many processes that compute at the same time on this machine: its share of the physical
/// cores, or as many as the process may use. A launcher that binds its processes to cores has divided them already.
pub fn share_of_cores(processes: usize) -> NonZeroUsize {
    let share = num_cpus::get_physical() / processes.max(1);
    NonZeroUsize::new(share.min(usable_cores())).unwrap_or(NonZeroUsize::MIN)
}

/// The physical cores, or as many as a container or an affinity mask leaves.
fn usable_cores() -> usize {
    let usable = thread::available_parallelism().map_or(usize::MAX, NonZeroUsize::get);
    num_cpus::get_physical().min(usable).max(1)
}

/// The threads on which parts of a batch run, each a rayon pool: a kernel there finds one thread and stays on it, and
/// no other call's work is taken up.
static PART_THREADS: Mutex<Vec<Arc<ThreadPool>>> = Mutex::new(Vec::new());

/// Runs `worker` on `count` of those threads at once.
pub(crate) fn on_part_threads(count: usize, worker: &(impl Fn() + Sync)) -> Result<()> {
    let threads = {
        let mut threads = PART_THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        while threads.len() < count {
            let number = threads.len();
            let pool = ThreadPoolBuilder::new().num_threads(1).thread_name(move |_| format!("kakusan-part-{number}"));
            match pool.build() {
                Ok(pool) => threads.push(Arc::new(pool)),
                Err(_) if number > 0 => break,
                Err(error) => bail!("no thread can be started: {error}"),
            }
        }
        threads[..count.min(threads.len())].to_vec()
    };
    on_each(&threads, worker);
    Ok(())
}

fn on_each(threads: &[Arc<ThreadPool>], worker: &(impl Fn() + Sync)) {
    if let [first, others @ ..] = threads {
        first.in_place_scope(|scope| {
            scope.spawn(|_| worker());
            on_each(others, worker);
        });
    }
}
