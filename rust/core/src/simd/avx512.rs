//! AVX-512 (F, BW, DQ, VL): the logical register is one zmm.

use super::avx2::{gather4, gather8};
use super::{Kernel, Kind, LANES, Storage, Stored, Target, Vector, WORD};
use std::arch::asm;
use std::arch::x86_64::*;

/// Token of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Runs `kernel` compiled for AVX-512.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL (and with them AVX2, FMA, BMI2 and F16C).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,popcnt")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

// SAFETY of every intrinsic below: a token exists only inside `run`, whose caller promises the features; pointers are the
// callers' promise, as the trait says.
impl Vector for Avx512 {
    type F32 = __m512;
    type Index = __m512i;
    type Window = (__m512, __m512);

    const REGISTERS: usize = 32;

    #[inline(always)]
    fn target(self) -> Target {
        Target(Kind::Avx512)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn power_of_two(self, n: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_scalef_ps(_mm512_set1_ps(1.0), n) }
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn unzip(self, a: Self::F32, b: Self::F32) -> (Self::F32, Self::F32) {
        // SAFETY: see above the impl.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            (_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
        }
    }
    #[inline(always)]
    fn sum(self, a: Self::F32) -> f32 {
        // SAFETY: see above the impl.
        unsafe {
            let h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let p = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(p, _mm_shuffle_ps::<1>(p, p)))
        }
    }
    #[inline(always)]
    fn fold_halves(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
        }
    }
    #[inline(always)]
    fn fold_quarters(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
        }
    }
    #[inline(always)]
    fn fold_pairs(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b)) }
    }

    /// Within quarters of a register first, where that is all an instruction needs to reach.
    #[inline(always)]
    fn transpose(self, tile: &mut [Self::F32; LANES]) {
        // SAFETY: see above the impl.
        unsafe {
            let mut pairs = *tile;
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_ps(tile[2 * i], tile[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_ps(tile[2 * i], tile[2 * i + 1]);
            }
            let mut fours = pairs;
            for i in 0..4 {
                for half in 0..2 {
                    let (a, b) = (pairs[4 * i + half], pairs[4 * i + half + 2]);
                    fours[4 * i + 2 * half] = _mm512_shuffle_ps::<0b01_00_01_00>(a, b);
                    fours[4 * i + 2 * half + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(a, b);
                }
            }
            let mut eights = fours;
            for i in 0..4 {
                for half in [0, 8] {
                    let (a, b) = (fours[half + i], fours[half + i + 4]);
                    eights[half + i] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                    eights[half + i + 4] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
                }
            }
            for i in 0..8 {
                tile[i] = _mm512_shuffle_f32x4::<0b10_00_10_00>(eights[i], eights[i + 8]);
                tile[i + 8] = _mm512_shuffle_f32x4::<0b11_01_11_01>(eights[i], eights[i + 8]);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_masked(self, a: Self::F32, p: *const f32, mask: u16) -> Self::F32 {
        // SAFETY: see above the impl; what the mask leaves out is not read.
        unsafe { _mm512_mask_loadu_ps(a, mask, p) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn splat4_ptr(self, p: *const f32) -> [Self::F32; 4] {
        // SAFETY: see above the impl.
        unsafe {
            let four = quarters(p);
            [
                _mm512_permute_ps::<0b00_00_00_00>(four),
                _mm512_permute_ps::<0b01_01_01_01>(four),
                _mm512_permute_ps::<0b10_10_10_10>(four),
                _mm512_permute_ps::<0b11_11_11_11>(four),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, a: Self::F32) {
        // SAFETY: see above the impl.
        unsafe { _mm512_storeu_ps(p, a) }
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, a: Self::F32, mask: u16) {
        // SAFETY: see above the impl; what the mask leaves out is not touched.
        unsafe { _mm512_mask_storeu_ps(p, mask, a) }
    }
    #[inline(always)]
    unsafe fn widen_ptr<S: Stored>(self, p: *const S) -> Self::F32 {
        // SAFETY: see above the impl; `Storage` tells how wide S is.
        unsafe {
            match S::STORAGE {
                Storage::F32 => _mm512_loadu_ps(p.cast()),
                Storage::Bf16 => {
                    let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
                }
                Storage::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())),
            }
        }
    }
    #[inline(always)]
    unsafe fn expand_ptr<S: Stored>(self, p: *const S, mask: u16) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { expand(self.widen_ptr(p), mask) }
    }
    #[inline(always)]
    unsafe fn gather_ptr(self, base: *const f32, index: *const u16) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_insertf32x8::<1>(_mm512_castps256_ps512(gather8(base, index)), gather8(base, index.add(8))) }
    }
    #[inline(always)]
    unsafe fn spread_ptr<const R: usize>(self, base: *const f32, index: *const u16) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            match R {
                16 => _mm512_set1_ps(*base.add(*index as usize)),
                8 => {
                    let (low, high) = (base.add(*index as usize), base.add(*index.add(1) as usize));
                    _mm512_mask_broadcastss_ps(_mm512_set1_ps(*low), 0xff00, _mm_load_ss(high))
                }
                _ => {
                    let order = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                    _mm512_permutexvar_ps(order, _mm512_castps128_ps512(gather4(base, index)))
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn window_ptr(self, p: *const f32) -> Self::Window {
        // SAFETY: see above the impl.
        unsafe { (_mm512_loadu_ps(p), _mm512_loadu_ps(p.add(16))) }
    }
    #[inline(always)]
    fn window(self, a: Self::F32, b: Self::F32) -> Self::Window {
        (a, b)
    }
    #[inline(always)]
    unsafe fn index_ptr(self, p: *const u16) -> Self::Index {
        // SAFETY: see above the impl.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn words_ptr(self, p: *const u32) -> Self::Index {
        // SAFETY: see above the impl.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    fn next_index<const BITS: usize>(self, index: Self::Index) -> Self::Index {
        // SAFETY: see above the impl.
        unsafe { _mm512_srlv_epi32(index, _mm512_set1_epi32(BITS as i32)) }
    }
    #[inline(always)]
    fn look_up(self, window: Self::Window, index: Self::Index) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_permutex2var_ps(window.0, index, window.1) }
    }
    #[inline(always)]
    fn at_least_u32(self, keys: &[u32; WORD], limit: u32) -> u64 {
        // SAFETY: see above the impl; an array of four registers.
        unsafe {
            let (limit, keys) = (_mm512_set1_epi32(limit as i32), keys.as_chunks::<LANES>().0);
            let line = |i: usize| _mm512_cmpge_epu32_mask(_mm512_loadu_si512(keys[i].as_ptr().cast()), limit).into();
            _mm512_kunpackd(_mm512_kunpackw(line(3), line(2)).into(), _mm512_kunpackw(line(1), line(0)).into())
        }
    }
    #[inline(always)]
    fn at_least_u64(self, keys: &[u64; WORD], limit: u64) -> u64 {
        // SAFETY: see above the impl; an array of eight registers.
        unsafe {
            let (limit, keys) = (_mm512_set1_epi64(limit as i64), keys.as_chunks::<8>().0);
            let line = |i: usize| _mm512_cmpge_epu64_mask(_mm512_loadu_si512(keys[i].as_ptr().cast()), limit).into();
            let two = |i: usize| _mm512_kunpackb(line(i + 1), line(i)).into();
            _mm512_kunpackd(_mm512_kunpackw(two(6), two(4)).into(), _mm512_kunpackw(two(2), two(0)).into())
        }
    }
    #[inline(always)]
    fn nonzero_bytes(self, bytes: &[u8; WORD]) -> u64 {
        // SAFETY: see above the impl; an array of 64 bytes.
        unsafe {
            let bytes = _mm512_loadu_si512(bytes.as_ptr().cast());
            _mm512_test_epi8_mask(bytes, bytes)
        }
    }
    #[inline(always)]
    fn store_bools(self, to: &mut [bool; WORD], bits: u64) {
        // SAFETY: see above the impl; 64 bytes, each 0 or 1.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_maskz_set1_epi8(bits, 1)) }
    }
    #[inline(always)]
    unsafe fn repeat_ptr<const M: usize>(self, p: *const f32) -> Self::F32 {
        // SAFETY: see above the impl.
        unsafe {
            match M {
                4 => _mm512_broadcast_f32x4(_mm_loadu_ps(p)),
                _ => _mm512_broadcast_f32x8(_mm256_loadu_ps(p)),
            }
        }
    }
    #[inline(always)]
    fn pick<const M: usize>(self, table: Self::F32, index: Self::Index) -> Self::F32 {
        // SAFETY: see above the impl. Of M = 8 the fourth bit chooses between two equal halves.
        unsafe { if M == 4 { _mm512_permutevar_ps(table, index) } else { _mm512_permutexvar_ps(index, table) } }
    }
}

/// `_mm512_maskz_expand_ps`, kept from being merged with the load before it: on AMD's Zen 4 the form that reads memory takes
/// about four times as long as a load and the form for registers.
///
/// # Safety
/// The CPU has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn expand(packed: __m512, mask: __mmask16) -> __m512 {
    let expanded;
    // SAFETY: the instruction reads and writes registers only.
    unsafe {
        asm!(
            "vexpandps {expanded}{{{mask}}}{{z}}, {packed}",
            expanded = lateout(zmm_reg) expanded,
            packed = in(zmm_reg) packed,
            mask = in(kreg) mask,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    expanded
}

/// Four floats in each quarter of a register, kept from becoming four loads of one float once they are spread: Zen 4 loads one
/// register a cycle, whatever its size in memory, and permutes beside that.
///
/// # Safety
/// The CPU has AVX-512, and `p` is valid for reading 4 floats.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn quarters(p: *const f32) -> __m512 {
    let four;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "vbroadcastf32x4 {four}, xmmword ptr [{p}]",
            four = lateout(zmm_reg) four,
            p = in(reg) p,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    four
}
