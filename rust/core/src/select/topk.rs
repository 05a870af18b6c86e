//! Exact top-k: which k of n scores are the largest.
//!
//! ```text
//! sample ──► bracket ──► one pass: counts, provisional mask, the few keys inside ──► threshold ──► mask corrected there
//!    ▲                     │ the counts prove that the bracket holds rank k
//!    └──── another one ────┘ or not
//! ```
//!
//! The threshold is exact: found among the gathered keys, in the same way. Where two samples misled, it is found digit by digit
//! (`narrow.rs`), which is slower, and is then a bracket of one key.

use super::Near;
use super::bracket::{ATTEMPTS, Bracket};
use super::key::Key;
use super::narrow::{copied, narrow, nth};
use super::pass::{Piece, Seen, Ties, blocks, cut, pass};
use super::score::Source;
use crate::executor::{self, Executor};
use std::ops::Range;

/// Below this number of keys a sample does not pay.
const LEAST: usize = 1 << 14;
/// A bracket that holds more than one key in this many between its ends is given up, unless they are [`FEW`].
const CROWDED: usize = 16;
/// A guess is narrower than a sample's bracket: as many keys as this close to it are equal ones.
const CROWDED_GUESS: usize = 64;
const FEW: usize = 1 << 14;

/// What decides a selection: keys above `key` are kept, and the first `ties` of those equal to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Threshold<K> {
    pub key: K,
    pub ties: usize,
}

/// The threshold that keeps `k` of the keys, 1 ≤ k ≤ their number; or the first source that holds a NaN.
pub(super) fn threshold<K: Key>(
    executor: &dyn Executor,
    sources: &[&dyn Source<K>],
    k: usize,
) -> Result<Threshold<K>, usize> {
    if sources.iter().map(|source| source.len()).sum::<usize>() < LEAST {
        return copied(sources, k);
    }
    Selection::new(executor, sources, cut(sources), k, None).map(|selection| selection.threshold)
}

/// As [`threshold`], of keys that lie in memory; none is a NaN's.
pub(super) fn threshold_of<K: Key>(executor: &dyn Executor, keys: &Vec<K>, k: usize) -> Threshold<K> {
    let few = || nth(keys, k);
    if keys.len() < LEAST { few() } else { threshold(executor, &[keys], k).unwrap_or_else(|_| few()) }
}

/// A threshold, and what the pass that proved it saw.
pub(super) struct Selection<'a, K> {
    pub threshold: Threshold<K>,
    bracket: Bracket<K>,
    pieces: Vec<Piece<'a>>,
    seen: Vec<Seen<K>>,
}

impl<'a, K: Key> Selection<'a, K> {
    /// Finds the threshold that keeps `k` of the keys, 1 ≤ k ≤ their number, which may be close to `near`; or the first source
    /// that holds a NaN. The masks of the pieces are written, and still have to be [corrected](Selection::correct).
    pub fn new(
        executor: &dyn Executor,
        sources: &[&dyn Source<K>],
        mut pieces: Vec<Piece<'a>>,
        k: usize,
        near: Option<Near>,
    ) -> Result<Self, usize> {
        let n: usize = sources.iter().map(|source| source.len()).sum();
        let mut attempts = if n < LEAST { 0..0 } else { 0..ATTEMPTS };
        let mut guess = near.map(Bracket::around);
        loop {
            let crowded = if guess.is_some() { CROWDED_GUESS } else { CROWDED };
            let bracket = if let Some(guess) = guess.take() {
                guess
            } else if let Some(attempt) = attempts.next() {
                Bracket::sampled(executor, sources, k, n, attempt)
            } else if n < LEAST {
                Bracket::exactly(copied(sources, k)?.key)
            } else {
                Bracket::exactly(narrow(executor, sources, k, K::BITS, 0)?.key)
            };
            let Some(seen) = pass(executor, sources, &mut pieces, bracket, FEW.max(n / crowded)) else {
                continue;
            };
            if let Some(at) = seen.iter().position(|seen| seen.nan) {
                return Err(pieces[at].source);
            }
            if let Some(threshold) = settle(executor, &seen, bracket, k) {
                return Ok(Selection { threshold, bracket, pieces, seen });
            }
        }
    }

