//! AVX2 + FMA: the logical register is a pair of ymm.

use super::{Kernel, Kind, Storage, Stored, Target, Vector, WORD};
use std::arch::x86_64::*;

/// Token of AVX2 + FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Runs `kernel` compiled for AVX2 + FMA.
///
/// # Safety
/// The CPU has AVX2, FMA, BMI2 and F16C.
#[target_feature(enable = "avx,avx2,fma,f16c,bmi1,bmi2,popcnt")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

// SAFETY of every intrinsic below: a token exists only inside `run`, whose caller promises the features; pointers are the
// callers' promise, as the trait says.
impl Vector for Avx2 {
    type F32 = (__m256, __m256);
    type Index = (__m256i, __m256i);
    type Window = [__m256; 4];

    const REGISTERS: usize = 8;

    #[inline(always)]
    fn target(self) -> Target {
        Target(Kind::Avx2)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn power_of_two(self, n: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let power = |n: __m256| _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), bias));
            (_mm256_castsi256_ps(power(n.0)), _mm256_castsi256_ps(power(n.1)))
        }
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn unzip(self, a: Self::F32, b: Self::F32) -> (Self::F32, Self::F32) {
        // SAFETY: see above the impl.
        unsafe {
            let half = |a: __m256, b: __m256| {
                // Shuffles stay within 128 bits: pairs of pairs come out in the order 0 2 1 3.
                let order = |x| _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(x)));
                (order(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)), order(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)))
            };
            let (low, high) = (half(a.0, a.1), half(b.0, b.1));
            ((low.0, high.0), (low.1, high.1))
        }
    }
    #[inline(always)]
    fn sum(self, a: Self::F32) -> f32 {
        // SAFETY: see above the impl.
        unsafe {
            let h = _mm256_add_ps(a.0, a.1);
            let q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let p = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(p, _mm_shuffle_ps::<1>(p, p)))
        }
    }
    #[inline(always)]
    fn fold_halves(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (_mm256_add_ps(a.0, a.1), _mm256_add_ps(b.0, b.1)) }
    }
    #[inline(always)]
    fn fold_quarters(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            let low = (_mm256_permute2f128_ps::<0x20>(a.0, a.1), _mm256_permute2f128_ps::<0x20>(b.0, b.1));
            let high = (_mm256_permute2f128_ps::<0x31>(a.0, a.1), _mm256_permute2f128_ps::<0x31>(b.0, b.1));
            self.add(low, high)
        }
    }
    #[inline(always)]
    fn fold_pairs(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            let even = (_mm256_shuffle_ps::<0b10_00_10_00>(a.0, b.0), _mm256_shuffle_ps::<0b10_00_10_00>(a.1, b.1));
            let odd = (_mm256_shuffle_ps::<0b11_01_11_01>(a.0, b.0), _mm256_shuffle_ps::<0b11_01_11_01>(a.1, b.1));
            self.add(even, odd)
        }
    }

    #[inline(always)]
    unsafe fn load_masked(self, a: Self::F32, p: *const f32, mask: u16) -> Self::F32 {
        // SAFETY: see above the impl; what the masks leave out is not read.
        unsafe {
            let (low, high) = (lanes8(mask as u8), lanes8((mask >> 8) as u8));
            let x = (_mm256_maskload_ps(p, low), _mm256_maskload_ps(p.wrapping_add(8), high));
            let select = |a, x, lanes| _mm256_blendv_ps(a, x, _mm256_castsi256_ps(lanes));
            (select(a.0, x.0, low), select(a.1, x.1, high))
        }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, a: Self::F32) {
        // SAFETY: see above the impl.
        unsafe {
            _mm256_storeu_ps(p, a.0);
            _mm256_storeu_ps(p.add(8), a.1);
        }
    }
    #[inline(always)]
    unsafe fn widen_ptr<S: Stored>(self, p: *const S) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (widen8(p), widen8(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn expand_ptr<S: Stored>(self, p: *const S, mask: u16) -> Self::F32 {
        // SAFETY: see above the impl; the low byte's bits take at most 8 of the 16 numbers, the high byte's the next 8.
        unsafe {
            let low = expand8(widen8(p), mask as u8);
            (low, expand8(widen8(p.add((mask as u8).count_ones() as usize)), (mask >> 8) as u8))
        }
    }
    #[inline(always)]
    unsafe fn gather_ptr(self, base: *const f32, index: *const u16) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (gather8(base, index), gather8(base, index.add(8))) }
    }
    #[inline(always)]
    unsafe fn spread_ptr<const R: usize>(self, base: *const f32, index: *const u16) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            match R {
                16 => self.splat(*base.add(*index as usize)),
                8 => (
                    _mm256_broadcast_ss(&*base.add(*index as usize)),
                    _mm256_broadcast_ss(&*base.add(*index.add(1) as usize)),
                ),
                _ => {
                    let four = gather4(base, index);
                    let four = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(four), four);
                    let (low, high) =
                        (_mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3));
                    (_mm256_permutevar_ps(four, low), _mm256_permutevar_ps(four, high))
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn window_ptr(self, p: *const f32) -> Self::Window {
        // SAFETY: see above the impl.
        unsafe { std::array::from_fn(|i| _mm256_loadu_ps(p.add(8 * i))) }
    }
    #[inline(always)]
    fn window(self, a: Self::F32, b: Self::F32) -> Self::Window {
        [a.0, a.1, b.0, b.1]
    }
    #[inline(always)]
    unsafe fn index_ptr(self, p: *const u16) -> Self::Index {
        // SAFETY: see above the impl.
        unsafe {
            let (low, high) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast()));
            (_mm256_cvtepu16_epi32(low), _mm256_cvtepu16_epi32(high))
        }
    }
    #[inline(always)]
    unsafe fn words_ptr(self, p: *const u32) -> Self::Index {
        // SAFETY: see above the impl.
        unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())) }
    }
    #[inline(always)]
    fn next_index<const BITS: usize>(self, index: Self::Index) -> Self::Index {
        // SAFETY: see above the impl.
        unsafe {
            let bits = _mm256_set1_epi32(BITS as i32);
            (_mm256_srlv_epi32(index.0, bits), _mm256_srlv_epi32(index.1, bits))
        }
    }
    #[inline(always)]
    fn look_up(self, window: Self::Window, index: Self::Index) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { (look_up8(window, index.0), look_up8(window, index.1)) }
    }
    #[inline(always)]
    fn at_least_u32(self, keys: &[u32; WORD], limit: u32) -> u64 {
        let keys = keys.as_chunks::<8>().0;
        // SAFETY: see above the impl; arrays of one register.
        let less = |i: usize| u64::from(unsafe { less8(keys[i].as_ptr(), limit) }) << (8 * i);
        !(0..WORD / 8).fold(0, |bits, i| bits | less(i))
    }
    #[inline(always)]
    fn at_least_u64(self, keys: &[u64; WORD], limit: u64) -> u64 {
        let keys = keys.as_chunks::<4>().0;
        // SAFETY: see above the impl; arrays of one register.
        let less = |i: usize| u64::from(unsafe { less4(keys[i].as_ptr(), limit) }) << (4 * i);
        !(0..WORD / 4).fold(0, |bits, i| bits | less(i))
    }
    #[inline(always)]
    fn nonzero_bytes(self, bytes: &[u8; WORD]) -> u64 {
        // SAFETY: see above the impl; an array of 64 bytes.
        unsafe {
            let zeros = |p: *const u8| {
                let zero = _mm256_cmpeq_epi8(_mm256_loadu_si256(p.cast()), _mm256_setzero_si256());
                u64::from(_mm256_movemask_epi8(zero) as u32)
            };
            !(zeros(bytes.as_ptr().add(WORD / 2)) << (WORD / 2) | zeros(bytes.as_ptr()))
        }
    }
    #[inline(always)]
    fn store_bools(self, to: &mut [bool; WORD], bits: u64) {
        // SAFETY: see above the impl; 32 bytes twice, each 0 or 1: the byte that holds its bit, that bit alone, brought to 0 or 1.
        unsafe {
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let ones = 0x0101_0101_0101_0101;
            let byte = _mm256_set_epi64x(3 * ones, 2 * ones, ones, 0);
            for (half, to) in to.as_chunks_mut::<{ WORD / 2 }>().0.iter_mut().enumerate() {
                let bits = _mm256_set1_epi32((bits >> (WORD / 2 * half)) as i32);
                let own = _mm256_and_si256(_mm256_shuffle_epi8(bits, byte), bit);
                let set = _mm256_and_si256(_mm256_cmpeq_epi8(own, bit), _mm256_set1_epi8(1));
                _mm256_storeu_si256(to.as_mut_ptr().cast(), set);
            }
        }
    }
    #[inline(always)]
    unsafe fn repeat_ptr<const M: usize>(self, p: *const f32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            let half = match M {
                4 => _mm256_set_m128(_mm_loadu_ps(p), _mm_loadu_ps(p)),
                _ => _mm256_loadu_ps(p),
            };
            (half, half)
        }
    }
    #[inline(always)]
    fn pick<const M: usize>(self, table: Self::F32, index: Self::Index) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            match M {
                4 => (_mm256_permutevar_ps(table.0, index.0), _mm256_permutevar_ps(table.1, index.1)),
                _ => (_mm256_permutevar8x32_ps(table.0, index.0), _mm256_permutevar8x32_ps(table.1, index.1)),
            }
        }
    }
}

