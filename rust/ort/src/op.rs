//! The op as ONNX Runtime sees it: its name, what it takes and makes, and the shape of that.

use crate::API;
use crate::host::{Dimension, Host, Result};
use crate::kernel::Kernel;
use ort_sys::{
    ONNXTensorElementDataType as Type, OrtApi, OrtCustomOp, OrtCustomOpInputOutputCharacteristic as Characteristic,
    OrtKernelContext, OrtKernelInfo, OrtMemType, OrtShapeInferContext, OrtStatusPtr,
};
use std::ffi::{c_char, c_int, c_void};

/// Attributes: the shapes of a sample.
pub const INPUT_SHAPE: &std::ffi::CStr = c"input_shape";
pub const OUTPUT_SHAPE: &std::ffi::CStr = c"output_shape";

/// An op, and the functions of the ONNX Runtime that it is made for: where shapes are inferred, only the op is passed.
#[repr(C)]
struct PlanOp {
    op: OrtCustomOp,
    host: Host,
}

/// The op for an ONNX Runtime, never released.
pub fn leak(host: Host) -> &'static OrtCustomOp {
    let op = OrtCustomOp {
        version: API,
        GetName: Some(name),
        GetExecutionProviderType: Some(provider),
        GetInputType: Some(input_type),
        GetInputTypeCount: Some(input_count),
        GetInputCharacteristic: Some(required),
        GetInputMemoryType: Some(memory),
        GetOutputType: Some(output_type),
        GetOutputTypeCount: Some(output_count),
        GetOutputCharacteristic: Some(required),
        GetVariadicInputMinArity: Some(one),
        GetVariadicInputHomogeneity: Some(one),
        GetVariadicOutputMinArity: Some(one),
        GetVariadicOutputHomogeneity: Some(one),
        GetStartVersion: Some(one),
        GetEndVersion: Some(newest),
        InferOutputShapeFn: Some(infer),
        CreateKernelV2: Some(create),
        KernelComputeV2: Some(compute),
        KernelDestroy: Some(destroy),
        // Those that return no status.
        CreateKernel: None,
        KernelCompute: None,
    };
    let leaked: &'static PlanOp = Box::leak(Box::new(PlanOp { op, host }));
    &leaked.op
}

extern "system" fn name(_: *const OrtCustomOp) -> *const c_char {
    c"Plan".as_ptr()
}

extern "system" fn provider(_: *const OrtCustomOp) -> *const c_char {
    c"CPUExecutionProvider".as_ptr()
}

extern "system" fn input_count(_: *const OrtCustomOp) -> usize {
    2
}

extern "system" fn input_type(_: *const OrtCustomOp, index: usize) -> Type {
    if index == 0 { Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT } else { Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 }
}

extern "system" fn output_count(_: *const OrtCustomOp) -> usize {
    1
}

extern "system" fn output_type(_: *const OrtCustomOp, _: usize) -> Type {
    Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
}

extern "system" fn required(_: *const OrtCustomOp, _: usize) -> Characteristic {
    Characteristic::INPUT_OUTPUT_REQUIRED
}

extern "system" fn memory(_: *const OrtCustomOp, _: usize) -> OrtMemType {
    OrtMemType::OrtMemTypeDefault
}

extern "system" fn one(_: *const OrtCustomOp) -> c_int {
    1
}

extern "system" fn newest(_: *const OrtCustomOp) -> c_int {
    c_int::MAX
}

unsafe extern "system" fn infer(op: *const OrtCustomOp, context: *mut OrtShapeInferContext) -> OrtStatusPtr {
    // SAFETY: ONNX Runtime passes the op that `leak` made, the first field of a `PlanOp`.
    let host = unsafe { (*op.cast::<PlanOp>()).host };
    host.guard(|| infer_shape(host, context))
}

/// The leading axes of x, with their names, before those of the plan's output. What is not known, or does not fit, is left
/// open: the kernel has the message for it.
fn infer_shape(host: Host, context: *mut OrtShapeInferContext) -> Result<()> {
    let attributes = (host.inferred_ints(context, INPUT_SHAPE), host.inferred_ints(context, OUTPUT_SHAPE));
    let (Some(input), Some(output)) = attributes else { return Ok(()) };
    let mut shape = host.inferred(context, 0)?;
    let Some(leading) = shape.len().checked_sub(input.len()) else { return Ok(()) };
    shape.truncate(leading);
    // A dimension of neither size nor name cannot be passed on.
    if shape.iter().any(|dimension| matches!(dimension, Dimension::Unknown)) {
        return Ok(());
    }
    shape.extend(output.into_iter().map(Dimension::Size));
    host.infer(context, &shape)
}

unsafe extern "system" fn create(
    op: *const OrtCustomOp,
    _: *const OrtApi,
    info: *const OrtKernelInfo,
    kernel: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: as in `infer`.
    let host = unsafe { (*op.cast::<PlanOp>()).host };
    host.guard(|| {
        let made = Box::new(Kernel::new(host, info)?);
        // SAFETY: ONNX Runtime passes where it wants the kernel.
        unsafe { *kernel = Box::into_raw(made).cast() };
        Ok(())
    })
}

unsafe extern "system" fn compute(kernel: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    // SAFETY: ONNX Runtime passes what `create` made; kernels are shared between threads.
    let kernel = unsafe { &*kernel.cast::<Kernel>() };
    kernel.host.guard(|| kernel.run(context))
}

unsafe extern "system" fn destroy(kernel: *mut c_void) {
    // SAFETY: ONNX Runtime passes what `create` made, once, when no call runs any more. Dropping it cannot panic.
    drop(unsafe { Box::from_raw(kernel.cast::<Kernel>()) });
}
