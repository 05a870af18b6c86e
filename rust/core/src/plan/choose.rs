//! Which kernel and layout each node gets: candidates, a deterministic cost model, and timing on the real shapes.
//!
//! Nodes are chosen together: in running order, the cheapest way to have the edges that are still to be read in some layouts
//! is the cheapest way to have those before in any layouts, plus the relayouts, plus the node (Viterbi's algorithm, on the
//! frontier of the graph). So a kernel that needs a costly relayout is taken only where it earns it.

use super::graph::{Graph, Node, Op};
use super::race::{Floats, Times, race};
use crate::error::Result;
use crate::executor::Executor;
use crate::formats::nm;
use crate::malformed;
use crate::ops::elementwise::{Activate, Add, Scale};
use crate::ops::features::{LayerNorm, Softmax};
use crate::ops::linear::{Kernel, Linear};
use crate::ops::pool::{Pool, halves};
use crate::ops::relayout::{Border, Relayout};
use crate::ops::sequence::{Concat, LookUp, Slice};
use crate::ops::winograd::Winograd;
use crate::ops::{Layout, Operator, Shape};
use crate::simd::{LANES, Target};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// How a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Choice {
    /// The kernel of a node with weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// Layout of the edge it reads.
    pub input: Layout,
    /// Layout of the edge it writes.
    pub output: Layout,
}

impl Choice {
    /// Whether no zero weight is left out.
    pub fn is_dense(&self) -> bool {
        self.kernel.is_none_or(Kernel::is_dense)
    }
}

/// The choices of all nodes, by name, for one batch size.
pub type Choices = Vec<(String, Choice)>;

/// Times operators, or estimates them where there is no executor to time on.
pub struct Costs<'a> {
    graph: &'a Graph,
    images: usize,
    target: Target,
    timing: Option<(&'a dyn Executor, Duration)>,
    relayouts: HashMap<(Shape, Layout, Layout), f64>,
    /// Every node's candidates, once they are looked at.
    known: Vec<Vec<(Choice, Times)>>,
}

/// The cheapest way known to have the edges that are still to be read in some layouts.
struct Way {
    frontier: Vec<(usize, Layout)>,
    cost: f64,
    path: Vec<Choice>,
}

/// Ways that are followed: where many edges are open at once, only the cheapest.
const WAYS: usize = 64;

/// Choices by batch size, from JSON.
///
/// # Errors
/// Text that [`to_json`] did not write.
pub fn from_json(text: &str) -> Result<BTreeMap<usize, Choices>> {
    serde_json::from_str(text).map_err(|error| malformed!("choices: {error}"))
}

/// Choices by batch size, as JSON.
pub fn to_json(choices: &BTreeMap<usize, Choices>) -> String {
    serde_json::to_string(choices).unwrap_or_default()
}

/// Cost model: sparse candidates that it thinks this much slower than the best are not timed. Dense ones always are: what
/// a sparse layer is compared with must be the best dense one.
const HOPELESS: f64 = 2.5;
/// A sparse kernel must beat dense by this much to be chosen: timing noise must not cost users speed.
const MARGIN: f64 = 1.03;
/// Kernels that are slower than the chosen one by less are its rivals.
const CLOSE: f64 = 1.3;

impl<'a> Costs<'a> {
    /// Costs for batches of `images`; timed for about `budget` a node where there is an executor.
    pub fn new(
        graph: &'a Graph,
        images: usize,
        target: Target,
        timing: Option<(&'a dyn Executor, Duration)>,
    ) -> Costs<'a> {
        Costs { graph, images, target, timing, relayouts: HashMap::new(), known: Vec::new() }
    }

