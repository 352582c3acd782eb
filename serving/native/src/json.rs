//! The HTTP form of inference: JSON, with tensors in it or, as binary data, behind it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::allowance::Allowance;
use crate::bounds;
use crate::elements;
use crate::error::{Failure, Result, shown};
use crate::reply::{self, Carrier};
use crate::request::{self, InferRequest, Outputs, Parameters, Protocol, Value, Wanted};
use crate::scalar::Scalar;
use crate::shm::{Regions, Slot};
use crate::signature::{Inputs, Signature};
use crate::tensor::Buffer;

/// Arrays and objects may be nested this deep.
const MAX_DEPTH: usize = 100;

/// Values in what the control side reads.
const MAX_VALUES: usize = 1 << 16;

type RequestParameters = HashMap<String, Scalar>;

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "bounds::few")]
    inputs: Vec<Input<'a>>,
    #[serde(borrow, default, deserialize_with = "bounds::few")]
    outputs: Vec<Output<'a>>,
    #[serde(default, deserialize_with = "bounds::few_named")]
    parameters: RequestParameters,
}

#[derive(Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(deserialize_with = "bounds::rank")]
    shape: Vec<i64>,
    #[serde(default)]
    parameters: TensorParameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: TensorParameters,
}

/// The parameters of an input or output that mean something.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TensorParameters {
    binary_data: Option<Scalar>,
    binary_data_size: Option<Scalar>,
    classification: Option<Scalar>,
    shared_memory_region: Option<Scalar>,
    shared_memory_offset: Option<Scalar>,
    shared_memory_byte_size: Option<Scalar>,
}

impl TensorParameters {
    fn slot(&self, tensor: &str, regions: &Regions) -> Result<Option<Slot>> {
        if self.shared_memory_region.is_none()
            && self.shared_memory_offset.is_none()
            && self.shared_memory_byte_size.is_none()
        {
            return Ok(None);
        }
        request::slot(
            tensor,
            scalar(self.shared_memory_region.as_ref()).as_ref(),
            scalar(self.shared_memory_offset.as_ref()).as_ref(),
            scalar(self.shared_memory_byte_size.as_ref()).as_ref(),
            regions,
        )
    }
}

/// A parameter's value; what JSON has beyond those of the protocol is as wrong as a truth value where a number is due.
fn scalar(value: Option<&Scalar>) -> Option<Value> {
    Some(value?.0.clone().unwrap_or(Value::Bool(false)))
}

/// Read a request: the body and, when it has binary data, the length of its JSON part (0 for a raw
/// request).
pub fn parse(
    body: Bytes,
    json_length: Option<usize>,
    signature: &Signature,
    regions: &Regions,
    allowance: &Arc<Allowance>,
) -> Result<InferRequest> {
    let json_length = match json_length {
        Some(0) => return parse_raw(body, signature, allowance),
        Some(length) if length > body.len() => {
            return Err(Failure::invalid(format!(
                "Inference-Header-Content-Length is {length}, the body has only {} bytes",
                body.len()
            )));
        }
        Some(length) => length,
        None => body.len(),
    };
    let json = &body[..json_length];
    check_depth(json)?;
    let request: Request = serde_json::from_slice(json)
        .map_err(|error| Failure::invalid(format!("failed to parse the request JSON: {error}")))?;

    let mut binary = body.slice(json_length..);
    let mut inputs = Inputs::new(signature);
    for input in request.inputs {
        let slot = input.parameters.slot(&input.name, regions)?;
        let size = match &input.parameters.binary_data_size {
            None => None,
            Some(size) => Some(
                match size.0 {
                    Some(Value::Unsigned(size)) => usize::try_from(size).ok(),
                    _ => None,
                }
                .ok_or_else(|| {
                    Failure::invalid(format!(
                        "input '{}' has a 'binary_data_size' that is no size",
                        shown(&input.name)
                    ))
                })?,
            ),
        };
        inputs.put(
            &input.name,
            &input.datatype,
            input.shape,
            |spec, count| match (size, input.data, slot) {
                (Some(size), None, None) if size <= binary.len() => {
                    request::placed(binary.split_to(size), spec.datatype, allowance)
                }
                (Some(size), None, None) => Err(Failure::invalid(format!(
                    "input '{}' has {size} bytes of binary data, the body has only {} left",
                    spec.name,
                    binary.len()
                ))),
                (None, Some(data), None) => elements::parse(data.get(), spec, count, allowance),
                (None, None, Some(slot)) => {
                    spec.check_size(slot.size, count)?;
                    let share = allowance.reserve(slot.size)?;
                    regions.read(&slot).map(|data| share.pay(data))
                }
                (None, None, None) => Err(Failure::invalid(format!(
                    "input '{}' has no data",
                    spec.name
                ))),
                _ => Err(Failure::invalid(format!(
                    "input '{}' has its data in more than one of JSON, binary data and shared memory",
                    spec.name
                ))),
            },
        )?;
    }
    if !binary.is_empty() {
        return Err(Failure::invalid(format!(
            "the body has {} bytes beyond the inputs' binary data",
            binary.len()
        )));
    }
    let parameters = parameters(&request.parameters)?;
    Ok(InferRequest {
        inputs: inputs.finish(signature)?,
        outputs: wanted(
            &request.outputs,
            parameters.binary_output,
            signature,
            regions,
        )?,
        timeout: parameters.timeout,
        priority: parameters.priority,
        id: request.id.into_owned(),
        trace: None,
    })
}

