//! Convolution in groups: filters of group g read the channels of group g alone. One group is a convolution; as many
//! groups as channels are a depthwise one; what lies between runs group by group on copies of its channels.

use super::conv::{Backward, Conv};
use super::depthwise::Depthwise;
use super::for_each_chunk;
use super::window::Window;
use crate::argument;
use crate::error::Result;
use crate::executor::Executor;
use crate::simd::Target;

/// A convolution of `images` channels-last images in groups. Weights are `[filter][channel of the group][row][column]`.
#[derive(Debug, Clone, Copy)]
pub struct Grouped {
    /// One group.
    part: Conv,
    depthwise: Option<Depthwise>,
    groups: usize,
    channels: usize,
    filters: usize,
}

impl Grouped {
    /// A convolution; `window` holds the images' height and width.
    pub fn new(window: Window, images: usize, channels: usize, filters: usize, groups: usize) -> Result<Grouped> {
        if groups == 0 || !channels.is_multiple_of(groups) || !filters.is_multiple_of(groups) {
            return Err(argument!("groups: {groups} does not divide {channels} channels and {filters} filters"));
        }
        let part = Conv::new(window, images, channels / groups, filters / groups)?;
        let target = Target::detect();
        let depthwise =
            (groups > 1 && channels == groups).then_some(Depthwise { window, images, channels, filters, target });
        Ok(Grouped { part, depthwise, groups, channels, filters })
    }

    /// The same convolution on another target.
    pub fn on(self, target: Target) -> Grouped {
        let depthwise = self.depthwise.map(|depthwise| Depthwise { target, ..depthwise });
        Grouped { part: self.part.on(target), depthwise, ..self }
    }

    /// As [`Conv::forward`].
    ///
    /// # Panics
    /// Where a slice has not the length that the shapes ask for: callers check shapes.
    pub fn forward(
        &self,
        executor: &dyn Executor,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        relu: bool,
        y: &mut [f32],
    ) {
        if let Some(depthwise) = &self.depthwise {
            return depthwise.forward(executor, x, weight, bias, relu, y);
        }
        if self.groups == 1 {
            return self.part.forward(executor, x, weight, bias, relu, y);
        }
        let filters = self.filters / self.groups;
        let mut output = vec![0.0; y.len() / self.groups];
        for group in 0..self.groups {
            let input = self.take(executor, x, self.channels, group);
            let bias = bias.map(|bias| &bias[group * filters..][..filters]);
            self.part.forward(executor, &input, self.weight(weight, group), bias, relu, &mut output);
            self.put(executor, &output, self.filters, group, y);
        }
    }

    /// As [`Conv::backward`].
    ///
    /// # Panics
    /// Where a slice has not the length that the shapes ask for: callers check shapes.
    pub fn backward(
        &self,
        executor: &dyn Executor,
        from: Backward<'_>,
        mut dx: Option<&mut [f32]>,
        dw: &mut [f32],
        db: &mut [f32],
    ) {
        if let Some(depthwise) = &self.depthwise {
            return depthwise.backward(executor, from, dx, dw, db);
        }
        if self.groups == 1 {
            return self.part.backward(executor, from, dx, dw, db);
        }
        let (weights, filters) = (dw.len() / self.groups, self.filters / self.groups);
        let mut part_dx = dx.as_ref().map(|dx| vec![0.0; dx.len() / self.groups]);
        for (group, (dw, db)) in dw.chunks_exact_mut(weights).zip(db.chunks_exact_mut(filters)).enumerate() {
            let x = self.take(executor, from.x, self.channels, group);
            let dy = self.take(executor, from.dy, self.filters, group);
            let y = from.relu_output.map(|y| self.take(executor, y, self.filters, group));
            let weight = self.weight(from.weight, group);
            let part = Backward { x: &x, weight, dy: &dy, relu_output: y.as_deref() };
            self.part.backward(executor, part, part_dx.as_deref_mut(), dw, db);
            if let (Some(dx), Some(part)) = (&mut dx, &part_dx) {
                self.put(executor, part, self.channels, group, dx);
            }
        }
    }

    fn weight<'a>(&self, weight: &'a [f32], group: usize) -> &'a [f32] {
        let len = weight.len() / self.groups;
        &weight[group * len..][..len]
    }

    /// A group's share of every pixel of `channels`.
    fn take(&self, executor: &dyn Executor, from: &[f32], channels: usize, group: usize) -> Vec<f32> {
        let part = channels / self.groups;
        let mut taken = vec![0.0; from.len() / self.groups];
        for_each_chunk(executor, taken.len(), &mut taken, part * PIXELS, &|chunk, taken| {
            let from = &from[chunk * PIXELS * channels + group * part..];
            for (to, from) in taken.chunks_exact_mut(part).zip(from.chunks(channels)) {
                to.copy_from_slice(&from[..part]);
            }
        });
        taken
    }

    /// The other way round.
    fn put(&self, executor: &dyn Executor, from: &[f32], channels: usize, group: usize, to: &mut [f32]) {
        let part = channels / self.groups;
        for_each_chunk(executor, from.len(), to, channels * PIXELS, &|chunk, to| {
            let from = &from[chunk * PIXELS * part..];
            for (to, from) in to.chunks_exact_mut(channels).zip(from.chunks_exact(part)) {
                to[group * part..][..part].copy_from_slice(from);
            }
        });
    }
}

