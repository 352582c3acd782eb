//! Traces as Python sets, takes and counts them.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::seconds;
use crate::trace::{Sampler, Setting, Tracing};

/// What a server records its traces in.
#[pyclass(frozen, module = "capstan_serving._native")]
pub struct Tracer(Arc<Tracing>);

impl Tracer {
    pub fn tracing(&self) -> Arc<Tracing> {
        Arc::clone(&self.0)
    }
}

#[pymethods]
impl Tracer {
    #[new]
    #[pyo3(signature = (*, resource, parent_based, ratio, queue_size, batch_size))]
    fn new(
        resource: Vec<(String, String)>,
        parent_based: bool,
        ratio: f64,
        queue_size: usize,
        batch_size: usize,
    ) -> PyResult<Self> {
        if !(0.0..=1.0).contains(&ratio) || batch_size == 0 {
            return Err(PyValueError::new_err(
                "the ratio is from 0 to 1, a batch above 0",
            ));
        }
        let sampler = Sampler {
            parent_based,
            ratio,
        };
        let tracing = Tracing::new(sampler, resource, queue_size, batch_size);
        Ok(Self(Arc::new(tracing)))
    }

    #[pyo3(signature = (model, *, timestamps, rate, count, log_frequency))]
    fn set(&self, model: &str, timestamps: bool, rate: u64, count: i64, log_frequency: u64) {
        let setting = Setting {
            timestamps,
            rate,
            left: AtomicI64::new(count),
            log_frequency,
            ..Setting::default()
        };
        self.0.set(model, setting);
    }

    fn left(&self, model: &str) -> i64 {
        self.0.left(model)
    }

    fn take<'py>(
        &self,
        py: Python<'py>,
        timeout: f64,
    ) -> PyResult<Option<(Bound<'py, PyBytes>, usize)>> {
        let timeout = seconds(timeout)?;
        let taken = py.detach(|| self.0.take(timeout));
        Ok(taken.map(|(request, spans)| (PyBytes::new(py, &request), spans)))
    }

    fn close(&self) {
        self.0.close();
    }

    #[getter]
    fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}
