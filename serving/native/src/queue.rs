//! Which requests are executed next, and together. Pure: it is told the time, and neither waits nor locks, so
//! it does not matter who asks.
//!
//! The order is that of priorities, and within one that of arrival. The next request takes those of equal shapes
//! along, up to the model's limit; those of other shapes stay. It waits for more to come only while nothing else
//! could be done: Triton's rules, except that Triton's batches end at the first request of another shape.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::pace::Pace;
use crate::scheduling::Scheduling;
use lane::Lane;

/// Requests whose inputs together exceed this are not merged: copying them would cost more than it saves.
pub const MERGE_UP_TO: usize = 1 << 20;

/// Emptied lanes are kept for the next request, up to this many.
const KEPT_LANES: usize = 16;

/// What the queue needs to know of a request.
pub trait Job {
    fn rows(&self) -> usize;
    fn bytes(&self) -> usize;
    /// Whether both can be part of one batch.
    fn fits(&self, other: &Self) -> bool;
    /// Nobody waits for its answer any more.
    fn gone(&self) -> bool;
}

/// A request in the queue.
#[derive(Debug)]
pub struct Waiting<J> {
    pub job: J,
    pub queued: Instant,
    expires: Option<Instant>,
    number: u64,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    level: u64,
    number: u64,
    /// When the request will be refused, if it still waits: `expire` is to be called then.
    pub expires: Option<Instant>,
}

/// What is to be done now.
pub struct Turn<J> {
    /// To execute, together; empty when there is nothing.
    pub batch: Vec<Waiting<J>>,
    /// To refuse: they waited too long.
    pub expired: Vec<Waiting<J>>,
    /// To forget: nobody waits for their answers.
    pub gone: Vec<Waiting<J>>,
    /// With an empty batch: when to ask again, unless a request comes before.
    pub again: Option<Instant>,
    /// There is more to do: somebody else should ask, too.
    pub more: bool,
}

/// Why a request is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Full,
    /// It could not be answered within the latency objective.
    TooLate,
}

pub struct Queue<J> {
    scheduling: Scheduling,
    /// Batches that can be executed at the same time.
    executors: usize,
    /// Batches that are being executed: since when, and their rows.
    running: Vec<(Instant, usize)>,
    pace: Pace,
    /// By level, those that waited too long after the others.
    lanes: BTreeMap<(u64, bool), Lane<J>>,
    length: usize,
    pushed: u64,
    closed: bool,
}

enum Decision {
    /// Execute the next request, with as many others as make this number.
    Now(usize),
    Later(Option<Instant>),
}

/// What goes into a batch.
#[derive(Default)]
struct Filled {
    rows: usize,
    bytes: usize,
}

impl Filled {
    /// Put another one in, if it is the first or there is room.
    fn add<J: Job>(&mut self, job: &J, limit: usize) -> bool {
        let (rows, bytes) = (self.rows + job.rows(), self.bytes + job.bytes());
        let room = self.rows == 0 || (rows <= limit && bytes <= MERGE_UP_TO);
        if room {
            (self.rows, self.bytes) = (rows, bytes);
        }
        room
    }
}

