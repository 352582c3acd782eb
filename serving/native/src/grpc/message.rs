//! gRPC's framing: each message after five bytes, a flag and a length, compressed or not.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body;
use hyper::HeaderMap;
use hyper::body::Incoming;
use prost::Message;

use crate::allowance::{Allowance, Share};
use crate::aside::{LARGE, aside};
use crate::body;
use crate::bounds;
use crate::compression::{self, Encoding};
use crate::error::{Failure, Result};
use crate::patience::Patience;
use crate::proto::ModelInferRequest;
use crate::state::State;
use crate::tensor::Buffer;

const PREFIX: usize = 5;

/// The encoding of a call's compressed messages.
pub fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>> {
    match headers.get("grpc-encoding") {
        None => Ok(None),
        Some(name) => Encoding::of(name.to_str().unwrap_or("?")),
    }
}

/// Whether a message is compressed, and its length.
fn head(prefix: [u8; PREFIX], limit: usize) -> Result<(bool, usize)> {
    let [flag, length @ ..] = prefix;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(body::too_large(length as u64, limit));
    }
    match flag {
        0 => Ok((false, length)),
        1 => Ok((true, length)),
        _ => Err(Failure::invalid("the message has an unknown flag")),
    }
}

async fn decompressed(
    message: Bytes,
    compressed: bool,
    encoding: Option<Encoding>,
    limit: usize,
    share: Share,
) -> Result<Bytes> {
    match (compressed, encoding) {
        (false, _) => Ok(message),
        (true, Some(encoding)) => compression::decompress(encoding, message, limit, share).await,
        (true, None) => Err(Failure::invalid(
            "the message is compressed, but grpc-encoding does not say how",
        )),
    }
}

/// Read the one message of a unary call into one buffer. Its end is aligned: raw contents lie there.
pub async fn read(
    state: &State,
    mut body: Incoming,
    encoding: Option<Encoding>,
    limit: usize,
) -> Result<Bytes> {
    let mut share = state.inflight.share();
    let mut patience = Patience::new(state.patience);
    let mut start = BytesMut::new();
    while start.len() < PREFIX {
        match body::next(&mut body, &mut share, &mut patience).await? {
            Some(data) => start.extend_from_slice(&data),
            None => return Err(Failure::invalid("the call has no complete message")),
        }
    }
    let (compressed, length) = head([start[0], start[1], start[2], start[3], start[4]], limit)?;
    let mut buffer = Buffer::new(length, length);
    let mut data = start.split_off(PREFIX).freeze();
    loop {
        if data.len() > buffer.room() {
            return Err(Failure::invalid(
                "a unary call has one message, this one has more",
            ));
        }
        buffer.extend(&data);
        match body::next(&mut body, &mut share, &mut patience).await? {
            Some(more) => data = more,
            None => break,
        }
    }
    if buffer.room() > 0 {
        return Err(Failure::invalid("the message is shorter than announced"));
    }
    let unpacked = share.split();
    decompressed(
        unpacked.pay(buffer.freeze()),
        compressed,
        encoding,
        limit,
        share,
    )
    .await
}

/// The messages of a stream, one after another.
pub struct Messages<B = Incoming> {
    body: B,
    received: BytesMut,
    encoding: Option<Encoding>,
    limit: usize,
    /// What the bytes received so far take.
    share: Share,
    allowance: Arc<Allowance>,
    /// For a message that has begun.
    patience: Patience,
    /// A message that was taken off `received`, and is being decompressed.
    unpacking: Option<Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>>,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    pub fn new(
        body: B,
        encoding: Option<Encoding>,
        limit: usize,
        allowance: &Arc<Allowance>,
        patience: Duration,
    ) -> Self {
        Self {
            body,
            received: BytesMut::new(),
            encoding,
            limit,
            share: allowance.share(),
            allowance: Arc::clone(allowance),
            patience: Patience::new(patience),
            unpacking: None,
        }
    }

    /// The next message; `None` at the end. Nothing is lost when this is dropped before it is done; between
    /// messages it waits for as long as the client likes.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(unpacking) = &mut self.unpacking {
                let message = unpacking.await;
                self.unpacking = None;
                return message.map(Some);
            }
            if let Some(prefix) = self.received.first_chunk::<PREFIX>() {
                let (compressed, length) = head(*prefix, self.limit)?;
                if self.received.len() >= PREFIX + length {
                    self.patience.renew();
                    self.received.advance(PREFIX);
                    let message = self.received.split_to(length).freeze();
                    // What is left would keep the memory of the message.
                    if self.received.len() <= length {
                        self.received = BytesMut::from(&self.received[..]);
                    }
                    let message = self.share.split().pay(message);
                    if !compressed {
                        return Ok(Some(message));
                    }
                    self.unpacking = Some(Box::pin(decompressed(
                        message,
                        compressed,
                        self.encoding,
                        self.limit,
                        self.allowance.share(),
                    )));
                    continue;
                }
            }
            let data = if self.received.is_empty() {
                let body = &mut self.body;
                match std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
                {
                    None => None,
                    Some(Ok(frame)) => {
                        let data = frame.into_data().unwrap_or_default();
                        self.share.take(data.len())?;
                        Some(data)
                    }
                    Some(Err(error)) => {
                        return Err(Failure::invalid(format!("the stream broke off: {error}")));
                    }
                }
            } else {
                body::next(&mut self.body, &mut self.share, &mut self.patience).await?
            };
            match data {
                Some(data) => self.received.extend_from_slice(&data),
                None if self.received.is_empty() => return Ok(None),
                None => {
                    return Err(Failure::invalid(
                        "the last message is shorter than announced",
                    ));
                }
            }
        }
    }
}

