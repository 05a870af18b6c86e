//! Keeps a pool's threads off the processor of whoever calls it.
//!
//! Linux likes to put a thread that is woken where its waker runs. For work that is shared that is the one wrong place: the
//! caller keeps computing, and until the scheduler's next balancing, milliseconds later, the woken thread waits for it. So the
//! threads are barred from that processor before they are woken; that is one system call a thread, and only after the
//! caller has moved.

use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};
use std::sync::Mutex;

/// Where a pool's threads may run.
#[derive(Default)]
pub struct Placement(Mutex<State>);

#[derive(Default)]
struct State {
    threads: Vec<Pid>,
    /// The processor that they were last barred from.
    barred: Option<usize>,
}

impl Placement {
    /// The calling thread is one of the pool's.
    pub fn add_current(&self) {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.threads.push(gettid());
        state.barred = None;
    }

    /// Bars the pool's threads from the caller's processor, unless it is the only one that the caller may use.
    pub fn make_way(&self) {
        let here = sched_getcpu();
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.barred == Some(here) {
            return;
        }
        state.barred = Some(here);
        let Ok(mut allowed) = sched_getaffinity(None) else { return };
        if here >= CpuSet::MAX_CPU || allowed.count() < 2 {
            return;
        }
        allowed.unset(here);
        for &thread in &state.threads {
            // A hint: where the system refuses it, threads run as they would have.
            let _ = sched_setaffinity(Some(thread), &allowed);
        }
    }
}
