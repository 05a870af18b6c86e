//! Rewrites that hold for every batch size and machine: batch normalizations are folded into the weights before them,
//! activations fused into the layer before them. The layer takes over the edge of the node that disappears.

use super::graph::{Graph, Node, Op};
use crate::error::Result;
use crate::formats::{Activation, Rows};
use crate::ops::linear::Linear;

/// Folds scales and fuses activations.
///
/// # Errors
/// Never for a checked graph; folded weights pass through the checked constructor all the same.
pub fn fuse(graph: &mut Graph) -> Result<()> {
    let mut fused: Vec<Node> = Vec::new();
    for node in graph.nodes_mut().drain(..) {
        if let Some(Node { op: Op::Linear(linear), output, .. }) = fused.last_mut()
            && linear.activation == Activation::None
        {
            match &node.op {
                Op::Scale { scale, shift } => {
                    fold(linear, scale, shift)?;
                    *output = node.output;
                    continue;
                }
                Op::Activation(activation) => {
                    linear.activation = *activation;
                    *output = node.output;
                    continue;
                }
                _ => {}
            }
        }
        fused.push(node);
    }
    *graph.nodes_mut() = fused;
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
