//! One request under explanation: policies taken apart and tried part by part.

use palisade_mesh::spiffe_id::SpiffeId;

use super::{
    super::{
        Snapshot,
        asked::Asked,
        core::{Body, Conjunct, Evaluation, Kind, Truth, ValueCache, context, start_of},
        fact::{Fact, Facts, moment_text},
        field::{Field, Layout},
        rule::Rule,
        world::{Triple, UNREGISTERED, uid},
    },
    ABSENT, NOT_RECORDED,
    view::{Clause, ClauseKind, ClauseState, PolicyView, Seen},
};

/// Longest value shown, in characters.
const SHOWN_LEN_MAX: usize = 256;

/// One request under explanation.
pub(super) struct Case<'s> {
    pub(super) snapshot: &'s Snapshot,
    pub(super) entities: Triple,
    facts: &'s dyn Facts,
    now_us: Option<i64>,
    /// `None` only for numbers of another snapshot.
    evaluation: Option<Evaluation<'s>>,
    /// The stand-in for an unregistered caller, and how he is really called.
    alias: Option<(String, String)>,
}

impl<'s> Case<'s> {
    pub(super) fn new(
        snapshot: &'s Snapshot,
        principal: &SpiffeId,
        asked: &Asked<'_>,
        facts: &'s dyn Facts,
        now_us: Option<i64>,
    ) -> Self {
        let layout = snapshot.layout();
        let fields = layout.fields(asked.form);
        let values = context(
            facts,
            &fields,
            asked.form,
            layout,
            &mut ValueCache::default(),
        );
        let stand_in = snapshot.world().uid(asked.principal);
        let stand_in = stand_in.filter(|u| u.type_name().to_string() == UNREGISTERED);
        let real = uid(UNREGISTERED, principal.as_str()).to_string();
        Self {
            snapshot,
            entities: asked.entities(),
            facts,
            now_us,
            evaluation: snapshot.begin(asked.entities(), values),
            alias: stand_in.map(|u| (u.to_string(), real)),
        }
    }

    /// The policy as it fared; `scope` is where its scope fails.
    pub(super) fn view(&self, rule: &Rule, scope: &[String]) -> Option<PolicyView> {
        let info = self.snapshot.info(&rule.id)?;
        let clauses = self.clauses(rule, info.first_line);
        let owned = |text: &Option<smol_str::SmolStr>| text.as_ref().map(ToString::to_string);
        Some(PolicyView {
            id: info.id.to_string(),
            effect: if info.permit { "permit" } else { "forbid" }.to_owned(),
            file: info.file.to_string(),
            first_line: info.first_line,
            last_line: info.last_line,
            text: info.text.to_string(),
            owner: owned(&info.owner),
            deny_message: owned(&info.deny_message),
            help_url: owned(&info.help_url),
            commit: owned(&info.commit),
            author: owned(&info.author),
            notes: self.notes(rule),
            scope: scope.to_vec(),
            passed: clauses.iter().filter(|c| passes(c)).count(),
            clauses,
        })
    }

    /// The value of a field, as Cedar shows it.
    pub(super) fn show(&self, field: Field) -> String {
        let shown = match self.facts.fact(field) {
            Fact::Absent => ABSENT.to_owned(),
            Fact::Bool(b) => b.to_string(),
            Fact::Ip(ip) => format!("ip(\"{ip}\")"),
            Fact::Long(n) => n.to_string(),
            Fact::Moment(s) => format!("datetime({:?})", moment_text(s).unwrap_or_default()),
            Fact::Text(text) => format!("{text:?}"),
            Fact::Texts(texts) => format!("{texts:?}"),
            Fact::Unfit => "not UTF-8, or repeated".to_owned(),
            Fact::Unknown => NOT_RECORDED.to_owned(),
        };
        shortened(shown)
    }

    fn notes(&self, rule: &Rule) -> Vec<String> {
        let mut notes = Vec::new();
        if rule.shadow {
            notes.push("shadow mode: evaluated, never enforced".to_owned());
        }
        if let Some(at) = rule.expires_us {
            let when = jiff::Timestamp::from_microsecond(at)
                .map_or_else(|_| format!("{at} µs"), |t| t.to_string());
            notes.push(match self.now_us {
                None => format!("expires {when}: time of the decision {NOT_RECORDED}"),
                Some(now) if rule.expired(now) => format!("expired {when}"),
                Some(_) => format!("expires {when}"),
            });
        }
        for uid in &rule.missing {
            notes.push(format!("the snapshot has no entity `{uid}`"));
        }
        notes
    }

