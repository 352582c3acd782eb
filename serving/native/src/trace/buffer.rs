//! Where records wait to be exported: bounded, and nobody waits to put one in.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Record;

pub struct Buffer {
    /// Spans that may wait.
    room: usize,
    /// Spans that are taken together.
    batch: usize,
    waiting: Mutex<Waiting>,
    news: Condvar,
    pub dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    records: VecDeque<Record>,
    spans: usize,
    /// Take what there is.
    now: bool,
    closed: bool,
}

impl Buffer {
    pub fn new(room: usize, batch: usize) -> Self {
        Self {
            room,
            batch,
            waiting: Mutex::default(),
            news: Condvar::new(),
            dropped: AtomicU64::default(),
        }
    }

    /// Put a record in, or count that there is no room for it. `now`: it is not to wait for others.
    pub fn push(&self, record: Record, now: bool) {
        let spans = record.spans();
        let mut waiting = self.lock();
        if waiting.spans + spans > self.room {
            drop(waiting);
            self.dropped.fetch_add(spans as u64, Relaxed);
            return;
        }
        waiting.spans += spans;
        waiting.records.push_back(record);
        waiting.now |= now;
        let wake = waiting.now || waiting.spans >= self.batch;
        drop(waiting);
        if wake {
            self.news.notify_one();
        }
    }

    /// A batch; after `timeout`, or when it is closed, what there is.
    pub fn take(&self, timeout: Duration) -> Vec<Record> {
        let until = Instant::now() + timeout;
        let mut waiting = self.lock();
        while !waiting.now && !waiting.closed && waiting.spans < self.batch {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.news.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut taken = Vec::new();
        let mut spans = 0;
        while spans < self.batch
            && let Some(record) = waiting.records.pop_front()
        {
            spans += record.spans();
            taken.push(record);
        }
        waiting.spans -= spans;
        waiting.now &= !waiting.records.is_empty();
        taken
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.news.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
