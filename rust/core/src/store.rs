//! Canonical weights, masks and metadata to safetensors bytes and back.
//!
//! A dense tensor is one safetensors entry. A masked tensor is two:
//! ```text
//! NAME       values where the mask is set, in flat order      shape [nnz]
//! NAME.mask  one bit an element, least significant bit first  shape [ceil(n / 8)], u8; bits past n are 0
//! metadata   "shape:NAME": "[64,1600]"
//! ```
//! Every file says `"format": "secateur"`, `"version": "1"` and its `"kind"`. Names are sorted, so equal content is equal
//! bytes. Reading checks the whole header against the length of the file before any tensor is read, and a mask against
//! the number of its values before the dense tensor is made.

mod header;
pub mod network;
mod values;

use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::{argument, malformed};
use header::Header;
use safetensors::tensor::{Dtype, TensorInfo};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
pub use values::Values;
use values::{each, fill, read, spread, written, zero};

/// Newest version of the format that this build reads, and the one it writes.
pub const VERSION: u32 = 1;
const FORMAT: &str = "secateur";
const SHAPE: &str = "shape:";

/// A tensor, C order. Elements outside `mask` are zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<'a> {
    /// Length of each dimension.
    pub shape: Vec<usize>,
    /// All elements, pruned ones too.
    pub values: Values<'a>,
    /// Which elements are kept; `None` for a dense tensor.
    pub mask: Option<Mask>,
}

/// Named tensors and the file's metadata.
pub type Contents = (BTreeMap<String, Tensor<'static>>, BTreeMap<String, String>);

/// An entry to be written.
struct Part {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// The bytes of a file. `metadata` must say the `"kind"`; `"format"`, `"version"` and the shapes are added.
pub fn encode(tensors: &BTreeMap<String, Tensor<'_>>, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    if !metadata.contains_key("kind") {
        return Err(argument!("metadata: expected a \"kind\""));
    }
    if let Some(key) = metadata.keys().find(|key| ["format", "version"].contains(&&***key) || key.starts_with(SHAPE)) {
        return Err(argument!("metadata: {key:?} is written by the store itself"));
    }
    let mut header = Header { metadata: metadata.clone(), tensors: BTreeMap::new() };
    header.metadata.insert("format".into(), FORMAT.into());
    header.metadata.insert("version".into(), VERSION.to_string());

    // Widest elements first, so that every tensor begins at a multiple of its element size; then by name.
    let mut parts = Vec::new();
    for (name, tensor) in tensors {
        let elements = count(&tensor.shape).ok_or_else(|| argument!("tensors[{name:?}]: its shape is too large"))?;
        if elements != tensor.values.len() {
            return Err(argument!("tensors[{name:?}]: {} values for shape {:?}", tensor.values.len(), tensor.shape));
        }
        let Some(mask) = &tensor.mask else {
            let (dtype, bytes) = each!(&tensor.values, v => written(v.iter().copied()));
            parts.push(Part { name: name.clone(), dtype, shape: tensor.shape.clone(), bytes });
            continue;
        };
        if mask.len() != elements {
            return Err(argument!("masks[{name:?}]: {} elements for {elements} values", mask.len()));
        }
        let lost = each!(&tensor.values, v => mask.not().kept().find(|&i| v[i] != zero(v)));
        if let Some(index) = lost {
            return Err(argument!("tensors[{name:?}]: the value at flat index {index} is masked out, but not zero"));
        }
        let kept = mask.count();
        let (dtype, bytes) = each!(&tensor.values, v => written(mask.kept().map(|i| v[i])));
        parts.push(Part { name: name.clone(), dtype, shape: vec![kept], bytes });
        let bits = mask.to_bytes();
        parts.push(Part { name: mask_name(name), dtype: Dtype::U8, shape: vec![bits.len()], bytes: bits });
        header.metadata.insert(format!("{SHAPE}{name}"), format!("{:?}", tensor.shape).replace(' ', ""));
    }
    parts.sort_by(|a, b| (b.dtype.bitsize(), &a.name).cmp(&(a.dtype.bitsize(), &b.name)));

    let mut offset = 0;
    for Part { name, dtype, shape, bytes } in &parts {
        let data_offsets = (offset, offset + bytes.len());
        offset = data_offsets.1;
        let info = TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets };
        if header.tensors.insert(name.clone(), info).is_some() {
            return Err(argument!("tensors[{name:?}]: the name is taken by a mask"));
        }
    }
    let mut out = header.to_bytes()?;
    out.reserve_exact(offset);
    parts.iter().for_each(|part| out.extend_from_slice(&part.bytes));
    Ok(out)
}

