//! What the protocols share: the loaded models, whether the server is ready, its limits, and the way to
//! the routes that Python answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Failure, Result};
use crate::model::Model;

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

    /// A gRPC call, its request and its response as JSON.
    fn rpc(&self, name: &str, request: &str) -> Result<String>;
}

/// The versions of one name; `None` for one that could not be loaded.
type Versions = BTreeMap<u64, Option<Arc<Model>>>;

pub struct State {
    models: RwLock<HashMap<String, Versions>>,
    ready: AtomicBool,
    draining: AtomicBool,
    pub control: Box<dyn Control>,
    /// Bytes of the largest request body or message.
    pub max_request: usize,
}

impl State {
    pub fn new(control: Box<dyn Control>, max_request: usize) -> Self {
        Self {
            models: RwLock::default(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            control,
            max_request,
        }
    }

    pub fn ready(&self) -> bool {
        self.ready.load(Relaxed) && !self.draining.load(Relaxed)
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    /// From here on the server is not ready, for good.
    pub fn begin_drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Put a version in its place; `None` says that it could not be loaded.
    pub fn put(&self, name: &str, version: u64, model: Option<Arc<Model>>) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = models
            .entry(name.to_owned())
            .or_default()
            .insert(version, model);
        if let Some(Some(model)) = replaced {
            model.close();
        }
    }

    /// The model that a request means: the version it names, or else the highest.
    pub fn model(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let shown = name.escape_default();
        let versions = models.get(name).ok_or_else(|| {
            Failure::not_found(format!("Request for unknown model: '{shown}' is not found"))
        })?;
        let entry = match version {
            Some(version) => versions.get(&version).ok_or_else(|| {
                Failure::not_found(format!(
                    "Request for unknown model: '{shown}' version {version} is not found"
                ))
            })?,
            None => match versions.last_key_value() {
                Some((_, entry)) => entry,
                None => {
                    return Err(Failure::not_found(format!(
                        "model '{shown}' has no version"
                    )));
                }
            },
        };
        entry.clone().ok_or_else(|| {
            Failure::unavailable(format!(
                "model '{shown}' could not be loaded; the repository index says why"
            ))
        })
    }

    /// Every loaded model.
    pub fn models(&self) -> Vec<Arc<Model>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models
            .values()
            .flat_map(|versions| versions.values().flatten().cloned())
            .collect()
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
            text.escape_default()
        ))),
    }
}
