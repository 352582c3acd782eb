//! A validated inference request, whatever protocol brought it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::allowance::Allowance;
use crate::classification;
use crate::datatype::Datatype;
use crate::error::{Failure, Result, shown};
use crate::shm::{Regions, Slot};
use crate::signature::Signature;
use crate::tensor::{Tensor, aligned, is_aligned};
use crate::trace::Mark;

/// An output the caller wants.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its place in the model's signature.
    pub output: usize,
    /// As binary data rather than JSON (gRPC is always binary).
    pub binary: bool,
    /// That many of its largest elements rather than the tensor; 0 for the tensor.
    pub classes: usize,
    /// Where it goes instead of into the reply.
    pub slot: Option<Slot>,
}

/// What the queue gets, and what the reply is built from.
#[derive(Debug, Default)]
pub struct InferRequest {
    pub id: String,
    /// In the model's order.
    pub inputs: Vec<Tensor>,
    /// In the caller's order.
    pub outputs: Vec<Wanted>,
    /// How long it may wait for its execution.
    pub timeout: Option<Duration>,
    /// 1 is the highest; 0 asks for the model's default.
    pub priority: u64,
    /// Where its execution is written down, if it is traced.
    pub trace: Option<Arc<Mark>>,
}

/// A parameter, on either protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Number(f64),
    Unsigned(u64),
    Text(String),
}

/// What a request's parameters say. Those of sequences are checked and then mean nothing, as with any model
/// that has no sequence batching; those that are not the protocol's are the caller's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    pub timeout: Option<Duration>,
    pub priority: u64,
    /// HTTP only: how outputs come that say nothing themselves.
    pub binary_output: bool,
}

/// The protocols differ in what they reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Grpc,
}

impl Parameters {
    /// Take one parameter.
    pub fn put(&mut self, protocol: Protocol, name: &str, value: &Value) -> Result<()> {
        match (name, value) {
            ("timeout", Value::Unsigned(0)) => self.timeout = None,
            ("timeout", Value::Unsigned(microseconds)) => {
                self.timeout = Some(Duration::from_micros(*microseconds));
            }
            ("timeout", _) => return Err(must(name, "a number of microseconds, 0 or more")),
            ("priority", Value::Unsigned(priority)) => self.priority = *priority,
            ("priority", _) => return Err(must(name, "a whole number, 0 or more")),
            ("sequence_id", Value::Unsigned(_) | Value::Text(_)) => {}
            ("sequence_id", _) => return Err(must(name, "a whole number or a string")),
            ("sequence_start" | "sequence_end", Value::Bool(_)) => {}
            ("sequence_start" | "sequence_end", _) => return Err(must(name, "true or false")),
            ("binary_data_output", value) if protocol == Protocol::Http => match value {
                Value::Bool(binary) => self.binary_output = *binary,
                _ => return Err(must(name, "true or false")),
            },
            // Every response is its request's only one, and so the final one already.
            ("triton_enable_empty_final_response", Value::Bool(_))
                if protocol == Protocol::Grpc => {}
            ("triton_enable_empty_final_response", _) if protocol == Protocol::Grpc => {
                return Err(must(name, "true or false"));
            }
            ("headers" | "binary_data_output", _) => return Err(reserved(name)),
            (name, _) if name.starts_with("triton_") => return Err(reserved(name)),
            _ => {}
        }
        Ok(())
    }
}

fn must(name: &str, be: &str) -> Failure {
    Failure::invalid(format!("parameter '{name}' must be {be}"))
}

fn reserved(name: &str) -> Failure {
    Failure::invalid(format!("parameter '{}' is reserved", shown(name)))
}

/// Where a tensor's parameters place it in shared memory: all of `shared_memory_region`, `_offset` (0 if
/// missing) and `_byte_size`, or nothing of them.
pub fn slot(
    tensor: &str,
    region: Option<&Value>,
    offset: Option<&Value>,
    size: Option<&Value>,
    regions: &Regions,
) -> Result<Option<Slot>> {
    let bad = |what: &str| {
        Failure::invalid(format!(
            "tensor '{}' has a 'shared_memory_{what}'",
            shown(tensor)
        ))
    };
    let region = match (region, offset, size) {
        (Some(Value::Text(region)), _, _) => region,
        (Some(_), _, _) => return Err(bad("region' that is no string")),
        (None, None, None) => return Ok(None),
        (None, _, Some(_)) => return Err(bad("byte_size' but no 'shared_memory_region'")),
        (None, Some(_), None) => return Err(bad("offset' but no 'shared_memory_region'")),
    };
    let Some(Value::Unsigned(size)) = size else {
        return Err(bad(
            "region' but no 'shared_memory_byte_size' that is a size",
        ));
    };
    let offset = match offset {
        None => 0,
        Some(Value::Unsigned(offset)) => *offset,
        Some(_) => return Err(bad("offset' that is no offset")),
    };
    regions.slot(tensor, region, offset, *size).map(Some)
}

