//! Windows: 16 rows in the lanes, and every look-up of `x` inside registers. The format of few columns.
//!
//! ```text
//! packet     base    where its window of 32 columns begins: at the first column that any of the 16 rows still needs
//!            index   16 lanes × 16 bits: three columns of five bits each, counted from base
//!            values  3 slots × 16 lanes: each row's next nonzeros inside the window, up to three; zeros fill up
//!
//! row 0   a . b . . . c .        slot 0  [a d e …]        rows are sorted by their number of nonzeros, so that
//! row 1   . d . . . . . .        slot 1  [b 0 f …]        the 16 of a group end together
//! row 2   . e . f . g . .        slot 2  [c 0 g …]
//!
//! for packet in group:           window = x[base ..][..32]                 two registers
//!   for slot in 0..3:            acc[lane] += values[slot][lane] * window[index[lane] & 31];   index >>= 5
//! ```
//!
//! A look-up is one permutation of 16 lanes: no gather, which takes a load a lane. Rows advance on their own inside the
//! window, so few slots stay empty: at random places 5, 12, 20, 37 and 54 in 100 at 50, 30, 20, 10 and 5 in 100 nonzeros.
//! A padded slot costs its bytes but no work to unpack, which is best from cache. The *packed* form holds nonzeros only,
//! and a mask a slot that expands them: least bytes, best from memory.

use super::Format;
use super::rows::Rows;
use super::vector::{Lanes, Operand};
use crate::simd::{Buffer, LANES, Vector, WINDOW, prefetch};

/// Slots of a packet: as many columns of five bits as fit in 16.
const SLOTS: usize = 3;

/// How far ahead values are asked for, in bytes: the processor's own prefetching stops at pages.
const AHEAD: usize = 2048;

/// Columns of a packet, by lane; never across cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Index([u16; LANES]);

/// A matrix in windows; `PACKED` leaves out the zeros that fill slots.
#[derive(Debug, Clone)]
pub struct Windowed<const PACKED: bool> {
    rows: usize,
    columns: usize,
    nonzeros: usize,
    /// The rows by falling number of nonzeros.
    order: Vec<u32>,
    /// The first packet and the first value of each group of 16 rows, and the ends.
    starts: Vec<(u32, u32)>,
    base: Vec<u32>,
    index: Vec<Index>,
    /// The lanes of each slot that hold a nonzero; none where slots are padded.
    masks: Vec<[u16; SLOTS]>,
    /// Whole slots, or nonzeros slot by slot and 16 zeros that the last expand may read.
    values: Buffer,
}

impl<const PACKED: bool> Windowed<PACKED> {
    /// Packs `rows`.
    pub fn pack(rows: &Rows) -> Self {
        let (starts_of, columns_of, values_of) = rows.parts();
        let mut order: Vec<u32> = (0..rows.rows() as u32).collect();
        let nonzeros = |row: u32| starts_of[row as usize + 1] - starts_of[row as usize];
        order.sort_by_key(|&row| std::cmp::Reverse(nonzeros(row)));
        let (mut starts, mut base, mut index, mut masks) = (vec![(0, 0)], Vec::new(), Vec::new(), Vec::new());
        let mut values: Vec<f32> = Vec::with_capacity(rows.nnz());
        for group in order.chunks(LANES) {
            // What is left of each row.
            let mut left: Vec<_> =
                group.iter().map(|&row| starts_of[row as usize]..starts_of[row as usize + 1]).collect();
            let first = |left: &std::ops::Range<usize>| left.clone().next().map(|at| columns_of[at]);
            while let Some(from) = left.iter().filter_map(first).min() {
                let (mut lanes, mut mask, mut slots) = ([0u16; LANES], [0u16; SLOTS], [[0.0f32; LANES]; SLOTS]);
                for (lane, left) in left.iter_mut().enumerate() {
                    for slot in 0..SLOTS {
                        let Some(column) = first(left).filter(|column| column - from < WINDOW as u32) else { break };
                        lanes[lane] |= ((column - from) as u16) << (5 * slot);
                        mask[slot] |= 1 << lane;
                        slots[slot][lane] = values_of[left.start];
                        left.start += 1;
                    }
                }
                base.push(from);
                index.push(Index(lanes));
                if PACKED {
                    masks.push(mask);
                    let nonzeros = slots.iter().zip(mask).flat_map(|(slot, mask)| {
                        slot.iter().enumerate().filter(move |(lane, _)| mask >> lane & 1 == 1).map(|(_, value)| *value)
                    });
                    values.extend(nonzeros);
                } else {
                    values.extend(slots.as_flattened());
                }
            }
            starts.push((base.len() as u32, values.len() as u32));
        }
        if PACKED {
            values.extend([0.0; LANES]);
        }
        let values = Buffer::from_slice(&values);
        let (rows, columns, nonzeros) = (rows.rows(), rows.columns(), rows.nnz());
        Windowed { rows, columns, nonzeros, order, starts, base, index, masks, values }
    }
}

