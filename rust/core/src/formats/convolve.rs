//! Convolution of images, rows of pixels in and out: each is cut into cells, swept, and put together again.
//!
//! ```text
//! for images that share cells, rows, bands of filters:   a task
//!   cut the rows of the input's cells that they read     [channel][row][column][16 cells]
//!   sweep                                                [filter][row][column][16 cells]
//!   join the rows of the output's cells                  bias and activation are in them already
//! ```

use super::cells::{Cut, Grid, Join, Pieces, Planes};
use super::epilogue::Epilogue;
use super::panels::Spare;
use super::shared::Shared;
use super::sweep::{Geometry, Span, Sweep, bands, bands_a_task, partial_len, rows_of, sweep_bands};
use super::{KBlocks, Rows, Window};
use crate::executor::Executor;
use crate::simd::{LANES, Target, dispatch};
use std::ops::Range;

/// Floats of the cells of a task, at most about: they stay in the last cache. What tasks cut twice is little beside so many.
const TASK_LEN: usize = 1 << 20;

/// A convolution of images, whatever the weights.
#[derive(Debug, Clone)]
pub struct Convolution {
    pub(super) window: Window,
    pub(super) input: Planes,
    pub(super) output: Planes,
    pub(super) read: Grid,
    pub(super) written: Grid,
    pub(super) cut: Pieces,
    pub(super) join: Pieces,
    /// Rows of the output's cells of a task, at most.
    pub(super) rows: usize,
    /// From channel to channel of the input's cells and of the output's, in floats.
    pub(super) steps: (usize, usize),
    /// The runs of `rows` rows.
    spans: Vec<Span>,
}

/// Floats between channels of so many: room for a transposition that only begins in them, and an odd number of lines, so
/// that a block's channels do not evict each other.
fn channel_step(floats: usize) -> usize {
    ((floats / LANES + LANES) | 1) * LANES
}

impl Convolution {
    /// A convolution of images in `input` to images in `output`, with a border of zeros above and before them; what lies
    /// below and behind is as many as the window reads. A negative border leaves that much of the images out. Small images
    /// share cells, of so many at most.
    pub fn new(window: Window, input: Planes, output: Planes, before: (isize, isize), together: usize) -> Convolution {
        // Where pixels lie takes 32 bits.
        let few = LANES * input.len().max(output.len()) > i32::MAX as usize;
        let (written, read) = Grid::of(output.size, window, if few { 1 } else { together });
        let (cut, join) = (Pieces::new(read, input, before), Pieces::new(written, output, (0, 0)));
        let row_len = output.channels * written.row_len() + input.channels * read.row_len() * window.stride.0;
        let rows = (TASK_LEN / row_len.max(1)).clamp(1, written.size.0);
        let reads = (rows - 1) * window.stride.0 + window.extent().0;
        let steps = (channel_step(reads * read.row_len()), channel_step(rows * written.row_len()));
        let mut spans = Vec::new();
        for y in 0..rows {
            // Neighbouring outputs read neighbouring inputs only at stride 1.
            let (runs, lines) = if window.stride.1 == 1 { (1, written.size.1) } else { (written.size.1, 1) };
            spans.extend((0..runs).map(|run| Span {
                input: y * window.stride.0 * read.row_len() + run * window.stride.1 * LANES,
                output: y * written.row_len() + run * LANES,
                lines,
            }));
        }
        Convolution { window, input, output, read, written, cut, join, rows, steps, spans }
    }

    /// Where a column of the weights meets the cells, in lines.
    pub(super) fn position(&self, column: usize) -> u32 {
        self.window.position(column, self.steps.0 / LANES, self.read.size.1)
    }

    /// How the columns of a group's weights meet the cells; blocks suit tiles of so many lines.
    pub fn blocks(&self, weights: &Rows, tile_lines: usize) -> KBlocks {
        let positions = (0..weights.columns()).map(|column| self.position(column)).collect();
        let longest = if self.window.stride.1 == 1 { self.written.size.1 } else { 1 };
        KBlocks::new(positions, KBlocks::filters(self.window, tile_lines.min(longest), 1, weights.density()))
    }

