//! A pruned weight matrix that multiplies: [`Rows`] packed for the number of columns it meets.

use super::order::Order;
use super::panels::{self, Spare};
use super::sweep::{Sweep, panel_kernel};
use super::vector::{Few, Strides};
use super::windowed::padded_bytes;
use super::{Bitmap, Block, Csr, Epilogue, Format, KBlocks, Pack, Padded, Pattern, Quads, Rows, Stream, dense, nm};
use crate::argument;
use crate::error::Result;
use crate::executor::{Executor, Sequential};
use crate::simd::{Storage, Stored, Target};
use half::{bf16, f16};
use std::borrow::Cow;
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
    /// Single weights, at most N in every M columns of a row: 1:4, 2:4 or 4:8, the tightest that fits. Blocks where
    /// neighbouring rows share their places, else pattern for many columns.
    Nm,
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
    pub const NAMES: [&'static str; 9] =
        ["auto", "bitmap", "block", "csr", "dense", "nm", "pattern", "stream", "window"];
    /// The blocks that [`Kind::parse`] knows, as (rows, columns).
    pub const BLOCKS: [(usize, usize); 4] = [(4, 1), (8, 1), (16, 1), (4, 4)];

    /// The kind of that name; `None` for `auto`.
    pub fn parse(name: &str, block: (usize, usize)) -> Result<Option<Kind>> {
        match name {
            "auto" => Ok(None),
            "csr" => Ok(Some(Kind::Csr)),
            "pattern" => Ok(Some(Kind::Pattern)),
            "bitmap" => Ok(Some(Kind::Bitmap)),
            "nm" => Ok(Some(Kind::Nm)),
            "stream" => Ok(Some(Kind::Stream)),
            "window" => Ok(Some(Kind::Window)),
            "dense" => Ok(Some(Kind::Dense)),
            "block" if Kind::BLOCKS.contains(&block) => Ok(Some(Kind::Block { height: block.0 })),
            "block" => Err(argument!("block: {block:?} is not packed; choose from (4, 1), (8, 1), (16, 1), (4, 4)")),
            _ => Err(argument!("format: unknown name {name:?}; choose from {}", Kind::NAMES.join(", "))),
        }
    }

    /// The form that `kind` takes for these nonzeros; `None` leaves it to them.
    fn form(kind: Option<Kind>, rows: &Rows, few: bool, target: Target, storage: Storage) -> Kind {
        match kind {
            None if few => Kind::of_few(rows, target, storage),
            None => Kind::of(rows),
            Some(Kind::Nm) => Kind::of_shared(rows).unwrap_or(Kind::Nm),
            Some(kind) => kind,
        }
    }

    /// Blocks where 16 or 8 neighbouring rows share the places of their nonzeros.
    fn of_shared(rows: &Rows) -> Option<Kind> {
        [16, 8].into_iter().find(|&height| rows.block_fill(height) > 0.8).map(|height| Kind::Block { height })
    }

    /// What the nonzeros suggest: blocks where they are full, dense where too little was removed to win, else single
    /// weights.
    pub(super) fn of(rows: &Rows) -> Kind {
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

    /// For few columns.
    fn of_few(rows: &Rows, target: Target, storage: Storage) -> Kind {
        match Kind::fastest_few(rows, target, storage.bytes()) {
            kind if kind.stores(storage) => kind,
            // Every column of 16 rows: what is dense in that storage.
            Kind::Dense => Kind::Block { height: 16 },
            _ => Kind::Window,
        }
    }

    /// Windows where weights come from cache, the fewest bytes where they come from memory, N:M patterns in both. The
    /// switch points are those of one column on Zen 4, against dense weights.
    fn fastest_few(rows: &Rows, target: Target, bytes: usize) -> Kind {
        let density = rows.density();
        let pattern = nm::fitting(rows);
        // Where the density is low most of what windows read is padding: they lose earlier.
        let cached = padded_bytes(rows, bytes) < if density > 0.25 { CACHE } else { CACHE / 2 };
        let (dense, bitmap, stream) = match (target.name(), cached) {
            ("avx512", true) => (0.65, 1.0, 0.0),
            // Expanding takes its time however few bytes arrive.
            ("avx512", false) if bytes < 4 => (0.8, 0.4, 0.4),
            ("avx512", false) => (0.8, 0.25, 0.25),
            // Expanding takes AVX2 too long for a bitmap, and a look-up as long as five of AVX-512.
            ("avx2", true) => (0.27, 1.0, 0.0),
            ("avx2", false) => (0.6, 1.0, 0.3),
            _ => return if density > 0.8 { Kind::Dense } else { Kind::Csr },
        };
        // A bitmap of 4:8 takes fewer bytes than its places.
        let pattern = pattern.filter(|&pattern| cached || pattern != (4, 8) || target.name() != "avx512");
        if density > 0.8 {
            Kind::Dense
        } else if let Some(blocks) = Kind::of_shared(rows) {
            blocks
        } else if density < 0.25 && rows.block_fill(4) > 0.8 {
            Kind::Block { height: 4 }
        } else if pattern.is_some_and(|(n, m)| density * m as f64 > 0.8 * n as f64) {
            Kind::Nm
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

impl Kind {
    /// Whether the format has its values in that storage where columns are few.
    fn stores(self, storage: Storage) -> bool {
        storage == Storage::F32 || !matches!(self, Kind::Csr | Kind::Dense)
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
        Some(Kind::Pattern | Kind::Nm | Kind::Window | Kind::Stream) | None => 8,
    };
    columns <= most
}

/// Bytes of windows that one core may hope to find in its share of the last cache.
const CACHE: usize = 14 << 20;

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
    M::pack(rows, KBlocks::new(positions, M::panel_columns(target.registers(), rows.density())))
}

impl Packed {
    /// For few columns.
    fn few<S: Stored>(rows: &Rows, kind: Kind) -> Packed {
        Packed::Few(match kind {
            Kind::Dense => return Packed::Dense(rows.to_dense()),
            Kind::Csr => Box::new(Csr::pack_vector(rows)),
            Kind::Bitmap => Box::new(Bitmap::<S>::pack(rows)),
            // `PackedMatrix::new` has refused what does not fit.
            Kind::Nm => nm::pack::<S>(rows).unwrap_or_else(|| Box::new(Padded::<S>::pack(rows))),
            Kind::Window | Kind::Pattern => Box::new(Padded::<S>::pack(rows)),
            Kind::Stream => Box::new(Stream::<S>::pack(rows)),
            Kind::Block { height: 4 } => Box::new(Block::<4, S>::pack_vector(rows)),
            Kind::Block { height: 16 } => Box::new(Block::<16, S>::pack_vector(rows)),
            Kind::Block { .. } => Box::new(Block::<8, S>::pack_vector(rows)),
        })
    }

    /// For many columns.
    fn many(rows: &Rows, kind: Kind, target: Target) -> Packed {
        match kind {
            Kind::Dense => Packed::Dense(rows.to_dense()),
            Kind::Csr => Packed::Csr(pack(rows, target)),
            Kind::Pattern | Kind::Nm | Kind::Bitmap | Kind::Window | Kind::Stream => {
                Packed::Pattern(pack(rows, target))
            }
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
    fn kernel(&self, target: Target, storage: Storage) -> String {
        match self {
            Packed::Dense(_) => "gemm_dense_f32".into(),
            Packed::Few(few) => format!("spmv_{}_{}__{}", few.name(), storage.name(), target.name()),
            Packed::Csr(csr) => panel_kernel(csr, self.name(), target),
            Packed::Pattern(pattern) => panel_kernel(pattern, self.name(), target),
            Packed::Block8(block) => panel_kernel(block, self.name(), target),
            Packed::Block4(block) => panel_kernel(block, self.name(), target),
        }
    }

    fn name(&self) -> &'static str {
        self.format().map_or("dense", Format::name)
    }
}

/// Weights packed for many columns, and where their values come from, if these are going to be replaced.
#[derive(Debug)]
struct Many {
    packed: Packed,
    order: Option<Order>,
}

/// A sparse matrix and the packed forms that its products have asked for so far.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: Rows,
    kind: Option<Kind>,
    target: Target,
    storage: Storage,
    few: OnceLock<Packed>,
    many: OnceLock<Many>,
    transposed: OnceLock<Box<PackedMatrix>>,
    quads: OnceLock<Quads>,
    /// Whether values have been replaced: whatever is packed from then on keeps its order.
    updated: bool,
    /// As the transposed matrix of an updated one: where its values come from among those given there.
    source: Option<Order>,
    /// The values given there last; and the nonzeros with these, once somebody asked.
    late: Option<(Vec<f32>, OnceLock<Rows>)>,
    spare: Spare,
}

/// Multiply-adds below which a call is not worth waking other threads for: about as long as they take to wake.
pub(super) const SMALL: usize = 2_000_000;

impl PackedMatrix {
    /// Packs for `columns` columns now, or at first use where `None`; in the format `kind`, or the best guess. The weights
    /// are rounded to `storage`, which is how they lie in memory where columns are few.
    ///
    /// # Errors
    /// Where the nonzeros do not fit the format, or the format or a weight the storage.
    pub fn new(
        rows: Rows,
        kind: Option<Kind>,
        columns: Option<usize>,
        target: Target,
        storage: Storage,
    ) -> Result<PackedMatrix> {
        if kind.is_some_and(|kind| !kind.stores(storage)) {
            return Err(argument!(
                "format, storage: \"csr\" and \"dense\" hold f32; for {:?} choose another format",
                storage.name()
            ));
        }
        let rows = rows.rounded(storage)?;
        if kind == Some(Kind::Nm) && nm::fitting(&rows).is_none() {
            let patterns = nm::PATTERNS.map(|(n, m)| format!("{n}:{m}")).join(", ");
            return Err(argument!(
                "format: \"nm\" is for N nonzeros in M columns of every row, N:M of {patterns}; these weights have more"
            ));
        }
        let matrix = PackedMatrix::unpacked(rows, kind, target, storage);
        if let Some(columns) = columns {
            matrix.packed(columns);
        }
        Ok(matrix)
    }

    fn unpacked(rows: Rows, kind: Option<Kind>, target: Target, storage: Storage) -> PackedMatrix {
        PackedMatrix {
            rows,
            kind,
            target,
            storage,
            few: OnceLock::new(),
            many: OnceLock::new(),
            transposed: OnceLock::new(),
            quads: OnceLock::new(),
            updated: false,
            source: None,
            late: None,
            spare: Spare::default(),
        }
    }

    fn packed(&self, columns: usize) -> &Packed {
        if !are_few(self.kind, columns) {
            return &self.many.get_or_init(|| self.pack_many()).packed;
        }
        self.few.get_or_init(|| {
            let kind = Kind::form(self.kind, &self.rows, true, self.target, self.storage);
            match self.storage {
                Storage::F32 => Packed::few::<f32>(self.rows(), kind),
                Storage::Bf16 => Packed::few::<bf16>(self.rows(), kind),
                Storage::F16 => Packed::few::<f16>(self.rows(), kind),
            }
        })
    }

    fn pack_many(&self) -> Many {
        let kind = Kind::form(self.kind, &self.rows, false, self.target, self.storage);
        if !self.updated {
            return Many { packed: Packed::many(self.rows(), kind, self.target), order: None };
        }
        let mut packed = Packed::many(&self.rows.ordinals(), kind, self.target);
        let order = Order::of(packed.values_mut());
        order.fill(&Sequential, self.rows().parts().2, packed.values_mut());
        Many { packed, order: Some(self.traced(order)) }
    }

    /// How the values lie in memory where columns are few.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The nonzeros.
    pub fn rows(&self) -> &Rows {
        let (Some((values, rows)), Some(order)) = (&self.late, &self.source) else { return &self.rows };
        rows.get_or_init(|| {
            let mut rows = self.rows.clone();
            order.fill(&Sequential, values, rows.values_mut());
            rows
        })
    }

    /// Memory of everything packed so far, the plain rows included.
    pub fn nbytes(&self) -> usize {
        let packed = self.few.get().map_or(0, Packed::nbytes)
            + self.many.get().map_or(0, |many| many.packed.nbytes() + many.order.as_ref().map_or(0, Order::nbytes));
        let plain = self.rows.nnz() * 8 + (self.rows.rows() + 1) * size_of::<usize>();
        let quads = self.quads.get().map_or(0, Quads::nbytes);
        plain + packed + quads + self.transposed.get().map_or(0, |transposed| transposed.nbytes())
    }

    /// The format and kernel that a product with `columns` columns runs.
    pub fn kernel(&self, columns: usize) -> (&'static str, String) {
        let packed = self.packed(columns);
        (packed.name(), packed.kernel(self.target, self.storage))
    }

    /// The matrix transposed, packed the same way; made at first use.
    pub fn transposed(&self) -> &PackedMatrix {
        self.transposed.get_or_init(|| {
            // Columns of blocks are rows of the transposed matrix, where they are single weights; so are those of N:M.
            let kind = match self.kind {
                Some(Kind::Block { .. } | Kind::Nm) => Some(Kind::Pattern),
                kind => kind,
            };
            let mut transposed = PackedMatrix::unpacked(self.rows().transposed(), kind, self.target, self.storage);
            transposed.updated = self.updated;
            transposed.source = self.updated.then(|| self.order_across());
            Box::new(transposed)
        })
    }

    /// Where the values of the transposed matrix come from, among those given to [`Self::update`].
    fn order_across(&self) -> Order {
        self.traced(Order::of(self.rows.ordinals().transposed().values_mut()))
    }

    /// From an order of the own values that of the values given to [`Self::update`], perhaps of the matrix that this is the
    /// transposed of.
    fn traced(&self, order: Order) -> Order {
        match &self.source {
            Some(source) => order.after(source),
            None => order,
        }
    }

    /// Replaces the values, in the order of [`Rows::parts`]: the structure stays, and so does the packing for many columns,
    /// the transposed matrix included, once it was packed after the first call: that is when it is known that the order of
    /// values is worth keeping. Packed for few columns, the matrix is packed anew at its next use. Values are rounded to the
    /// storage.
    ///
    /// # Errors
    /// Where there is not one value a nonzero, or one does not fit the storage.
    pub fn update(&mut self, executor: &dyn Executor, values: &[f32]) -> Result<()> {
        if values.len() != self.rows.nnz() {
            return Err(argument!("values: {} for {} nonzeros", values.len(), self.rows.nnz()));
        }
        let mut values = Cow::Borrowed(values);
        if self.storage != Storage::F32 {
            self.storage.round("values", values.to_mut())?;
        }
        self.rows.values_mut().copy_from_slice(&values);
        self.replace(executor, &values);
        Ok(())
    }

    /// Brings what is packed up to date, here and in the transposed matrix.
    fn replace(&mut self, executor: &dyn Executor, values: &[f32]) {
        self.updated = true;
        self.few.take();
        match self.many.get_mut() {
            Some(Many { packed, order: Some(order) }) => order.fill(executor, values, packed.values_mut()),
            _ => drop(self.many.take()),
        }
        let unknown = self.transposed.get().is_some_and(|transposed| transposed.source.is_none());
        let source = unknown.then(|| self.order_across());
        if let Some(transposed) = self.transposed.get_mut() {
            transposed.source = transposed.source.take().or(source);
            let (late, rows) = transposed.late.get_or_insert_default();
            late.clear();
            late.extend_from_slice(values);
            rows.take();
            transposed.replace(executor, values);
        }
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
        let quads = self.quads.get_or_init(|| Quads::new(&self.rows));
        quads.sddmm(executor, self.target, &self.spare, n, dy, x, values);
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
                epilogue.of_rows(self.target, y, n);
            }
        }
        Ok(())
    }
}
