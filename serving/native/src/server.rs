//! The listeners, their connections, and how they end.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use crate::connections::{Door, Place};
use crate::state::State;
use crate::{grpc, http1};

/// After this long without a sign of life an HTTP/2 peer is asked for one.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// The parts of a probe by which the system finds out that a client is gone, where HTTP has no pings.
const PROBE_INTERVAL: Duration = Duration::from_secs(20);
const PROBES: u32 = 3;
/// What a client may send before the server has taken it: memory beside the budget of requests.
pub const STREAM_WINDOW: usize = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const FRAME: u32 = 64 << 10;
/// Calls of one connection at the same time.
const CALLS: u32 = 200;
/// How long a client may stay that is one too many.
const LINGER: Duration = Duration::from_secs(2);
/// Connections that the system may have accepted when the server stops.
const BACKLOG: usize = 1024;
/// Between attempts to accept when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the threads that answer for the control side get to come to an end.
const GRACE: Duration = Duration::from_millis(200);

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
                // Those that are accepted have it from the listener.
                sockopt::set_socket_keepalive(&listener, true)?;
                sockopt::set_tcp_keepidle(&listener, PING_INTERVAL)?;
                sockopt::set_tcp_keepintvl(&listener, PROBE_INTERVAL)?;
                sockopt::set_tcp_keepcnt(&listener, PROBES)?;
                sockopt::set_tcp_nodelay(&listener, true)?;
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

pub fn event_loop() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(32)
        .enable_all()
        .build()
}

impl IoThreads {
    fn start(count: usize, state: &Arc<State>) -> io::Result<Self> {
        let (end, ending) = watch::channel(());
        let (alive, ended) = mpsc::channel();
        let mut handles = Vec::with_capacity(count);
        for index in 0..count {
            let runtime = event_loop()?;
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
                    state.enter(&mut run);
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
    let mut next = threads.iter().cycle();
    let mut begin = |stream, stopped: &watch::Receiver<bool>| {
        if let Some(thread) = next.next() {
            let place = state.connections.enter(door);
            if !matches!(place, Place::None) {
                let state = Arc::clone(&state);
                thread.spawn(connection(stream, door, place, state, stopped.clone()));
            }
        }
    };
    loop {
        let Some(accepted) = unless_stopped(&mut stopped, listener.accept()).await else {
            break;
        };
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => begin(stream, &stopped),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    // Those who come now have to learn of it, too.
    stopped.mark_changed();
    let Ok(listener) = listener.into_std() else {
        return;
    };
    for _ in 0..BACKLOG {
        match listener.accept() {
            Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => begin(stream, &stopped),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// What comes next, if the server does not stop. That is looked at first, since there may always be a next.
async fn unless_stopped<T>(
    stopped: &mut watch::Receiver<bool>,
    next: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        _ = stopped.changed() => None,
        next = next => Some(next),
    }
}

async fn connection(
    stream: std::net::TcpStream,
    door: Door,
    place: Place,
    state: Arc<State>,
    stopped: watch::Receiver<bool>,
) {
    // An error says that it is gone already.
    let Ok(stream) = TcpStream::from_std(stream) else {
        return;
    };
    let crowd = matches!(place, Place::Crowd(_));
    match door {
        Door::Http | Door::Metrics => http1::serve(stream, door, crowd, state, stopped).await,
        Door::Grpc => {
            let socket = grpc::Socket::new(stream, state.patience);
            let calls = grpc::Calls(state.patience);
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move {
                    match crowd {
                        true => grpc::turn_away(state, request).await,
                        false => grpc::serve(state, request).await,
                    }
                }
            });
            let connection = http2::Builder::new(calls)
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW as u32)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME)
                .max_concurrent_streams(CALLS)
                .keep_alive_interval(PING_INTERVAL)
                .serve_connection(TokioIo::new(socket), service);
            let served = until_stopped(connection, stopped, |connection| {
                connection.graceful_shutdown();
            });
            match crowd {
                true => drop(tokio::time::timeout(LINGER, served).await),
                false => served.await,
            }
        }
    }
    drop(place);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_always_has_one_more_does_not_keep_the_server_from_stopping() {
        let (stop, mut stopped) = watch::channel(false);
        let next = || std::future::ready(7);
        assert_eq!(unless_stopped(&mut stopped, next()).await, Some(7));
        stop.send_replace(true);
        assert_eq!(unless_stopped(&mut stopped, next()).await, None);
    }
}
