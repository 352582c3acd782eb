//! Requests that were bent until they break: no parser may panic, and whatever one accepts must be what the
//! model's signature says. `make fuzz` runs this for longer.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use prost::Message;
use tokio::runtime::Runtime;

use _native::allowance::Allowance;
use _native::body::Reply;
use _native::compression::Encoding;
use _native::datatype::Datatype;
use _native::error::Failure;
use _native::grpc::message::Messages;
use _native::proto::{
    Choice, InferParameter, InputTensor, ModelInferRequest, RequestedOutput, TensorContents,
};
use _native::request::InferRequest;
use _native::shm::Regions;
use _native::signature::{Signature, TensorSpec};
use _native::tensor::{bytes_length, elements};
use _native::{generate, json, protobuf};

fn signature() -> Signature {
    let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        text: true,
    };
    Signature {
        inputs: vec![
            spec("a", Datatype::Fp32, &[-1, 2]),
            spec("b", Datatype::Bytes, &[-1]),
            spec("c", Datatype::Bool, &[-1, -1]),
        ],
        outputs: vec![
            spec("y", Datatype::Fp32, &[-1, 2]),
            spec("z", Datatype::Bf16, &[-1]),
        ],
        max_batch: Some(8),
        limited: false,
        labels: vec![],
    }
}

fn unlimited() -> Arc<Allowance> {
    Allowance::new(usize::MAX)
}

/// What was accepted is what the model takes.
fn hold(request: &InferRequest) {
    let signature = signature();
    assert_eq!(request.inputs.len(), signature.inputs.len());
    for (tensor, spec) in request.inputs.iter().zip(&signature.inputs) {
        assert_eq!(tensor.shape.len(), spec.shape.len());
        for (&size, &wanted) in tensor.shape.iter().zip(&spec.shape) {
            assert!(size > 0 && (wanted == -1 || size == wanted));
        }
        let count = elements(&tensor.shape).unwrap();
        match spec.datatype.size() {
            Some(size) => assert_eq!(tensor.data.len(), count * size),
            None => assert_eq!(bytes_length(&tensor.data, count), Some(tensor.data.len())),
        }
        assert_eq!(tensor.shape[0], request.inputs[0].shape[0]);
    }
    let mut outputs: Vec<usize> = request.outputs.iter().map(|wanted| wanted.output).collect();
    outputs.sort_unstable();
    outputs.dedup();
    assert_eq!(outputs.len(), request.outputs.len());
    assert!(
        outputs
            .iter()
            .all(|&output| output < signature.outputs.len())
    );
}

const WHOLE: &str = r#"{"id":"7","parameters":{"timeout":5,"priority":1,"binary_data_output":true},"inputs":[
    {"name":"a","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}},
    {"name":"b","datatype":"BYTES","shape":[1],"data":["x"]},
    {"name":"c","datatype":"BOOL","shape":[1,1],"data":[[true]]}],
    "outputs":[{"name":"y","parameters":{"classification":1,"binary_data":false}}]}"#;

/// Pieces that parsers stumble over.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = select(vec![
        "\"",
        "\\",
        "\\u",
        "\\ud800",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "true",
        "-1",
        "1e999",
        "-0",
        "18446744073709551615",
        "18446744073709551616",
        "9223372036854775807",
        "1.5",
        "NaN",
        "[[[[",
        "é",
        "\0",
        "\"data\":[1]",
        "\"shape\":[]",
        "\"shape\":[0]",
        "\"shape\":[4611686018427387904,4]",
        "\"binary_data_size\":9223372036854775807",
        "\"shared_memory_region\":\"r\"",
        "\"shared_memory_byte_size\":18446744073709551615",
        "\"shared_memory_offset\":1",
        "\"name\":\"a\"",
        "\"datatype\":\"BYTES\"",
        "\"triton_x\":1",
        "\"parameters\":{}",
        "\"outputs\":[{\"name\":\"y\"}]",
    ]);
    prop_oneof![
        4 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..5),
    ]
}

/// Replace some stretches of bytes by others.
fn bent(mut bytes: Vec<u8>, changes: &[(Index, Index, Vec<u8>)]) -> Vec<u8> {
    for (from, length, with) in changes {
        let from = from.index(bytes.len() + 1);
        let most = (bytes.len() - from).min(12);
        let until = from + length.index(most + 1);
        bytes.splice(from..until, with.iter().copied());
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(Index, Index, Vec<u8>)>> {
    prop::collection::vec((any::<Index>(), any::<Index>(), piece()), 0..5)
}

fn dimension() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0i64..4, 1 => any::<i64>(), 1 => select(vec![-1, i64::MAX, i64::MIN, 1 << 62, 1 << 32])]
}

