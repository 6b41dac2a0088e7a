//! Carrying out what people want of a rollout.

use std::{path::Path, sync::Arc};

use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    snapshot::Digest,
    wire::policy::Revision,
};
use tokio::{sync::oneshot, task::spawn_blocking};

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
        proving::Tried,
        rollout::{Name, OrderError, Plan, Rollout, Seen, Stop, Target},
    },
};

/// Fewest digits that name a digest.
const DIGEST_LEN_MIN: usize = 8;

/// Orders whose content is looked for at once.
const SOUGHT_MAX: usize = 4;

/// An order, before its content is there.
pub(super) struct Wish {
    actor: String,
    plan: Plan,
    /// Whether it is to be begun, not only shown.
    starts: bool,
    /// What was in force when it was given, and what the source had last.
    over: (Option<Name>, Option<Digest>),
    reply: oneshot::Sender<Result<Option<Difference>, Diagnostic>>,
}

/// An order, and what was found for it.
pub(super) struct Sought {
    wish: Wish,
    found: Result<Wanted, Diagnostic>,
}

/// What somebody wants in force.
pub(super) struct Wanted {
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
        let over = self.now();
        let done = match order {
            Order::Preview(plan, content) => {
                let wish = Wish {
                    actor,
                    plan,
                    starts: false,
                    over,
                    reply,
                };
                return self.seek(wish, content);
            }
            Order::Start(plan, content) => {
                let wish = Wish {
                    actor,
                    plan,
                    starts: true,
                    over,
                    reply,
                };
                return self.seek(wish, content);
            }
            order => self.carry_out(&actor, order).await.map(|()| None),
        };
        // Whoever asked may have gone.
        let _ = reply.send(done);
    }

    async fn carry_out(&mut self, actor: &str, order: Order) -> Result<(), Diagnostic> {
        match order {
            // They wait for content first.
            Order::Preview(..) | Order::Start(..) => Ok(()),
            Order::Rollback(to) if to.is_some() || self.rolling.running().is_none() => {
                self.roll_back(actor, to.as_deref()).await
            }
            Order::Promote => self.change(|r, seen| r.promote(actor, seen)),
            Order::Pause => self.change(|r, seen| r.pause(actor, seen.now_us)),
            Order::Resume => self.change(|r, seen| r.resume(actor, seen.now_us)),
            Order::Abort | Order::Rollback(_) => {
                self.change(|r, seen| r.abort(Stop::Aborted, "aborted", Some(actor), seen))
            }
        }
    }

    /// Has content looked for, beside what goes on: [`Source::found`] takes it up.
    fn seek(&mut self, wish: Wish, content: Content) {
        let is_free = match wish.starts {
            true => self.check_free(),
            false => Ok(()),
        };
        let is_free = is_free.and_then(|()| match self.sought.len() < SOUGHT_MAX {
            true => Ok(()),
            false => Err(many()),
        });
        match is_free.and_then(|()| self.content(content)) {
            Ok(content) => drop(self.sought.spawn(async move {
                let found = content.await;
                Sought { wish, found }
            })),
            Err(error) => drop(wish.reply.send(Err(error))),
        }
    }

    /// What is in force, and what the source had last: what a wish is about.
    fn now(&self) -> (Option<Name>, Option<Digest>) {
        let current = self.current();
        (current.as_deref().map(name), self.rolling.offered)
    }

    /// Goes on with an order once its content is there. One whose author has given up is dropped;
    /// so is one that was overtaken, or it would put what is older over what is newer.
    pub(super) fn found(&mut self, sought: Sought) {
        let Sought { wish, found } = sought;
        let Wish {
            actor,
            plan,
            starts,
            over,
            reply,
        } = wish;
        if reply.is_closed() {
            return;
        }
        let found = match starts && over != self.now() {
            true => Err(overtaken()),
            false => found,
        };
        let done = found.and_then(|wanted| match starts {
            true => self.start(&actor, plan, wanted).map(|()| None),
            false => self.preview(plan, &wanted).map(Some),
        });
        // Whoever asked may have gone.
        let _ = reply.send(done);
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

    fn check_free(&self) -> Result<(), Diagnostic> {
        match self.rolling.running() {
            None => Ok(()),
            Some(underway) => Err(busy(&format!(
                "{} is in the phase {}",
                underway.rollout.candidate,
                underway.rollout.word()
            ))),
        }
    }

    fn start(&mut self, actor: &str, plan: Plan, wanted: Wanted) -> Result<(), Diagnostic> {
        self.check_free()?;
        let current = self.replaceable(&plan, &wanted)?;
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

    fn preview(&self, plan: Plan, wanted: &Wanted) -> Result<Difference, Diagnostic> {
        let current = self.replaceable(&plan, wanted)?;
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

    /// What is in force, where `wanted` could take its place by `plan`.
    fn replaceable(&self, plan: &Plan, wanted: &Wanted) -> Result<Arc<Published>, Diagnostic> {
        let current = self
            .current()
            .ok_or_else(|| nothing("nothing is in force"))?;
        if wanted.compiled.digest == current.digest() {
            return Err(nothing("this is the content that is in force already"));
        }
        check_services(plan, &[&current.compiled, &wanted.compiled])?;
        Ok(current)
    }

    /// Content, once it is compiled and what it has to keep is proved; that needs nothing more of
    /// the source.
    fn content(
        &self,
        content: Content,
    ) -> Result<impl Future<Output = Result<Wanted, Diagnostic>> + Send + 'static, Diagnostic> {
        let chooser = self.chooser();
        let folder = self.place.folder().map(Path::to_owned);
        let mut vouched = match &content {
            Content::Source => {
                let assembly = self.parts.assembly();
                assembly.vouched(&assembly.with_newest())
            }
            Content::Bundle(_) | Content::Kept(_) => Vouched::default(),
        };
        let kept = match &content {
            Content::Kept(name) => Some(self.kept(name)?),
            Content::Bundle(_) | Content::Source => None,
        };
        Ok(async move {
            let Tried { loaded, proved } = match (content, kept) {
                (_, Some(kept)) => {
                    // What was proved of it when it was in force still is.
                    vouched.attestation = kept.attestation;
                    let loading = spawn_blocking(move || author::compile(kept.bundle));
                    Tried {
                        loaded: loading.await.unwrap_or_default(),
                        proved: None,
                    }
                }
                (Content::Bundle(bundle), None) => chooser.load_bundle(bundle).await,
                (Content::Source | Content::Kept(_), None) => chooser.load_newest(folder).await,
            };
            vouched.proved = proved;
            wanted(loaded, vouched)
        })
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

    /// Puts a kept revision in force again at once: the named one, or the one before. Compiling it
    /// is waited for, since nothing that comes meanwhile may overtake it; nothing is proved anew.
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
        } = self.content(Content::Kept(name))?.await?;
        if compiled.digest == current.digest() {
            return Err(nothing("this is the content that is in force already"));
        }
        let aside = self.aside(&current, compiled.digest);
        self.stop(Stop::Aborted, "something else is put in force", Some(actor));
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
    /// Content that does not come back by itself once `wanted` is put in force: what the source had
    /// last; as long as that is not known, or is being found out, what goes now.
    fn aside(&self, current: &Published, wanted: Digest) -> Option<Digest> {
        let goes = match self.rolling.running() {
            Some(underway) => underway.candidate.digest(),
            None => current.digest(),
        };
        let offered = self.rolling.offered.filter(|_| self.choosing.is_none());
        Some(offered.unwrap_or(goes)).filter(|aside| *aside != wanted)
    }

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
        let aside = self.aside(current, digest);
        self.stop(
            Stop::Aborted,
            "the one before is put in force again",
            Some(actor),
        );
        let told = format!("from {} to {}", current.sequence(), kept.sequence);
        let object = format!("revision {}", kept.sequence);
        self.take_back(name(current), (compiled, kept), diagnostics)?;
        self.set_aside(aside);
        self.recorder.admin(actor, "rollback", &object, &told);
        Ok(())
    }
}

/// Content that compiled, or why it did not.
fn wanted(loaded: Loaded, vouched: Vouched) -> Result<Wanted, Diagnostic> {
    let Loaded {
        compiled,
        diagnostics,
    } = loaded;
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

fn busy(cause: &str) -> Diagnostic {
    Diagnostic::error(codes::ROLLOUT_BUSY, "a rollout is in progress")
        .cause(cause)
        .help("wait for its end, or stop it: palisade rollout abort")
}

fn overtaken() -> Diagnostic {
    Diagnostic::error(codes::ROLLOUT_BUSY, "something else came first")
        .cause(
            "while this was compiled and proved, what is in force or what the source has changed",
        )
        .help("look at what is there now, and try again: palisade rollout start")
}

fn many() -> Diagnostic {
    Diagnostic::error(codes::ROLLOUT_BUSY, "too many rollouts are looked at")
        .cause(format!("{SOUGHT_MAX} at once are compiled and proved"))
        .help("try again in a moment")
}

fn none_running() -> Diagnostic {
    Diagnostic::error(codes::ROLLOUT_NONE, "no rollout is in progress")
        .help("start one: palisade rollout start")
}
