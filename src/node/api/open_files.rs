//! Open files with `flock` or OFD locks, and the members that hold them.

use core::time::Duration;

use crate::Vmid;
use crate::error::{Errno, Error};
use crate::leader::UNCONFIRMED;
use crate::node::rpc::{Limits, done};
use crate::node::{Node, PeerRef, Wait};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Answer, Message};

/// The pause before the leader is asked whether a receiver has confirmed an open file, at first and at
/// most.
const FIRST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// The notice of a process about an open file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum OpenFileNotice {
    /// The process holds the open file.
    Hold,
    /// The process has closed the open file.
    Close,
    /// The process gives the open file to another process, which then holds it, too.
    Give(Vmid),
    /// The process could not send the descriptor that it announced.
    TakeBack(Vmid),
}

/// # Open files
///
/// Which processes have an open file, so that its locks end with the last close.
impl<'m, P: Pal> Node<'m, P> {
    /// Reports that this process holds an open file that it was given: one that it has inherited,
    /// or whose descriptor has arrived in a message. The open file's `flock` and OFD locks are now
    /// released only when this process has [closed](Node::close_open_file) it, too. When this
    /// returns, the leader knows of the hold. It may be called before [`Node::join`].
    ///
    /// A process that was [given](Node::give_open_file) an open file holds it already, so nothing
    /// is lost before this call. If several descriptors of the same open file may be in transit to
    /// this process, it calls this once for each that has arrived. A child need not call it for
    /// open files that it was given before it joined.
    ///
    /// # Errors
    /// [`Error::Refused`] (`ENOLCK`) at the limit of [`LockLimits::open_files`](crate::LockLimits);
    /// [`Error::Unsupported`] if the leader is a process in C; else as [every call](Node#errors-of-every-call).
    pub fn hold_open_file(&self, open_file: u64, wait: Wait<'_>) -> Result<(), Error> {
        self.hold_open_file_in(open_file, wait)
    }

    /// Gives an open file to another process of the family: to a child that this process
    /// [starts](Node::start_child), before the child runs, or to any member, before this process
    /// sends the member a descriptor. When this returns, the other process holds the open file, and
    /// this process may close it or end: the open file's `flock` and OFD locks are released with
    /// the last process that holds it. This process holds it, too, from now on, even if it has
    /// never locked it.
    ///
    /// An open file counts once for a process that has not joined, however often it is given. A
    /// child that never joins holds it until it is [abandoned](Node::abandon_child). For a member
    /// each gift is a descriptor in transit. When this returns, the member knows that it holds the
    /// open file, and may close the descriptor as soon as that arrives. This call waits for a
    /// member that does not read its streams only until
    /// [`Config::recall_limit`](crate::Config::recall_limit) or `wait` is over: such a member calls
    /// [`Node::hold_open_file`] before it closes the descriptor, or the locks stay until it ends.
    /// If the descriptor can't be sent, [`Node::take_back_open_file`].
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the process has left; [`Error::Refused`] (`ENOLCK`) at the limit
    /// of [`LockLimits::open_files`](crate::LockLimits), and then nothing has changed;
    /// [`Error::Unsupported`] if the leader is a process in C; else as [every
    /// call](Node#errors-of-every-call). After [`Error::TimedOut`] or [`Error::Interrupted`] it may
    /// have been given all the same: [`Node::take_back_open_file`] undoes that.
    pub fn give_open_file(&self, to: Vmid, open_file: u64, wait: Wait<'_>) -> Result<(), Error> {
        self.give_open_file_in(to, open_file, wait)
    }

    /// Takes back an open file that this process has [given](Node::give_open_file) to another,
    /// since the descriptor could not be sent. If the other process has used it, this does nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the leader is a process in C; else as [every call](Node#errors-of-every-call).
    pub fn take_back_open_file(
        &self,
        from: Vmid,
        open_file: u64,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.take_back_open_file_in(from, open_file, wait)
    }

    /// Reports that the last descriptor of an open file in this process was closed: if no other
    /// process holds the open file, its `flock` and OFD locks are released, and when this returns
    /// other requests for them succeed. A request for one of its locks that waits in another thread
    /// continues: a lock that it gets is released at once, as in the host's kernel. Sends nothing
    /// if this process has never locked, held or given that open file, nor was given it; a process
    /// that has not [joined](Node::join) may have to make one request to learn that.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the leader is a process in C, which does not know the holders of
    /// an open file: unlock instead. Else as [every call](Node#errors-of-every-call); a close that
    /// was sent is done even if its answer does not arrive in time ([`Error::TimedOut`],
    /// [`Error::Interrupted`]).
    pub fn close_open_file(&self, open_file: u64, wait: Wait<'_>) -> Result<(), Error> {
        self.close_open_file_in(open_file, wait)
    }

