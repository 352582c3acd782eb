//! A loaded model: its queue, and the threads that take batches off it and execute them.
//!
//! A free worker takes whatever is queued, requests of equal shapes together up to the model's limit, and
//! never waits for more to come: batching adds no delay.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::counters::{Counters, Phases};
use crate::error::{Failure, Result};
use crate::request::InferRequest;
use crate::signature::Signature;
use crate::tensor::{Tensor, concatenate, split};

/// Requests whose inputs together exceed this are not merged: copying them would cost more than it saves.
const MERGE_UP_TO: usize = 1 << 20;

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
    queue: Mutex<Queue>,
    work: Condvar,
    capacity: usize,
    /// Nothing is sent: it is disconnected once every worker has ended.
    workers: Mutex<mpsc::Receiver<()>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Job {
    inputs: Vec<Tensor>,
    outputs: Vec<usize>,
    queued: Instant,
    timeout: Option<Duration>,
    reply: oneshot::Sender<Result<Vec<Tensor>>>,
}

impl Model {
    /// Start a model's workers. They end when the model is closed.
    pub fn start(
        name: String,
        version: String,
        signature: Signature,
        backend: Box<dyn Backend>,
        workers: usize,
        capacity: usize,
    ) -> std::io::Result<Arc<Self>> {
        let (alive, ended) = mpsc::channel();
        let model = Arc::new(Self {
            name,
            version,
            signature,
            counters: Counters::default(),
            backend,
            queue: Mutex::default(),
            work: Condvar::new(),
            capacity,
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
        self.lock().closed = true;
        self.work.notify_all();
    }

    /// Wait for the workers of a closed model to end. Whether they did in time.
    pub fn wait(&self, timeout: Duration) -> bool {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Disconnected)
    }

    /// Requests that wait for a worker.
    pub fn pending(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Infer: the outputs in the order the request wants them. Dropping the future gives up the place in
    /// the queue.
    pub async fn infer(&self, request: &mut InferRequest) -> Result<Vec<Tensor>> {
        let start = Instant::now();
        let answer = match self.push(request, start) {
            Ok(answer) => answer,
            Err(failure) => {
                self.counters.fail(&self.counters.rejected, start.elapsed());
                return Err(failure);
            }
        };
        let outcome = answer
            .await
            .unwrap_or_else(|_| Err(Failure::internal("the inference was abandoned")));
        if outcome.is_ok() {
            self.counters.succeeded(start.elapsed());
        }
        outcome
    }

    fn push(
        &self,
        request: &mut InferRequest,
        now: Instant,
    ) -> Result<oneshot::Receiver<Result<Vec<Tensor>>>> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            inputs: std::mem::take(&mut request.inputs),
            outputs: request.outputs.iter().map(|wanted| wanted.output).collect(),
            queued: now,
            timeout: request.timeout,
            reply,
        };
        {
            let mut queue = self.lock();
            if queue.closed {
                return Err(Failure::unavailable(format!(
                    "model '{}' is being unloaded",
                    self.name
                )));
            }
            if queue.jobs.len() >= self.capacity {
                return Err(Failure::unavailable(format!(
                    "Exceeds maximum queue size of model '{}'",
                    self.name
                )));
            }
            queue.jobs.push_back(job);
        }
        self.work.notify_one();
        Ok(answer)
    }

