//! A handle that other processes want all the time.

use super::Client;

/// A handle that was taken away so often, each time soon, is one that others want all the time.
const CONTENTION_THRESHOLD: u32 = 8;
/// How often such a handle is used before others are let run.
const USES_PER_YIELD: u32 = 64;
/// After so many uses that nobody has interrupted, nobody wants it any more.
const USES_WITHOUT_REVOCATION: u32 = 64 * USES_PER_YIELD;

impl Client<'_> {
    /// Whether there is anything for who gives it back to do: something to say, or others to let run.
    #[inline]
    pub fn has_release_work(&self) -> bool {
        self.has_release_work
    }

    /// Looks again whether there is.
    pub(crate) fn update_release_work(&mut self) {
        self.has_release_work = self.poll_transmit().is_some() || self.is_contended();
    }

    /// Whether others want it all the time.
    pub fn is_contended(&self) -> bool {
        self.quick_revocations >= CONTENTION_THRESHOLD
    }

    /// Whether who uses a contended handle had better let others run now: on a single core they can't
    /// even ask.
    pub fn should_yield(&mut self) -> bool {
        self.uses_since_grant = self.uses_since_grant.wrapping_add(1);
        if self.uses_since_grant >= USES_WITHOUT_REVOCATION {
            // Nobody has asked for long.
            self.quick_revocations = 0;
            self.update_release_work();
        }
        self.uses_since_grant.is_multiple_of(USES_PER_YIELD)
    }
}
