//! Tensors as they travel: a shape, and little-endian row-major bytes that are shared, not copied.

use bytes::buf::Limit;
use bytes::{BufMut, Bytes};

use crate::datatype::Datatype;

/// What vector instructions like best, and a cache line.
pub const ALIGNMENT: usize = 64;

/// A tensor's contents. BYTES elements are each preceded by their length, 4 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub shape: Vec<i64>,
    pub data: Bytes,
}

/// The number of elements of a shape; `None` for a negative dimension or a product beyond memory.
pub fn elements(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &dimension| {
        product.checked_mul(usize::try_from(dimension).ok()?)
    })
}

/// A buffer that is filled once, up to a size known beforehand, and never moves while it is.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// A buffer for `size` bytes, placed so that its byte `anchor` lies at an aligned address: tensors
    /// can then be used where they were received.
    pub fn new(size: usize, anchor: usize) -> Self {
        let mut memory = Vec::with_capacity(size + ALIGNMENT - 1);
        let address = memory.as_ptr() as usize + anchor;
        let start = address.next_multiple_of(ALIGNMENT) - address;
        memory.resize(start, 0);
        Self {
            memory,
            start,
            end: start + size,
        }
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.end - self.memory.len()
    }

    /// Append; the caller has checked that there is room.
    pub fn extend(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "the buffer would have to move");
        self.memory.extend_from_slice(bytes);
    }

    /// Where the next bytes go.
    pub fn spare(&mut self) -> Limit<&mut Vec<u8>> {
        let room = self.room();
        (&mut self.memory).limit(room)
    }

    pub fn freeze(self) -> Bytes {
        Bytes::from(self.memory).slice(self.start..)
    }
}

impl From<Vec<u8>> for Buffer {
    /// A full one.
    fn from(memory: Vec<u8>) -> Self {
        let end = memory.len();
        Self {
            memory,
            start: 0,
            end,
        }
    }
}

/// The same bytes at an address that suits the datatype: themselves, or, when a client's layout put
/// them askew, a copy.
pub fn aligned(data: Bytes, datatype: Datatype) -> Bytes {
    if is_aligned(&data, datatype) {
        return data;
    }
    let mut buffer = Buffer::new(data.len(), 0);
    buffer.extend(&data);
    buffer.freeze()
}

pub fn is_aligned(data: &[u8], datatype: Datatype) -> bool {
    let size = datatype.size().unwrap_or(1);
    data.is_empty() || (data.as_ptr() as usize).is_multiple_of(size)
}

/// Tensors of equal inner shape laid one after another along the first dimension.
pub fn concatenate(parts: &[&Tensor]) -> Tensor {
    let mut shape = parts[0].shape.clone();
    shape[0] = parts.iter().map(|part| part.shape[0]).sum();
    let mut buffer = Buffer::new(parts.iter().map(|part| part.data.len()).sum(), 0);
    for part in parts {
        buffer.extend(&part.data);
    }
    Tensor {
        shape,
        data: buffer.freeze(),
    }
}

/// Cut a tensor along its first dimension into parts of the given rows, sharing its memory. `None` when
/// the rows are not the tensor's.
pub fn split(tensor: &Tensor, datatype: Datatype, rows: &[i64]) -> Option<Vec<Tensor>> {
    let total: i64 = rows.iter().sum();
    if tensor.shape.first() != Some(&total) {
        return None;
    }
    let row_elements = elements(&tensor.shape[1..])?;
    let mut rest = tensor.data.clone();
    let mut parts = Vec::with_capacity(rows.len());
    for &count in rows {
        let count_elements = row_elements.checked_mul(usize::try_from(count).ok()?)?;
        let length = match datatype.size() {
            Some(size) => count_elements.checked_mul(size)?,
            None => bytes_length(&rest, count_elements)?,
        };
        if length > rest.len() {
            return None;
        }
        let mut shape = tensor.shape.clone();
        shape[0] = count;
        parts.push(Tensor {
            shape,
            data: rest.split_to(length),
        });
    }
    rest.is_empty().then_some(parts)
}

/// The bytes that the first `count` BYTES elements take; `None` when there are fewer, or one of them
/// reaches beyond the end.
pub fn bytes_length(data: &[u8], count: usize) -> Option<usize> {
    let mut position = 0usize;
    for _ in 0..count {
        position += 4 + bytes_element(data, position)?.len();
    }
    Some(position)
}

/// The BYTES element whose length lies at `position`.
pub fn bytes_element(data: &[u8], position: usize) -> Option<&[u8]> {
    let (length, rest) = data.get(position..)?.split_first_chunk::<4>()?;
    rest.get(..u32::from_le_bytes(*length) as usize)
}

/// The elements of a BYTES tensor that is known to be well formed.
pub fn bytes_elements(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut position = 0;
    std::iter::from_fn(move || {
        let element = bytes_element(data, position)?;
        position += 4 + element.len();
        Some(element)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn element_counts_do_not_overflow() {
        assert_eq!(elements(&[]), Some(1));
        assert_eq!(elements(&[2, 3]), Some(6));
        assert_eq!(elements(&[2, -1]), None);
        assert_eq!(elements(&[i64::MAX, i64::MAX]), None);
        assert_eq!(elements(&[1 << 32, 1 << 32]), None);
    }

    #[test]
    fn truncated_bytes_elements_are_seen() {
        assert_eq!(bytes_length(b"\x01\0\0\0a\x02\0\0\0bc", 2), Some(11));
        assert_eq!(bytes_length(b"\x01\0\0\0a\x02\0\0\0b", 2), None);
        assert_eq!(bytes_length(b"\xff\xff\xff\xffa", 1), None);
        assert_eq!(bytes_length(b"\x01\0\0", 1), None);
    }

    proptest! {
        #[test]
        fn a_buffer_anchors_where_it_was_asked(size in 0usize..300, anchor in 0usize..300, fill in any::<u8>()) {
            let anchor = anchor.min(size);
            let mut buffer = Buffer::new(size, anchor);
            buffer.extend(&vec![fill; size]);
            prop_assert_eq!(buffer.room(), 0);
            let bytes = buffer.freeze();
            prop_assert_eq!(&bytes[..], &vec![fill; size][..]);
            prop_assert!((bytes.as_ptr() as usize + anchor).is_multiple_of(ALIGNMENT));
        }

        #[test]
        fn what_is_joined_comes_apart_again(rows in prop::collection::vec(1i64..5, 1..6), width in 1usize..4) {
            let parts: Vec<Tensor> = rows
                .iter()
                .map(|&count| Tensor {
                    shape: vec![count, width as i64],
                    data: Bytes::from(vec![count as u8; count as usize * width * 4]),
                })
                .collect();
            let joined = concatenate(&parts.iter().collect::<Vec<_>>());
            prop_assert_eq!(split(&joined, Datatype::Fp32, &rows), Some(parts));
            prop_assert_eq!(split(&joined, Datatype::Fp32, &[1000]), None);
        }

        #[test]
        fn strings_come_apart_again(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..9)) {
            let parts: Vec<Tensor> = words
                .iter()
                .map(|word| {
                    let mut data = (word.len() as u32).to_le_bytes().to_vec();
                    data.extend_from_slice(word);
                    Tensor { shape: vec![1], data: Bytes::from(data) }
                })
                .collect();
            let joined = concatenate(&parts.iter().collect::<Vec<_>>());
            prop_assert!(bytes_elements(&joined.data).eq(words.iter().map(Vec::as_slice)));
            prop_assert_eq!(split(&joined, Datatype::Bytes, &vec![1; words.len()]), Some(parts));
        }
    }
}
