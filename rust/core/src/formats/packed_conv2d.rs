//! Pruned filters that convolve, and both gradients: what training on a mask needs of a Conv2D layer.
//!
//! ```text
//! forward       y  = filters * x                 Convolution, packed filters
//! grad_input    dX = filtersᵀ * dY               a Convolution a phase of the strides, filters transposed and packed
//! grad_weight   dW = dY · x on the nonzeros      SDDMM over the cells of the images
//! ```
//!
//! Where packed filters meet their operand depends on the size of the images, so they are packed at the first use of a size.
//! Packing goes by structure alone: a value finds its places through the order that was kept, at once and when it changes.

use super::conv2d::{Conv2d, Over};
use super::convolve::Convolution;
use super::matrix::SMALL;
use super::order::Order;
use super::panels::Spare;
use super::phases::Phase;
use super::sweep::{Sweep, run_kernel};
use super::{Block, Csr, Epilogue, Format, Kind, Pack, Pattern, Planes, Rows};
use crate::argument;
use crate::error::Result;
use crate::executor::{Executor, Sequential, for_each_chunk};
use crate::simd::{LANES, Target};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

fn planes(channels: usize, size: (usize, usize)) -> Planes {
    Planes { channels, size, pitch: size.1 }
}

/// The packed filters of all groups.
#[derive(Debug)]
enum Filters {
    Csr(Vec<Csr>),
    Pattern(Vec<Pattern>),
    Block8(Vec<Block<8>>),
    Block4(Vec<Block<4>>),
}

/// Evaluates an expression with the filters of whichever format.
macro_rules! each {
    ($filters:expr, $groups:ident => $do:expr) => {
        match $filters {
            Filters::Csr($groups) => $do,
            Filters::Pattern($groups) => $do,
            Filters::Block8($groups) => $do,
            Filters::Block4($groups) => $do,
        }
    };
}

/// A convolution with its packed filters.
#[derive(Debug)]
struct Packed {
    convolution: Convolution,
    filters: Filters,
    /// Where the values of each group come from.
    orders: Vec<Order>,
}

impl Packed {
    /// Packs the filters of each group, whose values are ordinals, and fills them with `values`.
    fn new(ordinals: &[Rows], kind: Kind, convolution: Convolution, target: Target, values: &[f32]) -> Packed {
        fn pack<M: Pack + Sweep>(ordinals: &[Rows], convolution: &Convolution, target: Target) -> Vec<M> {
            let blocks = |rows: &Rows| convolution.blocks(rows, M::run_lines(target.registers()));
            ordinals.iter().map(|rows| M::pack(rows, blocks(rows))).collect()
        }
        let mut filters = match kind {
            Kind::Csr => Filters::Csr(pack(ordinals, &convolution, target)),
            Kind::Block { height: 4 } => Filters::Block4(pack(ordinals, &convolution, target)),
            Kind::Block { .. } | Kind::Dense => Filters::Block8(pack(ordinals, &convolution, target)),
            Kind::Pattern | Kind::Bitmap | Kind::Window | Kind::Stream | Kind::Nm => {
                Filters::Pattern(pack(ordinals, &convolution, target))
            }
        };
        let orders =
            each!(&mut filters, groups => groups.iter_mut().map(|group| Order::of(group.values_mut())).collect());
        let mut packed = Packed { convolution, filters, orders };
        packed.update(values);
        packed
    }

    fn update(&mut self, values: &[f32]) {
        each!(&mut self.filters, groups => {
            for (group, order) in groups.iter_mut().zip(&self.orders) {
                order.fill(&Sequential, values, group.values_mut());
            }
        });
    }

    fn nbytes(&self) -> usize {
        let filters: usize = each!(&self.filters, groups => groups.iter().map(Format::nbytes).sum());
        filters + self.orders.iter().map(Order::nbytes).sum::<usize>()
    }
}

/// What is packed for images of one size.
#[derive(Debug)]
struct Sized {
    size: (usize, usize),
    /// How many images may share cells.
    together: usize,
    forward: OnceLock<Packed>,
    backward: OnceLock<Vec<(Phase, Packed)>>,
    /// The convolution of the forward pass, and where the nonzeros meet its cells.
    sampled: OnceLock<(Convolution, Vec<u32>)>,
}