    /// Microseconds to move an edge of this shape.
    pub fn relayout(&mut self, shape: Shape, from: Layout, to: Layout) -> f64 {
        let (from, to) = (from.canonical(shape), to.canonical(shape));
        if from == to {
            return 0.0;
        }
        if !can_become(from, to) {
            return f64::INFINITY;
        }
        if let Some(&known) = self.relayouts.get(&(shape, from, to)) {
            return known;
        }
        let relayout = Relayout::of_edge(shape, from, to, self.images, self.target);
        let floats = Floats { inputs: [from.len(shape, self.images), 0], output: to.len(shape, self.images) };
        let cost = match self.timing {
            Some((executor, budget)) => race(&[(&relayout, floats)], executor, budget / 16)[0].warm,
            None => 0.3 + floats.output as f64 * 0.5e-3,
        };
        self.relayouts.insert((shape, from, to), cost);
        cost
    }

    /// Times of each candidate of a node; infinite where the model rules it out.
    pub fn candidates(&self, node: &Node) -> Vec<(Choice, Times)> {
        let choices = candidates(self.graph, node, self.images);
        let estimates: Vec<f64> = choices.iter().map(|choice| self.estimate(node, choice)).collect();
        let Some((executor, budget)) = self.timing else {
            return choices.into_iter().zip(estimates.into_iter().map(Times::both)).collect();
        };
        // What costs nothing is no measure of the others.
        let costly = choices.iter().zip(&estimates).filter(|(choice, _)| !is_free(node, choice));
        let best = costly.map(|(_, &estimate)| estimate).fold(f64::INFINITY, f64::min);
        let tried: Vec<bool> = choices
            .iter()
            .zip(&estimates)
            .map(|(choice, &estimate)| {
                !is_free(node, choice) && (choice.kernel.is_some_and(Kernel::is_dense) || estimate <= best * HOPELESS)
            })
            .collect();
        let len = |edge: usize, layout: Layout| layout.buffer_len(self.graph.edge(edge).shape, self.images);
        let built: Vec<_> = choices
            .iter()
            .zip(&tried)
            .filter(|&(_, &tried)| tried)
            .map(|(choice, _)| {
                let mut floats = Floats { inputs: [0; 2], output: len(node.output, choice.output) };
                reads(node, choice).zip(&mut floats.inputs).for_each(|((edge, layout), to)| *to = len(edge, layout));
                (build(self.graph, node, choice, self.images, self.target), floats)
            })
            .collect();
        let operators: Vec<_> = built.iter().map(|(operator, floats)| (&**operator, *floats)).collect();
        let mut times = race(&operators, executor, budget).into_iter();
        let mut time = |choice: &Choice, tried| match tried {
            true => times.next().unwrap_or(Times::both(f64::INFINITY)),
            false if is_free(node, choice) => Times::both(0.0),
            false => Times::both(f64::INFINITY),
        };
        let timed: Vec<Times> = choices.iter().zip(tried).map(|(choice, tried)| time(choice, tried)).collect();
        choices.into_iter().zip(timed).collect()
    }

