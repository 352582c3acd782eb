//! How long a peer may keep the server waiting. The same for both doors, for what is sent and for what is taken.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::error::{Code, Failure};

/// A peer that is waited for has to move so many bytes in each span of time, or all that there is to move.
pub const PROGRESS: usize = 16 * 1024;

/// A clock that runs while a peer is waited for. It is set by the first who has to wait.
pub struct Patience {
    span: Duration,
    deadline: Option<Instant>,
    progress: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub const fn new(span: Duration) -> Self {
        Self {
            span,
            deadline: None,
            progress: 0,
            timer: None,
        }
    }

    /// The peer has moved so many bytes; enough of them give it a new span.
    pub fn note(&mut self, bytes: usize) {
        self.progress += bytes;
        if self.progress >= PROGRESS {
            self.renew();
        }
    }

    /// The peer owes nothing.
    pub fn renew(&mut self) {
        self.deadline = None;
        self.progress = 0;
    }

    fn deadline(&mut self) -> Instant {
        let span = self.span;
        *self.deadline.get_or_insert_with(|| Instant::now() + span)
    }

    /// What the future gives, if that is in time.
    pub async fn within<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout_at(self.deadline(), future).await
    }

    /// Ready when the peer was too slow. The task is woken for that.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(context)
    }

    pub fn too_slow(&self) -> Failure {
        too_slow(self.span)
    }
}

pub fn too_slow(span: Duration) -> Failure {
    Failure::new(
        Code::TooSlow,
        format!("too little data arrived in {} s", span.as_secs_f64()),
    )
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_gets_time_for_what_it_moves() {
        let span = Duration::from_secs(30);
        let mut patience = Patience::new(span);
        let start = Instant::now();
        assert!(patience.within(pending::<()>()).await.is_err());
        assert_eq!(start.elapsed(), span);
        // A little changes nothing; enough does, and so does owing nothing.
        patience.note(PROGRESS - 1);
        assert!(patience.within(pending::<()>()).await.is_err());
        assert_eq!(start.elapsed(), span);
        patience.note(1);
        poll_fn(|context| patience.poll(context)).await;
        assert_eq!(start.elapsed(), 2 * span);
        patience.renew();
        poll_fn(|context| patience.poll(context)).await;
        assert_eq!(start.elapsed(), 3 * span);
    }
}