/// Sizes that stay packed: those of training and of what tests it, whole batches and the last ones.
const KEPT: usize = 4;

/// Pruned filters, packed for the sizes of images that they have met so far.
#[derive(Debug)]
pub struct PackedConv2d {
    conv: Conv2d,
    rows: Rows,
    kind: Option<Kind>,
    target: Target,
    sized: Mutex<Vec<Arc<Sized>>>,
    spare: Spare,
    /// The gradients of inputs by phases.
    phases: Spare,
}

impl PackedConv2d {
    /// Filters as rows over (channel of the group, row, column); in the format `kind`, or the best guess.
    ///
    /// # Errors
    /// Where the rows do not fit the convolution, or the format does not convolve.
    pub fn new(conv: Conv2d, rows: Rows, kind: Option<Kind>, target: Target) -> Result<PackedConv2d> {
        if rows.rows() != conv.filters || rows.columns() != conv.columns() {
            let (found, wanted) = ((rows.rows(), rows.columns()), (conv.filters, conv.columns()));
            return Err(argument!("weight: {found:?} rows and columns are not {wanted:?}"));
        }
        if !matches!(kind, None | Some(Kind::Csr | Kind::Pattern | Kind::Block { .. })) {
            return Err(argument!("format: {kind:?} does not convolve; choose from auto, block, csr, pattern"));
        }
        let (sized, spare, phases) = (Mutex::default(), Spare::default(), Spare::default());
        Ok(PackedConv2d { conv, rows, kind, target, sized, spare, phases })
    }

