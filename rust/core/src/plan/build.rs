//! Rewrites that hold for every batch size and machine: batch normalizations are folded into the weights before them, sums and
//! activations fused into the layer before them. The layer takes over the edge of the node that disappears.

use super::graph::{Graph, Node, Op};
use crate::error::Result;
use crate::formats::{Activation, Rows};
use crate::ops::linear::Linear;
use std::collections::HashMap;

/// Folds scales, fuses sums and activations.
///
/// # Errors
/// Never for a checked graph; folded weights pass through the checked constructor all the same.
pub fn fuse(graph: &mut Graph) -> Result<()> {
    let nodes = std::mem::take(graph.nodes_mut());
    let mut readers: HashMap<usize, usize> = HashMap::new();
    nodes.iter().flat_map(|node| &node.inputs).for_each(|&edge| *readers.entry(edge).or_default() += 1);
    let mut fused: Vec<Node> = Vec::new();
    for node in nodes {
        // Who wrote what this node alone reads, the latest first.
        let alone = |writer: &Node| node.inputs.contains(&writer.output) && readers[&writer.output] == 1;
        match fused.iter().rposition(|writer| alone(writer) && can_take(writer, &node)) {
            Some(at) => {
                // To where the node was: all that it reads is made by then.
                let mut writer = fused.remove(at);
                take(&mut writer, node)?;
                fused.push(writer);
            }
            None => fused.push(node),
        }
    }
    *graph.nodes_mut() = fused;
    Ok(())
}

/// Whether a node can do what the one behind it does.
fn can_take(writer: &Node, node: &Node) -> bool {
    match (&writer.op, &node.op) {
        (Op::Linear(linear), Op::Scale { .. }) => linear.activation == Activation::None && !linear.residual,
        (Op::Linear(linear), Op::Add(_)) => linear.activation == Activation::None && !linear.residual,
        (Op::Linear(linear), Op::Activation(_)) => linear.activation == Activation::None,
        (Op::Add(activation), Op::Activation(_)) => *activation == Activation::None,
        _ => false,
    }
}

fn take(writer: &mut Node, node: Node) -> Result<()> {
    match (&mut writer.op, node.op) {
        (Op::Linear(linear), Op::Scale { scale, shift }) => fold(linear, &scale, &shift)?,
        (Op::Linear(linear), Op::Add(activation)) => {
            (linear.residual, linear.activation) = (true, activation);
            writer.inputs.extend(node.inputs.into_iter().filter(|&edge| edge != writer.output));
        }
        (Op::Linear(Linear { activation, .. }) | Op::Add(activation), Op::Activation(kind)) => *activation = kind,
        _ => {}
    }
    writer.output = node.output;
    Ok(())
}

/// s · (W x + b) + t is (s W) x + (s b + t).
fn fold(linear: &mut Linear, scale: &[f32], shift: &[f32]) -> Result<()> {
    let (m, k) = (linear.weights.rows(), linear.weights.columns());
    let mut dense = linear.weights.to_dense();
    for (weights, scale) in dense.chunks_mut(k.max(1)).zip(scale) {
        weights.iter_mut().for_each(|w| *w *= scale);
    }
    let bias = linear.bias.take().unwrap_or_else(|| vec![0.0; m]);
    linear.bias = Some(bias.iter().zip(scale).zip(shift).map(|((b, s), t)| b * s + t).collect());
    linear.weights = Rows::from_dense(m, k, &dense)?;
    Ok(())
}
