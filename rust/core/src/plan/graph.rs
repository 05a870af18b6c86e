//! Nodes and typed edges. Every node is checked as it is added, so a graph always has consistent shapes.

use crate::argument;
use crate::error::Result;
use crate::formats::Reduction;
use crate::formats::{Activation, Rows, Window};
use crate::ops::Layout;
use crate::ops::Shape;
use crate::ops::cell::Cell;
use crate::ops::linear::{Linear, depthwise};
use crate::ops::recurrent::Recurrent;
use crate::ops::relayout::Border;
use std::ops::Range;
use std::sync::Arc;

/// The largest padding: keeps sizes far from overflow.
const MOST_PADDING: usize = u16::MAX as usize;

/// The element type of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
}

/// The axes that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axes {
    /// (channels, rows, columns).
    Image,
    /// (channels, rows, 1), held as one row: kernels have pixels of a row in their lanes.
    Column,
    /// (features), of an image of one pixel.
    Vector,
    /// (steps, features): rows are the steps.
    Sequence,
}

/// A tensor between two nodes, for one image. Its layout is chosen when a plan is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Element type.
    pub dtype: Dtype,
    /// Shape of one image.
    pub shape: Shape,
    /// What it is to users.
    pub axes: Axes,
}

/// What a node does.
#[derive(Debug, Clone)]
pub enum Op {
    /// Dense or Conv2D.
    Linear(Linear),
    /// Max or average pooling.
    Pool {
        /// How a window is reduced.
        reduction: Reduction,
        /// The window.
        window: Window,
        /// Rows above and columns before the image.
        offset: (usize, usize),
    },
    /// An activation of its own.
    Activation(Activation),
    /// One factor and summand a channel.
    Scale {
        /// Factors.
        scale: Vec<f32>,
        /// Summands.
        shift: Vec<f32>,
    },
    /// Softmax over features.
    Softmax,
    /// (c, h, w) to (c·h·w).
    Flatten,
    /// Zeros around the image.
    Pad(Border),
    /// The sum of two edges, then an activation.
    Add(Activation),
    /// A row of a table for every id: (ids, h, 1) to (features, h, ids).
    LookUp(Arc<[f32]>),
    /// Channels from this one on.
    Slice(usize),
    /// All steps of a recurrent layer behind the product with its input; a second edge holds ids, 0 for padding.
    Recurrent(Recurrent),
    /// Features brought to mean 0 and variance 1.
    LayerNorm {
        /// Factors.
        scale: Vec<f32>,
        /// Summands.
        shift: Vec<f32>,
        /// Added to the variance.
        epsilon: f32,
    },
    /// The channels of two edges, side by side.
    Concat,
}

/// A node: reads edges, writes another.
#[derive(Debug, Clone)]
pub struct Node {
    /// The layer's name.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// The edges that it reads, one or two.
    pub inputs: Vec<usize>,
    /// The edge it writes.
    pub output: usize,
}

impl Node {
    /// The edge that it reads first.
    pub fn input(&self) -> usize {
        self.inputs[0]
    }

    /// The weights that can be pruned, and how often they are multiplied with a pixel of their output for an image.
    pub fn weights(&self) -> Option<(&Linear, usize)> {
        match &self.op {
            Op::Linear(linear) => Some((linear, 1)),
            Op::Recurrent(layer) => Some((&layer.product, layer.steps)),
            _ => None,
        }
    }
}

/// A network. Nodes are in the order in which they run, and edges numbers: that of the network's input is [`Graph::INPUT`],
/// and what adds a node returns that of its output. The last node's is the network's.
#[derive(Debug, Clone)]
pub struct Graph {
    edges: Vec<Edge>,
    nodes: Vec<Node>,
    winograd: bool,
    // Whether the input is (steps): nobody shows the only feature of a sequence of ids as an axis.
    bare: bool,
}

impl Graph {
    /// The edge that holds the network's input.
    pub const INPUT: usize = 0;

    /// A graph of no nodes over images of this shape.
    pub fn new(input: Shape) -> Graph {
        Graph::of(input, Axes::Image)
    }