/// All bits of the lanes whose bit is set.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn lanes8(mask: u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask as i32), bits), bits)
    }
}

/// Eight floats at a time by the lowest three bits; bits 3 and 4, moved to the sign, choose among the four.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn look_up8([a, b, c, d]: [__m256; 4], index: __m256i) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (_mm256_permutevar8x32_ps(a, index), _mm256_permutevar8x32_ps(b, index));
        let (c, d) = (_mm256_permutevar8x32_ps(c, index), _mm256_permutevar8x32_ps(d, index));
        let bit3 = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
        let bit4 = _mm256_castsi256_ps(_mm256_slli_epi32::<27>(index));
        _mm256_blendv_ps(_mm256_blendv_ps(a, b, bit3), _mm256_blendv_ps(c, d, bit3), bit4)
    }
}

/// Bit i tells whether `keys[i]` is less than `limit`. Compared as signed numbers, with their top bits flipped.
///
/// # Safety
/// The CPU has AVX2; `keys` is valid for reading 8 of them.
#[inline(always)]
unsafe fn less8(keys: *const u32, limit: u32) -> u16 {
    // SAFETY: the caller's promise.
    unsafe {
        let keys = _mm256_xor_si256(_mm256_loadu_si256(keys.cast()), _mm256_set1_epi32(i32::MIN));
        let less = _mm256_cmpgt_epi32(_mm256_set1_epi32((limit ^ 1 << 31) as i32), keys);
        _mm256_movemask_ps(_mm256_castsi256_ps(less)) as u16
    }
}

