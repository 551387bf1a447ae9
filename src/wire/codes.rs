//! The codes of frames.

/// An answer. Its content depends on the request.
pub const RESP: u8 = 0;
/// Member to leader: asks for a VMID for a child.
pub const GET_NEW_VMID: u8 = 1;
/// Child to parent: the child is about to end.
pub const CHILDEXIT: u8 = 2;
/// Member to leader: asks for a range of IDs.
pub const ALLOC_ID_RANGE: u8 = 3;
/// Member to leader: releases a range of IDs.
pub const RELEASE_ID_RANGE: u8 = 4;
/// Member to leader: transfers an ID to another process.
pub const CHANGE_ID_OWNER: u8 = 5;
/// Member to leader: asks for the owner of an ID.
pub const GET_ID_OWNER: u8 = 6;
/// Member to the owner of a target: a signal for the target.
pub const PID_KILL: u8 = 7;
/// Member to the owner of a pid: asks for metadata.
pub const PID_GETMETA: u8 = 8;
/// Client to server: asks for a stronger lease of a handle.
pub const SYNC_REQUEST_UPGRADE: u8 = 9;
/// Server to client: asks the client to downgrade its lease.
pub const SYNC_REQUEST_DOWNGRADE: u8 = 10;
/// Client to server: closes a handle.
pub const SYNC_REQUEST_CLOSE: u8 = 11;
/// Server to client: grants the lease, with the data.
pub const SYNC_CONFIRM_UPGRADE: u8 = 12;
/// Client to server: has downgraded the lease, with the data.
pub const SYNC_CONFIRM_DOWNGRADE: u8 = 13;
/// Server to client: the handle is closed.
pub const SYNC_CONFIRM_CLOSE: u8 = 14;
/// Member to leader: sets or releases a file lock.
pub const FILE_LOCK_SET: u8 = 15;
/// Member to leader: asks for a conflicting file lock.
pub const FILE_LOCK_GET: u8 = 16;
/// Member to leader: releases all file locks of a pid.
pub const FILE_LOCK_CLEAR_PID: u8 = 17;

/// The lowest free code. A frame with this code or a higher one is skipped unless it is one of the
/// extensions below.
pub const FIRST_UNKNOWN: u8 = 18;

/// Member to leader, and back: the sender knows these extensions, which only this crate has. Each
/// of the others is sent only to a peer that has sent HELLO. A peer without extensions skips it,
/// and a leader never sends it first.
pub const HELLO: u8 = 64;
/// Member to leader: the sender is starting a child.
pub const PROCESS_START: u8 = 65;
/// Member to leader: the sender has reaped a child.
pub const PROCESS_REAP: u8 = 66;
/// Member to leader: changes a process's group, session or flag.
pub const PROCESS_CHANGE: u8 = 67;
/// Member to leader: asks for a process of the leader's table.
pub const PROCESS_QUERY: u8 = 68;

/// Member to leader: sets or releases a file lock of an open file (`F_OFD_SETLK`).
pub const FILE_LOCK_OFD_SET: u8 = 69;
/// Member to leader: asks for a file lock that conflicts with one of an open file (`F_OFD_GETLK`).
pub const FILE_LOCK_OFD_GET: u8 = 70;
/// Member to leader: cancels a waiting request for a file lock.
pub const FILE_LOCK_CANCEL: u8 = 71;
/// Member to leader: the sender holds an open file, has closed it, gives it to another member, or
/// takes it back since the descriptor could not be sent.
pub const FILE_HANDLE: u8 = 72;
/// Member to leader: sets a record lock, or asks for a delegation of the file's record locks if no
/// other process uses them.
pub const FILE_LOCK_DELEGATE: u8 = 73;
/// Leader to member: recalls the delegation of a file.
pub const FILE_LOCK_RECALL: u8 = 74;
/// Member to leader: returns the delegation of a file, with the locks on it.
pub const FILE_LOCK_RETURN: u8 = 75;
/// Server to client: an event of a handle that the base protocol has no message for.
pub const SYNC_NOTE: u8 = 76;

