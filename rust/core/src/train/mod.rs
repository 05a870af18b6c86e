//! Training on the CPU: convolution, pooling and optimizer steps, forward and backward.
//!
//! Images are channels-last here, `[image][row][column][channel]`: a window's taps are then contiguous runs, the lanes of a
//! register are channels whatever the width of the image, and no copy such as im2col is needed. Every output element is
//! summed by one task in one order; sums over images are made per fixed group of images, and the groups are added in order.

pub mod conv;
pub mod optimizer;
pub mod pool;
mod tile;
pub mod window;

use crate::executor::{Executor, Sequential};
use std::sync::Mutex;

/// Multiply-adds (or, for passes without arithmetic, floats moved) below which waking another thread costs more than it
/// brings.
const WORTH_A_THREAD: usize = 1 << 17;

/// Cuts `out` into chunks of `size` and calls `task(i, chunk i)`, on the executor's threads where `work` is worth it.
fn for_each_chunk<T: Send>(
    executor: &dyn Executor,
    work: usize,
    out: &mut [T],
    size: usize,
    task: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    if out.is_empty() {
        return;
    }
    // Each task locks its own chunk only: the mutexes hand out exclusive slices, nobody ever waits.
    let chunks: Vec<_> = out.chunks_mut(size).map(Mutex::new).collect();
    let executor = if work < WORTH_A_THREAD { &Sequential } else { executor };
    executor.run(chunks.len(), &|i| {
        let mut chunk = chunks[i].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        task(i, &mut chunk);
    });
}
