//! A question in the words of Cedar: which action on which resource, by whom.

use palisade_mesh::{
    canonical::Method,
    catalogue::{Protocol, Service},
    decision::Question,
    operation::Operation,
};

use super::{
    field::Form,
    world::{Ent, OPERATION, SERVICE, Triple},
};

/// The action of a gRPC call that has no business action.
pub(crate) const GRPC_CALL: &str = "grpc:call";

/// A question in terms of the snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'q> {
    pub(crate) principal: Ent,
    pub(crate) action: Ent,
    pub(crate) resource: Ent,
    pub(crate) form: Form,
    pub(crate) names: Names<'q>,
}

/// How a question's action and resource are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'q> {
    pub(crate) action: &'q str,
    pub(crate) resource_type: &'static str,
    pub(crate) resource_id: &'q str,
}

impl<'q> Names<'q> {
    pub(crate) fn of(question: &Question<'q>) -> Self {
        let method = question.request.method;
        Self::new(question.service, question.operation, method)
    }

    /// The names of what `method` is on an operation of a service, or beside them.
    pub(crate) fn new(
        service: &'q Service,
        operation: Option<&'q Operation>,
        method: Method,
    ) -> Self {
        let business = operation.and_then(|o| o.action.as_deref());
        let action = business.unwrap_or(match service.protocol {
            Protocol::Grpc => GRPC_CALL,
            Protocol::Http => method.as_str(),
        });
        match operation {
            Some(operation) => Self {
                action,
                resource_type: OPERATION,
                resource_id: &operation.id,
            },
            None => Self {
                action,
                resource_type: SERVICE,
                resource_id: service.id.as_str(),
            },
        }
    }
}

impl Asked<'_> {
    pub(crate) fn entities(&self) -> Triple {
        (self.principal, self.action, self.resource)
    }
}
