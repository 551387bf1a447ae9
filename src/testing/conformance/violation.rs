//! A rule that a platform has broken, as a report names it.

use core::fmt;
use core::panic::Location;

use heapless::String;

use super::rules::Rule;

/// A rule that a platform has broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The line of the check.
    pub place: &'static Location<'static>,
    /// The behaviour that the rule demands.
    pub expected: String<160>,
    /// The behaviour of the platform.
    pub seen: String<200>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({}): \"{}\"",
            self.rule,
            self.rule.item(),
            self.rule.text()
        )?;
        writeln!(f, "    expected: {}", self.expected)?;
        writeln!(f, "    seen:     {}", self.seen)?;
        write!(f, "    check:    {}", self.place)
    }
}

/// The result of a check.
pub(super) type Checked<T = ()> = Result<T, Violation>;

/// Makes the violation of a rule.
#[track_caller]
pub(super) fn broken(rule: Rule, expected: &str, seen: fmt::Arguments<'_>) -> Violation {
    let mut violation = Violation {
        rule,
        place: Location::caller(),
        expected: String::new(),
        seen: String::new(),
    };
    // A text that is too long is cut off.
    let _ = fmt::write(&mut violation.expected, format_args!("{expected}"));
    let _ = fmt::write(&mut violation.seen, seen);
    violation
}
