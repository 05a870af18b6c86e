//! The laws of a register, on every target.

use super::*;

/// Every operation on every available target against plain arithmetic.
struct Laws;
impl Kernel for Laws {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let a: [f32; LANES] = std::array::from_fn(|i| i as f32 - 7.5);
        let b: [f32; LANES] = std::array::from_fn(|i| (i * i) as f32 * 0.25 - 3.0);
        let (x, y) = (v.with_lanes(a), v.with_lanes(b));
        let each = |f: fn(f32, f32) -> f32| -> [f32; LANES] { std::array::from_fn(|i| f(a[i], b[i])) };
        assert_eq!(v.to_array(v.add(x, y)), each(|a, b| a + b));
        assert_eq!(v.to_array(v.sub(x, y)), each(|a, b| a - b));
        assert_eq!(v.to_array(v.mul(x, y)), each(|a, b| a * b));
        assert_eq!(v.to_array(v.max(x, y)), each(f32::max));
        assert_eq!(v.to_array(v.div(x, y)), each(|a, b| a / b));
        let powers: [f32; LANES] = std::array::from_fn(|i| i as f32 * 16.0 - 126.0);
        assert_eq!(v.to_array(v.power_of_two(v.with_lanes(powers))), powers.map(f32::exp2));
        assert_eq!(v.to_array(v.mul_add(x, y, v.splat(1.5))), each(|a, b| a.mul_add(b, 1.5)));
        assert_eq!(v.sum(x), 0.0);
        let halves: [f32; LANES] = std::array::from_fn(|i| {
            let from = if i < 8 { a } else { b };
            from[i % 8] + from[i % 8 + 8]
        });
        assert_eq!(v.to_array(v.fold_halves(x, y)), halves);
        let quarters: [f32; LANES] = std::array::from_fn(|i| {
            let from = if i < 8 { a } else { b };
            let at = i % 8 / 4 * 8 + i % 4;
            from[at] + from[at + 4]
        });
        assert_eq!(v.to_array(v.fold_quarters(x, y)), quarters);
        let pairs: [f32; LANES] = std::array::from_fn(|i| {
            let from = if i % 4 < 2 { a } else { b };
            let at = i / 4 * 4 + i % 2 * 2;
            from[at] + from[at + 1]
        });
        assert_eq!(v.to_array(v.fold_pairs(x, y)), pairs);
        let rows: [V::F32; LANES] = std::array::from_fn(|i| v.mul(x, v.splat(i as f32)));
        let mut columns = rows;
        v.transpose(&mut columns);
        for (i, &column) in columns.iter().enumerate() {
            assert_eq!(v.to_array(column), std::array::from_fn(|row| v.to_array(rows[row])[i]));
        }
        assert_eq!(v.to_array(v.sums(&rows)), std::array::from_fn(|i| v.sum(rows[i])));
        for n in [0, 1, 7, 16] {
            // SAFETY: an array of 16.
            let first = unsafe { v.load_first(b.as_ptr(), n) };
            assert_eq!(v.to_array(first), std::array::from_fn(|i| if i < n { b[i] } else { 0.0 }));
        }
        for mask in [0, 1, 0x8000, 0xffff, 0xa5c3, 0x00ff_u16] {
            let set = |i: usize| mask >> i & 1 == 1;
            let mut stored = b;
            // SAFETY: arrays of 16.
            unsafe { v.store_masked(stored.as_mut_ptr(), x, mask) };
            assert_eq!(stored, std::array::from_fn(|i| if set(i) { a[i] } else { b[i] }));
            // SAFETY: as above.
            let loaded = v.to_array(unsafe { v.load_masked(y, a.as_ptr(), mask) });
            assert_eq!(loaded, stored);
        }
        // SAFETY: four floats are left of the array.
        let four = unsafe { v.splat4_ptr(a.as_ptr().add(5)) };
        assert_eq!(four.map(|x| v.to_array(x)), std::array::from_fn(|i| [a[5 + i]; LANES]));
        let both: Vec<f32> = a.iter().chain(&b).copied().collect();
        let (even, odd) = v.unzip(x, y);
        assert_eq!(v.to_array(even), std::array::from_fn(|i| both[2 * i]));
        assert_eq!(v.to_array(odd), std::array::from_fn(|i| both[2 * i + 1]));
        let index: [u16; LANES] = std::array::from_fn(|i| ((i * 7) % LANES) as u16);
        // SAFETY: arrays of 16, indices below 16.
        let gathered = unsafe { v.gather_ptr(a.as_ptr(), index.as_ptr()) };
        assert_eq!(v.to_array(gathered), std::array::from_fn(|i| a[index[i] as usize]));
        // SAFETY: as above.
        let spread = unsafe {
            let (base, index) = (a.as_ptr(), index.as_ptr());
            [v.spread_ptr::<4>(base, index), v.spread_ptr::<8>(base, index), v.spread_ptr::<16>(base, index)]
        };
        for (spread, rows) in spread.into_iter().zip([4, 8, 16]) {
            assert_eq!(v.to_array(spread), std::array::from_fn(|i| a[index[i / rows] as usize]));
        }
        let packed: [u16; LANES] = std::array::from_fn(|i| (i as u16).wrapping_mul(20_011) ^ 0x2b5a);
        // SAFETY: arrays of 32 and of 16.
        let (window, mut index) = unsafe { (v.window_ptr(both.as_ptr()), v.index_ptr(packed.as_ptr())) };
        for slot in 0..3 {
            let wanted = packed.map(|packed| both[(packed >> (5 * slot) & 31) as usize]);
            assert_eq!(v.to_array(v.look_up(window, index)), wanted, "slot {slot}");
            index = v.next_index::<5>(index);
        }
        // SAFETY: an array of 16.
        let index = unsafe { v.index_ptr(packed.as_ptr()) };
        let wanted = packed.map(|packed| [a, b].concat()[(packed & 31) as usize]);
        assert_eq!(v.to_array(v.look_up(v.window(x, y), index)), wanted);
        let words: [u32; LANES] = std::array::from_fn(|i| (i as u32).wrapping_mul(0x9e37_79b9) ^ 0x2b5a_11f3);
        // SAFETY: an array of 16.
        let mut index = unsafe { v.words_ptr(words.as_ptr()) };
        // SAFETY: an array of 16.
        let (four, eight) = unsafe { (v.repeat_ptr::<4>(a.as_ptr().add(3)), v.repeat_ptr::<8>(a.as_ptr().add(3))) };
        for slot in 0..8 {
            let wanted = |m| words.map(|word| a[3 + (word >> (4 * slot)) as usize % m]);
            assert_eq!(v.to_array(v.pick::<4>(four, index)), wanted(4), "slot {slot}");
            assert_eq!(v.to_array(v.pick::<8>(eight, index)), wanted(8), "slot {slot}");
            index = if slot % 2 == 0 { v.next_index::<4>(index) } else { v.next_index::<2>(v.next_index::<2>(index)) };
        }
        for mask in [0, 1, 0x8000, 0xffff, 0xa5c3, 0x00ff_u16] {
            // SAFETY: an array of 16.
            let expanded = v.to_array(unsafe { v.expand_ptr(a.as_ptr(), mask) });
            let mut rest = a.iter();
            for (i, lane) in expanded.iter().enumerate() {
                let wanted = if mask >> i & 1 == 1 { *rest.next().unwrap() } else { 0.0 };
                assert_eq!(*lane, wanted, "mask {mask:#06x} lane {i}");
            }
        }
        let words: [u32; WORD] = std::array::from_fn(|i| words[i % LANES].rotate_left((i / LANES * 7) as u32));
        let wide: [u64; WORD] = words.map(|word| u64::from(word) << 17 ^ 0x5a5a);
        for limit in [0, 1, 1 << 31, u32::MAX].into_iter().chain(words) {
            let bits = |i: usize| v.at_least_u32(&words, limit) >> i & 1 == 1;
            assert_eq!(std::array::from_fn(bits), words.map(|word| word >= limit), "{limit}");
            let limit = u64::from(limit) << 32 | u64::from(limit);
            for limit in wide.into_iter().chain([limit]) {
                let bits = |i: usize| v.at_least_u64(&wide, limit) >> i & 1 == 1;
                assert_eq!(std::array::from_fn(bits), wide.map(|word| word >= limit), "{limit}");
            }
            let bytes = std::array::from_fn(|i| (limit >> (i % 8 * 4)) as u8 & [0xff, 0x80, 1, 0][i / 8 % 4]);
            assert_eq!(std::array::from_fn(|i| v.nonzero_bytes(&bytes) >> i & 1 == 1), bytes.map(|byte| byte != 0));
            let mut bools = [true; WORD];
            v.store_bools(&mut bools, limit);
            assert_eq!(bools, std::array::from_fn(|i| limit >> i & 1 == 1));
        }
        stored::<V, f32>(v);
        stored::<V, half::bf16>(v);
        stored::<V, half::f16>(v);
    }
}

