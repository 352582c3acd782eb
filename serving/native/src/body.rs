//! Bodies: read into one buffer of the announced size, written without joining what is large.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::HeaderMap;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::error::{Code, Failure, Result};
use crate::tensor::Buffer;

/// A sender that lets this much time pass without a byte is given up.
const IDLE: Duration = Duration::from_secs(30);

/// Parts below this size are copied together: one packet is cheaper than many.
const JOIN_BELOW: usize = 16 * 1024;

/// The next piece of a body; `None` at its end.
pub async fn next(body: &mut Incoming) -> Result<Option<Bytes>> {
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

/// Read a body of at most `limit` bytes; its byte `anchor` comes to lie at an aligned address.
pub async fn read(mut body: Incoming, limit: usize, anchor: usize) -> Result<Bytes> {
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(too_large(hint.lower(), limit));
    }
    let Some(size) = hint.exact() else {
        return read_chunked(body, limit).await;
    };
    let size = size as usize;
    let mut buffer = Buffer::new(size, anchor.min(size));
    while let Some(data) = next(&mut body).await? {
        if data.len() > buffer.room() {
            return Err(Failure::invalid("the body is longer than announced"));
        }
        buffer.extend(&data);
    }
    if buffer.room() > 0 {
        return Err(Failure::invalid("the body is shorter than announced"));
    }
    Ok(buffer.freeze())
}

async fn read_chunked(mut body: Incoming, limit: usize) -> Result<Bytes> {
    let mut collected = BytesMut::new();
    while let Some(data) = next(&mut body).await? {
        if collected.len() + data.len() > limit {
            return Err(too_large((collected.len() + data.len()) as u64, limit));
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

/// A reply's body: parts in order, then whatever still comes to be, and, on HTTP/2, trailers.
#[derive(Default)]
pub struct Reply {
    parts: VecDeque<Bytes>,
    stream: Option<mpsc::Receiver<Frame<Bytes>>>,
    trailers: Option<HeaderMap>,
}

impl Reply {
    /// Neighbouring small parts are joined.
    pub fn new(parts: impl IntoIterator<Item = Bytes>) -> Self {
        let mut joined: VecDeque<Bytes> = VecDeque::new();
        let mut small = BytesMut::new();
        for part in parts {
            if part.len() < JOIN_BELOW {
                if small.is_empty() && joined.is_empty() && small.capacity() == 0 {
                    small.reserve(part.len() + 1024);
                }
                small.extend_from_slice(&part);
            } else {
                if !small.is_empty() {
                    joined.push_back(small.split().freeze());
                }
                joined.push_back(part);
            }
        }
        if !small.is_empty() {
            joined.push_back(small.freeze());
        }
        Self {
            parts: joined,
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

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        if let Some(part) = self.parts.pop_front() {
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
        match (&self.stream, &self.trailers) {
            (None, None) => {
                SizeHint::with_exact(self.parts.iter().map(|part| part.len() as u64).sum())
            }
            _ => SizeHint::default(),
        }
    }
}
