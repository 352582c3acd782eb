//! The two calls that are streams: inferences that come and go over one call, and health that is watched.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::{HeaderMap, Response};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;

use crate::allowance::{Allowance, Share};
use crate::body::Reply;
use crate::compression::Encoding;
use crate::error::{Code, Failure, Result};
use crate::grpc::message::{Decoded, Messages, decode_infer, encode, framed};
use crate::proto::{
    Choice, HealthCheckResponse, INFER_RESPONSE, InferParameter, ModelInferResponse,
    ModelStreamInferResponse,
};
use crate::server::STREAM_WINDOW;
use crate::state::State;
use crate::trace::Context;

/// Requests of one stream that are inferred at the same time; more are read when one is answered.
const PENDING: usize = 32;

/// Pieces of responses that wait for a client to read them; until it does, nothing more is read or answered.
const WAITING: usize = 4;

/// Parts of a response below this size are sent together.
const JOIN_BELOW: usize = 16 * 1024;

/// An inference under way; it is given up with its stream.
struct Pending {
    id: String,
    answer: JoinHandle<Result<Vec<Bytes>>>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

/// `ModelStreamInfer`: the responses come in the order of the requests. An error is a response, too, unless
/// the client asked for errors that end the call.
pub fn infer(
    state: &Arc<State>,
    headers: &HeaderMap,
    body: Incoming,
    encoding: Option<Encoding>,
    deadline: Option<Duration>,
    trace: Option<Context>,
) -> Response<Reply> {
    let errors_end_it = headers
        .get("triton_grpc_error")
        .is_some_and(|value| value == "true");
    let (sender, frames) = mpsc::channel(WAITING);
    let state = Arc::clone(state);
    tokio::spawn(async move {
        let messages = Messages::new(
            body,
            encoding,
            state.max_request,
            &state.inflight,
            state.patience,
        );
        let stream = Stream {
            sender: &sender,
            allowance: &state.inflight,
            encoding,
            errors_end_it,
            trace,
        };
        let outcome = match deadline {
            None => stream.run(&state, messages).await,
            Some(deadline) => tokio::time::timeout(deadline, stream.run(&state, messages))
                .await
                .unwrap_or_else(|_| Err(super::expired())),
        };
        end(&sender, outcome).await;
    });
    Response::new(Reply::stream(frames))
}

struct Stream<'a> {
    sender: &'a mpsc::Sender<Frame<Bytes>>,
    allowance: &'a Arc<Allowance>,
    encoding: Option<Encoding>,
    errors_end_it: bool,
    /// Every request of the stream has the stream's parent.
    trace: Option<Context>,
}

impl Stream<'_> {
    async fn run(&self, state: &Arc<State>, mut messages: Messages) -> Result<()> {
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let mut changes = state.changes();
        let mut reading = !state.draining();
        // Why the rest of the stream cannot be read. What came before is answered first.
        let mut broken = None;
        let mut window: Option<Share> = None;
        while reading || !pending.is_empty() {
            // What is not read piles up in the stream's window.
            if !reading || pending.len() < PENDING {
                window = None;
            } else if window.is_none() {
                match state.inflight.reserve(STREAM_WINDOW) {
                    Ok(share) => window = Some(share),
                    Err(failure) => (reading, broken) = (false, Some(failure)),
                }
            }
            tokio::select! {
                // The client is gone; what it asked for goes with it.
                () = self.sender.closed() => return Ok(()),
                (id, answer) = first(&mut pending) => {
                    pending.pop_front();
                    self.respond(id, answer).await?;
                }
                message = messages.next(), if reading && pending.len() < PENDING => {
                    let request = match message {
                        Ok(None) => {
                            reading = false;
                            continue;
                        }
                        Ok(Some(message)) => decode_infer(message, &state.inflight).await,
                        Err(failure) => Err(failure),
                    };
                    match request {
                        Ok(request) => {
                            pending.push_back(begin(state, request, self.trace.clone()));
                        }
                        Err(failure) => (reading, broken) = (false, Some(failure)),
                    }
                }
                _ = changes.changed(), if reading => reading = !state.draining(),
            }
        }
        match broken {
            Some(failure) => Err(failure),
            None if state.draining() => Err(Failure::unavailable("the server is shutting down")),
            None => Ok(()),
        }
    }

    async fn respond(&self, id: String, answer: Result<Vec<Bytes>>) -> Result<()> {
        let parts = match answer {
            Ok(parts) => nested(parts),
            Err(failure) if self.errors_end_it => return Err(failure),
            Err(failure) => encode(&ModelStreamInferResponse {
                error_message: failure.message,
                infer_response: Some(ModelInferResponse {
                    id,
                    ..Default::default()
                }),
            }),
        };
        let parts = framed(parts, self.encoding).await?;
        let mut small = BytesMut::new();
        for part in parts {
            if part.len() < JOIN_BELOW {
                small.extend_from_slice(&part);
                continue;
            }
            self.send(small.split().freeze()).await?;
            self.send(part).await?;
        }
        self.send(small.freeze()).await
    }

    /// Wait until the client reads; that it is gone shows at the next turn. What it sends in the meantime is
    /// memory, too.
    async fn send(&self, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if let Err(TrySendError::Full(frame)) = self.sender.try_send(Frame::data(data)) {
            let _window = self.allowance.reserve(STREAM_WINDOW)?;
            let _ = self.sender.send(frame).await;
        }
        Ok(())
    }
}

