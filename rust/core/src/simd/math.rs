//! The exponential and what gates are made of, a register at a time.

use super::Vector;

/// `(p, s)` with exp(x) = p · s + s and exp(x) − 1 = p · s + (s − 1): s is the power of two next to exp(x), and p is exp − 1 of
/// what is left, at most ln 2 / 2. For x from −87 to 87.
#[inline(always)]
fn exponential<V: Vector>(v: V, x: V::F32) -> (V::F32, V::F32) {
    // Adding this rounds to a whole number.
    let whole = v.splat(12_582_912.0);
    let n = v.sub(v.mul_add(x, v.splat(std::f32::consts::LOG2_E), whole), whole);
    // ln 2 in two parts, the first of so few digits that n times it is exact.
    let r = v.mul_add(n, v.splat(-0.693_359_4), x);
    let r = v.mul_add(n, v.splat(2.121_944_4e-4), r);
    let mut sum = v.splat(1.0 / 5040.0);
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        sum = v.mul_add(sum, r, v.splat(term));
    }
    (v.mul_add(v.mul(r, r), sum, r), v.power_of_two(n))
}

/// exp(x) for x ≤ 0, within 4 ulp where that is above 1e-37.
#[inline(always)]
pub fn exp<V: Vector>(v: V, x: V::F32) -> V::F32 {
    let (p, s) = exponential(v, within(v, x, 87.0));
    v.mul_add(p, s, s)
}

/// `x` from −`limit` to `limit`; of NaN NaN, for which maxima take their second operand.
#[inline(always)]
fn within<V: Vector>(v: V, x: V::F32, limit: f32) -> V::F32 {
    let (zero, least) = (v.splat(0.0), v.splat(-limit));
    v.sub(zero, v.max(least, v.sub(zero, v.max(least, x))))
}

/// 1 / (1 + exp(−x)), within 4 ulp where that is above 1e-37, 2e-38 at most below.
#[inline(always)]
pub fn sigmoid<V: Vector>(v: V, x: V::F32) -> V::F32 {
    let (p, s) = exponential(v, v.sub(v.splat(0.0), within(v, x, 87.0)));
    let one = v.splat(1.0);
    v.div(one, v.add(one, v.mul_add(p, s, s)))
}

/// The hyperbolic tangent, within 2 ulp.
#[inline(always)]
pub fn tanh<V: Vector>(v: V, x: V::F32) -> V::F32 {
    // Beyond 9.02, it is 1 in float32.
    let x = within(v, x, 9.5);
    let (p, s) = exponential(v, v.add(x, x));
    let less_one = v.mul_add(p, s, v.sub(s, v.splat(1.0)));
    v.div(less_one, v.add(less_one, v.splat(2.0)))
}

/// Lane by lane minimum; `b` where either is NaN.
#[inline(always)]
pub fn min<V: Vector>(v: V, a: V::F32, b: V::F32) -> V::F32 {
    let zero = v.splat(0.0);
    v.sub(zero, v.max(v.sub(zero, a), v.sub(zero, b)))
}

/// a · x + b, from 0 to 1.
#[inline(always)]
pub fn line<V: Vector>(v: V, x: V::F32, a: f32, b: f32) -> V::F32 {
    let y = v.mul_add(x, v.splat(a), v.splat(b));
    min(v, v.splat(1.0), v.max(v.splat(0.0), y))
}

/// erfc(z) for z ≥ 0, within 2e-7: exp(−z²) · t · p(t) with t = 1 / (1 + z / 2). The polynomial is the one of degree 8 that fits
/// best at Chebyshev's points for z up to 7.
#[inline(always)]
fn erfc<V: Vector>(v: V, z: V::F32) -> V::F32 {
    let one = v.splat(1.0);
    let t = v.div(one, v.mul_add(z, v.splat(0.5), one));
    let mut sum = v.splat(-0.057_244_662);
    for term in [
        0.275_427_4,
        -0.467_661_77,
        0.254_909_4,
        -0.010_012_305,
        0.195_321_59,
        0.245_068_45,
        0.282_087_83,
        0.282_104_05,
    ] {
        sum = v.mul_add(sum, t, v.splat(term));
    }
    v.mul(v.mul(sum, t), exp(v, v.sub(v.splat(0.0), v.mul(z, z))))
}

/// The error function of finite x, within 3e-7.
#[inline(always)]
pub fn erf<V: Vector>(v: V, x: V::F32) -> V::F32 {
    let (zero, one) = (v.splat(0.0), v.splat(1.0));
    let above = v.sub(one, erfc(v, v.max(x, zero)));
    let below = v.sub(one, erfc(v, v.max(v.sub(zero, x), zero)));
    v.sub(above, below)
}

/// x · (1 + erf(x / √2)) / 2 of finite x, within 2 ulp of x: |x| / 2 · erfc(|x| / √2) below what ReLU gives.
#[inline(always)]
pub fn gelu<V: Vector>(v: V, x: V::F32) -> V::F32 {
    let zero = v.splat(0.0);
    let size = v.max(x, v.sub(zero, x));
    let tail = erfc(v, v.mul(size, v.splat(std::f32::consts::FRAC_1_SQRT_2)));
    v.mul_add(v.mul(size, tail), v.splat(-0.5), v.max(x, zero))
}

