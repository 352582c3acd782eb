//! The extension module: Python's view of the server, and the server's view of Python.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::cache::Cache;
use crate::connections::Door;
use crate::counters::{BOUNDS_ROWS, BOUNDS_US, Histogram, Timed};
use crate::datatype::Datatype;
use crate::error::{Code, Failure, Result};
use crate::model::Model;
use crate::server::Server as NativeServer;
use crate::signature::{Signature, TensorSpec};
use crate::state::{Control, Limits, State};

mod backend;
mod scheduling;
mod tracer;

use backend::{Batch, Memory, PythonBackend};
use scheduling::SchedulingView;
use tracer::Tracer;

/// Turn an exception into a failure: one of the package's own errors names its code, any other is a bug
/// and is logged with its traceback.
fn failure(py: Python<'_>, error: PyErr, doing: &str) -> Failure {
    let value = error.value(py);
    let attribute = |name: &str| value.getattr(name).ok()?.extract::<String>().ok();
    let code = attribute("code").and_then(|name| Code::from_name(&name));
    match code {
        Some(Code::MethodNotAllowed) => {
            Failure::method_not_allowed(match attribute("allow").as_deref() {
                Some("POST") => "POST",
                Some("GET, POST") => "GET, POST",
                _ => "GET",
            })
        }
        Some(code) => Failure::new(code, value.to_string()),
        None => {
            if let Err(error) = log(py, &error, doing) {
                error.write_unraisable(py, None);
            }
            Failure::internal(format!("{doing} failed: {value}"))
        }
    }
}

fn log(py: Python<'_>, error: &PyErr, doing: &str) -> PyResult<()> {
    let logger = py
        .import("logging")?
        .call_method1("getLogger", ("capstan_serving",))?;
    let options = PyDict::new(py);
    options.set_item("exc_info", error.value(py))?;
    logger.call_method("error", ("%s failed", doing), Some(&options))?;
    Ok(())
}

/// Do the work of a thread that calls Python again and again: it keeps the state that Python would otherwise
/// make for each call.
fn enter(work: &mut (dyn FnMut() + Send)) {
    Python::attach(|py| py.detach(work));
}

struct PythonControl(Py<PyAny>);

impl Control for PythonControl {
    fn http(
        &self,
        door: &str,
        method: &str,
        path: &[String],
        body: &[u8],
    ) -> Result<(String, Vec<u8>)> {
        Python::attach(|py| {
            let arguments = (door, method, path, PyBytes::new(py, body));
            self.0
                .call_method1(py, "http", arguments)
                .and_then(|answer| answer.extract(py))
                .map_err(|error| failure(py, error, "answering a request"))
        })
    }

    fn enter(&self, work: &mut (dyn FnMut() + Send)) {
        enter(work);
    }

    fn rpc(&self, name: &str, request: &str) -> Result<String> {
        Python::attach(|py| {
            self.0
                .call_method1(py, "rpc", (name, request))
                .and_then(|answer| answer.extract(py))
                .map_err(|error| failure(py, error, "answering a call"))
        })
    }
}

/// `capstan_serving.signature.TensorSpec`.
#[derive(FromPyObject)]
struct SpecView {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    text: bool,
}

/// `capstan_serving.signature.Signature`.
#[derive(FromPyObject)]
struct SignatureView {
    inputs: Vec<SpecView>,
    outputs: Vec<SpecView>,
    max_batch: Option<usize>,
    limited: bool,
}

fn specs(specs: Vec<SpecView>) -> PyResult<Vec<TensorSpec>> {
    specs
        .into_iter()
        .map(|spec| {
            let datatype = Datatype::from_name(&spec.datatype).ok_or_else(|| {
                PyValueError::new_err(format!("unknown datatype {}", spec.datatype))
            })?;
            Ok(TensorSpec {
                name: spec.name,
                datatype,
                shape: spec.shape,
                text: spec.text,
            })
        })
        .collect()
}

/// A model that was added.
#[pyclass(frozen, module = "capstan_serving._native")]
struct Handle(Arc<Model>);

#[pymethods]
impl Handle {
    /// Once it is served no longer: whether its last request was answered within `timeout` seconds.
    fn wait(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds(timeout)?;
        Ok(py.detach(|| self.0.wait(timeout)))
    }
}

