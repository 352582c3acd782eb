//! The HTTP/1.1 door: the hot routes here, every other one handed to the control side.

mod regions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use crate::aside::aside;
use crate::body::Reply;
use crate::compression::{self, Encoding};
use crate::connections::Door;
use crate::error::{Code, Failure, Result};
use crate::generate;
use crate::json;
use crate::reply;
use crate::state::{State, parse_version};
use crate::trace::{self, Span};

const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
const NOT_READY: &str = "the server is not ready";
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Answer one request, whose body has been read. `door` is the port's name: the metrics port offers
/// nothing of the API, and the API's port no metrics.
pub async fn serve(state: &Arc<State>, door: Door, request: Request<Bytes>) -> Response<Reply> {
    answer(state, door, request)
        .await
        .unwrap_or_else(|failure| refusal(&failure))
}

async fn answer(
    state: &Arc<State>,
    door: Door,
    request: Request<Bytes>,
) -> Result<Response<Reply>> {
    let path = segments(request.uri().path())?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match (door, path.as_slice()) {
        (Door::Http, ["v2", "health", "live"]) => {
            allow(&request, &Method::GET)?;
            Ok(Response::new(Reply::default()))
        }
        (Door::Http, ["v2", "health", "ready"]) => {
            allow(&request, &Method::GET)?;
            readiness(state.ready(), NOT_READY)
        }
        (Door::Http, ["v2", "models", name, "ready"]) => {
            allow(&request, &Method::GET)?;
            model_readiness(state, name, "")
        }
        (Door::Http, ["v2", "models", name, "versions", version, "ready"]) => {
            allow(&request, &Method::GET)?;
            model_readiness(state, name, version)
        }
        (
            Door::Http,
            [
                "v2",
                "models",
                name,
                kind @ ("infer" | "generate" | "generate_stream"),
            ],
        ) => inference(state, name, "", kind, request).await,
        (
            Door::Http,
            [
                "v2",
                "models",
                name,
                "versions",
                version,
                kind @ ("infer" | "generate" | "generate_stream"),
            ],
        ) => inference(state, name, version, kind, request).await,
        (
            Door::Http,
            [
                "v2",
                kind @ ("systemsharedmemory" | "cudasharedmemory"),
                path @ ..,
            ],
        ) => {
            let (region, action) = match path {
                [action @ ("status" | "register" | "unregister")] => ("", *action),
                [
                    "region",
                    region,
                    action @ ("status" | "register" | "unregister"),
                ] => (*region, *action),
                _ => return Err(Failure::not_found("there is nothing at this path")),
            };
            let method = match action {
                "status" => Method::GET,
                _ => Method::POST,
            };
            allow(&request, &method)?;
            let body = decompressed(state, request).await?;
            let reply = match *kind {
                "systemsharedmemory" => regions::system(state, region, action, &body)?,
                _ => regions::cuda(region, action)?,
            };
            Ok(json_reply(reply))
        }
        _ => control(state, door, &path, request).await,
    }
}

/// The answer to a question about the server's health; `None` to anything else.
pub fn health(state: &State, request: &Request<Bytes>) -> Option<Response<Reply>> {
    let ready = match (request.method(), request.uri().path()) {
        (&Method::GET, "/v2/health/live") => return Some(Response::new(Reply::default())),
        (&Method::GET, "/v2/health/ready") => readiness(state.ready(), NOT_READY),
        _ => return None,
    };
    Some(ready.unwrap_or_else(|failure| refusal(&failure)))
}

fn allow(request: &Request<Bytes>, method: &Method) -> Result<()> {
    if request.method() == method {
        return Ok(());
    }
    Err(Failure::method_not_allowed(match *method {
        Method::GET => "GET",
        _ => "POST",
    }))
}

/// Readiness is 400 when it is not, as Triton's clients expect.
fn readiness(ready: bool, why_not: &str) -> Result<Response<Reply>> {
    match ready {
        true => Ok(Response::new(Reply::default())),
        false => Err(Failure::invalid(why_not)),
    }
}

fn model_readiness(state: &State, name: &str, version: &str) -> Result<Response<Reply>> {
    match state.model(name, parse_version(version)?) {
        Ok(_) => readiness(state.ready(), NOT_READY),
        Err(failure) if failure.code == Code::Unavailable => readiness(false, &failure.message),
        Err(failure) => Err(failure),
    }
}

