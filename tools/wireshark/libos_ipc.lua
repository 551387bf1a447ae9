-- libos-ipc for Wireshark and tshark: the messages of a family.
-- SPDX-License-Identifier: MIT OR Apache-2.0
--
--   tshark -X lua_script:tools/wireshark/libos_ipc.lua -r FILE
--   wireshark -X lua_script:tools/wireshark/libos_ipc.lua -r FILE
--
-- It reads recordings of `libos_ipc::host::trace` (link type USER0; docs/debugging.md has the layout).
-- The messages are those of docs/protocol.md. tshark shows the answer of a request only if it reads the
-- file twice (-2). It always shows the request of an answer.

local libos_ipc = Proto("libos_ipc", "libos-ipc")

local RECORD_LENGTH = 40
local HEADER_LENGTH = 17

-- ---- Names ------------------------------------------------------------------------------------

local RECORD_KINDS = { [0] = "frame", "bytes of no frame", "frame that was cut off", "frames not recorded" }
local SEEN = { "sender", "receiver", "both" }

local CODES = {
    [0] = "RESP", "GET_NEW_VMID", "CHILDEXIT", "ALLOC_ID_RANGE", "RELEASE_ID_RANGE",
    "CHANGE_ID_OWNER", "GET_ID_OWNER", "PID_KILL", "PID_GETMETA", "SYNC_REQUEST_UPGRADE",
    "SYNC_REQUEST_DOWNGRADE", "SYNC_REQUEST_CLOSE", "SYNC_CONFIRM_UPGRADE",
    "SYNC_CONFIRM_DOWNGRADE", "SYNC_CONFIRM_CLOSE", "FILE_LOCK_SET", "FILE_LOCK_GET",
    "FILE_LOCK_CLEAR_PID",
    [64] = "HELLO", [65] = "PROCESS_START", [66] = "PROCESS_REAP", [67] = "PROCESS_CHANGE",
    [68] = "PROCESS_QUERY", [69] = "FILE_LOCK_OFD_SET", [70] = "FILE_LOCK_OFD_GET",
    [71] = "FILE_LOCK_CANCEL", [72] = "FILE_HANDLE", [73] = "FILE_LOCK_DELEGATE",
    [74] = "FILE_LOCK_RECALL", [75] = "FILE_LOCK_RETURN", [76] = "SYNC_NOTE",
    [77] = "HEIRS", [78] = "LOG", [79] = "STATE", [80] = "HEIR_READY", [81] = "RESIGN",
    [82] = "LEADER", [83] = "REJOIN", [86] = "MARK", [87] = "WHO_LEADS", [88] = "DISMISS",
    [96] = "LIMITS",
    [97] = "FILE_GIVEN",
    [99] = "PID_KILL_ORDERED", [100] = "PID_KILL_PASSED",
    [101] = "PROCESS_END", [102] = "PROCESS_NOTE",
    [110] = "HEARTBEAT", [111] = "FENCING_NUMBER", [112] = "FENCING_BLOCK",
}

local TARGETS = { [0] = "thread", "process", "group", "all" }
local METADATA = { [0] = "credentials", "executable", "working directory", "root directory" }
local SYNC_STATES = { [0] = "none", "invalid", "shared", "exclusive" }
local FAMILIES = { "record lock", "flock lock", "record lock of an open file" }
local LOCK_KINDS = { [0] = "read", "write", "unlock" }
local PROCESS_CHANGES = { [0] = "group", "session", "subreaper", "executed", "stopped" }
local STATES = { [0] = "starting", "running", "zombie" }
local PROCESS_NOTES = {
    "watch my parent", "do not watch my parent", "the parent ended", "a child was abandoned",
}
local SYNC_NOTES = { "the owner died", "no room" }
local HOLDINGS = { [0] = "delegation", "lease" }
local LEADER_MODES = { "standby", "reclaim" }
local DISMISSALS = {
    "the heir is slow", "the log is broken", "the states differ", "another heir", "no member",
}
local YES_NO = { [0] = "no", "yes" }
local SIGNALS = {
    [0] = "none", "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE",
    "SIGKILL", "SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT",
    "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU",
    "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
}
local ERRORS = {
    [0] = "done", [-1] = "EPERM", [-2] = "ENOENT", [-3] = "ESRCH", [-4] = "EINTR", [-5] = "EIO",
    [-9] = "EBADF", [-10] = "ECHILD", [-11] = "EAGAIN", [-12] = "ENOMEM", [-13] = "EACCES",
    [-22] = "EINVAL", [-35] = "EDEADLK", [-36] = "ENAMETOOLONG", [-37] = "ENOLCK",
    [-38] = "ENOSYS", [-16] = "EBUSY", [-71] = "EPROTO", [-75] = "EOVERFLOW", [-90] = "EMSGSIZE", [-107] = "ENOTCONN", [-108] = "ESHUTDOWN",
    [-110] = "ETIMEDOUT", [-114] = "EALREADY", [-116] = "ESTALE",
}

