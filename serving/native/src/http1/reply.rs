//! What a connection sends: a response's head and small parts at once, large parts from where they lie, and
//! replies that come to be while they are sent in chunks.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice, Write};
use std::pin::{Pin, pin};
use std::task::Poll::Pending;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, Bytes};
use http_body::Body;
use hyper::Response;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Connection, LINGER};
use crate::body::{JOIN_BELOW, Reply};

/// Parts that are given to the kernel together.
const SLICES: usize = 16;

/// How a response is to be framed.
#[derive(Clone, Copy)]
pub struct Form {
    /// Another request may follow.
    pub keep_alive: bool,
    /// For HTTP/1.0, which knows no chunks.
    pub plain: bool,
    /// For HEAD: nothing but the head.
    pub head_only: bool,
}

impl Connection {
    pub(super) async fn send(&mut self, response: Response<Reply>, form: Form) -> io::Result<()> {
        self.deadline = None;
        self.output.clear();
        let (head, body) = response.into_parts();
        let length = body.length();
        let reason = head.status.canonical_reason().unwrap_or("");
        write!(
            self.output,
            "HTTP/1.1 {} {reason}\r\n",
            head.status.as_u16()
        )?;
        for (name, value) in &head.headers {
            self.output.extend_from_slice(name.as_str().as_bytes());
            self.output.extend_from_slice(b": ");
            self.output.extend_from_slice(value.as_bytes());
            self.output.extend_from_slice(b"\r\n");
        }
        match length {
            Some(length) => write!(self.output, "content-length: {length}\r\n")?,
            None if !form.plain => self
                .output
                .extend_from_slice(b"transfer-encoding: chunked\r\n"),
            None => {}
        }
        match (
            form.keep_alive && (length.is_some() || !form.plain),
            form.plain,
        ) {
            (false, _) => self.output.extend_from_slice(b"connection: close\r\n"),
            (true, true) => self.output.extend_from_slice(b"connection: keep-alive\r\n"),
            (true, false) => {}
        }
        date(&mut self.output);
        self.output.extend_from_slice(b"\r\n");
        if form.head_only {
            let head = std::mem::take(&mut self.output);
            return self.write_all(&head).await;
        }
        match length {
            Some(_) => self.send_parts(body.into_parts()).await,
            None => self.send_stream(body, form.plain).await,
        }
    }

    async fn send_parts(&mut self, mut parts: VecDeque<Bytes>) -> io::Result<()> {
        let mut output = std::mem::take(&mut self.output);
        if parts.iter().all(|part| part.len() < JOIN_BELOW) {
            parts.iter().for_each(|part| output.extend_from_slice(part));
            let written = self.write_all(&output).await;
            self.output = output;
            return written;
        }
        parts.push_front(Bytes::from(output));
        self.write_parts(parts).await
    }

    async fn send_stream(&mut self, body: Reply, plain: bool) -> io::Result<()> {
        let mut body = pin!(body);
        let head = std::mem::take(&mut self.output);
        self.write_all(&head).await?;
        loop {
            let next = poll_fn(|context| body.as_mut().poll_frame(context));
            let Some(next) = self.answer(next).await else {
                return Err(io::ErrorKind::ConnectionReset.into());
            };
            let data = match next {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                None => break,
            };
            if data.is_empty() {
                continue; // an empty chunk would be the end
            }
            self.deadline = None;
            let parts = match plain {
                true => vec![data],
                false => {
                    let size = Bytes::from(format!("{:x}\r\n", data.len()));
                    vec![size, data, Bytes::from_static(b"\r\n")]
                }
            };
            self.write_parts(parts.into()).await?;
        }
        match plain {
            true => self.stream.shutdown().await,
            false => self.write_all(b"0\r\n\r\n").await,
        }
    }

    pub(super) async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        let mut progress = 0;
        while !data.is_empty() {
            let written =
                poll_fn(
                    |context| match Pin::new(&mut self.stream).poll_write(context, data) {
                        Pending => self.late(self.patience, context).map(Err),
                        ready => ready,
                    },
                );
            let written = written.await?;
            self.note(written, &mut progress);
            data = &data[written..];
        }
        Ok(())
    }

    async fn write_parts(&mut self, mut parts: VecDeque<Bytes>) -> io::Result<()> {
        let mut progress = 0;
        while !parts.is_empty() {
            let written = poll_fn(|context| {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = parts.len().min(SLICES);
                for (slice, part) in slices.iter_mut().zip(&parts) {
                    *slice = IoSlice::new(part);
                }
                let stream = Pin::new(&mut self.stream);
                match stream.poll_write_vectored(context, &slices[..count]) {
                    Pending => self.late(self.patience, context).map(Err),
                    ready => ready,
                }
            });
            let mut left = written.await?;
            self.note(left, &mut progress);
            while let Some(part) = parts.front_mut() {
                if left < part.len() {
                    part.advance(left);
                    break;
                }
                left -= part.len();
                parts.pop_front();
            }
        }
        Ok(())
    }

    /// Answer what cannot be read on from, and let the client read that: closing while it still sends would
    /// take the answer from it.
    pub(super) async fn refuse(&mut self, response: Response<Reply>) -> io::Result<()> {
        let form = Form {
            keep_alive: false,
            plain: false,
            head_only: false,
        };
        self.send(response, form).await?;
        self.stream.shutdown().await?;
        self.deadline = None;
        let end = Instant::now() + LINGER;
        while Instant::now() < end {
            self.input.clear();
            if self.fill(Some(LINGER), true).await? == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// The header that says when. Its text is made once a second.
fn date(output: &mut Vec<u8>) {
    thread_local! {
        static TEXT: RefCell<Option<(Instant, String)>> = const { RefCell::new(None) };
    }
    TEXT.with_borrow_mut(|text| {
        let now = Instant::now();
        let current = text
            .as_ref()
            .is_some_and(|(made, _)| now - *made < Duration::from_secs(1));
        if !current {
            let header = format!("date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
            *text = Some((now, header));
        }
        if let Some((_, header)) = text {
            output.extend_from_slice(header.as_bytes());
        }
    });
}
