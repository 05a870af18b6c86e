//! Recurrent layers through time: all steps forward, keeping what the gradient needs, and all steps back.
//!
//! Arrays hold units in rows, then time, then the samples side by side: `(rows, steps, samples)`. So a product with weights takes
//! all steps at once where it can (the input's, and the gradients of the weights), and a step of the recurrence is some rows'
//! runs of samples.

use super::for_each_part;
use crate::executor::Executor;
use crate::formats::{Activation, Epilogue, PackedMatrix, dense};
use crate::ops::cell::{Cell, Kept, Lines, MOST, Step, bits};
use crate::simd::math::tanh;
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, dispatch};

/// The weights of the recurrence.
#[derive(Clone, Copy)]
pub enum Weights<'a> {
    /// (gates · units, units), row-major.
    Dense(&'a [f32]),
    /// Its nonzeros.
    Packed(&'a PackedMatrix),
}

/// The sizes of a recurrence.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// What its units are.
    pub cell: Cell,
    /// How many.
    pub units: usize,
    /// Steps.
    pub steps: usize,
    /// Samples.
    pub samples: usize,
}

impl Sizes {
    /// Floats of an array with `rows` rows a unit.
    pub fn len(&self, rows: usize) -> usize {
        rows * self.units * self.steps * self.samples
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.len(1) == 0
    }

    /// Floats from a row to the next.
    fn row(&self) -> usize {
        self.steps * self.samples
    }

    /// Where a step's runs are in an array of the gates.
    fn lines(&self, step: usize) -> Lines {
        Lines { start: step * self.samples, run: self.row(), gate: self.units * self.row() }
    }

    /// Rows of a task, and about the multiply-adds that all of them are worth.
    fn tasks(&self) -> (usize, usize) {
        (self.units.div_ceil(8).max(1), self.units * self.samples * self.cell.gates() * 16)
    }
}

/// What is known after the way forward.
#[derive(Clone, Copy)]
pub struct Forward<'a> {
    /// All gates after their activations.
    pub gates: &'a [f32],
    /// The states.
    pub states: &'a [f32],
    /// An LSTM's memories, a GRU's products of the last gate with the state.
    pub memory: &'a [f32],
}

/// Floats of [`Forward::memory`] a unit, step and sample.
pub fn remembered(cell: Cell) -> usize {
    usize::from(matches!(cell, Cell::Lstm | Cell::Gru))
}

/// From the products with the input, `x`, to `gates`, `states` and `memory`, which are as in [`Forward`]; `bias` is added to
/// the products with the state, and where `skip` (steps, samples) is true a sample's state stays as it is.
///
/// # Panics
/// Where a slice does not have its size: callers check shapes.
#[expect(clippy::too_many_arguments, reason = "the arrays of a recurrence")]
pub fn forward(
    executor: &dyn Executor,
    sizes: Sizes,
    weights: Weights<'_>,
    bias: Option<&[f32]>,
    x: &[f32],
    skip: Option<&[bool]>,
    gates: &mut [f32],
    states: &mut [f32],
    memory: &mut [f32],
) {
    let Sizes { cell, units, steps, samples } = sizes;
    let (row, target) = (sizes.row(), Target::detect());
    assert!(x.len() == sizes.len(cell.gates()) && gates.len() == x.len() && states.len() == sizes.len(1));
    assert!(memory.len() == sizes.len(remembered(cell)) && skip.is_none_or(|skip| skip.len() == row));
    if sizes.is_empty() {
        return;
    }
    let mut state = Buffer::zeroed(units * samples);
    let mut product = Buffer::zeroed(cell.gates() * units * samples);
    let mut second = Buffer::zeroed(if cell.has_memory() { units * samples } else { 0 });
    let own = Lines { start: 0, run: samples, gate: units * samples };
    for step in 0..steps {
        multiply(executor, weights, (cell.gates() * units, units, samples), &state, bias, &mut product);
        let at = step * samples;
        let kept = Kept {
            gates: gates.chunks_mut(units * row).map(|gate| &mut gate[at..]).collect(),
            memory: memory.get_mut(at..).unwrap_or_default(),
        };
        let skip = skip.map(|skip| &skip[at..][..samples]).filter(|skip| skip.contains(&true));
        let step = Step {
            cell,
            runs: (units, samples),
            samples: false,
            x: (x, sizes.lines(step)),
            u: (&product, own),
            skip,
            blank: false,
            apart: row,
        };
        step.run(executor, target, &mut state, &mut second, &mut states[at..], kept);
    }
}

/// `y = W · x + bias` for `(m, k, n)`; `x` is (k, n), `y` (m, n).
fn multiply(
    executor: &dyn Executor,
    weights: Weights<'_>,
    (m, k, n): (usize, usize, usize),
    x: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let epilogue = Epilogue::new(bias, Activation::None);
    match weights {
        Weights::Packed(matrix) => packed(matrix, executor, n, x, y, epilogue),
        Weights::Dense(weights) => {
            let view = dense::Matrix::row_major;
            dense::gemm(executor, (m, k, n), view(weights, k), view(x, n), 0.0, y);
            if bias.is_some() {
                epilogue.of_rows(Target::detect(), y, n);
            }
        }
    }
}

