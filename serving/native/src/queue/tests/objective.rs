//! The latency objective against a simulated server, whose executions take 2 ms and 1 ms a row, give or take a
//! tenth, and whose clients do not wait for one another.

use super::*;

const MAX_ROWS: usize = 8;
const EXECUTORS: usize = 2;
/// Rows a second, in batches as large as may be.
const CAPACITY: f64 = (EXECUTORS * MAX_ROWS) as f64 / 0.010;

/// Numbers that look random, the same each time.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[derive(Default)]
struct Seen {
    offered: usize,
    refused: usize,
    expired: usize,
    /// Of those that were executed.
    latencies: Vec<Duration>,
    largest: usize,
}

impl Seen {
    fn within(&self, objective: Duration) -> usize {
        self.latencies
            .iter()
            .filter(|&&latency| latency <= objective)
            .count()
    }

    fn p99(&mut self) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() * 99 / 100]
    }
}

/// Serve arrivals at `rate` a second, for a while; what happens in the first second does not count.
fn simulate(objective: Option<Duration>, rate: f64, seconds: f64) -> Seen {
    simulate_noisy(objective, rate, seconds, 0.0)
}

/// The same on a machine that has other things to do: this share of the executions takes four times as long.
fn simulate_noisy(objective: Option<Duration>, rate: f64, seconds: f64, disturbed: f64) -> Seen {
    let mut rules = Scheduling::plain(Some(MAX_ROWS), 1024);
    rules.objective = objective;
    let mut queue: Queue<Fake> = Queue::new(rules, EXECUTORS);
    let mut random = Random(7);
    let start = Instant::now();
    let counted = start + Duration::from_secs(1);
    let end = counted + Duration::from_secs_f64(seconds);
    let mut seen = Seen::default();
    let mut running: Vec<(Instant, Instant, Vec<Waiting<Fake>>)> = Vec::new();
    let mut arrival = start;
    let mut now = start;
    while now < end {
        let finish = running.iter().map(|(finish, ..)| *finish).min();
        now = finish.into_iter().chain([arrival]).min().unwrap();
        if now == arrival {
            let refused = queue.push(fake(0, 1, 0), 0, None, now).is_err();
            if now >= counted {
                seen.offered += 1;
                seen.refused += usize::from(refused);
            }
            arrival += Duration::from_secs_f64(-(1.0 - random.unit()).ln() / rate);
        } else if let Some(index) = running.iter().position(|(finish, ..)| *finish == now) {
            let (_, since, batch) = running.swap_remove(index);
            queue.executed(since, rows(&batch), now);
            if since >= counted {
                seen.latencies
                    .extend(batch.iter().map(|waiting| now - waiting.queued));
            }
        }
        while running.len() < EXECUTORS {
            let turn = queue.take(now);
            if now >= counted {
                seen.expired += turn.expired.len();
            }
            if turn.batch.is_empty() {
                break;
            }
            let disturbance = if random.unit() < disturbed { 4.0 } else { 1.0 };
            let took = (2.0 + rows(&turn.batch) as f64) * (0.9 + 0.2 * random.unit()) * disturbance;
            seen.largest = seen.largest.max(turn.batch.len());
            running.push((now + Duration::from_secs_f64(took / 1e3), now, turn.batch));
        }
    }
    seen
}

#[test]
fn twice_the_load_loses_neither_goodput_nor_the_objective() {
    for objective in [ms(25), ms(50), ms(200)] {
        let mut seen = simulate(Some(objective), 2.0 * CAPACITY, 20.0);
        let goodput = seen.within(objective) as f64 / 20.0 / CAPACITY;
        let p99 = seen.p99();
        println!(
            "{objective:?}: goodput {goodput:.3} of capacity, p99 {p99:?}, refused at once {}, later {}, of {}",
            seen.refused, seen.expired, seen.offered
        );
        assert!(goodput >= 0.9, "{goodput}");
        assert!(p99 <= objective, "{p99:?}");
        assert!(
            seen.expired * 20 <= seen.refused,
            "{} waited in vain",
            seen.expired
        );
    }
}

