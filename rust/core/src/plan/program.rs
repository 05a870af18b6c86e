//! The steps of a network for one batch size, and the memory that they share.
//!
//! A step writes a *value*: an edge in a layout. It lives until the last step that reads it has run; then its buffer, a *slot*,
//! is another's. A chain needs two slots, which its steps read and write in turn; a residual connection a third.

use super::choose::{Choice, build, is_free, reads};
use super::graph::Graph;
use crate::executor::Executor;
use crate::ops::relayout::Relayout;
use crate::ops::{Layout, Operator};
use crate::simd::{Buffer, Target};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Where a value lives during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Input,
    Output,
    Slot(usize),
}

impl Place {
    fn slot(self) -> Option<usize> {
        if let Place::Slot(slot) = self { Some(slot) } else { None }
    }
}

/// One operator at work.
pub(super) struct Step {
    /// The node, or `None` for a relayout between nodes.
    pub node: Option<usize>,
    /// What runs.
    pub operator: Box<dyn Operator>,
    /// Layouts read and written.
    pub layouts: (Layout, Layout),
    /// The values that it reads: 0 is the network's input, n what step n - 1 writes.
    values: Vec<usize>,
    inputs: Vec<Place>,
    output: Place,
    /// Floats written.
    len: usize,
}

/// The steps for one batch size.
pub(super) struct Program {
    /// In running order.
    pub steps: Vec<Step>,
    /// Whether it runs on the calling thread alone, once that is known. Results do not depend on it.
    pub alone: OnceLock<bool>,
    slots: Vec<usize>,
    scratch: usize,
    spare: Mutex<Vec<Workspace>>,
}

/// The buffers of a run.
pub(super) struct Workspace {
    slots: Vec<Option<Buffer>>,
    scratch: Buffer,
}

impl Program {
    /// The program of these choices for a batch of `images`.
    pub fn new(graph: &Graph, choices: &[Choice], images: usize, target: Target) -> Program {
        let mut steps =
            Steps { graph, images, target, steps: Vec::new(), made: HashMap::new(), written: HashMap::new() };
        steps.wrote(Graph::INPUT, graph.outer(graph.input()), 0);
        for (at, (node, choice)) in graph.nodes().iter().zip(choices).enumerate() {
            let values: Vec<usize> = reads(node, choice).map(|(edge, layout)| steps.value(edge, layout)).collect();
            let value = if is_free(node, choice) {
                values[0]
            } else {
                let operator = build(graph, node, choice, images, target);
                let len = choice.output.buffer_len(graph.edge(node.output).shape, images);
                steps.push(Some(at), operator, values, len, (choice.input, choice.output))
            };
            steps.wrote(node.output, choice.output, value);
        }
        let outer = graph.outer(graph.output());
        let output = steps.value(graph.output_edge(), outer);
        if output == 0 || output != steps.steps.len() {
            steps.relayout(graph.output_edge(), outer);
        }
        let mut steps = steps.steps;
        let slots = assign(&mut steps);
        let scratch = steps.iter().map(|step| step.operator.scratch()).max().unwrap_or(0);
        Program { steps, alone: OnceLock::new(), slots, scratch, spare: Mutex::new(Vec::new()) }
    }

    /// Floats of the buffers of a run.
    pub fn activations(&self) -> usize {
        self.slots.iter().sum::<usize>() + self.scratch
    }

    /// Buffers for a run, with that much scratch memory at least.
    pub fn workspace(&self, scratch: usize) -> Workspace {
        let slots = self.slots.iter().map(|&len| Some(Buffer::zeroed(len))).collect();
        Workspace { slots, scratch: Buffer::zeroed(self.scratch.max(scratch)) }
    }

    /// All steps, from `x` to `y`.
    pub fn run(&self, executor: &dyn Executor, x: &[f32], y: &mut [f32]) {
        let spare = self.spare.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        let mut workspace = spare.unwrap_or_else(|| self.workspace(0));
        for step in &self.steps {
            step.run(executor, x, y, &mut workspace);
        }
        self.spare.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(workspace);
    }
}

/// Runs of a network on made-up inputs, to be timed.
pub(super) struct Trial {
    x: Buffer,
    y: Buffer,
}

impl Trial {
    /// Of this network, with so many images.
    pub fn new(graph: &Graph, images: usize) -> Trial {
        Trial { x: Buffer::zeroed(images * graph.input().len()), y: Buffer::zeroed(images * graph.output().len()) }
    }

    /// The fastest run of as many as there is time for, and at least of some.
    pub fn run(&mut self, program: &Program, executor: &dyn Executor, least: usize, time: Duration) -> Duration {
        let (end, mut best) = (Instant::now() + time, Duration::MAX);
        for turn in 1.. {
            let start = Instant::now();
            program.run(executor, &self.x, &mut self.y);
            best = best.min(start.elapsed());
            if turn >= least && Instant::now() > end {
                break;
            }
        }
        best
    }

    /// The fastest run of each, in so many turns of [`Trial::run`].
    pub fn in_turns(
        &mut self,
        runs: &[(&Program, &dyn Executor)],
        (turns, least): (usize, usize),
        time: Duration,
    ) -> Vec<Duration> {
        let mut best = vec![Duration::MAX; runs.len()];
        for _ in 0..turns {
            for (&(program, executor), best) in runs.iter().zip(&mut best) {
                *best = self.run(program, executor, least, time).min(*best);
            }
        }
        best
    }
}

