//! Which process leads the family, and which would lead it next.

use std::time::Duration;

use libos_ipc::pal::Pal;
use libos_ipc::{Config, Heirs, Node, Vmid};

/// How long an heir may read nothing. A busy machine may stop it for a while, and a family whose leader is killed just after it
/// has dismissed its heir is lost. Calls wait for the heir meanwhile, so it is less than their limits.
const HEIR_PATIENCE: Duration = Duration::from_secs(1);

/// Returns the configuration of a member that may lead after the leader.
pub(crate) fn may_lead(config: Config) -> Config {
    Config {
        heirs: Heirs::Any,
        heir_patience: HEIR_PATIENCE,
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
