//! Where the values of a packed matrix come from, to replace them and keep the packing.

use crate::executor::{self, Executor, Sequential};

/// Places filled by one task.
const PIECE: usize = 1 << 15;

/// For every place of something packed, the number of the value that belongs there, from 1 on, or 0 for none.
#[derive(Debug, Clone)]
pub(super) struct Order(Vec<u32>);

impl Order {
    /// The order of what was packed from [`Rows::ordinals`](super::Rows::ordinals).
    pub fn of(packed: &[f32]) -> Order {
        Order(packed.iter().map(|ordinal| ordinal.to_bits()).collect())
    }

    /// The order of something packed from values that were themselves in the order `earlier`.
    pub fn after(&self, earlier: &Order) -> Order {
        Order(self.0.iter().map(|&number| if number == 0 { 0 } else { earlier.0[number as usize - 1] }).collect())
    }

    /// Its memory.
    pub fn nbytes(&self) -> usize {
        self.0.len() * size_of::<u32>()
    }

    /// Puts `values` to their places.
    pub fn fill(&self, executor: &dyn Executor, values: &[f32], places: &mut [f32]) {
        let executor = if places.len() <= PIECE { &Sequential } else { executor };
        executor::for_each_chunk(executor, places, PIECE, &|piece, places| {
            for (to, &number) in places.iter_mut().zip(&self.0[piece * PIECE..]) {
                *to = if number == 0 { 0.0 } else { values[number as usize - 1] };
            }
        });
    }
}
