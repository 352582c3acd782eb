//! The native front end of the model server: wire protocols, validation, queue, batching, counters.
//!
//! Everything on a request's way lives here; Python is entered once per batch, to execute it, and for
//! the routes that are not hot (`state::Control`). Without the feature `python` this is a plain Rust crate.

pub mod allowance;
pub mod aside;
pub mod body;
pub mod bounds;
pub mod cache;
pub mod classification;
pub mod compression;
pub mod connections;
pub mod counters;
pub mod datatype;
pub mod elements;
pub mod error;
pub mod generate;
pub mod grpc;
pub mod http;
pub mod http1;
pub mod json;
pub mod model;
pub mod order;
pub mod pace;
pub mod patience;
pub mod proto;
pub mod protobuf;
#[cfg(feature = "python")]
mod python;
pub mod queue;
pub mod reply;
pub mod request;
pub mod scalar;
pub mod scheduling;
pub mod server;
pub mod shm;
pub mod signature;
pub mod state;
pub mod tensor;
pub mod trace;