pub fn decode<M: Message + Default>(bytes: Bytes) -> Result<M> {
    M::decode(bytes)
        .map_err(|error| Failure::invalid(format!("failed to parse the message: {error}")))
}

/// A request that was decoded.
pub struct Decoded {
    pub request: ModelInferRequest,
    /// What it takes beside its message.
    pub memory: Share,
    /// How many bytes that is.
    pub weight: usize,
}

/// A request, unless it asks for more than its bytes are worth, or than there is.
pub async fn decode_infer(bytes: Bytes, allowance: &Arc<Allowance>) -> Result<Decoded> {
    let long = match bytes.len() < LARGE {
        true => 0,
        false => bounds::work(&bytes),
    };
    let allowance = Arc::clone(allowance);
    aside(long, move || {
        let weight = bounds::weigh(&bytes)?;
        let memory = allowance.reserve(weight)?;
        Ok(Decoded {
            request: decode(bytes)?,
            memory,
            weight,
        })
    })
    .await
}

pub fn encode<M: Message>(message: &M) -> Vec<Bytes> {
    vec![Bytes::from(message.encode_to_vec())]
}

/// A message's parts with its prefix, compressed if that is wanted and worth it.
pub async fn framed(parts: Vec<Bytes>, encoding: Option<Encoding>) -> Result<Vec<Bytes>> {
    let size = parts.iter().map(Bytes::len).sum();
    let (flag, parts) = match encoding {
        Some(encoding) if size >= compression::WORTHWHILE => {
            let packed = aside(size, move || encoding.compress(&parts)).await?;
            (1, vec![packed])
        }
        _ => (0, parts),
    };
    let length: usize = parts.iter().map(Bytes::len).sum();
    let length = u32::try_from(length)
        .map_err(|_| Failure::invalid("the outputs are larger than a message can be"))?;
    let mut prefix = BytesMut::with_capacity(PREFIX);
    prefix.put_u8(flag);
    prefix.put_u32(length);
    Ok(std::iter::once(prefix.freeze()).chain(parts).collect())
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use tokio::sync::mpsc;

    use super::*;
    use crate::body::Reply;

    fn messages(encoding: Option<Encoding>) -> (mpsc::Sender<Frame<Bytes>>, Messages<Reply>) {
        let (sender, frames) = mpsc::channel(16);
        let body = Reply::stream(frames);
        let allowance = Allowance::new(1 << 30);
        let patience = Duration::from_secs(10);
        let messages = Messages::new(body, encoding, 1 << 30, &allowance, patience);
        (sender, messages)
    }

    async fn send(sender: &mpsc::Sender<Frame<Bytes>>, data: &Bytes, encoding: Option<Encoding>) {
        let parts = framed(vec![data.clone()], encoding).await.unwrap();
        let frame = Frame::data(Bytes::from(parts.concat()));
        sender.send(frame).await.unwrap();
    }

    #[test]
    fn a_message_that_is_being_decompressed_is_not_lost() {
        let gzip = Some(Encoding::Gzip);
        let mut random = 7u64;
        let data = Bytes::from_iter((0..1 << 16).map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 56) as u8
        }));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (sender, mut messages) = messages(gzip);
            for _ in 0..3 {
                send(&sender, &data, gzip).await;
                // The only thread that could decompress is busy until the call has been given up.
                let (busy, until) = std::sync::mpsc::channel::<()>();
                let thread = tokio::task::spawn_blocking(move || until.recv());
                tokio::select! {
                    biased;
                    _ = messages.next() => panic!("nobody could decompress it"),
                    () = std::future::ready(()) => drop(busy),
                }
                assert!(thread.await.unwrap().is_err());
                let next = tokio::time::timeout(Duration::from_secs(10), messages.next());
                assert_eq!(next.await.unwrap().unwrap(), Some(data.clone()));
            }
            drop(sender);
            assert_eq!(messages.next().await.unwrap(), None);
        });
    }

    /// What weighs nothing in the end is looked at, too.
    #[test]
    fn much_is_weighed_and_decoded_aside() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (busy, until) = std::sync::mpsc::channel::<()>();
            let thread = tokio::task::spawn_blocking(move || until.recv());
            let raw = ModelInferRequest {
                raw_input_contents: vec![Bytes::from(vec![0; LARGE])],
                ..Default::default()
            };
            let unknown = Bytes::from([0x78, 5].repeat(LARGE / 2));
            let allowance = Allowance::new(usize::MAX);
            for (message, inline) in [(Bytes::from(raw.encode_to_vec()), true), (unknown, false)] {
                tokio::select! {
                    biased;
                    done = decode_infer(message, &allowance) => {
                        assert!(done.is_ok() && inline);
                    }
                    () = std::future::ready(()) => assert!(!inline),
                }
            }
            drop(busy);
            assert!(thread.await.unwrap().is_err());
        });
    }

    #[tokio::test]
    async fn a_stream_does_not_hold_on_to_its_largest_message() {
        const LARGE: usize = 1 << 20;
        let (sender, mut messages) = messages(None);
        for rest in [0, 3] {
            let large = framed(vec![Bytes::from(vec![7; LARGE])], None)
                .await
                .unwrap();
            let small = framed(vec![Bytes::from_static(b"small")], None)
                .await
                .unwrap();
            let (large, small) = (large.concat(), small.concat());
            let together = [&large, &small[..rest]].concat();
            for part in [Bytes::from(together), Bytes::from(small).slice(rest..)] {
                sender.send(Frame::data(part)).await.unwrap();
            }
            assert_eq!(messages.next().await.unwrap().unwrap().len(), LARGE);
            assert!(!messages.received.try_reclaim(LARGE / 2), "{rest}");
            assert_eq!(&messages.next().await.unwrap().unwrap()[..], b"small");
        }
    }
}
