//! The three searches: which subjects, resources or actions an answer would be `true` for.
//!
//! What is searched is the catalogue: identities of services, operations, methods and
//! business actions. Each candidate is put to the engine like any question. One that
//! depends on what the question does not say is no result; how many there were of them
//! is in the answer's context. Questions and answers are in the caller's words ([`Names`]).

use std::{collections::BTreeSet, sync::Arc};

use palisade_mesh::{
    canonical::{Method, canonical_host},
    catalogue::{Catalogue, Protocol, Service, Unmatched},
    decision::Verdict,
    kill::KillList,
    link::{About, LinkAction},
    operation::Operation,
    spiffe_id::SpiffeId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use smol_str::SmolStr;

mod searched;

use super::{
    Fault,
    names::Names,
    page::{Given, Pages, Wanted},
    words::{
        Action, OPERATION, Resource, SERVICE, Subject, Whole, is_workload, of_ours, principal,
        stated,
    },
};
use crate::apis::codes::{BROKEN, MALFORMED, NOT_UNDERSTOOD, UNDECIDED};
use crate::apis::{
    Api, Caller,
    desk::{Desk, NoAnswer},
    force::Force,
    inquiry::Misread,
    judged::subject_of,
};
use crate::decide::asked::GRPC_CALL;

/// What is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Action,
    Resource,
    Subject,
}

impl Kind {
    /// How a search of this kind is recorded. What it is about stands beside, in our words
    /// alone: those of the caller name persons, and no rule of privacy is asked about a
    /// record of a read.
    fn recorded(self) -> &'static str {
        match self {
            Self::Action => "authzen search action",
            Self::Resource => "authzen search resource",
            Self::Subject => "authzen search subject",
        }
    }
}

/// A search request of any kind.
#[derive(Debug, Deserialize)]
pub(super) struct Search {
    subject: Option<Subject>,
    action: Option<Action>,
    resource: Option<Resource>,
    #[serde(default)]
    context: Map<String, Value>,
    #[serde(default)]
    page: Wanted,
}

/// The answer; the page comes first, as the specification recommends.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    page: Given,
    context: Map<String, Value>,
    results: Vec<Value>,
}

/// Candidates, and what became of them.
#[derive(Default)]
struct Sifted {
    results: Vec<Value>,
    undecided: usize,
    /// Rules of the mapping whose ids the catalogue does not know.
    unlisted: usize,
    /// Candidates that were a question at all, and the first that was none.
    understood: usize,
    misread: Option<Misread>,
}

