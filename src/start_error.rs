//! Why a node could not be made.

use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;

use crate::config::{ANSWER_RESERVE, Config, LONGEST_SILENCE, SHORTEST_SILENCE};
use crate::error::{Errno, Error, Invalid, NOT_SECURE, Resource};
use crate::heirs::Heirs;
use crate::log::Text;
use crate::number::Number;
use crate::store::total;
use crate::wire::{self, Message, SyncCode, SyncState};

/// The shortest [`Config::stall_limit`].
const SHORTEST_STALL: Duration = Duration::from_millis(10);

/// A rule that a configuration breaks. `Display` writes it as a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// The field that is best changed, one of [`Capacities`](crate::Capacities); with
    /// [`Rule::Contradiction`] one of [`Config`].
    pub field: &'static str,
    /// The rule that it breaks.
    pub rule: Rule,
}

/// A rule for a field of [`Capacities`](crate::Capacities) or [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// The field must be at least that.
    AtLeast {
        /// The least that is allowed.
        least: usize,
        /// The value of the field.
        given: usize,
        /// The reason: what the field has to hold.
        because: &'static str,
    },
    /// Its value contradicts itself or another field of [`Config`].
    Contradiction {
        /// The reason.
        because: &'static str,
    },
    /// The field must be at most that.
    AtMost {
        /// The most that is allowed.
        most: usize,
        /// The value of the field.
        given: usize,
        /// The reason: what sets the limit.
        because: &'static str,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = Text(self.field);
        let (words, bound, given, because) = match self.rule {
            Rule::Contradiction { because } => {
                return write!(f, "Config::{field}: {}", Text(because));
            }
            Rule::AtLeast {
                least,
                given,
                because,
            } => ("at least", least, given, because),
            Rule::AtMost {
                most,
                given,
                because,
            } => ("at most", most, given, because),
        };
        write!(
            f,
            "Capacities::{field} is {}, and must be {} {}: {}",
            Number(given as u64),
            Text(words),
            Number(bound as u64),
            Text(because)
        )
    }
}

impl core::error::Error for ConfigError {}

/// The reason why [`Node::new`](crate::Node::new) could not make a node. `Display` says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration breaks a rule (`EINVAL`).
    Config(ConfigError),
    /// The memory is too small (`ENOMEM`).
    TooLittleMemory {
        /// The bytes that [`Node::memory`](crate::Node::memory) says.
        needed: usize,
        /// The bytes that were given.
        given: usize,
    },
    /// [`Config::require_secure`] is set, or the platform requires secure streams
    /// ([`Pal::requires_secure`](crate::pal::Pal::requires_secure)), and the platform's streams are plain:
    /// there is no key (`ENOKEY`).
    NotSecure,
    /// The platform could not make an event (`EIO`).
    Platform,
}

impl StartError {
    /// Returns the error number that stands for this error.
    pub const fn errno(self) -> Errno {
        match self {
            StartError::Config(_) => Errno::EINVAL,
            StartError::TooLittleMemory { .. } => Errno::ENOMEM,
            StartError::NotSecure => Errno::ENOKEY,
            StartError::Platform => Errno::EIO,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(error) => error.fmt(f),
            StartError::TooLittleMemory { needed, given } => write!(
                f,
                "{} bytes of memory are needed, and {} were given: Node::memory (in C libos_ipc_memory_size) says how many, and lower limits need fewer",
                Number(*needed as u64),
                Number(*given as u64)
            ),
            StartError::NotSecure => f.write_str(NOT_SECURE),
            StartError::Platform => f.write_str(
                "the platform could not make an event: raise its limits, for example the memory or the descriptors of the process",
            ),
        }
    }
}

impl core::error::Error for StartError {}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> StartError {
        StartError::Config(error)
    }
}

/// For a program whose other calls fail with an [`Error`].
impl From<StartError> for Error {
    fn from(error: StartError) -> Error {
        match error {
            StartError::Config(_) => Error::Invalid(Invalid::Config),
            StartError::TooLittleMemory { .. } => Error::Full(Resource::Memory),
            StartError::NotSecure => Error::NotSecure,
            StartError::Platform => Error::Platform,
        }
    }
}

/// The most entries of a table: its indices have 32 bits, and some tables have more places than entries.
const MAX_ENTRIES: usize = 1 << 28;
/// The greatest length of a frame: its header has 32 bits for it, and the node adds to it.
const MAX_BYTES: usize = 1 << 30;

