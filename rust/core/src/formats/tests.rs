//! One property suite for every format, target and thread count, against float64.

use super::*;
use crate::executor::with_threads;
use crate::naive::{self, numbers};
use crate::simd::Target;
use proptest::prelude::*;

/// Kinds that multiply any number of columns.
const KINDS: [Kind; 7] = [
    Kind::Csr,
    Kind::Pattern,
    Kind::Bitmap,
    Kind::Dense,
    Kind::Block { height: 4 },
    Kind::Block { height: 8 },
    Kind::Block { height: 16 },
];

/// Checks `y` = activation(W x + bias) elementwise.
fn check(rows: &Rows, n: usize, x: &[f32], bias: &[f32], activation: Activation, y: &[f32], what: &str) {
    let wanted = naive::matmul(rows, n, x, bias, activation);
    assert_eq!(wanted.len(), y.len(), "{what}");
    for (at, (wanted, &y)) in wanted.iter().zip(y).enumerate() {
        assert!(wanted.allows(y), "{what}: row {} column {}: {y} for {wanted:?}", at / n, at % n);
    }
}

fn multiply(
    rows: &Rows,
    kind: Kind,
    target: Target,
    threads: usize,
    n: usize,
    x: &[f32],
    epilogue: Epilogue,
) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows.rows() * n];
    let matrix = PackedMatrix::new(rows.clone(), Some(kind), None, target);
    matrix.matmul(&*with_threads(threads), n, x, &mut y, epilogue).unwrap();
    y
}

#[test]
fn all_small_shapes() {
    let dims = [0, 1, 2, 3, 5, 9, 31, 33, 64, 65];
    for target in Target::available() {
        for (m, k, n) in dims.iter().flat_map(|&m| dims.iter().flat_map(move |&k| dims.map(|n| (m, k, n)))) {
            let rows = Rows::from_dense(m, k, &numbers(m * k, 0.4, (m * 100 + k) as u64)).unwrap();
            let (x, bias) = (numbers(k * n, 1.0, 7), numbers(m, 1.0, 8));
            for kind in KINDS {
                let epilogue = Epilogue { bias: Some(&bias), activation: Activation::Relu };
                let y = multiply(&rows, kind, target, 1, n, &x, epilogue);
                check(&rows, n, &x, &bias, Activation::Relu, &y, &format!("{kind:?} {} {m}x{k}x{n}", target.name()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("SECATEUR_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500)
    ))]

    #[test]
    fn random_products(
        (m, k, n) in (1usize..140, 1usize..300, 1usize..140),
        density in 0.0f64..1.0,
        seed in any::<u64>(),
        activation in prop::sample::select(
            vec![Activation::None, Activation::Relu, Activation::Tanh, Activation::Sigmoid]
        ),
        threads in prop::sample::select(vec![1usize, 2, 3, 8]),
    ) {
        let rows = Rows::from_dense(m, k, &numbers(m * k, density, seed)).unwrap();
        let (x, bias) = (numbers(k * n, 1.0, seed ^ 1), numbers(m, 1.0, seed ^ 2));
        for target in Target::available() {
            for kind in KINDS {
                let epilogue = Epilogue { bias: Some(&bias), activation };
                let y = multiply(&rows, kind, target, threads, n, &x, epilogue);
                check(&rows, n, &x, &bias, activation, &y, &format!("{kind:?} {}", target.name()));
            }
        }
    }

    #[test]
    fn integers_are_exact(
        (m, k, n) in (1usize..70, 1usize..300, 1usize..40),
        density in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let whole = |values: Vec<f32>| values.into_iter().map(|x| (x * 16.0).round()).collect::<Vec<_>>();
        let rows = Rows::from_dense(m, k, &whole(numbers(m * k, density, seed))).unwrap();
        let x = whole(numbers(k * n, 1.0, seed ^ 1));
        let wanted: Vec<f32> = (0..m * n)
            .map(|at| rows.row(at / n).map(|(k, w)| w * x[k * n + at % n]).sum())
            .collect();
        for target in Target::available() {
            for kind in KINDS {
                prop_assert_eq!(&multiply(&rows, kind, target, 1, n, &x, Epilogue::default()), &wanted);
            }
        }
    }

    #[test]
    fn packing_loses_nothing((m, k) in (0usize..70, 0usize..300), density in 0.0f64..1.0, seed in any::<u64>()) {
        let dense = numbers(m * k, density, seed);
        let rows = Rows::from_dense(m, k, &dense).unwrap();
        let blocks = || KBlocks::new((0..k as u32).collect(), KBlocks::PANELS);
        prop_assert_eq!(&Csr::pack(&rows, blocks()).to_dense(), &dense);
        prop_assert_eq!(&Pattern::pack(&rows, blocks()).to_dense(), &dense);
        prop_assert_eq!(&Csr::pack_vector(&rows).to_dense(), &dense);
        prop_assert_eq!(&Bitmap::pack(&rows).to_dense(), &dense);
        prop_assert_eq!(&Block::<4>::pack(&rows, blocks()).to_dense(), &dense);
        prop_assert_eq!(&Block::<8>::pack(&rows, blocks()).to_dense(), &dense);
        prop_assert_eq!(&Block::<8>::pack_columns(&rows, blocks(), true).to_dense(), &dense);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (m, k, n) = (300, 500, 200);
    let rows = Rows::from_dense(m, k, &numbers(m * k, 0.3, 3)).unwrap();
    let x = numbers(k * n, 1.0, 4);
    for kind in KINDS {
        for n in [1, n] {
            let once = multiply(&rows, kind, Target::detect(), 1, n, &x[..k * n], Epilogue::default());
            for threads in [2, 3, 8] {
                for _ in 0..20 {
                    let again = multiply(&rows, kind, Target::detect(), threads, n, &x[..k * n], Epilogue::default());
                    assert!(once.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "{kind:?} {threads}");
                }
            }
        }
    }
}
