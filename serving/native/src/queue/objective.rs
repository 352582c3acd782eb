//! The latency objective: the queue learns how long executions take, and predicts.
//!
//! A batch takes half of the objective at most, so that a request can wait for one and be part of the next. A
//! request is taken in only if it will be answered in time behind all that is there; while an executor is idle it
//! always is, because nothing would be learned otherwise. Where the prediction was wrong, it is refused as soon
//! as it cannot make it.

use std::time::{Duration, Instant};

use super::{Job, MERGE_UP_TO, Queue};

/// As many batches of the largest size, one after another, take the latency objective.
const BATCHES_WITHIN: u32 = 2;

/// One part in so many of the objective is kept for what the queue does not see: the wire, and surprises.
const HEADROOM: u32 = 6;

impl<J: Job> Queue<J> {
    /// How long a request that comes now may wait; `None` when it will not be answered in time.
    pub(super) fn allowed_wait(
        &self,
        level: u64,
        job: &J,
        objective: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let within = objective - objective / HEADROOM;
        if self.predict(level, job, now) > within {
            return None;
        }
        let execution = self.pace.at_most(self.most_rows());
        let wait = within.saturating_sub(execution);
        Some(wait.max(objective / BATCHES_WITHIN))
    }

    /// How long a request will take that comes now, at most.
    fn predict(&self, level: u64, job: &J, now: Instant) -> Duration {
        if self.length == 0 && self.running.len() < self.executors {
            return Duration::ZERO;
        }
        let rows = job.rows().max(1);
        let mergeable = MERGE_UP_TO / (job.bytes() / rows).max(1);
        let most = self.most_rows().min(mergeable).max(1);
        let before: usize = self
            .lanes
            .range(..=(level, false))
            .map(|(_, lane)| lane.rows)
            .sum();
        let batches = (before + rows - 1) / most;
        let each = self.pace.likely(most);
        let mut free: Vec<Duration> = self
            .running
            .iter()
            .map(|&(since, rows)| {
                let end = since + self.pace.likely(rows);
                end.saturating_duration_since(now)
            })
            .collect();
        free.resize(self.executors.max(free.len()), Duration::ZERO);
        free.sort_unstable();
        let rounds = u32::try_from(batches / free.len()).unwrap_or(u32::MAX);
        let begins = each.checked_mul(rounds).map_or(Duration::MAX, |rounds| {
            rounds.saturating_add(free[batches % free.len()])
        });
        // More may join it until it begins.
        let own = match begins.is_zero() {
            true => before + rows,
            false => most.max(rows),
        };
        begins.saturating_add(self.pace.at_most(own))
    }

    /// Rows that may be executed together.
    pub(super) fn most_rows(&self) -> usize {
        let limit = self.scheduling.max_rows.unwrap_or(1);
        match self.scheduling.objective {
            Some(objective) => self.pace.most_rows(limit, objective / BATCHES_WITHIN),
            None => limit,
        }
    }

    /// The rows and bytes of the next batch, and how long it takes, at most.
    pub fn next_batch(&self) -> (usize, usize, Duration) {
        let mut jobs = self.lanes.values().flat_map(|lane| &lane.jobs);
        let Some(first) = jobs.find(|waiting| !waiting.job.gone()) else {
            return (0, 0, Duration::ZERO);
        };
        let (mut rows, mut bytes) = (first.job.rows(), first.job.bytes());
        if self.scheduling.max_rows.is_some() {
            let waiting_rows: usize = self.lanes.values().map(|lane| lane.rows).sum();
            let waiting_bytes: usize = self.lanes.values().map(|lane| lane.bytes).sum();
            rows = waiting_rows.min(self.most_rows().max(rows));
            bytes = waiting_bytes.min(MERGE_UP_TO.max(bytes));
        }
        (rows, bytes, self.pace.at_most(rows))
    }

    /// A batch that was taken at `since` has been executed.
    pub fn executed(&mut self, since: Instant, rows: usize, now: Instant) {
        if let Some(index) = self
            .running
            .iter()
            .position(|&batch| batch == (since, rows))
        {
            self.running.swap_remove(index);
            self.pace.learn(rows, now - since);
        }
    }
}
