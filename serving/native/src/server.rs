//! The listeners, their connections, and how they end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::body::Reply;
use crate::state::State;
use crate::{body, grpc, http};

/// A connection that sends no request, or not all of its headers, for this long is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
const MAX_HEADERS: usize = 32 * 1024;
/// After this long without a sign of life an HTTP/2 peer is asked for one.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME: u32 = 1 << 20;
/// Between attempts to accept when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the threads that answer for the control side get to come to an end.
const GRACE: Duration = Duration::from_millis(200);

#[derive(Clone, Copy)]
enum Door {
    Http,
    Grpc,
    Metrics,
}

/// The running server. Its threads end with it.
pub struct Server {
    pub state: Arc<State>,
    pub http_port: u16,
    pub grpc_port: u16,
    pub metrics_port: u16,
    /// Until the drain.
    runtime: Mutex<Option<Runtime>>,
    /// Every connection and listener holds a receiver: when none is left, all is done.
    stop: watch::Sender<bool>,
}

impl Server {
    /// Listen. A port of 0 lets the system choose.
    pub fn start(
        state: State,
        host: &str,
        ports: (u16, u16, u16),
        threads: usize,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(4)
            .thread_name("capstan-io")
            .enable_all()
            .build()?;
        let state = Arc::new(state);
        let (stop, stopped) = watch::channel(false);
        let listen = |door, port| {
            runtime.block_on(async {
                let listener = TcpListener::bind((host, port)).await.map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("cannot listen on {host}:{port}: {error}"),
                    )
                })?;
                let port = listener.local_addr()?.port();
                tokio::spawn(accept(listener, door, Arc::clone(&state), stopped.clone()));
                io::Result::Ok(port)
            })
        };
        let http_port = listen(Door::Http, ports.0)?;
        let grpc_port = listen(Door::Grpc, ports.1)?;
        let metrics_port = listen(Door::Metrics, ports.2)?;
        drop(stopped);
        Ok(Self {
            state,
            http_port,
            grpc_port,
            metrics_port,
            runtime: Mutex::new(Some(runtime)),
            stop,
        })
    }

    /// Stop accepting, finish what was accepted, and end every thread. Whether that was done in time; if
    /// not, some of them still run.
    pub fn drain(&self, timeout: Duration) -> bool {
        let runtime = self
            .runtime
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(runtime) = runtime else { return true };
        let deadline = Instant::now() + timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.state.begin_drain();
        self.stop.send_replace(true);
        let answered = runtime
            .block_on(async { tokio::time::timeout(timeout, self.stop.closed()).await })
            .is_ok();
        let models = self.state.models();
        for model in &models {
            model.close();
        }
        let ended = models.iter().all(|model| model.wait(left()));
        runtime.shutdown_timeout(left().max(GRACE));
        answered && ended
    }
}

async fn accept(
    listener: TcpListener,
    door: Door,
    state: Arc<State>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, door, Arc::clone(&state), stopped.clone());
                tokio::spawn(connection);
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(
    stream: TcpStream,
    door: Door,
    state: Arc<State>,
    stopped: watch::Receiver<bool>,
) {
    if stream.set_nodelay(true).is_err() {
        return; // it is gone already
    }
    let io = TokioIo::new(stream);
    let name = match door {
        Door::Grpc => {
            let service = service_fn(move |request| grpc::serve(Arc::clone(&state), request));
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME)
                .keep_alive_interval(PING_INTERVAL)
                .serve_connection(io, service);
            return until_stopped(connection, stopped, |connection| {
                connection.graceful_shutdown();
            })
            .await;
        }
        Door::Http => "http",
        Door::Metrics => "metrics",
    };
    let service = service_fn(move |request| answer(Arc::clone(&state), name, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(MAX_HEADERS)
        .serve_connection(io, service);
    until_stopped(connection, stopped, |connection| {
        connection.graceful_shutdown();
    })
    .await;
}

async fn answer(
    state: Arc<State>,
    door: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    let (head, body) = request.into_parts();
    let anchor = http::anchor(&head.headers);
    Ok(match body::read(body, state.max_request, anchor).await {
        Ok(body) => http::serve(&state, door, Request::from_parts(head, body)).await,
        Err(failure) => http::refusal(&failure),
    })
}

/// Serve a connection; once the server stops, let it finish what it has begun. Its error, if any, is the
/// peer's business only.
async fn until_stopped<C: Future>(
    connection: C,
    mut stopped: watch::Receiver<bool>,
    shut_down: impl FnOnce(std::pin::Pin<&mut C>),
) {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.changed() => {}
    }
    shut_down(connection.as_mut());
    connection.await;
}
