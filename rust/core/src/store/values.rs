//! The element types of a file: how they are written and read.

use crate::mask::Mask;
use crate::{Result, malformed};
use safetensors::tensor::{Dtype, TensorInfo};
use std::borrow::Cow;
use std::io::Read;

/// Elements of the types that a file may hold.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "named after the types")]
pub enum Values<'a> {
    F32(Cow<'a, [f32]>),
    F64(Cow<'a, [f64]>),
    I64(Cow<'a, [i64]>),
    U8(Cow<'a, [u8]>),
    Bool(Cow<'a, [bool]>),
}

/// Runs one generic expression over whichever elements `$values` holds.
macro_rules! each {
    ($values:expr, $v:ident => $body:expr) => {
        match $values {
            Values::F32($v) => $body,
            Values::F64($v) => $body,
            Values::I64($v) => $body,
            Values::U8($v) => $body,
            Values::Bool($v) => $body,
        }
    };
}
pub(super) use each;

/// An element type: how it is named, written and read.
pub(super) trait Element: Copy + Default + PartialEq + 'static {
    const DTYPE: Dtype;
    const BYTES: usize = size_of::<Self>();
    fn write(self, out: &mut Vec<u8>);
    /// `None` where the bytes are no value of the type.
    fn read(bytes: &[u8]) -> Option<Self>;
    fn wrap(elements: Vec<Self>) -> Values<'static>;
}

macro_rules! element {
    ($type:ty, $dtype:ident, $variant:ident) => {
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            fn write(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_le_bytes)
            }
            fn wrap(elements: Vec<Self>) -> Values<'static> {
                Values::$variant(Cow::Owned(elements))
            }
        }
    };
}

element!(f32, F32, F32);
element!(f64, F64, F64);
element!(i64, I64, I64);
element!(u8, U8, U8);

impl Element for bool {
    const DTYPE: Dtype = Dtype::BOOL;
    fn write(self, out: &mut Vec<u8>) {
        out.push(u8::from(self));
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
    fn wrap(elements: Vec<Self>) -> Values<'static> {
        Values::Bool(Cow::Owned(elements))
    }
}

impl Values<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(self, v => v.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The zero of the values' type.
pub(super) fn zero<E: Element>(_like: &[E]) -> E {
    E::default()
}

/// The elements' type and bytes.
pub(super) fn written<E: Element>(elements: impl Iterator<Item = E>) -> (Dtype, Vec<u8>) {
    let mut bytes = Vec::with_capacity(elements.size_hint().0 * E::BYTES);
    elements.for_each(|element| element.write(&mut bytes));
    (E::DTYPE, bytes)
}

/// The dense elements of which `kept` are those inside the mask, as many as it counts.
pub(super) fn spread<E: Element>(kept: &[E], mask: &Mask) -> Result<Values<'static>> {
    let mut dense = reserved(mask.len())?;
    dense.resize(mask.len(), E::default());
    mask.kept().zip(kept).for_each(|(i, value)| dense[i] = *value);
    Ok(E::wrap(dense))
}

/// Reads one tensor's elements; the header has promised that they are there.
pub(super) fn read(source: &mut dyn Read, name: &str, info: &TensorInfo) -> Result<Values<'static>> {
    let bytes = info.data_offsets.1 - info.data_offsets.0;
    match info.dtype {
        Dtype::F32 => read_as::<f32>(source, name, bytes),
        Dtype::F64 => read_as::<f64>(source, name, bytes),
        Dtype::I64 => read_as::<i64>(source, name, bytes),
        Dtype::U8 => read_as::<u8>(source, name, bytes),
        Dtype::BOOL => read_as::<bool>(source, name, bytes),
        other => Err(malformed!("{name}: elements of type {other} are not supported")),
    }
}

fn read_as<E: Element>(source: &mut dyn Read, name: &str, bytes: usize) -> Result<Values<'static>> {
    // A multiple of every element size.
    let mut buffer = vec![0; bytes.min(1 << 16)];
    let mut elements = reserved(bytes / E::BYTES)?;
    let mut left = bytes;
    while left > 0 {
        let chunk = &mut buffer[..left.min(1 << 16)];
        fill(source, chunk)?;
        left -= chunk.len();
        for bytes in chunk.chunks_exact(E::BYTES) {
            elements.push(E::read(bytes).ok_or_else(|| malformed!("damaged file: {name} holds {bytes:?}"))?);
        }
    }
    Ok(E::wrap(elements))
}

fn reserved<E>(elements: usize) -> Result<Vec<E>> {
    let mut empty = Vec::new();
    empty.try_reserve_exact(elements).map_err(|_| malformed!("{elements} elements do not fit in memory"))?;
    Ok(empty)
}

/// Fills `buffer`, or says that the file ended.
pub(super) fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> Result<()> {
    source.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => malformed!("truncated file"),
        _ => error.into(),
    })
}
