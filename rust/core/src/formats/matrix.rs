//! A pruned weight matrix that multiplies: [`Rows`] packed for the number of columns it meets.

use super::shared::Shared;
use super::sweep::{self, Geometry, Sweep, panel_width, sweep};
use super::vector;
use super::{Bitmap, Block, Csr, Epilogue, Format, KBlocks, Pack, Pattern, Rows, dense};
use crate::argument;
use crate::error::Result;
use crate::executor::{Executor, Sequential};
use crate::simd::{Buffer, LANES, Target};
use std::sync::{Mutex, OnceLock};

/// The formats that users name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Single weights, row by row.
    Csr,
    /// Single weights, in pairs of rows.
    Pattern,
    /// Blocks of this height; the width only says how the weights were pruned.
    Block {
        /// Rows of a block: 4, 8 or 16.
        height: usize,
    },
    /// Single weights, one bit an element.
    Bitmap,
    /// Every element, through the `gemm` crate.
    Dense,
}

impl Kind {
    /// The names that [`Kind::parse`] knows.
    pub const NAMES: [&'static str; 6] = ["auto", "bitmap", "block", "csr", "dense", "pattern"];
    /// The blocks that [`Kind::parse`] knows, as (rows, columns).
    pub const BLOCKS: [(usize, usize); 4] = [(4, 1), (8, 1), (16, 1), (4, 4)];

    /// The kind of that name; `None` for `auto`.
    pub fn parse(name: &str, block: (usize, usize)) -> Result<Option<Kind>> {
        match name {
            "auto" => Ok(None),
            "csr" => Ok(Some(Kind::Csr)),
            "pattern" => Ok(Some(Kind::Pattern)),
            "bitmap" => Ok(Some(Kind::Bitmap)),
            "dense" => Ok(Some(Kind::Dense)),
            "block" if Kind::BLOCKS.contains(&block) => Ok(Some(Kind::Block { height: block.0 })),
            "block" => Err(argument!("block: {block:?} is not packed; choose from (4, 1), (8, 1), (16, 1), (4, 4)")),
            _ => Err(argument!("format: unknown name {name:?}; choose from {}", Kind::NAMES.join(", "))),
        }
    }

    /// What the nonzeros suggest: blocks where they are full, a bitmap or compressed rows for one column, dense where
    /// too little was removed to win.
    fn of(rows: &Rows, one_column: bool) -> Kind {
        let density = rows.density();
        if density > 0.8 {
            Kind::Dense
        } else if one_column {
            if density > 0.2 { Kind::Bitmap } else { Kind::Csr }
        } else if rows.block_fill(8) > 0.8 {
            Kind::Block { height: 8 }
        } else if rows.block_fill(4) > 0.8 {
            Kind::Block { height: 4 }
        } else {
            Kind::Pattern
        }
    }
}

/// Weights packed for one class of columns.
#[derive(Debug)]
enum Packed {
    Csr(Csr),
    Pattern(Pattern),
    Block8(Block<8>),
    Block4(Block<4>),
    Bitmap(Bitmap),
    Dense(Vec<f32>),
}

impl Packed {
    fn pack(rows: &Rows, kind: Kind, one_column: bool) -> Packed {
        let blocks = || KBlocks::new((0..rows.columns() as u32).collect(), KBlocks::PANELS);
        match kind {
            Kind::Dense => Packed::Dense(rows.to_dense()),
            Kind::Bitmap if one_column => Packed::Bitmap(Bitmap::pack(rows)),
            Kind::Csr | Kind::Pattern | Kind::Block { .. } if one_column => Packed::Csr(Csr::pack_vector(rows)),
            Kind::Csr => Packed::Csr(Csr::pack(rows, blocks())),
            Kind::Pattern | Kind::Bitmap => Packed::Pattern(Pattern::pack(rows, blocks())),
            Kind::Block { height: 4 } => Packed::Block4(Block::pack(rows, blocks())),
            Kind::Block { .. } => Packed::Block8(Block::pack(rows, blocks())),
        }
    }

    fn format(&self) -> Option<&dyn Format> {
        match self {
            Packed::Csr(csr) => Some(csr),
            Packed::Pattern(pattern) => Some(pattern),
            Packed::Block8(block) => Some(block),
            Packed::Block4(block) => Some(block),
            Packed::Bitmap(bitmap) => Some(bitmap),
            Packed::Dense(_) => None,
        }
    }

