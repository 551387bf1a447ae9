//! The identity of a process in its family.

use core::fmt;
use core::str::FromStr;

use crate::{ID_MAX, Pid, Vmid};

/// The identity of a process in its family.
///
/// A new version may add fields, so a value is built from another: `Identity { pid, ..Identity::child(vmid, parent) }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The VMID of this process.
    pub vmid: Vmid,
    /// The VMID of the process that started it; none for the first process.
    pub parent: Option<Vmid>,
    /// The VMID of the leader; none if this process is the leader itself.
    pub leader: Option<Vmid>,
    /// The pid that the parent allocated for this process
    /// ([`Node::start_child`](crate::Node::start_child)); if there is none,
    /// [`Node::join`](crate::Node::join) allocates one.
    pub pid: Option<Pid>,
    /// The parent's pid, if it is known.
    pub parent_pid: Option<Pid>,
    /// The VMID of the heir when the parent started this process, if there was one
    /// ([`Config::heirs`](crate::Config::heirs)). A process whose leader has died before it joins asks its parent
    /// and this process who leads.
    pub heir: Option<Vmid>,
}

impl Identity {
    /// The first process of a family: VMID 1, the leader.
    pub const LEADER: Identity = Identity {
        vmid: Vmid::LEADER,
        parent: None,
        leader: None,
        pid: None,
        parent_pid: None,
        heir: None,
    };

    /// Returns the identity of a process that `parent` started, in the family led by the first
    /// process, without a pid. If the parent uses this crate too,
    /// [`Node::start_child`](crate::Node::start_child) returns the identity, with a pid.
    pub const fn child(vmid: Vmid, parent: Vmid) -> Identity {
        Identity {
            vmid,
            parent: Some(parent),
            leader: Some(Vmid::LEADER),
            pid: None,
            parent_pid: None,
            heir: None,
        }
    }

    /// Returns the VMID of the leader, which is this process where there is no other.
    pub(crate) fn leader_vmid(&self) -> Vmid {
        self.leader.unwrap_or(self.vmid)
    }

    /// Returns the identity without [`Identity::heir`] as five numbers, 0 for none: for a message in binary form.
    /// [`Identity::from_numbers`] reads them. As text they are separated by commas, for a command
    /// line, and the heir follows if there is one; see [`FromStr`].
    pub const fn numbers(&self) -> [u32; 5] {
        [
            self.vmid.get(),
            Vmid::number(self.parent),
            Vmid::number(self.leader),
            Pid::number(self.pid),
            Pid::number(self.parent_pid),
        ]
    }

    /// Returns the identity for the numbers of [`Identity::numbers`]; `None` for other numbers.
    pub const fn from_numbers(numbers: [u32; 5]) -> Option<Identity> {
        let [vmid, parent, leader, pid, parent_pid] = numbers;
        let Some(vmid) = Vmid::new(vmid) else {
            return None;
        };
        Some(Identity {
            vmid,
            parent: Vmid::new(parent),
            leader: Vmid::new(leader),
            pid: Pid::new(pid),
            parent_pid: Pid::new(parent_pid),
            heir: None,
        })
    }

    /// Returns true if this process is the leader.
    pub const fn is_leader(&self) -> bool {
        self.leader.is_none()
    }
}

/// Writes the numbers of [`Identity::numbers`], separated by commas: `2,1,1,4711,4710`; with an heir
/// `2,1,1,4711,4710,3`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [vmid, parent, leader, pid, parent_pid] = self.numbers();
        write!(f, "{vmid},{parent},{leader},{pid},{parent_pid}")?;
        match self.heir {
            Some(heir) => write!(f, ",{}", heir.get()),
            None => Ok(()),
        }
    }
}

/// Reads what `Display` writes.
impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Identity, ParseIdentityError> {
        let mut words = text.split(',');
        let read = |word: &str, part, highest| match word.parse() {
            Ok(number) if number <= highest => Ok(number),
            Ok(_) => Err(ParseIdentityError::TooHigh(part)),
            Err(_) => Err(ParseIdentityError::NoNumber(part)),
        };
        let mut number = |part, highest| {
            let word = words.next().ok_or(ParseIdentityError::Missing(part))?;
            read(word, part, highest)
        };
        let numbers = [
            number(IdentityPart::Vmid, u32::MAX)?,
            number(IdentityPart::Parent, u32::MAX)?,
            number(IdentityPart::Leader, u32::MAX)?,
            number(IdentityPart::Pid, ID_MAX)?,
            number(IdentityPart::ParentPid, ID_MAX)?,
        ];
        let heir = match words.next() {
            Some(word) => Vmid::new(read(word, IdentityPart::Heir, u32::MAX)?),
            None => None,
        };
        if words.next().is_some() {
            return Err(ParseIdentityError::TooLong);
        }
        let identity = Identity::from_numbers(numbers).ok_or(ParseIdentityError::NoVmid)?;
        Ok(Identity { heir, ..identity })
    }
}

