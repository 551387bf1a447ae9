//! The states of a stateright model: machines are not copied, but made again from the steps so far.

use std::hash::{Hash, Hasher};

/// The observed state after some steps. Two equal observed states continue alike, whatever steps led
/// to them.
#[derive(Clone, Debug)]
pub(crate) struct Walk<Step, Observed> {
    pub(crate) steps: Vec<Step>,
    pub(crate) observed: Observed,
}

impl<Step: Copy, Observed> Walk<Step, Observed> {
    /// Returns the state before the first step. `observe` does all steps, from the first on.
    pub(crate) fn start(observe: impl FnOnce(&[Step]) -> Observed) -> Self {
        let steps = Vec::new();
        let observed = observe(&steps);
        Walk { steps, observed }
    }

    /// Returns the state after one more step.
    pub(crate) fn then(&self, step: Step, observe: impl FnOnce(&[Step]) -> Observed) -> Self {
        let steps = [&self.steps[..], &[step]].concat();
        let observed = observe(&steps);
        Walk { steps, observed }
    }
}

impl<Step: Copy, Observed: Clone> Walk<Step, Observed> {
    /// Returns the state when no step is pending: always the first pending step is done.
    pub(crate) fn finish(
        &self,
        pending: impl Fn(&Observed, &mut Vec<Step>),
        observe: impl Fn(&[Step]) -> Observed,
    ) -> Self {
        let mut at = self.clone();
        loop {
            let mut next = Vec::new();
            pending(&at.observed, &mut next);
            let Some(step) = next.first() else {
                return at;
            };
            at = at.then(*step, &observe);
        }
    }
}

impl<Step, Observed: Hash> Hash for Walk<Step, Observed> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.observed.hash(state);
    }
}

impl<Step, Observed: PartialEq> PartialEq for Walk<Step, Observed> {
    fn eq(&self, other: &Self) -> bool {
        self.observed == other.observed
    }
}