    fn nbytes(&self) -> usize {
        match self {
            Packed::Dense(dense) => dense.len() * 4,
            _ => self.format().map_or(0, Format::nbytes),
        }
    }

    /// For example `spmm_csr_f32_1x128__avx512`.
    fn kernel(&self, one_column: bool, target: Target) -> String {
        let registers = if target.name() == "avx512" { 32 } else { 8 };
        let tile = |rows: usize, lines: usize| format!("spmm_{}_f32_{rows}x{}", self.name(), lines * LANES);
        let name = match self {
            Packed::Dense(_) => return "gemm_dense_f32".into(),
            _ if one_column => format!("spmv_{}_f32", self.name()),
            Packed::Csr(csr) => tile(1, csr.tile_lines(registers)),
            Packed::Pattern(pattern) => tile(2, pattern.tile_lines(registers)),
            Packed::Block8(block) => tile(8, block.tile_lines(registers)),
            Packed::Block4(block) => tile(4, block.tile_lines(registers)),
            Packed::Bitmap(_) => "spmv_bitmap_f32".into(),
        };
        format!("{name}__{}", target.name())
    }

    fn name(&self) -> &'static str {
        self.format().map_or("dense", Format::name)
    }
}

/// A sparse matrix and the packed forms that its products have asked for so far.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: Rows,
    kind: Option<Kind>,
    target: Target,
    one: OnceLock<Packed>,
    many: OnceLock<Packed>,
    transposed: OnceLock<Box<PackedMatrix>>,
    /// Panels of earlier calls, to be used again.
    spare: Mutex<Vec<Buffer>>,
}

/// Multiply-adds below which a call is not worth waking other threads for: about as long as they take to wake.
const SMALL: usize = 2_000_000;

/// Buffers kept: those of a few threads.
const SPARES: usize = 8;

impl PackedMatrix {
    /// Packs for `columns` columns now, or at first use where `None`; in the format `kind`, or the best guess.
    pub fn new(rows: Rows, kind: Option<Kind>, columns: Option<usize>, target: Target) -> PackedMatrix {
        let matrix = PackedMatrix {
            rows,
            kind,
            target,
            one: OnceLock::new(),
            many: OnceLock::new(),
            transposed: OnceLock::new(),
            spare: Mutex::new(Vec::new()),
        };
        if let Some(columns) = columns {
            matrix.packed(columns == 1);
        }
        matrix
    }

    fn packed(&self, one_column: bool) -> &Packed {
        let slot = if one_column { &self.one } else { &self.many };
        slot.get_or_init(|| {
            let kind = self.kind.unwrap_or_else(|| Kind::of(&self.rows, one_column));
            Packed::pack(&self.rows, kind, one_column)
        })
    }

    /// The nonzeros.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Memory of everything packed so far, the plain rows included.
    pub fn nbytes(&self) -> usize {
        let packed: usize = [&self.one, &self.many].iter().filter_map(|slot| slot.get()).map(Packed::nbytes).sum();
        let plain = self.rows.nnz() * 8 + (self.rows.rows() + 1) * size_of::<usize>();
        plain + packed + self.transposed.get().map_or(0, |transposed| transposed.nbytes())
    }

    /// The format and kernel that a product with `columns` columns runs.
    pub fn kernel(&self, columns: usize) -> (&'static str, String) {
        let packed = self.packed(columns == 1);
        (packed.name(), packed.kernel(columns == 1, self.target))
    }

    /// The matrix transposed, packed the same way; made at first use.
    pub fn transposed(&self) -> &PackedMatrix {
        self.transposed.get_or_init(|| {
            // Columns of blocks are rows of the transposed matrix, where they are single weights.
            let kind = match self.kind {
                Some(Kind::Block { .. }) => Some(Kind::Pattern),
                kind => kind,
            };
            Box::new(PackedMatrix::new(self.rows.transposed(), kind, None, self.target))
        })
    }

