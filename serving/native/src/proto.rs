//! The messages of `inference.GRPCInferenceService` and `grpc.health.v1.Health` that this server answers,
//! as the published schemas number them. The control side speaks JSON with the same names, so the
//! messages it concerns can also be read from it.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use prost::{Message, Oneof};
use serde::{Deserialize, Serialize};

use crate::request::Value;

#[derive(Clone, PartialEq, Message)]
pub struct InferParameter {
    #[prost(oneof = "Choice", tags = "1, 2, 3, 4, 5")]
    pub choice: Option<Choice>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Choice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int64(i64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(uint64, tag = "5")]
    Uint64(u64),
}

impl InferParameter {
    pub fn value(&self) -> Option<Value> {
        Some(match self.choice.as_ref()? {
            Choice::Bool(value) => Value::Bool(*value),
            Choice::Int64(value) => match u64::try_from(*value) {
                Ok(value) => Value::Unsigned(value),
                Err(_) => Value::Number(*value as f64),
            },
            Choice::Text(value) => Value::Text(value.clone()),
            Choice::Double(value) => Value::Number(*value),
            Choice::Uint64(value) => Value::Unsigned(*value),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorContents {
    #[prost(bool, repeated, tag = "1")]
    pub bool_contents: Vec<bool>,
    #[prost(int32, repeated, tag = "2")]
    pub int_contents: Vec<i32>,
    #[prost(int64, repeated, tag = "3")]
    pub int64_contents: Vec<i64>,
    #[prost(uint32, repeated, tag = "4")]
    pub uint_contents: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    pub uint64_contents: Vec<u64>,
    #[prost(float, repeated, tag = "6")]
    pub fp32_contents: Vec<f32>,
    #[prost(double, repeated, tag = "7")]
    pub fp64_contents: Vec<f64>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub bytes_contents: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub struct InputTensor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    #[prost(message, optional, tag = "5")]
    pub contents: Option<TensorContents>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RequestedOutput {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(map = "string, message", tag = "2")]
    pub parameters: HashMap<String, InferParameter>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelInferRequest {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<InputTensor>,
    #[prost(message, repeated, tag = "6")]
    pub outputs: Vec<RequestedOutput>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub raw_input_contents: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OutputTensor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

/// The response without its `raw_output_contents`, which are written behind it without a copy.
#[derive(Clone, PartialEq, Message)]
pub struct ModelInferResponse {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<OutputTensor>,
}

/// The number of `raw_output_contents` in `ModelInferResponse`.
pub const RAW_OUTPUT_CONTENTS: u32 = 6;

#[derive(Clone, PartialEq, Message)]
pub struct ModelStreamInferResponse {
    #[prost(string, tag = "1")]
    pub error_message: String,
    #[prost(message, optional, tag = "2")]
    pub infer_response: Option<ModelInferResponse>,
}

/// The number of `infer_response` in `ModelStreamInferResponse`.
pub const INFER_RESPONSE: u32 = 2;

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub struct Empty {}

/// `ServerLiveResponse`, `ServerReadyResponse` and `ModelReadyResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct YesOrNo {
    #[prost(bool, tag = "1")]
    pub yes: bool,
}

/// `ModelReadyRequest`, `ModelMetadataRequest` and `ModelStatisticsRequest`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct ModelRef {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct ServerMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(string, repeated, tag = "3")]
    pub extensions: Vec<String>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct TensorMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct ModelMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "2")]
    pub versions: Vec<String>,
    #[prost(string, tag = "3")]
    pub platform: String,
    #[prost(message, repeated, tag = "4")]
    pub inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<TensorMetadata>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RepositoryIndexRequest {
    #[prost(string, tag = "1")]
    pub repository_name: String,
    #[prost(bool, tag = "2")]
    pub ready: bool,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct ModelIndex {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    #[serde(default)]
    pub version: String,
    #[prost(string, tag = "3")]
    pub state: String,
    #[prost(string, tag = "4")]
    #[serde(default)]
    pub reason: String,
}

/// In JSON this is the bare list.
#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(transparent)]
pub struct RepositoryIndexResponse {
    #[prost(message, repeated, tag = "1")]
    pub models: Vec<ModelIndex>,
}

#[derive(Clone, Copy, PartialEq, Message, Deserialize)]
pub struct StatisticDuration {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(uint64, tag = "2")]
    pub ns: u64,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct InferStatistics {
    #[prost(message, optional, tag = "1")]
    pub success: Option<StatisticDuration>,
    #[prost(message, optional, tag = "2")]
    pub fail: Option<StatisticDuration>,
    #[prost(message, optional, tag = "3")]
    pub queue: Option<StatisticDuration>,
    #[prost(message, optional, tag = "4")]
    pub compute_input: Option<StatisticDuration>,
    #[prost(message, optional, tag = "5")]
    pub compute_infer: Option<StatisticDuration>,
    #[prost(message, optional, tag = "6")]
    pub compute_output: Option<StatisticDuration>,
    #[prost(message, optional, tag = "7")]
    pub cache_hit: Option<StatisticDuration>,
    #[prost(message, optional, tag = "8")]
    pub cache_miss: Option<StatisticDuration>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct ModelStatistics {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(uint64, tag = "3")]
    pub last_inference: u64,
    #[prost(uint64, tag = "4")]
    pub inference_count: u64,
    #[prost(uint64, tag = "5")]
    pub execution_count: u64,
    #[prost(message, optional, tag = "6")]
    pub inference_stats: Option<InferStatistics>,
    #[prost(message, repeated, tag = "7")]
    pub batch_stats: Vec<InferBatchStatistics>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct InferBatchStatistics {
    #[prost(uint64, tag = "1")]
    pub batch_size: u64,
    #[prost(message, optional, tag = "2")]
    pub compute_input: Option<StatisticDuration>,
    #[prost(message, optional, tag = "3")]
    pub compute_infer: Option<StatisticDuration>,
    #[prost(message, optional, tag = "4")]
    pub compute_output: Option<StatisticDuration>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct ModelStatisticsResponse {
    #[prost(message, repeated, tag = "1")]
    pub model_stats: Vec<ModelStatistics>,
}

/// `HealthCheckRequest`, and what asks for or forgets a shared memory region.
#[derive(Clone, PartialEq, Message)]
pub struct Name {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckResponse {
    /// 1: serving, 2: not serving.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// A model's configuration, which the control side has serialized already.
#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct ModelConfigResponse {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "from_base64")]
    pub config: Bytes,
}

fn from_base64<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(source)?;
    BASE64
        .decode(text)
        .map(Bytes::from)
        .map_err(serde::de::Error::custom)
}

/// `RepositoryModelLoadRequest` and `RepositoryModelUnloadRequest`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct RepositoryModelRequest {
    #[prost(string, tag = "1")]
    pub repository_name: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(map = "string, message", tag = "3")]
    pub parameters: HashMap<String, ModelRepositoryParameter>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(transparent)]
pub struct ModelRepositoryParameter {
    #[prost(oneof = "RepositoryChoice", tags = "1, 2, 3, 4")]
    pub choice: Option<RepositoryChoice>,
}

/// In JSON bytes are base64, as over HTTP.
#[derive(Clone, PartialEq, Oneof, Serialize)]
#[serde(untagged)]
pub enum RepositoryChoice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int64(i64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bytes = "bytes", tag = "4")]
    Bytes(#[serde(serialize_with = "to_base64")] Bytes),
}

fn to_base64<S: serde::Serializer>(bytes: &Bytes, target: S) -> Result<S::Ok, S::Error> {
    target.serialize_str(&BASE64.encode(bytes))
}

/// `TraceSettingRequest` and `TraceSettingResponse` (which has no model).
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub struct TraceSettings {
    #[prost(map = "string, message", tag = "1")]
    pub settings: HashMap<String, TraceValues>,
    #[prost(string, tag = "2")]
    #[serde(default)]
    pub name: String,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TraceValues {
    #[prost(string, repeated, tag = "1")]
    pub value: Vec<String>,
}

/// `LogSettingsRequest` and `LogSettingsResponse`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub struct LogSettings {
    #[prost(map = "string, message", tag = "1")]
    pub settings: HashMap<String, LogValue>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogValue {
    #[prost(oneof = "LogChoice", tags = "1, 2, 3")]
    pub choice: Option<LogChoice>,
}

#[derive(Clone, PartialEq, Oneof, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogChoice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(uint32, tag = "2")]
    Uint32(u32),
    #[prost(string, tag = "3")]
    Text(String),
}

#[derive(Clone, PartialEq, Message)]
pub struct SystemSharedMemoryRegisterRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    #[prost(uint64, tag = "4")]
    pub byte_size: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct RegionStatus {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    #[prost(uint64, tag = "4")]
    pub byte_size: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct SystemSharedMemoryStatusResponse {
    #[prost(map = "string, message", tag = "1")]
    pub regions: HashMap<String, RegionStatus>,
}

/// Always without regions.
#[derive(Clone, PartialEq, Message)]
pub struct CudaSharedMemoryStatusResponse {}
