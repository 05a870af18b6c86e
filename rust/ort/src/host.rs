//! The functions of ONNX Runtime that are used here, each once, behind checked results.

use crate::code;
use ort_sys::{
    ONNXTensorElementDataType, OrtApi, OrtApiBase, OrtCustomOp, OrtCustomOpDomain, OrtErrorCode, OrtKernelContext,
    OrtKernelInfo, OrtOpAttrType, OrtSessionOptions, OrtShapeInferContext, OrtStatusPtr, OrtTensorTypeAndShapeInfo,
    OrtValue,
};
use secateur_core::Error;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};

/// What went wrong: ONNX Runtime's own status, to be handed back as it is, or an error of ours.
pub enum Fault {
    Host(OrtStatusPtr),
    Own(Error),
}

pub type Result<T> = std::result::Result<T, Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Own(error)
    }
}

/// ONNX Runtime's table of functions.
#[derive(Clone, Copy)]
pub struct Host(&'static OrtApi);

/// One dimension of a shape that may not be known yet: its size, or the name that stands for it.
#[derive(Clone)]
pub enum Dimension {
    Size(i64),
    Named(CString),
    Unknown,
}

impl Host {
    /// The functions of that version of the API, or a status that says which ONNX Runtime this is.
    ///
    /// # Safety
    /// `base` must be ONNX Runtime's, which lives as long as the process.
    pub unsafe fn new(base: *const OrtApiBase, version: u32) -> std::result::Result<Host, OrtStatusPtr> {
        // SAFETY: the caller guarantees the base, and its functions may be called with any number.
        let (get, name) = unsafe { ((*base).GetApi, CStr::from_ptr(((*base).GetVersionString)())) };
        // SAFETY: as above; a table lives as long as the process.
        if let Some(api) = unsafe { get(version).as_ref() } {
            return Ok(Host(api));
        }
        // Older tables are shorter: of those only the first field is read, which makes statuses in all of them.
        // SAFETY: as above.
        let older = (1..version).rev().map(|older| unsafe { get(older) }).find(|api| !api.is_null());
        let Some(older) = older else { return Err(OrtStatusPtr(null_mut())) };
        let found = name.to_string_lossy();
        let message = format!("secateur's custom ops need ONNX Runtime 1.{version} or newer, this is {found}");
        // SAFETY: the pointer is not null, and the field is the first of every version's table.
        Err(unsafe {
            (&raw const (*older).CreateStatus).read()(OrtErrorCode::ORT_NOT_IMPLEMENTED, text(message).as_ptr())
        })
    }

    /// What tells this ONNX Runtime from another one in the process.
    pub fn address(self) -> usize {
        self.0 as *const OrtApi as usize
    }

    /// Runs `work`, and turns whatever it comes to, a panic too, into a status: nothing may unwind into C++.
    pub fn guard(self, work: impl FnOnce() -> Result<()>) -> OrtStatusPtr {
        let (code, message) = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => return OrtStatusPtr(null_mut()),
            Ok(Err(Fault::Host(status))) => return status,
            Ok(Err(Fault::Own(error))) => (code(&error), error.to_string()),
            Err(panic) => {
                let panic = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref().copied());
                (OrtErrorCode::ORT_RUNTIME_EXCEPTION, format!("secateur: internal error: {}", panic.unwrap_or("")))
            }
        };
        // SAFETY: the table is valid, and the text ends in zero; it is copied.
        unsafe { (self.0.CreateStatus)(code, text(message).as_ptr()) }
    }

    fn check(self, status: OrtStatusPtr) -> Result<()> {
        if status.0.is_null() { Ok(()) } else { Err(Fault::Host(status)) }
    }

    // Session options

    pub fn has_config(self, options: *const OrtSessionOptions, key: &CStr) -> Result<bool> {
        let mut found = 0;
        // SAFETY: the options are those that ONNX Runtime passed.
        self.check(unsafe { (self.0.HasSessionConfigEntry)(options, key.as_ptr(), &mut found) })?;
        Ok(found != 0)
    }

    pub fn set_config(self, options: *mut OrtSessionOptions, key: &CStr, value: &CStr) -> Result<()> {
        // SAFETY: as in `has_config`; both texts are copied.
        self.check(unsafe { (self.0.AddSessionConfigEntry)(options, key.as_ptr(), value.as_ptr()) })
    }

    /// A domain with one op.
    pub fn domain(self, name: &CStr, op: &'static OrtCustomOp) -> Result<*mut OrtCustomOpDomain> {
        let mut domain = null_mut();
        // SAFETY: the name ends in zero and is copied; the op lives as long as the process.
        self.check(unsafe { (self.0.CreateCustomOpDomain)(name.as_ptr(), &mut domain) })?;
        // SAFETY: the domain was just made.
        self.check(unsafe { (self.0.CustomOpDomain_Add)(domain, op) })?;
        Ok(domain)
    }

    pub fn add_domain(self, options: *mut OrtSessionOptions, domain: *mut OrtCustomOpDomain) -> Result<()> {
        // SAFETY: the options are those that ONNX Runtime passed; the domain is never released.
        self.check(unsafe { (self.0.AddCustomOpDomain)(options, domain) })
    }

    // Making a kernel

    pub fn node_name(self, info: *const OrtKernelInfo) -> Result<String> {
        let mut size = 0;
        // SAFETY: with no buffer, the size of the name is returned.
        self.check(unsafe { (self.0.KernelInfo_GetNodeName)(info, null_mut(), &mut size) })?;
        let mut name = vec![0u8; size];
        // SAFETY: the buffer has the size that was asked for.
        self.check(unsafe { (self.0.KernelInfo_GetNodeName)(info, name.as_mut_ptr().cast(), &mut size) })?;
        Ok(CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned())
    }

    /// An attribute of numbers, if the node has it.
    pub fn ints(self, info: *const OrtKernelInfo, name: &CStr) -> Option<Vec<i64>> {
        let mut size = 0;
        // SAFETY: with no buffer, the number of values is returned.
        let status = unsafe { (self.0.KernelInfoGetAttributeArray_int64)(info, name.as_ptr(), null_mut(), &mut size) };
        self.found(status)?;
        let mut values = vec![0; size];
        let out = values.as_mut_ptr();
        // SAFETY: the buffer has the size that was asked for.
        self.found(unsafe { (self.0.KernelInfoGetAttributeArray_int64)(info, name.as_ptr(), out, &mut size) })?;
        Some(values)
    }

    /// The bytes of an input, if it is a constant.
    pub fn constant<'a>(self, info: *const OrtKernelInfo, input: usize) -> Result<Option<&'a [u8]>> {
        let (mut constant, mut value) = (0, null());
        // SAFETY: the kernel info is ONNX Runtime's.
        self.check(unsafe { (self.0.KernelInfoGetConstantInput_tensor)(info, input, &mut constant, &mut value) })?;
        if constant == 0 || value.is_null() {
            return Ok(None);
        }
        let bytes = self.shape(value)?.iter().product::<i64>();
        // SAFETY: a tensor of uint8, as the op declares its input, holds a byte for each element. It lives as long as the
        // call that makes the kernel, which the result does not outlive.
        Ok(Some(unsafe { slice(self.data(value)?.cast_const().cast(), bytes as usize) }))
    }

    /// The shape of an input as far as the model says it: -1 for what it does not.
    pub fn input_shape(self, info: *const OrtKernelInfo, input: usize) -> Option<Vec<i64>> {
        let (mut about, mut shape) = (null_mut(), null());
        // SAFETY: the kernel info is ONNX Runtime's.
        self.found(unsafe { (self.0.KernelInfo_GetInputTypeInfo)(info, input, &mut about) })?;
        // SAFETY: the info was just made; it owns the shape.
        let cast = self.found(unsafe { (self.0.CastTypeInfoToTensorInfo)(about, &mut shape) });
        let dims = cast.and_then(|()| self.dims(shape).ok());
        // SAFETY: made above, and not used any more.
        unsafe { (self.0.ReleaseTypeInfo)(about) };
        dims
    }

    // Running a kernel

    pub fn input(self, context: *const OrtKernelContext, index: usize) -> Result<*const OrtValue> {
        let mut value = null();
        // SAFETY: the context is ONNX Runtime's, for this call.
        self.check(unsafe { (self.0.KernelContext_GetInput)(context, index, &mut value) })?;
        Ok(value)
    }

    pub fn output(self, context: *mut OrtKernelContext, index: usize, shape: &[i64]) -> Result<*mut OrtValue> {
        let mut value = null_mut();
        let (dims, rank) = (shape.as_ptr(), shape.len());
        // SAFETY: the context is ONNX Runtime's, for this call.
        self.check(unsafe { (self.0.KernelContext_GetOutput)(context, index, dims, rank, &mut value) })?;
        Ok(value)
    }

    pub fn shape(self, value: *const OrtValue) -> Result<Vec<i64>> {
        let mut about = null_mut();
        // SAFETY: the value is a tensor: the op takes and makes nothing else.
        self.check(unsafe { (self.0.GetTensorTypeAndShape)(value, &mut about) })?;
        let dims = self.dims(about);
        // SAFETY: made above, and not used any more.
        unsafe { (self.0.ReleaseTensorTypeAndShapeInfo)(about) };
        dims
    }

    fn dims(self, about: *const OrtTensorTypeAndShapeInfo) -> Result<Vec<i64>> {
        let mut rank = 0;
        // SAFETY: the caller holds the info.
        self.check(unsafe { (self.0.GetDimensionsCount)(about, &mut rank) })?;
        let mut dims = vec![0; rank];
        // SAFETY: the buffer has the rank's length.
        self.check(unsafe { (self.0.GetDimensions)(about, dims.as_mut_ptr(), rank) })?;
        Ok(dims)
    }

    /// Where a tensor's elements lie; may be null where there are none.
    pub fn data(self, value: *const OrtValue) -> Result<*mut c_void> {
        let mut data = null_mut();
        // SAFETY: the value is a tensor; whether it may be written to is the caller's business.
        self.check(unsafe { (self.0.GetTensorMutableData)(value.cast_mut(), &mut data) })?;
        Ok(data)
    }

    /// Calls `task(data, 0) … task(data, tasks - 1)` on the session's threads.
    ///
    /// # Safety
    /// `task` must not unwind, and `data` must be what it takes, from any thread.
    pub unsafe fn parallel_for(
        self,
        context: *const OrtKernelContext,
        tasks: usize,
        task: unsafe extern "C" fn(*mut c_void, usize),
        data: *mut c_void,
    ) -> Result<()> {
        // 0: a task at a time, taken by whoever is free.
        // SAFETY: the context is ONNX Runtime's, for this call; the rest is promised by the caller.
        self.check(unsafe { (self.0.KernelContext_ParallelFor)(context, task, tasks, 0, data) })
    }

    // Shape inference

    /// The dimensions of an input, as far as they are known.
    pub fn inferred(self, context: *const OrtShapeInferContext, input: usize) -> Result<Vec<Dimension>> {
        let mut about = null_mut();
        // SAFETY: the context is ONNX Runtime's, for this call; it keeps the info.
        self.check(unsafe { (self.0.ShapeInferContext_GetInputTypeShape)(context, input, &mut about) })?;
        let sizes = self.dims(about)?;
        let mut names: Vec<*const c_char> = vec![null(); sizes.len()];
        // SAFETY: the buffer has the rank's length.
        self.check(unsafe { (self.0.GetSymbolicDimensions)(about, names.as_mut_ptr(), names.len()) })?;
        let dimension = |(&size, &name): (&i64, &*const c_char)| {
            // The names belong to the info, so they are copied.
            // SAFETY: a name that is not null ends in zero.
            let name = if name.is_null() { c"" } else { unsafe { CStr::from_ptr(name) } };
            match (size >= 0, name.is_empty()) {
                (true, _) => Dimension::Size(size),
                (false, false) => Dimension::Named(name.to_owned()),
                (false, true) => Dimension::Unknown,
            }
        };
        Ok(sizes.iter().zip(&names).map(dimension).collect())
    }

    /// An attribute of at most eight numbers, if the node has it.
    pub fn inferred_ints(self, context: *const OrtShapeInferContext, name: &CStr) -> Option<Vec<i64>> {
        let mut attribute = null();
        // SAFETY: the context is ONNX Runtime's, for this call.
        self.found(unsafe { (self.0.ShapeInferContext_GetAttribute)(context, name.as_ptr(), &mut attribute) })?;
        let (mut values, mut bytes) = ([0i64; 8], 0);
        let (out, len) = (values.as_mut_ptr().cast(), size_of_val(&values));
        // SAFETY: the buffer has the length that is passed, in bytes.
        self.found(unsafe { (self.0.ReadOpAttr)(attribute, OrtOpAttrType::ORT_OP_ATTR_INTS, out, len, &mut bytes) })?;
        values.get(..bytes / size_of::<i64>()).map(<[i64]>::to_vec)
    }

    /// Says what the first output is.
    pub fn infer(self, context: *mut OrtShapeInferContext, shape: &[Dimension]) -> Result<()> {
        let sizes = shape.iter().map(|dimension| if let Dimension::Size(size) = dimension { *size } else { -1 });
        let sizes: Vec<i64> = sizes.collect();
        let name =
            |dimension: &Dimension| if let Dimension::Named(name) = dimension { name.as_ptr() } else { c"".as_ptr() };
        let mut names: Vec<*const c_char> = shape.iter().map(name).collect();
        let mut about = null_mut();
        // SAFETY: none but the output is passed.
        self.check(unsafe { (self.0.CreateTensorTypeAndShapeInfo)(&mut about) })?;
        let float = ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        let mut set = || {
            // SAFETY: the info was just made.
            self.check(unsafe { (self.0.SetTensorElementType)(about, float) })?;
            // SAFETY: the buffer has the length that is passed, and is copied.
            self.check(unsafe { (self.0.SetDimensions)(about, sizes.as_ptr(), sizes.len()) })?;
            // SAFETY: as above; each name ends in zero.
            self.check(unsafe { (self.0.SetSymbolicDimensions)(about, names.as_mut_ptr(), names.len()) })?;
            // SAFETY: the context is ONNX Runtime's, for this call; the info is copied.
            self.check(unsafe { (self.0.ShapeInferContext_SetOutputTypeShape)(context, 0, about) })
        };
        let set = set();
        // SAFETY: made above, and not used any more.
        unsafe { (self.0.ReleaseTensorTypeAndShapeInfo)(about) };
        set
    }

    /// Whether something optional was there; the status that says that it was not is of no interest.
    fn found(self, status: OrtStatusPtr) -> Option<()> {
        if status.0.is_null() {
            return Some(());
        }
        // SAFETY: the status is ours, and not used any more.
        unsafe { (self.0.ReleaseStatus)(status.0) };
        None
    }
}

/// A slice of what a tensor holds; ONNX Runtime has no address for one without elements.
///
/// # Safety
/// Unless `len` is 0, `data` must be valid for `len` elements during `'a`.
pub unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    // SAFETY: promised by the caller.
    if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, len) } }
}

/// [`slice`], to write to.
///
/// # Safety
/// As for [`slice`], and nobody else may use it.
pub unsafe fn slice_mut<'a, T>(data: *mut T, len: usize) -> &'a mut [T] {
    // SAFETY: promised by the caller.
    if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(data, len) } }
}

fn text(message: String) -> CString {
    CString::new(message.replace('\0', " ")).unwrap_or_default()
}
