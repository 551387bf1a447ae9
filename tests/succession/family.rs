//! Nodes of one family that may lead, in one process.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::{Capacities, Config, Exit, Heirs, Identity, Vmid, Wait};
use tempfile::TempDir;

/// Longer than any wait that succeeds.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The configuration of a process that may lead. An heir that a busy machine stops for a while is not dismissed.
pub(crate) const CONFIG: Config = Config {
    heirs: Heirs::Any,
    heir_patience: LONG,
    ..Config::DEFAULT
};

/// The limits of a process that follows, and never leads.
pub(crate) const FOLLOWER: Config = follower(CONFIG);

/// Makes a process with these limits one that follows, and never leads.
pub(crate) const fn follower(config: Config) -> Config {
    Config {
        capacities: Capacities {
            ranges: config.capacities.ranges + 1,
            ..config.capacities
        },
        ..config
    }
}

pub(crate) fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// Returns a wait of up to [`LONG`].
pub(crate) fn long() -> Wait<'static> {
    Wait::at_most(LONG)
}

/// A family with a leader and without members.
pub(crate) struct Family {
    pub(crate) base: PathBuf,
    pub(crate) leader: HostNode,
    pub(crate) _dir: TempDir,
}

impl Family {
    /// Makes a family with a leader, which has joined.
    pub(crate) fn new() -> Family {
        Family::with(CONFIG)
    }

    /// Like [`Family::new`], with this configuration of the leader.
    pub(crate) fn with(config: Config) -> Family {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("f");
        let leader = HostNode::start(&base, Identity::LEADER, config).unwrap();
        leader.join(long()).unwrap();
        Family {
            base,
            leader,
            _dir: dir,
        }
    }

    /// Starts a member. When this returns the leader knows its limits, so that it can be the heir.
    pub(crate) fn member(&self, config: Config) -> HostNode {
        let identity = Identity::child(self.leader.new_vmid(long()).unwrap(), Vmid::LEADER);
        let member = HostNode::start(&self.base, identity, config).unwrap();
        member.take_id(long()).unwrap();
        // Its limits have been sent before this.
        member.owner_of(1, long()).unwrap();
        member
    }

    /// Starts a child of the leader, which has joined when this returns. The leader knows its limits, too.
    pub(crate) fn process(&self, config: Config) -> HostNode {
        let identity = self.leader.start_child(long()).unwrap();
        let child = HostNode::start(&self.base, identity, config).unwrap();
        child.join(long()).unwrap();
        // It has sent its limits before this.
        child.owner_of(1, long()).unwrap();
        child
    }
}

/// Waits until that member is the heir of that leader.
pub(crate) fn await_heir_of(leader: &HostNode, member: &HostNode) {
    let expected = Some(member.identity().vmid);
    wait_until("the member is the heir", || leader.named_heir() == expected);
}

/// Ends a process that may lead. Returns true if all that it had to send is sent.
pub(crate) fn end(node: &HostNode) -> bool {
    node.exit(Exit::default(), long()).unwrap();
    node.leave(long()).unwrap();
    node.shut_down(LONG)
}

/// Waits until the condition is true.
pub(crate) fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !is_true() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}
