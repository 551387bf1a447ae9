//! Which process leads the family, and which would lead it next.

use libos_ipc::pal::Pal;
use libos_ipc::{Config, Heirs, Node, Vmid};

/// Returns the configuration of a member that may lead after the leader.
pub(crate) fn may_lead(config: Config) -> Config {
    Config {
        heirs: Heirs::Any,
        ..config
    }
}

/// Returns the configuration of a member that goes on with another leader, and never leads: it names only the
/// first process.
pub(crate) fn follows_successors(config: Config) -> Config {
    Config {
        heirs: Heirs::Listed([Some(Vmid::LEADER), None, None, None]),
        ..config
    }
}

/// Returns the process that takes over when the leader ends, if there is one.
pub(crate) fn heir_of<P: Pal>(node: &Node<'_, P>) -> Option<Vmid> {
    node.statistics().succession.heir
}
