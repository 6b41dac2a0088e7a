//! Section `audit.retention`: how long records are kept, by class.

#[cfg(feature = "full")]
use palisade_audit::retention::Periods;
#[cfg(feature = "full")]
use palisade_mesh::diagnostic::Diagnostic;
use serde::Deserialize;

/// Section `audit.retention`. A class that is not named is kept for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionSection {
    /// Alerts that were met, told and answered for.
    pub alert: Option<String>,
    /// What operators did.
    pub admin: Option<String>,
    /// Who read the log.
    pub audit_read: Option<String>,
    /// Peers that were refused at the handshake.
    pub authn_failure: Option<String>,
    /// Requests as their callers' proxies saw them.
    pub call: Option<String>,
    /// Certificates and keys.
    pub credential: Option<String>,
    /// Decisions.
    pub decision: Option<String>,
    /// How requests ended; kept no shorter than decisions.
    pub outcome: Option<String>,
    /// Changes of policy.
    pub policy_change: Option<String>,
    /// Open streams that were judged again.
    pub rejudgement: Option<String>,
    /// What became of reporters' spools.
    pub spool_event: Option<String>,
}

#[cfg(feature = "full")]
impl RetentionSection {
    /// The periods in it.
    ///
    /// # Errors
    /// `PLS7574` for each that cannot be kept.
    pub fn periods(&self) -> Result<Periods, Vec<Diagnostic>> {
        let named = self.each().into_iter();
        Periods::parse(named.filter_map(|(class, text)| Some((class, text.as_deref()?))))
    }

    fn each(&self) -> [(&'static str, &Option<String>); 11] {
        [
            ("alert", &self.alert),
            ("admin", &self.admin),
            ("audit_read", &self.audit_read),
            ("authn_failure", &self.authn_failure),
            ("call", &self.call),
            ("credential", &self.credential),
            ("decision", &self.decision),
            ("outcome", &self.outcome),
            ("policy_change", &self.policy_change),
            ("rejudgement", &self.rejudgement),
            ("spool_event", &self.spool_event),
        ]
    }
}

#[cfg(all(test, feature = "full"))]
mod tests {
    use palisade_audit::{query::field::CLASSES, retention::ALWAYS_KEPT};

    use super::*;
    use crate::config::Config;

    fn codes(retention: &str) -> Vec<u16> {
        let text = format!(
            "trust_domain: acme.test\naudit:\n  listen: 127.0.0.1:0\n  retention: {{ {retention} }}\n"
        );
        let found = Config::parse("m.yaml", &text).err().unwrap_or_default();
        found.iter().map(|d| d.code.0).collect()
    }

    #[test]
    fn every_class_that_may_go_can_be_named_and_no_other() {
        let section = RetentionSection::default();
        let mut named: Vec<&str> = section.each().iter().map(|(class, _)| *class).collect();
        let mut all: Vec<&str> = CLASSES.to_vec();
        all.retain(|class| !ALWAYS_KEPT.contains(class));
        named.sort_unstable();
        all.sort_unstable();
        assert_eq!(named, all);
        assert_eq!(codes("log_lifecycle: 1y"), [8003]);
        assert_eq!(codes("decisions: 1y"), [8003]);
    }

    #[test]
    fn periods_are_checked_before_anything_starts() {
        assert_eq!(
            codes("decision: 13 months, outcome: 2 years, admin: 7y"),
            [0_u16; 0]
        );
        assert_eq!(codes("decision: 30 days, admin: never"), [7574, 7574]);
        assert_eq!(codes("decision: 13 months, outcome: 1y"), [7574]);
    }
}
