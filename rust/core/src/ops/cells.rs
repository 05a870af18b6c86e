//! One image cut into 16 cells, which take the lanes that a batch would: every filter tap is an aligned offset then.
//!
//! ```text
//! 8 rows x 12 columns, 2 cells across:     cell (p, q) starts at row p·R·stride, column q·J·stride and holds what R x J
//!  0 0 0 0 0 0 | 1 1 1 1 1 1              outputs read: neighbours overlap by the filter's size less one
//!  2 2 2 2 2 2 | 3 3 3 3 3 3  …
//!                                          [image][channel][row of a cell][column of a cell][16 cells]
//! into cells and out of them:              16 rows of pixels, one a cell, transposed in registers
//! ```
//!
//! A convolution of one image becomes the convolution of a batch of 16 small ones.

use super::pool::Window;
use super::relayout::{Border, unzip_all};
use super::{Layout, Shape};
use crate::simd::{Kernel, LANES, Vector};

/// Cells of one shape over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Grid {
    /// Rows and columns from a cell to the next.
    pub step: (usize, usize),
    /// Rows and columns of a cell.
    pub size: (usize, usize),
    /// Cells side by side.
    pub across: usize,
}

impl Grid {
    /// The grids of the output and of the input of a convolution of this window: whichever cut computes least, overlaps
    /// and tiles of four pixels considered.
    pub fn of(output: Shape, window: Window) -> (Grid, Grid) {
        let (size, stride) = (window.extent(), window.stride);
        let grids = (1..=LANES).map(|across| {
            let step = (output.h.div_ceil(LANES / across).max(1), output.w.div_ceil(across).max(1));
            let read = ((step.0 - 1) * stride.0 + size.0, (step.1 - 1) * stride.1 + size.1);
            // In tenths of a pixel: a row of pixels that does not fill its tiles, and the cells to fill.
            let cost = step.0 * (10 * step.1 + if step.1.is_multiple_of(4) { 0 } else { 4 }) + 2 * read.0 * read.1;
            (cost, across, step, read)
        });
        let (_, across, step, read) = grids.min().unwrap_or((0, 1, (1, 1), size));
        let input = Grid { step: (step.0 * stride.0, step.1 * stride.1), size: read, across };
        (Grid { step, size: step, across }, input)
    }

    /// Floats of one channel of one image.
    pub fn channel_len(&self) -> usize {
        self.size.0 * self.size.1 * LANES
    }

    /// The first row and column of a cell.
    fn origin(&self, cell: usize) -> (usize, usize) {
        (cell / self.across * self.step.0, cell % self.across * self.step.1)
    }
}

/// Whether images can be cut into cells from this layout, and put together into it: rows of pixels lie side by side.
pub fn has_rows(layout: Layout) -> bool {
    matches!(layout, Layout::RowMajor | Layout::PixelPanel)
}

/// One channel of one image into cells, with a border of zeros.
pub struct Cut<'a> {
    /// The cells.
    pub grid: Grid,
    /// Shape of the image, without the border.
    pub shape: Shape,
    /// The border.
    pub border: Border,
    /// Floats between rows of the source.
    pub pitch: usize,
    /// The channel, from its first pixel on.
    pub from: &'a [f32],
    /// All of the channel's cells.
    pub to: &'a mut [f32],
    /// The channel with its border and room for a register behind each row; zero, but for pixels of an earlier channel.
    pub plane: &'a mut [f32],
}

/// Floats in a row of [`Cut::plane`].
fn plane_pitch(grid: Grid) -> usize {
    (grid.across - 1) * grid.step.1 + grid.size.1.next_multiple_of(LANES)
}

/// Floats of [`Cut::plane`].
pub fn plane_len(grid: Grid) -> usize {
    let (row, _) = grid.origin(LANES - 1);
    (row + grid.size.0) * plane_pitch(grid)
}

impl Kernel for Cut<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Cut { grid, shape, border, pitch, from, to, plane } = self;
        let plane_pitch = plane_pitch(grid);
        // Rows and columns that no window reads lie behind the last cell.
        let rows = plane.len() / plane_pitch;
        for (y, to) in plane.chunks_exact_mut(plane_pitch).skip(border.top).take(shape.h.min(rows)).enumerate() {
            let width = shape.w.min(plane_pitch - border.left);
            to[border.left..border.left + width].copy_from_slice(&from[y * pitch..y * pitch + width]);
        }
        let starts: [usize; LANES] = std::array::from_fn(|cell| {
            let (row, column) = grid.origin(cell);
            row * plane_pitch + column
        });
        for (row, line) in to.chunks_exact_mut(grid.size.1 * LANES).enumerate() {
            for (at, columns) in line.chunks_mut(LANES * LANES).enumerate() {
                let at = row * plane_pitch + at * LANES;
                let mut tile = [v.splat(0.0); LANES];
                for (register, start) in tile.iter_mut().zip(starts) {
                    *register = v.load(&plane[start + at..]);
                }
                unzip_all(v, &mut tile);
                for (to, register) in columns.chunks_exact_mut(LANES).zip(tile) {
                    v.store(to, register);
                }
            }
        }
    }
}

