//! A recurrent layer at work, all steps of it: from its products with the input to its states.
//!
//! The products with the input are another node's, which has all steps at once; here is what depends on the step before. A step
//! multiplies the state by the recurrent weights, with any kernel of a Dense layer, and takes all gates in one pass.
//!
//! ```text
//! samples in rows   n, step, unit             the state is (n, unit): kernels for few samples
//! samples in lanes  panel, unit, step, 16·l   the state is (panel, unit, 16·l): kernels for panels
//! ```

use super::cell::{Cell, Kept, Lines, Step};
use super::linear::{Kernel, Linear};
use super::{Layout, Operator};
use crate::executor::Executor;
use crate::simd::{LANES, Target};

/// A recurrent layer behind its products with the input.
#[derive(Debug, Clone)]
pub struct Recurrent {
    /// What its units are.
    pub cell: Cell,
    /// The product with the state: (gates · units, units).
    pub product: Linear,
    /// Steps.
    pub steps: usize,
    /// Whether all states are the output, or the last one.
    pub sequences: bool,
    /// Whether it reads from the end.
    pub reverse: bool,
}

impl Recurrent {
    /// How many units.
    pub fn units(&self) -> usize {
        self.product.weights.columns()
    }

    /// The operator for a kernel of the product, `layout` being that of the input.
    pub fn build(&self, kernel: Kernel, layout: Layout, images: usize, target: Target) -> Box<dyn Operator> {
        let lanes = if let Layout::BatchInner { lines } = layout { Some(lines * LANES) } else { None };
        let inner = if lanes.is_some() { layout } else { Layout::RowMajor };
        Box::new(Recurrence {
            product: self.product.build(kernel, inner, inner, images, target),
            layer: Recurrent { product: self.product.without_weights(), ..*self },
            lanes,
            images,
            target,
        })
    }
}

struct Recurrence {
    layer: Recurrent,
    product: Box<dyn Operator>,
    /// Samples of a panel.
    lanes: Option<usize>,
    images: usize,
    target: Target,
}

impl Recurrence {
    /// Groups of samples that a step takes one after another, and the samples of one in memory.
    fn groups(&self) -> (usize, usize) {
        self.lanes.map_or((1, self.images), |lanes| (self.images.div_ceil(lanes), lanes))
    }

    /// Floats of the states, of the memories and of the products, whole registers each.
    fn sizes(&self) -> [usize; 3] {
        let (groups, samples) = self.groups();
        let states = (groups * samples * self.layer.units()).next_multiple_of(LANES);
        let memories = if self.layer.cell.has_memory() { states } else { 0 };
        let products = groups * samples * self.layer.units() * self.layer.cell.gates();
        [states, memories, products.next_multiple_of(LANES)]
    }
}

impl Operator for Recurrence {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], scratch: &mut [f32]) {
        let Recurrent { cell, steps, sequences, reverse, .. } = self.layer;
        let (units, gates) = (self.layer.units(), cell.gates());
        let (groups, samples) = self.groups();
        let in_lanes = self.lanes.is_some();
        let (runs, width) = if in_lanes { (units, samples) } else { (samples, units) };
        // Runs between those of one gate, and floats to the next gate's first one.
        let (between, gate) = if in_lanes { (1, units * samples) } else { (gates, units) };
        let size = samples * units;

        let [states, memories, products] = self.sizes();
        let (state, scratch) = scratch.split_at_mut(states);
        let (memory, scratch) = scratch.split_at_mut(memories);
        let (product, scratch) = scratch.split_at_mut(products);
        state.fill(0.0);
        memory.fill(0.0);
        let ids = inputs.get(1).filter(|ids| !ids.is_empty());
        let mut padding = vec![false; if ids.is_some() { samples } else { 0 }];
        for turn in 0..steps {
            let step = if reverse { steps - 1 - turn } else { turn };
            self.product.run(executor, &[&state[..groups * size]], &mut product[..groups * size * gates], scratch);
            for group in 0..groups {
                let skip = ids.map(|ids| {
                    let (first, apart) = if in_lanes { (step * samples, 1) } else { (step, steps) };
                    let ids = ids[group * steps * samples..][first..].iter().step_by(apart);
                    padding.iter_mut().zip(ids).for_each(|(skip, &id)| *skip = id == 0.0);
                    &padding[..]
                });
                let x = Lines {
                    start: step * between * width,
                    run: steps * between * width,
                    gate: if in_lanes { steps * gate } else { gate },
                };
                let u = Lines { start: 0, run: between * width, gate };
                let (apart, first) = if sequences { (steps * width, step * width) } else { (width, 0) };
                let own = Step {
                    cell,
                    runs: (runs, width),
                    samples: !in_lanes,
                    x: (&inputs[0][group * size * gates * steps..], x),
                    u: (&product[group * size * gates..], u),
                    skip: skip.filter(|skip| skip.contains(&true)),
                    blank: sequences,
                    apart,
                };
                let memory = memory.get_mut(group * size..).unwrap_or_default();
                let output = &mut output[group * runs * apart + first..];
                own.run(executor, self.target, &mut state[group * size..][..size], memory, output, Kept::default());
            }
        }
    }

    fn scratch(&self) -> usize {
        self.sizes().iter().sum::<usize>() + self.product.scratch()
    }

    fn kernel(&self) -> String {
        format!("{}+{}", self.product.kernel(), self.layer.cell.name())
    }

    fn nbytes(&self) -> usize {
        self.product.nbytes()
    }
}
