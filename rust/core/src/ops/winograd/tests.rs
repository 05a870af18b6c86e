//! Every target, odd size and thread count, against float64 and the bound that the module states.

use super::*;
use crate::executor::with_threads;
use crate::formats::Window;
use crate::formats::{Activation, Rows};
use crate::naive::{self, numbers};
use crate::ops::relayout::Border;
use proptest::prelude::*;

fn layer(c: usize, filters: usize, (h, w): (usize, usize), weights: &[f32], activation: Activation) -> Linear {
    Linear {
        weights: Rows::from_dense(filters, c * 9, weights).unwrap(),
        bias: Some(numbers(filters, 1.0, 5)),
        residual: false,
        activation,
        window: Window::new((3, 3), (1, 1)),
        groups: 1,
        border: Border::default(),
        input: Shape { c, h, w },
        output: Shape { c: filters, h: h - 2, w: w - 2 },
    }
}

/// Runs the layer on every target, with several numbers of threads, and checks each image (channels first).
fn check(layer: &Linear, x: &[f32]) {
    let Linear { input, output, .. } = *layer;
    let images = x.len() / input.len();
    let bias = layer.bias.as_deref().unwrap();
    let image = |x| naive::winograd((&layer.weights, (bias, &[])), Border::default(), (input, x), layer.activation);
    let wanted: Vec<_> = x.chunks(input.len()).flat_map(image).collect();
    // (image, channel, pixel) at (image, pixel, channel).
    let place = |at: usize, Shape { c, h, w }: Shape| (at / (c * h * w) * h * w + at % (h * w)) * c + at / (h * w) % c;
    let mut last = vec![0.0; x.len()];
    x.iter().enumerate().for_each(|(at, &x)| last[place(at, input)] = x);
    for target in Target::available() {
        let operator = Winograd::new(layer, images, target);
        let mut scratch = vec![f32::NAN; operator.scratch()];
        let mut once: Option<Vec<f32>> = None;
        for threads in [1, 2, 3, 8] {
            let mut y = vec![f32::NAN; wanted.len()];
            operator.run(&*with_threads(threads), &[&last], &mut y, &mut scratch);
            for (at, wanted) in wanted.iter().enumerate() {
                let y = y[place(at, output)];
                assert!(wanted.allows(y), "{} {input:?} {output:?} at {at}: {y} for {wanted:?}", target.name());
            }
            let bits = once.get_or_insert_with(|| y.clone());
            assert!(bits.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} threads");
        }
    }
}

const WIDTHS: [usize; 5] = [1, 3, 16, 17, 33];
const ACTIVATIONS: [Activation; 4] = [Activation::None, Activation::Relu, Activation::Tanh, Activation::Sigmoid];

#[test]
fn all_small_images() {
    for (at, size) in (3..=13).flat_map(|h| (3..=13).map(move |w| (h, w))).enumerate() {
        let (c, filters) = (WIDTHS[at % 5], WIDTHS[at / 5 % 5]);
        let weights = numbers(filters * c * 9, 0.8, at as u64);
        let x = numbers([1, 2, 5][at % 3] * c * size.0 * size.1, 1.0, 99);
        check(&layer(c, filters, size, &weights, ACTIVATIONS[at % 4]), &x);
    }
}

#[test]
fn all_channel_counts() {
    for (c, filters) in WIDTHS.into_iter().flat_map(|c| WIDTHS.map(|filters| (c, filters))) {
        let weights = numbers(filters * c * 9, 0.8, (c * 100 + filters) as u64);
        for (images, size) in [(1, (6, 9)), (2, (9, 6)), (5, (5, 4))] {
            let x = numbers(images * c * size.0 * size.1, 1.0, 98);
            check(&layer(c, filters, size, &weights, Activation::Relu), &x);
        }
    }
}

/// Images in several chunks, and several images in a chunk.
#[test]
fn chunks_meet() {
    for (images, size) in [(3, (66, 130)), (40, (12, 11))] {
        let layer = layer(16, 17, size, &numbers(17 * 16 * 9, 0.5, 3), Activation::Relu);
        assert!(Winograd::new(&layer, images, Target::detect()).chunks.len() > 2);
        check(&layer, &numbers(images * 16 * size.0 * size.1, 1.0, 97));
    }
    for (grid, images) in [((0, 3), 2), ((1, 1), 1000), ((7, 3), 65), ((100, 100), 3), ((5, 4), 0)] {
        let chunks = chunks(grid, images, (16, 64));
        let mut next = 0;
        for chunk in chunks {
            let whole = chunk.start % grid.0.max(1) == 0 && chunk.end % grid.0.max(1) == 0;
            assert!(chunk.start == next && (whole || chunk.end - 1 < (chunk.start / grid.0 + 1) * grid.0));
            next = chunk.end;
        }
        assert_eq!(next, grid.0 * images);
    }
}

/// What cancels worst: constant images, filters of one weight, numbers of very different sizes.
#[test]
fn the_bound_holds_for_hard_data() {
    let (c, filters, size) = (16, 18, (9, 10));
    let len = c * size.0 * size.1;
    let constant = vec![1.0 / 3.0; len];
    let ramp: Vec<f32> = (0..len).map(|at| 1e4 + (at % 7) as f32 * 0.1).collect();
    let spread = |len, seed| -> Vec<f32> {
        let exponents = numbers(len, 1.0, seed ^ 77).into_iter().map(|x| (x * 20.0).exp2());
        numbers(len, 1.0, seed).into_iter().zip(exponents).map(|(x, size)| x * size).collect()
    };
    let mut spike = vec![1e-6; len];
    spike.iter_mut().step_by(13).for_each(|x| *x = 1e6);
    let mut single = vec![0.0; filters * c * 9];
    (0..filters).for_each(|filter| single[filter * c * 9 + filter % c * 9 + filter % 9] = 1.0 + filter as f32 / 3.0);
    let equal = vec![0.1; filters * c * 9];
    for weights in [single, equal, spread(filters * c * 9, 1), numbers(filters * c * 9, 1.0, 2)] {
        let layer = layer(c, filters, size, &weights, Activation::None);
        for x in [&constant, &ramp, &spread(len, 3), &spike] {
            check(&layer, x);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("SECATEUR_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
    ))]

    #[test]
    fn random_layers(
        (c, filters) in (1usize..70, 1usize..70),
        (h, w) in (3usize..24, 3usize..40),
        images in 1usize..6,
        density in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let weights = numbers(filters * c * 9, density, seed);
        let layer = layer(c, filters, (h, w), &weights, ACTIVATIONS[seed as usize % 4]);
        check(&layer, &numbers(images * c * h * w, 1.0, seed ^ 1));
    }
}
