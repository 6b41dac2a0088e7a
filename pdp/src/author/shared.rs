//! What two compilations of nearly the same texts work out once.
//!
//! A change touches few files of a repository. Both of its sides are compiled whole, by the
//! one compiler, so that each is what it would be alone. But a file of policies depends on
//! nothing beside its path and its bytes until it is put together with others, so one that
//! both sides have is parsed once; and whether validation has anything against a policy depends
//! on its text and on the schema, so that is asked once where both have the same schema, too.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use palisade_mesh::{snapshot::Digest, yaml::Source};

use super::policies::Parsed;

/// What compilations that are given the same one need not work out again. It holds the texts of
/// all of them, so it is kept no longer than they take.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Files>);

#[derive(Debug, Default)]
struct Files {
    parsed: Mutex<HashMap<Key, Arc<OnceLock<Parsed>>>>,
    /// Compilations that have begun.
    begun: AtomicUsize,
}

/// Path and text of a file.
type Key = (Arc<str>, Arc<str>);

/// From which end a compilation begins. Two at a time begin at opposite ends and meet in
/// the middle; from the same end, one would wait for the other at each file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Turn {
    Backward,
    #[default]
    Forward,
}

impl Turn {
    /// The items in the order of this turn.
    pub(super) fn order<T>(self, items: &[T]) -> Vec<&T> {
        match self {
            Self::Backward => items.iter().rev().collect(),
            Self::Forward => items.iter().collect(),
        }
    }
}

impl Shared {
    /// The turn of the compilation that begins now.
    pub(super) fn turn(&self) -> Turn {
        match self.0.begun.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => Turn::Forward,
            _ => Turn::Backward,
        }
    }

    /// What the files say, each parsed now or taken over; in their own order.
    pub(super) fn parsed(&self, sources: &[&Source], turn: Turn) -> Vec<Parsed> {
        for source in turn.order(sources) {
            let _ = self.file(source).get_or_init(|| Parsed::of(source));
        }
        let parsed = sources.iter().map(|source| {
            let file = self.file(source);
            file.get_or_init(|| Parsed::of(source)).clone()
        });
        parsed.collect()
    }

    fn file(&self, source: &Source) -> Arc<OnceLock<Parsed>> {
        let key = (source.path.clone(), source.text.clone());
        // Nothing that is done under the lock can leave the map half changed.
        let mut parsed = self.0.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(parsed.entry(key).or_default())
    }
}

/// Whether validation has anything against a policy, as it was found under the first schema
/// that asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Judged(Arc<OnceLock<(Digest, bool)>>);

impl Judged {
    /// The answer under the schema of this digest; `judge` gives it where it is not known.
    pub(super) fn under(&self, schema: Digest, judge: impl Fn() -> bool) -> bool {
        match self.0.get_or_init(|| (schema, judge())) {
            (of, accepted) if *of == schema => *accepted,
            _ => judge(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs};

    use super::*;
    use crate::author::{
        Loaded, load, load_with,
        sample::{copy, write},
    };

    /// Everything that tells what was compiled.
    fn told(loaded: &Loaded) -> String {
        let compiled = loaded.compiled.as_ref();
        let parts = compiled.map(|c| {
            let mut policies: Vec<String> =
                c.policies.policies().map(ToString::to_string).collect();
            policies.sort_unstable();
            (c.digest, c.bundle.clone(), policies, &c.info, &c.invariants)
        });
        format!("{parts:#?}\n{:#?}", loaded.diagnostics)
    }

    /// Compiles both at once with one memory, and each alone; the same comes out.
    #[track_caller]
    fn check(base: &std::path::Path, head: &std::path::Path) {
        let shared = Shared::default();
        let (old, new) = std::thread::scope(|scope| {
            let old = scope.spawn(|| load_with(base, &shared));
            let new = load_with(head, &shared);
            (old.join().unwrap(), new)
        });
        assert_eq!(told(&old), told(&load(base)));
        assert_eq!(told(&new), told(&load(head)));
        // Whatever is known by then changes nothing either.
        assert_eq!(told(&load_with(base, &shared)), told(&load(base)));
    }

    /// A change of a policy, of the schema alone, of a service, and mistakes of many kinds.
    #[test]
    fn two_sides_compiled_together_are_what_they_are_alone() {
        let file = "policies/more.cedar";
        let one = "@id(\"more\") permit (principal, action == Action::\"GET\", resource)\n\
                   when { context.http.path like \"/a*\" };\n";
        let with = |path: &str, text: &str| {
            let sample = copy();
            write(sample.path(), file, one);
            write(sample.path(), path, text);
            sample
        };
        let base = with(file, one);
        check(base.path(), base.path());
        for (path, text) in [
            (
                file,
                "@id(\"more\") permit (principal, action == Action::\"PUT\", resource);",
            ),
            (
                "policies/other.cedar",
                "@id(\"more\") forbid (principal, action, resource);",
            ),
            (
                file,
                "@id(\"more\") permit (principal, action == Action::\"GTE\", resource);",
            ),
            (file, "permit (principal, action, resource"),
            (
                file,
                "@id(\"x\") permit (principal in Group::\"nobody\", action, resource);",
            ),
            (
                "palisade.yaml",
                "trust_domain: demo.test\nheaders:\n  x-more: single\n",
            ),
            ("schema.cedarschema", "entity Team;\n"),
            ("services/more.yaml", "service: shop/more\n"),
            ("invariants/more.cedar", one),
        ] {
            let head = with(path, text);
            check(base.path(), head.path());
            check(head.path(), base.path());
        }
        fs::remove_file(base.path().join(file)).unwrap();
        check(base.path(), with(file, one).path());
    }

    #[test]
    fn a_policy_is_judged_once_under_each_schema_that_comes_first() {
        let (ours, other) = (Digest::of(b"ours"), Digest::of(b"other"));
        let asked = Cell::new(0);
        let judged = Judged::default();
        let under = |schema, answer: bool| {
            judged.under(schema, || {
                asked.set(asked.get() + 1);
                answer
            })
        };
        assert!(under(ours, true) && under(ours, true));
        assert_eq!(asked.get(), 1);
        assert!(!under(other, false), "another schema is asked anew");
        assert!(under(ours, false), "and does not overwrite what is known");
        assert_eq!(asked.get(), 2);
    }

    #[test]
    fn turns_alternate_and_run_from_opposite_ends() {
        let shared = Shared::default();
        let turns = [shared.turn(), shared.turn(), shared.turn()];
        assert_eq!(turns, [Turn::Forward, Turn::Backward, Turn::Forward]);
        assert_eq!(Turn::Forward.order(&[1, 2]), [&1, &2]);
        assert_eq!(Turn::Backward.order(&[1, 2]), [&2, &1]);
    }
}
