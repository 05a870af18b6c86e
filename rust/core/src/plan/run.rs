//! A compiled network: programs for the batch sizes it meets, buffers that calls reuse, and what it can tell of itself.

use super::build::fuse;
use super::choose::{Choice, Choices, Costs, can_become, candidates, lying, reads, weighed};
use super::graph::{Axes, Edge, Graph, Node, Op};
use super::program::{Program, Trial};
use super::settle::{fastest, settle};
use crate::argument;
use crate::error::Result;
use crate::executor::{Executor, Sequential};
use crate::ops::Shape;
use crate::ops::cell::Cell;
use crate::simd::{Buffer, Target, peak_flops};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What one step does and costs.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// The layer's name, or `relayout`.
    pub name: String,
    /// The operator's name.
    pub op: &'static str,
    /// Kernel.
    pub kernel: String,
    /// Format of the weights; empty without weights.
    pub format: &'static str,
    /// Nonzero share of the weights; 1 without.
    pub density: f64,
    /// Layouts read and written.
    pub layouts: (String, String),
    /// Microseconds, this step alone.
    pub us: f64,
    /// With weights: microseconds of this node with its relayouts, and of the best dense kernel in its place.
    pub against_dense: Option<(f64, f64)>,
    /// Nonzero multiply-adds a second over the peak that this CPU reaches in registers.
    pub roofline: f64,
    /// Multiply-adds with nonzero weights, and with all.
    pub macs: (usize, usize),
    /// Bytes of packed weights.
    pub nbytes: usize,
}

/// Time of a turn, and turns of either side, to find out whether threads pay.
const TRIAL: Duration = Duration::from_millis(10);
const TRIALS: usize = 2;
/// Runs of a short look.
const SHORT: usize = 3;
/// Multiply-adds of a program that takes so long that waking threads is nothing to it.
const LONG: usize = 50_000_000;
/// Threads must be faster by this much to be woken: there is other work that they could do.
const WORTHWHILE: f64 = 1.1;

/// Images that a run takes at a time, where none of the batch sizes compiled for is larger.
const SLICE: usize = 128;
/// Floats of an edge that they may take: a long sequence's products with all gates are many.
const SLICE_FLOATS: usize = 1 << 24;

/// Floats of an edge, of all images that a plan is compiled for.
const MOST_FLOATS: usize = 1 << 34;

/// Programs kept for batch sizes that were not compiled for.
const KEPT: usize = 16;

/// A compiled network.
pub struct Plan {
    graph: Graph,
    target: Target,
    executor: Arc<dyn Executor>,
    choices: Mutex<BTreeMap<usize, Vec<Choice>>>,
    programs: Mutex<HashMap<usize, Arc<Program>>>,
    /// The largest batch size that threads were found not to pay for, and the smallest that they were.
    paying: Mutex<(usize, usize)>,
    /// What [`Graph::ids`] says.
    ids: Vec<(Range<usize>, usize)>,
    /// Images that a run takes at a time at least, where there are so many.
    slice: usize,
}

/// No batch size is known to be better off alone, and none to be worth threads.
const UNKNOWN: (usize, usize) = (0, usize::MAX);

/// Timing budget of a node.
const BUDGET: Duration = Duration::from_millis(50);

impl Plan {
    /// Compiles for these batch sizes, and packs the weights for them; runs of other sizes share what they can of that.
    /// Choices that are given are taken as they are; the rest are timed, or taken from the cost model where `timed` is false.
    ///
    /// # Errors
    /// No batch size, or choices that do not fit the graph.
    pub fn new(
        mut graph: Graph,
        batches: &[usize],
        target: Target,
        executor: Arc<dyn Executor>,
        given: &BTreeMap<usize, Choices>,
        timed: bool,
    ) -> Result<Plan> {
        if batches.is_empty() || batches.contains(&0) {
            return Err(argument!("batch: expected one or more positive sizes, got {batches:?}"));
        }
        fuse(&mut graph)?;
        let edges = graph.nodes().iter().map(|node| node.output).chain([Graph::INPUT]);
        let longest = edges.map(|edge| graph.edge(edge).shape.len()).max();
        let most = MOST_FLOATS / longest.unwrap_or(1).max(1);
        if let Some(batch) = batches.iter().find(|&&batch| batch > most) {
            return Err(argument!("batch: expected at most {most} samples of this network, got {batch}"));
        }
        let plan = Plan {
            ids: graph.ids(),
            slice: (SLICE_FLOATS / longest.unwrap_or(1).max(1)).clamp(1, SLICE),
            graph,
            target,
            executor,
            choices: Mutex::new(BTreeMap::new()),
            programs: Mutex::new(HashMap::new()),
            paying: Mutex::new(UNKNOWN),
        };
        for &batch in batches {
            let choices = match given.get(&batch) {
                Some(choices) => plan.checked(batch, choices)?,
                None => plan.chosen(batch, timed),
            };
            lock(&plan.choices).insert(batch, choices);
            plan.program(batch);
        }
        Ok(plan)
    }

