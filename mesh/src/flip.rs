//! What another revision changes for a request: one word for whoever tries one beside the
//! revision in force.

use crate::wire::record::Flip;

/// What becomes of a request under a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It passes.
    Passes,
    /// It is denied or refused.
    Stopped,
    /// There is no way to decide about it.
    Undecided,
}

impl Standing {
    /// What changes for a request that stands so under the older of two revisions, and as
    /// `newer` under the newer one.
    pub fn flip_to(self, newer: Self) -> Flip {
        use Standing::{Passes, Stopped, Undecided};
        match (self, newer) {
            (Stopped | Undecided, Passes) => Flip::NewlyAllowed,
            (Passes, Stopped) => Flip::NewlyDenied,
            (Passes | Stopped, Undecided) => Flip::NewlyUndecided,
            (Passes, Passes) | (Stopped | Undecided, Stopped) | (Undecided, Undecided) => {
                Flip::Unspecified
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_is_what_the_newer_revision_changes() {
        use Standing::{Passes, Stopped, Undecided};
        for (older, newer, expected) in [
            (Passes, Passes, Flip::Unspecified),
            (Passes, Stopped, Flip::NewlyDenied),
            (Passes, Undecided, Flip::NewlyUndecided),
            (Stopped, Passes, Flip::NewlyAllowed),
            (Stopped, Stopped, Flip::Unspecified),
            (Stopped, Undecided, Flip::NewlyUndecided),
            (Undecided, Passes, Flip::NewlyAllowed),
            (Undecided, Stopped, Flip::Unspecified),
            (Undecided, Undecided, Flip::Unspecified),
        ] {
            assert_eq!(older.flip_to(newer), expected, "{older:?} {newer:?}");
        }
    }
}
