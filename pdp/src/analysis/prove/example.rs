//! From a counterexample of the solver to a request that somebody can make.
//!
//! The solver's values are ugly, and its world has workloads and operations that nobody
//! registered. So its values are tried with the callers and operations that there are, through
//! the engines of both revisions; then each value is put back to an ordinary one, as long as
//! the answers still differ. What is left is what matters.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_mesh::{
    catalogue::HeaderShape,
    decision::{Connection, Question, TlsFacts},
    svid::Peer,
};
use serde::Serialize;
use serde_json::Value;
use smol_str::SmolStr;

use crate::{
    analysis::universe::{Ask, Caller, Universe},
    decide::{
        Engine, Snapshot,
        fact::{US_PER_HOUR, US_PER_SECOND, hour_of, weekday_of},
        field::Field,
    },
};

/// Most pairs of caller and operation that are tried with the solver's values.
const TRIED_MAX: usize = 4_096;
/// Longest text that is taken over from the solver.
const TEXT_LEN_MAX: usize = 256;

/// A request by which two revisions differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Whether somebody of the registry can make it; else it is possible in principle.
    pub real: bool,
    /// Who asks.
    pub caller: String,
    /// Cedar action id.
    pub action: String,
    /// What is asked for: `NAMESPACE/SERVICE OPERATION`, or an entity of the solver's.
    pub target: String,
    /// Parts of the request that matter, `NAME = VALUE`.
    pub with: Vec<String>,
    /// The command that asks the newer revision the same; real ones only.
    pub command: Option<String>,
}

/// Both engines, and everybody who can ask.
pub(crate) struct Trial<'s> {
    base: Engine,
    head: Engine,
    universe: &'s Universe,
    now_us: i64,
}

/// The parts of a request that can be chosen.
#[derive(Debug, Clone)]
struct Draft {
    path: SmolStr,
    query: Option<SmolStr>,
    source: SocketAddr,
    sni: Option<SmolStr>,
    headers: Vec<(HeaderName, HeaderValue)>,
    now_us: i64,
}

impl<'s> Trial<'s> {
    pub(crate) fn new(
        base: &Arc<Snapshot>,
        head: &Arc<Snapshot>,
        universe: &'s Universe,
        now_us: i64,
    ) -> Self {
        Self {
            base: base.engine().with_self_check(0),
            head: head.engine().with_self_check(0),
            universe,
            now_us,
        }
    }

    /// A real request by one of `pairs` that the newer revision allows and the older one does
    /// not, with the values of `context` where ordinary ones will not do.
    pub(crate) fn real(
        &mut self,
        pairs: impl Iterator<Item = (usize, usize)>,
        context: &Value,
    ) -> Option<Example> {
        let universe = self.universe;
        for (caller, ask) in pairs.take(TRIED_MAX) {
            let (Some(caller), Some(ask)) = (universe.callers.get(caller), universe.asks.get(ask))
            else {
                continue;
            };
            let ordinary = self.ordinary(ask);
            let solved = self.solved(ask, &ordinary, context);
            for start in [&ordinary, &solved] {
                if self.differs(caller, ask, start) {
                    let draft = self.smallest(caller, ask, start.clone(), &ordinary);
                    return Some(self.told(caller, ask, &draft, &ordinary));
                }
            }
        }
        None
    }

    fn ordinary(&self, ask: &Ask) -> Draft {
        Draft {
            path: ask.request.path.clone(),
            query: None,
            source: SocketAddr::from(([127, 0, 0, 1], 40_000)),
            sni: None,
            headers: Vec::new(),
            now_us: self.now_us,
        }
    }

    /// The draft with what `context` says.
    fn solved(&self, ask: &Ask, ordinary: &Draft, context: &Value) -> Draft {
        let at = |path: &[&str]| path.iter().try_fold(context, |at, name| at.get(name));
        let text = |path: &[&str]| {
            let text = at(path)?.as_str()?;
            (text.len() <= TEXT_LEN_MAX).then(|| SmolStr::new(text))
        };
        let mut draft = ordinary.clone();
        // What no policy reads has whatever value the solver liked.
        if let Some(path) = text(&["http", "path"]).filter(|p| self.is_meant(ask, p)) {
            draft.path = path;
        }
        draft.query = text(&["http", "query"]);
        draft.sni = text(&["tls", "sni"]);
        if let Some(address) = at(&["source", "ip"]).and_then(address_of) {
            draft.source.set_ip(address);
        }
        let port = at(&["source", "port"]).and_then(Value::as_u64);
        if let Some(port) = port.and_then(|p| u16::try_from(p).ok()) {
            draft.source.set_port(port);
        }
        draft.headers = self.headers(at(&["http", "headers"]));
        let number = |path: &[&str]| at(path).and_then(Value::as_i64);
        draft.now_us = self.moment(number(&["time", "hour"]), number(&["time", "weekday"]));
        draft
    }

