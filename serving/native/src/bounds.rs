//! How many parts a request may have. Each is far larger once it is read than it is on the wire, where a tensor
//! without a name or data takes two bytes.

use std::fmt;
use std::marker::PhantomData;

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use crate::error::{Failure, Result};

/// Inputs, outputs, contents or parameters; models have a handful of each.
const MOST: usize = 4096;

/// The fields of a `ModelInferRequest` that are repeated.
const REPEATED: [(u32, &str); 4] = [
    (4, "parameters"),
    (5, "inputs"),
    (6, "outputs"),
    (7, "raw_input_contents"),
];

/// Refuse a `ModelInferRequest` with too many parts, before it is decoded.
pub fn check(mut message: &[u8]) -> Result<()> {
    let mut counts = [0; REPEATED.len()];
    while !message.is_empty() {
        let Ok(tag) = skip(&mut message) else {
            return Ok(()); // decoding it says what is wrong
        };
        let Some(index) = REPEATED.iter().position(|&(known, _)| known == tag) else {
            continue;
        };
        counts[index] += 1;
        if counts[index] > MOST {
            let name = REPEATED[index].1;
            return Err(Failure::invalid(format!(
                "a request has at most {MOST} {name}"
            )));
        }
    }
    Ok(())
}

/// Skip a field. Its tag.
fn skip(message: &mut &[u8]) -> std::result::Result<u32, prost::DecodeError> {
    let (tag, kind) = decode_key(message)?;
    if kind == WireType::LengthDelimited {
        let length = decode_varint(message)?;
        message.advance(
            message
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX)),
        );
    } else {
        skip_field(kind, tag, message, DecodeContext::default())?;
    }
    Ok(tag)
}

/// Read an array of JSON that has few members.
pub fn few<'de, D, T>(deserializer: D) -> std::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Few<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
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
                if members.len() == MOST {
                    return Err(A::Error::custom(format!(
                        "a request has at most {MOST} inputs and outputs each"
                    )));
                }
                members.push(member);
            }
            Ok(members)
        }
    }

    deserializer.deserialize_seq(Few(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_few_parts_of_each_kind() {
        for (tag, name) in REPEATED {
            let part = [(tag as u8) << 3 | 2, 0];
            assert!(check(&part.repeat(MOST)).is_ok());
            // An unknown field in front, and one that is cut off behind.
            let many = [&[0x78, 5], &part.repeat(MOST + 1)[..], &[0x0a, 9]].concat();
            assert!(check(&many).unwrap_err().message.contains(name));
        }
        let inside = [&[0x2a, 0x80, 0x80, 1], &[0x2a, 0].repeat(8192)[..]].concat();
        assert!(check(&inside).is_ok());
        assert!(check(&[0x2a, 9]).is_ok());
    }

    #[test]
    fn an_array_has_few_members() {
        let array = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        let read = |text: String| few::<_, u8>(&mut serde_json::Deserializer::from_str(&text));
        assert_eq!(read(array(MOST)).unwrap().len(), MOST);
        let refused = read(array(MOST + 1)).unwrap_err().to_string();
        assert!(refused.contains("at most 4096"), "{refused}");
    }
}
