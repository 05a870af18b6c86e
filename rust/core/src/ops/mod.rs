//! The operators of a network around its weights: how activations lie in memory, and what moves and reduces them.
//!
//! An operator is built for one batch size and one pair of layouts, and then only runs.

pub mod cell;
pub mod depthwise;
pub mod elementwise;
pub mod features;
pub mod layout;
pub mod linear;
pub mod pointwise;
pub mod pool;
pub mod recurrent;
pub mod relayout;
pub mod sequence;
mod swept;
mod taps;
pub mod winograd;

pub use layout::{Layout, Shape};

use crate::executor::Executor;

/// One step of a network, built for fixed shapes and layouts.
pub trait Operator: Send + Sync {
    /// Reads `inputs` (one, or a second that is added), writes all of `output` that the layout defines; `scratch` holds
    /// [`Operator::scratch`] floats of any content.
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], scratch: &mut [f32]);

    /// Floats of scratch memory that a run needs.
    fn scratch(&self) -> usize {
        0
    }

    /// The kernel's name, for example `spmm_csr_f32_1x64__avx512`.
    fn kernel(&self) -> String;

    /// Memory of the packed weights, in bytes.
    fn nbytes(&self) -> usize {
        0
    }
}
