//! ONNX Runtime's own threads as an executor. Threads of ours beside its spinning workers would cost both sides half their time.

use crate::host::Host;
use ort_sys::OrtKernelContext;
use secateur_core::executor::{Executor, Sequential, Waking, default_threads};
use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The threads of a session, for the length of one call.
pub struct Pool {
    host: Host,
    context: *const OrtKernelContext,
    threads: usize,
}

// SAFETY: ONNX Runtime lets any thread use a kernel's context while the kernel runs, and a pool lives no longer.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// The threads behind a context, of which there are so many.
    pub fn new(host: Host, context: *const OrtKernelContext, threads: usize) -> Pool {
        Pool { host, context, threads }
    }
}

/// How many threads a session has, as far as it was found out. No function says it, so they are counted: each task waits for
/// the others to come, and as many as are there at once are threads. Results do not depend on it, only how work is cut.
#[derive(Default)]
pub struct Count {
    threads: AtomicUsize,
    calls: AtomicUsize,
}

/// How long threads may take to turn up: a sleeping one needs a fifth of it.
const PATIENCE: Duration = Duration::from_micros(500);

impl Count {
    /// The threads behind a context of this session. Threads that sleep, or have no processor at the moment, are missed: until
    /// there are as many as processors, calls 1, 2, 4, 8 and so on count again.
    pub fn of(&self, host: Host, context: *const OrtKernelContext) -> usize {
        let known = self.threads.load(Ordering::Relaxed).max(1);
        if !(self.calls.fetch_add(1, Ordering::Relaxed) + 1).is_power_of_two() {
            return known;
        }
        let most = default_threads();
        if known >= most {
            return known;
        }
        let (here, found) = (AtomicUsize::new(0), AtomicUsize::new(1));
        let deadline = Instant::now() + PATIENCE;
        Pool::new(host, context, most).run(most, &|_| {
            found.fetch_max(here.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
            while found.load(Ordering::Acquire) < most && Instant::now() < deadline {
                std::hint::spin_loop();
            }
            here.fetch_sub(1, Ordering::AcqRel);
        });
        let found = found.into_inner();
        self.threads.fetch_max(found, Ordering::Relaxed).max(found)
    }
}

/// What the tasks of a run share.
struct Shared<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Executor for Pool {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.threads == 1 || tasks <= 1 {
            return Sequential.run(tasks, task);
        }
        unsafe extern "C" fn call(shared: *mut c_void, index: usize) {
            // SAFETY: `run` passes it, and waits until all tasks are done.
            let shared = unsafe { &*shared.cast::<Shared>() };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (shared.task)(index))) {
                shared.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(panic);
            }
        }
        let shared = Shared { task, panic: Mutex::new(None) };
        let data = (&raw const shared).cast_mut().cast();
        // SAFETY: `call` does not unwind and takes `shared`, which outlives the call and may be used from any thread.
        let done = unsafe { self.host.parallel_for(self.context, tasks, call, data) };
        if let Some(panic) = shared.panic.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            resume_unwind(panic);
        }
        // An executor cannot fail, and which tasks ran is unknown: the call as a whole fails, in `Host::guard`.
        assert!(done.is_ok(), "ONNX Runtime did not run the tasks of a kernel");
    }

    fn waking(&self) -> &Waking {
        // Of all sessions: what it costs to wake a thread is about the same for all.
        static WAKING: Waking = Waking::unknown();
        &WAKING
    }
}
