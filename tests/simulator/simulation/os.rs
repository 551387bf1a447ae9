//! The library OS of a simulated process: it answers at once, and reports to the checks.

use libos_ipc::wire::MetaCode;
use libos_ipc::{
    ChildExit, Embedder, Errno, Metadata, MetadataReply, Node, Pid, Signal, SignalReply, Target,
    Vmid,
};

use super::checks::{FOREIGN, SIGPWR, check_bounds, path_of, uid_of};
use super::hostile;
use super::pal::SimPal;
use super::process::{check_invariants, check_shares};
use super::world::with;

pub(crate) struct Os {
    pub(crate) vmid: u32,
}

impl Os {
    /// Checks the tables of the leader.
    fn check_leader<const READS: bool>(node: &Node<'_, SimPal<READS>>) {
        if node.leader() != node.identity().vmid {
            return;
        }
        let pools = node.statistics().pools;
        let shares_fit = node.check_shares();
        let invariants_hold = !shares_fit || node.check_invariants();
        with(|world| {
            world.check("bounds", check_bounds(&pools));
            world.check("shares", check_shares(shares_fit));
            world.check("soundness", check_invariants(invariants_hold));
        });
    }
}

impl<const READS: bool> Embedder<SimPal<READS>> for Os {
    fn signal(&self, node: &Node<'_, SimPal<READS>>, signal: &Signal, reply: SignalReply) {
        let own = node.pid().map_or(0, Pid::get);
        let is_here = match signal.target {
            Target::Process(pid) => pid.get() == own,
            Target::Thread { pid, tid } => pid.get() == own && tid == own,
            _ => true,
        };
        let is_foreign = hostile::VMIDS.contains(&signal.from.get())
            || signal.sender == Pid::new(hostile::PID)
            || signal.signal >= FOREIGN;
        if is_here && signal.signal != 0 && !is_foreign {
            with(|world| {
                world.log(format_args!("v{} gets {signal:?}", self.vmid));
                let number = signal.signal;
                let checks = &mut world.checks;
                let (signals, family) = (&mut checks.signals, &checks.family);
                // Without a leader, a signal that it may have forwarded is sent again, directly.
                let is_leader_gone = checks.succession.may_be_gone(family);
                let outcome = signals.record_delivery(family, self.vmid, own, number);
                let outcome =
                    outcome.or_else(|what| if is_leader_gone { Ok(()) } else { Err(what) });
                let check = if matches!(signal.target, Target::All) {
                    "broadcasts"
                } else {
                    "signals"
                };
                world.check(check, outcome);
                // If a connection breaks, a signal may be sent twice.
                let may_be_twice = is_leader_gone
                    || world.faults().may_break()
                    || world.checks.false_disconnects.may_close;
                if let Some(sender) = signal.sender
                    && !may_be_twice
                {
                    let signals = &mut world.checks.signals;
                    let outcome = signals.check_order(self.vmid, sender.get(), number);
                    world.check("order", outcome);
                }
            });
        }
        let outcome = if is_here { Ok(()) } else { Err(Errno::ESRCH) };
        let _ = reply.send(node, outcome);
    }

    fn metadata(
        &self,
        node: &Node<'_, SimPal<READS>>,
        pid: Pid,
        what: MetaCode,
        reply: MetadataReply,
    ) {
        if node.pid() != Some(pid) {
            let _ = reply.send(node, Err(Errno::ESRCH));
            return;
        }
        let pid = pid.get();
        if what == MetaCode::Credentials {
            let (uid, gid) = (uid_of(pid), uid_of(pid) + 1);
            let _ = reply.send(node, Ok(Metadata::Credentials { uid, gid }));
            return;
        }
        let path = path_of(pid, what).and_then(|path| std::ffi::CString::new(path).ok());
        let outcome = path.as_ref().map(|path| Metadata::Path(path));
        let _ = reply.send(node, outcome.ok_or(Errno::ENOENT));
    }

    fn child_ended(&self, node: &Node<'_, SimPal<READS>>, exit: &ChildExit) {
        with(|world| {
            world.log(format_args!("v{} hears of {exit:?}", self.vmid));
            if exit.signal == SIGPWR {
                world.record_death_at_start(exit.pid.get());
            }
            let checks = &mut world.checks;
            // In a family that has ended a process takes a child for dead with which it has no connection any more.
            if exit.signal == SIGPWR
                && checks.false_disconnects.may_close
                && checks.succession.may_be_gone(&checks.family)
            {
                checks.family.record_possible_death(exit.pid.get());
            }
            let outcome = checks.exits.record_report(&checks.family, self.vmid, exit);
            world.check("exits", outcome);
        });
        Os::check_leader(node);
    }

    fn cut_off(&self, _: &Node<'_, SimPal<READS>>) {
        with(|world| {
            world.log(format_args!(
                "v{} is notified that it is cut off",
                self.vmid
            ));
            // A process that is ending loses its leader, too.
            let is_ending = !world.checks.family.is_certain(self.vmid);
            let may_be_cut_off = is_ending || world.faults().may_overrun();
            let outcome = world
                .checks
                .heartbeats
                .record_report(self.vmid, may_be_cut_off);
            world.check("heartbeats", outcome);
        });
    }

    fn leader_changed(&self, _: &Node<'_, SimPal<READS>>, leader: Vmid, epoch: u32) {
        with(|world| {
            let vmid = self.vmid;
            world.log(format_args!("v{vmid} follows {leader}, in epoch {epoch}"));
            let leader = leader.get();
            let has_ended =
                world.network.is_dead_or_gone(leader) || world.checks.succession.is_leaving(leader);
            let now = world.network.now;
            world.checks.calls.record_leader(vmid, has_ended, now);
            let outcome = world.checks.succession.record_follower(vmid, leader, epoch);
            world.check("leaders", outcome);
            let outcome = world.checks.succession.check_rejoin(vmid, leader, epoch);
            world.check("rejoins", outcome);
        });
    }

    fn member_joined(&self, node: &Node<'_, SimPal<READS>>, _: Vmid) {
        Os::check_leader(node);
    }

    fn member_left(&self, node: &Node<'_, SimPal<READS>>, _: Vmid) {
        Os::check_leader(node);
    }
}