/// Pixels that a task copies.
const PIXELS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::with_threads;
    use proptest::prelude::*;

    type Pair = (usize, usize);
    type Shape = (usize, Pair, (Pair, Pair, Pair), (usize, usize, usize, usize), (usize, usize, usize));

    fn shapes() -> impl Strategy<Value = Shape> {
        let pair = |low, high| (low..high, low..high);
        (
            1usize..4,
            pair(1usize, 9),
            (pair(1usize, 5), pair(1usize, 4), pair(1usize, 4)),
            (0usize..4, 0usize..4, 0usize..4, 0usize..4),
            prop_oneof![
                (1usize..20, 1usize..40, Just(1usize)),
                (1usize..5, 1usize..9, 2usize..5),
                (Just(1usize), 1usize..4, 2usize..40),
            ],
        )
    }

    /// Integers, so that sums are exact in any order.
    fn integers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1009 % 7) as f32 - 3.0).collect()
    }

    /// Calls `visit(output, weight, input)` with the indices of every product of the convolution, from the definition.
    fn products(conv: &Grouped, window: Window, images: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let ((ih, iw), (oh, ow), (kh, kw)) = (window.input(), window.output(), window.kernel());
        let ((sh, sw), (dh, dw), (top, left)) = (window.strides(), window.dilation(), window.before());
        let (channels, filters) = (conv.channels / conv.groups, conv.filters / conv.groups);
        for n in 0..images {
            for (y, x) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
                for (r, s) in (0..kh).flat_map(|r| (0..kw).map(move |s| (r, s))) {
                    let at = (y * sh + r * dh, x * sw + s * dw);
                    let (Some(iy), Some(ix)) = (at.0.checked_sub(top), at.1.checked_sub(left)) else {
                        continue;
                    };
                    if iy >= ih || ix >= iw {
                        continue;
                    }
                    for (o, c) in (0..conv.filters).flat_map(|o| (0..channels).map(move |c| (o, c))) {
                        visit(
                            ((n * oh + y) * ow + x) * conv.filters + o,
                            ((o * channels + c) * kh + r) * kw + s,
                            ((n * ih + iy) * iw + ix) * conv.channels + o / filters * channels + c,
                        );
                    }
                }
            }
        }
    }

    fn cases() -> ProptestConfig {
        let asked = std::env::var("SECATEUR_CASES").ok().and_then(|cases| cases.parse().ok());
        ProptestConfig::with_cases(asked.unwrap_or(500))
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn matches_the_definition((images, input, (kernel, strides, dilation), pads, (c, o, groups)) in shapes()) {
            let (channels, filters) = (c * groups, o * groups);
            let pads = (pads.0 % kernel.0, pads.1 % kernel.1, pads.2 % kernel.0, pads.3 % kernel.1);
            let Ok(window) = Window::new(input, kernel, strides, dilation, pads) else { return Ok(()) };
            let conv = Grouped::new(window, images, channels, filters, groups).unwrap();
            let ((ih, iw), (oh, ow), (kh, kw)) = (window.input(), window.output(), window.kernel());
            let x = integers(images * ih * iw * channels, 1);
            let weight = integers(filters * c * kh * kw, 2);
            let bias = integers(filters, 3);
            let dy = integers(images * oh * ow * filters, 4);
            let mut y = vec![0.0f32; dy.len()];
            y.iter_mut().enumerate().for_each(|(i, y)| *y = bias[i % filters]);
            products(&conv, window, images, |o, w, i| y[o] += weight[w] * x[i]);
            let clamped: Vec<f32> = y.iter().map(|y| y.max(0.0)).collect();
            let delta: Vec<f32> = dy.iter().zip(&y).map(|(dy, y)| if *y > 0.0 { *dy } else { 0.0 }).collect();
            let (mut dx, mut dw, mut db) = (vec![0.0f32; x.len()], vec![0.0f32; weight.len()], vec![0.0f32; filters]);
            delta.iter().enumerate().for_each(|(i, delta)| db[i % filters] += delta);
            products(&conv, window, images, |o, w, i| {
                dx[i] += weight[w] * delta[o];
                dw[w] += delta[o] * x[i];
            });
            for target in Target::available() {
                let (conv, threads) = (conv.on(target), with_threads(2));
                let mut got = vec![f32::NAN; y.len()];
                conv.forward(&*threads, &x, &weight, Some(&bias), false, &mut got);
                prop_assert_eq!(&got, &y);
                conv.forward(&*threads, &x, &weight, Some(&bias), true, &mut got);
                prop_assert_eq!(&got, &clamped);
                let mut gx = vec![f32::NAN; x.len()];
                let (mut gw, mut gb) = (vec![f32::NAN; weight.len()], vec![f32::NAN; filters]);
                let from = Backward { x: &x, weight: &weight, dy: &dy, relu_output: Some(&clamped) };
                conv.backward(&*threads, from, Some(&mut gx), &mut gw, &mut gb);
                prop_assert_eq!(&gx, &dx);
                prop_assert_eq!(&gw, &dw);
                prop_assert_eq!(&gb, &db);
                let from = Backward { x: &x, weight: &weight, dy: &delta, relu_output: None };
                conv.backward(&*threads, from, None, &mut gw, &mut gb);
                prop_assert_eq!((&gw, &gb), (&dw, &db));
            }
        }
    }
}
