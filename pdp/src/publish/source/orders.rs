//! What people want of a rollout, and the door to the task that owns it.

use bytes::Bytes;
use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest};
use tokio::sync::{mpsc, oneshot};

use super::obeying::nothing;
use crate::publish::{
    codes,
    rollout::{Name, Plan},
};

/// What somebody wants of a rollout.
#[derive(Debug)]
pub enum Order {
    /// Say what one would change, and whether it could begin.
    Preview(Plan, Content),
    /// Begin one.
    Start(Plan, Content),
    /// Go on to the next phase.
    Promote,
    /// Stop the clock.
    Pause,
    /// Let it go on.
    Resume,
    /// Stop it and go back.
    Abort,
    /// Put a kept revision in force again: the one with this number or digest, or the
    /// one before the present.
    Rollback(Option<String>),
}

/// What is to be rolled out.
#[derive(Debug)]
pub enum Content {
    /// An encoded bundle.
    Bundle(Bytes),
    /// A kept revision, by number or by the beginning of its digest.
    Kept(String),
    /// What the source has.
    Source,
}

/// In what content differs from what is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Its digest.
    pub digest: Digest,
    /// What is in force.
    pub baseline: Name,
    /// Ids of policies that are new.
    pub added: Vec<String>,
    /// Ids of policies that are gone.
    pub removed: Vec<String>,
    /// Ids of policies whose text differs.
    pub changed: Vec<String>,
    /// The plan as it would be carried out; none for everybody at once.
    pub plan: Option<Plan>,
    /// Until when it could be taken back, where others have numbered it.
    pub back_until_us: Option<i64>,
    /// Why its way back does not serve, if it has one and it does not.
    pub note: Option<Diagnostic>,
}

/// Gives orders to a source; clones are one.
#[derive(Debug, Clone)]
pub struct Orders(pub(super) mpsc::Sender<Given>);

#[derive(Debug)]
pub(super) struct Given {
    pub(super) actor: String,
    pub(super) order: Order,
    pub(super) reply: oneshot::Sender<Result<Option<Difference>, Diagnostic>>,
}

impl Orders {
    /// Has `order` carried out in the name of `actor`.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn give(&self, actor: &str, order: Order) -> Result<(), Diagnostic> {
        self.ask(actor, order).await.map(|_| ())
    }

    /// Says what rolling out `content` would change.
    ///
    /// # Errors
    /// Why it could not be rolled out by this plan.
    pub async fn preview(&self, plan: Plan, content: Content) -> Result<Difference, Diagnostic> {
        let asked = self.ask("", Order::Preview(plan, content)).await?;
        asked.ok_or_else(|| nothing("bug: a preview without an answer"))
    }

    async fn ask(&self, actor: &str, order: Order) -> Result<Option<Difference>, Diagnostic> {
        let (reply, answer) = oneshot::channel();
        let given = Given {
            actor: actor.to_owned(),
            order,
            reply,
        };
        let gone = || {
            Diagnostic::error(codes::ROLLOUT_ORDER, "the policy source has ended")
                .help("restart the PDP")
        };
        self.0.send(given).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