/// `y = Wᵀ · x + added` for `(m, k, n)`, of dense weights (k, m), or packed ones that are transposed already.
fn multiply_across(
    executor: &dyn Executor,
    weights: Weights<'_>,
    (m, k, n): (usize, usize, usize),
    x: &[f32],
    added: &[f32],
    y: &mut [f32],
) {
    match weights {
        Weights::Packed(matrix) => {
            packed(matrix, executor, n, x, y, Epilogue::default());
            y.iter_mut().zip(added).for_each(|(y, added)| *y += added);
        }
        Weights::Dense(weights) => {
            let view = dense::Matrix::row_major;
            y.copy_from_slice(added);
            dense::gemm(executor, (m, k, n), view(weights, m).transposed(), view(x, n), 1.0, y);
        }
    }
}

fn packed(matrix: &PackedMatrix, executor: &dyn Executor, n: usize, x: &[f32], y: &mut [f32], epilogue: Epilogue<'_>) {
    let fits = matrix.matmul(executor, n, x, y, epilogue);
    assert!(fits.is_ok(), "recurrence: the packed weights do not fit");
}

/// The gradient of the loss with respect to what came out of a recurrence.
#[derive(Clone, Copy)]
pub struct Outer<'a> {
    /// Of all states; what it says of padding counts for nothing.
    pub states: Option<&'a [f32]>,
    /// Of the last states, (units, samples).
    pub last: Option<&'a [f32]>,
}

/// From the gradient of the states to `dx`, that of the products with the input; `du` gets that of the last gate's products with
/// the state where this is another one, a GRU's. Packed weights are those of the transposed matrix.
///
/// # Panics
/// Where a slice does not have its size: callers check shapes.
#[expect(clippy::too_many_arguments, reason = "the arrays of a recurrence")]
pub fn backward(
    executor: &dyn Executor,
    sizes: Sizes,
    weights: Weights<'_>,
    known: Forward<'_>,
    skip: Option<&[bool]>,
    outer: Outer<'_>,
    dx: &mut [f32],
    du: &mut [f32],
) {
    let Sizes { cell, units, steps, samples } = sizes;
    let (row, target) = (sizes.row(), Target::detect());
    assert!(known.gates.len() == sizes.len(cell.gates()) && dx.len() == known.gates.len());
    assert!(known.states.len() == sizes.len(1) && known.memory.len() == sizes.len(remembered(cell)));
    assert!(du.len() == if cell == Cell::Gru { sizes.len(1) } else { 0 });
    assert!(outer.states.is_none_or(|dy| dy.len() == sizes.len(1)) && skip.is_none_or(|skip| skip.len() == row));
    if sizes.is_empty() {
        return;
    }
    let size = units * samples;
    let mut state = outer.last.map_or_else(|| Buffer::zeroed(size), Buffer::from_slice);
    let mut carried = Buffer::zeroed(size);
    let mut second = Buffer::zeroed(if cell.has_memory() { size } else { 0 });
    let mut gates = Buffer::zeroed(cell.gates() * size);
    let (part, work) = sizes.tasks();
    for step in (0..steps).rev() {
        let at = step * samples;
        let skip = skip.map(|skip| &skip[at..][..samples]).filter(|skip| skip.contains(&true));
        let mut dx: Vec<_> = dx.chunks_mut(units * row).map(|gate| gate.chunks_mut(part * row)).collect();
        let mut du = du.chunks_mut(part * row);
        let mut own: Vec<_> = gates.chunks_mut(size).map(|gate| gate.chunks_mut(part * samples)).collect();
        let mut second = second.chunks_mut(part * samples);
        let tasks = carried.chunks_mut(part * samples).enumerate();
        let tasks: Vec<_> = tasks
            .map(|(task, carried)| Back {
                sizes,
                step,
                units: (task * part, carried.len() / samples),
                known,
                outer: outer.states,
                skip,
                state: &state,
                carried,
                memory: second.next().unwrap_or_default(),
                dx: dx.iter_mut().filter_map(Iterator::next).map(|gate| &mut gate[at..]).collect(),
                du: du.next().map(|du| &mut du[at..]).unwrap_or_default(),
                own: own.iter_mut().filter_map(Iterator::next).collect(),
            })
            .collect();
        for_each_part(executor, work, tasks, |task| dispatch(target, task));
        if step > 0 {
            let shape = (units, cell.gates() * units, samples);
            multiply_across(executor, weights, shape, &gates, &carried, &mut state);
        }
    }
}

