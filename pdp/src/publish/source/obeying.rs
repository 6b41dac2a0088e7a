//! Carrying out what people want of a rollout.

use std::sync::Arc;

use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    snapshot::Digest,
    wire::policy::Revision,
};
use tokio::task::spawn_blocking;

use super::{
    Published, Source,
    orders::{Content, Difference, Given, Order},
    rolling::name,
};
use crate::{
    author::{self, Loaded},
    compiled::Compiled,
    publish::{
        bundled::Vouched,
        changes, codes,
        keep::CANDIDATE,
        proving::{Tried, proved},
        rollout::{OrderError, Plan, Rollout, Seen, Stop, Target},
    },
};

/// Fewest digits that name a digest.
const DIGEST_LEN_MIN: usize = 8;

/// What somebody wants in force.
struct Wanted {
    compiled: Compiled,
    vouched: Vouched,
    diagnostics: Vec<Diagnostic>,
}

impl Source {
    /// Carries out an order and answers it.
    pub(super) async fn obey(&mut self, given: Given) {
        let Given {
            actor,
            order,
            reply,
        } = given;
        let done = self.carry_out(&actor, order).await;
        // Whoever asked may have gone.
        let _ = reply.send(done);
    }

    async fn carry_out(
        &mut self,
        actor: &str,
        order: Order,
    ) -> Result<Option<Difference>, Diagnostic> {
        let done = match order {
            Order::Preview(plan, content) => {
                return self.preview(plan, content).await.map(Some);
            }
            Order::Start(plan, content) => self.start(actor, plan, content).await,
            Order::Rollback(to) if to.is_some() || self.rolling.running().is_none() => {
                self.roll_back(actor, to.as_deref()).await
            }
            Order::Promote => self.change(|r, seen| r.promote(actor, seen)),
            Order::Pause => self.change(|r, seen| r.pause(actor, seen.now_us)),
            Order::Resume => self.change(|r, seen| r.resume(actor, seen.now_us)),
            Order::Abort | Order::Rollback(_) => {
                self.change(|r, seen| r.abort(Stop::Aborted, "aborted", Some(actor), seen))
            }
        };
        done.map(|()| None)
    }

