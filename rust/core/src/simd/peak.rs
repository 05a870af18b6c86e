//! How fast one core multiplies and adds: the roof that kernels are measured against.

use super::{Kernel, Target, Vector, dispatch};
use std::sync::Mutex;
use std::time::Instant;

/// Floating-point operations a second that one core reaches in registers on `target`; measured once, in about 5 ms.
pub fn peak_flops(target: Target) -> f64 {
    static KNOWN: Mutex<Vec<(Target, f64)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((_, peak)) = known.iter().find(|(measured, _)| *measured == target) {
        return *peak;
    }
    let peak = (0..20).map(|_| dispatch(target, Chains)).fold(0.0, f64::max);
    known.push((target, peak));
    peak
}

/// Independent multiply-adds, enough to hide their latency.
struct Chains;

const ROUNDS: usize = 10_000;

impl Kernel for Chains {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> f64 {
        if V::REGISTERS >= 32 { chains::<V, 12>(v) } else { chains::<V, 6>(v) }
    }
}

#[inline(always)]
fn chains<V: Vector, const N: usize>(v: V) -> f64 {
    let (a, b) = (v.splat(std::hint::black_box(0.999)), v.splat(std::hint::black_box(0.001)));
    let mut acc = [v.splat(1.0); N];
    let start = Instant::now();
    for _ in 0..ROUNDS {
        for acc in &mut acc {
            *acc = v.mul_add(*acc, a, b);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    std::hint::black_box(acc.iter().fold(0.0, |sum, &acc| sum + v.sum(acc)));
    (ROUNDS * N * super::LANES * 2) as f64 / seconds.max(1e-9)
}
