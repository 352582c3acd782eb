//! HTTP/1.1 on one connection, with a codec of our own (the heads are httparse's).
//!
//! Everything a request costs happens here, so it is made for that: one read, one write, the body received
//! where its tensors stay, timers that are touched only by those who wait.

mod chunked;
mod head;
mod reply;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll::{Pending, Ready};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::{Method, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use self::chunked::{Chunks, Piece};
use self::head::{Framing, Head, MAX_HEAD, Refusal};
use crate::allowance::Share;
use crate::body::too_large;
use crate::connections::Door;
use crate::error::{Code, Failure, Result};
use crate::http;
use crate::patience::{PROGRESS, too_slow};
use crate::state::State;
use crate::tensor::Buffer;

/// Room for what comes next; more than that is not read ahead of the answers.
const READ: usize = 8 * 1024;
/// How long a client that was refused may go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(2);
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Serve a connection until it ends. Errors are the peer's business only.
pub async fn serve(
    stream: TcpStream,
    door: Door,
    crowd: bool,
    state: Arc<State>,
    stop: watch::Receiver<bool>,
) {
    let patience = match crowd {
        true => LINGER.min(state.patience),
        false => state.patience,
    };
    let mut connection = Connection::new(stream, stop, patience);
    let _ = match crowd {
        true => connection.send_away(&state).await,
        false => connection.run(door, &state).await,
    };
}

struct Connection {
    stream: TcpStream,
    /// What has arrived and is not yet a request.
    input: BytesMut,
    /// What is sent at once.
    output: Vec<u8>,
    stop: watch::Receiver<bool>,
    /// Wakes the connection when the server stops.
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// How long the peer may take.
    patience: Duration,
    /// Until when the peer has to do what is waited for; set by the first who has to wait.
    deadline: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(stream: TcpStream, stop: watch::Receiver<bool>, patience: Duration) -> Self {
        let mut stopped = stop.clone();
        Self {
            stream,
            input: BytesMut::new(),
            output: Vec::new(),
            stop,
            patience,
            stopped: Box::pin(async move { drop(stopped.changed().await) }),
            deadline: None,
            timer: Box::pin(sleep_until(Instant::now() + patience)),
        }
    }

    async fn run(&mut self, door: Door, state: &Arc<State>) -> io::Result<()> {
        // Once is enough: it is the same task that waits everywhere below.
        poll_fn(|context| Ready(self.stopped.as_mut().poll(context).is_ready())).await;
        let mut first = true;
        loop {
            // Between requests a client may be quiet for as long as it likes.
            let head = match self.head(std::mem::take(&mut first)).await? {
                Some(Ok(head)) => head,
                Some(Err(refusal)) => return self.refuse_head(&refusal).await,
                None => return Ok(()),
            };
            let plain = head.request.version() == Version::HTTP_10;
            let head_only = head.request.method() == Method::HEAD;
            let mut request = head.request;
            let anchor = http::anchor(request.headers());
            let framing = (head.framing, head.expects_continue);
            match self.body(framing, anchor, state).await {
                Ok(body) => *request.body_mut() = body,
                Err(failure) => return self.refuse(http::refusal(&failure)).await,
            }
            let Some(response) = self.answer(http::serve(state, door, request)).await else {
                return Ok(());
            };
            let form = reply::Form {
                keep_alive: head.keep_alive && !self.stopping(),
                plain,
                head_only,
            };
            self.send(response, form).await?;
            if !form.keep_alive {
                return self.stream.shutdown().await;
            }
        }
    }

    /// Answer one who is one too many: only whether the server is well.
    async fn send_away(&mut self, state: &State) -> io::Result<()> {
        let response = match self.head(true).await? {
            Some(Ok(head)) => http::health(state, &head.request),
            Some(Err(refusal)) => return self.refuse_head(&refusal).await,
            None => return Ok(()),
        };
        let too_many = || http::refusal(&state.connections.failure());
        self.refuse(response.unwrap_or_else(too_many)).await
    }

    fn stopping(&self) -> bool {
        self.stop.has_changed().unwrap_or(true)
    }