    fn headers(&self, said: Option<&Value>) -> Vec<(HeaderName, HeaderValue)> {
        let catalogue = self.head.snapshot().catalogue();
        let mut headers = Vec::new();
        for declared in catalogue.headers() {
            let value = said.and_then(|s| s.get(declared.name.as_str()));
            let text = match (declared.shape, value) {
                (HeaderShape::Single, Some(Value::String(text))) => text.clone(),
                (HeaderShape::List, Some(Value::Array(texts))) => {
                    let texts: Vec<&str> = texts.iter().filter_map(Value::as_str).collect();
                    texts.join(", ")
                }
                _ => continue,
            };
            let name = HeaderName::from_bytes(declared.name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&text))
                && text.len() <= TEXT_LEN_MAX
            {
                headers.push((name, value));
            }
        }
        headers
    }

    /// The next moment with this hour and weekday.
    fn moment(&self, hour: Option<i64>, weekday: Option<i64>) -> i64 {
        let hour = hour.filter(|h| (0..24).contains(h));
        let weekday = weekday.filter(|d| (1..8).contains(d));
        let fits = |us: &i64| {
            hour.is_none_or(|h| h == hour_of(*us)) && weekday.is_none_or(|d| d == weekday_of(*us))
        };
        let start = self
            .now_us
            .div_euclid(US_PER_HOUR)
            .saturating_mul(US_PER_HOUR);
        let mut next = (1..=24 * 7).map(|n| start.saturating_add(n * US_PER_HOUR));
        match fits(&self.now_us) {
            true => self.now_us,
            false => next.find(fits).unwrap_or(self.now_us),
        }
    }

    fn differs(&mut self, caller: &Caller, ask: &Ask, draft: &Draft) -> bool {
        self.is_meant(ask, &draft.path)
            && allows(&mut self.head, caller, ask, draft)
            && !allows(&mut self.base, caller, ask, draft)
    }

    /// Whether a path is one of the operation that is looked at.
    fn is_meant(&self, ask: &Ask, path: &SmolStr) -> bool {
        let snapshot = self.head.snapshot();
        let Some(service) = snapshot.catalogue().by_id(&ask.service) else {
            return false;
        };
        let mut request = ask.request.clone();
        let meant = service.operations.find(&request).map(|o| &o.name);
        request.path = path.clone();
        path.starts_with('/') && service.operations.find(&request).map(|o| &o.name) == meant
    }

    /// Puts each value back to an ordinary one, where the answers still differ.
    fn smallest(&mut self, caller: &Caller, ask: &Ask, start: Draft, ordinary: &Draft) -> Draft {
        let mut draft = start;
        let simpler: [fn(&mut Draft, &Draft); 5] = [
            |d, o| d.path = o.path.clone(),
            |d, _| d.query = None,
            |d, _| d.sni = None,
            |d, o| d.source = o.source,
            |d, o| d.now_us = o.now_us,
        ];
        for simplify in simpler {
            let mut tried = draft.clone();
            simplify(&mut tried, ordinary);
            if self.differs(caller, ask, &tried) {
                draft = tried;
            }
        }
        for i in (0..draft.headers.len()).rev() {
            let mut tried = draft.clone();
            tried.headers.remove(i);
            if self.differs(caller, ask, &tried) {
                draft = tried;
            }
        }
        draft
    }

    fn told(&self, caller: &Caller, ask: &Ask, draft: &Draft, ordinary: &Draft) -> Example {
        let snapshot = self.head.snapshot();
        let action = ask
            .resolve(snapshot)
            .map_or_else(SmolStr::default, |r| r.action);
        let mut with = Vec::new();
        let mut command = vec![
            "palisade can".to_owned(),
            caller_word(caller),
            ask.request.method.as_str().to_owned(),
        ];
        let query = draft
            .query
            .as_ref()
            .map_or_else(String::new, |q| format!("?{q}"));
        let target = format!("http://{}{}{query}", ask.request.host, draft.path);
        command.push(quoted(&target));
        if draft.path != ordinary.path {
            with.push(format!("path = {}", draft.path));
        }
        if let Some(query) = &draft.query {
            with.push(format!("query = {query}"));
        }
        for (name, value) in &draft.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            with.push(format!("{name} = {value}"));
            command.push(format!("--header {}", quoted(&format!("{name}={value}"))));
        }
        if draft.source != ordinary.source {
            with.push(format!("source = {}", draft.source));
            command.push(format!("--source {}", draft.source));
        }
        if draft.now_us != ordinary.now_us
            && let Ok(at) = jiff::Timestamp::from_second(draft.now_us.div_euclid(US_PER_SECOND))
        {
            with.push(format!("time = {at}"));
            command.push(format!("--at {at}"));
        }
        if let Some(sni) = &draft.sni {
            with.push(format!("sni = {sni}"));
        }
        Example {
            real: true,
            caller: caller.name.clone(),
            action: action.to_string(),
            target: format!("{} {}", ask.service.short(), ask.operation),
            with,
            command: draft.sni.is_none().then(|| command.join(" ")),
        }
    }
}

