//! CPU targets behind one trait, and the safe way to run code on them.
//!
//! Every target shows the same logical register: [`LANES`] = 16 floats, one 64-byte cache line. AVX-512 holds it in one
//! zmm register, AVX2 in two ymm, the scalar target in an array. So packed layouts and tiles mean the same on every CPU,
//! and an algorithm is written once, generic over `V: Vector`.
//!
//! ```
//! use secateur_core::simd::{dispatch, Kernel, Target, Vector, LANES};
//!
//! struct Sum<'a>(&'a [f32]);
//! impl Kernel for Sum<'_> {
//!     type Output = f32;
//!     #[inline(always)]
//!     fn run<V: Vector>(self, v: V) -> f32 {
//!         let chunks = self.0.chunks_exact(LANES);
//!         let tail: f32 = chunks.remainder().iter().sum();
//!         let lanes = chunks.fold(v.splat(0.0), |sum, chunk| v.add(sum, v.load(chunk)));
//!         v.sum(lanes) + tail
//!     }
//! }
//! assert_eq!(dispatch(Target::detect(), Sum(&[1.0; 40])), 40.0);
//! ```

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
pub mod math;
mod peak;
mod scalar;
mod stored;

pub use buffer::Buffer;
pub use peak::peak_flops;
pub use stored::{Storage, Stored};

use crate::argument;
use crate::error::Result;
use std::sync::OnceLock;

/// Floats in the logical register of every target.
pub const LANES: usize = 16;

/// Elements that a word has a bit for.
pub const WORD: usize = u64::BITS as usize;

/// Floats in a [`Vector::Window`]: what one AVX-512 instruction looks 16 lanes up in.
pub const WINDOW: usize = 2 * LANES;

