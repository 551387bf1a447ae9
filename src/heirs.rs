//! Which members may lead the family after its leader.

use core::time::Duration;

use crate::Vmid;
use crate::config::Config;
use crate::start_error::{ConfigError, Rule};

/// The processes that may lead the family after its leader.
///
/// One of them, the *heir*, has a copy of the leader's tables, and gets each of the leader's changes before
/// any process sees an effect of it. An heir gets all that the leader knows, and decides everything when it leads: it
/// must be trusted as the leader is. A process in C that knows no extensions never leads, and loses its leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Heirs {
    /// None: the family ends with its leader ([`Error::LeaderGone`](crate::Error::LeaderGone)), and a leader
    /// [leaves](crate::Node::leave) after the last member. It costs nothing.
    #[default]
    None,
    /// Each member that has this setting, a worker, and the limits of the leader. The one with the lowest VMID
    /// is the heir.
    Any,
    /// Those of the list, the first one that can lead.
    Listed([Option<Vmid>; Heirs::MOST]),
}

/// What becomes of the children of the family's first process when another process leads the family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Adoption {
    /// They have no parent, and nobody learns of their ends, as a shell's daemons.
    #[default]
    None,
    /// They become children of the process that leads then, which reaps them.
    NewLeader,
}

impl Heirs {
    /// The greatest number of members in a list.
    pub const MOST: usize = crate::wire::HeirList::MOST;

    /// Returns true if another process may lead the family after its leader.
    pub const fn is_any(&self) -> bool {
        !matches!(self, Heirs::None)
    }

    /// Returns true if the member may lead the family.
    pub fn includes(&self, member: Vmid) -> bool {
        match self {
            Heirs::None => false,
            Heirs::Any => true,
            Heirs::Listed(list) => list.contains(&Some(member)),
        }
    }
}

impl Config {
    /// The shortest [`Config::stall_limit`].
    const SHORTEST_STALL: Duration = Duration::from_millis(10);

    /// Checks the fields about the heirs.
    pub(crate) fn check_heirs(&self) -> Result<(), ConfigError> {
        let contradiction = |field, because| {
            let rule = Rule::Contradiction { because };
            Err(ConfigError { field, rule })
        };
        if let Heirs::Listed(list) = self.heirs {
            let names = list.iter().flatten();
            let is_double = |name| list.iter().flatten().filter(|other| *other == name).count() > 1;
            if names.clone().count() == 0 {
                return contradiction("heirs", "the list is empty; Heirs::None means no heir");
            }
            if names.clone().any(is_double) {
                return contradiction("heirs", "the list has a member twice");
            }
        }
        if !self.heirs.is_any() {
            return Ok(());
        }
        if !Self::HAS_SUCCESSION {
            return contradiction(
                "heirs",
                "this library is built without the feature `succession`",
            );
        }
        if self.heir_patience.is_zero() {
            return contradiction("heir_patience", "an heir needs time to read the log");
        }
        if self.succession_limit.is_zero() {
            return contradiction("succession_limit", "an heir needs time to take over");
        }
        if !self.stall_limit.is_zero() && self.stall_limit < Self::SHORTEST_STALL {
            return contradiction(
                "stall_limit",
                "a leader that is only late would be ended: it is 0 (none) or at least 10 ms",
            );
        }
        Ok(())
    }
}
