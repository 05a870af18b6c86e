//! Every candidate of every kind of node, on every target, against plain loops in f64.

use super::*;
use crate::executor::{Executor, Sequential, with_threads};
use crate::formats::{Activation, Rows};
use crate::ops::linear::Linear;
use crate::ops::pool::{Reduction, Window};
use crate::ops::relayout::Border;
use crate::ops::{Layout, Shape};
use crate::simd::Target;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

fn numbers(len: usize, density: f64, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..len).map(|_| if next() < density { (next() * 2.0 - 1.0) as f32 } else { 0.0 }).collect()
}

fn cases(most: u32) -> ProptestConfig {
    let asked = std::env::var("SECATEUR_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig::with_cases(asked.map_or(most, |asked: u32| asked.min(most * 20)))
}

/// Values of one image (c, h, w), and for each the sum of absolute products behind it and their number.
type Reference = Vec<(f64, f64, f64)>;

fn linear(layer: &Linear, border: Border, inner: Shape, x: &[f32]) -> Reference {
    let (rows, columns) = layer.window.size;
    let mut out = Vec::new();
    for filter in 0..layer.output.c {
        for y in 0..layer.output.h {
            for z in 0..layer.output.w {
                let bias = layer.bias.as_ref().map_or(0.0, |bias| bias[filter] as f64);
                let (mut sum, mut size, mut count) = (bias, bias.abs(), 2.0);
                for (k, w) in layer.weights.row(filter) {
                    let (c, i, j) = (k / (rows * columns), k / columns % rows, k % columns);
                    let row = (y * layer.window.stride.0 + i).wrapping_sub(border.top);
                    let column = (z * layer.window.stride.1 + j).wrapping_sub(border.left);
                    if row < inner.h && column < inner.w {
                        let product = w as f64 * x[(c * inner.h + row) * inner.w + column] as f64;
                        (sum, size, count) = (sum + product, size + product.abs(), count + 1.0);
                    }
                }
                let sum = if layer.activation == Activation::Relu { sum.max(0.0) } else { sum };
                out.push((sum, size, count));
            }
        }
    }
    out
}

/// Runs every candidate of the last node on every target, with 1 and 3 threads, and checks each image.
fn check(graph: &Graph, images: usize, reference: &dyn Fn(&[f32]) -> Reference) {
    let (input, output) = (graph.input().len(), graph.output().len());
    let x = numbers(images * input, 1.0, 99);
    let unit = 2f64.powi(-24);
    let wanted: Vec<Reference> = x.chunks(input.max(1)).map(reference).collect();
    let nodes = graph.nodes();
    let last = nodes.len() - 1;
    for choice in choose::candidates(graph, &nodes[last], images) {
        let mut choices: Choices = Vec::new();
        for node in &nodes[..last] {
            let plain = Choice { kernel: None, input: Layout::RowMajor, output: Layout::RowMajor };
            choices.push((node.name.clone(), plain));
        }
        choices.push((nodes[last].name.clone(), choice));
        for target in Target::available() {
            let mut once: Option<Vec<f32>> = None;
            for threads in [1, 3] {
                let executor: Arc<dyn Executor> = with_threads(threads);
                let given = BTreeMap::from([(images, choices.clone())]);
                let plan = Plan::new(graph.clone(), &[images], target, executor, &given, false).unwrap();
                let mut y = vec![f32::NAN; images * output];
                plan.run(images, &x, &mut y).unwrap();
                plan.run(images, &x, &mut y).unwrap(); // buffers of the first run, used again
                for (n, wanted) in wanted.iter().enumerate() {
                    for (at, &(value, size, count)) in wanted.iter().enumerate() {
                        let error = (y[n * output + at] as f64 - value).abs();
                        let bound = count * unit / (1.0 - count * unit) * size;
                        assert!(error <= bound, "{choice:?} {} image {n} at {at}: {error:e}", target.name());
                    }
                }
                let bits = once.get_or_insert_with(|| y.clone());
                assert!(bits.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()), "{choice:?} {threads} threads");
            }
        }
    }
}

