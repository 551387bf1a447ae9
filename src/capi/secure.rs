//! The key of the family, which the library OS provides if streams shall be secure.

use core::ffi::{c_int, c_void};

#[cfg(feature = "secure")]
pub(super) use family::{has_key, pal};

/// Returns true if the library OS has set a key. It cannot without the feature.
#[cfg(not(feature = "secure"))]
pub(super) const fn has_key() -> bool {
    false
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_set_family_key(
    instance: u64,
    key: *const u8,
    random: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> c_int>,
) -> c_int {
    #[cfg(feature = "secure")]
    // SAFETY: the header requires NULL or a key of 32 bytes.
    return unsafe { family::set(instance, key, random) };
    #[cfg(not(feature = "secure"))]
    {
        let _ = (instance, key, random);
        crate::error::Errno::ENOSYS.negated()
    }
}

#[cfg(feature = "secure")]
mod family {
    use core::ffi::{c_int, c_void};

    use crate::Vmid;
    use crate::capi::platform::CPlatform;
    use crate::capi::{CPal, ffi_copy, state};
    use crate::error::{Errno, Error, Invalid};
    use crate::pal::OutOfResources;
    use crate::pal::secure::{FamilyKey, SecurePal};
    use crate::store::Once;

    /// Fills a buffer with random bytes. Returns 0 or a negative error number.
    type Random = unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> c_int;

    struct Family {
        key: FamilyKey,
        random: Random,
    }

    static FAMILY: Once<Family> = Once::new();
    /// The platform of the process's node.
    static PAL: Once<SecurePal<CPlatform>> = Once::new();

    /// # Safety
    /// `key` is NULL or points to 32 bytes.
    pub(super) unsafe fn set(instance: u64, key: *const u8, random: Option<Random>) -> c_int {
        // SAFETY: the caller keeps what `# Safety` requires.
        let key = unsafe { ffi_copy::read(key.cast::<[u8; 32]>()) };
        let (Ok(key), Some(random), Some(_)) = (key, random, state::platform()) else {
            return Errno::EINVAL.negated();
        };
        let key = FamilyKey::new(instance, &key);
        if state::NODE.get().is_none() && FAMILY.set(Family { key, random }) {
            0
        } else {
            Errno::EALREADY.negated()
        }
    }

    /// Returns true if the library OS has set a key.
    pub(in crate::capi) fn has_key() -> bool {
        FAMILY.get().is_some()
    }

    fn random(buffer: &mut [u8]) -> Result<(), OutOfResources> {
        let (Some(family), Some(platform)) = (FAMILY.get(), state::platform()) else {
            return Err(OutOfResources);
        };
        let (to, length) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: `libos_ipc_set_family_key` requires a function that does what the header states; the buffer is
        // writable and `length` bytes long.
        match unsafe { (family.random)(platform.context, to, length) } {
            0 => Ok(()),
            _ => Err(OutOfResources),
        }
    }

    /// Returns the platform of the node: with secure streams if the library OS has set a key, else with
    /// plain ones.
    pub(in crate::capi) fn pal(platform: CPlatform, own: Vmid) -> Result<CPal, Error> {
        let make = || match FAMILY.get() {
            Some(family) => SecurePal::new(platform, own, family.key.clone(), random),
            None => SecurePal::plain(platform, own),
        };
        PAL.try_init(|place| Ok::<_, Error>(place.write(make())));
        PAL.get().ok_or(Error::Invalid(Invalid::NotStarted))
    }
}
