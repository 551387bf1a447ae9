//! The pids that are assigned again once the highest was reached, compared with the host's kernel.
#![allow(unsafe_code)]

use std::time::Duration;

use libc::{c_int, pid_t};
use libos_ipc::host::HostNode;
use libos_ipc::wire::{FileLock, LockFamily, LockKind, ProcessChange};
use libos_ipc::{ChildSelector, Errno, Error, Exit, ID_MAX, Id, Pid, Target, Wait};

use crate::family::{Family, WAIT};
use crate::kernel::{code_of, fork, lock_forks};

/// Whether the pid is assigned again: of a living process, a zombie, a reaped process, and of the
/// leader of a group, and of a session, each with and without a member.
type Reuse = [bool; 7];

/// The expected result.
const EXPECTED: Reuse = [false, false, true, false, true, false, true];

/// Orders the results: for a living process; then for a zombie, a group and a session, while their
/// pids are in use, and after that.
fn in_order(living: bool, before: [bool; 3], after: [bool; 3]) -> Reuse {
    let [zombie, group, session] = before;
    let [reaped, no_group, no_session] = after;
    [living, zombie, reaped, group, no_group, session, no_session]
}

/// Encodes the result as an exit code.
fn code(again: Reuse) -> c_int {
    let bits = again.iter();
    bits.fold(0, |bits, again| bits << 1 | c_int::from(*again))
}

#[test]
fn a_pid_is_assigned_again_when_it_names_nothing_any_more() {
    let family = Family::new();
    let first = &family.first.node;
    // The first process allocates all free IDs once, and some short ranges.
    let come_again = |pids: [Id; 3]| {
        let mut again = [false; 3];
        for _ in 0..ID_MAX / 32 + 100 {
            let range = first.alloc_range(WAIT).unwrap();
            first.release_range(range, WAIT).unwrap();
            for (again, pid) in again.iter_mut().zip(pids) {
                *again |= (range.start..=range.end).contains(&pid);
            }
        }
        again
    };
    let reap = |pid| first.wait_child(ChildSelector::Pid(pid), WAIT).unwrap();
    let (living, zombie) = (family.child(), family.child());
    let (group, in_group) = (family.child(), family.child());
    let session = family.child();
    session.node.new_session(WAIT).unwrap();
    let in_session = family.child_of(&session);
    in_session.node.set_group(None, None, WAIT).unwrap();
    group.node.set_group(None, None, WAIT).unwrap();
    first
        .set_group(Some(in_group.pid), Some(group.pid), WAIT)
        .unwrap();
    let (zombie_pid, group_pid, session_pid) = (zombie.pid, group.pid, session.pid);
    zombie.exit(0);
    group.exit(0);
    session.exit(0);
    reap(group_pid);
    reap(session_pid);
    first
        .peek_child(ChildSelector::Pid(zombie_pid), WAIT)
        .unwrap();
    let [is_living, ..] = come_again([living.pid.get(); 3]);
    let before = come_again([zombie_pid.get(), group_pid.get(), session_pid.get()]);
    reap(zombie_pid);
    for member in [in_group, in_session] {
        let pid = member.pid;
        member.exit(0);
        reap(pid);
    }
    let after = come_again([zombie_pid.get(), group_pid.get(), session_pid.get()]);
    assert_eq!(in_order(is_living, before, after), EXPECTED);
}

#[test]
fn the_kernel_assigns_pids_again_by_the_same_rules() {
    let _guard = lock_forks();
    let found = code_of(fork(|| {
        // This is a PID space of its own, with this process as the first. SAFETY: no memory is
        // involved.
        if unsafe { libc::unshare(libc::CLONE_NEWPID) } < 0 {
            return UNKNOWN;
        }
        code_of(fork(|| kernel().map_or(UNKNOWN, code)))
    }));
    // This needs privileges.
    assert!(found == UNKNOWN || found == code(EXPECTED), "{found:07b}");
}

/// The exit code for no result.
const UNKNOWN: c_int = 255;

/// Forks a process that lives until it is killed.
fn child(before: impl FnOnce()) -> pid_t {
    fork(|| {
        before();
        loop {
            // SAFETY: no memory is involved.
            unsafe { libc::pause() };
        }
    })
}

