//! Compressed bodies and messages: gzip, and what HTTP calls deflate, which is zlib's format.
//!
//! What is decompressed is bounded while it grows, so a small body that claims to be a huge one costs no
//! more than the largest request that is allowed.

use std::io::{Read, Write};

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use flate2::Compression;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::allowance::Share;
use crate::aside::{LARGE, aside};
use crate::body;
use crate::error::{Failure, Result, shown};

/// What the replies to unknown encodings say is known.
pub const KNOWN: &str = "gzip, deflate";

/// Replies below this size are sent as they are: compressing them costs more than it saves.
pub const WORTHWHILE: usize = 1024;

/// Room for what is decompressed, to begin with.
const LEAST: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// The encoding that a header names; `None` for no encoding at all.
    pub fn of(name: &str) -> Result<Option<Self>> {
        let name = name.trim();
        if name.is_empty() || name.eq_ignore_ascii_case("identity") {
            Ok(None)
        } else if name.eq_ignore_ascii_case("gzip") {
            Ok(Some(Self::Gzip))
        } else if name.eq_ignore_ascii_case("deflate") {
            Ok(Some(Self::Deflate))
        } else {
            Err(Failure::unimplemented(format!(
                "encoding '{}' is not supported, use one of {KNOWN}",
                shown(name)
            )))
        }
    }

    /// The encoding that an Accept-Encoding header likes best, the first of equals; one that it does not
    /// name is not chosen.
    pub fn accepted(header: &str) -> Option<Self> {
        let mut best = None;
        let mut best_weight = 0.0;
        for item in header.split(',') {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = match parameters.trim().strip_prefix("q=") {
                Some(text) => text.trim().parse().unwrap_or(0.0),
                None => 1.0,
            };
            if let Ok(encoding) = Self::of(name)
                && weight > best_weight
            {
                best = encoding;
                best_weight = weight;
            }
        }
        best
    }

    /// What was compressed, of which the share has the memory.
    pub fn decompress(self, compressed: Bytes, limit: usize, share: Share) -> Result<Bytes> {
        let mut unpacking = Unpacking::new(self, compressed, limit, share);
        unpacking.run(usize::MAX)?;
        unpacking.finish()
    }

    /// Fast rather than small: the other end waits.
    pub fn compress<'a>(self, parts: impl IntoIterator<Item = &'a Bytes>) -> Result<Bytes> {
        let level = Compression::fast();
        let broken = |error: std::io::Error| Failure::internal(error.to_string());
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                for part in parts {
                    encoder.write_all(part).map_err(broken)?;
                }
                encoder.finish().map(Bytes::from).map_err(broken)
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                for part in parts {
                    encoder.write_all(part).map_err(broken)?;
                }
                encoder.finish().map(Bytes::from).map_err(broken)
            }
        }
    }
}

/// Decompress, aside when it turns out to be much: a few bytes can become as many as are allowed.
pub async fn decompress(
    encoding: Encoding,
    compressed: Bytes,
    limit: usize,
    share: Share,
) -> Result<Bytes> {
    let mut unpacking = Unpacking::new(encoding, compressed, limit, share);
    if unpacking.run(LARGE)? {
        return unpacking.finish();
    }
    aside(LARGE, move || {
        unpacking.run(usize::MAX)?;
        unpacking.finish()
    })
    .await
}

enum Decoder {
    Gzip(MultiGzDecoder<Reader<Bytes>>),
    Deflate(ZlibDecoder<Reader<Bytes>>),
}

/// A body that is being decompressed. Its memory is taken before it is filled.
struct Unpacking {
    decoder: Decoder,
    compressed: u64,
    data: Vec<u8>,
    limit: usize,
    share: Share,
}

impl Unpacking {
    fn new(encoding: Encoding, compressed: Bytes, limit: usize, share: Share) -> Self {
        Self {
            compressed: compressed.len() as u64,
            decoder: match encoding {
                Encoding::Gzip => Decoder::Gzip(MultiGzDecoder::new(compressed.reader())),
                Encoding::Deflate => Decoder::Deflate(ZlibDecoder::new(compressed.reader())),
            },
            data: Vec::new(),
            limit,
            share,
        }
    }

