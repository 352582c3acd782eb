//! What is counted for each model. Plain atomics: a request costs a dozen additions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A number of events and the time they took together.
#[derive(Default)]
pub struct Timed {
    pub count: AtomicU64,
    pub nanoseconds: AtomicU64,
}

impl Timed {
    pub fn add(&self, count: u64, each: Duration) {
        self.count.fetch_add(count, Relaxed);
        self.nanoseconds
            .fetch_add(count * nanoseconds(each), Relaxed);
    }

    pub fn read(&self) -> (u64, u64) {
        (self.count.load(Relaxed), self.nanoseconds.load(Relaxed))
    }
}

/// Upper bounds of the histograms of time, in microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds of the histogram of rows in an execution; the last bucket has none.
pub const BOUNDS_ROWS: [u64; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512];

/// Events by bucket (not cumulative), and the sum of what was observed.
pub struct Histogram {
    bounds: &'static [u64; 16],
    pub buckets: [AtomicU64; 17],
    pub sum: AtomicU64,
}

impl Histogram {
    const fn new(bounds: &'static [u64; 16]) -> Self {
        Self {
            bounds,
            buckets: [const { AtomicU64::new(0) }; 17],
            sum: AtomicU64::new(0),
        }
    }

    fn add(&self, value: u64, adds: u64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(adds, Relaxed);
    }

    fn add_time(&self, duration: Duration) {
        self.add(duration.as_micros() as u64, nanoseconds(duration));
    }
}

/// Executions of one size: how many, and the nanoseconds of their phases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Executions {
    pub count: u64,
    pub input: u64,
    pub infer: u64,
    pub output: u64,
}

/// Of more sizes than these no account is kept: clients choose them.
const MOST_SIZES: usize = 256;

/// Why a request got no answer, as the metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// By the queue's rules.
    Rejected,
    /// Its client went away.
    Cancelled,
    /// The execution failed.
    Backend,
    Other,
}

/// A model's counters, named after what the statistics extension calls them.
pub struct Counters {
    pub success: Timed,
    pub failed: Timed,
    pub rejected: AtomicU64,
    pub cancelled: AtomicU64,
    pub backend_failed: AtomicU64,
    pub other_failed: AtomicU64,
    /// Rows inferred: a batch counts as many as it has.
    pub inferences: AtomicU64,
    pub executions: AtomicU64,
    pub queue: Timed,
    pub compute_input: Timed,
    pub compute_infer: Timed,
    pub compute_output: Timed,
    pub cache_hit: Timed,
    pub cache_miss: Timed,
    pub request_times: Histogram,
    pub queue_times: Histogram,
    /// Of executions, all phases together.
    pub compute_times: Histogram,
    pub batch_rows: Histogram,
    by_rows: Mutex<BTreeMap<u64, Executions>>,
    /// Milliseconds since the epoch.
    pub last_inference: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            success: Timed::default(),
            failed: Timed::default(),
            rejected: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            backend_failed: AtomicU64::default(),
            other_failed: AtomicU64::default(),
            inferences: AtomicU64::default(),
            executions: AtomicU64::default(),
            queue: Timed::default(),
            compute_input: Timed::default(),
            compute_infer: Timed::default(),
            compute_output: Timed::default(),
            cache_hit: Timed::default(),
            cache_miss: Timed::default(),
            request_times: Histogram::new(&BOUNDS_US),
            queue_times: Histogram::new(&BOUNDS_US),
            compute_times: Histogram::new(&BOUNDS_US),
            batch_rows: Histogram::new(&BOUNDS_ROWS),
            by_rows: Mutex::default(),
            last_inference: AtomicU64::default(),
        }
    }
}

/// How long the phases of one execution took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    pub input: Duration,
    pub infer: Duration,
    pub output: Duration,
}

impl Counters {
    pub fn waited(&self, duration: Duration) {
        self.queue.add(1, duration);
        self.queue_times.add_time(duration);
    }

    /// An execution that answered `requests` requests with `rows` rows.
    pub fn executed(&self, requests: u64, rows: u64, phases: Phases) {
        self.executions.fetch_add(1, Relaxed);
        self.inferences.fetch_add(rows, Relaxed);
        self.compute_input.add(requests, phases.input);
        self.compute_infer.add(requests, phases.infer);
        self.compute_output.add(requests, phases.output);
        self.compute_times
            .add_time(phases.input + phases.infer + phases.output);
        self.batch_rows.add(rows, rows);
        self.count_size(rows, phases);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.last_inference.store(now.as_millis() as u64, Relaxed);
    }

    fn count_size(&self, rows: u64, phases: Phases) {
        let mut sizes = self.by_rows.lock().unwrap_or_else(PoisonError::into_inner);
        if sizes.len() < MOST_SIZES || sizes.contains_key(&rows) {
            let size = sizes.entry(rows).or_default();
            size.count += 1;
            size.input += nanoseconds(phases.input);
            size.infer += nanoseconds(phases.infer);
            size.output += nanoseconds(phases.output);
        }
    }

    /// Executions by their rows.
    pub fn by_rows(&self) -> BTreeMap<u64, Executions> {
        let sizes = self.by_rows.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.clone()
    }

    pub fn succeeded(&self, duration: Duration) {
        self.success.add(1, duration);
        self.request_times.add_time(duration);
    }

    pub fn fail(&self, reason: Reason, duration: Duration) {
        let reason = match reason {
            Reason::Rejected => &self.rejected,
            Reason::Cancelled => &self.cancelled,
            Reason::Backend => &self.backend_failed,
            Reason::Other => &self.other_failed,
        };
        reason.fetch_add(1, Relaxed);
        self.failed.add(1, duration);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let histogram = Histogram::new(&BOUNDS_US);
        for microseconds in [0, 100, 101, 20_000_000] {
            histogram.add_time(Duration::from_micros(microseconds));
        }
        let counts: Vec<u64> = histogram
            .buckets
            .iter()
            .map(|bucket| bucket.load(Relaxed))
            .collect();
        assert_eq!(counts[..3], [2, 1, 0]);
        assert_eq!(counts[BOUNDS_US.len()], 1);
        assert_eq!(histogram.sum.load(Relaxed), 20_000_201_000);
    }
}
