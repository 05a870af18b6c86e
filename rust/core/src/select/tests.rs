//! Against a stable sort, the definition of the order.

use super::*;
use crate::executor::{Sequential, with_threads};
use proptest::prelude::*;

/// The mask of one tensor without a name.
fn lone(scores: Scores<'_>, k: usize) -> Vec<bool> {
    let tensor = Tensor { name: None, shape: &[], scores };
    let shape = [tensor.len()];
    let mut mask = vec![true; tensor.len()];
    top_k_mask(&Sequential, &[Tensor { shape: &shape, ..tensor }], k, None, vec![MaskMut::Bools(&mut mask)]).unwrap();
    mask
}

/// The order by definition: indices by falling score, the earlier of equal ones first.
fn oracle(scores: &[f64], k: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap());
    let mut mask = vec![false; scores.len()];
    order[..k].iter().for_each(|&i| mask[i] = true);
    mask
}

/// Few distinct values, so that most scores tie; among them the awkward ones.
fn tied() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => (-3i8..=3).prop_map(f32::from),
        1 => prop::sample::select(vec![0.0, -0.0, 1e-45, -1e-45, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE]),
        1 => any::<f32>().prop_filter("a number", |x| !x.is_nan()),
    ]
}

proptest! {
    #[test]
    fn top_k_is_the_stable_sort(x in prop::collection::vec(tied(), 0..200), at in 0.0..=1.0f64) {
        let k = (at * x.len() as f64) as usize;
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let wanted = oracle(&wide, k);
        prop_assert_eq!(&lone(Scores::F32(Score::Given(&x)), k), &wanted);
        prop_assert_eq!(&lone(Scores::F64(Score::Given(&wide)), k), &wanted);
        let magnitudes: Vec<f64> = wide.iter().map(|x| x.abs()).collect();
        prop_assert_eq!(&lone(Scores::F32(Score::Magnitude(&x)), k), &oracle(&magnitudes, k));
        if k > 0 {
            let tensor = Tensor { name: None, shape: &[x.len()], scores: Scores::F32(Score::Given(&x)) };
            let mut falling = wide.clone();
            falling.sort_by(|a, b| b.partial_cmp(a).unwrap());
            prop_assert_eq!(kth_largest(&Sequential, &[tensor], k).unwrap(), falling[k - 1]);
        }
    }

    #[test]
    fn tensors_rank_together_by_name(
        a in prop::collection::vec(tied(), 0..50), b in prop::collection::vec(tied(), 0..50), at in 0.0..=1.0f64,
    ) {
        let k = (at * (a.len() + b.len()) as f64) as usize;
        let wide: Vec<f64> = b.iter().map(|&x| f64::from(x)).collect();
        // "B" < "a": the second comes first, and one of them is float64.
        let (mut of_a, mut of_b) = (vec![true; a.len()], vec![true; b.len()]);
        let tensors = [
            Tensor { name: Some("a"), shape: &[a.len()], scores: Scores::F32(Score::Given(&a)) },
            Tensor { name: Some("B"), shape: &[b.len()], scores: Scores::F64(Score::Given(&wide)) },
        ];
        top_k_mask(&Sequential, &tensors, k, None, vec![MaskMut::Bools(&mut of_a), MaskMut::Bools(&mut of_b)]).unwrap();
        let all: Vec<f64> = wide.iter().copied().chain(a.iter().map(|&x| f64::from(x))).collect();
        prop_assert_eq!([of_b, of_a].concat(), oracle(&all, k));
    }

    #[test]
    fn nm_keeps_the_first_n_of_every_group(
        x in prop::collection::vec(tied(), 0..400), n in 0usize..5, more in 0usize..40, inner in 1usize..4, length in 1usize..60,
    ) {
        let m = (n + more).max(1);
        let outer = x.len() / (length * inner);
        let x = &x[..outer * length * inner];
        let mut mask = vec![true; x.len()];
        let tensor = Tensor { name: None, shape: &[outer, length, inner], scores: Scores::F32(Score::Given(x)) };
        nm_mask(&Sequential, &tensor, (n, m), 1, &mut mask).unwrap();
        for (i, j) in (0..outer).flat_map(|i| (0..inner).map(move |j| (i, j))) {
            let at = |p: usize| (i * length + p) * inner + j;
            for start in (0..length).step_by(m) {
                let group: Vec<usize> = (start..length.min(start + m)).map(at).collect();
                let scores: Vec<f64> = group.iter().map(|&at| x[at].into()).collect();
                let kept: Vec<bool> = group.iter().map(|&at| mask[at]).collect();
                prop_assert_eq!(kept, oracle(&scores, n.min(group.len())));
            }
        }
    }
}

/// Larger than a task, with values that share digits, so that every path of the narrowing is walked.
#[test]
fn large_arrays_agree_for_any_number_of_threads() {
    let n = 300_001;
    let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    type Value = fn(u32) -> f32;
    let shapes: [(&str, Value); 5] = [
        ("spread", |r| r as f32 - 8e6),
        ("equal", |_| 0.25),
        ("two", |r| (r % 2) as f32),
        ("close", |r| 1.0 + (r % 1000) as f32 * f32::EPSILON),
        ("subnormal", |r| f32::from_bits(r % 5000)),
    ];
    for (name, value) in shapes {
        let x: Vec<f32> = (0..n).map(|i| value(noise(i))).collect();
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x) * 1.1).collect();
        for k in [1, 1000, n / 2, n - 1] {
            let (f32s, f64s) = (oracle(&x.iter().map(|&x| x.into()).collect::<Vec<_>>(), k), oracle(&wide, k));
            for threads in [1, 2, 3, 8] {
                let executor = with_threads(threads);
                let mut mask = vec![false; n];
                let tensor = Tensor { name: None, shape: &[n], scores: Scores::F32(Score::Given(&x)) };
                top_k_mask(&*executor, &[tensor], k, None, vec![MaskMut::Bools(&mut mask)]).unwrap();
                assert!(mask == f32s, "{name} float32 k={k} threads={threads}");
                let tensor = Tensor { name: None, shape: &[n], scores: Scores::F64(Score::Given(&wide)) };
                top_k_mask(&*executor, &[tensor], k, None, vec![MaskMut::Bools(&mut mask)]).unwrap();
                assert!(mask == f64s, "{name} float64 k={k} threads={threads}");
            }
        }
    }
}

