//! How a model's requests wait and are put together, as its configuration says.

use std::collections::HashMap;
use std::time::Duration;

/// The rules of one priority level.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// A request that waited too long waits until all others of its level are done, rather than be refused.
    pub delay: bool,
    pub default_timeout: Option<Duration>,
    /// A request may say that it waits less long.
    pub allow_override: bool,
    /// Requests that may wait; `None` for as many as the queue takes.
    pub max_size: Option<usize>,
}

impl Policy {
    /// How long a request may wait that asks for `wanted`.
    pub fn timeout(&self, wanted: Option<Duration>) -> Option<Duration> {
        match (wanted, self.default_timeout) {
            (Some(wanted), default) if self.allow_override => {
                Some(default.map_or(wanted, |default| default.min(wanted)))
            }
            (_, default) => default,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Scheduling {
    /// Rows that may be executed together; `None` when requests are executed one by one.
    pub max_rows: Option<usize>,
    /// In ascending order.
    pub preferred: Vec<usize>,
    /// How long the oldest request may wait for others.
    pub delay: Duration,
    pub preserve_ordering: bool,
    /// 0 when there are none.
    pub priority_levels: u64,
    pub default_priority: u64,
    pub default_policy: Policy,
    pub policies: HashMap<u64, Policy>,
    /// Requests that may wait, of all levels together.
    pub capacity: usize,
    /// How long a request may take, from its arrival to its answer.
    pub objective: Option<Duration>,
    pub response_cache: bool,
}

impl Scheduling {
    /// What waits is executed together, and nothing waits for more to come.
    pub fn plain(max_rows: Option<usize>, capacity: usize) -> Self {
        Self {
            max_rows,
            preferred: Vec::new(),
            delay: Duration::ZERO,
            preserve_ordering: false,
            priority_levels: 0,
            default_priority: 0,
            default_policy: Policy {
                allow_override: true,
                ..Policy::default()
            },
            policies: HashMap::new(),
            capacity,
            objective: None,
            response_cache: false,
        }
    }

    /// The level of a request that asks for `priority`.
    pub fn level(&self, priority: u64) -> u64 {
        match priority {
            _ if self.priority_levels == 0 => 0,
            priority if (1..=self.priority_levels).contains(&priority) => priority,
            _ => self.default_priority,
        }
    }

    pub fn policy(&self, level: u64) -> &Policy {
        self.policies.get(&level).unwrap_or(&self.default_policy)
    }
}
