//! What is brought to people: messages of JSON to a webhook or a program, one after the
//! other for each target, again and again until they are taken or a day old.
//!
//! What waits is on disk. A message has an id that does not change, so that whoever gets it
//! twice, as after a crash between taking and noting it, can tell.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use palisade_audit::alert::UNDELIVERED;
use palisade_mesh::clock::Clock;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    reads::Reads,
    state::{Lost, keep, read},
};
use crate::{
    config::alerts::DeliverSection,
    control::api::{Fact, FactState},
    render,
};

mod target;

use target::{Target, Way};

/// Messages that wait, of all targets; beyond, the oldest is given up.
const WAITING_MAX: usize = 1000;
/// Ids of messages that were taken lately.
const TAKEN_MAX: usize = 1000;
/// How long a message is tried.
const AGE_MAX_US: i64 = 24 * 3600 * 1_000_000;
/// First and longest time between two tries.
const PAUSE_US: (i64, i64) = (1_000_000, 300 * 1_000_000);
/// Time between two looks at what waits.
const EVERY: Duration = Duration::from_millis(250);
/// How long a target may lag before that is worth a warning.
const LATE_US: i64 = 60 * 1_000_000;

/// A message for one target.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Parcel {
    id: String,
    to: String,
    body: Value,
    since_us: i64,
    next_us: i64,
    tries: u32,
    #[serde(default)]
    fault: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    waiting: VecDeque<Parcel>,
    /// `ID TARGET` of what was taken.
    taken: VecDeque<String>,
}

/// What waits, and who it goes to. Clones are one.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Inner>);

struct Inner {
    targets: BTreeMap<String, Target>,
    file: PathBuf,
    clock: Clock,
    state: Mutex<State>,
}

impl Outbox {
    /// Reads what waits in `file`, for these targets; what nobody is there for any more is
    /// `lost`.
    pub(super) fn open(
        sections: &[DeliverSection],
        file: PathBuf,
        clock: &Clock,
        lost: &mut Vec<Lost>,
    ) -> Self {
        let each = sections.iter();
        let targets: BTreeMap<String, Target> =
            each.map(|s| (s.name.clone(), Target::new(s))).collect();
        let mut state: State = read(&file, lost).unwrap_or_default();
        let all = std::mem::take(&mut state.waiting).into_iter();
        let (waiting, gone): (VecDeque<_>, VecDeque<_>) =
            all.partition(|parcel| targets.contains_key(&parcel.to));
        state.waiting = waiting;
        lost.extend(gone.iter().map(|parcel| Lost {
            verb: UNDELIVERED,
            object: format!("{} {}", parcel.to, parcel.id),
            detail: "the target is not there any more".to_owned(),
        }));
        Self(Arc::new(Inner {
            targets,
            file,
            clock: clock.clone(),
            state: Mutex::new(state),
        }))
    }

    /// Puts what waits on disk as it is, once what is lost of it is recorded.
    pub(super) fn keep(&self) {
        if let Err(error) = keep(&self.0.file, &*self.0.state()) {
            tracing::error!(%error, "what waits for delivery cannot be kept");
        }
    }

    /// Whether there is nobody to bring anything to.
    pub(super) fn is_idle(&self) -> bool {
        self.0.targets.is_empty()
    }

