//! What one part of the weights adds to a selection over all of them: counts, which can be summed, and the few scores that matter.

use super::Tensor;
use super::bracket::Bracket;
use super::key::Key;
use super::pass::{Piece, blocks, cut, pass};
use super::score::Source;
use super::topk::each_equal;
use crate::argument;
use crate::error::Result;
use crate::executor::{self, Executor};
use std::ops::RangeInclusive;

/// A pass that has to gather more than one key in this many counts them one by one instead.
const CROWDED: usize = 32;
/// Pieces that share one array of counts.
const TOGETHER: usize = 64;
/// The most steps that a range is counted in.
const STEPS: u64 = 1 << 16;

/// The integers that order scores: those of all precisions but float64, or those of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// 32 bits.
    Short,
    /// 64 bits.
    Long,
}

impl Keys {
    /// The key of a score, rounded to what these keys stand for.
    pub fn near(self, score: f64) -> u64 {
        match self {
            Keys::Short => u32::near(score).into(),
            Keys::Long => u64::near(score),
        }
    }

    /// The score of a key.
    pub fn score(self, key: u64) -> f64 {
        match self {
            Keys::Short => u32::whole(key).score(),
            Keys::Long => u64::whole(key).score(),
        }
    }
}

/// What lies above a range of keys, and in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many keys are larger than all of the range.
    pub above: usize,
    /// How many lie in each step of the range.
    pub counts: Vec<u64>,
    /// The keys in the range, in any order, if they are not too many.
    pub keys: Vec<u64>,
    /// The flat index of each of them.
    pub at: Vec<u64>,
}

/// The scores, widened, of runs of `run` weights (or what is left of the tensor) from these flat indices on. Runs that hold a NaN
/// are left out.
pub fn scores_at(tensor: &Tensor<'_>, at: &[usize], run: usize) -> Result<Vec<f64>> {
    tensor.check()?;
    if let Some(at) = at.iter().find(|&&at| at >= tensor.len()) {
        return Err(argument!("at: expected less than {} (the number of scores), got {at}", tensor.len()));
    }
    let source = tensor.scores.long();
    let mut keys = vec![0; run.min(tensor.len())];
    let mut scores = Vec::with_capacity(at.len() * keys.len());
    for &at in at {
        let length = run.min(tensor.len() - at);
        let keys = &mut keys[..length];
        if !source.keys(at, keys) {
            scores.extend(keys.iter().map(|key| key.score()));
        }
    }
    Ok(scores)
}

/// Counts a tensor's keys by where they lie to a range: above it, or in which step of 2^`shift` keys of it. No more than `most` of
/// those in it are returned themselves.
pub fn tally(
    executor: &dyn Executor,
    tensor: &Tensor<'_>,
    keys: Keys,
    range: RangeInclusive<u64>,
    shift: u32,
    most: usize,
) -> Result<Tally> {
    tensor.check()?;
    let (low, high) = range.into_inner();
    let largest = if keys == Keys::Short { u32::LARGEST.into() } else { u64::LARGEST };
    if low == 0 || low > high || high > largest || shift > 63 || (high - low) >> shift >= STEPS {
        return Err(argument!("range: expected keys in at most {STEPS} steps, got {low} to {high}, shift {shift}"));
    }
    let found = match keys {
        Keys::Long => count::<u64>(executor, tensor.scores.long(), low, high, shift, most),
        Keys::Short => match tensor.scores.short() {
            Some(source) => count::<u32>(executor, source, low, high, shift, most),
            None => return Err(argument!("{}: float64 needs keys of 64 bits", tensor.label("scores"))),
        },
    };
    found.ok_or_else(|| tensor.nan_error())
}

/// [`tally`]; none if a score is NaN.
fn count<K: Key>(
    executor: &dyn Executor,
    source: &dyn Source<K>,
    low: u64,
    high: u64,
    shift: u32,
    most: usize,
) -> Option<Tally> {
    let sources = [source];
    let mut pieces = cut(&sources);
    let bracket = Bracket::between(K::whole(low), K::whole(high));
    let step = |key: K| ((key.prefix(0) - low) >> shift) as usize;
    let steps = step(bracket.high) + 1;
    let Some(seen) = pass(executor, &sources, &mut pieces, bracket, most.max(source.len() / CROWDED)) else {
        return one_by_one(executor, source, &pieces, bracket, steps, step);
    };
    if seen.iter().any(|seen| seen.nan) {
        return None;
    }
    let mut tally = Tally { above: seen.iter().map(|seen| seen.above).sum(), ..Tally::default() };
    let between: usize = seen.iter().map(|seen| seen.between).sum();
    let ends: usize = seen.iter().map(|seen| seen.at_high + seen.at_low).sum();
    tally.counts = vec![0; steps];
    for (piece, seen) in pieces.iter().zip(&seen) {
        tally.counts[steps - 1] += seen.at_high as u64;
        tally.counts[0] += seen.at_low as u64;
        seen.keys.iter().for_each(|&key| tally.counts[step(key)] += 1);
        if between + ends > most {
            continue;
        }
        let start = piece.range.start as u64;
        tally.keys.extend(seen.keys.iter().map(|key| key.prefix(0)));
        tally.at.extend(seen.at.iter().map(|&at| start + u64::from(at)));
        for (end, count) in [(bracket.high, seen.at_high), (bracket.low, seen.at_low)] {
            if count > 0 {
                each_equal(source, piece.range.clone(), end, |at| tally.at.push(start + at as u64));
                tally.keys.resize(tally.at.len(), end.prefix(0));
            }
        }
    }
    Some(tally)
}

