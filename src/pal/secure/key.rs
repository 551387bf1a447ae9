//! What the members of a family share, and where fresh numbers come from.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::pal::OutOfResources;

/// Fills all of a buffer with random numbers that nobody can guess, the host included (in an enclave:
/// from the processor). Called for each handshake, by whichever thread opens or accepts the stream;
/// must not block for long.
pub type Random = fn(&mut [u8]) -> Result<(), OutOfResources>;

/// What makes a process a member: the family's instance, which is no secret, and its key, which is.
///
/// The first process makes it; each child gets it from its parent, over a way that the host can't look
/// into, and never on a command line or in the environment. It is wiped when it is dropped.
#[derive(Clone, ZeroizeOnDrop)]
pub struct FamilyKey {
    bytes: [u8; FamilyKey::LENGTH],
}

impl FamilyKey {
    /// The bytes of the instance and the key together.
    pub const LENGTH: usize = INSTANCE + KEY;

    /// A fresh family: both are random.
    ///
    /// # Errors
    /// If `random` fails.
    pub fn generate(random: Random) -> Result<FamilyKey, OutOfResources> {
        let mut key = FamilyKey {
            bytes: [0; FamilyKey::LENGTH],
        };
        random(&mut key.bytes)?;
        Ok(key)
    }

    /// The family `instance` of those that have the key `key`. With a key that several families have
    /// (one that belongs to a program, say), their instances must differ: that keeps them apart.
    pub fn new(instance: u64, key: &[u8; 32]) -> FamilyKey {
        let mut bytes = [0; FamilyKey::LENGTH];
        let (to_instance, to_key) = bytes.split_at_mut(INSTANCE);
        to_instance.copy_from_slice(&instance.to_le_bytes());
        to_key.copy_from_slice(key);
        FamilyKey { bytes }
    }

    /// The key whose [`FamilyKey::secret_bytes`] these are. They are wiped where they came from.
    pub fn from_secret_bytes(from: &mut [u8; FamilyKey::LENGTH]) -> FamilyKey {
        let key = FamilyKey { bytes: *from };
        from.zeroize();
        key
    }

    /// All of it, to be handed to a child: the instance, little-endian, and the key.
    pub const fn secret_bytes(&self) -> &[u8; FamilyKey::LENGTH] {
        &self.bytes
    }

    pub(super) fn instance(&self) -> &[u8] {
        self.bytes.split_at(INSTANCE).0
    }

    pub(super) fn key(&self) -> &[u8] {
        self.bytes.split_at(INSTANCE).1
    }
}

const INSTANCE: usize = 8;
const KEY: usize = 32;