/// Asks for the cache line at `p`, which may be any address, to be brought near.
#[inline(always)]
pub fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and never faults; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// A CPU target, as a token: a value of the type proves that this CPU has the features, because only [`dispatch`] makes
/// one. Methods that touch memory through pointers are unsafe for the pointer alone.
pub trait Vector: Copy + Send + Sync + 'static {
    /// One register of [`LANES`] floats.
    type F32: Copy;
    /// 16 indices of 32 bits, one a lane.
    type Index: Copy;
    /// [`WINDOW`] neighbouring floats, held in registers.
    type Window: Copy;
    /// How many of them the register file holds.
    const REGISTERS: usize;

    /// The target whose token this is.
    fn target(self) -> Target;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F32;
    /// Lane by lane `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane `a · b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane `a / b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane 2ⁿ, for whole numbers n from -126 to 127.
    fn power_of_two(self, n: Self::F32) -> Self::F32;
    /// Lane by lane maximum; `b` where either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane `a · b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// Lanes 0, 2, 4 … and 1, 3, 5 … of the 32 lanes of `a` and `b`.
    fn unzip(self, a: Self::F32, b: Self::F32) -> (Self::F32, Self::F32);
    /// The sum of the lanes, always in the same order: halves, quarters, eighths, pairs.
    fn sum(self, a: Self::F32) -> f32;

    /// Of each, the first half plus the second: `a` in the first half of the result, `b` in the second.
    fn fold_halves(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// As [`Vector::fold_halves`] inside each half of the registers, quarter to quarter: a's halves, then b's.
    fn fold_quarters(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Inside each quarter: lanes 0 + 1 and 2 + 3 of `a`, then of `b`.
    fn fold_pairs(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// Lane i is the sum of the lanes of `rows[i]`, always in the same order.
    #[inline(always)]
    fn sums(self, rows: &[Self::F32; LANES]) -> Self::F32 {
        let low = self.fold_pairs(quarters(self, rows, 0), quarters(self, rows, 1));
        let high = self.fold_pairs(quarters(self, rows, 2), quarters(self, rows, 3));
        self.fold_pairs(low, high)
    }

    /// Transposes the 16 lanes of 16 registers.
    ///
    /// An element's place is 8 bits: 4 of its register, 4 of its lane. Unzipping two registers that differ in one bit moves
    /// that bit to the top of the lane and the lane's lowest bit to its place; once for each bit, and register and lane have
    /// changed places.
    #[inline(always)]
    fn transpose(self, tile: &mut [Self::F32; LANES]) {
        unzip_pairs::<Self, 1>(self, tile);
        unzip_pairs::<Self, 2>(self, tile);
        unzip_pairs::<Self, 4>(self, tile);
        unzip_pairs::<Self, 8>(self, tile);
    }

    /// Loads 16 floats from any address.
    ///
    /// # Safety
    /// `p` is valid for reading 16 floats.
    unsafe fn load_ptr(self, p: *const f32) -> Self::F32;
    /// Loads the first `n` lanes, `n` up to 16; the others are 0.
    ///
    /// # Safety
    /// `p` is valid for reading `n` floats.
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::F32 {
        // SAFETY: the caller's promise.
        unsafe { self.load_masked(self.splat(0.0), p, first_lanes(n)) }
    }
    /// Loads the lanes whose bit is set; the others keep those of `a`.
    ///
    /// # Safety
    /// `p.wrapping_add(i)` is valid for reading a float for every bit i set; `p` itself may be any address.
    #[inline(always)]
    unsafe fn load_masked(self, a: Self::F32, p: *const f32, mask: u16) -> Self::F32 {
        let mut lanes = self.to_array(a);
        for (i, lane) in lanes.iter_mut().enumerate().filter(|(i, _)| mask >> i & 1 == 1) {
            // SAFETY: the caller's promise.
            *lane = unsafe { *p.wrapping_add(i) };
        }
        self.with_lanes(lanes)
    }
    /// Four registers, each all lanes one of four neighbouring floats: where loads are what a loop waits for, for the price
    /// of one.
    ///
    /// # Safety
    /// `p` is valid for reading 4 floats.
    #[inline(always)]
    unsafe fn splat4_ptr(self, p: *const f32) -> [Self::F32; 4] {
        // SAFETY: the caller's promise.
        unsafe { [self.splat(*p), self.splat(*p.add(1)), self.splat(*p.add(2)), self.splat(*p.add(3))] }
    }
    /// Stores 16 floats to any address.
    ///
    /// # Safety
    /// `p` is valid for writing 16 floats.
    unsafe fn store_ptr(self, p: *mut f32, a: Self::F32);
    /// Stores the first `n` lanes, `n` up to 16.
    ///
    /// # Safety
    /// `p` is valid for writing `n` floats.
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, a: Self::F32, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.store_masked(p, a, first_lanes(n)) }
    }
    /// Stores the lanes whose bit is set.
    ///
    /// # Safety
    /// `p.wrapping_add(i)` is valid for writing a float for every bit i set; `p` itself may be any address.
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, a: Self::F32, mask: u16) {
        for (i, lane) in self.to_array(a).into_iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1) {
            // SAFETY: the caller's promise.
            unsafe { *p.wrapping_add(i) = lane }
        }
    }
    /// Loads 16 stored numbers as floats.
    ///
    /// # Safety
    /// `p` is valid for reading 16 of them.
    unsafe fn widen_ptr<S: Stored>(self, p: *const S) -> Self::F32;
    /// The i-th set bit of `mask` takes `p[i]`, as a float; the other lanes are 0.
    ///
    /// # Safety
    /// `p` is valid for reading 16 numbers, however few bits are set.
    unsafe fn expand_ptr<S: Stored>(self, p: *const S, mask: u16) -> Self::F32;
    /// Lane i takes `base[index[i]]`.
    ///
    /// # Safety
    /// `index` is valid for reading 16 indices, and `base` at each of them.
    unsafe fn gather_ptr(self, base: *const f32, index: *const u16) -> Self::F32;
    /// Lane i takes `base[index[i / R]]`; R is 4, 8 or 16.
    ///
    /// # Safety
    /// `index` is valid for reading 16 / R indices, and `base` at each of them.
    unsafe fn spread_ptr<const R: usize>(self, base: *const f32, index: *const u16) -> Self::F32;
    /// Loads [`WINDOW`] floats from any address.
    ///
    /// # Safety
    /// `p` is valid for reading [`WINDOW`] floats.
    unsafe fn window_ptr(self, p: *const f32) -> Self::Window;
    /// The [`WINDOW`] floats of two registers.
    fn window(self, a: Self::F32, b: Self::F32) -> Self::Window;
    /// Loads 16 indices.
    ///
    /// # Safety
    /// `p` is valid for reading 16 indices.
    unsafe fn index_ptr(self, p: *const u16) -> Self::Index;
    /// Loads 16 indices of 32 bits.
    ///
    /// # Safety
    /// `p` is valid for reading 16 indices.
    unsafe fn words_ptr(self, p: *const u32) -> Self::Index;
    /// The indices without their lowest `BITS` bits: those of the next look-up.
    fn next_index<const BITS: usize>(self, index: Self::Index) -> Self::Index;
    /// Lane i takes the window's float that the lowest five bits of `index[i]` name.
    fn look_up(self, window: Self::Window, index: Self::Index) -> Self::F32;
    /// Lane i takes `p[i % M]`; M is 4 or 8.
    ///
    /// # Safety
    /// `p` is valid for reading M floats.
    unsafe fn repeat_ptr<const M: usize>(self, p: *const f32) -> Self::F32;
    /// Lane i takes the float of `table`, which repeats every M lanes, that `index[i] % M` names; M is 4 or 8.
    fn pick<const M: usize>(self, table: Self::F32, index: Self::Index) -> Self::F32;

    /// Bit i tells whether `keys[i]` is `limit` or more.
    #[inline(always)]
    fn at_least_u32(self, keys: &[u32; WORD], limit: u32) -> u64 {
        (0..WORD).fold(0, |bits, i| bits | u64::from(keys[i] >= limit) << i)
    }
    /// As [`Vector::at_least_u32`].
    #[inline(always)]
    fn at_least_u64(self, keys: &[u64; WORD], limit: u64) -> u64 {
        (0..WORD).fold(0, |bits, i| bits | u64::from(keys[i] >= limit) << i)
    }
    /// Bit i tells whether `bytes[i]` is not 0.
    #[inline(always)]
    fn nonzero_bytes(self, bytes: &[u8; WORD]) -> u64 {
        (0..WORD).fold(0, |bits, i| bits | u64::from(bytes[i] != 0) << i)
    }
    /// Bit i of `bits` to `to[i]`.
    #[inline(always)]
    fn store_bools(self, to: &mut [bool; WORD], bits: u64) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = bits >> i & 1 == 1;
        }
    }

    /// 16 stored numbers as floats.
    #[inline(always)]
    fn widen<S: Stored>(self, from: &[S; LANES]) -> Self::F32 {
        // SAFETY: the array holds 16 numbers.
        unsafe { self.widen_ptr(from.as_ptr()) }
    }
    /// Loads the first 16 floats of `from`; panics where there are fewer.
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F32 {
        assert!(from.len() >= LANES);
        // SAFETY: the slice holds at least 16 floats.
        unsafe { self.load_ptr(from.as_ptr()) }
    }
    /// Loads the first `n` lanes, at most all 16, the others are 0; panics where `from` holds fewer than `n`.
    #[inline(always)]
    fn load_some(self, from: &[f32], n: usize) -> Self::F32 {
        if n >= LANES {
            return self.load(from);
        }
        assert!(from.len() >= n);
        // SAFETY: the slice holds at least `n` floats.
        unsafe { self.load_first(from.as_ptr(), n) }
    }
    /// Stores into the first 16 floats of `to`; panics where there are fewer.
    #[inline(always)]
    fn store(self, to: &mut [f32], a: Self::F32) {
        assert!(to.len() >= LANES);
        // SAFETY: the slice holds at least 16 floats.
        unsafe { self.store_ptr(to.as_mut_ptr(), a) }
    }
    /// Stores the first `n` lanes, at most all 16, into `to`; panics where it holds fewer.
    #[inline(always)]
    fn store_some(self, to: &mut [f32], a: Self::F32, n: usize) {
        if n >= LANES {
            return self.store(to, a);
        }
        assert!(to.len() >= n);
        // SAFETY: the slice holds at least `n` floats.
        unsafe { self.store_first(to.as_mut_ptr(), a, n) }
    }
    /// Stores the first `n` lanes, at most all 16, but those whose bit is set in `but`; panics where `to` holds fewer than `n`.
    #[inline(always)]
    fn store_but(self, to: &mut [f32], a: Self::F32, n: usize, but: u16) {
        if but == 0 {
            return self.store_some(to, a, n);
        }
        assert!(to.len() >= n);
        // SAFETY: the slice holds at least `n` floats, and no lane beyond them is stored.
        unsafe { self.store_masked(to.as_mut_ptr(), a, first_lanes(n) & !but) }
    }
    /// The lanes as an array.
    #[inline(always)]
    fn to_array(self, a: Self::F32) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, a);
        lanes
    }
    /// The register with these lanes.
    #[inline(always)]
    fn with_lanes(self, lanes: [f32; LANES]) -> Self::F32 {
        self.load(&lanes)
    }
}