/// The tally of a bracket that holds so many keys that they are not gathered; none if a score is NaN.
fn one_by_one<K: Key>(
    executor: &dyn Executor,
    source: &dyn Source<K>,
    pieces: &[Piece<'_>],
    bracket: Bracket<K>,
    steps: usize,
    step: impl Fn(K) -> usize + Sync,
) -> Option<Tally> {
    let counted = executor::map(executor, pieces.chunks(TOGETHER).collect(), |pieces: &[Piece<'_>]| {
        let mut tally = Tally { counts: vec![0; steps], ..Tally::default() };
        let mut nan = false;
        for piece in pieces {
            nan |= blocks(source, piece.range.clone(), |_, keys| {
                tally.above += keys.iter().filter(|&&key| key > bracket.high).count();
                let inside = keys.iter().filter(|key| (bracket.low..=bracket.high).contains(key));
                inside.for_each(|&key| tally.counts[step(key)] += 1);
            });
        }
        (!nan).then_some(tally)
    });
    let mut tally = Tally { counts: vec![0; steps], ..Tally::default() };
    for part in counted {
        let part = part?;
        tally.above += part.above;
        tally.counts.iter_mut().zip(part.counts).for_each(|(sum, count)| *sum += count);
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::super::{Score, Scores};
    use super::*;
    use crate::executor::{Sequential, with_threads};
    use proptest::prelude::*;

    /// What a tally is by definition.
    fn naive(keys: &[u64], low: u64, high: u64, shift: u32, most: usize) -> Tally {
        let mut tally = Tally { counts: vec![0; ((high - low) >> shift) as usize + 1], ..Tally::default() };
        for (at, &key) in keys.iter().enumerate() {
            tally.above += usize::from(key > high);
            if (low..=high).contains(&key) {
                tally.counts[((key - low) >> shift) as usize] += 1;
                tally.keys.push(key);
                tally.at.push(at as u64);
            }
        }
        if tally.keys.len() > most {
            (tally.keys, tally.at) = (vec![], vec![]);
        }
        tally
    }

    /// The keys found lie in no order.
    fn sorted(mut tally: Tally) -> Tally {
        let mut found: Vec<_> = tally.at.drain(..).zip(tally.keys.drain(..)).collect();
        found.sort_unstable();
        (tally.at, tally.keys) = found.into_iter().unzip();
        tally
    }

    fn same(x: &[f32], (a, b): (f32, f32), fine: bool, most: usize) -> std::result::Result<(), TestCaseError> {
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let scores = [(Keys::Short, Scores::F32(Score::Given(x))), (Keys::Long, Scores::F64(Score::Given(&wide)))];
        for (keys, scores) in scores {
            let ends = [a, b].map(|end| keys.near(end.into()));
            let (low, high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
            let shift = (u64::BITS - (high - low).leading_zeros()).saturating_sub(if fine { 16 } else { 2 });
            let all: Vec<u64> = x.iter().map(|&x| keys.near(x.into())).collect();
            let tensor = Tensor { name: None, shape: &[x.len()], scores };
            for threads in [1, 2] {
                let found = tally(&*with_threads(threads), &tensor, keys, low..=high, shift, most);
                prop_assert_eq!(sorted(found.unwrap()), naive(&all, low, high, shift, most));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_loop(
            x in prop::collection::vec(prop_oneof![(-3i8..4).prop_map(f32::from), -2.0f32..2.0], 0..300),
            ends in (-4.0f32..4.0, prop_oneof![(-3i8..4).prop_map(f32::from), -4.0f32..4.0]),
            fine: bool, most in 0usize..40,
        ) {
            same(&x, ends, fine, most)?;
        }
    }

    #[test]
    fn large_tensors_are_gathered_or_counted_one_by_one() {
        let x: Vec<f32> = (0..300_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 12) as f32).collect();
        for ends in [(5e5, 5.01e5), (0.0, 9e5), (2e5, 2e5), (-1.0, -2.0)] {
            for most in [0, 1 << 20] {
                same(&x, ends, true, most).unwrap();
            }
        }
    }

    #[test]
    fn scores_come_back_and_wrong_ranges_do_not() {
        let x = [1.0, f32::NAN, -3.0];
        let tensor = Tensor { name: None, shape: &[3], scores: Scores::F32(Score::Magnitude(&x)) };
        assert_eq!(scores_at(&tensor, &[2, 1, 0, 2], 1).unwrap(), [3.0, 1.0, 3.0]);
        assert_eq!(scores_at(&tensor, &[2, 0], 2).unwrap(), [3.0]);
        assert!(scores_at(&tensor, &[3], 1).is_err());
        let nan = tally(&Sequential, &tensor, Keys::Short, 1..=1, 0, 0).unwrap_err().to_string();
        assert!(nan.contains("[1] is NaN"), "{nan}");
        let wrong = [(0, 1, 0), (2, 1, 0), (1, u64::MAX, 63), (1, 1 << 20, 0), (1, 1, 64)];
        for (low, high, shift) in wrong {
            assert!(tally(&Sequential, &tensor, Keys::Short, low..=high, shift, 0).is_err());
        }
        let wide = Tensor { name: None, shape: &[0], scores: Scores::F64(Score::Given(&[])) };
        assert!(tally(&Sequential, &wide, Keys::Short, 1..=1, 0, 0).is_err());
    }
}
