//! A question in the words of Cedar: which action on which resource, by whom.

use palisade_mesh::{catalogue::Protocol, decision::Question};

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
        let business = question.operation.and_then(|o| o.action.as_deref());
        let action = business.unwrap_or(match question.service.protocol {
            Protocol::Grpc => GRPC_CALL,
            Protocol::Http => question.request.method.as_str(),
        });
        match question.operation {
            Some(operation) => Self {
                action,
                resource_type: OPERATION,
                resource_id: &operation.id,
            },
            None => Self {
                action,
                resource_type: SERVICE,
                resource_id: question.service.id.as_str(),
            },
        }
    }
}

impl Asked<'_> {
    pub(crate) fn entities(&self) -> Triple {
        (self.principal, self.action, self.resource)
    }
}