    fn chosen(&self, batch: usize, timed: bool) -> Vec<Choice> {
        let choose = |timing: Option<(&dyn Executor, Duration)>| {
            let mut costs = Costs::new(&self.graph, batch, self.target, timing);
            let warm = costs.choose(|choice, times| weighed(choice, times.warm));
            let Some((executor, budget)) = timing else { return warm };
            let cold = costs.choose(|choice, times| weighed(choice, times.cold));
            let dense = costs.choose(|choice, times| if choice.is_dense() { times.warm } else { f64::INFINITY });
            let ran = (batch, self.target);
            // Between two calls there is other work: what suffers least from that comes first.
            let choices = fastest(&self.graph, vec![cold, warm, dense], ran, executor, budget);
            let rivals = costs.rivals(&choices);
            settle(&self.graph, choices, &rivals, ran, executor, budget)
        };
        if !timed {
            return choose(None);
        }
        if self.threads() == 1 {
            return choose(Some((&Sequential, BUDGET)));
        }
        // What is fastest with all threads need not be when the caller is better off alone.
        let together = choose(Some((&*self.executor, BUDGET / 2)));
        let alone = choose(Some((&Sequential, BUDGET / 2)));
        let program = |choices: &[Choice]| Program::new(&self.graph, choices, batch, self.target);
        let (shared, own) = (program(&together), program(&alone));
        if self.threads_pay(&*self.executor, batch, &shared, &own) { together } else { alone }
    }

    /// Times the first program with all threads and the second with the caller alone, in turns: whether the threads bring
    /// more than it costs to wake them.
    fn threads_pay(&self, executor: &dyn Executor, images: usize, together: &Program, alone: &Program) -> bool {
        if self.is_long(images) {
            return true;
        }
        // Runs follow each other for a while before the other side's turn: a thread that was asleep may first be put where
        // the caller is, until the system's scheduler notices.
        let runs: [(&Program, &dyn Executor); 2] = [(together, executor), (alone, &Sequential)];
        let best = Trial::new(&self.graph, images).in_turns(&runs, (TRIALS, 1), TRIAL);
        let pays = best[0].mul_f64(WORTHWHILE) < best[1];
        if pays && !self.is_recurrent() {
            executor.waking().paid(best[1]);
        }
        pays
    }

    /// Whether a run of `images` takes so long that waking threads is nothing to it.
    fn is_long(&self, images: usize) -> bool {
        let macs = |node: &Node| node.weights().map_or(0, |(linear, times)| linear.nonzero_macs() * times);
        !self.is_recurrent() && self.graph.nodes().iter().map(macs).sum::<usize>() * images > LONG
    }

    /// Whether there are recurrent layers, whose steps are short, however many they are.
    fn is_recurrent(&self) -> bool {
        self.graph.nodes().iter().any(|node| matches!(node.op, Op::Recurrent(_)))
    }

