//! Convolutions and matmuls by sweeping packed weights over the operand: with images in the lanes, with pixels in the lanes,
//! or image by image.

use super::linear::{Linear, sequential_if_small};
use super::pointwise::Pointwise;
use super::taps::Taps;
use super::{Layout, Operator, Shape};
use crate::executor::Executor;
use crate::formats::panels::Spare;
use crate::formats::sweep::{Geometry, Span, Sweep, run_kernel, sweep};
use crate::formats::{Convolution, Epilogue, Form, Format, Halving, KBlocks, Pack, Planes, Rows};
use crate::simd::{LANES, Target};
use std::sync::Arc;

/// The runs of an operand, with what [`Geometry`] says of them.
#[derive(Debug, Clone)]
pub(super) struct Runs {
    /// Floats in one step of a position.
    pub unit: usize,
    /// Floats between two filters' results.
    pub row_stride: usize,
    /// The runs.
    pub spans: Vec<Span>,
}

/// The operator of a layer whose weights `pack` packs, for these layouts.
pub(super) fn build<M: Sweep + Pack + Send + 'static>(
    layer: &Linear,
    pack: impl Fn(&Rows, KBlocks) -> M,
    form: Form<'_>,
    (input, output): (Layout, Layout),
    images: usize,
) -> Box<dyn Operator> {
    let Form { name: format, target, .. } = form;
    let tile_lines = M::run_lines(target.registers());
    let pack_groups = |blocks: KBlocks| {
        let pack = |weights: Rows| pack(&weights, blocks.clone());
        layer.weights.packed(Form { blocks: Some(&blocks), ..form }, |_| layer.parts().map(pack).collect::<Vec<M>>())
    };
    match (input, output) {
        (_, Layout::BatchInner { lines }) => {
            let (runs, positions) = batch_inner(layer, lines, images);
            let longest = runs.spans.iter().map(|span| span.lines).max().unwrap_or(1);
            let most = KBlocks::filters(layer.window, tile_lines.min(longest), lines, layer.weights.density());
            let groups = pack_groups(KBlocks::new(positions, most));
            let layer = layer.without_weights();
            Box::new(Swept { layer, groups, format, runs, taps: None, images, target })
        }
        (_, Layout::Pooled { lines, reduction }) => {
            let planes = |Shape { c, h, w }: Shape| Planes { channels: c, size: (h, w), pitch: w };
            let planes = (planes(layer.input), planes(output.in_memory(layer.output)));
            let halving = Halving::new(layer.window, reduction, planes, lines);
            let groups = pack_groups(halving.blocks(&layer.weights, tile_lines));
            let (layer, spare) = (layer.without_weights(), Spare::default());
            Box::new(Halved { layer, halving, groups, format, panels: images.div_ceil(lines * LANES), target, spare })
        }
        (Layout::RowMajor, Layout::RowMajor) if layer.is_pointwise() => {
            Box::new(Pointwise::new(layer, pack, form, images))
        }
        (Layout::RowMajor | Layout::PixelPanel, Layout::PixelPanel) => {
            let taps = Taps::new(layer, input);
            let groups = pack_groups(KBlocks::new(taps.positions(layer), KBlocks::PIXELS));
            let runs = taps.runs(layer, images);
            Box::new(Swept { layer: layer.without_weights(), groups, format, runs, taps: Some(taps), images, target })
        }
        _ => {
            let border = input.border();
            let (from, to) = (input.planes(layer.input), output.planes(layer.output));
            let convolution =
                Convolution::new(layer.window, from, to, (border.top as isize, border.left as isize), images);
            let groups = pack_groups(convolution.blocks(&layer.weights, tile_lines));
            let (layer, spare) = (layer.without_weights(), Spare::default());
            Box::new(Single { layer, convolution, groups, format, images, target, spare })
        }
    }
}

/// Images in the lanes, `lines` registers of them: every tap is an offset of whole pixels.
fn batch_inner(layer: &Linear, lines: usize, images: usize) -> (Runs, Vec<u32>) {
    let Linear { window, input, output, .. } = layer;
    let unit = lines * LANES;
    let mut spans = Vec::new();
    for panel in 0..images.div_ceil(unit) {
        for y in 0..output.h {
            // Neighbouring outputs read neighbouring inputs only at stride 1.
            let (runs, pixels) = if window.stride.1 == 1 { (1, output.w) } else { (output.w, 1) };
            for run in 0..runs {
                let from = (y * window.stride.0) * input.w + run * window.stride.1;
                spans.push(Span {
                    input: (panel * input.len() + from) * unit,
                    output: (panel * output.len() + y * output.w + run) * unit,
                    lines: pixels * lines,
                });
            }
        }
    }
    let positions =
        (0..layer.weights.columns()).map(|column| window.position(column, input.h * input.w, input.w)).collect();
    (Runs { unit, row_stride: output.h * output.w * unit, spans }, positions)
}

