//! Recurrent layers and what goes with them: every kernel, on every target, against the definition.

use super::{agrees, cases};
use crate::executor::Sequential;
use crate::formats::{Activation, Rows};
use crate::naive::{self, Exact, numbers};
use crate::ops::cell::Cell;
use crate::plan::{Choices, Graph, Plan, choose};
use crate::simd::Target;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Errors of a step, of which a part remains in the next: enough for a few steps of small weights.
const BOUND: f64 = 4e-6;

fn exact(values: Vec<f64>) -> Vec<Exact> {
    values.into_iter().map(|value| Exact { value, bound: BOUND * (1.0 + value.abs()) }).collect()
}

/// Runs all candidates of the last node, the others in the layouts of inputs.
fn check(graph: &Graph, images: usize, x: &[f32], wanted: &[Vec<Exact>]) {
    let nodes = graph.nodes();
    let last = nodes.len() - 1;
    for choice in choose::candidates(graph, &nodes[last], images) {
        let first = nodes[..last].iter().map(|node| (node.name.clone(), choose::candidates(graph, node, images)[0]));
        let choices: Choices = first.chain([(nodes[last].name.clone(), choice)]).collect();
        agrees(graph, images, &choices, x, wanted);
    }
}

proptest! {
    #![proptest_config(cases(30))]

    #[test]
    fn recurrent_layers(
        cell in prop::sample::select(vec![Cell::Tanh, Cell::Relu, Cell::Lstm, Cell::Gru]),
        (steps, units) in (1usize..5, prop::sample::select(vec![1usize, 3, 8, 16, 17, 40])),
        images in prop::sample::select(vec![1usize, 2, 7, 9, 17, 33, 70]),
        (sequences, reverse, padded, biased) in any::<(bool, bool, bool, bool)>(),
        density in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let rows = units * cell.gates();
        let small = |len, seed| -> Vec<f32> { numbers(len, 1.0, seed).iter().map(|x| x * 0.5).collect() };
        let dense: Vec<f32> = numbers(rows * units, density, seed).iter().map(|w| w * 0.3).collect();
        let weights = Rows::from_dense(rows, units, &dense).unwrap();
        let bias = biased.then(|| small(rows, seed ^ 1));
        let ways = (sequences, reverse);
        let (mut graph, x, products) = if padded {
            let table = small(5 * rows, seed ^ 2);
            let mut graph = Graph::of_sequences(steps, 1);
            let products = graph.look_up("table", Graph::INPUT, table.clone(), rows).unwrap();
            let ids: Vec<f32> = (0..images * steps).map(|i| (seed.rotate_left(i as u32 * 7) % 5) as f32).collect();
            let looked_up = ids.iter().flat_map(|&id| table[id as usize * rows..][..rows].to_vec()).collect();
            graph.recurrent("rnn", cell, (products, Some(Graph::INPUT)), weights.clone(), bias.clone(), ways).unwrap();
            (graph, ids, looked_up)
        } else {
            let x = small(images * steps * rows, seed ^ 3);
            (Graph::of_sequences(steps, rows), x.clone(), x)
        };
        if !padded {
            graph.recurrent("rnn", cell, (Graph::INPUT, None), weights.clone(), bias.clone(), ways).unwrap();
        }
        let wanted: Vec<_> = (0..images)
            .map(|n| {
                let skip: Vec<bool> = (0..steps).map(|t| padded && x[n * steps + t] == 0.0).collect();
                let products = &products[n * steps * rows..][..steps * rows];
                exact(naive::recurrent(cell, (&weights, bias.as_deref()), ways, products, &skip))
            })
            .collect();
        check(&graph, images, &x, &wanted);
    }

    #[test]
    fn layer_norms_and_concatenations(
        (steps, features) in (1usize..5, 1usize..40),
        images in prop::sample::select(vec![1usize, 2, 9, 17, 33]),
        seed in any::<u64>(),
    ) {
        let mut graph = Graph::of_sequences(steps, features);
        let (scale, shift) = (numbers(features, 1.0, seed), numbers(features, 1.0, seed ^ 1));
        graph.layer_norm("norm", Graph::INPUT, scale.clone(), shift.clone(), 1e-3).unwrap();
        let x = numbers(images * steps * features, 1.0, seed ^ 2);
        let normal = |x: &[f32]| naive::layer_norm(x, &scale, &shift, 1e-3);
        let wanted: Vec<Vec<Exact>> =
            x.chunks(steps * features).map(|x| exact(x.chunks(features).flat_map(normal).collect())).collect();
        check(&graph, images, &x, &wanted);
        graph.concat("both", (1, Graph::INPUT)).unwrap();
        let both = |x: &[f32]| x.chunks(features).flat_map(|x| {
            normal(x).into_iter().chain(x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>())
        }).collect();
        let wanted: Vec<Vec<Exact>> = x.chunks(steps * features).map(|x| exact(both(x))).collect();
        check(&graph, images, &x, &wanted);
    }
}

