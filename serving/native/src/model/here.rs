//! Executing on the thread that has read the requests.
//!
//! What one turn of an event loop has read is queued, and at the end of the turn the same thread takes it, as
//! one batch. An idle server answers at once, a busy one in batches that grow with the load; nothing waits and
//! nothing polls. Only short executions are done here: longer ones would keep the connections waiting. They may
//! be longer while one request at a time comes in, as then there is nobody to keep waiting.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::Id;

use super::{Model, Shared};

/// An execution that is expected to take no longer is not worth another thread: handing it over and getting
/// the answer back costs tens of microseconds, and the processor's caches.
const SHORT: Duration = Duration::from_micros(200);

/// The same for a request that is alone. Whoever comes meanwhile, after all, waits that long.
const SHORT_ENOUGH_ALONE: Duration = Duration::from_millis(2);

/// After so many requests that were alone, the next is taken to be.
const ALONE: u32 = 16;

thread_local! {
    /// The models that have work for the end of this turn.
    static WORK: RefCell<Vec<Arc<Model>>> = const { RefCell::new(Vec::new()) };
    static COMPANY: Company = const { Company::new() };
}

/// Whether the requests of this thread come one at a time.
struct Company {
    unanswered: Cell<usize>,
    alone: Cell<u32>,
    /// Who asked last: a connection of HTTP/1.1, or a request of HTTP/2.
    last: Cell<Option<Id>>,
    /// An execution that was not short has kept waiting whoever else comes now.
    late: Cell<bool>,
}

impl Company {
    const fn new() -> Self {
        Self {
            unanswered: Cell::new(0),
            alone: Cell::new(0),
            last: Cell::new(None),
            late: Cell::new(false),
        }
    }
}

/// A request that this thread has yet to answer.
pub(super) struct Unanswered(());

impl Unanswered {
    pub(super) fn new() -> Self {
        COMPANY.with(|company| {
            let id = tokio::task::try_id();
            let same = company.last.replace(id) == id;
            let alone = company.unanswered.get() == 0 && (same || !company.late.get());
            company.unanswered.update(|count| count + 1);
            company.alone.update(|count| match alone {
                true => count.saturating_add(1),
                false => 0,
            });
        });
        Self(())
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let _ = COMPANY.try_with(|company| company.unanswered.update(|count| count - 1));
    }
}

/// What an execution may take to be done here.
fn limit() -> Duration {
    match COMPANY.with(|company| company.alone.get()) > ALONE {
        true => SHORT_ENOUGH_ALONE,
        false => SHORT,
    }
}

/// The most rows and bytes of executions that took no longer than a limit: what is larger, a worker has to try
/// first. The pace knows nothing of bytes, and of more rows than it has seen only what it guesses.
#[derive(Default)]
pub(super) struct Tried {
    short: Size,
    short_enough_alone: Size,
}

#[derive(Clone, Copy, Default)]
struct Size {
    rows: usize,
    bytes: usize,
}

impl Tried {
    pub(super) fn learn(&mut self, rows: usize, bytes: usize, took: Duration) {
        for (limit, size) in [
            (SHORT, &mut self.short),
            (SHORT_ENOUGH_ALONE, &mut self.short_enough_alone),
        ] {
            if took <= limit {
                size.rows = size.rows.max(rows);
                size.bytes = size.bytes.max(bytes);
            }
        }
    }

    fn within(&self, limit: Duration) -> Size {
        match limit {
            SHORT => self.short,
            _ => self.short_enough_alone,
        }
    }
}

/// Whether to execute what waits costs less than to hand it to another thread.
pub(super) fn is_short(shared: &Shared) -> bool {
    let (rows, bytes, at_most) = shared.queue.next_batch();
    let limit = limit();
    let tried = shared.tried.within(limit);
    rows <= tried.rows && bytes <= tried.bytes && at_most <= limit
}

/// Let a model execute at the end of this turn; false when this thread has no event loop.
pub(super) fn schedule(model: &Arc<Model>) -> bool {
    let Ok(handle) = tokio::runtime::Handle::try_current() else {
        return false;
    };
    WORK.with_borrow_mut(|work| {
        if work.iter().any(|other| Arc::ptr_eq(other, model)) {
            return;
        }
        work.push(Arc::clone(model));
        if work.len() == 1 {
            handle.spawn(end());
        }
    });
    true
}

