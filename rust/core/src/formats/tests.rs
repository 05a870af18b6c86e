//! One property suite for every format, target and thread count, against float64.

use super::*;
use crate::executor::{Sequential, with_threads};
use crate::naive::{self, numbers};
use crate::simd::{Storage, Target};
use proptest::prelude::*;

/// Kinds that multiply any number of columns.
const KINDS: [Kind; 9] = [
    Kind::Csr,
    Kind::Pattern,
    Kind::Bitmap,
    Kind::Window,
    Kind::Stream,
    Kind::Dense,
    Kind::Block { height: 4 },
    Kind::Block { height: 8 },
    Kind::Block { height: 16 },
];

/// Pattern that leaves everything, and those that are packed.
const PATTERNS: [(usize, usize); 4] = [(8, 8), (1, 4), (2, 4), (4, 8)];

/// The dense matrix with zeros beyond the first n nonzeros in every m columns of a row.
fn patterned(mut dense: Vec<f32>, columns: usize, (n, m): (usize, usize)) -> Vec<f32> {
    for row in dense.chunks_mut(columns.max(1)) {
        for group in row.chunks_mut(m) {
            group.iter_mut().filter(|x| **x != 0.0).skip(n).for_each(|x| *x = 0.0);
        }
    }
    dense
}

/// Those that can pack the matrix.
fn kinds(rows: &Rows) -> impl Iterator<Item = Kind> {
    KINDS.into_iter().chain(nm::fitting(rows).map(|_| Kind::Nm))
}

/// Checks `y` = activation(W x + bias) elementwise.
fn check(rows: &Rows, n: usize, x: &[f32], bias: &[f32], activation: Activation, y: &[f32], what: &str) {
    let wanted = naive::matmul(rows, n, x, (bias, &[]), activation);
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
    let matrix = PackedMatrix::new(rows.clone(), Some(kind), None, target, Storage::F32).unwrap();
    matrix.matmul(&*with_threads(threads), n, x, &mut y, epilogue).unwrap();
    y
}

#[test]
fn all_small_shapes() {
    let dims = [0, 1, 2, 3, 5, 9, 31, 33, 64, 65];
    for target in Target::available() {
        for (m, k, n) in dims.iter().flat_map(|&m| dims.iter().flat_map(move |&k| dims.map(|n| (m, k, n)))) {
            let dense = numbers(m * k, 0.4, (m * 100 + k) as u64);
            let rows = Rows::from_dense(m, k, &dense).unwrap();
            let (x, bias) = (numbers(k * n, 1.0, 7), numbers(m, 1.0, 8));
            let patterns = PATTERNS[1..]
                .iter()
                .map(|&pattern| (Kind::Nm, Rows::from_dense(m, k, &patterned(dense.clone(), k, pattern)).unwrap()));
            for (kind, rows) in KINDS.map(|kind| (kind, rows.clone())).into_iter().chain(patterns) {
                let epilogue = Epilogue::new(Some(&bias), Activation::Relu);
                let y = multiply(&rows, kind, target, 1, n, &x, epilogue);
                check(&rows, n, &x, &bias, Activation::Relu, &y, &format!("{kind:?} {} {m}x{k}x{n}", target.name()));
            }
        }
    }
}

