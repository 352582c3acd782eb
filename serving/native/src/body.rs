//! Bodies: read into one buffer of the announced size, written without joining what is large.

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::HeaderMap;
use tokio::sync::mpsc;

use crate::allowance::Share;
use crate::error::{Code, Failure, Result};
use crate::patience::Patience;

/// Parts below this size are copied together: one packet is cheaper than many.
pub const JOIN_BELOW: usize = 16 * 1024;

/// On HTTP/2 a reply is given away in parts of at most this size: what the client does not take stays here, and
/// is let go with the call.
const PART: usize = 32 * 1024;

/// The next piece of a body, which the request's share pays for; `None` at its end.
pub async fn next<B>(
    body: &mut B,
    share: &mut Share,
    patience: &mut Patience,
) -> Result<Option<Bytes>>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let frame = match patience.within(frame).await {
            Ok(frame) => frame,
            Err(_) => return Err(patience.too_slow()),
        };
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
                    patience.note(data.len());
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

/// What has been taken from a reply.
#[derive(Clone, Copy, Default)]
pub enum Taken {
    #[default]
    Nothing,
    Bytes(usize),
    /// There is no more for now.
    All,
}

thread_local! {
    static TAKEN: Cell<Taken> = const { Cell::new(Taken::Nothing) };
}

/// What has been taken from replies on this thread since this was asked last. A call and its reply are polled
/// together: it is how a call learns whether its client reads.
pub fn taken() -> Taken {
    TAKEN.take()
}

fn took(bytes: usize) {
    TAKEN.set(match TAKEN.get() {
        Taken::Bytes(more) => Taken::Bytes(more + bytes),
        Taken::Nothing | Taken::All => Taken::Bytes(bytes),
    });
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
        let mut first = self.parts.pop_front()?;
        if first.len() > PART {
            let part = first.split_to(PART);
            self.parts.push_front(first);
            return Some(part);
        }
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
        loop {
            if let Some(part) = self.part() {
                took(part.len());
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            let Some(stream) = &mut self.stream else {
                break;
            };
            match stream.poll_recv(context) {
                Poll::Pending => {
                    TAKEN.set(Taken::All);
                    return Poll::Pending;
                }
                Poll::Ready(None) => self.stream = None,
                Poll::Ready(Some(frame)) => match frame.into_data() {
                    Ok(data) => self.parts.push_back(data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
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