/// As [`less8`], for 4 keys of 64 bits.
///
/// # Safety
/// The CPU has AVX2; `keys` is valid for reading 4 of them.
#[inline(always)]
unsafe fn less4(keys: *const u64, limit: u64) -> u16 {
    // SAFETY: the caller's promise.
    unsafe {
        let keys = _mm256_xor_si256(_mm256_loadu_si256(keys.cast()), _mm256_set1_epi64x(i64::MIN));
        let less = _mm256_cmpgt_epi64(_mm256_set1_epi64x((limit ^ 1 << 63) as i64), keys);
        _mm256_movemask_pd(_mm256_castsi256_pd(less)) as u16
    }
}

/// Loads and inserts: the gather instructions of AMD's Zen take longer.
///
/// # Safety
/// The CPU has AVX2; `index` is valid for reading 8 indices, and `base` at each of them.
#[inline(always)]
pub(super) unsafe fn gather8(base: *const f32, index: *const u16) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_castps128_ps256(gather4(base, index));
        _mm256_insertf128_ps::<1>(low, gather4(base, index.add(4)))
    }
}

/// As [`gather8`], four.
///
/// # Safety
/// The CPU has AVX2; `index` is valid for reading 4 indices, and `base` at each of them.
#[inline(always)]
pub(super) unsafe fn gather4(base: *const f32, index: *const u16) -> __m128 {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b, c, d] = index.cast::<[u16; 4]>().read_unaligned();
        let x = _mm_load_ss(base.add(a as usize));
        let x = _mm_insert_ps::<0x10>(x, _mm_load_ss(base.add(b as usize)));
        let x = _mm_insert_ps::<0x20>(x, _mm_load_ss(base.add(c as usize)));
        _mm_insert_ps::<0x30>(x, _mm_load_ss(base.add(d as usize)))
    }
}

/// Eight stored numbers as floats.
///
/// # Safety
/// The CPU has AVX2 and F16C; `p` is valid for reading 8 numbers.
#[inline(always)]
unsafe fn widen8<S: Stored>(p: *const S) -> __m256 {
    // SAFETY: the caller's promise; `Storage` tells how wide S is.
    unsafe {
        match S::STORAGE {
            Storage::F32 => _mm256_loadu_ps(p.cast()),
            Storage::Bf16 => {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
            Storage::F16 => _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
        }
    }
}

/// AVX2 has no expand: spread the mask's bits to bytes, and rank each set bit with pdep/pext to a permutation.
///
/// # Safety
/// The CPU has AVX2 and BMI2.
#[inline(always)]
unsafe fn expand8(packed: __m256, mask: u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let spread = _pdep_u64(mask as u64, 0x0101_0101_0101_0101) * 0xff;
        let ranks = _pdep_u64(0x0706_0504_0302_0100, spread);
        let order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(ranks as i64));
        let keep = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(spread as i64));
        _mm256_and_ps(_mm256_permutevar8x32_ps(packed, order), _mm256_castsi256_ps(keep))
    }
}
