use super::*;
use crate::datatype::Datatype;
use crate::queue::MERGE_UP_TO;
use crate::request::Wanted;
use crate::signature::TensorSpec;
use bytes::Bytes;

/// Echoes its input, once it is let; refuses a batch that holds the byte 13, and loses its output for 77.
struct Echo {
    started: mpsc::Sender<Vec<i64>>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Backend for Echo {
    fn execute(&self, inputs: Vec<Tensor>, _: &[usize]) -> Result<(Vec<Tensor>, Phases)> {
        self.started.send(inputs[0].shape.clone()).unwrap();
        let go = self.go.lock().unwrap();
        go.recv_timeout(Duration::from_secs(10)).unwrap();
        drop(go);
        if inputs[0].data.contains(&13) {
            return Err(Failure::invalid("13"));
        }
        if inputs[0].data.contains(&99) {
            panic!("99");
        }
        if inputs[0].data.contains(&77) {
            return Ok((vec![], Phases::default()));
        }
        Ok((inputs, Phases::default()))
    }
}

fn wait((place, answer): (Place<'_>, oneshot::Receiver<Outcome>)) -> Result<Vec<Tensor>> {
    let outcome = answer.blocking_recv().unwrap();
    std::mem::forget(place);
    outcome.map_err(|(_, failure)| failure)
}

fn request(value: u8, rows: i64, width: i64) -> InferRequest {
    InferRequest {
        inputs: vec![Tensor {
            shape: vec![rows, width],
            data: Bytes::from(vec![value; (rows * width) as usize]),
        }],
        outputs: vec![Wanted::default()],
        ..InferRequest::default()
    }
}

type Controlled = (Arc<Model>, mpsc::Receiver<Vec<i64>>, mpsc::Sender<()>);

fn model(capacity: usize) -> Controlled {
    controlled(capacity, false)
}

fn controlled(capacity: usize, limited: bool) -> Controlled {
    let (started, starts) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let spec = TensorSpec {
        name: "x".into(),
        datatype: Datatype::Uint8,
        shape: vec![-1, -1],
        text: false,
    };
    let signature = Signature {
        inputs: vec![spec.clone()],
        outputs: vec![spec],
        max_batch: Some(4),
        limited,
        labels: vec![],
    };
    let backend = Box::new(Echo {
        started,
        go: Mutex::new(gone),
    });
    let cache = Arc::new(Cache::new(1 << 20));
    let scheduling = Scheduling::plain(signature.max_batch, capacity);
    let model = Model::start(
        "m".into(),
        "1".into(),
        signature,
        backend,
        1,
        scheduling,
        &cache,
    )
    .unwrap();
    (model, starts, go)
}

#[test]
fn what_waits_is_batched_by_shape_and_limit() {
    let (model, starts, go) = model(100);
    let push = |value, rows, width| {
        model
            .push(&mut request(value, rows, width), Instant::now())
            .unwrap()
    };
    let first = push(1, 1, 2);
    assert_eq!(starts.recv().unwrap(), [1, 2]); // the worker is busy from here on
    let waiting = [
        push(2, 2, 2),
        push(3, 1, 3),
        push(4, 3, 2),
        push(5, 1, 2),
        push(6, 1, 2),
    ];
    for _ in 0..5 {
        go.send(()).unwrap();
    }
    assert_eq!(wait(first).unwrap()[0].data, [1u8, 1][..]);
    for (answer, (value, rows, width)) in
        waiting
            .into_iter()
            .zip([(2, 2, 2), (3, 1, 3), (4, 3, 2), (5, 1, 2), (6, 1, 2)])
    {
        let tensors = wait(answer).unwrap();
        assert_eq!(tensors, request(value, rows, width).inputs);
    }
    let shapes: Vec<_> = starts.try_iter().collect();
    assert_eq!(shapes, [[2, 2], [1, 3], [4, 2], [1, 2]]);
    model.close();
}

#[test]
fn what_is_large_is_not_copied_together() {
    let (model, starts, go) = model(100);
    let width = MERGE_UP_TO as i64;
    let push = |width| {
        model
            .push(&mut request(1, 1, width), Instant::now())
            .unwrap()
    };
    let answers = [push(1), push(width), push(width), push(2), push(2)];
    for _ in &answers {
        go.send(()).unwrap();
    }
    for answer in answers {
        assert!(wait(answer).is_ok());
    }
    let shapes: Vec<_> = starts.try_iter().collect();
    assert_eq!(shapes, [[1, 1], [1, width], [1, width], [2, 2]]);
    model.close();
}

#[test]
fn a_bad_request_and_a_gone_client_spoil_nothing() {
    let (model, starts, go) = model(100);
    let push = |value| {
        model
            .push(&mut request(value, 1, 1), Instant::now())
            .unwrap()
    };
    let first = push(1);
    starts.recv().unwrap();
    let (good, gone, bad, panicking) = (push(2), push(3), push(13), push(99));
    drop(gone);
    for _ in 0..5 {
        go.send(()).unwrap();
    }
    assert!(wait(first).is_ok());
    assert!(wait(good).is_ok());
    assert!(wait(bad).is_err());
    assert!(wait(panicking).unwrap_err().message.contains("panicked"));
    assert_eq!(model.counters.cancelled.load(Relaxed), 1);
    assert!(!model.wait(Duration::ZERO));
    model.close();
    assert!(model.wait(Duration::from_secs(10)));
}

#[test]
fn a_full_queue_refuses_and_a_timeout_expires() {
    let (model, starts, go) = model(1);
    let first = model.push(&mut request(1, 1, 1), Instant::now()).unwrap();
    starts.recv().unwrap();
    let mut late = request(2, 1, 1);
    late.timeout = Some(Duration::ZERO);
    let late = model.push(&mut late, Instant::now()).unwrap();
    let full = model
        .push(&mut request(3, 1, 1), Instant::now())
        .err()
        .unwrap();
    assert!(full.message.contains("Exceeds maximum queue size"));
    go.send(()).unwrap();
    assert!(wait(first).is_ok());
    assert_eq!(wait(late).unwrap_err().message, "Request timeout expired");
    model.close();
}

#[test]
fn a_panic_beside_the_backend_costs_no_worker() {
    let (model, starts, go) = model(100);
    let push = |value| {
        model
            .push(&mut request(value, 1, 1), Instant::now())
            .unwrap()
    };
    let first = push(1);
    starts.recv().unwrap();
    let (_lost, beside) = (push(77), push(2));
    for _ in 0..5 {
        go.send(()).unwrap();
    }
    assert!(wait(first).is_ok());
    assert!(wait(beside).is_ok());
    assert!(wait(push(3)).is_ok());
    assert_eq!(model.lock().free, 1);
    model.close();
    assert!(model.wait(Duration::from_secs(10)));
}

#[test]
fn more_rows_than_the_configuration_says_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let infer = |limited, rows| {
        let (model, _starts, go) = controlled(100, limited);
        go.send(()).unwrap();
        let outcome = runtime.block_on(model.infer(&mut request(1, rows, 1)));
        model.close();
        assert_eq!(
            model.counters.other_failed.load(Relaxed),
            u64::from(outcome.is_err())
        );
        outcome
    };
    assert!(infer(true, 4).is_ok());
    let failure = infer(true, 5).unwrap_err();
    assert_eq!(failure.code, crate::error::Code::InvalidArgument);
    assert_eq!(
        failure.message,
        "inference request batch-size must be <= 4 for 'm'"
    );
    assert!(
        infer(false, 5).is_ok(),
        "the limit is ours, not the model's"
    );
}
