//! Weights and masks to packed weights, one file a format.
//!
//! [`Rows`] holds the nonzeros of a matrix; each format packs them its own way and brings its kernel: [`Pattern`], [`Csr`]
//! and [`Block`] run over many columns by [`sweep`] and [`panels`]; [`Block`], [`Csr`], [`nm`], [`Bitmap`] and [`windowed`]
//! over few by [`vector`]; dense weights by [`direct`] or the `gemm` crate. [`Packed`] is the closed list that users choose from.

pub mod bitmap;
pub mod block;
mod cells;
mod conv2d;
mod convolve;
pub mod csr;
pub mod dense;
pub mod depthwise;
pub mod direct;
pub mod epilogue;
mod gradient;
mod halving;
pub mod kblocks;
pub mod matrix;
mod next;
pub mod nm;
mod order;
mod packed_conv2d;
mod packs;
pub mod panels;
pub mod pattern;
mod phases;
pub mod rows;
mod sddmm;
mod shared;
pub mod sweep;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_conv2d;
pub mod vector;
mod window;
pub mod windowed;

pub use bitmap::Bitmap;
pub use block::Block;
pub use cells::Planes;
pub use conv2d::{Conv2d, Over, Padding};
pub use convolve::Convolution;
pub use csr::Csr;
pub use direct::Direct;
pub use epilogue::{Activation, Epilogue};
pub use halving::{Halving, Reduction};
pub use kblocks::KBlocks;
pub use matrix::{Kind, PackedMatrix};
pub use packed_conv2d::PackedConv2d;
pub use packs::Form;
pub use pattern::Pattern;
pub use rows::Rows;
pub use sddmm::Quads;
pub use window::Window;
pub use windowed::{Padded, Stream};

/// What every packed matrix can say of itself.
pub trait Format {
    /// The format's name.
    fn name(&self) -> &'static str;
    /// Rows and columns.
    fn shape(&self) -> (usize, usize);
    /// Memory of the packed form, in bytes.
    fn nbytes(&self) -> usize;
    /// Values held, the zeros that fill blocks included.
    fn stored(&self) -> usize;
    /// The row-major matrix.
    fn to_dense(&self) -> Vec<f32>;
}

/// Packing for [`sweep`].
pub trait Pack: Format {
    /// Packs `rows`, whose columns meet the operand and are cut as `blocks` says.
    fn pack(rows: &Rows, blocks: KBlocks) -> Self;
    /// The values held, in the format's order, padding included.
    fn values_mut(&mut self) -> &mut [f32];
}