    fn clauses(&self, rule: &Rule, first_line: usize) -> Vec<Clause> {
        let policies = &self.snapshot.compiled().policies;
        let policy = policies.policy(&cedar_policy::PolicyId::new(rule.id.as_str()));
        let (Some(policy), Some(evaluation)) = (policy, self.evaluation.as_ref()) else {
            return Vec::new();
        };
        let Some(body) = Body::of(policy) else {
            return Vec::new();
        };
        let mut walk = Walk::default();
        let parts = body.conjuncts(start_of(policy));
        let ends = parts.iter().skip(1).map(|p| Some(p.condition));
        let ends = ends.chain([None]);
        let mut clauses: Vec<Clause> = Vec::new();
        for (part, next) in parts.iter().zip(ends) {
            let (state, error) = self.state(part, evaluation, &walk);
            let last = next != Some(part.condition);
            clauses.push(Clause {
                kind: part.kind.into(),
                line: first_line + part.line,
                text: part.text.clone(),
                blocks: walk.step(part.kind, state, last),
                state,
                saw: self.saw(part, evaluation),
                error,
            });
        }
        clauses
    }

    fn state(
        &self,
        part: &Conjunct,
        evaluation: &Evaluation<'_>,
        walk: &Walk,
    ) -> (ClauseState, Option<String>) {
        if !walk.reached() {
            return (ClauseState::NotReached, None);
        }
        if self.unknown(&part.reads(self.layout())) {
            return (ClauseState::NotRecorded, None);
        }
        match part.test(evaluation) {
            (Truth::True, _) => (ClauseState::True, None),
            (Truth::False, _) => (ClauseState::False, None),
            // Behind a guard that is not recorded, an error may be just what it guards against.
            (Truth::Error, _) if walk.uncertain => (ClauseState::NotReached, None),
            (Truth::Error, error) => (ClauseState::Error, error),
        }
    }

    fn saw(&self, part: &Conjunct, evaluation: &Evaluation<'_>) -> Vec<Seen> {
        let looked = part.looked(self.layout());
        let seen = looked.into_iter().map(|l| Seen {
            value: if self.unknown(&l.fields) {
                NOT_RECORDED.to_owned()
            } else {
                let shown = l.show(evaluation).unwrap_or_else(|| ABSENT.to_owned());
                shortened(self.unmasked(shown))
            },
            name: l.name,
        });
        seen.collect()
    }

    fn unmasked(&self, shown: String) -> String {
        match &self.alias {
            Some((stand_in, real)) => shown.replace(stand_in, real),
            None => shown,
        }
    }

    fn unknown(&self, fields: &[Field]) -> bool {
        fields
            .iter()
            .any(|field| self.facts.fact(*field) == Fact::Unknown)
    }

    fn layout(&self) -> &Layout {
        self.snapshot.layout()
    }
}

/// Where in a policy's conditions the evaluation stands.
#[derive(Debug, Default)]
struct Walk {
    /// An earlier part has decided that the policy does not match.
    stopped: bool,
    /// A part of the present `unless` is false, so it does not apply.
    skipping: bool,
    /// A part of the present `unless` is not known.
    unsure: bool,
    /// Some earlier part is not known.
    uncertain: bool,
}

impl Walk {
    fn reached(&self) -> bool {
        !self.stopped && !self.skipping
    }

    /// Goes past a part that came out as `state`; whether it blocks the policy.
    /// `last` says that its condition ends with it.
    fn step(&mut self, kind: Kind, state: ClauseState, last: bool) -> bool {
        let mut blocks = false;
        match (kind, state) {
            (_, ClauseState::NotReached) => {}
            (_, ClauseState::Error) | (Kind::When, ClauseState::False) => blocks = true,
            (_, ClauseState::NotRecorded) => (self.unsure, self.uncertain) = (true, true),
            (Kind::Unless, ClauseState::False) => self.skipping = true,
            (Kind::Unless, ClauseState::True) => blocks = last && !self.unsure,
            (Kind::When, ClauseState::True) => {}
        }
        self.stopped |= blocks;
        if last {
            (self.skipping, self.unsure) = (false, false);
        }
        blocks
    }
}

/// Whether a part let its policy go on.
fn passes(clause: &Clause) -> bool {
    let met = match clause.kind {
        // Parts behind a false one do not matter any more: the `unless` is off.
        ClauseKind::Unless => matches!(clause.state, ClauseState::False | ClauseState::True),
        ClauseKind::When => clause.state == ClauseState::True,
    };
    met && !clause.blocks
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(SHOWN_LEN_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