/// Reads a file. Whatever is wrong with it is an [`Error::Format`] that begins with its path.
pub fn decode_file(path: &Path) -> Result<Contents> {
    let place = path.display();
    let named = |error| match error {
        Error::Format(message) => malformed!("{place}: {message}"),
        other => other,
    };
    // Asked before opening: opening a pipe that nobody writes to would wait for ever.
    match std::fs::metadata(path) {
        Ok(about) if about.is_file() => {}
        Ok(_) => return Err(malformed!("{place}: not a regular file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(malformed!("{place}: no such file")),
        Err(error) => return Err(malformed!("{place}: {error}")),
    }
    let mut file = std::fs::File::open(path).map_err(|error| malformed!("{place}: {error}"))?;
    let length = file.metadata()?.len();
    decode(&mut file, length).map_err(named)
}

/// Reads a file of `length` bytes from `source`: tensors, and the metadata that [`encode`] was given.
pub fn decode(source: &mut dyn Read, length: u64) -> Result<Contents> {
    let mut prefix = [0u8; 8];
    if length < 8 {
        return Err(malformed!("truncated or no secateur file: {length} bytes"));
    }
    fill(source, &mut prefix)?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > header::LONGEST || header_length > length - 8 {
        return Err(malformed!("truncated or no secateur file: a header of {header_length} bytes in {length} bytes"));
    }
    let mut json = vec![0; header_length as usize];
    fill(source, &mut json)?;
    let Header { mut metadata, tensors } = Header::parse(&json, length - 8 - header_length)?;
    drop(json);
    let shapes = check(&mut metadata, &tensors)?;

    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| info.data_offsets);
    let mut parts = BTreeMap::new();
    for (name, info) in order {
        parts.insert(name.clone(), read(source, name, info)?);
    }
    let mut found = BTreeMap::new();
    for (name, shape) in shapes {
        // `check` made sure that both entries exist, and that the mask has one bit an element.
        let (Some(values), Some(Values::U8(bits))) = (parts.remove(&name), parts.remove(&mask_name(&name))) else {
            return Err(malformed!("damaged file: {name} has no values or no mask"));
        };
        let mask = Mask::from_bytes(count(&shape).unwrap_or(0), &bits)
            .map_err(|error| malformed!("damaged mask of {name}: {error}"))?;
        let kept = mask.count();
        if kept != values.len() {
            return Err(malformed!("damaged mask of {name}: {kept} bits are set for {} values", values.len()));
        }
        let values = each!(&values, v => spread(v, &mask))?;
        found.insert(name, Tensor { shape, values, mask: Some(mask) });
    }
    for (name, values) in parts {
        let shape = tensors[&name].shape.clone();
        found.insert(name, Tensor { shape, values, mask: None });
    }
    Ok((found, metadata))
}

/// Checks the header's claims, takes the store's own keys out of `metadata`, and returns the shapes of masked tensors.
fn check(
    metadata: &mut BTreeMap<String, String>,
    tensors: &BTreeMap<String, TensorInfo>,
) -> Result<BTreeMap<String, Vec<usize>>> {
    if metadata.remove("format").as_deref() != Some(FORMAT) {
        return Err(malformed!("no secateur file: its metadata names no format \"{FORMAT}\""));
    }
    let version = metadata.remove("version").unwrap_or_default();
    match version.parse::<u32>() {
        Ok(1..=VERSION) => {}
        Ok(newer) if newer > VERSION => {
            return Err(malformed!(
                "version {newer} of the format is newer than {VERSION}, the newest that is read here"
            ));
        }
        _ => return Err(malformed!("damaged file: version {version:?}")),
    }
    if !metadata.contains_key("kind") {
        return Err(malformed!("damaged file: its metadata names no kind"));
    }
    if let Some((name, _)) = tensors.iter().find(|(_, info)| count(&info.shape).is_none()) {
        return Err(malformed!("damaged file: the shape of {name} overflows"));
    }
    let mut shapes = BTreeMap::new();
    for key in metadata.keys().filter(|key| key.starts_with(SHAPE)).cloned().collect::<Vec<_>>() {
        let text = metadata.remove(&key).unwrap_or_default();
        let name = key[SHAPE.len()..].to_string();
        let shape: Vec<usize> = serde_json::from_str(&text).map_err(|_| {
            malformed!("damaged file: {name} has the shape {:?}", text.chars().take(40).collect::<String>())
        })?;
        let elements = count(&shape).ok_or_else(|| malformed!("damaged file: the shape of {name} overflows"))?;
        let sound = shape.len() <= header::MOST_DIMENSIONS
            && tensors.get(&name).is_some_and(|values| values.shape.len() == 1 && values.shape[0] <= elements)
            && tensors
                .get(&mask_name(&name))
                .is_some_and(|mask| mask.dtype == Dtype::U8 && mask.shape == [elements.div_ceil(8)]);
        if !sound {
            return Err(malformed!("damaged file: the values or the mask of {name} do not fit its shape {text}"));
        }
        shapes.insert(name, shape);
    }
    Ok(shapes)
}

/// The number of elements, unless it overflows, or would with ones for zeros: no array has such axes.
fn count(shape: &[usize]) -> Option<usize> {
    let most = shape.iter().try_fold(8usize, |n, &d| n.checked_mul(d.max(1)))?;
    isize::try_from(most).is_ok().then(|| shape.iter().product())
}

fn mask_name(name: &str) -> String {
    format!("{name}.mask")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map<T, const N: usize>(pairs: [(&str, T); N]) -> BTreeMap<String, T> {
        pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }

    fn kind() -> BTreeMap<String, String> {
        map([("kind", "test".to_string())])
    }

    fn dense(shape: &[usize], values: Vec<f32>) -> Tensor<'static> {
        Tensor { shape: shape.to_vec(), values: Values::F32(values.into()), mask: None }
    }

    fn masked(values: Vec<f32>, mask: Vec<bool>) -> Tensor<'static> {
        Tensor { shape: vec![values.len()], values: Values::F32(values.into()), mask: Some(Mask::from_bools(&mask)) }
    }

    fn sample() -> Vec<u8> {
        let tensors = map([
            ("bias", dense(&[2], vec![-0.0, f32::NAN])),
            (
                "weight",
                masked(
                    vec![0.0, 2.5, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 3.0],
                    (0..9).map(|i| i % 4 == 0 || i == 1).collect(),
                ),
            ),
            ("step", Tensor { shape: vec![], values: Values::I64(vec![-7].into()), mask: None }),
            ("flags", Tensor { shape: vec![3, 0], values: Values::Bool(vec![].into()), mask: None }),
        ]);
        encode(&tensors, &kind()).expect("valid")
    }

    fn load(bytes: &[u8]) -> Result<Contents> {
        decode(&mut &bytes[..], bytes.len() as u64)
    }

    #[test]
    fn what_is_read_is_written_again_byte_for_byte() {
        let bytes = sample();
        let (tensors, metadata) = load(&bytes).expect("just written");
        assert_eq!(metadata, kind());
        let Values::F32(bias) = &tensors["bias"].values else { panic!("float32 expected") };
        assert_eq!((bias[0].to_bits(), bias[1].to_bits()), ((-0.0f32).to_bits(), f32::NAN.to_bits()));
        assert_eq!(tensors["weight"].shape, [9]);
        assert_eq!(encode(&tensors, &metadata).expect("valid"), bytes);
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(matches!(load(&bytes[..length]), Err(Error::Format(_))), "{length} bytes");
            // A file that shrinks while it is read.
            assert!(matches!(decode(&mut &bytes[..length], bytes.len() as u64), Err(Error::Format(_))));
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(load(&longer), Err(Error::Format(_))));
    }

    /// The sample with `from` replaced in its header by `to`, which is as long.
    fn edited(from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let mut bytes = sample();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect(from);
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    }

    #[test]
    fn foreign_newer_and_inconsistent_files_say_so() {
        let message = |bytes: Vec<u8>| load(&bytes).expect_err("must be refused").to_string();
        assert!(message(edited(r#""format":"secateur""#, r#""format":"someoneX""#)).contains("no secateur file"));
        assert!(message(edited(r#""version":"1""#, r#""version":"2""#)).contains("newer"));
        assert!(message(edited(r#""version":"1""#, r#""version":"x""#)).contains("version"));
        assert!(message(edited(r#""kind""#, r#""mind""#)).contains("kind"));
        assert!(message(edited("[9]", "[8]")).contains("do not fit"));
        assert!(message(edited("[9]", "[3]")).contains("do not fit"));
        assert!(message(edited("weight.mask", "weight_mask")).contains("do not fit"));
        let mut bytes = sample();
        let last = bytes.len() - 1;
        bytes[last] = 0b0000_0011;
        assert!(message(bytes.clone()).contains("damaged mask"));
        bytes[last] = 0;
        assert!(message(bytes).contains("bits are set for"));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let refused = |tensors: &_, metadata: &_| encode(tensors, metadata).expect_err("must be refused").to_string();
        let pruned = || masked(vec![1.0, 0.0], vec![true, false]);
        assert!(refused(&map([("a", masked(vec![1.0, 2.0], vec![true, false]))]), &kind()).contains("masked out"));
        assert!(refused(&map([("a", masked(vec![1.0], vec![true, false]))]), &kind()).contains("masks"));
        assert!(refused(&map([("a", dense(&[2], vec![1.0]))]), &kind()).contains("shape"));
        assert!(refused(&map([("a", pruned()), ("a.mask", pruned())]), &kind()).contains("taken"));
        assert!(refused(&map([("a", pruned())]), &map([])).contains("kind"));
        for key in ["format", "version", "shape:a"] {
            assert!(refused(&map([]), &map([("kind", String::new()), (key, String::new())])).contains(key));
        }
    }

    proptest! {
        #[test]
        fn any_masked_tensor_comes_back(pairs in prop::collection::vec((any::<u32>(), any::<bool>()), 0..200)) {
            let mask: Vec<bool> = pairs.iter().map(|pair| pair.1).collect();
            let values: Vec<f32> = pairs.iter().map(|&(bits, kept)| if kept { f32::from_bits(bits) } else { 0.0 }).collect();
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let bytes = encode(&map([("w", masked(values.clone(), mask.clone()))]), &kind()).expect("valid");
            let (tensors, _) = load(&bytes).expect("just written");
            let Values::F32(found) = &tensors["w"].values else { panic!("float32 expected") };
            prop_assert_eq!(bits(found), bits(&values));
            prop_assert_eq!(tensors["w"].mask.as_ref(), Some(&Mask::from_bools(&mask)));
        }

        #[test]
        fn a_changed_byte_is_read_or_refused_but_never_a_panic(at in 0usize..1000, byte in any::<u8>()) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] = byte;
            prop_assert!(matches!(load(&bytes), Ok(_) | Err(Error::Format(_))));
        }
    }
}
