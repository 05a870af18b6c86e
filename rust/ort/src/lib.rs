//! ONNX Runtime custom ops: `secateur::Plan`, a node that runs a whole [`secateur_core::plan::Plan`].
//!
//! The library exports `RegisterCustomOps`, which ONNX Runtime (1.17 or newer) calls through
//! `RegisterCustomOpsLibrary_V2`. Nothing of ONNX Runtime is linked: every function comes from the `OrtApiBase` that it hands over.
//!
//! ```text
//! y = secateur::Plan(x, plan)
//!     x     float32, n samples: (n, c, h, w) | (n, steps, features) | (…, features), all leading axes together the batch
//!     plan  uint8, a constant initializer: a plan's file, canonical weights and choices, packed when the kernel is made
//!     attributes  input_shape, output_shape: ints, those of one sample, from which the shape of y is inferred
//! ```

mod host;
mod kernel;
mod op;
mod pool;

use host::{Host, Result};
use ort_sys::{OrtApiBase, OrtCustomOpDomain, OrtErrorCode, OrtSessionOptions, OrtStatusPtr};
use std::sync::Mutex;

/// The oldest API that has all that is used here: that of ONNX Runtime 1.17.
const API: u32 = 17;

/// Says in session options that the ops are registered: ONNX Runtime would take them twice, and then refuse every model.
const REGISTERED: &core::ffi::CStr = c"secateur.registered";

/// The entry point that ONNX Runtime looks up in a library of custom ops.
///
/// Registering again on the same options does nothing.
///
/// # Safety
/// Both pointers must be those that ONNX Runtime passes: session options, and its `OrtApiBase`.
#[allow(non_snake_case, reason = "the name that ONNX Runtime looks up")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RegisterCustomOps(options: *mut OrtSessionOptions, base: *const OrtApiBase) -> OrtStatusPtr {
    // SAFETY: the caller passes ONNX Runtime's own base, which lives as long as the process.
    match unsafe { Host::new(base, API) } {
        Ok(host) => host.guard(|| register(host, options)),
        Err(status) => status,
    }
}

fn register(host: Host, options: *mut OrtSessionOptions) -> Result<()> {
    if host.has_config(options, REGISTERED)? {
        return Ok(());
    }
    host.add_domain(options, domain(host)?)?;
    host.set_config(options, REGISTERED, c"1")
}

/// The domain, made once for each ONNX Runtime in the process and never released: sessions refer to it.
fn domain(host: Host) -> Result<*mut OrtCustomOpDomain> {
    static MADE: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((_, domain)) = made.iter().find(|(of, _)| *of == host.address()) {
        return Ok(*domain as *mut OrtCustomOpDomain);
    }
    let domain = host.domain(c"secateur", op::leak(host))?;
    made.push((host.address(), domain as usize));
    Ok(domain)
}

/// The code that a core error is reported with.
fn code(error: &secateur_core::Error) -> OrtErrorCode {
    use secateur_core::Error;
    match error {
        Error::Argument(_) => OrtErrorCode::ORT_INVALID_ARGUMENT,
        Error::Format(_) => OrtErrorCode::ORT_INVALID_GRAPH,
        Error::Unsupported(_) => OrtErrorCode::ORT_NOT_IMPLEMENTED,
        Error::Io(_) => OrtErrorCode::ORT_FAIL,
    }
}
