//! How many connections there are, and may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::error::Failure;

/// The ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Http,
    Grpc,
    Metrics,
}

impl Door {
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::Metrics];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Metrics => "metrics",
        }
    }
}

/// Connections to the metrics' port are counted for themselves: what goes on must be seen when it is too much.
const METRICS: usize = 64;
/// Connections of each door beyond those that may be, which are told so; more are closed without a word.
const CROWD: usize = 64;

#[derive(Debug, Default)]
struct Count {
    open: AtomicUsize,
    crowd: AtomicUsize,
    refused: AtomicU64,
}

/// The connections of all doors.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    counts: [Count; Door::ALL.len()],
}

/// What becomes of a new connection. Its place is given up when it is dropped.
pub enum Place {
    /// It is served.
    Seat(Taken),
    /// It is told that there are too many.
    Crowd(Taken),
    /// It is closed.
    None,
}

pub struct Taken {
    connections: Arc<Connections>,
    door: Door,
    crowd: bool,
}

impl Connections {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            counts: Default::default(),
        })
    }

    fn count(&self, door: Door) -> &Count {
        &self.counts[door as usize]
    }

    /// Those that are served, and those that were refused.
    pub fn of(&self, door: Door) -> (usize, u64) {
        let count = self.count(door);
        (count.open.load(Relaxed), count.refused.load(Relaxed))
    }

    /// Connections are let in by one thread, so that what is counted here is not exceeded.
    pub fn enter(self: &Arc<Self>, door: Door) -> Place {
        let open = |door| self.count(door).open.load(Relaxed);
        let full = match door {
            Door::Metrics => open(door) >= METRICS,
            Door::Http | Door::Grpc => open(Door::Http) + open(Door::Grpc) >= self.limit,
        };
        let count = self.count(door);
        let taken = |crowd| Taken {
            connections: Arc::clone(self),
            door,
            crowd,
        };
        if !full {
            count.open.fetch_add(1, Relaxed);
            return Place::Seat(taken(false));
        }
        count.refused.fetch_add(1, Relaxed);
        if count.crowd.load(Relaxed) < CROWD {
            count.crowd.fetch_add(1, Relaxed);
            return Place::Crowd(taken(true));
        }
        Place::None
    }

    /// What the crowd is told.
    pub fn failure(&self) -> Failure {
        Failure::unavailable(format!(
            "the server has as many connections as it may, {}; close some, or try again later",
            self.limit
        ))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let count = self.connections.count(self.door);
        let places = match self.crowd {
            true => &count.crowd,
            false => &count.open,
        };
        places.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_doors_share_the_places_and_the_metrics_have_their_own() {
        let connections = Connections::new(2);
        let enter = |door| connections.enter(door);
        let (one, other) = (enter(Door::Http), enter(Door::Grpc));
        assert!(matches!((&one, &other), (Place::Seat(_), Place::Seat(_))));
        let crowd: Vec<Place> = (0..CROWD).map(|_| enter(Door::Http)).collect();
        assert!(crowd.iter().all(|place| matches!(place, Place::Crowd(_))));
        assert!(matches!(enter(Door::Http), Place::None));
        assert!(matches!(enter(Door::Grpc), Place::Crowd(_)));
        assert!(matches!(enter(Door::Metrics), Place::Seat(_)));
        assert_eq!(connections.of(Door::Http), (1, CROWD as u64 + 1));
        drop(crowd);
        assert!(matches!(enter(Door::Http), Place::Crowd(_)));
        drop(one);
        assert!(matches!(enter(Door::Http), Place::Seat(_)));
        assert_eq!(connections.of(Door::Http).0, 0);
        assert_eq!(connections.of(Door::Grpc), (1, 1));
    }
}