/// x · (1 + tanh(√(2 / π) · (x + 0.044715 · x³))) / 2 of finite x, within 8 ulp of x.
#[inline(always)]
pub fn gelu_tanh<V: Vector>(v: V, x: V::F32) -> V::F32 {
    // Twice √(2 / π), since (1 + tanh(y)) / 2 is sigmoid(2 y).
    let inner = v.mul_add(v.mul(x, x), v.splat(0.044_715 * 1.595_769), v.splat(1.595_769));
    v.mul(x, sigmoid(v, v.mul(x, inner)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;
    use crate::simd::{Kernel, LANES, Target, dispatch};

    struct Both([f32; LANES]);
    impl Kernel for Both {
        type Output = ([f32; LANES], [f32; LANES]);
        #[inline(always)]
        fn run<V: Vector>(self, v: V) -> Self::Output {
            let x = v.with_lanes(self.0);
            (v.to_array(sigmoid(v, x)), v.to_array(tanh(v, x)))
        }
    }

    fn near(got: f32, exact: f64, ulps: f64) -> bool {
        (f64::from(got) - exact).abs() <= ulps * exact.abs() * f64::from(f32::EPSILON)
    }

    #[test]
    fn gates_keep_their_bounds() {
        let mut points: Vec<f32> = (-86_000..86_000).map(|i| i as f32 * 1e-3).collect();
        points.extend((0..2000).flat_map(|i| [1.0, -1.0].map(|sign| sign * (i as f32 * -0.04).exp())));
        points.extend([0.0, -0.0, 1e-40, 500.0, -500.0, f32::MAX, f32::MIN, 9.01, 0.5]);
        for target in Target::available() {
            for chunk in points.chunks(LANES) {
                let x: [f32; LANES] = std::array::from_fn(|i| chunk[i % chunk.len()]);
                let (s, t) = dispatch(target, Both(x));
                for i in 0..LANES {
                    let exact = f64::from(x[i]);
                    let sigmoid = 1.0 / (1.0 + (-exact).exp());
                    assert!(
                        near(s[i], sigmoid, 4.0) || sigmoid < 1e-37,
                        "{}: sigmoid {}: {}",
                        target.name(),
                        x[i],
                        s[i]
                    );
                    assert!(near(t[i], exact.tanh(), 2.0), "{}: tanh {}: {}", target.name(), x[i], t[i]);
                }
            }
        }
    }

    #[test]
    fn gates_of_what_is_not_finite() {
        for target in Target::available() {
            let x = std::array::from_fn(|i| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0][i % 4]);
            let (s, t) = dispatch(target, Both(x));
            assert!(s[0].is_nan() && t[0].is_nan(), "{}", target.name());
            assert_eq!((s[1], t[1], t[2], s[3], t[3]), (1.0, 1.0, -1.0, 0.5, 0.0), "{}", target.name());
            assert!(s[2] < 2e-38, "{}", target.name());
        }
    }

    struct Tails([f32; LANES]);
    impl Kernel for Tails {
        type Output = [[f32; LANES]; 3];
        #[inline(always)]
        fn run<V: Vector>(self, v: V) -> Self::Output {
            let x = v.with_lanes(self.0);
            [v.to_array(erf(v, x)), v.to_array(gelu(v, x)), v.to_array(gelu_tanh(v, x))]
        }
    }

    #[test]
    fn error_functions_keep_their_bounds() {
        let points: Vec<f32> =
            (-12_000..12_000).map(|i| i as f32 * 1e-3).chain([0.0, -0.0, 1e-30, 88.0, -300.0]).collect();
        for target in Target::available() {
            for chunk in points.chunks(LANES) {
                let x: [f32; LANES] = std::array::from_fn(|i| chunk[i % chunk.len()]);
                let found = dispatch(target, Tails(x));
                for i in 0..LANES {
                    let exact = f64::from(x[i]);
                    let far = |got: f32, wanted: f64| (f64::from(got) - wanted).abs();
                    let ulp = f64::from(f32::EPSILON) * exact.abs();
                    assert!(far(found[0][i], naive::erf(exact)) <= 3e-7, "{}: erf {}", target.name(), x[i]);
                    let gelu = exact * (1.0 + naive::erf(exact / 2f64.sqrt())) / 2.0;
                    assert!(far(found[1][i], gelu) <= 2.0 * ulp, "{}: gelu {}", target.name(), x[i]);
                    let inner = (8.0 / std::f64::consts::PI).sqrt() * (exact + 0.044715 * exact.powi(3));
                    let gelu = exact / (1.0 + (-inner).exp());
                    assert!(far(found[2][i], gelu) <= 8.0 * ulp, "{}: gelu_tanh {}", target.name(), x[i]);
                }
            }
        }
    }
}
