//! The generate extension: a JSON object whose members are the inputs, and one whose members are the outputs.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::allowance::Allowance;
use crate::bounds;
use crate::elements;
use crate::error::{Failure, Result};
use crate::json;
use crate::reply::Output;
use crate::request::{InferRequest, Outputs, Parameters};
use crate::scalar::Scalar;
use crate::signature::{Inputs, Signature, TensorSpec};
use crate::tensor::elements as count_of;

type Members<'a> = HashMap<Cow<'a, str>, &'a RawValue>;

/// Read a request. A member that is no input is a parameter; those of the member `parameters` lie beside it.
pub fn parse(
    body: &[u8],
    signature: &Signature,
    allowance: &Arc<Allowance>,
) -> Result<InferRequest> {
    json::check_depth(body)?;
    let mut inputs = Inputs::new(signature);
    let mut parameters = Parameters::default();
    let mut id = String::new();
    let mut nested = Members::new();
    let mut members: Members = members(body)?;
    if !is_input("parameters", signature)
        && let Some(object) = members.remove("parameters")
    {
        nested = self::members(object.get().as_bytes())?;
    }
    for (name, value) in members.into_iter().chain(nested) {
        if let Some(spec) = signature.inputs.iter().find(|spec| spec.name == name) {
            let json = value.get();
            let shape = shape(spec, length(json)?)?;
            inputs.put(&name, spec.datatype.name(), shape, |spec, count| {
                elements::parse(json, spec, count, allowance)
            })?;
        } else if name == "id" {
            id = serde_json::from_str(value.get())
                .map_err(|_| Failure::invalid("'id' must be a string"))?;
        } else {
            json::put(&mut parameters, &name, &scalar(value)?)?;
        }
    }
    Ok(InferRequest {
        id,
        inputs: inputs.finish(signature)?,
        outputs: Outputs::new(signature).finish(false)?,
        timeout: parameters.timeout,
        priority: parameters.priority,
        trace: None,
    })
}

fn is_input(name: &str, signature: &Signature) -> bool {
    signature.inputs.iter().any(|spec| spec.name == name)
}

fn members(json: &[u8]) -> Result<Members<'_>> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    bounds::few_named(&mut reader)
        .and_then(|members| reader.end().map(|()| members))
        .map_err(|error| Failure::invalid(format!("failed to parse the request JSON: {error}")))
}

fn scalar(value: &RawValue) -> Result<Scalar> {
    serde_json::from_str(value.get())
        .map_err(|error| Failure::invalid(format!("failed to parse the request JSON: {error}")))
}

/// The elements of a list; anything else is one element.
fn length(json: &str) -> Result<usize> {
    if !json.starts_with('[') {
        return Ok(1);
    }
    let items: Vec<IgnoredAny> = serde_json::from_str(json)
        .map_err(|error| Failure::invalid(format!("failed to parse the request JSON: {error}")))?;
    Ok(items.len())
}

/// The shape that so many elements have: the last unknown dimension takes what the known ones leave.
fn shape(spec: &TensorSpec, count: usize) -> Result<Vec<i64>> {
    let misfit = || {
        Failure::invalid(format!(
            "input '{}' has {count} elements, which do not make the shape {:?}",
            spec.name, spec.shape
        ))
    };
    let known: Vec<i64> = spec
        .shape
        .iter()
        .copied()
        .filter(|&size| size != -1)
        .collect();
    let known = count_of(&known)
        .filter(|&known| known > 0)
        .ok_or_else(misfit)?;
    if count == 0 || !count.is_multiple_of(known) {
        return Err(misfit());
    }
    let mut left = (count / known) as i64;
    let mut shape = spec.shape.clone();
    for size in shape.iter_mut().rev().filter(|size| **size == -1) {
        *size = std::mem::replace(&mut left, 1);
    }
    match left {
        1 => Ok(shape),
        _ => Err(misfit()),
    }
}

/// Write a reply; an output of one element is no list.
pub fn render(id: &str, model: (&str, &str), outputs: &[Output]) -> Result<Vec<u8>> {
    let mut reply = Vec::with_capacity(256);
    reply.push(b'{');
    if !id.is_empty() {
        member(&mut reply, "id", id)?;
    }
    member(&mut reply, "model_name", model.0)?;
    member(&mut reply, "model_version", model.1)?;
    for output in outputs {
        json::write(&mut reply, &output.name)?;
        reply.push(b':');
        let start = reply.len();
        elements::render(&mut reply, &output.tensor, output.name, output.datatype)?;
        if count_of(&output.tensor.shape) == Some(1) {
            reply.pop();
            reply.remove(start);
        }
        reply.push(b',');
    }
    reply.pop();
    reply.push(b'}');
    Ok(reply)
}

