//! One frame: a header and its payload.

use super::error::{Malformed, TooSmall};
use super::layout::{self, Header};
use crate::store::{copy, total};
use core::mem::size_of;
use zerocopy::{FromBytes, IntoBytes};

/// The length of the header, in bytes: size, sequence number and code.
pub const HEADER_LENGTH: usize = size_of::<Header>();

/// The length of the VMID with which a process begins each of its streams, in bytes.
pub(crate) const VMID_LENGTH: usize = 4;

/// The length of the size field, in bytes.
const SIZE_LENGTH: usize = size_of::<u64>();

/// A whole frame whose payload is not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The sequence number that a request and its answer share; 0 if no answer is expected.
    pub seq: u64,
    /// The kind of the payload, one of [`codes`](super::codes).
    pub code: u8,
    /// The bytes after the header.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Returns the length of the whole frame in bytes, with the header.
    #[inline]
    pub const fn length(&self) -> usize {
        total!(HEADER_LENGTH, self.payload.len())
    }

    /// Returns the frame at the beginning of `bytes`; `None` if it is not complete yet.
    ///
    /// An impossible size is refused as soon as the size field is complete.
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

/// Returns the frames in these bytes, which this process has encoded: each as it was written, and parsed.
pub(crate) fn whole_frames(bytes: &[u8]) -> impl Iterator<Item = (&[u8], Frame<'_>)> {
    let mut left = bytes;
    core::iter::from_fn(move || {
        let frame = Frame::parse(left, usize::MAX).ok().flatten()?;
        let (bytes, rest) = left.split_at_checked(frame.length())?;
        left = rest;
        Some((bytes, frame))
    })
}

/// Returns the size of the frame at the beginning of `bytes`; `None` if the size field is not
/// complete yet.
#[inline]
pub(crate) fn frame_size(bytes: &[u8], limit: usize) -> Result<Option<usize>, Malformed> {
    let Some(size) = bytes.first_chunk::<SIZE_LENGTH>() else {
        // A receiver without room for a header would otherwise wait for the size for ever.
        let too_small = limit < HEADER_LENGTH && !bytes.is_empty();
        return if too_small {
            Err(Malformed::TooLong)
        } else {
            Ok(None)
        };
    };
    match usize::try_from(u64::from_le_bytes(*size)) {
        Ok(size) if size >= HEADER_LENGTH && size <= limit => Ok(Some(size)),
        // A receiver without room for a header always returns the same error, whether or not the
        // size field is complete.
        Ok(size) if size < HEADER_LENGTH && limit >= HEADER_LENGTH => Err(Malformed::TooShort),
        _ => Err(Malformed::TooLong),
    }
}

/// Writes the header of a frame of `length` bytes to the buffer's start and returns the space for
/// its payload, which still has the buffer's old bytes. Nothing is written if the frame does not
/// fit.
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
    let (to, payload) = frame.split_at_mut_checked(HEADER_LENGTH).ok_or(TooSmall)?;
    header.write_to(to).map_err(|_| TooSmall)?;
    Ok(payload)
}

/// Writes a payload that is a struct and bytes of any length, and fills the rest of the frame with
/// zeros.
#[inline]
pub(super) fn fill(
    payload: &mut [u8],
    fields: &(impl IntoBytes + zerocopy::Immutable),
    data: &[u8],
) -> Result<(), TooSmall> {
    fill_bytes(payload, fields.as_bytes(), data)
}

// Each kind of message calls it.
#[cfg_attr(not(static_library), inline)]
#[cfg_attr(static_library, inline(never))]
fn fill_bytes(payload: &mut [u8], fields: &[u8], data: &[u8]) -> Result<(), TooSmall> {
    let (to, rest) = payload.split_at_mut_checked(fields.len()).ok_or(TooSmall)?;
    copy(to, fields);
    let (to, spare) = rest.split_at_mut_checked(data.len()).ok_or(TooSmall)?;
    copy(to, data);
    if !spare.is_empty() {
        spare.fill(0);
    }
    Ok(())
}

/// Reads a payload that consists of one struct.
#[inline]
pub(super) fn read_struct<T>(payload: &[u8]) -> Result<&T, Malformed>
where
    T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
{
    T::ref_from_bytes(payload).map_err(|_| Malformed::PayloadLength)
}

/// Reads a payload that consists of one number.
#[inline]
pub(super) fn read_number(payload: &[u8]) -> Result<u32, Malformed> {
    Ok(read_struct::<layout::Number>(payload)?.number.get())
}
