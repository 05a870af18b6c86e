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
use crate::simd::math::{sigmoid, tanh};
use crate::simd::{Kernel, LANES, Vector};

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

/// What is kept of a step for the gradient, of the runs of a [`Step`]; runs are [`Step::apart`] floats from each other.
pub struct Kept<'a> {
    /// After their activations, one slice a gate.
    pub gates: Vec<&'a mut [f32]>,
    /// An LSTM's c', a GRU's u of the last gate; empty for others.
    pub memory: &'a mut [f32],
}

/// One step of some runs.
pub struct Step<'a> {
    /// The units.
    pub cell: Cell,
    /// Floats of a run.
    pub width: usize,
    /// The first of the runs, and how many; those of the slices below begin with it.
    pub runs: (usize, usize),
    /// The products with the input.
    pub x: (&'a [f32], Lines),
    /// The products with the state.
    pub u: (&'a [f32], Lines),
    /// Of the samples, whether this step is padding: such a sample's state stays. One a float of a run, or else one a run.
    pub skip: Option<&'a [bool]>,
    /// Whether runs are samples, and floats units.
    pub samples: bool,
    /// The state, run by run; before the step and after it.
    pub state: &'a mut [f32],
    /// The memory, if there is one.
    pub memory: &'a mut [f32],
    /// The state again, for the next layer.
    pub output: &'a mut [f32],
    /// From one run in `output`, and in what is kept, to the next.
    pub apart: usize,
    /// Whether the output of padding is 0, and not the state that stays.
    pub blank: bool,
    /// What is kept.
    pub kept: Option<Kept<'a>>,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        for run in 0..self.runs.1 {
            for from in (0..self.width).step_by(LANES) {
                let lanes = (self.width - from).min(LANES);
                self.lanes(v, run, from, lanes);
            }
        }
    }
}

impl Step<'_> {
    /// Up to 16 floats of a run.
    #[inline(always)]
    fn lanes<V: Vector>(&mut self, v: V, run: usize, from: usize, lanes: usize) {
        let number = self.runs.0 + run;
        let at = (number, from, lanes);
        let (here, there) = (run * self.width + from, run * self.apart + from);
        let before = v.load_some(&self.state[here..], lanes);
        let mut gates = [before; MOST];
        let mut kept = before;
        let after = match self.cell {
            Cell::Tanh => {
                gates[0] = tanh(v, self.sum(v, at, 0));
                gates[0]
            }
            Cell::Relu => {
                gates[0] = v.max(self.sum(v, at, 0), v.splat(0.0));
                gates[0]
            }
            Cell::Lstm => {
                gates = [
                    sigmoid(v, self.sum(v, at, 0)),
                    sigmoid(v, self.sum(v, at, 1)),
                    tanh(v, self.sum(v, at, 2)),
                    sigmoid(v, self.sum(v, at, 3)),
                ];
                let memory = v.load_some(&self.memory[here..], lanes);
                kept = v.mul_add(gates[1], memory, v.mul(gates[0], gates[2]));
                v.mul(gates[3], tanh(v, kept))
            }
            Cell::Gru => {
                let (r, z) = (sigmoid(v, self.sum(v, at, 0)), sigmoid(v, self.sum(v, at, 1)));
                kept = load(v, self.u, at, 2);
                let n = tanh(v, v.mul_add(r, kept, load(v, self.x, at, 2)));
                gates = [r, z, n, n];
                v.mul_add(z, v.sub(before, n), n)
            }
        };
        let stays = self.stays(number, from, lanes);
        v.store_but(&mut self.state[here..], after, lanes, stays);
        if self.cell.has_memory() {
            v.store_but(&mut self.memory[here..], kept, lanes, stays);
        }
        let state = v.load_some(&self.state[here..], lanes);
        let output = &mut self.output[there..];
        if self.blank && stays != 0 {
            v.store_some(output, v.splat(0.0), lanes);
            v.store_but(output, state, lanes, stays);
        } else {
            v.store_some(output, state, lanes);
        }
        if let Some(Kept { gates: to, memory }) = &mut self.kept {
            for (to, &gate) in to.iter_mut().zip(&gates) {
                v.store_some(&mut to[there..], gate, lanes);
            }
            if self.cell.has_memory() {
                kept = v.load_some(&self.memory[here..], lanes);
            }
            if !memory.is_empty() {
                v.store_some(&mut memory[there..], kept, lanes);
            }
        }
    }

    /// The sum of a gate's products.
    #[inline(always)]
    fn sum<V: Vector>(&self, v: V, at: (usize, usize, usize), gate: usize) -> V::F32 {
        v.add(load(v, self.x, at, gate), load(v, self.u, at, gate))
    }

    /// The lanes that are padding.
    #[inline(always)]
    fn stays(&self, run: usize, from: usize, lanes: usize) -> u16 {
        let Some(skip) = self.skip else { return 0 };
        if self.samples {
            return if skip[run] { u16::MAX } else { 0 };
        }
        skip[from..from + lanes].iter().enumerate().fold(0, |bits, (i, &skip)| bits | u16::from(skip) << i)
    }
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
