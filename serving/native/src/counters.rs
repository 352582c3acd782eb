//! What is counted for each model. Plain atomics: a request costs a handful of additions.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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

/// Upper bounds of the latency histogram, in microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Request durations by bucket (not cumulative).
#[derive(Default)]
pub struct Histogram {
    pub buckets: [AtomicU64; BOUNDS_US.len() + 1],
}

impl Histogram {
    fn add(&self, duration: Duration) {
        let microseconds = duration.as_micros() as u64;
        let bucket = BOUNDS_US.partition_point(|&bound| bound < microseconds);
        self.buckets[bucket].fetch_add(1, Relaxed);
    }
}

/// A model's counters, named after what the statistics extension calls them.
#[derive(Default)]
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
    pub durations: Histogram,
    /// Milliseconds since the epoch.
    pub last_inference: AtomicU64,
}

/// How long the phases of one execution took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    pub input: Duration,
    pub infer: Duration,
    pub output: Duration,
}

impl Counters {
    /// An execution that answered `requests` requests with `rows` rows.
    pub fn executed(&self, requests: u64, rows: u64, phases: Phases) {
        self.executions.fetch_add(1, Relaxed);
        self.inferences.fetch_add(rows, Relaxed);
        self.compute_input.add(requests, phases.input);
        self.compute_infer.add(requests, phases.infer);
        self.compute_output.add(requests, phases.output);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.last_inference.store(now.as_millis() as u64, Relaxed);
    }

    pub fn succeeded(&self, duration: Duration) {
        self.success.add(1, duration);
        self.durations.add(duration);
    }

    pub fn fail(&self, reason: &AtomicU64, duration: Duration) {
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
        let histogram = Histogram::default();
        for microseconds in [0, 100, 101, 20_000_000] {
            histogram.add(Duration::from_micros(microseconds));
        }
        let counts: Vec<u64> = histogram
            .buckets
            .iter()
            .map(|bucket| bucket.load(Relaxed))
            .collect();
        assert_eq!(counts[..3], [2, 1, 0]);
        assert_eq!(counts[BOUNDS_US.len()], 1);
    }
}
