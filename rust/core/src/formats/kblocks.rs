//! Columns cut into K-blocks, so that the operand rows of a block stay in cache and an index takes 16 bits.

use super::Window;
use std::collections::HashMap;
use std::ops::Range;

/// Where the columns of a matrix meet the operand, and how they are cut.
#[derive(Debug, Clone, PartialEq)]
pub struct KBlocks {
    positions: Vec<u32>,
    blocks: Vec<(Range<usize>, u32)>,
}

impl KBlocks {
    /// Columns of a block whose operand rows, in tiles of so many lines, fill a first-level cache of 32 KiB.
    pub const fn panels(tile_lines: usize) -> usize {
        512 / tile_lines
    }

    /// Columns of a block for convolutions with pixels in the lanes, whose taps share most of their registers.
    pub const PIXELS: usize = 512;

    /// Columns of a block of filters of this density whose operand stays in the first-level cache, in tiles of so many
    /// lines, `lines` a pixel: taps that lie side by side share theirs.
    pub fn filters(window: Window, tile_lines: usize, lines: usize, density: f64) -> usize {
        let (rows, columns) = window.size;
        let pixels = (tile_lines / lines).max(1);
        let taps = if window.stride.1 == 1 { pixels + columns - 1 } else { pixels * columns };
        let lines = rows * taps * lines.min(tile_lines);
        KBlocks::suited(KBlocks::panels(lines), density).max(1) * rows * columns
    }

    /// So many columns or channels, or more of a matrix of this density: where few weights are left, fetching a line again costs
    /// less than beginning a block.
    pub fn suited(columns: usize, density: f64) -> usize {
        match density {
            ..0.03 => columns * 2,
            ..0.09 => columns * 3 / 2,
            _ => columns,
        }
    }

    /// Cuts columns with these positions into runs of at most `most` columns, in any case below 2¹⁶, that span less than
    /// 2¹⁶ positions. A matrix without columns is one empty block, so that bias and activation still happen.
    pub fn new(positions: Vec<u32>, most: usize) -> KBlocks {
        let most = most.min(u16::MAX as usize);
        let mut blocks = Vec::new();
        let (mut start, mut low, mut high) = (0, u32::MAX, 0);
        for (column, &position) in positions.iter().enumerate() {
            let (next_low, next_high) = (low.min(position), high.max(position));
            if column > start && (column - start == most || next_high - next_low > u16::MAX as u32) {
                blocks.push((start..column, low));
                (start, low, high) = (column, position, position);
            } else {
                (low, high) = (next_low, next_high);
            }
        }
        if start < positions.len() || blocks.is_empty() {
            blocks.push((start..positions.len(), if low == u32::MAX { 0 } else { low }));
        }
        // Equal blocks are not worth a second pass: the last may be short.
        KBlocks { positions, blocks }
    }

    /// The number of blocks, at least 1.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Never: there is always a block.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// All columns.
    pub fn total(&self) -> usize {
        self.positions.len()
    }

    /// The columns of the longest block.
    pub fn longest(&self) -> usize {
        self.blocks.iter().map(|(columns, _)| columns.len()).max().unwrap_or(0)
    }

    /// The columns of a block.
    pub fn columns(&self, block: usize) -> Range<usize> {
        self.blocks[block].0.clone()
    }

    /// The first position of a block, which its indices count from.
    pub fn base(&self, block: usize) -> usize {
        self.blocks[block].1 as usize
    }

    /// A column's index in its block.
    pub fn index(&self, block: usize, column: usize) -> u16 {
        (self.positions[column] - self.blocks[block].1) as u16
    }

    /// The column of every index of a block: positions are unique, so an index names its column.
    pub fn columns_by_index(&self, block: usize) -> HashMap<u16, usize> {
        self.columns(block).map(|column| (self.index(block, column), column)).collect()
    }

    /// The largest position; `None` without columns.
    pub fn reach(&self) -> Option<usize> {
        self.positions.iter().max().map(|&position| position as usize)
    }

    /// Memory in bytes.
    pub fn nbytes(&self) -> usize {
        self.positions.len() * size_of::<u32>() + self.blocks.len() * size_of::<(Range<usize>, u32)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_columns_and_indices_fit() {
        for (positions, most) in
            [(vec![], 4), ((0..10).collect::<Vec<u32>>(), 4), (vec![0, 70_000, 70_001, 3, 140_000], 4), (vec![5], 1)]
        {
            let blocks = KBlocks::new(positions.clone(), most);
            let mut next = 0;
            for block in 0..blocks.len() {
                assert_eq!(blocks.columns(block).start, next);
                next = blocks.columns(block).end;
                for column in blocks.columns(block) {
                    assert_eq!(blocks.base(block) + blocks.index(block, column) as usize, positions[column] as usize);
                }
            }
            assert_eq!(next, positions.len());
        }
    }
}
