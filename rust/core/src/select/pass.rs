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
use super::mask_mut::MaskMut;
use super::score::Source;
use crate::executor::{self, Executor};
use crate::simd::{Vector, WORD};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys made at a time.
pub(super) const BLOCK: usize = 1024;
/// Words that are counted before those with keys in the bracket are looked at again.
pub(super) const WORDS: usize = u64::BITS as usize;
/// Elements of one task, a multiple of [`WORD`]. Fixed, so that the cut never depends on the number of threads.
pub(super) const TASK: usize = 1 << 17;
/// Elements between two looks at how much room is left.
const STEP: usize = 1 << 14;
/// Room is made for one key in this many of a piece, and given back where it was not needed.
const SPARE: usize = 64;
/// Keys that are gathered before they are put with the others.
const FOUND: usize = 4 * WORD;
/// Keys that are written before looking whether there are so many.
const AT_ONCE: usize = 3;

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
    /// How many of these the mask keeps.
    pub kept_at_high: usize,
    /// Keys strictly between the ends.
    pub between: usize,
    /// Keys equal to its low end, where that is another.
    pub at_low: usize,
    /// The keys between, if they were to be gathered.
    pub keys: Vec<K>,
    /// Where in the piece each of them lies.
    pub at: Vec<u32>,
    /// Whether a score was NaN.
    pub nan: bool,
}

