//! Masks as callers hold them, written 64 elements at a time.

use crate::argument;
use crate::error::Result;
use crate::simd::{Vector, WORD};

/// A mask to write.
#[derive(Debug)]
pub enum MaskMut<'a> {
    /// One bool a weight.
    Bools(&'a mut [bool]),
    /// One bit a weight: of weight i bit i mod 8 of byte i / 8. Bits past the last weight are cleared.
    Bits(&'a mut [u8]),
}

impl<'a> MaskMut<'a> {
    /// Refuses a mask that is not one of `len` weights.
    pub(super) fn check(&self, len: usize) -> Result<()> {
        let (unit, found, wanted) = match self {
            MaskMut::Bools(bools) => ("bools", bools.len(), len),
            MaskMut::Bits(bytes) => ("bytes", bytes.len(), len.div_ceil(8)),
        };
        if found == wanted { Ok(()) } else { Err(argument!("masks: {len} weights need {wanted} {unit}, got {found}")) }
    }

    /// Sets all of `len` weights.
    pub(super) fn fill(&mut self, len: usize, kept: bool) {
        match self {
            MaskMut::Bools(bools) => bools.fill(kept),
            MaskMut::Bits(bytes) => {
                bytes.fill(if kept { u8::MAX } else { 0 });
                if let (Some(last), used @ 1..) = (bytes.last_mut(), len % 8) {
                    *last &= (1 << used) - 1;
                }
            }
        }
    }

    /// Pieces of `len` weights, a multiple of 8.
    pub(super) fn pieces(self, len: usize) -> Vec<MaskMut<'a>> {
        match self {
            MaskMut::Bools(bools) => bools.chunks_mut(len).map(MaskMut::Bools).collect(),
            MaskMut::Bits(bytes) => bytes.chunks_mut(len / 8).map(MaskMut::Bits).collect(),
        }
    }

    /// Writes weights `at` and following, `at` a multiple of [`WORD`]: as many as there are, at most a word. Bits of `word` past
    /// the last weight are 0.
    #[inline(always)]
    pub(super) fn write<V: Vector>(&mut self, v: V, at: usize, word: u64) {
        match self {
            MaskMut::Bools(bools) => {
                let (words, tail) = bools[at..].as_chunks_mut::<WORD>();
                match words.first_mut() {
                    Some(to) => v.store_bools(to, word),
                    None => tail.iter_mut().enumerate().for_each(|(i, kept)| *kept = word >> i & 1 == 1),
                }
            }
            MaskMut::Bits(bytes) => {
                let (words, tail) = bytes[at / 8..].as_chunks_mut::<{ WORD / 8 }>();
                match words.first_mut() {
                    Some(to) => *to = word.to_le_bytes(),
                    None => tail.copy_from_slice(&word.to_le_bytes()[..tail.len()]),
                }
            }
        }
    }

    /// Writes weight `i`, which was not kept until now; without a branch, which would often be guessed wrong.
    #[inline]
    pub(super) fn settle(&mut self, i: usize, kept: bool) {
        match self {
            MaskMut::Bools(bools) => bools[i] = kept,
            MaskMut::Bits(bytes) => bytes[i / 8] |= u8::from(kept) << (i % 8),
        }
    }
}
