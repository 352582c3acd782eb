//! How long executions take, learned from those that were: a straight line through times and rows, which
//! forgets. Pure; all of it is a handful of multiplications.

use std::time::Duration;

/// What a new execution leaves of the weight of the earlier ones: some twenty count.
const KEPT: f64 = 0.95;
/// How many mean deviations an execution is taken to last longer, when it must not last longer.
const CAUTION: f64 = 1.0;
/// Below this spread of rows, relative to their mean, a slope would be noise.
const SPREAD: f64 = 0.01;

/// Weighted sums of rows, seconds and their products, and how far off the line was.
#[derive(Debug, Default)]
pub struct Pace {
    weight: f64,
    rows: f64,
    squares: f64,
    seconds: f64,
    products: f64,
    deviation: f64,
}

impl Pace {
    pub fn learn(&mut self, rows: usize, took: Duration) {
        let (rows, seconds) = (rows as f64, took.as_secs_f64());
        if self.weight > 0.0 {
            let off = (seconds - self.line(rows)).abs();
            self.deviation += (1.0 - KEPT) * (off - self.deviation);
        }
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.rows, rows),
            (&mut self.squares, rows * rows),
            (&mut self.seconds, seconds),
            (&mut self.products, rows * seconds),
        ] {
            *sum = *sum * KEPT + value;
        }
    }

    /// How long an execution of `rows` is likely to take; nothing, as long as nothing is known.
    pub fn likely(&self, rows: usize) -> Duration {
        Duration::from_secs_f64(self.line(rows as f64))
    }

    /// How long it takes at most, as a rule.
    pub fn at_most(&self, rows: usize) -> Duration {
        Duration::from_secs_f64(self.line(rows as f64) + CAUTION * self.deviation)
    }

    /// The most rows, up to `limit`, that can be executed within a time; at least one.
    pub fn most_rows(&self, limit: usize, within: Duration) -> usize {
        let (mut fits, mut exceeds) = (1, limit + 1);
        while fits + 1 < exceeds {
            let middle = fits.midpoint(exceeds);
            match self.likely(middle) <= within {
                true => fits = middle,
                false => exceeds = middle,
            }
        }
        fits
    }

    fn line(&self, rows: f64) -> f64 {
        if self.weight == 0.0 {
            return 0.0;
        }
        let (mean, seconds) = (self.rows / self.weight, self.seconds / self.weight);
        let variance = self.squares / self.weight - mean * mean;
        let proportional = seconds / mean;
        let slope = if variance > SPREAD * mean * mean {
            let slope = (self.products / self.weight - mean * seconds) / variance;
            slope.clamp(0.0, proportional)
        } else if rows > mean {
            proportional // nothing is known of more rows: the worst
        } else {
            0.0
        };
        (seconds + slope * (rows - mean)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn near(one: Duration, other: Duration) -> bool {
        one.abs_diff(other) < MS / 10
    }

    #[test]
    fn a_line_is_learned_and_learned_anew() {
        let mut pace = Pace::default();
        assert_eq!(pace.at_most(100), Duration::ZERO);
        for round in 0..50 {
            let rows = 1 + round % 8;
            pace.learn(rows, MS * (2 + rows as u32));
        }
        assert!(near(pace.likely(4), MS * 6) && near(pace.likely(16), MS * 18));
        assert_eq!(pace.most_rows(100, MS * 25 / 2), 10);
        assert_eq!(pace.most_rows(4, MS * 12), 4);
        assert_eq!(pace.most_rows(4, MS), 1);
        for round in 0..200 {
            let rows = 1 + round % 8;
            pace.learn(rows, MS * (1 + 2 * rows as u32));
        }
        assert!(near(pace.likely(4), MS * 9));
    }

    #[test]
    fn one_size_says_little_of_others() {
        let mut pace = Pace::default();
        for _ in 0..50 {
            pace.learn(4, MS * 8);
        }
        assert!(near(pace.likely(1), MS * 8) && near(pace.likely(8), MS * 16));
    }

    #[test]
    fn what_varies_is_not_relied_on() {
        let mut pace = Pace::default();
        for round in 0..100 {
            pace.learn(1, MS * (8 + 4 * (round % 2)));
        }
        assert!(pace.at_most(1) > MS * 11, "{:?}", pace.at_most(1));
    }
}
