//! One image cut into 16 cells, which take the lanes that a batch would: every filter tap is an aligned offset then.
//!
//! ```text
//! 8 rows x 12 columns, 2 cells across:     cell (p, q) starts at row p·R·stride, column q·J·stride and holds what R x J
//!  0 0 0 0 0 0 | 1 1 1 1 1 1              outputs read: neighbours overlap by the filter's size less one
//!  2 2 2 2 2 2 | 3 3 3 3 3 3  …
//!                                          [channel][row of a cell][column of a cell][16 cells]
//!
//! for rows of cells, as many as fill a register:  16 registers of pixels, one a cell; borders are lanes not loaded
//!   transpose the registers: 16 lines of cells                           (and back again out of cells)
//! ```
//!
//! A convolution of one image becomes the convolution of a batch of 16 small ones. Small images share the cells: 2, 4, 8 or 16
//! of them take an equal part each.

use super::Window;
use crate::simd::{Kernel, LANES, Vector};
use std::ops::Range;

/// Channels of an image in memory, in rows of pixels.
#[derive(Debug, Clone, Copy)]
pub struct Planes {
    /// Channels.
    pub channels: usize,
    /// Rows and columns.
    pub size: (usize, usize),
    /// Floats between rows.
    pub pitch: usize,
}

impl Planes {
    /// Floats of a channel.
    pub fn channel_len(&self) -> usize {
        self.size.0 * self.pitch
    }

    /// Floats of an image.
    pub fn len(&self) -> usize {
        self.channels * self.channel_len()
    }

    /// Whether an image has no floats.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// 16 cells of one shape over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    /// Rows and columns from a cell to the next.
    pub step: (usize, usize),
    /// Rows and columns of a cell.
    pub size: (usize, usize),
    /// Cells side by side.
    pub across: usize,
    /// Images that share the cells.
    pub together: usize,
}

impl Grid {
    /// The grids of the output, of that many rows and columns, and of the input of a convolution of this window, where so
    /// many images may share cells: whichever cut computes least, overlaps and tiles of four pixels considered.
    pub fn of((h, w): (usize, usize), window: Window, images: usize) -> (Grid, Grid) {
        let (size, stride) = (window.extent(), window.stride);
        let shares = [1, 2, 4, 8, LANES].into_iter().filter(|&together| together < 2 * images.max(1));
        let grids = shares.flat_map(|together| (1..=LANES / together).map(move |across| (together, across)));
        let grids = grids.map(|(together, across)| {
            let step = (h.div_ceil(LANES / together / across).max(1), w.div_ceil(across).max(1));
            let read = ((step.0 - 1) * stride.0 + size.0, (step.1 - 1) * stride.1 + size.1);
            // In tenths of a pixel: a row of pixels that does not fill its tiles, and the cells to fill.
            let cost = step.0 * (10 * step.1 + if step.1.is_multiple_of(4) { 0 } else { 4 }) + 2 * read.0 * read.1;
            (cost * images.div_ceil(together), together, across, step, read)
        });
        let (_, together, across, step, read) = grids.min().unwrap_or((0, 1, 1, (1, 1), size));
        let input = Grid { step: (step.0 * stride.0, step.1 * stride.1), size: read, across, together };
        (Grid { step, size: step, across, together }, input)
    }

    /// Cells of an image.
    pub fn cells(&self) -> usize {
        LANES / self.together
    }

    /// Floats of one row of cells, in one channel.
    pub fn row_len(&self) -> usize {
        self.size.1 * LANES
    }

    /// The first row and column of a cell of an image.
    fn origin(&self, cell: usize) -> (usize, usize) {
        (cell / self.across * self.step.0, cell % self.across * self.step.1)
    }
}

/// Up to 16 neighbouring pixels.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    /// Where lane 0 lies, or would, in its channel of the first image.
    start: i32,
    /// The lanes that are pixels of the image.
    lanes: u16,
}

/// Where every row of the cells lies in a channel of the image.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    /// Lines in a row of cells.
    lines: usize,
    /// Registers of pixels that they take.
    registers: usize,
    /// The pieces of the 16 cells, one such a register of a row.
    pieces: Vec<[Piece; LANES]>,
    grid: Grid,
    planes: Planes,
}

impl Pieces {
    /// The cells of a grid over an image, from so many rows above it and columns before it on; inside it where negative.
    pub fn new(grid: Grid, planes: Planes, before: (isize, isize)) -> Pieces {
        let (rows, lines) = grid.size;
        let registers = lines.div_ceil(LANES);
        let piece = |row: usize, register: usize, cell: usize| {
            let (image, origin) = (cell / grid.cells(), grid.origin(cell % grid.cells()));
            let y = (origin.0 + row) as isize - before.0;
            let x = (origin.1 + register * LANES) as isize - before.1;
            let inside = |lane: &usize| {
                let x = x + *lane as isize;
                (0..planes.size.0 as isize).contains(&y) && (0..planes.size.1 as isize).contains(&x)
            };
            let lanes =
                (0..LANES.min(lines - register * LANES)).filter(inside).fold(0, |lanes, lane| lanes | 1 << lane);
            Piece { start: ((image * planes.len()) as isize + y * planes.pitch as isize + x) as i32, lanes }
        };
        let pieces = (0..rows * registers)
            .map(|at| std::array::from_fn(|cell| piece(at / registers, at % registers, cell)))
            .collect();
        Pieces { lines, registers, pieces, grid, planes }
    }

