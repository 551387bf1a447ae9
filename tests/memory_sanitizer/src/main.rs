//! A leader and a member over the loopback platform, with all kinds of calls, dropped and made
//! again in the same memory, for the memory sanitizer: it reports every branch and every address
//! that depends on an uninitialised byte. The memory of both is uninitialised at first.
#![no_std]
#![no_main]

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use libos_ipc::pal::Deadline;
use libos_ipc::testing::loopback::{Loopback, Network};
use libos_ipc::wire::{FileLock, LockFamily, LockKind, SyncState};
use libos_ipc::{
    Capacities, Config, Driving, Error, Exit, Identity, Node, Pid, Target, Vmid, Wait,
};

const CONFIG: Config = Config {
    capacities: Capacities {
        peers: 4,
        waiters: 8,
        ranges: 64,
        ..Capacities::DEFAULT
    },
    driving: Driving::Caller,
    ..Config::DEFAULT
};

type LoopbackPal = Loopback<'static, 4, 8, 4096>;

static NETWORK: Network<4, 8, 4096> = Network::new();
const WAIT: Wait<'static> = Wait::FOREVER;

unsafe extern "C" {
    fn pthread_create(
        thread: *mut usize,
        attributes: *const c_void,
        start: extern "C" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> c_int;
    fn pthread_join(thread: usize, result: *mut *mut c_void) -> c_int;
    fn malloc(size: usize) -> *mut c_void;
    fn puts(text: *const i8) -> c_int;
    fn abort() -> !;
}

/// Ends the thread that polls the leader.
static DONE: AtomicBool = AtomicBool::new(false);

extern "C" fn lead(leader: *mut c_void) -> *mut c_void {
    // SAFETY: `family` passes a node, and waits for this thread before it drops it.
    let leader = unsafe { &*leader.cast::<Node<'_, LoopbackPal>>() };
    while !DONE.load(Ordering::Acquire) {
        leader.poll(Deadline::Now);
    }
    null_mut()
}

/// Makes the member's calls while the leader is polled.
fn calls(leader: &Node<'_, LoopbackPal>, member: &Node<'_, LoopbackPal>) -> Result<(), Error> {
    let pid = member.join(WAIT)?;
    let ids = [(); 40].map(|()| member.take_id(WAIT));
    for id in ids {
        let id = id?;
        member.owner_of(id, WAIT)?;
        member.release_id(id, WAIT)?;
    }
    let range = member.alloc_range(WAIT)?;
    member.change_owner(range.start, Vmid::LEADER, WAIT)?;
    let lock = |kind, start, wait| FileLock {
        family: LockFamily::Posix,
        kind,
        start,
        end: start.saturating_add(9),
        pid: pid.get(),
        handle: 0,
        wait,
        path:
            b"a file whose name is long enough to take several pieces of sixty bytes each, at least",
    };
    for start in 0..40 {
        member.set_lock(&lock(LockKind::Write, start * 20, start % 2 == 0), WAIT)?;
    }
    let others = FileLock {
        pid: 1,
        ..lock(LockKind::Read, 0, false)
    };
    leader.find_lock(&others, WAIT)?;
    member.find_lock(&lock(LockKind::Write, 5, false), WAIT)?;
    member.set_lock(&lock(LockKind::Unlock, 100, false), WAIT)?;
    member.clear_locks(pid.get(), WAIT)?;
    let handle = member.open_sync(Some(7))?;
    let mut data = [0; 100];
    for length in [0, 1, 100, 30] {
        member.lock_sync(handle, SyncState::Exclusive, &mut data, WAIT)?;
        member.unlock_sync(handle, SyncState::Exclusive, Some(&[7; 100][..length]))?;
        member.lock_sync(handle, SyncState::Shared, &mut data, WAIT)?;
        member.unlock_sync(handle, SyncState::Shared, None)?;
    }
    member.close_sync(handle, WAIT)?;
    // No process answers the signal, but the leader has searched its tables.
    let _ = member.kill(Target::Group(Some(pid)), 0, WAIT);
    let _ = member.kill(
        Target::Process(Pid::new(1).ok_or(Error::NoSuchProcess)?),
        10,
        WAIT,
    );
    let grandchild = member.start_child(WAIT)?;
    member.abandon_child(grandchild.vmid)?;
    leader.next_process(None, WAIT)?;
    member.next_process(None, WAIT)?;
    member.exit(Exit::default(), WAIT)
}

/// Runs a family from its start to its end.
fn family(memory: [&mut [MaybeUninit<u8>]; 2]) -> Result<(), Error> {
    let [leaders, members] = memory;
    let place = |vmid| NETWORK.join(vmid).map_err(|_| Error::Platform);
    let leader = Node::new(place(Vmid::LEADER)?, Identity::LEADER, CONFIG, leaders)?;
    leader.join(WAIT)?;
    let child = leader.start_child(WAIT)?;
    let member = Node::new(place(child.vmid)?, child, CONFIG, members)?;
    DONE.store(false, Ordering::Release);
    let mut thread = 0;
    let argument = (&raw const leader).cast_mut().cast();
    // SAFETY: the leader is used by shared reference only, and outlives the thread.
    let made = unsafe { pthread_create(&raw mut thread, null(), lead, argument) };
    if made != 0 {
        return Err(Error::Platform);
    }
    let outcome = calls(&leader, &member);
    member.shut_down(Duration::ZERO);
    DONE.store(true, Ordering::Release);
    // SAFETY: it was made above, and is joined once.
    unsafe { pthread_join(thread, null_mut()) };
    for _ in 0..100 {
        leader.poll(Deadline::Now);
    }
    if !leader.check_invariants() {
        return Err(Error::Invalid(libos_ipc::Invalid::Internal));
    }
    leader.shut_down(Duration::ZERO);
    outcome
}

/// Returns uninitialised memory.
fn fresh(bytes: usize) -> &'static mut [MaybeUninit<u8>] {
    // SAFETY: it is owned for good, and has that length; its bytes may be uninitialised.
    unsafe { core::slice::from_raw_parts_mut(malloc(bytes).cast(), bytes) }
}

/// With an argument it makes the mistake that the sanitizer must find, to show that it does.
#[unsafe(no_mangle)]
extern "C" fn main(arguments: c_int, _: *const *const i8) -> c_int {
    let member = Identity::child(Vmid::LEADER, Vmid::LEADER);
    let leaders = fresh(Node::<LoopbackPal>::memory(&Identity::LEADER, &CONFIG).total());
    let members = fresh(Node::<LoopbackPal>::memory(&member, &CONFIG).total());
    let mut ok = true;
    if arguments > 1 {
        let first = leaders.as_ptr().cast::<u8>();
        // SAFETY: none: this is the mistake. It is volatile, so that the compiler does not detect
        // it first.
        if unsafe { first.read_volatile() } == 1 {
            ok = false;
        }
    }
    for _ in 0..2 {
        ok &= family([&mut *leaders, &mut *members]).is_ok();
        // The owner of the memory has it back: it may write it, and read what it wrote.
        let mut sum = 0_usize;
        for byte in leaders.iter_mut().chain(members.iter_mut()) {
            sum += usize::from(*byte.write(1));
        }
        ok &= sum == leaders.len() + members.len();
    }
    let text = if ok { c"memory: ok" } else { c"memory: FAILED" };
    // SAFETY: a string of C.
    unsafe { puts(text.as_ptr()) };
    i32::from(!ok)
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: it ends the program.
    unsafe { abort() }
}

/// Named by the precompiled `core`, never called: panics end the process.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
