//! Weights at work: Dense and Conv2D as one operator, for every format and layout that can run it.
//!
//! A Dense layer is a convolution of one pixel by one pixel. Borders are a relayout's business: windows here lie inside the
//! image. The columns of the weight matrix are in (channel, row, column) order, as Conv2D weights lie in memory. A convolution
//! in groups is one matrix a group, which finds its channels where they are and writes its own.

use super::depthwise::Depthwise;
use super::elementwise::Add;
use super::pointwise::DensePointwise;
use super::relayout::Border;
use super::winograd::Winograd;
use super::{Layout, Operator, Shape, swept};
use crate::executor::{Executor, Sequential};
use crate::formats::direct::Pixels;
use crate::formats::vector::{Few, Strides};
use crate::formats::{
    Activation, Bitmap, Block, Csr, Direct, Epilogue, Form, Pack, Padded, Pattern, Rows, Stream, Window, dense, nm,
};
use crate::simd::Target;
use std::sync::Arc;

/// A layer with weights.
#[derive(Debug, Clone)]
pub struct Linear {
    /// One row an output channel.
    pub weights: Rows,
    /// One value an output channel.
    pub bias: Option<Vec<f32>>,
    /// Whether a second input, of the output's shape and in its layout, is added before the activation.
    pub residual: bool,
    /// Applied last.
    pub activation: Activation,
    /// The filter.
    pub window: Window,
    /// Filters of group g read the channels of group g alone: the columns of the weights are those of one group.
    pub groups: usize,
    /// Zeros around the image. Only depthwise layers make them themselves; elsewhere they are in the image already.
    pub border: Border,
    /// Shape of an input image.
    pub input: Shape,
    /// Shape of an output image.
    pub output: Shape,
}

/// How a layer with weights can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kernel {
    /// Dense, outputs in the lanes.
    Direct,
    /// Dense, 3×3 filters of stride 1 by Winograd's algorithm.
    Winograd,
    /// Dense, through the `gemm` crate.
    Gemm,
    /// Dense, images in the lanes.
    Panel,
    /// Dense, every channel by itself, channels, images or pixels in the lanes.
    Depthwise,
    /// Single weights, every channel by itself, images or pixels in the lanes.
    DepthwiseCsr,
    /// Single weights, row by row, images or pixels in the lanes.
    Csr,
    /// Single weights in pairs of rows, images or pixels in the lanes.
    Pattern,
    /// Blocks of four rows.
    Block4,
    /// Blocks of eight rows.
    Block8,
    /// Single weights, a few images at a time, one dot product an output.
    CsrDots,
    /// Single weights, at most N in every M inputs, a few images at a time, outputs in the lanes.
    NmDots,
    /// A bitmap, a few images at a time, outputs in the lanes.
    BitmapDots,
    /// Windows with padded slots, a few images at a time, outputs in the lanes.
    WindowDots,
    /// Windows without padding, a few images at a time, outputs in the lanes.
    StreamDots,
    /// Blocks of four rows, a few images at a time, outputs in the lanes.
    Block4Dots,
    /// Blocks of eight rows, a few images at a time, outputs in the lanes.
    Block8Dots,
    /// Blocks of sixteen rows, a few images at a time, outputs in the lanes.
    Block16Dots,
}

impl Kernel {
    /// Whether every weight is multiplied, zero or not.
    pub fn is_dense(self) -> bool {
        matches!(self, Kernel::Direct | Kernel::Winograd | Kernel::Gemm | Kernel::Panel | Kernel::Depthwise)
    }

    /// Whether a residual is added as results are stored, and not in a pass after that.
    fn adds(self) -> bool {
        use Kernel::{Block4, Block8, Csr, Direct, Panel, Pattern, Winograd};
        matches!(self, Direct | Winograd | Panel | Csr | Pattern | Block4 | Block8)
    }

    /// The format's name.
    pub fn format(self) -> &'static str {
        match self {
            Kernel::Direct | Kernel::Winograd | Kernel::Gemm | Kernel::Panel | Kernel::Depthwise => "dense",
            Kernel::Csr | Kernel::CsrDots | Kernel::DepthwiseCsr => "csr",
            Kernel::Pattern => "pattern",
            Kernel::Block4 | Kernel::Block8 => "block",
            Kernel::Block4Dots | Kernel::Block8Dots | Kernel::Block16Dots => "block",
            Kernel::NmDots => "nm",
            Kernel::BitmapDots => "bitmap",
            Kernel::WindowDots => "window",
            Kernel::StreamDots => "stream",
        }
    }
}

/// Whether every channel is a group.
pub(crate) fn depthwise(groups: usize, channels: usize) -> bool {
    groups > 1 && groups == channels
}

/// The columns of the weights where pixel order is wanted: (row, column, channel) instead of (channel, row, column).
fn channels_last(weights: &Rows, window: Window, channels: usize) -> Vec<f32> {
    let (m, k) = (weights.rows(), weights.columns());
    let pixels = window.size.0 * window.size.1;
    let mut dense = vec![0.0; m * k];
    for row in 0..m {
        for (column, x) in weights.row(row) {
            dense[row * k + column % pixels * channels + column / pixels] = x;
        }
    }
    dense
}

