//! Events over those of the platform. Each call of a platform may leave an enclave, so an event is made when a thread
//! first waits with it, and the platform is called only to wake a thread that sleeps.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::callback_result;
use super::callbacks::{MISSING, call};
use super::tables::libos_ipc_platform;
use crate::pal::{Event, OutOfResources};

/// The bit of an event that is set. The other bits count the threads that wait.
const SET: u32 = 1 << 31;

/// `LIBOS_IPC_WOKEN_READABLE`.
const READABLE: c_int = 0;

/// An event.
pub(super) struct CEvent {
    table: &'static libos_ipc_platform,
    /// The event of the platform; NULL before the first use.
    inner: AtomicPtr<c_void>,
    state: AtomicU32,
}

// SAFETY: the header states that all functions of the platform may be called from any thread.
unsafe impl Send for CEvent {}
// SAFETY: as above.
unsafe impl Sync for CEvent {}

impl CEvent {
    pub(super) fn new(table: &'static libos_ipc_platform) -> Self {
        CEvent {
            table,
            inner: AtomicPtr::new(null_mut()),
            state: AtomicU32::new(0),
        }
    }

    /// Waits with `sleep` until the event is set, unless it is. `sleep` gets the event of the platform, and returns whether
    /// something else has ended it.
    pub(super) fn wait(&self, sleep: impl FnOnce(*mut c_void) -> bool) -> bool {
        let before = self.state.fetch_add(1, Ordering::SeqCst);
        let mut by_other = false;
        if before & SET == 0 {
            let inner = self.inner.load(Ordering::Acquire);
            by_other = sleep(inner);
            // A thread that sets the event from here on may leave the platform's event set. Then the next wait returns
            // early.
            if !by_other || self.is_set() {
                call!(self.table, event_clear(inner), ());
            }
        }
        // Another thread may wait for the event that this one has cleared.
        let after = self.state.fetch_sub(1, Ordering::SeqCst);
        if after & SET != 0 && after & !SET > 1 {
            self.set_inner();
        }
        by_other
    }

    /// Like [`CEvent::wait`], for the stream, too. Returns true if the stream has ended the wait.
    pub(super) fn wait_or_readable(&self, stream: *mut c_void, until: u64) -> bool {
        self.wait(|event| {
            call!(self.table, wait_readable(stream, event, until), READABLE) == READABLE
        })
    }

    fn set_inner(&self) {
        let inner = self.inner.load(Ordering::Acquire);
        call!(self.table, event_set(inner), ());
    }
}

impl Event for CEvent {
    fn prepare(&self) -> Result<(), OutOfResources> {
        if !self.inner.load(Ordering::Acquire).is_null() {
            return Ok(());
        }
        let mut event = null_mut();
        let made = call!(self.table, event_create(&raw mut event), MISSING);
        callback_result(made).map_err(|_| OutOfResources)?;
        self.inner.store(event, Ordering::Release);
        Ok(())
    }

    fn set(&self) {
        let before = self.state.fetch_or(SET, Ordering::SeqCst);
        if before & SET == 0 && before != 0 {
            self.set_inner();
        }
    }

    fn clear(&self) {
        self.state.fetch_and(!SET, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.state.load(Ordering::SeqCst) & SET != 0
    }
}
