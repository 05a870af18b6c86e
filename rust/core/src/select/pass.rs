//! One pass over the keys: it counts them, writes a mask that is right but for those close to the threshold, and gathers these.
//!
//! ```text
//! keys, falling:   ████████████ ▓▓▓ ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒ ░░░░░░░ ······················
//!                  above `high`  =   between: gathered   =  `low`   below: ignored
//! provisional mask:  kept       kept   not                not         not
//! ```
//!
//! Keys equal to one of the two ends are counted by themselves and never gathered, however many they are: where a sample holds
//! few distinct values, one of them is an end of the bracket, and few keys lie strictly between.

use super::bracket::Bracket;
use super::key::Key;
use super::mask_mut::{MaskMut, WORD};
use super::score::Source;
use crate::executor::{self, Executor};
use crate::simd::{LANES, Vector};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys made at a time.
pub(super) const BLOCK: usize = 1024;
/// Elements of one task, a multiple of [`WORD`]. Fixed, so that the cut never depends on the number of threads.
pub(super) const TASK: usize = 1 << 17;
/// Elements between two looks at how much room is left.
const STEP: usize = 1 << 14;
/// Room is made for one key in this many of a piece, and given back where it was not needed.
const SPARE: usize = 64;

/// A piece of one source, with its mask where there is one.
pub(super) struct Piece<'a> {
    pub source: usize,
    pub range: Range<usize>,
    pub mask: Option<MaskMut<'a>>,
}

/// The pieces of the sources in order.
pub(super) fn cut<K>(sources: &[&dyn Source<K>]) -> Vec<Piece<'static>> {
    let pieces = |(source, of): (usize, &&dyn Source<K>)| {
        let len = of.len();
        (0..len).step_by(TASK).map(move |start| Piece { source, range: start..len.min(start + TASK), mask: None })
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

/// What a pass saw of a piece.
pub(super) struct Seen<K> {
    /// Keys above the bracket.
    pub above: usize,
    /// Keys equal to its high end.
    pub at_high: usize,
    /// Keys strictly between the ends.
    pub between: usize,
    /// Keys equal to its low end, where that is another.
    pub at_low: usize,
    /// The keys between, if they were not too many to gather.
    pub keys: Vec<K>,
    /// Where in the piece each of them lies.
    pub at: Vec<u32>,
    /// Whether a score was NaN.
    pub nan: bool,
}

/// Looks at all keys of the pieces, and writes their masks. No more than about `room` keys are gathered.
pub(super) fn pass<K: Key>(
    executor: &dyn Executor,
    sources: &[&dyn Source<K>],
    pieces: &mut [Piece<'_>],
    bracket: Bracket<K>,
    room: usize,
) -> Vec<Seen<K>> {
    let room = Room { gathered: AtomicUsize::new(0), most: room };
    executor::map(executor, pieces.iter_mut().collect(), |piece: &mut Piece<'_>| {
        piece.look(sources, bracket, Ties::ALL, Some(&room))
    })
}

/// Which of the keys equal to the high end of the bracket the mask keeps: the first `most`, if they lie before `end` of the piece.
#[derive(Clone, Copy)]
pub(super) struct Ties {
    pub most: usize,
    pub end: usize,
}

impl Ties {
    /// All of them.
    pub const ALL: Ties = Ties { most: usize::MAX, end: usize::MAX };

    /// Those of a word of equal keys, which begins at `at`.
    #[inline(always)]
    fn take(&mut self, at: usize, mut equal: u64) -> u64 {
        let before = self.end.saturating_sub(at);
        if before < WORD {
            equal &= (1 << before) - 1;
        }
        while equal.count_ones() as usize > self.most {
            equal &= !(1 << equal.ilog2());
        }
        self.most -= equal.count_ones() as usize;
        equal
    }
}

/// For how many keys there is room, in all pieces together.
pub(super) struct Room {
    gathered: AtomicUsize,
    most: usize,
}

impl Piece<'_> {
    /// Looks at the keys, writes the mask, and gathers what lies between the ends of the bracket while there is room.
    pub fn look<K: Key>(
        &mut self,
        sources: &[&dyn Source<K>],
        bracket: Bracket<K>,
        ties: Ties,
        room: Option<&Room>,
    ) -> Seen<K> {
        let capacity = if room.is_some() { self.range.len() / SPARE } else { 0 };
        let (keys, at) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let seen = Seen { above: 0, at_high: 0, between: 0, at_low: 0, keys, at, nan: false };
        let mut scan = Scan { bracket, ties, at: 0, gather: false, seen, mask: self.mask.as_mut() };
        for start in self.range.clone().step_by(STEP) {
            let before = scan.seen.keys.len();
            scan.gather = room.is_some_and(|room| room.gathered.load(Ordering::Relaxed) <= room.most);
            scan.seen.nan |= sources[self.source].scan(start..self.range.end.min(start + STEP), &mut scan);
            if let Some(room) = room {
                room.gathered.fetch_add(scan.seen.keys.len() - before, Ordering::Relaxed);
            }
        }
        scan.seen.keys.shrink_to_fit();
        scan.seen.at.shrink_to_fit();
        scan.seen
    }
}

/// What looks at keys, word after word of a piece.
pub(super) struct Scan<'a, 'm, K> {
    bracket: Bracket<K>,
    /// Which are still to be kept.
    ties: Ties,
    /// Where in the piece the next word begins.
    at: usize,
    gather: bool,
    seen: Seen<K>,
    mask: Option<&'a mut MaskMut<'m>>,
}

impl<K: Key> Scan<'_, '_, K> {
    /// Looks at the next word of keys. Only the last may be shorter than [`WORD`]: it is filled up with what is less than any
    /// score's key.
    #[inline(always)]
    pub fn word<V: Vector>(&mut self, v: V, keys: &[K; WORD]) {
        let at = self.at;
        self.at += WORD;
        let from_low = at_least(v, keys, self.bracket.low);
        let above = at_least(v, keys, self.bracket.high.next());
        self.seen.above += above.count_ones() as usize;
        let inside = from_low & !above;
        let ties = if inside == 0 { 0 } else { self.inside(v, at, keys, inside) };
        if let Some(mask) = &mut self.mask {
            mask.write(v, at, above | ties);
        }
    }

    /// Looks at the keys of a word that lie in the bracket; returns which of its high end are kept.
    #[inline(always)]
    fn inside<V: Vector>(&mut self, v: V, at: usize, keys: &[K; WORD], inside: u64) -> u64 {
        let seen = &mut self.seen;
        let at_high = inside & at_least(v, keys, self.bracket.high);
        // Where both ends are one key, none is counted as the low end.
        let mut between = inside & !at_high & at_least(v, keys, self.bracket.low.next());
        seen.at_high += at_high.count_ones() as usize;
        seen.between += between.count_ones() as usize;
        seen.at_low += (inside & !at_high & !between).count_ones() as usize;
        if self.gather {
            while between != 0 {
                let i = between.trailing_zeros() as usize;
                between &= between - 1;
                seen.keys.push(keys[i]);
                seen.at.push((at + i) as u32);
            }
        }
        self.ties.take(at, at_high)
    }
}

/// Bit i tells whether `keys[i]` is `limit` or more.
#[inline(always)]
fn at_least<V: Vector, K: Key>(v: V, keys: &[K; WORD], limit: K) -> u64 {
    let mut word = 0;
    for (i, line) in keys.as_chunks::<LANES>().0.iter().enumerate() {
        word |= u64::from(K::at_least(v, line, limit)) << (LANES * i);
    }
    word
}