impl Linear {
    /// A product with vectors: `weights` (outputs, inputs).
    pub fn dense(weights: Rows, bias: Option<Vec<f32>>, activation: Activation) -> Linear {
        let (input, output) = (Shape::features(weights.columns()), Shape::features(weights.rows()));
        let (window, border) = (Window::ONE, Border::default());
        Linear { weights, bias, residual: false, activation, window, groups: 1, border, input, output }
    }

    /// Bias of a group, activation, and the residual among an operator's inputs.
    pub(super) fn epilogue<'a>(&'a self, group: usize, inputs: &[&'a [f32]]) -> Epilogue<'a> {
        let rows = self.output.c / self.groups;
        let bias = self.bias.as_deref().map(|bias| &bias[group * rows..][..rows]);
        Epilogue { residual: self.residual.then(|| inputs[1]), ..Epilogue::new(bias, self.activation) }
    }

    /// Whether the layer is a plain matrix-vector product.
    pub fn is_vector(&self) -> bool {
        self.input.h * self.input.w == 1
    }

    /// Whether the layer is a convolution by one pixel at a time: a matmul of each image.
    pub fn is_pointwise(&self) -> bool {
        self.window == Window::ONE && self.groups == 1 && !self.is_vector()
    }

    /// Whether every channel is a group.
    pub fn is_depthwise(&self) -> bool {
        depthwise(self.groups, self.input.c)
    }

    /// The weights of each group.
    pub(super) fn parts(&self) -> impl Iterator<Item = Rows> {
        let rows = self.weights.rows() / self.groups;
        (0..self.groups).map(move |group| self.weights.part(group * rows..(group + 1) * rows))
    }

    /// The same layer with zeros for weights: what an operator keeps beside its packed ones.
    pub(super) fn without_weights(&self) -> Linear {
        Linear { weights: Rows::empty(self.weights.rows(), self.weights.columns()), bias: self.bias.clone(), ..*self }
    }

    /// What its weights are packed for, under a name.
    pub(super) fn form(&self, name: &'static str, target: Target) -> Form<'static> {
        Form { name, target, filters: (self.window, self.groups), blocks: None }
    }

    /// Multiply-adds of one image that a dense run does.
    pub fn macs(&self) -> usize {
        self.weights.rows() * self.weights.columns() * self.output.h * self.output.w
    }

    /// Multiply-adds of one image with nonzero weights.
    pub fn nonzero_macs(&self) -> usize {
        self.weights.nnz() * self.output.h * self.output.w
    }

    /// The operator for a kernel and a pair of layouts that [`crate::plan::choose`] lists.
    pub fn build(
        &self,
        kernel: Kernel,
        input: Layout,
        output: Layout,
        images: usize,
        target: Target,
    ) -> Box<dyn Operator> {
        if self.residual && !(kernel.adds() && self.activation.afterwards().is_none()) {
            let plain = Linear { weights: self.weights.clone(), bias: self.bias.clone(), residual: false, ..*self };
            let plain = Linear { activation: Activation::None, ..plain };
            let product = plain.build(kernel, input, output, images, target);
            let add = Add { activation: self.activation, len: output.len(self.output, images), target };
            return Box::new(Added { product, add });
        }
        let form = self.form(kernel.format(), target);
        let weights = &self.weights;
        let few = |name, pack: fn(&Rows) -> Box<dyn Few>| -> Box<dyn Operator> {
            let weights = weights.packed(Form { name, ..form }, pack);
            Box::new(FewLinear { layer: self.without_weights(), weights, images, target })
        };
        match kernel {
            Kernel::Direct => {
                let pack = |weights: Rows| {
                    let dense = channels_last(&weights, self.window, self.input.c / self.groups);
                    Direct::pack(weights.rows(), weights.columns(), &dense, target)
                };
                let groups = weights.packed(form, |_| self.parts().map(pack).collect());
                Box::new(DirectLinear { layer: self.without_weights(), groups, images })
            }
            Kernel::Winograd => Box::new(Winograd::new(self, images, target)),
            Kernel::Depthwise | Kernel::DepthwiseCsr => {
                let sparse = kernel == Kernel::DepthwiseCsr;
                Box::new(Depthwise::new(self, (input, output), sparse, images, target))
            }
            Kernel::Gemm => {
                let (layer, dense) = (self.without_weights(), weights.packed(form, Rows::to_dense));
                match self.is_pointwise() {
                    true => Box::new(DensePointwise { layer, dense, images, target }),
                    false => Box::new(GemmLinear { layer, dense, images, target }),
                }
            }
            Kernel::CsrDots => few("csr", |rows| Box::new(Csr::pack_vector(rows))),
            // A candidate only where a pattern fits.
            Kernel::NmDots => {
                few("nm", |rows| nm::pack::<f32>(rows).unwrap_or_else(|| Box::new(Padded::<f32>::pack(rows))))
            }
            Kernel::BitmapDots => few("bitmap", |rows| Box::new(Bitmap::<f32>::pack(rows))),
            Kernel::WindowDots => few("window", |rows| Box::new(Padded::<f32>::pack(rows))),
            Kernel::StreamDots => few("stream", |rows| Box::new(Stream::<f32>::pack(rows))),
            Kernel::Block4Dots => few("block4", |rows| Box::new(Block::<4, f32>::pack_vector(rows))),
            Kernel::Block8Dots => few("block8", |rows| Box::new(Block::<8, f32>::pack_vector(rows))),
            Kernel::Block16Dots => few("block16", |rows| Box::new(Block::<16, f32>::pack_vector(rows))),
            Kernel::Panel => {
                let sweep = |weights: &Rows, blocks| Block::<8>::pack_columns(weights, blocks, true);
                swept::build(self, sweep, form, (input, output), images)
            }
            Kernel::Csr => swept::build(self, Csr::pack, form, (input, output), images),
            Kernel::Pattern => swept::build(self, Pattern::pack, form, (input, output), images),
            Kernel::Block4 => swept::build(self, Block::<4>::pack, form, (input, output), images),
            Kernel::Block8 => swept::build(self, Block::<8>::pack, form, (input, output), images),
        }
    }
}

/// Multiply-adds below which a step is not worth waking other threads for: about as long as they take to wake.
const SMALL: usize = 4_000_000;

pub(super) fn sequential_if_small(executor: &dyn Executor, macs: usize) -> &dyn Executor {
    if macs < SMALL { &Sequential } else { executor }
}

struct DirectLinear {
    layer: Linear,
    /// The matrix of each group.
    groups: Arc<Vec<Direct>>,
    images: usize,
}

impl Operator for DirectLinear {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let input = inputs[0];
        let Linear { window, input: Shape { c, h, w }, output: out, .. } = self.layer;
        let groups = self.groups.len();
        let (channels, filters) = (c / groups, out.c / groups);
        // Neighbouring taps are one run where nothing lies between them.
        let (runs, taps) = if groups == 1 && window.dilation.1 == 1 { (1, window.size.1) } else { (window.size.1, 1) };
        let pixels = Pixels {
            images: self.images,
            output: (out.h, out.w),
            image_step: c * h * w,
            row_step: window.stride.0 * w * c,
            column_step: window.stride.1 * c,
            output_step: out.c,
            segments: (window.size.0, runs),
            segment: taps * channels,
            segment_steps: (window.dilation.0 * w * c, window.dilation.1 * c),
        };
        let executor = sequential_if_small(executor, self.layer.macs() * self.images);
        for (group, direct) in self.groups.iter().enumerate() {
            let epilogue = self.layer.epilogue(group, inputs).from(group * filters);
            let (input, output) = (&input[group * channels..], &mut output[group * filters..]);
            direct.run(executor, &pixels, input, output, epilogue);
        }
    }

    fn kernel(&self) -> String {
        self.groups[0].kernel()
    }

    fn nbytes(&self) -> usize {
        self.groups.iter().map(Direct::nbytes).sum()
    }
}

struct GemmLinear {
    layer: Linear,
    dense: Arc<Vec<f32>>,
    images: usize,
    target: Target,
}

impl Operator for GemmLinear {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let (m, k) = (self.layer.weights.rows(), self.layer.weights.columns());
        let (input, output) = (inputs[0], &mut output[..self.images * m]);
        let weights = dense::Matrix::row_major(&self.dense, k).transposed();
        let input = dense::Matrix::row_major(&input[..self.images * k], k);
        let executor = sequential_if_small(executor, self.layer.macs() * self.images);
        dense::gemm(executor, (self.images, k, m), input, weights, 0.0, output);
        Epilogue::new(self.layer.bias.as_deref(), self.layer.activation).of_columns(self.target, output, m);
    }

