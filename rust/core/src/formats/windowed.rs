//! Windows: 16 rows in the lanes, and every look-up of `x` inside registers. The format of few columns.
//!
//! ```text
//! packet     step    to where its window of 32 columns begins: at the first column that any of the 16 rows still needs, or so
//!                    that it ends with the last column
//!            index   16 lanes × 16 bits: three columns of five bits each, counted from the window's first
//!            values  3 slots × 16 lanes: each row's next nonzeros inside the window, up to three; zeros fill up
//!
//! row 0   a . b . . . c .        slot 0  [a d e …]        rows are sorted by their number of nonzeros, so that
//! row 1   . d . . . . . .        slot 1  [b 0 f …]        the 16 of a group end together
//! row 2   . e . f . g . .        slot 2  [c 0 g …]
//!
//! for packet in group:           base += step;  window = x[base ..][..32]      two registers
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
use crate::simd::{Buffer, LANES, Stored, Vector, WINDOW, prefetch};

/// Slots of a packet: as many columns of five bits as fit in 16.
const SLOTS: usize = 3;

/// How far ahead unpadded values are asked for, in bytes: a page, where the processor's own prefetching stops. Padded ones
/// arrive as fast without.
const AHEAD: usize = 4096;

/// What a packet says of its slots, in one stream.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Packet<const MASKS: usize> {
    /// Columns by lane, five bits a slot, counted from the packet's base.
    index: [u16; LANES],
    /// The lanes of each slot that hold a nonzero; none where slots are padded.
    masks: [u16; MASKS],
    /// From the base of the packet before, of the same group, to this one's.
    step: u16,
}

/// A matrix in windows, padded: best from cache.
pub type Padded<S = f32> = Windowed<0, S>;
/// A matrix in windows without the zeros that fill slots: best from memory.
pub type Stream<S = f32> = Windowed<SLOTS, S>;

/// A matrix in windows, with `MASKS` masks a packet: [`Padded`] or [`Stream`].
#[derive(Debug, Clone)]
pub struct Windowed<const MASKS: usize, S: Stored = f32> {
    rows: usize,
    columns: usize,
    nonzeros: usize,
    /// The rows by falling number of nonzeros.
    order: Vec<u32>,
    /// The first packet and the first value of each group of 16 rows, and the ends.
    starts: Vec<(usize, usize)>,
    packets: Vec<Packet<MASKS>>,
    /// Whole slots, or nonzeros slot by slot and 16 zeros that the last expand may read.
    values: Buffer<S>,
}

/// About what [`Padded`] takes with `bytes` a value, nonzeros at random places: 0.93 slots a nonzero and one in 16 elements.
pub fn padded_bytes(rows: &Rows, bytes: usize) -> usize {
    let slots = rows.nnz() * 93 / 100 + rows.rows() * rows.columns() / 16;
    slots * bytes + slots / (SLOTS * LANES) * size_of::<Packet<0>>()
}

impl<const MASKS: usize, S: Stored> Windowed<MASKS, S> {
    /// Whether slots hold nonzeros only.
    const PACKED: bool = MASKS == SLOTS;

    /// Packs `rows`.
    pub fn pack(rows: &Rows) -> Self {
        let (starts_of, columns_of, values_of) = rows.parts();
        let mut order: Vec<u32> = (0..rows.rows() as u32).collect();
        let nonzeros = |row: u32| starts_of[row as usize + 1] - starts_of[row as usize];
        order.sort_by_key(|&row| std::cmp::Reverse(nonzeros(row)));
        let (mut starts, mut packets) = (vec![(0, 0)], Vec::new());
        let mut values: Vec<f32> = Vec::with_capacity(rows.nnz());
        for group in order.chunks(LANES) {
            // What is left of each row.
            let mut left: Vec<_> =
                group.iter().map(|&row| starts_of[row as usize]..starts_of[row as usize + 1]).collect();
            let first = |left: &std::ops::Range<usize>| left.clone().next().map(|at| columns_of[at]);
            let mut base = 0;
            while let Some(needed) = left.iter().filter_map(first).min() {
                let from = needed.min(rows.columns().saturating_sub(WINDOW) as u32);
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
                // Packets without nonzeros lead over gaps that a step cannot.
                while from - base > u16::MAX as u32 {
                    packets.push(Packet { index: [0; LANES], masks: [0; MASKS], step: u16::MAX });
                    values.extend([0.0; SLOTS * LANES].iter().filter(|_| !Self::PACKED));
                    base += u16::MAX as u32;
                }
                let masks = std::array::from_fn(|slot| mask[slot]);
                packets.push(Packet { index: lanes, masks, step: (from - base) as u16 });
                base = from;
                for (slot, mask) in slots.iter().zip(mask) {
                    let held = |lane: usize| !Self::PACKED || mask >> lane & 1 == 1;
                    values.extend(slot.iter().enumerate().filter(|&(lane, _)| held(lane)).map(|(_, value)| value));
                }
            }
            starts.push((packets.len(), values.len()));
        }
        if Self::PACKED {
            values.extend([0.0; LANES]);
        }
        let values = Buffer::rounded(&values);
        let (rows, columns, nonzeros) = (rows.rows(), rows.columns(), rows.nnz());
        Windowed { rows, columns, nonzeros, order, starts, packets, values }
    }
}

