//! The patience of the gRPC door: hyper speaks HTTP/2, and waits for its peers for ever.
//!
//! `Socket` gives up a connection whose client leaves something half-sent or takes nothing of what lies ready
//! for it. `Calls` gives up a call alone, when its client reads others but not this one.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::Poll::{Pending, Ready};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::frames::Frames;
use crate::body::{self, Taken};
use crate::patience::Patience;

/// A connection's socket. Between frames the client may be quiet for as long as it answers pings.
pub struct Socket {
    stream: TcpStream,
    frames: Frames,
    reading: Patience,
    writing: Patience,
}

impl Socket {
    pub fn new(stream: TcpStream, span: Duration) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            reading: Patience::new(span),
            writing: Patience::new(span),
        }
    }

    fn written(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Pending => self.writing.poll(context).map(|()| Err(late())),
            Ready(Ok(length)) => {
                self.writing.note(length);
                written
            }
            Ready(Err(_)) => written,
        }
    }
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let arrived = &buffer.filled()[before..];
        this.frames.feed(arrived);
        if this.frames.whole() {
            this.reading.renew();
            return read;
        }
        this.reading.note(arrived.len());
        match read {
            Pending => this.reading.poll(context).map(|()| Err(late())),
            ready => ready,
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, data);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // All that lay ready has been taken.
        self.writing.renew();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Runs the calls of a connection.
#[derive(Clone, Copy)]
pub struct Calls(pub Duration);

impl<F> Executor<F> for Calls
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, call: F) {
        tokio::spawn(patient(call, self.0));
    }
}

/// Run a call; dropped, it is reset, and what lies ready to be sent with it.
async fn patient<F: Future>(call: F, span: Duration) {
    let mut call = std::pin::pin!(call);
    let mut patience = Patience::new(span);
    let mut waiting = false;
    std::future::poll_fn(|context| {
        body::taken();
        if call.as_mut().poll(context).is_ready() {
            return Ready(());
        }
        match body::taken() {
            Taken::Nothing => {}
            Taken::Bytes(bytes) => {
                waiting = true;
                patience.note(bytes);
            }
            Taken::All => {
                waiting = false;
                patience.renew();
            }
        }
        match waiting {
            true => patience.poll(context),
            false => Pending,
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_taken_all_owes_nothing() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let span = Duration::from_secs(30);
        let mut socket = Socket::new(stream, span);
        poll_fn(|context| {
            assert!(socket.written(Pending, context).is_pending());
            assert!(socket.written(Ready(Ok(1)), context).is_ready());
            Pin::new(&mut socket).poll_flush(context)
        })
        .await
        .unwrap();
        tokio::time::advance(2 * span).await;
        let mut late =
            async || poll_fn(|context| Ready(socket.written(Pending, context).is_ready())).await;
        assert!(!late().await);
        tokio::time::advance(2 * span).await;
        assert!(late().await);
    }
}
