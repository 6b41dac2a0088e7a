//! An answer about all requests of one kind, as two revisions' answers are compared: yes, no,
//! or on which clauses it depends.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use crate::decide::{Caller, May, Survey, Target};

/// An answer as far as it can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Possible {
    /// Every such request passes, by these permits.
    Allowed(BTreeSet<SmolStr>),
    /// None passes; these forbids are why, or else no permit is.
    Denied(BTreeSet<SmolStr>),
    /// It depends on what is unknown.
    Depends(Depends),
}

/// On what an answer depends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Depends {
    /// One of these must hold; by clauses, with the permits that have them.
    pub(crate) permits: Open,
    /// None of these may hold.
    pub(crate) forbids: Open,
}

/// Clauses that are left over, all of which must hold, with the policies that have them.
pub(crate) type Open = BTreeMap<Vec<String>, BTreeSet<SmolStr>>;

impl Possible {
    /// What a survey says of all requests of `caller` to `target`.
    pub(crate) fn of(survey: &Survey<'_>, caller: &Caller, target: &Target) -> Self {
        let access = survey.access(caller, target);
        let deciding = access.deciding.into_iter().collect();
        match access.may {
            May::No => return Self::Denied(deciding),
            May::Yes => return Self::Allowed(deciding),
            May::OnlyIf => {}
        }
        let open = |ids: &[SmolStr]| {
            let mut open = Open::new();
            let terms = survey.terms(caller, target, ids);
            for (id, clauses) in ids.iter().zip(terms) {
                open.entry(clauses).or_default().insert(id.clone());
            }
            open
        };
        let mut depends = Depends {
            permits: open(&access.permits),
            forbids: open(&access.forbids),
        };
        // Where one permit asks for nothing more, it does not matter what others ask for.
        if let Some(free) = depends.permits.remove(&Vec::new()) {
            depends.permits = Open::from([(Vec::new(), free)]);
        }
        Self::Depends(depends)
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::canonical::Method;

    use super::*;
    use crate::decide::{
        Given,
        testing::{self, BATCH, NOW_US, WEB},
    };

    /// What is said of GET on the operation `orders/list`, whose path is known.
    fn check(policies: &str, principal: &str, expected: &str) {
        let snapshot = testing::snapshot(policies);
        let service = snapshot.catalogue().by_host("orders").unwrap();
        let operation = service.operations.iter().find(|o| o.name == "list");
        let target = snapshot.target_of(service, operation, Method::Get);
        let caller = snapshot.caller(&principal.parse().unwrap()).unwrap();
        let given = Given {
            now_us: NOW_US,
            onwards: true,
            ..Given::default()
        };
        let survey = snapshot.survey(given).unwrap();
        let said = match Possible::of(&survey, &caller, &target) {
            Possible::Allowed(by) => format!("yes {by:?}"),
            Possible::Denied(by) => format!("no {by:?}"),
            Possible::Depends(on) => format!("if {:?} unless {:?}", on.permits, on.forbids),
        };
        assert_eq!(said, expected, "{policies}");
    }

    const PERMIT: &str =
        "@id(\"p\") permit (principal in Service::\"acme.test/shop/web\", action, resource)";

    #[test]
    fn what_is_known_is_decided_and_the_rest_is_told() {
        check("", WEB, "no {}");
        check(&format!("{PERMIT};"), WEB, r#"yes {"p"}"#);
        check(&format!("{PERMIT};"), BATCH, "no {}");
        let late = format!("{PERMIT} when {{ context.tls.mtls && context.time.hour >= 8 }};");
        check(
            &late,
            WEB,
            r#"if {["context.time.hour >= 8"]: {"p"}} unless {}"#,
        );
        let never = format!("{PERMIT} when {{ context.time.hour >= 8 && !context.tls.mtls }};");
        check(&never, WEB, "no {}");
        let of_http = |rest: &str| {
            format!("@id(\"q\") permit (principal, action in Action::\"http\", resource) {rest};")
        };
        check(
            &of_http(
                "unless { context.http.path like \"/orders*\" && context.source.port < 1024 }",
            ),
            WEB,
            r#"if {["!(context.source.port < 1024)"]: {"q"}} unless {}"#,
        );
        let until =
            format!("@expires(\"2026-12-31T00:00:00.5Z\") {PERMIT} when {{ context.tls.mtls }};");
        check(
            &until,
            WEB,
            r#"if {["context.time.now < datetime(\"2026-12-31T00:00:01Z\")"]: {"p"}} unless {}"#,
        );
        let also = format!("{until} @id(\"q\") permit (principal, action, resource);");
        check(&also, WEB, r#"yes {"q"}"#);
        // The only host of the service, and an exception that is none.
        check(
            &of_http(
                "when { context.http.host == \"orders\" && context.source.port < 9 } \
                 unless { context.time.hour < 8 && !context.tls.mtls }",
            ),
            WEB,
            r#"if {["context.source.port < 9"]: {"q"}} unless {}"#,
        );
    }

    #[test]
    fn a_forbid_that_may_fire_is_what_a_permit_depends_on() {
        let forbid = "@id(\"f\") forbid (principal, action, resource)";
        let both = |condition: &str| format!("{PERMIT}; {forbid} {condition};");
        check(&both(""), WEB, r#"no {"f"}"#);
        check(&both("unless { context.tls.mtls }"), WEB, r#"yes {"p"}"#);
        check(
            &both("when { context.time.weekday > 5 }"),
            WEB,
            r#"if {[]: {"p"}} unless {["context.time.weekday > 5"]: {"f"}}"#,
        );
    }
}