fn end(pid: pid_t) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn reap(pid: pid_t) {
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

/// Waits until the child has ended, and leaves it a zombie.
fn await_end(pid: pid_t) {
    let flags = libc::WEXITED | libc::WNOWAIT;
    let id = pid.unsigned_abs();
    // SAFETY: nothing is asked for.
    unsafe { libc::waitid(libc::P_PID, id, std::ptr::null_mut(), flags) };
}

/// Returns true if the kernel assigns the pid when its turn comes; none if the kernel does not
/// allow the test.
fn comes_next(pid: pid_t) -> Option<bool> {
    let path = c"/proc/sys/kernel/ns_last_pid";
    // The number is written in decimal, without allocation.
    let mut digits = [0_u8; 10];
    let mut rest = pid - 1;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    // SAFETY: the path ends in a zero byte, and `digits` has so many bytes.
    let written = unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY);
        let written = libc::write(file, digits.as_ptr().cast(), digits.len());
        libc::close(file);
        written
    };
    if written <= 0 {
        return None;
    }
    let next = fork(|| 0);
    reap(next);
    Some(next == pid)
}

/// Returns the kernel's results, in the first process of a PID space.
fn kernel() -> Option<Reuse> {
    let (living, zombie) = (child(|| ()), child(|| ()));
    let (group, in_group) = (child(|| ()), child(|| ()));
    // SAFETY: no memory is involved, here and below.
    unsafe {
        libc::setpgid(group, group);
        libc::setpgid(in_group, group);
    }
    let session = child(|| {
        // SAFETY: no memory is involved.
        unsafe { libc::setsid() };
        child(|| {
            // SAFETY: no memory is involved.
            unsafe { libc::setpgid(0, 0) };
        });
    });
    // Its child has the next pid; when that is in a group of its own everything is set up.
    let in_session = session + 1;
    // SAFETY: no memory is involved.
    while unsafe { libc::getpgid(in_session) } != in_session {
        // SAFETY: no memory is involved.
        unsafe { libc::sched_yield() };
    }
    for ended in [zombie, group, session] {
        end(ended);
        await_end(ended);
    }
    reap(group);
    reap(session);
    let is_living = comes_next(living)?;
    let before = [
        comes_next(zombie)?,
        comes_next(group)?,
        comes_next(session)?,
    ];
    reap(zombie);
    for member in [in_group, in_session] {
        end(member);
        reap(member);
    }
    let after = [
        comes_next(zombie)?,
        comes_next(group)?,
        comes_next(session)?,
    ];
    Some(in_order(is_living, before, after))
}

#[test]
fn a_request_gets_the_same_error_from_the_leaders_own_process_as_from_a_member() {
    let family = Family::new();
    let (member, other, gone) = (family.child(), family.child(), family.child());
    let (of_gone, to_gone) = (gone.pid, gone.vmid());
    gone.exit(0);
    let wait_child = family
        .first
        .node
        .wait_child(ChildSelector::Pid(of_gone), WAIT);
    assert_eq!(wait_child.map(|exit| exit.pid), Ok(of_gone));
    let of_other = other.node.alloc_range(WAIT).unwrap();
    for node in [&family.first.node, &member.node] {
        let own = node.alloc_range(WAIT).unwrap();
        let change = |id, to| node.change_owner(id, to, WAIT);
        let to = other.vmid();
        assert_eq!(change(ID_MAX, to), Err(Error::NoSuchProcess), "free");
        assert_eq!(
            change(of_other.start, to),
            Err(Error::Refused {
                errno: Errno::EPERM,
                by: None
            })
        );
        assert_eq!(
            change(other.pid.get(), to),
            Err(Error::Refused {
                errno: Errno::EPERM,
                by: None
            }),
            "a pid"
        );
        assert_eq!(
            change(own.start, to_gone),
            Err(Error::NoSuchProcess),
            "gone"
        );
        assert_eq!(change(own.start, to), Ok(()));
        // The range was split, and this is none of its parts.
        let _ = node.release_range(own, WAIT);
        assert_eq!(node.owner_of(own.end, WAIT), Ok(Some(node.identity().vmid)));
        assert_eq!(
            node.set_group(Pid::new(ID_MAX), None, WAIT),
            Err(Error::NoSuchProcess)
        );
    }
}

type Call<'a> = &'a dyn Fn(&HostNode) -> Result<(), Error>;

