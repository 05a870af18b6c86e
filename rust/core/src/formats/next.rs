//! The next weights of a run and the lines that they meet: the inner loops of single weights.
//!
//! A core issues its loads in turn. An index that is loaded where it is needed waits behind the lines of the step before, and
//! then the lines of its own step wait for it; so indices are loaded four at a time, in one word, and a step ahead.

use crate::simd::{LANES, Vector};

/// What every list of indices ends with: as many as are loaded at a time.
pub(super) const BEHIND: [u16; 4] = [0; 4];

/// Where the next indices and values are read.
pub(super) struct Next {
    /// The operand at the block's first position.
    base: *const f32,
    /// Floats in one step of a position.
    unit: usize,
    index: *const u16,
    /// The next four indices.
    ahead: u64,
    values: *const f32,
}

impl Next {
    /// Indices and values from these on.
    ///
    /// # Safety
    /// [`BEHIND`] is at the end of the indices.
    #[inline(always)]
    pub unsafe fn new(base: *const f32, unit: usize, index: *const u16, values: *const f32) -> Next {
        // SAFETY: the caller's promise.
        let ahead = unsafe { index.cast::<u64>().read_unaligned() };
        Next { base, unit, index, ahead, values }
    }

    /// The operand at the next indices, four at most.
    ///
    /// # Safety
    /// There are as many, and four more behind them.
    #[inline(always)]
    pub unsafe fn lines<const N: usize>(&mut self) -> [*const f32; N] {
        let four = self.ahead;
        // SAFETY: the caller's promise.
        unsafe {
            self.index = self.index.add(N);
            self.ahead = self.index.cast::<u64>().read_unaligned();
        }
        let shift = |n: usize| if cfg!(target_endian = "little") { 16 * n } else { 48 - 16 * n };
        std::array::from_fn(|n| self.base.wrapping_add((four >> shift(n)) as u16 as usize * self.unit))
    }

    /// The next value, in all lanes.
    ///
    /// # Safety
    /// There is one.
    #[inline(always)]
    pub unsafe fn weight<V: Vector>(&mut self, v: V) -> V::F32 {
        // SAFETY: the caller's promise.
        unsafe {
            let weight = v.splat(*self.values);
            self.values = self.values.add(1);
            weight
        }
    }

    /// The next four values.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    pub unsafe fn weights<V: Vector>(&mut self, v: V) -> [V::F32; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = v.splat4_ptr(self.values);
            self.values = self.values.add(4);
            weights
        }
    }
}

/// `acc += weight · line`, for T registers.
///
/// # Safety
/// The line holds as many.
#[inline(always)]
pub(super) unsafe fn add<V: Vector, const T: usize>(v: V, acc: &mut [V::F32; T], weight: V::F32, line: *const f32) {
    for (t, acc) in acc.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *acc = v.mul_add(weight, unsafe { v.load_ptr(line.add(t * LANES)) }, *acc);
    }
}

/// As [`add`], to the sums of both rows.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(super) unsafe fn add_to_both<V: Vector, const T: usize>(
    v: V,
    (a, p): (&mut [V::F32; T], V::F32),
    (b, q): (&mut [V::F32; T], V::F32),
    line: *const f32,
) {
    for t in 0..T {
        // SAFETY: the caller's promise.
        let x = unsafe { v.load_ptr(line.add(t * LANES)) };
        a[t] = v.mul_add(p, x, a[t]);
        b[t] = v.mul_add(q, x, b[t]);
    }
}
