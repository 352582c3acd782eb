//! The gRPC form of inference: protobuf messages to validated requests, and outputs back.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::allowance::Allowance;
use crate::datatype::Datatype;
use crate::error::{Failure, Result, shown};
use crate::proto::{
    InferParameter, ModelInferRequest, ModelInferResponse, OutputTensor, RAW_OUTPUT_CONTENTS,
    TensorContents,
};
use crate::reply::{Carrier, Output};
use crate::request::{self, InferRequest, Outputs, Parameters, Protocol, Value};
use crate::shm::{Regions, Slot};
use crate::signature::{Inputs, Signature, TensorSpec};
use crate::tensor::Buffer;

/// Validate a request against the model it names. Raw contents belong, in order, to the inputs that are not
/// in shared memory.
pub fn parse(
    request: ModelInferRequest,
    signature: &Signature,
    regions: &Regions,
    allowance: &Arc<Allowance>,
) -> Result<InferRequest> {
    let slots: Vec<Option<Slot>> = request
        .inputs
        .iter()
        .map(|input| slot(&input.name, &input.parameters, regions))
        .collect::<Result<_>>()?;
    let raw = request.raw_input_contents.len();
    let in_message = slots.iter().filter(|slot| slot.is_none()).count();
    if raw > 0 && raw != in_message {
        return Err(Failure::invalid(format!(
            "raw_input_contents has {raw} entries for {in_message} inputs that are not in shared memory"
        )));
    }
    let mut inputs = Inputs::new(signature);
    let mut contents = request.raw_input_contents.into_iter();
    for (input, slot) in request.inputs.into_iter().zip(slots) {
        let raw_data = match slot {
            None => contents.next(),
            Some(_) => None,
        };
        inputs.put(
            &input.name,
            &input.datatype,
            input.shape,
            |spec, count| match (raw_data, input.contents, slot) {
                (Some(data), None, None) => request::placed(data, spec.datatype, allowance),
                (None, Some(contents), None) => typed(contents, spec, count, allowance),
                (None, None, Some(slot)) => {
                    spec.check_size(slot.size, count)?;
                    let share = allowance.reserve(slot.size)?;
                    regions.read(&slot).map(|data| share.pay(data))
                }
                (Some(_), Some(_), None) => Err(Failure::invalid(format!(
                    "input '{}' has contents, but the request has raw_input_contents",
                    spec.name
                ))),
                (None, None, None) => Err(Failure::invalid(format!(
                    "input '{}' has no data",
                    spec.name
                ))),
                (_, _, Some(_)) => Err(Failure::invalid(format!(
                    "input '{}' has contents, but is in shared memory",
                    spec.name
                ))),
            },
        )?;
    }
    let mut outputs = Outputs::new(signature);
    for output in &request.outputs {
        let slot = slot(&output.name, &output.parameters, regions)?;
        let classes = value(&output.parameters, "classification");
        outputs.put(&output.name, true, classes.as_ref(), slot)?;
    }
    let mut parameters = Parameters::default();
    for (name, parameter) in &request.parameters {
        match parameter.value() {
            Some(value) => parameters.put(Protocol::Grpc, name, &value)?,
            None => {
                return Err(Failure::invalid(format!(
                    "parameter '{}' has no value",
                    shown(name)
                )));
            }
        }
    }
    Ok(InferRequest {
        inputs: inputs.finish(signature)?,
        outputs: outputs.finish(true)?,
        timeout: parameters.timeout,
        priority: parameters.priority,
        id: request.id,
        trace: None,
    })
}

type TensorParameters = HashMap<String, InferParameter>;

fn value(parameters: &TensorParameters, name: &str) -> Option<Value> {
    parameters.get(name)?.value()
}