impl<const PACKED: bool> Format for Windowed<PACKED> {
    fn name(&self) -> &'static str {
        if PACKED { "stream" } else { "window" }
    }
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }
    fn nbytes(&self) -> usize {
        let packets = self.base.len() * 4 + self.index.len() * size_of::<Index>() + self.masks.len() * 2 * SLOTS;
        packets + self.values.len() * 4 + self.order.len() * 4 + self.starts.len() * 8
    }
    fn stored(&self) -> usize {
        if PACKED { self.nonzeros } else { self.values.len() }
    }
    fn to_dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows * self.columns];
        let mut values = self.values.iter();
        for (group, rows) in self.order.chunks(LANES).enumerate() {
            for packet in self.starts[group].0 as usize..self.starts[group + 1].0 as usize {
                for slot in 0..SLOTS {
                    for lane in 0..LANES {
                        if PACKED && self.masks[packet][slot] >> lane & 1 == 0 {
                            continue;
                        }
                        let value = values.next().copied().unwrap_or(0.0);
                        // Zeros are never stored for themselves.
                        if value != 0.0 {
                            let column = self.base[packet] as usize
                                + (self.index[packet].0[lane] >> (5 * slot)) as usize % WINDOW;
                            dense[rows[lane] as usize * self.columns + column] = value;
                        }
                    }
                }
            }
        }
        dense
    }
}

impl<const PACKED: bool> Lanes for Windowed<PACKED> {
    fn order(&self) -> Option<&[u32]> {
        Some(&self.order)
    }

    #[inline(always)]
    unsafe fn group<V: Vector, const N: usize>(&self, v: V, x: Operand<'_, N>, group: usize) -> [V::F32; N] {
        let ((first, value), (end, _)) = (self.starts[group], self.starts[group + 1]);
        let x: [*const f32; N] = std::array::from_fn(|j| x.vector(j));
        // One accumulator a slot: a packet takes less time than two dependent multiply-adds.
        let mut acc = [[v.splat(0.0); SLOTS]; N];
        // SAFETY: `pack` made base, index and masks one a packet, and as many values as slots or bits, 16 to spare where
        // they are expanded; a base is a column of the matrix, and WINDOW zeros follow the columns in an operand.
        unsafe {
            let mut values = self.values.as_ptr().add(value as usize);
            for packet in first as usize..end as usize {
                let base = *self.base.get_unchecked(packet) as usize;
                let mut windows = [v.window_ptr(x[0].add(base)); N];
                for (window, x) in windows.iter_mut().zip(x).skip(1) {
                    *window = v.window_ptr(x.add(base));
                }
                let mut index = v.index_ptr(self.index.get_unchecked(packet).0.as_ptr());
                for slot in 0..SLOTS {
                    let weights = if PACKED {
                        let mask = self.masks.get_unchecked(packet)[slot];
                        let weights = v.expand_ptr(values, mask);
                        prefetch(values.cast::<u8>().wrapping_add(AHEAD));
                        values = values.add(mask.count_ones() as usize);
                        weights
                    } else {
                        let weights = v.load_ptr(values);
                        values = values.add(LANES);
                        weights
                    };
                    for (acc, window) in acc.iter_mut().zip(windows) {
                        acc[slot] = v.mul_add(weights, v.look_up(window, index), acc[slot]);
                    }
                    index = v.next_index(index);
                }
            }
        }
        let mut out = [v.splat(0.0); N];
        for (out, [a, b, c]) in out.iter_mut().zip(acc) {
            *out = v.add(v.add(a, b), c);
        }
        out
    }
}
