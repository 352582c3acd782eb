//! Where the frames of an HTTP/2 connection begin and end, as far as it takes to know whether the client owes
//! the rest of something that it has begun. Pure.

const PREFACE: u64 = 24;
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows what arrives.
#[derive(Debug)]
pub struct Frames {
    /// Bytes that are left of the frame, or of the preface.
    left: u64,
    head: [u8; HEAD],
    /// How much of the next frame's head is there.
    length: usize,
    /// A block of headers goes on in the next frame.
    goes_on: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            left: PREFACE,
            head: [0; HEAD],
            length: 0,
            goes_on: false,
        }
    }
}

impl Frames {
    /// Whether all that was begun has arrived.
    pub fn whole(&self) -> bool {
        self.left == 0 && self.length == 0 && !self.goes_on
    }

    /// Take note of what has arrived.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = bytes
                .len()
                .min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= skipped as u64;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(HEAD - self.length);
            self.head[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
            self.length += taken;
            bytes = &bytes[taken..];
            if self.length == HEAD {
                self.begin();
            }
        }
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]).into();
        self.length = 0;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.goes_on = flags & END_HEADERS == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![kind; payload]].concat()
    }

    #[test]
    fn headers_end_with_their_block() {
        let mut frames = Frames::default();
        assert!(!frames.whole(), "the preface is owed");
        frames.feed(START);
        assert!(frames.whole());
        frames.feed(&frame(HEADERS, 1, 5));
        assert!(!frames.whole());
        frames.feed(&frame(CONTINUATION, 0, 0));
        assert!(!frames.whole());
        frames.feed(&frame(CONTINUATION, END_HEADERS, 3));
        assert!(frames.whole());
    }

    proptest! {
        #[test]
        fn in_any_pieces(
            kinds in prop::collection::vec((0u8..11, 0usize..70_000), 0..5),
            size in 1usize..40_000,
            cut in 1usize..9,
        ) {
            let frames: Vec<Vec<u8>> = kinds.iter().map(|&(kind, size)| frame(kind, END_HEADERS, size)).collect();
            let text = [START, &frames.concat()].concat();
            let mut whole = Frames::default();
            for piece in text.chunks(size) {
                whole.feed(piece);
            }
            prop_assert!(whole.whole());
            let mut short = Frames::default();
            short.feed(&text[..text.len() - cut]);
            prop_assert!(!short.whole() || kinds.last().is_some_and(|&(_, size)| size + HEAD == cut));
        }
    }
}
