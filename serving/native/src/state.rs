//! What the protocols share: the loaded models, whether the server is ready, its limits, and the way to
//! the routes that Python answers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::allowance::Allowance;
use crate::connections::Connections;
use crate::error::{Failure, Result, shown};
use crate::model::Model;
use crate::shm::Regions;
use crate::trace::Tracing;

/// Of the 32 threads of an event loop that may block: half are left to requests.
const AT_ONCE: usize = 8;

/// Answers whatever is not hot. Called on a thread that may block.
pub trait Control: Send + Sync {
    /// An HTTP request of the named door (`http` or `metrics`): the content type and the body.
    fn http(
        &self,
        door: &str,
        method: &str,
        path: &[String],
        body: &[u8],
    ) -> Result<(String, Vec<u8>)>;

    /// Do the work of an I/O thread. What has to be prepared for calls from this thread can be.
    fn enter(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }

    /// A gRPC call, its request and its response as JSON.
    fn rpc(&self, name: &str, request: &str) -> Result<String>;
}

/// A model that is served. Requests hold it, so that one that found it is answered by it, although it was
/// replaced or removed in the meantime: it is closed when the last of them lets go.
pub struct Served(pub Arc<Model>);

impl Deref for Served {
    type Target = Arc<Model>;

    fn deref(&self) -> &Arc<Model> {
        &self.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The versions of one name; `None` for one that could not be loaded.
type Versions = BTreeMap<u64, Option<Arc<Served>>>;

pub struct State {
    models: RwLock<HashMap<String, Versions>>,
    ready: AtomicBool,
    draining: AtomicBool,
    /// Told when either changes.
    changed: watch::Sender<()>,
    control: Arc<dyn Control>,
    /// Of the control side's calls, and of those that load models, so many are answered at the same time: neither
    /// takes the threads from requests, or from the other.
    calls: Arc<Semaphore>,
    loads: Arc<Semaphore>,
    /// Bytes of the largest request body or message, and of the largest tensor in shared memory.
    pub max_request: usize,
    /// Bytes of all of them together.
    pub inflight: Arc<Allowance>,
    pub regions: Regions,
    /// None: nothing is traced.
    pub tracing: Option<Arc<Tracing>>,
    pub connections: Arc<Connections>,
    /// How long clients may keep the server waiting.
    pub patience: Duration,
}

/// What clients may.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub request_bytes: usize,
    pub inflight_bytes: usize,
    pub connections: usize,
    pub patience: Duration,
    pub shared_memory: bool,
}

impl State {
    pub fn new(control: Box<dyn Control>, limits: Limits) -> Self {
        Self {
            models: RwLock::default(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            changed: watch::Sender::new(()),
            control: Arc::from(control),
            calls: Arc::new(Semaphore::new(AT_ONCE)),
            loads: Arc::new(Semaphore::new(AT_ONCE)),
            max_request: limits.request_bytes,
            inflight: Allowance::new(limits.inflight_bytes),
            regions: Regions::new(limits.shared_memory, limits.request_bytes),
            connections: Connections::new(limits.connections),
            patience: limits.patience,
            tracing: None,
        }
    }

    /// Do the work of an I/O thread.
    pub fn enter(&self, work: &mut (dyn FnMut() + Send)) {
        self.control.enter(work);
    }

    /// Ask the control side, on a thread that may block. To load a model may take minutes.
    pub async fn ask<T: Send + 'static>(
        &self,
        load: bool,
        question: impl FnOnce(&dyn Control) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let broken = |error: &dyn std::fmt::Display| Failure::internal(error.to_string());
        let turns = if load { &self.loads } else { &self.calls };
        let turn = Arc::clone(turns).acquire_owned().await;
        let turn = turn.map_err(|error| broken(&error))?;
        let control = Arc::clone(&self.control);
        tokio::task::spawn_blocking(move || {
            let _turn = turn; // until it is answered, whether anybody waits for that or not
            question(&*control)
        })
        .await
        .map_err(|error| broken(&error))?
    }

    pub fn ready(&self) -> bool {
        self.ready.load(Relaxed) && !self.draining.load(Relaxed)
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
        self.changed.send_replace(());
    }

    /// From here on the server is not ready, for good.
    pub fn begin_drain(&self) {
        self.draining.store(true, Relaxed);
        self.changed.send_replace(());
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Tells of changes of readiness.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Put a version in its place; `None` says that it could not be loaded.
    pub fn put(&self, name: &str, version: u64, model: Option<Arc<Model>>) {
        let model = model.map(|model| Arc::new(Served(model)));
        let replaced = self
            .write()
            .entry(name.to_owned())
            .or_default()
            .insert(version, model);
        drop(replaced); // after the lock is given back
    }

    /// Serve a version no longer. Its name stays known.
    pub fn remove(&self, name: &str, version: u64) {
        let removed = self
            .write()
            .get_mut(name)
            .and_then(|versions| versions.remove(&version));
        drop(removed);
    }

    /// Forget a name and all its versions.
    pub fn forget(&self, name: &str) {
        let forgotten = self.write().remove(name);
        drop(forgotten);
    }

    /// The model that a request means: the version it names, or else the highest that is served.
    pub fn model(&self, name: &str, version: Option<u64>) -> Result<Arc<Served>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let named = shown(name);
        let versions = models.get(name).ok_or_else(|| {
            Failure::not_found(format!("Request for unknown model: '{named}' is not found"))
        })?;
        let entry = match version {
            Some(version) => versions
                .get(&version)
                .ok_or_else(|| {
                    Failure::not_found(format!(
                        "Request for unknown model: '{named}' version {version} is not found"
                    ))
                })?
                .as_ref(),
            None => versions.values().rev().flatten().next(),
        };
        entry.cloned().ok_or_else(|| {
            Failure::unavailable(format!(
                "model '{named}' is not loaded; the repository index says why"
            ))
        })
    }