/// A number in the text of an [`Identity`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdentityPart {
    /// [`Identity::vmid`]
    Vmid,
    /// [`Identity::parent`]
    Parent,
    /// [`Identity::leader`]
    Leader,
    /// [`Identity::pid`]
    Pid,
    /// [`Identity::parent_pid`]
    ParentPid,
    /// [`Identity::heir`]
    Heir,
}

impl fmt::Display for IdentityPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IdentityPart::Vmid => "VMID",
            IdentityPart::Parent => "parent's VMID",
            IdentityPart::Leader => "leader's VMID",
            IdentityPart::Pid => "pid",
            IdentityPart::ParentPid => "parent's pid",
            IdentityPart::Heir => "heir's VMID",
        })
    }
}

/// The reason why a text is no [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParseIdentityError {
    /// The text ends before this number.
    Missing(IdentityPart),
    /// In the place of this number there is no decimal number, or one of more than 32 bits.
    NoNumber(IdentityPart),
    /// The pid is higher than [`ID_MAX`].
    TooHigh(IdentityPart),
    /// The text goes on after the last number.
    TooLong,
    /// The VMID is 0, which no process has.
    NoVmid,
}

impl fmt::Display for ParseIdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseIdentityError::Missing(part) => write!(f, "the {part} is missing"),
            ParseIdentityError::NoNumber(part) => write!(f, "the {part} is no 32-bit number"),
            ParseIdentityError::TooHigh(part) => write!(f, "the {part} is higher than {ID_MAX}"),
            ParseIdentityError::TooLong => f.write_str("the text goes on after the last number"),
            ParseIdentityError::NoVmid => f.write_str("the VMID is 0"),
        }
    }
}

impl core::error::Error for ParseIdentityError {}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn an_identity_reads_what_it_prints() {
        let vmid = |number| Vmid::new(number).unwrap();
        let child = Identity::child(vmid(2), Vmid::LEADER);
        let with_pids = Identity {
            pid: Pid::new(ID_MAX),
            parent_pid: Pid::new(4710),
            ..Identity::child(vmid(u32::MAX), vmid(7))
        };
        for (identity, text) in [
            (Identity::LEADER, "1,0,0,0,0"),
            (child, "2,1,1,0,0"),
            (with_pids, "4294967295,7,1,4194303,4710"),
        ] {
            assert_eq!(identity.to_string(), text);
            assert_eq!(text.parse(), Ok(identity));
            assert_eq!(Identity::from_numbers(identity.numbers()), Some(identity));
        }
        let with_heir = Identity {
            heir: Some(vmid(9)),
            ..child
        };
        assert_eq!(with_heir.to_string(), "2,1,1,0,0,9");
        assert_eq!("2,1,1,0,0,9".parse(), Ok(with_heir));
        assert_eq!("2,1,1,0,0,0".parse(), Ok(child));
    }

    #[test]
    fn an_error_says_which_number_of_an_identity_is_wrong() {
        for (text, error) in [
            ("", "the VMID is no 32-bit number"),
            ("0,0,0,0,0", "the VMID is 0"),
            ("2,1", "the leader's VMID is missing"),
            ("2,1,1,77", "the parent's pid is missing"),
            ("2,x,1,0,0", "the parent's VMID is no 32-bit number"),
            (
                "2,1,4294967296,0,0",
                "the leader's VMID is no 32-bit number",
            ),
            ("2,1,-1,0,0", "the leader's VMID is no 32-bit number"),
            ("2,1,1, 7,0", "the pid is no 32-bit number"),
            ("2,1,1,4194304,0", "the pid is higher than 4194303"),
            (
                "2,1,1,77,4194304",
                "the parent's pid is higher than 4194303",
            ),
            ("2,1,1,77,76,", "the heir's VMID is no 32-bit number"),
            ("2,1,1,77,76,5,", "the text goes on after the last number"),
        ] {
            let refused = text.parse::<Identity>().unwrap_err();
            assert_eq!(refused.to_string(), error, "{text}");
        }
    }
}