    /// The next request's head; `None` when there is none to come. The first has to come soon.
    async fn head(
        &mut self,
        first: bool,
    ) -> io::Result<Option<std::result::Result<Head, Refusal>>> {
        self.deadline = None;
        let mut seen = 0;
        loop {
            if complete(&self.input, seen) || (seen == 0 && !self.input.is_empty()) {
                match head::parse(&self.input) {
                    Ok(Some((head, length))) => {
                        self.input.advance(length);
                        return Ok(Some(Ok(head)));
                    }
                    Ok(None) => {}
                    Err(refusal) => return Ok(Some(Err(refusal))),
                }
            }
            seen = self.input.len();
            let idle = seen == 0;
            let patience = (first || !idle).then_some(self.patience);
            match self.fill(patience, idle).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !idle => {
                    return Ok(Some(Err(head::TOO_SLOW)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Read more of the input; 0 at its end, and for an idle connection of a server that stops.
    async fn fill(&mut self, patience: Option<Duration>, idle: bool) -> io::Result<usize> {
        self.input.reserve(READ);
        poll_fn(|context| {
            let read = pin!(self.stream.read_buf(&mut self.input)).poll(context);
            if read.is_ready() {
                return read;
            }
            if idle && self.stop.has_changed().unwrap_or(true) {
                return Ready(Ok(0));
            }
            match patience {
                Some(patience) => self.late(patience, context).map(Err),
                None => Pending,
            }
        })
        .await
    }

    /// Whether what is waited for takes too long; the timer is only set where it would fire too late.
    fn late(&mut self, patience: Duration, context: &mut Context<'_>) -> Poll<io::Error> {
        let deadline = *self
            .deadline
            .get_or_insert_with(|| Instant::now() + patience);
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Ready(io::ErrorKind::TimedOut.into());
            }
            self.timer.as_mut().reset(deadline);
        }
        Pending
    }

    /// Read a request's body, so that its byte `anchor` lies at an aligned address.
    async fn body(
        &mut self,
        (framing, expects_continue): (Framing, bool),
        anchor: usize,
        state: &State,
    ) -> Result<Bytes> {
        self.deadline = None;
        let limit = state.max_request;
        let size = match framing {
            Framing::Length(0) => return Ok(Bytes::new()),
            Framing::Length(size) if size > limit as u64 => return Err(too_large(size, limit)),
            Framing::Length(size) => Some(size as usize),
            Framing::Chunked => None,
        };
        if expects_continue && self.input.is_empty() {
            let told = self.write_all(CONTINUE).await;
            told.map_err(|error| self.unreadable(error))?;
        }
        let mut share = state.inflight.share();
        match size {
            Some(size) => self.sized(size, anchor.min(size), &mut share).await,
            None => self.chunked(limit, &mut share).await,
        }
        .map(|buffer| share.pay(buffer.freeze()))
    }

    async fn sized(&mut self, size: usize, anchor: usize, share: &mut Share) -> Result<Buffer> {
        let mut buffer = Buffer::new(size, anchor);
        let arrived = self.input.len().min(size);
        share.take(arrived)?;
        buffer.extend(&self.input[..arrived]);
        self.input.advance(arrived);
        let mut progress = 0;
        while buffer.room() > 0 {
            let read = poll_fn(|context| {
                let mut place = buffer.spare();
                let read = pin!(self.stream.read_buf(&mut place)).poll(context);
                match read {
                    Pending => self.late(self.patience, context).map(Err),
                    ready => ready,
                }
            });
            let length = match read.await {
                Ok(0) => return Err(Failure::invalid("the body is shorter than announced")),
                Ok(length) => length,
                Err(error) => return Err(self.unreadable(error)),
            };
            share.take(length)?;
            self.note(length, &mut progress);
        }
        Ok(buffer)
    }

    async fn chunked(&mut self, limit: usize, share: &mut Share) -> Result<Buffer> {
        let mut chunks = Chunks::default();
        let mut collected = Vec::new();
        let mut progress = 0;
        loop {
            match chunks.next(&mut self.input).map_err(Failure::invalid)? {
                Piece::Data(length) => {
                    if collected.len() + length > limit {
                        return Err(too_large((collected.len() + length) as u64, limit));
                    }
                    if collected.capacity() - collected.len() < length {
                        share.grow(&mut collected, length, limit)?;
                    }
                    collected.extend_from_slice(&self.input[..length]);
                    self.input.advance(length);
                }
                Piece::End => return Ok(Buffer::from(collected)),
                Piece::Wanting => match self.fill(Some(self.patience), false).await {
                    Ok(0) => return Err(Failure::invalid("the body ends before its last chunk")),
                    Ok(length) => self.note(length, &mut progress),
                    Err(error) => return Err(self.unreadable(error)),
                },
            }
        }
    }

    /// A peer gets more time for every so many bytes that it has sent or taken.
    fn note(&mut self, length: usize, progress: &mut usize) {
        *progress += length;
        if *progress >= PROGRESS {
            *progress = 0;
            self.deadline = None;
        }
    }

    /// Wait for an answer, unless the client goes away.
    async fn answer<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        poll_fn(|context| {
            if let Ready(answer) = answer.as_mut().poll(context) {
                return Ready(Some(answer));
            }
            while self.input.len() < MAX_HEAD {
                self.input.reserve(READ);
                match pin!(self.stream.read_buf(&mut self.input)).poll(context) {
                    Pending => break,
                    Ready(Ok(0) | Err(_)) => return Ready(None),
                    Ready(Ok(_)) => {}
                }
            }
            Pending
        })
        .await
    }

    fn unreadable(&self, error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::TimedOut => too_slow(self.patience),
            _ => Failure::invalid(format!("the request body could not be read: {error}")),
        }
    }

    async fn refuse_head(&mut self, refusal: &Refusal) -> io::Result<()> {
        let mut response = http::refusal(&Failure::new(Code::InvalidArgument, refusal.why));
        *response.status_mut() = refusal.status;
        self.refuse(response).await
    }
}

/// Whether a head may have become complete with what came after `seen`.
fn complete(input: &[u8], seen: usize) -> bool {
    let new = &input[seen.saturating_sub(3)..];
    input.len() >= MAX_HEAD
        || new.windows(2).any(|pair| pair == b"\n\n")
        || new.windows(3).any(|three| three == b"\n\r\n")
}