    fn checked(&self, batch: usize, given: &Choices) -> Result<Vec<Choice>> {
        let nodes = self.graph.nodes();
        if given.len() != nodes.len() {
            return Err(argument!("choices: {} for {} nodes at batch {batch}", given.len(), nodes.len()));
        }
        let mut choices: Vec<Choice> = Vec::new();
        for (node, (name, choice)) in nodes.iter().zip(given) {
            if *name != node.name {
                return Err(argument!("choices: {name:?} where the plan has {:?}", node.name));
            }
            if !candidates(&self.graph, node, batch).contains(choice) {
                return Err(argument!("choices: {name} cannot run as {choice:?} at batch {batch}"));
            }
            for (edge, wanted) in reads(node, choice) {
                let written = lying(&self.graph, &choices).find(|&(written, _)| written == edge);
                let lies = written.map_or(wanted, |(_, layout)| layout);
                if !can_become(lies, wanted) {
                    return Err(argument!("choices: {name} cannot read what lies as {} at batch {batch}", lies.name()));
                }
            }
            choices.push(*choice);
        }
        Ok(choices)
    }

    /// Times every node again, on the machine as it is now, and takes the new choices.
    pub fn tune(&self) {
        let batches: Vec<usize> = lock(&self.choices).keys().copied().collect();
        let mut programs = HashMap::new();
        for batch in batches {
            let choices = self.chosen(batch, true);
            // Made while the former ones are there, whose packed weights it may share.
            programs.insert(batch, Arc::new(Program::new(&self.graph, &choices, batch, self.target)));
            lock(&self.choices).insert(batch, choices);
        }
        *lock(&self.paying) = UNKNOWN;
        *lock(&self.programs) = programs;
    }

    /// The choices, by batch size and node.
    pub fn choices(&self) -> BTreeMap<usize, Choices> {
        let names = || self.graph.nodes().iter().map(|node| node.name.clone());
        lock(&self.choices)
            .iter()
            .map(|(&batch, choices)| (batch, names().zip(choices.iter().copied()).collect()))
            .collect()
    }

    /// The network, folded and fused.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The shape of an input sample as users see it.
    pub fn input_shape(&self) -> Vec<usize> {
        let input = self.graph.edge(Graph::INPUT);
        if self.graph.is_of_ids() { vec![input.shape.h] } else { shown(input) }
    }

    /// The shape of an output sample.
    pub fn output_shape(&self) -> Vec<usize> {
        shown(self.graph.edge(self.graph.output_edge()))
    }

    /// Whether the input is ids, some of it at least.
    pub fn takes_ids(&self) -> bool {
        !self.ids.is_empty()
    }

