//! The order in which locks are taken. Debug builds with `std` check it at each lock.

/// The rank of a lock. A thread that holds a lock waits only for locks of later ranks, so threads never
/// wait for each other in a circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// A lock that is only tried: it has no place in the order, and may be held during I/O.
    Token,
    /// The leader's tables.
    Leader,
    /// The frames that the leader has queued for its members.
    SentFrames,
    /// The table of delegated files.
    DelegatedFiles,
    /// The ring of calls to the embedder.
    Upcalls,
    /// The directory of sync handles.
    SyncDirectory,
    /// One sync handle.
    SyncHandle,
    /// The table of peers.
    Peers,
    /// The peers that the worker is to serve.
    WorkQueue,
    /// The send queue of one peer.
    SendQueue,
    /// The log of the leader.
    LogQueue,
    /// The state of one waiter.
    Waiter,
    /// The frames to the leader that are kept for its successor.
    KeptFrames,
    /// The task of one waiter.
    Task,
    /// The free waiters.
    FreeWaiters,
    /// The buffers of replies.
    ReplyBuffers,
    /// The times of outstanding recalls or starts.
    Deadlines,
    /// The IDs of this process.
    OwnIds,
    /// The children of this process.
    Children,
    /// The parent of this process.
    Parent,
    /// The cache of the owners of IDs.
    Owners,
}

pub(crate) use check::{Held, assert_in_order, assert_none_held};

#[cfg(all(debug_assertions, feature = "std", not(loom)))]
mod check {
    use super::Rank;
    use core::cell::Cell;

    std::thread_local! {
        /// The ranks of the locks that this thread holds, as bits.
        static HELD: Cell<u32> = const { Cell::new(0) };
    }

    /// Stands for a lock that this thread holds.
    #[derive(Debug)]
    pub(crate) struct Held(Rank);

    impl Rank {
        fn bit(self) -> u32 {
            match self {
                Rank::Token => 0,
                rank => 1 << rank as u32,
            }
        }
    }

    /// Panics if this thread holds a lock of this rank or a later one, so that it must not wait for a lock
    /// of this rank.
    pub(crate) fn assert_in_order(rank: Rank) {
        let is_in_order = rank == Rank::Token || HELD.get() < rank.bit();
        assert!(is_in_order, "{rank:?} is locked after {:#b}", HELD.get());
    }

    impl Held {
        pub(crate) fn new(rank: Rank) -> Held {
            HELD.set(HELD.get() | rank.bit());
            Held(rank)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.set(HELD.get() & !self.0.bit());
        }
    }

    /// Panics if this thread holds a lock other than a token. It is called before I/O, before a thread
    /// sleeps, and before calls to the embedder.
    pub(crate) fn assert_none_held() {
        assert_eq!(HELD.get(), 0, "a lock is held");
    }

    #[cfg(test)]
    mod tests {
        use crate::store::{Rank, SpinLock, assert_none_held};

        fn is_refused(act: impl FnOnce()) -> bool {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_err()
        }

        #[test]
        fn lock_that_comes_earlier_in_the_order_is_refused() {
            let [leader, other] = [0; 2].map(|_| SpinLock::new(Rank::Leader, |_| {}, ()));
            let queue = SpinLock::new(Rank::SendQueue, |_| {}, ());
            let token = SpinLock::new(Rank::Token, |_| {}, ());
            {
                let _leader = leader.lock();
                let _queue = queue.lock();
                let _token = token.try_lock();
            }
            let held = queue.lock();
            assert!(is_refused(|| drop(leader.lock())));
            drop(held);
            let held = leader.lock();
            assert!(is_refused(|| drop(other.lock())), "two of one rank");
            drop(held);
            drop(other.lock());
        }

        #[test]
        fn only_a_token_is_held_during_io() {
            let (token, queue) = (
                SpinLock::new(Rank::Token, |_| {}, ()),
                SpinLock::new(Rank::SendQueue, |_| {}, ()),
            );
            let _token = token.try_lock();
            assert_none_held();
            let _queue = queue.lock();
            assert!(is_refused(assert_none_held));
        }
    }
}

/// Release builds, builds without threads of `std`, and the model checker, which finds deadlocks itself.
#[cfg(not(all(debug_assertions, feature = "std", not(loom))))]
mod check {
    use super::Rank;

    /// Stands for a lock that this thread holds.
    #[derive(Debug)]
    pub(crate) struct Held;

    impl Held {
        pub(crate) const fn new(_: Rank) -> Held {
            Held
        }
    }

    pub(crate) const fn assert_in_order(_: Rank) {}

    pub(crate) const fn assert_none_held() {}
}
