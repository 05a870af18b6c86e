//! Scores made on the fly: a pass computes them from the weights, a block at a time, and leaves their keys.

use super::apply::{Zeroed, zero};
use super::bracket::RUN;
use super::key::{Float, Key, Weight};
use super::pass::{Scan, WORDS};
use crate::simd::{Kernel, LANES, Target, Vector, WORD, dispatch, prefetch};
use std::marker::PhantomData;
use std::ops::Range;

/// Bytes between what is looked at and what is asked for: from memory, 2048 and 4096 take a fifth and a tenth more time on Zen 5.
const AHEAD: usize = 8192;

/// Runs that are asked for before they are read: they lie far apart.
const RUNS_AHEAD: usize = 16;

/// How the scores of one tensor are made.
#[derive(Debug, Clone, Copy)]
pub enum Score<'a, T: Weight> {
    /// Given as they are.
    Given(&'a [T]),
    /// |w|: the order of the L1 and of the L2 norm of single weights.
    Magnitude(&'a [T]),
    /// |g|.
    Gradient(&'a [T]),
    /// |w · g|, the first-order Taylor term of the loss when the weight goes (Molchanov et al., 2019).
    Taylor(&'a [T], &'a [T]),
    /// |w| + λ · |g|.
    Combined(&'a [T], &'a [T], T::Score),
}

impl<T: Weight> Score<'_, T> {
    /// The number of scores.
    pub fn len(&self) -> usize {
        match self {
            Score::Given(x) | Score::Magnitude(x) | Score::Gradient(x) => x.len(),
            // Weights and gradients that differ in length were refused by the caller; the shorter is always safe.
            Score::Taylor(w, g) | Score::Combined(w, g, _) => w.len().min(g.len()),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the operands are of one length.
    pub(super) fn is_even(&self) -> bool {
        match self {
            Score::Given(_) | Score::Magnitude(_) | Score::Gradient(_) => true,
            Score::Taylor(w, g) | Score::Combined(w, g, _) => w.len() == g.len(),
        }
    }

    /// The argument whose element `i` makes the score NaN, or `None` where the score is a number.
    pub(super) fn nan_at(&self, i: usize) -> Option<&'static str> {
        let one = |name, x: &[T]| ([(name, x[i].wide()); 2], x[i].wide());
        let two = |w: &[T], g: &[T]| [("weights", w[i].wide()), ("grads", g[i].wide())];
        let (culprits, score) = match *self {
            Score::Given(x) => one("scores", x),
            Score::Magnitude(x) => one("weights", x),
            Score::Gradient(x) => one("grads", x),
            Score::Taylor(w, g) => (two(w, g), w[i].wide() * g[i].wide()),
            Score::Combined(w, g, lam) => (two(w, g), w[i].wide().abs() + lam * g[i].wide().abs()),
        };
        let named = culprits.iter().find(|(_, value)| value.is_nan()).map(|(name, _)| *name);
        // inf · 0 is NaN although neither factor is.
        named.or(score.is_nan().then_some("the score of weights"))
    }
}

/// Anything that yields keys.
pub(super) trait Source<K>: Sync {
    /// How many.
    fn len(&self) -> usize;
    /// Writes the keys from `start` on into `keys`; returns whether a score among them was NaN (its key is meaningless).
    fn keys(&self, start: usize, keys: &mut [K]) -> bool;
    /// Writes the keys of the runs that begin at `starts`; those of a run with a NaN are meaningless.
    fn runs(&self, starts: &[usize], keys: &mut [[K; RUN]]);
    /// Shows the keys of `range` to `scan`; returns as above. Only the last range of a piece may end inside a word.
    fn scan<'a>(&'a self, range: Range<usize>, scan: &mut Scan<'a, '_, K>) -> bool;
}

impl<T: Weight, K: Key<Value: From<T::Score>>> Source<K> for Score<'_, T> {
    fn len(&self) -> usize {
        self.len()
    }

    fn keys(&self, start: usize, keys: &mut [K]) -> bool {
        self.with(Fill { start, keys })
    }

    fn runs(&self, starts: &[usize], keys: &mut [[K; RUN]]) {
        self.with(Runs { starts, keys });
    }

    fn scan<'a>(&'a self, range: Range<usize>, scan: &mut Scan<'a, '_, K>) -> bool {
        self.with(Show { range, scan })
    }
}

