//! The header of a safetensors file: read strictly, written in one order only.
//!
//! ```text
//! | u64 n, little endian | JSON, n bytes, padded with spaces | data of the tensors, without gaps |
//! ```
//! The `safetensors` crate keeps names in hash maps: a name that occurs twice vanishes silently, and metadata is written
//! in an order that changes from run to run. So the JSON is parsed and written here; the crate supplies the entry type
//! and checks that the tensors cover the data without gap, overlap or arithmetic overflow.

use crate::{Result, malformed};
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

/// Longest header that is read, in bytes. A thousand tensors take 100 KB; parsing needs about four times its length.
pub const LONGEST: u64 = 16 << 20;
/// Most dimensions of a tensor, as in NumPy before version 2.
pub const MOST_DIMENSIONS: usize = 32;
const METADATA: &str = "__metadata__";

/// Names and places of the tensors, and the file's metadata.
#[derive(Debug, Default)]
pub struct Header {
    pub metadata: BTreeMap<String, String>,
    pub tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Parses the JSON and checks that the tensors exactly fill `data` bytes.
    pub fn parse(json: &[u8], data: u64) -> Result<Self> {
        let header: Header =
            serde_json::from_slice(json).map_err(|error| malformed!("damaged or no secateur file: {error}"))?;
        let mut order: Vec<_> = header.tensors.iter().map(|(name, info)| (name.clone(), info.clone())).collect();
        order.sort_by_key(|(_, info)| info.data_offsets);
        let end = Metadata::new(None, order).map_err(|error| malformed!("damaged file: {error}"))?.data_len();
        if end as u64 != data {
            return Err(malformed!("damaged file: its tensors take {end} bytes, but {data} bytes follow the header"));
        }
        for (name, info) in &header.tensors {
            if info.shape.len() > MOST_DIMENSIONS {
                return Err(malformed!("damaged file: {name} has {} dimensions", info.shape.len()));
            }
        }
        Ok(header)
    }

    /// The length and the JSON, padded so that the data begins at a multiple of 8 bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec(self).map_err(|error| malformed!("header: {error}"))?;
        json.resize(json.len().next_multiple_of(8), b' ');
        if json.len() as u64 > LONGEST {
            return Err(malformed!("header: {} bytes, more than the {LONGEST} that a file may have", json.len()));
        }
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut json);
        Ok(bytes)
    }
}

impl serde::Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(METADATA, &self.metadata)?;
        for (name, info) in &self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

impl<'de> serde::Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header::default();
                let mut described = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        if std::mem::replace(&mut described, true) {
                            return Err(A::Error::custom("two metadata maps"));
                        }
                        header.metadata = map.next_value::<Unique>()?.0;
                        continue;
                    }
                    match header.tensors.entry(name) {
                        Entry::Vacant(place) => place.insert(map.next_value()?),
                        Entry::Occupied(place) => {
                            return Err(A::Error::custom(format!("two tensors named {:?}", place.key())));
                        }
                    };
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A map of strings in which no key occurs twice.
struct Unique(BTreeMap<String, String>);

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Unique, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if let Some(_earlier) = pairs.insert(key, value) {
                        return Err(A::Error::custom("a metadata key occurs twice"));
                    }
                }
                Ok(Unique(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str, data: u64) -> String {
        Header::parse(json.as_bytes(), data).expect_err(json).to_string()
    }

    #[test]
    fn duplicates_overlaps_gaps_and_overflows_are_refused() {
        let tensor = |from: usize, to: usize| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":[{from},{to}]}}"#);
        assert!(Header::parse(format!(r#"{{"a":{},"b":{}}}"#, tensor(0, 4), tensor(4, 8)).as_bytes(), 8).is_ok());
        assert!(refused(&format!(r#"{{"a":{},"a":{}}}"#, tensor(0, 4), tensor(4, 8)), 8).contains("two tensors"));
        assert!(refused(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0).contains("twice"));
        assert!(refused(r#"{"__metadata__":{},"__metadata__":{}}"#, 0).contains("two metadata"));
        for (a, b, data) in [((0, 4), (3, 7), 7), ((0, 4), (5, 9), 9), ((0, 4), (4, 8), 9), ((1, 5), (5, 9), 9)] {
            refused(&format!(r#"{{"a":{},"b":{}}}"#, tensor(a.0, a.1), tensor(b.0, b.1)), data);
        }
        let huge = r#"{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
        refused(huge, 0);
        let deep = format!(r#"{{"a":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}}}"#, "1,".repeat(32));
        assert!(refused(&deep, 0).contains("dimensions"));
        for text in ["", "[]", "{", "null", r#"{"a":1}"#, r#"{"__metadata__":{"a":1}}"#] {
            refused(text, 0);
        }
    }
}
