//! Exact top-k: which k of n scores are the largest.
//!
//! Large inputs are tried with a sampled bracket first (see `bracket.rs`). Else radix selection over keys: a histogram of the leading [`DIGIT`] bits tells in which bin the k-th largest key lies; the keys
//! of that bin alone are gathered and looked at further. One more pass writes the mask `key ≥ threshold`; where more keys equal
//! the threshold than are wanted, the tasks' counts of equals say which task holds the last one kept, and only the tasks from
//! there on are corrected.

use super::bracket;
use super::score::{Key, Source};

use crate::executor::{self, Executor};
use crate::simd::{Kernel, Target, Vector, dispatch};
use std::ops::Range;

/// Leading bits that one histogram resolves: 4096 counters of 4 bytes share the first-level cache with a block of keys.
const DIGIT: u32 = 12;
/// Elements of one task. Fixed, so that the cut never depends on the number of threads.
const TASK: usize = 1 << 17;
/// Keys made at a time.
const BLOCK: usize = 1024;
/// As few keys as this are simply partitioned.
const FEW: usize = 4096;

/// What decides a selection: keys above `key` are kept, and the first `ties` of those equal to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Threshold<K> {
    pub key: K,
    pub ties: usize,
}

/// A piece of one source.
#[derive(Clone)]
pub(super) struct Piece {
    pub source: usize,
    pub range: Range<usize>,
}

pub(super) fn cut<K>(sources: &[&dyn Source<K>]) -> Vec<Piece> {
    let pieces = |(source, of): (usize, &&dyn Source<K>)| {
        let len = of.len();
        (0..len).step_by(TASK).map(move |start| Piece { source, range: start..len.min(start + TASK) })
    };
    sources.iter().enumerate().flat_map(pieces).collect()
}

/// Calls `visit(offset in the range, keys)` for the keys of `range` in order, block by block; returns whether one was NaN.
pub(super) fn blocks<K: Key>(source: &dyn Source<K>, range: Range<usize>, mut visit: impl FnMut(usize, &[K])) -> bool {
    let mut keys = [K::default(); BLOCK];
    let mut nan = false;
    for start in range.clone().step_by(BLOCK) {
        let keys = &mut keys[..BLOCK.min(range.end - start)];
        nan |= source.keys(start, keys);
        visit(start - range.start, keys);
    }
    nan
}

/// The first source that holds a NaN.
pub(super) fn first_nan<K: Key>(executor: &dyn Executor, sources: &[&dyn Source<K>]) -> Option<usize> {
    let pieces = cut(sources);
    let nan = executor::map(executor, pieces.clone(), |piece| blocks(sources[piece.source], piece.range, |_, _| ()));
    pieces.iter().zip(nan).find(|(_, nan)| *nan).map(|(piece, _)| piece.source)
}

/// The threshold that keeps `k` of the keys, 1 ≤ k ≤ their number; or the first source that holds a NaN.
pub(super) fn threshold<K: Key>(
    executor: &dyn Executor,
    sources: &[&dyn Source<K>],
    k: usize,
) -> Result<Threshold<K>, usize> {
    let n: usize = sources.iter().map(|source| source.len()).sum();
    let quick = (n >= bracket::LEAST).then(|| bracket::threshold(executor, sources, k, n)).flatten();
    quick.unwrap_or_else(|| narrow(executor, sources, k, K::BITS, 0))
}

