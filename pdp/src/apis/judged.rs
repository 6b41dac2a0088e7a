//! What comes of a question: the engine's decision as a proxy would act on it, or why
//! it never got that far.

use std::{net::SocketAddr, sync::Arc};

use palisade_mesh::{
    catalogue::{Catalogue, Service, Unmatched},
    decision::{Answer, Verdict},
    kill::{KillList, Subject},
    personal::Mask,
    spiffe_id::SpiffeId,
    wire::record::{AuditMode, Verdict as WireVerdict},
};
use smol_str::SmolStr;

use super::{
    force::Force,
    inquiry::{Inquiry, Misread},
};

/// What was found about a question, complete enough to be recorded and answered.
pub(super) struct Judged {
    pub(super) verdict: WireVerdict,
    pub(super) reason: &'static str,
    /// Status a proxy would answer with; 0: it would forward.
    pub(super) status: u16,
    pub(super) message: Option<SmolStr>,
    pub(super) answer: Option<Answer>,
    pub(super) missing: Vec<String>,
    pub(super) mode: AuditMode,
    /// What the record leaves out, by the revision that decided.
    pub(super) mask: Mask,
    pub(super) subject: Option<SpiffeId>,
    pub(super) service: Option<Arc<Service>>,
    pub(super) source: Option<SocketAddr>,
    pub(super) method: SmolStr,
    pub(super) host: SmolStr,
    /// Canonical; as it came where it has no canonical form, the template where no path
    /// was said.
    pub(super) path: SmolStr,
    /// Whether `path` differs from what the caller sent.
    pub(super) rewritten: bool,
    pub(super) query: Option<SmolStr>,
    pub(super) route: SmolStr,
    /// Whether an allowed request would be known to the catalogue, or forwarded all the same.
    pub(super) is_known: bool,
}

/// Decides under one revision and one kill list.
pub(super) fn judge(inquiry: Inquiry, force: &Force, list: &KillList, now_us: i64) -> Judged {
    let peer = &inquiry.question.connection.peer;
    if let Some(entry) = list.bars(&subject_of(&peer.id, &peer.serial), now_us) {
        let reason = entry.target.reason();
        let message = Some(SmolStr::new_static("the principal is barred"));
        return Judged::of(inquiry, WireVerdict::Refused, reason, 403, message);
    }
    let told = force.with_engine(|engine| {
        engine.decide_knowing(&inquiry.question.as_question(), inquiry.known)
    });
    let question = &inquiry.question;
    let operation = question.operation.as_ref();
    let decision = &told.answer.decision;
    let unmatched = operation.is_none() && question.service.unmatched == Unmatched::NotFound;
    let (verdict, reason, status, message) = match decision.verdict {
        Verdict::Allow if unmatched => (
            WireVerdict::Refused,
            "operation_unknown",
            404,
            Some(SmolStr::new_static(
                "the service declares no such operation",
            )),
        ),
        Verdict::Allow => (WireVerdict::Allow, decision.verdict.reason(), 0, None),
        Verdict::Undecided(_) => (
            WireVerdict::Undecided,
            decision.verdict.reason(),
            503,
            unsaid(&told.missing),
        ),
        Verdict::Forbidden | Verdict::NotPermitted => (
            decision.verdict.wire(),
            decision.verdict.reason(),
            403,
            decision.deny_message.clone(),
        ),
    };
    Judged {
        answer: Some(told.answer),
        missing: told.missing,
        ..Judged::of(inquiry, verdict, reason, status, message)
    }
}

impl Judged {
    fn of(
        inquiry: Inquiry,
        verdict: WireVerdict,
        reason: &'static str,
        status: u16,
        message: Option<SmolStr>,
    ) -> Self {
        let question = inquiry.question;
        let route = question.operation.as_ref().map(|o| o.template.as_str());
        let route = SmolStr::from(route.unwrap_or_default());
        let source = question.connection.source;
        let said = inquiry.known.has_source();
        let forwards = question.service.unmatched == Unmatched::Forward;
        let is_known = question.operation.is_some() || forwards;
        Self {
            verdict,
            reason,
            status,
            message,
            answer: None,
            missing: Vec::new(),
            mode: question.service.audit_of(question.operation.as_ref()),
            mask: (question.service.mask_of(question.operation.as_ref())).clone(),
            route: route.clone(),
            subject: Some(question.connection.peer.id),
            service: Some(question.service),
            source: said.then_some(source),
            method: SmolStr::new_static(question.request.method.as_str()),
            host: question.request.host,
            path: match inquiry.known.has_path() {
                true => question.request.path,
                false => route,
            },
            rewritten: question.request.rewritten,
            query: question.request.query,
            is_known,
        }
    }

    /// Of a question that was not understood under a revision with this catalogue.
    pub(super) fn misread(misread: Misread, catalogue: Option<&Catalogue>) -> Self {
        let about = misread.service.as_deref().or(misread.meant.as_deref());
        // Without a revision nothing of the question was read.
        let mask = catalogue.map_or(Mask::NONE, |c| c.mask_of(about).clone());
        let undecided = misread.status == 503;
        Self {
            verdict: match undecided {
                true => WireVerdict::Undecided,
                false => WireVerdict::Refused,
            },
            reason: misread.reason,
            status: misread.status,
            message: Some(misread.message.into()),
            answer: None,
            missing: Vec::new(),
            mode: misread
                .service
                .as_ref()
                .map_or(AuditMode::Spool, |s| s.audit_of(None)),
            mask,
            subject: misread.subject,
            service: misread.service,
            source: None,
            method: misread.method.into(),
            host: SmolStr::default(),
            path: misread.path.into(),
            rewritten: false,
            query: None,
            route: SmolStr::default(),
            is_known: false,
        }
    }
}

/// Whom the kill list is asked about.
pub(super) fn subject_of<'a>(id: &'a SpiffeId, serial: &'a [u8]) -> Subject<'a> {
    Subject {
        id,
        serial,
        authorities: &[],
    }
}

/// What an undecided answer lacked.
fn unsaid(missing: &[String]) -> Option<SmolStr> {
    let named = missing.join(", ");
    (!missing.is_empty()).then(|| format!("policies read what was not said: {named}").into())
}
