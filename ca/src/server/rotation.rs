//! Rotation as operators see it: what they may ask for, and how it stands.

use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::{
        ca::Acknowledgement,
        record::{Admin, record::Body},
    },
};

use super::{
    Ca, CaError,
    acks::{AckError, AgentStanding, Missing},
};
use crate::authority::{Authority, KeyId, Kind, State};

/// Most of those who are missing that a message names.
const NAMED_MAX: usize = 5;

/// One step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Make the next authority and publish it.
    Prepare,
    /// Let the prepared authority sign.
    Activate,
    /// End the retiring authority.
    Retire,
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Which authority.
    pub kind: Kind,
    /// One step by hand; without it the whole rotation goes on by itself.
    pub stage: Option<Stage>,
    /// The key is in strange hands: taint and revoke.
    pub compromised: bool,
    /// Do not wait for acknowledgements.
    pub now: bool,
}

/// Why a rotation was not begun or went no further.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The authority failed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A step of the overlap was asked for where there is to be none.
    #[error("a compromised authority is not rotated step by step")]
    Contradiction,
    /// Somebody has not acknowledged.
    #[error("{} of the mesh did not acknowledge yet", .0.len())]
    Missing(Vec<Missing>),
    /// No authority is in the state that the step needs.
    #[error("no such authority is {0}")]
    Nothing(&'static str),
    /// The authority is still at work under a retiring root.
    #[error("an intermediate under this root still signs")]
    StillSigning,
    /// A tainted authority is being replaced.
    #[error("a tainted authority is being replaced")]
    Underway,
}

impl RotateError {
    /// The error as a person should read it.
    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            Self::Ca(error) => error.diagnostic(),
            Self::Contradiction => Diagnostic::error(4036, self.to_string())
                .help("leave --stage or --compromised out"),
            Self::Missing(missing) => Diagnostic::error(4038, self.to_string())
                .cause(name(missing))
                .help("wait: palisade ca status; or go on without them: --now"),
            Self::Nothing(_) | Self::StillSigning => Diagnostic::error(4039, self.to_string())
                .help("see which authorities there are: palisade ca status"),
            Self::Underway => Diagnostic::error(4037, self.to_string())
                .help("see what it waits for: palisade ca status; revoke without waiting: palisade ca rotate root --compromised --now --yes"),
        }
    }
}

/// Names those who are missing, the first few.
pub fn name(missing: &[Missing]) -> String {
    if missing.is_empty() {
        return "the last acknowledgement is too fresh, or agents may still come back".into();
    }
    let mut names: Vec<String> = missing
        .iter()
        .take(NAMED_MAX)
        .map(|m| match &m.spiffe_id {
            Some(id) => format!("{id} at agent {}", m.agent),
            None => format!("agent {}", m.agent),
        })
        .collect();
    if missing.len() > NAMED_MAX {
        names.push(format!("{} more", missing.len() - NAMED_MAX));
    }
    names.join(", ")
}

/// How the authorities stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which life of the state this is.
    pub epoch: u64,
    /// Sequence of the trust state.
    pub sequence: u64,
    /// Authorities that are not over, roots first, and since when each is in its
    /// state, microseconds since the Unix epoch.
    pub authorities: Vec<(Authority, i64)>,
    /// What waits for acknowledgements, if anything.
    pub waiting: Option<Waiting>,
    /// Live agents and what they have acknowledged.
    pub agents: Vec<AgentStanding>,
}

/// A rotation that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The prepared root that is to sign, or the tainted one that is to go.
    pub authority: KeyId,
    /// Its state.
    pub state: State,
    /// From when on it goes on without those who are missing, seconds since the
    /// Unix epoch.
    pub deadline_s: i64,
    /// Who is missing; nobody when only the moment after the last acknowledgement is
    /// waited for.
    pub missing: Vec<Missing>,
}

impl Ca {
    /// Rotates an authority as an operator asks; `actor` is who, for the record.
    /// What needs acknowledgements goes on by itself when they are there.
    ///
    /// # Errors
    /// A named refusal; then nothing was changed.
    pub async fn rotate(&self, wanted: Rotation, actor: &str) -> Result<KeyId, RotateError> {
        let mut books = self.books.lock().await;
        let id = match (wanted.stage, wanted.compromised) {
            (Some(_), true) => return Err(RotateError::Contradiction),
            (None, true) => {
                let reason = match wanted.kind {
                    Kind::Root => "compromised, says the operator",
                    Kind::Intermediate => "an issuer under it is compromised, says the operator",
                };
                match books.taint(reason, wanted.now).await {
                    Err(RotateError::Underway) if wanted.now => books.hurry().await?,
                    tainted => tainted?,
                }
            }
            (None, false) => books.replace(wanted.kind).await?,
            (Some(Stage::Prepare), false) => books.prepare(wanted.kind).await?,
            (Some(Stage::Activate), false) => books.activate(wanted.kind, wanted.now).await?,
            (Some(Stage::Retire), false) => books.retire(wanted.kind, wanted.now).await?,
        };
        self.note_order(&wanted, id, actor);
        books.settle().await?;
        self.publish(&books)?;
        Ok(id)
    }

    /// How authorities, agents and rotations stand.
    pub async fn standing(&self) -> Standing {
        let books = self.books.lock().await;
        let trust = books.trust();
        let waiting = books.awaited().map(|(awaited, missing)| Waiting {
            authority: awaited.authority,
            state: awaited.state,
            deadline_s: awaited.deadline_s,
            missing,
        });
        Standing {
            epoch: trust.epoch,
            sequence: trust.sequence,
            authorities: books.dated(),
            waiting,
            agents: self.acks.list(self.clock.now_us()),
        }
    }

    /// Takes an agent's word on what it and its workloads hold.
    ///
    /// # Errors
    /// When it is larger than anything an agent of ours sends.
    pub fn acknowledge(&self, ack: Acknowledgement) -> Result<(), AckError> {
        self.acks.take(ack, self.clock.now_us())
    }

    fn note_order(&self, wanted: &Rotation, id: KeyId, actor: &str) {
        let how = match (wanted.stage, wanted.compromised) {
            (Some(Stage::Prepare), _) => "prepare",
            (Some(Stage::Activate), _) => "activate",
            (Some(Stage::Retire), _) => "retire",
            (None, true) => "compromised",
            (None, false) => "forced",
        };
        let when = if wanted.now { ", now" } else { "" };
        let record = Admin {
            actor: actor.into(),
            verb: "ca_rotate".into(),
            object: id.to_string(),
            detail: format!("{}: {how}{when}", wanted.kind),
        };
        if let Err(error) = self.recorder.note(Body::Admin(record)) {
            tracing::error!(%error, "order to rotate left no record");
        }
    }
}