/// More columns than any format's K-block on any target.
#[test]
fn several_k_blocks() {
    let (m, k, n) = (17, 4500, 40);
    let rows = Rows::from_dense(m, k, &numbers(m * k, 0.1, 5)).unwrap();
    let (x, bias) = (numbers(k * n, 1.0, 6), numbers(m, 1.0, 7));
    for target in Target::available() {
        for kind in kinds(&rows) {
            let epilogue = Epilogue::new(Some(&bias), Activation::Relu);
            let y = multiply(&rows, kind, target, 2, n, &x, epilogue);
            check(&rows, n, &x, &bias, Activation::Relu, &y, &format!("{kind:?} {}", target.name()));
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
        pattern in prop::sample::select(PATTERNS.to_vec()),
        threads in prop::sample::select(vec![1usize, 2, 3, 8]),
    ) {
        let rows = Rows::from_dense(m, k, &patterned(numbers(m * k, density, seed), k, pattern)).unwrap();
        let (x, bias) = (numbers(k * n, 1.0, seed ^ 1), numbers(m, 1.0, seed ^ 2));
        for target in Target::available() {
            for kind in kinds(&rows) {
                let epilogue = Epilogue::new(Some(&bias), activation);
                let y = multiply(&rows, kind, target, threads, n, &x, epilogue);
                check(&rows, n, &x, &bias, activation, &y, &format!("{kind:?} {}", target.name()));
            }
        }
    }

    #[test]
    fn integers_are_exact(
        (m, k, n) in (1usize..70, 1usize..300, 1usize..40),
        density in 0.0f64..1.0,
        pattern in prop::sample::select(PATTERNS.to_vec()),
        seed in any::<u64>(),
    ) {
        let whole = |values: Vec<f32>| values.into_iter().map(|x| (x * 16.0).round()).collect::<Vec<_>>();
        let rows = Rows::from_dense(m, k, &patterned(whole(numbers(m * k, density, seed)), k, pattern)).unwrap();
        let x = whole(numbers(k * n, 1.0, seed ^ 1));
        let wanted: Vec<f32> = (0..m * n)
            .map(|at| rows.row(at / n).map(|(k, w)| w * x[k * n + at % n]).sum())
            .collect();
        for target in Target::available() {
            for kind in kinds(&rows) {
                prop_assert_eq!(&multiply(&rows, kind, target, 1, n, &x, Epilogue::default()), &wanted);
            }
        }
    }

    #[test]
    fn gradients_on_the_nonzeros(
        // Narrow ones of any density, and wide ones of few nonzeros: far apart in their rows.
        ((m, k, n), density) in prop_oneof![
            ((0usize..200, 0usize..200, 0usize..300), 0.0f64..1.0),
            ((0usize..200, 0usize..3000, 0usize..50), 0.0f64..0.02),
        ],
        seed in any::<u64>(),
        threads in prop::sample::select(vec![1usize, 2, 3, 8]),
    ) {
        let rows = Rows::from_dense(m, k, &numbers(m * k, density, seed)).unwrap();
        let (dy, x) = (numbers(m * n, 1.0, seed ^ 1), numbers(k * n, 1.0, seed ^ 2));
        let wanted = naive::sddmm(&rows, n, &dy, &x);
        for target in Target::available() {
            let run = |threads| {
                let mut values = vec![f32::NAN; rows.nnz()];
                let matrix = PackedMatrix::new(rows.clone(), None, None, target, Storage::F32).unwrap();
                matrix.sddmm(&*with_threads(threads), n, &dy, &x, &mut values).unwrap();
                values
            };
            let values = run(threads);
            prop_assert_eq!(wanted.len(), values.len());
            prop_assert!(wanted.iter().zip(&values).all(|(wanted, &value)| wanted.allows(value)));
            prop_assert!(run(1).iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn updated_values_are_as_if_packed_anew(
        (m, k, n) in (1usize..70, 1usize..200, 1usize..40),
        density in 0.0f64..1.0,
        pattern in prop::sample::select(PATTERNS.to_vec()),
        seed in any::<u64>(),
    ) {
        let rows = Rows::from_dense(m, k, &patterned(numbers(m * k, density, seed), k, pattern)).unwrap();
        let (x, dy) = (numbers(k * n, 1.0, seed ^ 1), numbers(m * n, 1.0, seed ^ 2));
        // A value that becomes 0 keeps its place.
        let values = numbers(rows.nnz(), 0.9, seed ^ 3);
        let mut fresh = rows.clone();
        fresh.values_mut().copy_from_slice(&values);
        for kind in kinds(&rows) {
            let products = |matrix: &PackedMatrix| {
                let (mut y, mut one, mut dx) = (vec![0.0; m * n], vec![0.0; m], vec![0.0; k * n]);
                let run = |matrix: &PackedMatrix, n, x: &[f32], y: &mut [f32]| {
                    matrix.matmul(&Sequential, n, x, y, Epilogue::default()).unwrap();
                };
                run(matrix, n, &x, &mut y);
                run(matrix, 1, &x[..k], &mut one);
                run(matrix.transposed(), n, &dy, &mut dx);
                (y, one, dx)
            };
            let mut matrix = PackedMatrix::new(rows.clone(), Some(kind), None, Target::detect(), Storage::F32).unwrap();
            products(&matrix);
            matrix.update(&Sequential, &numbers(rows.nnz(), 1.0, seed ^ 4)).unwrap();
            matrix.update(&Sequential, &values).unwrap();
            let wanted = products(&PackedMatrix::new(fresh.clone(), Some(kind), None, Target::detect(), Storage::F32).unwrap());
            prop_assert_eq!(products(&matrix), wanted, "{:?}", kind);
            prop_assert_eq!(matrix.rows(), &fresh);
            prop_assert_eq!(matrix.transposed().rows(), &fresh.transposed());
        }
    }

    #[test]
    fn packing_loses_nothing((m, k) in (0usize..70, 0usize..300), density in 0.0f64..1.0, seed in any::<u64>()) {
        let dense = numbers(m * k, density, seed);
        let rows = Rows::from_dense(m, k, &dense).unwrap();
        let blocks = || KBlocks::new((0..k as u32).collect(), KBlocks::panels(4));
        prop_assert_eq!(&Csr::pack(&rows, blocks()).to_dense(), &dense);
        prop_assert_eq!(&Pattern::pack(&rows, blocks()).to_dense(), &dense);
        prop_assert_eq!(&Csr::pack_vector(&rows).to_dense(), &dense);
        for pattern in &PATTERNS[1..] {
            let kept = patterned(dense.clone(), k, *pattern);
            let packed = nm::pack::<f32>(&Rows::from_dense(m, k, &kept).unwrap()).unwrap();
            prop_assert_eq!(&packed.to_dense(), &kept);
        }
        prop_assert_eq!(&Bitmap::<f32>::pack(&rows).to_dense(), &dense);
        prop_assert_eq!(&Padded::<f32>::pack(&rows).to_dense(), &dense);
        prop_assert_eq!(&Stream::<f32>::pack(&rows).to_dense(), &dense);
        prop_assert_eq!(&Block::<16, f32>::pack_vector(&rows).to_dense(), &dense);
        prop_assert_eq!(&Block::<4>::pack(&rows, blocks()).to_dense(), &dense);
        prop_assert_eq!(&Block::<8>::pack(&rows, blocks()).to_dense(), &dense);
        prop_assert_eq!(&Block::<8>::pack_columns(&rows, blocks(), true).to_dense(), &dense);
    }
}

/// Rows wider than 16-bit indices and steps reach: several K-blocks, and packets that lead over gaps.
#[test]
fn wide_rows() {
    let (m, k) = (19, 200_001);
    let mut dense = vec![0.0; m * k];
    for (row, column) in [(0, 0), (0, 65_535), (0, 65_536), (1, 131_073), (2, 200_000), (2, 3), (17, 140_000), (18, 7)]
    {
        dense[row * k + column] = (row + column % 10 + 1) as f32;
    }
    let rows = Rows::from_dense(m, k, &dense).unwrap();
    assert_eq!(Padded::<f32>::pack(&rows).to_dense(), dense);
    assert_eq!(Stream::<f32>::pack(&rows).to_dense(), dense);
    for n in [1, 3] {
        let x = numbers(k * n, 1.0, 5);
        let bias = vec![0.0; m];
        for target in Target::available() {
            for kind in KINDS {
                let y = multiply(&rows, kind, target, 1, n, &x, Epilogue::default());
                check(&rows, n, &x, &bias, Activation::None, &y, &format!("{kind:?} {}", target.name()));
            }
        }
    }
}

/// Every kernel of few columns on weights that are stored in 16 bits, against the rounded weights.
#[test]
fn stored_in_half() {
    for (m, k) in [(1, 40), (16, 17), (37, 131)] {
        let dense = numbers(m * k, 0.4, m as u64);
        let bias = numbers(m, 1.0, 9);
        for (n, storage) in [1, 2, 3, 5, 40].into_iter().flat_map(|n| [Storage::Bf16, Storage::F16].map(|s| (n, s))) {
            let x = numbers(k * n, 1.0, n as u64);
            for pattern in PATTERNS {
                let rows = Rows::from_dense(m, k, &patterned(dense.clone(), k, pattern)).unwrap();
                let wanted = rows.clone().rounded(storage).unwrap();
                for kind in kinds(&rows).filter(|kind| !matches!(kind, Kind::Csr | Kind::Dense)).map(Some).chain([None])
                {
                    for target in Target::available() {
                        let matrix = PackedMatrix::new(rows.clone(), kind, None, target, storage).unwrap();
                        let mut y = vec![f32::NAN; m * n];
                        let epilogue = Epilogue::new(Some(&bias), Activation::Relu);
                        matrix.matmul(&*with_threads(2), n, &x, &mut y, epilogue).unwrap();
                        let what = format!("{kind:?} {storage:?} {} {n}", target.name());
                        check(&wanted, n, &x, &bias, Activation::Relu, &y, &what);
                    }
                }
            }
        }
    }
}

/// The kernels of few columns on 16 rows more or less, every number of them.
#[test]
fn few_columns() {
    for (m, k) in [(1, 40), (15, 100), (16, 17), (17, 64), (48, 129)] {
        let dense = numbers(m * k, 0.3, m as u64);
        let rows = Rows::from_dense(m, k, &dense).unwrap();
        let bias = numbers(m, 1.0, 9);
        for n in 1..=9 {
            let x = numbers(k * n, 1.0, n as u64);
            for target in Target::available() {
                let patterns = PATTERNS[1..]
                    .iter()
                    .map(|&pattern| (Kind::Nm, Rows::from_dense(m, k, &patterned(dense.clone(), k, pattern)).unwrap()));
                for (kind, rows) in KINDS.map(|kind| (kind, rows.clone())).into_iter().chain(patterns) {
                    let epilogue = Epilogue::new(Some(&bias), Activation::Tanh);
                    let y = multiply(&rows, kind, target, 2, n, &x, epilogue);
                    check(&rows, n, &x, &bias, Activation::Tanh, &y, &format!("{kind:?} {} {n}", target.name()));
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (m, k, n) = (300, 500, 200);
    let rows = Rows::from_dense(m, k, &patterned(numbers(m * k, 0.6, 3), k, (4, 8))).unwrap();
    let x = numbers(k * n, 1.0, 4);
    for kind in kinds(&rows) {
        for n in [1, 3, n] {
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

/// The tightest pattern is found; groups that are cut off count as they are.
#[test]
fn patterns_are_found() {
    let fitting =
        |columns, dense: &[f32]| nm::fitting(&Rows::from_dense(dense.len() / columns, columns, dense).unwrap());
    assert_eq!(fitting(8, &[0., 1., 0., 0., 0., 0., 0., 1.]), Some((1, 4)));
    assert_eq!(fitting(8, &[0., 1., 0., 1., 0., 0., 1., 1.]), Some((2, 4)));
    assert_eq!(fitting(8, &[0., 1., 1., 1., 0., 0., 0., 1.]), Some((4, 8)));
    assert_eq!(fitting(8, &[0., 1., 1., 1., 0., 1., 0., 1.]), None);
    assert_eq!(fitting(6, &[0., 1., 0., 1., 1., 1.]), Some((2, 4)));
    assert_eq!(fitting(3, &[1., 0., 0., 0., 0., 1.]), Some((1, 4)));
    assert_eq!(fitting(3, &[1., 1., 1.]), Some((4, 8)));
    assert_eq!(fitting(5, &[1.; 5]), None);
}

/// What `auto` and "nm" make of N:M patterns, of a row's own and shared by 8 or 16 rows.
#[test]
fn patterns_run_as_nm_and_shared_ones_as_blocks() {
    let (m, k) = (64, 128);
    let target = Target::detect();
    let format =
        |rows: &Rows, kind, n| PackedMatrix::new(rows.clone(), kind, None, target, Storage::F32).unwrap().kernel(n).0;
    for (pattern, step) in [((1, 4), 4), ((2, 4), 2), ((4, 8), 2)] {
        // The k-th of every `step` columns, moved along by the row.
        let of_row = |own: usize| -> Vec<f32> {
            (0..m * k)
                .map(|at| if (at % k + at / k / own).is_multiple_of(step) { 1.0 + at as f32 } else { 0.0 })
                .collect()
        };
        let mut own = of_row(1);
        if pattern == (4, 8) {
            own[..8].copy_from_slice(&[1., 1., 1., 0., 0., 0., 0., 1.]);
        }
        let own = Rows::from_dense(m, k, &own).unwrap();
        assert_eq!(nm::fitting(&own), Some(pattern));
        assert_eq!(format(&own, Some(Kind::Nm), 1), "nm");
        assert_eq!(format(&own, Some(Kind::Nm), 64), "pattern");
        assert_eq!(format(&own, None, 1), if target == Target::scalar() { "csr" } else { "nm" });
        for height in [8, 16] {
            let shared = Rows::from_dense(m, k, &of_row(height)).unwrap();
            for (kind, n) in [(None, 1), (None, 64), (Some(Kind::Nm), 1), (Some(Kind::Nm), 64)] {
                assert_eq!(format(&shared, kind, n), "block", "{pattern:?} over {height} rows, {kind:?}, {n} columns");
            }
        }
    }
}

#[test]
fn what_fits_no_pattern_is_refused() {
    let rows = Rows::from_dense(1, 8, &[1.0; 8]).unwrap();
    let error = PackedMatrix::new(rows, Some(Kind::Nm), None, Target::detect(), Storage::F32).unwrap_err().to_string();
    assert!(error.starts_with("format: \"nm\"") && error.contains("1:4, 2:4, 4:8"), "{error}");
}
