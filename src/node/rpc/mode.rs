//! The two ways in which a call waits: its thread blocks, or its future is polled.
//!
//! [`calls`] writes each call of several steps twice from one text: as a method of [`Node`] that blocks, and as
//! an `async` method of [`Polled`] with the same name. In the text `wait!(…)` stands around each step that may
//! wait. Both forms drive the same state machines of the single steps.

use core::future::poll_fn;
use core::ops::Deref;

use super::block_on::Progress;
use super::caller_read::CallerRead;
use super::reply_buffers::ReplyData;
use super::request::Request;
use super::task::WakeTarget;
use super::wait::{Limits, Wait};
use super::waiter::WaitToken;
use crate::Vmid;
use crate::error::Error;
use crate::node::{Node, PeerRef};
use crate::pal::{Deadline, Pal};
use crate::wire::{Answer, Message};

/// Writes methods of [`Node`] that block, and of [`Polled`] that are futures. `callback!(FnMut(…))` is the type of a
/// closure behind a reference: the methods that block are compiled once for all closures, and futures can be moved to other
/// threads as their closures can.
macro_rules! calls {
    ($(
        $(#[$meta:meta])*
        fn $name:ident $(<$generic:ident>)? ($($args:tt)*) -> $result:ty $body:block
    )*) => {
        #[allow(unused_macros)]
        macro_rules! callback {
            ($callback:path) => {
                dyn $callback
            };
        }

        impl<'m, P: Pal> Node<'m, P> {
            $(
                $(#[$meta])*
                pub(in crate::node) fn $name $(<$generic>)? ($($args)*) -> $result {
                    #[allow(unused_macros)]
                    macro_rules! wait {
                        ($step:expr) => {
                            $step
                        };
                    }
                    $body
                }
            )*
        }

        #[allow(unused_macros)]
        macro_rules! callback {
            ($callback:path) => {
                (impl $callback + ?Sized)
            };
        }

        impl<'m, P: Pal> $crate::node::rpc::Polled<'_, 'm, P> {
            $(
                #[allow(clippy::unused_async)]
                pub(in crate::node) async fn $name $(<$generic>)? ($($args)*) -> $result {
                    #[allow(unused_macros)]
                    macro_rules! wait {
                        ($step:expr) => {
                            $step.await
                        };
                    }
                    $body
                }
            )*
        }
    };
}

/// The calls of a node as futures.
pub(in crate::node) struct Polled<'n, 'm, P: Pal>(pub(in crate::node) &'n Node<'m, P>);

impl<'m, P: Pal> Deref for Polled<'_, 'm, P> {
    type Target = Node<'m, P>;

    fn deref(&self) -> &Node<'m, P> {
        self.0
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the node, in either form of a call.
    pub(in crate::node) const fn node(&self) -> &Self {
        self
    }

    /// Returns true if this form of a call may be dropped while it waits.
    #[allow(clippy::unused_self)]
    pub(in crate::node) const fn is_polled(&self) -> bool {
        false
    }

    /// Runs a state machine until it is done: see [`Node::block_on`]. The thread may read the answers of
    /// `peer` itself.
    pub(in crate::node) fn run(
        &self,
        token: WaitToken,
        limits: Limits<'_>,
        peer: Option<&PeerRef<'_, 'm, P::Stream>>,
        step: &mut dyn FnMut(Option<Error>) -> Progress,
    ) {
        let mut reader = peer.map(|peer| CallerRead::new(self, peer, token));
        self.block_on(token, limits, reader.as_mut(), step);
    }
}

impl<'m, P: Pal> Polled<'_, 'm, P> {
    /// Like [`Node::is_polled`].
    #[allow(clippy::unused_self)]
    pub(in crate::node) const fn is_polled(&self) -> bool {
        true
    }

    /// Returns the future of [`Node::exchange`].
    pub(in crate::node) async fn exchange(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        data: &mut ReplyData<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        let limits = Limits::of(wait, &self.pal);
        let may_wait = limits.until != Deadline::Now;
        let mut request = Request::exchange(self, dest, message, limits, may_wait)?;
        poll_fn(|context| request.poll_step(Some(WakeTarget::of(context)), data)).await
    }

    /// Returns the future of [`Node::call_for_data`].
    pub(in crate::node) async fn call_for_data(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        data: &mut ReplyData<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        let limits = Limits::of(wait, &self.pal);
        let may_wait = limits.until != Deadline::Now;
        let mut request = Request::begin(self, dest, message, limits, may_wait)?;
        poll_fn(|context| request.poll_step(Some(WakeTarget::of(context)), data)).await
    }

    /// Returns the future of [`Node::call`].
    pub(in crate::node) async fn call(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        self.call_for_data(dest, message, &mut ReplyData::none(), wait)
            .await
    }

    /// Runs a state machine until it is done: the future of [`Node::run`].
    pub(in crate::node) async fn run(
        &self,
        token: WaitToken,
        limits: Limits<'_>,
        _: Option<&PeerRef<'_, 'm, P::Stream>>,
        step: &mut (impl FnMut(Option<Error>) -> Progress + ?Sized),
    ) {
        poll_fn(|context| {
            let mut step = |limit| step(limit);
            self.poll_step(token, limits, Some(WakeTarget::of(context)), &mut step)
        })
        .await;
    }
}