    /// Every loaded model.
    pub fn models(&self) -> Vec<Arc<Served>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models
            .values()
            .flat_map(|versions| versions.values().flatten().cloned())
            .collect()
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Versions>> {
        self.models.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A version as requests write it: digits, or nothing for the model's own choice.
pub fn parse_version(text: &str) -> Result<Option<u64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(version) if digits => Ok(Some(version)),
        _ => Err(Failure::not_found(format!(
            "'{}' is no model version: versions are numbers",
            shown(text)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::counters::Phases;
    use crate::model::Backend;
    use crate::scheduling::Scheduling;
    use crate::signature::Signature;
    use crate::tensor::Tensor;
    use std::sync::{Mutex, mpsc};

    struct Nothing;

    const NONE: Limits = Limits {
        request_bytes: 0,
        inflight_bytes: 0,
        connections: 0,
        patience: Duration::ZERO,
        shared_memory: false,
    };

    impl Control for Nothing {
        fn http(&self, _: &str, _: &str, _: &[String], _: &[u8]) -> Result<(String, Vec<u8>)> {
            Err(Failure::internal("nothing"))
        }

        fn rpc(&self, _: &str, _: &str) -> Result<String> {
            Err(Failure::internal("nothing"))
        }
    }

    impl Backend for Nothing {
        fn execute(&self, inputs: Vec<Tensor>, _: &[usize]) -> Result<(Vec<Tensor>, Phases)> {
            Ok((inputs, Phases::default()))
        }
    }

    fn model(version: u64) -> Arc<Model> {
        let signature = Signature {
            inputs: vec![],
            outputs: vec![],
            max_batch: None,
            limited: false,
            labels: vec![],
        };
        let backend = Box::new(Nothing);
        let scheduling = Scheduling::plain(None, 1);
        Model::start(
            "m".into(),
            version.to_string(),
            signature,
            backend,
            1,
            scheduling,
            &Arc::new(Cache::new(0)),
        )
        .unwrap()
    }

    #[test]
    fn a_request_without_a_version_means_the_highest_that_is_served() {
        let state = State::new(Box::new(Nothing), NONE);
        let version = |wanted| state.model("m", wanted).map(|model| model.version.clone());
        assert!(version(None).unwrap_err().message.contains("not found"));
        state.put("m", 2, Some(model(2)));
        state.put("m", 10, Some(model(10)));
        state.put("m", 11, None);
        assert_eq!(version(None).unwrap(), "10");
        assert_eq!(version(Some(2)).unwrap(), "2");
        assert!(
            version(Some(11))
                .unwrap_err()
                .message
                .contains("not loaded")
        );
        assert!(version(Some(3)).unwrap_err().message.contains("version 3"));
        state.remove("m", 10);
        assert_eq!(version(None).unwrap(), "2");
        state.remove("m", 2);
        assert!(version(None).unwrap_err().message.contains("not loaded"));
        state.forget("m");
        assert!(version(None).unwrap_err().message.contains("not found"));
    }

    #[test]
    fn a_replaced_model_ends_when_its_last_request_lets_go() {
        let state = State::new(Box::new(Nothing), NONE);
        let old = model(1);
        state.put("m", 1, Some(Arc::clone(&old)));
        let request = state.model("m", None).unwrap();
        state.put("m", 1, Some(model(1)));
        assert!(!old.wait(Duration::from_millis(10)));
        drop(request);
        assert!(old.wait(Duration::from_secs(10)));
    }

    /// Answers when it is told to.
    struct Slow(Mutex<mpsc::Receiver<()>>);

    impl Control for Slow {
        fn http(&self, _: &str, _: &str, _: &[String], _: &[u8]) -> Result<(String, Vec<u8>)> {
            Err(Failure::internal("nothing"))
        }

        fn rpc(&self, name: &str, _: &str) -> Result<String> {
            if name == "load" {
                let _ = self.0.lock().unwrap().recv();
            }
            Ok(name.into())
        }
    }

    #[test]
    fn loads_starve_nobody() {
        let (go, wait) = mpsc::channel();
        let state = Arc::new(State::new(Box::new(Slow(Mutex::new(wait))), NONE));
        let runtime = crate::server::event_loop().unwrap();
        runtime.block_on(async {
            let ask = |load| {
                let state = Arc::clone(&state);
                let name = if load { "load" } else { "call" };
                let question = move |control: &dyn Control| control.rpc(name, "");
                tokio::spawn(async move { state.ask(load, question).await })
            };
            let loads: Vec<_> = (0..100).map(|_| ask(true)).collect();
            tokio::task::yield_now().await;
            // Those who go away leave their loads behind.
            loads
                .iter()
                .take(50)
                .for_each(tokio::task::JoinHandle::abort);
            let others = async {
                assert_eq!(ask(false).await.unwrap().unwrap(), "call");
                let parsed = crate::aside::aside(usize::MAX, || Ok(7)).await;
                assert_eq!(parsed.unwrap(), 7);
            };
            let in_time = tokio::time::timeout(Duration::from_secs(20), others).await;
            drop(go);
            in_time.expect("the loads hold every thread");
            for load in loads.into_iter().skip(50) {
                assert_eq!(load.await.unwrap().unwrap(), "load");
            }
        });
    }
}
