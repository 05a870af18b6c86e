//! Nodes and typed edges. Every node is checked as it is added, so a graph always has consistent shapes.

use crate::argument;
use crate::error::Result;
use crate::formats::Reduction;
use crate::formats::{Activation, Rows, Window};
use crate::ops::Shape;
use crate::ops::linear::{Linear, depthwise};
use crate::ops::relayout::Border;

/// The element type of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
}

/// A tensor between two nodes, for one image. Its layout is chosen when a plan is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Element type.
    pub dtype: Dtype,
    /// Shape of one image.
    pub shape: Shape,
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
}

/// A node: reads one edge, writes another.
#[derive(Debug, Clone)]
pub struct Node {
    /// The layer's name.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// The edge it reads.
    pub input: usize,
    /// The edge it writes.
    pub output: usize,
}

/// A network. Nodes are in the order in which they run.
#[derive(Debug, Clone)]
pub struct Graph {
    edges: Vec<Edge>,
    nodes: Vec<Node>,
    winograd: bool,
}

impl Graph {
    /// A graph of no nodes over images of this shape.
    pub fn new(input: Shape) -> Graph {
        Graph { edges: vec![Edge { dtype: Dtype::F32, shape: input }], nodes: Vec::new(), winograd: true }
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

    /// The border of zeros that an edge is known to have.
    pub fn border_around(&self, edge: usize) -> Option<Border> {
        let pads = self.nodes.iter().filter(|node| node.output == edge);
        pads.filter_map(|node| if let Op::Pad(border) = node.op { Some(border) } else { None }).next()
    }

    /// Shape of an input image.
    pub fn input(&self) -> Shape {
        self.edges[0].shape
    }

    /// Shape of an output image.
    pub fn output(&self) -> Shape {
        self.edges[self.edges.len() - 1].shape
    }

    /// A node that reads the newest edge.
    fn push(&mut self, name: &str, op: Op, shape: Shape) {
        let input = self.edges.len() - 1;
        self.edges.push(Edge { dtype: Dtype::F32, shape });
        self.nodes.push(Node { name: name.into(), op, input, output: input + 1 });
    }

    /// Dense: `weights` (outputs, inputs).
    ///
    /// # Errors
    /// Where the weights, the bias and the edge do not fit.
    pub fn dense(&mut self, name: &str, weights: Rows, bias: Option<Vec<f32>>, activation: Activation) -> Result<()> {
        let input = self.output();
        if input.h * input.w != 1 || input.c != weights.columns() {
            let Shape { c, h, w } = input;
            return Err(argument!("{name}: weights take {} features, the input is ({c}, {h}, {w})", weights.columns()));
        }
        check_bias(name, bias.as_deref(), weights.rows())?;
        let output = Shape::features(weights.rows());
        let window = Window::ONE;
        self.push(
            name,
            Op::Linear(Linear {
                weights,
                bias,
                activation,
                window,
                groups: 1,
                border: Border::default(),
                input,
                output,
            }),
            output,
        );
        Ok(())
    }

    /// Conv2D in `groups`: `weights` (filters, channels / groups · rows · columns), the filter in `window`, with `border`
    /// zeros around.
    ///
    /// # Errors
    /// Where the weights, the bias, the filter and the edge do not fit.
    pub fn conv2d(
        &mut self,
        name: &str,
        weights: Rows,
        bias: Option<Vec<f32>>,
        (window, groups): (Window, usize),
        border: Border,
        activation: Activation,
    ) -> Result<()> {
        let (taps, channels) = (window.size.0 * window.size.1, self.output().c);
        if groups == 0 || !channels.is_multiple_of(groups) || !weights.rows().is_multiple_of(groups) {
            let filters = weights.rows();
            return Err(argument!("{name}: {groups} groups do not divide {channels} channels and {filters} filters"));
        }
        let channels = channels / groups;
        if weights.columns() != channels * taps {
            return Err(argument!("{name}: {} weights a filter, {channels} channels x {taps} taps", weights.columns()));
        }
        check_bias(name, bias.as_deref(), weights.rows())?;
        let outer = border.around(self.output());
        check_window(name, window, outer)?;
        let (h, w) = window.over(outer.h, outer.w);
        let output = Shape { c: weights.rows(), h, w };
        let border = if depthwise(groups, outer.c) {
            border
        } else {
            if !border.is_zero() {
                self.push(&format!("{name}.pad"), Op::Pad(border), outer);
            }
            Border::default()
        };
        let input = self.output();
        let linear = Linear { weights, bias, activation, window, groups, border, input, output };
        self.push(name, Op::Linear(linear), output);
        Ok(())
    }

    /// Pooling; windows may hang over `border` rows and columns, which count for nothing.
    ///
    /// # Errors
    /// Where the window does not fit the edge.
    pub fn pool(&mut self, name: &str, reduction: Reduction, window: Window, border: Border) -> Result<()> {
        let input = border.around(self.output());
        check_window(name, window, input)?;
        if border.top.max(border.bottom) >= window.size.0 || border.left.max(border.right) >= window.size.1 {
            return Err(argument!("{name}: padding as large as the window leaves windows empty"));
        }
        let (h, w) = window.over(input.h, input.w);
        let shape = Shape { c: input.c, h, w };
        self.push(name, Op::Pool { reduction, window, offset: (border.top, border.left) }, shape);
        Ok(())
    }

    /// An activation of its own.
    pub fn activation(&mut self, name: &str, activation: Activation) {
        self.push(name, Op::Activation(activation), self.output());
    }

    /// One factor and summand a channel.
    ///
    /// # Errors
    /// Where there is not one of each a channel.
    pub fn scale(&mut self, name: &str, scale: Vec<f32>, shift: Vec<f32>) -> Result<()> {
        let shape = self.output();
        if scale.len() != shape.c || shift.len() != shape.c {
            return Err(argument!(
                "{name}: {} scales and {} shifts for {} channels",
                scale.len(),
                shift.len(),
                shape.c
            ));
        }
        self.push(name, Op::Scale { scale, shift }, shape);
        Ok(())
    }

    /// Softmax over features.
    ///
    /// # Errors
    /// Where the input is an image.
    pub fn softmax(&mut self, name: &str) -> Result<()> {
        let shape = self.output();
        if shape.h * shape.w != 1 {
            return Err(argument!("{name}: softmax takes vectors, not images of {} x {}", shape.h, shape.w));
        }
        self.push(name, Op::Softmax, shape);
        Ok(())
    }

    /// (c, h, w) to (c·h·w).
    pub fn flatten(&mut self, name: &str) {
        self.push(name, Op::Flatten, Shape::features(self.output().len()));
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

fn check_window(name: &str, window: Window, Shape { h, w, .. }: Shape) -> Result<()> {
    let Window { size, stride, dilation } = window;
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
    Ok(())
}
