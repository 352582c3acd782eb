//! A loaded model: its queue, and the threads that take batches off it and execute them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::counters::{Counters, Phases};
use crate::error::{Failure, Result};
use crate::queue::{self, Queue, Ticket, Waiting};
use crate::request::InferRequest;
use crate::scheduling::Scheduling;
use crate::signature::Signature;
use crate::tensor::{Tensor, concatenate, split};

/// What executes a batch. `inputs` are in the signature's order; `outputs` are places in it.
pub trait Backend: Send + Sync {
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
    /// Nothing is sent: it is disconnected once every worker has ended.
    workers: Mutex<mpsc::Receiver<()>>,
}

struct Shared {
    queue: Queue<Job>,
    /// Workers that wait for work: nobody is woken while there are none.
    idle: usize,
}

struct Job {
    inputs: Vec<Tensor>,
    outputs: Vec<usize>,
    rows: usize,
    bytes: usize,
    reply: oneshot::Sender<Result<Vec<Tensor>>>,
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
    ) -> std::io::Result<Arc<Self>> {
        let (alive, ended) = mpsc::channel();
        let model = Arc::new(Self {
            name,
            version,
            signature,
            counters: Counters::default(),
            backend,
            queue: Mutex::new(Shared {
                queue: Queue::new(scheduling),
                idle: 0,
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
                    while let Some(batch) = worker.take() {
                        worker.run(batch);
                    }
                })?;
        }
        Ok(model)
    }

    /// Let the workers finish what is queued, and end.
    pub fn close(&self) {
        self.lock().queue.close();
        self.work.notify_all();
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
    pub async fn infer(&self, request: &mut InferRequest) -> Result<Vec<Tensor>> {
        let start = Instant::now();
        let (ticket, mut answer) = match self.push(request, start) {
            Ok(pushed) => pushed,
            Err(failure) => {
                self.counters.fail(&self.counters.rejected, start.elapsed());
                return Err(failure);
            }
        };
        let place = Place {
            model: self,
            ticket,
        };
        let answered = match ticket.expires {
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
        let outcome =
            answered.unwrap_or_else(|_| Err(Failure::internal("the inference was abandoned")));
        if outcome.is_ok() {
            self.counters.succeeded(start.elapsed());
        }
        outcome
    }

    fn push(
        &self,
        request: &mut InferRequest,
        now: Instant,
    ) -> Result<(Ticket, oneshot::Receiver<Result<Vec<Tensor>>>)> {
        let (reply, answer) = oneshot::channel();
        let inputs = std::mem::take(&mut request.inputs);
        let job = Job {
            rows: match self.signature.max_batch {
                Some(_) => inputs[0].shape[0] as usize,
                None => 1,
            },
            bytes: inputs.iter().map(|input| input.data.len()).sum(),
            inputs,
            outputs: request.outputs.iter().map(|wanted| wanted.output).collect(),
            reply,
        };
        let mut shared = self.lock();
        if shared.queue.closed() {
            return Err(Failure::unavailable(format!(
                "model '{}' is being unloaded",
                self.name
            )));
        }
        let pushed = shared.queue.push(job, 0, request.timeout, now);
        let wake = shared.idle > 0;
        drop(shared);
        let ticket = pushed.map_err(|_| {
            Failure::unavailable(format!(
                "Exceeds maximum queue size of model '{}'",
                self.name
            ))
        })?;
        if wake {
            self.work.notify_one();
        }
        Ok((ticket, answer))
    }

    /// Wait for work; `None` when there will be no more.
    fn take(&self) -> Option<Vec<Waiting<Job>>> {
        let mut shared = self.lock();
        loop {
            let now = Instant::now();
            let turn = shared.queue.take(now);
            for waiting in turn.gone {
                self.forget(&waiting, now);
            }
            for waiting in turn.expired {
                self.refuse_late(waiting, now);
            }
            if !turn.batch.is_empty() {
                if turn.more && shared.idle > 0 {
                    self.work.notify_one();
                }
                drop(shared);
                for waiting in &turn.batch {
                    self.counters.queue.add(1, now - waiting.queued);
                }
                return Some(turn.batch);
            }
            if shared.queue.closed() && shared.queue.is_empty() {
                return None;
            }
            shared.idle += 1;
            shared = match turn.again {
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

    /// Refuse what waited too long while every worker was busy.
    fn expire(&self) {
        let now = Instant::now();
        let expired = self.lock().queue.expire(now);
        for waiting in expired {
            self.refuse_late(waiting, now);
        }
    }

    fn refuse_late(&self, waiting: Waiting<Job>, now: Instant) {
        self.counters
            .fail(&self.counters.rejected, now - waiting.queued);
        let failure = Failure::unavailable("Request timeout expired");
        let _ = waiting.job.reply.send(Err(failure));
    }

    fn forget(&self, waiting: &Waiting<Job>, now: Instant) {
        self.counters
            .fail(&self.counters.cancelled, now - waiting.queued);
    }

    fn run(&self, batch: Vec<Waiting<Job>>) {
        if batch.len() == 1 {
            return batch.into_iter().for_each(|job| self.run_alone(job));
        }
        match self.run_together(&batch) {
            Some(answers) => {
                for (waiting, answer) in batch.into_iter().zip(answers) {
                    let _ = waiting.job.reply.send(Ok(answer));
                }
            }
            // One bad request must not fail the others: find out whose fault it was.
            None => batch.into_iter().for_each(|job| self.run_alone(job)),
        }
    }

    fn run_alone(&self, waiting: Waiting<Job>) {
        let Waiting { job, queued, .. } = waiting;
        let rows = job.rows as u64;
        let outcome = match self.execute(job.inputs, &job.outputs) {
            Ok((outputs, phases)) => {
                self.counters.executed(1, rows, phases);
                Ok(outputs)
            }
            Err(failure) => {
                self.counters
                    .fail(&self.counters.backend_failed, queued.elapsed());
                Err(failure)
            }
        };
        let _ = job.reply.send(outcome);
    }

    /// Execute as one batch; `None` when that failed or its outputs cannot be told apart.
    fn run_together(&self, batch: &[Waiting<Job>]) -> Option<Vec<Vec<Tensor>>> {
        let start = Instant::now();
        let inputs = (0..self.signature.inputs.len())
            .map(|index| {
                let parts: Vec<&Tensor> = batch
                    .iter()
                    .map(|waiting| &waiting.job.inputs[index])
                    .collect();
                concatenate(&parts)
            })
            .collect();
        let mut outputs: Vec<usize> = batch
            .iter()
            .flat_map(|waiting| waiting.job.outputs.clone())
            .collect();
        outputs.sort_unstable();
        outputs.dedup();
        let joining = start.elapsed();
        let (tensors, mut phases) = self.execute(inputs, &outputs).ok()?;

        let rows: Vec<i64> = batch
            .iter()
            .map(|waiting| waiting.job.rows as i64)
            .collect();
        let mut parts = Vec::with_capacity(outputs.len());
        for (&output, tensor) in outputs.iter().zip(&tensors) {
            let datatype = self.signature.outputs[output].datatype;
            parts.push(split(tensor, datatype, &rows)?);
        }
        let answers = batch
            .iter()
            .enumerate()
            .map(|(index, waiting)| {
                let part = |output: &usize| {
                    let place = outputs.binary_search(output).ok()?;
                    Some(parts[place][index].clone())
                };
                waiting.job.outputs.iter().map(part).collect()
            })
            .collect::<Option<_>>()?;
        phases.input += joining;
        let total: i64 = rows.iter().sum();
        self.counters
            .executed(batch.len() as u64, total as u64, phases);
        Some(answers)
    }

    fn execute(&self, inputs: Vec<Tensor>, outputs: &[usize]) -> Result<(Vec<Tensor>, Phases)> {
        catch_unwind(AssertUnwindSafe(|| self.backend.execute(inputs, outputs))).unwrap_or_else(
            |_| {
                Err(Failure::internal(format!(
                    "the backend of model '{}' panicked",
                    self.name
                )))
            },
        )
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Count a request that never reached the queue.
    pub fn refuse(&self) {
        self.counters.other_failed.fetch_add(1, Relaxed);
    }
}

/// A request's place in the queue, given up when the caller goes away.
struct Place<'a> {
    model: &'a Model,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let removed = self.model.lock().queue.remove(self.ticket);
        if let Some(waiting) = removed {
            self.model.forget(&waiting, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datatype::Datatype;
    use crate::queue::MERGE_UP_TO;
    use crate::request::Wanted;
    use crate::signature::TensorSpec;
    use bytes::Bytes;

    /// Echoes its input, once it is let; refuses a batch that holds the byte 13.
    struct Echo {
        started: mpsc::Sender<Vec<i64>>,
        go: Mutex<mpsc::Receiver<()>>,
    }

    impl Backend for Echo {
        fn execute(&self, inputs: Vec<Tensor>, _: &[usize]) -> Result<(Vec<Tensor>, Phases)> {
            self.started.send(inputs[0].shape.clone()).unwrap();
            let go = self.go.lock().unwrap();
            go.recv_timeout(Duration::from_secs(10)).unwrap();
            drop(go);
            if inputs[0].data.contains(&13) {
                return Err(Failure::invalid("13"));
            }
            if inputs[0].data.contains(&99) {
                panic!("99");
            }
            Ok((inputs, Phases::default()))
        }
    }

    fn request(value: u8, rows: i64, width: i64) -> InferRequest {
        InferRequest {
            inputs: vec![Tensor {
                shape: vec![rows, width],
                data: Bytes::from(vec![value; (rows * width) as usize]),
            }],
            outputs: vec![Wanted::default()],
            ..InferRequest::default()
        }
    }

    fn model(capacity: usize) -> (Arc<Model>, mpsc::Receiver<Vec<i64>>, mpsc::Sender<()>) {
        let (started, starts) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let spec = TensorSpec {
            name: "x".into(),
            datatype: Datatype::Uint8,
            shape: vec![-1, -1],
            text: false,
        };
        let signature = Signature {
            inputs: vec![spec.clone()],
            outputs: vec![spec],
            max_batch: Some(4),
            labels: vec![],
        };
        let backend = Box::new(Echo {
            started,
            go: Mutex::new(gone),
        });
        let scheduling = Scheduling::plain(signature.max_batch, capacity);
        let model =
            Model::start("m".into(), "1".into(), signature, backend, 1, scheduling).unwrap();
        (model, starts, go)
    }

    #[test]
    fn what_waits_is_batched_by_shape_and_limit() {
        let (model, starts, go) = model(100);
        let push = |value, rows, width| {
            model
                .push(&mut request(value, rows, width), Instant::now())
                .unwrap()
                .1
        };
        let first = push(1, 1, 2);
        assert_eq!(starts.recv().unwrap(), [1, 2]); // the worker is busy from here on
        let waiting = [
            push(2, 2, 2),
            push(3, 1, 3),
            push(4, 3, 2),
            push(5, 1, 2),
            push(6, 1, 2),
        ];
        for _ in 0..5 {
            go.send(()).unwrap();
        }
        assert_eq!(
            first.blocking_recv().unwrap().unwrap()[0].data,
            [1u8, 1][..]
        );
        for (answer, (value, rows, width)) in
            waiting
                .into_iter()
                .zip([(2, 2, 2), (3, 1, 3), (4, 3, 2), (5, 1, 2), (6, 1, 2)])
        {
            let tensors = answer.blocking_recv().unwrap().unwrap();
            assert_eq!(tensors, request(value, rows, width).inputs);
        }
        let shapes: Vec<_> = starts.try_iter().collect();
        assert_eq!(shapes, [[2, 2], [1, 3], [4, 2], [1, 2]]);
        model.close();
    }

    #[test]
    fn what_is_large_is_not_copied_together() {
        let (model, starts, go) = model(100);
        let width = MERGE_UP_TO as i64;
        let push = |width| {
            model
                .push(&mut request(1, 1, width), Instant::now())
                .unwrap()
                .1
        };
        let answers = [push(1), push(width), push(width), push(2), push(2)];
        for _ in &answers {
            go.send(()).unwrap();
        }
        for answer in answers {
            assert!(answer.blocking_recv().unwrap().is_ok());
        }
        let shapes: Vec<_> = starts.try_iter().collect();
        assert_eq!(shapes, [[1, 1], [1, width], [1, width], [2, 2]]);
        model.close();
    }

    #[test]
    fn a_bad_request_and_a_gone_client_spoil_nothing() {
        let (model, starts, go) = model(100);
        let push = |value| {
            model
                .push(&mut request(value, 1, 1), Instant::now())
                .unwrap()
                .1
        };
        let first = push(1);
        starts.recv().unwrap();
        let (good, gone, bad, panicking) = (push(2), push(3), push(13), push(99));
        drop(gone);
        for _ in 0..5 {
            go.send(()).unwrap();
        }
        assert!(first.blocking_recv().unwrap().is_ok());
        assert!(good.blocking_recv().unwrap().is_ok());
        assert!(bad.blocking_recv().unwrap().is_err());
        assert!(
            panicking
                .blocking_recv()
                .unwrap()
                .unwrap_err()
                .message
                .contains("panicked")
        );
        assert_eq!(model.counters.cancelled.load(Relaxed), 1);
        assert!(!model.wait(Duration::ZERO));
        model.close();
        assert!(model.wait(Duration::from_secs(10)));
    }

    #[test]
    fn a_full_queue_refuses_and_a_timeout_expires() {
        let (model, starts, go) = model(1);
        let first = model.push(&mut request(1, 1, 1), Instant::now()).unwrap().1;
        starts.recv().unwrap();
        let mut late = request(2, 1, 1);
        late.timeout = Some(Duration::ZERO);
        let late = model.push(&mut late, Instant::now()).unwrap().1;
        let full = model
            .push(&mut request(3, 1, 1), Instant::now())
            .unwrap_err();
        assert!(full.message.contains("Exceeds maximum queue size"));
        go.send(()).unwrap();
        assert!(first.blocking_recv().unwrap().is_ok());
        assert_eq!(
            late.blocking_recv().unwrap().unwrap_err().message,
            "Request timeout expired"
        );
        model.close();
    }
}
