//! Every candidate of every kind of node, on every target, against plain loops in f64.

mod sequences;

use super::*;
use crate::executor::{Executor, Sequential, with_threads};
use crate::formats::vector::Few;
use crate::formats::{Activation, Form, Reduction, Rows, Window};
use crate::naive::{self, Exact, numbers};
use crate::ops::linear::Kernel;
use crate::ops::relayout::Border;
use crate::ops::{Layout, Shape};
use crate::simd::Target;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

fn cases(most: u32) -> ProptestConfig {
    let asked = std::env::var("SECATEUR_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig::with_cases(asked.map_or(most, |asked: u32| asked.min(most * 20)))
}

/// What an image's results are, and how far a kernel may be from them.
type Reference<'a> = &'a dyn Fn(Option<Kernel>, &[f32]) -> Vec<Exact>;

/// Runs every candidate of the last node on every target, with 1 and 3 threads, and checks each image against what the
/// reference allows that kernel.
fn check(graph: &Graph, images: usize, reference: Reference) {
    let input = graph.input().len();
    let x = numbers(images * input, 1.0, 99);
    let wanted = |kernel| -> Vec<Vec<Exact>> { x.chunks(input.max(1)).map(|x| reference(kernel, x)).collect() };
    let nodes = graph.nodes();
    let last = nodes.len() - 1;
    let candidates = choose::candidates(graph, &nodes[last], images);
    let of_winograd = |choice: &Choice| choice.kernel == Some(Kernel::Winograd);
    let winograd = candidates.iter().any(of_winograd).then(|| wanted(Some(Kernel::Winograd)));
    let summed = wanted(None);
    for choice in candidates {
        let mut choices: Choices = Vec::new();
        for node in &nodes[..last] {
            let output = if matches!(choice.input, Layout::Inside(_)) { choice.input } else { Layout::RowMajor };
            let plain = Choice { kernel: None, input: Layout::RowMajor, output };
            choices.push((node.name.clone(), plain));
        }
        choices.push((nodes[last].name.clone(), choice));
        let wanted = winograd.as_ref().filter(|_| of_winograd(&choice)).unwrap_or(&summed);
        agrees(graph, images, &choices, &x, wanted);
    }
}

/// Runs the choices on every target, with 1 and 3 threads, and checks every image.
fn agrees(graph: &Graph, images: usize, choices: &Choices, x: &[f32], wanted: &[Vec<Exact>]) {
    let output = graph.output().len();
    for target in Target::available() {
        let mut once: Option<Vec<f32>> = None;
        for threads in [1, 3] {
            let executor: Arc<dyn Executor> = with_threads(threads);
            let given = BTreeMap::from([(images, choices.clone())]);
            let plan = Plan::new(graph.clone(), &[images], target, executor, &given, false).unwrap();
            let mut y = vec![f32::NAN; images * output];
            plan.run(images, x, &mut y).unwrap();
            plan.run(images, x, &mut y).unwrap(); // buffers of the first run, used again
            for (n, wanted) in wanted.iter().enumerate() {
                assert_eq!(wanted.len(), output);
                for (at, (wanted, &y)) in wanted.iter().zip(&y[n * output..]).enumerate() {
                    assert!(wanted.allows(y), "{choices:?} {} image {n} at {at}: {y} for {wanted:?}", target.name());
                }
            }
            let bits = once.get_or_insert_with(|| y.clone());
            assert!(bits.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()), "{choices:?} {threads} threads");
        }
    }
}

