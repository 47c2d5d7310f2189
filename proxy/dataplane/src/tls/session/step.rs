//! What a connection of rustls says step by step, and what it encrypts.

use bytes::BytesMut;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus, WriteTraffic};

use super::{RECORD_BYTES_MAX, RECORD_OVERHEAD_MAX};

/// What a connection wants next.
pub(super) enum Step<'c, 'i, Data> {
    Again,
    /// Bytes of the peer.
    Blocked,
    /// Plaintext to encrypt, or bytes of the peer.
    Traffic(WriteTraffic<'c, Data>),
    PeerClosed,
    Closed,
    Unexpected(std::marker::PhantomData<&'i ()>),
}

/// Takes what a step gives: plaintext and what is to be sent. The number is of bytes that were used.
pub(super) fn step<'c, 'i, Data>(
    status: UnbufferedStatus<'c, 'i, Data>,
    plaintext: &mut BytesMut,
    outgoing: &mut BytesMut,
) -> (usize, Result<Step<'c, 'i, Data>, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Again),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    discard += record.discard;
                    plaintext.extend_from_slice(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = outgoing.len();
            let needed = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(size)) => size.required_size,
                Ok(_) | Err(EncodeError::AlreadyEncoded) => 0,
            };
            outgoing.resize(start + needed, 0);
            let written = data.encode(&mut outgoing[start..]).unwrap_or(0);
            outgoing.truncate(start + written);
            Ok(Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It stands in `outgoing`, before anything that is encrypted later.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::WriteTraffic(traffic)) => Ok(Step::Traffic(traffic)),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::Closed) => Ok(Step::Closed),
        // Early data is never allowed.
        Ok(_) => Ok(Step::Unexpected(std::marker::PhantomData)),
    };
    (discard, step)
}

/// A connection of either side that may send.
pub(super) trait Traffic {
    fn encrypt(&mut self, plaintext: &[u8], output: &mut [u8]) -> Result<usize, rustls::Error>;
    /// How long the notice is.
    fn close(&mut self, output: &mut [u8]) -> usize;
}

impl<Data> Traffic for WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plaintext: &[u8], output: &mut [u8]) -> Result<usize, rustls::Error> {
        WriteTraffic::encrypt(self, plaintext, output).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn close(&mut self, output: &mut [u8]) -> usize {
        self.queue_close_notify(output).unwrap_or(0)
    }
}

pub(super) fn encrypt_slices<'b>(
    traffic: &mut dyn Traffic,
    slices: impl Iterator<Item = &'b [u8]>,
    output: &mut [u8],
) -> Result<(usize, usize), rustls::Error> {
    let (mut taken, mut filled) = (0, 0);
    for slice in slices {
        for piece in slice.chunks(RECORD_BYTES_MAX) {
            if output.len() - filled < piece.len() + RECORD_OVERHEAD_MAX {
                return Ok((taken, filled));
            }
            filled += traffic.encrypt(piece, &mut output[filled..])?;
            taken += piece.len();
        }
    }
    Ok((taken, filled))
}
