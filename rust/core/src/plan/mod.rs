//! Networks: a graph with typed edges, the choice of kernels and layouts by measurement, and its execution.

pub mod build;
pub mod choose;
pub mod graph;
mod program;
mod race;
pub mod run;
mod settle;
#[cfg(test)]
mod tests;

pub use choose::{Choice, Choices};
pub use graph::{Axes, Dtype, Edge, Graph, Op};
pub use race::Times;
pub use run::{Plan, StepReport};