#[test]
fn a_machine_that_is_disturbed_still_answers() {
    for (objective, disturbed) in [(ms(50), 0.1), (ms(100), 0.1), (ms(100), 0.3)] {
        let capacity = CAPACITY / (1.0 + 3.0 * disturbed);
        let mut seen = simulate_noisy(Some(objective), 2.0 * capacity, 20.0, disturbed);
        let goodput = seen.within(objective) as f64 / 20.0 / capacity;
        let p99 = seen.p99();
        println!(
            "disturbed {disturbed}, {objective:?}: goodput {goodput:.3}, p99 {p99:?}, refused {}, later {}, of {}",
            seen.refused, seen.expired, seen.offered
        );
        assert!(goodput >= 0.9, "{goodput}");
    }
}

#[test]
fn without_an_objective_the_same_load_serves_nobody_in_time() {
    let seen = simulate(None, 2.0 * CAPACITY, 5.0);
    assert!(seen.within(ms(50)) * 10 < seen.latencies.len());
}

#[test]
fn what_can_be_served_is_not_refused() {
    for (objective, share) in [(ms(50), 0.7), (ms(200), 0.9)] {
        let mut seen = simulate(Some(objective), share * CAPACITY, 20.0);
        let lost = (seen.refused + seen.expired) as f64 / seen.offered as f64;
        assert!(lost < 0.01, "{lost} of {share}");
        assert!(seen.p99() <= objective);
    }
}

#[test]
fn batches_take_half_of_the_objective_at_most() {
    let mut seen = simulate(Some(ms(12)), CAPACITY, 5.0);
    let late = seen.latencies.len() - seen.within(ms(12));
    assert!(late * 100 <= seen.latencies.len() && seen.p99() <= ms(12));
    let now = Instant::now();
    let mut rules = Scheduling::plain(Some(MAX_ROWS), 100);
    rules.objective = Some(Duration::from_micros(16_400));
    let mut queue = Queue::new(rules, 1);
    for round in 0..200 {
        queue.pace.learn(1 + round % 4, ms(3 + round as u32 % 4));
    }
    let taken_in = (0..20).filter(|&id| queue.push(fake(id, 1, 0), 0, None, now).is_ok());
    assert_eq!(
        taken_in.count(),
        6,
        "6 rows take 8 ms, which is half of the objective, about"
    );
    assert_eq!(queue.take(now + ms(6)).batch.len(), 6);
}

#[test]
fn the_next_batch_is_told_by_its_rows_and_bytes() {
    let now = Instant::now();
    let next = |rules, rows: &[usize]| {
        let mut queue = Queue::new(rules, 1);
        queue.pace.learn(1, ms(1));
        for &rows in rows {
            queue.push(fake(0, rows, 0), 0, None, now).unwrap();
        }
        queue.next_batch()
    };
    let batched = || Scheduling::plain(Some(MAX_ROWS), 100);
    assert_eq!(next(batched(), &[]), (0, 0, ms(0)));
    assert_eq!(next(batched(), &[1, 2]), (3, 3, ms(3)));
    assert_eq!(next(batched(), &[5, 5]), (8, 10, ms(8)));
    assert_eq!(next(batched(), &[10_000]), (10_000, 10_000, ms(10_000)));
    assert_eq!(next(Scheduling::plain(None, 100), &[1, 1]).0, 1);
}

#[test]
fn an_objective_that_cannot_be_met_is_tried_while_idle() {
    let now = Instant::now();
    let mut rules = Scheduling::plain(Some(MAX_ROWS), 100);
    rules.objective = Some(ms(1));
    let mut queue = Queue::new(rules, 1);
    queue.pace.learn(1, ms(20));
    for _ in 0..50 {
        queue.push(fake(0, 1, 0), 0, None, now).unwrap();
        assert_eq!(queue.take(now).batch.len(), 1);
        let second = queue.push(fake(1, 1, 0), 0, None, now + ms(1));
        assert_eq!(second.err(), Some(Refused::TooLate));
        queue.executed(now, 1, now + ms(20));
    }
}

#[test]
fn a_delay_ends_where_the_objective_needs_it() {
    let now = Instant::now();
    let mut rules = Scheduling::plain(Some(MAX_ROWS), 100);
    (rules.delay, rules.objective) = (ms(500), Some(ms(40)));
    let mut queue = filled(rules, 2, now);
    assert!(queue.take(now + ms(1)).batch.is_empty());
    queue.pace.learn(8, ms(10));
    assert_eq!(queue.take(now + ms(1)).again, Some(now + ms(30)));
    assert_eq!(queue.take(now + ms(30)).batch.len(), 2);
}
