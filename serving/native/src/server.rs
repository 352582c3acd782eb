//! The listeners, their connections, and how they end.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::state::State;
use crate::{grpc, http1};

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
    threads: Mutex<Option<IoThreads>>,
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
        let state = Arc::new(state);
        let threads = IoThreads::start(threads, &state)?;
        let (stop, stopped) = watch::channel(false);
        let listen = |door, port| {
            threads.handles[0].block_on(async {
                let listener = TcpListener::bind((host, port)).await.map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("cannot listen on {host}:{port}: {error}"),
                    )
                })?;
                let port = listener.local_addr()?.port();
                let handles = threads.handles.clone();
                let accept = accept(listener, door, Arc::clone(&state), handles, stopped.clone());
                tokio::spawn(accept);
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
            threads: Mutex::new(Some(threads)),
            stop,
        })
    }

    /// Stop accepting, finish what was accepted, and end every thread. Whether that was done in time; if
    /// not, some of them still run.
    pub fn drain(&self, timeout: Duration) -> bool {
        let threads = self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(threads) = threads else { return true };
        let deadline = Instant::now() + timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.state.begin_drain();
        self.stop.send_replace(true);
        let answered = threads.handles[0]
            .block_on(async { tokio::time::timeout(timeout, self.stop.closed()).await })
            .is_ok();
        let models = self.state.models();
        for model in &models {
            model.close();
        }
        let ended = models.iter().all(|model| model.wait(left()));
        let stopped = threads.stop(left().max(2 * GRACE));
        answered && ended && stopped
    }
}

/// Threads that each have an event loop of their own, and the connections that were given to it: what a
/// connection does needs no other thread.
struct IoThreads {
    handles: Vec<Handle>,
    /// Dropped to end them.
    end: watch::Sender<()>,
    /// Nothing is sent: it is disconnected once all have ended.
    ended: mpsc::Receiver<()>,
}

impl IoThreads {
    fn start(count: usize, state: &Arc<State>) -> io::Result<Self> {
        let (end, ending) = watch::channel(());
        let (alive, ended) = mpsc::channel();
        let mut handles = Vec::with_capacity(count);
        for index in 0..count {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .max_blocking_threads(32)
                .enable_all()
                .build()?;
            handles.push(runtime.handle().clone());
            let mut ending = ending.clone();
            let alive = alive.clone();
            let state = Arc::clone(state);
            let mut runtime = Some(runtime);
            let mut run = move || {
                let Some(runtime) = runtime.take() else {
                    return;
                };
                // It ends with its sender.
                while runtime.block_on(ending.changed()).is_ok() {}
                runtime.shutdown_timeout(GRACE);
            };
            std::thread::Builder::new()
                .name(format!("capstan-io-{index}"))
                .spawn(move || {
                    let _alive = alive;
                    state.control.enter(&mut run);
                })?;
        }
        Ok(Self {
            handles,
            end,
            ended,
        })
    }

    /// Whether all have ended in time.
    fn stop(self, timeout: Duration) -> bool {
        drop(self.end);
        self.ended.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Disconnected)
    }
}

/// Give each connection to one of the threads, in turn. What the system has accepted before the server
/// stopped is served.
async fn accept(
    listener: TcpListener,
    door: Door,
    state: Arc<State>,
    threads: Vec<Handle>,
    mut stopped: watch::Receiver<bool>,
) {
    for thread in threads.iter().cycle() {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                let connection = connection(stream, door, Arc::clone(&state), stopped.clone());
                thread.spawn(connection);
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(
    stream: std::net::TcpStream,
    door: Door,
    state: Arc<State>,
    stopped: watch::Receiver<bool>,
) {
    // Errors say that it is gone already.
    let Ok(stream) = TcpStream::from_std(stream) else {
        return;
    };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match door {
        Door::Http => http1::serve(stream, "http", state, stopped).await,
        Door::Metrics => http1::serve(stream, "metrics", state, stopped).await,
        Door::Grpc => {
            let service = service_fn(move |request| grpc::serve(Arc::clone(&state), request));
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME)
                .keep_alive_interval(PING_INTERVAL)
                .serve_connection(TokioIo::new(stream), service);
            until_stopped(connection, stopped, |connection| {
                connection.graceful_shutdown();
            })
            .await;
        }
    }
}

/// Serve an HTTP/2 connection; once the server stops, let it finish what it has begun. Its error, if any, is
/// the peer's business only.
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
