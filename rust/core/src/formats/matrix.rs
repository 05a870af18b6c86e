//! A pruned weight matrix that multiplies: [`Rows`] packed for the number of columns it meets.

use super::panels::{self, Spare};
use super::sweep::{Sweep, kernel_name};
use super::vector::{Few, Strides};
use super::{Bitmap, Block, Csr, Epilogue, Format, KBlocks, Pack, Padded, Pattern, Rows, Stream, dense, sddmm};
use crate::argument;
use crate::error::Result;
use crate::executor::{Executor, Sequential};
use crate::simd::Target;
use std::sync::OnceLock;

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
    /// Single weights, one bit an element; pattern for many columns.
    Bitmap,
    /// Single weights looked up in registers, slots padded; pattern for many columns.
    Window,
    /// The same without padding: fewer bytes, more work; pattern for many columns.
    Stream,
    /// Every element, through the `gemm` crate.
    Dense,
}

impl Kind {
    /// The names that [`Kind::parse`] knows.
    pub const NAMES: [&'static str; 8] = ["auto", "bitmap", "block", "csr", "dense", "pattern", "stream", "window"];
    /// The blocks that [`Kind::parse`] knows, as (rows, columns).
    pub const BLOCKS: [(usize, usize); 4] = [(4, 1), (8, 1), (16, 1), (4, 4)];

    /// The kind of that name; `None` for `auto`.
    pub fn parse(name: &str, block: (usize, usize)) -> Result<Option<Kind>> {
        match name {
            "auto" => Ok(None),
            "csr" => Ok(Some(Kind::Csr)),
            "pattern" => Ok(Some(Kind::Pattern)),
            "bitmap" => Ok(Some(Kind::Bitmap)),
            "stream" => Ok(Some(Kind::Stream)),
            "window" => Ok(Some(Kind::Window)),
            "dense" => Ok(Some(Kind::Dense)),
            "block" if Kind::BLOCKS.contains(&block) => Ok(Some(Kind::Block { height: block.0 })),
            "block" => Err(argument!("block: {block:?} is not packed; choose from (4, 1), (8, 1), (16, 1), (4, 4)")),
            _ => Err(argument!("format: unknown name {name:?}; choose from {}", Kind::NAMES.join(", "))),
        }
    }

    /// What the nonzeros suggest: blocks where they are full, dense where too little was removed to win, else single
    /// weights.
    pub(super) fn of(rows: &Rows, few: bool, target: Target) -> Kind {
        if few {
            return Kind::of_few(rows, target);
        }
        if rows.density() > 0.8 {
            Kind::Dense
        } else if rows.block_fill(8) > 0.8 {
            Kind::Block { height: 8 }
        } else if rows.block_fill(4) > 0.8 {
            Kind::Block { height: 4 }
        } else {
            Kind::Pattern
        }
    }

    /// For few columns: windows where weights come from cache, the fewest bytes where they come from memory. The switch
    /// points are those of one column on Zen 4, against dense weights.
    fn of_few(rows: &Rows, target: Target) -> Kind {
        let density = rows.density();
        // Padding grows what windows read as the density falls.
        let cached = rows.nnz() * 4 < if density > 0.25 { CACHE } else { CACHE / 4 };
        let (dense, bitmap, stream) = match (target.name(), cached) {
            ("avx512", true) => (0.65, 1.0, 0.0),
            ("avx512", false) => (0.8, 0.25, 0.25),
            // Expanding takes AVX2 too long for a bitmap, and a look-up as long as five of AVX-512.
            ("avx2", true) => (0.27, 1.0, 0.0),
            ("avx2", false) => (0.6, 1.0, 0.3),
            _ => return if density > 0.8 { Kind::Dense } else { Kind::Csr },
        };
        if density > 0.8 {
            Kind::Dense
        } else if rows.block_fill(16) > 0.8 {
            Kind::Block { height: 16 }
        } else if rows.block_fill(8) > 0.8 {
            Kind::Block { height: 8 }
        } else if density < 0.25 && rows.block_fill(4) > 0.8 {
            Kind::Block { height: 4 }
        } else if density > dense {
            Kind::Dense
        } else if density > bitmap {
            Kind::Bitmap
        } else if density < stream {
            Kind::Stream
        } else {
            Kind::Window
        }
    }
}

/// Whether `columns` are few: taken a few at a time, in a kernel of their own, rather than in panels of 16. Measured: below
/// these a panel costs more.
fn are_few(kind: Option<Kind>, columns: usize) -> bool {
    let most = match kind {
        Some(Kind::Dense) => 1,
        Some(Kind::Csr) => 3,
        Some(Kind::Bitmap) => 4,
        Some(Kind::Block { .. }) => 6,
        Some(Kind::Pattern | Kind::Window | Kind::Stream) | None => 8,
    };
    columns <= most
}

/// Bytes of values that one core may hope to find in its share of the last cache.
const CACHE: usize = 16 << 20;

/// Weights packed for one class of columns.
#[derive(Debug)]
enum Packed {
    Csr(Csr),
    Pattern(Pattern),
    Block8(Block<8>),
    Block4(Block<4>),
    Few(Box<dyn Few>),
    Dense(Vec<f32>),
}

/// Packs for panels as wide as the format's tile.
fn pack<M: Pack + Sweep>(rows: &Rows, target: Target) -> M {
    let positions = (0..rows.columns() as u32).collect();
    M::pack(rows, KBlocks::new(positions, KBlocks::panels(M::tile_lines(target.registers()))))
}

impl Packed {
    fn pack(rows: &Rows, kind: Kind, few: bool, target: Target) -> Packed {
        if few {
            return match kind {
                Kind::Dense => Packed::Dense(rows.to_dense()),
                Kind::Bitmap => Packed::Few(Box::new(Bitmap::pack(rows))),
                Kind::Window | Kind::Pattern => Packed::Few(Box::new(Padded::pack(rows))),
                Kind::Stream => Packed::Few(Box::new(Stream::pack(rows))),
                Kind::Csr => Packed::Few(Box::new(Csr::pack_vector(rows))),
                Kind::Block { height: 4 } => Packed::Few(Box::new(Block::<4>::pack_vector(rows))),
                Kind::Block { height: 16 } => Packed::Few(Box::new(Block::<16>::pack_vector(rows))),
                Kind::Block { .. } => Packed::Few(Box::new(Block::<8>::pack_vector(rows))),
            };
        }
        match kind {
            Kind::Dense => Packed::Dense(rows.to_dense()),
            Kind::Csr => Packed::Csr(pack(rows, target)),
            Kind::Pattern | Kind::Bitmap | Kind::Window | Kind::Stream => Packed::Pattern(pack(rows, target)),
            Kind::Block { height: 4 } => Packed::Block4(pack(rows, target)),
            Kind::Block { .. } => Packed::Block8(pack(rows, target)),
        }
    }

