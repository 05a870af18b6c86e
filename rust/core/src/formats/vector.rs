//! Few columns: y = W · x for one vector or some, with 16 rows of the matrix in the lanes.
//!
//! ```text
//! x     vector 0 [x x x … x]           padded with zeros where kernels would read behind the last column
//!       vector 1 [x x x … x]
//!
//! for task in rows:                    of several groups of vectors 64 rows: weights stay in cache from the first to the last
//!   for N of the vectors:              4, 2 or 1 share every weight that is read
//!     for group of 16 rows:            acc[N] = the format's kernel
//!       y[order[16 rows], N vectors] = activation(acc + bias)
//! ```

use super::Format;
use super::epilogue::Epilogue;
use super::shared::Shared;
use crate::executor::Executor;
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, WINDOW, dispatch};

/// `N` vectors that one matrix is multiplied with. Where the matrix asks for them, at least [`WINDOW`] zeros follow each.
#[derive(Clone, Copy)]
pub struct Operand<'a, const N: usize> {
    values: &'a [f32],
    pitch: usize,
}

impl<const N: usize> Operand<'_, N> {
    /// Where vector `j` begins.
    #[inline(always)]
    pub fn vector(self, j: usize) -> *const f32 {
        self.values[j * self.pitch..].as_ptr()
    }
}

/// A packed matrix whose rows are summed in the lanes.
pub trait Lanes: Format + Sync {
    /// Whether kernels read behind the values of a vector: up to [`WINDOW`] zeros.
    fn reads_behind(&self) -> bool;

    /// The row in lane i of group g, at 16 · g + i; `None` where it is that number itself.
    fn order(&self) -> Option<&[u32]> {
        None
    }

    /// The 16 rows of a group times each vector, every row summed in one order whatever `N`; lanes without a row hold
    /// anything.
    ///
    /// # Safety
    /// The vectors have a value a column of the matrix, and zeros behind them where it asks for them; `group` is below ⌈rows / 16⌉.
    unsafe fn group<V: Vector, const N: usize>(&self, v: V, x: Operand<'_, N>, group: usize) -> [V::F32; N];
}

/// Where element i of vector j lies: at i · `step` + j · `apart`.
#[derive(Debug, Clone, Copy)]
pub struct Strides {
    /// Between neighbours of a vector.
    pub step: usize,
    /// Between vectors.
    pub apart: usize,
}

impl Strides {
    /// Vectors as the columns of a row-major matrix of `n` columns.
    pub fn columns(n: usize) -> Strides {
        Strides { step: n, apart: 1 }
    }

    /// Vectors of `len` elements one after another.
    pub fn rows(len: usize) -> Strides {
        Strides { step: 1, apart: len }
    }

