//! The threshold digit by digit: what is left where a sample would not pay, or misled.
//!
//! A histogram of the leading [`DIGIT`] bits of the keys tells in which bin the k-th largest lies; the keys of that bin alone are
//! gathered and looked at further.

use super::key::Key;
use super::pass::{BLOCK, Piece, blocks, cut};
use super::score::Source;
use super::topk::Threshold;
use crate::executor::{self, Executor};
use std::ops::Range;

/// Leading bits that one histogram resolves: 4096 counters of 4 bytes share the first-level cache with a block of keys.
const DIGIT: u32 = 12;
/// As few keys as this are simply sorted.
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
    let counted = executor::map(executor, pieces.iter().collect(), |piece: &Piece<'_>| {
        let mut counts = vec![0u32; bins];
        let nan = blocks(sources[piece.source], piece.range.clone(), |_, keys| {
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
