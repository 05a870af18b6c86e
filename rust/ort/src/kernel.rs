//! A node at work: its plan, read and packed for this CPU when ONNX Runtime makes the kernel, run on ONNX Runtime's threads.

use crate::host::{Host, Result, slice, slice_mut};
use crate::op::{INPUT_SHAPE, OUTPUT_SHAPE};
use crate::pool::{Count, Pool};
use ort_sys::{OrtKernelContext, OrtKernelInfo};
use secateur_core::executor::Sequential;
use secateur_core::plan::Plan;
use secateur_core::simd::Target;
use secateur_core::store::decode;
use secateur_core::store::network::{Network, network};
use secateur_core::{Error, argument, malformed};
use std::borrow::Cow;
use std::sync::Arc;

/// What ONNX Runtime keeps of a node.
pub struct Kernel {
    pub host: Host,
    node: String,
    plan: Plan,
    /// Axes of a sample, read and written.
    input: Vec<usize>,
    output: Vec<usize>,
    /// Whether any number of samples may come.
    open: bool,
    threads: Count,
}

impl Kernel {
    /// The kernel of a node: reads its plan, and checks that the node's attributes say the same.
    pub fn new(host: Host, info: *const OrtKernelInfo) -> Result<Kernel> {
        let node = host.node_name(info)?;
        let bytes = host.constant(info, 1)?;
        let named = |error| named(&node, error);
        let bytes = bytes.ok_or_else(|| named(argument!("plan: expected a constant initializer")))?;
        let plan = read(bytes).map_err(named)?;
        let (input, output) = (plan.input_shape(), plan.output_shape());
        for (key, axes) in [(INPUT_SHAPE, &input), (OUTPUT_SHAPE, &output)] {
            let said = host.ints(info, key);
            if !said.as_ref().is_none_or(|said| said.iter().copied().eq(axes.iter().map(|&axis| axis as i64))) {
                let key = key.to_string_lossy();
                return Err(named(malformed!(
                    "{key}: the node says {:?}, its plan {axes:?}",
                    said.unwrap_or_default()
                ))
                .into());
            }
        }
        let shape = host.input_shape(info, 0).filter(|shape| !shape.is_empty() && !shape.contains(&-1));
        let open = shape.is_none();
        let kernel = Kernel { host, node, plan, input, output, open, threads: Count::default() };
        // Where the shape does not fit, the run has the message for it.
        if let Some((samples, _)) = shape.and_then(|shape| kernel.samples(&shape).ok()) {
            kernel.plan.prepare(samples);
        }
        Ok(kernel)
    }

    /// Computes y from x.
    pub fn run(&self, context: *mut OrtKernelContext) -> Result<()> {
        let host = self.host;
        let x = host.input(context, 0)?;
        let shape = host.shape(x)?;
        let (samples, leading) = self.samples(&shape)?;
        let mut out = shape[..leading].to_vec();
        out.extend(self.output.iter().map(|&axis| axis as i64));
        let y = host.output(context, 0, &out)?;
        let (x, y) = (host.data(x)?, host.data(y)?);
        let lengths = (samples * count(&self.input), samples * count(&self.output));
        // SAFETY: both tensors are of float32, as the op declares, and of the shapes whose elements were counted.
        let (x, y) = unsafe { (floats(x.cast_const().cast(), lengths.0), slice_mut(y.cast(), lengths.1)) };
        let pool = Pool::new(host, context, self.threads.of(host, context));
        let run = if self.open && self.is_of_vectors() { Plan::run_open } else { Plan::run_on };
        run(&self.plan, &pool, samples, &x, y).map_err(|error| named(&self.node, error).into())
    }

    fn is_of_vectors(&self) -> bool {
        self.input.len() == 1 && !self.plan.takes_ids()
    }

    /// How many samples a shape holds, and the axes before those of a sample.
    fn samples(&self, shape: &[i64]) -> Result<(usize, usize)> {
        let axes: Vec<usize> = shape.iter().map(|&axis| usize::try_from(axis).unwrap_or(0)).collect();
        let vectors = self.is_of_vectors();
        match axes.len().checked_sub(self.input.len()) {
            // Vectors may lie in any number of axes; of images and sequences there is a batch.
            Some(leading) if axes[leading..] == self.input && (vectors || leading == 1) => {
                Ok((count(&axes[..leading]), leading))
            }
            _ => {
                let wanted: Vec<String> = self.input.iter().map(usize::to_string).collect();
                let batch = if vectors { "..." } else { "n" };
                let wanted = argument!("x: expected shape ({batch}, {}), got {axes:?}", wanted.join(", "));
                Err(named(&self.node, wanted).into())
            }
        }
    }
}

fn count(axes: &[usize]) -> usize {
    axes.iter().product()
}

/// An error that says which node it is about.
fn named(node: &str, error: Error) -> Error {
    let place = |message| format!("secateur.Plan {node:?}: {message}");
    match error {
        Error::Argument(message) => Error::Argument(place(message)),
        Error::Format(message) => Error::Format(place(message)),
        Error::Unsupported(message) => Error::Unsupported(place(message)),
        Error::Io(error) => Error::Io(error),
    }
}

/// `len` floats. Those of an initializer in a file of its own may begin at any byte: these are copied.
///
/// # Safety
/// Unless `len` is 0, `data` must be valid for `len` floats during `'a`.
unsafe fn floats<'a>(data: *const u8, len: usize) -> Cow<'a, [f32]> {
    if data.cast::<f32>().is_aligned() {
        // SAFETY: promised by the caller, and aligned.
        return Cow::Borrowed(unsafe { slice(data.cast(), len) });
    }
    // SAFETY: promised by the caller; bytes have no alignment.
    let bytes = unsafe { slice(data, len * size_of::<f32>()) };
    Cow::Owned(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)).collect())
}

/// The plan in a file: with its choices, where this CPU made them, or with those of the cost model.
fn read(mut bytes: &[u8]) -> secateur_core::Result<Plan> {
    let length = bytes.len() as u64;
    let Network { graph, batches, choices, cpu } = network(&decode(&mut bytes, length)?)?;
    let target = Target::detect();
    let choices = if cpu == target.signature() { choices } else { Default::default() };
    // The threads are those of each call.
    Plan::new(graph, &batches, target, Arc::new(Sequential), &choices, false)
}