    fn kernel(&self) -> String {
        "gemm_dense_f32".into()
    }

    fn nbytes(&self) -> usize {
        self.dense.len() * 4
    }
}

struct FewLinear {
    layer: Linear,
    weights: Arc<Box<dyn Few>>,
    images: usize,
    target: Target,
}

impl Operator for FewLinear {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let (m, k) = (self.layer.weights.rows(), self.layer.weights.columns());
        let executor = sequential_if_small(executor, self.weights.stored() * self.images);
        let (x, y) = ((inputs[0], Strides::rows(k)), (output, Strides::rows(m)));
        self.weights.multiply(executor, self.target, self.images, x, y, self.layer.epilogue(0, inputs));
    }

    fn kernel(&self) -> String {
        format!("spmv_{}_f32__{}", self.weights.name(), self.target.name())
    }

    fn nbytes(&self) -> usize {
        self.weights.nbytes()
    }
}

/// A product by a kernel that only writes, and what is added to it.
struct Added {
    product: Box<dyn Operator>,
    add: Add,
}

impl Operator for Added {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], scratch: &mut [f32]) {
        self.product.run(executor, &inputs[..1], output, scratch);
        Add::run(&self.add, executor, None, inputs[1], output);
    }

    fn scratch(&self) -> usize {
        self.product.scratch()
    }

    fn kernel(&self) -> String {
        format!("{}+add", self.product.kernel())
    }

    fn nbytes(&self) -> usize {
        self.product.nbytes()
    }
}
