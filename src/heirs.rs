//! Which members may lead the family after its leader.

use crate::Vmid;

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

/// The parent that the children of the family's first process have when another process leads the family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Adoption {
    /// The children have no parent, and nobody learns of their ends, as with a shell's daemons.
    #[default]
    None,
    /// The children become those of the process that leads then, which reaps them.
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