impl<const MASKS: usize, S: Stored> Format for Windowed<MASKS, S> {
    fn name(&self) -> &'static str {
        if Self::PACKED { "stream" } else { "window" }
    }
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }
    fn nbytes(&self) -> usize {
        self.packets.len() * size_of::<Packet<MASKS>>()
            + self.values.nbytes()
            + self.order.len() * 4
            + self.starts.len() * 16
    }
    fn stored(&self) -> usize {
        if Self::PACKED { self.nonzeros } else { self.values.len() }
    }
    fn to_dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows * self.columns];
        let mut values = self.values.iter();
        for (group, rows) in self.order.chunks(LANES).enumerate() {
            let mut base = 0;
            for packet in &self.packets[self.starts[group].0..self.starts[group + 1].0] {
                base += packet.step as usize;
                for slot in 0..SLOTS {
                    for lane in 0..LANES {
                        if Self::PACKED && packet.masks[slot] >> lane & 1 == 0 {
                            continue;
                        }
                        let value = values.next().map_or(0.0, |value| value.widen());
                        // Zeros are never stored for themselves.
                        if value != 0.0 {
                            let column = base + (packet.index[lane] >> (5 * slot)) as usize % WINDOW;
                            dense[rows[lane] as usize * self.columns + column] = value;
                        }
                    }
                }
            }
        }
        dense
    }
}

impl<const MASKS: usize, S: Stored> Lanes for Windowed<MASKS, S> {
    fn reads_behind(&self) -> bool {
        self.columns < WINDOW
    }

    fn order(&self) -> Option<&[u32]> {
        Some(&self.order)
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "iterators over registers may stay calls, which spill them")]
    unsafe fn group<V: Vector, const N: usize>(&self, v: V, x: Operand<'_, N>, group: usize) -> [V::F32; N] {
        let ((first, value), (end, _)) = (self.starts[group], self.starts[group + 1]);
        let x: [*const f32; N] = std::array::from_fn(|j| x.vector(j));
        // One accumulator a slot: a packet takes less time than two dependent multiply-adds.
        let mut acc = [[v.splat(0.0); SLOTS]; N];
        // SAFETY: `pack` made as many values as slots or bits, 16 to spare where they are expanded; a sum of steps and
        // WINDOW are at most the columns of an operand, or the columns and the zeros behind them where those are fewer.
        unsafe {
            let mut values = self.values.as_ptr().add(value);
            let mut base = 0;
            for packet in self.packets.get_unchecked(first..end) {
                base += packet.step as usize;
                let mut window = [v.window_ptr(x[0].add(base)); N];
                for j in 1..N {
                    window[j] = v.window_ptr(x[j].add(base));
                }
                let mut index = v.index_ptr(packet.index.as_ptr());
                for slot in 0..SLOTS {
                    let weights = if Self::PACKED {
                        let mask = packet.masks[slot];
                        prefetch(values.cast::<u8>().wrapping_add(AHEAD));
                        let weights = v.expand_ptr(values, mask);
                        values = values.add(mask.count_ones() as usize);
                        weights
                    } else {
                        let weights = v.widen_ptr(values);
                        values = values.add(LANES);
                        weights
                    };
                    for j in 0..N {
                        acc[j][slot] = v.mul_add(weights, v.look_up(window[j], index), acc[j][slot]);
                    }
                    index = v.next_index::<5>(index);
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