/// Runs a convolution that pools what it writes, by every kernel that can, for a graph that ends in the two nodes.
fn check_pooled(graph: &Graph, images: usize, reference: &dyn Fn(&[f32]) -> Vec<Exact>) {
    let x = numbers(images * graph.input().len(), 1.0, 99);
    let wanted: Vec<Vec<Exact>> = x.chunks(graph.input().len()).map(reference).collect();
    let [before @ .., conv, pool] = graph.nodes() else { panic!("a convolution and a pooling") };
    let free = choose::candidates(graph, pool, images);
    let free = free.into_iter().find(|choice| matches!(choice.input, Layout::Pooled { .. }));
    let fused = choose::candidates(graph, conv, images);
    let fused: Vec<_> = fused.into_iter().filter(|choice| matches!(choice.output, Layout::Pooled { .. })).collect();
    assert_eq!((free.is_some(), fused.len()), if images >= 8 { (true, 5) } else { (false, 0) });
    for (choice, free) in fused.into_iter().zip(free.into_iter().cycle()) {
        let pad = Choice { kernel: None, input: Layout::RowMajor, output: choice.input };
        let mut choices: Choices = before.iter().map(|node| (node.name.clone(), pad)).collect();
        choices.extend([(conv.name.clone(), choice), (pool.name.clone(), free)]);
        agrees(graph, images, &choices, &x, &wanted);
        // Each of the two alone would read what the other did not write.
        let separate = Choice { input: choice.input, output: choice.input, ..free };
        if let Some((_, last)) = choices.last_mut() {
            *last = separate;
        }
        let given = BTreeMap::from([(images, choices)]);
        let refused = Plan::new(graph.clone(), &[images], Target::detect(), Arc::new(Sequential), &given, false);
        assert!(refused.err().unwrap().to_string().contains(&pool.name));
    }
}