    /// The cost model: microseconds, in the proportions of a 100 GFLOP/s core.
    fn estimate(&self, node: &Node, choice: &Choice) -> f64 {
        let images = match choice.output {
            Layout::BatchInner { .. } | Layout::Pooled { .. } => self.images.next_multiple_of(LANES),
            _ => self.images,
        } as f64;
        let output = self.graph.edge(node.output).shape;
        let (Some((linear, times)), Some(kernel)) = (node.weights(), choice.kernel) else {
            return match node.op {
                _ if is_free(node, choice) => 0.0,
                _ => 0.3 + choice.output.len(output, self.images) as f64 * 0.4e-3,
            };
        };
        let pitch = match choice.output {
            Layout::PixelPanel => output.w.next_multiple_of(LANES) as f64 / output.w.max(1) as f64,
            _ => 1.0,
        };
        let (output, images) = (linear.output, images * times as f64);
        let (all, kept) = (linear.macs() as f64 * images * pitch, linear.nonzero_macs() as f64 * images * pitch);
        let rows = linear.weights.rows() as f64;
        // Storing and loading partial results costs about as much as 8 multiply-adds of an output.
        let outputs = rows * (output.h * output.w) as f64 * images * pitch;
        let macs = match kernel {
            Kernel::Direct => {
                let rows = rows / linear.groups as f64;
                all * (rows / LANES as f64).ceil() * LANES as f64 / rows.max(1.0) * 1.15
            }
            Kernel::Winograd => Winograd::macs(linear, self.images),
            Kernel::Gemm => all * 1.15 + 100_000.0,
            Kernel::Panel => all * 1.2,
            Kernel::Depthwise => all * 2.0,
            Kernel::DepthwiseCsr => kept * 2.0 + 4.0 * outputs,
            Kernel::Csr => (kept + 8.0 * outputs) * 1.5,
            Kernel::Pattern => (kept + 8.0 * outputs) * 1.2,
            Kernel::Block4 => kept / linear.weights.block_fill(4).max(0.01) * 1.15 + 8.0 * outputs,
            Kernel::Block8 => kept / linear.weights.block_fill(8).max(0.01) * 1.15 + 8.0 * outputs,
            Kernel::CsrDots => kept * 8.0,
            Kernel::NmDots => {
                let slots = nm::fitting(&linear.weights).map_or(1.0, |(n, m)| n as f64 / m as f64);
                all * slots * 1.6 + rows * images * 10.0
            }
            Kernel::BitmapDots => all * 1.3,
            // A look-up in registers is one instruction of AVX-512 alone.
            Kernel::WindowDots if self.target.name() != "avx512" => kept * 5.0 + rows * images * 10.0,
            Kernel::WindowDots => kept * 2.0 + rows * images * 10.0,
            Kernel::StreamDots if self.target.name() != "avx512" => kept * 7.0 + rows * images * 10.0,
            Kernel::StreamDots => kept * 3.0 + rows * images * 10.0,
            Kernel::Block4Dots => kept / linear.weights.block_fill(4).max(0.01) * 1.4 + rows * images * 10.0,
            Kernel::Block8Dots => kept / linear.weights.block_fill(8).max(0.01) * 1.2 + rows * images * 10.0,
            Kernel::Block16Dots => kept / linear.weights.block_fill(16).max(0.01) + rows * images * 10.0,
        };
        0.3 + macs * 2e-5
    }

    /// The choices that cost least together, by what each costs; what costs infinitely much is not taken.
    pub fn choose(&mut self, cost_of: impl Fn(&Choice, Times) -> f64) -> Vec<Choice> {
        let graph = self.graph;
        if self.known.is_empty() {
            self.known = graph.nodes().iter().map(|node| self.candidates(node)).collect();
        }
        let known = std::mem::take(&mut self.known);
        let mut ways = vec![Way { frontier: lying(graph, &[]).collect(), cost: 0.0, path: Vec::new() }];
        for (at, (node, candidates)) in graph.nodes().iter().zip(&known).enumerate() {
            let later = &graph.nodes()[at + 1..];
            let open = |edge: usize| later.iter().any(|node| node.inputs.contains(&edge));
            let mut next: Vec<Way> = Vec::new();
            for &(choice, times) in candidates {
                for way in &ways {
                    let cost = way.cost + self.moves(node, &choice, &way.frontier) + cost_of(&choice, times);
                    if !cost.is_finite() {
                        continue;
                    }
                    let kept = way.frontier.iter().copied().filter(|&(edge, _)| open(edge));
                    let frontier: Vec<_> = kept.chain([(node.output, choice.output)]).collect();
                    let known = next.iter().position(|way| way.frontier == frontier);
                    if known.is_some_and(|at| next[at].cost <= cost) {
                        continue;
                    }
                    let path = way.path.iter().copied().chain([choice]).collect();
                    let way = Way { frontier, cost, path };
                    match known {
                        Some(at) => next[at] = way,
                        None => next.push(way),
                    }
                }
            }
            next.sort_by(|a, b| a.cost.total_cmp(&b.cost));
            next.truncate(WAYS);
            ways = next;
        }
        self.known = known;
        let (output, shape) = (graph.output_edge(), graph.output());
        for way in &mut ways {
            way.cost += self.relayout(shape, layout_of(&way.frontier, output), graph.outer(shape));
        }
        ways.into_iter().min_by(|a, b| a.cost.total_cmp(&b.cost)).map(|way| way.path).unwrap_or_default()
    }

