//! What sequences meet besides recurrent layers: vectors for ids, and two outputs side by side.
//!
//! A sequence is an image of one column, its features the channels and its steps the rows, which lies channels-last: sample, step,
//! feature.

use super::{Layout, Operator, Shape};
use crate::executor::Executor;
use std::sync::Arc;

/// A row of a table for every id.
pub struct LookUp {
    /// (ids, features), row-major.
    pub table: Arc<[f32]>,
    /// Floats of a row.
    pub features: usize,
}

impl Operator for LookUp {
    fn run(&self, _executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        // Plans check ids before they run; what they time kernels with is anything.
        let last = (self.table.len() / self.features).saturating_sub(1);
        for (to, &id) in output.chunks_exact_mut(self.features).zip(inputs[0]) {
            to.copy_from_slice(&self.table[last.min(id as usize) * self.features..][..self.features]);
        }
    }

    fn kernel(&self) -> String {
        "look_up_f32".into()
    }

    fn nbytes(&self) -> usize {
        self.table.len() * 4
    }
}

/// Two inputs that lie alike, the channels of the second behind those of the first.
pub struct Concat {
    /// Shapes of the inputs; rows and columns are equal.
    pub shapes: (Shape, Shape),
    /// Layout of all three.
    pub layout: Layout,
    /// Images.
    pub images: usize,
}

impl Operator for Concat {
    fn run(&self, _executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        // Where channels are next to each other every pixel is a group of its own.
        let group = |shape: Shape| match self.layout {
            Layout::ChannelsLast => shape.c,
            layout => layout.strides(shape).group_step,
        };
        let (one, other) = (group(self.shapes.0), group(self.shapes.1));
        let inputs = inputs[0].chunks_exact(one.max(1)).zip(inputs[1].chunks_exact(other.max(1)));
        for (to, (a, b)) in output.chunks_exact_mut((one + other).max(1)).zip(inputs) {
            to[..one].copy_from_slice(a);
            to[one..].copy_from_slice(b);
        }
    }

    fn kernel(&self) -> String {
        "concat_f32".into()
    }
}

/// Some channels.
pub struct Slice {
    /// The first one.
    pub first: usize,
    /// Shapes of the input and the output.
    pub shapes: (Shape, Shape),
    /// Layout of the input; the output's is the same, or row-major where that is the same.
    pub layout: Layout,
    /// Images.
    pub images: usize,
}

impl Operator for Slice {
    fn run(&self, _executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let (input, taken) = self.shapes;
        let steps = self.layout.strides(input);
        // As for `Concat`: groups of all channels, and the floats of one of them.
        let (group, channel) = match self.layout {
            Layout::ChannelsLast => (input.c, 1),
            _ => (steps.group_step, steps.c),
        };
        let (from, len) = (self.first * channel, taken.c * channel);
        for (to, x) in output.chunks_exact_mut(len.max(1)).zip(inputs[0].chunks_exact(group.max(1))) {
            to.copy_from_slice(&x[from..from + len]);
        }
    }

    fn kernel(&self) -> String {
        "slice_f32".into()
    }
}
