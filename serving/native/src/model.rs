//! A loaded model: its queue, and the threads that take batches off it and execute them.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::cache::Cache;
use crate::counters::{Counters, Phases, Reason};
use crate::error::{Failure, Result};
use crate::order::InOrder;
use crate::queue::{self, Queue, Refused, Ticket, Waiting};
use crate::request::InferRequest;
use crate::scheduling::Scheduling;
use crate::signature::Signature;
use crate::tensor::Tensor;
use crate::trace::Mark;

/// What executes a batch. `inputs` are in the signature's order; `outputs` are places in it.
pub trait Backend: Send + Sync {
    /// Do the work of a thread that executes again and again. What has to be prepared for that can be.
    fn enter(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }

    fn execute(&self, inputs: Vec<Tensor>, outputs: &[usize]) -> Result<(Vec<Tensor>, Phases)>;
}

/// One version of a model, ready to infer.
pub struct Model {
    pub name: String,
    pub version: String,
    pub signature: Signature,
    pub counters: Counters,
    backend: Box<dyn Backend>,
    queue: Mutex<Shared>,
    work: Condvar,
    objective: Option<Duration>,
    /// Answers that are not yet sent because earlier ones are missing, for a model that preserves their order.
    order: Option<Mutex<InOrder<Answer>>>,
    /// The cache, and this model's name in it.
    cache: Option<(Arc<Cache>, u64)>,
    /// Nothing is sent: it is disconnected once every worker has ended.
    workers: Mutex<mpsc::Receiver<()>>,
}

struct Shared {
    queue: Queue<Job>,
    tried: here::Tried,
    /// Executions that may begin now, on whatever thread.
    free: usize,
    /// Workers that wait for work: nobody is woken while there are none.
    idle: usize,
    /// Requests that were taken off the queue to be executed.
    taken: u64,
}

/// What a request gets, or why not.
type Outcome = std::result::Result<Vec<Tensor>, (Reason, Failure)>;
type Answer = (oneshot::Sender<Outcome>, Outcome);

/// Requests to be executed together.
struct Batch {
    requests: Vec<Waiting<Job>>,
    /// The place of the first among all that were taken.
    first: u64,
    taken: Instant,
}

struct Job {
    inputs: Vec<Tensor>,
    outputs: Vec<usize>,
    rows: usize,
    bytes: usize,
    reply: oneshot::Sender<Outcome>,
    trace: Option<Arc<Mark>>,
}

impl queue::Job for Job {
    fn rows(&self) -> usize {
        self.rows
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn fits(&self, other: &Self) -> bool {
        let mut pairs = self.inputs.iter().zip(&other.inputs);
        pairs.all(|(one, other)| one.shape[1..] == other.shape[1..])
    }

    fn gone(&self) -> bool {
        self.reply.is_closed()
    }
}

impl Model {
    /// Start a model's workers. They end when the model is closed.
    pub fn start(
        name: String,
        version: String,
        signature: Signature,
        backend: Box<dyn Backend>,
        workers: usize,
        scheduling: Scheduling,
        cache: &Arc<Cache>,
    ) -> std::io::Result<Arc<Self>> {
        let (alive, ended) = mpsc::channel();
        let model = Arc::new(Self {
            name,
            version,
            signature,
            counters: Counters::default(),
            backend,
            objective: scheduling.objective,
            order: scheduling.preserve_ordering.then(Mutex::default),
            cache: scheduling
                .response_cache
                .then(|| (Arc::clone(cache), cache.register())),
            queue: Mutex::new(Shared {
                queue: Queue::new(scheduling, workers),
                tried: here::Tried::default(),
                free: workers,
                idle: 0,
                taken: 0,
            }),
            work: Condvar::new(),
            workers: Mutex::new(ended),
        });
        for index in 0..workers {
            let worker = Arc::clone(&model);
            let alive = alive.clone();
            std::thread::Builder::new()
                .name(format!("infer-{index}-{}", model.name.escape_default()))
                .spawn(move || {
                    let _alive = alive;
                    worker.backend.enter(&mut || {
                        while let Some(batch) = worker.take() {
                            worker.run(batch);
                        }
                    });
                })?;
        }
        Ok(model)
    }

    /// Let the workers finish what is queued, and end.
    pub fn close(&self) {
        self.lock().queue.close();
        self.work.notify_all();
        if let Some((cache, owner)) = &self.cache {
            cache.forget(*owner);
        }
    }

    /// Wait for the workers of a closed model to end. Whether they did in time.
    pub fn wait(&self, timeout: Duration) -> bool {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Disconnected)
    }

    /// Requests that wait for a worker.
    pub fn pending(&self) -> usize {
        self.lock().queue.len()
    }

    /// Infer: the outputs in the order the request wants them. Dropping the future gives up the place in
    /// the queue.
    pub async fn infer(self: &Arc<Self>, request: &mut InferRequest) -> Result<Vec<Tensor>> {
        let start = Instant::now();
        self.check_rows(request).inspect_err(|_| self.refuse())?;
        let Some((cache, owner)) = &self.cache else {
            return self.execute_soon(request, start).await;
        };
        let outputs: Vec<usize> = request.outputs.iter().map(|wanted| wanted.output).collect();
        let key = cache.key(*owner, &request.inputs, &outputs);
        let found = cache.get(&key);
        let looking = start.elapsed();
        if let Some(outputs) = found {
            self.counters.cache_hit.add(1, looking);
            self.counters.succeeded(looking);
            request.trace.iter().for_each(|trace| trace.cached());
            return Ok(outputs);
        }
        let outputs = self.execute_soon(request, start).await?;
        let computed = Instant::now();
        cache.put(key, &outputs);
        self.counters
            .cache_miss
            .add(1, looking + computed.elapsed());
        Ok(outputs)
    }

