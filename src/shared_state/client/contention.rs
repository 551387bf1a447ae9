//! Contention: other processes request a lease again and again.

use super::Client;

/// A lease that was revoked this often in a row, each time soon, is contended.
const CONTENTION_THRESHOLD: u32 = 8;
/// The number of uses of a contended handle after which its user yields.
const USES_PER_YIELD: u32 = 64;
/// After this many uses without a revocation the handle is contended no more.
const USES_WITHOUT_REVOCATION: u32 = 64 * USES_PER_YIELD;

impl Client<'_> {
    /// Returns true if a call that releases the handle has more to do: to send a message, or to
    /// yield.
    #[inline]
    pub fn has_release_work(&self) -> bool {
        self.has_release_work
    }

    /// Updates [`Client::has_release_work`].
    pub(crate) fn update_release_work(&mut self) {
        self.has_release_work = self.poll_transmit().is_some() || self.is_contended();
    }

    /// Returns true if the handle is contended.
    pub fn is_contended(&self) -> bool {
        self.quick_revocations >= CONTENTION_THRESHOLD
    }

    /// Counts a use of a contended handle. Returns true if the user should yield now: on a single
    /// core other processes cannot even request the lease before.
    pub fn should_yield(&mut self) -> bool {
        self.uses_since_grant = self.uses_since_grant.wrapping_add(1);
        if self.uses_since_grant >= USES_WITHOUT_REVOCATION {
            // The server has not revoked the lease for long.
            self.quick_revocations = 0;
            self.update_release_work();
        }
        self.uses_since_grant.is_multiple_of(USES_PER_YIELD)
    }
}
