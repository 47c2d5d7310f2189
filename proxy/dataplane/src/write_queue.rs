//! Bytes on their way to a socket: small pieces copied together, large ones shared, written by one `writev`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use outrigger_http::HeaderName;
use tokio::io::AsyncWrite;

/// Above this a piece is shared instead of copied.
const COPY_BYTES_MAX: usize = 2048;
const SLICES_MAX: usize = 16;

/// A queue of bytes. Its owner looks at [`WriteQueue::len`] and stops producing above its limit.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    done: VecDeque<Bytes>,
    open: BytesMut,
    len: usize,
}

impl WriteQueue {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push_slice(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.open.extend_from_slice(bytes);
    }

    /// A field's line.
    pub(crate) fn push_field(&mut self, name: &HeaderName, value: &[u8]) {
        if let Some((start, length)) = name.line_start() {
            self.reserve(start.len() + value.len() + 2);
            self.len += length + value.len() + 2;
            // As many bytes for each name: that takes no call.
            let before = self.open.len();
            self.open.extend_from_slice(start);
            self.open.truncate(before + length);
        } else {
            let name = name.as_bytes();
            self.make_room(name.len() + value.len() + 4);
            self.open.extend_from_slice(name);
            self.open.extend_from_slice(b": ");
        }
        self.open.extend_from_slice(value);
        self.open.extend_from_slice(b"\r\n");
    }

    /// So many bytes follow.
    fn make_room(&mut self, bytes: usize) {
        self.len += bytes;
        self.reserve(bytes);
    }

    fn reserve(&mut self, bytes: usize) {
        if self.open.capacity() - self.open.len() < bytes {
            self.open.reserve(bytes.max(512));
        }
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            self.push_slice(&bytes);
            return;
        }
        self.len += bytes.len();
        if !self.open.is_empty() {
            self.done.push_back(self.open.split().freeze());
        }
        self.done.push_back(bytes);
    }

    /// A chunk's size line.
    pub(crate) fn push_chunk_size(&mut self, size: usize) {
        let mut line = [0; 18];
        let mut at = line.len() - 2;
        line[at..].copy_from_slice(b"\r\n");
        let mut rest = size;
        loop {
            at -= 1;
            line[at] = b"0123456789abcdef"[rest & 15];
            rest >>= 4;
            if rest == 0 {
                break;
            }
        }
        let (_, line) = line.split_at(at);
        self.push_slice(line);
    }

    pub(crate) fn clear(&mut self) {
        *self = WriteQueue::default();
    }

    /// Writes until the queue is empty or the peer takes no more.
    pub(crate) fn poll_write_to<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let written = if self.done.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.open))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let mut count = 0;
                for bytes in self.done.iter().take(SLICES_MAX - 1) {
                    slices[count] = IoSlice::new(bytes);
                    count += 1;
                }
                if self.done.len() < SLICES_MAX {
                    slices[count] = IoSlice::new(&self.open);
                    count += 1;
                }
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.consume(written);
        }
        Poll::Ready(Ok(()))
    }

    /// What is queued, in order.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.done.iter().map(|bytes| &bytes[..]).chain(std::iter::once(&self.open[..]))
    }

    /// Forgets the first bytes: they are written.
    pub(crate) fn consume(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(front) = self.done.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.done.pop_front();
        }
        if written == self.open.len() {
            // Keeps the allocation for the next message where nobody shares it.
            self.open.clear();
        } else {
            self.open.advance(written);
        }
    }

    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.done.iter().chain([&Bytes::copy_from_slice(&self.open)]).flat_map(|bytes| bytes.to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_order_whatever_the_peer_takes() {
        let mut queue = WriteQueue::default();
        let mut expected = Vec::new();
        for size in [0, 3, 2048, 2049, 1, 5000, 5000, 10] {
            let bytes = Bytes::from(vec![b'a' + (size % 26) as u8; size]);
            expected.extend_from_slice(&bytes);
            queue.push(bytes);
        }
        queue.push_chunk_size(0xfe01);
        expected.extend_from_slice(b"fe01\r\n");
        assert_eq!(queue.len(), expected.len());
        let mut found = Vec::new();
        for step in (1..700).cycle() {
            let all = queue.to_vec();
            let taken = step.min(all.len());
            found.extend_from_slice(&all[..taken]);
            queue.consume(taken);
            if queue.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected);
    }
}