    /// The convolution.
    pub fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// The nonzeros.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    fn kind_of(&self, rows: &Rows) -> Kind {
        self.kind.unwrap_or_else(|| Kind::of(rows))
    }

    /// The forward pass's kernel, for example `spmm_pattern_f32_2x64__avx512`.
    pub fn kernel(&self) -> String {
        match self.kind_of(&self.rows) {
            Kind::Csr => run_kernel::<Csr>("csr", self.target),
            Kind::Block { height: 4 } => run_kernel::<Block<4>>("block", self.target),
            Kind::Block { .. } | Kind::Dense => run_kernel::<Block<8>>("block", self.target),
            _ => run_kernel::<Pattern>("pattern", self.target),
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Sized>>> {
        self.sized.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Memory of the nonzeros and of everything packed so far.
    pub fn nbytes(&self) -> usize {
        let plain = self.rows.nnz() * 8 + (self.rows.rows() + 1) * size_of::<usize>();
        let of_size = |sized: &Arc<Sized>| {
            let backward = sized.backward.get().into_iter().flatten().map(|(_, packed)| packed.nbytes());
            sized.forward.get().map_or(0, Packed::nbytes)
                + sized.sampled.get().map_or(0, |(_, index)| index.len() * size_of::<u32>())
                + backward.sum::<usize>()
        };
        plain + self.all().iter().map(of_size).sum::<usize>()
    }

    /// Replaces the values, in the order of [`Rows::parts`]: the structure stays, and so does everything packed.
    ///
    /// # Errors
    /// Where there is not one value a nonzero.
    pub fn update(&mut self, values: &[f32]) -> Result<()> {
        if values.len() != self.rows.nnz() {
            return Err(argument!("values: {} for {} nonzeros", values.len(), self.rows.nnz()));
        }
        self.rows.values_mut().copy_from_slice(values);
        let all = self.sized.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Calls hold clones only as long as they run, and none runs beside `&mut self`.
        all.retain_mut(|sized| {
            let Some(sized) = Arc::get_mut(sized) else { return false };
            let backward = sized.backward.get_mut().into_iter().flatten().map(|(_, packed)| packed);
            sized.forward.get_mut().into_iter().chain(backward).for_each(|packed| packed.update(values));
            true
        });
        Ok(())
    }

    /// What is packed for `images` images of a size.
    fn sized(&self, size: (usize, usize), images: usize) -> Arc<Sized> {
        let together = images.clamp(1, LANES).next_power_of_two();
        let mut all = self.all();
        if let Some(sized) = all.iter().find(|sized| (sized.size, sized.together) == (size, together)) {
            return sized.clone();
        }
        let (forward, backward, sampled) = Default::default();
        let sized = Arc::new(Sized { size, together, forward, backward, sampled });
        if all.len() == KEPT {
            all.remove(0);
        }
        all.push(sized.clone());
        sized
    }

    /// The convolution of the forward pass over images of a size.
    fn convolution(&self, sized: &Sized, Over { before, result }: Over) -> Convolution {
        let (top, left) = (before.0 as isize, before.1 as isize);
        let (input, output) = (planes(self.conv.channels, sized.size), planes(self.conv.filters, result));
        Convolution::new(self.conv.window, input, output, (top, left), sized.together)
    }

    /// The filters of each group.
    fn groups<'a>(&self, rows: &'a Rows) -> impl Iterator<Item = Rows> + use<'a> {
        let filters = self.conv.filters / self.conv.groups;
        (0..self.conv.groups).map(move |group| rows.part(group * filters..(group + 1) * filters))
    }

    /// The filters for the gradients of the inputs.
    fn backward(&self, sized: &Sized, Over { before, result }: Over) -> Vec<(Phase, Packed)> {
        let (ordinals, dy) = (self.rows.ordinals(), planes(self.conv.filters, result));
        let packed = |phase: Phase| {
            let filters = self.groups(&ordinals).map(|group| phase.filters(&group, self.conv.window.size));
            let filters: Vec<Rows> = filters.collect();
            // Columns of blocks are rows of the transposed filters, where they are single weights.
            let kind = match self.kind {
                Some(Kind::Block { .. }) => Kind::Pattern,
                _ => self.kind_of(&filters[0]),
            };
            let planes = phase.planes(self.conv.channels);
            let convolution = Convolution::new(phase.window(), dy, planes, phase.before(), sized.together);
            let packed = Packed::new(&filters, kind, convolution, self.target, self.rows.parts().2);
            (phase, packed)
        };
        Phase::all(sized.size, self.conv.window, before).into_iter().map(packed).collect()
    }

    /// The executor for `images` images of a size, whose results have that size.
    fn executor<'a>(&self, executor: &'a dyn Executor, result: (usize, usize), images: usize) -> &'a dyn Executor {
        let work = self.rows.nnz().saturating_mul(result.0 * result.1).saturating_mul(images);
        if work < SMALL { &Sequential } else { executor }
    }

    /// What `images` images of a size become, after a check of what goes in and out.
    fn check(
        &self,
        size: (usize, usize),
        images: usize,
        (x_name, x): (&str, usize),
        (y_name, y): (&str, usize),
    ) -> Result<Over> {
        let over = self.conv.over(size)?;
        let all = [(x_name, x, self.conv.channels, size), (y_name, y, self.conv.filters, over.result)];
        for (name, len, channels, (h, w)) in all {
            if images.checked_mul(channels * h * w) != Some(len) {
                return Err(argument!("{name}: {len} values are not {images} x {channels} x {h} x {w}"));
            }
        }
        Ok(over)
    }

    /// `y = activation(filters * x + bias)` for `images` images of `size` (rows, columns), all (image, channel, row, column).
    ///
    /// # Errors
    /// Where a slice does not fit.
    pub fn forward(
        &self,
        executor: &dyn Executor,
        (images, size): (usize, (usize, usize)),
        x: &[f32],
        y: &mut [f32],
        epilogue: Epilogue<'_>,
    ) -> Result<()> {
        let over = self.check(size, images, ("x", x.len()), ("out", y.len()))?;
        if let Some(bias) = epilogue.bias.filter(|bias| bias.len() != self.conv.filters) {
            return Err(argument!("bias: {} values for {} filters", bias.len(), self.conv.filters));
        }
        let sized = self.sized(size, images);
        let packed = sized.forward.get_or_init(|| {
            let ordinals: Vec<Rows> = self.groups(&self.rows.ordinals()).collect();
            let (kind, convolution) = (self.kind_of(&self.rows), self.convolution(&sized, over));
            Packed::new(&ordinals, kind, convolution, self.target, self.rows.parts().2)
        });
        self.run(packed, self.executor(executor, over.result, images), images, x, y, epilogue);
        Ok(())
    }

    fn run(
        &self,
        packed: &Packed,
        executor: &dyn Executor,
        images: usize,
        x: &[f32],
        y: &mut [f32],
        epilogue: Epilogue<'_>,
    ) {
        let (convolution, target, spare) = (&packed.convolution, self.target, &self.spare);
        each!(&packed.filters, groups => {
            convolution.run(groups, executor, target, spare, images, x, y, epilogue)
        });
    }

    /// The gradient of the input of [`PackedConv2d::forward`] without bias and activation, from that of its result.
    ///
    /// # Errors
    /// Where a slice does not fit.
    pub fn grad_input(
        &self,
        executor: &dyn Executor,
        (images, size): (usize, (usize, usize)),
        dy: &[f32],
        dx: &mut [f32],
    ) -> Result<()> {
        let over = self.check(size, images, ("out", dx.len()), ("dy", dy.len()))?;
        let executor = self.executor(executor, over.result, images);
        let sized = self.sized(size, images);
        let phases = sized.backward.get_or_init(|| self.backward(&sized, over));
        if self.conv.window.stride == (1, 1) {
            let [(_, packed)] = &phases[..] else { return Ok(()) };
            self.run(packed, executor, images, dy, dx, Epilogue::default());
            return Ok(());
        }
        // One phase after another, then all into their places.
        let lens: Vec<usize> =
            phases.iter().map(|(phase, _)| phase.planes(self.conv.channels).len() * images).collect();
        let mut memory = self.phases.take(lens.iter().sum());
        let mut rest = &mut memory[..];
        let mut parts = Vec::with_capacity(phases.len());
        for ((phase, packed), len) in phases.iter().zip(lens) {
            let (part, behind) = rest.split_at_mut(len);
            self.run(packed, executor, images, dy, part, Epilogue::default());
            parts.push((phase, &*part));
            rest = behind;
        }
        let stride = self.conv.window.stride;
        for_each_chunk(executor, dx, size.0 * size.1, &|plane, dx| {
            dx.fill(0.0);
            for &(phase, part) in &parts {
                let (rows, columns) = (&phase.rows, &phase.columns);
                let part = &part[plane * rows.count * columns.count..][..rows.count * columns.count];
                for (row, from) in part.chunks_exact(columns.count).enumerate() {
                    let to = &mut dx[(rows.phase + row * stride.0) * size.1 + columns.phase..];
                    to.iter_mut().step_by(stride.1).zip(from).for_each(|(to, &from)| *to = from);
                }
            }
        });
        drop(parts);
        self.phases.put(memory);
        Ok(())
    }

    /// The gradient of the values of the nonzeros, in the order of [`Rows::parts`], from that of the result of
    /// [`PackedConv2d::forward`] without bias and activation.
    ///
    /// # Errors
    /// Where a slice does not fit.
    pub fn grad_weight(
        &self,
        executor: &dyn Executor,
        (images, size): (usize, (usize, usize)),
        dy: &[f32],
        x: &[f32],
        values: &mut [f32],
    ) -> Result<()> {
        let over = self.check(size, images, ("x", x.len()), ("dy", dy.len()))?;
        if values.len() != self.rows.nnz() {
            return Err(argument!("out: {} values for {} nonzeros", values.len(), self.rows.nnz()));
        }
        let sized = self.sized(size, images);
        let (convolution, index) = sized.sampled.get_or_init(|| {
            let convolution = self.convolution(&sized, over);
            let index = convolution.index(&self.rows);
            (convolution, index)
        });
        let executor = self.executor(executor, over.result, images);
        let filters = (&self.rows, &index[..], self.conv.groups);
        convolution.gradient(filters, executor, self.target, &self.spare, images, dy, x, values);
        Ok(())
    }
}