/// Looks at all keys of the pieces, and writes their masks; or gives up after about `room` keys between the ends of the bracket.
pub(super) fn pass<K: Key>(
    executor: &dyn Executor,
    sources: &[&dyn Source<K>],
    pieces: &mut [Piece<'_>],
    bracket: Bracket<K>,
    room: usize,
) -> Option<Vec<Seen<K>>> {
    let room = Room { gathered: AtomicUsize::new(0), most: room };
    let mut before = 0;
    let with_ties = pieces.iter_mut().map(|piece| {
        let ties = if before < bracket.end { Ties::ALL } else { Ties::NONE };
        before += piece.range.len();
        (piece, ties)
    });
    let look = |(piece, ties): (&mut Piece<'_>, Ties)| piece.look(sources, bracket, ties, Some(&room));
    let seen = executor::map(executor, with_ties.collect(), look);
    (!room.is_full()).then_some(seen)
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

    /// None of them.
    pub const NONE: Ties = Ties { most: 0, end: usize::MAX };

    /// Those of a word of equal keys, which begins at `at`.
    #[inline(always)]
    fn take(&mut self, at: usize, mut equal: u64) -> u64 {
        if self.most == 0 {
            return 0;
        }
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

impl Room {
    fn is_full(&self) -> bool {
        self.gathered.load(Ordering::Relaxed) > self.most
    }
}

impl Piece<'_> {
    /// Looks at the keys and writes the mask. With `room`, also gathers what lies between the ends of the bracket, and gives up
    /// where there is none left.
    pub fn look<K: Key>(
        &mut self,
        sources: &[&dyn Source<K>],
        bracket: Bracket<K>,
        ties: Ties,
        room: Option<&Room>,
    ) -> Seen<K> {
        let capacity = if room.is_some() { self.range.len() / SPARE } else { 0 };
        let (keys, at) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let seen = Seen { above: 0, at_high: 0, kept_at_high: 0, between: 0, at_low: 0, keys, at, nan: false };
        let mask = self.mask.as_mut();
        let mut scan = Scan {
            bracket,
            ties,
            at: 0,
            again: 0,
            gather: room.is_some(),
            found: Found::new(),
            alive: None,
            seen,
            mask,
        };
        for start in self.range.clone().step_by(STEP) {
            if room.is_some_and(Room::is_full) {
                break;
            }
            let before = scan.seen.keys.len();
            scan.seen.nan |= sources[self.source].scan(start..self.range.end.min(start + STEP), &mut scan);
            scan.found.flush(&mut scan.seen);
            if let Some(room) = room {
                room.gathered.fetch_add(scan.seen.keys.len() - before, Ordering::Relaxed);
            }
        }
        // Copies of the right size: vectors that shrink would leave holes of memory behind them.
        let seen = scan.seen;
        Seen { kept_at_high: ties.most - scan.ties.most, keys: seen.keys.clone(), at: seen.at.clone(), ..seen }
    }
}

/// Keys in the bracket, and where they lie.
struct Found<K> {
    keys: [K; FOUND],
    at: [u32; FOUND],
    len: usize,
}

impl<K: Key> Found<K> {
    fn new() -> Self {
        Found { keys: [K::default(); FOUND], at: [0; FOUND], len: 0 }
    }

    /// Adds those keys of a word, which begins at `at`, whose bit is set. How many these are is as good as random: a branch for
    /// each would often be guessed wrong.
    #[inline(always)]
    fn put(&mut self, keys: &[K; WORD], at: usize, mut bits: u64, seen: &mut Seen<K>) {
        if self.len > FOUND - WORD - AT_ONCE {
            self.flush(seen);
        }
        let mut len = self.len;
        while bits != 0 {
            for _ in 0..AT_ONCE {
                let i = bits.trailing_zeros() as usize % WORD;
                (self.keys[len % FOUND], self.at[len % FOUND]) = (keys[i], (at + i) as u32);
                len += usize::from(bits != 0);
                bits &= bits.wrapping_sub(1);
            }
        }
        self.len = len;
    }

    fn flush(&mut self, seen: &mut Seen<K>) {
        seen.keys.extend_from_slice(&self.keys[..self.len]);
        seen.at.extend_from_slice(&self.at[..self.len]);
        self.len = 0;
    }
}

/// What looks at keys, word after word of a piece.
pub(super) struct Scan<'a, 'm, K> {
    bracket: Bracket<K>,
    /// Which are still to be kept.
    ties: Ties,
    /// Where in the piece the next words begin.
    at: usize,
    /// Bit i tells whether word i of them has keys in the bracket.
    again: u64,
    gather: bool,
    found: Found<K>,
    /// Of the elements from here on, bytes that are not 0 where they compete; None: all do.
    alive: Option<&'a [u8]>,
    seen: Seen<K>,
    mask: Option<&'a mut MaskMut<'m>>,
}

impl<'a, K: Key> Scan<'a, '_, K> {
    /// Of the elements that come next only those compete whose byte is not 0.
    pub fn among(&mut self, alive: &'a [u8]) {
        self.alive = Some(alive);
    }

    /// Whether not all compete: the `AMONG` of what follows, which a loop over words knows.
    pub fn is_among(&self) -> bool {
        self.alive.is_some()
    }

    /// Bit i tells whether element i of a word competes.
    #[inline(always)]
    fn competing<V: Vector, const AMONG: bool>(&self, v: V, word: usize) -> u64 {
        let Some(alive) = self.alive.filter(|_| AMONG) else { return u64::MAX };
        let alive = &alive[word * WORD..];
        match alive.first_chunk() {
            Some(bytes) => v.nonzero_bytes(bytes),
            None => alive.iter().enumerate().fold(0, |bits, (i, &byte)| bits | u64::from(byte != 0) << i),
        }
    }

    /// Counts the keys of word `i` of at most [`WORDS`] and writes its mask.
    #[inline(always)]
    pub fn count<V: Vector, const AMONG: bool>(&mut self, v: V, i: usize, keys: &[K; WORD]) {
        let competing = self.competing::<V, AMONG>(v, i);
        let from_low = K::at_least(v, keys, self.bracket.low) & competing;
        let above = K::at_least(v, keys, self.bracket.high.next()) & competing;
        self.seen.above += above.count_ones() as usize;
        self.again |= u64::from(from_low != above) << i;
        if let Some(mask) = &mut self.mask {
            mask.write(v, self.at + i * WORD, above);
        }
    }

    /// Which of the words just counted has keys in the bracket and is still to be [gathered](Scan::gather).
    ///
    /// Not at once: which words hold such keys is as good as random, and a branch for each would be guessed wrong too often.
    #[inline(always)]
    pub fn again(&mut self) -> Option<usize> {
        let i = self.again.trailing_zeros() as usize;
        self.again &= self.again.wrapping_sub(1);
        (i < WORDS).then_some(i)
    }

    /// Counts and gathers the last word of a piece, the only one that may be shorter than [`WORD`]: it is filled up with what is
    /// less than any score's key.
    #[inline(always)]
    pub fn last<V: Vector, const AMONG: bool>(&mut self, v: V, keys: &[K; WORD]) {
        self.count::<V, AMONG>(v, 0, keys);
        if self.again().is_some() {
            self.gather::<V, AMONG>(v, 0, keys);
        }
    }

    /// Ends this many words.
    #[inline(always)]
    pub fn end(&mut self, words: usize) {
        self.at += words * WORD;
        self.alive = self.alive.map(|alive| &alive[words * WORD..]);
    }

    /// Looks at the keys of word `i` that lie in the bracket.
    #[inline(always)]
    pub fn gather<V: Vector, const AMONG: bool>(&mut self, v: V, i: usize, keys: &[K; WORD]) {
        let at = self.at + i * WORD;
        let competing = self.competing::<V, AMONG>(v, i);
        let seen = &mut self.seen;
        let above = K::at_least(v, keys, self.bracket.high.next()) & competing;
        let at_high = K::at_least(v, keys, self.bracket.high) & competing & !above;
        // Where both ends are one key, none is counted as the low end.
        let from_low = K::at_least(v, keys, self.bracket.low) & competing & !above & !at_high;
        let between = from_low & K::at_least(v, keys, self.bracket.low.next());
        seen.at_high += at_high.count_ones() as usize;
        seen.between += between.count_ones() as usize;
        seen.at_low += (from_low & !between).count_ones() as usize;
        if self.gather {
            self.found.put(keys, at, between, seen);
        }
        let ties = self.ties.take(at, at_high);
        if let Some(mask) = self.mask.as_mut().filter(|_| ties != 0) {
            mask.write(v, at, above | ties);
        }
    }
}