    async fn execute_soon(
        self: &Arc<Self>,
        request: &mut InferRequest,
        start: Instant,
    ) -> Result<Vec<Tensor>> {
        let _unanswered = here::Unanswered::new();
        let (place, mut answer) = self.push(request, start).inspect_err(|_| {
            self.counters.fail(Reason::Rejected, start.elapsed());
        })?;
        let answered = match place.ticket.expires {
            None => answer.await,
            Some(expires) => match tokio::time::timeout_at(expires.into(), &mut answer).await {
                Ok(answered) => answered,
                Err(_) => {
                    self.expire();
                    answer.await
                }
            },
        };
        std::mem::forget(place);
        let abandoned = || Failure::internal("the inference was abandoned");
        match answered.unwrap_or_else(|_| Err((Reason::Other, abandoned()))) {
            Ok(outputs) => {
                self.counters.succeeded(start.elapsed());
                Ok(outputs)
            }
            Err((reason, failure)) => {
                self.counters.fail(reason, start.elapsed());
                Err(failure)
            }
        }
    }

    fn push(
        self: &Arc<Self>,
        request: &mut InferRequest,
        now: Instant,
    ) -> Result<(Place<'_>, oneshot::Receiver<Outcome>)> {
        let (reply, answer) = oneshot::channel();
        let inputs = std::mem::take(&mut request.inputs);
        let job = Job {
            rows: self.rows(&inputs),
            bytes: inputs.iter().map(|input| input.data.len()).sum(),
            inputs,
            outputs: request.outputs.iter().map(|wanted| wanted.output).collect(),
            reply,
            trace: request.trace.take(),
        };
        let mut shared = self.lock();
        if shared.queue.closed() {
            return Err(Failure::unavailable(format!(
                "model '{}' is being unloaded",
                self.name
            )));
        }
        let pushed = shared
            .queue
            .push(job, request.priority, request.timeout, now);
        let wake = shared.idle > 0;
        let short = here::is_short(&shared);
        drop(shared);
        let ticket = pushed.map_err(|refused| self.refusal(refused))?;
        let here = short && here::schedule(self);
        if wake && !here {
            self.work.notify_one();
        }
        let place = Place {
            model: self,
            ticket,
            since: now,
        };
        Ok((place, answer))
    }

    fn rows(&self, inputs: &[Tensor]) -> usize {
        match self.signature.max_batch {
            Some(_) => inputs[0].shape[0] as usize,
            None => 1,
        }
    }

    fn check_rows(&self, request: &InferRequest) -> Result<()> {
        match self.signature.max_batch.filter(|_| self.signature.limited) {
            Some(most) if self.rows(&request.inputs) > most => Err(Failure::invalid(format!(
                "inference request batch-size must be <= {most} for '{}'",
                self.name
            ))),
            _ => Ok(()),
        }
    }

    fn refusal(&self, refused: Refused) -> Failure {
        Failure::unavailable(match refused {
            Refused::Full => format!("Exceeds maximum queue size of model '{}'", self.name),
            Refused::TooLate => format!(
                "model '{}' has too much to do to answer within its latency objective of {:?}; try again later",
                self.name,
                self.objective.unwrap_or_default()
            ),
        })
    }

    /// Wait for work; `None` when there will be no more.
    fn take(&self) -> Option<Batch> {
        let mut shared = self.lock();
        loop {
            let now = Instant::now();
            let mut again = None;
            if shared.free > 0 {
                match self.form(&mut shared, now) {
                    Ok(batch) => {
                        if !shared.queue.is_empty() && shared.idle > 0 {
                            self.work.notify_one();
                        }
                        return Some(batch);
                    }
                    Err(later) => again = later,
                }
            }
            if shared.queue.closed() && shared.queue.is_empty() {
                return None;
            }
            shared.idle += 1;
            shared = match again {
                None => self
                    .work
                    .wait(shared)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(again) => {
                    let pause = again.saturating_duration_since(now);
                    let woken = self.work.wait_timeout(shared, pause);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            shared.idle -= 1;
        }
    }

    /// The next batch, which may then be executed; if there is none, when to ask again.
    fn form(
        &self,
        shared: &mut Shared,
        now: Instant,
    ) -> std::result::Result<Batch, Option<Instant>> {
        let turn = shared.queue.take(now);
        turn.expired.into_iter().for_each(expired);
        if turn.batch.is_empty() {
            return Err(turn.again);
        }
        for waiting in &turn.batch {
            self.counters.waited(now - waiting.queued);
        }
        let first = shared.taken;
        shared.taken += turn.batch.len() as u64;
        shared.free -= 1;
        Ok(Batch {
            requests: turn.batch,
            first,
            taken: now,
        })
    }

    /// Refuse what waited too long while every worker was busy.
    fn expire(&self) {
        let late = self.lock().queue.expire(Instant::now());
        late.into_iter().for_each(expired);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Count a request that never reached the queue.
    pub fn refuse(&self) {
        self.counters.other_failed.fetch_add(1, Relaxed);
    }
}

fn expired(waiting: Waiting<Job>) {
    let failure = Failure::unavailable("Request timeout expired");
    let _ = waiting.job.reply.send(Err((Reason::Rejected, failure)));
}

/// A request's place in the queue, given up when the caller goes away.
struct Place<'a> {
    model: &'a Model,
    ticket: Ticket,
    since: Instant,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let removed = self.model.lock().queue.remove(self.ticket);
        drop(removed);
        let counters = &self.model.counters;
        counters.fail(Reason::Cancelled, self.since.elapsed());
    }
}

mod batch;
mod here;
#[cfg(test)]
mod tests;