fn parameter() -> impl Strategy<Value = InferParameter> {
    let choice = prop_oneof![
        any::<bool>().prop_map(Choice::Bool),
        any::<i64>().prop_map(Choice::Int64),
        select(vec!["", "r", "é"]).prop_map(|text| Choice::Text(text.into())),
        any::<f64>().prop_map(Choice::Double),
        any::<u64>().prop_map(Choice::Uint64),
    ];
    prop::option::of(choice).prop_map(|choice| InferParameter { choice })
}

fn parameters() -> impl Strategy<Value = std::collections::HashMap<String, InferParameter>> {
    let name = select(vec![
        "timeout",
        "priority",
        "sequence_id",
        "sequence_start",
        "classification",
        "binary_data",
        "mine",
        "shared_memory_region",
        "shared_memory_offset",
        "shared_memory_byte_size",
        "triton_x",
        "headers",
        "triton_enable_empty_final_response",
    ]);
    prop::collection::hash_map(name.prop_map(String::from), parameter(), 0..3)
}

fn contents() -> impl Strategy<Value = TensorContents> {
    (
        prop::collection::vec(any::<bool>(), 0..4),
        prop::collection::vec(any::<f32>(), 0..5),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3), 0..3),
        prop::collection::vec(any::<i32>(), 0..2),
    )
        .prop_map(|(bools, floats, strings, ints)| TensorContents {
            bool_contents: bools,
            fp32_contents: floats,
            bytes_contents: strings.into_iter().map(Bytes::from).collect(),
            int_contents: ints,
            ..Default::default()
        })
}

fn input() -> impl Strategy<Value = InputTensor> {
    let shape = prop::collection::vec(dimension(), 0..4);
    let of = select(vec![
        ("a", "FP32"),
        ("b", "BYTES"),
        ("c", "BOOL"),
        ("d", "FP32"),
        ("a", "INT8"),
    ]);
    (
        of,
        shape,
        prop::option::of(contents()),
        prop_oneof![3 => Just(Default::default()), 1 => parameters()],
    )
        .prop_map(
            |((name, datatype), shape, contents, parameters)| InputTensor {
                name: name.into(),
                datatype: datatype.into(),
                shape,
                contents,
                parameters,
            },
        )
}

/// Often whole, or nearly so: the checks behind the first one are to be reached, too.
fn request() -> impl Strategy<Value = ModelInferRequest> {
    let whole = |name: &str, datatype: &str, shape: &[i64]| InputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..Default::default()
    };
    let good = vec![
        whole("a", "FP32", &[1, 2]),
        whole("b", "BYTES", &[1]),
        whole("c", "BOOL", &[1, 1]),
    ];
    let inputs = prop_oneof![
        2 => Just(good),
        1 => prop::collection::vec(input(), 0..5),
    ];
    let good_raw = vec![
        Bytes::from_static(&[0; 8]),
        Bytes::from_static(b"\x01\0\0\0x"),
        Bytes::from_static(b"\x01"),
    ];
    let some_raw = prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from),
        0..5,
    );
    let raw = prop_oneof![2 => Just(good_raw), 1 => some_raw];
    let output = (select(vec!["y", "z", "q"]), parameters()).prop_map(|(name, parameters)| {
        RequestedOutput {
            name: name.into(),
            parameters,
        }
    });
    (
        inputs,
        raw,
        prop::collection::vec(output, 0..3),
        parameters(),
    )
        .prop_map(
            |(inputs, raw_input_contents, outputs, parameters)| ModelInferRequest {
                inputs,
                raw_input_contents,
                outputs,
                parameters,
                ..Default::default()
            },
        )
}

