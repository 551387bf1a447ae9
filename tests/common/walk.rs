//! The states of a stateright model: machines are not copied, but made again from the steps so far.

use std::hash::{Hash, Hasher};

/// The visible state after some steps. Two equal visible states continue alike, whatever steps led
/// to them.
#[derive(Clone, Debug)]
pub(crate) struct Walk<Step, Seen> {
    pub(crate) steps: Vec<Step>,
    pub(crate) seen: Seen,
}

impl<Step: Copy, Seen> Walk<Step, Seen> {
    /// Returns the state before the first step. `see` does all steps, from the first on.
    pub(crate) fn start(see: impl FnOnce(&[Step]) -> Seen) -> Self {
        let steps = Vec::new();
        let seen = see(&steps);
        Walk { steps, seen }
    }

    /// Returns the state after one more step.
    pub(crate) fn and(&self, step: Step, see: impl FnOnce(&[Step]) -> Seen) -> Self {
        let steps = [&self.steps[..], &[step]].concat();
        let seen = see(&steps);
        Walk { steps, seen }
    }
}

impl<Step: Copy, Seen: Clone> Walk<Step, Seen> {
    /// Returns the state after all pending steps, one after the other.
    pub(crate) fn rest(
        &self,
        due: impl Fn(&Seen, &mut Vec<Step>),
        see: impl Fn(&[Step]) -> Seen,
    ) -> Self {
        let mut at = self.clone();
        loop {
            let mut next = Vec::new();
            due(&at.seen, &mut next);
            let Some(step) = next.first() else {
                return at;
            };
            at = at.and(*step, &see);
        }
    }
}

impl<Step, Seen: Hash> Hash for Walk<Step, Seen> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.seen.hash(state);
    }
}

impl<Step, Seen: PartialEq> PartialEq for Walk<Step, Seen> {
    fn eq(&self, other: &Self) -> bool {
        self.seen == other.seen
    }
}
