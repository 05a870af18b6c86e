//! The exact threshold in one pass over the keys, where a sample tells about where it lies.
//!
//! ```text
//! keys, falling:   ██████████████████████▒▒▒▒▒▒▒▒░░░░░░░░░░░░░░░░░░░░
//!                  above `high`: counted │inside: │ below `low`: ignored
//!                                        │gathered│
//! ```
//!
//! The two counts prove that the bracket holds the key of rank k, which is then found exactly among the gathered few. Where
//! the sample misled, or too many keys lie inside (few distinct values), the caller goes the long way.

use super::score::{Key, Source};
use super::topk::{Threshold, blocks, cut, narrow};
use crate::executor::{self, Executor};
use crate::simd::{Kernel, Target, Vector, dispatch};
use std::sync::atomic::{AtomicBool, Ordering};

/// Below this number of keys a sample does not pay.
pub(super) const LEAST: usize = 1 << 16;
/// The sample takes one key in this many, but never more than [`SAMPLE`].
const ONE_IN: usize = 8;
const SAMPLE: usize = 1 << 16;
/// It consists of runs as long as a cache line of float32.
const RUN: usize = 16;
/// Half the width of the bracket, in standard deviations of a rank in the sample.
const DEVIATIONS: f64 = 4.5;
/// Keys that are tested together for one inside the bracket.
const GROUP: usize = 16;
/// A bracket that holds more than one key in this many is given up.
const CROWDED: usize = 8;

#[derive(Clone, Copy)]
struct Bracket<K> {
    low: K,
    high: K,
}

/// The threshold of the `k`-th largest of `n` keys; `None` where the bracket missed it. The error is as in [`narrow`].
pub(super) fn threshold<K: Key>(
    executor: &dyn Executor,
    sources: &[&dyn Source<K>],
    k: usize,
    n: usize,
) -> Option<Result<Threshold<K>, usize>> {
    let bracket = sample(sources, k, n);
    let crowded = AtomicBool::new(false);
    let pieces = cut(sources);
    let found = executor::map(executor, pieces.clone(), |piece| {
        let mut scan = Scan { bracket, above: 0, inside: 0, gathered: Vec::new() };
        let limit = piece.range.len() / CROWDED;
        let nan = blocks(sources[piece.source], piece.range, |_, keys| {
            if scan.gathered.len() > limit {
                crowded.store(true, Ordering::Relaxed);
            }
            if !crowded.load(Ordering::Relaxed) {
                dispatch(Target::detect(), Block(&mut scan, keys));
            }
        });
        (scan, nan)
    });
    if let Some(at) = found.iter().position(|(_, nan)| *nan) {
        return Some(Err(pieces[at].source));
    }
    let above: usize = found.iter().map(|(scan, _)| scan.above).sum();
    let inside: usize = found.iter().map(|(scan, _)| scan.inside).sum();
    if crowded.into_inner() || k <= above || k > above + inside {
        return None;
    }
    if bracket.low == bracket.high {
        return Some(Ok(Threshold { key: bracket.low, ties: k - above }));
    }
    let gathered: Vec<_> = found.iter().map(|(scan, _)| &scan.gathered as &dyn Source<K>).collect();
    Some(narrow(executor, &gathered, k - above, K::BITS, 0))
}

/// Brackets rank `k` by the keys around rank k/n of a sample, which is spread evenly over each source.
fn sample<K: Key>(sources: &[&dyn Source<K>], k: usize, n: usize) -> Bracket<K> {
    let stride = RUN * n.div_ceil((n / ONE_IN).min(SAMPLE));
    let mut keys = Vec::with_capacity(n.div_ceil(stride) * RUN);
    for source in sources {
        for start in (0..source.len()).step_by(stride) {
            // Not always at the same phase: matrices have widths that strides divide.
            let start = start + (start / stride).wrapping_mul(0x9e37_79b9) % (stride - RUN + 1);
            let mut run = [K::default(); RUN];
            if start + RUN <= source.len() {
                source.keys(start, &mut run);
                keys.extend_from_slice(&run);
            }
        }
    }
    let size = keys.len() as f64;
    let share = k as f64 / n as f64;
    let margin = DEVIATIONS * (size * share * (1.0 - share)).sqrt() + RUN as f64;
    let (first, last) = (share * size - margin, share * size + margin);
    let mut bracket = Bracket { low: K::whole(0), high: K::whole(u64::MAX) };
    if last < size - 1.0 {
        bracket.low = *keys.select_nth_unstable_by(last as usize, |a, b| b.cmp(a)).1;
    }
    if first >= 0.0 && (first as usize) < keys.len() {
        bracket.high = *keys.select_nth_unstable_by(first as usize, |a, b| b.cmp(a)).1;
    }
    bracket
}

/// What has been seen of a piece.
struct Scan<K> {
    bracket: Bracket<K>,
    above: usize,
    inside: usize,
    /// The keys inside; left empty where the bracket is a single key, which is all of them.
    gathered: Vec<K>,
}

/// The next keys of a piece.
struct Block<'a, K>(&'a mut Scan<K>, &'a [K]);

impl<K: Key> Kernel for Block<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        let Block(scan, keys) = self;
        let Bracket { low, high } = scan.bracket;
        let (groups, tail) = keys.as_chunks::<GROUP>();
        let (mut above, mut from_low) = (0, 0);
        for group in groups {
            let over = group.iter().map(|key| u32::from(*key > high)).sum::<u32>();
            let from = group.iter().map(|key| u32::from(*key >= low)).sum::<u32>();
            above += over;
            from_low += from;
            if from > over && low < high {
                let mut found = [K::default(); GROUP];
                let mut n = 0;
                for key in group {
                    // Without a branch: which of the group it is is as good as random.
                    found[n % GROUP] = *key;
                    n += usize::from(low <= *key && *key <= high);
                }
                scan.gathered.extend_from_slice(&found[..n.min(GROUP)]);
            }
        }
        for key in tail {
            above += u32::from(*key > high);
            from_low += u32::from(*key >= low);
            if low < high && low <= *key && *key <= high {
                scan.gathered.push(*key);
            }
        }
        scan.above += above as usize;
        scan.inside += (from_low - above) as usize;
    }
}