/// A raw request: the body is the one input, and all outputs come back as binary data.
fn parse_raw(
    body: Bytes,
    signature: &Signature,
    allowance: &Arc<Allowance>,
) -> Result<InferRequest> {
    let [spec] = signature.inputs.as_slice() else {
        return Err(Failure::invalid(format!(
            "a raw request needs a model with one input, this one has {}",
            signature.inputs.len()
        )));
    };
    let data = if spec.datatype.size().is_none() {
        let length = u32::try_from(body.len())
            .map_err(|_| Failure::invalid(format!("input '{}' is too long", spec.name)))?;
        let share = allowance.reserve(body.len() + 4)?;
        let mut buffer = Buffer::new(body.len() + 4, 4);
        buffer.extend(&length.to_le_bytes());
        buffer.extend(&body);
        share.pay(buffer.freeze())
    } else {
        request::placed(body, spec.datatype, allowance)?
    };
    let shape = spec.shape_of_raw(data.len())?;
    let mut inputs = Inputs::new(signature);
    inputs.put(&spec.name, spec.datatype.name(), shape, |_, _| Ok(data))?;
    Ok(InferRequest {
        inputs: inputs.finish(signature)?,
        outputs: Outputs::new(signature).finish(true)?,
        ..InferRequest::default()
    })
}

fn wanted(
    requested: &[Output],
    by_default: bool,
    signature: &Signature,
    regions: &Regions,
) -> Result<Vec<Wanted>> {
    let mut outputs = Outputs::new(signature);
    for Output { name, parameters } in requested {
        let binary = match &parameters.binary_data {
            None => by_default,
            Some(Scalar(Some(Value::Bool(binary)))) => *binary,
            Some(_) => {
                return Err(Failure::invalid(format!(
                    "output '{}' has a 'binary_data' that is neither true nor false",
                    shown(name)
                )));
            }
        };
        let slot = parameters.slot(name, regions)?;
        let classes = scalar(parameters.classification.as_ref());
        outputs.put(name, binary, classes.as_ref(), slot)?;
    }
    outputs.finish(by_default)
}

fn parameters(given: &RequestParameters) -> Result<Parameters> {
    let mut parameters = Parameters::default();
    for (name, value) in given {
        put(&mut parameters, name, value)?;
    }
    Ok(parameters)
}

/// Take one of a request's parameters.
pub fn put(parameters: &mut Parameters, name: &str, value: &Scalar) -> Result<()> {
    match &value.0 {
        Some(value) => parameters.put(Protocol::Http, name, value),
        None => Err(Failure::invalid(format!(
            "parameter '{}' must be a number, a string or a truth value",
            shown(name)
        ))),
    }
}

/// Refuse what has many values: the control side reads them into objects, each a hundred times as large as its
/// text. Files and configurations are few and long.
pub fn check_few(json: &[u8]) -> Result<()> {
    let mut inside = false;
    let mut escaped = false;
    let mut values = 0;
    for byte in json {
        match (inside, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => inside = !inside,
            (false, b',' | b'[' | b'{') => values += 1,
            _ => {}
        }
    }
    match values > MAX_VALUES {
        true => Err(Failure::invalid(format!(
            "the request JSON has more than {MAX_VALUES} values"
        ))),
        false => Ok(()),
    }
}

