//! Bit-packed masks: one bit a weight, set where the weight is kept.
//!
//! ```text
//! word 0                       word 1
//! bit 0  1  2 … 63             bit 0 …
//!     w0 w1 w2 … w63               w64 …        bits past the last weight are 0, always
//! ```
//!
//! The trailing zeros are what makes `count`, `==` and the set operations plain word loops.

use crate::error::Result;
use crate::simd::WORD;
use crate::{argument, malformed};

/// Which of `len` weights are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    len: usize,
    words: Vec<u64>,
}

impl Mask {
    /// A mask that keeps all or none of `len` weights.
    pub fn filled(len: usize, kept: bool) -> Mask {
        let mut mask = Mask { len, words: vec![if kept { u64::MAX } else { 0 }; len.div_ceil(WORD)] };
        mask.clear_tail();
        mask
    }

    /// The mask with bit i set where `kept[i]`.
    pub fn from_bools(kept: &[bool]) -> Mask {
        let pack = |bits: &[bool]| bits.iter().rev().fold(0, |word, &bit| word << 1 | u64::from(bit));
        Mask { len: kept.len(), words: kept.chunks(WORD).map(pack).collect() }
    }

    /// One bool a weight.
    pub fn to_bools(&self) -> Vec<bool> {
        (0..self.len).map(|i| self.get(i)).collect()
    }

    /// Reads ⌈len / 8⌉ bytes, bit i of the mask being bit i mod 8 of byte i / 8. Refuses a wrong number of bytes and set
    /// bits past the last weight.
    pub fn from_bytes(len: usize, bytes: &[u8]) -> Result<Mask> {
        if bytes.len() != len.div_ceil(8) {
            return Err(malformed!("mask: {len} weights need {} bytes, got {}", len.div_ceil(8), bytes.len()));
        }
        let read = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        };
        let given = Mask { len, words: bytes.chunks(8).map(read).collect() };
        let mut cleared = given.clone();
        cleared.clear_tail();
        if given != cleared {
            return Err(malformed!("mask: bits are set past the last of {len} weights"));
        }
        Ok(given)
    }

    /// The bytes that [`Mask::from_bytes`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.len.div_ceil(8));
        bytes
    }

    /// The number of weights.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no weights at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of kept weights.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether weight `i` is kept; `false` past the end.
    pub fn get(&self, i: usize) -> bool {
        self.words.get(i / WORD).is_some_and(|word| word >> (i % WORD) & 1 == 1)
    }

    /// The positions of the kept weights, ascending.
    pub fn kept(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    at * WORD + bit
                })
            })
        })
    }

    /// Sets every value that is not kept to its type's zero.
    pub fn apply<T: Copy + Default>(&self, values: &mut [T]) -> Result<()> {
        if values.len() != self.len {
            return Err(argument!("mask: has {} weights, the values are {}", self.len, values.len()));
        }
        for (chunk, &word) in values.chunks_mut(WORD).zip(&self.words) {
            if word != u64::MAX {
                for (bit, value) in chunk.iter_mut().enumerate() {
                    *value = if word >> bit & 1 == 1 { *value } else { T::default() };
                }
            }
        }
        Ok(())
    }

    /// Weights kept by both.
    pub fn and(&self, other: &Mask) -> Result<Mask> {
        self.zip(other, |a, b| a & b)
    }

    /// Weights kept by either.
    pub fn or(&self, other: &Mask) -> Result<Mask> {
        self.zip(other, |a, b| a | b)
    }

    /// Weights kept by neither this nor nothing: the complement.
    pub fn not(&self) -> Mask {
        let mut mask = Mask { len: self.len, words: self.words.iter().map(|word| !word).collect() };
        mask.clear_tail();
        mask
    }

    fn zip(&self, other: &Mask, combine: fn(u64, u64) -> u64) -> Result<Mask> {
        if self.len != other.len {
            return Err(argument!("mask: has {} weights, the other {}", self.len, other.len));
        }
        let words = self.words.iter().zip(&other.words).map(|(&a, &b)| combine(a, b)).collect();
        Ok(Mask { len: self.len, words })
    }

    fn clear_tail(&mut self) {
        if let (Some(last), used @ 1..) = (self.words.last_mut(), self.len % WORD) {
            *last &= (1 << used) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_bools(pairs in prop::collection::vec(any::<(bool, bool)>(), 0..300)) {
            let (a, b): (Vec<bool>, Vec<bool>) = pairs.iter().copied().unzip();
            let (x, y) = (Mask::from_bools(&a), Mask::from_bools(&b));
            prop_assert_eq!(x.to_bools(), a.clone());
            prop_assert_eq!(x.count(), a.iter().filter(|&&kept| kept).count());
            prop_assert_eq!(x.kept().collect::<Vec<_>>(), (0..a.len()).filter(|&i| a[i]).collect::<Vec<_>>());
            prop_assert_eq!(Mask::from_bytes(x.len(), &x.to_bytes()).unwrap(), x.clone());
            let each = |f: fn(bool, bool) -> bool| pairs.iter().map(|&(a, b)| f(a, b)).collect::<Vec<_>>();
            prop_assert_eq!(x.and(&y).unwrap().to_bools(), each(|a, b| a & b));
            prop_assert_eq!(x.or(&y).unwrap().to_bools(), each(|a, b| a | b));
            prop_assert_eq!(x.not().to_bools(), each(|a, _| !a));
            prop_assert_eq!(x.not().count() + x.count(), x.len());
            let mut values: Vec<f32> = (0..a.len()).map(|i| i as f32 - 7.0).collect();
            x.apply(&mut values).unwrap();
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!(value.to_bits(), if a[i] { (i as f32 - 7.0).to_bits() } else { 0 });
            }
        }
    }

    #[test]
    fn malformed_bytes_are_refused() {
        for (len, bytes, says) in [
            (9, &[0u8][..], "9 weights need 2 bytes, got 1"),
            (9, &[0, 0, 0], "9 weights need 2 bytes, got 3"),
            (0, &[0], "0 weights need 0 bytes, got 1"),
            (9, &[0, 2], "past the last of 9 weights"),
            (64, &[255; 9], "64 weights need 8 bytes, got 9"),
        ] {
            let error = Mask::from_bytes(len, bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(Mask::from_bytes(9, &[255, 1]).unwrap(), Mask::filled(9, true));
    }

    #[test]
    fn different_lengths_are_refused() {
        let (short, long) = (Mask::filled(3, true), Mask::filled(4, true));
        assert!(short.and(&long).is_err() && short.or(&long).is_err() && short.apply(&mut [1.0; 4]).is_err());
    }
}