/// Leader to member: the members that may lead the family after the leader.
pub const HEIRS: u8 = 77;
/// Leader to heir, on the log stream: an operation that the leader has applied.
pub const LOG: u8 = 78;
/// Leader to heir, on the log stream: a slice of the leader's state.
pub const STATE: u8 = 79;
/// Heir to leader: the heir has the leader's state after an operation.
pub const HEIR_READY: u8 = 80;
/// Leader to heir, at the end of the log stream: the leader leaves, and the heir leads from now on.
pub const RESIGN: u8 = 81;
/// New leader to member: the sender leads the family.
pub const LEADER: u8 = 82;
/// Member to new leader: the member asks how many of its frames the old leader has handled.
pub const REJOIN: u8 = 83;
/// Leader to heir: asks the heir to read the log stream now. Member to leader, and back: asks the leader to send the
/// number back, which proves that the leader runs and has handled the member's frames before this one.
pub const MARK: u8 = 86;
/// Any process to another: asks which process leads the family.
pub const WHO_LEADS: u8 = 87;
/// Leader to member: the member will not lead, or is no member any more.
pub const DISMISS: u8 = 88;

/// Either peer to the other, after HELLO: the limits of the sender that both peers have to keep.
pub const LIMITS: u8 = 96;
/// Leader to member: another member has given an open file to the receiver.
pub const FILE_GIVEN: u8 = 97;

/// Member to leader: asks for a signal to be sent after the sender's earlier signals that are still
/// undelivered.
pub const PID_KILL_ORDERED: u8 = 99;
/// Leader to member: a signal that another member sent through the leader.
pub const PID_KILL_PASSED: u8 = 100;
/// Member to leader: asks for the exit report of a child that the sender had no room to keep.
pub const PROCESS_END: u8 = 101;
/// Member to leader: asks for a notice when the parent of the sender's process ends. Leader to
/// member: the parent has ended, or a child that was being started was abandoned.
pub const PROCESS_NOTE: u8 = 102;

/// Member to leader, and back, on secure streams: the sender wants to know whether the leader still
/// counts it as a member, and the leader does.
pub const HEARTBEAT: u8 = 110;
/// Member to leader: asks for a fencing number for a lock that the sender holds.
pub const FENCING_NUMBER: u8 = 111;
/// Member to leader: asks for a block of fencing numbers for a delegation or a lease.
pub const FENCING_BLOCK: u8 = 112;

/// Returns true for a code that only a leader with an heir, the heir, and those that follow them send. Others skip it.
pub(super) const fn is_of_succession(code: u8) -> bool {
    matches!(code, HEIRS..=LEADER | MARK | DISMISS)
}

/// Returns true if the code is free: a frame with it is skipped.
pub const fn is_unknown(code: u8) -> bool {
    code >= FIRST_UNKNOWN
        && !matches!(
            code,
            HELLO
                ..=REJOIN
                    | MARK
                    ..=DISMISS
                    | LIMITS
                    | FILE_GIVEN
                    | PID_KILL_ORDERED
                    | PID_KILL_PASSED
                    | PROCESS_END
                    | PROCESS_NOTE
                    | HEARTBEAT
                    | FENCING_NUMBER
                    | FENCING_BLOCK
        )
}

/// Returns the name of a code; `None` for a free one.
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
        FILE_LOCK_DELEGATE => "FILE_LOCK_DELEGATE",
        FILE_LOCK_RECALL => "FILE_LOCK_RECALL",
        FILE_LOCK_RETURN => "FILE_LOCK_RETURN",
        SYNC_NOTE => "SYNC_NOTE",
        HEIRS => "HEIRS",
        LOG => "LOG",
        STATE => "STATE",
        HEIR_READY => "HEIR_READY",
        RESIGN => "RESIGN",
        LEADER => "LEADER",
        REJOIN => "REJOIN",
        MARK => "MARK",
        WHO_LEADS => "WHO_LEADS",
        DISMISS => "DISMISS",
        LIMITS => "LIMITS",
        FILE_GIVEN => "FILE_GIVEN",
        PID_KILL_ORDERED => "PID_KILL_ORDERED",
        PID_KILL_PASSED => "PID_KILL_PASSED",
        PROCESS_END => "PROCESS_END",
        PROCESS_NOTE => "PROCESS_NOTE",
        HEARTBEAT => "HEARTBEAT",
        FENCING_NUMBER => "FENCING_NUMBER",
        FENCING_BLOCK => "FENCING_BLOCK",
        _ => return None,
    })
}

/// Displays a code: its name, or its number if it is free.
#[derive(Clone, Copy, Debug)]
pub struct CodeName(pub u8);

impl core::fmt::Display for CodeName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", crate::number::Number(self.0.into())),
        }
    }
}