impl<T: Weight> Score<'_, T> {
    /// Runs a task with the weights, the gradients (or the weights again) and the formula.
    fn with<K: Key<Value: From<T::Score>>>(&self, task: impl Task<K>) -> bool {
        let target = Target::detect();
        match *self {
            Score::Given(x) => dispatch(target, With::new(task, x, x, Same)),
            Score::Magnitude(x) | Score::Gradient(x) => dispatch(target, With::new(task, x, x, Absolute)),
            Score::Taylor(w, g) => dispatch(target, With::new(task, w, g, Product)),
            Score::Combined(w, g, lam) => dispatch(target, With::new(task, w, g, Sum(lam))),
        }
    }
}

/// A score of a weight and its gradient.
trait Formula<S>: Copy {
    /// Whether it takes the gradient.
    const TWO: bool = true;
    fn of(self, w: S, g: S) -> S;
}

#[derive(Clone, Copy)]
struct Same;
#[derive(Clone, Copy)]
struct Absolute;
#[derive(Clone, Copy)]
struct Product;
#[derive(Clone, Copy)]
struct Sum<S>(S);

impl<S: Float> Formula<S> for Same {
    const TWO: bool = false;
    #[inline(always)]
    fn of(self, w: S, _: S) -> S {
        w
    }
}
impl<S: Float> Formula<S> for Absolute {
    const TWO: bool = false;
    #[inline(always)]
    fn of(self, w: S, _: S) -> S {
        w.abs()
    }
}
impl<S: Float> Formula<S> for Product {
    #[inline(always)]
    fn of(self, w: S, g: S) -> S {
        (w * g).abs()
    }
}
impl<S: Float> Formula<S> for Sum<S> {
    #[inline(always)]
    fn of(self, w: S, g: S) -> S {
        w.abs() + self.0 * g.abs()
    }
}

/// What is done with the keys of scores; tells whether a score was NaN.
trait Task<K> {
    fn run<V: Vector, T: Weight, F: Formula<T::Score>>(self, v: V, w: &[T], g: &[T], formula: F) -> bool
    where
        K: Key<Value: From<T::Score>>;
}

/// A task with the scores that it is about.
struct With<'a, P, T, F, K> {
    task: P,
    w: &'a [T],
    g: &'a [T],
    formula: F,
    keys: PhantomData<K>,
}

impl<'a, P, T, F, K> With<'a, P, T, F, K> {
    fn new(task: P, w: &'a [T], g: &'a [T], formula: F) -> Self {
        With { task, w, g, formula, keys: PhantomData }
    }
}

impl<P: Task<K>, T: Weight, F: Formula<T::Score>, K: Key<Value: From<T::Score>>> Kernel for With<'_, P, T, F, K> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> bool {
        self.task.run(v, self.w, self.g, self.formula)
    }
}

/// Writes keys from a position on.
struct Fill<'k, K> {
    start: usize,
    keys: &'k mut [K],
}

impl<K> Task<K> for Fill<'_, K> {
    #[inline(always)]
    fn run<V: Vector, T: Weight, F: Formula<T::Score>>(self, v: V, w: &[T], g: &[T], formula: F) -> bool
    where
        K: Key<Value: From<T::Score>>,
    {
        let range = self.start..self.start + self.keys.len();
        let (w, g) = (&w[range.clone()], &g[range]);
        let mut nan = false;
        for (keys, (w, g)) in self.keys.chunks_mut(WORD).zip(w.chunks(WORD).zip(g.chunks(WORD))) {
            nan |= convert(v, w, g, formula, keys);
        }
        nan
    }
}

/// Writes the keys of runs.
struct Runs<'k, K> {
    starts: &'k [usize],
    keys: &'k mut [[K; RUN]],
}

