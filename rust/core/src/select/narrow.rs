//! The threshold digit by digit: what is left where a sample would not pay, or misled.
//!
//! A histogram of the leading [`DIGIT`] bits of the keys tells in which bin the k-th largest lies; the keys of that bin alone are
//! gathered and looked at further.

use super::key::Key;
use super::pass::{BLOCK, Piece, blocks, cut};
use super::score::Source;
use super::topk::Threshold;
use crate::executor::{self, Executor};
use crate::simd::{Kernel, Target, Vector, WORD, dispatch};
use std::ops::Range;

/// Leading bits that one histogram resolves: 4096 counters of 4 bytes share the first-level cache with a block of keys.
const DIGIT: u32 = 12;
/// Pieces that share one histogram: those of a large input would take memory.
const TOGETHER: usize = 16;
/// As few keys as this are simply looked at bit by bit.
const FEW: usize = 4096;

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
    let counted = executor::map(executor, pieces.chunks(TOGETHER).collect(), |pieces: &[Piece<'_>]| {
        let mut counts = vec![0u32; bins];
        let has_nan = |piece: &&Piece<'_>| {
            blocks(sources[piece.source], piece.range.clone(), |_, keys| {
                if fixed == K::BITS {
                    keys.iter().for_each(|key| counts[key.prefix(shift) as usize % bins] += 1);
                } else {
                    let candidates = keys.iter().filter(|key| key.prefix(fixed) == prefix);
                    candidates.for_each(|key| counts[key.prefix(shift) as usize % bins] += 1);
                }
            })
        };
        let nan = pieces.iter().find(has_nan).map(|piece| piece.source);
        (counts, nan)
    });
    if let Some(source) = counted.iter().find_map(|(_, nan)| *nan) {
        return Err(source);
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
    let gathered = executor::map(executor, pieces, |piece| gather(sources[piece.source], piece.range, shift, prefix));
    if candidates > FEW {
        let sources: Vec<_> = gathered.iter().map(|keys| keys as &dyn Source<K>).collect();
        return narrow(executor, &sources, rank, shift, prefix);
    }
    Ok(nth(&gathered.concat(), rank))
}

/// The threshold of the `rank`-th largest of the keys; or the first source that holds a NaN. For inputs so small that a copy of
/// them does not matter.
pub(super) fn copied<K: Key>(sources: &[&dyn Source<K>], rank: usize) -> Result<Threshold<K>, usize> {
    let mut keys = vec![K::default(); sources.iter().map(|source| source.len()).sum()];
    let mut rest = &mut keys[..];
    for (at, source) in sources.iter().enumerate() {
        let (own, after) = rest.split_at_mut(source.len());
        if source.keys(0, own) {
            return Err(at);
        }
        rest = after;
    }
    Ok(nth(&keys, rank))
}

/// The threshold of the `rank`-th largest of some keys, 1 ≤ rank ≤ their number.
pub(super) fn nth<K: Key>(keys: &[K], rank: usize) -> Threshold<K> {
    dispatch(Target::detect(), Nth(keys, rank))
}

/// The threshold bit by bit: how many keys reach a limit is counted without a branch and without moving any, which for keys in
/// the nearest caches is several times as fast as partitioning them. The last few that it may be are looked at by themselves.
struct Nth<'a, K>(&'a [K], usize);

impl<K: Key> Kernel for Nth<'_, K> {
    type Output = Threshold<K>;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> Threshold<K> {
        let Nth(keys, rank) = self;
        let (least, most) =
            keys.iter().fold((K::whole(u64::MAX), K::default()), |(least, most), &key| (least.min(key), most.max(key)));
        // Where the first and the last agree, all do.
        let open = u64::BITS - (least.prefix(0) ^ most.prefix(0)).leading_zeros();
        let bits = most.prefix(open).unbounded_shl(open);
        let all = Digits { bits, open, reach: keys.len(), beyond: 0 }.settled(keys, rank, WORD);
        let few = between(v, keys, K::whole(all.bits), K::whole(all.bits | !u64::MAX.unbounded_shl(all.open)));
        let rank = rank - all.beyond;
        let last = Digits { reach: WORD, beyond: 0, ..all }.settled(&few, rank, 0);
        Threshold { key: K::whole(last.bits), ties: rank - last.beyond }
    }
}

/// The first bits of a key that is looked for.
#[derive(Clone, Copy)]
struct Digits {
    /// Those that are known, then zeros.
    bits: u64,
    /// How many are not.
    open: u32,
    /// How many keys reach `bits`.
    reach: usize,
    /// How many are larger than all that begin so.
    beyond: usize,
}

impl Digits {
    /// Settles bit after bit of the `rank`-th largest of some keys, until it can be `few` of them at most.
    #[inline(always)]
    fn settled<K: Key>(mut self, keys: &[K], rank: usize, few: usize) -> Digits {
        while self.open > 0 && self.reach - self.beyond > few {
            self.open -= 1;
            let higher = self.bits | 1 << self.open;
            let reach = keys.iter().map(|&key| u32::from(key >= K::whole(higher))).sum::<u32>() as usize;
            if reach >= rank {
                (self.bits, self.reach) = (higher, reach);
            } else {
                self.beyond = reach;
            }
        }
        self
    }
}

/// The keys from `low` to `high`, a word of them at most; what is left of it is less than any score's key.
#[inline(always)]
fn between<V: Vector, K: Key>(v: V, keys: &[K], low: K, high: K) -> [K; WORD] {
    let (mut found, mut few) = (0, [K::default(); WORD]);
    let (words, tail) = keys.as_chunks::<WORD>();
    let mut last = [K::default(); WORD];
    last[..tail.len()].copy_from_slice(tail);
    for word in words.iter().chain(std::iter::once(&last)) {
        let mut inside = K::at_least(v, word, low) & !K::at_least(v, word, high.next());
        while inside != 0 && found < WORD {
            few[found] = word[inside.trailing_zeros() as usize];
            found += 1;
            inside &= inside - 1;
        }
    }
    few
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
