//! Who may do what: questions about many requests at once, as `who-can` and `what-can`
//! ask them of a folder or of the running mesh.

use std::{sync::Arc, time::Instant};

use palisade_mesh::{
    canonical::Method,
    clock::Clock,
    decision::Verdict,
    diagnostic::{Diagnostic, did_you_mean},
};
use palisade_pdp::{
    author::{self, Ask},
    compiled::Absent,
    decide::{Access, Caller, Given, May, OpenPolicy, Snapshot, Survey, Target},
};
use serde::{Deserialize, Serialize};

/// Where the local socket answers.
pub(crate) const ROUTE: &str = "/v1/pdp/access";

/// Most pairs of caller and target that are answered at once; each answer is kept whole.
const PAIRS_MAX: usize = 250_000;

/// A question about many.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Who: a service, an identity path or a SPIFFE ID; none for everybody.
    pub(crate) principal: Option<String>,
    /// Does what: a method, `grpc:call` or a business action; none for anything.
    pub(crate) action: Option<String>,
    /// To what: a service, one of its operations, or a path; none for everything.
    pub(crate) resource: Option<String>,
    /// When, microseconds since the Unix epoch: decides conditions on the clock, too.
    pub(crate) at_us: Option<i64>,
}

/// The answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answers {
    /// Digest of the revision, hexadecimal.
    pub(crate) revision: String,
    /// Its number; 0 for a folder.
    pub(crate) sequence: u64,
    /// The moment at which what has expired is gone, microseconds since the Unix epoch.
    pub(crate) at_us: i64,
    /// Whether conditions on the clock were decided at that moment.
    pub(crate) clock: bool,
    /// How many callers were asked about.
    pub(crate) callers: usize,
    /// How many targets were asked about.
    pub(crate) targets: usize,
    /// Every pair of them.
    pub(crate) answers: Vec<Answer>,
    /// Sources that the revision lacks; none of one that is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) absent: Vec<Absent>,
    /// Microseconds it took.
    pub(crate) took_us: u64,
}

/// One caller and one target.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// SPIFFE ID, or who is meant, in words.
    pub(crate) principal: String,
    /// Service that the caller is, `NAMESPACE/NAME`.
    pub(crate) caller: Option<String>,
    /// Service that is asked, `NAMESPACE/NAME`.
    pub(crate) service: String,
    /// Cedar action.
    pub(crate) action: String,
    /// Cedar resource type.
    pub(crate) resource_type: String,
    /// Cedar resource id.
    pub(crate) resource: String,
    /// Path, or path template.
    pub(crate) path: Option<String>,
    /// The answer.
    pub(crate) may: May,
    /// The verdict as a constant word, where all such requests get the same.
    pub(crate) reason: Option<String>,
    /// The policies that made that verdict.
    pub(crate) policies: Vec<String>,
    /// Permits one of which has to hold.
    pub(crate) one_of: Vec<OpenPolicy>,
    /// Forbids none of which may hold.
    pub(crate) none_of: Vec<OpenPolicy>,
}

