//! The small numbers of the protocol that stand for a choice.

use super::codes;
use super::error::Malformed;

/// An enum whose numbers on the wire are exactly those of its variants.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident: $number:ty { $($(#[$about:meta])* $variant:ident = $value:expr,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub enum $name { $($(#[$about])* $variant,)* }

            impl $name {
                /// Every choice, in the order of their numbers.
                pub const ALL: &[$name] = &[$($name::$variant,)*];

                /// The number that stands for it on the wire.
                #[inline]
                pub const fn number(self) -> $number {
                    match self { $($name::$variant => $value,)* }
                }

                /// What the number stands for.
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
    /// Whom a signal is for.
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

    /// What is asked about a pid.
    MetaCode: u32 {
        /// Its user and group, two `u32`.
        Credentials = 0,
        /// The path of what it runs.
        Executable = 1,
        /// The path of its working directory.
        WorkingDirectory = 2,
        /// The path of its root directory.
        Root = 3,
    }

    /// What is to change about a process.
    ProcessChange: u32 {
        /// Its process group: the value is the group's ID.
        Group = 0,
        /// Its session: it becomes the leader of a new one. The value is not looked at.
        Session = 1,
        /// Whether orphans below it become its children.
        Subreaper = 2,
        /// Whether it runs another program than its parent did when it was started.
        Executed = 3,
        /// Whether it is stopped by a signal.
        Stopped = 4,
    }

    /// Where a process is in its life.
    ProcessState: u32 {
        /// Its parent started it; it has not joined yet.
        Starting = 0,
        /// It lives.
        Running = 1,
        /// It is dead, and its parent has not seen that yet.
        Zombie = 2,
    }

    /// How much of a sync handle a client has.
    SyncState: i32 {
        /// Nothing, and the handle is not known yet.
        None = 0,
        /// Nothing.
        Invalid = 1,
        /// The data, to read.
        Shared = 2,
        /// The data, to read and to change.
        Exclusive = 3,
    }

    /// What one side of a sync handle tells the other.
    SyncCode: u8 {
        /// Client to server: I want more of it.
        RequestUpgrade = codes::SYNC_REQUEST_UPGRADE,
        /// Server to client: give some of it back.
        RequestDowngrade = codes::SYNC_REQUEST_DOWNGRADE,
        /// Client to server: I am done with it.
        RequestClose = codes::SYNC_REQUEST_CLOSE,
        /// Server to client: you have it now.
        ConfirmUpgrade = codes::SYNC_CONFIRM_UPGRADE,
        /// Client to server: I gave it back.
        ConfirmDowngrade = codes::SYNC_CONFIRM_DOWNGRADE,
        /// Server to client: I am done with it too.
        ConfirmClose = codes::SYNC_CONFIRM_CLOSE,
    }

    /// What a server has to say about a handle beyond the protocol.
    SyncNote: u32 {
        /// A process died that could change the data: what comes next is the last that the server
        /// has. A client says it, too, before it gives back what it got after that and has not used.
        OwnerDied = 1,
        /// There is no room for the handle: what was asked for will not come.
        NoRoom = 2,
    }

    /// What a member and the leader have to say about the member's process and its relatives.
    ProcessNote: u32 {
        /// Member to leader: tell me when my parent ends, this one and each that I get after it.
        WatchParent = 1,
        /// Member to leader: tell me no more.
        IgnoreParent = 2,
        /// Leader to member: your parent has ended. With the pid and VMID of the new one; 0 for none.
        ParentEnded = 3,
        /// Leader to member: a child that you have inherited while it was being started never came.
        ChildAbandoned = 4,
    }

    /// Whose a file lock is, and of which kind. `flock` locks and the others don't see each other.
    LockFamily: u32 {
        /// `fcntl` record locks: a process's own.
        Posix = 1,
        /// `flock` locks: an open file's own.
        Flock = 2,
        /// `fcntl` record locks of an open file. An extension: between peers without it there is no
        /// such value.
        Ofd = 3,
    }

    /// What is done to a file's range.
    LockKind: i32 {
        /// Lock it together with other readers.
        Read = 0,
        /// Lock it alone.
        Write = 1,
        /// Drop the lock.
        Unlock = 2,
    }
}

impl SyncCode {
    /// Whether it is a client that says it.
    pub const fn is_for_server(self) -> bool {
        matches!(
            self,
            SyncCode::RequestUpgrade | SyncCode::ConfirmDowngrade | SyncCode::RequestClose
        )
    }
}