#[test]
fn ids_without_a_row_are_refused() {
    let mut graph = Graph::of_sequences(2, 1);
    graph.look_up("table", Graph::INPUT, vec![1.0; 6], 2).unwrap();
    let plan = Plan::new(graph, &[1], Target::detect(), Arc::new(Sequential), &BTreeMap::new(), true).unwrap();
    let mut y = [0.0; 4];
    plan.run(1, &[0.0, 2.0], &mut y).unwrap();
    for wrong in [-1.0, 3.0, 0.5, f32::NAN] {
        let refused = plan.run(1, &[0.0, wrong], &mut y).unwrap_err().to_string();
        assert!(refused.contains("expected ids from 0 to 2"), "{refused}");
    }
}

#[test]
fn what_does_not_fit_a_sequence_is_named() {
    let rows = |m: usize, k: usize| Rows::from_dense(m, k, &vec![1.0; m * k]).unwrap();
    let mut graph = Graph::of_sequences(3, 8);
    let lstm = |graph: &mut Graph, ids, weights, bias| {
        graph.recurrent("rnn", Cell::Lstm, (Graph::INPUT, ids), weights, bias, (true, false)).unwrap_err().to_string()
    };
    assert!(lstm(&mut graph, None, rows(8, 3), None).contains("rnn: 8 x 3 weights"));
    assert!(lstm(&mut graph, None, rows(8, 2), Some(vec![0.0; 7])).contains("rnn: 7 bias values"));
    assert!(lstm(&mut graph, Some(Graph::INPUT), rows(8, 2), None).contains("rnn: 8 x 3 ids for 3 steps"));
    let slice = |graph: &mut Graph, from, part| graph.slice("part", from, part).unwrap_err().to_string();
    assert!(slice(&mut graph, 0, (7, 2)).contains("part: 2 channels from 7 on, of 8"));
    assert!(slice(&mut graph, 0, (2, 0)).contains("part: 0 channels"));
    let other = graph.activation("relu", 0, Activation::Relu).unwrap();
    assert!(graph.look_up("table", other, vec![1.0; 6], 2).unwrap_err().to_string().contains("table: takes the ids"));
    assert!(graph.layer_norm("norm", 0, vec![1.0; 7], vec![0.0; 8], 1e-5).is_err());
    let shorter = graph.recurrent("rnn", Cell::Lstm, (0, None), rows(8, 2), None, (false, false)).unwrap();
    assert!(graph.concat("both", (0, shorter)).unwrap_err().to_string().contains("both: 3 x 1 next to 1 x 1"));
    let mut images = Graph::new(crate::ops::Shape { c: 8, h: 3, w: 1 });
    assert!(lstm(&mut images, None, rows(8, 2), None).contains("rnn: 8 x 2 weights"));
    let mut ids = Graph::of_sequences(3, 1);
    for (table, features) in [(vec![], 2), (vec![1.0; 3], 2), (vec![1.0; 3], 0)] {
        assert!(ids.look_up("table", 0, table, features).unwrap_err().to_string().contains("are not rows of"));
    }
}