/// What the solver found, where nobody of the registry can make it.
pub(crate) fn in_principle(request: &cedar_policy::Request, read: &[(Field, String)]) -> Example {
    let named =
        |uid: Option<&cedar_policy::EntityUid>| uid.map_or_else(String::new, ToString::to_string);
    let context = context_of(request);
    let with = read.iter().filter_map(|(_, path)| {
        let value = path
            .split('.')
            .try_fold(&context, |at, name| at.get(name))?;
        Some(format!("{path} = {value}"))
    });
    Example {
        real: false,
        caller: named(request.principal()),
        action: request
            .action()
            .map_or_else(String::new, |a| a.id().unescaped().to_owned()),
        target: named(request.resource()),
        with: with.collect(),
        command: None,
    }
}

/// The context of a request as JSON, calls of extension functions as their arguments.
pub(crate) fn context_of(request: &cedar_policy::Request) -> Value {
    let context = request.context().and_then(|c| c.to_json_value().ok());
    plain(context.unwrap_or(Value::Null))
}

fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            if let Some(argument) = map.get("__extn").and_then(|call| call.get("arg")) {
                return argument.clone();
            }
            map.into_iter().map(|(k, v)| (k, plain(v))).collect()
        }
        other => other,
    }
}

/// An address of a Cedar `ip`, which may be a whole network.
fn address_of(value: &Value) -> Option<std::net::IpAddr> {
    let text = value.as_str()?;
    text.split('/').next()?.parse().ok()
}

fn allows(engine: &mut Engine, caller: &Caller, ask: &Ask, draft: &Draft) -> bool {
    let snapshot = engine.snapshot().clone();
    let mut ask = ask.clone();
    ask.request.path = draft.path.clone();
    ask.request.query = draft.query.clone();
    let Some(resolved) = ask.resolve(&snapshot) else {
        return false;
    };
    let now_s = draft.now_us.div_euclid(US_PER_SECOND);
    let connection = Connection {
        peer: Peer {
            id: caller.id.clone(),
            serial: Arc::from([0_u8; 0]),
            not_before_s: now_s,
            not_after_s: now_s.saturating_add(3600),
        },
        source: draft.source,
        tls: TlsFacts {
            version: "1.3",
            mtls: true,
            sni: draft.sni.clone(),
            alpn: Some(SmolStr::new_static("h2")),
        },
    };
    let headers: HeaderMap = draft.headers.iter().cloned().collect();
    let question = Question {
        connection: &connection,
        request: &ask.request,
        headers: &headers,
        service: &resolved.service,
        operation: resolved.operation.as_ref(),
        now_us: draft.now_us,
    };
    engine.decide(&question).decision.verdict.is_allow()
}

/// The caller as `palisade can` takes him.
fn caller_word(caller: &Caller) -> String {
    match caller.name.contains([' ', '(']) {
        true => caller.id.to_string(),
        false => caller.name.clone(),
    }
}

fn quoted(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    match text.chars().all(safe) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}