pub(super) async fn search(
    desk: &Desk,
    names: &Arc<Names>,
    pages: &Pages,
    caller: &Caller,
    (kind, asked): (Kind, Search),
) -> Result<Found, Fault> {
    let said = asked.checked(kind)?;
    desk.ask(caller, 1)?;
    let stage = desk.stage().ok_or_else(|| {
        let text = format!("PLS{UNDECIDED}: no policy revision is in force");
        Fault(http::StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let force = stage.of(None);
    // Whoever may not search does not learn either what is wrong with the question.
    let own = said.ours(names).map_err(nonsense).and_then(|own| {
        let about = |force: &Force| own.about(force.catalogue(), kind);
        let about = stage.understood(about, |found| {
            let (_, service) = found.as_ref().ok()?;
            service.as_deref().and_then(short).map(SmolStr::from)
        })?;
        Ok((own, about))
    });
    let about = own.as_ref().map(|(_, about)| about);
    let (subject, service) = about.map_or((None, None), Clone::clone);
    let about = About {
        api: Api::Authzen.as_str(),
        subject: subject.as_ref(),
        service: service.as_deref(),
    };
    desk.permit(caller, Some(force.as_ref()), LinkAction::Search, about)
        .map_err(NoAnswer::from)?;
    let (own, _) = own?;
    // About one service what its proxies enforce counts, as when it is asked about alone.
    let force = stage.of(service.as_deref().and_then(short));
    let now_us = desk.clock().now_us();
    let bound = said.bound(caller, force, kind);
    let searched = own.searched(force.catalogue(), kind, (subject.as_ref(), service));
    let mut said = said;
    let page = std::mem::take(&mut said.page);
    let (engine, list, names) = (force.clone(), desk.kill_list(), names.clone());
    // A catalogue may hold tens of thousands of operations. Whoever gives a search up does
    // not end it, so its turn is its own.
    let turn = desk.turn().await;
    let sifting = tokio::task::spawn_blocking(move || {
        let sifted = sift(&engine, &list, &names, kind, (&said, own), now_us);
        drop(turn);
        sifted
    });
    let sifted = sifting.await;
    let sifted = sifted.map_err(|error| {
        let text = format!("PLS{BROKEN}: bug: the search broke off: {error}");
        Fault(http::StatusCode::INTERNAL_SERVER_ERROR, text)
    })??;
    let (page, results) = pages.cut(sifted.results, &page, &bound)?;
    let id = desk.searched(caller, (kind.recorded(), searched), results.len())?;
    let mut context = Map::new();
    context.insert("id".into(), json!(id.to_string()));
    if sifted.undecided > 0 {
        context.insert("undecided".into(), json!(sifted.undecided));
    }
    if sifted.unlisted > 0 {
        context.insert("unlisted".into(), json!(sifted.unlisted));
    }
    Ok(Found {
        page,
        context,
        results,
    })
}

/// A search with everything that its kind demands; what is searched for is without its id.
struct Checked {
    subject: Subject,
    action: Action,
    resource: Resource,
    context: Map<String, Value>,
    page: Wanted,
}

/// The same in our words.
struct Own {
    subject: Subject,
    action: Action,
    resource: Resource,
    context: Arc<Map<String, Value>>,
    /// Whether resources of the caller's type have rules, and may be of several types here.
    mapped: bool,
}

impl Search {
    fn checked(self, kind: Kind) -> Result<Checked, Fault> {
        let missing = |what: &str| Fault::bad(format!("PLS{MALFORMED}: `{what}` is missing"));
        let mut subject = self.subject.ok_or_else(|| missing("subject"))?;
        let mut resource = self.resource.ok_or_else(|| missing("resource"))?;
        let action = match kind {
            Kind::Action => Action {
                name: String::new(),
                properties: Map::new(),
            },
            _ => self.action.ok_or_else(|| missing("action"))?,
        };
        // The id of what is searched for is ignored.
        match kind {
            Kind::Subject => subject.id = None,
            Kind::Resource => resource.id = None,
            Kind::Action => {}
        }
        if kind != Kind::Subject && subject.id.is_none() {
            return Err(missing("subject.id"));
        }
        if kind != Kind::Resource && resource.id.is_none() {
            return Err(missing("resource.id"));
        }
        Ok(Checked {
            subject,
            action,
            resource,
            context: self.context,
            page: self.page,
        })
    }
}

impl Own {
    /// Whom and which service the search is about, for those who permit it.
    fn about(
        &self,
        catalogue: &Catalogue,
        kind: Kind,
    ) -> Result<(Option<SpiffeId>, Option<String>), Fault> {
        is_workload(&self.subject).map_err(nonsense)?;
        let subject = match kind {
            Kind::Subject => None,
            _ => Some(principal(catalogue, &self.subject).map_err(nonsense)?),
        };
        stated(&self.subject, &self.context, 0).map_err(nonsense)?;
        let id = self.resource.id.as_deref().unwrap_or_default();
        let service = match (kind, self.resource.kind.as_str()) {
            (Kind::Resource, _) if self.mapped => None,
            (Kind::Resource, OPERATION | SERVICE) => None,
            (Kind::Resource, other) => {
                let wrong = format!("resources are searched by `{OPERATION}` or `{SERVICE}`");
                return Err(nonsense(Misread::words(format!("{wrong}, not `{other}`"))));
            }
            (_, OPERATION) => {
                let found = super::words::operation(catalogue, id).map_err(nonsense)?;
                Some(found.0.id.to_string())
            }
            // A host comes before a name, as it does where the question is understood.
            (_, SERVICE) => {
                let found = catalogue.by_host(id).or_else(|| catalogue.by_name(id));
                found.map(|s| s.id.to_string())
            }
            (_, _) => service_of_url(catalogue, id).map(|s| s.id.to_string()),
        };
        Ok((subject, service))
    }
}

impl Checked {
    fn ours(&self, names: &Names) -> Result<Own, Misread> {
        Ok(Own {
            subject: names.subject(&self.subject)?,
            action: names.action(&self.action, &self.resource.kind),
            resource: names.resource(&self.resource)?,
            context: names.context(&Arc::new(self.context.clone())),
            mapped: names.maps(&self.resource.kind),
        })
    }

    /// What a page token of this search is good for.
    fn bound(&self, caller: &Caller, force: &Force, kind: Kind) -> Vec<u8> {
        let versions = force.snapshot.versions();
        let parts = json!([
            format!("{kind:?}"),
            caller.id().as_str(),
            versions.policy.to_string(),
            versions.sequence,
            self.subject,
            self.action,
            self.resource,
            self.context,
        ]);
        parts.to_string().into_bytes()
    }
}

/// A service's name without its trust domain.
fn short(id: &str) -> Option<&str> {
    id.split_once('/').map(|(_, short)| short)
}

fn service_of_url<'c>(catalogue: &'c Catalogue, url: &str) -> Option<&'c Arc<Service>> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    catalogue.by_host(&canonical_host(authority).ok()?)
}

fn nonsense(misread: Misread) -> Fault {
    Fault::bad(format!("PLS{NOT_UNDERSTOOD}: {}", misread.message))
}

/// Puts every candidate to the engine.
fn sift(
    force: &Force,
    list: &KillList,
    names: &Names,
    kind: Kind,
    (said, own): (&Checked, Own),
    now_us: i64,
) -> Result<Sifted, Fault> {
    let catalogue = force.catalogue();
    let Own {
        subject,
        action,
        resource,
        context,
        mapped,
    } = own;
    let mut sifted = Sifted::default();
    // One question for all candidates: its properties may be as long as a message, and the
    // catalogue as long as it likes.
    let mut whole = Whole {
        subject,
        action,
        resource,
        context,
    };
    let entity = |id: &str, kind: &str| Some(json!({ "type": kind, "id": id }));
    match kind {
        Kind::Subject => {
            for id in identities(catalogue) {
                if let Some(shown) = names.subject_back(&said.subject.kind, id.as_str()) {
                    whole.subject.id = Some(id.to_string());
                    let result = |_: &str| entity(&shown, &said.subject.kind);
                    sifted.take(force, list, &whole, now_us, &result);
                }
            }
        }
        Kind::Resource if mapped => {
            let fits = |s: &Service, o: &Operation| is_of(s, o, &whole.action.name);
            let (listed, open) = names.listed(catalogue, &said.resource.kind, &fits);
            sifted.unlisted = open;
            for one in listed {
                whole.resource.kind = one.own_kind.to_owned();
                whole.resource.id = Some(one.own_id);
                let result = |_: &str| entity(&one.id, &said.resource.kind);
                sifted.take(force, list, &whole, now_us, &result);
            }
        }
        Kind::Resource => {
            for id in resources(catalogue, &whole.resource.kind, &whole.action.name) {
                whole.resource.id = Some(id.to_owned());
                let result = |_: &str| entity(id, &said.resource.kind);
                sifted.take(force, list, &whole, now_us, &result);
            }
        }
        Kind::Action => {
            for method in methods(catalogue, &whole.resource) {
                whole.action = Action {
                    name: method.as_str().to_owned(),
                    properties: Map::new(),
                };
                let result = |decided: &str| {
                    let shown = names.action_back(&said.resource.kind, decided)?;
                    Some(json!({ "name": shown }))
                };
                sifted.take(force, list, &whole, now_us, &result);
            }
            // Several methods may be one action.
            let mut seen = Vec::new();
            sifted.results.retain(|result| {
                let is_new = !seen.contains(result);
                if is_new {
                    seen.push(result.clone());
                }
                is_new
            });
        }
    }
    match sifted.misread {
        Some(misread) if sifted.understood == 0 => Err(nonsense(misread)),
        _ => Ok(sifted),
    }
}

impl Sifted {
    /// Puts one candidate to the engine; `result` says what it is, given the Cedar action.
    fn take(
        &mut self,
        force: &Force,
        list: &KillList,
        whole: &Whole,
        now_us: i64,
        result: &dyn Fn(&str) -> Option<Value>,
    ) {
        let inquiry = match of_ours(force.catalogue(), whole, now_us) {
            Ok(inquiry) => inquiry,
            Err(misread) => {
                self.misread.get_or_insert(misread);
                return;
            }
        };
        self.understood += 1;
        let id = &inquiry.question.connection.peer.id;
        if list.bars(&subject_of(id, &[]), now_us).is_some() {
            return;
        }
        let question = inquiry.question.as_question();
        let told = force.with_engine(|engine| engine.decide_knowing(&question, inquiry.known));
        let decision = &told.answer.decision;
        let is_declared =
            question.operation.is_some() || question.service.unmatched == Unmatched::Forward;
        match decision.verdict {
            Verdict::Allow if is_declared => {
                self.results.extend(result(&decision.action));
            }
            Verdict::Undecided(_) => self.undecided += 1,
            _ => {}
        }
    }
}

/// Every workload of the catalogue, in order.
fn identities(catalogue: &Catalogue) -> BTreeSet<&SpiffeId> {
    let services = catalogue.services().iter();
    services.flat_map(|s| &s.identities).collect()
}

/// Every resource of a type that an action can be asked about.
fn resources<'c>(catalogue: &'c Catalogue, kind: &str, action: &str) -> Vec<&'c str> {
    let services = catalogue.services().iter();
    if kind == SERVICE {
        return services.map(|s| s.id.as_str()).collect();
    }
    let of_service = services.flat_map(|s| s.operations.iter().map(move |o| (s, o)));
    let fitting = of_service.filter(|(service, operation)| is_of(service, operation, action));
    fitting
        .map(|(_, operation)| operation.id.as_str())
        .collect()
}

/// Whether an operation can be asked about with this action.
fn is_of(service: &Service, operation: &Operation, action: &str) -> bool {
    let method = operation.methods.iter().any(|m| m.as_str() == action);
    let grpc = action == GRPC_CALL && service.protocol == Protocol::Grpc;
    method || grpc || operation.action.as_deref() == Some(action)
}

/// The methods that a resource can be asked with.
fn methods(catalogue: &Catalogue, resource: &Resource) -> Vec<Method> {
    let id = resource.id.as_deref().unwrap_or_default();
    match super::words::operation(catalogue, id) {
        Ok((_, operation)) if resource.kind == OPERATION => operation.methods.clone(),
        _ => Method::ALL.to_vec(),
    }
}
