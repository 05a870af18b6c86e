//! Against a stable sort, the definition of the order.

use super::*;
use crate::executor::{Sequential, with_threads};
use crate::simd::on_every_target;
use proptest::prelude::*;

/// The mask of one tensor without a name.
fn lone(scores: Scores<'_>, k: usize) -> Vec<bool> {
    let tensor = Tensor { name: None, shape: &[], scores };
    let shape = [tensor.len()];
    let mut mask = vec![true; tensor.len()];
    top_k_mask(&Sequential, &[Tensor { shape: &shape, ..tensor }], k, None, vec![MaskMut::Bools(&mut mask)]).unwrap();
    mask
}

/// Asserts that every way to select gives these masks, on every target.
fn every_way(executor: &dyn Executor, tensors: &[Tensor<'_>], k: usize, wanted: &[&[bool]], what: &str) {
    if executor.threads() > 1 {
        return on_this_target(executor, tensors, k, wanted, what);
    }
    on_every_target(|target| on_this_target(executor, tensors, k, wanted, &format!("{what}, {target}")));
}

fn on_this_target(executor: &dyn Executor, tensors: &[Tensor<'_>], k: usize, wanted: &[&[bool]], what: &str) {
    let n: usize = tensors.iter().map(Tensor::len).sum();
    let mut last = None;
    let guesses = [None, Some(0.0), Some(-1e30), Some(f64::INFINITY)];
    for guess in guesses.into_iter().map(Some).chain([None]) {
        // The last time with the true threshold as the guess.
        let near = guess.unwrap_or(last).map(Near::from);
        let mut bools: Vec<_> = tensors.iter().map(|tensor| vec![true; tensor.len()]).collect();
        let masks = bools.iter_mut().map(|bools| MaskMut::Bools(bools)).collect();
        last = top_k_mask(executor, tensors, k, near, masks).unwrap();
        assert!(bools.iter().zip(wanted).all(|(bools, wanted)| bools == wanted), "{what}, near {near:?}");
        let mut bits: Vec<_> = tensors.iter().map(|tensor| vec![255; tensor.len().div_ceil(8)]).collect();
        let masks = bits.iter_mut().map(|bits| MaskMut::Bits(bits)).collect();
        assert_eq!(top_k_mask(executor, tensors, k, near, masks).unwrap(), last);
        let same = |bits: &Vec<u8>, wanted: &[bool]| *bits == crate::mask::Mask::from_bools(wanted).to_bytes();
        assert!(bits.iter().zip(wanted).all(|(bits, wanted)| same(bits, wanted)), "{what}, bits, near {near:?}");
        if !(1..=n).contains(&k) {
            continue;
        }
        assert_eq!(last, Some(kth_largest(executor, tensors, k).unwrap()), "{what}");
        let cut = cut(executor, tensors, k, near).unwrap();
        assert_eq!(Some(cut.score), last, "{what}");
        for (at, (tensor, wanted)) in tensors.iter().zip(wanted).enumerate() {
            let end = match tensor.name.cmp(&tensors[cut.tensor].name) {
                std::cmp::Ordering::Less => tensor.len(),
                std::cmp::Ordering::Equal if at == cut.tensor => cut.index + 1,
                _ => 0,
            };
            let mut mask = vec![true; tensor.len()];
            cut_mask(executor, tensor, cut.score, end, MaskMut::Bools(&mut mask)).unwrap();
            assert!(mask == *wanted, "{what}, cut mask");
        }
    }
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
        let given = Tensor { name: None, shape: &[x.len()], scores: Scores::F32(Score::Given(&x)) };
        every_way(&Sequential, &[given], k, &[&wanted], "short");
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
        let mut masks = vec![];
        let tensor = Tensor { name: None, shape: &[outer, length, inner], scores: Scores::F32(Score::Given(x)) };
        on_every_target(|_| {
            let mut mask = vec![true; x.len()];
            nm_mask(&Sequential, &tensor, (n, m), 1, &mut mask).unwrap();
            masks.push(mask);
        });
        let mask = &masks[0];
        prop_assert!(masks.iter().all(|other| other == mask));
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
            let narrow: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            let (f32s, f64s) = (oracle(&narrow, k), oracle(&wide, k));
            let one = |scores| [Tensor { name: None, shape: &[300_001], scores }];
            for threads in [1, 2, 3, 8] {
                let executor = with_threads(threads);
                let what = format!("{name} k={k} threads={threads}");
                every_way(&*executor, &one(Scores::F32(Score::Given(&x))), k, &[&f32s], &what);
                every_way(&*executor, &one(Scores::F64(Score::Given(&wide))), k, &[&f64s], &what);
            }
        }
    }
}

