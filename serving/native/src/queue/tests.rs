use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::scheduling::Policy;

#[derive(Debug)]
struct Fake {
    id: usize,
    level: u64,
    rows: usize,
    shape: u8,
    gone: Rc<Gone>,
}

/// A client that goes away, at any moment: once it was asked for so many times more.
#[derive(Debug, Default)]
struct Gone(Cell<Option<u32>>);

impl Gone {
    fn is(&self) -> bool {
        match self.0.get() {
            None => false,
            Some(0) => true,
            Some(left) => {
                self.0.set(Some(left - 1));
                false
            }
        }
    }
}

impl Job for Fake {
    fn rows(&self) -> usize {
        self.rows
    }

    fn bytes(&self) -> usize {
        self.rows
    }

    fn fits(&self, other: &Self) -> bool {
        self.shape == other.shape
    }

    fn gone(&self) -> bool {
        self.gone.is()
    }
}

fn fake(id: usize, rows: usize, shape: u8) -> Fake {
    Fake {
        id,
        level: 0,
        rows,
        shape,
        gone: Rc::default(),
    }
}

fn ids(batch: &[Waiting<Fake>]) -> Vec<usize> {
    batch.iter().map(|waiting| waiting.job.id).collect()
}

const MS: Duration = Duration::from_millis(1);

fn ms(count: u32) -> Duration {
    MS * count
}

mod objective;

/// A queue with requests of one row and one shape, pushed a millisecond apart.
fn filled(scheduling: Scheduling, count: usize, start: Instant) -> Queue<Fake> {
    let mut queue = Queue::new(scheduling, 1);
    for id in 0..count {
        queue
            .push(fake(id, 1, 0), 0, None, start + MS * id as u32)
            .unwrap();
    }
    queue
}

#[test]
fn what_waits_is_taken_at_once_and_by_shape() {
    let now = Instant::now();
    let mut queue = Queue::new(Scheduling::plain(Some(4), 100), 1);
    for (id, (rows, shape)) in [(2, 0), (1, 1), (3, 0), (1, 0), (1, 1)]
        .into_iter()
        .enumerate()
    {
        queue.push(fake(id, rows, shape), 0, None, now).unwrap();
    }
    let taken: Vec<_> = (0..4).map(|_| ids(&queue.take(now).batch)).collect();
    assert_eq!(taken, [vec![0], vec![1, 4], vec![2, 3], vec![]]);
}

#[test]
fn preferred_sizes_come_first() {
    let now = Instant::now();
    let mut rules = Scheduling::plain(Some(16), 100);
    rules.preferred = vec![4, 8];
    let mut queue = filled(rules.clone(), 5, now);
    let sizes: Vec<_> = (0..2).map(|_| queue.take(now).batch.len()).collect();
    assert_eq!(sizes, [4, 1]); // without a delay, what is left does not wait
    let mut queue = filled(rules.clone(), 11, now);
    assert_eq!(queue.take(now).batch.len(), 8);
    rules.delay = ms(20);
    let mut queue = filled(rules, 5, now);
    assert_eq!(queue.take(now).batch.len(), 4);
    let turn = queue.take(now + ms(5));
    assert_eq!((turn.batch.len(), turn.again), (0, Some(now + ms(24)))); // the fifth came at 4
    assert_eq!(queue.take(now + ms(24)).batch.len(), 1);
}

#[test]
fn a_delay_ends_early_when_nothing_is_won_by_it() {
    let now = Instant::now();
    let mut rules = Scheduling::plain(Some(4), 100);
    rules.delay = ms(20);
    let mut queue = filled(rules.clone(), 3, now);
    assert_eq!(queue.take(now + ms(3)).again, Some(now + ms(20)));
    queue.push(fake(3, 1, 0), 0, None, now + ms(3)).unwrap();
    assert_eq!(queue.take(now + ms(3)).batch.len(), 4, "it is full");
    let mut queue = filled(rules.clone(), 2, now);
    queue.push(fake(2, 1, 1), 0, None, now).unwrap();
    assert_eq!(
        ids(&queue.take(now).batch),
        [0, 1],
        "another shape waits behind"
    );
    let mut queue = filled(rules, 2, now);
    queue.close();
    assert_eq!(queue.take(now).batch.len(), 2, "nothing more comes");
}

