//! Requests that block: the thread waits until its [`Call`] has an outcome.

use super::block_on::Progress;
use super::call::Call;
use super::caller_read::CallerRead;
use super::reply_buffers::ReplyData;
use super::wait::{Limits, Wait};
use crate::Vmid;
use crate::error::{Error, Invalid};
use crate::invariant::OrBroken;
use crate::node::succession::undelegated;
use crate::node::{Node, PeerRef};
use crate::pal::{Deadline, Pal};
use crate::wire::{Answer, Message};

impl<'m, P: Pal> Node<'m, P> {
    /// Makes a request of a process, which may be this one, and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Full`] where a limit is reached, [`Error::NoSuchProcess`] or [`Error::LeaderGone`] if
    /// the process is known to be gone, [`Error::TimedOut`] or [`Error::Interrupted`] as `wait` says;
    /// [`Error::Invalid`] if the message has no answer, or this process can't answer it itself.
    pub(crate) fn call(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        self.call_for_data(dest, message, &mut ReplyData::none(), wait)
    }

    /// Like [`Node::call`]; copies the data of the answer to `data`.
    #[inline]
    pub(in crate::node) fn call_for_data(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        data: &mut ReplyData<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        self.check_running()?;
        if dest == self.identity.vmid {
            self.call_own(message, data, wait)
        } else {
            self.exchange(dest, message, data, wait)
        }
    }

    /// Makes a request of another process, also while this one ends.
    #[inline(never)]
    pub(crate) fn exchange(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        data: &mut ReplyData<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        let now = self.begin_time(wait);
        let limits = Limits::beginning(wait, || now);
        let asked = dest;
        let dest = self.redirected(asked, message);
        if dest != asked && dest == self.identity.vmid {
            return self.call_again(message, data, limits);
        }
        let outcome = {
            let peer = self.peer(dest)?;
            let mut call = Call::begin(self, dest, message, now)?;
            call.record_begin(self);
            // The caller takes the receiving half before it sends the request, so that the answer does
            // not wake the worker.
            let mut reader = CallerRead::new(self, &peer, call.token);
            reader.take(now);
            let to = Some((&peer, message));
            self.finish_call(&mut call, to, Some(&mut reader), limits, data)
        };
        if let Err(error) = &outcome
            && self.is_moved(dest, message, *error)
        {
            return self.call_again(message, data, limits);
        }
        outcome
    }

    /// Makes a request of the leader again, since the one before has gone, and did not take it.
    #[cold]
    #[inline(never)]
    fn call_again(
        &self,
        message: &Message<'_>,
        data: &mut ReplyData<'_>,
        limits: Limits<'_>,
    ) -> Result<Answer<'static>, Error> {
        let dest = self.leader_vmid();
        if dest == self.identity.vmid {
            self.call_own(&undelegated(*message), data, limits.wait())
        } else {
            self.exchange(dest, message, data, limits.wait())
        }
    }

    /// Blocks until the call has its outcome. `to` is the peer and the request that it gets; none for
    /// this process's own request, which was made.
    #[inline]
    pub(super) fn finish_call(
        &self,
        call: &mut Call,
        to: Option<(&PeerRef<'_, 'm, P::Stream>, &Message<'_>)>,
        reader: Option<&mut CallerRead<'_, '_, 'm, P>>,
        limits: Limits<'_>,
        data: &mut ReplyData<'_>,
    ) -> Result<Answer<'static>, Error> {
        let may_wait = limits.until != Deadline::Now;
        let mut outcome = None;
        self.block_on(call.token, limits, reader, &mut |limit| {
            let (peer, message) = to.unzip();
            outcome = call.step(self, peer, message, limit, may_wait, data);
            match outcome {
                Some(_) => Progress::Done,
                None => call.progress(),
            }
        });
        // The loop returns only after the machine is done.
        let outcome = outcome.or_broken(Err(Error::Invalid(Invalid::Internal)));
        call.record_end(self, &outcome);
        outcome
    }
}
