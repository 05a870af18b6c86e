//! Networks as plain data: JSON, an object a node, and arrays by name. That is what files of kind "plan" hold, and what bindings
//! hand over.
//!
//! ```text
//! {"op": "dense", "name": "dense_1", "activation": "relu", "inputs": ["flatten"]}      arrays dense_1.weight, dense_1.bias
//! ```
//! Without `inputs` a node reads what the one before it writes; the network's input is called `input`.

use super::{Contents, Tensor, Values};
use crate::error::Result;
use crate::formats::{Activation, Reduction, Rows, Window};
use crate::ops::Shape;
use crate::ops::cell::Cell;
use crate::ops::relayout::Border;
use crate::plan::{Choices, Graph};
use crate::{Error, argument, malformed};
use std::collections::{BTreeMap, HashMap};

/// What the network's input is called among a node's inputs.
const INPUT: &str = "input";

type Pair = (usize, usize);

/// Top, left, bottom, right.
type Pads = (usize, usize, usize, usize);

/// What a node is and where it reads.
#[derive(serde::Deserialize)]
struct Named {
    op: String,
    name: String,
    inputs: Option<Vec<String>>,
}

/// What a node does; its arrays aside.
#[derive(serde::Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Kind {
    Dense {
        activation: Option<Activation>,
    },
    Conv2d {
        size: Pair,
        strides: Pair,
        pads: Pads,
        // Files from before these existed do not have them.
        #[serde(default = "undilated")]
        dilation: Pair,
        #[serde(default = "whole")]
        groups: usize,
        activation: Option<Activation>,
    },
    Pool {
        kind: Reduction,
        size: Pair,
        strides: Pair,
        pads: Pads,
    },
    Activation {
        kind: Activation,
    },
    Scale,
    Softmax,
    Flatten,
    Add,
    Embedding,
    Recurrent {
        cell: String,
        sequences: bool,
        reverse: bool,
    },
    LayerNorm {
        epsilon: f32,
    },
    Concat,
    Slice {
        first: usize,
        count: usize,
    },
    #[serde(other)]
    Unknown,
}

impl Kind {
    /// Whether it treats an image of one column as such.
    fn is_upright(&self) -> bool {
        match self {
            Kind::Conv2d { size, strides, pads, .. } | Kind::Pool { size, strides, pads, .. } => {
                size.1 == 1 && strides.1 == 1 && pads.1 == 0 && pads.3 == 0
            }
            _ => true,
        }
    }

    /// What it does to the same image as a row, where that is something else.
    fn turned(&self) -> Option<Kind> {
        let over = |(rows, columns): Pair| (columns, rows);
        let around = |(top, left, bottom, right): Pads| (left, top, right, bottom);
        match *self {
            Kind::Conv2d { size, strides, pads, dilation, groups, activation } => Some(Kind::Conv2d {
                size: over(size),
                strides: over(strides),
                pads: around(pads),
                dilation: over(dilation),
                groups,
                activation,
            }),
            Kind::Pool { kind, size, strides, pads } => {
                Some(Kind::Pool { kind, size: over(size), strides: over(strides), pads: around(pads) })
            }
            _ => None,
        }
    }
}

fn undilated() -> Pair {
    (1, 1)
}

fn whole() -> usize {
    1
}

/// The arrays of a network, by "NODE.ARRAY".
pub type Arrays<'a> = BTreeMap<String, Tensor<'a>>;

/// Those of one node.
struct Own<'a> {
    arrays: &'a Arrays<'a>,
    node: &'a str,
}

impl Own<'_> {
    fn get(&self, key: &str) -> Result<Option<(&[usize], &[f32])>> {
        let Some(tensor) = self.arrays.get(&format!("{}.{key}", self.node)) else { return Ok(None) };
        match &tensor.values {
            Values::F32(values) if tensor.shape.iter().product::<usize>() == values.len() => {
                Ok(Some((&tensor.shape, values)))
            }
            _ => Err(argument!("{}: its {key} is no array of float32", self.node)),
        }
    }

    fn need(&self, key: &str) -> Result<(&[usize], &[f32])> {
        self.get(key)?.ok_or_else(|| argument!("{}: it has no {key}", self.node))
    }

    /// The weights of an array of any rank, whose first axis is the rows.
    fn rows(&self) -> Result<Rows> {
        let (shape, values) = self.need("weight")?;
        let Some((&rows, rest)) = shape.split_first() else {
            return Err(argument!("{}: its weight is a number", self.node));
        };
        Rows::from_dense(rows, rest.iter().product(), values)
    }

    fn vector(&self, key: &str) -> Result<Vec<f32>> {
        Ok(self.need(key)?.1.to_vec())
    }

    fn bias(&self) -> Result<Option<Vec<f32>>> {
        Ok(self.get("bias")?.map(|(_, values)| values.to_vec()))
    }
}

/// The graph of a network over samples of this shape: (features), (steps, features), (channels, rows, columns), or (steps) of ids.
///
/// # Errors
/// JSON that is no list of nodes, a node that plans cannot run, and arrays and nodes that do not fit together.
pub fn graph(input_shape: &[usize], nodes: &str, arrays: &Arrays<'_>) -> Result<Graph> {
    let nodes: Vec<serde_json::Value> = json("nodes", nodes)?;
    graph_of(input_shape, nodes, arrays)
}

fn json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| malformed!("{what}: {error}"))
}