    /// Handles the leader's notice that this process was given an open file. Returns false if there was
    /// no room for the confirmation.
    pub(crate) fn confirm_given_file(
        &self,
        leader: &PeerRef<'_, 'm, P::Stream>,
        open_file: u64,
    ) -> bool {
        self.used_locks.record_open_file(open_file);
        let vmid = self.identity.vmid.get();
        let confirmation = Message::FileGiven {
            handle: open_file,
            vmid,
        };
        let sent = self.put(leader, 0, &confirmation);
        !matches!(sent, Err(Error::Full(_)))
    }
}

calls! {
    fn hold_open_file_in(&self, open_file: u64, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        self.used_locks.record_open_file(open_file);
        let hold = OpenFileNotice::Hold;
        done(wait!(self.notify_open_file(hold, open_file, wait))?)
    }

    fn give_open_file_in(&self, to: Vmid, open_file: u64, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        let wait = self.begin(wait);
        self.used_locks.record_open_file(open_file);
        let give = OpenFileNotice::Give(to);
        match wait!(self.notify_open_file(give, open_file, wait))? {
            Answer::Status(Ok(UNCONFIRMED)) => {
                wait!(self.await_receiver(to, open_file, wait));
                Ok(())
            }
            answer => done(answer),
        }
    }

    /// Waits until the receiver knows that it holds the open file. The descriptor may reach it
    /// before the leader's notice does, and it reports the close of an open file only if it knows
    /// of the hold. The transfer is done in any case, so nothing that ends this wait is an error.
    fn await_receiver(&self, to: Vmid, open_file: u64, wait: Wait<'_>) -> () {
        let limits =
            Limits::of(wait, &self.pal).not_after(self.pal.now() + self.config.recall_limit);
        let vmid = to.get();
        let question = Message::FileGiven {
            handle: open_file,
            vmid,
        };
        let mut pause = FIRST_PAUSE;
        let us = self.identity.vmid;
        while wait!(self.pause(us, limits, pause)).is_ok() {
            let answer = wait!(self.call(self.leader_vmid(), &question, limits.wait()));
            if !matches!(answer, Ok(Answer::Status(Err(Errno::EAGAIN)))) {
                return;
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    fn take_back_open_file_in(
        &self,
        from: Vmid,
        open_file: u64,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        let take_back = OpenFileNotice::TakeBack(from);
        done(wait!(self.notify_open_file(take_back, open_file, wait))?)
    }

    fn close_open_file_in(&self, open_file: u64, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        let wait = self.begin(wait);
        if !self.used_locks.may_have_open_file(open_file) {
            wait!(self.await_notes(wait))?;
        }
        if self.used_locks.may_have_open_file(open_file) {
            let wait = self.begin_lock_call(wait);
            wait!(self.await_dropped_locks(wait))?;
            let close = OpenFileNotice::Close;
            done(wait!(self.notify_open_file(close, open_file, wait))?)
        } else {
            Ok(())
        }
    }

    /// Waits until this process knows the open files that it has inherited: the leader sends them
    /// in answer to HELLO, before any other answer.
    fn await_notes(&self, wait: Wait<'_>) -> Result<(), Error> {
        if self.leads()
            || self.pid().is_some()
            || self.knows_inherited.load(Ordering::SeqCst)
        {
            return Ok(());
        }
        // A leader in C answers this request, too.
        wait!(self.owner_of_in(1, wait))?;
        self.knows_inherited.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn notify_open_file(
        &self,
        what: OpenFileNotice,
        open_file: u64,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        let (other, held) = match what {
            OpenFileNotice::Hold => (None, true),
            OpenFileNotice::Close => (None, false),
            OpenFileNotice::Give(to) => (Some(to), true),
            OpenFileNotice::TakeBack(from) => (Some(from), false),
        };
        let wait = self.begin(wait);
        if !self.has_extensions() {
            // The leader sends HELLO before its first answer.
            wait!(self.owner_of_in(1, wait))?;
        }
        if !self.has_extensions() {
            return Err(Error::Unsupported);
        }
        let vmid = other.map_or(0, Vmid::get);
        let message = Message::FileHandle {
            handle: open_file,
            held,
            vmid,
        };
        self.check_running()?;
        wait!(self.call(self.leader_vmid(), &message, wait))
    }
}
