//! How many parts a request may have. Each is far larger once it is read than it is on the wire, where a tensor
//! without a name or data takes two bytes.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;

use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::error::{Failure, Result};

/// Inputs, outputs, contents or parameters; models have a handful of each.
const MOST: usize = 4096;

/// Models have two to five.
const MOST_DIMENSIONS: usize = 64;

/// Fields that are counted quickly, before it is known how much work a message is.
const FIRST: usize = 256;

/// The fields of a `ModelInferRequest` that are repeated.
const REPEATED: [(u32, &str); 4] = [
    (4, "parameters"),
    (5, "inputs"),
    (6, "outputs"),
    (RAW, "raw_input_contents"),
];
const RAW: u32 = 7;

/// What the fields of `TensorContents` become: bytes of an element, and how many
/// bytes it has at least when it is packed.
const CONTENTS: [(u32, usize, usize); 8] = [
    (1, 1, 1),
    (2, 4, 1),
    (3, 8, 1),
    (4, 4, 1),
    (5, 8, 1),
    (6, 4, 4),
    (7, 8, 8),
    (STRINGS, size_of::<Bytes>(), 1),
];
const STRINGS: u32 = 8;

const LOAD_PARAMETERS: u32 = 3;
const INPUTS: u32 = 5;
const SHAPE: u32 = 3;
const INPUT_PARAMETERS: u32 = 4;
const TYPED: u32 = 5;

/// Refuse a `ModelInferRequest` with too many parts, before it is decoded. What it becomes then, in bytes at most,
/// beside the message, whose raw contents it shares.
pub fn weigh(message: &[u8]) -> Result<usize> {
    let mut counts = [0; REPEATED.len()];
    let mut weight = 0usize;
    let whole = fields(message, |tag, payload| {
        if let Some(index) = REPEATED.iter().position(|&(known, _)| known == tag) {
            counts[index] += 1;
            if counts[index] > MOST {
                return Err(too_many(REPEATED[index].1));
            }
        }
        if tag == INPUTS {
            weight += input(payload)?;
        } else if tag != RAW {
            weight += payload.len();
        }
        Ok(())
    });
    // What is not whole is not decoded either; decoding it says what is wrong.
    whole.map(|()| weight)
}

/// How many bytes of a `ModelInferRequest` have to be looked at one by one: all but its raw contents, as far as these
/// are among the first fields.
pub fn work(message: &[u8]) -> usize {
    let mut raw = 0;
    let mut rest = message;
    for _ in 0..FIRST {
        // The end of a group is not known before all of it was looked at.
        if !matches!(decode_key(&mut { rest }), Ok((_, kind)) if kind != WireType::StartGroup) {
            break;
        }
        match field(&mut rest) {
            Ok((RAW, payload)) => raw += payload.len(),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    message.len() - raw
}

/// Refuse a `RepositoryModelLoadRequest` with too many parameters, before it is decoded.
pub fn few_parameters(message: &[u8]) -> Result<()> {
    let mut parameters = 0;
    fields(message, |tag, _| {
        parameters += usize::from(tag == LOAD_PARAMETERS);
        match parameters > MOST {
            true => Err(too_many("parameters")),
            false => Ok(()),
        }
    })
}

fn input(message: &[u8]) -> Result<usize> {
    let mut parameters = 0;
    let mut dimensions = 0;
    let mut weight = 0;
    fields(message, |tag, payload| {
        weight += match tag {
            SHAPE => {
                // Packed, or one alone; each ends with a byte below 128.
                dimensions += payload.iter().filter(|&&byte| byte < 128).count().max(1);
                if dimensions > MOST_DIMENSIONS {
                    return Err(Failure::invalid(format!(
                        "a request has at most {MOST_DIMENSIONS} dimensions in a shape"
                    )));
                }
                8 * payload.len().max(1)
            }
            TYPED => contents(payload)?,
            INPUT_PARAMETERS => {
                parameters += 1;
                if parameters > MOST {
                    return Err(too_many("parameters of an input"));
                }
                payload.len()
            }
            _ => payload.len(),
        };
        Ok(())
    })?;
    Ok(weight)
}

fn contents(message: &[u8]) -> Result<usize> {
    let mut weight = 0;
    fields(message, |tag, payload| {
        if let Some(&(_, size, least)) = CONTENTS.iter().find(|&&(known, ..)| known == tag) {
            // Packed, or one alone. A vector that grows has twice the room that it needs.
            let elements = match tag {
                STRINGS => 1,
                _ => (payload.len() / least).max(1),
            };
            weight += 2 * size * elements;
        }
        Ok(())
    })?;
    Ok(weight)
}

fn too_many(parts: &str) -> Failure {
    Failure::invalid(format!("a request has at most {MOST} {parts}"))
}

/// Look at the fields of a message that is whole, or at those before the first that is not: their numbers, and
/// their payloads where these have a length.
fn fields(mut message: &[u8], mut each: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
    while !message.is_empty() {
        let Ok((tag, payload)) = field(&mut message) else {
            return Ok(());
        };
        each(tag, payload)?;
    }
    Ok(())
}

/// Take a field off a message. Its number, and its payload, as far as it is there.
fn field<'a>(message: &mut &'a [u8]) -> std::result::Result<(u32, &'a [u8]), prost::DecodeError> {
    let (tag, kind) = decode_key(message)?;
    if kind != WireType::LengthDelimited {
        skip_field(kind, tag, message, DecodeContext::default())?;
        return Ok((tag, &[]));
    }
    let length = decode_varint(message)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (payload, rest) = message.split_at(message.len().min(length));
    *message = rest;
    Ok((tag, payload))
}

/// Read a shape from JSON.
pub fn rank<'de, D>(deserializer: D) -> std::result::Result<Vec<i64>, D::Error>
where
    D: Deserializer<'de>,
{
    at_most(deserializer, MOST_DIMENSIONS, "dimensions in a shape")
}

/// Read an array of JSON that has few members.
pub fn few<'de, D, T>(deserializer: D) -> std::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    at_most(deserializer, MOST, "inputs and outputs each")
}

