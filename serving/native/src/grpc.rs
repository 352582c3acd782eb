//! The gRPC door: unary calls in HTTP/2, framed by hand, because that lets a message be received into
//! one buffer that the tensors then stay in.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use prost::Message;

use crate::body::{self, Reply};
use crate::error::{Code, Failure, Result};
use crate::proto::{
    Empty, HealthCheckRequest, HealthCheckResponse, ModelInferRequest, ModelMetadataResponse,
    ModelRef, ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    ServerMetadataResponse, YesOrNo,
};
use crate::protobuf;
use crate::reply;
use crate::state::{State, parse_version};
use crate::tensor::Buffer;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

const PREFIX: usize = 5;
const SERVICE: &str = "inference.GRPCInferenceService";

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
    let mut response = match call(&state, request).await {
        Ok(parts) => {
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert(STATUS, HeaderValue::from_static("0"));
            Response::new(Reply::new(parts).with_trailers(trailers))
        }
        Err(failure) => refusal(&failure),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    Ok(response)
}

/// The reply's message with its prefix, in parts.
async fn call(state: &Arc<State>, request: Request<Incoming>) -> Result<Vec<Bytes>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    // A CONNECT has no path, not even a slash.
    let (service, method) = path
        .strip_prefix('/')
        .unwrap_or(path)
        .split_once('/')
        .unwrap_or((path, ""));
    let limit = state.max_request;
    match (service, method) {
        (SERVICE, "ModelInfer") => infer(state, read(body, limit).await?).await,
        (SERVICE, "ServerLive") => {
            read(body, limit).await?;
            message(&YesOrNo { yes: true })
        }
        (SERVICE, "ServerReady") => {
            read(body, limit).await?;
            message(&YesOrNo { yes: state.ready() })
        }
        (SERVICE, "ModelReady") => {
            let model: ModelRef = decode(read(body, limit).await?)?;
            model_readiness(state, &model)
        }
        ("grpc.health.v1.Health", "Check") => health(state, &decode(read(body, limit).await?)?),
        (SERVICE, "ServerMetadata") => {
            control::<Empty, ServerMetadataResponse>(state, "ServerMetadata", body).await
        }
        (SERVICE, "ModelMetadata") => {
            control::<ModelRef, ModelMetadataResponse>(state, "ModelMetadata", body).await
        }
        (SERVICE, "ModelStatistics") => {
            control::<ModelRef, ModelStatisticsResponse>(state, "ModelStatistics", body).await
        }
        (SERVICE, "RepositoryIndex") => {
            control::<RepositoryIndexRequest, RepositoryIndexResponse>(
                state,
                "RepositoryIndex",
                body,
            )
            .await
        }
        _ => Err(Failure::unimplemented(format!(
            "this server does not offer '{}'",
            path.escape_default()
        ))),
    }
}

async fn infer(state: &State, body: Bytes) -> Result<Vec<Bytes>> {
    let request: ModelInferRequest = decode(body)?;
    let version = parse_version(&request.model_version)?;
    let model = state.model(&request.model_name, version)?;
    let mut infer = protobuf::parse(request, &model.signature, &state.regions)
        .inspect_err(|_| model.refuse())?;
    let tensors = model.infer(&mut infer).await?;
    let outputs = reply::outputs(&model.signature, &infer.outputs, tensors)?;
    let parts = protobuf::render(
        infer.id,
        (&model.name, &model.version),
        outputs,
        HashMap::new(),
    );
    prefixed(parts)
}

fn model_readiness(state: &State, model: &ModelRef) -> Result<Vec<Bytes>> {
    let yes = match state.model(&model.name, parse_version(&model.version)?) {
        Ok(_) => state.ready(),
        Err(failure) if failure.code == Code::Unavailable => false,
        Err(failure) => return Err(failure),
    };
    message(&YesOrNo { yes })
}

fn health(state: &State, request: &HealthCheckRequest) -> Result<Vec<Bytes>> {
    if !matches!(request.service.as_str(), "" | SERVICE) {
        return Err(Failure::not_found(format!(
            "unknown service '{}'",
            request.service.escape_default()
        )));
    }
    message(&HealthCheckResponse {
        status: if state.ready() { 1 } else { 2 },
    })
}

/// A call that the control side answers, in JSON both ways.
async fn control<Q, R>(state: &Arc<State>, name: &'static str, body: Incoming) -> Result<Vec<Bytes>>
where
    Q: Message + Default + serde::Serialize,
    R: Message + serde::de::DeserializeOwned,
{
    let request: Q = decode(read(body, state.max_request).await?)?;
    let broken = |error: serde_json::Error| Failure::internal(error.to_string());
    let request = serde_json::to_string(&request).map_err(broken)?;
    let state = Arc::clone(state);
    let answer = tokio::task::spawn_blocking(move || state.control.rpc(name, &request))
        .await
        .map_err(|error| Failure::internal(error.to_string()))??;
    message(&serde_json::from_str::<R>(&answer).map_err(broken)?)
}

/// Read the one message of a unary call into one buffer. Its end is aligned: raw contents lie there.
async fn read(mut body: Incoming, limit: usize) -> Result<Bytes> {
    let mut head = BytesMut::new();
    while head.len() < PREFIX {
        match body::next(&mut body).await? {
            Some(data) => head.extend_from_slice(&data),
            None => return Err(Failure::invalid("the call has no complete message")),
        }
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    match head[0] {
        0 => {}
        1 => {
            return Err(Failure::unimplemented(
                "compressed messages are not supported",
            ));
        }
        _ => return Err(Failure::invalid("the message has an unknown flag")),
    }
    if length > limit {
        return Err(body::too_large(length as u64, limit));
    }
    let mut buffer = Buffer::new(length, length);
    let mut data = head.split_off(PREFIX).freeze();
    loop {
        if data.len() > buffer.room() {
            return Err(Failure::invalid(
                "a unary call has one message, this one has more",
            ));
        }
        buffer.extend(&data);
        match body::next(&mut body).await? {
            Some(more) => data = more,
            None => break,
        }
    }
    if buffer.room() > 0 {
        return Err(Failure::invalid("the message is shorter than announced"));
    }
    Ok(buffer.freeze())
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M> {
    M::decode(bytes)
        .map_err(|error| Failure::invalid(format!("failed to parse the message: {error}")))
}

fn message<M: Message>(message: &M) -> Result<Vec<Bytes>> {
    prefixed(vec![Bytes::from(message.encode_to_vec())])
}

fn prefixed(parts: Vec<Bytes>) -> Result<Vec<Bytes>> {
    let length: usize = parts.iter().map(Bytes::len).sum();
    let length = u32::try_from(length)
        .map_err(|_| Failure::invalid("the outputs are larger than a message can be"))?;
    let mut prefix = BytesMut::with_capacity(PREFIX);
    prefix.put_u8(0);
    prefix.put_u32(length);
    Ok(std::iter::once(prefix.freeze()).chain(parts).collect())
}

fn refusal(failure: &Failure) -> Response<Reply> {
    let mut response = Response::new(Reply::default());
    let headers = response.headers_mut();
    headers.insert(STATUS, HeaderValue::from(u16::from(failure.code.grpc())));
    if let Ok(message) = HeaderValue::try_from(percent_encode(&failure.message)) {
        headers.insert(MESSAGE, message);
    }
    if failure.code == Code::Unimplemented {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
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
}