    /// A graph of no nodes over images of one column, whose nodes say columns where they mean rows.
    pub fn of_columns(channels: usize, rows: usize) -> Graph {
        Graph::of(Shape { c: channels, h: 1, w: rows }, Axes::Column)
    }

    /// A graph of no nodes over vectors of so many features.
    pub fn of_vectors(features: usize) -> Graph {
        Graph::of(Shape::features(features), Axes::Vector)
    }

    /// A graph of no nodes over sequences of so many steps and features: images of one column, features their channels, that lie
    /// (step, feature).
    pub fn of_sequences(steps: usize, features: usize) -> Graph {
        Graph::of(Shape { c: features, h: steps, w: 1 }, Axes::Sequence)
    }

    /// A graph of no nodes over sequences of so many ids: (steps), each step with one feature.
    pub fn of_ids(steps: usize) -> Graph {
        Graph { bare: true, ..Graph::of_sequences(steps, 1) }
    }

    /// Whether samples are (steps), their only feature no axis.
    pub fn is_of_ids(&self) -> bool {
        self.bare
    }

    fn of(shape: Shape, axes: Axes) -> Graph {
        let edges = vec![Edge { dtype: Dtype::F32, shape, axes }];
        Graph { edges, nodes: Vec::new(), winograd: true, bare: false }
    }

    /// Whether images are sequences.
    pub fn is_of_sequences(&self) -> bool {
        self.edges[Graph::INPUT].axes == Axes::Sequence
    }

    /// How inputs and outputs lie in memory.
    pub fn outer(&self, shape: Shape) -> Layout {
        if self.is_of_sequences() { Layout::ChannelsLast.canonical(shape) } else { Layout::RowMajor }
    }

    /// The features of the input that are ids, and the number that these are below.
    pub fn ids(&self) -> Vec<(Range<usize>, usize)> {
        let ids = self.nodes.iter().filter_map(|node| {
            let Op::LookUp(table) = &node.op else { return None };
            let slice = self.nodes.iter().find(|slice| slice.output == node.input());
            let from = slice.map_or(0, |slice| if let Op::Slice(from) = slice.op { from } else { 0 });
            let rows = table.len() / self.edge(node.output).shape.c.max(1);
            Some((from..from + self.edge(node.input()).shape.c, rows))
        });
        ids.collect()
    }

    /// Whether dense convolutions may run by Winograd's algorithm, whose error has a wider bound (see
    /// [`crate::ops::winograd`]); they may unless told otherwise.
    pub fn allow_winograd(&mut self, allowed: bool) {
        self.winograd = allowed;
    }

    /// What [`Graph::allow_winograd`] said.
    pub fn allows_winograd(&self) -> bool {
        self.winograd
    }

    /// The nodes, in running order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// An edge.
    pub fn edge(&self, edge: usize) -> Edge {
        self.edges[edge]
    }