/// ReLU, and now and then any other.
fn activation(seed: u64) -> Activation {
    let others = [
        Activation::Tanh,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::HardSwish,
        Activation::HardSigmoid(0.2, 0.5),
        Activation::LeakyRelu(0.1),
        Activation::Clip(-0.5, 0.25),
    ];
    if seed.is_multiple_of(4) { others[(seed / 4) as usize % others.len()] } else { Activation::Relu }
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn convolutions(
        (c, h, w) in (1usize..5, 1usize..24, 1usize..40),
        filters in 1usize..36,
        // Half of the cases are plain.
        groups in prop::sample::select(vec![1usize, 1, 1, 2, 3, 20]),
        depthwise in any::<bool>(),
        size in (1usize..5, 1usize..5),
        stride in (1usize..4, 1usize..4),
        dilation in prop::sample::select(vec![(1usize, 1usize), (1, 1), (2, 1), (1, 3), (2, 2)]),
        border in (0usize..3, 0usize..3, 0usize..3, 0usize..3),
        images in prop::sample::select(vec![1usize, 2, 7, 9, 17, 33]),
        density in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        // In groups: one channel each (where there are many: always), or `c`; and up to 36 filters in all, about.
        let channels = if groups > 3 || groups > 1 && depthwise { 1 } else { c };
        let inner = Shape { c: channels * groups, h, w };
        let filters = if groups > 1 { filters.div_ceil(groups) * groups } else { filters };
        let window = Window { size, stride, dilation };
        let border = Border { top: border.0, left: border.1, bottom: border.2, right: border.3 };
        let outer = border.around(inner);
        prop_assume!(window.extent().0 <= outer.h && window.extent().1 <= outer.w);
        let columns = channels * size.0 * size.1;
        let weights = Rows::from_dense(filters, columns, &numbers(filters * columns, density, seed)).unwrap();
        let mut graph = Graph::new(inner);
        let window = (window, groups);
        let bias = numbers(filters, 1.0, seed ^ 5);
        let activation = activation(seed);
        graph.conv2d("conv", Graph::INPUT, weights.clone(), Some(bias.clone()), window, border, activation).unwrap();
        let reference = |x: &[f32]| naive::conv2d((&weights, (&bias, &[])), window, border, (inner, x), activation);
        check(&graph, images, &|_, x| reference(x));
        let shape = graph.output();
        let depthwise = groups > 1 && channels == 1;
        // A third of the cases: each runs all kernels again.
        if seed % 3 == 0 && shape.h >= 2 && shape.w >= 2 && !depthwise {
            let reduction = if seed % 2 == 0 { Reduction::Average } else { Reduction::Max };
            graph.pool("pool", graph.output_edge(), reduction, Window::HALVING, Border::default()).unwrap();
            check_pooled(&graph, images, &|x| naive::halved(reduction, shape, &reference(x)));
        }
    }

    #[test]
    fn dense_layers(
        (features, outputs) in (1usize..200, 1usize..140),
        images in prop::sample::select(vec![1usize, 2, 7, 9, 17, 33, 70, 130]),
        density in 0.0f64..1.0,
        // All columns of a row, or one in four.
        step in prop::sample::select(vec![1usize, 4]),
        seed in any::<u64>(),
    ) {
        let mut dense = numbers(outputs * features, density, seed);
        let places = dense.iter_mut().enumerate();
        places.filter(|(at, _)| at % features % step != at / features % step).for_each(|(_, x)| *x = 0.0);
        let weights = Rows::from_dense(outputs, features, &dense).unwrap();
        let mut graph = Graph::new(Shape::features(features));
        let bias = numbers(outputs, 1.0, seed ^ 5);
        graph.dense("dense", Graph::INPUT, weights.clone(), Some(bias.clone()), Activation::Relu).unwrap();
        check(&graph, images, &|_, x| naive::matmul(&weights, 1, x, (&bias, &[]), Activation::Relu));
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
        let (mut graph, window) = (Graph::new(inner), Window::new(size, stride));
        graph.pool("pool", Graph::INPUT, reduction, window, border).unwrap();
        check(&graph, images, &|_, x| naive::pool(reduction, window, border, (inner, x)));
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn convolutions_that_add_what_they_read(
        (c, h, w) in (1usize..40, 1usize..20, 1usize..36),
        size in (1usize..4, 1usize..4),
        images in prop::sample::select(vec![1usize, 2, 7, 9, 17, 33]),
        grouped in any::<bool>(),
        density in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let (shape, window) = (Shape { c, h, w }, Window::new(size, (1, 1)));
        let groups = if grouped { (2..=c).find(|groups| c % groups == 0).unwrap_or(1) } else { 1 };
        let (down, right) = (size.0 - 1, size.1 - 1);
        let border = Border { top: down / 2, left: right / 2, bottom: down - down / 2, right: right - right / 2 };
        let columns = c / groups * size.0 * size.1;
        let weights = Rows::from_dense(c, columns, &numbers(c * columns, density, seed)).unwrap();
        let bias = numbers(c, 1.0, seed ^ 5);
        let activation = [Activation::None, Activation::Relu, Activation::Relu, Activation::Tanh][seed as usize % 4];
        let mut graph = Graph::new(shape);
        let (window, x, none) = ((window, groups), Graph::INPUT, Activation::None);
        let sums = graph.conv2d("conv", x, weights.clone(), Some(bias.clone()), window, border, none).unwrap();
        let sum = graph.add("add", if seed % 2 == 0 { (sums, x) } else { (x, sums) }).unwrap();
        if activation != Activation::None {
            graph.activation("activation", sum, activation).unwrap();
        }
        build::fuse(&mut graph).unwrap();
        prop_assert!(graph.nodes().iter().all(|node| matches!(node.op, Op::Linear(_) | Op::Pad(_))));
        check(&graph, images, &|kernel, x| match kernel {
            Some(Kernel::Winograd) => naive::winograd((&weights, (&bias, x)), border, (shape, x), activation),
            _ => naive::conv2d((&weights, (&bias, x)), window, border, (shape, x), activation),
        });
    }

    #[test]
    fn dense_layers_that_add_what_they_read(
        features in 1usize..140,
        images in prop::sample::select(vec![1usize, 2, 9, 17, 70]),
        density in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let dense = numbers(features * features, density, seed);
        let weights = Rows::from_dense(features, features, &dense).unwrap();
        let (mut graph, x) = (Graph::new(Shape::features(features)), Graph::INPUT);
        let bias = numbers(features, 1.0, seed ^ 5);
        let sums = graph.dense("dense", x, weights.clone(), Some(bias.clone()), Activation::None).unwrap();
        graph.add("add", (sums, x)).unwrap();
        build::fuse(&mut graph).unwrap();
        check(&graph, images, &|_, x| naive::matmul(&weights, 1, x, (&bias, x), Activation::None));
    }

    /// Channels enough for Winograd's algorithm, whose results have a bound of their own.
    #[test]
    fn wide_convolutions(
        (c, h, w) in (16usize..40, 1usize..16, 1usize..20),
        filters in 16usize..40,
        border in (0usize..3, 0usize..3, 0usize..3, 0usize..3),
        images in prop::sample::select(vec![1usize, 2, 9, 17]),
        density in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let inner = Shape { c, h, w };
        let border = Border { top: border.0, left: border.1, bottom: border.2, right: border.3 };
        let outer = border.around(inner);
        prop_assume!(outer.h >= 3 && outer.w >= 3);
        let weights = Rows::from_dense(filters, c * 9, &numbers(filters * c * 9, density, seed)).unwrap();
        let bias = numbers(filters, 1.0, seed ^ 5);
        let activation = activation(seed);
        let window = (Window::new((3, 3), (1, 1)), 1);
        let mut graph = Graph::new(inner);
        graph.conv2d("conv", Graph::INPUT, weights.clone(), Some(bias.clone()), window, border, activation).unwrap();
        let offered = |graph: &Graph| {
            let last = graph.nodes().last().unwrap();
            choose::candidates(graph, last, images).iter().any(|choice| choice.kernel == Some(Kernel::Winograd))
        };
        prop_assert!(offered(&graph));
        check(&graph, images, &|kernel, x| match kernel {
            Some(Kernel::Winograd) => naive::winograd((&weights, (&bias, &[])), border, (inner, x), activation),
            _ => naive::conv2d((&weights, (&bias, &[])), window, border, (inner, x), activation),
        });
        graph.allow_winograd(false);
        prop_assert!(!offered(&graph));
    }
}

/// A small network with all kinds of nodes; its choices at any batch give the same results up to rounding.
#[test]
fn whole_networks_fold_fuse_and_agree() {
    let mut graph = Graph::new(Shape { c: 2, h: 12, w: 14 });
    let weights = |rows: usize, columns: usize, seed| {
        Rows::from_dense(rows, columns, &numbers(rows * columns, 0.4, seed)).unwrap()
    };
    let window = Window::new((3, 3), (1, 1));
    let border = Border { top: 1, left: 1, bottom: 1, right: 1 };
    let x = Graph::INPUT;
    let x = graph.conv2d("conv", x, weights(10, 18, 1), None, (window, 1), border, Activation::None).unwrap();
    let x = graph.scale("norm", x, numbers(10, 1.0, 2), numbers(10, 1.0, 3)).unwrap();
    let x = graph.activation("relu", x, Activation::Relu).unwrap();
    let x = graph.pool("pool", x, Reduction::Max, Window::HALVING, Border::default()).unwrap();
    let x = graph.scale("alone", x, numbers(10, 1.0, 4), numbers(10, 1.0, 5)).unwrap();
    let x = graph.activation("tanh", x, Activation::Tanh).unwrap();
    let x = graph.flatten("flatten", x).unwrap();
    let x = graph.dense("dense", x, weights(20, 420, 6), Some(numbers(20, 1.0, 7)), Activation::Sigmoid).unwrap();
    let x = graph.dense("logits", x, weights(5, 20, 8), None, Activation::None).unwrap();
    graph.softmax("softmax", x).unwrap();
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

/// Two residual blocks, the second of fewer and smaller images and with weights on either side, by the choices of every batch
/// size, on whatever buffers.
#[test]
fn residual_networks_agree() {
    let (mut graph, edge) = (Graph::new(Shape { c: 8, h: 10, w: 12 }), Border { top: 1, left: 1, bottom: 1, right: 1 });
    let weights = |rows: usize, columns: usize, seed| {
        let dense = numbers(rows * columns, 0.3, seed);
        (Rows::from_dense(rows, columns, &dense).unwrap(), Some(numbers(rows, 1.0, seed + 50)))
    };
    let window = |size, stride| (Window::new((size, size), (stride, stride)), 1);
    let conv = |graph: &mut Graph, name: &str, x, (filters, channels), (size, stride), seed| {
        let (weights, bias) = weights(filters, channels * size * size, seed);
        let border = if size == 3 { edge } else { Border::default() };
        graph.conv2d(name, x, weights, bias, window(size, stride), border, Activation::None).unwrap()
    };
    let x = Graph::INPUT;
    let a = conv(&mut graph, "a", x, (8, 8), (3, 1), 1);
    let a = graph.activation("relu a", a, Activation::Relu).unwrap();
    let b = conv(&mut graph, "b", a, (8, 8), (3, 1), 2);
    let b = graph.add("sum b", (b, x)).unwrap();
    let b = graph.activation("relu b", b, Activation::Relu).unwrap();
    let c = conv(&mut graph, "c", b, (20, 8), (3, 2), 3);
    let c = graph.activation("relu c", c, Activation::Relu).unwrap();
    let d = conv(&mut graph, "d", c, (20, 20), (3, 1), 4);
    let e = conv(&mut graph, "e", b, (20, 8), (1, 2), 5);
    let d = graph.add("sum d", (d, e)).unwrap();
    // Read twice, and by a node that can not be fused.
    let d = graph.add("twice", (d, d)).unwrap();
    let d = graph.scale("norm", d, numbers(20, 1.0, 6), numbers(20, 1.0, 7)).unwrap();
    let f = graph.flatten("flatten", d).unwrap();
    graph.dense("logits", f, weights(5, 600, 8).0, None, Activation::None).unwrap();

    let len = 8 * 10 * 12;
    let x = numbers(40 * len, 1.0, 9);
    let mut alone: Option<Vec<f32>> = None;
    for (target, timed) in Target::available().into_iter().map(|target| (target, target == Target::detect())) {
        let plan = Plan::new(graph.clone(), &[1, 32], target, Arc::new(Sequential), &BTreeMap::new(), timed).unwrap();
        let names: Vec<_> = plan.graph().nodes().iter().map(|node| &*node.name).collect();
        // Of two layers that could take a sum over, the later one does: what the other makes is there by then.
        assert_eq!(
            names,
            ["a.pad", "a", "b.pad", "b", "c.pad", "c", "d.pad", "d", "e", "twice", "norm", "flatten", "logits"]
        );
        for images in [0, 1, 2, 5, 16, 17, 32, 40] {
            let mut y = vec![f32::NAN; images * 5];
            plan.run(images, &x[..images * len], &mut y).unwrap();
            let one = |n: usize| {
                let mut y = vec![0.0; 5];
                plan.run(1, &x[n * len..(n + 1) * len], &mut y).unwrap();
                y
            };
            let wanted = alone.get_or_insert_with(|| (0..40).flat_map(one).collect());
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4 * (1.0 + b.abs());
            assert!(y.iter().zip(&*wanted).all(close), "{} {images} images", target.name());
        }
    }
}

/// What costs nothing must not make everything else look hopeless.
#[test]
fn others_are_timed_beside_free_choices() {
    let (mut graph, window) = (Graph::new(Shape { c: 3, h: 12, w: 12 }), (Window::new((3, 3), (1, 1)), 1));
    let border = Border { top: 1, left: 1, bottom: 1, right: 1 };
    let x = graph.conv2d("conv", Graph::INPUT, Rows::empty(4, 27), None, window, border, Activation::None).unwrap();
    graph.pool("pool", x, Reduction::Max, Window::HALVING, Border::default()).unwrap();
    let timing = Some((&Sequential as &dyn Executor, std::time::Duration::from_millis(1)));
    let costs = choose::Costs::new(&graph, 16, Target::detect(), timing);
    for node in graph.nodes().iter().filter(|node| node.name != "conv") {
        let (free, others): (Vec<_>, Vec<_>) =
            costs.candidates(node).into_iter().partition(|(choice, _)| choose::is_free(node, choice));
        assert!(!free.is_empty() && others.iter().any(|(_, times)| times.is_finite()), "{}", node.name);
    }
}

/// Weights without zeros are ten times slower one by one: whole networks show it, in any order and more than once.
#[test]
fn the_fastest_of_whole_networks_is_taken() {
    let (mut graph, images, target) = (Graph::new(Shape::features(512)), 16, Target::detect());
    let weights = Rows::from_dense(512, 512, &numbers(512 * 512, 1.0, 3)).unwrap();
    graph.dense("dense", Graph::INPUT, weights, None, Activation::Relu).unwrap();
    let way = |kernel| vec![Choice { kernel: Some(kernel), input: Layout::RowMajor, output: Layout::RowMajor }];
    let (slow, fast) = (way(Kernel::CsrDots), way(Kernel::Gemm));
    let budget = std::time::Duration::from_millis(5);
    for ways in [vec![&slow, &fast], vec![&fast, &slow, &slow], vec![&slow, &slow, &fast], vec![&fast]] {
        let ways = ways.into_iter().cloned().collect();
        assert_eq!(settle::fastest(&graph, ways, (images, target), &Sequential, budget), fast);
    }
}

#[test]
fn batch_sizes_beyond_all_memory_are_refused() {
    let mut graph = Graph::new(Shape::features(4));
    let weights = Rows::from_dense(3, 4, &[1.0; 12]).unwrap();
    graph.dense("dense", Graph::INPUT, weights, None, Activation::Relu).unwrap();
    let plan = Plan::new(graph, &[1, 100_000_000_000], Target::detect(), Arc::new(Sequential), &[].into(), false);
    assert!(plan.err().unwrap().to_string().contains("batch: expected at most"));
}

#[test]
fn batch_sizes_share_packed_weights() {
    let mut graph = Graph::new(Shape::features(40));
    let weights = Rows::from_dense(24, 40, &numbers(24 * 40, 0.2, 3)).unwrap();
    graph.dense("dense", Graph::INPUT, weights, None, Activation::Relu).unwrap();
    let dots = Choice { kernel: Some(Kernel::CsrDots), input: Layout::RowMajor, output: Layout::RowMajor };
    let given = |batch| (batch, vec![("dense".to_string(), dots)]);
    let (target, executor) = (Target::detect(), Arc::new(Sequential));
    let plan = Plan::new(graph, &[1, 2], target, executor, &[given(1), given(2)].into(), false).unwrap();
    plan.prepare(3);
    let Op::Linear(linear) = &plan.graph().nodes()[0].op else { panic!("a dense layer") };
    let form = Form { name: "csr", target, filters: (Window::ONE, 1), blocks: None };
    let packed = linear.weights.packed::<Box<dyn Few>>(form, |_| panic!("packed already"));
    assert_eq!(Arc::strong_count(&packed), 4, "one for each of three programs, and this one");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut graph = Graph::new(Shape { c: 1, h: 4, w: 4 });
    let weights = Rows::empty(3, 9);
    let window = Window::new((3, 3), (1, 1));
    let refused = |result: crate::Result<usize>| result.unwrap_err().to_string();
    let x = Graph::INPUT;
    assert!(refused(graph.flatten("f", 1)).contains("edge"));
    assert!(refused(graph.dense("d", x, weights.clone(), None, Activation::None)).starts_with("d: "));
    let wide = Window { size: (5, 5), ..window };
    assert!(
        refused(graph.conv2d("c", x, Rows::empty(3, 25), None, (wide, 1), Border::default(), Activation::None))
            .contains("fit")
    );
    let still = Window { stride: (0, 1), ..window };
    assert!(
        refused(graph.conv2d("c", x, weights.clone(), None, (still, 1), Border::default(), Activation::None))
            .contains("positive")
    );
    let bias = Some(vec![0.0; 2]);
    assert!(
        refused(graph.conv2d("c", x, weights.clone(), bias, (window, 1), Border::default(), Activation::None))
            .contains("bias")
    );
    graph.conv2d("c", x, weights, None, (window, 1), Border::default(), Activation::None).unwrap();
    let plan = |batches: &[usize], given: &BTreeMap<usize, Choices>| {
        Plan::new(graph.clone(), batches, Target::detect(), Arc::new(Sequential), given, false).map(|_| 0)
    };
    assert!(refused(plan(&[], &BTreeMap::new())).contains("batch"));
    assert!(refused(plan(&[0], &BTreeMap::new())).contains("batch"));
    assert!(refused(plan(&[1], &BTreeMap::from([(1, Vec::new())]))).contains("choices"));
    let odd = Choice { kernel: None, input: Layout::RowMajor, output: Layout::RowMajor };
    assert!(refused(plan(&[1], &BTreeMap::from([(1, vec![("c".to_string(), odd)])]))).contains("cannot run"));
    assert!(choose::from_json("{").is_err());
}
