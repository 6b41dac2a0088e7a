//! The part of a snapshot that concerns one (principal, action, resource).
//!
//! Candidates with their scope already decided, what they read of the context,
//! and for how long this holds. A slice is the unit of caching: two requests of
//! one slice with the same values of its fields get the same answer.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, OnceLock},
};

use palisade_mesh::decision::Decision;

use super::{
    fact::{Facts, US_PER_HOUR, next_tick, tick},
    field::{Field, Form},
    index::{Index, rule_at},
    rule::Rule,
    world::{Triple, World},
};

/// The candidates for one (principal, action, resource), by position.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) forbids: Box<[u32]>,
    /// Forbids that test for members, attributes or tags of an entity which the snapshot
    /// lacks.
    pub(crate) missing: Box<[u32]>,
    pub(crate) permits: Box<[u32]>,
    pub(crate) shadows: Box<[u32]>,
    /// Fields that enforced policies read.
    pub(crate) enforced: Box<[Field]>,
    /// Fields that enforced and shadow policies read.
    pub(crate) fields: Box<[Field]>,
    /// Whether the time of the decision is an input through an `@expires` in scope.
    pub(crate) expires: bool,
    /// Holds from here …
    from_us: i64,
    /// … until here, exclusively.
    until_us: i64,
    /// Next moment at which an enforced permit expires.
    expiry_us: Option<i64>,
    /// The decision, where no field is read.
    pub(crate) constant: OnceLock<Cached>,
}

/// A decision as caches hold it.
#[derive(Debug, Clone)]
pub(crate) struct Cached {
    pub(crate) decision: Arc<Decision>,
    /// Shadow permits that matched, by position; `None` for none.
    pub(crate) shadows: Option<Arc<[u32]>>,
}

impl Slice {
    /// Looks up the candidates at a moment. What a context of `form` never has is not
    /// read: it cannot tell two requests of the slice apart.
    pub(crate) fn new(
        (index, rules): (&Index, &[Rule]),
        world: &World,
        entities: Triple,
        form: Option<Form>,
        now_us: i64,
    ) -> Self {
        let mut slice = Self::empty();
        let (mut forbids, mut missing) = (Vec::new(), Vec::new());
        let (mut permits, mut shadows) = (Vec::new(), Vec::new());
        let (mut enforced, mut fields) = (BTreeSet::new(), BTreeSet::new());
        for i in index.candidates(rules, world, entities) {
            let Some(rule) = rule_at(rules, i) else {
                continue;
            };
            slice.bound(rule, now_us);
            if rule.expired(now_us) {
                continue;
            }
            if !rule.missing.is_empty() {
                missing.push(i);
            }
            match (rule.permit, rule.shadow, rule.void) {
                (false, _, true) => continue,
                (false, _, false) => forbids.push(i),
                (true, false, _) => permits.push(i),
                (true, true, _) => shadows.push(i),
            }
            let reads = rule.reads.iter().copied();
            let reads = reads.filter(|field| form.is_none_or(|form| field.is_in(form)));
            fields.extend(reads.clone());
            if !rule.shadow {
                enforced.extend(reads);
            }
        }
        slice.forbids = forbids.into();
        slice.missing = missing.into();
        slice.permits = permits.into();
        slice.shadows = shadows.into();
        slice.enforced = enforced.into_iter().collect();
        slice.fields = fields.into_iter().collect();
        slice
    }

    /// Whether the candidates are the same at `now_us`.
    pub(crate) fn covers(&self, now_us: i64) -> bool {
        (self.from_us..self.until_us).contains(&now_us)
    }

    /// Writes everything that a decision of this slice depends on; false when some
    /// value cannot be spoken of.
    pub(crate) fn write_key(&self, facts: &dyn Facts, now_us: i64, key: &mut Vec<u8>) -> bool {
        self.fields.iter().all(|field| match field {
            // The moment until which an answer holds is part of the answer, so the
            // key has the whole hour and not only its number on the dial.
            Field::TimeHour | Field::TimeWeekday => {
                key.extend(now_us.div_euclid(US_PER_HOUR).to_le_bytes());
                true
            }
            field => facts.fact(*field).write_key(key),
        })
    }

    /// While an answer made at `now_us` holds for all requests of one connection; none where
    /// something of the request is read.
    pub(crate) fn span_on_connection(&self, now_us: i64) -> Option<Range<i64>> {
        let mut span = self.from_us..self.until_us;
        for field in &self.fields {
            if let Some(tick) = tick(*field, now_us) {
                span = span.start.max(tick.start)..span.end.min(tick.end);
            } else if !field.is_of_connection() {
                return None;
            }
        }
        Some(span)
    }

    /// Until when an answer made at `now_us` holds by itself.
    pub(crate) fn valid_until_us(&self, now_us: i64) -> Option<i64> {
        let fields = self.enforced.iter();
        let tick = fields.filter_map(|field| next_tick(*field, now_us));
        tick.chain(self.expiry_us).min()
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        let candidates =
            self.forbids.len() + self.missing.len() + self.permits.len() + self.shadows.len();
        size_of::<Self>() + 4 * (candidates + self.fields.len() + self.enforced.len())
    }

    fn empty() -> Self {
        Self {
            forbids: Box::new([]),
            missing: Box::new([]),
            permits: Box::new([]),
            shadows: Box::new([]),
            enforced: Box::new([]),
            fields: Box::new([]),
            expires: false,
            from_us: i64::MIN,
            until_us: i64::MAX,
            expiry_us: None,
            constant: OnceLock::new(),
        }
    }

    fn bound(&mut self, rule: &Rule, now_us: i64) {
        let Some(at) = rule.expires_us else {
            return;
        };
        self.expires = true;
        if rule.expired(now_us) {
            self.from_us = self.from_us.max(at);
            return;
        }
        self.until_us = self.until_us.min(at);
        if !rule.shadow {
            self.expiry_us = Some(self.expiry_us.map_or(at, |e| e.min(at)));
        }
    }
}
