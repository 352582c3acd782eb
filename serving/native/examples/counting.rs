//! What counting costs a request: everything that is counted for one that is executed alone, in turns with the
//! same loop without it.
//!
//!     cargo run --release --no-default-features --example counting

use std::hint::black_box;
use std::time::{Duration, Instant};

use _native::counters::{Counters, Phases};

const REQUESTS: u32 = 1_000_000;
const ROUNDS: usize = 9;

fn main() {
    let counters = Counters::default();
    let count = |duration: Duration| {
        let phases = Phases {
            input: duration,
            infer: duration,
            output: duration,
        };
        counters.waited(duration);
        counters.executed(1, 1, phases);
        counters.succeeded(duration);
    };
    let mut differences: Vec<f64> = (0..ROUNDS).map(|_| time(count) - time(nothing)).collect();
    differences.sort_by(f64::total_cmp);
    println!("counting takes {:.0} ns a request", differences[ROUNDS / 2]);
}

fn nothing(duration: Duration) {
    black_box(duration);
}

/// Nanoseconds a request.
fn time(one: impl Fn(Duration)) -> f64 {
    let start = Instant::now();
    for index in 0..REQUESTS {
        one(black_box(Duration::from_micros(u64::from(index % 5000))));
    }
    start.elapsed().as_nanos() as f64 / f64::from(REQUESTS)
}