    fn format(&self) -> Option<&dyn Format> {
        match self {
            Packed::Csr(csr) => Some(csr),
            Packed::Pattern(pattern) => Some(pattern),
            Packed::Block8(block) => Some(block),
            Packed::Block4(block) => Some(block),
            Packed::Few(few) => Some(&**few as &dyn Format),
            Packed::Dense(_) => None,
        }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Packed::Csr(csr) => csr.values_mut(),
            Packed::Pattern(pattern) => pattern.values_mut(),
            Packed::Block8(block) => block.values_mut(),
            Packed::Block4(block) => block.values_mut(),
            Packed::Few(_) => &mut [],
            Packed::Dense(dense) => dense,
        }
    }

    fn nbytes(&self) -> usize {
        match self {
            Packed::Dense(dense) => dense.len() * 4,
            _ => self.format().map_or(0, Format::nbytes),
        }
    }

    /// For example `spmm_csr_f32_1x128__avx512`.
    fn kernel(&self, target: Target) -> String {
        match self {
            Packed::Dense(_) => "gemm_dense_f32".into(),
            Packed::Few(few) => format!("spmv_{}_f32__{}", few.name(), target.name()),
            Packed::Csr(_) => kernel_name::<Csr>(self.name(), target),
            Packed::Pattern(_) => kernel_name::<Pattern>(self.name(), target),
            Packed::Block8(_) => kernel_name::<Block<8>>(self.name(), target),
            Packed::Block4(_) => kernel_name::<Block<4>>(self.name(), target),
        }
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
    few: OnceLock<Packed>,
    many: OnceLock<Packed>,
    transposed: OnceLock<Box<PackedMatrix>>,
    /// Where the values of `many` come from, and those of `transposed`, once they had to be replaced.
    many_order: Option<Vec<u32>>,
    transposed_order: Option<Vec<u32>>,
    spare: Spare,
}

/// Multiply-adds below which a call is not worth waking other threads for: about as long as they take to wake.
pub(super) const SMALL: usize = 2_000_000;

impl PackedMatrix {
    /// Packs for `columns` columns now, or at first use where `None`; in the format `kind`, or the best guess.
    pub fn new(rows: Rows, kind: Option<Kind>, columns: Option<usize>, target: Target) -> PackedMatrix {
        let matrix = PackedMatrix {
            rows,
            kind,
            target,
            few: OnceLock::new(),
            many: OnceLock::new(),
            transposed: OnceLock::new(),
            many_order: None,
            transposed_order: None,
            spare: Spare::default(),
        };
        if let Some(columns) = columns {
            matrix.packed(columns);
        }
        matrix
    }