fn slot(tensor: &str, parameters: &TensorParameters, regions: &Regions) -> Result<Option<Slot>> {
    if parameters.is_empty() {
        return Ok(None);
    }
    request::slot(
        tensor,
        value(parameters, "shared_memory_region").as_ref(),
        value(parameters, "shared_memory_offset").as_ref(),
        value(parameters, "shared_memory_byte_size").as_ref(),
        regions,
    )
}

/// The bytes of typed contents, of which there must be exactly `count`, in the datatype's own field.
fn typed(
    contents: TensorContents,
    spec: &TensorSpec,
    count: usize,
    allowance: &Arc<Allowance>,
) -> Result<Bytes> {
    let name = &spec.name;
    let given = contents.bool_contents.len()
        + contents.int_contents.len()
        + contents.int64_contents.len()
        + contents.uint_contents.len()
        + contents.uint64_contents.len()
        + contents.fp32_contents.len()
        + contents.fp64_contents.len()
        + contents.bytes_contents.len();
    if given != count {
        return Err(Failure::invalid(format!(
            "input '{name}' has {given} elements in its contents, its shape needs {count}"
        )));
    }
    macro_rules! put {
        ($items:expr, $type:ty) => {{
            let items = $items;
            if items.len() != count {
                return Err(misplaced(spec));
            }
            let share = allowance.reserve(count * size_of::<$type>())?;
            let mut buffer = Buffer::new(count * size_of::<$type>(), 0);
            for item in items {
                let item = <$type>::try_from(item).map_err(|_| {
                    Failure::invalid(format!(
                        "input '{name}' has {item}, which is out of the range of {}",
                        spec.datatype.name()
                    ))
                })?;
                buffer.extend(&item.to_le_bytes());
            }
            share.pay(buffer.freeze())
        }};
    }
    Ok(match spec.datatype {
        Datatype::Bool => put!(contents.bool_contents, u8),
        Datatype::Int8 => put!(contents.int_contents, i8),
        Datatype::Int16 => put!(contents.int_contents, i16),
        Datatype::Int32 => put!(contents.int_contents, i32),
        Datatype::Int64 => put!(contents.int64_contents, i64),
        Datatype::Uint8 => put!(contents.uint_contents, u8),
        Datatype::Uint16 => put!(contents.uint_contents, u16),
        Datatype::Uint32 => put!(contents.uint_contents, u32),
        Datatype::Uint64 => put!(contents.uint64_contents, u64),
        Datatype::Fp32 => put!(contents.fp32_contents, f32),
        Datatype::Fp64 => put!(contents.fp64_contents, f64),
        Datatype::Bytes => {
            if contents.bytes_contents.len() != count {
                return Err(misplaced(spec));
            }
            let strings = &contents.bytes_contents;
            let size = strings.iter().map(|item| 4 + item.len()).sum();
            let share = allowance.reserve(size)?;
            let mut data = Vec::with_capacity(size);
            for item in strings {
                data.extend_from_slice(&(item.len() as u32).to_le_bytes());
                data.extend_from_slice(item);
            }
            share.pay(Bytes::from(data))
        }
        Datatype::Fp16 | Datatype::Bf16 => return Err(misplaced(spec)),
    })
}

fn misplaced(spec: &TensorSpec) -> Failure {
    let field = match spec.datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
        Datatype::Fp16 | Datatype::Bf16 => "raw_input_contents",
    };
    Failure::invalid(format!(
        "input '{}' has datatype '{}', its elements belong into {field}",
        spec.name,
        spec.datatype.name()
    ))
}

