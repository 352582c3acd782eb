//! Bodies: read into one buffer of the announced size, written without joining what is large.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::HeaderMap;
use tokio::sync::mpsc;

use crate::allowance::Share;
use crate::error::{Code, Failure, Result};

/// A peer that sends or takes less than `PROGRESS` bytes in this time is given up.
pub const IDLE: Duration = Duration::from_secs(30);

pub const PROGRESS: usize = 16 * 1024;

/// Parts below this size are copied together: one packet is cheaper than many.
pub const JOIN_BELOW: usize = 16 * 1024;

/// The next piece of a body, which the request's share pays for; `None` at its end.
pub async fn next<B>(body: &mut B, share: &mut Share) -> Result<Option<Bytes>>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let frame = tokio::time::timeout(IDLE, frame).await.map_err(|_| {
            Failure::new(
                Code::TooSlow,
                format!("no data arrived for {} s", IDLE.as_secs()),
            )
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                return Err(Failure::invalid(format!(
                    "the request body could not be read: {error}"
                )));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    share.take(data.len())?;
                    return Ok(Some(data));
                }
            }
        }
    }
}

pub fn too_large(size: u64, limit: usize) -> Failure {
    Failure::new(
        Code::TooLarge,
        format!("the request has {size} bytes or more, the limit is {limit}"),
    )
}

/// A reply's body: parts in order, then whatever still comes to be, and, on HTTP/2, trailers.
#[derive(Default)]
pub struct Reply {
    parts: VecDeque<Bytes>,
    stream: Option<mpsc::Receiver<Frame<Bytes>>>,
    trailers: Option<HeaderMap>,
}

impl Reply {
    pub fn new(parts: impl IntoIterator<Item = Bytes>) -> Self {
        Self {
            parts: parts.into_iter().collect(),
            ..Self::default()
        }
    }

    /// A reply that is sent as it comes to be. It ends with its sender; that it is not wanted any more, the
    /// sender learns from its closing.
    pub fn stream(frames: mpsc::Receiver<Frame<Bytes>>) -> Self {
        Self {
            stream: Some(frames),
            ..Self::default()
        }
    }

    pub fn with_trailers(self, trailers: HeaderMap) -> Self {
        Self {
            trailers: Some(trailers),
            ..self
        }
    }
}

impl Reply {
    /// How many bytes it has; `None` while that is not known.
    pub fn length(&self) -> Option<u64> {
        match self.stream {
            None => Some(self.parts.iter().map(|part| part.len() as u64).sum()),
            Some(_) => None,
        }
    }

    pub fn into_parts(self) -> VecDeque<Bytes> {
        self.parts
    }

    /// The next part; small neighbours are joined.
    fn part(&mut self) -> Option<Bytes> {
        let first = self.parts.pop_front()?;
        let small = |part: &Bytes| part.len() < JOIN_BELOW;
        if !small(&first) || !self.parts.front().is_some_and(small) {
            return Some(first);
        }
        let mut joined = BytesMut::with_capacity(first.len() + 1024);
        joined.extend_from_slice(&first);
        while self.parts.front().is_some_and(small) {
            joined.extend_from_slice(&self.parts.pop_front()?);
        }
        Some(joined.freeze())
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        if let Some(part) = self.part() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if let Some(stream) = &mut self.stream {
            match std::task::ready!(stream.poll_recv(context)) {
                Some(frame) => return Poll::Ready(Some(Ok(frame))),
                None => self.stream = None,
            }
        }
        Poll::Ready(self.trailers.take().map(Frame::trailers).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty() && self.stream.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (self.length(), &self.trailers) {
            (Some(length), None) => SizeHint::with_exact(length),
            _ => SizeHint::default(),
        }
    }
}