fn begin(state: &Arc<State>, decoded: Decoded, trace: Option<Context>) -> Pending {
    let state = Arc::clone(state);
    Pending {
        id: decoded.request.id.clone(),
        answer: tokio::spawn(async move {
            let last = InferParameter {
                choice: Some(Choice::Bool(true)),
            };
            let parameters = HashMap::from([("triton_final_response".to_owned(), last)]);
            super::infer(
                &state,
                decoded,
                parameters,
                ("ModelStreamInfer", trace.as_ref()),
            )
            .await
        }),
    }
}

/// The answer to the oldest request.
async fn first(pending: &mut VecDeque<Pending>) -> (String, Result<Vec<Bytes>>) {
    let Some(oldest) = pending.front_mut() else {
        return std::future::pending().await;
    };
    let answer = (&mut oldest.answer)
        .await
        .unwrap_or_else(|error| Err(Failure::internal(error.to_string())));
    (std::mem::take(&mut oldest.id), answer)
}

/// An infer response, in parts, as the field of a stream's response.
fn nested(parts: Vec<Bytes>) -> Vec<Bytes> {
    let size: usize = parts.iter().map(Bytes::len).sum();
    let mut key = BytesMut::new();
    encode_key(INFER_RESPONSE, WireType::LengthDelimited, &mut key);
    encode_varint(size as u64, &mut key);
    std::iter::once(key.freeze()).chain(parts).collect()
}

/// End a stream by its status.
async fn end(sender: &mpsc::Sender<Frame<Bytes>>, outcome: Result<()>) {
    let trailers = match outcome {
        Ok(()) => super::success(),
        Err(failure) => super::status(&failure),
    };
    let _ = sender.send(Frame::trailers(trailers)).await;
}

/// `Watch`: the status now, and again whenever it changes.
pub fn watch(state: &Arc<State>, service: String) -> Response<Reply> {
    let (sender, frames) = mpsc::channel(WAITING);
    let state = Arc::clone(state);
    tokio::spawn(async move {
        let mut changes = state.changes();
        let mut told = None;
        while !state.draining() || told.is_none() {
            changes.borrow_and_update();
            let status = super::health(&state, &service).unwrap_or(super::SERVICE_UNKNOWN);
            if told != Some(status) {
                told = Some(status);
                tell(&sender, status).await;
            }
            tokio::select! {
                () = sender.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
        tell(&sender, super::NOT_SERVING).await;
        let gone = Failure::new(Code::Unavailable, "the server is shutting down");
        end(&sender, Err(gone)).await;
    });
    Response::new(Reply::stream(frames))
}

async fn tell(sender: &mpsc::Sender<Frame<Bytes>>, status: i32) {
    let message = HealthCheckResponse { status }.encode_to_vec();
    if let Ok(parts) = framed(vec![Bytes::from(message)], None).await {
        let _ = sender.send(Frame::data(Bytes::from(parts.concat()))).await;
    }
}