    /// Wait for work; `None` when there will be no more.
    fn take(&self) -> Option<Vec<Job>> {
        let mut queue = self.lock();
        loop {
            let batch = self.form(&mut queue.jobs);
            if !batch.is_empty() {
                return Some(batch);
            }
            if queue.closed {
                return None;
            }
            queue = self
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The oldest request that still matters, and those that can be executed with it.
    fn form(&self, jobs: &mut VecDeque<Job>) -> Vec<Job> {
        let mut batch: Vec<Job> = Vec::new();
        let mut rows = 0;
        let mut bytes = 0;
        let mut index = 0;
        while index < jobs.len() {
            let job = &jobs[index];
            let count = self.rows(job);
            let joins = match batch.first() {
                None => true,
                Some(first) => self.signature.max_batch.is_some_and(|limit| {
                    rows + count <= limit as i64
                        && bytes + size(&job.inputs) <= MERGE_UP_TO
                        && same_but_rows(&first.inputs, &job.inputs)
                }),
            };
            if !joins && !job.reply.is_closed() {
                index += 1;
                continue;
            }
            let Some(job) = jobs.remove(index) else { break };
            let waited = job.queued.elapsed();
            if job.reply.is_closed() {
                self.counters.fail(&self.counters.cancelled, waited);
            } else if job.timeout.is_some_and(|timeout| waited > timeout) {
                self.counters.fail(&self.counters.rejected, waited);
                let _ = job
                    .reply
                    .send(Err(Failure::unavailable("Request timeout expired")));
            } else {
                self.counters.queue.add(1, waited);
                rows += count;
                bytes += size(&job.inputs);
                batch.push(job);
                if self
                    .signature
                    .max_batch
                    .is_none_or(|limit| rows >= limit as i64)
                {
                    break;
                }
            }
        }
        batch
    }

    fn rows(&self, job: &Job) -> i64 {
        match self.signature.max_batch {
            Some(_) => job.inputs[0].shape[0],
            None => 1,
        }
    }

    fn run(&self, batch: Vec<Job>) {
        if batch.len() == 1 {
            return batch.into_iter().for_each(|job| self.run_alone(job));
        }
        match self.run_together(&batch) {
            Some(answers) => {
                for (job, answer) in batch.into_iter().zip(answers) {
                    let _ = job.reply.send(Ok(answer));
                }
            }
            // One bad request must not fail the others: find out whose fault it was.
            None => batch.into_iter().for_each(|job| self.run_alone(job)),
        }
    }

    fn run_alone(&self, job: Job) {
        let rows = self.rows(&job) as u64;
        let outcome = match self.execute(job.inputs, &job.outputs) {
            Ok((outputs, phases)) => {
                self.counters.executed(1, rows, phases);
                Ok(outputs)
            }
            Err(failure) => {
                self.counters
                    .fail(&self.counters.backend_failed, job.queued.elapsed());
                Err(failure)
            }
        };
        let _ = job.reply.send(outcome);
    }

    /// Execute as one batch; `None` when that failed or its outputs cannot be told apart.
    fn run_together(&self, batch: &[Job]) -> Option<Vec<Vec<Tensor>>> {
        let start = Instant::now();
        let inputs = (0..self.signature.inputs.len())
            .map(|index| {
                let parts: Vec<&Tensor> = batch.iter().map(|job| &job.inputs[index]).collect();
                concatenate(&parts)
            })
            .collect();
        let mut outputs: Vec<usize> = batch.iter().flat_map(|job| job.outputs.clone()).collect();
        outputs.sort_unstable();
        outputs.dedup();
        let joining = start.elapsed();
        let (tensors, mut phases) = self.execute(inputs, &outputs).ok()?;

        let rows: Vec<i64> = batch.iter().map(|job| self.rows(job)).collect();
        let mut parts = Vec::with_capacity(outputs.len());
        for (&output, tensor) in outputs.iter().zip(&tensors) {
            let datatype = self.signature.outputs[output].datatype;
            parts.push(split(tensor, datatype, &rows)?);
        }
        let answers = batch
            .iter()
            .enumerate()
            .map(|(index, job)| {
                let part = |output: &usize| {
                    let place = outputs.binary_search(output).ok()?;
                    Some(parts[place][index].clone())
                };
                job.outputs.iter().map(part).collect()
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

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Count a request that never reached the queue.
    pub fn refuse(&self) {
        self.counters.other_failed.fetch_add(1, Relaxed);
    }
}

fn size(inputs: &[Tensor]) -> usize {
    inputs.iter().map(|input| input.data.len()).sum()
}

fn same_but_rows(first: &[Tensor], other: &[Tensor]) -> bool {
    first
        .iter()
        .zip(other)
        .all(|(first, other)| first.shape[1..] == other.shape[1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datatype::Datatype;
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
            id: String::new(),
            inputs: vec![Tensor {
                shape: vec![rows, width],
                data: Bytes::from(vec![value; (rows * width) as usize]),
            }],
            outputs: vec![Wanted {
                output: 0,
                binary: true,
            }],
            timeout: None,
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
        };
        let backend = Box::new(Echo {
            started,
            go: Mutex::new(gone),
        });
        let model = Model::start("m".into(), "1".into(), signature, backend, 1, capacity).unwrap();
        (model, starts, go)
    }

    #[test]
    fn what_waits_is_batched_by_shape_and_limit() {
        let (model, starts, go) = model(100);
        let push = |value, rows, width| {
            model
                .push(&mut request(value, rows, width), Instant::now())
                .unwrap()
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
        for _ in 0..4 {
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
        assert_eq!(shapes, [[4, 2], [1, 3], [3, 2]]);
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
        let first = model.push(&mut request(1, 1, 1), Instant::now()).unwrap();
        starts.recv().unwrap();
        let mut late = request(2, 1, 1);
        late.timeout = Some(Duration::ZERO);
        let late = model.push(&mut late, Instant::now()).unwrap();
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