fn seconds(number: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(number).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The server: it listens from its creation on, and is ready when it is told so.
#[pyclass(frozen, module = "capstan_serving._native")]
struct Server {
    native: NativeServer,
    queue_size: usize,
    cache: Arc<Cache>,
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (control, *, host, ports, max_request_bytes, max_inflight_bytes, queue_size, max_connections, client_timeout, allow_shared_memory = false, response_cache_bytes = 0, tracer = None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords")]
    fn new(
        py: Python<'_>,
        control: Py<PyAny>,
        host: &str,
        ports: (u16, u16, u16),
        max_request_bytes: usize,
        max_inflight_bytes: usize,
        queue_size: usize,
        max_connections: usize,
        client_timeout: f64,
        allow_shared_memory: bool,
        response_cache_bytes: usize,
        tracer: Option<PyRef<'_, Tracer>>,
    ) -> PyResult<Self> {
        let limits = Limits {
            request_bytes: max_request_bytes,
            inflight_bytes: max_inflight_bytes,
            connections: max_connections,
            patience: seconds(client_timeout)?,
            shared_memory: allow_shared_memory,
        };
        let mut state = State::new(Box::new(PythonControl(control)), limits);
        state.tracing = tracer.map(|tracer| tracer.tracing());
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (processors / 2).clamp(1, 8);
        let native = py
            .detach(|| NativeServer::start(state, host, ports, threads))
            .map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(Self {
            native,
            queue_size,
            cache: Arc::new(Cache::new(response_cache_bytes)),
        })
    }

    #[getter]
    fn http_port(&self) -> u16 {
        self.native.http_port
    }

    #[getter]
    fn grpc_port(&self) -> u16 {
        self.native.grpc_port
    }

    #[getter]
    fn metrics_port(&self) -> u16 {
        self.native.metrics_port
    }

    #[getter]
    fn ready(&self) -> bool {
        self.native.state.ready()
    }

    fn set_ready(&self, ready: bool) {
        self.native.state.set_ready(ready);
    }

    #[pyo3(signature = (name, version, *, signature, execute, workers, scheduling, labels = HashMap::new()))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords")]
    fn add_model(
        &self,
        py: Python<'_>,
        name: String,
        version: u64,
        signature: SignatureView,
        execute: Py<PyAny>,
        workers: usize,
        scheduling: SchedulingView,
        mut labels: HashMap<String, Vec<String>>,
    ) -> PyResult<Handle> {
        let labels = signature
            .outputs
            .iter()
            .map(|output| labels.remove(&output.name).unwrap_or_default())
            .collect();
        let signature = Signature {
            inputs: specs(signature.inputs)?,
            outputs: specs(signature.outputs)?,
            max_batch: signature.max_batch,
            limited: signature.limited,
            labels,
        };
        let scheduling = scheduling.read(signature.max_batch, self.queue_size)?;
        let backend = Box::new(PythonBackend::new(py, &name, &signature, execute)?);
        let number = version.to_string();
        let model = Model::start(
            name.clone(),
            number,
            signature,
            backend,
            workers,
            scheduling,
            &self.cache,
        )?;
        self.native
            .state
            .put(&name, version, Some(Arc::clone(&model)));
        Ok(Handle(model))
    }

    fn remove_model(&self, name: &str, version: u64) {
        self.native.state.remove(name, version);
    }

    fn forget_model(&self, name: &str) {
        self.native.state.forget(name);
    }

    fn add_failed_model(&self, name: &str, version: u64) {
        self.native.state.put(name, version, None);
    }

    fn drain(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds(timeout)?;
        Ok(py.detach(|| self.native.drain(timeout)))
    }

    fn connections(&self) -> Vec<(&'static str, usize, u64)> {
        let connections = &self.native.state.connections;
        Door::ALL
            .map(|door| {
                let (open, refused) = connections.of(door);
                (door.name(), open, refused)
            })
            .to_vec()
    }

    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let models: PyResult<Vec<_>> = self
            .native
            .state
            .models()
            .iter()
            .map(|model| statistics(py, &model.0))
            .collect();
        PyList::new(py, models?)
    }
}

fn statistics<'py>(py: Python<'py>, model: &Arc<Model>) -> PyResult<Bound<'py, PyDict>> {
    let counters = &model.counters;
    let entry = PyDict::new(py);
    entry.set_item("name", &model.name)?;
    entry.set_item("version", &model.version)?;
    entry.set_item("pending", model.pending())?;
    let numbers = [
        ("rejected", &counters.rejected),
        ("cancelled", &counters.cancelled),
        ("backend_failed", &counters.backend_failed),
        ("other_failed", &counters.other_failed),
        ("inferences", &counters.inferences),
        ("executions", &counters.executions),
        ("last_inference", &counters.last_inference),
    ];
    for (name, number) in numbers {
        entry.set_item(name, number.load(Relaxed))?;
    }
    let timed: [(&str, &Timed); 8] = [
        ("success", &counters.success),
        ("failed", &counters.failed),
        ("queue", &counters.queue),
        ("compute_input", &counters.compute_input),
        ("compute_infer", &counters.compute_infer),
        ("compute_output", &counters.compute_output),
        ("cache_hit", &counters.cache_hit),
        ("cache_miss", &counters.cache_miss),
    ];
    for (name, timed) in timed {
        entry.set_item(name, timed.read())?;
    }
    let histograms: [(&str, &Histogram); 4] = [
        ("request_times", &counters.request_times),
        ("queue_times", &counters.queue_times),
        ("compute_times", &counters.compute_times),
        ("batch_rows", &counters.batch_rows),
    ];
    for (name, histogram) in histograms {
        let buckets = histogram.buckets.iter().map(|bucket| bucket.load(Relaxed));
        let buckets = PyTuple::new(py, buckets)?;
        entry.set_item(name, (buckets, histogram.sum.load(Relaxed)))?;
    }
    let sizes = PyDict::new(py);
    for (rows, size) in counters.by_rows() {
        sizes.set_item(rows, (size.count, size.input, size.infer, size.output))?;
    }
    entry.set_item("by_rows", sizes)?;
    Ok(entry)
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Server>()?;
    module.add_class::<Handle>()?;
    module.add_class::<Batch>()?;
    module.add_class::<Memory>()?;
    module.add_class::<Tracer>()?;
    module.add("DURATION_BOUNDS_US", PyTuple::new(module.py(), BOUNDS_US)?)?;
    module.add("BATCH_BOUNDS", PyTuple::new(module.py(), BOUNDS_ROWS)?)?;
    Ok(())
}
