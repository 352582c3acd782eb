//! The gRPC door: calls in HTTP/2, framed by hand, because that lets a message be received into one buffer
//! that the tensors then stay in.

mod frames;
pub mod message;
mod patient;
mod regions;
mod stream;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use prost::Message;

use crate::aside::aside;
use crate::body::Reply;
use crate::bounds;
use crate::compression::Encoding;
use crate::error::{Code, Failure, Result, shown};
use crate::proto::{
    Empty, HealthCheckResponse, InferParameter, LogSettings, ModelConfigResponse,
    ModelMetadataResponse, ModelRef, ModelStatisticsResponse, Name, RepositoryIndexRequest,
    RepositoryIndexResponse, RepositoryModelRequest, ServerMetadataResponse, TraceSettings,
    YesOrNo,
};
use crate::protobuf;
use crate::reply;
use crate::state::{State, parse_version};
use crate::trace::{self, Context, Door};

use message::{Decoded, decode, decode_infer, encode};

pub use patient::{Calls, Socket};

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const KNOWN_ENCODINGS: HeaderValue = HeaderValue::from_static("identity, deflate, gzip");

pub const SERVICE: &str = "inference.GRPCInferenceService";
const HEALTH: &str = "grpc.health.v1.Health";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Bytes of a message that brings neither tensors nor files: read, it may be many times as large.
const SMALL: usize = 64 * 1024;

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;
const SERVICE_UNKNOWN: i32 = 3;

/// Answer one call.
pub async fn serve(
    state: Arc<State>,
    request: Request<Incoming>,
) -> std::result::Result<Response<Reply>, Infallible> {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        let mut response = Response::new(Reply::default());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Ok(response);
    }
    let encoding = message::encoding(request.headers());
    let mut response = match answer(&state, request, encoding.clone()).await {
        Ok(response) => response,
        Err(failure) => refusal(&failure),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(ACCEPT_ENCODING, KNOWN_ENCODINGS);
    if let Ok(Some(encoding)) = encoding {
        headers.insert(ENCODING, HeaderValue::from_static(encoding.name()));
    }
    Ok(response)
}

/// Answer one who is one too many: only whether the server is well.
pub async fn turn_away(
    state: Arc<State>,
    request: Request<Incoming>,
) -> std::result::Result<Response<Reply>, Infallible> {
    if request.uri().path() == CHECK {
        return serve(state, request).await;
    }
    let mut response = refusal(&state.connections.failure());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, CONTENT_TYPE);
    Ok(response)
}

/// Messages that come compressed are answered in kind.
async fn answer(
    state: &Arc<State>,
    request: Request<Incoming>,
    encoding: Result<Option<Encoding>>,
) -> Result<Response<Reply>> {
    let encoding = encoding?;
    let (parts, body) = request.into_parts();
    let deadline = deadline(&parts.headers)?;
    let path = parts.uri.path();
    let trace = trace::context(state.tracing.as_ref(), &parts.headers);
    let trace = trace.map(|trace| trace.until(deadline));
    if path == format!("/{SERVICE}/ModelStreamInfer") {
        return Ok(stream::infer(
            state,
            &parts.headers,
            body,
            encoding,
            deadline,
            trace,
        ));
    }
    let call = Call {
        state,
        body,
        encoding,
        trace,
    };
    if path == format!("/{HEALTH}/Watch") {
        let request: Name = call.decode().await?;
        return Ok(stream::watch(state, request.name));
    }
    let message = match deadline {
        None => call.answer(path).await?,
        Some(deadline) => tokio::time::timeout(deadline, call.answer(path))
            .await
            .unwrap_or_else(|_| Err(expired()))?,
    };
    let parts = message::framed(message, encoding).await?;
    Ok(Response::new(Reply::new(parts).with_trailers(success())))
}

/// How long the client waits: a number of at most 8 digits, and its unit.
fn deadline(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(|text| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let number: u64 = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(number * 3600),
            "M" => Duration::from_secs(number * 60),
            "S" => Duration::from_secs(number),
            "m" => Duration::from_millis(number),
            "u" => Duration::from_micros(number),
            "n" => Duration::from_nanos(number),
            _ => return None,
        })
    });
    match parsed {
        Some(deadline) => Ok(Some(deadline)),
        None => Err(Failure::invalid("grpc-timeout is not well-formed")),
    }
}

