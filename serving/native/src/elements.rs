//! Tensor elements in JSON: arrays of numbers, truth values and strings, nested or flat, to little-endian
//! bytes and back.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};

use crate::allowance::Allowance;
use crate::datatype::Datatype;
use crate::error::{Failure, Result};
use crate::signature::TensorSpec;
use crate::tensor::{Buffer, Tensor, bytes_elements};

/// Read an input's `data`, which must hold exactly `count` elements.
pub fn parse(
    json: &str,
    spec: &TensorSpec,
    count: usize,
    allowance: &Arc<Allowance>,
) -> Result<Bytes> {
    let name = &spec.name;
    if !spec.datatype.in_json() {
        return Err(Failure::invalid(format!(
            "input '{name}' has datatype '{}', which JSON cannot carry: send it as binary data",
            spec.datatype.name()
        )));
    }
    // The text bounds the elements (a digit and a comma each), so a shape cannot make us allocate.
    if count > json.len() {
        return Err(Failure::invalid(format!(
            "input '{name}' has fewer elements than the {count} of its shape"
        )));
    }
    let size = count * spec.datatype.size().unwrap_or(4);
    // Strings are no longer than their text; those with escapes the parser collects in memory of its own.
    let strings = match spec.datatype {
        Datatype::Bytes if json.contains('\\') => 2 * json.len(),
        Datatype::Bytes => json.len(),
        _ => 0,
    };
    let share = allowance.reserve(size + strings)?;
    let mut sink = Sink {
        datatype: spec.datatype,
        bytes: Buffer::new(if strings > 0 { 0 } else { size }, 0),
        strings: Vec::with_capacity(if strings > 0 { size + json.len() } else { 0 }),
        left: count,
    };
    let mut reader = serde_json::Deserializer::from_str(json);
    Element(&mut sink)
        .deserialize(&mut reader)
        .map_err(|error| Failure::invalid(format!("input '{name}' has bad data: {error}")))?;
    if sink.left > 0 {
        return Err(Failure::invalid(format!(
            "input '{name}' has {} elements, its shape needs {count}",
            count - sink.left
        )));
    }
    Ok(share.pay(match spec.datatype {
        Datatype::Bytes => Bytes::from(sink.strings),
        _ => sink.bytes.freeze(),
    }))
}

struct Sink {
    datatype: Datatype,
    bytes: Buffer,
    strings: Vec<u8>,
    left: usize,
}

impl Sink {
    fn count(&mut self) -> std::result::Result<(), String> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or("more elements than its shape needs")?;
        Ok(())
    }

    fn integer(&mut self, number: i128) -> std::result::Result<(), String> {
        macro_rules! put {
            ($type:ty) => {
                match <$type>::try_from(number) {
                    Ok(value) => self.bytes.extend(&value.to_le_bytes()),
                    Err(_) => {
                        return Err(format!(
                            "{number} is out of the range of {}",
                            self.datatype.name()
                        ));
                    }
                }
            };
        }
        self.count()?;
        match self.datatype {
            Datatype::Uint8 => put!(u8),
            Datatype::Uint16 => put!(u16),
            Datatype::Uint32 => put!(u32),
            Datatype::Uint64 => put!(u64),
            Datatype::Int8 => put!(i8),
            Datatype::Int16 => put!(i16),
            Datatype::Int32 => put!(i32),
            Datatype::Int64 => put!(i64),
            Datatype::Fp32 => self.bytes.extend(&(number as f32).to_le_bytes()),
            Datatype::Fp64 => self.bytes.extend(&(number as f64).to_le_bytes()),
            Datatype::Bool if matches!(number, 0 | 1) => self.bytes.extend(&[number as u8]),
            _ => return Err(self.unexpected("a number")),
        }
        Ok(())
    }

    fn float(&mut self, number: f64) -> std::result::Result<(), String> {
        self.count()?;
        match self.datatype {
            Datatype::Fp32 => {
                let narrow = number as f32;
                if narrow.is_infinite() {
                    return Err(format!("{number} is out of the range of FP32"));
                }
                self.bytes.extend(&narrow.to_le_bytes());
            }
            Datatype::Fp64 => self.bytes.extend(&number.to_le_bytes()),
            _ => return Err(self.unexpected("a fraction")),
        }
        Ok(())
    }

    fn truth(&mut self, value: bool) -> std::result::Result<(), String> {
        self.count()?;
        match self.datatype {
            Datatype::Bool => self.bytes.extend(&[u8::from(value)]),
            _ => return Err(self.unexpected("a truth value")),
        }
        Ok(())
    }

    fn text(&mut self, value: &str) -> std::result::Result<(), String> {
        self.count()?;
        let length = u32::try_from(value.len()).map_err(|_| "a string is too long")?;
        if self.datatype != Datatype::Bytes {
            return Err(self.unexpected("a string"));
        }
        self.strings.extend_from_slice(&length.to_le_bytes());
        self.strings.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn unexpected(&self, what: &str) -> String {
        format!("{what} is no element of {}", self.datatype.name())
    }
}