fn member(reply: &mut Vec<u8>, name: &str, value: &str) -> Result<()> {
    json::write(reply, &name)?;
    reply.push(b':');
    json::write(reply, &value)?;
    reply.push(b',');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datatype::Datatype;
    use crate::reply::Carrier;
    use crate::tensor::Tensor;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn unlimited() -> Arc<Allowance> {
        Allowance::new(usize::MAX)
    }

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            text: true,
        }
    }

    fn signature() -> Signature {
        Signature {
            inputs: vec![
                spec("text", Datatype::Bytes, &[-1, 1]),
                spec("n", Datatype::Int32, &[-1, -1]),
            ],
            outputs: vec![spec("y", Datatype::Fp32, &[-1])],
            max_batch: None,
            limited: false,
            labels: vec![],
        }
    }

    #[test]
    fn members_are_inputs_or_parameters() {
        let body =
            br#"{"id":"7","text":"hi","parameters":{"n":[1,2],"timeout":5},"temperature":0.5}"#;
        let request = parse(body, &signature(), &unlimited()).unwrap();
        assert_eq!(request.id, "7");
        assert_eq!(request.inputs[0].shape, [1, 1]);
        assert_eq!(&request.inputs[0].data[..], b"\x02\0\0\0hi");
        assert_eq!(request.inputs[1].shape, [1, 2]);
        assert_eq!(request.timeout.unwrap().as_micros(), 5);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, want) in [
            (r#"{"text":"a"}"#, "'n' is missing"),
            (r#"{"text":"a","n":[]}"#, "'n'"),
            (r#"{"text":"a","n":[[1],[2]],"m":{}}"#, "'m'"),
            (r#"{"text":1,"n":1}"#, "'text'"),
            (r#"{"text":"a","n":[[1,2]]}"#, "'n'"),
            (r#"{"text":"a","n":1,"triton_x":1}"#, "triton_x"),
            (r#"{"text":"a","n":1,"id":1}"#, "'id'"),
            ("[]", "parse"),
            ("", "parse"),
        ] {
            let failure = parse(body.as_bytes(), &signature(), &unlimited()).unwrap_err();
            assert!(failure.message.contains(want), "{body}: {failure}");
        }
    }

    #[test]
    fn shapes_are_filled_from_the_end() {
        let shape = |known: &[i64], count| shape(&spec("x", Datatype::Fp32, known), count).ok();
        assert_eq!(shape(&[-1, 4], 8), Some(vec![2, 4]));
        assert_eq!(shape(&[-1, -1, 2], 8), Some(vec![1, 4, 2]));
        assert_eq!(shape(&[2], 2), Some(vec![2]));
        assert_eq!(shape(&[2], 4), None);
        assert_eq!(shape(&[-1, 3], 4), None);
        assert_eq!(shape(&[], 1), Some(vec![]));
        assert_eq!(shape(&[0, -1], 1), None);
    }

    #[test]
    fn one_element_is_no_list() {
        let output = |name, numbers: &[f32]| Output {
            name,
            datatype: Datatype::Fp32,
            tensor: Tensor {
                shape: vec![numbers.len() as i64],
                data: Bytes::from(
                    numbers
                        .iter()
                        .flat_map(|n| n.to_le_bytes())
                        .collect::<Vec<u8>>(),
                ),
            },
            carrier: Carrier::Json,
        };
        let reply = render(
            "",
            ("m", "1"),
            &[output("a", &[1.5]), output("b", &[1.0, 2.0])],
        );
        assert_eq!(
            String::from_utf8(reply.unwrap()).unwrap(),
            r#"{"model_name":"m","model_version":"1","a":1.5,"b":[1.0,2.0]}"#
        );
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&body, &signature(), &unlimited());
        }

        #[test]
        fn no_value_panics(value in ".{0,30}") {
            let _ = parse(format!(r#"{{"text":"a","n":{value}}}"#).as_bytes(), &signature(), &unlimited());
        }
    }
}