    /// The nodes that read an edge.
    pub fn readers(&self, edge: usize) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.inputs.contains(&edge))
    }

    /// The border of zeros that an edge is known to have.
    pub fn border_around(&self, edge: usize) -> Option<Border> {
        let pads = self.nodes.iter().filter(|node| node.output == edge);
        pads.filter_map(|node| if let Op::Pad(border) = node.op { Some(border) } else { None }).next()
    }

    /// Shape of an input image.
    pub fn input(&self) -> Shape {
        self.edges[Graph::INPUT].shape
    }

    /// Shape of an output image.
    pub fn output(&self) -> Shape {
        self.edges[self.output_edge()].shape
    }

    /// The edge that holds the network's output.
    pub fn output_edge(&self) -> usize {
        self.nodes.last().map_or(Graph::INPUT, |node| node.output)
    }

    fn push(&mut self, name: &str, op: Op, inputs: &[usize], shape: Shape) -> usize {
        let output = self.edges.len();
        let before = self.edges[inputs[0]].axes;
        let axes = match &op {
            Op::Flatten => Axes::Vector,
            Op::Recurrent(layer) if !layer.sequences => Axes::Vector,
            // Over all steps at once.
            Op::Pool { window, .. }
                if before == Axes::Sequence && window.size == (self.edges[inputs[0]].shape.h, 1) =>
            {
                Axes::Vector
            }
            _ => before,
        };
        self.edges.push(Edge { dtype: Dtype::F32, shape, axes });
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec(), output });
        output
    }

    /// The shape of the edge that a node is to read.
    fn read(&self, name: &str, edge: usize) -> Result<Shape> {
        let edges = self.edges.len();
        let found = self.edges.get(edge).ok_or_else(|| argument!("{name}: reads edge {edge} of {edges}"))?;
        Ok(found.shape)
    }

    /// Dense: `weights` (outputs, inputs).
    ///
    /// # Errors
    /// Where the weights, the bias and the edge do not fit.
    pub fn dense(
        &mut self,
        name: &str,
        from: usize,
        weights: Rows,
        bias: Option<Vec<f32>>,
        activation: Activation,
    ) -> Result<usize> {
        let input = self.read(name, from)?;
        if input.h * input.w != 1 || input.c != weights.columns() {
            let Shape { c, h, w } = input;
            return Err(argument!("{name}: weights take {} features, the input is ({c}, {h}, {w})", weights.columns()));
        }
        check_bias(name, bias.as_deref(), weights.rows())?;
        let linear = Linear::dense(weights, bias, activation);
        let output = linear.output;
        Ok(self.push(name, Op::Linear(linear), &[from], output))
    }

    /// Conv2D in `groups`: `weights` (filters, channels / groups · rows · columns), the filter in `window`, with `border`
    /// zeros around.
    ///
    /// # Errors
    /// Where the weights, the bias, the filter and the edge do not fit.
    #[expect(clippy::too_many_arguments, reason = "the attributes of a convolution")]
    pub fn conv2d(
        &mut self,
        name: &str,
        from: usize,
        weights: Rows,
        bias: Option<Vec<f32>>,
        (window, groups): (Window, usize),
        border: Border,
        activation: Activation,
    ) -> Result<usize> {
        let inner = self.read(name, from)?;
        let (taps, channels) = (window.size.0 * window.size.1, inner.c);
        if groups == 0 || !channels.is_multiple_of(groups) || !weights.rows().is_multiple_of(groups) {
            let filters = weights.rows();
            return Err(argument!("{name}: {groups} groups do not divide {channels} channels and {filters} filters"));
        }
        let channels = channels / groups;
        if weights.columns() != channels * taps {
            return Err(argument!("{name}: {} weights a filter, {channels} channels x {taps} taps", weights.columns()));
        }
        check_bias(name, bias.as_deref(), weights.rows())?;
        let outer = border.around(inner);
        let window = checked_window(name, window, border, outer)?;
        let (h, w) = window.over(outer.h, outer.w);
        let output = Shape { c: weights.rows(), h, w };
        let (from, border, input) = if depthwise(groups, inner.c) || border.is_zero() {
            (from, border, inner)
        } else {
            let padded = self.push(&format!("{name}.pad"), Op::Pad(border), &[from], outer);
            (padded, Border::default(), outer)
        };
        let linear = Linear { weights, bias, residual: false, activation, window, groups, border, input, output };
        Ok(self.push(name, Op::Linear(linear), &[from], output))
    }

    /// Pooling; windows may hang over `border` rows and columns, which count for nothing.
    ///
    /// # Errors
    /// Where the window does not fit the edge.
    pub fn pool(
        &mut self,
        name: &str,
        from: usize,
        reduction: Reduction,
        window: Window,
        border: Border,
    ) -> Result<usize> {
        let input = border.around(self.read(name, from)?);
        let window = checked_window(name, window, border, input)?;
        if border.top.max(border.bottom) >= window.size.0 || border.left.max(border.right) >= window.size.1 {
            return Err(argument!("{name}: padding as large as the window leaves windows empty"));
        }
        let (h, w) = window.over(input.h, input.w);
        let shape = Shape { c: input.c, h, w };
        let pool = Op::Pool { reduction, window, offset: (border.top, border.left) };
        Ok(self.push(name, pool, &[from], shape))
    }

    /// An activation of its own.
    ///
    /// # Errors
    /// Where there is no such edge.
    pub fn activation(&mut self, name: &str, from: usize, activation: Activation) -> Result<usize> {
        let shape = self.read(name, from)?;
        Ok(self.push(name, Op::Activation(activation), &[from], shape))
    }

    /// The sum of two edges of one shape.
    ///
    /// # Errors
    /// Where the shapes differ.
    pub fn add(&mut self, name: &str, (a, b): (usize, usize)) -> Result<usize> {
        let (shape, other) = (self.read(name, a)?, self.read(name, b)?);
        if shape != other {
            let dims = |Shape { c, h, w }: Shape| format!("({c}, {h}, {w})");
            return Err(argument!("{name}: cannot add {} to {}", dims(other), dims(shape)));
        }
        Ok(self.push(name, Op::Add(Activation::None), &[a, b], shape))
    }

    /// One factor and summand a channel.
    ///
    /// # Errors
    /// Where there is not one of each a channel.
    pub fn scale(&mut self, name: &str, from: usize, scale: Vec<f32>, shift: Vec<f32>) -> Result<usize> {
        let shape = self.read(name, from)?;
        if scale.len() != shape.c || shift.len() != shape.c {
            return Err(argument!(
                "{name}: {} scales and {} shifts for {} channels",
                scale.len(),
                shift.len(),
                shape.c
            ));
        }
        Ok(self.push(name, Op::Scale { scale, shift }, &[from], shape))
    }

    /// Softmax over features.
    ///
    /// # Errors
    /// Where the input is an image.
    pub fn softmax(&mut self, name: &str, from: usize) -> Result<usize> {
        let shape = self.read(name, from)?;
        if shape.h * shape.w != 1 && !self.is_of_sequences() {
            return Err(argument!("{name}: softmax takes vectors, not images of {} x {}", shape.h, shape.w));
        }
        Ok(self.push(name, Op::Softmax, &[from], shape))
    }

    /// (c, h, w) to (c·h·w).
    ///
    /// # Errors
    /// Where there is no such edge.
    pub fn flatten(&mut self, name: &str, from: usize) -> Result<usize> {
        let shape = Shape::features(self.read(name, from)?.len());
        Ok(self.push(name, Op::Flatten, &[from], shape))
    }

    /// A row of `table` (ids, features) for every id of the network's input, or of a slice of it. Where a step has several,
    /// their rows are its pixels.
    ///
    /// # Errors
    /// Where the edge is another one, or the table has no whole rows.
    pub fn look_up(&mut self, name: &str, from: usize, table: Vec<f32>, features: usize) -> Result<usize> {
        let Shape { c, h, w } = self.read(name, from)?;
        let slices =
            |node: &Node| node.output == from && matches!(node.op, Op::Slice(_)) && node.input() == Graph::INPUT;
        if w != 1 || !self.is_of_sequences() || !(from == Graph::INPUT || self.nodes.iter().any(slices)) {
            return Err(argument!("{name}: takes the ids of the network's input, not ({c}, {h}, {w})"));
        }
        if features == 0 || table.is_empty() || !table.len().is_multiple_of(features) {
            return Err(argument!("{name}: {} numbers are not rows of {features}", table.len()));
        }
        Ok(self.push(name, Op::LookUp(table.into()), &[from], Shape { c: features, h, w: c }))
    }

    /// `count` channels from `first` on.
    ///
    /// # Errors
    /// Where the edge does not have them.
    pub fn slice(&mut self, name: &str, from: usize, (first, count): (usize, usize)) -> Result<usize> {
        let shape = self.read(name, from)?;
        if count == 0 || first.checked_add(count).is_none_or(|end| end > shape.c) {
            return Err(argument!("{name}: {count} channels from {first} on, of {}", shape.c));
        }
        Ok(self.push(name, Op::Slice(first), &[from], Shape { c: count, ..shape }))
    }

    /// A recurrent layer: `products` holds those with its input, all gates of every step, and `weights` (gates · units, units)
    /// multiply the state. Where `ids` are 0 a step is padding.
    ///
    /// # Errors
    /// Where the weights, the bias and the edges do not fit.
    pub fn recurrent(
        &mut self,
        name: &str,
        cell: Cell,
        (products, ids): (usize, Option<usize>),
        weights: Rows,
        bias: Option<Vec<f32>>,
        (sequences, reverse): (bool, bool),
    ) -> Result<usize> {
        let Shape { c, h, w } = self.read(name, products)?;
        let (rows, units) = (weights.rows(), weights.columns());
        if !self.is_of_sequences() || w != 1 || rows != units * cell.gates() || c != rows {
            return Err(argument!("{name}: {rows} x {units} weights do not go with products of ({c}, {h}, {w})"));
        }
        check_bias(name, bias.as_deref(), rows)?;
        if let Some(ids) = ids {
            let shape = self.read(name, ids)?;
            if shape != (Shape { c: 1, h, w }) {
                return Err(argument!("{name}: {} x {} ids for {h} steps", shape.c, shape.h));
            }
        }
        let product = Linear::dense(weights, bias, Activation::None);
        let op = Op::Recurrent(Recurrent { cell, product, steps: h, sequences, reverse });
        let inputs: Vec<usize> = [products].into_iter().chain(ids).collect();
        Ok(self.push(name, op, &inputs, Shape { c: units, h: if sequences { h } else { 1 }, w }))
    }

    /// Normalization over features.
    ///
    /// # Errors
    /// Where there is not a factor and a summand a feature, or the edge is an image.
    pub fn layer_norm(
        &mut self,
        name: &str,
        from: usize,
        scale: Vec<f32>,
        shift: Vec<f32>,
        epsilon: f32,
    ) -> Result<usize> {
        let shape = self.read(name, from)?;
        let Shape { c, h, w } = shape;
        if scale.len() != c || shift.len() != c || (h * w != 1 && !self.is_of_sequences()) {
            return Err(argument!("{name}: {} scales and {} shifts for ({c}, {h}, {w})", scale.len(), shift.len()));
        }
        Ok(self.push(name, Op::LayerNorm { scale, shift, epsilon }, &[from], shape))
    }

    /// The channels of two edges, side by side.
    ///
    /// # Errors
    /// Where they have other numbers of pixels.
    pub fn concat(&mut self, name: &str, (a, b): (usize, usize)) -> Result<usize> {
        let (one, other) = (self.read(name, a)?, self.read(name, b)?);
        if (one.h, one.w) != (other.h, other.w) {
            return Err(argument!("{name}: {} x {} next to {} x {}", one.h, one.w, other.h, other.w));
        }
        Ok(self.push(name, Op::Concat, &[a, b], Shape { c: one.c + other.c, ..one }))
    }

    /// The nodes, for rewriting; edges keep their numbers and shapes.
    pub(super) fn nodes_mut(&mut self) -> &mut Vec<Node> {
        &mut self.nodes
    }
}