/// One element, or an array of them.
struct Element<'a>(&'a mut Sink);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "elements of {}", self.0.datatype.name())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        while items.next_element_seed(Element(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<(), E> {
        self.0.integer(value.into()).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<(), E> {
        self.0.integer(value.into()).map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<(), E> {
        self.0.float(value).map_err(E::custom)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<(), E> {
        self.0.truth(value).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<(), E> {
        self.0.text(value).map_err(E::custom)
    }
}

/// Write an output as a flat JSON array.
pub fn render(json: &mut Vec<u8>, tensor: &Tensor, name: &str, datatype: Datatype) -> Result<()> {
    macro_rules! numbers {
        ($type:ty) => {{
            const SIZE: usize = size_of::<$type>();
            let (chunks, _) = tensor.data.as_chunks::<SIZE>();
            array(json, chunks.iter(), |json, chunk| {
                let number = <$type>::from_le_bytes(*chunk);
                serde_json::to_writer(json, &number).map_err(|error| error.to_string())
            })
        }};
    }
    macro_rules! floats {
        ($type:ty) => {{
            const SIZE: usize = size_of::<$type>();
            let (chunks, _) = tensor.data.as_chunks::<SIZE>();
            array(json, chunks.iter(), |json, chunk| {
                let number = <$type>::from_le_bytes(*chunk);
                if !number.is_finite() {
                    return Err("holds NaN or infinity".into());
                }
                serde_json::to_writer(json, &number).map_err(|error| error.to_string())
            })
        }};
    }
    match datatype {
        Datatype::Bool => array(json, tensor.data.iter(), |json, &byte| {
            json.extend_from_slice(if byte == 0 { b"false" } else { b"true" });
            Ok(())
        }),
        Datatype::Uint8 => numbers!(u8),
        Datatype::Uint16 => numbers!(u16),
        Datatype::Uint32 => numbers!(u32),
        Datatype::Uint64 => numbers!(u64),
        Datatype::Int8 => numbers!(i8),
        Datatype::Int16 => numbers!(i16),
        Datatype::Int32 => numbers!(i32),
        Datatype::Int64 => numbers!(i64),
        Datatype::Fp32 => floats!(f32),
        Datatype::Fp64 => floats!(f64),
        Datatype::Bytes => array(json, bytes_elements(&tensor.data), |json, element| {
            let text =
                std::str::from_utf8(element).map_err(|_| "holds a string that is not UTF-8")?;
            serde_json::to_writer(json, text).map_err(|error| error.to_string())
        }),
        Datatype::Fp16 | Datatype::Bf16 => Err(format!("has datatype '{}'", datatype.name())),
    }
    .map_err(|what| {
        Failure::invalid(format!(
            "output '{name}' {what}, which JSON cannot carry: ask for binary data"
        ))
    })
}

fn array<T>(
    json: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    write: impl Fn(&mut Vec<u8>, T) -> std::result::Result<(), String>,
) -> std::result::Result<(), String> {
    json.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write(json, item)?;
    }
    json.push(b']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unlimited() -> Arc<Allowance> {
        Allowance::new(usize::MAX)
    }

    fn spec(datatype: Datatype) -> TensorSpec {
        TensorSpec {
            name: "x".into(),
            datatype,
            shape: vec![-1],
            text: true,
        }
    }

    fn rendered(data: Bytes, datatype: Datatype) -> Result<String> {
        let mut json = Vec::new();
        let tensor = Tensor {
            shape: vec![],
            data,
        };
        render(&mut json, &tensor, "x", datatype)?;
        Ok(String::from_utf8(json).unwrap())
    }

    #[test]
    fn nesting_is_flattened() {
        let data = parse("[[1, 2], [3, 4]]", &spec(Datatype::Int16), 4, &unlimited()).unwrap();
        assert_eq!(&data[..], b"\x01\0\x02\0\x03\0\x04\0");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (datatype, json, count) in [
            (Datatype::Int8, "[128]", 1),
            (Datatype::Uint8, "[-1]", 1),
            (Datatype::Uint64, "[1.5]", 1),
            (Datatype::Int32, "[1.0]", 1),
            (Datatype::Fp32, "[1e39]", 1),
            (Datatype::Fp32, "[NaN]", 1),
            (Datatype::Fp32, "[null]", 1),
            (Datatype::Fp32, "[\"1\"]", 1),
            (Datatype::Fp32, "[true]", 1),
            (Datatype::Bool, "[2]", 1),
            (Datatype::Bytes, "[1]", 1),
            (Datatype::Fp16, "[1]", 1),
            (Datatype::Fp32, "[1, 2]", 1),
            (Datatype::Fp32, "[1, 2]", 3),
            (Datatype::Fp32, "[1]", usize::MAX / 8),
            (Datatype::Fp32, "{}", 1),
        ] {
            let failure = parse(json, &spec(datatype), count, &unlimited()).unwrap_err();
            assert!(failure.message.contains("'x'"), "{failure}");
        }
    }

    #[test]
    fn nan_and_broken_strings_have_no_json() {
        assert!(
            rendered(
                Bytes::copy_from_slice(&f32::NAN.to_le_bytes()),
                Datatype::Fp32
            )
            .is_err()
        );
        assert!(rendered(Bytes::from_static(b"\x01\0\0\0\xff"), Datatype::Bytes).is_err());
    }

    proptest! {
        #[test]
        fn numbers_round_trip(numbers in prop::collection::vec(any::<f32>().prop_filter("finite", |n| n.is_finite()), 1..20)) {
            let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            let json = rendered(Bytes::from(data.clone()), Datatype::Fp32).unwrap();
            let back = parse(&json, &spec(Datatype::Fp32), numbers.len(), &unlimited()).unwrap();
            prop_assert_eq!(&back[..], &data[..]);
        }

        #[test]
        fn integers_round_trip(numbers in prop::collection::vec(any::<i64>(), 1..20)) {
            let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            let json = rendered(Bytes::from(data.clone()), Datatype::Int64).unwrap();
            let back = parse(&json, &spec(Datatype::Int64), numbers.len(), &unlimited()).unwrap();
            prop_assert_eq!(&back[..], &data[..]);
        }

        #[test]
        fn strings_round_trip(words in prop::collection::vec(".*", 1..8)) {
            let json = serde_json::to_string(&words).unwrap();
            let data = parse(&json, &spec(Datatype::Bytes), words.len(), &unlimited()).unwrap();
            prop_assert_eq!(rendered(data, Datatype::Bytes).unwrap(), json);
        }
    }
}