    fn hold(self, len: usize, vectors: usize, floats: usize) -> bool {
        len == 0 || vectors == 0 || (len - 1) * self.step + (vectors - 1) * self.apart < floats
    }
}

/// A packed matrix for few columns, whatever its format.
pub trait Few: Format + Send + Sync + std::fmt::Debug {
    /// `y = activation(matrix · x + bias)` for `n` vectors.
    ///
    /// # Panics
    /// Where `x`, `y` or the bias do not fit the matrix: callers check shapes.
    fn multiply(
        &self,
        executor: &dyn Executor,
        target: Target,
        n: usize,
        x: (&[f32], Strides),
        y: (&mut [f32], Strides),
        epilogue: Epilogue<'_>,
    );
}

/// Groups in a task, where they are read for several vectors in turn.
const TASK_GROUPS: usize = 4;
/// Vectors that share every weight that is read, at most.
const TOGETHER: usize = 4;

impl<M: Lanes + Send + std::fmt::Debug> Few for M {
    fn multiply(
        &self,
        executor: &dyn Executor,
        target: Target,
        n: usize,
        (x, from): (&[f32], Strides),
        (y, to): (&mut [f32], Strides),
        epilogue: Epilogue<'_>,
    ) {
        let (m, k) = self.shape();
        assert!(from.hold(k, n, x.len()) && to.hold(m, n, y.len()), "multiply: the vectors do not fit the matrix");
        let padded = (self.reads_behind() || from.step != 1).then(|| padded((n, k), x, from));
        let (x, pitch) = padded.as_ref().map_or((x, from.apart), |(padded, pitch)| (&padded[..], *pitch));
        // In the order of the lanes, as `Task` adds it.
        let bias = epilogue.bias.map(|bias| {
            assert_eq!(bias.len(), m, "multiply: the bias does not fit the rows");
            let mut lanes = Buffer::zeroed(m.next_multiple_of(LANES));
            match self.order() {
                Some(order) => lanes.iter_mut().zip(order).for_each(|(lane, &row)| *lane = bias[row as usize]),
                None => lanes[..m].copy_from_slice(bias),
            }
            lanes
        });
        let y = Shared::new(y);
        let groups = m.div_ceil(LANES);
        let at_once = if n <= TOGETHER && executor.threads() == 1 { groups.max(1) } else { TASK_GROUPS };
        executor.run(groups.div_ceil(at_once), &|task| {
            let groups = task * at_once..((task + 1) * at_once).min(groups);
            let rows = Task { matrix: self, n, x, pitch, y: y.get(), to, bias: bias.as_deref(), epilogue, groups };
            dispatch(target, rows);
        });
    }
}

/// The vectors with [`WINDOW`] zeros or more behind each, and how far apart they are.
fn padded((n, k): (usize, usize), x: &[f32], from: Strides) -> (Buffer, usize) {
    let pitch = (k + WINDOW).next_multiple_of(LANES);
    let mut padded = Buffer::zeroed(n * pitch);
    for (j, vector) in padded.chunks_exact_mut(pitch).enumerate() {
        if from.step == 1 {
            vector[..k].copy_from_slice(&x[j * from.apart..][..k]);
        } else {
            vector[..k].iter_mut().enumerate().for_each(|(i, value)| *value = x[i * from.step + j * from.apart]);
        }
    }
    (padded, pitch)
}

/// Some groups of rows times all vectors.
struct Task<'a, M: Lanes> {
    matrix: &'a M,
    n: usize,
    x: &'a [f32],
    pitch: usize,
    y: *mut f32,
    to: Strides,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue<'a>,
    groups: std::ops::Range<usize>,
}

impl<M: Lanes> Kernel for Task<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let mut first = 0;
        while first < self.n {
            first += match self.n - first {
                1 => self.vectors::<V, 1>(v, first),
                2 | 3 => self.vectors::<V, 2>(v, first),
                _ => self.vectors::<V, TOGETHER>(v, first),
            };
        }
    }
}

impl<M: Lanes> Task<'_, M> {
    /// Vectors `first .. first + N`; returns N.
    #[inline(always)]
    fn vectors<V: Vector, const N: usize>(&self, v: V, first: usize) -> usize {
        let x = Operand::<N> { values: &self.x[first * self.pitch..], pitch: self.pitch };
        let m = self.matrix.shape().0;
        for group in self.groups.clone() {
            // SAFETY: `multiply` padded one value a column and cut the groups.
            let acc = unsafe { self.matrix.group::<V, N>(v, x, group) };
            let bias = self.bias.map_or(v.splat(0.0), |bias| v.load(&bias[group * LANES..]));
            let here = LANES.min(m - group * LANES);
            for (j, acc) in (first..).zip(acc) {
                let acc = self.epilogue.activation.of_vector(v, v.add(acc, bias));
                let y = self.y.wrapping_add(j * self.to.apart);
                // SAFETY: `multiply` checked that `y` holds m × n with these strides; an order names each of the m rows once,
                // so this task alone stores to the rows of its groups.
                unsafe {
                    match self.matrix.order() {
                        None if self.to.step == 1 && here == LANES => v.store_ptr(y.add(group * LANES), acc),
                        None if self.to.step == 1 => v.store_first(y.add(group * LANES), acc, here),
                        None => {
                            for (lane, value) in v.to_array(acc)[..here].iter().enumerate() {
                                *y.add((group * LANES + lane) * self.to.step) = *value;
                            }
                        }
                        // As many as there mostly are: the loop unrolls, without a test a lane.
                        Some(order) if self.to.step == 1 && here == LANES => {
                            let (rows, values) = (order.as_ptr().add(group * LANES), v.to_array(acc));
                            for (lane, value) in values.iter().enumerate() {
                                *y.add(*rows.add(lane) as usize) = *value;
                            }
                        }
                        Some(order) => {
                            let rows = &order[group * LANES..group * LANES + here];
                            for (&row, value) in rows.iter().zip(v.to_array(acc)) {
                                *y.add(row as usize * self.to.step) = value;
                            }
                        }
                    }
                }
            }
        }
        N
    }
}
