//! The key of a log: a number that the leader states on its ordinary stream, and with which the log itself begins. So a
//! process that knows only the leader's VMID can't write a log in its name.

use crate::Vmid;
use crate::config::Config;
use crate::invariant::{Count, OrBroken};
use crate::node::Node;
use crate::pal::fault::checked_read;
use crate::pal::{Pal, Stream, StreamError};
use crate::store::{copy, hash64};
use crate::wire::{Frame, HEADER_LENGTH, Message, VMID_LENGTH};

/// The length of the frame with a key.
const KEY_FRAME: usize = if Config::HAS_SUCCESSION {
    HEADER_LENGTH + size_of::<u64>()
} else {
    0
};

/// The frame with the key of a log, as far as it has come.
#[derive(Default)]
pub(in crate::node) struct LogKeyFrame {
    bytes: [u8; KEY_FRAME],
    length: u32,
}

/// The first bytes of a log: the leader's VMID, and the frame with the key.
pub(super) const LOG_HEADER: usize = VMID_LENGTH + KEY_FRAME;

/// Returns the first bytes of a log.
pub(super) fn log_header(vmid: Vmid, key: u64) -> [u8; LOG_HEADER] {
    let mut header = [0; LOG_HEADER];
    let (first, frame) = header.split_at_mut(VMID_LENGTH);
    copy(first, &vmid.get().to_le_bytes());
    let is_encoded = Message::Log(&key.to_le_bytes()).encode(0, frame).is_ok();
    is_encoded.then_some(header).or_broken([0; LOG_HEADER])
}

impl LogKeyFrame {
    /// Reads what is missing, and no further byte.
    pub(super) fn read<S: Stream>(&mut self, stream: &S) -> Result<u64, StreamError> {
        loop {
            let missing = self
                .bytes
                .get_mut(self.length as usize..)
                .or_broken(&mut []);
            if missing.is_empty() {
                return self.key().ok_or(StreamError::Closed);
            }
            let room = missing.len();
            match checked_read(stream.read(missing), room) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(count) => self.length = self.length.plus(u32::try_from(count).or_broken(0)),
                Err(StreamError::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn key(&self) -> Option<u64> {
        let frame = Frame::parse(&self.bytes, KEY_FRAME).ok()??;
        match frame.message() {
            Ok(Message::Log(key)) => key.try_into().ok().map(u64::from_le_bytes),
            _ => None,
        }
    }
}

impl<P: Pal> Node<'_, P> {
    /// Returns a key for the next log. Other processes know neither the time of this call nor the state of the tables.
    pub(super) fn new_log_key(&self) -> u64 {
        let state = self.leading().map_or(0, |tables| tables.lock().digest());
        let key = hash64(state ^ self.pal.now().0);
        key.max(1)
    }
}
