//! The processes of this bench.

use std::io::Result;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::{Capacities, Config, Heirs, Identity, LeaseLimits, LockLimits, Vmid};
use tempfile::TempDir;

use crate::common::WAIT;
use crate::common::process::{Child, ready, wait_for_the_end};

/// The VMID of the member that measures: the last one.
pub(crate) const OBSERVER: u32 = 1_000_000;

/// The VMID of the first member that only follows. Those of leaders and heirs are lower.
pub(crate) const FIRST_MEMBER: u32 = 10_000;

/// The time in which a family must have an heir.
const HEIR_LIMIT: Duration = Duration::from_secs(30);

/// Returns the limits of a process that may lead so many members.
fn leader_capacities(members: u32) -> Capacities {
    let members = members as usize;
    Capacities {
        peers: members + 64,
        ranges: 1_024 + 4 * members,
        processes: 256 + 4 * members,
        locks: LockLimits {
            locks: 1_024 + 4 * members,
            files: 64 + 4 * members,
            waiting: 64 + 4 * members,
            open_files: 64 + 4 * members,
        },
        leases: LeaseLimits {
            handles: 64 + 4 * members,
            clients: 64 + 4 * members,
        },
        ..Capacities::DEFAULT
    }
}

/// Returns the heirs as a member names them that only follows: the first leader, and nobody else.
fn follower_heirs(heirs: Heirs) -> Heirs {
    match heirs {
        Heirs::None => Heirs::None,
        _ => Heirs::Listed([Some(Vmid::LEADER), None, None, None]),
    }
}

/// Returns the limits of a process that only follows.
fn follower_capacities(delegated_files: usize) -> Capacities {
    Capacities {
        peers: 32,
        ranges: 8,
        delegated_files,
        ..Capacities::DEFAULT
    }
}

/// Returns the identity of a process without a parent.
fn identity(vmid: u32, leader: Vmid) -> Identity {
    let vmid = Vmid::new(vmid).expect("not 0");
    Identity {
        parent: None,
        leader: (vmid != leader).then_some(leader),
        ..Identity::child(vmid, leader)
    }
}

/// A family whose leader is killed.
pub(crate) struct Family {
    _directory: TempDir,
    base: PathBuf,
    heirs: Heirs,
    members: u32,
    /// The processes that lead, or may: by their VMIDs.
    leaders: Vec<(u32, Child)>,
    /// The VMID of the next process that may lead.
    next_vmid: u32,
}

impl Family {
    /// Starts a leader for so many members.
    pub(crate) fn start(members: u32, heirs: Heirs) -> Result<Family> {
        let directory = tempfile::tempdir()?;
        let base = directory.path().join("f");
        let mut family = Family {
            _directory: directory,
            base,
            heirs,
            members,
            leaders: Vec::new(),
            next_vmid: 1,
        };
        family.add_leader(Vmid::LEADER)?;
        Ok(family)
    }

    fn base(&self) -> &str {
        self.base.to_str().expect("UTF-8")
    }

    fn heirs(&self) -> &str {
        if self.heirs == Heirs::None {
            "none"
        } else {
            "any"
        }
    }

    /// Starts a process that may lead, in a family with that leader.
    pub(crate) fn add_leader(&mut self, leader: Vmid) -> Result<()> {
        let vmid = self.next_vmid;
        self.next_vmid += 1;
        let child = Child::start(&[
            "leader",
            self.base(),
            self.heirs(),
            &vmid.to_string(),
            &leader.to_string(),
            &self.members.to_string(),
        ])?;
        self.leaders.push((vmid, child));
        Ok(())
    }

    /// Kills the leader, and returns its process, which is reaped when the returned value is dropped.
    pub(crate) fn kill(&mut self, leader: Vmid) -> Result<Child> {
        let is_leader = |(vmid, _): &(u32, Child)| *vmid == leader.get();
        let index = self.leaders.iter().position(is_leader);
        let (_, mut process) = self
            .leaders
            .swap_remove(index.expect("it was started here"));
        process.kill()?;
        Ok(process)
    }

    /// Starts a process with so many members, from that VMID on.
    pub(crate) fn start_members(&self, first: u32, count: u32) -> Result<Child> {
        Child::start(&[
            "members",
            self.base(),
            self.heirs(),
            &first.to_string(),
            &count.to_string(),
        ])
    }

    /// Returns a member in this process.
    pub(crate) fn member(&self, vmid: u32, delegated_files: usize) -> Result<HostNode> {
        follower(
            &self.base,
            self.heirs,
            identity(vmid, Vmid::LEADER),
            delegated_files,
        )
    }
}

/// Waits until the family of the member has an heir that is ready. Returns false if it gets none.
pub(crate) fn await_heir(member: &HostNode) -> bool {
    let until = Instant::now() + HEIR_LIMIT;
    while heir_of(member).is_none() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

/// Returns the process that takes over when the leader ends, if there is one.
fn heir_of(member: &HostNode) -> Option<Vmid> {
    member.statistics().succession.heir
}

/// Starts a member that only follows.
fn follower(
    base: &Path,
    heirs: Heirs,
    identity: Identity,
    delegated_files: usize,
) -> Result<HostNode> {
    let config = Config {
        capacities: follower_capacities(delegated_files),
        heirs: follower_heirs(heirs),
        ..Config::DEFAULT
    };
    let node = HostNode::start(base, identity, config)?;
    node.join(WAIT).expect("there is a leader");
    Ok(node)
}

/// Runs the role that the command line names.
pub(crate) fn play(role: &[String]) -> Result<()> {
    let base = Path::new(&role[1]);
    let heirs = if role[2] == "none" {
        Heirs::None
    } else {
        Heirs::Any
    };
    let number = |index: usize| role[index].parse::<u32>().expect("a number");
    match role[0].as_str() {
        "leader" => {
            let leader = Vmid::new(number(4)).expect("not 0");
            let config = Config {
                capacities: leader_capacities(number(5)),
                heirs,
                ..Config::DEFAULT
            };
            let node = HostNode::start(base, identity(number(3), leader), config)?;
            node.join(WAIT).expect("there is a leader");
            ready()?;
            wait_for_the_end()?;
            drop(node);
        }
        "members" => {
            let (first, count) = (number(3), number(4));
            let nodes = (first..first + count)
                .map(|vmid| {
                    let node = follower(base, heirs, identity(vmid, Vmid::LEADER), 0)?;
                    node.take_id(WAIT).expect("there is a leader");
                    Ok(node)
                })
                .collect::<Result<Vec<_>>>()?;
            ready()?;
            wait_for_the_end()?;
            drop(nodes);
        }
        role => panic!("no role {role}"),
    }
    Ok(())
}
