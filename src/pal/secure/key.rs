//! The secret that the members of a family share, and the source of random numbers.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::pal::OutOfResources;

/// Fills a buffer with random numbers that no other party can guess, the host included (in an
/// enclave: from the processor). It is called for each handshake, by the thread that opens or
/// accepts the stream; it must not block for long.
pub type Random = fn(&mut [u8]) -> Result<(), OutOfResources>;

/// The credentials of a member: the family's instance, which is public, and its key, which is
/// secret.
///
/// The first process makes it. Each child gets it from its parent by a way that the host can't
/// read, and never on a command line or in the environment. It is wiped when it is dropped.
#[derive(Clone, ZeroizeOnDrop)]
pub struct FamilyKey {
    bytes: [u8; FamilyKey::LENGTH],
}

impl FamilyKey {
    /// The length of the instance and the key together, in bytes.
    pub const LENGTH: usize = INSTANCE + KEY;

    /// Makes the credentials of a new family: instance and key are random.
    ///
    /// # Errors
    /// [`OutOfResources`] if `random` fails.
    pub fn generate(random: Random) -> Result<FamilyKey, OutOfResources> {
        let mut key = FamilyKey {
            bytes: [0; FamilyKey::LENGTH],
        };
        random(&mut key.bytes)?;
        Ok(key)
    }

    /// Makes the credentials of the family `instance` with the key `key`. If several families have
    /// the same key (one that belongs to a program, for example), their instances must differ: the
    /// instances separate the families.
    pub fn new(instance: u64, key: &[u8; 32]) -> FamilyKey {
        let mut bytes = [0; FamilyKey::LENGTH];
        let (to_instance, to_key) = bytes.split_at_mut(INSTANCE);
        to_instance.copy_from_slice(&instance.to_le_bytes());
        to_key.copy_from_slice(key);
        FamilyKey { bytes }
    }

    /// Makes the credentials from their [`FamilyKey::secret_bytes`], and wipes those.
    pub fn from_secret_bytes(from: &mut [u8; FamilyKey::LENGTH]) -> FamilyKey {
        let key = FamilyKey { bytes: *from };
        from.zeroize();
        key
    }

    /// Returns the instance (little-endian) and the key, for a child.
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