    /// Go on until there are so many bytes, or all. Whether it is all.
    fn run(&mut self, until: usize) -> Result<bool> {
        while self.data.len() < until {
            if self.data.len() > self.limit {
                return Err(body::too_large(self.data.len() as u64, self.limit));
            }
            // One byte more than is allowed tells a body that is too large from one that is just large enough.
            let most = self.limit.saturating_add(1);
            if self.data.len() == self.data.capacity() {
                self.share.grow(&mut self.data, LEAST, most)?;
            }
            let room = self.data.capacity().min(most) - self.data.len();
            let read = match &mut self.decoder {
                Decoder::Gzip(decoder) => decoder.take(room as u64).read_to_end(&mut self.data),
                Decoder::Deflate(decoder) => decoder.take(room as u64).read_to_end(&mut self.data),
            };
            let read = read.map_err(|error| {
                Failure::invalid(format!("the body cannot be decompressed: {error}"))
            })?;
            if read < room {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn finish(self) -> Result<Bytes> {
        match self.decoder {
            Decoder::Deflate(decoder) if decoder.total_in() != self.compressed => Err(
                Failure::invalid("the compressed body goes on after its own end"),
            ),
            _ => Ok(self.share.pay(Bytes::from(self.data))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowance::Allowance;
    use crate::error::Code;
    use proptest::prelude::*;

    fn unpacked(encoding: Encoding, data: &[u8], limit: usize) -> Result<Bytes> {
        let share = Allowance::new(usize::MAX).share();
        encoding.decompress(Bytes::copy_from_slice(data), limit, share)
    }

    const BOTH: [Encoding; 2] = [Encoding::Gzip, Encoding::Deflate];

    #[test]
    fn a_bomb_costs_no_more_than_the_limit() {
        let zeros = Bytes::from(vec![0; 1 << 20]);
        for encoding in BOTH {
            let bomb = encoding.compress([&zeros]).unwrap();
            assert!(bomb.len() < 20_000);
            let failure = unpacked(encoding, &bomb, 1000).unwrap_err();
            assert_eq!(failure.code, Code::TooLarge);
            assert_eq!(unpacked(encoding, &bomb, 1 << 20).unwrap(), zeros);
        }
    }

    /// What is packed in few bytes is long work, too, when it is much.
    #[test]
    fn much_is_decompressed_aside() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (busy, until) = std::sync::mpsc::channel::<()>();
            let thread = tokio::task::spawn_blocking(move || until.recv());
            for (size, inline) in [(LARGE / 2, true), (1 << 20, false)] {
                let packed = Encoding::Gzip
                    .compress([&Bytes::from(vec![0; size])])
                    .unwrap();
                assert!(packed.len() < LARGE / 4);
                let share = Allowance::new(usize::MAX).share();
                tokio::select! {
                    biased;
                    done = decompress(Encoding::Gzip, packed, 1 << 20, share) => {
                        assert_eq!(done.unwrap().len(), size);
                        assert!(inline);
                    }
                    () = std::future::ready(()) => assert!(!inline),
                }
            }
            drop(busy);
            assert!(thread.await.unwrap().is_err());
        });
    }

    #[test]
    fn a_bomb_has_to_find_room() {
        let zeros = Bytes::from(vec![0; 1 << 20]);
        for encoding in BOTH {
            let bomb = encoding.compress([&zeros]).unwrap();
            let allowance = Allowance::new(1 << 19);
            let failure = encoding.decompress(bomb.clone(), 1 << 20, allowance.share());
            assert_eq!(failure.unwrap_err().code, Code::Unavailable);
            assert!(allowance.reserve(1 << 19).is_ok(), "it is given back");
            let allowance = Allowance::new(1 << 21);
            let data = encoding
                .decompress(bomb, 1 << 20, allowance.share())
                .unwrap();
            assert!(allowance.reserve(1 << 21).is_err(), "it is held");
            drop(data);
            assert!(allowance.reserve(1 << 21).is_ok());
        }
    }

    #[test]
    fn broken_streams_are_refused() {
        for encoding in BOTH {
            let whole = encoding.compress([&Bytes::from_static(b"hello")]).unwrap();
            assert!(unpacked(encoding, &whole[..whole.len() - 1], 99).is_err());
            assert!(unpacked(encoding, &[&whole, &b"x"[..]].concat(), 99).is_err());
            assert!(unpacked(encoding, b"", 99).is_err());
        }
    }

    #[test]
    fn the_heaviest_encoding_is_chosen() {
        for (header, want) in [
            ("gzip", Some(Encoding::Gzip)),
            ("deflate, gzip", Some(Encoding::Deflate)),
            ("deflate;q=0.5, gzip;q=0.9", Some(Encoding::Gzip)),
            ("gzip;q=0", None),
            ("identity, gzip", None),
            ("identity;q=0.5, gzip", Some(Encoding::Gzip)),
            ("br, *", None),
            ("gzip;q=x", None),
            ("", None),
        ] {
            assert_eq!(Encoding::accepted(header), want, "{header}");
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..500), 0..5)) {
            let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
            for encoding in BOTH {
                let compressed = encoding.compress(&parts).unwrap();
                prop_assert_eq!(unpacked(encoding, &compressed, 2500).unwrap(), parts.concat());
            }
        }

        #[test]
        fn no_stream_panics_or_exceeds_the_limit(
            mut data in prop::collection::vec(any::<u8>(), 0..300),
            head in 0usize..3,
            limit in 0usize..1000,
        ) {
            // With a valid head the decoder gets to look at the rest.
            data.splice(..0, [&b""[..], b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x78\x9c"][head].iter().copied());
            for encoding in BOTH {
                if let Ok(decompressed) = unpacked(encoding, &data, limit) {
                    prop_assert!(decompressed.len() <= limit);
                }
            }
        }

        #[test]
        fn no_header_panics(header in ".{0,60}") {
            let _ = Encoding::accepted(&header);
            let _ = Encoding::of(&header);
        }
    }
}
