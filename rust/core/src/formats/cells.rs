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
//! rows that a cell shares with the one below it:     the line of that one's first rows, `across` lanes on
//! ```
//!
//! A convolution of one image becomes the convolution of a batch of 16 small ones. Small images share the cells: 2, 4, 8 or 16
//! of them take an equal part each.

use super::Window;
use super::epilogue::Epilogue;
use crate::simd::{Kernel, LANES, Vector, prefetch};
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
    /// The cells that have another of their image below them.
    upper: u16,
    /// The first row of cells that holds nothing of the image in the lowest ones, and that upper ones share with those below.
    shared: usize,
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
        let down = grid.cells() / grid.across;
        let has_lower = |cell: &usize| cell % grid.cells() / grid.across + 1 < down;
        let upper = (0..LANES).filter(has_lower).fold(0, |cells, cell| cells | 1 << cell);
        let lowest = grid.origin((down - 1) * grid.across).0 as isize;
        let shared = (planes.size.0 as isize + before.0 - lowest).max(grid.step.0 as isize) as usize;
        Pieces { lines, registers, pieces, upper, shared, grid, planes }
    }

    /// Which of these rows repeat those before them in the cells below.
    fn repeated(&self, rows: &Range<usize>) -> Range<usize> {
        self.shared.max(rows.start + self.grid.step.0).min(rows.end)..rows.end
    }

    /// How lanes and registers of some rows change places, where so many images are there: as many rows at once as their
    /// lines fit 16 registers.
    fn transpositions(&self, rows: Range<usize>, images: usize) -> Transpositions {
        let at_once = (LANES / self.lines.max(1)).max(1);
        let (present, end) = (images * self.grid.cells(), rows.end);
        let mut pieces = Vec::with_capacity(rows.len() * self.registers);
        let mut steps = Vec::with_capacity(pieces.capacity());
        for row in rows.step_by(at_once) {
            let rows = row..(row + at_once).min(end);
            for register in 0..self.registers {
                let lines = (self.lines - register * LANES).min(LANES);
                steps.push(Step { pieces: rows.len(), lines: rows.len() * lines });
                for (at, row) in rows.clone().enumerate() {
                    // After the lanes of the rows before.
                    let lanes = at * self.lines;
                    let mut cells = self.pieces[row * self.registers + register];
                    for (cell, piece) in cells.iter_mut().enumerate() {
                        piece.start -= lanes as i32;
                        piece.lanes = if cell < present { piece.lanes << lanes } else { 0 };
                    }
                    pieces.push(cells);
                }
            }
        }
        Transpositions { pieces, steps }
    }
}

/// How rows of pixels become rows of cells, or the other way round.
struct Transpositions {
    /// Of the rows that each step takes together, one after another.
    pieces: Vec<[Piece; LANES]>,
    steps: Vec<Step>,
}

/// Sixteen registers that are transposed.
struct Step {
    /// The rows that they hold.
    pieces: usize,
    /// The lines of all those rows.
    lines: usize,
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
        let repeated = pieces.repeated(&rows);
        let images_here = images.len() / pieces.planes.len().max(1);
        let Transpositions { pieces: cell_rows, steps } =
            pieces.transpositions(rows.start..repeated.start, images_here);
        let back = pieces.grid.step.0 * pieces.lines * LANES - pieces.grid.across;
        let channel_len = pieces.planes.channel_len();
        for (channel, to) in (0..pieces.planes.channels).zip(cells.chunks_mut(channel_step)) {
            let from = images.as_ptr().wrapping_add(channel * channel_len);
            let (mut cell_rows, mut line) = (cell_rows.iter(), 0);
            for step in &steps {
                let mut tile = [v.splat(0.0); LANES];
                for cells in cell_rows.by_ref().take(step.pieces) {
                    for cell in 0..LANES {
                        let Piece { start, lanes } = cells[cell];
                        let from = from.wrapping_offset(start as isize);
                        // Images are often larger than the second-level cache: the next channel's pixels are asked for.
                        prefetch(from.wrapping_add(channel_len));
                        // SAFETY: `Pieces::new` left only lanes inside a channel, and the slice holds this cell's image.
                        tile[cell] = unsafe { v.load_masked(tile[cell], from, lanes) };
                    }
                }
                v.transpose(&mut tile);
                // All 16, however many there are: what is too much is written again, or lies between channels.
                let lines_here = &mut to[line..line + LANES * LANES];
                for cell in 0..LANES {
                    v.store(&mut lines_here[cell * LANES..], tile[cell]);
                }
                line += step.lines * LANES;
            }
            for line in (line..).step_by(LANES).take(repeated.len() * pieces.lines) {
                // SAFETY: the mask leaves lanes of a line of this channel, as many rows before as `repeated` keeps there.
                let lanes = unsafe { v.load_masked(v.splat(0.0), to.as_ptr().add(line - back), pieces.upper) };
                v.store(&mut to[line..], lanes);
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
    /// What is added to the cells, which lies as the images do, and the activation then; without a residual, neither is.
    pub epilogue: Epilogue<'a>,
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Join { pieces, rows, channels, cells, channel_step, result, images, epilogue } = self;
        let floor = v.splat(epilogue.activation.floor());
        let residual = epilogue.residual.map(<[f32]>::as_ptr);
        let Transpositions { pieces: cell_rows, steps } = pieces.transpositions(rows.clone(), images);
        for channel in channels {
            let (from, mut line) = (&cells[channel * channel_step..], 0);
            let at = channel * pieces.planes.channel_len();
            let (to, residual) = (result.wrapping_add(at), residual.map(|residual| residual.wrapping_add(at)));
            let mut cell_rows = cell_rows.iter();
            for step in &steps {
                let mut tile = [v.splat(0.0); LANES];
                let lines_here = &from[line..line + LANES * LANES];
                for cell in 0..LANES {
                    tile[cell] = v.load(&lines_here[cell * LANES..]);
                }
                line += step.lines * LANES;
                v.transpose(&mut tile);
                for cells in cell_rows.by_ref().take(step.pieces) {
                    for cell in 0..LANES {
                        let (Piece { start, lanes }, mut pixels) = (cells[cell], tile[cell]);
                        // SAFETY: `Pieces::new` left only lanes inside a channel, which the caller's images have, and the
                        // residual.
                        unsafe {
                            if let Some(residual) = residual {
                                let from = residual.wrapping_offset(start as isize);
                                pixels = v.max(floor, v.add(pixels, v.load_masked(pixels, from, lanes)));
                            }
                            v.store_masked(to.wrapping_offset(start as isize), pixels, lanes);
                        }
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
