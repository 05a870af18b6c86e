//! Operators timed in turns, on buffers of the sizes that they meet: once as the others leave the caches, and at once again.

use crate::executor::Executor;
use crate::ops::Operator;
use crate::simd::Buffer;
use std::time::{Duration, Instant};

/// The buffers of an operator; without a second input, that is empty.
#[derive(Clone, Copy)]
pub(super) struct Floats {
    pub inputs: [usize; 2],
    pub output: usize,
}

/// Microseconds of an operator, by what it finds in the caches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// Its weights, as far as they are there at all, have made room for those of others.
    pub cold: f64,
    /// It has just run.
    pub warm: f64,
}

impl Times {
    /// As long either way.
    pub fn both(us: f64) -> Times {
        Times { cold: us, warm: us }
    }

    /// The shorter of each.
    pub fn min(self, other: Times) -> Times {
        Times { cold: self.cold.min(other.cold), warm: self.warm.min(other.warm) }
    }

    /// Whether it was timed or estimated.
    pub fn is_finite(self) -> bool {
        self.cold.is_finite()
    }
}

/// Minimum times of each operator, run in turn for about `budget` in all with cold caches, and at most as long with warm ones, on
/// inputs of small numbers.
pub(super) fn race(operators: &[(&dyn Operator, Floats)], executor: &dyn Executor, budget: Duration) -> Vec<Times> {
    let longest = |of: fn(&Floats) -> usize| operators.iter().map(|(_, floats)| of(floats)).max().unwrap_or(0);
    let mut input = Buffer::zeroed(longest(|floats| floats.inputs[0]));
    input.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 17) as f32 * 0.125 - 1.0);
    // As ids, none of them padding.
    let mut other = Buffer::zeroed(longest(|floats| floats.inputs[1]));
    other.fill(1.0);
    let mut output = Buffer::zeroed(longest(|floats| floats.output));
    let mut scratch = Buffer::zeroed(operators.iter().map(|(operator, _)| operator.scratch()).max().unwrap_or(0));
    let mut once = |operator: &dyn Operator, floats: Floats, runs: u32| {
        let start = Instant::now();
        for _ in 0..runs {
            let inputs = [&input[..floats.inputs[0]], &other[..floats.inputs[1]]];
            operator.run(executor, &inputs, &mut output[..floats.output], &mut scratch);
        }
        start.elapsed().as_secs_f64() * 1e6 / runs as f64
    };
    // A round gives each its share of a slice; short kernels are repeated until the clock can see them.
    let slice = budget.as_secs_f64() * 1e6 / operators.len().max(1) as f64;
    let runs: Vec<u32> = operators
        .iter()
        .map(|&(operator, floats)| {
            once(operator, floats, 1);
            let first = once(operator, floats, 1);
            (20.0 / first.max(0.05)).clamp(1.0, 200.0) as u32
        })
        .collect();
    let mut best = vec![Times::both(f64::INFINITY); operators.len()];
    let mut spent = vec![0.0; operators.len()];
    for round in 0..50 {
        let mut ran = false;
        for (i, &(operator, floats)) in operators.iter().enumerate() {
            if round >= 3 && spent[i] >= slice {
                continue;
            }
            let cold = once(operator, floats, runs[i]);
            // What was repeated has met itself already.
            let warm = if runs[i] > 1 { cold } else { once(operator, floats, 1) };
            best[i] = best[i].min(Times { cold, warm });
            spent[i] += cold * runs[i] as f64;
            ran = true;
        }
        if !ran {
            break;
        }
    }
    best
}