/// The step of a transposition for one bit; a loop of constant length, so that the registers stay registers.
#[inline(always)]
fn unzip_pairs<V: Vector, const BIT: usize>(v: V, tile: &mut [V::F32; LANES]) {
    for i in 0..LANES / 2 {
        let pair = i / BIT * 2 * BIT + i % BIT;
        (tile[pair], tile[pair + BIT]) = v.unzip(tile[pair], tile[pair + BIT]);
    }
}

/// The mask of the first `n` lanes, `n` up to 16.
#[inline(always)]
pub(crate) fn first_lanes(n: usize) -> u16 {
    ((1u32 << n.min(LANES)) - 1) as u16
}

/// Rows q, q + 4, q + 8 and q + 12 folded to a quarter each. Folding pairs then puts row 4r + q in lane q of quarter r.
#[inline(always)]
fn quarters<V: Vector>(v: V, rows: &[V::F32; LANES], q: usize) -> V::F32 {
    v.fold_quarters(v.fold_halves(rows[q], rows[q + 4]), v.fold_halves(rows[q + 8], rows[q + 12]))
}

/// Code to run on a target. Mark `run`, and every function that it calls with `V`, `#[inline(always)]`: only code inlined
/// into the target's entry point is compiled for the target. Closures cannot be marked: where one is called more than once
/// it may stay a function of its own, without the target's instructions.
pub trait Kernel {
    /// What `run` returns.
    type Output;
    /// The body, generic over the target.
    fn run<V: Vector>(self, v: V) -> Self::Output;
}