/// Refuse nesting that is too deep before a parser recurses into it.
pub fn check_depth(json: &[u8]) -> Result<()> {
    let mut depth = 0usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Failure::invalid(format!(
                        "the request JSON is nested deeper than {MAX_DEPTH}"
                    )));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct ReplyHead<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    model_name: &'a str,
    model_version: &'a str,
}

#[derive(Serialize)]
struct OutputHead<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [i64],
}

/// A rendered reply: its JSON, then the outputs that were asked for as binary data.
pub struct Rendered {
    pub json: Vec<u8>,
    pub binary: Vec<Bytes>,
    /// Whether any output was, which decides the reply's content type.
    pub has_binary: bool,
}

/// Write a reply.
pub fn render(id: &str, model: (&str, &str), outputs: &[reply::Output]) -> Result<Rendered> {
    let head = ReplyHead {
        id,
        model_name: model.0,
        model_version: model.1,
    };
    let mut json = Vec::with_capacity(256);
    write(&mut json, &head)?;
    reopen(&mut json);
    json.extend_from_slice(b",\"outputs\":[");
    let mut binary = Vec::new();
    for (index, output) in outputs.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        let head = OutputHead {
            name: output.name,
            datatype: output.datatype.name(),
            shape: &output.tensor.shape,
        };
        write(&mut json, &head)?;
        match output.carrier {
            Carrier::Binary => {
                reopen(&mut json);
                json.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
                write(&mut json, &output.tensor.data.len())?;
                json.extend_from_slice(b"}}");
                binary.push(output.tensor.data.clone());
            }
            Carrier::Json => {
                reopen(&mut json);
                json.extend_from_slice(b",\"data\":");
                elements::render(&mut json, &output.tensor, output.name, output.datatype)?;
                json.push(b'}');
            }
            Carrier::SharedMemory => {}
        }
    }
    json.extend_from_slice(b"]}");
    Ok(Rendered {
        json,
        has_binary: !binary.is_empty(),
        binary,
    })
}

pub fn write<T: Serialize>(json: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(json, value).map_err(|error| Failure::internal(error.to_string()))
}