impl Step {
    /// This step of a run from `x` to `y`, whose earlier ones have run in this workspace.
    pub fn run(&self, executor: &dyn Executor, x: &[f32], y: &mut [f32], workspace: &mut Workspace) {
        self.run_by(&*self.operator, executor, x, y, workspace);
    }

    /// [`Step::run`] by another operator for the same layouts.
    pub fn run_by(
        &self,
        operator: &dyn Operator,
        executor: &dyn Executor,
        x: &[f32],
        y: &mut [f32],
        workspace: &mut Workspace,
    ) {
        let Workspace { slots, scratch } = workspace;
        // The slot written is taken out while others are read.
        let mut taken = self.output.slot().and_then(|slot| slots[slot].take());
        let read = |place: &Place| place.slot().map_or(x, |slot| slots[slot].as_deref().unwrap_or(&[]));
        let output: &mut [f32] = match &mut taken {
            Some(buffer) => &mut buffer[..self.len],
            None => y,
        };
        match &self.inputs[..] {
            [one] => operator.run(executor, &[read(one)], output, scratch),
            [one, other] => operator.run(executor, &[read(one), read(other)], output, scratch),
            several => operator.run(executor, &several.iter().map(read).collect::<Vec<_>>(), output, scratch),
        }
        if let Some(slot) = self.output.slot() {
            slots[slot] = taken;
        }
    }
}

/// Steps as they are made.
struct Steps<'a> {
    graph: &'a Graph,
    images: usize,
    target: Target,
    steps: Vec<Step>,
    /// The value that holds an edge in a layout.
    made: HashMap<(usize, Layout), usize>,
    /// The layout in which an edge was written.
    written: HashMap<usize, Layout>,
}

impl Steps<'_> {
    /// Notes that a value is an edge.
    fn wrote(&mut self, edge: usize, layout: Layout, value: usize) {
        self.made.insert((edge, layout.canonical(self.graph.edge(edge).shape)), value);
        self.written.insert(edge, layout);
    }

    /// The value that holds an edge in that layout: an earlier one, or that of a relayout.
    fn value(&mut self, edge: usize, layout: Layout) -> usize {
        let key = (edge, layout.canonical(self.graph.edge(edge).shape));
        if let Some(&value) = self.made.get(&key) {
            return value;
        }
        let value = self.relayout(edge, layout);
        self.made.insert(key, value);
        value
    }

    /// A step that copies an edge into a layout.
    fn relayout(&mut self, edge: usize, to: Layout) -> usize {
        let (shape, from) = (self.graph.edge(edge).shape, self.written[&edge]);
        let value = self.made[&(edge, from.canonical(shape))];
        let relayout = Relayout::of_edge(shape, from, to, self.images, self.target);
        self.push(None, Box::new(relayout), vec![value], to.buffer_len(shape, self.images), (from, to))
    }

    fn push(
        &mut self,
        node: Option<usize>,
        operator: Box<dyn Operator>,
        values: Vec<usize>,
        len: usize,
        layouts: (Layout, Layout),
    ) -> usize {
        let (inputs, output) = (Vec::new(), Place::Output);
        self.steps.push(Step { node, operator, layouts, values, inputs, output, len });
        self.steps.len()
    }
}

/// Gives every value a place; returns the floats of the slots.
fn assign(steps: &mut [Step]) -> Vec<usize> {
    let mut last_read = vec![0; steps.len() + 1];
    for (at, step) in steps.iter().enumerate() {
        step.values.iter().for_each(|&value| last_read[value] = at);
    }
    let (mut slots, mut free): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut places = vec![Place::Input];
    let last = steps.len().wrapping_sub(1);
    for (at, step) in steps.iter_mut().enumerate() {
        step.inputs = step.values.iter().map(|&value| places[value]).collect();
        if at != last {
            step.output = Place::Slot(slot(&mut slots, &mut free, step.len));
        }
        places.push(step.output);
        let mut over: Vec<usize> = step.values.iter().copied().filter(|&value| last_read[value] == at).collect();
        if last_read[at + 1] <= at {
            over.push(at + 1); // nothing reads it
        }
        over.dedup();
        free.extend(over.into_iter().filter_map(|value| places[value].slot()));
    }
    slots
}

/// A slot for so many floats: the smallest free one that holds them, else the largest, made larger, else a new one.
fn slot(slots: &mut Vec<usize>, free: &mut Vec<usize>, len: usize) -> usize {
    let fits = |&(_, &slot): &(usize, &usize)| slots[slot] >= len;
    let found = free.iter().enumerate().filter(fits).min_by_key(|&(_, &slot)| slots[slot]);
    let found = found.or_else(|| free.iter().enumerate().max_by_key(|&(_, &slot)| slots[slot]));
    match found.map(|(at, _)| at) {
        Some(at) => {
            let slot = free.swap_remove(at);
            slots[slot] = slots[slot].max(len);
            slot
        }
        None => {
            slots.push(len);
            slots.len() - 1
        }
    }
}
