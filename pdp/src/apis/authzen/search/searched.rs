//! What the record of a search says that it was about, as records of decisions name it.

use std::sync::Arc;

use palisade_mesh::{
    canonical::Method, catalogue::Catalogue, spiffe_id::SpiffeId, wire::record::Searched,
};
use serde_json::Map;
use smol_str::SmolStr;

use super::{
    super::words::{Action, OPERATION, SERVICE, Subject, Whole, of_ours, operation},
    Kind, Own, identities,
};
use crate::{apis::inquiry::Inquiry, decide::asked::Names};

/// The types of resources in records.
const OF_OPERATIONS: &str = "Operation";
const OF_SERVICES: &str = "Service";

impl Own {
    /// Of a search about `subject` and `service`; what was searched for is empty.
    pub(super) fn searched(
        &self,
        catalogue: &Catalogue,
        kind: Kind,
        (subject, service): (Option<&SpiffeId>, Option<String>),
    ) -> Searched {
        let (resource_type, resource_id) = self.searched_resource(catalogue, kind, &service);
        Searched {
            principal: subject.map_or_else(String::new, ToString::to_string),
            service: service.unwrap_or_default(),
            action: self.searched_action(catalogue, kind),
            resource_type,
            resource_id,
        }
    }

    /// As a decision about it is recorded; in the caller's words where they are no question.
    fn searched_action(&self, catalogue: &Catalogue, kind: Kind) -> String {
        let inquiry = match kind {
            Kind::Subject => self.inquiry(catalogue, self.action.name.clone()),
            Kind::Action | Kind::Resource => None,
        };
        let named = inquiry.map(|i| Names::of(&i.question.as_question()).action.to_owned());
        named.unwrap_or_else(|| self.action.name.clone())
    }

    fn searched_resource(
        &self,
        catalogue: &Catalogue,
        kind: Kind,
        service: &Option<String>,
    ) -> (String, String) {
        let named = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
        let said = self.resource.id.as_deref().unwrap_or_default();
        let service = service.as_deref();
        match (kind, self.resource.kind.as_str()) {
            // In the caller's words; they may be operations and services here.
            (Kind::Resource, _) if self.mapped => named("", ""),
            (Kind::Resource, SERVICE) => named(OF_SERVICES, ""),
            (Kind::Resource, _) => named(OF_OPERATIONS, ""),
            (_, OPERATION) => match operation(catalogue, said) {
                Ok((_, found)) => named(OF_OPERATIONS, &found.id),
                Err(_) => named(OF_OPERATIONS, ""),
            },
            (_, SERVICE) => named(OF_SERVICES, service.unwrap_or_default()),
            // A request that is no operation is decided about as its service.
            (_, _) => match (self.operation_of_url(catalogue, kind), service) {
                (Some(id), _) => named(OF_OPERATIONS, &id),
                (None, Some(service)) => named(OF_SERVICES, service),
                // An address of nobody here: its path may name somebody.
                (None, None) => named("", ""),
            },
        }
    }

    /// The operation that the URL of the search is, by any method that it asks about.
    fn operation_of_url(&self, catalogue: &Catalogue, kind: Kind) -> Option<SmolStr> {
        let asked = match kind {
            Kind::Action => Method::ALL.iter().map(|m| m.as_str().to_owned()).collect(),
            Kind::Resource | Kind::Subject => vec![self.action.name.clone()],
        };
        let mut asked = asked.into_iter();
        asked.find_map(|name| {
            Some(
                self.inquiry(catalogue, name)?
                    .question
                    .operation?
                    .id
                    .clone(),
            )
        })
    }

    /// The question that the search is for anybody who may be a subject, where it is one.
    fn inquiry(&self, catalogue: &Catalogue, name: String) -> Option<Inquiry> {
        let anybody = identities(catalogue).first()?.to_string();
        let whole = Whole {
            subject: Subject {
                id: Some(anybody),
                properties: Map::new(),
                ..self.subject.clone()
            },
            action: Action {
                name,
                properties: self.action.properties.clone(),
            },
            resource: self.resource.clone(),
            context: Arc::default(),
        };
        of_ours(catalogue, &whole, 0).ok()
    }
}