pub fn expired() -> Failure {
    Failure::new(Code::TooSlow, "the call's deadline has passed")
}

/// A unary call.
struct Call<'a> {
    state: &'a Arc<State>,
    body: Incoming,
    encoding: Option<Encoding>,
    trace: Option<Context>,
}

impl Call<'_> {
    /// The response message, in parts.
    async fn answer(mut self, path: &str) -> Result<Vec<Bytes>> {
        // A CONNECT has no path, not even a slash.
        let (service, method) = path
            .strip_prefix('/')
            .unwrap_or(path)
            .split_once('/')
            .unwrap_or((path, ""));
        let state = self.state;
        match (service, method) {
            (SERVICE, "ModelInfer") => {
                let trace = self.trace.take();
                let message = self.read(state.max_request).await?;
                let request = decode_infer(message, &state.inflight).await?;
                infer(
                    state,
                    request,
                    HashMap::new(),
                    ("ModelInfer", trace.as_ref()),
                )
                .await
            }
            (SERVICE, "ServerLive") => {
                self.read(SMALL).await?;
                Ok(encode(&YesOrNo { yes: true }))
            }
            (SERVICE, "ServerReady") => {
                self.read(SMALL).await?;
                Ok(encode(&YesOrNo { yes: state.ready() }))
            }
            (SERVICE, "ModelReady") => model_readiness(state, &self.decode().await?),
            (SERVICE, "ServerMetadata") => {
                self.control::<Empty, ServerMetadataResponse>(method).await
            }
            (SERVICE, "ModelMetadata") => {
                self.control::<ModelRef, ModelMetadataResponse>(method)
                    .await
            }
            (SERVICE, "ModelConfig") => self.control::<ModelRef, ModelConfigResponse>(method).await,
            (SERVICE, "ModelStatistics") => {
                self.control::<ModelRef, ModelStatisticsResponse>(method)
                    .await
            }
            (SERVICE, "RepositoryIndex") => {
                self.control::<RepositoryIndexRequest, RepositoryIndexResponse>(method)
                    .await
            }
            (SERVICE, "RepositoryModelLoad" | "RepositoryModelUnload") => {
                self.control::<RepositoryModelRequest, Empty>(method).await
            }
            (SERVICE, "TraceSetting") => self.control::<TraceSettings, TraceSettings>(method).await,
            (SERVICE, "LogSettings") => self.control::<LogSettings, LogSettings>(method).await,
            (
                SERVICE,
                "SystemSharedMemoryStatus"
                | "SystemSharedMemoryRegister"
                | "SystemSharedMemoryUnregister"
                | "CudaSharedMemoryStatus"
                | "CudaSharedMemoryRegister"
                | "CudaSharedMemoryUnregister",
            ) => regions::call(state, method, self.read(SMALL).await?),
            (HEALTH, "Check") => {
                let request: Name = self.decode().await?;
                let status = health(state, &request.name)?;
                Ok(encode(&HealthCheckResponse { status }))
            }
            _ => Err(Failure::unimplemented(format!(
                "this server does not offer '{}'",
                shown(path)
            ))),
        }
    }

    /// A message of at most so many bytes, or as many as a request may have.
    async fn read(self, limit: usize) -> Result<Bytes> {
        let limit = limit.min(self.state.max_request);
        message::read(self.state, self.body, self.encoding, limit).await
    }

    async fn decode<M: Message + Default>(self) -> Result<M> {
        decode(self.read(SMALL).await?)
    }

    /// A call that the control side answers, in JSON both ways.
    async fn control<Q, R>(self, name: &str) -> Result<Vec<Bytes>>
    where
        Q: Message + Default + serde::Serialize + 'static,
        R: Message + serde::de::DeserializeOwned + 'static,
    {
        let state = Arc::clone(self.state);
        let load = name.starts_with("RepositoryModel");
        let message = match load {
            true => self.read(usize::MAX).await?,
            false => self.read(SMALL).await?,
        };
        let broken = |error: serde_json::Error| Failure::internal(error.to_string());
        let allowance = Arc::clone(&state.inflight);
        let text = aside(message.len(), move || {
            bounds::few_parameters(&message)?;
            // What it becomes on its way: text, with its files in base64, and these files again.
            let memory = allowance.reserve(2 * message.len())?;
            let request: Q = decode(message)?;
            let text = serde_json::to_string(&request).map_err(broken)?;
            Ok((text, memory))
        });
        let (request, memory) = text.await?;
        let name = name.to_owned();
        let answer = state.ask(load, move |control| {
            let answer = control.rpc(&name, &request);
            drop(memory);
            answer
        });
        let answer = answer.await?;
        Ok(encode(&serde_json::from_str::<R>(&answer).map_err(broken)?))
    }
}

