//! Answers kept for requests that come again: least recently used ones make room, within a number of bytes for
//! all models together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::tensor::Tensor;

/// What an entry takes beside its tensors' bytes, about.
const ENTRY: usize = 256;

/// A request's digest, 128 bits under keys that nobody knows: two requests never have the same by chance or
/// by intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    owner: u64,
    digest: [u64; 2],
}

pub struct Cache {
    limit: usize,
    hashers: [RandomState; 2],
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    owners: HashSet<u64>,
    last_owner: u64,
    entries: HashMap<Key, Entry>,
    /// Keys by when they were used.
    used: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
}

struct Entry {
    outputs: Vec<Tensor>,
    bytes: usize,
    used: u64,
}

impl Cache {
    /// A cache of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            hashers: Default::default(),
            kept: Mutex::default(),
        }
    }

    /// A name for one loaded version of a model, under which its answers are kept.
    pub fn register(&self) -> u64 {
        let mut kept = self.lock();
        kept.last_owner += 1;
        let owner = kept.last_owner;
        kept.owners.insert(owner);
        owner
    }

    /// Drop an owner's answers; what it executes now is not kept any more.
    pub fn forget(&self, owner: u64) {
        let mut kept = self.lock();
        kept.owners.remove(&owner);
        let keys: Vec<Key> = kept
            .entries
            .keys()
            .filter(|key| key.owner == owner)
            .copied()
            .collect();
        for key in keys {
            kept.remove(&key);
        }
    }

    /// The key of a request: its inputs, in the model's order, and the outputs it wants. A model's datatypes are
    /// given.
    pub fn key(&self, owner: u64, inputs: &[Tensor], outputs: &[usize]) -> Key {
        let digest = self.hashers.each_ref().map(|hashers| {
            let mut hasher = hashers.build_hasher();
            outputs.hash(&mut hasher);
            for input in inputs {
                input.shape.hash(&mut hasher);
                input.data.hash(&mut hasher);
            }
            hasher.finish()
        });
        Key { owner, digest }
    }

    pub fn get(&self, key: &Key) -> Option<Vec<Tensor>> {
        let mut kept = self.lock();
        kept.clock += 1;
        let clock = kept.clock;
        let entry = kept.entries.get_mut(key)?;
        let before = std::mem::replace(&mut entry.used, clock);
        let outputs = entry.outputs.clone();
        kept.used.remove(&before);
        kept.used.insert(clock, *key);
        Some(outputs)
    }

    pub fn put(&self, key: Key, outputs: &[Tensor]) {
        let size = |tensor: &Tensor| tensor.data.len() + 8 * tensor.shape.len();
        let bytes = ENTRY + outputs.iter().map(size).sum::<usize>();
        if bytes > self.limit {
            return;
        }
        // Copies: the bytes may be a part of something much larger, such as a whole batch.
        let outputs = outputs
            .iter()
            .map(|tensor| Tensor {
                shape: tensor.shape.clone(),
                data: Bytes::copy_from_slice(&tensor.data),
            })
            .collect();
        let mut kept = self.lock();
        if !kept.owners.contains(&key.owner) {
            return;
        }
        kept.remove(&key);
        while kept.bytes + bytes > self.limit
            && let Some((_, &oldest)) = kept.used.first_key_value()
        {
            kept.remove(&oldest);
        }
        kept.clock += 1;
        let used = kept.clock;
        kept.bytes += bytes;
        kept.used.insert(used, key);
        let entry = Entry {
            outputs,
            bytes,
            used,
        };
        kept.entries.insert(key, entry);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.used.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensor(shape: &[i64], data: &[u8]) -> Tensor {
        Tensor {
            shape: shape.to_vec(),
            data: Bytes::copy_from_slice(data),
        }
    }

    #[test]
    fn a_key_is_of_everything_that_matters() {
        let cache = Cache::new(1 << 20);
        let key = |owner, inputs: &[Tensor], outputs: &[usize]| cache.key(owner, inputs, outputs);
        let base = [tensor(&[1, 2], &[1, 2]), tensor(&[1], &[3])];
        let keys = [
            key(1, &base, &[0, 1]),
            key(2, &base, &[0, 1]),
            key(1, &base, &[1, 0]),
            key(1, &base, &[0]),
            key(1, &[tensor(&[2, 1], &[1, 2]), tensor(&[1], &[3])], &[0, 1]),
            key(1, &[tensor(&[1, 2], &[1, 9]), tensor(&[1], &[3])], &[0, 1]),
            key(1, &[tensor(&[1, 2], &[1]), tensor(&[1], &[2, 3])], &[0, 1]),
        ];
        let different: HashSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        assert_eq!(key(1, &base.clone(), &[0, 1]), keys[0]);
    }

    #[test]
    fn what_is_unloaded_is_forgotten_for_good() {
        let cache = Cache::new(1 << 20);
        let (one, other) = (cache.register(), cache.register());
        let answer = [tensor(&[1], &[7])];
        let keys = [cache.key(one, &[], &[]), cache.key(other, &[], &[])];
        keys.iter().for_each(|key| cache.put(*key, &answer));
        cache.forget(one);
        cache.put(keys[0], &answer); // was being executed
        assert_eq!(cache.get(&keys[0]), None);
        assert_eq!(cache.get(&keys[1]).unwrap(), answer);
    }

    proptest! {
        #[test]
        fn the_limit_is_kept_and_the_last_used_stay(sizes in prop::collection::vec((0..8u8, 0..900usize), 1..60)) {
            let cache = Cache::new(3000);
            let owner = cache.register();
            let mut expected: Vec<(Key, usize)> = Vec::new();
            for (name, size) in sizes {
                let key = cache.key(owner, &[tensor(&[1], &[name])], &[]);
                let entry = (key, ENTRY + size + 8);
                if let Some(index) = expected.iter().position(|(other, _)| *other == key) {
                    expected.remove(index);
                    let hit = cache.get(&key);
                    prop_assert!(hit.is_some_and(|hit| hit[0].data.iter().all(|&byte| byte == name)));
                } else {
                    prop_assert_eq!(cache.get(&key), None);
                }
                cache.put(key, &[tensor(&[size as i64], &vec![name; size])]);
                expected.push(entry);
                while expected.iter().map(|(_, bytes)| bytes).sum::<usize>() > cache.limit {
                    expected.remove(0);
                }
                let kept = cache.lock();
                prop_assert_eq!(kept.bytes, expected.iter().map(|(_, bytes)| bytes).sum::<usize>());
                prop_assert!(kept.used.values().eq(expected.iter().map(|(key, _)| key)));
                prop_assert_eq!(kept.entries.len(), kept.used.len());
            }
        }
    }
}