/// Whatever ends the turn, nothing stays behind that would keep the next from being scheduled.
struct Turn;

impl Drop for Turn {
    fn drop(&mut self) {
        let left = WORK.try_with(RefCell::take).unwrap_or_default();
        left.iter().for_each(|model| model.work.notify_one());
    }
}

/// Yielding lets the loop look once for what else has arrived; those who wait for that run first.
async fn end() {
    let _turn = Turn;
    let mut round = 0;
    loop {
        tokio::task::yield_now().await;
        COMPANY.with(|company| company.late.set(false)); // who came meanwhile is in
        let next = WORK.with_borrow(|work| work.get(round % work.len().max(1)).cloned());
        let Some(model) = next else { return };
        if model.execute_here() {
            round += 1;
        } else {
            WORK.with_borrow_mut(|work| work.retain(|other| !Arc::ptr_eq(other, &model)));
        }
    }
}

impl Model {
    /// Execute on this thread what waits, if that is short and an execution may begin. Whether there is more.
    fn execute_here(&self) -> bool {
        let mut shared = self.lock();
        if shared.queue.is_empty() || shared.free == 0 {
            return false; // whoever executes now looks again when it is done
        }
        if !is_short(&shared) {
            self.work.notify_one();
            return false;
        }
        let now = Instant::now();
        let taken = self.form(&mut shared, now);
        drop(shared);
        match taken {
            Ok(batch) => {
                self.run(batch);
                COMPANY.with(|company| company.late.set(now.elapsed() > SHORT));
                !self.lock().queue.is_empty()
            }
            Err(_) => {
                self.work.notify_one(); // a worker waits for what is to come
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    use bytes::Bytes;

    use super::*;
    use crate::cache::Cache;
    use crate::counters::Phases;
    use crate::datatype::Datatype;
    use crate::error::Result;
    use crate::model::Backend;
    use crate::request::{InferRequest, Wanted};
    use crate::scheduling::Scheduling;
    use crate::signature::{Signature, TensorSpec};
    use crate::tensor::Tensor;

    thread_local! {
        /// Rung by an execution on this thread.
        static BELL: Cell<Option<std::os::unix::net::UnixStream>> = const { Cell::new(None) };
    }

    /// Tells where it was executed, and how many rows.
    struct Witness {
        seen: Arc<Mutex<Vec<(ThreadId, i64)>>>,
        pause: Arc<Mutex<Duration>>,
    }

    impl Backend for Witness {
        fn execute(&self, inputs: Vec<Tensor>, _: &[usize]) -> Result<(Vec<Tensor>, Phases)> {
            let seen = (thread::current().id(), inputs[0].shape[0]);
            self.seen.lock().unwrap().push(seen);
            if let Some(mut bell) = BELL.take() {
                bell.write_all(b"!").unwrap();
            }
            thread::sleep(*self.pause.lock().unwrap());
            Ok((inputs, Phases::default()))
        }
    }

    type Seen = Arc<Mutex<Vec<(ThreadId, i64)>>>;

    fn witnessed(max_batch: Option<usize>) -> (Arc<Model>, Seen, Arc<Mutex<Duration>>) {
        let (seen, pause) = (Arc::default(), Arc::new(Mutex::new(Duration::ZERO)));
        let backend = Witness {
            seen: Arc::clone(&seen),
            pause: Arc::clone(&pause),
        };
        let spec = TensorSpec {
            name: "x".into(),
            datatype: Datatype::Uint8,
            shape: vec![-1, -1],
            text: false,
        };
        let signature = Signature {
            inputs: vec![spec.clone()],
            outputs: vec![spec],
            max_batch,
            limited: false,
            labels: vec![],
        };
        let model = Model::start(
            "m".into(),
            "1".into(),
            signature,
            Box::new(backend),
            1,
            Scheduling::plain(max_batch, 100),
            &Arc::new(Cache::new(0)),
        )
        .unwrap();
        (model, seen, pause)
    }

    fn event_loop() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn what_is_larger_than_anything_tried_is_a_workers() {
        let here = thread::current().id();
        for max_batch in [Some(64), None] {
            let (model, seen, pause) = witnessed(max_batch);
            let runtime = event_loop();
            let infer = |rows| {
                let outcome = runtime.block_on(model.infer(&mut request(rows)));
                assert_eq!(outcome.unwrap()[0].shape, [rows, 1]);
                seen.lock().unwrap().drain(..).next().unwrap().0
            };
            while infer(1) != here {}
            *pause.lock().unwrap() = Duration::from_millis(5);
            assert!(infer(64) != here);
            *pause.lock().unwrap() = Duration::ZERO;
            while infer(1) != here {}
            while infer(64) != here {}
            model.close();
        }
    }

    #[test]
    fn what_is_alone_may_be_longer() {
        let here = thread::current().id();
        let (model, seen, pause) = witnessed(None);
        *pause.lock().unwrap() = SHORT + SHORT / 2;
        let runtime = event_loop();
        let infer = || async {
            model.infer(&mut request(1)).await.unwrap();
            seen.lock().unwrap().pop().unwrap().0
        };
        let until_here = || while runtime.block_on(infer()) != here {};
        until_here();
        // Two at a time are company, and so is who has come while one was executed.
        runtime.block_on(async { tokio::join!(infer(), infer()) });
        assert!(runtime.block_on(infer()) != here);
        until_here();
        let beside = Arc::clone(&model);
        let came = runtime.block_on(async {
            let (heard, bell) = tokio::net::UnixStream::pair().unwrap();
            let came = tokio::spawn(async move {
                heard.readable().await.unwrap();
                beside.infer(&mut request(1)).await
            });
            BELL.set(Some(bell.into_std().unwrap()));
            while infer().await != here {}
            came.await
        });
        assert!(came.unwrap().is_ok());
        assert!(runtime.block_on(infer()) != here);
        model.close();
    }

    #[test]
    fn a_turn_that_breaks_off_keeps_nobody_waiting() {
        let (model, seen, _) = witnessed(Some(64));
        event_loop().block_on(async {
            while model.infer(&mut request(1)).await.is_ok()
                && seen.lock().unwrap().pop().unwrap().0 != thread::current().id()
            {}
        });
        event_loop().block_on(async {
            WORK.with_borrow_mut(|work| work.push(Arc::clone(&model)));
            let turn = tokio::spawn(async {
                let _turn = Turn;
                panic!("in the middle of a turn");
            });
            let mut late = request(1);
            let answer = model.infer(&mut late);
            let answer = tokio::time::timeout(Duration::from_secs(10), answer);
            let (turn, answer) = tokio::join!(turn, answer);
            assert!(turn.is_err() && answer.unwrap().is_ok());
        });
        assert!(WORK.with_borrow(Vec::is_empty));
        model.close();
    }

    #[test]
    fn what_is_short_is_executed_where_it_was_read_and_what_is_not_elsewhere() {
        let (model, seen, pause) = witnessed(Some(64));
        let runtime = event_loop();
        let infer = |count: usize| {
            runtime.block_on(async {
                let requests: Vec<_> = (0..count)
                    .map(|_| {
                        let model = Arc::clone(&model);
                        tokio::spawn(async move { model.infer(&mut request(1)).await })
                    })
                    .collect();
                for request in requests {
                    assert_eq!(request.await.unwrap().unwrap()[0].shape, [1, 1]);
                }
            });
            std::mem::take(&mut *seen.lock().unwrap())
        };
        let here = thread::current().id();
        // Nothing is known of it yet.
        assert!(infer(1)[0].0 != here);
        // Once it is known to be short: here, and all of a turn together.
        while infer(1)[0].0 != here {}
        while infer(5) != [(here, 5)] {}
        // What turns out to be long is not done here again.
        *pause.lock().unwrap() = Duration::from_millis(50);
        infer(1);
        assert!(infer(1)[0].0 != here);
        model.close();
        assert!(model.wait(Duration::from_secs(10)));
    }

    fn request(rows: i64) -> InferRequest {
        InferRequest {
            inputs: vec![Tensor {
                shape: vec![rows, 1],
                data: Bytes::from(vec![b'x'; rows as usize]),
            }],
            outputs: vec![Wanted::default()],
            ..InferRequest::default()
        }
    }
}
