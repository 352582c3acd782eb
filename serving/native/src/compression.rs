//! Compressed bodies and messages: gzip, and what HTTP calls deflate, which is zlib's format.
//!
//! What is decompressed is bounded while it grows, so a small body that claims to be a huge one costs no
//! more than the largest request that is allowed.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::body;
use crate::error::{Failure, Result};

/// What the replies to unknown encodings say is known.
pub const KNOWN: &str = "gzip, deflate";

/// Replies below this size are sent as they are: compressing them costs more than it saves.
pub const WORTHWHILE: usize = 1024;

/// From this size on (compressed or not) it is done on a thread of its own.
const ASIDE: usize = 16 * 1024;

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
                name.escape_default()
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

    pub fn decompress(self, compressed: &[u8], limit: usize) -> Result<Bytes> {
        match self {
            Self::Gzip => read(MultiGzDecoder::new(compressed), limit),
            Self::Deflate => {
                let mut decoder = ZlibDecoder::new(compressed);
                let data = read(&mut decoder, limit)?;
                if decoder.total_in() != compressed.len() as u64 {
                    return Err(Failure::invalid(
                        "the compressed body goes on after its own end",
                    ));
                }
                Ok(data)
            }
        }
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

/// Do work on `size` bytes, where it holds up no other request when it is much.
pub async fn aside<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if size < ASIDE {
        return work();
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::internal(error.to_string()))?
}

fn read(decoder: impl Read, limit: usize) -> Result<Bytes> {
    let mut data = Vec::new();
    // One byte more than is allowed tells a body that is too large from one that is just large enough.
    decoder
        .take(limit as u64 + 1)
        .read_to_end(&mut data)
        .map_err(|error| Failure::invalid(format!("the body cannot be decompressed: {error}")))?;
    if data.len() > limit {
        return Err(body::too_large(data.len() as u64, limit));
    }
    Ok(Bytes::from(data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use proptest::prelude::*;

    const BOTH: [Encoding; 2] = [Encoding::Gzip, Encoding::Deflate];

    #[test]
    fn a_bomb_costs_no_more_than_the_limit() {
        let zeros = Bytes::from(vec![0; 1 << 20]);
        for encoding in BOTH {
            let bomb = encoding.compress([&zeros]).unwrap();
            assert!(bomb.len() < 20_000);
            let failure = encoding.decompress(&bomb, 1000).unwrap_err();
            assert_eq!(failure.code, Code::TooLarge);
            assert_eq!(encoding.decompress(&bomb, 1 << 20).unwrap(), zeros);
        }
    }

    #[test]
    fn broken_streams_are_refused() {
        for encoding in BOTH {
            let whole = encoding.compress([&Bytes::from_static(b"hello")]).unwrap();
            assert!(encoding.decompress(&whole[..whole.len() - 1], 99).is_err());
            assert!(
                encoding
                    .decompress(&[&whole, &b"x"[..]].concat(), 99)
                    .is_err()
            );
            assert!(encoding.decompress(b"", 99).is_err());
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
                prop_assert_eq!(encoding.decompress(&compressed, 2500).unwrap(), parts.concat());
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
                if let Ok(decompressed) = encoding.decompress(&data, limit) {
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
