//! The calls as futures. Each is the same state machine as the call that blocks, which
//! `src/node/rpc/mode.rs` runs in the other way.

use core::time::Duration;

use super::{ChildSelector, Exit, SyncHandle};
use crate::error::Error;
use crate::member::{ChildExit, Purpose};
use crate::node::rpc::Polled;
use crate::node::{Node, Target, Wait};
use crate::pal::Pal;
use crate::wire::{FileLock, HeldLock, IdRange, MetaCode, Process, ProcessChange};
use crate::{Id, Identity, Pid, Vmid};

/// # Calls that do not block
///
/// Each returns a future that does what the call of the same name without `_async` does. A future needs no
/// executor, allocates nothing and does nothing before it is first polled; its time limit counts from then.
/// The worker wakes its task, also when the time limit has passed. Without a worker a task of the same executor
/// calls [`Node::poll_once`].
///
/// Dropping a future is an interrupt, as [`Interrupt::raise`](crate::Interrupt::raise) is for a call that blocks,
/// but the outcome is lost: the node gives back what is granted later. Each call says what that means for it;
/// where it says nothing, a request that was sent may be carried out, and its answer is dropped.
///
/// A future must not be polled in a callback of [`Embedder`](crate::Embedder), nor in a
/// function of the platform.
impl<P: Pal> Node<'_, P> {
    /// [`Node::join`] as a future. A dropped future leaves the process as a failed call does: it has not joined here, and may be known to the leader.
    ///
    /// # Errors
    /// As [`Node::join`].
    pub async fn join_async(&self, wait: Wait<'_>) -> Result<Pid, Error> {
        Polled(self).join_in(self.identity.pid, wait).await
    }

    /// [`Node::exit`] as a future. If the future is dropped before the leader was sent the report, the process stays alive; after that it has ended.
    ///
    /// # Errors
    /// As [`Node::exit`].
    pub async fn exit_async(&self, exit: Exit, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self)
            .exit_in(exit, self.identity.parent_pid, wait)
            .await
    }

    /// [`Node::leave`] as a future.
    ///
    /// # Errors
    /// As [`Node::leave`].
    pub async fn leave_async(&self, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).leave_in(wait).await
    }

    /// [`Node::shut_down`] as a future. If the future is dropped the node goes on sending until it is dropped itself or
    /// shut down again.
    pub async fn shut_down_async(&self, limit: Duration) -> bool {
        Polled(self).shut_down_in(limit).await
    }

    /// [`Node::start_child`] as a future. If the future is dropped there is no child, as after an error.
    ///
    /// # Errors
    /// As [`Node::start_child`].
    pub async fn start_child_async(&self, wait: Wait<'_>) -> Result<Identity, Error> {
        Polled(self).start_child_in(wait).await
    }

    /// [`Node::wait_child`] as a future. If the future is dropped the child stays a zombie for the next call.
    ///
    /// # Errors
    /// As [`Node::wait_child`].
    pub async fn wait_child_async(
        &self,
        which: ChildSelector,
        wait: Wait<'_>,
    ) -> Result<ChildExit, Error> {
        Polled(self).wait_child_in(which, wait).await
    }

    /// [`Node::peek_child`] as a future.
    ///
    /// # Errors
    /// As [`Node::peek_child`].
    pub async fn peek_child_async(
        &self,
        which: ChildSelector,
        wait: Wait<'_>,
    ) -> Result<ChildExit, Error> {
        Polled(self).peek_child_in(which, wait).await
    }

    /// [`Node::watch_parent`] as a future.
    ///
    /// # Errors
    /// As [`Node::watch_parent`].
    pub async fn watch_parent_async(
        &self,
        is_wanted: bool,
        wait: Wait<'_>,
    ) -> Result<Option<Pid>, Error> {
        Polled(self).watch_parent_in(is_wanted, wait).await
    }

    /// [`Node::process`] as a future.
    ///
    /// # Errors
    /// As [`Node::process`].
    pub async fn process_async(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Process, Error> {
        Polled(self).process_in(pid, wait).await
    }

    /// [`Node::next_process`] as a future.
    ///
    /// # Errors
    /// As [`Node::next_process`].
    pub async fn next_process_async(
        &self,
        last: Option<&Process>,
        wait: Wait<'_>,
    ) -> Result<Option<Process>, Error> {
        Polled(self)
            .process_after_in(last.map_or(0, |last| last.start_seq), wait)
            .await
    }

    /// [`Node::group_of`] as a future.
    ///
    /// # Errors
    /// As [`Node::group_of`].
    pub async fn group_of_async(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Pid, Error> {
        Ok(Polled(self).process_in(pid, wait).await?.group)
    }

    /// [`Node::session_of`] as a future.
    ///
    /// # Errors
    /// As [`Node::session_of`].
    pub async fn session_of_async(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Pid, Error> {
        Ok(Polled(self).process_in(pid, wait).await?.session)
    }

    /// [`Node::set_group`] as a future.
    ///
    /// # Errors
    /// As [`Node::set_group`].
    pub async fn set_group_async(
        &self,
        pid: Option<Pid>,
        group: Option<Pid>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        Polled(self).set_group_in(pid, group, wait).await
    }

    /// [`Node::new_session`] as a future.
    ///
    /// # Errors
    /// As [`Node::new_session`].
    pub async fn new_session_async(&self, wait: Wait<'_>) -> Result<Pid, Error> {
        Polled(self).new_session_in(wait).await
    }

    /// [`Node::mark`] as a future.
    ///
    /// # Errors
    /// As [`Node::mark`].
    pub async fn mark_async(
        &self,
        mark: ProcessChange,
        on: bool,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        Polled(self).mark_in(mark, on, wait).await
    }

    /// [`Node::kill`] as a future. If the future is dropped the signal may be delivered, as after a call that `wait` ended; of a group some members may have got it.
    ///
    /// # Errors
    /// As [`Node::kill`].
    pub async fn kill_async(
        &self,
        target: Target,
        signal: i32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        Polled(self)
            .kill_in(self.pid_or_zero(), target, signal, wait)
            .await
    }

    /// [`Node::credentials`] as a future.
    ///
    /// # Errors
    /// As [`Node::credentials`].
    pub async fn credentials_async(&self, pid: Pid, wait: Wait<'_>) -> Result<(u32, u32), Error> {
        Polled(self).credentials_in(pid, wait).await
    }

    /// [`Node::path_of`] as a future.
    ///
    /// # Errors
    /// As [`Node::path_of`].
    pub async fn path_of_async(
        &self,
        pid: Pid,
        what: MetaCode,
        path: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<usize, Error> {
        Polled(self).path_of_in(pid, what, path, wait).await
    }

    /// [`Node::take_id`] as a future. A range that comes after the future was dropped is released.
    ///
    /// # Errors
    /// As [`Node::take_id`].
    pub async fn take_id_async(&self, wait: Wait<'_>) -> Result<Id, Error> {
        Polled(self).take_for_in(Purpose::Own, wait).await
    }

    /// [`Node::take_id_for`] as a future. If the future is dropped, neither process has the ID afterwards, unless the leader has changed its owner.
    ///
    /// # Errors
    /// As [`Node::take_id_for`].
    pub async fn take_id_for_async(&self, to: Vmid, wait: Wait<'_>) -> Result<Id, Error> {
        Polled(self).take_id_for_in(to, wait).await
    }

    /// [`Node::transfer_id`] as a future. If the future is dropped, neither process has the ID until the leader's answer arrives.
    ///
    /// # Errors
    /// As [`Node::transfer_id`].
    pub async fn transfer_id_async(&self, id: Id, to: Vmid, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).transfer_id_in(id, to, wait).await
    }

    /// [`Node::release_id`] as a future.
    ///
    /// # Errors
    /// As [`Node::release_id`].
    pub async fn release_id_async(&self, id: Id, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).release_id_in(id, wait).await
    }

    /// [`Node::release_idle_ranges`] as a future.
    ///
    /// # Errors
    /// As [`Node::release_idle_ranges`].
    pub async fn release_idle_ranges_async(&self, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).release_idle_ranges_in(wait).await
    }

    /// [`Node::owner_of`] as a future.
    ///
    /// # Errors
    /// As [`Node::owner_of`].
    pub async fn owner_of_async(&self, id: Id, wait: Wait<'_>) -> Result<Option<Vmid>, Error> {
        Polled(self).owner_of_in(id, wait).await
    }

    /// [`Node::change_owner`] as a future.
    ///
    /// # Errors
    /// As [`Node::change_owner`].
    pub async fn change_owner_async(&self, id: Id, to: Vmid, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).change_owner_in(id, to, wait).await
    }

    /// [`Node::alloc_range`] as a future. A range that comes after the future was dropped is released.
    ///
    /// # Errors
    /// As [`Node::alloc_range`].
    pub async fn alloc_range_async(&self, wait: Wait<'_>) -> Result<IdRange, Error> {
        Polled(self).alloc_range_in(wait).await
    }

    /// [`Node::release_range`] as a future.
    ///
    /// # Errors
    /// As [`Node::release_range`].
    pub async fn release_range_async(&self, range: IdRange, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).release_range_in(range, wait).await
    }

    /// [`Node::new_vmid`] as a future.
    ///
    /// # Errors
    /// As [`Node::new_vmid`].
    pub async fn new_vmid_async(&self, wait: Wait<'_>) -> Result<Vmid, Error> {
        Polled(self).new_vmid_in(wait).await
    }

    /// [`Node::set_lock`] as a future. If the future is dropped before the request was granted, the request is cancelled and nothing has changed.
    /// If the leader has granted it by then, the node unlocks the range of the request: also the parts of it in
    /// which the owner had a lock before, since the grant has replaced that. A caller that must keep such a lock
    /// ends the wait by its `wait` instead, whose outcome says which of both has happened. Later calls of this
    /// process about file locks come after that, so the unlock takes nothing from them. The request has a reply buffer for its
    /// path: at the limit of [`Capacities::reply_buffers`](crate::Capacities::reply_buffers) the call fails with
    /// [`Error::Full`].
    ///
    /// # Errors
    /// As [`Node::set_lock`].
    pub async fn set_lock_async(&self, lock: &FileLock<'_>, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).set_lock_in(lock, wait).await
    }

    /// [`Node::find_lock`] as a future.
    ///
    /// # Errors
    /// As [`Node::find_lock`].
    pub async fn find_lock_async(
        &self,
        lock: &FileLock<'_>,
        wait: Wait<'_>,
    ) -> Result<Option<HeldLock>, Error> {
        Polled(self).find_lock_in(lock, wait).await
    }

    /// [`Node::close_file`] as a future.
    ///
    /// # Errors
    /// As [`Node::close_file`].
    pub async fn close_file_async(
        &self,
        path: &[u8],
        pid: Id,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        Polled(self).close_file_in(path, pid, wait).await
    }

    /// [`Node::clear_locks`] as a future.
    ///
    /// # Errors
    /// As [`Node::clear_locks`].
    pub async fn clear_locks_async(&self, pid: Id, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).clear_locks_in(pid, wait).await
    }

    /// [`Node::hold_open_file`] as a future.
    ///
    /// # Errors
    /// As [`Node::hold_open_file`].
    pub async fn hold_open_file_async(&self, open_file: u64, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).hold_open_file_in(open_file, wait).await
    }

    /// [`Node::give_open_file`] as a future.
    ///
    /// # Errors
    /// As [`Node::give_open_file`].
    pub async fn give_open_file_async(
        &self,
        to: Vmid,
        open_file: u64,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        Polled(self).give_open_file_in(to, open_file, wait).await
    }

    /// [`Node::take_back_open_file`] as a future.
    ///
    /// # Errors
    /// As [`Node::take_back_open_file`].
    pub async fn take_back_open_file_async(
        &self,
        from: Vmid,
        open_file: u64,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        Polled(self)
            .take_back_open_file_in(from, open_file, wait)
            .await
    }

    /// [`Node::close_open_file`] as a future.
    ///
    /// # Errors
    /// As [`Node::close_open_file`].
    pub async fn close_open_file_async(&self, open_file: u64, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).close_open_file_in(open_file, wait).await
    }

    /// [`Node::upgrade_sync`] as a future. If the future is dropped the handle stays `Shared`.
    ///
    /// # Errors
    /// As [`Node::upgrade_sync`].
    pub async fn upgrade_sync_async(
        &self,
        handle: SyncHandle,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        Polled(self).upgrade_sync_in(handle, wait).await
    }

    /// [`Node::wait_sync`] as a future.
    ///
    /// # Errors
    /// As [`Node::wait_sync`].
    pub async fn wait_sync_async(
        &self,
        handle: SyncHandle,
        seen: u64,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        Polled(self).wait_sync_in(handle, seen, wait).await
    }

    /// [`Node::close_sync`] as a future. The handle is closed also if the future is dropped.
    ///
    /// # Errors
    /// As [`Node::close_sync`].
    pub async fn close_sync_async(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).close_sync_in(handle, wait).await
    }

    /// [`Node::close_all_syncs`] as a future.
    ///
    /// # Errors
    /// As [`Node::close_all_syncs`].
    pub async fn close_all_syncs_async(&self, wait: Wait<'_>) -> Result<(), Error> {
        Polled(self).close_all_syncs_in(wait).await
    }

    /// [`Node::fencing_number`] as a future.
    ///
    /// # Errors
    /// As [`Node::fencing_number`].
    pub async fn fencing_number_async(
        &self,
        lock: &FileLock<'_>,
        wait: Wait<'_>,
    ) -> Result<Option<u64>, Error> {
        Polled(self).fencing_number_in(lock, wait).await
    }

    /// [`Node::sync_fencing_number`] as a future.
    ///
    /// # Errors
    /// As [`Node::sync_fencing_number`].
    pub async fn sync_fencing_number_async(
        &self,
        handle: SyncHandle,
        wait: Wait<'_>,
    ) -> Result<Option<u64>, Error> {
        Polled(self).sync_fencing_number_in(handle, wait).await
    }
}
