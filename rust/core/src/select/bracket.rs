//! Two keys that the threshold most likely lies between.

use super::Near;
use super::key::Key;
use super::score::Source;
use super::topk;
use crate::executor::Executor;

/// A sample of n keys holds about this many times n^(2/3). The larger it is the longer it takes, and the fewer keys lie in the
/// bracket, which falls with the root of the sample: so both take a like share of the time, for every n.
const SHARE: f64 = 3.0;
/// It consists of runs as long as a cache line of float32.
pub(super) const RUN: usize = 16;
/// Half the width of the bracket, in standard deviations of a rank in the sample: the first time, and where that was not enough.
const DEVIATIONS: [f64; ATTEMPTS] = [3.0, 6.0];
/// Samples that are tried.
pub(super) const ATTEMPTS: usize = 2;

/// The threshold is expected from `low` to `high`, both included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bracket<K> {
    pub low: K,
    pub high: K,
    /// Before which position of all keys the last that stays is expected, where many equal `high`.
    pub end: usize,
}

impl<K: Key> Bracket<K> {
    /// All keys from `low` to `high`; all of those equal to `high` are expected to stay.
    pub(super) fn between(low: K, high: K) -> Self {
        Bracket { low, high, end: usize::MAX }
    }

    /// Just this key.
    pub(super) fn exactly(key: K) -> Self {
        Self::between(key, key)
    }

    /// What lies close to a guess: what was the threshold a training step ago.
    pub(super) fn around(near: Near) -> Self {
        let (low, _) = K::near(near.score - near.within).neighbourhood();
        let (_, high) = K::near(near.score + near.within).neighbourhood();
        Self::between(low, high)
    }

    /// Brackets rank `k` of `n` keys by the keys around rank k/n of a sample, which is spread evenly over the sources. `attempt`
    /// chooses which.
    pub(super) fn sampled(
        executor: &dyn Executor,
        sources: &[&dyn Source<K>],
        k: usize,
        n: usize,
        attempt: usize,
    ) -> Self {
        let keys = sample(sources, n, attempt);
        let size = keys.len() as f64;
        let share = k as f64 / n as f64;
        let margin = DEVIATIONS[attempt] * (size * share * (1.0 - share)).sqrt() + RUN as f64;
        // Where the bracket reaches beyond the sample, no key is too small or too large for it.
        let at = |rank: f64, beyond: K| match rank {
            rank if rank < 1.0 || rank > size => beyond,
            rank => {
                // What does not compete has a lesser key.
                topk::threshold_of(executor, &keys, rank as usize).key.max(K::SMALLEST)
            }
        };
        let (low, high) = (at(share * size + margin, K::SMALLEST), at(share * size - margin, K::LARGEST));
        if low < high {
            return Self::between(low, high);
        }
        let mut rank = keys.iter().filter(|&&key| key > high).count() as f64;
        let cut = keys.iter().position(|&key| {
            rank += f64::from(u8::from(key == high));
            rank > share * size
        });
        let end = cut.map_or(usize::MAX, |at| (at as f64 / size * n as f64) as usize);
        Bracket { low, high, end }
    }
}

/// Keys of a sample of `n`.
fn sample_size(n: usize) -> usize {
    ((SHARE * (n as f64).cbrt().powi(2)) as usize).clamp(1, n.max(1))
}

/// Where the runs of a sample of `n` keys begin; it ends where the keys do. Each is one cache line of float32, where the first
/// key begins one.
pub(super) fn positions(n: usize, attempt: usize) -> impl Iterator<Item = usize> + Clone {
    let runs = n.div_ceil(sample_size(n));
    (0..).map(move |stratum: usize| {
        // Not always at the same phase: matrices have widths that strides divide.
        let phase = (stratum + attempt).wrapping_mul(0x9e37_79b9 + 2 * attempt) % runs;
        (stratum * runs + phase) * RUN
    })
}

fn sample<K: Key>(sources: &[&dyn Source<K>], n: usize, attempt: usize) -> Vec<K> {
    let mut keys = Vec::with_capacity(sample_size(n) + RUN);
    let mut positions = positions(n, attempt).peekable();
    let mut before = 0;
    for source in sources {
        let end = before + source.len();
        let starts = std::iter::from_fn(|| positions.next_if(|&position| position < end));
        let mut starts: Vec<usize> = starts.map(|position| position - before).collect();
        // A run that would end after the source is cut.
        let cut = starts.pop_if(|start| *start + RUN > source.len());
        let (whole, rest) = (keys.len(), keys.len() + starts.len() * RUN);
        keys.resize(rest + cut.map_or(0, |start| source.len() - start), K::default());
        // Where there is a NaN, the pass will find it too, and name it.
        source.runs(&starts, keys[whole..rest].as_chunks_mut().0);
        if let Some(start) = cut {
            source.keys(start, &mut keys[rest..]);
        }
        before = end;
    }
    keys
}
