//! The nonzeros of a matrix, row by row: what every format packs from and unpacks to. Structure is checked here, once.

use super::packs::{Form, Packs};
use crate::argument;
use crate::error::Result;
use crate::malformed;
use crate::simd::Storage;
use std::ops::Range;
use std::sync::Arc;

/// Plain compressed rows, columns ascending in every row.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    columns: usize,
    starts: Vec<usize>,
    index: Vec<u32>,
    values: Vec<f32>,
    packs: Packs,
}

impl Rows {
    /// The nonzeros of a row-major `rows` × `columns` matrix.
    pub fn from_dense(rows: usize, columns: usize, dense: &[f32]) -> Result<Rows> {
        if rows.checked_mul(columns) != Some(dense.len()) {
            return Err(argument!("weights: {} values do not fill {rows} x {columns}", dense.len()));
        }
        check_size(rows, columns)?;
        let nnz = dense.iter().filter(|&&x| x != 0.0).count();
        let (mut index, mut values) = (Vec::with_capacity(nnz), Vec::with_capacity(nnz));
        let mut starts = Vec::with_capacity(rows + 1);
        starts.push(0);
        for row in 0..rows {
            for (column, &x) in dense[row * columns..(row + 1) * columns].iter().enumerate() {
                if x != 0.0 {
                    index.push(column as u32);
                    values.push(x);
                }
            }
            starts.push(values.len());
        }
        Ok(Rows { columns, starts, index, values, packs: Packs::default() })
    }

    /// The matrix with its values rounded to `storage`; those that become 0 are dropped.
    ///
    /// # Errors
    /// Where a finite value is beyond the largest that can be stored.
    pub fn rounded(mut self, storage: Storage) -> Result<Rows> {
        if storage == Storage::F32 {
            return Ok(self);
        }
        storage.round("weights", &mut self.values)?;
        let mut out = Rows::empty(0, self.columns);
        for row in 0..self.rows() {
            for (column, x) in self.row(row).filter(|&(_, x)| x != 0.0) {
                out.index.push(column as u32);
                out.values.push(x);
            }
            out.starts.push(out.values.len());
        }
        Ok(out)
    }

    /// A matrix of zeros.
    pub fn empty(rows: usize, columns: usize) -> Rows {
        Rows { columns, starts: vec![0; rows + 1], index: Vec::new(), values: Vec::new(), packs: Packs::default() }
    }

    /// Compressed rows made elsewhere. Refused: starts that do not ascend from 0 to the number of values, columns out of
    /// range, unsorted or repeated in a row. Explicit zeros are dropped.
    pub fn from_parts(rows: usize, columns: usize, starts: &[i64], index: &[i64], values: &[f32]) -> Result<Rows> {
        check_size(rows, columns)?;
        if index.len() != values.len() {
            return Err(malformed!("indices: {} for {} values", index.len(), values.len()));
        }
        if rows.checked_add(1) != Some(starts.len()) {
            return Err(malformed!("indptr: {} entries for {rows} rows", starts.len()));
        }
        if starts[0] != 0 || starts[rows] != values.len() as i64 {
            return Err(malformed!(
                "indptr: runs from {} to {}, not from 0 to {}",
                starts[0],
                starts[rows],
                values.len()
            ));
        }
        if let Some(row) = starts.windows(2).position(|pair| pair[0] > pair[1]) {
            return Err(malformed!("indptr: descends after row {row}"));
        }
        let mut out = Rows::empty(0, columns);
        for row in 0..rows {
            let mut least = 0;
            for at in starts[row] as usize..starts[row + 1] as usize {
                let column = index[at];
                if column < least || column >= columns as i64 {
                    let wrong = if (0..columns as i64).contains(&column) { "not ascending" } else { "out of range" };
                    return Err(malformed!("indices: column {column} of row {row} is {wrong}"));
                }
                least = column + 1;
                if values[at] != 0.0 {
                    out.index.push(column as u32);
                    out.values.push(values[at]);
                }
            }
            out.starts.push(out.values.len());
        }
        Ok(out)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Nonzeros.
    pub fn nnz(&self) -> usize {
        self.values.len()
    }

    /// Nonzeros over elements; 0 for an empty matrix.
    pub fn density(&self) -> f64 {
        self.nnz() as f64 / (self.rows() * self.columns).max(1) as f64
    }

    /// The columns and values of a row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let run = self.starts[row]..self.starts[row + 1];
        self.index[run.clone()].iter().zip(&self.values[run]).map(|(&column, &x)| (column as usize, x))
    }

    /// Starts, columns and values, as SciPy's csr_matrix has them.
    pub fn parts(&self) -> (&[usize], &[u32], &[f32]) {
        (&self.starts, &self.index, &self.values)
    }

