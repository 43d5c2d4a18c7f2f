//! Policies that are applied together.

use std::fmt;

use super::{Applied, ApplyPolicy, Error};
use crate::model::policy::Policy;

/// Policies that are applied in one transaction, with one epoch: all of them, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplySet {
    /// Each name once. Their own [`ApplyPolicy::validate_only`] says nothing here.
    pub policies: Vec<ApplyPolicy>,
    /// Policies that are not among them are deleted.
    pub prune: bool,
    pub validate_only: bool,
}

/// What applying a set did, or would have done.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedSet {
    /// In the order of the set.
    pub applied: Vec<Applied>,
    /// As they were, in the order of their names.
    pub pruned: Vec<Policy>,
}

/// Why a set is not applied: everything that is wrong with it, in its order. Never empty.
#[derive(Debug)]
pub struct Refusals(pub Vec<Refusal>);

#[derive(Debug)]
pub struct Refusal {
    /// Of the policy within the set.
    pub index: usize,
    pub policy: String,
    pub error: Error,
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{}", refusal.error)?;
        }
        Ok(())
    }
}