impl<J: Job> Queue<J> {
    pub fn new(scheduling: Scheduling, executors: usize) -> Self {
        Self {
            scheduling,
            executors,
            running: Vec::new(),
            pace: Pace::default(),
            lanes: BTreeMap::new(),
            length: 0,
            pushed: 0,
            closed: false,
        }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// From here on nothing is taken in, and nothing waits for more to come.
    pub fn close(&mut self) {
        self.closed = true;
    }

    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Take in a request, or not.
    pub fn push(
        &mut self,
        job: J,
        priority: u64,
        timeout: Option<Duration>,
        now: Instant,
    ) -> Result<Ticket, Refused> {
        let level = self.scheduling.level(priority);
        let policy = self.scheduling.policy(level);
        let waiting = |late| {
            self.lanes
                .get(&(level, late))
                .map_or(0, |lane| lane.jobs.len())
        };
        let full = |limit| waiting(false) + waiting(true) >= limit;
        if self.length >= self.scheduling.capacity || policy.max_size.is_some_and(full) {
            return Err(Refused::Full);
        }
        let mut timeout = policy.timeout(timeout);
        if let Some(objective) = self.scheduling.objective {
            let wait = self.allowed_wait(level, &job, objective, now);
            timeout = timeout
                .into_iter()
                .chain([wait.ok_or(Refused::TooLate)?])
                .min();
        }
        let expires = timeout.and_then(|timeout| now.checked_add(timeout));
        let refused_at = expires.filter(|_| !policy.delay);
        self.pushed += 1;
        let number = self.pushed;
        self.lane((level, false)).add(Waiting {
            job,
            queued: now,
            expires,
            number,
        });
        self.length += 1;
        Ok(Ticket {
            level,
            number,
            expires: refused_at,
        })
    }

    /// Give up a place; the request, if it still waited.
    pub fn remove(&mut self, ticket: Ticket) -> Option<Waiting<J>> {
        let removed = [false, true].into_iter().find_map(|late| {
            let lane = self.lanes.get_mut(&(ticket.level, late))?;
            let index = match late {
                false => lane
                    .jobs
                    .binary_search_by_key(&ticket.number, |job| job.number)
                    .ok()?,
                true => lane
                    .jobs
                    .iter()
                    .position(|job| job.number == ticket.number)?,
            };
            lane.remove(index)
        })?;
        self.length -= 1;
        Some(removed)
    }

    /// Those that waited too long and are to be refused.
    pub fn expire(&mut self, now: Instant) -> Vec<Waiting<J>> {
        let mut expired = Vec::new();
        let due: Vec<u64> = self
            .lanes
            .iter()
            .filter(|((_, late), lane)| {
                !late && lane.earliest.is_some_and(|earliest| earliest <= now)
            })
            .map(|((level, _), _)| *level)
            .collect();
        for level in due {
            let Some(lane) = self.lanes.get_mut(&(level, false)) else {
                continue;
            };
            let late = lane.expire(now);
            if self.scheduling.policy(level).delay {
                let after = self.lane((level, true));
                late.into_iter().for_each(|job| after.add(job));
            } else {
                self.length -= late.len();
                expired.extend(late);
            }
        }
        expired
    }

    /// What to do now.
    pub fn take(&mut self, now: Instant) -> Turn<J> {
        let mut turn = Turn {
            expired: self.expire(now),
            batch: Vec::new(),
            gone: Vec::new(),
            again: None,
            more: false,
        };
        match self.decide(now) {
            Decision::Now(count) => self.collect(count, &mut turn),
            Decision::Later(again) => turn.again = again,
        }
        if !turn.batch.is_empty() {
            self.running.push((now, rows(&turn.batch)));
        }
        turn
    }

    fn decide(&self, now: Instant) -> Decision {
        let rules = &self.scheduling;
        let limit = self.most_rows();
        let mut first: Option<&J> = None;
        let mut oldest = now;
        let (mut count, mut filled) = (0, Filled::default());
        // How many make a preferred size, or come nearest to the largest of them.
        let mut best = None;
        // The batch cannot grow, or something else waits for its turn.
        let mut complete = self.closed;
        for waiting in self.lanes.values().flat_map(|lane| &lane.jobs) {
            let job = &waiting.job;
            if job.gone() {
                continue;
            }
            if rules.max_rows.is_none() {
                return Decision::Now(1);
            }
            let enough = rules.preferred.last().copied().unwrap_or(limit);
            if let Some(first) = first {
                if !first.fits(job) {
                    complete = true;
                    if rules.preserve_ordering {
                        break;
                    }
                    continue;
                }
                if filled.rows + job.rows() > enough && best.is_none() {
                    best = Some(count);
                }
            }
            if !filled.add(job, limit) {
                complete = true;
                break;
            }
            first = first.or(Some(job));
            oldest = oldest.min(waiting.queued);
            count += 1;
            if rules.preferred.contains(&filled.rows) {
                best = Some(count);
            }
            if filled.rows >= limit {
                complete = true;
                break;
            }
        }
        if count == 0 && self.length == 0 {
            return Decision::Later(None);
        }
        let mut until = oldest + rules.delay;
        if let Some(objective) = rules.objective {
            until = until.min(oldest + objective.saturating_sub(self.pace.at_most(limit)));
        }
        let enough = rules
            .preferred
            .last()
            .is_some_and(|&most| filled.rows >= most);
        match best {
            Some(best) if rules.delay.is_zero() || now < until => Decision::Now(best),
            _ if complete || enough || now >= until => Decision::Now(count),
            _ => Decision::Later(self.earliest().into_iter().chain([until]).min()),
        }
    }

    /// Take out the next request and those that go with it, until they are as many as they should be, or fewer:
    /// somebody who was counted can be gone by now, and what comes in its place keeps the limits, too.
    fn collect(&mut self, count: usize, turn: &mut Turn<J>) {
        let before = self.length;
        let limit = self.most_rows();
        let mut filled = Filled::default();
        'lanes: for lane in self.lanes.values_mut() {
            let mut index = 0;
            while index < lane.jobs.len() && (turn.batch.len() < count || count == 0) {
                let job = &lane.jobs[index].job;
                let gone = job.gone();
                let fits = turn.batch.first().is_none_or(|first| first.job.fits(job));
                if !gone && !fits {
                    if self.scheduling.preserve_ordering {
                        break 'lanes;
                    }
                    index += 1;
                    continue;
                }
                if !gone && !filled.add(job, limit) {
                    break 'lanes;
                }
                let Some(taken) = lane.remove(index) else {
                    break;
                };
                match gone {
                    true => turn.gone.push(taken),
                    false => turn.batch.push(taken),
                }
            }
        }
        self.length = before - turn.batch.len() - turn.gone.len();
        turn.more = self.length > 0;
        if self.lanes.len() > KEPT_LANES {
            self.lanes.retain(|_, lane| !lane.jobs.is_empty());
        }
    }

    /// When the next request expires, at the earliest.
    fn earliest(&self) -> Option<Instant> {
        let lanes = self.lanes.iter().filter(|((_, late), _)| !late);
        lanes.filter_map(|(_, lane)| lane.earliest).min()
    }

    fn lane(&mut self, key: (u64, bool)) -> &mut Lane<J> {
        self.lanes.entry(key).or_default()
    }
}

/// Of a batch, together.
pub fn rows<J: Job>(batch: &[Waiting<J>]) -> usize {
    batch.iter().map(|waiting| waiting.job.rows()).sum()
}

pub fn bytes<J: Job>(batch: &[Waiting<J>]) -> usize {
    batch.iter().map(|waiting| waiting.job.bytes()).sum()
}

mod lane;
mod objective;
#[cfg(test)]
mod tests;