/// An inference by one of the extensions, in a span of its own if it is traced.
async fn inference(
    state: &Arc<State>,
    name: &str,
    version: &str,
    kind: &str,
    request: Request<Bytes>,
) -> Result<Response<Reply>> {
    allow(&request, &Method::POST)?;
    let context = trace::context(state.tracing.as_ref(), request.headers());
    let mut span = context.and_then(|context| {
        let versioned = if version.is_empty() {
            ""
        } else {
            "/versions/{version}"
        };
        context.begin(name, || trace::Door::Http {
            path: request.uri().path().to_owned(),
            route: format!("/v2/models/{{model}}{versioned}/{kind}"),
        })
    });
    let answer = match kind {
        "infer" => infer(state, name, version, request, &mut span).await,
        _ => generate(state, name, version, kind, request, &mut span).await,
    };
    if let Some(span) = &mut span {
        match &answer {
            Ok(response) => span.end(response.status().as_u16(), None),
            Err(failure) => span.end(failure.code.http(), Some(failure)),
        }
    }
    answer
}

async fn infer(
    state: &Arc<State>,
    name: &str,
    version: &str,
    request: Request<Bytes>,
    span: &mut Option<Box<Span>>,
) -> Result<Response<Reply>> {
    let model = state.model(name, parse_version(version)?)?;
    let json_length = json_length(request.headers())?;
    let accepted = accepted(request.headers());
    let body = decompressed(state, request).await?;
    let long = model
        .signature
        .work(body.len(), json_length.unwrap_or(body.len()));
    let parsing = (Arc::clone(&model), Arc::clone(state));
    let parsed = aside(long, move || {
        let (model, state) = parsing;
        let (regions, allowance) = (&state.regions, &state.inflight);
        json::parse(body, json_length, &model.signature, regions, allowance)
    });
    let mut infer = parsed.await.inspect_err(|_| model.refuse())?;
    trace::follow(span, &model, &mut infer);
    let tensors = model.infer(&mut infer).await?;
    let long = reply::work(&infer.outputs, &tensors);
    let rendering = Arc::clone(&model);
    let rendered = aside(long, move || {
        let model = rendering;
        let outputs = reply::outputs(&model.signature, &infer.outputs, tensors)?;
        json::render(&infer.id, (&model.name, &model.version), &outputs)
    })
    .await?;
    let length = rendered.json.len();
    let parts = std::iter::once(Bytes::from(rendered.json)).chain(rendered.binary);
    let (encoding, parts) = compressed(accepted, parts.collect()).await?;
    let mut response = Response::new(Reply::new(parts));
    let headers = response.headers_mut();
    if let Some(encoding) = encoding {
        let name = HeaderValue::from_static(encoding.name());
        headers.insert(header::CONTENT_ENCODING, name);
    }
    if rendered.has_binary {
        headers.insert(header::CONTENT_TYPE, BINARY);
        headers.insert(HEADER_LENGTH, HeaderValue::from(length));
    } else {
        headers.insert(header::CONTENT_TYPE, JSON);
    }
    Ok(response)
}

/// Infer by the generate extension. A stream has one event, since a model here answers once.
async fn generate(
    state: &Arc<State>,
    name: &str,
    version: &str,
    kind: &str,
    request: Request<Bytes>,
    span: &mut Option<Box<Span>>,
) -> Result<Response<Reply>> {
    let model = state.model(name, parse_version(version)?)?;
    let body = decompressed(state, request).await?;
    let parsing = (Arc::clone(&model), Arc::clone(&state.inflight));
    let parsed = aside(body.len(), move || {
        let (model, allowance) = parsing;
        generate::parse(&body, &model.signature, &allowance)
    });
    let mut infer = parsed.await.inspect_err(|_| model.refuse())?;
    trace::follow(span, &model, &mut infer);
    let rendered = match model.infer(&mut infer).await {
        Ok(tensors) => {
            let long = reply::work(&infer.outputs, &tensors);
            aside(long, move || {
                let outputs = reply::outputs(&model.signature, &infer.outputs, tensors)?;
                generate::render(&infer.id, (&model.name, &model.version), &outputs)
            })
            .await
        }
        Err(failure) => Err(failure),
    };
    if kind == "generate" {
        return Ok(json_reply(Bytes::from(rendered?)));
    }
    let (status, event) = match rendered {
        Ok(json) => (StatusCode::OK, json),
        Err(failure) => (status(&failure), error_json(&failure).into_bytes()),
    };
    let event = [&b"data: "[..], &event, b"\n\n"].concat();
    let mut response = Response::new(Reply::new([Bytes::from(event)]));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, EVENTS);
    Ok(response)
}