#[test]
fn only_what_is_alive_competes() {
    let n = 150_001;
    let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    let alive: Vec<u8> = (0..n).map(|i| if noise(i * 7 + 3) % 3 == 0 { 1 + (i % 255) as u8 } else { 0 }).collect();
    let left = alive.iter().filter(|&&alive| alive != 0).count();
    for distinct in [4, 1 << 20] {
        let x: Vec<f32> = (0..n).map(|i| (noise(i) % distinct) as f32 - 2.0).collect();
        let of_the_living: Vec<f64> =
            x.iter().zip(&alive).map(|(&x, &alive)| if alive != 0 { x.into() } else { f64::NEG_INFINITY }).collect();
        for (k, kept) in [(0, 0), (1, 1), (left / 2, left / 2), (left - 1, left - 1), (left, left), (n, left)] {
            let wanted = oracle(&of_the_living, kept);
            on_every_target(|target| {
                // A tensor of which all is alive, and which comes later, loses every tie.
                let tensors = [
                    Tensor { name: Some("b"), shape: &[2], scores: Scores::F32(Score::Given(&[-9.0; 2])) },
                    Tensor { name: Some("a"), shape: &[n], scores: Scores::F32(Score::Given(&x)) },
                ];
                let (mut mask, mut other) = (vec![true; n], [true; 2]);
                let masks = vec![MaskMut::Bools(&mut other), MaskMut::Bools(&mut mask)];
                let alive = [None, Some(&alive[..])];
                top_k_mask_among(&Sequential, &tensors, &alive, k, None, masks).unwrap();
                assert!(mask == wanted, "{distinct} values, k={k}, {target}");
                assert_eq!(other, [k > left; 2]);
            });
        }
    }
    let tensor = Tensor { name: None, shape: &[2], scores: Scores::F32(Score::Given(&[1.0, f32::NAN])) };
    for (alive, said) in [(&[1, 0][..], "is NaN"), (&[1], "alive: 2 weights need as many bools, got 1")] {
        let mut mask = [false; 2];
        let masks = vec![MaskMut::Bools(&mut mask)];
        let error = top_k_mask_among(&Sequential, &[tensor], &[Some(alive)], 1, None, masks).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    assert_eq!(absolute_sum(&[1.5, -2.0, 0.0]), 3.5);
    assert_eq!(absolute_sum(&[-1.0; 1000]), 1000.0);
}

/// The sample's own places hold other values than the rest: both samples mislead.
#[test]
fn a_misleading_sample_costs_time_only() {
    let n = 1 << 18;
    for (low, high) in [(0.0, 1.0), (1.0, 0.0)] {
        let mut x: Vec<f32> = (0..n).map(|i| low + (i as u32).wrapping_mul(2_654_435_761) as f32 * 1e-12).collect();
        for attempt in 0..2 {
            bracket::positions(n, attempt).take_while(|&at| at < n).for_each(|at| {
                let end = n.min(at + 16);
                x[at..end].iter_mut().for_each(|x| *x += high - low);
            });
        }
        let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        for k in [n / 100, n / 2, n - 5] {
            let tensor = Tensor { name: None, shape: &[n], scores: Scores::F32(Score::Given(&x)) };
            every_way(&Sequential, &[tensor], k, &[&oracle(&wide, k)], &format!("{low} k={k}"));
        }
    }
}

/// Tensors of all types, some large, some empty, ranked together.
#[test]
fn types_rank_together() {
    let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 16) as f32 / 65536.0 - 0.5;
    for (a, b, c, d) in [(0, 3, 70, 1), (100_000, 0, 33, 40_001), (17, 70_001, 0, 64), (5, 6, 90_000, 0)] {
        let of = |n: usize, salt: usize| (0..n).map(move |i| noise(i * 7 + salt));
        let singles: Vec<f32> = of(a, 1).collect();
        let bfloats: Vec<bf16> = of(b, 2).map(bf16::from_f32).collect();
        let halves: Vec<f16> = of(c, 3).map(f16::from_f32).collect();
        let doubles: Vec<f64> = of(d, 4).map(|x| f64::from(x) * 1.1).collect();
        for with_doubles in [false, true] {
            let shapes = [[a], [b], [c], [d]];
            let mut tensors = vec![
                Tensor { name: Some("z"), shape: &shapes[0], scores: Scores::F32(Score::Magnitude(&singles)) },
                Tensor { name: Some("b"), shape: &shapes[1], scores: Scores::Bf16(Score::Magnitude(&bfloats)) },
                Tensor { name: Some("h"), shape: &shapes[2], scores: Scores::F16(Score::Magnitude(&halves)) },
            ];
            let mut wide: Vec<Vec<f64>> = vec![
                singles.iter().map(|&x| x.abs().into()).collect(),
                bfloats.iter().map(|&x| x.to_f64().abs()).collect(),
                halves.iter().map(|&x| x.to_f64().abs()).collect(),
            ];
            let mut order = vec![1, 2, 0];
            if with_doubles {
                let scores = Scores::F64(Score::Magnitude(&doubles));
                tensors.push(Tensor { name: Some("c"), shape: &shapes[3], scores });
                wide.push(doubles.iter().map(|x| x.abs()).collect());
                order = vec![1, 3, 2, 0];
            }
            let all: Vec<f64> = order.iter().flat_map(|&at| wide[at].iter().copied()).collect();
            for k in [0, 1, all.len() / 3, all.len()] {
                let mut rest = &oracle(&all, k)[..];
                let mut wanted: Vec<&[bool]> = vec![&[]; order.len()];
                for &at in &order {
                    (wanted[at], rest) = rest.split_at(wide[at].len());
                }
                for threads in [1, 2] {
                    every_way(&*with_threads(threads), &tensors, k, &wanted, &format!("{a} {b} {c} {d} k={k}"));
                }
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