fn check_bias(name: &str, bias: Option<&[f32]>, rows: usize) -> Result<()> {
    match bias {
        Some(bias) if bias.len() != rows => Err(argument!("{name}: {} bias values for {rows} outputs", bias.len())),
        _ => Ok(()),
    }
}

/// The window, with strides that do not lead out of the image: one position is one position.
fn checked_window(name: &str, window: Window, border: Border, Shape { h, w, .. }: Shape) -> Result<Window> {
    let Window { size, stride, dilation } = window;
    let Border { top, left, bottom, right } = border;
    if let Some(pad) = [top, left, bottom, right].into_iter().find(|&pad| pad > MOST_PADDING) {
        return Err(argument!("{name}: expected at most {MOST_PADDING} rows or columns of padding, got {pad}"));
    }
    if [size, stride, dilation].iter().any(|&(rows, columns)| rows == 0 || columns == 0) {
        return Err(argument!(
            "{name}: window, stride and dilation must be positive, got {size:?}, {stride:?} and {dilation:?}"
        ));
    }
    let fits = |size: usize, step: usize, len: usize| (size - 1).checked_mul(step).is_some_and(|reach| reach < len);
    if !fits(size.0, dilation.0, h) || !fits(size.1, dilation.1, w) {
        let apart = if dilation == (1, 1) { String::new() } else { format!(" with dilation {dilation:?}") };
        return Err(argument!("{name}: a {} x {} window{apart} does not fit an image of {h} x {w}", size.0, size.1));
    }
    Ok(Window { size, stride: (stride.0.min(h), stride.1.min(w)), dilation })
}