/// A tensor's bytes at an address that suits the datatype. A copy is memory of its own.
pub fn placed(data: Bytes, datatype: Datatype, allowance: &Arc<Allowance>) -> Result<Bytes> {
    if is_aligned(&data, datatype) {
        return Ok(data);
    }
    let share = allowance.reserve(data.len())?;
    Ok(share.pay(aligned(data, datatype)))
}

/// Collects the outputs a request wants, each once.
pub struct Outputs<'a> {
    signature: &'a Signature,
    wanted: Vec<Wanted>,
}

impl<'a> Outputs<'a> {
    pub fn new(signature: &'a Signature) -> Self {
        Self {
            signature,
            wanted: Vec::with_capacity(signature.outputs.len()),
        }
    }

    /// Note that an output is wanted; `classes` is its parameter `classification`.
    pub fn put(
        &mut self,
        name: &str,
        binary: bool,
        classes: Option<&Value>,
        slot: Option<Slot>,
    ) -> Result<()> {
        let output = self.signature.output(name)?;
        let spec = &self.signature.outputs[output];
        let classes = match classes {
            None => 0,
            Some(Value::Unsigned(classes)) => usize::try_from(*classes).unwrap_or(usize::MAX),
            Some(_) => {
                return Err(Failure::invalid(format!(
                    "output '{name}' has a 'classification' that is no number of classes"
                )));
            }
        };
        if classes > 0 {
            classification::check(spec)?;
            if slot.is_some() {
                return Err(Failure::invalid(format!(
                    "output '{name}' cannot be both classified and in shared memory"
                )));
            }
        }
        if self.wanted.iter().any(|other| other.output == output) {
            return Err(Failure::invalid(format!(
                "output '{name}' is requested twice"
            )));
        }
        self.wanted.push(Wanted {
            output,
            binary,
            classes,
            slot,
        });
        Ok(())
    }

    /// The outputs, or all of the model's when none was named.
    pub fn finish(self, binary: bool) -> Result<Vec<Wanted>> {
        let mut wanted = self.wanted;
        if wanted.is_empty() {
            wanted.extend((0..self.signature.outputs.len()).map(|output| Wanted {
                output,
                binary,
                ..Wanted::default()
            }));
        }
        for wanted in &wanted {
            let spec = &self.signature.outputs[wanted.output];
            let in_json = !wanted.binary && wanted.classes == 0 && wanted.slot.is_none();
            if in_json && !spec.datatype.in_json() {
                return Err(Failure::invalid(format!(
                    "output '{}' has datatype '{}', which JSON cannot carry: ask for binary data",
                    spec.name,
                    spec.datatype.name()
                )));
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(protocol: Protocol, name: &str, value: Value) -> Result<Parameters> {
        let mut parameters = Parameters::default();
        parameters.put(protocol, name, &value)?;
        Ok(parameters)
    }

    #[test]
    fn parameters_mean_what_the_protocol_says() {
        use Protocol::{Grpc, Http};
        let timeout = taken(Http, "timeout", Value::Unsigned(7)).unwrap();
        assert_eq!(timeout.timeout, Some(Duration::from_micros(7)));
        assert_eq!(
            taken(Grpc, "timeout", Value::Unsigned(0)).unwrap().timeout,
            None
        );
        assert_eq!(
            taken(Grpc, "priority", Value::Unsigned(2))
                .unwrap()
                .priority,
            2
        );
        for (name, value) in [
            ("sequence_id", Value::Unsigned(u64::MAX)),
            ("sequence_id", Value::Text("a".into())),
            ("sequence_start", Value::Bool(true)),
            ("sequence_end", Value::Bool(false)),
            ("mine", Value::Number(0.5)),
        ] {
            assert_eq!(taken(Http, name, value.clone()), Ok(Parameters::default()));
            assert_eq!(taken(Grpc, name, value), Ok(Parameters::default()));
        }
        for (name, value) in [
            ("timeout", Value::Number(-1.0)),
            ("timeout", Value::Text("1".into())),
            ("priority", Value::Number(-1.0)),
            ("priority", Value::Bool(true)),
            ("sequence_id", Value::Bool(true)),
            ("sequence_start", Value::Unsigned(1)),
            ("sequence_end", Value::Text("true".into())),
            ("headers", Value::Text("x".into())),
            ("triton_x", Value::Bool(true)),
            ("triton_", Value::Bool(true)),
        ] {
            for protocol in [Http, Grpc] {
                let failure = taken(protocol, name, value.clone()).unwrap_err();
                assert!(failure.message.contains(name), "{failure}");
            }
        }
    }

    #[test]
    fn protocols_reserve_each_others_names() {
        let empty = "triton_enable_empty_final_response";
        assert!(taken(Protocol::Http, empty, Value::Bool(true)).is_err());
        assert!(taken(Protocol::Grpc, empty, Value::Unsigned(1)).is_err());
        assert!(taken(Protocol::Grpc, empty, Value::Bool(true)).is_ok());
        assert!(taken(Protocol::Grpc, "binary_data_output", Value::Bool(true)).is_err());
        let http = taken(Protocol::Http, "binary_data_output", Value::Bool(true)).unwrap();
        assert!(http.binary_output);
    }
}
