//! Which fields are personal in a mesh, and what becomes of each.

use std::collections::{BTreeMap, BTreeSet};

use palisade_mesh::{
    personal::{Mask, Personal},
    wire::record::cover::Handling,
};

/// What is personal in the records of a mesh. Without a rule a field is kept as it is, or,
/// where only some are allowed, left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    named: BTreeMap<Personal, Handling>,
    /// The fields that are kept as they are; without it all that are not named.
    allowed: Option<BTreeSet<Personal>>,
}

impl Rules {
    /// These fields, and what becomes of each. A path or query string is masked whatever
    /// is said.
    pub fn new(rules: impl IntoIterator<Item = (Personal, Handling)>) -> Self {
        let handled = rules.into_iter().map(|(field, handling)| {
            let can = field.names_somebody();
            (field, if can { handling } else { Handling::Masked })
        });
        Self {
            named: handled.collect(),
            allowed: None,
        }
    }

    /// The same rules, and of fields that they do not name only these are kept: what is
    /// neither named nor allowed is left out.
    #[must_use]
    pub fn allowing(self, fields: impl IntoIterator<Item = Personal>) -> Self {
        Self {
            allowed: Some(fields.into_iter().collect()),
            ..self
        }
    }

    /// The same rules, and what `mask` names is left out whatever they say of it.
    #[must_use]
    pub(crate) fn masking(&self, mask: &Mask) -> Self {
        let mut rules = self.clone();
        let masked = mask.fields().cloned();
        rules.named.extend(masked.map(|f| (f, Handling::Masked)));
        rules
    }

    /// Whether everything is kept.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.allowed.is_none()
    }

    /// Whether something becomes of a field that a context can have.
    pub(super) fn concern_context(&self) -> bool {
        self.has_allow_list() || self.named.keys().any(|field| *field != Personal::Author)
    }

    /// Whether only what is named or allowed may be kept.
    pub(super) fn has_allow_list(&self) -> bool {
        self.allowed.is_some()
    }

    /// Whether the log needs keys for what its reporters send.
    pub fn needs_keys(&self) -> bool {
        self.named
            .values()
            .any(|handling| *handling != Handling::Masked)
    }

    /// What becomes of `field`.
    pub(super) fn of(&self, field: &Personal) -> Option<Handling> {
        let named = self.named.get(field).copied();
        named.or_else(|| (!self.keeps(field)).then_some(Handling::Masked))
    }

    /// Whether a field that has no rule of its own is kept.
    fn keeps(&self, field: &Personal) -> bool {
        let allowed = self.allowed.as_ref();
        allowed.is_none_or(|allowed| allowed.contains(field))
    }

    /// What becomes of each field of a context with these `headers`; of one that cannot be
    /// read, of each that is known by name.
    pub(super) fn of_context(
        &self,
        headers: impl Iterator<Item = String>,
    ) -> BTreeMap<Personal, Handling> {
        let mut all = self.named.clone();
        if self.allowed.is_none() {
            return all;
        }
        let fixed = [
            Personal::Path,
            Personal::Query,
            Personal::SourceIp,
            Personal::User,
        ];
        for field in headers.map(Personal::Header).chain(fixed) {
            if let Some(handling) = self.of(&field) {
                all.insert(field, handling);
            }
        }
        all
    }
}
