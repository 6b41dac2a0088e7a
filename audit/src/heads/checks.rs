//! How many signatures of heads may be checked at a time.

use palisade_mesh::spiffe_id::SpiffeId;
use rustc_hash::FxHashMap;

/// What is left of the checks of a group, or of a start. Each reporter has its own, so that
/// one that asks for many leaves the others theirs.
#[derive(Debug)]
pub(crate) struct Checks {
    left: usize,
    each: usize,
    used: FxHashMap<SpiffeId, usize>,
}

impl Checks {
    /// So many for `each` reporter, and `in_all`.
    pub(crate) fn new(each: usize, in_all: usize) -> Self {
        Self {
            left: in_all,
            each,
            used: FxHashMap::default(),
        }
    }

    /// Takes one of a reporter; false when there is none left.
    pub(crate) fn take(&mut self, reporter: &SpiffeId) -> bool {
        if self.left == 0 {
            return false;
        }
        let used = self.used.entry(reporter.clone()).or_default();
        let may = *used < self.each;
        *used += usize::from(may);
        self.left -= usize::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On both sides of both limits.
    #[test]
    fn each_reporter_has_its_own() {
        let of = |name: &str| SpiffeId::parse(&format!("spiffe://acme.test/{name}")).unwrap();
        let mut checks = Checks::new(2, 4);
        let mut taken = |name: &str| checks.take(&of(name));
        assert_eq!([taken("a"), taken("a"), taken("a")], [true, true, false]);
        assert_eq!([taken("b"), taken("c"), taken("d")], [true, true, false]);
    }
}