    /// Of every node, other kernels for the layouts chosen, if they are about as fast or the best dense one.
    pub fn rivals(&self, choices: &[Choice]) -> Vec<Vec<Choice>> {
        let rivals = |(known, chosen): (&Vec<(Choice, Times)>, &Choice)| {
            let layouts = |choice: &Choice| (choice.input, choice.output);
            let alike = known.iter().filter(|(choice, times)| {
                times.is_finite() && choice.kernel.is_some() && layouts(choice) == layouts(chosen)
            });
            let limit =
                alike.clone().find(|(choice, _)| choice == chosen).map_or(Times::both(0.0), |&(_, times)| times);
            let dense = alike.clone().filter(|(choice, _)| choice.is_dense()).map(|&(_, times)| times);
            let dense = dense.fold(Times::both(f64::INFINITY), Times::min);
            let close = |times: &Times| times.cold < limit.cold * CLOSE || times.warm < limit.warm * CLOSE;
            let best = |times: &Times| times.cold <= dense.cold || times.warm <= dense.warm;
            let rivals =
                alike.filter(|(choice, times)| choice != chosen && (close(times) || choice.is_dense() && best(times)));
            rivals.map(|&(choice, _)| choice).collect()
        };
        self.known.iter().zip(choices).map(rivals).collect()
    }

    /// Microseconds of the relayouts before a node, for edges that lie in these layouts.
    fn moves(&mut self, node: &Node, choice: &Choice, frontier: &[(usize, Layout)]) -> f64 {
        let graph = self.graph;
        let moved = |(edge, wanted)| self.relayout(graph.edge(edge).shape, layout_of(frontier, edge), wanted);
        reads(node, choice).map(moved).sum()
    }

    /// Microseconds of the choice at `at`, its relayouts included, and of the best dense kernel in its place: of those with
    /// cold caches and with warm ones, the pair that is nearer to what the choice takes in the network.
    pub fn against_dense(&mut self, choices: &[Choice], at: usize, us: f64) -> Option<(f64, f64)> {
        let graph = self.graph;
        let node = &graph.nodes()[at];
        choices[at].kernel?;
        let frontier: Vec<_> = lying(graph, choices).collect();
        let nodes = graph.nodes().iter().zip(choices);
        let wanted = nodes.flat_map(|(node, choice)| reads(node, choice)).filter(|&(edge, _)| edge == node.output);
        let last = (at + 1 == choices.len()).then_some((node.output, graph.outer(graph.output())));
        let after: Vec<_> = wanted.chain(last).map(|(_, layout)| layout).collect();
        let output = graph.edge(node.output).shape;
        let known = self.candidates(node);
        let alone = known.iter().find(|(choice, _)| *choice == choices[at])?.1;
        let is_cold = (us - alone.cold).abs() < (us - alone.warm).abs();
        let (mut chosen, mut dense) = (f64::INFINITY, f64::INFINITY);
        for (choice, times) in known {
            let moves = after.iter().map(|&after| self.relayout(output, choice.output, after)).sum::<f64>();
            let us = if is_cold { times.cold } else { times.warm } + moves + self.moves(node, &choice, &frontier);
            if choice == choices[at] {
                chosen = us;
            }
            if choice.is_dense() {
                dense = dense.min(us);
            }
        }
        Some((chosen, dense))
    }
}

/// Time as it is compared: what is sparse must be faster than what is dense by a margin.
pub(super) fn weighed(choice: &Choice, us: f64) -> f64 {
    if choice.is_dense() { us } else { us * MARGIN }
}

/// The layouts in which a choice wants the edges that a node reads: a second one is added to the result, and so lies as it does.
pub(super) fn reads(node: &Node, choice: &Choice) -> impl Iterator<Item = (usize, Layout)> {
    node.inputs.iter().copied().zip([choice.input, choice.output])
}

