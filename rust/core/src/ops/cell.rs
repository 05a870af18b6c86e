//! One step of a recurrent layer: from the products with the input and with the state before to the state after, all gates in
//! one pass.
//!
//! Both products have one row of numbers a gate and unit. Numbers lie in *runs*, whatever the layout: those of one unit, samples
//! side by side, or those of one sample, units side by side. A step is the same for both.
//!
//! ```text
//! tanh, relu   h' = f(x + u)
//! lstm         i, f, o = σ(x + u), g = tanh(x + u);  c' = f·c + i·g,  h' = o·tanh(c')        gates in the order i f g o
//! gru          r, z = σ(x + u), n = tanh(x + r·u);   h' = n + z·(h − n)                      gates in the order r z n
//! ```
//!
//! x = W·input + b and u = U·h (+ b'). Orders and the GRU's r·u are those of PyTorch; ONNX calls the latter
//! `linear_before_reset`.

use crate::argument;
use crate::error::Result;
use crate::executor::{self, Executor};
use crate::simd::math::{sigmoid, tanh};
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};

/// What a recurrent layer's units are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// A hyperbolic tangent (Elman 1990).
    Tanh,
    /// The same with max(x, 0).
    Relu,
    /// Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000).
    Lstm,
    /// Gated recurrent units (Cho et al., 1406.1078).
    Gru,
}

impl Cell {
    /// The names that [`Cell::parse`] knows.
    pub const NAMES: [&'static str; 4] = ["gru", "lstm", "relu", "tanh"];

    /// The cell of that name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn parse(name: &str) -> Result<Cell> {
        match name {
            "tanh" => Ok(Cell::Tanh),
            "relu" => Ok(Cell::Relu),
            "lstm" => Ok(Cell::Lstm),
            "gru" => Ok(Cell::Gru),
            _ => Err(argument!("cell: unknown name {name:?}; choose from {}", Cell::NAMES.join(", "))),
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Cell::Tanh => "tanh",
            Cell::Relu => "relu",
            Cell::Lstm => "lstm",
            Cell::Gru => "gru",
        }
    }

    /// Rows a unit of both matrices.
    pub fn gates(self) -> usize {
        match self {
            Cell::Tanh | Cell::Relu => 1,
            Cell::Gru => 3,
            Cell::Lstm => 4,
        }
    }

    /// Whether units have a second number beside their state: an LSTM's c.
    pub fn has_memory(self) -> bool {
        self == Cell::Lstm
    }
}

/// At most so many gates.
pub(crate) const MOST: usize = 4;

/// Where the runs of a product are.
#[derive(Debug, Clone, Copy)]
pub struct Lines {
    /// The first run of the first gate.
    pub start: usize,
    /// From a run to the next.
    pub run: usize,
    /// From a gate to the next.
    pub gate: usize,
}

impl Lines {
    /// Where a run of a gate begins.
    #[inline(always)]
    pub fn at(&self, gate: usize, run: usize) -> usize {
        self.start + gate * self.gate + run * self.run
    }
}

/// One step of a recurrence, and where its numbers are. Runs of the state and the memory follow each other.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// The units.
    pub cell: Cell,
    /// How many runs, and the floats of one.
    pub runs: (usize, usize),
    /// Whether runs are samples, and their floats units; else it is the other way round.
    pub samples: bool,
    /// The products with the input.
    pub x: (&'a [f32], Lines),
    /// The products with the state.
    pub u: (&'a [f32], Lines),
    /// Of the samples, whether this step is padding: the state stays.
    pub skip: Option<&'a [bool]>,
    /// Whether the output of padding is 0, and not the state that stays.
    pub blank: bool,
    /// From one run in the output, and in what is kept, to the next.
    pub apart: usize,
}

/// What is kept of a step for the gradient.
#[derive(Default)]
pub struct Kept<'a> {
    /// After their activations, one slice a gate.
    pub gates: Vec<&'a mut [f32]>,
    /// An LSTM's c', a GRU's u of the last gate; empty for others.
    pub memory: &'a mut [f32],
}

/// Floats of all gates below which a step is not worth waking other threads for.
const SMALL: usize = 1 << 16;

impl Step<'_> {
    /// From the state and the memory before the step to those after it; `output` gets the state as well.
    pub fn run(
        &self,
        executor: &dyn Executor,
        target: Target,
        state: &mut [f32],
        memory: &mut [f32],
        output: &mut [f32],
        kept: Kept<'_>,
    ) {
        let (runs, width) = self.runs;
        if runs * width * self.cell.gates() < SMALL || executor.threads() == 1 {
            return dispatch(target, Part { step: self, first: 0, state, memory, output, kept });
        }
        let part = runs.div_ceil(8);
        let mut memory = memory.chunks_mut(part * width);
        let mut gates: Vec<_> = kept.gates.into_iter().map(|gate| gate.chunks_mut(part * self.apart)).collect();
        let mut remembered = kept.memory.chunks_mut(part * self.apart);
        let outputs = output.chunks_mut(part * self.apart);
        let parts = state.chunks_mut(part * width).zip(outputs).enumerate().map(|(task, (state, output))| Part {
            step: self,
            first: task * part,
            state,
            memory: memory.next().unwrap_or_default(),
            output,
            kept: Kept {
                gates: gates.iter_mut().filter_map(Iterator::next).collect(),
                memory: remembered.next().unwrap_or_default(),
            },
        });
        executor::map(executor, parts.collect(), |part| dispatch(target, part));
    }
}