/// An inference, in a span of its own if it is traced.
async fn infer(
    state: &Arc<State>,
    decoded: Decoded,
    parameters: HashMap<String, InferParameter>,
    (method, trace): (&'static str, Option<&Context>),
) -> Result<Vec<Bytes>> {
    let mut span =
        trace.and_then(|trace| trace.begin(&decoded.request.model_name, || Door::Grpc { method }));
    let answer = inferred(state, decoded, parameters, &mut span).await;
    if let Some(span) = &mut span {
        match &answer {
            Ok(_) => span.end(0, None),
            Err(failure) => span.end(failure.code.grpc().into(), Some(failure)),
        }
    }
    answer
}

async fn inferred(
    state: &Arc<State>,
    decoded: Decoded,
    parameters: HashMap<String, InferParameter>,
    span: &mut Option<Box<trace::Span>>,
) -> Result<Vec<Bytes>> {
    let Decoded {
        request,
        memory,
        weight,
    } = decoded;
    let version = parse_version(&request.model_version)?;
    let model = state.model(&request.model_name, version)?;
    let raw = request.raw_input_contents.iter().map(Bytes::len).sum();
    let long = model.signature.work(raw, 0) + weight;
    let parsing = (Arc::clone(&model), Arc::clone(state));
    let parsed = aside(long, move || {
        let (model, state) = parsing;
        let parsed = protobuf::parse(request, &model.signature, &state.regions, &state.inflight);
        drop(memory);
        parsed
    });
    let mut infer = parsed.await.inspect_err(|_| model.refuse())?;
    trace::follow(span, &model, &mut infer);
    let tensors = model.infer(&mut infer).await?;
    let long = reply::work(&infer.outputs, &tensors);
    aside(long, move || {
        let outputs = reply::outputs(&model.signature, &infer.outputs, tensors)?;
        let model = (model.name.as_str(), model.version.as_str());
        Ok(protobuf::render(infer.id, model, outputs, parameters))
    })
    .await
}

/// A model that is not there is not ready.
fn model_readiness(state: &State, model: &ModelRef) -> Result<Vec<Bytes>> {
    let yes = match state.model(&model.name, parse_version(&model.version)?) {
        Ok(_) => state.ready(),
        Err(failure) if matches!(failure.code, Code::Unavailable | Code::NotFound) => false,
        Err(failure) => return Err(failure),
    };
    Ok(encode(&YesOrNo { yes }))
}

fn health(state: &State, service: &str) -> Result<i32> {
    match service {
        "" | SERVICE if state.ready() => Ok(SERVING),
        "" | SERVICE => Ok(NOT_SERVING),
        _ => Err(Failure::not_found(format!(
            "unknown service '{}'",
            shown(service)
        ))),
    }
}

fn success() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    trailers
}

fn status(failure: &Failure) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(STATUS, HeaderValue::from(u16::from(failure.code.grpc())));
    if let Ok(message) = HeaderValue::try_from(percent_encode(&failure.message)) {
        headers.insert(MESSAGE, message);
    }
    headers
}

fn refusal(failure: &Failure) -> Response<Reply> {
    let mut response = Response::new(Reply::default());
    response.headers_mut().extend(status(failure));
    response
}

/// As gRPC wants its messages: anything but printable ASCII, and the percent sign, escaped.
fn percent_encode(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for &byte in message.as_bytes().iter().take(4096) {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_headers() {
        assert_eq!(percent_encode("50% é\n"), "50%25 %C3%A9%0A");
    }

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::try_from(text).unwrap());
            deadline(&headers)
        };
        assert_eq!(deadline(&HeaderMap::new()), Ok(None));
        assert_eq!(read("100m"), Ok(Some(Duration::from_millis(100))));
        assert_eq!(
            read("99999999H").unwrap().unwrap().as_secs(),
            99_999_999 * 3600
        );
        for bad in ["", "m", "1", "1s", "-1S", "+1S", "123456789S", "1 S"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