/// How the network's input and what the nodes write lie in memory.
pub(super) fn lying(graph: &Graph, choices: &[Choice]) -> impl Iterator<Item = (usize, Layout)> {
    let outputs = graph.nodes().iter().zip(choices).map(|(node, choice)| (node.output, choice.output));
    [(Graph::INPUT, graph.outer(graph.input()))].into_iter().chain(outputs)
}

/// The layout of an edge among those known.
fn layout_of(known: &[(usize, Layout)], edge: usize) -> Layout {
    known.iter().find(|&&(known, _)| known == edge).map_or(Layout::RowMajor, |&(_, layout)| layout)
}

/// Every way to run a node.
pub fn candidates(graph: &Graph, node: &Node, images: usize) -> Vec<Choice> {
    let (input, output) = (graph.edge(node.input()).shape, graph.edge(node.output).shape);
    let same = |layouts: Vec<Layout>| {
        let mut choices: Vec<_> = layouts.iter().map(|&l| plain(l.canonical(input), l.canonical(output))).collect();
        choices.dedup();
        choices
    };
    match &node.op {
        Op::Linear(linear) => linear_candidates(graph, node, linear, images),
        Op::Pool { .. } => {
            let pooled = pooled(graph, node.input(), images).map(|layout| plain(layout, batch_inner(images)));
            same(layouts(input, images)).into_iter().chain(pooled).collect()
        }
        Op::Activation(_) | Op::Scale { .. } | Op::Add(_) => same(layouts(input, images)),
        Op::Concat if graph.is_of_sequences() => same(layouts(input, images)),
        Op::Concat => same(layouts(input, images).into_iter().filter(|&it| it != Layout::ChannelsLast).collect()),
        Op::Softmax | Op::LayerNorm { .. } | Op::LookUp(_) => vec![plain(graph.outer(input), graph.outer(output))],
        Op::Slice(_) => same(layouts(input, images)),
        Op::Recurrent(layer) => linear_candidates(graph, node, &layer.product, images)
            .into_iter()
            .map(|choice| {
                let layout = if choice.input == Layout::RowMajor { Layout::ChannelsLast } else { choice.input };
                Choice { input: layout.canonical(input), output: layout.canonical(output), ..choice }
            })
            .collect(),
        // What follows each other is the features of a step.
        Op::Flatten if graph.is_of_sequences() => vec![plain(graph.outer(input), Layout::RowMajor)],
        Op::Flatten => same(
            layouts(input, images)
                .into_iter()
                .filter(|layout| matches!(layout.canonical(input), Layout::RowMajor | Layout::BatchInner { .. }))
                .collect(),
        ),
        Op::Pad(border) => {
            let mut choices = Vec::new();
            for from in layouts(input, images) {
                choices.extend(layouts(output, images).into_iter().map(|to| plain(from, to)));
            }
            choices.push(plain(Layout::RowMajor, Layout::Inside(*border)));
            choices
        }
    }
}

/// Whether a node's output is its input under another name.
pub(super) fn is_free(node: &Node, choice: &Choice) -> bool {
    matches!(node.op, Op::Flatten)
        || matches!(choice.output, Layout::Inside(_))
        || matches!(choice.input, Layout::Pooled { .. })
}

fn plain(input: Layout, output: Layout) -> Choice {
    Choice { kernel: None, input, output }
}

/// Images from which they are worth the lanes.
const FEW: usize = 8;

/// Floats of an image that may stay in the first-level cache, in part.
const SMALL: usize = 16 << 10;

/// The kernels of few images, for any weights.
const DOTS: [Kernel; 7] = [
    Kernel::CsrDots,
    Kernel::BitmapDots,
    Kernel::WindowDots,
    Kernel::StreamDots,
    Kernel::Block4Dots,
    Kernel::Block8Dots,
    Kernel::Block16Dots,
];

