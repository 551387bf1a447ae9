//! The numbers that say what a frame is.

/// An answer; what it holds depends on what was asked.
pub const RESP: u8 = 0;
/// Member to leader: give me a VMID for a child.
pub const GET_NEW_VMID: u8 = 1;
/// Child to parent: I am ending.
pub const CHILDEXIT: u8 = 2;
/// Member to leader: give me a range of IDs.
pub const ALLOC_ID_RANGE: u8 = 3;
/// Member to leader: I am done with a range of IDs.
pub const RELEASE_ID_RANGE: u8 = 4;
/// Member to leader: this ID belongs to another process now.
pub const CHANGE_ID_OWNER: u8 = 5;
/// Member to leader: whose is this ID?
pub const GET_ID_OWNER: u8 = 6;
/// Member to a target's owner: a signal for it.
pub const PID_KILL: u8 = 7;
/// Member to a pid's owner: tell me about it.
pub const PID_GETMETA: u8 = 8;
/// Client to server: I want more of a handle than I have.
pub const SYNC_REQUEST_UPGRADE: u8 = 9;
/// Server to client: give some of a handle back.
pub const SYNC_REQUEST_DOWNGRADE: u8 = 10;
/// Client to server: I am done with a handle.
pub const SYNC_REQUEST_CLOSE: u8 = 11;
/// Server to client: you have it now, and this is its data.
pub const SYNC_CONFIRM_UPGRADE: u8 = 12;
/// Client to server: I gave it back, and this is its data.
pub const SYNC_CONFIRM_DOWNGRADE: u8 = 13;
/// Server to client: I am done with the handle too.
pub const SYNC_CONFIRM_CLOSE: u8 = 14;
/// Member to leader: set or drop a file lock.
pub const FILE_LOCK_SET: u8 = 15;
/// Member to leader: which file lock is in the way?
pub const FILE_LOCK_GET: u8 = 16;
/// Member to leader: drop all file locks of a pid.
pub const FILE_LOCK_CLEAR_PID: u8 = 17;

/// The lowest code that the protocol leaves free. A frame with a code from here on that is not one
/// of the extensions below is skipped.
pub const FIRST_UNKNOWN: u8 = 18;

/// Member to leader, and back: I know these extensions. The first of the codes that only this
/// crate knows: the others are sent only after a HELLO came. A peer without extensions skips it,
/// and never gets one from a leader.
pub const HELLO: u8 = 64;
/// Member to leader: I am starting a child.
pub const PROCESS_START: u8 = 65;
/// Member to leader: I have seen how a child of mine ended.
pub const PROCESS_REAP: u8 = 66;
/// Member to leader: a process's group, session or flag is to change.
pub const PROCESS_CHANGE: u8 = 67;
/// Member to leader: tell me what the family knows about a process.
pub const PROCESS_QUERY: u8 = 68;

/// Member to leader: set or drop a file lock of an open file (`F_OFD_SETLK`).
pub const FILE_LOCK_OFD_SET: u8 = 69;
/// Member to leader: which file lock is in the way of one of an open file (`F_OFD_GETLK`)?
pub const FILE_LOCK_OFD_GET: u8 = 70;
/// Member to leader: a request for a file lock is to wait no more.
pub const FILE_LOCK_CANCEL: u8 = 71;
/// Member to leader: I have an open file that locks may belong to, I have closed it, I hand it on to
/// another member, or I could not.
pub const FILE_HANDLE: u8 = 72;
/// Member to leader: set a record lock, or lend me the file's record locks if nobody else uses them.
pub const FILE_LOCK_BORROW: u8 = 73;
/// Leader to member: give back a file that was lent to you.
pub const FILE_LOCK_RECALL: u8 = 74;
/// Member to leader: here is a file that was lent to me, with the locks on it.
pub const FILE_LOCK_RETURN: u8 = 75;
/// Server to client: something about a handle that the protocol has no word for.
pub const SYNC_NOTE: u8 = 76;