impl Config {
    /// Checks that the fields do not contradict each other, as [`Node::new`](crate::Node::new) does.
    ///
    /// # Errors
    /// The first field that breaks a rule, with the rule.
    pub fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.capacities;
        for (field, given) in [
            ("peers", limits.peers),
            ("unidentified", limits.unidentified),
            ("waiters", limits.waiters),
            ("ranges", limits.ranges),
            ("own_ranges", limits.own_ranges),
            ("processes", limits.processes),
            ("queued_signals", limits.queued_signals),
            ("children", limits.children),
            ("reply_buffers", limits.reply_buffers),
            ("locks.locks", limits.locks.locks),
            ("locks.files", limits.locks.files),
            ("locks.waiting", limits.locks.waiting),
            ("locks.open_files", limits.locks.open_files),
            ("delegated_files", limits.delegated_files),
            ("sync_handles", limits.sync_handles),
            ("leases.handles", limits.leases.handles),
            ("leases.clients", limits.leases.clients),
            ("events", limits.events),
        ] {
            let because = "the entries of a table are counted with 28 bits";
            within(field, given, 0..=MAX_ENTRIES, because)?;
        }
        for (field, given) in [
            ("frame_length", limits.frame_length),
            ("send_queue", limits.send_queue),
            ("sync_data", limits.sync_data),
        ] {
            within(field, given, 0..=MAX_BYTES, "a length in bytes has 30 bits")?;
        }
        within(
            "frame_length",
            limits.frame_length,
            ANSWER_RESERVE..=usize::MAX,
            "a frame holds the longest fixed answer",
        )?;
        within(
            "send_queue",
            limits.send_queue,
            total!(limits.frame_length, ANSWER_RESERVE).saturating_mul(2)..=usize::MAX,
            "each half holds the longest frame (frame_length) and a reserve of 128 bytes for answers",
        )?;
        if limits.sync_handles > 0 || limits.leases.handles > 0 {
            let message = Message::Sync(
                SyncCode::ConfirmUpgrade,
                wire::Sync {
                    id: 0,
                    state: SyncState::None,
                    data: &[],
                },
            );
            within(
                "sync_data",
                limits.sync_data,
                0..=limits.frame_length.saturating_sub(message.length()),
                "a frame (frame_length) holds the data and 41 bytes",
            )?;
        }
        let is_out = |limit| !(SHORTEST_SILENCE..=LONGEST_SILENCE).contains(&limit);
        if self.silence_limit.is_some_and(is_out) {
            let because = "it is at least 1 ms and at most a minute, or None";
            return Err(ConfigError {
                field: "silence_limit",
                rule: Rule::Contradiction { because },
            });
        }
        self.check_heirs()
    }

    /// Checks the fields about the heirs.
    fn check_heirs(&self) -> Result<(), ConfigError> {
        let contradiction = |field, because| {
            let rule = Rule::Contradiction { because };
            Err(ConfigError { field, rule })
        };
        if !Self::HAS_SUCCESSION && !matches!(self.heirs, Heirs::None) {
            return contradiction(
                "heirs",
                "this library is built without the feature `succession`",
            );
        }
        if !Self::HAS_SUCCESSION {
            return Ok(());
        }
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
        if self.heir_patience.is_zero() {
            return contradiction("heir_patience", "an heir needs time to read the log");
        }
        if self.succession_limit.is_zero() {
            return contradiction("succession_limit", "an heir needs time to take over");
        }
        if !self.stall_limit.is_zero() && self.stall_limit < SHORTEST_STALL {
            return contradiction(
                "stall_limit",
                "a leader that is only late would be ended: it is 0 (none) or at least 10 ms",
            );
        }
        Ok(())
    }
}

/// Checks that a value is within its bounds.
fn within(
    field: &'static str,
    given: usize,
    bounds: RangeInclusive<usize>,
    because: &'static str,
) -> Result<(), ConfigError> {
    let (least, most) = bounds.into_inner();
    let rule = if given < least {
        Rule::AtLeast {
            least,
            given,
            because,
        }
    } else if given > most {
        Rule::AtMost {
            most,
            given,
            because,
        }
    } else {
        return Ok(());
    };
    Err(ConfigError { field, rule })
}