/// Every number of 16 bits that is one, sixteen at a time; of float32 some.
#[inline(always)]
fn stored<V: Vector, S: Stored>(v: V) {
    for first in (0..=u16::MAX).step_by(LANES) {
        let numbers: [S; LANES] = std::array::from_fn(|i| {
            let bits = first + i as u16;
            let x = match S::STORAGE {
                Storage::F16 => half::f16::from_bits(bits).to_f32_const(),
                _ => half::bf16::from_bits(bits).to_f32_const(),
            };
            S::round(if x.is_nan() { 0.0 } else { x })
        });
        // SAFETY: an array of 16.
        let (widened, expanded) = unsafe { (v.widen_ptr(numbers.as_ptr()), v.expand_ptr(numbers.as_ptr(), 0xf00f)) };
        let wanted = numbers.map(S::widen);
        assert_eq!(v.to_array(widened).map(f32::to_bits), wanted.map(f32::to_bits), "{:?} {first}", S::STORAGE);
        let spread = |i: usize| match i {
            0..4 => wanted[i],
            12..16 => wanted[i - 8],
            _ => 0.0,
        };
        assert_eq!(v.to_array(expanded), std::array::from_fn(spread), "{:?} {first}", S::STORAGE);
    }
}

#[test]
fn every_available_target_obeys_the_laws() {
    for target in Target::available() {
        dispatch(target, Laws);
    }
}

#[test]
fn unknown_and_missing_targets_are_named() {
    assert!(Target::parse("sse9").unwrap_err().to_string().contains("choose from scalar, avx2, avx512"));
    assert_eq!(Target::parse("scalar").unwrap(), Target::scalar());
}