/// One channel of one image out of cells.
pub struct Join<'a> {
    /// The cells, which do not overlap.
    pub grid: Grid,
    /// Shape of the image.
    pub shape: Shape,
    /// Floats between rows of the result.
    pub pitch: usize,
    /// All of the channel's cells.
    pub from: &'a [f32],
    /// The channel, from its first pixel on.
    pub to: &'a mut [f32],
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Join { grid, shape, pitch, from, to } = self;
        for (row, line) in from.chunks_exact(grid.size.1 * LANES).enumerate() {
            for (at, columns) in line.chunks(LANES * LANES).enumerate() {
                let mut tile = [v.splat(0.0); LANES];
                for (register, from) in tile.iter_mut().zip(columns.chunks_exact(LANES)) {
                    *register = v.load(from);
                }
                unzip_all(v, &mut tile);
                for (cell, &register) in tile.iter().enumerate() {
                    let (y, x) = grid.origin(cell);
                    let (y, x) = (y + row, x + at * LANES);
                    if y < shape.h && x < shape.w {
                        let width = (columns.len() / LANES).min(shape.w - x);
                        v.store_some(&mut to[y * pitch + x..], register, width);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::with_threads;
    use crate::ops::Operator;
    use crate::ops::relayout::Relayout;
    use crate::simd::Target;

    /// Every pixel of every cell is the image's or zero; cells without overlap make the image again.
    #[test]
    fn cells_hold_what_windows_read() {
        let borders = [Border::default(), Border { top: 1, left: 2, bottom: 1, right: 3 }];
        for (c, h, w) in [(1, 1, 4), (3, 7, 7), (17, 14, 14), (2, 28, 29), (2, 5, 56)] {
            let windows = [((1, 1), (1, 1), (1, 1)), ((3, 3), (1, 1), (2, 1)), ((5, 2), (2, 3), (1, 2))];
            for window in windows.map(|(size, stride, dilation)| Window { size, stride, dilation }) {
                for border in borders {
                    let shape = Shape { c, h, w };
                    let padded = border.around(shape);
                    if padded.h >= window.extent().0 && padded.w >= window.extent().1 {
                        let (h, w) = window.over(padded.h, padded.w);
                        check(shape, border, Shape { c, h, w }, Grid::of(Shape { c, h, w }, window));
                    }
                }
            }
        }
    }

    fn check(shape: Shape, border: Border, output: Shape, (written, read): (Grid, Grid)) {
        let (images, executor) = (2, with_threads(2));
        let image = |shape: Shape| (1..=images * shape.len()).map(|i| i as f32).collect::<Vec<_>>();
        let pixel = |pixels: &[f32], shape: Shape, channel: usize, y: usize, x: usize| match (y, x) {
            _ if y < shape.h && x < shape.w => pixels[(channel * shape.h + y) * shape.w + x],
            _ => 0.0,
        };
        // Pixels of cells, by (channel of all images, row, column, cell).
        let each = |grid: Grid, f: &mut dyn FnMut(usize, usize, (usize, usize))| {
            for at in 0..images * shape.c * grid.channel_len() {
                let (line, cell) = (at / LANES, at % LANES);
                let (row, column) = (line / grid.size.1 % grid.size.0, line % grid.size.1);
                let (y, x) = grid.origin(cell);
                f(at, at / grid.channel_len(), (y + row, x + column));
            }
        };
        for target in Target::available() {
            for layout in [Layout::RowMajor, Layout::PixelPanel] {
                let x = image(shape);
                let mut rows = vec![f32::NAN; layout.buffer_len(shape, images)];
                let relayout = |shape, border, from, to| Relayout::new(shape, border, from, to, images, target);
                relayout(shape, Border::default(), Layout::RowMajor, layout).run(&*executor, &x, &mut rows, &mut []);
                let mut cells = vec![f32::NAN; Layout::Cells(read).len(shape, images)];
                relayout(shape, border, layout, Layout::Cells(read)).run(&*executor, &rows, &mut cells, &mut []);
                each(read, &mut |at, channel, (y, x_)| {
                    let (y, x_) = (y.wrapping_sub(border.top), x_.wrapping_sub(border.left));
                    assert_eq!(cells[at], pixel(&x, shape, channel, y, x_), "{shape:?} {border:?} {read:?}");
                });

                let y = image(output);
                let mut cells = vec![f32::NAN; Layout::Cells(written).len(output, images)];
                each(written, &mut |at, channel, (row, column)| cells[at] = pixel(&y, output, channel, row, column));
                let mut rows = vec![f32::NAN; layout.buffer_len(output, images)];
                let mut joined = vec![f32::NAN; y.len()];
                let border = Border::default();
                relayout(output, border, Layout::Cells(written), layout).run(&*executor, &cells, &mut rows, &mut []);
                relayout(output, border, layout, Layout::RowMajor).run(&*executor, &rows, &mut joined, &mut []);
                assert_eq!(joined, y, "{output:?} {written:?}");
            }
        }
    }
}