    /// `y = activation(filters * x + bias + residual)` for `images` images; the filters are in groups of equal size, each over
    /// channels of its own. With a residual, the activation is one that clamps.
    ///
    /// # Panics
    /// Where a slice does not hold the images, or the filters do not fit: callers check shapes.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a convolution, and where it works")]
    pub fn run<M: Sweep>(
        &self,
        groups: &[M],
        executor: &dyn Executor,
        target: Target,
        spare: &Spare,
        images: usize,
        x: &[f32],
        y: &mut [f32],
        epilogue: Epilogue<'_>,
    ) {
        assert!(x.len() >= images * self.input.len() && y.len() >= images * self.output.len(), "convolution: images");
        let residual = epilogue.residual;
        assert!(residual.is_none_or(|residual| residual.len() >= images * self.output.len()), "convolution: residual");
        assert!(residual.is_none() || epilogue.activation.afterwards().is_none(), "convolution: activation");
        if images == 0 || self.output.is_empty() {
            return;
        }
        let filters: usize = groups.iter().map(Sweep::rows).sum();
        assert!(filters == self.output.channels, "convolution: the filters do not fit the result");
        let bias = epilogue.padded_bias(filters);
        let rows = self.written.size.0;
        // Tasks of fewer rows would cut most of theirs twice.
        let overlap = self.window.extent().0.div_ceil(self.window.stride.0);
        let rows_a_task = if executor.threads() == 1 { rows } else { rows.div_ceil(2 * executor.threads()) };
        let rows_a_task = rows_a_task.max(overlap - 1).clamp(1, self.rows);
        let runs = rows.div_ceil(rows_a_task);
        let bands = if groups.len() == 1 { bands(filters) } else { 1 };
        let together = self.written.together;
        let shares = images.div_ceil(together);
        let blocks = groups[0].blocks().len();
        let bands_a_task = if shares * runs < executor.threads() {
            bands_a_task(filters, blocks, shares * runs, executor)
        } else {
            bands
        };
        let band_tasks = bands.div_ceil(bands_a_task);
        let result = Shared::new(y);
        executor.run(shares * runs * band_tasks, &|task| {
            let (image, run) = (task / band_tasks / runs * together, task / band_tasks % runs);
            let end = (image + together).min(images);
            let first = task % band_tasks * bands_a_task;
            let task = Task {
                convolution: self,
                groups,
                target,
                images: &x[image * self.input.len()..end * self.input.len()],
                count: end - image,
                rows: run * rows_a_task..((run + 1) * rows_a_task).min(rows),
                bands: (groups.len() == 1).then(|| first..(first + bands_a_task).min(bands)),
                // SAFETY: `y` holds the images.
                result: unsafe { result.get().add(image * self.output.len()) },
                bias: &bias,
                epilogue: epilogue.from(image * self.output.len()),
            };
            task.run(spare);
        });
    }
}

/// Some rows of cells.
struct Task<'a, M> {
    convolution: &'a Convolution,
    groups: &'a [M],
    target: Target,
    images: &'a [f32],
    /// How many images these are.
    count: usize,
    rows: Range<usize>,
    /// Bands of filters, of one group; `None` for all filters.
    bands: Option<Range<usize>>,
    result: *mut f32,
    bias: &'a [f32],
    epilogue: Epilogue<'a>,
}

