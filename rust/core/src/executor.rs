//! Who runs the tasks. The core never spawns a thread itself: every parallel stage takes `&dyn Executor`.
//!
//! However work is cut into tasks, every output element is written by one of them and summed in one order. That is why results
//! are bit-identical for any thread count.

#[cfg(target_os = "linux")]
mod placement;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Runs a fixed number of independent tasks.
pub trait Executor: Send + Sync {
    /// How many tasks can make progress at once (at least 1).
    fn threads(&self) -> usize;

    /// Calls `task(0) … task(tasks - 1)`, each exactly once, in any order, and returns when all are done.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));

    /// What was found out about waking these threads.
    fn waking(&self) -> &Waking;
}

/// From which length on a run was found to be worth waking threads for.
#[derive(Debug)]
pub struct Waking(AtomicU64);

impl Waking {
    /// Shorter runs are not told apart: one that was timed badly would decide for all.
    const LEAST: Duration = Duration::from_micros(20);

    /// Nothing is known.
    pub const fn unknown() -> Waking {
        Waking(AtomicU64::new(u64::MAX))
    }

    /// Whether anything is.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed) < u64::MAX
    }

    /// Notes that a run that takes one thread so long is.
    pub fn paid(&self, alone: Duration) {
        self.0.fetch_min(alone.max(Self::LEAST).as_nanos() as u64, Ordering::Relaxed);
    }

    /// Whether a run that takes one thread so long is known to be, about.
    pub fn pays(&self, alone: Duration) -> bool {
        alone.as_nanos() as u64 >= self.0.load(Ordering::Relaxed) / 4 * 3
    }
}

/// Runs every task on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequential;

impl Executor for Sequential {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }

    fn waking(&self) -> &Waking {
        static NEVER: Waking = Waking::unknown();
        &NEVER
    }
}

/// Calls `work` on every item, one task each, and returns the results in the order of the items. Items may hold `&mut`
/// slices: that is how tasks write to disjoint parts of one array without unsafe code.
pub fn map<T: Send, R: Send>(executor: &dyn Executor, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    if executor.threads() == 1 || items.len() <= 1 {
        return items.into_iter().map(work).collect();
    }
    let slots: Vec<Mutex<(Option<T>, Option<R>)>> =
        items.into_iter().map(|item| Mutex::new((Some(item), None))).collect();
    executor.run(slots.len(), &|i| {
        // Every slot belongs to one task, so the lock is never waited for.
        let mut slot = slots[i].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.1 = slot.0.take().map(&work);
    });
    let result =
        |slot: Mutex<(Option<T>, Option<R>)>| slot.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).1;
    slots.into_iter().filter_map(result).collect()
}

/// A private rayon pool, made at its first use and again after a fork (threads do not survive one).
///
/// The caller works too, with one thread less in the pool: it starts at once, and whoever wakes up later takes what is left.
/// Handing all work over would cost a wake-up there and one back before anything is done.
struct Pool {
    threads: usize,
    state: Mutex<Option<Arc<Started>>>,
    waking: Waking,
}

/// The threads of a [`Pool`] in one process.
struct Started {
    process: u32,
    pool: rayon::ThreadPool,
    #[cfg(target_os = "linux")]
    placement: Arc<placement::Placement>,
}

impl Started {
    fn new(threads: usize) -> Option<Started> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("secateur-{i}"));
        #[cfg(target_os = "linux")]
        let (placement, builder) = {
            let placement = Arc::new(placement::Placement::default());
            let started = placement.clone();
            (placement, builder.start_handler(move |_| started.add_current()))
        };
        Some(Started {
            process: std::process::id(),
            pool: builder.build().ok()?,
            #[cfg(target_os = "linux")]
            placement,
        })
    }
}

impl Pool {
    fn new(threads: usize) -> Self {
        Pool { threads, state: Mutex::new(None), waking: Waking::unknown() }
    }

    /// The pool, or `None` where the system will not give us threads: then the caller works alone.
    fn get(&self) -> Option<Arc<Started>> {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*state {
            Some(started) if started.process == std::process::id() => return Some(started.clone()),
            _ => {}
        }
        let started = Arc::new(Started::new(self.threads - 1)?);
        // A pool inherited through fork has no threads left: dropping it would wait for them for ever.
        if let Some(dead) = state.replace(started.clone()) {
            std::mem::forget(dead);
        }
        Some(started)
    }
}

impl Executor for Pool {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let Some(started) = (if tasks > 1 { self.get() } else { None }) else { return Sequential.run(tasks, task) };
        #[cfg(target_os = "linux")]
        started.placement.make_way();
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    break;
                }
                task(index);
            }
        };
        started.pool.in_place_scope(|scope| {
            for _ in 1..self.threads.min(tasks) {
                scope.spawn(|_| work());
            }
            work();
        });
    }

    fn waking(&self) -> &Waking {
        &self.waking
    }
}

/// Cuts `data` into chunks of `len` (at least 1) elements and calls `task(index, chunk)` for each, in parallel.
pub fn for_each_chunk<T: Send>(
    executor: &dyn Executor,
    data: &mut [T],
    len: usize,
    task: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    map(executor, data.chunks_mut(len.max(1)).enumerate().collect(), |(index, chunk)| task(index, chunk));
}

static CURRENT: Mutex<Option<Arc<dyn Executor>>> = Mutex::new(None);
static POOLS: Mutex<Vec<Arc<dyn Executor>>> = Mutex::new(Vec::new());

/// An executor with `threads` threads; the same pool for the same number.
pub fn with_threads(threads: usize) -> Arc<dyn Executor> {
    if threads <= 1 {
        return Arc::new(Sequential);
    }
    let mut pools = POOLS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(pool) = pools.iter().find(|pool| pool.threads() == threads) {
        return pool.clone();
    }
    let pool: Arc<dyn Executor> = Arc::new(Pool::new(threads));
    pools.push(pool.clone());
    pool
}

/// The executor of calls that name none: [`default_threads`] threads unless [`set_threads`] said otherwise.
pub fn current() -> Arc<dyn Executor> {
    let mut current = CURRENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    current.get_or_insert_with(|| with_threads(default_threads())).clone()
}

/// Sets the number of threads of [`current`].
pub fn set_threads(threads: usize) {
    *CURRENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(with_threads(threads));
}

/// The processors this process may use: its affinity mask and its cgroup quota, whichever is less.
pub fn default_threads() -> usize {
    // std reads both sched_getaffinity and the cgroup v1/v2 quota on Linux.
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let seen: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            with_threads(threads).run(seen.len(), &|i| {
                seen[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn map_writes_disjoint_slices_and_keeps_the_order() {
        for threads in [1, 2, 3, 8] {
            let mut numbers = [0; 100];
            let chunks: Vec<_> = numbers.chunks_mut(7).enumerate().collect();
            let sums = map(&*with_threads(threads), chunks, |(at, chunk)| {
                chunk.fill(at);
                at * chunk.len()
            });
            assert_eq!(sums, (0..15).map(|i| i * if i == 14 { 2 } else { 7 }).collect::<Vec<_>>());
            assert_eq!(numbers, std::array::from_fn(|i| i / 7));
        }
    }
}
