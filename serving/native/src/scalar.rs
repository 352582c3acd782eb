//! A parameter's value in JSON. Lists and objects, which none may be, are read over and not kept: a number in a
//! list takes two bytes of text, and many times that in memory.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::request::Value;

/// `None` for null, a list or an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar(pub Option<Value>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(Self)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Option<Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Value::Bool(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(Value::Unsigned(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(match u64::try_from(value) {
            Ok(value) => Value::Unsigned(value),
            Err(_) => Value::Number(value as f64),
        }))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(Value::Number(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(Value::Text(value.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scalars_are_kept() {
        let read = |json: &str| serde_json::from_str::<Scalar>(json).unwrap().0;
        assert_eq!(read("7"), Some(Value::Unsigned(7)));
        assert_eq!(read("-7"), Some(Value::Number(-7.0)));
        assert_eq!(read("1e30"), Some(Value::Number(1e30)));
        assert_eq!(read("\"a\\n\""), Some(Value::Text("a\n".into())));
        assert_eq!(read("true"), Some(Value::Bool(true)));
        for other in ["null", "[1, [2]]", "{\"a\": {\"b\": 1}}"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