proptest! {
    #[test]
    fn json_requests(
        changes in changes(),
        tail in prop_oneof![3 => Just(vec![0; 8]), 1 => prop::collection::vec(any::<u8>(), 0..40)],
        length in prop_oneof![4 => Just(None), 1 => any::<Index>().prop_map(Some)],
    ) {
        let mut body = bent(WHOLE.into(), &changes);
        let json_length = length.map_or(body.len(), |index| index.index(body.len() + 60));
        body.extend(tail);
        for regions in [Regions::new(false, 100), Regions::new(true, 100)] {
            if let Ok(request) = json::parse(Bytes::from(body.clone()), Some(json_length), &signature(), &regions, &unlimited()) {
                hold(&request);
            }
        }
    }

    #[test]
    fn generate_requests(changes in changes()) {
        let whole = br#"{"id":"7","a":[1,2],"b":"x","c":[true],"parameters":{"timeout":5,"mine":"x"}}"#;
        if let Ok(request) = generate::parse(&bent(whole.to_vec(), &changes), &signature(), &unlimited()) {
            hold(&request);
        }
    }

    #[test]
    fn protobuf_requests(request in request(), changes in changes(), bend in prop::bool::weighted(0.5)) {
        let mut bytes = request.encode_to_vec();
        if bend {
            bytes = bent(bytes, &changes);
        }
        if let Ok(request) = ModelInferRequest::decode(Bytes::from(bytes))
            && let Ok(request) = protobuf::parse(request, &signature(), &Regions::new(true, 100), &unlimited())
        {
            hold(&request);
        }
    }

    #[test]
    fn compressed_bodies(
        data in prop::collection::vec(any::<u8>(), 0..400),
        changes in changes(),
        limit in 0usize..600,
        gzip in any::<bool>(),
    ) {
        let encoding = if gzip { Encoding::Gzip } else { Encoding::Deflate };
        let packed = encoding.compress([&Bytes::from(data.clone())]).unwrap();
        let bent = Bytes::from(bent(packed.to_vec(), &changes));
        match encoding.decompress(bent, limit, unlimited().share()) {
            Ok(unpacked) => {
                prop_assert!(unpacked.len() <= limit);
                prop_assert!(!changes.is_empty() || unpacked == data);
            }
            Err(_) => prop_assert!(!changes.is_empty() || data.len() > limit),
        }
    }

    #[test]
    fn grpc_messages(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5),
        packed in any::<bool>(),
        changes in changes(),
        sizes in prop::collection::vec(1usize..70, 1..6),
        budget in prop_oneof![3 => Just(usize::MAX), 1 => 0usize..300],
    ) {
        let encoding = packed.then_some(Encoding::Gzip);
        let framed: Vec<u8> = messages.iter().flat_map(|message| frame(message, encoding)).collect();
        // What cannot be packed becomes longer.
        let most = if packed { LIMIT - 40 } else { LIMIT };
        let bent = Bytes::from(bent(framed, &changes));
        let allowance = Allowance::new(budget);
        let pieces = pieces(&bent, &sizes);
        let (sender, frames) = tokio::sync::mpsc::channel(pieces.len() + 1);
        for piece in pieces {
            sender.try_send(Frame::data(piece)).unwrap();
        }
        drop(sender);
        let body = Reply::stream(frames);
        let mut received = Messages::new(body, encoding, LIMIT, &allowance, Duration::from_secs(60));
        let outcome = RUNTIME.block_on(async {
            let mut all = Vec::new();
            while let Some(message) = received.next().await? {
                assert!(message.len() <= LIMIT);
                all.push(message.to_vec());
            }
            Ok::<_, Failure>(all)
        });
        drop(received);
        prop_assert!(allowance.reserve(budget).is_ok(), "something was not given back");
        if changes.is_empty() && budget == usize::MAX && messages.iter().all(|message| message.len() <= most) {
            prop_assert_eq!(outcome, Ok(messages));
        }
    }
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
});

/// Bytes of the largest message.
const LIMIT: usize = 150;

fn frame(message: &[u8], encoding: Option<Encoding>) -> Vec<u8> {
    let whole = Bytes::copy_from_slice(message);
    let payload = match encoding {
        None => whole,
        Some(encoding) => encoding.compress([&whole]).unwrap(),
    };
    let length = (payload.len() as u32).to_be_bytes();
    [&[u8::from(encoding.is_some())], &length[..], &payload].concat()
}

/// A body in frames of these sizes, over and over.
fn pieces(body: &Bytes, sizes: &[usize]) -> Vec<Bytes> {
    let mut rest = body.clone();
    let mut pieces = Vec::new();
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        pieces.push(rest.split_to(size.min(rest.len())));
    }
    pieces
}