/// The threshold of the `rank`-th largest of the keys whose bits from `fixed` on are `prefix`; or the first source that holds a
/// NaN.
pub(super) fn narrow<K: Key>(
    executor: &dyn Executor,
    sources: &[&dyn Source<K>],
    mut rank: usize,
    fixed: u32,
    prefix: u64,
) -> Result<Threshold<K>, usize> {
    let shift = fixed.saturating_sub(DIGIT);
    let bins = 1 << (fixed - shift);
    let pieces = cut(sources);
    let counted = executor::map(executor, pieces.clone(), |piece| {
        let mut counts = vec![0u32; bins];
        let nan = blocks(sources[piece.source], piece.range, |_, keys| {
            if fixed == K::BITS {
                keys.iter().for_each(|key| counts[key.prefix(shift) as usize % bins] += 1);
            } else {
                let candidates = keys.iter().filter(|key| key.prefix(fixed) == prefix);
                candidates.for_each(|key| counts[key.prefix(shift) as usize % bins] += 1);
            }
        });
        (counts, nan)
    });
    if let Some(at) = counted.iter().position(|(_, nan)| *nan) {
        return Err(pieces[at].source);
    }
    // Walk down from the largest digit to the one that holds the key of this rank.
    let mut digit = bins;
    let mut candidates = 0;
    while digit > 0 {
        digit -= 1;
        candidates = counted.iter().map(|(counts, _)| counts[digit] as usize).sum();
        if rank <= candidates {
            break;
        }
        rank -= candidates;
    }
    drop(counted);
    let prefix = prefix << (fixed - shift) | digit as u64;
    if shift == 0 {
        return Ok(Threshold { key: K::whole(prefix), ties: rank });
    }
    // Gathering costs memory: where many keys share the digit (equal weights), look at the next digit in place instead.
    let total: usize = sources.iter().map(|source| source.len()).sum();
    if candidates > FEW.max(total / 8) {
        return narrow(executor, sources, rank, shift, prefix);
    }
    let mut gathered =
        executor::map(executor, pieces, |piece| gather(sources[piece.source], piece.range, shift, prefix));
    if candidates > FEW {
        let sources: Vec<_> = gathered.iter().map(|keys| keys as &dyn Source<K>).collect();
        return narrow(executor, &sources, rank, shift, prefix);
    }
    let mut keys = gathered.drain(..).flatten().collect::<Vec<K>>();
    keys.sort_unstable_by(|a, b| b.cmp(a));
    let key = keys.get(rank - 1).copied().unwrap_or(K::whole(prefix << shift));
    Ok(Threshold { key, ties: rank - keys.partition_point(|other| *other > key) })
}

/// The keys of a piece whose bits from `shift` on are `prefix`.
fn gather<K: Key>(source: &dyn Source<K>, range: Range<usize>, shift: u32, prefix: u64) -> Vec<K> {
    let mut gathered = Vec::new();
    let mut found = [K::default(); BLOCK];
    blocks(source, range, |_, keys| {
        let mut n = 0;
        // Without a branch: which keys match is as good as random.
        for key in keys {
            found[n] = *key;
            n += usize::from(key.prefix(shift) == prefix);
        }
        gathered.extend_from_slice(&found[..n]);
    });
    gathered
}

/// Keeps `k` of the keys, one slice of bools a source; or names the first source that holds a NaN.
pub(super) fn mask<K: Key>(
    executor: &dyn Executor,
    sources: &[&dyn Source<K>],
    k: usize,
    masks: &mut [&mut [bool]],
) -> Result<(), usize> {
    let n: usize = sources.iter().map(|source| source.len()).sum();
    if k == 0 || k == n {
        masks.iter_mut().for_each(|mask| mask.fill(k > 0));
        return first_nan(executor, sources).map_or(Ok(()), Err);
    }
    let threshold = threshold(executor, sources, k)?;
    write_mask(executor, sources, threshold, masks);
    Ok(())
}

fn write_mask<K: Key>(
    executor: &dyn Executor,
    sources: &[&dyn Source<K>],
    threshold: Threshold<K>,
    masks: &mut [&mut [bool]],
) {
    let Threshold { key: limit, ties } = threshold;
    let kept = masks.iter_mut().flat_map(|mask| mask.chunks_mut(TASK));
    let work: Vec<(Piece, &mut [bool])> = cut(sources).into_iter().zip(kept).collect();
    let written = executor::map(executor, work, |(piece, kept)| {
        let mut equal = 0;
        blocks(sources[piece.source], piece.range.clone(), |at, keys| {
            equal += dispatch(Target::detect(), Compare { keys, limit, kept: &mut kept[at..at + keys.len()] });
        });
        (piece, kept, equal)
    });
    let mut before = 0;
    let correct = written.into_iter().filter_map(|(piece, kept, equal)| {
        let quota = ties.saturating_sub(before);
        before += equal;
        (equal > quota).then_some((piece, kept, quota))
    });
    executor::map(executor, correct.collect(), |(piece, kept, mut quota)| {
        blocks(sources[piece.source], piece.range, |at, keys| {
            for (kept, key) in kept[at..].iter_mut().zip(keys) {
                if *key == limit {
                    *kept = quota > 0;
                    quota = quota.saturating_sub(1);
                }
            }
        });
    });
}

/// Writes `key ≥ limit`; returns how many are equal.
struct Compare<'a, K> {
    keys: &'a [K],
    limit: K,
    kept: &'a mut [bool],
}

impl<K: Key> Kernel for Compare<'_, K> {
    type Output = usize;

    #[inline(always)]
    fn run<V: Vector>(self, _: V) -> usize {
        let mut equal = 0;
        for (kept, key) in self.kept.iter_mut().zip(self.keys) {
            *kept = *key >= self.limit;
            equal += u32::from(*key == self.limit);
        }
        equal as usize
    }
}