-- ---- Fields -----------------------------------------------------------------------------------

local fields = {}

local function field(kind, name, label, ...)
    local made = ProtoField[kind]("libos_ipc." .. name, label, ...)
    fields[#fields + 1] = made
    return made
end

local function u32(name, label, names) return field("uint32", name, label, base.DEC, names) end
local function i32(name, label, names) return field("int32", name, label, base.DEC, names) end
local function u64(name, label) return field("uint64", name, label, base.DEC) end
local function time(name, label) return field("relative_time", name, label) end

-- The fields, by the names that the functions below use.
local f = {
    -- The recorder's fields.
    record = field("none", "record", "Recorded"),
    version = field("uint8", "record.version", "Version", base.DEC),
    kind = field("uint8", "record.kind", "Holds", base.DEC, RECORD_KINDS),
    seen = field("uint8", "record.seen", "Seen by", base.DEC, SEEN),
    sender = u32("sender", "Sender"),
    receiver = u32("receiver", "Receiver"),
    member = u32("member", "Member"),
    index = u64("record.index", "Number in its stream"),
    lost = u64("record.lost", "Frames not recorded"),
    sent = u64("sent", "Sent (ns of the members' clock)"),
    received = u64("received", "Received (ns of the members' clock)"),
    transit = time("transit", "On its way"),
    raw = field("bytes", "raw", "Bytes"),
    -- The frame.
    size = u64("size", "Size"),
    seq = u64("seq", "Sequence number"),
    code = field("uint8", "code", "Code", base.DEC, CODES),
    name = field("string", "name", "Name"),
    payload = field("bytes", "payload", "Payload"),
    reserved = field("bytes", "reserved", "Reserved"),
    -- Requests and answers.
    request_in = field("framenum", "request_in", "Request in", base.NONE, frametype.REQUEST),
    response_in = field("framenum", "response_in", "Answer in", base.NONE, frametype.RESPONSE),
    request_code = field("uint8", "request_code", "Answers", base.DEC, CODES),
    response_time = time("response_time", "Answered within, as the requester sees it"),
    service_time = time("service_time", "Answered within, as the responder sees it"),
    status = i32("status", "Status", ERRORS),
    delegated = i32("delegated", "Delegated, with room for that many locks"),
    -- Payloads.
    vmid = u32("vmid", "VMID"),
    owner = u32("owner", "VMID of the owner"),
    id = u32("id", "ID"),
    start_id = u32("start", "First ID"),
    end_id = u32("end", "Last ID"),
    pid = u32("pid", "Pid"),
    parent = u32("parent", "Pid of the parent"),
    parent_vmid = u32("parent_vmid", "VMID of the parent"),
    uid = u32("uid", "User"),
    gid = u32("gid", "Group of users"),
    exit_code = u32("exit_code", "Exit code"),
    term_signal = u32("term_signal", "Ended by signal", SIGNALS),
    sending_pid = u32("kill.sender", "Pid that sends it"),
    signal = i32("signal", "Signal", SIGNALS),
    target = u32("target", "Target", TARGETS),
    what = u32("meta", "Asked for", METADATA),
    data_size = u64("data_size", "Length of the data"),
    data = field("bytes", "data", "Data"),
    path = field("string", "path", "Path"),
    handle = u64("handle", "Handle"),
    beat_sent = u64("heartbeat.sent", "Sent (ns of the sender's clock)"),
    silence_limit = u64("heartbeat.limit", "Limit of silence (ns)"),
    holding = u32("fencing.holding", "Holds", HOLDINGS),
    held_number = u64("fencing.held", "Number of what it holds"),
    fencing = u64("fencing.number", "Fencing number"),
    state = i32("sync.state", "State", SYNC_STATES),
    note = u32("sync.note", "Note", SYNC_NOTES),
    process_note = u32("process.note", "Note", PROCESS_NOTES),
    family = u32("lock.family", "Family", FAMILIES),
    lock_kind = i32("lock.kind", "Kind", LOCK_KINDS),
    first_byte = u64("lock.start", "First byte"),
    last_byte = field("uint64", "lock.end", "Last byte", base.DEC_HEX),
    wait = field("uint8", "lock.wait", "Waits", base.DEC, YES_NO),
    cancelled = u64("lock.cancelled", "Sequence number of the request"),
    delegation = u64("delegation", "Number of the delegation"),
    count = u64("count", "Locks"),
    lock = field("none", "lock", "Lock"),
    held = u32("held", "Held", YES_NO),
    always = u32("kill.always", "In any case", YES_NO),
    child = u32("child", "VMID of another member"),
    hello_version = u32("hello.version", "Version"),
    features = field("uint32", "hello.features", "Features", base.HEX),
    limit_flags = field("uint32", "limits.flags", "Flags", base.HEX),
    longest_frame = u32("limits.frame", "Longest frame"),
    most_sync_data = u32("limits.sync_data", "Most data of a handle"),
    change = u32("change", "What", PROCESS_CHANGES),
    value = u32("change.value", "Value"),
    group = u32("group", "Process group"),
    session = u32("session", "Session"),
    life = u32("process.state", "State", STATES),
    flags = field("uint32", "process.flags", "Flags", base.HEX),
    subreaper = field("bool", "process.subreaper", "Subreaper", 32, nil, 1),
    executed = field("bool", "process.executed", "Runs another program than its parent", 32, nil, 2),
    stopped = field("bool", "process.stopped", "Stopped", 32, nil, 4),
    orphaned = field("bool", "process.orphaned", "In an orphaned group", 32, nil, 8),
    start_seq = u64("process.start_seq", "Start sequence number"),
    after = u64("process.after", "Started after"),
    epoch = u32("epoch", "Epoch"),
    config = u32("config", "Number of the list of heirs"),
    heir_count = u32("heir.count", "Heirs"),
    heir = u32("heir", "VMID of an heir"),
    leader = u32("leader", "VMID of the leader"),
    mode = u32("leader.mode", "Mode", LEADER_MODES),
    operation = u64("op", "Number of the last operation"),
    digest = field("uint64", "digest", "Digest of the state", base.HEX),
    counted_sent = u64("rejoin.sent", "Counted frames sent"),
    counted_received = u64("rejoin.received", "Counted messages received"),
    counted_taken = u64("rejoin.taken", "Counted frames handled"),
    rejoin_waiting = u32("rejoin.waiting", "Requests that wait for an answer"),
    mark = u64("mark", "Number"),
    reason = u32("dismiss.reason", "Reason", DISMISSALS),
}
libos_ipc.fields = fields

-- The expert information.
local e = {
    malformed = ProtoExpert.new("libos_ipc.malformed", "Malformed", expert.group.MALFORMED,
        expert.severity.ERROR),
    cut_off = ProtoExpert.new("libos_ipc.cut_off", "The stream ended in mid-frame",
        expert.group.SEQUENCE, expert.severity.WARN),
    not_recorded = ProtoExpert.new("libos_ipc.not_recorded",
        "Frames are missing here: the recorder had no room", expert.group.SEQUENCE,
        expert.severity.WARN),
    unknown = ProtoExpert.new("libos_ipc.unknown_code", "An unknown code: the receiver skips it",
        expert.group.PROTOCOL, expert.severity.NOTE),
    unmatched = ProtoExpert.new("libos_ipc.unmatched", "The request is not in this file",
        expert.group.SEQUENCE, expert.severity.NOTE),
    unanswered = ProtoExpert.new("libos_ipc.unanswered", "The answer is not in this file",
        expert.group.SEQUENCE, expert.severity.NOTE),
    refused = ProtoExpert.new("libos_ipc.refused", "Answered with an error",
        expert.group.RESPONSE_CODE, expert.severity.CHAT),
}
local experts = {}
for _, made in pairs(e) do experts[#experts + 1] = made end
libos_ipc.experts = experts

-- ---- A payload being read ---------------------------------------------------------------------

-- Reads a payload from its start and adds each field to the tree. The first fault ends the reading: later
-- reads return nil.
local Reader = {}
Reader.__index = Reader

local function reader(range, tree)
    return setmetatable({ range = range, tree = tree, at = 0, info = {} }, Reader)
end

function Reader:left() return self.range:len() - self.at end

function Reader:fail(why)
    self.fault = self.fault or why
end

-- Returns the next bytes, or nil if the payload is shorter.
function Reader:take(length)
    if self.fault then return nil end
    if length > self:left() then
        self:fail("payload too short")
        return nil
    end
    local range = self.range:range(self.at, length)
    self.at = self.at + length
    return range
end

function Reader:skip(length)
    local range = length > 0 and self:take(length)
    if range then self.tree:add(f.reserved, range) end
end

-- Reads one number. A number that is not in `names` is malformed.
function Reader:number(to, length, read, names)
    local range = self:take(length)
    if not range then return nil end
    local value = range[read](range)
    self.tree:add_le(to, range)
    if names and not names[value] then self:fail("an unknown value: " .. value) end
    return value
end

function Reader:u8(to, names) return self:number(to, 1, "uint", names) end
function Reader:u32(to, names) return self:number(to, 4, "le_uint", names) end
function Reader:i32(to, names) return self:number(to, 4, "le_int", names) end
function Reader:u64(to) return self:number(to, 8, "le_uint64") end

-- Adds a part of the text of the Info column.
function Reader:add_info(format, ...)
    local parts = { ... }
    for index = 1, select("#", ...) do
        if parts[index] == nil then return end
        if type(parts[index]) == "userdata" then parts[index] = tostring(parts[index]) end
    end
    self.info[#self.info + 1] = string.format(format, table.unpack(parts))
end

-- Reads `length` bytes of data and shows them as bytes.
function Reader:bytes(to, length)
    local range = length > 0 and self:take(length)
    if range then self.tree:add(to, range) end
end

-- Returns the offset of the first NUL in the next `length` bytes.
function Reader:nul(length)
    for at = 0, length - 1 do
        if self.range:range(self.at + at, 1):uint() == 0 then return at end
    end
end

-- Reads a path with its terminating NUL.
function Reader:terminated(to, length)
    local ends = not self.fault and self:nul(length)
    local range = self:take(length)
    if not range then return nil end
    if not ends then return self:fail("a path without the NUL that ends it") end
    if ends ~= length - 1 then return self:fail("lengths disagree") end
    local path = ends > 0 and range:range(0, ends):string() or ""
    self.tree:add(to, range, path)
    return path
end

-- Reads a status: 0 or a negative error number.
function Reader:status()
    local status = self:i32(f.status)
    if status == nil then return nil end
    if status < 0 then self.failed = true end
    self:add_info("%s", ERRORS[status] or tostring(status))
    return status
end

local function named(names, number) return number and (names[number] or tostring(number)) end

local function last_byte(value)
    local text = tostring(value)
    return text == "18446744073709551615" and "end" or text
end

-- ---- Payloads of messages ---------------------------------------------------------------------

-- Each of these functions reads the payload of a message with the reader `r`.

local function empty() end

local function sync(r)
    local handle = r:u64(f.handle)
    local size = r:u64(f.data_size)
    local state = r:i32(f.state, SYNC_STATES)
    if not state then return end
    size = size:tonumber()
    if size ~= r:left() - 4 then return r:fail("lengths disagree") end
    r:add_info("handle %s %s", handle, named(SYNC_STATES, state))
    if size > 0 then
        r:add_info("%d bytes", size)
        r:bytes(f.data, size)
    end
    r:skip(4)
end

-- `families`: the families that the code allows.
local function file_lock(families)
    return function(r)
        local family = r:u32(f.family, families)
        local kind = r:i32(f.lock_kind, LOCK_KINDS)
        local first, last = r:u64(f.first_byte), r:u64(f.last_byte)
        local pid = r:u32(f.pid)
        r:skip(4)
        r:u64(families.is_delegation and f.delegation or f.handle)
        local wait = r:u8(f.wait, YES_NO)
        if not wait then return end
        if r:left() < 8 then return r:fail("payload too short") end
        local path = r:terminated(f.path, r:left() - 7)
        r:skip(7)
        if not path then return end
        r:add_info("%s %s..%s of %s", named(LOCK_KINDS, kind), first, last_byte(last), path)
        r:add_info("pid %d", pid)
        if wait == 1 then r:add_info("waits") end
    end
end

local ANY_FAMILY = FAMILIES
local LONGEST_SILENCE = UInt64(60000000000 % 4294967296, math.floor(60000000000 / 4294967296))
local FAMILIES_WITHOUT_EXTENSIONS = { FAMILIES[1], FAMILIES[2] }
local OPEN_FILE = { [3] = FAMILIES[3] }
local DELEGATION = { FAMILIES[1], is_delegation = true }

local function delegated_lock(r)
    local from = r.at
    local outer = r.tree
    if r:left() < 24 then return r:fail("payload too short") end
    r.tree = outer:add(f.lock, r.range:range(from, 24))
    local first, last = r:u64(f.first_byte), r:u64(f.last_byte)
    local pid = r:u32(f.pid)
    local kind = r:i32(f.lock_kind, LOCK_KINDS)
    if kind == 2 or first > last then r:fail("no lock") end
    r.tree:append_text(string.format(": %s %s..%s, pid %d", named(LOCK_KINDS, kind),
        tostring(first), last_byte(last), pid))
    r.tree = outer
end

-- `targets`: the targets that the code allows.
local function kill(r, targets)
    local sender = r:u32(f.sending_pid)
    r:u32(f.pid)
    local id = r:u32(f.id)
    local signal, target = r:i32(f.signal), r:u32(f.target, targets)
    if target == 3 then
        r:add_info("%s to all", named(SIGNALS, signal))
    else
        r:add_info("%s to %s %d", named(SIGNALS, signal), named(TARGETS, target), id)
    end
    r:add_info("from %d", sender)
end

local function any_bytes(r)
    r:add_info("%d bytes", r:left())
    r:bytes(f.data, r:left())
end

local function new_leader(r)
    local epoch = r:u32(f.epoch)
    r:u32(f.config)
    r:add_info("member %d, epoch %d", r:u32(f.leader), epoch)
    r:add_info("%s", named(LEADER_MODES, r:u32(f.mode, LEADER_MODES)))
end

-- The functions, by the codes in CODES.
local MESSAGES = {
    [1] = empty,
    [2] = function(r)
        r:u32(f.parent)
        r:add_info("pid %d", r:u32(f.pid))
        r:u32(f.uid)
        local code, signal = r:u32(f.exit_code), r:u32(f.term_signal)
        if signal == 0 then
            r:add_info("code %d", code)
        else
            r:add_info("by %s", named(SIGNALS, signal))
        end
    end,
    [3] = empty,
    [4] = function(r) r:add_info("%d..%d", r:u32(f.start_id), r:u32(f.end_id)) end,
    [5] = function(r) r:add_info("id %d to member %d", r:u32(f.id), r:u32(f.owner)) end,
    [6] = function(r) r:add_info("id %d", r:u32(f.id)) end,
    [7] = function(r) kill(r, TARGETS) end,
    [8] = function(r) r:add_info("pid %d, %s", r:u32(f.pid), named(METADATA, r:u32(f.what, METADATA))) end,
    [9] = sync, [10] = sync, [11] = sync, [12] = sync, [13] = sync, [14] = sync,
    [15] = file_lock(FAMILIES_WITHOUT_EXTENSIONS),
    [16] = file_lock(FAMILIES_WITHOUT_EXTENSIONS),
    [17] = function(r) r:add_info("pid %d", r:u32(f.pid)) end,
    [64] = function(r)
        r:add_info("version %d", r:u32(f.hello_version))
        r:u32(f.features)
        r:add_info("pid %d", r:u32(f.pid))
        r:u32(f.parent_vmid)
    end,
    [65] = function(r) r:add_info("member %d, pid %d", r:u32(f.vmid), r:u32(f.pid)) end,
    [66] = function(r) r:add_info("pid %d", r:u32(f.pid)) end,
    [67] = function(r)
        local what, pid, value = r:u32(f.change, PROCESS_CHANGES), r:u32(f.pid), r:u32(f.value)
        r:add_info("%s of %d: %d", named(PROCESS_CHANGES, what), pid, value)
    end,
    [68] = function(r)
        local pid, group, parent = r:u32(f.pid), r:u32(f.group), r:u32(f.parent)
        r:skip(4)
        r:u64(f.after)
        if pid ~= 0 then r:add_info("pid %d", pid) end
        if group ~= 0 then r:add_info("group %d", group) end
        if parent ~= 0 then r:add_info("children of %d", parent) end
    end,
    [69] = file_lock(OPEN_FILE),
    [70] = file_lock(OPEN_FILE),
    [71] = function(r) r:add_info("of #%s", r:u64(f.cancelled)) end,
    [72] = function(r)
        local handle, held = r:u64(f.handle), r:u32(f.held, YES_NO)
        local to = r:u32(f.child)
        if to == 0 then
            r:add_info("handle %s %s", handle, held == 1 and "held" or "closed")
        else
            r:add_info("handle %s %s %d", handle, held == 1 and "given to" or "taken back from", to)
        end
    end,
    [73] = file_lock(DELEGATION),
    [74] = function(r) r:add_info("delegation %s", r:u64(f.delegation)) end,
    [75] = function(r)
        local delegation, count = r:u64(f.delegation), r:u64(f.count)
        if not count then return end
        if r:left() % 24 ~= 0 then return r:fail("payload too short or too long") end
        if count:tonumber() ~= r:left() / 24 then return r:fail("lengths disagree") end
        r:add_info("delegation %s, %s locks", delegation, count)
        while r:left() > 0 and not r.fault do delegated_lock(r) end
    end,
    [77] = function(r)
        local epoch = r:u32(f.epoch)
        r:u32(f.config)
        r:skip(4)
        local count = r:u32(f.heir_count)
        if not count then return end
        if count > 4 then return r:fail("an unknown value: " .. count) end
        for index = 1, 4 do
            local heir = r:u32(f.heir)
            if not heir then return end
            if index > count and heir ~= 0 then return r:fail("lengths disagree") end
            if index == 1 then
                r:add_info("%s, epoch %d", heir == 0 and "no heir" or "heir " .. heir, epoch)
            end
        end
    end,
    [78] = any_bytes,
    [79] = any_bytes,
    [80] = function(r)
        r:add_info("operation %s", r:u64(f.operation))
        r:u64(f.digest)
    end,
    [81] = function(r)
        local epoch, heir = r:u32(f.epoch), r:u32(f.heir)
        r:add_info("to member %d after operation %s", heir, r:u64(f.operation))
        r:add_info("epoch %d", epoch)
    end,
    [82] = new_leader,
    [83] = function(r)
        local epoch = r:u32(f.epoch)
        r:u32(f.config)
        r:u32(f.pid)
        r:u32(f.rejoin_waiting)
        local sent, received = r:u64(f.counted_sent), r:u64(f.counted_received)
        r:add_info("after epoch %d, sent %s, received %s", epoch, sent, received)
    end,
    [86] = function(r) r:add_info("%s", r:u64(f.mark)) end,
    [87] = empty,
    [88] = function(r)
        r:add_info("%s", named(DISMISSALS, r:u32(f.reason, DISMISSALS)))
        r:add_info("epoch %d", r:u32(f.epoch))
    end,
    [96] = function(r)
        local _, flags = r:u32(f.hello_version), r:u32(f.limit_flags)
        local frame, data = r:u32(f.longest_frame), r:u32(f.most_sync_data)
        r:add_info("frames of %d, handles of %d bytes, flags %d", frame, data, flags)
        r:skip(r:left())
    end,
    [97] = function(r)
        local handle, to = r:u64(f.handle), r:u32(f.child)
        r:add_info("handle %s for %d", handle, to)
    end,
    [76] = function(r) r:add_info("handle %s: %s", r:u64(f.handle), named(SYNC_NOTES, r:u32(f.note, SYNC_NOTES))) end,
    [99] = function(r)
        kill(r, { [0] = "thread", "process" })
        if r:u32(f.always, YES_NO) == 1 then r:add_info("always") end
    end,
    [100] = function(r) kill(r, TARGETS) end,
    [101] = function(r)
        local pid, group = r:u32(f.pid), r:u32(f.group)
        if pid ~= 0 then r:add_info("pid %d", pid) end
        if group ~= 0 then r:add_info("group %d", group) end
    end,
    [102] = function(r)
        local note = r:u32(f.process_note, PROCESS_NOTES)
        r:add_info("%s", named(PROCESS_NOTES, note))
        local pid = r:u32(f.pid)
        r:u32(f.vmid)
        if note == 3 then r:add_info("now %d", pid) end
    end,
    [110] = function(r)
        r:u64(f.beat_sent)
        local limit = r:u64(f.silence_limit)
        if not limit then return end
        if limit > LONGEST_SILENCE then return r:fail("an unknown value: " .. tostring(limit)) end
        r:add_info("limit of %s ms", limit / UInt64(1000000))
    end,
    [111] = file_lock(ANY_FAMILY),
    [112] = function(r)
        local holding = r:u32(f.holding, HOLDINGS)
        r:skip(4)
        r:add_info("%s %s", named(HOLDINGS, holding), r:u64(f.held_number))
    end,
}

-- ---- Payloads of answers, by the code that is answered ------------------------------------------

local function status(r) r:status() end

local function held_lock(r)
    local result = r:i32(f.status)
    local family = r:u32(f.family)
    local kind = r:i32(f.lock_kind)
    r:skip(4)
    local first, last = r:u64(f.first_byte), r:u64(f.last_byte)
    local pid = r:u32(f.pid)
    r:skip(4)
    r:u64(f.handle)
    if r.fault then return end
    if result ~= 0 then
        r.failed = true
        return r:add_info("%s", ERRORS[result] or tostring(result))
    end
    if not LOCK_KINDS[kind] then return r:fail("an unknown value: " .. kind) end
    if kind == 2 then return r:add_info("no conflict") end
    if not FAMILIES_WITHOUT_EXTENSIONS[family] then return r:fail("an unknown value: " .. family) end
    r:add_info("%s %s..%s, pid %d", named(LOCK_KINDS, kind), first, last_byte(last), pid)
end

local function fencing(r)
    local result = r:i32(f.status)
    r:skip(4)
    local number = r:u64(f.fencing)
    if r.fault then return end
    if result < 0 then
        r.failed = true
        return r:add_info("%s", ERRORS[result] or tostring(result))
    end
    r:add_info("%s", number)
end

local ANSWERS = {
    [83] = function(r)
        local result, epoch = r:i32(f.status), r:u32(f.epoch)
        local taken = r:u64(f.counted_taken)
        if r.fault then return end
        if result ~= 0 then
            r.failed = true
            return r:add_info("%s, epoch %d", ERRORS[result] or tostring(result), epoch)
        end
        r:add_info("handled %s, epoch %d", taken, epoch)
    end,
    [87] = new_leader,
    [111] = fencing,
    [112] = fencing,
    [1] = function(r)
        local vmid = r:u32(f.vmid)
        if vmid == 0 then r:add_info("none left") else r:add_info("member %d", vmid) end
    end,
    [3] = function(r)
        local first, last = r:u32(f.start_id), r:u32(f.end_id)
        if last == 0 then r:add_info("none left") else r:add_info("%d..%d", first, last) end
    end,
    [5] = function(r) if r:left() == 0 then r:add_info("done") else r:status() end end,
    [6] = function(r)
        local owner = r:u32(f.owner)
        if owner == 0 then r:add_info("no owner") else r:add_info("member %d", owner) end
    end,
    [7] = status,
    [8] = function(r, request)
        local size = r:u64(f.data_size)
        local result = r:status()
        if not result then return end
        if size:tonumber() ~= r:left() then return r:fail("lengths disagree") end
        if request.what == 0 and r:left() == 8 then
            r:add_info("user %d, group %d", r:u32(f.uid), r:u32(f.gid))
        elseif request.what ~= 0 and r:nul(r:left()) == r:left() - 1 then
            r:add_info("%s", r:terminated(f.path, r:left()))
        else
            r:bytes(f.data, r:left())
        end
    end,
    [15] = status,
    [16] = held_lock,
    [17] = status,
    [65] = status,
    [99] = status,
    [100] = status,
    [67] = status,
    [72] = status,
    [97] = status,
    [68] = function(r)
        local result = r:i32(f.status)
        local pid, vmid = r:u32(f.pid), r:u32(f.vmid)
        r:u32(f.parent)
        r:u32(f.group)
        r:u32(f.session)
        local state = r:u32(f.life)
        local flags = r:take(4)
        if flags then
            local tree = r.tree:add_le(f.flags, flags)
            for _, flag in ipairs { f.subreaper, f.executed, f.stopped, f.orphaned } do
                tree:add_le(flag, flags)
            end
        end
        r:u64(f.start_seq)
        if r.fault then return end
        if result ~= 0 then
            r.failed = true
            return r:add_info("%s", ERRORS[result] or tostring(result))
        end
        if not STATES[state] then return r:fail("an unknown value: " .. state) end
        r:add_info("pid %d, member %d, %s", pid, vmid, STATES[state])
    end,
    [69] = status,
    [101] = function(r)
        local result = r:i32(f.status)
        if result == 0 then return MESSAGES[2](r) end
        r:skip(20)
        if r.fault then return end
        r.failed = true
        r:add_info("%s", ERRORS[result] or tostring(result))
    end,
    [70] = held_lock,
    [73] = function(r)
        local range = r:take(4)
        if not range then return end
        local result = range:le_int()
        if result <= 0 then
            r.at = r.at - 4
            r:status()
        else
            r.tree:add_le(f.delegated, range)
            r:add_info("delegated, with room for %d locks", result)
        end
    end,
}

-- ---- Which answer belongs to which request ------------------------------------------------------

-- Requests without an answer yet, by requester, responder and sequence number.
local waiting = {}
-- The request of each frame, by frame number. The first pass over the file fills them.
local requests, answers = {}, {}

function libos_ipc.init()
    waiting, requests, answers = {}, {}, {}
end

local function key(requester, responder, seq) return requester .. " " .. responder .. " " .. seq end

-- Returns the time between two events in nanoseconds, or nil if one of them was not recorded.
local function between(from, to)
    if not from or not to then return nil end
    local nanoseconds = (to - from):tonumber()
    if nanoseconds < 0 then return nil end
    return nanoseconds
end

local function nstime(nanoseconds)
    local seconds = math.floor(nanoseconds / 1e9)
    return NSTime(seconds, math.floor(nanoseconds - seconds * 1e9))
end

local function short(nanoseconds)
    if nanoseconds < 1e6 then return string.format("%.1f µs", nanoseconds / 1e3) end
    if nanoseconds < 1e9 then return string.format("%.1f ms", nanoseconds / 1e6) end
    return string.format("%.3f s", nanoseconds / 1e9)
end

local function add_time(tree, to, nanoseconds)
    if nanoseconds then tree:add(to, nstime(nanoseconds)):set_generated() end
end

-- ---- A whole record ------------------------------------------------------------------------------

local function record_tree(tvb, tree)
    local record = {}
    record.kind = tvb(1, 1):uint()
    record.seen = tvb(2, 1):uint()
    record.sender, record.receiver = tvb(4, 4):le_uint(), tvb(8, 4):le_uint()
    if record.seen % 2 == 1 then record.sent = tvb(24, 8):le_uint64() end
    if record.seen >= 2 then record.received = tvb(32, 8):le_uint64() end

    local sub = tree:add(f.record, tvb(0, RECORD_LENGTH))
    sub:add(f.version, tvb(0, 1))
    sub:add(f.kind, tvb(1, 1))
    if record.kind == 3 then
        sub:add_le(f.sender, tvb(4, 4))
        sub:add_le(f.lost, tvb(16, 8))
        return record
    end
    sub:add(f.seen, tvb(2, 1))
    sub:add_le(f.sender, tvb(4, 4))
    sub:add_le(f.receiver, tvb(8, 4))
    sub:add_le(f.member, tvb(4, 4)):set_hidden()
    sub:add_le(f.member, tvb(8, 4)):set_hidden()
    sub:add_le(f.index, tvb(16, 8))
    if record.sent then sub:add_le(f.sent, tvb(24, 8)) end
    if record.received then sub:add_le(f.received, tvb(32, 8)) end
    record.transit = between(record.sent, record.received)
    add_time(sub, f.transit, record.transit)
    return record
end

local function member_name(vmid)
    if vmid == 0 then return "?" end
    return "member " .. vmid
end

local function malformed(tree, pinfo, why)
    tree:add_proto_expert_info(e.malformed, "Malformed: " .. why)
    pinfo.cols.info:append(" [malformed: " .. why .. "]")
end

-- Returns the entry of a request. The first pass over the file makes the entry.
local function record_request(pinfo, record, code, seq, what)
    local request = requests[pinfo.number]
    if not request and not pinfo.visited then
        request = {
            number = pinfo.number, code = code, what = what,
            sent = record.sent, received = record.received,
        }
        requests[pinfo.number] = request
        waiting[key(record.sender, record.receiver, seq)] = request
    end
    return request
end

local function record_answer(pinfo, record, seq)
    local request = answers[pinfo.number]
    if not request and not pinfo.visited then
        local at = key(record.receiver, record.sender, seq)
        request = waiting[at]
        if request then
            waiting[at] = nil
            request.response = pinfo.number
            answers[pinfo.number] = request
        end
    end
    return request
end

local function dissect_frame(tvb, pinfo, tree, record)
    local info = pinfo.cols.info
    if tvb:len() < HEADER_LENGTH then
        tree:add(f.raw, tvb)
        info:set("no frame")
        return malformed(tree, pinfo, "shorter than a header")
    end
    local size, code = tvb:range(0, 8):le_uint64(), tvb:range(16, 1):uint()
    local seq = tostring(tvb:range(8, 8):le_uint64())
    tree:add_le(f.size, tvb:range(0, 8))
    tree:add_le(f.seq, tvb:range(8, 8))
    tree:add(f.code, tvb:range(16, 1))
    local name = CODES[code] or "code " .. code
    info:set(name)
    if size:tonumber() ~= tvb:len() then
        return malformed(tree, pinfo, "the size is not the frame's length")
    end

    local read, request = MESSAGES[code], nil
    local latency = nil
    if code == 0 then
        request = record_answer(pinfo, record, seq)
        if request then
            name = "answer to " .. (CODES[request.code] or request.code)
            tree:add(f.request_in, request.number):set_generated()
            tree:add(f.request_code, request.code):set_generated()
            latency = between(request.sent, record.received)
            add_time(tree, f.response_time, latency)
            local service = between(request.received, record.sent)
            add_time(tree, f.service_time, service)
            latency = latency or service
            read = ANSWERS[request.code]
        else
            name = "answer"
            tree:add_proto_expert_info(e.unmatched)
        end
    end
    tree:add(f.name, name):set_generated()
    info:set(name)
    if seq ~= "0" then info:append(" #" .. seq) end

    local payload = tvb:len() > HEADER_LENGTH and tvb:range(HEADER_LENGTH) or nil
    local r
    if read then
        -- Wireshark has no empty ranges, so every read of an empty payload is too short.
        local range = payload or { len = function() return 0 end }
        local sub = payload and tree:add(f.payload, payload) or tree
        r = reader(range, sub)
        read(r, request)
        if not r.fault and r:left() > 0 then r:fail("payload too long") end
    else
        if payload then tree:add(f.payload, payload) end
        if code ~= 0 then
            tree:add_proto_expert_info(e.unknown)
            info:append(" [unknown]")
        end
    end

    if code ~= 0 and seq ~= "0" and ANSWERS[code] then
        local what = code == 8 and payload and payload:len() == 8 and payload:range(4, 4):le_uint()
        local own_request = record_request(pinfo, record, code, seq, what)
        if own_request and own_request.response then
            tree:add(f.response_in, own_request.response):set_generated()
        elseif pinfo.visited then
            tree:add_proto_expert_info(e.unanswered)
        end
    end

    if not r then return end
    if #r.info > 0 then
        info:append((code == 0 and " = " or " ") .. table.concat(r.info, ", "))
    end
    if latency then info:append(" (" .. short(latency) .. ")") end
    if r.failed then tree:add_proto_expert_info(e.refused) end
    if r.fault then malformed(tree, pinfo, r.fault) end
end

function libos_ipc.dissector(buffer, pinfo, root)
    pinfo.cols.protocol:set("libos-ipc")
    local tree = root:add(libos_ipc, buffer())
    if buffer:len() < RECORD_LENGTH or buffer(0, 1):uint() ~= 1 then
        pinfo.cols.info:set("no recording of libos-ipc, or of another version")
        return malformed(tree, pinfo, "no recording")
    end
    local record = record_tree(buffer, tree)
    pinfo.cols.src:set(member_name(record.sender))
    pinfo.cols.dst:set(member_name(record.receiver))
    local bytes = buffer:len() > RECORD_LENGTH and buffer(RECORD_LENGTH) or nil
    if record.kind == 3 then
        pinfo.cols.info:set(tostring(buffer(16, 8):le_uint64()) .. " frames not recorded")
        tree:add_proto_expert_info(e.not_recorded)
    elseif record.kind == 2 then
        pinfo.cols.info:set("the stream ended in mid-frame, after " .. (bytes and bytes:len() or 0)
            .. " bytes")
        if bytes then tree:add(f.raw, bytes) end
        tree:add_proto_expert_info(e.cut_off)
    elseif record.kind == 0 and bytes then
        dissect_frame(bytes, pinfo, tree, record)
    else
        pinfo.cols.info:set("bytes of no frame")
        if bytes then tree:add(f.raw, bytes) end
        malformed(tree, pinfo, "the stream is not made of frames")
    end
    return buffer:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, libos_ipc)
