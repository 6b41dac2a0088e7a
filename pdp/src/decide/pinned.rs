//! What an engine keeps of its answers on one connection.
//!
//! Principal, address and TLS facts are the same for every request of a connection. Where
//! the policies of a slice read nothing else, its answer is found once for the connection.
//! It is found again for another engine (each revision and each trial has its own), when an
//! expiry or a clock that is read passes, and when it is its turn to be checked.

use std::{ops::Range, sync::Arc};

use palisade_mesh::{canonical::Method, catalogue::ServiceId, decision::Question};
use smol_str::SmolStr;

use super::{
    core::FixedRecords,
    fact::is_grpc_path,
    field::Form,
    slice::{Cached, Slice},
};

/// Most answers that are kept of one connection; beyond it the oldest is replaced.
pub const PINS_MAX: usize = 16;

/// The answers and records of one connection.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    /// The engine that gave the answers; held, so that no other one can be taken for it.
    owner: Option<Arc<()>>,
    answers: Vec<Answer>,
    /// Which answer is the oldest.
    oldest: usize,
    /// Of the context; they do not depend on a revision.
    pub(crate) records: FixedRecords,
}

/// What was answered, about what, and for how long that holds.
#[derive(Debug)]
struct Answer {
    service: ServiceId,
    operation: Option<SmolStr>,
    method: Method,
    form: Form,
    span: Range<i64>,
    cached: Cached,
}

impl Pinned {
    /// Forgets the answers of another engine.
    pub(crate) fn belong_to(&mut self, engine: &Arc<()>) {
        if self
            .owner
            .as_ref()
            .is_none_or(|owner| !Arc::ptr_eq(owner, engine))
        {
            self.owner = Some(Arc::clone(engine));
            self.answers.clear();
            self.oldest = 0;
        }
    }

    /// The answer to a question of this connection, if it is kept and holds now.
    pub(crate) fn find(&self, question: &Question<'_>) -> Option<&Cached> {
        let answer = self
            .answers
            .iter()
            .find(|answer| answer.is_about(question))?;
        let is_call = answer.form == Form::Http || is_grpc_path(&question.request.path);
        (is_call && answer.span.contains(&question.now_us)).then_some(&answer.cached)
    }

    /// Keeps an answer, if it holds for more than this request.
    pub(crate) fn keep(
        &mut self,
        question: &Question<'_>,
        slice: &Slice,
        form: Form,
        cached: &Cached,
    ) {
        let Some(span) = slice.span_on_connection(question.now_us) else {
            return;
        };
        let answer = Answer {
            service: question.service.id.clone(),
            operation: question.operation.map(|o| o.id.clone()),
            method: question.request.method,
            form,
            span,
            cached: cached.clone(),
        };
        if let Some(known) = self.answers.iter_mut().find(|a| a.is_about(question)) {
            *known = answer;
        } else if self.answers.len() < PINS_MAX {
            self.answers.push(answer);
        } else if let Some(oldest) = self.answers.get_mut(self.oldest) {
            *oldest = answer;
            self.oldest = (self.oldest + 1) % PINS_MAX;
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.answers.len()
    }
}

impl Answer {
    fn is_about(&self, question: &Question<'_>) -> bool {
        let operation = question.operation.map(|o| o.id.as_str());
        self.method == question.request.method
            && self.operation.as_deref() == operation
            && self.service == question.service.id
    }
}
