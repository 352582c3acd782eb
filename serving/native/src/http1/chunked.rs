//! The chunked coding of a request's body. Pure.
//!
//! Strict, like the head: sizes are hexadecimal digits and nothing else, lines end in CRLF, and what a chunk
//! has beside its data is bounded.

use bytes::{Buf, BytesMut};

/// Bytes of extensions and trailers, of all chunks together.
const MAX_EXTRA: usize = 16 * 1024;
/// A body of tiny chunks costs more to read than it is worth.
const MAX_CHUNKS: usize = 1 << 17;
/// Of a size, leading zeros included.
const MAX_DIGITS: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Start,
    /// With so many digits.
    Size(u64, u8),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a line after the last chunk.
    Trailers,
    Trailer,
    TrailerEnd,
    End,
    Done,
}

#[derive(Debug)]
pub struct Chunks {
    state: State,
    extra: usize,
    chunks: usize,
}

/// What the beginning of the input is.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// This many bytes of data.
    Data(usize),
    /// Nothing yet: more has to come.
    Wanting,
    /// The end of the body has been taken off.
    End,
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            state: State::Start,
            extra: 0,
            chunks: 0,
        }
    }
}

impl Chunks {
    /// Take off what lies before the next data. After `Data`, the caller takes off those bytes.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Piece, &'static str> {
        loop {
            match self.state {
                State::Done => return Ok(Piece::End),
                State::Data(left) if !input.is_empty() => {
                    let length = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.state = match left - length as u64 {
                        0 => State::DataCr,
                        left => State::Data(left),
                    };
                    return Ok(Piece::Data(length));
                }
                _ => {}
            }
            let Some(&byte) = input.first() else {
                return Ok(Piece::Wanting);
            };
            input.advance(1);
            self.state = self.after(byte)?;
        }
    }

    fn after(&mut self, byte: u8) -> Result<State, &'static str> {
        let digit = (byte as char).to_digit(16).map(u64::from);
        Ok(match (self.state, byte) {
            (State::Start, _) => match digit {
                Some(digit) => {
                    self.chunks += 1;
                    if self.chunks > MAX_CHUNKS {
                        return Err("the body has too many chunks");
                    }
                    State::Size(digit, 1)
                }
                None => return Err("a chunk's size must be hexadecimal digits"),
            },
            (State::Size(size, _), b'\r') => State::SizeEnd(size),
            (State::Size(size, _), b';') => State::Extension(size),
            (State::Size(size, digits), _) => match digit {
                Some(digit) if digits < MAX_DIGITS => State::Size(size << 4 | digit, digits + 1),
                Some(_) => return Err("a chunk's size is beyond reason"),
                None => return Err("a chunk's size must be hexadecimal digits"),
            },
            (State::Extension(size), b'\r') => State::SizeEnd(size),
            (State::Extension(_) | State::Trailer | State::Trailers, b'\n') => {
                return Err("a line of the chunked body does not end in CRLF");
            }
            (State::Extension(size), _) => {
                self.spend()?;
                State::Extension(size)
            }
            (State::SizeEnd(0), b'\n') => State::Trailers,
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Start,
            (State::Trailers, b'\r') => State::End,
            (State::Trailer, b'\r') => State::TrailerEnd,
            (State::Trailers | State::Trailer, _) => {
                self.spend()?;
                State::Trailer
            }
            (State::TrailerEnd, b'\n') => State::Trailers,
            (State::End, b'\n') => State::Done,
            (State::DataCr | State::DataLf, _) => {
                return Err("a chunk's data do not end where its size says");
            }
            _ => return Err("a line of the chunked body does not end in CRLF"),
        })
    }

    fn spend(&mut self) -> Result<(), &'static str> {
        self.extra += 1;
        match self.extra > MAX_EXTRA {
            true => Err("the body's chunks have too much beside their data"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body's data, and what follows it, when it arrives in pieces of this size.
    fn decoded(text: &[u8], size: usize) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
        let (mut chunks, mut input, mut data) = (Chunks::default(), BytesMut::new(), Vec::new());
        let mut arriving = text.chunks(size);
        loop {
            match chunks.next(&mut input)? {
                Piece::Data(length) => data.extend_from_slice(&input.split_to(length)),
                Piece::End => return Ok(Some((data, input.len() + arriving.flatten().count()))),
                Piece::Wanting => match arriving.next() {
                    Some(more) => input.extend_from_slice(more),
                    None => return Ok(None),
                },
            }
        }
    }

    #[test]
    fn extensions_and_trailers_are_passed_over() {
        let text = b"5;a=\"b\"\r\nhello\r\nA\r\n, world 12\r\n0;x\r\nT: u\r\nV: w\r\n\r\nGET";
        for size in 1..text.len() {
            let data = b"hello, world 12".to_vec();
            assert_eq!(decoded(text, size), Ok(Some((data, 3))), "{size}");
        }
        assert_eq!(decoded(b"0\r\n\r\n", 1), Ok(Some((vec![], 0))));
        let padded = b"0000000000000001\r\nx\r\n0\r\n\r\n";
        assert_eq!(decoded(padded, 64), Ok(Some((b"x".to_vec(), 0))));
    }

    #[test]
    fn what_is_not_exactly_right_is_refused() {
        let texts: &[&[u8]] = &[
            b"\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"1\n",
            b"g\r\n",
            b";\r\n",
            b"1;a\nb",
            b"1\r\nab",
            b"1\r\na\n",
            b"1\r\na\rb",
            b"10000000000000000\r\n",
            b"ffffffffffffffffff\r\n",
            b"00000000000000001\r\n",
            b"0\r\nT: u\n",
            b"0\r\n\n",
            b"0\r\n\rx",
        ];
        for text in texts {
            assert!(decoded(text, 64).is_err(), "{:?}", text.escape_ascii());
        }
        let long = [b"1;", vec![b'x'; MAX_EXTRA + 1].as_slice()].concat();
        assert!(decoded(&long, 64).is_err());
        let many = b"1\r\nx\r\n".repeat(MAX_CHUNKS + 1);
        assert!(decoded(&many, 4096).is_err());
    }

    proptest! {
        #[test]
        fn any_body_in_any_pieces(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8), size in 1usize..60) {
            let mut text = Vec::new();
            for part in &parts {
                text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                text.extend_from_slice(part);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decoded(&text, size), Ok(Some((parts.concat(), 0))));
        }

        #[test]
        fn nothing_panics(text in prop::collection::vec(prop::sample::select(b"0fF;\r\nx".to_vec()), 0..60)) {
            let _ = decoded(&text, 7);
        }
    }
}
