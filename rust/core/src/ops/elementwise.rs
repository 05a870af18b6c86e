//! Activations, sums and per-channel scales, in place of nothing: they copy from one buffer to the next.

use super::{Layout, Operator, Shape};
use crate::executor::{Executor, for_each_chunk};
use crate::formats::{Activation, Epilogue};
use crate::simd::{Kernel, Target, Vector, dispatch};

/// An activation that no layer before it could fuse.
pub struct Activate {
    /// Which.
    pub activation: Activation,
    /// Floats.
    pub len: usize,
    /// CPU target.
    pub target: Target,
}

/// Floats in a task.
const CHUNK: usize = 1 << 14;

/// The sum of two inputs that lie alike, then an activation.
pub struct Add {
    /// Applied to the sum.
    pub activation: Activation,
    /// Floats.
    pub len: usize,
    /// CPU target.
    pub target: Target,
}

impl Add {
    /// Adds `other` to `one`, or else to what is in `sum` already, and applies the activation.
    pub(super) fn run(&self, executor: &dyn Executor, one: Option<&[f32]>, other: &[f32], sum: &mut [f32]) {
        let epilogue = Epilogue { residual: Some(other), ..Epilogue::new(None, self.activation) };
        for_each_chunk(executor, &mut sum[..self.len], CHUNK, &|index, sum| {
            let at = index * CHUNK;
            if let Some(one) = one {
                sum.copy_from_slice(&one[at..][..sum.len()]);
            }
            dispatch(self.target, Onto { epilogue, at, sum });
        });
    }
}

impl Operator for Add {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        Add::run(self, executor, Some(inputs[0]), inputs[1], output);
    }

    fn kernel(&self) -> String {
        format!("add_f32__{}", self.target.name())
    }
}

struct Onto<'a> {
    epilogue: Epilogue<'a>,
    at: usize,
    sum: &'a mut [f32],
}

impl Kernel for Onto<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        self.epilogue.of_sums(v, self.at, self.sum);
    }
}

impl Operator for Activate {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let input = inputs[0];
        for_each_chunk(executor, &mut output[..self.len], CHUNK, &|index, output| {
            output.copy_from_slice(&input[index * CHUNK..][..output.len()]);
            self.activation.of_slice(self.target, output);
        });
    }

    fn kernel(&self) -> String {
        format!("{}_f32__{}", self.activation.name(), self.target.name())
    }
}

/// y = x · scale + shift, one pair a channel: a batch normalization that no layer before it could fold.
pub struct Scale {
    /// One factor a channel.
    pub scale: Vec<f32>,
    /// One summand a channel.
    pub shift: Vec<f32>,
    /// Shape of an image.
    pub shape: Shape,
    /// Layout of the batch.
    pub layout: Layout,
    /// Images.
    pub images: usize,
}

impl Operator for Scale {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let input = inputs[0];
        let steps = self.layout.strides(self.shape);
        // Channels side by side repeat every `c` floats; else each channel is one run.
        let run = if steps.c == 1 { 1 } else { steps.c };
        let len = self.layout.len(self.shape, self.images);
        for_each_chunk(executor, &mut output[..len], steps.group_step, &|group, output| {
            let input = &input[group * steps.group_step..][..output.len()];
            for (at, (y, x)) in output.chunks_mut(run).zip(input.chunks(run)).enumerate() {
                let (scale, shift) = (self.scale[at % self.shape.c], self.shift[at % self.shape.c]);
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * scale + shift);
            }
        });
    }

    fn kernel(&self) -> String {
        "scale_f32".into()
    }
}
