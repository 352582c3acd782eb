//! How a batch is executed: together if that works, else one by one, and the answers in order if they must be.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Answer, Batch, Job, Model, Outcome};
use crate::counters::Reason;
use crate::error::{Failure, Result};
use crate::queue::{self, Waiting};
use crate::tensor::{Tensor, concatenate, split};
use crate::trace::Executed;

impl Model {
    pub(super) fn run(&self, batch: Batch) {
        let Batch {
            requests,
            first,
            taken,
        } = batch;
        let execution = Execution {
            model: self,
            taken,
            rows: queue::rows(&requests),
            bytes: queue::bytes(&requests),
        };
        let together = match requests.len() {
            1 => None,
            _ => self
                .guarded(|| self.run_together(&requests, taken))
                .unwrap_or_default(),
        };
        match together {
            Some(answers) => {
                drop(execution);
                for (number, (waiting, answer)) in (first..).zip(requests.into_iter().zip(answers))
                {
                    self.answer(number, waiting.job.reply, Ok(answer));
                }
            }
            // Alone, or one of them is bad and must not fail the others.
            None => {
                let answers: Vec<Answer> = requests
                    .into_iter()
                    .map(|waiting| self.run_alone(waiting, taken))
                    .collect();
                drop(execution);
                for (number, (reply, outcome)) in (first..).zip(answers) {
                    self.answer(number, reply, outcome);
                }
            }
        }
    }

    /// Answer a request, once those that were taken before it are answered if the model preserves the order.
    fn answer(&self, number: u64, reply: oneshot::Sender<Outcome>, outcome: Outcome) {
        let send = |(reply, outcome): Answer| drop(reply.send(outcome));
        match &self.order {
            None => send((reply, outcome)),
            Some(order) => {
                let mut order = order.lock().unwrap_or_else(PoisonError::into_inner);
                order.give(number, (reply, outcome), send);
            }
        }
    }

    fn run_alone(&self, waiting: Waiting<Job>, taken: Instant) -> Answer {
        let Waiting { job, queued, .. } = waiting;
        let start = job.trace.as_ref().map(|_| Instant::now());
        let executed = self.guarded(|| self.backend.execute(job.inputs, &job.outputs));
        let outcome = match executed.and_then(|outcome| outcome) {
            Ok((outputs, phases)) => {
                self.counters.executed(1, job.rows as u64, phases);
                if let (Some(trace), Some(start)) = (&job.trace, start) {
                    trace.executed(Executed {
                        queued,
                        taken,
                        start,
                        phases,
                        rows: job.rows,
                    });
                }
                Ok(outputs)
            }
            Err(failure) => Err((Reason::Backend, failure)),
        };
        (job.reply, outcome)
    }

    /// Execute as one batch; `None` when that failed or its outputs cannot be told apart.
    fn run_together(&self, batch: &[Waiting<Job>], taken: Instant) -> Option<Vec<Vec<Tensor>>> {
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
        let (tensors, mut phases) = self.backend.execute(inputs, &outputs).ok()?;

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
        for waiting in batch {
            if let Some(trace) = &waiting.job.trace {
                trace.executed(Executed {
                    queued: waiting.queued,
                    taken,
                    start,
                    phases,
                    rows: total as usize,
                });
            }
        }
        Some(answers)
    }

    /// A bug in the backend, or in what is done with its outputs, fails requests and not the server.
    fn guarded<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
            Failure::internal(format!("the backend of model '{}' panicked", self.name))
        })
    }
}

/// One of those that the model may do at a time. However it ends, another may then begin; whoever executed looks
/// whether there is one.
struct Execution<'a> {
    model: &'a Model,
    taken: Instant,
    rows: usize,
    bytes: usize,
}

impl Drop for Execution<'_> {
    fn drop(&mut self) {
        let mut shared = self.model.lock();
        shared.free += 1;
        let now = Instant::now();
        shared.queue.executed(self.taken, self.rows, now);
        shared.tried.learn(self.rows, self.bytes, now - self.taken);
        if shared.queue.closed() {
            self.model.work.notify_all();
        }
    }
}
