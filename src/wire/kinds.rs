//! The enumerations of the protocol.

use super::codes;
use super::error::Malformed;

/// Defines an enum whose numbers on the wire are exactly those of its variants.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident: $number:ty { $($(#[$about:meta])* $variant:ident = $value:expr,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub enum $name { $($(#[$about])* $variant,)* }

            impl $name {
                /// All values, in the order of their numbers.
                pub const ALL: &[$name] = &[$($name::$variant,)*];

                /// Returns the number on the wire.
                #[inline]
                pub const fn number(self) -> $number {
                    match self { $($name::$variant => $value,)* }
                }

                /// Returns the value with this number.
                #[inline]
                pub(super) const fn read(number: $number) -> Result<$name, Malformed> {
                    $(if number == $value { return Ok($name::$variant); })*
                    Err(Malformed::BadValue)
                }
            }
        )*
    };
}

choices! {
    /// The kind of the target of a signal.
    KillTarget: u32 {
        /// One thread.
        Thread = 0,
        /// One process.
        Process = 1,
        /// A process group.
        Group = 2,
        /// Every process but the sender.
        All = 3,
    }

    /// The kind of metadata of a pid.
    MetaCode: u32 {
        /// Its user and group, two `u32`.
        Credentials = 0,
        /// The path of its executable.
        Executable = 1,
        /// The path of its working directory.
        WorkingDirectory = 2,
        /// The path of its root directory.
        Root = 3,
    }

    /// The attribute of a process that a change is for.
    ProcessChange: u32 {
        /// Its process group: the value is the group's ID.
        Group = 0,
        /// Its session: it becomes the leader of a new one. The value is ignored.
        Session = 1,
        /// Whether orphans among its descendants become its children.
        Subreaper = 2,
        /// Whether it has executed another program than its parent was running at its start.
        Executed = 3,
        /// Whether it is stopped by a signal.
        Stopped = 4,
    }

    /// The state of a process.
    ProcessState: u32 {
        /// Its parent started it; it has not joined yet.
        Starting = 0,
        /// The process runs.
        Running = 1,
        /// The process is dead, and its parent has not reaped it yet.
        Zombie = 2,
    }

    /// The lease of a client on a sync handle.
    SyncState: i32 {
        /// No lease; the server does not know the client yet.
        None = 0,
        /// No lease.
        Invalid = 1,
        /// A lease to read the data.
        Shared = 2,
        /// A lease to read and change the data.
        Exclusive = 3,
    }

    /// The messages between the client and the server of a sync handle.
    SyncCode: u8 {
        /// Client to server: asks for a stronger lease.
        RequestUpgrade = codes::SYNC_REQUEST_UPGRADE,
        /// Server to client: asks for a downgrade.
        RequestDowngrade = codes::SYNC_REQUEST_DOWNGRADE,
        /// Client to server: closes the handle.
        RequestClose = codes::SYNC_REQUEST_CLOSE,
        /// Server to client: grants the lease.
        ConfirmUpgrade = codes::SYNC_CONFIRM_UPGRADE,
        /// Client to server: has downgraded its lease.
        ConfirmDowngrade = codes::SYNC_CONFIRM_DOWNGRADE,
        /// Server to client: the handle is closed.
        ConfirmClose = codes::SYNC_CONFIRM_CLOSE,
    }

    /// The events of a handle that the base protocol has no message for.
    SyncNote: u32 {
        /// A process died that could change the data: the next data are the last that the server
        /// has. A client sends this event, too, before it returns a lease that it got after the
        /// event and has not used.
        OwnerDied = 1,
        /// The server has no room for the handle: the request will not be granted.
        NoRoom = 2,
    }

    /// The delegation or lease for which a member asks for a block of fencing numbers.
    Holding: u32 {
        /// A delegation, by its number.
        Delegation = 0,
        /// The lease to change a shared value, by the number of the handle.
        Lease = 1,
    }

    /// The notes between a member and the leader about the relatives of the member's process.
    ProcessNote: u32 {
        /// Member to leader: asks for a notice when the parent ends, for the present parent and
        /// each later one.
        WatchParent = 1,
        /// Member to leader: asks for no more such notices.
        IgnoreParent = 2,
        /// Leader to member: the parent has ended. The note has the pid and VMID of the new parent;
        /// 0 for none.
        ParentEnded = 3,
        /// Leader to member: a child that the process has inherited during its start was abandoned.
        ChildAbandoned = 4,
    }

    /// How a new leader has come to the state of the family.
    SuccessionMode: u32 {
        /// The new leader was the heir, and has the state of the old leader.
        Standby = 1,
        /// The new leader collects the state from the members.
        Reclaim = 2,
    }

    /// Why a leader dismisses a member.
    DismissReason: u32 {
        /// The heir did not read the log stream for too long.
        Slow = 1,
        /// The log stream is broken.
        Broken = 2,
        /// The state of the heir differs from that of the leader.
        Differs = 3,
        /// The leader has named another heir.
        Replaced = 4,
        /// The process is no member of the family any more, and what it had is free.
        Left = 5,
    }

    /// The kind of a file lock, and of its owner. `flock` locks and locks of the other kinds do not
    /// conflict.
    LockFamily: u32 {
        /// `fcntl` record locks, owned by a process.
        Posix = 1,
        /// `flock` locks, owned by an open file.
        Flock = 2,
        /// `fcntl` record locks owned by an open file. An extension: between peers without it the
        /// value is undefined.
        Ofd = 3,
    }

    /// The operation on a file's range.
    LockKind: i32 {
        /// Sets a lock that admits other readers.
        Read = 0,
        /// Sets a lock that excludes all others.
        Write = 1,
        /// Releases the lock.
        Unlock = 2,
    }
}

impl SyncCode {
    /// Returns true if a client sends it.
    pub const fn is_for_server(self) -> bool {
        matches!(
            self,
            SyncCode::RequestUpgrade | SyncCode::ConfirmDowngrade | SyncCode::RequestClose
        )
    }
}