/// One step back, of some units.
struct Back<'a> {
    sizes: Sizes,
    step: usize,
    /// The first, and how many.
    units: (usize, usize),
    known: Forward<'a>,
    outer: Option<&'a [f32]>,
    skip: Option<&'a [bool]>,
    /// The gradient of the state after the step that comes from later ones; of all units.
    state: &'a [f32],
    /// That of the state before it, apart from the products.
    carried: &'a mut [f32],
    /// That of the memory, before and after.
    memory: &'a mut [f32],
    /// As in [`backward`]; a row's run is `steps · samples` floats from the next one's.
    dx: Vec<&'a mut [f32]>,
    du: &'a mut [f32],
    /// The gradient of the products with the state, of this step alone.
    own: Vec<&'a mut [f32]>,
}

impl Kernel for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        for unit in 0..self.units.1 {
            for from in (0..self.sizes.samples).step_by(LANES) {
                let lanes = (self.sizes.samples - from).min(LANES);
                self.lanes(v, unit, from, lanes);
            }
        }
    }
}

impl Back<'_> {
    #[inline(always)]
    fn lanes<V: Vector>(&mut self, v: V, unit: usize, from: usize, lanes: usize) {
        let Sizes { cell, units, samples, .. } = self.sizes;
        let (row, number) = (self.sizes.row(), self.units.0 + unit);
        let here = unit * samples + from;
        let now = number * row + self.step * samples + from;
        let (zero, one) = (v.splat(0.0), v.splat(1.0));
        let later = v.load_some(&self.state[number * samples + from..], lanes);
        let dh = match self.outer {
            Some(outer) => v.add(later, v.load_some(&outer[now..], lanes)),
            None => later,
        };
        let mut gates = [zero; MOST];
        for (gate, value) in gates.iter_mut().enumerate().take(cell.gates()) {
            *value = v.load_some(&self.known.gates[gate * units * row + now..], lanes);
        }
        let skipped = self.skip.map_or(0, |skip| bits(&skip[from..from + lanes]));
        let (mut slopes, mut product, mut carried, mut memory) = ([zero; MOST], zero, zero, zero);
        match cell {
            Cell::Tanh => slopes[0] = v.mul(dh, v.sub(one, v.mul(gates[0], gates[0]))),
            Cell::Relu => {
                // The gradient where the state is positive, 0 elsewhere.
                let positive = v.to_array(gates[0]).map(|h| if h > 0.0 { 1.0 } else { 0.0 });
                slopes[0] = v.mul(dh, v.with_lanes(positive));
            }
            Cell::Lstm => {
                let [i, f, g, o] = gates;
                let after = tanh(v, v.load_some(&self.known.memory[now..], lanes));
                let before = if self.step > 0 { v.load_some(&self.known.memory[now - samples..], lanes) } else { zero };
                let dc = v.mul(v.mul(dh, o), v.sub(one, v.mul(after, after)));
                let dc = v.add(dc, v.load_some(&self.memory[here..], lanes));
                slopes = [
                    v.mul(v.mul(dc, g), slope(v, i)),
                    v.mul(v.mul(dc, before), slope(v, f)),
                    v.mul(v.mul(dc, i), v.sub(one, v.mul(g, g))),
                    v.mul(v.mul(dh, after), slope(v, o)),
                ];
                memory = v.mul(dc, f);
            }
            Cell::Gru => {
                let [r, z, n, _] = gates;
                let before = if self.step > 0 { v.load_some(&self.known.states[now - samples..], lanes) } else { zero };
                let dn = v.mul(v.mul(dh, v.sub(one, z)), v.sub(one, v.mul(n, n)));
                let u = v.load_some(&self.known.memory[now..], lanes);
                slopes = [v.mul(v.mul(dn, u), slope(v, r)), v.mul(v.mul(dh, v.sub(before, n)), slope(v, z)), dn, zero];
                product = v.mul(dn, r);
                carried = v.mul(dh, z);
            }
        }
        // Padding passes everything on as it came.
        v.store_some(&mut self.carried[here..], later, lanes);
        v.store_but(&mut self.carried[here..], carried, lanes, skipped);
        if cell.has_memory() {
            v.store_but(&mut self.memory[here..], memory, lanes, skipped);
        }
        let there = unit * row + from;
        for (gate, (to, own)) in self.dx.iter_mut().zip(&mut self.own).enumerate() {
            let last = cell == Cell::Gru && gate == 2;
            let both =
                [(&mut to[there..], slopes[gate]), (&mut own[here..], if last { product } else { slopes[gate] })];
            for (to, slope) in both {
                v.store_some(to, zero, lanes);
                v.store_but(to, slope, lanes, skipped);
            }
        }
        if cell == Cell::Gru {
            v.store_some(&mut self.du[there..], zero, lanes);
            v.store_but(&mut self.du[there..], product, lanes, skipped);
        }
    }
}

/// The slope of a sigmoid whose value is `y`.
#[inline(always)]
fn slope<V: Vector>(v: V, y: V::F32) -> V::F32 {
    v.mul(y, v.sub(v.splat(1.0), y))
}