    /// The values, row by row.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.packs = Packs::default();
        &mut self.values
    }

    /// The same structure, with the bits 1, 2, 3 … in the place of the values: whatever is packed from it tells where each
    /// value went, and 0 where there was none.
    pub fn ordinals(&self) -> Rows {
        Rows { values: (1..=self.nnz() as u32).map(f32::from_bits).collect(), packs: Packs::default(), ..self.clone() }
    }

    /// Some rows of the matrix.
    pub fn part(&self, rows: Range<usize>) -> Rows {
        let (from, to) = (self.starts[rows.start], self.starts[rows.end]);
        Rows {
            columns: self.columns,
            starts: self.starts[rows.start..=rows.end].iter().map(|start| start - from).collect(),
            index: self.index[from..to].to_vec(),
            values: self.values[from..to].to_vec(),
            packs: Packs::default(),
        }
    }

    /// A packed form of the matrix, by `pack`, unless somebody holds it already: equal forms of a type are the same.
    pub fn packed<T: Send + Sync + 'static>(&self, form: Form<'_>, pack: impl FnOnce(&Rows) -> T) -> Arc<T> {
        self.packs.get(form, || pack(self))
    }

    /// The row-major matrix.
    pub fn to_dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows() * self.columns];
        self.write_dense(&mut dense);
        dense
    }

    /// As [`Rows::to_dense`], into zeros.
    ///
    /// # Panics
    /// Where there is no room for all.
    pub fn write_dense(&self, zeros: &mut [f32]) {
        for row in 0..self.rows() {
            for (column, x) in self.row(row) {
                zeros[row * self.columns + column] = x;
            }
        }
    }

    /// The transposed matrix.
    pub fn transposed(&self) -> Rows {
        let mut starts = vec![0usize; self.columns + 1];
        for &column in &self.index {
            starts[column as usize + 1] += 1;
        }
        for column in 0..self.columns {
            starts[column + 1] += starts[column];
        }
        let mut next = starts.clone();
        let (mut index, mut values) = (vec![0u32; self.nnz()], vec![0.0; self.nnz()]);
        for row in 0..self.rows() {
            for (column, x) in self.row(row) {
                index[next[column]] = row as u32;
                values[next[column]] = x;
                next[column] += 1;
            }
        }
        Rows { columns: self.rows(), starts, index, values, packs: Packs::default() }
    }

    /// Whether every row has at most `n` nonzeros in each `m` neighbouring columns from 0, m, 2m … on.
    pub fn fits(&self, n: usize, m: usize) -> bool {
        (0..self.rows()).all(|row| {
            let index = &self.index[self.starts[row]..self.starts[row + 1]];
            // Columns ascend: the one n places on lies in the same group where there are too many.
            index.iter().zip(index.iter().skip(n)).all(|(&column, &later)| column as usize / m != later as usize / m)
        })
    }

    /// The nonzeros that `place` keeps, (row, column) moved to where it says, in a matrix of that shape. No two may meet.
    pub(super) fn moved(
        &self,
        (rows, columns): (usize, usize),
        place: impl Fn(usize, usize) -> Option<(usize, usize)>,
    ) -> Rows {
        let all = (0..self.rows()).flat_map(|row| self.row(row).map(move |(column, x)| (row, column, x)));
        let mut kept: Vec<((usize, usize), f32)> =
            all.filter_map(|(row, column, x)| place(row, column).map(|place| (place, x))).collect();
        kept.sort_unstable_by_key(|&(place, _)| place);
        let starts = (0..=rows).map(|row| kept.partition_point(|&((to, _), _)| to < row)).collect();
        let index = kept.iter().map(|&((_, column), _)| column as u32).collect();
        Rows { columns, starts, index, values: kept.into_iter().map(|(_, x)| x).collect(), packs: Packs::default() }
    }

    /// Nonzeros over the elements of the `height`-row blocks (one column wide) that hold any: 1 where blocks are full.
    pub fn block_fill(&self, height: usize) -> f64 {
        let mut seen = vec![usize::MAX; self.columns];
        let mut blocks = 0usize;
        for row in 0..self.rows() {
            for (column, _) in self.row(row) {
                if seen[column] != row / height {
                    seen[column] = row / height;
                    blocks += 1;
                }
            }
        }
        self.nnz() as f64 / (blocks * height).max(1) as f64
    }
}

/// Packed starts are 32-bit: larger matrices are refused, not truncated.
fn check_size(rows: usize, columns: usize) -> Result<()> {
    match rows.checked_mul(columns) {
        // Headroom for the rows that blocks of 8 round up to.
        Some(size) if size <= (u32::MAX / 8) as usize && rows.max(columns) <= (u32::MAX / 8) as usize => Ok(()),
        _ => Err(argument!("weights: {rows} x {columns} is beyond the {} elements that are supported", u32::MAX / 8)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_and_back_and_across() {
        for (m, k) in [(0, 0), (0, 3), (3, 0), (1, 1), (5, 9), (31, 33)] {
            let dense: Vec<f32> = (0..m * k).map(|i| if i % 3 == 0 { i as f32 } else { 0.0 }).collect();
            let rows = Rows::from_dense(m, k, &dense).unwrap();
            assert_eq!(rows.to_dense(), dense);
            assert_eq!(rows.transposed().transposed(), rows);
        }
    }

    #[test]
    fn malformed_parts_are_refused() {
        let refused = |starts: &[i64], index: &[i64], values: &[f32]| {
            Rows::from_parts(2, 3, starts, index, values).unwrap_err().to_string()
        };
        assert!(refused(&[0, 1], &[0], &[1.0]).contains("indptr"));
        assert!(refused(&[0, 2, 1], &[0], &[1.0]).contains("descends"));
        assert!(refused(&[1, 1, 1], &[0], &[1.0]).contains("indptr"));
        assert!(refused(&[0, 1, 2], &[0, 3], &[1.0, 1.0]).contains("out of range"));
        assert!(refused(&[0, 1, 2], &[0, -1], &[1.0, 1.0]).contains("out of range"));
        assert!(refused(&[0, 2, 2], &[1, 1], &[1.0, 1.0]).contains("not ascending"));
        assert!(refused(&[0, 1, 2], &[0], &[1.0, 1.0]).contains("indices"));
        assert!(refused(&[0, -1, 2], &[0, 1], &[1.0, 1.0]).contains("descends"));
    }
}
