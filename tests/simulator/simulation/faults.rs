//! The faults that can occur in a run.

use fastrand::Rng;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Split,
    Block,
    Busy,
    Delay,
    Stall,
    Silence,
    Disconnect,
    Crash,
    Restart,
    Capacity,
    Limits,
    Interrupt,
    Hostile,
    Cut,
    LeaderDeath,
    Stop,
    HeirCut,
    MemberStop,
}

impl Fault {
    /// All kinds with their names and descriptions.
    pub(crate) const ALL: [(Fault, &'static str, &'static str); 18] = [
        (
            Fault::Split,
            "split",
            "a read or write moves less than it could, down to a byte",
        ),
        (
            Fault::Block,
            "block",
            "a read or write that could go on would block, or was interrupted",
        ),
        (
            Fault::Busy,
            "busy",
            "a connect finds the backlog full, an accept no descriptor left",
        ),
        (
            Fault::Delay,
            "delay",
            "bytes and ends of streams arrive late, each by another time",
        ),
        (
            Fault::Stall,
            "stall",
            "a stream stands still for up to ten seconds, beyond every time limit",
        ),
        (
            Fault::Silence,
            "silence",
            "for a while nothing arrives from one member at another, but everything in the other direction",
        ),
        (
            Fault::Disconnect,
            "disconnect",
            "a stream breaks, at any byte, and part of the bytes in transit are lost",
        ),
        (
            Fault::Crash,
            "crash",
            "a member dies without an exit report",
        ),
        (
            Fault::Restart,
            "restart",
            "a process whose child has died starts another in its place",
        ),
        (
            Fault::Capacity,
            "capacity",
            "the tables of the leader and of members are so small that they are full",
        ),
        (
            Fault::Limits,
            "limits",
            "calls have time limits that end them before their answer, down to none at all",
        ),
        (
            Fault::Interrupt,
            "interrupt",
            "a thread's call is interrupted by another thread of its process",
        ),
        (
            Fault::Hostile,
            "hostile",
            "a member that sends anything: garbage, and well-formed messages out of place",
        ),
        (
            Fault::Cut,
            "cut",
            "the streams are secure; the host ends those of the leader with a member, which does not see that",
        ),
        (
            Fault::LeaderDeath,
            "leader-death",
            "the leader dies in the middle of a write, or its heir, or both; the log of the leader stands still or ends",
        ),
        (
            Fault::Stop,
            "stop",
            "the leader or its heir is stopped for a while, and goes on; the heir may have a stopped leader ended",
        ),
        (
            Fault::HeirCut,
            "heir-cut",
            "the streams between the leader and its heir end: the log, the other ones, or both",
        ),
        (
            Fault::MemberStop,
            "member-stop",
            "a member of a family with heirs is stopped for up to two seconds, and goes on (not in `all`)",
        ),
    ];
}

/// Some kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Faults(u32);

impl Faults {
    pub(crate) const NONE: Faults = Faults(0);
    /// All but `member-stop`: a member that is stopped may have lost two leaders when it goes on, and not all checks allow
    /// for that, so the fault has to be named.
    pub(crate) const ALL: Faults = Faults((1 << Fault::ALL.len()) - 1).without(Fault::MemberStop);
    /// Those of a family with heirs.
    const OF_HEIRS: [Fault; 4] = [
        Fault::LeaderDeath,
        Fault::Stop,
        Fault::HeirCut,
        Fault::MemberStop,
    ];

    /// Parses a list of names, separated by commas; `all` and `none` are names, too. A name after a `-` is left
    /// out of those before.
    pub(crate) fn parse(list: &str) -> Result<Faults, String> {
        list.split(',').try_fold(Faults::NONE, |faults, name| {
            let (is_left_out, name) = match name.strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, name),
            };
            let named = |fault: &&(Fault, &str, &str)| fault.1 == name;
            match name {
                "all" => Ok(Faults::ALL),
                "none" => Ok(faults),
                _ => Fault::ALL.iter().find(named).map_or_else(
                    || Err(format!("there is no fault {name:?}")),
                    |(fault, ..)| {
                        let fault = *fault;
                        Ok(if is_left_out {
                            faults.without(fault)
                        } else {
                            faults.with(fault)
                        })
                    },
                ),
            }
        })
    }

    pub(crate) fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u16) != 0
    }

    fn with(self, fault: Fault) -> Faults {
        Faults(self.0 | 1 << fault as u16)
    }

    pub(crate) const fn without(self, fault: Fault) -> Faults {
        Faults(self.0 & !(1 << fault as u16))
    }

    /// Returns about half of these faults: a run without a fault gets further in other respects.
    pub(crate) fn draw(self, rng: &mut Rng) -> Faults {
        let drawn = Faults(self.0 & rng.u32(..));
        // A leader whose streams may break, or are secure, has no successor after its death. A member whose streams
        // stand still is dismissed, and may not know that when its leader dies: not all checks allow for that, so these
        // faults come together only if a list names them.
        let is_alone = drawn.has(Fault::Cut) || drawn.has(Fault::Hostile);
        // Half of all families have heirs.
        let has_no_heir = self.has(Fault::LeaderDeath) && !drawn.has(Fault::LeaderDeath);
        if is_alone || has_no_heir {
            Faults::OF_HEIRS.into_iter().fold(drawn, Faults::without)
        } else if drawn.have_heirs() {
            let drawn = drawn.without(Fault::Disconnect);
            if self == Faults::ALL {
                drawn.without(Fault::Stall).without(Fault::Silence)
            } else {
                drawn
            }
        } else {
            drawn
        }
    }

    /// Returns true if the family has heirs, so that it may outlive its leader.
    pub(crate) fn have_heirs(self) -> bool {
        Faults::OF_HEIRS.into_iter().any(|fault| self.has(fault))
    }

    /// Returns true if a wait may take longer than a limit of the library itself allows.
    pub(crate) fn may_overrun(self) -> bool {
        self.has(Fault::Stall) || self.has(Fault::Silence)
    }

    /// Returns true if a connection may break, so that an answer is lost.
    pub(crate) fn may_break(self) -> bool {
        self.has(Fault::Disconnect) || self.has(Fault::Cut)
    }

    /// Returns true if bytes may take any time.
    pub(crate) fn are_late(self) -> bool {
        let is_stopped = self.has(Fault::Stop) || self.has(Fault::MemberStop);
        self.may_overrun() || self.has(Fault::Delay) || is_stopped
    }
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = Fault::ALL
            .iter()
            .filter(|(fault, ..)| self.has(*fault))
            .map(|(_, name, _)| *name);
        match *self {
            Faults::NONE => f.write_str("none"),
            Faults::ALL => f.write_str("all"),
            _ => f.write_str(&names.collect::<Vec<_>>().join(",")),
        }
    }
}