/// The layouts worth trying for an edge.
fn layouts(shape: Shape, images: usize) -> Vec<Layout> {
    let mut layouts = vec![Layout::RowMajor];
    if Layout::ChannelsLast.canonical(shape) == Layout::ChannelsLast {
        layouts.push(Layout::ChannelsLast);
    }
    if images >= FEW {
        layouts.push(batch_inner(images));
        layouts.extend(wide(shape, images));
    }
    if images <= 2 * FEW && shape.w >= 4 {
        layouts.push(Layout::PixelPanel);
    }
    layouts
}

fn batch_inner(images: usize) -> Layout {
    Layout::BatchInner { lines: images.div_ceil(LANES).clamp(1, 4) }
}

/// Panels of more images, for vectors: what is read of the weights serves them all, while images have pixels enough for that.
fn wide(shape: Shape, images: usize) -> Option<Layout> {
    let lines = images.div_ceil(LANES).min(8);
    (shape.h * shape.w == 1 && lines > 4).then_some(Layout::BatchInner { lines })
}

/// Whether an edge that lies in memory one way can be moved to lie another way: some are made so, or not at all, and images are
/// not moved between panels of different widths.
pub(super) fn can_become(from: Layout, to: Layout) -> bool {
    from == to
        || !matches!(
            (from, to),
            (Layout::Pooled { .. }, _)
                | (_, Layout::Pooled { .. } | Layout::Inside(_))
                | (Layout::BatchInner { .. }, Layout::BatchInner { .. })
        )
}

/// The layout in which whoever writes an edge may pool it.
fn pooled(graph: &Graph, edge: usize, images: usize) -> Option<Layout> {
    let writer = graph.nodes().iter().find(|node| node.output == edge)?;
    let (reader, others) = (graph.readers(edge).next()?, graph.readers(edge).count() > 1);
    let (Op::Linear(linear), &Op::Pool { reduction, window, offset }) = (&writer.op, &reader.op) else { return None };
    let Layout::BatchInner { lines } = batch_inner(images) else { return None };
    let may = images >= FEW
        && !others
        && !linear.residual
        && !linear.is_depthwise()
        && halves(window, offset, linear.output, graph.edge(reader.output).shape);
    may.then_some(Layout::Pooled { lines, reduction })
}

fn linear_candidates(graph: &Graph, node: &Node, linear: &Linear, images: usize) -> Vec<Choice> {
    let with = |kernel, input: Layout, output: Layout| Choice {
        kernel: Some(kernel),
        input: input.canonical(linear.input),
        output: output.canonical(linear.output),
    };
    let sparse = [Kernel::Csr, Kernel::Pattern, Kernel::Block4, Kernel::Block8];
    if linear.is_depthwise() {
        return depthwise_candidates(linear, images, with);
    }
    let mut choices = vec![with(Kernel::Direct, Layout::ChannelsLast, Layout::ChannelsLast)];
    if graph.allows_winograd() && Winograd::applies(linear) {
        choices.push(with(Kernel::Winograd, Layout::ChannelsLast, Layout::ChannelsLast));
    }
    if linear.is_vector() && linear.groups == 1 {
        choices.push(with(Kernel::Gemm, Layout::RowMajor, Layout::RowMajor));
        if images <= 2 * FEW {
            let nm = nm::fitting(&linear.weights).map(|_| Kernel::NmDots);
            choices.extend(DOTS.into_iter().chain(nm).map(|kernel| with(kernel, Layout::RowMajor, Layout::RowMajor)));
        }
    }
    if linear.is_pointwise() && images <= 2 * FEW {
        let kernels = sparse.into_iter().chain([Kernel::Panel, Kernel::Gemm]);
        choices.extend(kernels.map(|kernel| with(kernel, Layout::RowMajor, Layout::RowMajor)));
    }
    if images >= FEW {
        let layout = batch_inner(images);
        let pooled = pooled(graph, node.output, images).map(|output| (layout, output));
        let wide = wide(linear.input, images).filter(|_| linear.is_vector()).map(|layout| (layout, layout));
        for (input, output) in [(layout, layout)].into_iter().chain(pooled).chain(wide) {
            choices.extend(sparse.into_iter().chain([Kernel::Panel]).map(|kernel| with(kernel, input, output)));
        }
    }
    if images <= 2 * FEW && linear.output.w >= 4 && !linear.is_vector() && !linear.is_pointwise() {
        let pixels = Layout::PixelPanel;
        let border = graph.border_around(node.input());
        let whole = border.map_or(Layout::RowMajor, Layout::Inside);
        let mut layouts = vec![(whole, Layout::RowMajor)];
        if border.is_some() {
            layouts.push((whole, pixels));
        }
        // With unaligned taps that all read one image, where that stays in the first-level cache.
        if linear.input.len() <= SMALL {
            layouts.extend([(Layout::RowMajor, pixels), (pixels, pixels)]);
        }
        for (input, output) in layouts {
            let kernels = sparse.into_iter().chain([Kernel::Panel]);
            choices.extend(kernels.map(|kernel| with(kernel, input, output)));
        }
    }
    choices
}