    /// The CPU target.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        self.executor.threads()
    }

    /// The choices for a batch that may not be one compiled for: those of the nearest one, where its layouts exist.
    fn nearest(&self, images: usize) -> Vec<Choice> {
        let all = lock(&self.choices);
        let nearest = all.iter().min_by_key(|(batch, _)| (batch.abs_diff(images), **batch));
        let Some((_, choices)) = nearest else { return Vec::new() };
        if self
            .graph
            .nodes()
            .iter()
            .zip(choices)
            .all(|(node, choice)| candidates(&self.graph, node, images).contains(choice))
        {
            return choices.clone();
        }
        drop(all);
        self.chosen(images, false)
    }

    /// Whether runs of `images` are better off without threads: timed, unless a smaller or a larger batch size has said it.
    fn runs_alone(&self, executor: &dyn Executor, images: usize, program: &Program) -> bool {
        let (alone, shared) = *lock(&self.paying);
        if images <= alone || images >= shared {
            return images <= alone;
        }
        // A short look may do: where waking these threads paid for another plan, it does for one that takes as long.
        let look = executor.waking().is_known() && !self.is_recurrent() && !self.is_long(images);
        let short = || Trial::new(&self.graph, images).run(program, &Sequential, SHORT, Duration::ZERO);
        let pays = look && executor.waking().pays(short()) || self.threads_pay(executor, images, program, program);
        let mut paying = lock(&self.paying);
        *paying = if pays { (paying.0, images.min(paying.1)) } else { (images.max(paying.0), paying.1) };
        !pays
    }

    /// Who runs a program for `images`: all threads offered, or the caller alone where that is faster.
    fn executor<'a>(&self, offered: &'a dyn Executor, images: usize, program: &Program) -> &'a dyn Executor {
        let alone = || self.runs_alone(offered, images, program);
        if offered.threads() == 1 || *program.alone.get_or_init(alone) { &Sequential } else { offered }
    }

    fn program(&self, images: usize) -> Arc<Program> {
        if let Some(program) = lock(&self.programs).get(&images) {
            return program.clone();
        }
        let program = Arc::new(Program::new(&self.graph, &self.nearest(images), images, self.target));
        let compiled: Vec<usize> = lock(&self.choices).keys().copied().collect();
        let mut programs = lock(&self.programs);
        if programs.len() >= KEPT + compiled.len() {
            programs.retain(|batch, _| compiled.contains(batch));
        }
        programs.insert(images, program.clone());
        program
    }

    /// Runs `images` row-major images: `x` to `y`.
    ///
    /// # Errors
    /// Where a slice is not `images` times the graph's input or output.
    pub fn run(&self, images: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
        self.run_on(&*self.executor, images, x, y)
    }

    /// [`Plan::run`] on the threads of a host.
    ///
    /// # Errors
    /// As for [`Plan::run`].
    pub fn run_on(&self, executor: &dyn Executor, images: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
        let (input, output) = (self.graph.input().len(), self.graph.output().len());
        if x.len() != images * input || y.len() != images * output {
            return Err(argument!("x: {} values for {images} images of {input}", x.len()));
        }
        for (features, ids) in &self.ids {
            let steps = x.chunks(self.graph.input().c.max(1)).flat_map(|step| &step[features.clone()]);
            let wrong = steps.copied().find(|&id| !(id >= 0.0 && id < *ids as f32 && id.fract() == 0.0));
            if let Some(id) = wrong {
                return Err(argument!("x: expected ids from 0 to {}, got {id}", ids.saturating_sub(1)));
            }
        }
        let most = self.at_once(images);
        for start in (0..images).step_by(most.max(1)) {
            let images = most.min(images - start);
            let program = self.program(images);
            let (x, y) = (&x[start * input..][..images * input], &mut y[start * output..][..images * output]);
            program.run(self.executor(executor, images, &program), x, y);
        }
        Ok(())
    }

    /// [`Plan::run_on`] for as many vectors as there happen to be: the steps of sentences come in any number, and weights are packed
    /// for a number of them. What does not fill a slice is made up, with zeros, to one of a few.
    ///
    /// # Errors
    /// As for [`Plan::run`].
    pub fn run_open(&self, executor: &dyn Executor, vectors: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
        let most = self.at_once(usize::MAX);
        let rest = vectors % most;
        let full = made_up(rest, most);
        let (input, output) = (self.graph.input().len(), self.graph.output().len());
        if full == rest || lock(&self.choices).contains_key(&rest) || x.len() != vectors * input {
            return self.run_on(executor, vectors, x, y);
        }
        let (x, x_rest) = x.split_at((vectors - rest) * input);
        let (y, y_rest) = y.split_at_mut((vectors - rest) * output);
        self.run_on(executor, vectors - rest, x, y)?;
        let mut x_full = x_rest.to_vec();
        x_full.resize(full * input, 0.0);
        let mut y_full = vec![0.0; full * output];
        self.run_on(executor, full, &x_full, &mut y_full)?;
        y_rest.copy_from_slice(&y_full[..rest * output]);
        Ok(())
    }

    /// Packs what a run of so many images needs and is not packed yet, which else that run would do.
    pub fn prepare(&self, images: usize) {
        let most = self.at_once(images);
        for images in [most, images % most.max(1)].into_iter().filter(|&images| images > 0) {
            self.program(images);
        }
    }

    /// How many of `images` a run takes at a time: more would only push activations out of the caches.
    pub fn at_once(&self, images: usize) -> usize {
        let largest = lock(&self.choices).keys().max().copied().unwrap_or(0);
        images.min(largest.max(self.slice))
    }

    /// The threads that runs of `images` use: all, or one where that was faster.
    pub fn threads_for(&self, images: usize) -> usize {
        let images = self.at_once(images);
        self.executor(&*self.executor, images, &self.program(images)).threads()
    }

    /// Bytes of activations that a run of `images` holds at once, inputs and outputs aside.
    pub fn activation_bytes(&self, images: usize) -> usize {
        self.program(self.at_once(images)).activations() * 4
    }

    /// The steps for a batch size (of a large one, for the images that run at a time), timed now; with `dense`, also
    /// against dense kernels in the place of each node.
    pub fn report(&self, images: usize, dense: bool, budget: Duration) -> Vec<StepReport> {
        let images = self.at_once(images);
        let program = self.program(images);
        let executor = self.executor(&*self.executor, images, &program);
        let x = Buffer::from_slice(
            &(0..images * self.graph.input().len()).map(|i| (i % 17) as f32 * 0.125).collect::<Vec<_>>(),
        );
        let mut y = Buffer::zeroed(images * self.graph.output().len());
        let mut workspace = program.workspace(0);
        let mut best = vec![f64::INFINITY; program.steps.len()];
        let deadline = Instant::now() + budget * program.steps.len() as u32 / 4;
        for round in 0..1000 {
            for (step, best) in program.steps.iter().zip(&mut best) {
                let start = Instant::now();
                step.run(executor, &x, &mut y, &mut workspace);
                *best = best.min(start.elapsed().as_secs_f64() * 1e6);
            }
            if round >= 5 && Instant::now() > deadline {
                break;
            }
        }
        let choices = self.nearest(images);
        let mut costs = Costs::new(&self.graph, images, self.target, Some((executor, budget)));
        let peak = peak_flops(self.target) * executor.threads() as f64;
        let mut reports = Vec::new();
        for (step, us) in program.steps.iter().zip(best) {
            let node = step.node.map(|at| &self.graph.nodes()[at]);
            let weights = node.and_then(Node::weights);
            let macs = weights.map_or((0, 0), |(linear, times)| {
                (linear.nonzero_macs() * images * times, linear.macs() * images * times)
            });
            reports.push(StepReport {
                name: node.map_or("relayout".into(), |node| node.name.clone()),
                op: node.map_or("Relayout", |node| op_name(&node.op)),
                kernel: step.operator.kernel(),
                format: step.node.and_then(|at| choices[at].kernel).map_or("", |kernel| kernel.format()),
                density: weights.map_or(1.0, |(linear, _)| linear.weights.density()),
                layouts: (step.layouts.0.name(), step.layouts.1.name()),
                us,
                against_dense: step.node.filter(|_| dense).and_then(|at| costs.against_dense(&choices, at, us)),
                roofline: (2 * macs.0) as f64 / (us * 1e-6 * peak),
                macs,
                nbytes: step.operator.nbytes(),
            });
        }
        reports
    }
}

