//! The head of an HTTP/1.1 request, and how long its body is. Pure.
//!
//! Whatever leaves a doubt about where a request ends is refused: another server in between may take it
//! differently, and then one request hides in another.

use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri, Version};

/// Bytes of a head, from the request line to the empty line.
pub const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;

/// How the end of the body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

#[derive(Debug)]
pub struct Head {
    /// Without its body.
    pub request: Request<Bytes>,
    pub framing: Framing,
    /// Another request may follow on the connection.
    pub keep_alive: bool,
    /// The client waits to be told that its body is wanted.
    pub expects_continue: bool,
}

/// Why a head cannot be answered: the connection ends with this.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub why: &'static str,
}

const fn bad(why: &'static str) -> Refusal {
    let status = StatusCode::BAD_REQUEST;
    Refusal { status, why }
}

const TOO_LARGE: Refusal = Refusal {
    status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    why: "the request's headers are too many or too long",
};

pub const TOO_SLOW: Refusal = Refusal {
    status: StatusCode::REQUEST_TIMEOUT,
    why: "the request's headers took too long to arrive",
};

/// The head at the beginning of the input, and its length; `None` when it is not all there yet.
pub fn parse(input: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
    let mut headers = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(input, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(_) => return Err(bad("the request is not well-formed HTTP/1.1")),
    };
    // The parser takes a bare LF for the end of a line; others do not.
    if bare_line_feed(&input[..length]) {
        return Err(bad("a line of the headers does not end in CRLF"));
    }
    let mut request = Request::new(Bytes::new());
    let target = parsed.path.unwrap_or_default();
    *request.uri_mut() =
        Uri::try_from(target).map_err(|_| bad("the request has no valid target"))?;
    *request.method_mut() = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes())
        .map_err(|_| bad("the request has no valid method"))?;
    *request.version_mut() = match parsed.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    request.headers_mut().reserve(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        match (name, value) {
            (Ok(name), Ok(value)) => request.headers_mut().append(name, value),
            _ => return Err(bad("a header is not well-formed")),
        };
    }
    let newest = request.version() == Version::HTTP_11;
    let headers = request.headers();
    if newest && headers.get_all(header::HOST).iter().count() != 1 {
        return Err(bad("a request has one Host header"));
    }
    let keep_alive = match newest {
        true => !lists(headers, header::CONNECTION, "close"),
        false => lists(headers, header::CONNECTION, "keep-alive"),
    };
    let head = Head {
        framing: framing(headers, newest)?,
        keep_alive,
        expects_continue: newest && lists(headers, header::EXPECT, "100-continue"),
        request,
    };
    Ok(Some((head, length)))
}

fn bare_line_feed(head: &[u8]) -> bool {
    head.starts_with(b"\n")
        || head
            .windows(2)
            .any(|pair| pair[1] == b'\n' && pair[0] != b'\r')
}

fn framing(headers: &HeaderMap, newest: bool) -> Result<Framing, Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (None, Some(length)) => {
            let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
            match length.to_str().ok().and_then(|text| text.parse().ok()) {
                Some(length) if digits && lengths.next().is_none() => Ok(Framing::Length(length)),
                _ => Err(bad("Content-Length must be one number of bytes")),
            }
        }
        (Some(coding), None) => {
            let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
            match chunked && newest && codings.next().is_none() {
                true => Ok(Framing::Chunked),
                false => Err(bad("the one Transfer-Encoding there is here is chunked")),
            }
        }
        (Some(_), Some(_)) => Err(bad(
            "a request has Content-Length or Transfer-Encoding, not both",
        )),
    }
}