impl Asked {
    /// Answers under `snapshot`.
    ///
    /// # Errors
    /// What about the question is not understood.
    pub(crate) fn answer(&self, snapshot: &Snapshot, clock: &Clock) -> Result<Answers, Diagnostic> {
        let started = Instant::now();
        let callers = self.callers(snapshot)?;
        let targets = self.targets(snapshot)?;
        let given = Given {
            now_us: self.at_us.unwrap_or_else(|| clock.now_us()),
            clock: self.at_us.is_some(),
            ..Given::default()
        };
        let survey = snapshot.survey(given).map_err(|error| {
            Diagnostic::error(9199, format!("bug: an empty context was refused: {error}"))
        })?;
        let mut answers = Vec::with_capacity(pairs(callers.len(), targets.len())?);
        for target in &targets {
            for caller in &callers {
                answers.push(answer(&survey, caller, target));
            }
        }
        let versions = snapshot.versions();
        Ok(Answers {
            revision: versions.policy.to_string(),
            sequence: versions.sequence,
            at_us: given.now_us,
            clock: given.clock,
            callers: callers.len(),
            targets: targets.len(),
            answers,
            absent: snapshot.compiled().absent.clone(),
            took_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }

    fn callers(&self, snapshot: &Snapshot) -> Result<Vec<Caller>, Diagnostic> {
        let Some(name) = &self.principal else {
            return Ok(snapshot.callers());
        };
        let id = author::principal(snapshot.catalogue(), name)?;
        let caller = snapshot.caller(&id).ok_or_else(|| {
            Diagnostic::error(
                2103,
                format!("`{id}` is claimed by a service and is no entity"),
            )
            .help("see what is wrong with the repository: palisade policy validate")
        })?;
        Ok(vec![caller])
    }

    fn targets(&self, snapshot: &Snapshot) -> Result<Vec<Target>, Diagnostic> {
        let mut targets = match &self.resource {
            None => snapshot.targets(),
            Some(resource) => match named(snapshot, resource) {
                Some(targets) => targets,
                // A path is one operation, and has its action by whatever it was asked for.
                None => return Ok(vec![self.request(snapshot, resource)?]),
            },
        };
        let Some(action) = &self.action else {
            return Ok(targets);
        };
        let action = canonical_action(action);
        targets.retain(|target| target.action == action || target.is_by(&action));
        match targets.is_empty() {
            false => Ok(targets),
            true => Err(no_action(snapshot, &action, self.resource.as_deref())),
        }
    }

    /// The one request to a path.
    fn request(&self, snapshot: &Snapshot, path: &str) -> Result<Target, Diagnostic> {
        let ask = Ask {
            verb: self
                .action
                .clone()
                .unwrap_or_else(|| Method::Get.as_str().to_owned()),
            target: path.to_owned(),
            ..Ask::default()
        };
        let (service, request) = author::request(snapshot.catalogue(), &ask)?;
        Ok(snapshot.target(&service, &request))
    }
}

/// How many answers there are, if not too many.
fn pairs(callers: usize, targets: usize) -> Result<usize, Diagnostic> {
    let pairs = callers.saturating_mul(targets);
    if pairs <= PAIRS_MAX {
        return Ok(pairs);
    }
    let many = format!("{callers} callers and {targets} targets are too many for one question");
    Err(Diagnostic::error(2104, many)
        .cause(format!("at most {PAIRS_MAX} pairs of them are answered"))
        .help("name a caller, an operation or an action"))
}

/// What a service, or an operation by name, id or template, can be asked for; none when
/// nothing is called so.
fn named(snapshot: &Snapshot, name: &str) -> Option<Vec<Target>> {
    let service = snapshot.catalogue().by_name(name);
    let meant = |target: &Target| match service {
        Some(service) => Arc::ptr_eq(&target.service, service),
        None => is_named(target, name),
    };
    let targets: Vec<Target> = snapshot.targets().into_iter().filter(meant).collect();
    (service.is_some() || !targets.is_empty()).then_some(targets)
}

/// Whether `name` means the operation: its id, with or without its trust domain or
/// namespace, or its service and path template.
fn is_named(target: &Target, name: &str) -> bool {
    let Some(id) = &target.operation else {
        return false;
    };
    let mut tails = std::iter::successors(Some(id.as_str()), |id| Some(id.split_once('/')?.1));
    // The last one is the operation's name alone, which says no service.
    let is_tail = tails.any(|tail| tail == name && tail.contains('/'));
    let by_template = name.contains('{') && {
        let service = &target.service;
        let names = [
            service.name.as_str(),
            service.id.short(),
            service.id.as_str(),
        ];
        names
            .into_iter()
            .any(|service| name.strip_prefix(service) == target.path.as_deref())
    };
    is_tail || by_template
}

fn canonical_action(action: &str) -> String {
    let upper = action.to_ascii_uppercase();
    match Method::parse(&upper) {
        Some(_) => upper,
        None => action.to_owned(),
    }
}

fn no_action(snapshot: &Snapshot, action: &str, resource: Option<&str>) -> Diagnostic {
    let targets = snapshot.targets();
    let known = targets.iter().map(|t| t.action.as_str());
    let near = did_you_mean(action, known);
    let of = resource.map_or_else(String::new, |resource| format!(" of `{resource}`"));
    let none = Diagnostic::error(2101, format!("no operation{of} has the action `{action}`"));
    match near {
        Some(near) if near != action => none.label(format!("did you mean `{near}`?")),
        _ => none,
    }
    .help("an action is a method, `grpc:call`, or one that services/ names; `*` is all of them")
}

fn answer(survey: &Survey<'_>, caller: &Caller, target: &Target) -> Answer {
    let access = survey.access(caller, target);
    let conditions = match access.may {
        May::OnlyIf => survey.conditions(caller, target, &access),
        May::No | May::Yes => Vec::new(),
    };
    let (one_of, none_of) = conditions.into_iter().partition(|c| c.effect == "permit");
    Answer {
        principal: caller.who.to_string(),
        caller: caller.service.as_ref().map(|s| s.id.short().to_owned()),
        service: target.service.id.short().to_owned(),
        action: target.action.to_string(),
        resource_type: target.resource_type().to_owned(),
        resource: target.resource_id().to_owned(),
        path: target.path.as_ref().map(ToString::to_string),
        may: access.may,
        reason: access.verdict.map(Verdict::reason).map(str::to_owned),
        policies: ids(&access),
        one_of,
        none_of,
    }
}

fn ids(access: &Access) -> Vec<String> {
    access.deciding.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded_on_both_sides() {
        assert_eq!(pairs(PAIRS_MAX, 1).unwrap(), PAIRS_MAX);
        assert_eq!(pairs(500, 500).unwrap(), PAIRS_MAX);
        for (callers, targets) in [(PAIRS_MAX + 1, 1), (501, 500), (usize::MAX, 2)] {
            assert_eq!(pairs(callers, targets).unwrap_err().code.0, 2104);
        }
    }
}