/// Either peer to the other, after HELLO: the limits of mine that both have to keep.
pub const LIMITS: u8 = 96;
/// Leader to member: another member has handed an open file on to you.
pub const FILE_GIVEN: u8 = 97;

/// Member to leader: send this signal after those of mine that you have not delivered yet.
pub const PID_KILL_ORDERED: u8 = 99;
/// Leader to member: a signal that another member sent through the leader.
pub const PID_KILL_PASSED: u8 = 100;
/// Member to leader: how did a child of mine end, of which I have no room to keep the end?
pub const PROCESS_END: u8 = 101;
/// Member to leader: tell me when my parent ends. Leader to member: it has ended, or a child that was
/// being started was abandoned.
pub const PROCESS_NOTE: u8 = 102;

/// Whether the code is free: a frame that has it is skipped.
pub const fn is_unknown(code: u8) -> bool {
    code >= FIRST_UNKNOWN
        && !matches!(
            code,
            HELLO
                ..=SYNC_NOTE
                    | LIMITS
                    | FILE_GIVEN
                    | PID_KILL_ORDERED
                    | PID_KILL_PASSED
                    | PROCESS_END
                    | PROCESS_NOTE
        )
}

/// The name of a code; `None` for one that is free.
pub const fn name(code: u8) -> Option<&'static str> {
    Some(match code {
        RESP => "RESP",
        GET_NEW_VMID => "GET_NEW_VMID",
        CHILDEXIT => "CHILDEXIT",
        ALLOC_ID_RANGE => "ALLOC_ID_RANGE",
        RELEASE_ID_RANGE => "RELEASE_ID_RANGE",
        CHANGE_ID_OWNER => "CHANGE_ID_OWNER",
        GET_ID_OWNER => "GET_ID_OWNER",
        PID_KILL => "PID_KILL",
        PID_GETMETA => "PID_GETMETA",
        SYNC_REQUEST_UPGRADE => "SYNC_REQUEST_UPGRADE",
        SYNC_REQUEST_DOWNGRADE => "SYNC_REQUEST_DOWNGRADE",
        SYNC_REQUEST_CLOSE => "SYNC_REQUEST_CLOSE",
        SYNC_CONFIRM_UPGRADE => "SYNC_CONFIRM_UPGRADE",
        SYNC_CONFIRM_DOWNGRADE => "SYNC_CONFIRM_DOWNGRADE",
        SYNC_CONFIRM_CLOSE => "SYNC_CONFIRM_CLOSE",
        FILE_LOCK_SET => "FILE_LOCK_SET",
        FILE_LOCK_GET => "FILE_LOCK_GET",
        FILE_LOCK_CLEAR_PID => "FILE_LOCK_CLEAR_PID",
        HELLO => "HELLO",
        PROCESS_START => "PROCESS_START",
        PROCESS_REAP => "PROCESS_REAP",
        PROCESS_CHANGE => "PROCESS_CHANGE",
        PROCESS_QUERY => "PROCESS_QUERY",
        FILE_LOCK_OFD_SET => "FILE_LOCK_OFD_SET",
        FILE_LOCK_OFD_GET => "FILE_LOCK_OFD_GET",
        FILE_LOCK_CANCEL => "FILE_LOCK_CANCEL",
        FILE_HANDLE => "FILE_HANDLE",
        FILE_LOCK_BORROW => "FILE_LOCK_BORROW",
        FILE_LOCK_RECALL => "FILE_LOCK_RECALL",
        FILE_LOCK_RETURN => "FILE_LOCK_RETURN",
        SYNC_NOTE => "SYNC_NOTE",
        LIMITS => "LIMITS",
        FILE_GIVEN => "FILE_GIVEN",
        PID_KILL_ORDERED => "PID_KILL_ORDERED",
        PID_KILL_PASSED => "PID_KILL_PASSED",
        PROCESS_END => "PROCESS_END",
        PROCESS_NOTE => "PROCESS_NOTE",
        _ => return None,
    })
}

/// A code in words: its name, or its number if it is free.
#[derive(Clone, Copy, Debug)]
pub struct CodeName(pub u8);

impl core::fmt::Display for CodeName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}