    /// `y = activation(W · x + bias)`; `x` is row-major (k, n), `y` row-major (m, n).
    ///
    /// # Errors
    /// Where a slice does not fit the matrix.
    pub fn matmul(
        &self,
        executor: &dyn Executor,
        n: usize,
        x: &[f32],
        y: &mut [f32],
        epilogue: Epilogue<'_>,
    ) -> Result<()> {
        let (m, k) = (self.rows.rows(), self.rows.columns());
        if k.checked_mul(n) != Some(x.len()) {
            return Err(argument!("x: {} values are not {k} x {n}", x.len()));
        }
        if m.checked_mul(n) != Some(y.len()) {
            return Err(argument!("out: {} values are not {m} x {n}", y.len()));
        }
        if let Some(bias) = epilogue.bias.filter(|bias| bias.len() != m) {
            return Err(argument!("bias: {} values for {m} rows", bias.len()));
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        let packed = self.packed(n == 1);
        let executor = if self.rows.nnz() * n < SMALL { &Sequential } else { executor };
        match packed {
            Packed::Csr(csr) if n == 1 => vector::multiply(csr, executor, self.target, x, y, epilogue),
            Packed::Bitmap(bitmap) => vector::multiply(bitmap, executor, self.target, x, y, epilogue),
            Packed::Csr(csr) => self.panels(csr, executor, n, x, y, epilogue),
            Packed::Pattern(pattern) => self.panels(pattern, executor, n, x, y, epilogue),
            Packed::Block8(block) => self.panels(block, executor, n, x, y, epilogue),
            Packed::Block4(block) => self.panels(block, executor, n, x, y, epilogue),
            Packed::Dense(weights) => {
                let view = dense::Matrix::row_major;
                dense::gemm(executor, (m, k, n), view(weights, k), view(x, n), 0.0, y);
                for (row, y) in y.chunks_exact_mut(n).enumerate() {
                    let bias = epilogue.bias.map_or(0.0, |bias| bias[row]);
                    y.iter_mut().for_each(|y| *y = epilogue.activation.of(*y + bias));
                }
            }
        }
        Ok(())
    }

    /// Row-major in and out, panel by panel: the columns' operand and results stay in the second-level cache from the
    /// packing to the storing.
    fn panels<M: Sweep>(
        &self,
        matrix: &M,
        executor: &dyn Executor,
        n: usize,
        x: &[f32],
        y: &mut [f32],
        epilogue: Epilogue<'_>,
    ) {
        let (m, k) = (self.rows.rows(), self.rows.columns());
        let width = panel_width(n, sweep::MAX_PANEL);
        let (geometry, panels) = (Geometry::panel(width), n.div_ceil(width));
        let y = Shared::new(y);
        // Too few panels to go round: the threads share each panel's rows instead.
        let few = panels < 2 * executor.threads();
        let (outer, inner): (&dyn Executor, &dyn Executor) =
            if few { (&Sequential, executor) } else { (executor, &Sequential) };
        outer.run(panels, &|panel| {
            let columns = panel * width..((panel + 1) * width).min(n);
            let (mut operand, mut result) = (self.buffer(k * width), self.buffer(m * width));
            for (row, line) in x.chunks_exact(n).zip(operand.chunks_exact_mut(width)) {
                line[..columns.len()].copy_from_slice(&row[columns.clone()]);
                line[columns.len()..].fill(0.0);
            }
            // Results go through a panel of their own even where whole registers could be stored in place: partial sums
            // of rows that lie a large power of two apart evict each other.
            sweep(matrix, inner, self.target, &geometry, &operand, &mut result, epilogue);
            for (row, line) in result.chunks_exact(width).enumerate() {
                // SAFETY: `matmul` checked that `y` holds m × n; this task alone touches these columns of it.
                let part =
                    unsafe { std::slice::from_raw_parts_mut(y.get().add(row * n + columns.start), columns.len()) };
                part.copy_from_slice(&line[..columns.len()]);
            }
            self.keep(operand);
            self.keep(result);
        });
    }

    fn keep(&self, buffer: Buffer) {
        let mut spare = self.spare.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        spare.truncate(SPARES);
        spare.push(buffer);
    }

    /// A spare buffer of that length, or a new one. Its contents are whatever they were.
    fn buffer(&self, len: usize) -> Buffer {
        let mut spare = self.spare.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match spare.iter().position(|buffer| buffer.len() == len) {
            Some(at) => spare.swap_remove(at),
            None => Buffer::zeroed(len),
        }
    }
}
