//! Records as OpenTelemetry's protocol has them: `ExportTraceServiceRequest`, by the published numbers.

use std::time::{Duration, Instant, UNIX_EPOCH};

use prost::{Message, Oneof};

use super::{Door, Executed, Progress, Record};

const SERVER: i32 = 2;
const INTERNAL: i32 = 1;
const ERROR: i32 = 2;
/// A span's flags: sampled; it is known whether the parent is remote; it is.
const SAMPLED: u32 = 1;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

const GRPC_CANCELLED: u16 = 1;
/// The gRPC statuses that are a server's fault, by the semantic conventions.
const GRPC_ERRORS: [u16; 6] = [2, 4, 12, 13, 14, 15];

#[derive(Clone, PartialEq, Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// An export request.
pub fn request(resource: &[(String, String)], records: &[Record]) -> Vec<u8> {
    let attributes = resource.iter();
    let scope = Scope {
        name: "capstan-serving".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let resource_spans = ResourceSpans {
        resource: Some(Resource {
            attributes: attributes.map(|(key, value)| text(key, value)).collect(),
        }),
        scope_spans: vec![ScopeSpans {
            scope: Some(scope),
            spans: records.iter().flat_map(spans).collect(),
        }],
    };
    ExportRequest {
        resource_spans: vec![resource_spans],
    }
    .encode_to_vec()
}

fn spans(record: &Record) -> Vec<Span> {
    let parent = record.parent.as_ref();
    let remote = if parent.is_some() { IS_REMOTE } else { 0 };
    let (name, attributes, status) = told(record);
    let whole = Span {
        trace_id: record.trace.to_be_bytes().to_vec(),
        span_id: record.span.to_be_bytes().to_vec(),
        trace_state: parent.map_or_else(String::new, |parent| parent.state.clone()),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span.to_be_bytes().to_vec()),
        name,
        kind: SERVER,
        start_time_unix_nano: time(record, record.start),
        end_time_unix_nano: time(record, record.end),
        attributes,
        status,
        flags: SAMPLED | HAS_IS_REMOTE | remote,
    };
    let phases = match record.mark.execution() {
        Some(execution) => phases(record, execution, &whole),
        None => vec![],
    };
    std::iter::once(whole).chain(phases).collect()
}

/// What happened to a request, as children of its span. Their numbers follow its own, which is random.
fn phases(record: &Record, execution: &Executed, whole: &Span) -> Vec<Span> {
    let Executed {
        queued,
        taken,
        start,
        phases,
        rows,
    } = *execution;
    let computed = start + phases.input;
    let inferred = computed + phases.infer;
    let parts = [
        ("queue", queued, taken),
        ("compute_input", start, computed),
        ("compute_infer", computed, inferred),
        ("compute_output", inferred, inferred + phases.output),
    ];
    let span = |(place, (name, start, end))| Span {
        trace_id: whole.trace_id.clone(),
        span_id: record.span.wrapping_add(place).to_be_bytes().to_vec(),
        trace_state: whole.trace_state.clone(),
        parent_span_id: whole.span_id.clone(),
        name: str::to_owned(name),
        kind: INTERNAL,
        start_time_unix_nano: time(record, start),
        end_time_unix_nano: time(record, end),
        attributes: match name {
            "compute_infer" => vec![batch_size(rows)],
            _ => vec![],
        },
        status: None,
        flags: SAMPLED | HAS_IS_REMOTE,
    };
    (1..).zip(parts).map(span).collect()
}

/// A span's name and attributes, by the semantic conventions of its protocol, and its status.
fn told(record: &Record) -> (String, Vec<Attribute>, Option<Status>) {
    let outcome = record.outcome.as_ref();
    let (name, mut attributes, error) = match &record.door {
        Door::Http { path, route } => {
            let mut attributes = vec![
                text("http.request.method", "POST"),
                text("http.route", route),
                text("url.path", path),
                text("url.scheme", "http"),
                text("network.protocol.version", "1.1"),
            ];
            let status = outcome.map(|outcome| outcome.status);
            attributes.extend(
                status.map(|status| number("http.response.status_code", i64::from(status))),
            );
            let error = match status {
                None => Some("cancelled".to_owned()),
                Some(status) => (status >= 500).then(|| status.to_string()),
            };
            (format!("POST {route}"), attributes, error)
        }
        Door::Grpc { method } => {
            let status = outcome.map_or(GRPC_CANCELLED, |outcome| outcome.status);
            let attributes = vec![
                text("rpc.system", "grpc"),
                text("rpc.service", crate::grpc::SERVICE),
                text("rpc.method", method),
                number("rpc.grpc.status_code", i64::from(status)),
            ];
            let error =
                (outcome.is_none() || GRPC_ERRORS.contains(&status)).then(|| status.to_string());
            (
                format!("{}/{method}", crate::grpc::SERVICE),
                attributes,
                error,
            )
        }
    };
    attributes.push(text("triton.model_name", &record.model));
    if !record.version.is_empty() {
        attributes.push(text("triton.model_version", &record.version));
    }
    if !record.id.is_empty() {
        attributes.push(text("triton.request_id", &record.id));
    }
    match record.mark.0.get() {
        Some(Progress::Cached) => {
            attributes.push(attribute("capstan.cache_hit", Value::Bool(true)))
        }
        Some(Progress::Executed(execution)) => attributes.push(batch_size(execution.rows)),
        None => {}
    }
    let status = error.map(|error| {
        attributes.push(text("error.type", &error));
        Status {
            message: outcome.map_or_else(
                || "the client went away".to_owned(),
                |outcome| outcome.message.clone(),
            ),
            code: ERROR,
        }
    });
    (name, attributes, status)
}

/// Nanoseconds since the epoch.
fn time(record: &Record, moment: Instant) -> u64 {
    let start = record.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = match moment.checked_duration_since(record.start) {
        Some(later) => start + later,
        None => start.saturating_sub(record.start - moment),
    };
    u64::try_from(Duration::as_nanos(&at)).unwrap_or(u64::MAX)
}

fn batch_size(rows: usize) -> Attribute {
    number("capstan.batch_size", rows as i64)
}

fn text(key: &str, value: &str) -> Attribute {
    attribute(key, Value::Text(value.to_owned()))
}

fn number(key: &str, value: i64) -> Attribute {
    attribute(key, Value::Number(value))
}

fn attribute(key: &str, value: Value) -> Attribute {
    Attribute {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}