/// Some runs of a step, and theirs of all slices.
struct Part<'a> {
    step: &'a Step<'a>,
    first: usize,
    state: &'a mut [f32],
    memory: &'a mut [f32],
    output: &'a mut [f32],
    kept: Kept<'a>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let width = self.step.runs.1;
        for run in 0..self.state.len() / width.max(1) {
            for from in (0..width).step_by(LANES) {
                let lanes = (width - from).min(LANES);
                self.lanes(v, run, from, lanes);
            }
        }
    }
}

impl Part<'_> {
    /// Up to 16 floats of a run.
    #[inline(always)]
    fn lanes<V: Vector>(&mut self, v: V, run: usize, from: usize, lanes: usize) {
        let Step { cell, x, u, .. } = *self.step;
        let number = self.first + run;
        let at = (number, from, lanes);
        let (here, there) = (run * self.step.runs.1 + from, run * self.step.apart + from);
        let before = v.load_some(&self.state[here..], lanes);
        let mut gates = [before; MOST];
        let mut kept = before;
        let after = match cell {
            Cell::Tanh => {
                gates[0] = tanh(v, sum(v, [x, u], at, 0));
                gates[0]
            }
            Cell::Relu => {
                gates[0] = v.max(v.splat(0.0), sum(v, [x, u], at, 0));
                gates[0]
            }
            Cell::Lstm => {
                gates = [
                    sigmoid(v, sum(v, [x, u], at, 0)),
                    sigmoid(v, sum(v, [x, u], at, 1)),
                    tanh(v, sum(v, [x, u], at, 2)),
                    sigmoid(v, sum(v, [x, u], at, 3)),
                ];
                let memory = v.load_some(&self.memory[here..], lanes);
                kept = v.mul_add(gates[1], memory, v.mul(gates[0], gates[2]));
                v.mul(gates[3], tanh(v, kept))
            }
            Cell::Gru => {
                let (r, z) = (sigmoid(v, sum(v, [x, u], at, 0)), sigmoid(v, sum(v, [x, u], at, 1)));
                kept = load(v, u, at, 2);
                let n = tanh(v, v.mul_add(r, kept, load(v, x, at, 2)));
                gates = [r, z, n, n];
                v.mul_add(z, v.sub(before, n), n)
            }
        };
        let stays = self.stays(number, from, lanes);
        v.store_but(&mut self.state[here..], after, lanes, stays);
        if cell.has_memory() {
            v.store_but(&mut self.memory[here..], kept, lanes, stays);
        }
        let state = v.load_some(&self.state[here..], lanes);
        let output = &mut self.output[there..];
        if self.step.blank && stays != 0 {
            v.store_some(output, v.splat(0.0), lanes);
            v.store_but(output, state, lanes, stays);
        } else {
            v.store_some(output, state, lanes);
        }
        for (to, &gate) in self.kept.gates.iter_mut().zip(&gates) {
            v.store_some(&mut to[there..], gate, lanes);
        }
        if !self.kept.memory.is_empty() {
            if cell.has_memory() {
                kept = v.load_some(&self.memory[here..], lanes);
            }
            v.store_some(&mut self.kept.memory[there..], kept, lanes);
        }
    }

    /// The lanes that are padding.
    #[inline(always)]
    fn stays(&self, run: usize, from: usize, lanes: usize) -> u16 {
        let Some(skip) = self.step.skip else { return 0 };
        if self.step.samples {
            return if skip[run] { u16::MAX } else { 0 };
        }
        bits(&skip[from..from + lanes])
    }
}

/// Up to 16 flags, the first in the lowest bit.
#[inline(always)]
pub(crate) fn bits(flags: &[bool]) -> u16 {
    flags.iter().enumerate().fold(0, |bits, (i, &flag)| bits | u16::from(flag) << i)
}

/// Of a gate's run, `lanes` floats from `from` on.
#[inline(always)]
fn load<V: Vector>(
    v: V,
    (data, lines): (&[f32], Lines),
    (run, from, lanes): (usize, usize, usize),
    gate: usize,
) -> V::F32 {
    v.load_some(&data[lines.at(gate, run) + from..], lanes)
}

/// The sum of a gate's products.
#[inline(always)]
fn sum<V: Vector>(v: V, [x, u]: [(&[f32], Lines); 2], at: (usize, usize, usize), gate: usize) -> V::F32 {
    v.add(load(v, x, at, gate), load(v, u, at, gate))
}
