//! Extracts frames from the bytes of a stream, which arrive in any pieces.

use std::vec::Vec;

use crate::invariant::Count;
use crate::wire::{VMID_LENGTH, frame_size};

/// The longest frame that is reassembled. A stream that announces a longer one is shown as bytes.
pub(super) const LONGEST: usize = 1 << 20;

/// A piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// The VMID of the stream's opener, the first bytes of the stream.
    Vmid(u32),
    /// A whole frame.
    Frame(&'a [u8]),
    /// Bytes of a stream that has no more frames.
    NoFrame(&'a [u8]),
}

/// The state of the extraction from one stream.
#[derive(Debug, Default)]
pub(super) struct Framer {
    vmid: Option<u32>,
    /// The beginning of an incomplete piece.
    partial: Vec<u8>,
    /// The stream has announced an impossible size, so it has no more frames.
    is_broken: bool,
}

impl Framer {
    /// Processes bytes that were read or written, and calls `each` for every piece that is complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            if self.is_broken {
                each(Piece::NoFrame(bytes));
                return;
            }
            if self.partial.is_empty() && self.vmid.is_some() {
                // The usual case copies nothing.
                if let Ok(Some(size)) = frame_size(bytes, LONGEST)
                    && let Some((frame, rest)) = bytes.split_at_checked(size)
                {
                    each(Piece::Frame(frame));
                    bytes = rest;
                    continue;
                }
            }
            bytes = self.gather(bytes, &mut each);
        }
    }

    /// Completes the incomplete piece, up to its end. Returns the bytes after it.
    fn gather<'b>(&mut self, bytes: &'b [u8], each: &mut impl FnMut(Piece<'_>)) -> &'b [u8] {
        let whole = match (self.vmid, frame_size(&self.partial, LONGEST)) {
            (None, _) => VMID_LENGTH,
            // The size field is not complete.
            (_, Ok(None) | Err(_)) => size_of::<u64>(),
            (_, Ok(Some(size))) => size,
        };
        let missing = whole.minus(self.partial.len());
        let (taken, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
        self.partial.extend_from_slice(taken);
        if self.vmid.is_none() {
            if let Some(vmid) = self.partial.first_chunk() {
                let vmid = u32::from_le_bytes(*vmid);
                self.vmid = Some(vmid);
                self.partial.clear();
                each(Piece::Vmid(vmid));
            }
            return rest;
        }
        match frame_size(&self.partial, LONGEST) {
            Ok(Some(size)) if size == self.partial.len() => {
                each(Piece::Frame(&self.partial));
                self.partial.clear();
            }
            Ok(_) => {}
            Err(_) => {
                self.is_broken = true;
                each(Piece::NoFrame(&self.partial));
                self.partial = Vec::new();
            }
        }
        rest
    }

    /// Returns the bytes of an incomplete frame.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Message;

    fn frame(seq: u64) -> Vec<u8> {
        let mut buffer = [0; 64];
        let length = Message::GetIdOwner(7).encode(seq, &mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    /// The pieces that were found: whether each is a frame, and its bytes.
    type Found = Vec<(bool, Vec<u8>)>;

    fn pieces(bytes: &[u8], at_once: usize) -> (Found, Option<u32>, Vec<u8>) {
        let (mut found, mut from) = (Vec::new(), None);
        let mut framer = Framer::default();
        for part in bytes.chunks(at_once) {
            framer.push(part, |piece| match piece {
                Piece::Vmid(vmid) => from = Some(vmid),
                Piece::Frame(bytes) => found.push((true, bytes.to_vec())),
                Piece::NoFrame(bytes) => found.push((false, bytes.to_vec())),
            });
        }
        (found, from, framer.partial().to_vec())
    }

    #[test]
    fn frames_split_anywhere_are_framed_alike() {
        let mut bytes = 9_u32.to_le_bytes().to_vec();
        let frames: Vec<_> = (1..5).map(frame).collect();
        bytes.extend(frames.concat());
        bytes.extend(&frame(5)[..11]);
        for at_once in 1..=bytes.len() {
            let (found, from, rest) = pieces(&bytes, at_once);
            assert_eq!(from, Some(9));
            let expected: Vec<_> = frames.iter().cloned().map(|frame| (true, frame)).collect();
            assert_eq!(found, expected, "{at_once} bytes at once");
            assert_eq!(rest, &frame(5)[..11]);
        }
    }

    #[test]
    fn after_an_impossible_size_the_rest_is_raw_bytes() {
        for size in [0_u64, 16, LONGEST as u64 + 1, u64::MAX] {
            let mut bytes = 9_u32.to_le_bytes().to_vec();
            bytes.extend(frame(1));
            let mut bad = size.to_le_bytes().to_vec();
            bad.extend(frame(2));
            bytes.extend(&bad);
            for at_once in 1..=bytes.len() {
                let (found, _, rest) = pieces(&bytes, at_once);
                assert_eq!(found[0], (true, frame(1)));
                assert!(found[1..].iter().all(|(is_frame, _)| !is_frame));
                let raw: Vec<u8> = found[1..]
                    .iter()
                    .flat_map(|found| found.1.clone())
                    .collect();
                assert_eq!(raw, bad, "size {size}, {at_once} bytes at once");
                assert!(rest.is_empty());
            }
        }
    }
}