impl<K> Task<K> for Runs<'_, K> {
    #[inline(always)]
    fn run<V: Vector, T: Weight, F: Formula<T::Score>>(self, v: V, w: &[T], g: &[T], formula: F) -> bool
    where
        K: Key<Value: From<T::Score>>,
    {
        let mut nan = false;
        let ask = |x: &[T], start: usize| {
            // Where no cache line begins with the first weight, a run lies across two.
            prefetch(x.as_ptr().wrapping_add(start));
            prefetch(x.as_ptr().wrapping_add(start + RUN - 1));
        };
        for (i, (keys, &start)) in self.keys.iter_mut().zip(self.starts).enumerate() {
            if let Some(&next) = self.starts.get(i + RUNS_AHEAD) {
                ask(w, next);
                if F::TWO {
                    ask(g, next);
                }
            }
            // Arrays, so that their keys are made in registers.
            let (Some(w), Some(g)) = (w[start..].first_chunk::<RUN>(), g[start..].first_chunk::<RUN>()) else {
                continue;
            };
            nan |= convert(v, w, g, formula, keys);
        }
        nan
    }
}

/// Begins a cache line: what is written across two of them cannot be read back at once.
#[repr(align(64))]
struct Aligned<T>(T);

/// Shows keys to a scan, word by word: so that memory is read while keys are compared.
struct Show<'s, 'c, 'm, K> {
    range: Range<usize>,
    scan: &'s mut Scan<'c, 'm, K>,
}

impl<K> Task<K> for Show<'_, '_, '_, K> {
    #[inline(always)]
    fn run<V: Vector, T: Weight, F: Formula<T::Score>>(self, v: V, w: &[T], g: &[T], formula: F) -> bool
    where
        K: Key<Value: From<T::Score>>,
    {
        if self.scan.is_among() {
            self.words::<V, T, F, true>(v, w, g, formula)
        } else {
            self.words::<V, T, F, false>(v, w, g, formula)
        }
    }
}

impl<K> Show<'_, '_, '_, K> {
    #[inline(always)]
    fn words<V: Vector, T: Weight, F: Formula<T::Score>, const AMONG: bool>(
        self,
        v: V,
        w: &[T],
        g: &[T],
        formula: F,
    ) -> bool
    where
        K: Key<Value: From<T::Score>>,
    {
        let ((w, w_tail), (g, g_tail)) = (w[self.range.clone()].as_chunks(), g[self.range].as_chunks());
        let mut nan = false;
        let mut aligned = Aligned([K::default(); WORD]);
        let keys = &mut aligned.0;
        for (w, g) in w.chunks(WORDS).zip(g.chunks(WORDS)) {
            for (i, (w, g)) in w.iter().zip(g).enumerate() {
                ahead(w);
                if F::TWO {
                    ahead(g);
                }
                nan |= convert(v, w, g, formula, keys);
                self.scan.count::<V, AMONG>(v, i, keys);
            }
            while let Some(i) = self.scan.again() {
                convert(v, &w[i], &g[i], formula, keys);
                self.scan.gather::<V, AMONG>(v, i, keys);
            }
            self.scan.end(w.len());
        }
        if !w_tail.is_empty() {
            *keys = [K::default(); WORD];
            nan |= convert(v, w_tail, g_tail, formula, &mut keys[..w_tail.len()]);
            self.scan.last::<V, AMONG>(v, keys);
        }
        nan
    }
}

/// Asks for what comes [`AHEAD`] bytes later: keys inside the bracket come at random, and each is a branch that keeps the CPU from
/// looking ahead itself.
#[inline(always)]
fn ahead<T>(word: &[T; WORD]) {
    let p = word.as_ptr().cast::<u8>();
    for line in (0..size_of_val(word)).step_by(64) {
        prefetch(p.wrapping_add(AHEAD + line));
    }
}

