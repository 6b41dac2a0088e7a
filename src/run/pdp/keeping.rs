//! Each revision that comes into force is given to the audit service, which keeps it
//! beside the log: the decisions that name it can then be made again for as long as they
//! are there.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use palisade_audit::{
    ingest::{Keep, PART_LEN_MAX, Unkept},
    merkle::Hash,
};
use palisade_mesh::{
    snapshot::Digest,
    wire::{
        audit::{RevisionName, RevisionPart, ingest_client::IngestClient},
        policy::Revision,
    },
};
use palisade_pdp::publish::{History, State};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

use super::PdpRole;
use crate::control::api::{Fact, FactState};

/// Revisions that wait for an audit service that is away; what comes beyond them is given
/// up, and told.
const WAITING_MAX: usize = 256;
/// Revisions that are known to be given already, so that they are not looked at again.
const GIVEN_MAX: usize = 64;
/// Revisions that are told of as not kept, the newest.
const UNSHELVED_MAX: usize = 16;
/// How soon it is tried again at first, and at last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long an audit service may take for one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where revisions are kept.
#[derive(Clone)]
pub(in crate::run) enum Shelf {
    /// By the audit service of this process.
    Here(Arc<dyn Keep>),
    /// By another one, over a link that proves who it is.
    Far(Channel),
}

/// Why revisions are not kept, where they are not, by their number. What was given up stays.
#[derive(Clone, Default)]
pub(super) struct Unshelved(Arc<Mutex<BTreeMap<u64, String>>>);

impl PdpRole {
    /// Gives every revision that is or comes into force to `shelf`, until `stop`.
    pub(in crate::run) fn keep_on(&self, shelf: Shelf, stop: &CancellationToken) {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let (history, state) = (self.history.clone(), self.state.clone());
        let given = follow(history, state, sender, self.unshelved.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(given));
        let giving = give(shelf, waiting, self.unshelved.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(giving));
    }
}

/// Hands on what is in force, what is on its way, and what was lately.
async fn follow(
    history: History,
    mut state: watch::Receiver<State>,
    sender: mpsc::Sender<Revision>,
    unshelved: Unshelved,
) {
    let mut given: VecDeque<Vec<u8>> = VecDeque::new();
    let mut hand = |revision: &Revision| {
        if given.contains(&revision.sha256) {
            return;
        }
        if sender.try_send(revision.clone()).is_err() {
            let sequence = revision.sequence;
            unshelved.tell(sequence, "it is given up: too many wait".to_owned());
            return;
        }
        if given.len() >= GIVEN_MAX {
            given.pop_front();
        }
        given.push_back(revision.sha256.clone());
    };
    let past = tokio::task::spawn_blocking(move || history.revisions()).await;
    past.unwrap_or_default().iter().rev().for_each(&mut hand);
    loop {
        let now = state.borrow_and_update().clone();
        // Some proxies may decide by what is underway, and others try it.
        let underway = now.rollout.iter().map(|u| &u.candidate);
        for published in now.current.iter().chain(underway) {
            hand(&published.revision);
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

async fn give(shelf: Shelf, mut waiting: mpsc::Receiver<Revision>, unshelved: Unshelved) {
    while let Some(revision) = waiting.recv().await {
        let Some(digest) = Digest::from_slice(&revision.sha256) else {
            continue;
        };
        let mut pause = AGAIN.0;
        loop {
            match shelf.keep(&digest.0, &revision).await {
                Ok(()) => {
                    unshelved.kept(revision.sequence);
                    break;
                }
                Err(Untaken { why, is_final }) => {
                    unshelved.tell(revision.sequence, why);
                    if is_final {
                        break;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }
}

/// Why a revision was not taken.
struct Untaken {
    why: String,
    /// Whether it would not be taken another time, either.
    is_final: bool,
}

impl From<Unkept> for Untaken {
    fn from(why: Unkept) -> Self {
        Self {
            is_final: matches!(why, Unkept::Other(_)),
            why: why.to_string(),
        }
    }
}

impl From<Status> for Untaken {
    fn from(status: Status) -> Self {
        Self {
            why: status.message().to_owned(),
            is_final: status.code() == Code::InvalidArgument,
        }
    }
}

impl Shelf {
    /// Has a revision kept; nothing is sent that is there.
    async fn keep(&self, digest: &Hash, revision: &Revision) -> Result<(), Untaken> {
        match self {
            Self::Here(keep) => {
                let (keep, digest, bundle) = (keep.clone(), *digest, revision.bundle.clone());
                let kept = tokio::task::spawn_blocking(move || match keep.has(&digest)? {
                    true => Ok(()),
                    false => keep.keep(&digest, bundle),
                });
                let kept = kept
                    .await
                    .unwrap_or_else(|e| Err(Unkept::Io(std::io::Error::other(e))));
                Ok(kept?)
            }
            Self::Far(channel) => {
                let kept = send(channel.clone(), digest, revision);
                let kept = tokio::time::timeout(ANSWER_TIMEOUT, kept).await;
                let silent = |_| Status::deadline_exceeded("the audit service does not answer");
                Ok(kept.map_err(silent)??)
            }
        }
    }
}

async fn send(channel: Channel, digest: &Hash, revision: &Revision) -> Result<(), Status> {
    let mut client = IngestClient::new(channel);
    let name = RevisionName {
        digest: digest.to_vec(),
    };
    if client.has_revision(name).await?.into_inner().kept {
        return Ok(());
    }
    let bundle = revision.bundle.clone();
    let starts = (0..bundle.len()).step_by(PART_LEN_MAX);
    let digest = digest.to_vec();
    let parts = starts.map(move |start| RevisionPart {
        digest: digest.clone(),
        bundle: bundle
            .slice(start..bundle.len().min(start + PART_LEN_MAX))
            .to_vec(),
    });
    client.keep_revision(tokio_stream::iter(parts)).await?;
    Ok(())
}

impl Unshelved {
    fn tell(&self, sequence: u64, why: String) {
        tracing::warn!(sequence, %why, "a policy revision is not kept beside the log");
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(sequence, why);
        if told.len() > UNSHELVED_MAX {
            told.pop_first();
        }
    }

    fn kept(&self, sequence: u64) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.remove(&sequence);
    }

    /// What `check` says, where there is something to say.
    pub(super) fn fact(&self) -> Option<Fact> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let why = told.iter().map(|(n, why)| format!("revision {n}: {why}"));
        let why = why.reduce(|all, one| format!("{all}; {one}"))?;
        let what = "a policy revision is not kept beside the log";
        Some(
            Fact::not_ok("policy", FactState::Warning, 7212, what)
                .cause(why)
                .fix("see that the audit service runs and that its disk has room: decisions under it could not be made again later"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That one is kept does not make another one kept.
    #[test]
    fn what_is_not_kept_is_told_until_it_is() {
        let unshelved = Unshelved::default();
        assert!(unshelved.fact().is_none());
        unshelved.tell(7, "it is given up".to_owned());
        unshelved.tell(8, "the disk is full".to_owned());
        unshelved.kept(8);
        unshelved.kept(9);
        let told = format!("{:?}", unshelved.fact().unwrap());
        assert!(told.contains("revision 7: it is given up"), "{told}");
        assert!(!told.contains("revision 8"), "{told}");
        unshelved.kept(7);
        assert!(unshelved.fact().is_none());
    }
}
