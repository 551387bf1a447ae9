//! One frame: a header and the payload after it.

use super::error::{Malformed, TooSmall};
use super::layout::{self, Header};
use crate::store::copy;
use core::mem::size_of;
use zerocopy::{FromBytes, IntoBytes};

/// The bytes that every frame begins with: its size, its sequence number and its code.
pub const HEADER_LENGTH: usize = size_of::<Header>();

/// The bytes of the header that say how long the frame is.
const SIZE_LENGTH: usize = size_of::<u64>();

/// A whole frame, taken apart but not understood yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Which request an answer belongs to; 0 where no answer is awaited.
    pub seq: u64,
    /// What the payload is, one of [`codes`](super::codes).
    pub code: u8,
    /// Everything after the header.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The length of the whole frame, header included.
    #[inline]
    pub const fn length(&self) -> usize {
        HEADER_LENGTH.saturating_add(self.payload.len())
    }

    /// The frame at the beginning of `bytes`; `None` if it is not all there yet.
    ///
    /// A size that can't be right is refused as soon as it is there, before the rest came.
    #[inline]
    pub(crate) fn parse(bytes: &'a [u8], limit: usize) -> Result<Option<Frame<'a>>, Malformed> {
        let Some(size) = frame_size(bytes, limit)? else {
            return Ok(None);
        };
        let Some((frame, _)) = bytes.split_at_checked(size) else {
            return Ok(None);
        };
        let Ok((header, payload)) = Header::ref_from_prefix(frame) else {
            return Ok(None);
        };
        Ok(Some(Frame {
            seq: header.seq.get(),
            code: header.code,
            payload,
        }))
    }
}

/// How long the frame at the beginning of `bytes` says it is; `None` if it has not said so yet.
#[inline]
pub(crate) fn frame_size(bytes: &[u8], limit: usize) -> Result<Option<usize>, Malformed> {
    let Some(size) = bytes.first_chunk::<SIZE_LENGTH>() else {
        // A receiver with no room for a header would wait for the size for ever.
        let too_small = limit < HEADER_LENGTH && !bytes.is_empty();
        return if too_small {
            Err(Malformed::TooLong)
        } else {
            Ok(None)
        };
    };
    match usize::try_from(u64::from_le_bytes(*size)) {
        Ok(size) if size >= HEADER_LENGTH && size <= limit => Ok(Some(size)),
        // The same answer for a hopeless receiver, whether or not the size came at once.
        Ok(size) if size < HEADER_LENGTH && limit >= HEADER_LENGTH => Err(Malformed::TooShort),
        _ => Err(Malformed::TooLong),
    }
}

/// Begins a frame of `length` bytes at the buffer's start and gives back the room for its payload,
/// which still holds whatever was in the buffer. Nothing is written if the frame does not fit.
#[inline]
pub(super) fn begin(
    buffer: &mut [u8],
    seq: u64,
    code: u8,
    length: usize,
) -> Result<&mut [u8], TooSmall> {
    let frame = buffer.get_mut(..length).ok_or(TooSmall)?;
    let header = Header {
        size: (length as u64).into(),
        seq: seq.into(),
        code,
    };
    let (head, payload) = frame.split_at_mut_checked(HEADER_LENGTH).ok_or(TooSmall)?;
    header.write_to(head).map_err(|_| TooSmall)?;
    Ok(payload)
}

/// Writes a payload that is a struct, then bytes of any length, then zeros to the frame's end.
#[inline]
pub(super) fn fill(
    payload: &mut [u8],
    head: &(impl IntoBytes + zerocopy::Immutable),
    data: &[u8],
) -> Result<(), TooSmall> {
    let (to, rest) = payload
        .split_at_mut_checked(size_of_val(head))
        .ok_or(TooSmall)?;
    head.write_to(to).map_err(|_| TooSmall)?;
    let (to, spare) = rest.split_at_mut_checked(data.len()).ok_or(TooSmall)?;
    copy(to, data);
    spare.fill(0);
    Ok(())
}

/// A payload that is one struct and nothing else.
#[inline]
pub(super) fn read_struct<T>(payload: &[u8]) -> Result<&T, Malformed>
where
    T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
{
    T::ref_from_bytes(payload).map_err(|_| Malformed::PayloadLength)
}

/// A payload that is one number.
#[inline]
pub(super) fn read_number(payload: &[u8]) -> Result<u32, Malformed> {
    Ok(read_struct::<layout::Number>(payload)?.number.get())
}
