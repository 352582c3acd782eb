//! The memory that requests may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

use crate::error::{Failure, Result};

/// The first bytes of a request are free: probes are answered however much the others hold.
const FREE: usize = 4096;

/// Bytes that all requests may have together, from their arrival to their execution: as they came, and what they
/// become where that is more.
#[derive(Debug)]
pub struct Allowance {
    limit: usize,
    taken: AtomicUsize,
}

impl Allowance {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            taken: AtomicUsize::new(0),
        })
    }

    /// A share that has these bytes already: for memory that is about to be filled.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Share> {
        let mut share = self.share();
        share.take(bytes)?;
        Ok(share)
    }

    /// A request's share: nothing yet.
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            allowance: Arc::clone(self),
            arrived: 0,
            bytes: 0,
        }
    }
}

/// What one request has taken. It is given back with the share.
#[derive(Debug)]
pub struct Share {
    allowance: Arc<Allowance>,
    arrived: usize,
    bytes: usize,
}

impl Share {
    /// Take bytes that have arrived: an announcement is not memory, and takes nothing from others.
    pub fn take(&mut self, bytes: usize) -> Result<()> {
        let limit = self.allowance.limit;
        self.arrived = self.arrived.saturating_add(bytes);
        let bytes = self.arrived.saturating_sub(FREE) - self.bytes;
        if bytes == 0 {
            return Ok(());
        }
        self.allowance
            .taken
            .fetch_update(Relaxed, Relaxed, |taken| {
                taken.checked_add(bytes).filter(|&sum| sum <= limit)
            })
            .map_err(|_| {
                Failure::unavailable(format!(
                    "the requests in flight hold as much as they may, {limit} bytes; try again later"
                ))
            })?;
        self.bytes += bytes;
        Ok(())
    }

    /// Give a buffer, whose memory this share has, room for as many bytes again as it has, but no more than
    /// `limit` in all, which is beyond what it has.
    pub fn grow(&mut self, buffer: &mut Vec<u8>, least: usize, limit: usize) -> Result<()> {
        let more = buffer.capacity().max(least).min(limit - buffer.len());
        self.take(more)?;
        buffer.reserve_exact(more);
        Ok(())
    }

    /// All that was taken, as a share of its own; this one begins anew.
    pub fn split(&mut self) -> Self {
        let new = self.allowance.share();
        std::mem::replace(self, new)
    }

    /// The bytes that were taken: the share is given back with the last of them.
    pub fn pay(self, data: Bytes) -> Bytes {
        match self.bytes {
            0 => data,
            _ => Bytes::from_owner(Paid { data, _share: self }),
        }
    }
}

struct Paid {
    data: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.allowance.taken.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn shares_are_given_back() {
        let allowance = Allowance::new(10);
        let (mut one, mut other) = (allowance.share(), allowance.share());
        one.take(FREE + 2).unwrap();
        one.take(4).unwrap();
        other.take(FREE + 4).unwrap();
        allowance.share().take(FREE).unwrap();
        assert_eq!(other.take(1).unwrap_err().code, Code::Unavailable);
        assert!(allowance.share().take(usize::MAX).is_err());
        let bytes = one.split().pay(Bytes::from_static(b"abcdef"));
        assert_eq!(allowance.taken.load(Relaxed), 10);
        let (kept, _) = (bytes.slice(2..3), drop(bytes));
        drop(one);
        assert_eq!(allowance.taken.load(Relaxed), 10);
        drop(kept);
        assert_eq!(allowance.taken.load(Relaxed), 4);
        drop(other);
        allowance.share().take(FREE + 10).unwrap();
        assert_eq!(allowance.taken.load(Relaxed), 0);
    }
}
