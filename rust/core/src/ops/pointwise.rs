//! Convolution by one pixel, row-major in and out: the weights times each image as a (channels, pixels) matrix. Pixels are the
//! columns of a matmul, so nothing is laid out anew.

use super::Operator;
use super::linear::{Linear, sequential_if_small};
use crate::executor::Executor;
use crate::formats::panels::{Spare, multiply};
use crate::formats::sweep::{Sweep, panel_kernel};
use crate::formats::{Form, Format, KBlocks, Pack, Rows, dense};
use crate::simd::Target;
use std::sync::Arc;

/// A convolution by one pixel with packed weights.
pub struct Pointwise<M> {
    layer: Linear,
    matrix: Arc<M>,
    format: &'static str,
    images: usize,
    target: Target,
    spare: Spare,
}

impl<M: Sweep + Send + 'static> Pointwise<M> {
    /// Packs the layer's weights by `pack`.
    pub fn new(layer: &Linear, pack: impl Fn(&Rows, KBlocks) -> M, form: Form<'_>, images: usize) -> Pointwise<M> {
        let Form { name: format, target, .. } = form;
        let positions = (0..layer.input.c as u32).collect();
        let blocks = KBlocks::new(positions, M::panel_columns(target.registers(), layer.weights.density()));
        let form = Form { blocks: Some(&blocks), ..form };
        let matrix = layer.weights.packed(form, |weights| pack(weights, blocks.clone()));
        Pointwise { layer: layer.without_weights(), matrix, format, images, target, spare: Spare::default() }
    }
}

impl<M: Sweep + Pack + Format + Send> Operator for Pointwise<M> {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let (from, to) = (self.layer.input, self.layer.output);
        let pixels = to.h * to.w;
        let executor = sequential_if_small(executor, self.matrix.stored() * pixels);
        let images = inputs[0].chunks(from.len().max(1)).zip(output.chunks_mut(to.len().max(1)));
        for (image, (x, y)) in images.take(self.images).enumerate() {
            let epilogue = self.layer.epilogue(0, inputs).from(image * to.len());
            multiply(&*self.matrix, executor, self.target, &self.spare, pixels, x, y, epilogue);
        }
    }

    fn kernel(&self) -> String {
        panel_kernel(&*self.matrix, self.format, self.target)
    }

    fn nbytes(&self) -> usize {
        self.matrix.nbytes()
    }
}

/// A convolution by one pixel with dense weights.
pub struct DensePointwise {
    /// The layer, which may be left without weights.
    pub layer: Linear,
    /// Its weights, row-major.
    pub dense: Arc<Vec<f32>>,
    /// Images.
    pub images: usize,
    /// CPU target.
    pub target: Target,
}

impl Operator for DensePointwise {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let (from, to) = (self.layer.input, self.layer.output);
        let pixels = to.h * to.w;
        let executor = sequential_if_small(executor, self.layer.macs());
        let images = inputs[0].chunks(from.len().max(1)).zip(output.chunks_mut(to.len().max(1)));
        for (x, y) in images.take(self.images) {
            let view = dense::Matrix::row_major;
            dense::gemm(executor, (to.c, from.c, pixels), view(&self.dense, from.c), view(x, pixels), 0.0, y);
            self.layer.epilogue(0, inputs).of_rows(self.target, y, pixels);
        }
    }

    fn kernel(&self) -> String {
        "gemm_dense_f32".into()
    }

    fn nbytes(&self) -> usize {
        self.dense.len() * 4
    }
}