/// At most a word of keys; whether a score is NaN.
#[inline(always)]
fn convert<V: Vector, T: Weight, F: Formula<T::Score>, K: Key<Value: From<T::Score>>>(
    v: V,
    w: &[T],
    g: &[T],
    formula: F,
    keys: &mut [K],
) -> bool {
    let mut block = Aligned([[T::Score::default(); WORD]; 2]);
    let [first, second] = &mut block.0;
    let w = T::widened(v, w, first);
    let g = if F::TWO { T::widened(v, g, second) } else { w };
    let mut nan = false;
    for (key, (&w, &g)) in keys.iter_mut().zip(w.iter().zip(g)) {
        let score = formula.of(w, g);
        nan |= score.is_nan();
        *key = K::of(score.into());
    }
    nan
}

/// Keys gathered by an earlier pass.
impl<K: Key> Source<K> for Vec<K> {
    fn len(&self) -> usize {
        self.len()
    }

    fn keys(&self, start: usize, keys: &mut [K]) -> bool {
        keys.copy_from_slice(&self[start..start + keys.len()]);
        false
    }

    fn runs(&self, starts: &[usize], keys: &mut [[K; RUN]]) {
        for (keys, &start) in keys.iter_mut().zip(starts) {
            keys.copy_from_slice(&self[start..start + RUN]);
        }
    }

    fn scan<'a>(&'a self, range: Range<usize>, scan: &mut Scan<'a, '_, K>) -> bool {
        dispatch(Target::detect(), ShowKeys(&self[range], scan));
        false
    }
}

/// Shows keys to a scan.
struct ShowKeys<'a, 's, 'c, 'm, K>(&'a [K], &'s mut Scan<'c, 'm, K>);

impl<K: Key> Kernel for ShowKeys<'_, '_, '_, '_, K> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (words, tail) = self.0.as_chunks::<WORD>();
        for words in words.chunks(WORDS) {
            words.iter().enumerate().for_each(|(i, keys)| self.1.count::<V, false>(v, i, keys));
            while let Some(i) = self.1.again() {
                self.1.gather::<V, false>(v, i, &words[i]);
            }
            self.1.end(words.len());
        }
        if !tail.is_empty() {
            let mut keys = [K::default(); WORD];
            keys[..tail.len()].copy_from_slice(tail);
            self.1.last::<V, false>(v, &keys);
        }
    }
}

/// Of the keys of a source those of what is alive, whose byte is not 0; the others are less than any score's key, but a NaN among
/// them counts.
pub(super) struct Among<'a, K> {
    pub all: &'a dyn Source<K>,
    pub alive: &'a [u8],
}

impl<K: Key> Source<K> for Among<'_, K> {
    fn len(&self) -> usize {
        self.all.len()
    }

    fn keys(&self, start: usize, keys: &mut [K]) -> bool {
        let nan = self.all.keys(start, keys);
        // A key that is not kept becomes the default, which is less than any score's.
        dispatch(Target::detect(), Zeroed { weights: keys, kept: &self.alive[start..] });
        nan
    }

    fn runs(&self, starts: &[usize], keys: &mut [[K; RUN]]) {
        self.all.runs(starts, keys);
        for (keys, &start) in keys.iter_mut().zip(starts) {
            zero(keys, &self.alive[start..]);
        }
    }

    fn scan<'a>(&'a self, range: Range<usize>, scan: &mut Scan<'a, '_, K>) -> bool {
        scan.among(&self.alive[range.clone()]);
        self.all.scan(range, scan)
    }
}

/// Σ|x|, summed in float64.
pub fn absolute_sum(x: &[f32]) -> f64 {
    dispatch(Target::detect(), AbsoluteSum(x))
}

struct AbsoluteSum<'a>(&'a [f32]);

impl Kernel for AbsoluteSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self, _: V) -> f64 {
        // The lanes are the same for every target, so that the sum is; two lines of them, since an addition takes its time.
        let (pairs, tail) = self.0.as_chunks::<{ 2 * LANES }>();
        let mut sums = [0.0; 2 * LANES];
        for pair in pairs {
            for (sum, &x) in sums.iter_mut().zip(pair) {
                *sum += f64::from(x.abs());
            }
        }
        sums.iter().sum::<f64>() + tail.iter().map(|&x| f64::from(x.abs())).sum::<f64>()
    }
}