fn at_most<'de, D, T>(
    deserializer: D,
    most: usize,
    what: &'static str,
) -> std::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct AtMost<T>(usize, &'static str, PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(
            self,
            mut array: A,
        ) -> std::result::Result<Vec<T>, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = array.next_element()? {
                if members.len() == self.0 {
                    return Err(too_many_of(self.0, self.1));
                }
                members.push(member);
            }
            Ok(members)
        }
    }

    deserializer.deserialize_seq(AtMost(most, what, PhantomData))
}

/// Read an object of JSON that has few members.
pub fn few_named<'de, D, K, T>(deserializer: D) -> std::result::Result<HashMap<K, T>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Eq + Hash,
    T: Deserialize<'de>,
{
    struct FewNamed<K, T>(PhantomData<(K, T)>);

    impl<'de, K: Deserialize<'de> + Eq + Hash, T: Deserialize<'de>> Visitor<'de> for FewNamed<K, T> {
        type Value = HashMap<K, T>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(
            self,
            mut object: A,
        ) -> std::result::Result<HashMap<K, T>, A::Error> {
            let mut members = HashMap::new();
            while let Some((name, member)) = object.next_entry()? {
                members.insert(name, member);
                if members.len() > MOST {
                    return Err(too_many_of(MOST, "parameters"));
                }
            }
            Ok(members)
        }
    }

    deserializer.deserialize_map(FewNamed(PhantomData))
}