/// A target that this CPU has: there is no other way to hold one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Target {
    /// Every name that [`Target::parse`] knows, slowest first.
    pub const NAMES: [&'static str; 3] = ["scalar", "avx2", "avx512"];

    /// The plain target, available everywhere.
    pub const fn scalar() -> Target {
        Target(Kind::Scalar)
    }

    /// The fastest target of this CPU; looked up once.
    pub fn detect() -> Target {
        #[cfg(test)]
        if let Some(forced) = FORCED.get() {
            return forced;
        }
        static BEST: OnceLock<Target> = OnceLock::new();
        *BEST.get_or_init(|| *Target::available().last().unwrap_or(&Target::scalar()))
    }

    /// The targets of this CPU, slowest first.
    pub fn available() -> Vec<Target> {
        let mut targets = vec![Target(Kind::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            // The macro takes literals only, hence the spelled-out lists.
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 {
                targets.push(Target(Kind::Avx2));
            }
            if avx2 && avx512 {
                targets.push(Target(Kind::Avx512));
            }
        }
        targets
    }

    /// The target of that name, if there is one and this CPU has it.
    pub fn parse(name: &str) -> Result<Target> {
        if !Target::NAMES.contains(&name) {
            return Err(argument!("target: unknown name {name:?}; choose from {}", Target::NAMES.join(", ")));
        }
        let available = Target::available();
        available.iter().copied().find(|target| target.name() == name).ok_or_else(|| {
            let have: Vec<_> = available.iter().map(|target| target.name()).collect();
            argument!("target: this CPU has no {name}; it has {}", have.join(", "))
        })
    }

    /// The processor and the target: what measurements hold for.
    pub fn signature(self) -> String {
        let about = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let names = about.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let name = names.map(|(_, name)| name.trim()).next().unwrap_or(std::env::consts::ARCH);
        format!("{name} / {}", self.name())
    }

    /// How many logical registers the register file holds.
    pub fn registers(self) -> usize {
        match self.0 {
            Kind::Scalar => scalar::Scalar::REGISTERS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::Avx2::REGISTERS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::Avx512::REGISTERS,
        }
    }

    /// `scalar`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }
}

/// Runs `kernel` compiled for `target`.
pub fn dispatch<K: Kernel>(target: Target, kernel: K) -> K::Output {
    match target.0 {
        Kind::Scalar => kernel.run(scalar::Scalar::new()),
        // SAFETY: a Target of this kind exists only where `available` saw the features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::run(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::run(kernel) },
    }
}

#[cfg(test)]
thread_local! {
    static FORCED: std::cell::Cell<Option<Target>> = const { std::cell::Cell::new(None) };
}

/// Does `work` on every target in turn, for tests of what detects the target by itself. Other threads that it uses are not told.
#[cfg(test)]
pub(crate) fn on_every_target(mut work: impl FnMut(&str)) {
    for target in Target::available() {
        FORCED.set(Some(target));
        work(target.name());
    }
    FORCED.set(None);
}

#[cfg(test)]
mod tests;