#[test]
fn nan_is_named_by_tensor_and_index() {
    let mut x = [0.0f32; 24];
    x[17] = f32::NAN;
    let (zeros, inf) = ([0.0f32; 24], [f32::INFINITY; 24]);
    for (scores, says) in [
        (Score::Given(&x[..]), "scores['a'][1, 1, 1] is NaN"),
        (Score::Magnitude(&x), "weights['a'][1, 1, 1] is NaN"),
        (Score::Gradient(&x), "grads['a'][1, 1, 1] is NaN"),
        (Score::Taylor(&zeros, &x), "grads['a'][1, 1, 1] is NaN"),
        (Score::Combined(&x, &zeros, 0.5), "weights['a'][1, 1, 1] is NaN"),
        (Score::Taylor(&zeros, &inf), "the score of weights['a'][0, 0, 0] is NaN"),
    ] {
        let tensor = Tensor { name: Some("a"), shape: &[2, 3, 4], scores: Scores::F32(scores) };
        for k in [0, 1, 24] {
            let error =
                top_k_mask(&Sequential, &[tensor], k, None, vec![MaskMut::Bools(&mut [false; 24])]).unwrap_err();
            assert_eq!(error.to_string(), says);
        }
        assert_eq!(kth_largest(&Sequential, &[tensor], 2).unwrap_err().to_string(), says);
        assert_eq!(nm_mask(&Sequential, &tensor, (2, 4), 2, &mut [false; 24]).unwrap_err().to_string(), says);
    }
    let tensor = Tensor { name: None, shape: &[4, 6], scores: Scores::F32(Score::Given(&x)) };
    let error = block_mask(&Sequential, &[tensor], (2, 2), 0.5, &mut [&mut [false; 24]]).unwrap_err();
    assert_eq!(error.to_string(), "scores[2, 5] is NaN");
}

#[test]
fn blocks_with_tails_come_nearest_to_the_sparsity() {
    // 5 × 7 in blocks of 2 × 3; all scores 1, so sums are sizes and blocks go from the last of the smallest on.
    let tensor = Tensor { name: None, shape: &[5, 7], scores: Scores::F32(Score::Given(&[1.0; 35])) };
    for (removed, wanted) in [(0, 0), (1, 1), (2, 3), (3, 3), (4, 3), (8, 8), (20, 17), (21, 23), (35, 35)] {
        let mut mask = [false; 35];
        block_mask(&Sequential, &[tensor], (2, 3), removed as f64 / 35.0, &mut [&mut mask]).unwrap();
        assert_eq!(mask.iter().filter(|kept| !**kept).count(), wanted, "{removed} asked for");
    }
}

#[test]
fn sparsity_rounds_half_to_even() {
    for (sparsity, n, wanted) in
        [(0.0, 7, 7), (1.0, 7, 0), (0.5, 5, 3), (0.5, 7, 3), (0.25, 10, 8), (0.9, 10, 1), (0.3, 0, 0)]
    {
        assert_eq!(kept(sparsity, n).unwrap(), wanted);
    }
    for wrong in [-0.1, 1.5, f64::NAN] {
        assert!(kept(wrong, 3).unwrap_err().to_string().starts_with("sparsity: expected a number in [0, 1]"));
    }
}

#[test]
fn bad_arguments_are_named() {
    let (x, short) = ([1.0f32; 4], [1.0f32; 3]);
    let tensor = |shape, scores| Tensor { name: None, shape, scores: Scores::F32(scores) };
    let given = tensor(&[4], Score::Given(&x));
    let says = |result: Result<()>, wanted: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    let mask = |of, k, n| top_k_mask(&Sequential, &[of], k, None, vec![MaskMut::Bools(&mut [false; 9][..n])]).map(drop);
    says(mask(given, 5, 4), "k: expected 0 to 4");
    says(mask(given, 2, 3), "masks:");
    says(mask(tensor(&[5], Score::Given(&x)), 2, 4), "of shape [5]");
    says(mask(tensor(&[3], Score::Taylor(&x, &short)), 2, 3), "scores");
    says(cut(&Sequential, &[given], 0, None).map(drop), "k: expected 1 to 4");
    says(cut_mask(&Sequential, &given, 1.0, 2, MaskMut::Bits(&mut [0; 2])), "masks: 4 weights need 1 bytes, got 2");
    says(kth_largest(&Sequential, &[given], 0).map(drop), "k: expected 1 to 4");
    says(kth_largest(&Sequential, &[], 1).map(drop), "k: expected 1 to 0");
    says(nm_mask(&Sequential, &given, (3, 2), 0, &mut [false; 4]), "n, m:");
    says(nm_mask(&Sequential, &given, (1, 2), 1, &mut [false; 4]), "axis: 1 is out of range");
    says(block_mask(&Sequential, &[given], (0, 1), 0.5, &mut [&mut [false; 4]]), "block:");
}