impl<M: Sweep> Task<'_, M> {
    fn run(self, spare: &Spare) {
        let Task { groups, target, bias, epilogue, .. } = self;
        let Convolution { window, input, output, steps, .. } = *self.convolution;
        let Convolution { cut, join, rows: most, spans, .. } = self.convolution;
        let cells_len = input.channels * steps.0;
        let (channels, filters) = (input.channels / groups.len(), output.channels / groups.len());
        let swept_len = output.channels * steps.1;
        let mut memory = spare.take(cells_len + swept_len + partial_len::<M>(filters, target));
        let (cells, swept) = memory.split_at_mut(cells_len);
        let (swept, partial) = swept.split_at_mut(swept_len);

        let Range { start, end } = self.rows;
        let rows = start * window.stride.0..(end - 1) * window.stride.0 + window.extent().0;
        dispatch(target, Cut { pieces: cut, rows, images: self.images, cells, channel_step: steps.0 });

        let spans = &spans[..spans.len() / most * (end - start)];
        let geometry = Geometry { unit: LANES, row_stride: steps.1, spans };
        let activation = epilogue.without_residual().activation;
        for (group, matrix) in groups.iter().enumerate() {
            let bands = self.bands.clone().unwrap_or(0..bands(filters));
            let (cells, swept) = (&cells[group * channels * steps.0..], &mut swept[group * filters * steps.1..]);
            let bias = &bias[group * filters..];
            sweep_bands(matrix, target, &geometry, bands, cells, swept, bias, activation, Some(partial));
        }

        // Tasks write disjoint rows and bands of filters.
        let channels = self.bands.map_or(0..output.channels, |bands| rows_of(&bands, output.channels));
        let (cells, result, images, rows) = (&*swept, self.result, self.count, start..end);
        let join = Join { pieces: join, rows, channels, cells, channel_step: steps.1, result, images, epilogue };
        dispatch(target, join);
        spare.put(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::with_threads;
    use crate::formats::{Activation, Block, Format, Pack, Pattern};
    use crate::naive::{self, numbers};
    use crate::ops::Shape;
    use crate::ops::relayout::Border;

    /// Images of one kind, a border around them, a window over them.
    #[derive(Debug, Clone, Copy)]
    struct Case {
        image: (usize, usize, usize),
        images: usize,
        border: Border,
        window: Window,
        filters: usize,
        groups: usize,
        density: f64,
        activation: Activation,
    }

    /// Any number of threads: the same bits, within the bound of the definition; between rows there are zeros.
    fn check<M: Sweep + Pack + Format>(case: Case) {
        let Case { image: (c, h, w), images, border, window, filters, groups, density, activation } = case;
        let shape = Shape { c, h, w };
        let outer = border.around(shape);
        let (rows, columns) = window.over(outer.h, outer.w);
        let k = c / groups * window.size.0 * window.size.1;
        let weights = Rows::from_dense(filters, k, &numbers(filters * k, density, 1)).unwrap();
        let bias = numbers(filters, 1.0, 2);
        let x = numbers(images * shape.len(), 1.0, 3);
        let wanted = x
            .chunks(shape.len())
            .flat_map(|x| naive::conv2d((&weights, (&bias, &[])), (window, groups), border, (shape, x), activation));
        let wanted: Vec<_> = wanted.collect();
        let input = Planes { channels: c, size: (h, w), pitch: w };
        for (pitch, together) in [(columns, 1), (columns, images), (columns.next_multiple_of(LANES), images)] {
            let output = Planes { channels: filters, size: (rows, columns), pitch };
            let convolution =
                Convolution::new(window, input, output, (border.top as isize, border.left as isize), together);
            for target in Target::available() {
                let rows_a_group = filters / groups;
                let parts = (0..groups).map(|group| weights.part(group * rows_a_group..(group + 1) * rows_a_group));
                let blocks = |weights: &Rows| convolution.blocks(weights, M::run_lines(target.registers()));
                let matrices: Vec<M> = parts.map(|weights| M::pack(&weights, blocks(&weights))).collect();
                let mut first: Option<Vec<f32>> = None;
                for threads in [1, 2, 3, 8] {
                    let mut y = vec![f32::NAN; images * output.len()];
                    let (spare, epilogue) = (Spare::default(), Epilogue::new(Some(&bias), activation));
                    convolution.run(&matrices, &*with_threads(threads), target, &spare, images, &x, &mut y, epilogue);
                    for (row, wanted) in y.chunks(pitch).zip(wanted.chunks(columns)) {
                        assert!(wanted.iter().zip(row).all(|(wanted, &y)| wanted.allows(y)), "{case:?} {target:?}");
                        assert!(row[columns..].iter().all(|&y| y == 0.0), "{case:?}");
                    }
                    let bits = first.get_or_insert_with(|| y.clone());
                    assert!(bits.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()), "{case:?} {threads} threads");
                }
            }
        }
    }

    const CASE: Case = Case {
        image: (3, 14, 14),
        images: 1,
        border: Border { top: 1, left: 1, bottom: 1, right: 1 },
        window: Window { size: (3, 3), stride: (1, 1), dilation: (1, 1) },
        filters: 20,
        groups: 1,
        density: 0.3,
        activation: Activation::Relu,
    };

    #[test]
    fn tasks_of_rows_and_bands_agree_with_the_definition() {
        check::<Pattern>(CASE);
        check::<Block<8>>(Case { image: (2, 7, 7), images: 2, filters: 300, ..CASE });
        check::<Pattern>(Case { image: (4, 19, 23), groups: 2, filters: 18, activation: Activation::Tanh, ..CASE });
        let window = Window { size: (3, 2), stride: (2, 3), dilation: (2, 1) };
        check::<Pattern>(Case {
            image: (2, 33, 50),
            border: Border { top: 2, left: 0, bottom: 0, right: 1 },
            window,
            ..CASE
        });
        let window = Window { size: (1, 1), stride: (3, 3), dilation: (1, 1) };
        check::<Pattern>(Case { image: (2, 64, 70), border: Border::default(), window, filters: 5, ..CASE });
        check::<Pattern>(Case { image: (2, 4, 6), images: 9, ..CASE });
        check::<Pattern>(Case { image: (1, 3, 17), border: Border { top: 4, left: 5, bottom: 3, right: 2 }, ..CASE });
    }

    /// So large that one thread takes an image in several tasks.
    #[test]
    fn large_images() {
        check::<Pattern>(Case { image: (24, 224, 150), filters: 24, density: 0.01, ..CASE });
    }
}
