//! The requests of one priority level, in the order in which they came.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Job, Waiting, bytes, rows};

pub struct Lane<J> {
    pub jobs: VecDeque<Waiting<J>>,
    pub rows: usize,
    pub bytes: usize,
    /// None of them expires before this.
    pub earliest: Option<Instant>,
}

impl<J> Default for Lane<J> {
    fn default() -> Self {
        Self {
            jobs: VecDeque::new(),
            rows: 0,
            bytes: 0,
            earliest: None,
        }
    }
}

impl<J: Job> Lane<J> {
    pub fn add(&mut self, waiting: Waiting<J>) {
        self.rows += waiting.job.rows();
        self.bytes += waiting.job.bytes();
        self.earliest = self.earliest.into_iter().chain(waiting.expires).min();
        self.jobs.push_back(waiting);
    }

    pub fn remove(&mut self, index: usize) -> Option<Waiting<J>> {
        let removed = self.jobs.remove(index)?;
        self.rows -= removed.job.rows();
        self.bytes -= removed.job.bytes();
        Some(removed)
    }

    /// Take out those whose time is over.
    pub fn expire(&mut self, now: Instant) -> Vec<Waiting<J>> {
        let (late, kept) = self.jobs.drain(..).partition::<Vec<_>, _>(|waiting| {
            waiting.expires.is_some_and(|expires| expires <= now)
        });
        self.jobs.extend(kept);
        self.rows -= rows(&late);
        self.bytes -= bytes(&late);
        self.earliest = self.jobs.iter().filter_map(|waiting| waiting.expires).min();
        late
    }
}
