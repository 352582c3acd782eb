//! What can go wrong with a request, and the two tables that say so on each protocol.

use std::fmt;
use std::str::EscapeDefault;

/// The kind of a failure. `http` and `grpc` are the only places where it becomes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    MethodNotAllowed,
    TooLarge,
    TooSlow,
    Unavailable,
    Unimplemented,
    Internal,
}

impl Code {
    /// The HTTP status.
    pub const fn http(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::AlreadyExists => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::TooLarge => 413,
            Self::Internal => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
        }
    }

    /// The gRPC status.
    pub const fn grpc(self) -> u8 {
        match self {
            Self::InvalidArgument => 3,
            Self::TooSlow => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::TooLarge => 8,
            Self::MethodNotAllowed | Self::Unimplemented => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
        }
    }

    /// The code that Python's error classes name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "INVALID_ARGUMENT" => Self::InvalidArgument,
            "NOT_FOUND" => Self::NotFound,
            "ALREADY_EXISTS" => Self::AlreadyExists,
            "METHOD_NOT_ALLOWED" => Self::MethodNotAllowed,
            "UNAVAILABLE" => Self::Unavailable,
            "UNIMPLEMENTED" => Self::Unimplemented,
            "INTERNAL" => Self::Internal,
            _ => return None,
        })
    }
}

/// Bytes of a message at most: what a client wrote may be part of it, and gRPC's headers take no more.
const LONGEST: usize = 4096;

/// Bytes of what a client wrote that a message shows.
const SHOWN: usize = 256;

/// What a client wrote, as a message shows it: escaped, and of what is long only the beginning.
pub fn shown(text: &str) -> EscapeDefault<'_> {
    beginning(text, SHOWN).escape_default()
}

/// The first bytes of a text, so many or those of whole characters.
pub fn beginning(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let whole = (0..=most).rev().find(|&end| text.is_char_boundary(end));
    &text[..whole.unwrap_or(0)]
}

/// A failed request: the kind, and the sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    /// With `MethodNotAllowed`: the method that is allowed.
    pub allow: Option<&'static str>,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > LONGEST {
            message = beginning(&message, LONGEST).to_owned();
        }
        Self {
            code,
            message,
            allow: None,
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(
                Code::MethodNotAllowed,
                format!("method not allowed, use {allow}"),
            )
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

pub type Result<T> = std::result::Result<T, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_no_longer_than_it_may_be_whatever_a_client_wrote() {
        let name = "é\u{1}".repeat(1 << 20);
        assert_eq!(Failure::invalid(name.clone()).message.len(), LONGEST - 1);
        assert!(shown(&name).to_string().len() < 10 * SHOWN);
        assert_eq!(shown("a\n").to_string(), "a\\n");
        assert_eq!((beginning("aé", 2), beginning("aé", 3)), ("a", "aé"));
    }
}