    fn packed(&self, columns: usize) -> &Packed {
        let few = are_few(self.kind, columns);
        let slot = if few { &self.few } else { &self.many };
        slot.get_or_init(|| {
            let kind = self.kind.unwrap_or_else(|| Kind::of(&self.rows, few, self.target));
            Packed::pack(&self.rows, kind, few, self.target)
        })
    }

    /// The nonzeros.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Memory of everything packed so far, the plain rows included.
    pub fn nbytes(&self) -> usize {
        let packed: usize = [&self.few, &self.many].iter().filter_map(|slot| slot.get()).map(Packed::nbytes).sum();
        let plain = self.rows.nnz() * 8 + (self.rows.rows() + 1) * size_of::<usize>();
        plain + packed + self.transposed.get().map_or(0, |transposed| transposed.nbytes())
    }

    /// The format and kernel that a product with `columns` columns runs.
    pub fn kernel(&self, columns: usize) -> (&'static str, String) {
        let packed = self.packed(columns);
        (packed.name(), packed.kernel(self.target))
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

    /// Replaces the values, in the order of [`Rows::parts`]: the structure stays, and so does the packing for many columns,
    /// the transposed matrix included. Where values go is worked out at the first call. Packed for few columns, the matrix is
    /// packed anew at its next use.
    ///
    /// # Errors
    /// Where there is not one value a nonzero.
    pub fn update(&mut self, values: &[f32]) -> Result<()> {
        if values.len() != self.rows.nnz() {
            return Err(argument!("values: {} for {} nonzeros", values.len(), self.rows.nnz()));
        }
        self.rows.values_mut().copy_from_slice(values);
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        self.few.take();
        if let Some(packed) = self.many.get_mut() {
            let order = self.many_order.get_or_insert_with(|| {
                let kind = self.kind.unwrap_or_else(|| Kind::of(&self.rows, false, self.target));
                bits(Packed::pack(&self.rows.ordinals(), kind, false, self.target).values_mut())
            });
            for (to, &from) in packed.values_mut().iter_mut().zip(&*order) {
                *to = if from == 0 { 0.0 } else { values[from as usize - 1] };
            }
        }
        if let Some(transposed) = self.transposed.get_mut() {
            let order =
                self.transposed_order.get_or_insert_with(|| bits(self.rows.ordinals().transposed().values_mut()));
            transposed.update(&order.iter().map(|&from| values[from as usize - 1]).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// `dY[i] · X[j]` for every nonzero (i, j), in the order of [`Rows::parts`]: the gradient of the values, where `y = W · x`.
    /// `dy` is row-major (m, n), `x` row-major (k, n).
    ///
    /// # Errors
    /// Where a slice does not fit the matrix.
    pub fn sddmm(&self, executor: &dyn Executor, n: usize, dy: &[f32], x: &[f32], values: &mut [f32]) -> Result<()> {
        let (m, k) = (self.rows.rows(), self.rows.columns());
        for (name, len, rows) in [("dy", dy.len(), m), ("x", x.len(), k)] {
            if rows.checked_mul(n) != Some(len) {
                return Err(argument!("{name}: {len} values are not {rows} x {n}"));
            }
        }
        if values.len() != self.rows.nnz() {
            return Err(argument!("out: {} values for {} nonzeros", values.len(), self.rows.nnz()));
        }
        let executor = if self.rows.nnz() * n < SMALL { &Sequential } else { executor };
        sddmm(&self.rows, executor, self.target, n, dy, x, values);
        Ok(())
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
        let packed = self.packed(n);
        let executor = if self.rows.nnz() * n < SMALL { &Sequential } else { executor };
        match packed {
            Packed::Few(few) => {
                let columns = Strides::columns(n);
                few.multiply(executor, self.target, n, (x, columns), (y, columns), epilogue);
            }
            Packed::Csr(csr) => panels::multiply(csr, executor, self.target, &self.spare, n, x, y, epilogue),
            Packed::Pattern(pattern) => {
                panels::multiply(pattern, executor, self.target, &self.spare, n, x, y, epilogue)
            }
            Packed::Block8(block) => panels::multiply(block, executor, self.target, &self.spare, n, x, y, epilogue),
            Packed::Block4(block) => panels::multiply(block, executor, self.target, &self.spare, n, x, y, epilogue),
            Packed::Dense(weights) => {
                let view = dense::Matrix::row_major;
                dense::gemm(executor, (m, k, n), view(weights, k), view(x, n), 0.0, y);
                epilogue.of_rows(y, n);
            }
        }
        Ok(())
    }
}
