//! Traces of inference requests, for who asks for them: W3C's context comes in, OpenTelemetry's spans go out.
//!
//! A server that does not trace pays for one look at an `Option`. A request that is traced leaves times and names
//! in a bounded buffer, which a thread of Python's empties: nothing here waits for anybody, and what finds no
//! room is counted and dropped.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use hyper::HeaderMap;

use crate::counters::Phases;
use crate::error::{Failure, beginning};
use crate::model::Model;
use crate::request::InferRequest;

mod buffer;
mod context;
mod otlp;

use buffer::Buffer;
pub use context::Parent;

/// Bytes of a name that a client gave: its span waits when the request is long gone.
const KEPT: usize = 256;

/// What is traced, and where it waits to be exported.
pub struct Tracing {
    sampler: Sampler,
    settings: RwLock<Settings>,
    buffer: Buffer,
    resource: Vec<(String, String)>,
}

/// Which traces are recorded; the same trace everywhere, since it goes by the trace's number.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Whoever sent the request has decided, if it says so.
    pub parent_based: bool,
    /// Of the others: from 0 to 1.
    pub ratio: f64,
}

#[derive(Default)]
struct Settings {
    all: Arc<Setting>,
    /// Of the models that have their own.
    models: HashMap<String, Arc<Setting>>,
}

/// What the protocol's trace extension says of a model, or of all.
#[derive(Default)]
pub struct Setting {
    /// Whether anything is traced.
    pub timestamps: bool,
    /// Of the requests that bring no context, one of so many.
    pub rate: u64,
    /// How many of those are traced yet; below 0: without end.
    pub left: AtomicI64,
    /// Export as soon as so many traces are there; 0: at the exporter's own pace.
    pub log_frequency: u64,
    pub seen: AtomicU64,
    pub traced: AtomicU64,
}

impl Setting {
    fn turn(&self) -> bool {
        self.rate > 0 && self.seen.fetch_add(1, Relaxed).is_multiple_of(self.rate)
    }

    fn count(&self) -> bool {
        let less = |left| match left {
            0 => None,
            left => Some(if left < 0 { left } else { left - 1 }),
        };
        self.left.fetch_update(Relaxed, Relaxed, less).is_ok()
    }
}

/// How a request came.
#[derive(Clone, Debug)]
pub enum Door {
    Http { path: String, route: String },
    Grpc { method: &'static str },
}

/// How it ended: the status of its protocol, and why it failed.
#[derive(Debug)]
pub struct Outcome {
    pub status: u16,
    pub message: String,
}

/// A request that was traced.
#[derive(Debug)]
pub struct Record {
    door: Door,
    trace: u128,
    span: u64,
    parent: Option<Parent>,
    /// The same moment, by both clocks.
    start: Instant,
    time: SystemTime,
    end: Instant,
    model: String,
    version: String,
    id: String,
    mark: Arc<Mark>,
    /// None: the client went away.
    outcome: Option<Outcome>,
}

/// Where the execution of a traced request says how it went.
#[derive(Debug, Default)]
pub struct Mark(OnceLock<Progress>);

#[derive(Debug)]
enum Progress {
    Cached,
    Executed(Executed),
}

/// When a request was executed, with how many rows together.
#[derive(Clone, Copy, Debug)]
pub struct Executed {
    pub queued: Instant,
    pub taken: Instant,
    pub start: Instant,
    pub phases: Phases,
    pub rows: usize,
}

impl Mark {
    /// The answer was found in the cache.
    pub fn cached(&self) {
        let _ = self.0.set(Progress::Cached);
    }

    pub fn executed(&self, execution: Executed) {
        let _ = self.0.set(Progress::Executed(execution));
    }

    fn execution(&self) -> Option<&Executed> {
        match self.0.get() {
            Some(Progress::Executed(execution)) => Some(execution),
            _ => None,
        }
    }
}

/// The context of requests that came with these headers, in a server that traces.
#[derive(Clone)]
pub struct Context {
    tracing: Arc<Tracing>,
    parent: Option<Parent>,
    expires: Option<Instant>,
}

/// What is needed to trace; nothing in a server that does not.
pub fn context(tracing: Option<&Arc<Tracing>>, headers: &HeaderMap) -> Option<Context> {
    tracing.map(|tracing| Context {
        tracing: Arc::clone(tracing),
        parent: Parent::of(headers),
        expires: None,
    })
}

impl Context {
    /// What has no answer by then has passed its deadline.
    pub fn until(self, deadline: Option<Duration>) -> Self {
        Self {
            expires: deadline.and_then(|deadline| Instant::now().checked_add(deadline)),
            ..self
        }
    }

