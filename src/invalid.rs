//! The causes of [`Error::Invalid`](crate::Error::Invalid).

use core::fmt;

/// Defines the causes. The text of each is its documentation, and its [`Display`](fmt::Display).
macro_rules! causes {
    ($($name:ident: $text:literal,)*) => {
        /// The fault of an argument of a call, or of its moment ([`Error::Invalid`](crate::Error::Invalid),
        /// `EINVAL`). `Display` says what to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Invalid {
            $(
                #[doc = concat!("\"", $text, ".\"")]
                $name,
            )*
        }

        impl Invalid {
            /// All causes.
            pub const ALL: [Invalid; TEXTS.len()] = [$(Invalid::$name,)*];
        }

        /// The texts of all causes, in their order.
        const TEXTS: &[&str] = &[$($text,)*];
    };
}

causes! {
    AtPeer: "the leader refused an argument with EINVAL (22): the call's documentation says which values are allowed",
    Answer: "the answer of a process does not fit its request, against the protocol: use one version of the library in all processes, or report the error",
    Message: "this process has no answer to that message, or cannot execute it: send it to the process that can",
    Itself: "a process has no connection with itself: give the VMID of another process",
    Vmid: "that VMID is this process's own, or was used before: VMIDs are not used twice, so give one that was never used",
    Id: "that ID is not in use in this process: release and transfer an ID once, in the process that took or accepted it",
    IdIsHere: "that ID, or a part of that range, is in this process already: accept an ID once, and only one that another process transferred",
    IdRange: "that is not a range of IDs which a process can have: give it as it was allocated, with 1 to 32 IDs",
    Joined: "this process has joined already: call join once",
    Pid: "that pid is not this process's, or is taken: join with the pid that the parent allocated, or without one",
    IsThread: "that is the ID of a thread: give the pid of its process",
    Signal: "there is no signal of that number: signals are 1 to 64, and 0 checks whether the target is there",
    Mark: "that is no flag of a process: take Subreaper, Executed or Stopped",
    Metadata: "that metadata is no path: take the executable, the working directory or the root",
    PathLength: "the path is longer than the buffer, or is no path: a buffer of PATH_MAX bytes is always enough",
    LockRange: "the range of the lock begins before the file, or ends before it begins: give a first byte of 0 or more, and a last one that is not below it",
    LockEnd: "the range of the lock ends behind the last byte that a file can have: give a shorter one, or 0 for all that follows",
    LockQuery: "only open files have a query for an unlock: ask for a read or a write lock",
    HandleOpen: "a sync handle of that number is open in this process, or not closed to its end: use the open one, or close it first",
    HandleInUse: "a thread of this process holds the sync handle, or waits for it: release it before it is closed",
    HandleClosed: "the sync handle is closed: open it again",
    SyncState: "a sync handle is acquired in the state Shared or Exclusive: give one of the two",
    NotHeld: "no thread of this process holds the sync handle in that state: acquire it first, and release it once, in the same state",
    ReadOnly: "a value that was acquired to be read is not changed: acquire it in the state Exclusive",
    ValueLength: "the value is longer than Capacities::sync_data: raise that in all processes, or share less",
    ValueSize: "the shared value has another size than the type: use one type for it in all processes",
    BufferLength: "the shared slice does not fit the buffer, or has part of an item: give a buffer of Shared::most_items items, and use one type in all processes",
    QueueShape: "the queue has no room for an item, or was opened with another capacity or another type of items: give the same in all processes",
    Parties: "the barrier has no parties, or was opened with another number of them: give the same number in all processes, and remove each party once",
    Permits: "the semaphore has 2^32 - 1 free permits, and no more are counted: release only what was acquired",
    CArgument: "an argument of the C function is NULL, or no value that the header names: give one of those",
    Config: "the limits of the configuration contradict each other: Config::check names the field and its rule",
    NotStarted: "the node of this process is not made: call libos_ipc_setup, and then libos_ipc_init",
    Internal: "the library broke one of its own rules: report the error, with the events of the node",
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = TEXTS.get(*self as usize);
        text.map_or(Ok(()), |text| f.write_str(text))
    }
}