/// Images or pixels in the lanes.
struct Swept<M> {
    layer: Linear,
    /// The matrix of each group.
    groups: Arc<Vec<M>>,
    format: &'static str,
    runs: Runs,
    /// Where the lanes hold pixels.
    taps: Option<Taps>,
    images: usize,
    target: Target,
}

impl<M: Sweep + Format + Send> Operator for Swept<M> {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], scratch: &mut [f32]) {
        let input = inputs[0];
        let Linear { input: from, output: to, .. } = self.layer;
        let executor = executor_for(executor, &self.groups, to.h * to.w * self.images);
        let scratch = &mut scratch[..self.scratch()];
        let (input, channel_len) = match &self.taps {
            Some(taps) => (taps.operand(&self.layer, executor, input, scratch), taps.channel_len(self.layer.window)),
            None => (input, from.h * from.w * self.runs.unit),
        };
        let Runs { unit, row_stride, ref spans } = self.runs;
        let geometry = Geometry { unit, row_stride, spans };
        let groups = self.groups.len();
        for (group, matrix) in self.groups.iter().enumerate() {
            let input = &input[group * (from.c / groups) * channel_len..];
            let at = group * (to.c / groups) * row_stride;
            let (output, epilogue) = (&mut output[at..], self.layer.epilogue(group, inputs).from(at));
            sweep(matrix, executor, self.target, &geometry, input, output, epilogue);
        }
    }

    fn scratch(&self) -> usize {
        self.taps.as_ref().map_or(0, |taps| taps.scratch(&self.layer, self.images))
    }

    fn kernel(&self) -> String {
        run_kernel::<M>(self.format, self.target)
    }

    fn nbytes(&self) -> usize {
        self.groups.iter().map(Format::nbytes).sum()
    }
}

/// The executor for packed weights that meet so many pixels each.
fn executor_for<'a, M: Format>(executor: &'a dyn Executor, groups: &[M], pixels: usize) -> &'a dyn Executor {
    sequential_if_small(executor, groups.iter().map(Format::stored).sum::<usize>() * pixels)
}

/// Image by image.
struct Single<M> {
    layer: Linear,
    convolution: Convolution,
    /// The matrix of each group.
    groups: Arc<Vec<M>>,
    format: &'static str,
    images: usize,
    target: Target,
    spare: Spare,
}

impl<M: Sweep + Format + Send> Operator for Single<M> {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let Linear { output: to, ref bias, .. } = self.layer;
        let executor = executor_for(executor, &self.groups, to.h * to.w * self.images);
        let epilogue = Epilogue { bias: bias.as_deref(), ..self.layer.epilogue(0, inputs) };
        self.convolution.run(
            &self.groups,
            executor,
            self.target,
            &self.spare,
            self.images,
            inputs[0],
            output,
            epilogue,
        );
    }

    fn kernel(&self) -> String {
        run_kernel::<M>(self.format, self.target)
    }

    fn nbytes(&self) -> usize {
        self.groups.iter().map(Format::nbytes).sum()
    }
}

/// Images in the lanes, pooled as they are made.
struct Halved<M> {
    layer: Linear,
    halving: Halving,
    /// The matrix of each group.
    groups: Arc<Vec<M>>,
    format: &'static str,
    /// Panels of images.
    panels: usize,
    target: Target,
    spare: Spare,
}

impl<M: Sweep + Format + Send> Operator for Halved<M> {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let Linear { output: to, ref bias, activation, .. } = self.layer;
        let executor = executor_for(executor, &self.groups, to.h * to.w * self.panels * LANES);
        let epilogue = Epilogue::new(bias.as_deref(), activation);
        self.halving.run(&self.groups, executor, self.target, &self.spare, self.panels, inputs[0], output, epilogue);
    }

    fn kernel(&self) -> String {
        format!("{}+pool", run_kernel::<M>(self.format, self.target))
    }

    fn nbytes(&self) -> usize {
        self.groups.iter().map(Format::nbytes).sum()
    }
}
