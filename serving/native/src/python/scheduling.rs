//! `capstan_serving.scheduling` as the queue wants it.

use std::collections::HashMap;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::scheduling::{Policy, Scheduling};

/// `capstan_serving.scheduling.QueuePolicy`.
#[derive(FromPyObject)]
pub struct PolicyView {
    timeout_action: String,
    default_timeout_microseconds: u64,
    allow_timeout_override: bool,
    max_queue_size: usize,
}

/// `capstan_serving.scheduling.Scheduling`.
#[derive(FromPyObject)]
pub struct SchedulingView {
    batching: bool,
    preferred_batch_size: Vec<usize>,
    max_queue_delay_microseconds: u64,
    preserve_ordering: bool,
    priority_levels: u64,
    default_priority_level: u64,
    default_queue_policy: PolicyView,
    priority_queue_policy: HashMap<u64, PolicyView>,
    latency_objective_microseconds: u64,
    response_cache: bool,
}

impl SchedulingView {
    /// `max_batch` is the model's; `capacity` the server's limit of requests that wait for one model.
    pub fn read(self, max_batch: Option<usize>, capacity: usize) -> PyResult<Scheduling> {
        if self.preserve_ordering && (self.response_cache || self.priority_levels > 1) {
            return Err(PyValueError::new_err(
                "preserve_ordering goes neither with priorities nor with the response cache: turn one of them off",
            ));
        }
        let mut preferred = self.preferred_batch_size;
        preferred.sort_unstable();
        let policies = self.priority_queue_policy.into_iter();
        Ok(Scheduling {
            max_rows: max_batch.filter(|_| self.batching),
            preferred,
            delay: Duration::from_micros(self.max_queue_delay_microseconds),
            preserve_ordering: self.preserve_ordering,
            priority_levels: self.priority_levels,
            default_priority: self.default_priority_level,
            default_policy: self.default_queue_policy.read()?,
            policies: policies
                .map(|(level, policy)| Ok((level, policy.read()?)))
                .collect::<PyResult<_>>()?,
            capacity,
            objective: some(self.latency_objective_microseconds),
            response_cache: self.response_cache,
        })
    }
}

impl PolicyView {
    fn read(self) -> PyResult<Policy> {
        Ok(Policy {
            delay: match self.timeout_action.as_str() {
                "DELAY" => true,
                "REJECT" => false,
                other => {
                    return Err(PyValueError::new_err(format!(
                        "timeout_action must be REJECT or DELAY, not '{other}'"
                    )));
                }
            },
            default_timeout: some(self.default_timeout_microseconds),
            allow_override: self.allow_timeout_override,
            max_size: Some(self.max_queue_size).filter(|&size| size > 0),
        })
    }
}

/// Microseconds, of which 0 stands for none.
fn some(microseconds: u64) -> Option<Duration> {
    (microseconds > 0).then(|| Duration::from_micros(microseconds))
}