    /// How many keys of a piece equal the threshold.
    fn equal(&self, seen: &Seen<K>) -> usize {
        match self.threshold.key {
            key if key == self.bracket.high => seen.at_high,
            key if key == self.bracket.low => seen.at_low,
            key => seen.keys.iter().filter(|&&other| other == key).count(),
        }
    }

    /// The source and the index of the last kept key.
    pub fn last(&self, sources: &[&dyn Source<K>]) -> (usize, usize) {
        let mut left = self.threshold.ties;
        for (piece, seen) in self.pieces.iter().zip(&self.seen) {
            let equal = self.equal(seen);
            if left > equal {
                left -= equal;
                continue;
            }
            let key = self.threshold.key;
            // Keys between the ends were gathered, with where they lie.
            let gathered = seen.keys.iter().zip(&seen.at).filter(|&(&other, _)| other == key).nth(left - 1);
            let mut index = gathered.map_or(0, |(_, &at)| at as usize);
            if gathered.is_none() {
                each_equal(sources[piece.source], piece.range.clone(), key, |at| {
                    if left == 1 {
                        index = at;
                    }
                    left = left.wrapping_sub(1);
                });
            }
            return (piece.source, piece.range.start + index);
        }
        (0, 0)
    }

    /// Makes the masks exact.
    pub fn correct(mut self, executor: &dyn Executor, sources: &[&dyn Source<K>]) {
        let Threshold { key: limit, ties } = self.threshold;
        let mut before = 0;
        let equals: Vec<usize> = self.seen.iter().map(|seen| self.equal(seen)).collect();
        let work = self.pieces.iter_mut().zip(&self.seen).zip(equals).map(|((piece, seen), equal)| {
            let quota = ties.saturating_sub(before).min(equal);
            before += equal;
            (piece, seen, quota)
        });
        let Bracket { low, high, .. } = self.bracket;
        executor::map(executor, work.collect(), |(piece, seen, quota): (&mut Piece<'_>, &Seen<K>, _)| {
            if let Some(mask) = &mut piece.mask {
                let gathered = || seen.keys.iter().zip(&seen.at);
                gathered().for_each(|(&key, &at)| mask.settle(at as usize, key > limit));
                let ties = gathered().filter(|&(&key, _)| key == limit).take(quota);
                ties.for_each(|(_, &at)| mask.settle(at as usize, true));
            }
            // Of keys equal to the low end none were kept, to the high end as many as was expected.
            let kept = if limit == high { seen.kept_at_high } else { 0 };
            if (limit == low || limit == high) && quota != kept {
                piece.keep(sources, limit, Ties { most: quota, ..Ties::ALL });
            }
        });
    }
}

impl Piece<'_> {
    /// Keeps what is above the limit, and `ties` of what is equal to it. Returns whether a score was NaN.
    pub fn keep<K: Key>(&mut self, sources: &[&dyn Source<K>], limit: K, ties: Ties) -> bool {
        self.look(sources, Bracket::exactly(limit), ties, None).nan
    }
}

/// Calls `visit` with where in the range each key lies that equals the limit, in order.
pub(super) fn each_equal<K: Key>(source: &dyn Source<K>, range: Range<usize>, limit: K, mut visit: impl FnMut(usize)) {
    blocks(source, range, |at, keys| {
        keys.iter().enumerate().filter(|(_, key)| **key == limit).for_each(|(i, _)| visit(at + i));
    });
}

/// The threshold, where the counts prove that the bracket holds it and all keys that it may be were gathered.
fn settle<K: Key>(executor: &dyn Executor, seen: &[Seen<K>], bracket: Bracket<K>, k: usize) -> Option<Threshold<K>> {
    let count = |of: fn(&Seen<K>) -> usize| seen.iter().map(of).sum::<usize>();
    let mut ties = k.checked_sub(count(|seen| seen.above)).filter(|&rank| rank > 0)?;
    let at_high = count(|seen| seen.at_high);
    if ties <= at_high {
        return Some(Threshold { key: bracket.high, ties });
    }
    ties -= at_high;
    let between = count(|seen| seen.between);
    if ties <= between {
        let gathered: Vec<_> = seen.iter().map(|seen| &seen.keys as &dyn Source<K>).collect();
        return threshold(executor, &gathered, ties).ok();
    }
    ties -= between;
    (ties <= count(|seen| seen.at_low)).then_some(Threshold { key: bracket.low, ties })
}