/// The number of vectors that so many are made up to, where a slice has `most`: powers of two, then equal steps of 16 or more.
fn made_up(vectors: usize, most: usize) -> usize {
    match vectors {
        0 => 0,
        1..=16 => vectors.next_power_of_two().min(most),
        _ => vectors.next_multiple_of((most / 8).max(16)).min(most),
    }
}

/// The shape that users see of an edge.
fn shown(Edge { shape: Shape { c, h, w }, axes, .. }: Edge) -> Vec<usize> {
    match axes {
        Axes::Image => vec![c, h, w],
        Axes::Column => vec![c, w, h],
        Axes::Vector => vec![c],
        Axes::Sequence => vec![h, c],
    }
}

fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Linear(linear) if linear.is_vector() => "Dense",
        Op::Linear(_) => "Conv2D",
        Op::Pool { .. } => "Pool2D",
        Op::Activation(_) => "Activation",
        Op::Scale { .. } => "Scale",
        Op::Softmax => "Softmax",
        Op::Flatten => "Flatten",
        Op::Pad(_) => "Pad",
        Op::Add(_) => "Add",
        Op::LookUp(_) => "Embedding",
        Op::Slice(_) => "Slice",
        Op::Recurrent(layer) => match layer.cell {
            Cell::Lstm => "LSTM",
            Cell::Gru => "GRU",
            Cell::Tanh | Cell::Relu => "RNN",
        },
        Op::LayerNorm { .. } => "LayerNorm",
        Op::Concat => "Concat",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::made_up;

    #[test]
    fn few_sizes_serve_any_number_of_vectors() {
        for most in [1, 5, 16, 100, 128, 1000] {
            let sizes: std::collections::BTreeSet<usize> = (0..most).map(|vectors| made_up(vectors, most)).collect();
            assert!(sizes.len() <= 14, "{sizes:?}");
            assert!((0..most).all(|vectors| (vectors..=most).contains(&made_up(vectors, most))));
        }
    }
}