fn depthwise_candidates(
    linear: &Linear,
    images: usize,
    with: impl Fn(Kernel, Layout, Layout) -> Choice,
) -> Vec<Choice> {
    let both = [Kernel::Depthwise, Kernel::DepthwiseCsr];
    let mut choices = both.map(|kernel| with(kernel, Layout::RowMajor, Layout::RowMajor)).to_vec();
    let last = with(Kernel::Depthwise, Layout::ChannelsLast, Layout::ChannelsLast);
    if linear.input.c == linear.output.c && !choices.contains(&last) {
        choices.push(last);
    }
    if images >= FEW {
        let layout = batch_inner(images);
        choices.extend(both.map(|kernel| with(kernel, layout, layout)));
    }
    if images <= 2 * FEW && linear.input.w >= 4 && linear.output.w >= 4 {
        let pixels = Layout::PixelPanel;
        for (input, output) in [(pixels, pixels), (pixels, Layout::RowMajor), (Layout::RowMajor, pixels)] {
            choices.extend(both.map(|kernel| with(kernel, input, output)));
        }
    }
    choices
}

/// The operator of a node.
pub fn build(graph: &Graph, node: &Node, choice: &Choice, images: usize, target: Target) -> Box<dyn Operator> {
    let (input, output) = (graph.edge(node.input()).shape, graph.edge(node.output).shape);
    match &node.op {
        Op::Linear(linear) => {
            linear.build(choice.kernel.unwrap_or(Kernel::Direct), choice.input, choice.output, images, target)
        }
        &Op::Pool { reduction, window, offset } => {
            Box::new(Pool { reduction, window, offset, input, output, layout: choice.input, images, target })
        }
        Op::Activation(activation) => {
            Box::new(Activate { activation: *activation, len: choice.input.len(input, images), target })
        }
        Op::Scale { scale, shift } => {
            Box::new(Scale { scale: scale.clone(), shift: shift.clone(), shape: input, layout: choice.input, images })
        }
        Op::Add(activation) => {
            Box::new(Add { activation: *activation, len: choice.output.len(output, images), target })
        }
        Op::Softmax => Box::new(Softmax { features: input.c, target }),
        Op::LookUp(table) => Box::new(LookUp { table: table.clone(), features: output.c }),
        Op::Recurrent(layer) => layer.build(choice.kernel.unwrap_or(Kernel::Gemm), choice.input, images, target),
        Op::Slice(first) => Box::new(Slice { first: *first, shapes: (input, output), layout: choice.input, images }),
        Op::LayerNorm { scale, shift, epsilon } => {
            Box::new(LayerNorm { scale: scale.clone(), shift: shift.clone(), epsilon: *epsilon, target })
        }
        Op::Concat => {
            let other = graph.edge(node.inputs[1]).shape;
            Box::new(Concat { shapes: (input, other), layout: choice.output, images })
        }
        Op::Flatten => Box::new(Relayout::new(output, Border::default(), choice.output, choice.output, images, target)),
        Op::Pad(border) => Box::new(Relayout::new(input, *border, choice.input, choice.output, images, target)),
    }
}