fn graph_of(input_shape: &[usize], nodes: Vec<serde_json::Value>, arrays: &Arrays<'_>) -> Result<Graph> {
    let nodes: Vec<(Named, Kind)> = nodes.into_iter().map(node).collect::<Result<_>>()?;
    let ids = matches!(nodes.first(), Some((_, Kind::Embedding)));
    // What lies as it would as a row may as well be one.
    let column = matches!(*input_shape, [_, _, 1]) && nodes.iter().all(|(_, layer)| layer.is_upright());
    let mut graph = match *input_shape {
        [c, h, 1] if column => Graph::of_columns(c, h),
        [steps] if ids => Graph::of_ids(steps),
        [features] => Graph::of_vectors(features),
        [steps, features] => Graph::of_sequences(steps, features),
        [c, h, w] => Graph::new(Shape { c, h, w }),
        _ => return Err(argument!("input_shape: expected one to three axes, got {input_shape:?}")),
    };
    let mut edges: HashMap<&str, usize> = HashMap::from([(INPUT, Graph::INPUT)]);
    let mut last = INPUT;
    for (Named { op, name, inputs }, layer) in &nodes {
        let inputs = inputs.as_ref().map_or(vec![last], |inputs| inputs.iter().map(String::as_str).collect());
        let edge = |&input: &&str| {
            edges
                .get(input)
                .copied()
                .ok_or_else(|| argument!("{name}: reads {input:?}, which no node before it writes"))
        };
        let inputs: Vec<usize> = inputs.iter().map(edge).collect::<Result<_>>()?;
        let own = Own { arrays, node: name };
        let turned = if column { layer.turned() } else { None };
        edges.insert(name, add(&mut graph, op, turned.as_ref().unwrap_or(layer), &inputs, &own)?);
        last = name;
    }
    Ok(graph)
}

fn node(value: serde_json::Value) -> Result<(Named, Kind)> {
    let named: Named = serde_json::from_value(value.clone()).map_err(|error| malformed!("nodes: {error}"))?;
    let layer = serde_json::from_value(value).map_err(|error| malformed!("{}: {error}", named.name))?;
    Ok((named, layer))
}

/// Adds a node; the edge that it writes.
fn add(graph: &mut Graph, op: &str, layer: &Kind, inputs: &[usize], own: &Own<'_>) -> Result<usize> {
    let name = own.node;
    let &[x, ref others @ ..] = inputs else { return Err(argument!("{name}: it has no inputs")) };
    let both = || others.first().map(|&y| (x, y)).ok_or_else(|| argument!("{name}: it has one input"));
    match *layer {
        Kind::Dense { activation } => graph.dense(name, x, own.rows()?, own.bias()?, activation.unwrap_or_default()),
        Kind::Conv2d { size, strides, pads, dilation, groups, activation } => {
            let window = Window { size, stride: strides, dilation };
            let (weights, bias) = (own.rows()?, own.bias()?);
            graph.conv2d(name, x, weights, bias, (window, groups), border(pads), activation.unwrap_or_default())
        }
        Kind::Pool { kind, size, strides, pads } => graph.pool(name, x, kind, Window::new(size, strides), border(pads)),
        Kind::Activation { kind } => graph.activation(name, x, kind),
        Kind::Scale => graph.scale(name, x, own.vector("scale")?, own.vector("shift")?),
        Kind::Softmax => graph.softmax(name, x),
        Kind::Flatten => graph.flatten(name, x),
        Kind::Add => graph.add(name, both()?),
        Kind::Embedding => {
            let (shape, table) = own.need("weight")?;
            graph.look_up(name, x, table.to_vec(), shape.get(1).copied().unwrap_or(0))
        }
        Kind::Recurrent { ref cell, sequences, reverse } => {
            let edges = (x, others.first().copied());
            graph.recurrent(name, Cell::parse(cell)?, edges, own.rows()?, own.bias()?, (sequences, reverse))
        }
        Kind::LayerNorm { epsilon } => graph.layer_norm(name, x, own.vector("scale")?, own.vector("shift")?, epsilon),
        Kind::Concat => graph.concat(name, both()?),
        Kind::Slice { first, count } => graph.slice(name, x, (first, count)),
        Kind::Unknown => Err(Error::Unsupported(format!("{name}: plans cannot run a node of type {op:?}"))),
    }
}

fn border((top, left, bottom, right): Pads) -> Border {
    Border { top, left, bottom, right }
}

/// A network and how it was compiled.
pub struct Network {
    /// The network.
    pub graph: Graph,
    /// Batch sizes chosen for.
    pub batches: Vec<usize>,
    /// What was chosen.
    pub choices: BTreeMap<usize, Choices>,
    /// Where that was measured: see [`crate::simd::Target::signature`].
    pub cpu: String,
}

/// The metadata of a file of kind "plan".
#[derive(serde::Deserialize)]
struct Compiled {
    input_shape: Vec<usize>,
    nodes: Vec<serde_json::Value>,
    batch: Vec<usize>,
    choices: BTreeMap<usize, Choices>,
    #[serde(default = "allowed")]
    winograd: bool,
    cpu: String,
}

fn allowed() -> bool {
    true
}

/// The network in a file of kind "plan", as [`super::decode`] has read it.
///
/// # Errors
/// A file of another kind, and whatever [`graph`] finds.
pub fn network((arrays, metadata): &Contents) -> Result<Network> {
    let text = |key: &str| metadata.get(key).map_or("", String::as_str);
    if text("kind") != "plan" {
        return Err(malformed!("expected a file of kind \"plan\", got {:?}", text("kind")));
    }
    let compiled: Compiled = json("plan", text("plan"))?;
    let mut graph = graph_of(&compiled.input_shape, compiled.nodes, arrays)?;
    graph.allow_winograd(compiled.winograd);
    Ok(Network { graph, batches: compiled.batch, choices: compiled.choices, cpu: compiled.cpu })
}
