//! Records: the length of the ciphertext in 2 bytes, then the ciphertext with its tag.

use crate::store::total;
use clatter::cipherstate::CipherState;
use clatter::crypto::cipher::AesGcm;

/// The greatest number of the node's bytes in one record.
pub const RECORD: usize = 4096;

/// The number of records after which both ends switch to the next key, each by itself, and count
/// from zero again: no nonce is ever used twice, however long a stream lives.
pub const REKEY_AFTER: u64 = 1 << 16;

pub(super) const HEADER: usize = 2;
pub(super) const TAG: usize = 16;
/// The length of the longest record, in bytes.
pub(super) const LONGEST: usize = HEADER + RECORD + TAG;

/// The key of one direction, and the number of records that it was used for. It is wiped when
/// dropped.
pub(super) struct Key(CipherState<AesGcm>);

/// The result of opening a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// The bytes are the beginning of a record, or empty.
    Incomplete,
    /// The bytes are no record, or not the next one.
    Invalid,
    /// The bytes begin with a record of that many bytes, which are now in clear after the header.
    Record(usize),
}

/// Returns the length of the ciphertext of the record at the start of `bytes`; `None` if the header
/// is incomplete.
fn length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    Some(usize::from(u16::from_le_bytes(*header)))
}

/// Returns true if the record at the start of `bytes` can be opened or refused.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    match length(bytes) {
        None => false,
        Some(length) => bytes.len() >= total!(length, HEADER),
    }
}

impl Key {
    pub(super) fn new(state: CipherState<AesGcm>) -> Key {
        Key(state)
    }

    /// Seals the `count` bytes after the header's place as a record, and returns the record's
    /// length.
    pub(super) fn seal(&mut self, buffer: &mut [u8; LONGEST], count: usize) -> Option<usize> {
        let sealed = u16::try_from(total!(count, TAG)).ok()?;
        let (header, body) = buffer.split_at_mut(HEADER);
        if count > RECORD {
            return None;
        }
        header.copy_from_slice(&sealed.to_le_bytes());
        let length = self.0.encrypt_with_ad_in_place(header, body, count).ok()?;
        self.rekey_if_due()?;
        Some(total!(length, HEADER))
    }

    /// Opens the record at the start of `bytes`, in place.
    pub(super) fn open(&mut self, bytes: &mut [u8]) -> Opened {
        let Some(sealed) = length(bytes) else {
            return Opened::Incomplete;
        };
        if !(TAG..=RECORD + TAG).contains(&sealed) {
            return Opened::Invalid;
        }
        let (header, body) = bytes.split_at_mut(HEADER);
        let Some(body) = body.get_mut(..sealed) else {
            return Opened::Incomplete;
        };
        let opened = self.0.decrypt_with_ad_in_place(header, body, sealed);
        match (opened, self.rekey_if_due()) {
            (Ok(length), Some(())) => Opened::Record(length),
            _ => Opened::Invalid,
        }
    }

    fn rekey_if_due(&mut self) -> Option<()> {
        if self.0.get_nonce() >= REKEY_AFTER {
            self.0.rekey().ok()?;
            self.0.set_nonce(0);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new(CipherState::new(&[7; 32], 0))
    }

    #[test]
    fn both_ends_change_the_key_before_its_nonces_run_out() {
        let (mut from, mut to) = (key(), key());
        let mut record = [0; LONGEST];
        let first = {
            let length = from.seal(&mut record, 1).unwrap();
            let first = record[..length].to_vec();
            assert_eq!(to.open(&mut record[..length]), Opened::Record(1));
            first
        };
        for _ in 1..REKEY_AFTER {
            let length = from.seal(&mut record, 1).unwrap();
            assert_eq!(to.open(&mut record[..length]), Opened::Record(1));
        }
        assert_eq!((from.0.get_nonce(), to.0.get_nonce()), (0, 0));
        // The nonce is that of the first record, but the key is another.
        record[..3].copy_from_slice(&[0, 0, 0]);
        let length = from.seal(&mut record, 1).unwrap();
        assert_ne!(first, record[..length]);
        assert_eq!(key().open(&mut record[..length].to_vec()), Opened::Invalid);
        assert_eq!(to.open(&mut record[..length]), Opened::Record(1));
        // A record under the old key is not valid under the new one.
        assert_eq!(to.open(&mut first.clone()), Opened::Invalid);
    }

    #[test]
    fn impossible_lengths_are_refused_before_the_record_arrives() {
        for sealed in [0, TAG - 1, RECORD + TAG + 1, 0xffff] {
            let mut header = u16::try_from(sealed).unwrap().to_le_bytes();
            assert_eq!(key().open(&mut header), Opened::Invalid, "{sealed}");
        }
        for sealed in [TAG, RECORD + TAG] {
            let mut header = u16::try_from(sealed).unwrap().to_le_bytes();
            assert_eq!(key().open(&mut header), Opened::Incomplete, "{sealed}");
        }
        assert_eq!(key().open(&mut [0]), Opened::Incomplete);
        assert_eq!(key().seal(&mut [0; LONGEST], RECORD + 1), None);
    }
}
