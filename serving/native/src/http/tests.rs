use std::time::Duration;

use super::*;
use crate::aside::LARGE;
use crate::cache::Cache;
use crate::counters::Phases;
use crate::datatype::Datatype;
use crate::model::{Backend, Model};
use crate::scheduling::Scheduling;
use crate::signature::{Signature, TensorSpec};
use crate::state::{self, Limits};
use crate::tensor::Tensor;

struct Control;

impl state::Control for Control {
    fn http(&self, _: &str, _: &str, _: &[String], _: &[u8]) -> Result<(String, Vec<u8>)> {
        Err(Failure::internal("nothing"))
    }

    fn rpc(&self, _: &str, _: &str) -> Result<String> {
        Err(Failure::internal("nothing"))
    }
}

/// Gives many numbers for one.
struct Many;

impl Backend for Many {
    fn execute(&self, _: Vec<Tensor>, _: &[usize]) -> Result<(Vec<Tensor>, Phases)> {
        let tensor = Tensor {
            shape: vec![LARGE as i64],
            data: Bytes::from(vec![7; LARGE]),
        };
        Ok((vec![tensor], Phases::default()))
    }
}

fn many() -> Arc<Model> {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        datatype: Datatype::Uint8,
        shape: vec![-1],
        text: false,
    };
    let signature = Signature {
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        max_batch: None,
        limited: false,
        labels: vec![],
    };
    let (name, version) = ("many".to_owned(), "1".to_owned());
    let scheduling = Scheduling::plain(None, 1);
    let cache = Arc::new(Cache::new(0));
    Model::start(
        name,
        version,
        signature,
        Box::new(Many),
        1,
        scheduling,
        &cache,
    )
    .unwrap()
}

/// Ask while the only thread that could do long work is busy.
fn is_done_aside(path: &str, body: Vec<u8>, status: u16) {
    let limits = Limits {
        request_bytes: 1 << 20,
        inflight_bytes: 1 << 22,
        connections: 1,
        patience: Duration::from_secs(1),
        shared_memory: false,
    };
    let state = Arc::new(State::new(Box::new(Control), limits));
    state.put("many", 1, Some(many()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (busy, until) = std::sync::mpsc::channel::<()>();
        let thread = tokio::task::spawn_blocking(move || until.recv());
        let request = Request::post(path).body(Bytes::from(body)).unwrap();
        let mut answer = std::pin::pin!(serve(&state, Door::Http, request));
        let soon = tokio::time::timeout(Duration::from_millis(300), answer.as_mut());
        assert!(soon.await.is_err(), "it was done here");
        drop(busy);
        assert_eq!(answer.await.status().as_u16(), status);
        assert!(thread.await.unwrap().is_err());
    });
}

#[test]
fn long_requests_for_the_control_side_are_read_aside() {
    is_done_aside("/v2/repository/index", vec![b','; 1 << 17], 400);
}

#[test]
fn long_texts_that_were_generated_are_written_aside() {
    is_done_aside("/v2/models/many/generate", b"{\"x\": 1}".to_vec(), 200);
}

#[test]
fn paths_are_split_before_they_are_decoded() {
    assert_eq!(segments("/v2/a%2fb/c").unwrap(), ["v2", "a/b", "c"]);
    assert_eq!(segments("/v2/%2e%2E/").unwrap(), ["v2", "..", ""]);
    for bad in ["/%", "/%1", "/%zz", "/%+1", "/%ff"] {
        assert!(segments(bad).is_err(), "{bad}");
    }
}