/// The same calls with the same arguments, by the leader's own process and by a member.
#[test]
fn every_call_has_the_same_outcome_at_the_leader_as_at_a_member() {
    let family = Family::new();
    let (member, other, gone) = (family.child(), family.child(), family.child());
    let (of_gone, to_gone) = (gone.pid, gone.vmid());
    gone.exit(0);
    let first = &family.first.node;
    let exit = first.wait_child(ChildSelector::Pid(of_gone), WAIT);
    assert_eq!(exit.map(|exit| exit.pid), Ok(of_gone));
    let lock = |kind, start, end, path| FileLock {
        family: LockFamily::Posix,
        kind,
        start,
        end,
        pid: 7,
        handle: 0,
        wait: false,
        path,
    };
    let held = lock(LockKind::Write, 10, 19, b"held");
    other.node.set_lock(&held, WAIT).unwrap();
    let now = Wait::at_most(Duration::ZERO);
    let calls: [(&str, Call<'_>); 20] = [
        ("kill of no process", &|node| {
            node.kill(Target::Process(of_gone), 15, WAIT)
        }),
        ("kill of no thread", &|node| {
            let (pid, tid) = (of_gone, of_gone.get());
            node.kill(Target::Thread { pid, tid }, 15, WAIT)
        }),
        ("kill of no group", &|node| {
            node.kill(Target::Group(Pid::new(ID_MAX)), 15, WAIT)
        }),
        ("undefined signal", &|node| {
            node.kill(Target::Process(other.pid), 99, WAIT)
        }),
        ("process", &|node| {
            node.process(Some(of_gone), WAIT).map(drop)
        }),
        ("thread of no process", &|node| {
            node.process(Pid::new(ID_MAX), WAIT).map(drop)
        }),
        ("group", &|node| {
            node.group_of(Pid::new(ID_MAX), WAIT).map(drop)
        }),
        ("session", &|node| {
            node.session_of(Pid::new(ID_MAX), WAIT).map(drop)
        }),
        ("group of no process", &|node| {
            node.set_group(Some(of_gone), None, WAIT)
        }),
        ("mark", &|node| node.mark(ProcessChange::Group, true, WAIT)),
        ("credentials", &|node| {
            node.credentials(of_gone, WAIT).map(drop)
        }),
        ("lock that conflicts", &|node| {
            node.set_lock(&lock(LockKind::Read, 0, 99, b"held"), WAIT)
        }),
        ("lock that conflicts, in no time", &|node| {
            let read = lock(LockKind::Read, 0, 99, b"held");
            node.set_lock(&FileLock { wait: true, ..read }, now)
        }),
        ("lock of a reversed range", &|node| {
            node.set_lock(&lock(LockKind::Read, 9, 1, b"file"), WAIT)
        }),
        ("test of a reversed range", &|node| {
            let lock = lock(LockKind::Read, 9, 1, b"file");
            node.find_lock(&lock, WAIT).map(drop)
        }),
        ("test of an unlock", &|node| {
            let lock = lock(LockKind::Unlock, 0, 9, b"file");
            node.find_lock(&lock, WAIT).map(drop)
        }),
        ("lock of a path with a NUL", &|node| {
            node.set_lock(&lock(LockKind::Read, 0, 9, b"a\0b"), WAIT)
        }),
        ("open file for a process that has left", &|node| {
            node.give_open_file(to_gone, 1, WAIT)
        }),
        ("taking back what was not given", &|node| {
            node.take_back_open_file(other.vmid(), 99, WAIT)
        }),
        ("wait for no child", &|node| {
            let which = ChildSelector::Pid(of_gone);
            node.wait_child(which, WAIT).map(drop)
        }),
    ];
    for (what, call) in calls {
        assert_eq!(call(first), call(&member.node), "{what}");
    }
    let held = |node: &HostNode| {
        let read = lock(LockKind::Read, 0, 99, b"held");
        node.find_lock(&read, WAIT)
    };
    assert_eq!(held(first), held(&member.node));
    for node in [first, &member.node] {
        node.exit(Exit::default(), WAIT).unwrap();
    }
    for (what, call) in calls {
        let outcome = call(first);
        assert_eq!(outcome, call(&member.node), "{what}, after the end");
    }
}