/// Whether a header whose value is a list has this member.
fn lists(headers: &HeaderMap, name: HeaderName, member: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let mut members = value.as_bytes().split(|&byte| byte == b',');
        members.any(|one| one.trim_ascii().eq_ignore_ascii_case(member.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(lines: &[&str]) -> Result<Option<(Head, usize)>, Refusal> {
        parse(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes())
    }

    fn framed(lines: &[&str]) -> Result<Framing, StatusCode> {
        let lines = [&["POST / HTTP/1.1", "Host: x"], lines].concat();
        match parsed(&lines) {
            Ok(head) => Ok(head.unwrap().0.framing),
            Err(refusal) => Err(refusal.status),
        }
    }

    #[test]
    fn where_a_body_ends_leaves_no_doubt() {
        assert_eq!(framed(&[]), Ok(Framing::Length(0)));
        assert_eq!(framed(&["Content-Length: 7"]), Ok(Framing::Length(7)));
        assert_eq!(
            framed(&["transfer-encoding: Chunked"]),
            Ok(Framing::Chunked)
        );
        let doubtful: &[&[&str]] = &[
            &["Content-Length: 7", "Transfer-Encoding: chunked"],
            &["Transfer-Encoding: chunked", "Content-Length: 7"],
            &["Content-Length: 7", "Content-Length: 8"],
            &["Content-Length: 7", "Content-Length: 7"],
            &["Content-Length: 7, 7"],
            &["Content-Length: +7"],
            &["Content-Length: -7"],
            &["Content-Length: 0x7"],
            &["Content-Length: 7 7"],
            &["Content-Length:"],
            &["Content-Length: 99999999999999999999"],
            &["Content-Length : 7"],
            &["Content-Length\t: 7"],
            &[" Content-Length: 7"],
            &["X: y", " Content-Length: 7"],
            &["X: y\r\n\tz", "Content-Length: 7"],
            &["X: y\rContent-Length: 7"],
            &["X: y\nContent-Length: 7"],
            &["X: y\n"],
            &["X: \0"],
            &["Transfer-Encoding: gzip, chunked"],
            &["Transfer-Encoding: chunked, chunked"],
            &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            &["Transfer-Encoding: identity"],
            &["Transfer-Encoding: xchunked"],
            &["Transfer-Encoding: \x0bchunked"],
            &["Transfer-Encoding:"],
        ];
        for lines in doubtful {
            assert_eq!(framed(lines), Err(StatusCode::BAD_REQUEST), "{lines:?}");
        }
        for head in [
            "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\nHost: x\n\n",
        ] {
            let refusal = parse(head.as_bytes()).unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{head:?}");
        }
        let old = ["POST / HTTP/1.0", "Transfer-Encoding: chunked"];
        assert_eq!(parsed(&old).unwrap_err().status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_head_is_taken_whole_and_alone() {
        let one = "GET /v2?x=y HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive, Close\r\n\r\n";
        let two = format!("{one}{one}");
        for end in 0..one.len() {
            assert!(parse(&one.as_bytes()[..end]).unwrap().is_none(), "{end}");
        }
        let (head, length) = parse(two.as_bytes()).unwrap().unwrap();
        assert_eq!(length, one.len());
        assert_eq!(head.request.uri().path(), "/v2");
        assert!(!head.keep_alive);
        assert!(!head.expects_continue);
    }

    #[test]
    fn what_follows_is_the_versions_and_the_clients_choice() {
        let keeps = |lines: &[&str]| parsed(lines).unwrap().unwrap().0.keep_alive;
        assert!(keeps(&["GET / HTTP/1.1", "Host: x"]));
        assert!(!keeps(&["GET / HTTP/1.1", "Host: x", "Connection: close"]));
        assert!(!keeps(&["GET / HTTP/1.0"]));
        assert!(keeps(&["GET / HTTP/1.0", "Connection: keep-alive"]));
        let expects = ["POST / HTTP/1.1", "Host: x", "Expect: 100-Continue"];
        assert!(parsed(&expects).unwrap().unwrap().0.expects_continue);
    }

    #[test]
    fn heads_are_bounded() {
        let many: Vec<String> = (0..200).map(|index| format!("x{index}: y")).collect();
        let long = "y".repeat(MAX_HEAD);
        let request = |rest: &str| format!("GET / HTTP/1.1\r\nHost: x\r\n{rest}");
        for text in [many.join("\r\n"), format!("x: {long}")] {
            let refusal = parse(request(&text).as_bytes()).unwrap_err();
            assert_eq!(refusal, TOO_LARGE);
        }
        let whole = request(&format!("x: {long}\r\n\r\n"));
        assert_eq!(parse(whole.as_bytes()).unwrap_err(), TOO_LARGE);
    }

    #[test]
    fn hosts_and_versions() {
        let refused = |lines: &[&str]| parsed(lines).unwrap_err().status.as_u16();
        assert_eq!(refused(&["GET / HTTP/1.1"]), 400);
        assert_eq!(refused(&["GET / HTTP/1.1", "Host: x", "Host: y"]), 400);
        assert_eq!(refused(&["GET / HTTP/2.0", "Host: x"]), 400);
        assert_eq!(refused(&["PRI * HTTP/2.0"]), 400);
        assert_eq!(refused(&["GET /\x7f HTTP/1.1", "Host: x"]), 400);
        assert!(parsed(&["OPTIONS * HTTP/1.1", "Host: x"]).is_ok());
        let absolute = parsed(&["GET http://h/v2 HTTP/1.1", "Host: h"]);
        assert_eq!(absolute.unwrap().unwrap().0.request.uri().path(), "/v2");
    }

    proptest! {
        #[test]
        fn nothing_panics(start in "(GET|POST) /[a-z%]{0,8} HTTP/1\\.[01]", rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&[start.as_bytes(), b"\r\n", &rest, b"\r\n\r\n"].concat());
            let _ = parse(&rest);
        }
    }
}