fn last_linear(graph: &Graph) -> &Linear {
    match &graph.nodes()[graph.nodes().len() - 1].op {
        Op::Linear(linear) => linear,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn convolutions(
        (c, h, w) in (1usize..5, 1usize..24, 1usize..40),
        filters in 1usize..36,
        size in (1usize..5, 1usize..5),
        stride in (1usize..4, 1usize..4),
        border in (0usize..3, 0usize..3, 0usize..3, 0usize..3),
        images in prop::sample::select(vec![1usize, 2, 7, 9, 17, 33]),
        density in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let inner = Shape { c, h, w };
        let border = Border { top: border.0, left: border.1, bottom: border.2, right: border.3 };
        let outer = border.around(inner);
        prop_assume!(size.0 <= outer.h && size.1 <= outer.w);
        let columns = c * size.0 * size.1;
        let weights = Rows::from_dense(filters, columns, &numbers(filters * columns, density, seed)).unwrap();
        let mut graph = Graph::new(inner);
        let window = Window { size, stride };
        let bias = Some(numbers(filters, 1.0, seed ^ 5));
        graph.conv2d("conv", weights, bias, window, border, Activation::Relu).unwrap();
        let layer = last_linear(&graph).clone();
        check(&graph, images, &|x| linear(&layer, border, inner, x));
    }

    #[test]
    fn dense_layers(
        (features, outputs) in (1usize..200, 1usize..140),
        images in prop::sample::select(vec![1usize, 2, 7, 9, 17, 33, 70]),
        density in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let weights = Rows::from_dense(outputs, features, &numbers(outputs * features, density, seed)).unwrap();
        let mut graph = Graph::new(Shape::features(features));
        graph.dense("dense", weights, Some(numbers(outputs, 1.0, seed ^ 5)), Activation::Relu).unwrap();
        let layer = last_linear(&graph).clone();
        check(&graph, images, &|x| linear(&layer, Border::default(), layer.input, x));
    }

    #[test]
    fn poolings(
        (c, h, w) in (1usize..20, 1usize..20, 1usize..40),
        size in (1usize..4, 1usize..4),
        stride in (1usize..4, 1usize..4),
        pad in any::<bool>(),
        average in any::<bool>(),
        images in prop::sample::select(vec![1usize, 2, 9, 33]),
    ) {
        let (size, stride) = if pad { (size, stride) } else { ((2, 2), (2, 2)) };
        let pads = if pad { (size.0 - 1, size.1 - 1) } else { (0, 0) };
        let inner = Shape { c, h, w };
        let border = Border { top: pads.0 / 2, left: pads.1 / 2, bottom: pads.0 - pads.0 / 2, right: pads.1 - pads.1 / 2 };
        let outer = border.around(inner);
        prop_assume!(size.0 <= outer.h && size.1 <= outer.w);
        let reduction = if average { Reduction::Average } else { Reduction::Max };
        let mut graph = Graph::new(inner);
        graph.pool("pool", reduction, Window { size, stride }, border).unwrap();
        let out = graph.output();
        check(&graph, images, &|x| {
            let mut values = Vec::new();
            for at in 0..out.len() {
                let (channel, y, z) = (at / (out.h * out.w), at / out.w % out.h, at % out.w);
                let inside = |start: usize, size: usize, before: usize, len: usize| {
                    (start..start + size).filter(move |i| (before..before + len).contains(i)).map(move |i| i - before)
                };
                let mut window = Vec::new();
                for row in inside(y * stride.0, size.0, border.top, h) {
                    for column in inside(z * stride.1, size.1, border.left, w) {
                        window.push(x[(channel * h + row) * w + column] as f64);
                    }
                }
                let count = window.len() as f64;
                values.push(match reduction {
                    Reduction::Max => (window.iter().copied().fold(f64::NEG_INFINITY, f64::max), 0.0, 1.0),
                    Reduction::Average => {
                        let size = window.iter().map(|x| x.abs()).sum::<f64>() / count;
                        (window.iter().sum::<f64>() / count, size, count + 2.0)
                    }
                });
            }
            values
        });
    }
}

/// A small network with all kinds of nodes; its choices at any batch give the same results up to rounding.
#[test]
fn whole_networks_fold_fuse_and_agree() {
    let mut graph = Graph::new(Shape { c: 2, h: 12, w: 14 });
    let weights = |rows: usize, columns: usize, seed| {
        Rows::from_dense(rows, columns, &numbers(rows * columns, 0.4, seed)).unwrap()
    };
    let window = Window { size: (3, 3), stride: (1, 1) };
    let border = Border { top: 1, left: 1, bottom: 1, right: 1 };
    graph.conv2d("conv", weights(10, 18, 1), None, window, border, Activation::None).unwrap();
    graph.scale("norm", numbers(10, 1.0, 2), numbers(10, 1.0, 3)).unwrap();
    graph.activation("relu", Activation::Relu);
    graph.pool("pool", Reduction::Max, Window::HALVING, Border::default()).unwrap();
    graph.scale("alone", numbers(10, 1.0, 4), numbers(10, 1.0, 5)).unwrap();
    graph.activation("tanh", Activation::Tanh);
    graph.flatten("flatten");
    graph.dense("dense", weights(20, 420, 6), Some(numbers(20, 1.0, 7)), Activation::Sigmoid).unwrap();
    graph.dense("logits", weights(5, 20, 8), None, Activation::None).unwrap();
    graph.softmax("softmax").unwrap();
    let x = numbers(40 * 2 * 12 * 14, 1.0, 9);
    let none = BTreeMap::new();
    let sequential = || -> Arc<dyn Executor> { Arc::new(Sequential) };
    let plan = Plan::new(graph.clone(), &[1, 32], Target::detect(), sequential(), &none, true).unwrap();
    assert!(plan.graph().nodes().iter().all(|node| node.name != "norm" && node.name != "relu"));
    let one = |n: usize| {
        let mut y = vec![0.0; 5];
        plan.run(1, &x[n * 336..(n + 1) * 336], &mut y).unwrap();
        y
    };
    for images in [0, 1, 2, 5, 16, 17, 32, 40] {
        let mut y = vec![f32::NAN; images * 5];
        plan.run(images, &x[..images * 336], &mut y).unwrap();
        for (n, y) in y.chunks(5).enumerate() {
            assert!((y.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(y.iter().zip(one(n)).all(|(a, b)| (a - b).abs() < 1e-5), "{images} images, image {n}");
        }
    }
    // The same choices on another plan: the same bits.
    let text = choose::to_json(&plan.choices());
    let given = choose::from_json(&text).unwrap();
    let replayed = Plan::new(graph, &[1, 32], Target::detect(), with_threads(2), &given, true).unwrap();
    assert_eq!(replayed.choices(), plan.choices());
    let (mut a, mut b) = (vec![0.0; 32 * 5], vec![0.0; 32 * 5]);
    plan.run(32, &x[..32 * 336], &mut a).unwrap();
    replayed.run(32, &x[..32 * 336], &mut b).unwrap();
    assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut graph = Graph::new(Shape { c: 1, h: 4, w: 4 });
    let weights = Rows::empty(3, 9);
    let window = Window { size: (3, 3), stride: (1, 1) };
    let refused = |result: crate::Result<()>| result.unwrap_err().to_string();
    assert!(refused(graph.dense("d", weights.clone(), None, Activation::None)).starts_with("d: "));
    let wide = Window { size: (5, 5), ..window };
    assert!(
        refused(graph.conv2d("c", Rows::empty(3, 25), None, wide, Border::default(), Activation::None)).contains("fit")
    );
    let still = Window { stride: (0, 1), ..window };
    assert!(
        refused(graph.conv2d("c", weights.clone(), None, still, Border::default(), Activation::None))
            .contains("positive")
    );
    let bias = Some(vec![0.0; 2]);
    assert!(
        refused(graph.conv2d("c", weights.clone(), bias, window, Border::default(), Activation::None)).contains("bias")
    );
    graph.conv2d("c", weights, None, window, Border::default(), Activation::None).unwrap();
    let plan = |batches: &[usize], given: &BTreeMap<usize, Choices>| {
        Plan::new(graph.clone(), batches, Target::detect(), Arc::new(Sequential), given, false).map(|_| ())
    };
    assert!(refused(plan(&[], &BTreeMap::new())).contains("batch"));
    assert!(refused(plan(&[0], &BTreeMap::new())).contains("batch"));
    assert!(refused(plan(&[1], &BTreeMap::from([(1, Vec::new())]))).contains("choices"));
    let odd = Choice { kernel: None, input: Layout::RowMajor, output: Layout::RowMajor };
    assert!(refused(plan(&[1], &BTreeMap::from([(1, vec![("c".to_string(), odd)])]))).contains("cannot run"));
    assert!(choose::from_json("{").is_err());
}
