//! The plain target: an array of 16 floats, whatever the compiler makes of it.

use super::{Kind, LANES, Stored, Target, Vector, WINDOW};

/// Token of the plain target.
#[derive(Clone, Copy)]
pub(super) struct Scalar(());

impl Scalar {
    pub(super) fn new() -> Scalar {
        Scalar(())
    }
}

impl Vector for Scalar {
    type F32 = [f32; LANES];
    type Index = [u32; LANES];
    type Window = [f32; WINDOW];

    const REGISTERS: usize = 8;

    #[inline(always)]
    fn target(self) -> Target {
        Target(Kind::Scalar)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn power_of_two(self, n: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        // Without FMA hardware f32::mul_add is a library call a lane: round twice instead (the error bound holds).
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn unzip(self, a: Self::F32, b: Self::F32) -> (Self::F32, Self::F32) {
        let lane = |i: usize| if i < LANES { a[i] } else { b[i - LANES] };
        (std::array::from_fn(|i| lane(2 * i)), std::array::from_fn(|i| lane(2 * i + 1)))
    }
    #[inline(always)]
    fn sum(self, a: Self::F32) -> f32 {
        let h: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let q: [f32; 4] = std::array::from_fn(|i| h[i] + h[i + 4]);
        (q[0] + q[2]) + (q[1] + q[3])
    }
    #[inline(always)]
    fn fold_halves(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        let fold = |a: Self::F32, i: usize| a[i] + a[i + 8];
        std::array::from_fn(|i| if i < 8 { fold(a, i) } else { fold(b, i - 8) })
    }
    #[inline(always)]
    fn fold_quarters(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        let fold = |a: Self::F32, i: usize| a[i / 4 * 8 + i % 4] + a[i / 4 * 8 + i % 4 + 4];
        std::array::from_fn(|i| if i < 8 { fold(a, i) } else { fold(b, i - 8) })
    }
    #[inline(always)]
    fn fold_pairs(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        let fold = |a: Self::F32, i: usize| a[i / 4 * 4 + i % 2 * 2] + a[i / 4 * 4 + i % 2 * 2 + 1];
        std::array::from_fn(|i| if i % 4 < 2 { fold(a, i) } else { fold(b, i) })
    }

    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> Self::F32 {
        // SAFETY: the caller's promise: 16 readable floats at `p`.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, a: Self::F32) {
        // SAFETY: the caller's promise: 16 writable floats at `p`.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(a) }
    }
    #[inline(always)]
    unsafe fn widen_ptr<S: Stored>(self, p: *const S) -> Self::F32 {
        // SAFETY: the caller's promise: 16 readable numbers at `p`.
        unsafe { p.cast::<[S; LANES]>().read_unaligned() }.map(S::widen)
    }
    #[inline(always)]
    unsafe fn expand_ptr<S: Stored>(self, p: *const S, mask: u16) -> Self::F32 {
        let mut next = 0;
        std::array::from_fn(|i| {
            if mask >> i & 1 == 0 {
                return 0.0;
            }
            next += 1;
            // SAFETY: at most 16 bits are set, and the caller promises 16 readable numbers.
            unsafe { *p.add(next - 1) }.widen()
        })
    }
    #[inline(always)]
    unsafe fn gather_ptr(self, base: *const f32, index: *const u16) -> Self::F32 {
        // SAFETY: the caller's promise: 16 indices, each valid from `base`.
        std::array::from_fn(|i| unsafe { *base.add(*index.add(i) as usize) })
    }
    #[inline(always)]
    unsafe fn spread_ptr<const R: usize>(self, base: *const f32, index: *const u16) -> Self::F32 {
        // SAFETY: the caller's promise: 16 / R indices, each valid from `base`.
        std::array::from_fn(|i| unsafe { *base.add(*index.add(i / R) as usize) })
    }
    #[inline(always)]
    unsafe fn window_ptr(self, p: *const f32) -> Self::Window {
        // SAFETY: the caller's promise: that many readable floats at `p`.
        unsafe { p.cast::<Self::Window>().read_unaligned() }
    }
    #[inline(always)]
    fn window(self, a: Self::F32, b: Self::F32) -> Self::Window {
        std::array::from_fn(|i| if i < LANES { a[i] } else { b[i - LANES] })
    }
    #[inline(always)]
    unsafe fn index_ptr(self, p: *const u16) -> Self::Index {
        // SAFETY: the caller's promise: 16 readable indices at `p`.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(u32::from)
    }
    #[inline(always)]
    unsafe fn words_ptr(self, p: *const u32) -> Self::Index {
        // SAFETY: the caller's promise: 16 readable indices at `p`.
        unsafe { p.cast::<Self::Index>().read_unaligned() }
    }
    #[inline(always)]
    fn next_index<const BITS: usize>(self, index: Self::Index) -> Self::Index {
        index.map(|index| index >> BITS)
    }
    #[inline(always)]
    fn look_up(self, window: Self::Window, index: Self::Index) -> Self::F32 {
        index.map(|index| window[index as usize % WINDOW])
    }
    #[inline(always)]
    unsafe fn repeat_ptr<const M: usize>(self, p: *const f32) -> Self::F32 {
        // SAFETY: the caller's promise: M readable floats at `p`.
        std::array::from_fn(|i| unsafe { *p.add(i % M) })
    }
    #[inline(always)]
    fn pick<const M: usize>(self, table: Self::F32, index: Self::Index) -> Self::F32 {
        index.map(|index| table[index as usize % M])
    }
}