/// Take off the closing brace, so that members can follow.
fn reopen(json: &mut Vec<u8>) {
    json.pop();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datatype::Datatype;
    use crate::signature::TensorSpec;
    use crate::tensor::Tensor;
    use proptest::prelude::*;

    fn unlimited() -> Arc<Allowance> {
        Allowance::new(usize::MAX)
    }

    fn signature() -> Signature {
        let spec = |name: &str, datatype| TensorSpec {
            name: name.into(),
            datatype,
            shape: vec![-1, 2],
            text: false,
        };
        Signature {
            inputs: vec![spec("a", Datatype::Fp32), spec("b", Datatype::Int64)],
            outputs: vec![spec("y", Datatype::Fp32), spec("z", Datatype::Fp16)],
            max_batch: Some(8),
            limited: false,
            labels: vec![],
        }
    }

    fn off() -> Regions {
        Regions::new(false, 0)
    }

    fn parsed(json: &str, binary: &[u8]) -> Result<InferRequest> {
        let mut body = json.as_bytes().to_vec();
        body.extend_from_slice(binary);
        parse(
            Bytes::from(body),
            Some(json.len()),
            &signature(),
            &off(),
            &unlimited(),
        )
    }

    const A: &str = r#"{"name":"a","datatype":"FP32","shape":[1,2],"data":[1,2]}"#;
    const B: &str = r#"{"name":"b","datatype":"INT64","shape":[1,2],"data":[[3,4]]}"#;
    const Y: &str = r#""outputs":[{"name":"y"}]"#;

    #[test]
    fn inputs_come_in_any_order_and_mixed_forms() {
        let binary_b =
            r#"{"name":"b","datatype":"INT64","shape":[1,2],"parameters":{"binary_data_size":16}}"#;
        let request = parsed(
            &format!(r#"{{"id":"7","inputs":[{binary_b},{A}],{Y}}}"#),
            &[1; 16],
        )
        .unwrap();
        assert_eq!(request.id, "7");
        assert_eq!(
            &request.inputs[0].data[..],
            [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat()
        );
        assert_eq!(&request.inputs[1].data[..], [1; 16]);
        assert_eq!(request.outputs.len(), 1);
        assert_eq!(
            (request.outputs[0].output, request.outputs[0].binary),
            (0, false)
        );
    }

    #[test]
    fn faults_are_named() {
        let cases = [
            (format!(r#"{{"inputs":[{A}],{Y}}}"#), "'b' is missing"),
            (
                format!(r#"{{"inputs":[{A},{A},{B}],{Y}}}"#),
                "'a' is given twice",
            ),
            (
                format!(r#"{{"inputs":[{A},{B}]}}"#),
                "'z' has datatype 'FP16'",
            ),
            (
                format!(r#"{{"inputs":[{A},{B}],"outputs":[{{"name":"q"}}]}}"#),
                "'q'",
            ),
            (
                format!(r#"{{"inputs":[{A},{B}],"outputs":[{{"name":"y"}},{{"name":"y"}}]}}"#),
                "twice",
            ),
            (
                format!(r#"{{"inputs":[{A},{B}],{Y},"parameters":{{"triton_x":1}}}}"#),
                "reserved",
            ),
            (
                format!(r#"{{"inputs":[{A},{B}],{Y},"parameters":{{"timeout":-1}}}}"#),
                "'timeout'",
            ),
            (
                format!(r#"{{"inputs":[{A},{B}],{Y},"parameters":{{"x":{{}}}}}}"#),
                "'x'",
            ),
            (r#"{"inputs":[]}"#.into(), "'a' is missing"),
            ("[]".into(), "parse"),
            (r#"{"inputs":7}"#.into(), "parse"),
        ];
        for (json, want) in cases {
            let failure = parsed(&json, b"").unwrap_err();
            assert!(failure.message.contains(want), "{json}: {failure}");
        }
        let too_much = parsed(&format!(r#"{{"inputs":[{A},{B}],{Y}}}"#), b"x").unwrap_err();
        assert!(too_much.message.contains("beyond"), "{too_much}");
    }

    #[test]
    fn depth_is_limited_and_strings_do_not_count() {
        assert!(check_depth("[".repeat(100).as_bytes()).is_ok());
        assert!(check_depth("[".repeat(101).as_bytes()).is_err());
        assert!(check_depth(format!("\"{}\\\"[\"", "[".repeat(500)).as_bytes()).is_ok());
    }

    #[test]
    fn a_reply_is_json_and_then_data() {
        let tensor = |data: &[u8]| Tensor {
            shape: vec![1, 1],
            data: Bytes::copy_from_slice(data),
        };
        let outputs = [
            reply::Output {
                name: "y",
                datatype: Datatype::Fp32,
                tensor: tensor(&1.5f32.to_le_bytes()),
                carrier: Carrier::Json,
            },
            reply::Output {
                name: "z",
                datatype: Datatype::Fp16,
                tensor: tensor(b"zz"),
                carrier: Carrier::Binary,
            },
            reply::Output {
                name: "s",
                datatype: Datatype::Fp16,
                tensor: tensor(b"zz"),
                carrier: Carrier::SharedMemory,
            },
        ];
        let reply = render("i", ("m", "3"), &outputs).unwrap();
        assert_eq!(
            String::from_utf8(reply.json).unwrap(),
            r#"{"id":"i","model_name":"m","model_version":"3","outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[1.5]},{"name":"z","datatype":"FP16","shape":[1,1],"parameters":{"binary_data_size":2}},{"name":"s","datatype":"FP16","shape":[1,1]}]}"#
        );
        assert_eq!(reply.binary, [Bytes::from_static(b"zz")]);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200), length in prop::option::of(0usize..220)) {
            let _ = parse(Bytes::from(body), length, &signature(), &off(), &unlimited());
        }

        #[test]
        fn no_mangled_request_panics(cut in 0usize..200, byte in any::<u8>()) {
            let mut body = format!(r#"{{"id":"7","inputs":[{B},{A}],{Y}}}"#).into_bytes();
            let cut = cut % body.len();
            body[cut] = byte;
            let _ = parse(Bytes::from(body), None, &signature(), &off(), &unlimited());
        }
    }
}
