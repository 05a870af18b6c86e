//! The engine of secateur: exact importance selection, packed sparse formats, their kernels, and inference plans.
//!
//! The modules are the pipeline: scores are made to masks in [`select`], weights and masks are packed in [`formats`], packed
//! weights and the other operators ([`ops`]) form a [`plan`], which runs on an [`executor`]; [`train`] holds the backward
//! pass and [`store`] the files. No stage imports a later one.

pub mod error;
pub mod executor;
pub mod formats;
pub mod mask;
#[cfg(any(test, feature = "reference"))]
pub mod naive;
pub mod ops;
pub mod plan;
pub mod select;
pub mod simd;
pub mod store;
pub mod train;

pub use error::{Error, Result};
