//! A lock of a process on a file that the leader may delegate to it.

use libos_ipc::member::Decision;
use libos_ipc::wire::{Answer, DelegatedLockList, Expected, FileLock, LockKind, Message};

use super::state::{Call, HoldState, Resource, Stage};
use super::system::{System, lock, vmid};

impl System<'_, '_> {
    pub(super) fn lock_file(&mut self, process: usize) {
        let lock = lock(LockKind::Write, true);
        // A leader has no delegations.
        let leads = self.observed.processes[process].stage == Stage::Leading;
        let decision = if leads {
            Decision::Forward
        } else {
            self.machines[process].files.set(vmid(process), &lock)
        };
        match decision {
            Decision::Done(result) => {
                if result.is_err() {
                    self.fail("a lock is refused without reason");
                }
                self.process(process)
                    .has
                    .insert(Resource::File, HoldState::Held);
            }
            Decision::Request(number) => {
                let message = Message::FileLockDelegate(FileLock {
                    handle: number,
                    ..lock
                });
                self.request(process, Call::Delegate(number), &message);
            }
            Decision::Forward => {
                self.return_files(process);
                let call = Call::Lock(Resource::File);
                self.request(process, call, &Message::FileLockSet(lock));
            }
        }
    }

    pub(super) fn unlock_file(&mut self, process: usize) {
        self.process(process).requests_left -= 1;
        let lock = lock(LockKind::Unlock, true);
        match self.machines[process].files.set(vmid(process), &lock) {
            Decision::Done(Ok(())) => {
                self.process(process)
                    .has
                    .insert(Resource::File, HoldState::No);
            }
            Decision::Forward => {
                self.return_files(process);
                self.process(process)
                    .has
                    .insert(Resource::File, HoldState::Releasing);
                let call = Call::Unlock(Resource::File);
                self.request(process, call, &Message::FileLockSet(lock));
            }
            other => panic!("{other:?}"),
        }
    }

    /// Returns the files that are recalled: before the next request, as a node does.
    pub(super) fn return_files(&mut self, process: usize) {
        let mut list = DelegatedLockList::new();
        while let Some(delegation) = self.machines[process].files.poll_transmit(&mut list) {
            self.machines[process].files.mark_sent(delegation);
            let locks = list.locks();
            self.send(process, 0, &Message::FileLockReturn { delegation, locks });
            list.clear();
        }
    }

    pub(super) fn receive_delegation(&mut self, process: usize, number: u64, payload: &[u8]) {
        let Ok(Answer::Status(Ok(limit))) = Answer::decode(Expected::Status, payload) else {
            return self.fail("a lock is refused without reason");
        };
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
        self.machines[process].files.handle_answer(number, limit);
        if limit.is_some() {
            self.process(process).delegation = Some(number);
        }
        self.return_files(process);
        if limit.is_some() {
            return self.lock_file(process);
        }
        self.process(process)
            .has
            .insert(Resource::File, HoldState::Held);
    }
}
