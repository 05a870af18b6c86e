//! Weights and masks to packed weights, one file a format.

pub mod dense;