#[test]
fn priorities_go_first_and_have_their_own_rules() {
    let now = Instant::now();
    let mut rules = Scheduling::plain(None, 100);
    (rules.priority_levels, rules.default_priority) = (3, 2);
    let policy = Policy {
        max_size: Some(1),
        default_timeout: Some(ms(10)),
        ..Policy::default()
    };
    rules.policies = HashMap::from([(3, policy)]);
    let mut queue = Queue::new(rules, 1);
    for (id, priority) in [3, 0, 9, 2, 1].into_iter().enumerate() {
        queue.push(fake(id, 1, 0), priority, None, now).unwrap();
    }
    assert_eq!(
        queue.push(fake(5, 1, 0), 3, None, now).unwrap_err(),
        Refused::Full
    );
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.extend(ids(&queue.take(now).batch));
    }
    assert_eq!(taken, [4, 1, 2, 3]);
    let turn = queue.take(now + ms(10));
    assert_eq!((ids(&turn.expired), turn.batch.len()), (vec![0], 0));
}

#[test]
fn timeouts_refuse_or_delay() {
    let now = Instant::now();
    for delay in [false, true] {
        let mut rules = Scheduling::plain(None, 100);
        rules.default_policy = Policy {
            delay,
            default_timeout: Some(ms(10)),
            allow_override: true,
            max_size: None,
        };
        let mut queue = Queue::new(rules, 1);
        // A request can only wait less long than others.
        for (id, timeout) in [None, Some(ms(5)), Some(ms(99))].into_iter().enumerate() {
            queue.push(fake(id, 1, 0), 0, timeout, now).unwrap();
        }
        assert_eq!(ids(&queue.expire(now + ms(5))).len(), usize::from(!delay));
        queue.push(fake(3, 1, 0), 0, None, now + ms(9)).unwrap();
        let expired = ids(&queue.expire(now + ms(10)));
        let left: Vec<_> = (0..4)
            .flat_map(|_| ids(&queue.take(now + ms(11)).batch))
            .collect();
        match delay {
            false => assert_eq!((expired, left), (vec![0, 2], vec![3])),
            true => assert_eq!((expired, left), (vec![], vec![3, 1, 0, 2])),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        rows: usize,
        shape: u8,
        priority: u64,
        timeout: Option<u32>,
    },
    Take,
    Expire,
    Remove(usize),
    Leave(usize, u32),
    Pass(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (1..5usize, 0..3u8, 0..5u64, prop::option::of(0..30u32)).prop_map(
        |(rows, shape, priority, timeout)| Step::Push {
            rows,
            shape,
            priority,
            timeout,
        },
    );
    let step = prop_oneof![
        5 => push,
        2 => Just(Step::Take),
        1 => Just(Step::Expire),
        1 => any::<usize>().prop_map(Step::Remove),
        1 => (any::<usize>(), 0..3u32).prop_map(|(index, after)| Step::Leave(index, after)),
        2 => (0..20u32).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..80)
}

prop_compose! {
    fn rules()(
        max_rows in prop::option::of(1..9usize),
        preferred in prop::collection::vec(1..9usize, 0..3),
        delay in 0..30u32,
        preserve_ordering in any::<bool>(),
        priority_levels in 0..4u64,
        late in any::<bool>(),
        max_size in prop::option::of(1..8usize),
        capacity in 1..30usize,
    ) -> Scheduling {
        let mut rules = Scheduling::plain(max_rows, capacity);
        rules.preferred = preferred;
        rules.preferred.sort_unstable();
        rules.delay = ms(delay);
        rules.preserve_ordering = preserve_ordering;
        rules.priority_levels = priority_levels;
        rules.default_priority = priority_levels.min(1);
        rules.default_policy.delay = late;
        rules.default_policy.max_size = max_size;
        rules
    }
}

/// A queue, and what became of each request.
struct Ledger {
    queue: Queue<Fake>,
    rules: Scheduling,
    waiting: HashMap<usize, (Ticket, Rc<Gone>)>,
    /// The last that was taken of a level and shape.
    last: HashMap<(u64, u8), usize>,
    now: Instant,
}

impl Ledger {
    fn ended(&mut self, ended: &Waiting<Fake>) {
        let known = self.waiting.remove(&ended.job.id);
        assert!(known.is_some(), "{} ended twice", ended.job.id);
    }

    /// Whether anything was taken.
    fn take(&mut self) -> bool {
        let turn = self.queue.take(self.now);
        let dropped = turn.expired.iter().chain(&turn.gone);
        dropped.for_each(|waiting| self.ended(waiting));
        assert!(turn.gone.iter().all(|waiting| waiting.job.gone()));
        for waiting in &turn.batch {
            self.ended(waiting);
            if !self.rules.default_policy.delay {
                let ordered = self.rules.preserve_ordering;
                let shape = if ordered { 0 } else { waiting.job.shape };
                let key = (waiting.job.level, shape);
                let before = self.last.insert(key, waiting.job.id);
                assert!(before < Some(waiting.job.id), "it overtook");
            }
        }
        if let Some(first) = turn.batch.first() {
            assert!(turn.batch.iter().all(|other| first.job.fits(&other.job)));
            let rows: usize = turn.batch.iter().map(|waiting| waiting.job.rows).sum();
            let limit = self.rules.max_rows.unwrap_or(0);
            assert!(turn.batch.len() == 1 || rows <= limit, "{rows} rows");
            assert_eq!(turn.more, !self.queue.is_empty());
        } else if !self.queue.is_empty() {
            let again = turn.again.expect("something waits for nothing");
            assert!(self.now < again && again <= self.now + self.rules.delay);
        }
        !turn.batch.is_empty()
    }

    fn step(&mut self, id: usize, step: Step) {
        match step {
            Step::Push {
                rows,
                shape,
                priority,
                timeout,
            } => {
                let mut job = fake(id, rows, shape);
                job.level = self.rules.level(priority);
                let gone = Rc::clone(&job.gone);
                let full = self.queue.len() >= self.rules.capacity;
                match self.queue.push(job, priority, timeout.map(ms), self.now) {
                    Ok(ticket) => {
                        assert!(!full);
                        self.waiting.insert(id, (ticket, gone));
                    }
                    Err(refused) => {
                        assert_eq!(refused, Refused::Full);
                        assert!(full || self.rules.default_policy.max_size.is_some());
                    }
                }
            }
            Step::Take => drop(self.take()),
            Step::Expire => {
                let expired = self.queue.expire(self.now);
                expired.iter().for_each(|waiting| self.ended(waiting));
                assert!(!self.rules.default_policy.delay || expired.is_empty());
                let overdue = |(ticket, _): &(Ticket, _)| ticket.expires <= Some(self.now);
                let kept = self
                    .waiting
                    .values()
                    .filter(|(ticket, _)| ticket.expires.is_some());
                assert!(!kept.clone().any(overdue));
            }
            Step::Remove(index) | Step::Leave(index, _) => {
                let Some(&id) = self.waiting.keys().nth(index % self.waiting.len().max(1)) else {
                    return;
                };
                let (ticket, gone) = &self.waiting[&id];
                if let Step::Leave(_, after) = step {
                    gone.0.set(Some(after));
                } else {
                    assert_eq!(self.queue.remove(*ticket).unwrap().job.id, id);
                    assert!(self.queue.remove(*ticket).is_none());
                    self.waiting.remove(&id);
                }
            }
            Step::Pass(count) => self.now += ms(count),
        }
        assert_eq!(self.queue.len(), self.waiting.len());
        for lane in self.queue.lanes.values() {
            let rows: usize = lane.jobs.iter().map(|waiting| waiting.job.rows).sum();
            assert_eq!(lane.rows, rows);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn nothing_is_lost_or_answered_twice_and_every_limit_is_kept(rules in rules(), steps in steps()) {
        let mut ledger = Ledger {
            queue: Queue::new(rules.clone(), 1),
            rules,
            waiting: HashMap::new(),
            last: HashMap::new(),
            now: Instant::now(),
        };
        for (id, step) in steps.into_iter().enumerate() {
            ledger.step(id, step);
        }
        ledger.queue.close();
        while ledger.take() {}
        prop_assert!(ledger.waiting.is_empty() && ledger.queue.is_empty());
    }
}
