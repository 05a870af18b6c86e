//! NumPy arrays in and out. Inputs may have any layout; what the core sees is contiguous and aligned.

use numpy::{AllowTypeChange, PyArrayLikeDyn};

/// A float32 array argument: any layout; lists and other numeric dtypes that the caller did not refuse are converted.
pub type FloatArray<'py> = PyArrayLikeDyn<'py, f32, AllowTypeChange>;