fn too_many_of<E: Error>(most: usize, what: &str) -> E {
    E::custom(format!("a request has at most {most} {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::{InputTensor, ModelInferRequest, TensorContents};

    #[test]
    fn a_message_has_few_parts_of_each_kind() {
        for (tag, name) in REPEATED {
            let part = [(tag as u8) << 3 | 2, 0];
            assert!(weigh(&part.repeat(MOST)).is_ok());
            // An unknown field in front, and one that is cut off behind.
            let many = [&[0x78, 5], &part.repeat(MOST + 1)[..], &[0x0a, 9]].concat();
            assert!(weigh(&many).unwrap_err().message.contains(name));
        }
        assert!(weigh(&[0x2a, 9]).is_ok());
        let input = InputTensor {
            name: "x".into(),
            ..Default::default()
        };
        let many = [&input.encode_to_vec()[..], &[0x22, 0].repeat(MOST + 1)].concat();
        let message = [
            &[
                0x2a,
                0x80 | (many.len() & 127) as u8,
                (many.len() >> 7) as u8,
            ],
            &many[..],
        ];
        let refused = weigh(&message.concat()).unwrap_err();
        assert!(refused.message.contains("parameters of an input"));
    }

    #[test]
    fn raw_contents_are_no_work() {
        let request = ModelInferRequest {
            model_name: "m".into(),
            raw_input_contents: vec![Bytes::from(vec![0; 1 << 20]); 2],
            ..Default::default()
        };
        assert!(work(&request.encode_to_vec()) < 20);
        // Names, unknown fields and groups are, and what comes after them is not looked for.
        for much in [
            &[0x78, 5].repeat(1 << 20)[..],
            &[&[0x7b], &[0x78, 5].repeat(1 << 20)[..], &[0x7c]].concat(),
        ] {
            let message = [much, &request.encode_to_vec()].concat();
            assert_eq!(work(&message), message.len());
        }
    }

    #[test]
    fn a_shape_in_a_message_has_few_dimensions() {
        let message = |shape: &[u8]| {
            let input = [&[0x1a, shape.len() as u8], shape].concat();
            [&[0x2a, input.len() as u8], &input[..]].concat()
        };
        assert!(weigh(&message(&[1; MOST_DIMENSIONS])).is_ok());
        assert!(
            weigh(&message(&[0x81, 1].repeat(50))).is_ok(),
            "two bytes each"
        );
        let refused = weigh(&message(&[1; MOST_DIMENSIONS + 1])).unwrap_err();
        assert!(refused.message.contains("dimensions"), "{refused}");
        let single = [0x18, 1].repeat(MOST_DIMENSIONS + 1);
        let single = [&[0x2a, 0x82, 1], &single[..]].concat();
        assert!(weigh(&single).unwrap_err().message.contains("dimensions"));
    }

    proptest! {
        #[test]
        fn nothing_becomes_more_than_it_weighs(
            bools in prop::collection::vec(any::<bool>(), 0..50),
            ints in prop::collection::vec(0i32..99, 0..50),
            longs in prop::collection::vec(prop_oneof![0i64..99, any::<i64>()], 0..50),
            floats in prop::collection::vec(any::<f32>(), 0..50),
            doubles in prop::collection::vec(any::<f64>(), 0..50),
            strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3), 0..50),
            shape in prop::collection::vec(0i64..9, 0..50),
        ) {
            let needed = bools.len()
                + 4 * (ints.len() + floats.len())
                + 8 * (longs.len() + doubles.len() + shape.len())
                + size_of::<Bytes>() * strings.len();
            let contents = TensorContents {
                bool_contents: bools,
                int_contents: ints,
                int64_contents: longs,
                fp32_contents: floats,
                fp64_contents: doubles,
                bytes_contents: strings.into_iter().map(Bytes::from).collect(),
                ..Default::default()
            };
            let request = ModelInferRequest {
                inputs: vec![InputTensor { shape, contents: Some(contents), ..Default::default() }],
                ..Default::default()
            };
            prop_assert!(weigh(&request.encode_to_vec()).unwrap() >= needed);
        }

        #[test]
        fn nothing_panics(message in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = weigh(&message);
            assert!(work(&message) <= message.len());
        }
    }

    #[test]
    fn an_array_has_few_members() {
        let array = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        let read = |text: String| few::<_, u8>(&mut serde_json::Deserializer::from_str(&text));
        assert_eq!(read(array(MOST)).unwrap().len(), MOST);
        let refused = read(array(MOST + 1)).unwrap_err().to_string();
        assert!(refused.contains("at most 4096"), "{refused}");
    }

    #[test]
    fn an_object_has_few_members() {
        let object = |count: usize| {
            let members: Vec<String> = (0..count).map(|n| format!("\"{n}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        let read = |text: String| {
            few_named::<_, String, u8>(&mut serde_json::Deserializer::from_str(&text))
        };
        assert_eq!(read(object(MOST)).unwrap().len(), MOST);
        let refused = read(object(MOST + 1)).unwrap_err().to_string();
        assert!(refused.contains("at most 4096"), "{refused}");
    }

    #[test]
    fn a_shape_has_few_dimensions() {
        let read = |text: &str| rank(&mut serde_json::Deserializer::from_str(text));
        assert_eq!(read("[1, 2]").unwrap(), [1, 2]);
        assert!(read(&format!("[{}1]", "1,".repeat(MOST_DIMENSIONS))).is_err());
    }
}
