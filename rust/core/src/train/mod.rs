//! Training on the CPU: convolution, pooling and optimizer steps, forward and backward.
//!
//! Images are channels-last here, `[image][row][column][channel]`: a window's taps are then contiguous runs, the lanes of a
//! register are channels whatever the width of the image, and no copy such as im2col is needed. Every output element is
//! summed by one task in one order; sums over images are made per fixed group of images, and the groups are added in order.

pub mod conv;
mod depthwise;
pub mod grouped;
pub mod optimizer;
pub mod pool;
pub mod recurrent;
mod tile;
pub mod window;

use crate::executor::{self, Executor, Sequential};

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
    let executor = if work < WORTH_A_THREAD { &Sequential } else { executor };
    executor::for_each_chunk(executor, out, size, task);
}

/// Calls `task` on every part, on the executor's threads where `work` is worth it.
fn for_each_part<T: Send>(executor: &dyn Executor, work: usize, parts: Vec<T>, task: impl Fn(T) + Sync) {
    let executor = if work < WORTH_A_THREAD { &Sequential } else { executor };
    executor::map(executor, parts, task);
}