    /// Names of all targets.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.targets.keys().cloned().collect()
    }

    /// Puts a message up for delivery, once for each target and id; on disk when this
    /// returns. What finds no room, and what has to give way, is given back: target and id.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn put(
        &self,
        id: &str,
        to: &[String],
        body: &Value,
    ) -> io::Result<Vec<(String, String)>> {
        let now_us = self.0.clock.now_us();
        let mut state = self.0.state();
        let mut lost = Vec::new();
        for name in to.iter().filter(|name| self.0.targets.contains_key(*name)) {
            let mark = format!("{id} {name}");
            let waits = state.waiting.iter().any(|p| p.id == id && p.to == *name);
            if waits || state.taken.contains(&mark) {
                continue;
            }
            if state.waiting.len() >= WAITING_MAX {
                lost.extend(state.waiting.pop_front().map(|p| (p.to, p.id)));
            }
            state.waiting.push_back(Parcel {
                id: id.to_owned(),
                to: name.clone(),
                body: body.clone(),
                since_us: now_us,
                next_us: now_us,
                tries: 0,
                fault: None,
            });
        }
        keep(&self.0.file, &*state)?;
        Ok(lost)
    }

    /// The same, and records what is given back, by `reads` as done by its actor.
    ///
    /// # Errors
    /// As [`Outbox::put`].
    pub(super) async fn tell(
        &self,
        id: &str,
        to: &[String],
        body: &Value,
        (reads, actor): (&Reads, &str),
    ) -> io::Result<()> {
        for (target, id) in self.put(id, to, body)? {
            let object = format!("{target} {id}");
            record(reads, actor, &object, "more waited than is kept").await;
        }
        Ok(())
    }

    /// Brings a message to one target, once.
    ///
    /// # Errors
    /// In words, why it was not taken.
    pub(super) async fn bring(&self, id: &str, to: &str, body: &Value) -> Result<(), String> {
        match self.0.targets.get(to) {
            Some(target) => target.take(id, body, self.0.clock.now_us()).await,
            None => Err("there is no such target".to_owned()),
        }
    }

    /// Delivers, for ever; what is given up is recorded. Each target goes its own way: one
    /// that hangs holds up no other.
    pub(super) async fn run(self, reads: Reads, actor: String) {
        let each = self
            .0
            .targets
            .keys()
            .map(|name| self.serve(name, &reads, &actor));
        futures_util::future::join_all(each).await;
    }

    async fn serve(&self, name: &str, reads: &Reads, actor: &str) {
        loop {
            if let Some(parcel) = self.due(name) {
                let answer = self.bring(&parcel.id, &parcel.to, &parcel.body).await;
                if let Some(fault) = self.settle(&parcel, answer) {
                    tracing::error!(target = parcel.to, %fault, "message is given up");
                    let object = format!("{} {}", parcel.to, parcel.id);
                    record(reads, actor, &object, &fault).await;
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// The oldest message of a target, if it is to be tried now.
    fn due(&self, name: &str) -> Option<Parcel> {
        let now_us = self.0.clock.now_us();
        let state = self.0.state();
        let first = state.waiting.iter().find(|p| p.to == name)?;
        let wait_us = first.next_us.saturating_sub(now_us);
        // No pause is longer: a clock that was ahead had set the time.
        (wait_us <= 0 || wait_us > PAUSE_US.1).then(|| first.clone())
    }

    /// Notes what became of a try; why it is given up, if it is.
    fn settle(&self, parcel: &Parcel, answer: Result<(), String>) -> Option<String> {
        let now_us = self.0.clock.now_us();
        let mut state = self.0.state();
        let is_it = |p: &Parcel| p.id == parcel.id && p.to == parcel.to;
        let at = state.waiting.iter().position(is_it)?;
        let given_up = match answer {
            Ok(()) => {
                state.waiting.remove(at);
                state
                    .taken
                    .push_back(format!("{} {}", parcel.id, parcel.to));
                if state.taken.len() > TAKEN_MAX {
                    state.taken.pop_front();
                }
                None
            }
            Err(fault) if now_us.saturating_sub(parcel.since_us) > AGE_MAX_US => {
                state.waiting.remove(at);
                Some(fault)
            }
            Err(fault) => {
                let (first, most) = PAUSE_US;
                let pause = first.saturating_mul(1 << parcel.tries.min(20)).min(most);
                if let Some(waiting) = state.waiting.get_mut(at) {
                    waiting.tries = waiting.tries.saturating_add(1);
                    waiting.since_us = waiting.since_us.min(now_us);
                    waiting.next_us = now_us.saturating_add(pause);
                    waiting.fault = Some(fault);
                }
                None
            }
        };
        if let Err(error) = keep(&self.0.file, &*state) {
            tracing::error!(%error, "what waits for delivery cannot be kept");
        }
        given_up
    }

    /// What waits for each target, and why.
    pub(super) fn waiting(&self) -> BTreeMap<String, (usize, Option<String>)> {
        let state = self.0.state();
        let mut waiting: BTreeMap<String, (usize, Option<String>)> = BTreeMap::new();
        for parcel in &state.waiting {
            let (n, fault) = waiting.entry(parcel.to.clone()).or_default();
            *n += 1;
            if fault.is_none() {
                fault.clone_from(&parcel.fault);
            }
        }
        waiting
    }

    /// What is to be told of targets that do not take what is brought to them.
    pub(super) fn check(&self) -> Vec<Fact> {
        let now_us = self.0.clock.now_us();
        let state = self.0.state();
        let late = |name: &&String| {
            let of = |p: &&Parcel| p.to == **name;
            let first = state.waiting.iter().find(of);
            first.is_some_and(|p| p.fault.is_some() && now_us - p.since_us > LATE_US)
        };
        let unusable = self.0.targets.iter().filter_map(|(name, target)| {
            let Way::Unusable(why) = &target.way else {
                return None;
            };
            let text = format!("nothing can be delivered to `{name}`");
            let cause = why.cause.clone().unwrap_or_default();
            Some(
                Fact::not_ok("audit", FactState::Warning, 7936, text)
                    .cause(format!("{}: {cause}", why.message))
                    .fix("mend the file, and start the audit service again; what waits is kept"),
            )
        });
        let late: Vec<&String> = self.0.targets.keys().filter(late).collect();
        let fact = |name: &&String| {
            let of = |p: &&Parcel| p.to == **name;
            let n = state.waiting.iter().filter(of).count();
            let fault = state.waiting.iter().find(of).and_then(|p| p.fault.clone());
            let n = render::count(n, "message waits", "messages wait");
            Fact::not_ok("audit", FactState::Warning, 7933, format!("{n} for `{name}`"))
                .cause(fault.unwrap_or_default())
                .fix("see that the target is there and takes what it gets: palisade audit alerts test RULE --deliver")
        };
        unusable.chain(late.iter().map(fact)).collect()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records that a message was given up.
async fn record(reads: &Reads, actor: &str, object: &str, why: &str) {
    if let Err(error) = reads.acted(actor, UNDELIVERED, object, why).await {
        tracing::error!(%error, "what was not delivered left no record");
    }
}

#[cfg(test)]
mod tests;
