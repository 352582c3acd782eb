//! A validated inference request, whatever protocol brought it.

use std::time::Duration;

use crate::error::{Failure, Result};
use crate::tensor::Tensor;

/// An output the caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its place in the model's signature.
    pub output: usize,
    /// As binary data rather than JSON (gRPC is always binary).
    pub binary: bool,
}

/// What the queue gets, and what the reply is built from.
#[derive(Debug)]
pub struct InferRequest {
    pub id: String,
    /// In the model's order.
    pub inputs: Vec<Tensor>,
    /// In the caller's order.
    pub outputs: Vec<Wanted>,
    /// How long it may wait for its execution.
    pub timeout: Option<Duration>,
}

/// A parameter, on either protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Number(f64),
    Unsigned(u64),
    Text(String),
}

/// Check a request's parameters; what matters of them is the timeout.
pub fn timeout<'a>(
    parameters: impl Iterator<Item = (&'a str, &'a Value)>,
) -> Result<Option<Duration>> {
    let mut timeout = None;
    for (name, value) in parameters {
        match (name, value) {
            ("timeout", Value::Unsigned(0)) => {}
            ("timeout", Value::Unsigned(microseconds)) => {
                timeout = Some(Duration::from_micros(*microseconds));
            }
            ("timeout", _) => {
                return Err(Failure::invalid(
                    "parameter 'timeout' must be a number of microseconds, 0 or more",
                ));
            }
            (name, _) if name.starts_with("triton_") => {
                return Err(Failure::invalid(format!(
                    "parameter '{}' is reserved",
                    name.escape_default()
                )));
            }
            _ => {}
        }
    }
    Ok(timeout)
}

/// Refuse what a tensor's parameters may ask for and this server does not do.
pub fn check_tensor_parameter(tensor: &str, name: &str) -> Result<()> {
    match name {
        "shared_memory_region" | "shared_memory_byte_size" | "shared_memory_offset" => {
            Err(Failure::unimplemented(format!(
                "tensor '{}' is in shared memory, which this server does not offer",
                tensor.escape_default()
            )))
        }
        "classification" => Err(Failure::unimplemented(format!(
            "output '{}' asks for classification, which this server does not offer",
            tensor.escape_default()
        ))),
        _ => Ok(()),
    }
}

/// Note that an output is wanted, once.
pub fn want(outputs: &mut Vec<Wanted>, wanted: Wanted, name: &str) -> Result<()> {
    if outputs.iter().any(|other| other.output == wanted.output) {
        return Err(Failure::invalid(format!(
            "output '{name}' is requested twice"
        )));
    }
    outputs.push(wanted);
    Ok(())
}
