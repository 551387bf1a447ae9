//! The work of a guest as a process: the list of processes, locks, the shared state, its activities, signals.

use core::time::Duration;

use libos_ipc::pal::Deadline;
use libos_ipc::{Errno, Error, LockKind, Pid, Shared, Target, Vmid};
use libos_ipc_guest::{clock, print_line};

use crate::shared::{
    FIRST_BYTES, LIMIT, MEMBER, STATE_ID, SharedState, ledger_lock, own_bytes, step,
};
use crate::{Context, Failure, Member, OS, Platform, WAIT, activities, fault};

const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;

/// The number of measured round trips.
const ROUND_TRIPS: usize = 1000;

type SharedHandle<'n> = Shared<'n, 'static, Platform, SharedState>;

/// This guest, once it has joined.
struct Guest<'n> {
    node: &'n Member,
    pid: Pid,
    participant: usize,
    state: SharedHandle<'n>,
}

pub(crate) fn work(
    node: &'static Member,
    participant: usize,
    fault: Option<&str>,
) -> Result<(), Failure> {
    let guest = Guest {
        node,
        pid: node.pid().ok_or(Failure::new("no pid"))?,
        participant,
        state: node
            .share(Some(STATE_ID))
            .context("opening the shared state")?,
    };
    guest.print_processes()?;
    guest.measure()?;
    guest.reach(step::MEASURED)?;
    guest.wait_for_first_bytes()?;
    guest.hold_own_bytes()?;
    if let Some(how) = fault {
        return guest.fail(how);
    }
    guest.unlock_own_bytes()?;
    activities::run(node, guest.pid)?;
    guest.reach(step::COUNTED)?;
    guest.signal_others()
}

impl Guest<'_> {
    /// Writes the step of this guest to the shared state.
    fn reach(&self, step: u64) -> Result<(), Failure> {
        let mut state = self
            .state
            .write(WAIT)
            .context("changing the shared state")?;
        state.pids[self.participant] = u64::from(self.pid.get());
        state.steps[self.participant] = step;
        Ok(())
    }

    /// Waits until another participant has reached a step. Returns its pid.
    fn wait_for(&self, participant: usize, step: u64) -> Result<Pid, Failure> {
        let reached = |state: &SharedState| state.steps[participant] >= step;
        let state = self
            .state
            .wait_for(WAIT, reached)
            .context("waiting for another")?;
        let pid = u32::try_from(state.pids[participant])
            .ok()
            .and_then(Pid::new);
        pid.ok_or(Failure::new("a pid in the shared state is 0"))
    }

    /// Prints the list of processes, as `ps` does.
    fn print_processes(&self) -> Result<(), Failure> {
        let mut last = None;
        let mut found = false;
        while let Some(process) = self
            .node
            .next_process(last.as_ref(), WAIT)
            .context("listing the family")?
        {
            print_line!(
                "  pid {:>3} parent {:>3} VMID {:>2} {:?}",
                process.pid,
                process.parent.map_or(0, Pid::get),
                process.vmid.map_or(0, Vmid::get),
                process.state
            );
            found |= process.pid == self.pid;
            last = Some(process);
        }
        if found {
            Ok(())
        } else {
            Err(Failure::new("this process is not in the list"))
        }
    }

    /// Measures requests to the leader, and prints the median and the 90th percentile in nanoseconds.
    fn measure(&self) -> Result<(), Failure> {
        let mut times = [0; ROUND_TRIPS];
        for time in &mut times {
            let start = clock::now();
            self.node
                .owner_of(self.pid.get(), WAIT)
                .context("asking the leader")?;
            *time = (clock::now() - start).as_nanos();
        }
        times.sort_unstable();
        let percentile = |percent: usize| times[ROUND_TRIPS * percent / 100];
        print_line!(
            "{ROUND_TRIPS} requests to the leader: half of them within {} µs",
            percentile(50) / 1000
        );
        print_line!("figure round-trip {}", percentile(50));
        print_line!("figure round-trip-90 {}", percentile(90));
        Ok(())
    }

    fn lock(&self, kind: LockKind, bytes: (u64, u64), wait: bool) -> Result<(), Error> {
        self.node
            .set_lock(&ledger_lock(self.pid.get(), kind, bytes, wait), WAIT)
    }

    /// Checks that the host's member has locked bytes of the ledger, and waits for them.
    fn wait_for_first_bytes(&self) -> Result<(), Failure> {
        let member = self.wait_for(MEMBER, step::LOCKED)?;
        match self.lock(LockKind::Write, FIRST_BYTES, false) {
            Err(Error::Refused {
                errno: Errno::EAGAIN,
                ..
            }) => {}
            Err(error) => return Err(error).context("trying a lock"),
            Ok(()) => return Err(Failure::new("got a lock that another has")),
        }
        let lock = ledger_lock(self.pid.get(), LockKind::Write, FIRST_BYTES, false);
        let held = self.node.find_lock(&lock, WAIT).context("testing a lock")?;
        if held.is_none_or(|held| held.pid != member.get()) {
            return Err(Failure::new("the lock in the way is not the member's"));
        }
        print_line!("the ledger is locked by process {member}: waiting");
        self.reach(step::LOCKED)?;
        self.lock(LockKind::Write, FIRST_BYTES, true)
            .context("waiting for a lock")?;
        print_line!("got the ledger");
        self.lock(LockKind::Unlock, FIRST_BYTES, false)
            .context("unlocking")
    }

    /// Locks bytes of the ledger, and keeps them until the host's member has sent a signal.
    fn hold_own_bytes(&self) -> Result<(), Failure> {
        let own = own_bytes(self.participant);
        self.lock(LockKind::Write, own, false)
            .context("locking its own bytes")?;
        self.reach(step::HELD)?;
        self.await_signal(SIGUSR1)?;
        print_line!("signal {SIGUSR1} came");
        Ok(())
    }

    fn unlock_own_bytes(&self) -> Result<(), Failure> {
        let own = own_bytes(self.participant);
        self.lock(LockKind::Unlock, own, false)
            .context("unlocking its own bytes")
    }

    /// Fails while it holds its bytes of the ledger.
    fn fail(self, how: &str) -> Result<(), Failure> {
        if how == "unresponsive" {
            // The value is released first. All other resources are reclaimed only when this guest
            // is dead.
            drop(self.state);
            let until = clock::now() + Duration::from_millis(100);
            while clock::now() < until {
                self.node.poll(Deadline::At(until));
            }
        }
        fault::fail(how);
        Err(Failure::new("it did not fail"))
    }

    fn await_signal(&self, signal: i32) -> Result<(), Failure> {
        let until = clock::now() + LIMIT;
        while !OS.has_received(signal) {
            if clock::now() >= until {
                return Err(Failure::new("the signal did not come"));
            }
            self.node.poll(Deadline::At(until));
        }
        Ok(())
    }

    /// Signals the host's member, which ends when all guests have signalled.
    fn signal_others(&self) -> Result<(), Failure> {
        let member = self.wait_for(MEMBER, step::COUNTED)?;
        self.node
            .kill(Target::Process(member), SIGUSR2, WAIT)
            .context("signalling the member")
    }
}