/// The response message in parts: its head, and the outputs' own buffers, each after its key. Clients find
/// them by position, so an output in shared memory has one, too, an empty one.
pub fn render(
    id: String,
    model: (&str, &str),
    outputs: Vec<Output>,
    parameters: HashMap<String, InferParameter>,
) -> Vec<Bytes> {
    let head = ModelInferResponse {
        model_name: model.0.to_owned(),
        model_version: model.1.to_owned(),
        id,
        parameters,
        outputs: outputs
            .iter()
            .map(|output| OutputTensor {
                name: output.name.to_owned(),
                datatype: output.datatype.name().to_owned(),
                shape: output.tensor.shape.clone(),
            })
            .collect(),
    };
    let mut parts = Vec::with_capacity(2 * outputs.len());
    let mut before = BytesMut::from(head.encode_to_vec().as_slice());
    for output in outputs {
        let data = match output.carrier {
            Carrier::SharedMemory => Bytes::new(),
            Carrier::Binary | Carrier::Json => output.tensor.data,
        };
        encode_key(RAW_OUTPUT_CONTENTS, WireType::LengthDelimited, &mut before);
        encode_varint(data.len() as u64, &mut before);
        parts.push(before.split().freeze());
        parts.push(data);
    }
    if parts.is_empty() {
        parts.push(before.freeze());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::InputTensor;
    use proptest::prelude::*;

    fn signature(datatype: Datatype) -> Signature {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            datatype,
            shape: vec![-1],
            text: false,
        };
        Signature {
            inputs: vec![spec("x")],
            outputs: vec![spec("y")],
            max_batch: None,
            limited: false,
            labels: vec![],
        }
    }

    fn unlimited() -> Arc<Allowance> {
        Allowance::new(usize::MAX)
    }

    fn off() -> Regions {
        Regions::new(false, 0)
    }

    fn request(
        datatype: Datatype,
        shape: Vec<i64>,
        contents: Option<TensorContents>,
        raw: Vec<Bytes>,
    ) -> ModelInferRequest {
        ModelInferRequest {
            inputs: vec![InputTensor {
                name: "x".into(),
                datatype: datatype.name().into(),
                shape,
                contents,
                ..Default::default()
            }],
            raw_input_contents: raw,
            ..Default::default()
        }
    }

    #[test]
    fn contents_belong_into_their_own_field() {
        let contents = TensorContents {
            int_contents: vec![1, -1],
            ..Default::default()
        };
        let right = parse(
            request(Datatype::Int8, vec![2], Some(contents.clone()), vec![]),
            &signature(Datatype::Int8),
            &off(),
            &unlimited(),
        );
        assert_eq!(&right.unwrap().inputs[0].data[..], b"\x01\xff");
        for (datatype, shape, raw, want) in [
            (Datatype::Uint8, vec![2], vec![], "uint_contents"),
            (Datatype::Fp16, vec![2], vec![], "raw_input_contents"),
            (Datatype::Int8, vec![3], vec![], "2 elements"),
            (
                Datatype::Int8,
                vec![2],
                vec![Bytes::from_static(b"ab")],
                "raw_input_contents",
            ),
        ] {
            let failure = parse(
                request(datatype, shape, Some(contents.clone()), raw),
                &signature(datatype),
                &off(),
                &unlimited(),
            )
            .unwrap_err();
            assert!(
                failure.message.contains("'x'") && failure.message.contains(want),
                "{failure}"
            );
        }
        let wide = TensorContents {
            int_contents: vec![128],
            ..Default::default()
        };
        assert!(
            parse(
                request(Datatype::Int8, vec![1], Some(wide), vec![]),
                &signature(Datatype::Int8),
                &off(),
                &unlimited(),
            )
            .is_err()
        );
    }

    #[test]
    fn raw_contents_are_one_for_each_input() {
        let raw = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        assert!(
            parse(
                request(Datatype::Int8, vec![1], None, raw),
                &signature(Datatype::Int8),
                &off(),
                &unlimited(),
            )
            .is_err()
        );
        assert!(
            parse(
                request(Datatype::Int8, vec![1], None, vec![]),
                &signature(Datatype::Int8),
                &off(),
                &unlimited(),
            )
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn no_message_panics(message in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = ModelInferRequest::decode(Bytes::from(message)) {
                let _ = parse(request, &signature(Datatype::Fp32), &off(), &unlimited());
            }
        }
    }
}