    /// Rows of cells that are transposed together: those whose lines fit 16 registers.
    fn at_once(&self) -> usize {
        (LANES / self.lines.max(1)).max(1)
    }

    /// The groups of lines that are transposed together, of some rows: rows, register and number of lines.
    fn groups(&self, rows: Range<usize>) -> impl Iterator<Item = (Range<usize>, usize, usize)> {
        let (step, end) = (self.at_once(), rows.end);
        rows.step_by(step).flat_map(move |row| {
            let rows = row..(row + step).min(end);
            (0..self.registers).map(move |register| {
                let lines = (self.lines - register * LANES).min(LANES);
                (rows.clone(), register, rows.len() * lines)
            })
        })
    }

    /// The cells' pieces of the `at`-th of rows that are transposed together: those come after the lanes of the rows before.
    #[inline(always)]
    fn of_row(&self, row: usize, register: usize, at: usize) -> (&[Piece; LANES], isize, usize) {
        let lanes = at * self.lines;
        (&self.pieces[row * self.registers + register], -(lanes as isize), lanes)
    }
}

/// Rows of pixels into rows of cells, in all channels.
pub(super) struct Cut<'a> {
    /// Where cells lie in the image.
    pub pieces: &'a Pieces,
    /// Rows of cells.
    pub rows: Range<usize>,
    /// The images that share the cells, or as many as there are.
    pub images: &'a [f32],
    /// Where the first of the rows goes, in the first channel.
    pub cells: &'a mut [f32],
    /// Floats between channels of cells.
    pub channel_step: usize,
}

impl Kernel for Cut<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Cut { pieces, rows, images, cells, channel_step } = self;
        let present = images.len() / pieces.planes.len().max(1) * pieces.grid.cells();
        for (channel, to) in (0..pieces.planes.channels).zip(cells.chunks_mut(channel_step)) {
            let (from, mut line) = (images.as_ptr().wrapping_add(channel * pieces.planes.channel_len()), 0);
            for (rows, register, lines) in pieces.groups(rows.clone()) {
                let mut tile = [v.splat(0.0); LANES];
                for (at, row) in rows.enumerate() {
                    let (row, back, lanes) = pieces.of_row(row, register, at);
                    for cell in 0..LANES {
                        let Piece { start, lanes: mask } = row[cell];
                        let from = from.wrapping_offset(start as isize + back);
                        let mask = if cell < present { mask } else { 0 };
                        // SAFETY: `Pieces::new` left only lanes inside a channel, and the slice holds this cell's image.
                        tile[cell] = unsafe { v.load_masked(tile[cell], from, mask << lanes) };
                    }
                }
                v.transpose(&mut tile);
                // All 16, however many there are: what is too much is written again, or lies between channels.
                let lines_here = &mut to[line..line + LANES * LANES];
                for cell in 0..LANES {
                    v.store(&mut lines_here[cell * LANES..], tile[cell]);
                }
                line += lines * LANES;
            }
        }
    }
}

/// Rows of cells into rows of pixels, in some channels.
pub(super) struct Join<'a> {
    /// Where cells lie in the image.
    pub pieces: &'a Pieces,
    /// Rows of cells.
    pub rows: Range<usize>,
    /// Channels.
    pub channels: Range<usize>,
    /// The first of the rows, in the first channel of all.
    pub cells: &'a [f32],
    /// Floats between channels of cells.
    pub channel_step: usize,
    /// The images that share the cells; only what lies in these rows of their channels is written.
    pub result: *mut f32,
    /// How many there are.
    pub images: usize,
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Join { pieces, rows, channels, cells, channel_step, result, images } = self;
        let present = images * pieces.grid.cells();
        for channel in channels {
            let (from, mut line) = (&cells[channel * channel_step..], 0);
            let to = result.wrapping_add(channel * pieces.planes.channel_len());
            for (rows, register, lines) in pieces.groups(rows.clone()) {
                let mut tile = [v.splat(0.0); LANES];
                let lines_here = &from[line..line + LANES * LANES];
                for cell in 0..LANES {
                    tile[cell] = v.load(&lines_here[cell * LANES..]);
                }
                line += lines * LANES;
                v.transpose(&mut tile);
                for (at, row) in rows.enumerate() {
                    let (row, back, lanes) = pieces.of_row(row, register, at);
                    for cell in 0..LANES {
                        let Piece { start, lanes: mask } = row[cell];
                        let to = to.wrapping_offset(start as isize + back);
                        let mask = if cell < present { mask } else { 0 };
                        // SAFETY: `Pieces::new` left only lanes inside a channel, and the caller's images have this one.
                        unsafe { v.store_masked(to, tile[cell], mask << lanes) };
                    }
                }
            }
            // Between rows there are zeros, so that kernels never meet stale values.
            let Planes { size: (height, width), pitch, .. } = pieces.planes;
            if width < pitch {
                for (image, at) in (0..images).flat_map(|image| rows.clone().map(move |at| (image, at))) {
                    for y in (at..height).step_by(pieces.grid.step.0).take(pieces.grid.cells() / pieces.grid.across) {
                        // SAFETY: the rest of a row of a channel of one of the caller's images.
                        unsafe {
                            to.add(image * pieces.planes.len() + y * pitch + width).write_bytes(0, pitch - width)
                        };
                    }
                }
            }
        }
    }
}
