//! Answers in the order of their requests, whatever order they become ready in.

use std::collections::BTreeMap;

/// Holds answers back until all earlier ones were given.
pub struct InOrder<A> {
    next: u64,
    ready: BTreeMap<u64, A>,
}

impl<A> Default for InOrder<A> {
    fn default() -> Self {
        Self {
            next: 0,
            ready: BTreeMap::new(),
        }
    }
}

impl<A> InOrder<A> {
    /// Give the answer with this number (they are counted from 0), and every one that waited for it.
    pub fn give(&mut self, number: u64, answer: A, mut send: impl FnMut(A)) {
        self.ready.insert(number, answer);
        while let Some(answer) = self.ready.remove(&self.next) {
            send(answer);
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_order_becomes_that_of_the_numbers(numbers in Just((0..20u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut order = InOrder::default();
            let mut sent = Vec::new();
            for &number in &numbers {
                order.give(number, number, |answer| sent.push(answer));
                prop_assert!(sent.len() as u64 == order.next);
            }
            prop_assert_eq!(sent, (0..20).collect::<Vec<_>>());
        }
    }
}