fn json_reply(json: Bytes) -> Response<Reply> {
    let mut response = Response::new(Reply::new([json]));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// Where binary data begin: connections place this byte of a body at an aligned address.
pub fn anchor(headers: &HeaderMap) -> usize {
    json_length(headers).ok().flatten().unwrap_or(0)
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>> {
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digits = value.as_bytes().iter().all(u8::is_ascii_digit);
    match value.to_str().ok().and_then(|text| text.parse().ok()) {
        Some(length) if digits && values.next().is_none() => Ok(Some(length)),
        _ => Err(Failure::invalid(
            "Inference-Header-Content-Length must be one number of bytes",
        )),
    }
}

/// The request's body, decompressed.
async fn decompressed(state: &State, request: Request<Bytes>) -> Result<Bytes> {
    let mut encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    let Some(encoding) = encodings.next() else {
        return Ok(request.into_body());
    };
    if encodings.next().is_some() {
        return Err(Failure::unimplemented(
            "the body is compressed more than once, which is not supported",
        ));
    }
    let encoding = Encoding::of(encoding.to_str().unwrap_or("?"))?;
    let body = request.into_body();
    match encoding {
        None => Ok(body),
        Some(encoding) => {
            let share = state.inflight.share();
            compression::decompress(encoding, body, state.max_request, share).await
        }
    }
}

/// The encoding that the caller wants the reply in.
fn accepted(headers: &HeaderMap) -> Option<Encoding> {
    let header = headers.get(header::ACCEPT_ENCODING)?;
    Encoding::accepted(header.to_str().ok()?)
}

/// A reply's parts in the encoding that is wanted, if that is worth it.
async fn compressed(
    wanted: Option<Encoding>,
    parts: Vec<Bytes>,
) -> Result<(Option<Encoding>, Vec<Bytes>)> {
    let size = parts.iter().map(Bytes::len).sum();
    match wanted {
        Some(encoding) if size >= compression::WORTHWHILE => {
            let body = aside(size, move || encoding.compress(&parts)).await?;
            Ok((Some(encoding), vec![body]))
        }
        _ => Ok((None, parts)),
    }
}

async fn control(
    state: &Arc<State>,
    door: Door,
    path: &[&str],
    request: Request<Bytes>,
) -> Result<Response<Reply>> {
    let method = request.method().to_string();
    let path: Vec<String> = path.iter().map(|&segment| segment.to_owned()).collect();
    let body = decompressed(state, request).await?;
    let posted = method == "POST";
    let body = aside(body.len(), move || {
        if posted {
            json::check_few(&body)?;
        }
        Ok(body)
    })
    .await?;
    // What it becomes on its way: text, with its files in base64, and these files again.
    let memory = state.inflight.reserve(2 * body.len())?;
    let load = matches!(path.last().map(String::as_str), Some("load" | "unload"));
    let answer = state.ask(load, move |control| {
        let answer = control.http(door.name(), &method, &path, &body);
        drop((body, memory));
        answer
    });
    let (content_type, body) = answer.await?;
    let mut response = Response::new(Reply::new([Bytes::from(body)]));
    let content_type = HeaderValue::try_from(content_type)
        .map_err(|error| Failure::internal(error.to_string()))?;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

pub fn refusal(failure: &Failure) -> Response<Reply> {
    let mut response = json_reply(Bytes::from(error_json(failure)));
    *response.status_mut() = status(failure);
    let headers = response.headers_mut();
    match failure.code {
        Code::MethodNotAllowed => {
            let allow = HeaderValue::from_static(failure.allow.unwrap_or("GET"));
            headers.insert(header::ALLOW, allow);
        }
        Code::Unimplemented => {
            headers.insert(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static(compression::KNOWN),
            );
        }
        _ => {}
    }
    response
}

fn error_json(failure: &Failure) -> String {
    serde_json::json!({ "error": failure.message }).to_string()
}

fn status(failure: &Failure) -> StatusCode {
    StatusCode::from_u16(failure.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A path's segments, each percent-decoded on its own: a decoded slash stays inside its segment.
fn segments(path: &str) -> Result<Vec<String>> {
    path.split('/')
        .skip(1)
        .map(|segment| {
            let decoded = if segment.contains('%') {
                percent_decode(segment)
            } else {
                Some(segment.to_owned())
            };
            decoded.ok_or_else(|| Failure::invalid("the path is not well-formed"))
        })
        .collect()
}

fn percent_decode(segment: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (pair, tail) = rest.split_first_chunk::<2>()?;
        let pair = std::str::from_utf8(pair).ok()?;
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        decoded.push(u8::from_str_radix(pair, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(decoded).ok()
}