    /// Begin the span of a request to a model, if it is to be traced.
    pub fn begin(&self, model: &str, door: impl FnOnce() -> Door) -> Option<Box<Span>> {
        let setting = self.tracing.setting(model);
        let trace = self.tracing.sample(&setting, self.parent.as_ref())?;
        let now = Instant::now();
        let record = Record {
            door: door(),
            trace,
            span: number(),
            parent: self.parent.clone(),
            start: now,
            time: SystemTime::now(),
            end: now,
            model: beginning(model, KEPT).to_owned(),
            version: String::new(),
            id: String::new(),
            mark: Arc::default(),
            outcome: None,
        };
        Some(Box::new(Span {
            tracing: Arc::clone(&self.tracing),
            setting,
            expires: self.expires,
            record: Some(record),
        }))
    }
}

/// The request is understood, and `model` will execute it.
pub fn follow(span: &mut Option<Box<Span>>, model: &Model, request: &mut InferRequest) {
    if let Some(span) = span {
        span.follow(model, request);
    }
}

/// A request that is traced. It is recorded when this is dropped: without an outcome, its deadline has passed or
/// its client went away.
pub struct Span {
    tracing: Arc<Tracing>,
    setting: Arc<Setting>,
    expires: Option<Instant>,
    record: Option<Record>,
}

impl Span {
    fn follow(&mut self, model: &Model, request: &mut InferRequest) {
        if let Some(record) = &mut self.record {
            record.version.clone_from(&model.version);
            record.id = beginning(&request.id, KEPT).to_owned();
            request.trace = Some(Arc::clone(&record.mark));
        }
    }

    /// It is answered.
    pub fn end(&mut self, status: u16, failure: Option<&Failure>) {
        if let Some(record) = &mut self.record {
            let message = failure.map_or_else(String::new, |failure| failure.message.clone());
            record.outcome = Some(Outcome { status, message });
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let end = Instant::now();
        let answered = self
            .record
            .as_ref()
            .is_none_or(|record| record.outcome.is_some());
        if !answered && self.expires.is_some_and(|expires| expires <= end) {
            let failure = crate::grpc::expired();
            self.end(failure.code.grpc().into(), Some(&failure));
        }
        if let Some(mut record) = self.record.take() {
            record.end = end;
            let traced = self.setting.traced.fetch_add(1, Relaxed) + 1;
            let frequency = self.setting.log_frequency;
            let now = frequency > 0 && traced.is_multiple_of(frequency);
            self.tracing.buffer.push(record, now);
        }
    }
}

impl Tracing {
    /// `resource` is what every span is of; `room` spans wait at most, of which `batch` are exported together.
    pub fn new(
        sampler: Sampler,
        resource: Vec<(String, String)>,
        room: usize,
        batch: usize,
    ) -> Self {
        Self {
            sampler,
            settings: RwLock::default(),
            buffer: Buffer::new(room, batch),
            resource,
        }
    }

    /// Set what is traced of a model, or, without a name, of all that have no setting of their own.
    pub fn set(&self, model: &str, setting: Setting) {
        let mut settings = self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let setting = Arc::new(setting);
        match model {
            "" => settings.all = setting,
            _ => drop(settings.models.insert(model.to_owned(), setting)),
        }
    }

    /// How many requests are traced yet, as `Setting::left`.
    pub fn left(&self, model: &str) -> i64 {
        self.setting(model).left.load(Relaxed)
    }

    /// Wait until there is a batch, or until `timeout` seconds have passed: an export request, and its spans.
    pub fn take(&self, timeout: Duration) -> Option<(Vec<u8>, usize)> {
        let records = self.buffer.take(timeout);
        let spans = records.iter().map(Record::spans).sum();
        (spans > 0).then(|| (otlp::request(&self.resource, &records), spans))
    }

    /// From here on `take` does not wait.
    pub fn close(&self) {
        self.buffer.close();
    }

    /// Spans that found no room.
    pub fn dropped(&self) -> u64 {
        self.buffer.dropped.load(Relaxed)
    }

    fn setting(&self, model: &str) -> Arc<Setting> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(settings.models.get(model).unwrap_or(&settings.all))
    }

    /// The trace that a request is recorded in, if it is.
    fn sample(&self, setting: &Setting, parent: Option<&Parent>) -> Option<u128> {
        if !setting.timestamps {
            return None;
        }
        match parent {
            Some(parent) if self.sampler.parent_based => parent.sampled.then_some(parent.trace),
            _ => {
                if !setting.turn() {
                    return None;
                }
                let trace = parent.map_or_else(
                    || u128::from(number()) << 64 | u128::from(number()),
                    |parent| parent.trace,
                );
                (self.sampler.takes(trace) && setting.count()).then_some(trace)
            }
        }
    }
}

impl Sampler {
    /// As OpenTelemetry's TraceIdRatioBased: by the trace's lower 63 bits.
    fn takes(self, trace: u128) -> bool {
        self.ratio >= 1.0 || ((trace as u64) >> 1) < (self.ratio * (1u64 << 63) as f64) as u64
    }
}

/// A random number that is not 0: the standard library's hashers are keyed at random, each anew.
fn number() -> u64 {
    RandomState::new().hash_one(()).max(1)
}

impl Record {
    /// Its own span, and those of its phases.
    fn spans(&self) -> usize {
        if self.mark.execution().is_some() {
            5
        } else {
            1
        }
    }
}

#[cfg(test)]
mod tests;
