//! Optimizer steps, one pass over memory each. A weight whose mask is false takes no gradient and is 0 afterwards, and so
//! is what the optimizer remembers of it: where it grows again, it starts anew.

use super::for_each_chunk;
use crate::executor::Executor;
use crate::simd::{Kernel, Target, Vector, dispatch};
use std::sync::Mutex;

/// Floats per task.
const PIECE: usize = 1 << 14;

/// Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1), with the corrections of the moments folded into two factors.
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// The learning rate divided by 1 − beta1^t.
    pub rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// 1 / sqrt(1 − beta2^t), which corrects the second moment's root.
    pub root: f32,
    /// Added to the root.
    pub epsilon: f32,
}

/// Stochastic gradient descent with momentum: v ← momentum · v + g, then w ← w − rate · v, or with Nesterov's look-ahead
/// w ← w − rate · (g + momentum · v).
#[derive(Debug, Clone, Copy)]
pub struct Sgd {
    /// The learning rate.
    pub rate: f32,
    /// Decay of the velocity.
    pub momentum: f32,
    /// Nesterov's look-ahead.
    pub nesterov: bool,
}

/// The arrays of one parameter, of one length.
pub struct Parameter<'a> {
    /// The weights.
    pub weight: &'a mut [f32],
    /// Their gradient.
    pub gradient: &'a [f32],
    /// Which weights live; all of them without a mask.
    pub mask: Option<&'a [bool]>,
}

impl Adam {
    /// One step; `m` and `v` are the moments.
    ///
    /// # Panics
    /// Where lengths differ: callers check shapes.
    pub fn step(&self, executor: &dyn Executor, parameter: Parameter<'_>, m: &mut [f32], v: &mut [f32]) {
        let Parameter { weight, gradient, mask } = parameter;
        let len = weight.len();
        assert!(gradient.len() == len && m.len() == len && v.len() == len && mask.is_none_or(|mask| mask.len() == len));
        let moments: Vec<_> = m.chunks_mut(PIECE).zip(v.chunks_mut(PIECE)).map(Mutex::new).collect();
        for_each_chunk(executor, len * 4, weight, PIECE, &|i, weight| {
            let mut moments = moments[i].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let (m, v) = &mut *moments;
            let gradient = &gradient[i * PIECE..][..weight.len()];
            let mask = mask.map(|mask| &mask[i * PIECE..][..weight.len()]);
            dispatch(Target::detect(), AdamPiece { adam: *self, weight, gradient, mask, m, v });
        });
    }
}

struct AdamPiece<'a> {
    adam: Adam,
    weight: &'a mut [f32],
    gradient: &'a [f32],
    mask: Option<&'a [bool]>,
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for AdamPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        let Adam { rate, beta1, beta2, root, epsilon } = self.adam;
        let update = |w: f32, g: f32, m: &mut f32, v: &mut f32| {
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * (g * g);
            w - rate * *m / (v.sqrt() * root + epsilon)
        };
        let arrays = self.weight.iter_mut().zip(self.gradient).zip(self.m.iter_mut().zip(self.v));
        match self.mask {
            None => arrays.for_each(|((w, &g), (m, v))| *w = update(*w, g, m, v)),
            Some(mask) => arrays.zip(mask).for_each(|(((w, &g), (m, v)), &alive)| {
                let next = update(*w, g, m, v);
                [*w, *m, *v] = if alive { [next, *m, *v] } else { [0.0; 3] };
            }),
        }
    }
}

impl Sgd {
    /// One step.
    ///
    /// # Panics
    /// Where lengths differ: callers check shapes.
    pub fn step(&self, executor: &dyn Executor, parameter: Parameter<'_>, velocity: &mut [f32]) {
        let Parameter { weight, gradient, mask } = parameter;
        let len = weight.len();
        assert!(gradient.len() == len && velocity.len() == len && mask.is_none_or(|mask| mask.len() == len));
        let velocities: Vec<_> = velocity.chunks_mut(PIECE).map(Mutex::new).collect();
        for_each_chunk(executor, len * 4, weight, PIECE, &|i, weight| {
            let mut velocity = velocities[i].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let gradient = &gradient[i * PIECE..][..weight.len()];
            let mask = mask.map(|mask| &mask[i * PIECE..][..weight.len()]);
            dispatch(Target::detect(), SgdPiece { sgd: *self, weight, gradient, mask, velocity: &mut velocity });
        });
    }
}

struct SgdPiece<'a> {
    sgd: Sgd,
    weight: &'a mut [f32],
    gradient: &'a [f32],
    mask: Option<&'a [bool]>,
    velocity: &'a mut [f32],
}

impl Kernel for SgdPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        let Sgd { rate, momentum, nesterov } = self.sgd;
        let update = |w: f32, g: f32, velocity: &mut f32| {
            *velocity = momentum * *velocity + g;
            w - rate * if nesterov { g + momentum * *velocity } else { *velocity }
        };
        let arrays = self.weight.iter_mut().zip(self.gradient).zip(self.velocity);
        match self.mask {
            None => arrays.for_each(|((w, &g), velocity)| *w = update(*w, g, velocity)),
            Some(mask) => arrays.zip(mask).for_each(|(((w, &g), velocity), &alive)| {
                let next = update(*w, g, velocity);
                [*w, *velocity] = if alive { [next, *velocity] } else { [0.0; 2] };
            }),
        }
    }
}