    fn change(
        &mut self,
        change: impl FnOnce(&mut Rollout, &Seen<'_>) -> Result<(), OrderError>,
    ) -> Result<(), Diagnostic> {
        if self.rolling.running().is_none() {
            return Err(none_running());
        }
        match self.with_underway(change) {
            Some(Ok(())) => {
                self.look();
                Ok(())
            }
            Some(Err(error)) => Err(Diagnostic::error(codes::ROLLOUT_ORDER, error.to_string())
                .help("see where it stands: palisade rollout status")),
            None => Err(none_running()),
        }
    }

    async fn start(&mut self, actor: &str, plan: Plan, content: Content) -> Result<(), Diagnostic> {
        if let Some(underway) = self.rolling.running() {
            return Err(
                Diagnostic::error(codes::ROLLOUT_BUSY, "a rollout is in progress")
                    .cause(format!(
                        "{} is in the phase {}",
                        underway.rollout.candidate,
                        underway.rollout.word()
                    ))
                    .help("wait for its end, or stop it: palisade rollout abort"),
            );
        }
        let (current, wanted) = self.candidate(&plan, content).await?;
        let Wanted {
            compiled,
            vouched,
            mut diagnostics,
        } = wanted;
        let course = self.course(plan, &compiled, &vouched, &current);
        diagnostics.extend(course.note);
        let plan = course.plan.ok_or_else(|| {
            nothing("it has its own number and no way back, and can only be tried: give the plan a `shadow`")
        })?;
        let plan = (plan, course.back_until_us);
        self.begin(plan, compiled, vouched, diagnostics, actor, &current)
    }

    async fn preview(&self, plan: Plan, content: Content) -> Result<Difference, Diagnostic> {
        let (current, wanted) = self.candidate(&plan, content).await?;
        let compiled = &wanted.compiled;
        let course = self.course(plan, compiled, &wanted.vouched, &current);
        let [added, removed, changed] = changes::of(&current.compiled.info, &compiled.info);
        Ok(Difference {
            digest: compiled.digest,
            baseline: name(&current),
            added,
            removed,
            changed,
            plan: course.plan,
            back_until_us: course.back_until_us,
            note: course.note,
        })
    }

    /// What is in force, and content that could take its place by `plan`.
    async fn candidate(
        &self,
        plan: &Plan,
        content: Content,
    ) -> Result<(Arc<Published>, Wanted), Diagnostic> {
        let current = self
            .current()
            .ok_or_else(|| nothing("nothing is in force"))?;
        let wanted = self.content(content).await?;
        if wanted.compiled.digest == current.digest() {
            return Err(nothing("this is the content that is in force already"));
        }
        check_services(plan, &[&current.compiled, &wanted.compiled])?;
        Ok((current, wanted))
    }

    async fn content(&self, content: Content) -> Result<Wanted, Diagnostic> {
        let mut vouched = match &content {
            Content::Source => self.parts.vouched(&self.parts.with_newest()),
            Content::Bundle(_) | Content::Kept(_) => Vouched::default(),
        };
        let texts = match &content {
            Content::Source => self.newest().await,
            Content::Bundle(_) | Content::Kept(_) => None,
        };
        let kept = match &content {
            Content::Kept(name) => Some(self.kept(name)?),
            Content::Bundle(_) | Content::Source => None,
        };
        if let Some(kept) = &kept {
            // What was proved of it when it was in force still is.
            vouched.attestation.clone_from(&kept.attestation);
        }
        let Tried { loaded, proved } = match texts {
            Some(texts) => self.load(texts).await,
            None => {
                let prover = self.prove.clone();
                let loading = spawn_blocking(move || match (content, kept) {
                    (_, Some(revision)) => proved(author::compile(revision.bundle), None),
                    (Content::Bundle(bundle), None) => {
                        proved(author::compile(bundle), prover.as_deref())
                    }
                    (Content::Source | Content::Kept(_), None) => Tried::default(),
                });
                loading.await.unwrap_or_default()
            }
        };
        let Loaded {
            compiled,
            diagnostics,
        } = loaded;
        vouched.proved = proved;
        let first = || diagnostics.iter().find(|d| d.is_error()).cloned();
        match compiled {
            Some(compiled) => Ok(Wanted {
                compiled,
                vouched,
                diagnostics,
            }),
            None => Err(first().unwrap_or_else(|| nothing("it does not compile"))),
        }
    }

    /// The kept revision with this number, or whose digest begins so.
    fn kept(&self, name: &str) -> Result<Revision, Diagnostic> {
        let kept = self.keep.past()?;
        let is = |revision: &&Revision| {
            let digest = Digest::from_slice(&revision.sha256).unwrap_or_default();
            revision.sequence.to_string() == name
                || (name.len() >= DIGEST_LEN_MIN && digest.to_string().starts_with(name))
        };
        let candidate = self.keep.load_as(CANDIDATE)?;
        let found = kept.iter().chain(&candidate).find(is);
        found.cloned().ok_or_else(|| {
            let known: Vec<String> = kept.iter().map(|r| r.sequence.to_string()).collect();
            Diagnostic::error(
                codes::ROLLOUT_UNKNOWN,
                format!("no kept revision is called `{name}`"),
            )
            .cause(format!("kept: {}", known.join(", ")))
            .help("name one by its number, or by eight or more digits of its digest")
        })
    }

    /// Puts a kept revision in force again at once: the named one, or the one before.
    async fn roll_back(&mut self, actor: &str, to: Option<&str>) -> Result<(), Diagnostic> {
        let current = self
            .current()
            .ok_or_else(|| nothing("nothing is in force"))?;
        if current.revision.way_back.is_some() {
            match self.return_by(actor, &current, to).await {
                // Where nobody else has to have signed, a number of ours does as well.
                Err(refused) if self.trust.is_none() => {
                    tracing::info!(%refused, "the old content gets a new number");
                }
                done => return done,
            }
        }
        let name = match to {
            Some(name) => name.to_owned(),
            None => {
                let past = self.keep.past()?;
                let before = past.iter().rev().find(|r| r.sha256 != current.digest().0);
                let before = before.ok_or_else(|| nothing("no other revision is kept"))?;
                before.sequence.to_string()
            }
        };
        let Wanted {
            compiled,
            vouched,
            diagnostics,
        } = self.content(Content::Kept(name)).await?;
        if compiled.digest == current.digest() {
            return Err(nothing("this is the content that is in force already"));
        }
        self.stop(Stop::Aborted, "something else is put in force", Some(actor));
        let aside = self
            .rolling
            .offered
            .filter(|offered| *offered != compiled.digest);
        let told = format!(
            "from {} to the content {}",
            current.sequence(),
            compiled.digest.short()
        );
        self.publish(compiled, vouched, diagnostics)?;
        self.set_aside(aside);
        let object = format!("revision {}", self.sequence);
        self.recorder.admin(actor, "rollback", &object, &told);
        Ok(())
    }
}

impl Source {
    /// Takes the revision in force back to the one that its signers named, as it is numbered.
    async fn return_by(
        &mut self,
        actor: &str,
        current: &Published,
        to: Option<&str>,
    ) -> Result<(), Diagnostic> {
        let back = current.revision.way_back.as_ref();
        let named = back.map_or_else(String::new, |back| back.sequence.to_string());
        let kept = self.kept(to.unwrap_or(&named))?;
        let digest = Digest::from_slice(&kept.sha256).unwrap_or_default();
        if digest == current.digest() {
            return Err(nothing("this is the content that is in force already"));
        }
        self.may_return(current, (digest, kept.sequence))?;
        let bundle = kept.bundle.clone();
        let loaded = spawn_blocking(move || author::compile(bundle)).await;
        let Loaded {
            compiled,
            diagnostics,
        } = loaded.unwrap_or_default();
        let compiled = compiled.ok_or_else(|| nothing("it does not compile any more"))?;
        self.stop(
            Stop::Aborted,
            "the one before is put in force again",
            Some(actor),
        );
        let told = format!("from {} to {}", current.sequence(), kept.sequence);
        let object = format!("revision {}", kept.sequence);
        let aside = self.rolling.offered.filter(|offered| *offered != digest);
        self.take_back(name(current), (compiled, kept), diagnostics)?;
        self.set_aside(aside);
        self.recorder.admin(actor, "rollback", &object, &told);
        Ok(())
    }
}

/// Refuses a canary of services that neither revision has.
fn check_services(plan: &Plan, revisions: &[&Compiled]) -> Result<(), Diagnostic> {
    let services = revisions.iter().flat_map(|c| c.catalogue.services());
    let known: Vec<&str> = services.map(|s| s.id.short()).collect();
    let named = plan.steps.iter().filter_map(|step| match &step.target {
        Target::Services(names) => Some(names),
        Target::Share(_) => None,
    });
    for name in named.flatten() {
        if !known.contains(&name.as_str()) {
            let near = did_you_mean(name, known.iter().copied());
            return Err(Diagnostic::error(
                codes::ROLLOUT_PLAN,
                format!("no service is called `{name}`"),
            )
            .help(
                near.map_or("see the services of the catalogue".to_owned(), |near| {
                    format!("did you mean `{near}`?")
                }),
            ));
        }
    }
    Ok(())
}

pub(super) fn nothing(cause: &str) -> Diagnostic {
    Diagnostic::error(codes::ROLLOUT_NOTHING, "there is nothing to roll out")
        .cause(cause)
        .help("name a folder, a kept revision, or change the source")
}

fn none_running() -> Diagnostic {
    Diagnostic::error(codes::ROLLOUT_NONE, "no rollout is in progress")
        .help("start one: palisade rollout start")
}
