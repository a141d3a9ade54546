//! How bodies are read to their ends.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame};

use crate::message::media_type::field;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// The trailers of a request: the layer reads them together with the body, and puts
/// them into the extensions of the request that the service gets.
#[derive(Clone, Debug)]
pub struct RequestTrailers(pub HeaderMap);

/// A body that was read to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct FullBody {
    pub(crate) data: Bytes,
    /// Boxed, because hardly any message has trailers.
    pub(crate) trailers: Option<Box<HeaderMap>>,
}

/// A body of no more bytes is copied when it is recorded, which costs less than to find out
/// whether it is alone in its allocation.
pub(crate) const SMALL: usize = 64 << 10;

/// After so many frames in one poll, the task yields to others.
pub(crate) const TURN: usize = 256;

/// The part of a body that was read so far.
#[derive(Default)]
pub(crate) struct BodyBuffer {
    /// Data of fewer bytes are copied at once, since more are to come: a frame can be a slice of a
    /// buffer many times its size.
    least_kept: usize,
    /// The number of bytes that are to come, if it is known.
    length: usize,
    first: Bytes,
    all: BytesMut,
    trailers: Option<Box<HeaderMap>>,
}

impl BodyBuffer {
    /// For a body that stays here for long. It takes as much memory as it has bytes, also while it
    /// is read.
    pub(crate) fn of_length(length: Option<usize>) -> Self {
        Self {
            least_kept: length.unwrap_or(usize::MAX),
            length: length.unwrap_or(0),
            ..Self::default()
        }
    }

    /// Reads on, and resolves to `true` at the body's end, or to `false` once `admit`
    /// has returned `false` for a frame. The data of that frame is kept.
    pub(crate) fn poll_from<B>(
        &mut self,
        mut body: Pin<&mut B>,
        mut admit: impl FnMut(usize) -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, BoxError>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        for _ in 0..TURN {
            let frame = match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Ok(true)),
            };
            match frame.into_data() {
                Ok(data) => {
                    let admitted = admit(data.remaining());
                    self.push(data);
                    if !admitted {
                        return Poll::Ready(Ok(false));
                    }
                }
                Err(frame) => {
                    // A frame that is neither data nor trailers is one that HTTP does
                    // not know today: it is dropped.
                    if let Ok(fields) = frame.into_trailers() {
                        self.add_trailers(fields);
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(crate) fn push(&mut self, mut data: impl Buf) {
        if self.first.is_empty() && self.all.is_empty() {
            if data.remaining() >= self.least_kept {
                self.first = data.copy_to_bytes(data.remaining());
                return;
            }
            self.all.reserve(self.length);
        }
        if !self.first.is_empty() {
            self.all.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            self.all.extend_from_slice(chunk);
            let len = chunk.len();
            data.advance(len);
        }
    }

    /// The body so far.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // One of the two is empty.
        if self.all.is_empty() {
            &self.first
        } else {
            &self.all
        }
    }

    /// The length of the data, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn add_trailers(&mut self, fields: HeaderMap) {
        self.trailers
            .get_or_insert_with(Box::default)
            .extend(fields);
    }

    /// The body so far, as one slice.
    pub(crate) fn joined(self) -> FullBody {
        FullBody {
            data: if self.all.is_empty() {
                self.first
            } else {
                self.all.freeze()
            },
            trailers: self.trailers,
        }
    }

    /// The body so far, as one slice that is alone in its allocation.
    pub(crate) fn alone(self) -> FullBody {
        let is_copied = self.first.is_empty();
        let FullBody { data, trailers } = self.joined();
        let data = if data.len() > SMALL || is_copied {
            alone(data)
        } else {
            Bytes::copy_from_slice(&data)
        };
        FullBody { data, trailers }
    }

    /// The body of a response that may be recorded. Data of more than [`SMALL`] bytes are
    /// alone in their allocation; a record copies smaller ones.
    pub(crate) fn whole(self) -> FullBody {
        let FullBody { data, trailers } = self.joined();
        let data = if data.len() > SMALL {
            alone(data)
        } else {
            data
        };
        FullBody { data, trailers }
    }
}

/// A body that was read, with data that are alone in their allocation.
impl From<FullBody> for BodyBuffer {
    fn from(FullBody { data, trailers }: FullBody) -> Self {
        Self {
            all: data.into(),
            trailers,
            ..Self::default()
        }
    }
}

/// The same bytes, in an allocation that holds nothing else and has no room to spare. Bytes
/// can be a slice of a buffer many times their size, and whoever kept them would keep the
/// whole buffer.
fn alone(data: Bytes) -> Bytes {
    // Only a slice of a buffer that something else holds too is copied here. The vector
    // shows how large the allocation is, which `Bytes` does not.
    shrunk(Vec::from(data))
}

/// The same bytes, in an allocation with hardly any room to spare.
pub(crate) fn shrunk(mut data: Vec<u8>) -> Bytes {
    if data.capacity() - data.len() > data.len() / 16 {
        data.shrink_to_fit();
    }
    Bytes::from(data)
}

/// The value of `Content-Length`, in bytes.
pub(crate) fn announced_length(headers: &HeaderMap) -> Option<u64> {
    let length = field(headers, &CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// The frame with its data as [`Bytes`]. Data that are `Bytes` already are not
/// copied.
pub(crate) fn as_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;

    use super::*;

    /// A body of so many more bytes, a frame each, that are all there.
    struct Ready(usize);

    impl Body for Ready {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let left = self.0.checked_sub(1);
            Poll::Ready(left.map(|left| {
                self.0 = left;
                Ok(Frame::data(Bytes::from_static(b"x")))
            }))
        }
    }

    /// Without a wake-up for the next turn its reader would wait for ever.
    #[tokio::test]
    async fn a_body_that_is_always_ready_is_read_in_turns() {
        for (frames, turns) in [(3 * TURN, 4), (4 * TURN - 1, 4)] {
            let mut body = Ready(frames);
            let (mut read, mut polls) = (BodyBuffer::default(), 0);
            let reading = poll_fn(|cx| {
                polls += 1;
                read.poll_from(Pin::new(&mut body), |_| true, cx)
            });
            let limit = std::time::Duration::from_secs(10);
            let ended = tokio::time::timeout(limit, reading).await;
            assert!(ended.expect("it goes on by itself").unwrap());
            assert_eq!((read.len(), polls), (frames, turns));
        }
    }

    #[test]
    fn only_a_large_body_is_copied_out_of_a_buffer_that_others_hold() {
        let buffer = Bytes::from(vec![b'x'; 4 * SMALL]);
        for (length, is_alone) in [(1, false), (SMALL, false), (SMALL + 1, true)] {
            let mut read = BodyBuffer::default();
            read.push(buffer.slice(..length));
            let data = read.whole().data;
            assert_eq!((data.len(), data.is_unique()), (length, is_alone));
        }
    }

    #[test]
    fn of_the_room_in_an_allocation_a_sixteenth_of_the_data_stays() {
        const LENGTH: usize = 3840;
        for (room, left) in [(0, 0), (1, 1), (240, 240), (241, 0), (4000, 0)] {
            let mut data = Vec::with_capacity(LENGTH + room);
            data.resize(LENGTH, b'x');
            let alone = Vec::from(alone(Bytes::from(data)));
            assert_eq!((alone.len(), alone.capacity()), (LENGTH, LENGTH + left));
        }
    }
}
