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

/// `x` from −`limit` to `limit`.
#[inline(always)]
fn within<V: Vector>(v: V, x: V::F32, limit: f32) -> V::F32 {
    let (zero, least) = (v.splat(0.0), v.splat(-limit));
    v.sub(zero, v.max(v.sub(zero, v.max(x, least)), least))
}

/// 1 / (1 + exp(−x)) for finite x, within 4 ulp where that is above 1e-37.
#[inline(always)]
pub fn sigmoid<V: Vector>(v: V, x: V::F32) -> V::F32 {
    let (p, s) = exponential(v, v.sub(v.splat(0.0), within(v, x, 87.0)));
    let one = v.splat(1.0);
    v.div(one, v.add(one, v.mul_add(p, s, s)))
}

/// The hyperbolic tangent of finite x, within 4 ulp.
#[inline(always)]
pub fn tanh<V: Vector>(v: V, x: V::F32) -> V::F32 {
    // Beyond 9.02, it is 1 in float32.
    let x = within(v, x, 9.5);
    let (p, s) = exponential(v, v.add(x, x));
    let less_one = v.mul_add(p, s, v.sub(s, v.splat(1.0)));
    v.div(less_one, v.add(less_one, v.splat(2.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn gates_are_within_four_ulp_of_exact_ones() {
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
                    assert!(near(t[i], exact.tanh(), 4.0), "{}: tanh {}: {}", target.name(), x[i], t[i]);
                }
            }
        }
    }
}
