//! `palisade status`: how the running mesh stands, on one screen.

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use serde::Serialize;

use super::{Context, Exit, block_on};
use crate::{
    config::EngineChoice,
    control::{
        About,
        api::{Fact, Problem},
        client::Mesh,
        clocks::clocks_apart,
        status::{
            AuditStatus, CaStatus, DecisionsStatus, PdpStatus, SubscriberStatus, TallyStatus, ago,
            ahead, span,
        },
    },
    render::{
        self, BAD, DIM, GOOD, Output, WARN, paint, snippet,
        table::{self, col},
    },
};

/// Codes of what cannot wait: a proxy or a PDP whose engine differs from the reference; a reporter
/// that has stopped sending, or whose records are not what it signed, or a part of the log that
/// cannot be looked at for that; a witness that has seen another history of the log, too few
/// that sign, a log of others that forks.
const ALARMS: [u16; 7] = [5231, 7526, 7527, 7528, 7541, 7542, 7544];

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[derive(Debug, Serialize)]
struct Status {
    processes: Vec<About>,
    ca: Vec<CaStatus>,
    pdp: Vec<PdpStatus>,
    audit: Vec<AuditStatus>,
    /// What cannot wait until somebody asks `check`.
    alarms: Vec<Fact>,
}

pub(super) fn main(_: &Args, context: &Context) -> Exit {
    match block_on(ask(context)) {
        Ok(status) => {
            match context.output {
                Output::Json => render::json(&status),
                Output::Human => print(&status),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

async fn ask(context: &Context) -> Result<Status, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    Ok(Status {
        processes: mesh.processes().cloned().collect(),
        ca: mesh.get_all("ca", "/v1/ca/status").await?,
        pdp: mesh.get_all("pdp", "/v1/pdp/status").await?,
        audit: mesh.get_all("audit", "/v1/audit/status").await?,
        alarms: alarms(&mesh).await?,
    })
}

/// What proxies, PDPs and audit services here say that cannot wait.
async fn alarms(mesh: &Mesh) -> Result<Vec<Fact>, Diagnostic> {
    let mut facts: Vec<Vec<Fact>> = Vec::new();
    for role in ["proxy", "pdp", "audit"] {
        facts.extend(mesh.get_all(role, &format!("/v1/{role}/check")).await?);
    }
    let alarming = |fact: &Fact| fact.code.is_some_and(|code| ALARMS.contains(&code));
    Ok(facts.into_iter().flatten().filter(alarming).collect())
}

fn print(status: &Status) {
    let clock = Clock::system();
    for alarm in &status.alarms {
        line_of_alarm(alarm);
    }
    if let Some(first) = status.processes.first() {
        let demo = if first.demo {
            paint(WARN, "  DEMO")
        } else {
            String::new()
        };
        let n = render::count(status.processes.len(), "process", "processes");
        render::line(&format!(
            "{}{demo}  {}",
            render::strong(&first.mesh),
            paint(DIM, format!("{n}, up {}", span(&clock, first.started_us)))
        ));
    }
    for ca in &status.ca {
        let identities = render::count(ca.identities, "identity", "identities");
        let mut parts = vec![format!("{identities} with a valid certificate")];
        let active = ca.authorities.iter().filter(|a| a.state == "active");
        parts.extend(active.map(|a| format!("{} ends {}", a.kind, ahead(&clock, a.not_after_s))));
        render::fact("identity", &parts);
        print_rotation(ca, &clock);
    }
    for pdp in &status.pdp {
        print_pdp(pdp, &clock);
    }
    let runs = |role: &str| {
        status
            .processes
            .iter()
            .any(|p| p.roles.iter().any(|r| r == role))
    };
    if status.pdp.is_empty() && runs("proxy") {
        let away = "no PDP answers here; proxies go on with the revision they have";
        render::fact("policy", &[paint(WARN, away), "palisade check".into()]);
    }
    for audit in &status.audit {
        print_audit(audit, &clock);
    }
}

fn line_of_alarm(alarm: &Fact) {
    let text = paint(BAD, format!("✗ {}", snippet::clean(&alarm.text)));
    render::line(&format!("{text}  palisade check"));
}

/// A word about what is tainted and whom a rotation waits for; `ca status` has the rest.
fn print_rotation(ca: &CaStatus, clock: &Clock) {
    for tainted in ca.authorities.iter().filter(|a| a.state == "tainted") {
        let short: String = tainted.key_id.chars().take(8).collect();
        render::fact(
            "",
            &[paint(BAD, format!("{} {short} is tainted", tainted.kind))],
        );
    }
    if let Some(waiting) = &ca.waiting {
        let n = waiting.missing.len();
        let until = ahead(clock, waiting.deadline_s);
        let waits = format!("a rotation waits for {n} of the mesh, or goes on {until}");
        render::fact("", &[paint(WARN, waits), "palisade ca status".into()]);
    }
}

fn print_audit(audit: &AuditStatus, clock: &Clock) {
    let index = match audit.records.saturating_sub(audit.indexed) {
        0 => "index up to date".into(),
        n => format!("index {} behind", render::count(n, "record", "records")),
    };
    let parts = [
        render::count(audit.records, "record", "records"),
        format!(
            "{} under a checkpoint signed {}",
            render::thousands(audit.checkpointed),
            ago(clock, audit.checkpoint_us)
        ),
        index,
    ];
    render::fact("audit", &parts);
    if let Some(syslog) = &audit.syslog {
        let stands = match syslog.connected {
            true => format!("forwarded to {}", snippet::clean(&syslog.address)),
            false => paint(
                WARN,
                format!("{} takes nothing", snippet::clean(&syslog.address)),
            ),
        };
        let behind = audit.records.saturating_sub(syslog.position);
        let behind = render::count(behind, "record", "records");
        render::fact("", &[stands, format!("{behind} not known to have arrived")]);
    }
    if let Some(archive) = &audit.archive {
        let url = snippet::clean(&archive.url);
        let stands = match &archive.fault {
            None => format!("old segments go to {url}"),
            Some(_) => paint(WARN, format!("{url} cannot be used")),
        };
        render::fact("", &[stands, "palisade audit archive status".into()]);
    }
    if audit.open_alerts > 0 {
        let open = render::count(audit.open_alerts, "alert", "alerts");
        render::fact(
            "",
            &[
                paint(WARN, format!("{open} open")),
                "palisade audit alerts list".into(),
            ],
        );
    }
    if !audit.witnesses.is_empty() {
        let signing = audit.witnesses.iter().filter(|w| w.fault.is_none()).count();
        let cosigned = match audit.cosigned {
            Some(records) => format!("{} records cosigned", render::thousands(records)),
            None => paint(WARN, "not cosigned yet"),
        };
        let all = render::count(audit.witnesses.len(), "witness", "witnesses");
        render::fact("", &[cosigned, format!("{signing} of {all} sign")]);
    }
}

fn print_pdp(pdp: &PdpStatus, clock: &Clock) {
    match &pdp.revision {
        Some(r) => {
            let digest: String = r.digest.chars().take(8).collect();
            let in_sync = pdp
                .proxies
                .iter()
                .filter(|p| p.connected && p.sequence == p.wanted)
                .count();
            let mut parts = vec![
                format!(
                    "revision {} {digest}, in force for {}",
                    r.sequence,
                    span(clock, r.since_us)
                ),
                r.signed.clone(),
                render::count(r.policies, "policy", "policies"),
                format!("{in_sync}/{} proxies in sync", pdp.proxies.len()),
            ];
            if !r.unproved.is_empty() {
                let n = render::count(r.unproved.len(), "invariant", "invariants");
                parts.push(paint(WARN, format!("{n} unproved")));
            }
            render::fact("policy", &parts);
        }
        None => render::fact("policy", &[paint(BAD, "no revision is in force")]),
    }
    print_sources(pdp, clock);
    #[cfg(feature = "full")]
    if let Some(rollout) = pdp.rollout.as_ref().filter(|r| r.phase != "completed") {
        let see = paint(DIM, "palisade rollout status");
        render::fact("rollout", &[super::rollout::summary(rollout), see]);
    }
    if let Some(decisions) = &pdp.decisions {
        print_decisions(decisions);
    }
    if let Some(rejected) = &pdp.rejected {
        render::line(&paint(
            WARN,
            format!(
                "\na change of the policies was rejected {}; the revision above stays in force",
                ago(clock, rejected.at_us)
            ),
        ));
        for problem in rejected.problems.iter().cloned().map(Problem::into).take(3) {
            render::line(&snippet::render(&problem));
        }
    }
    if pdp.proxies.is_empty() {
        return;
    }
    render::line("");
    let mut rows = table::Table::new(&[
        col(""),
        col("PROXY"),
        col("IDENTITY").optional(),
        col("REVISION").right(),
        col("CERT ENDS"),
        col("REQUESTS").right(),
        col("ALLOWED").right(),
        col("DENIED").right(),
        col("FAULTS").right(),
        col("SPOOLED").right().optional(),
    ]);
    for proxy in &pdp.proxies {
        let (style, mark) = standing(proxy);
        let number = |n: u64| table::Cell::from(render::thousands(n));
        rows.row([
            table::styled(style, mark),
            proxy.instance.as_str().into(),
            table::styled(DIM, super::short_id(&proxy.spiffe_id)),
            number(proxy.sequence),
            ahead(clock, proxy.svid_not_after_s).into(),
            number(proxy.requests),
            number(proxy.allowed),
            number(proxy.denied),
            number(proxy.undecided),
            number(proxy.spooled),
        ]);
    }
    rows.print();
    pdp.proxies.iter().for_each(print_clocks);
    render::line("");
}

/// A line where the clock of a proxy that is there is not the PDP's.
fn print_clocks(proxy: &SubscriberStatus) {
    let ahead_us = proxy.clock_ahead_us.filter(|_| proxy.connected);
    let theirs = format!("{}'s", proxy.instance);
    let apart = ahead_us.and_then(|us| clocks_apart("the PDP's", &theirs, proxy.seen_us, us));
    if let Some(fact) = apart {
        let text = paint(WARN, format!("! {}", snippet::clean(&fact.text)));
        render::line(&format!("{text}  palisade check"));
    }
}

/// The decision APIs: where, and what they answered.
fn print_decisions(decisions: &DecisionsStatus) {
    let sum = |verdicts: &[&str]| -> u64 {
        let of = |t: &&TallyStatus| verdicts.contains(&t.verdict.as_str());
        decisions.answers.iter().filter(of).map(|t| t.count).sum()
    };
    let mut parts = vec![
        format!("answers on {}", decisions.address),
        format!("{} allowed", render::thousands(sum(&["allow"]))),
        format!(
            "{} denied",
            render::thousands(sum(&["forbidden", "not_permitted"]))
        ),
    ];
    let more = [
        (sum(&["undecided"]), "undecided"),
        (sum(&["refused"]), "not understood or refused"),
        (decisions.searches, "searches"),
        (decisions.refused, "callers turned away"),
        (decisions.busy, "at a limit"),
    ];
    let more = more.into_iter().filter(|(n, _)| *n > 0);
    parts.extend(more.map(|(n, what)| format!("{} {what}", render::thousands(n))));
    if decisions.engine == EngineChoice::Reference {
        parts.push("decided by Cedar's own authorizer".to_owned());
    }
    render::fact("decisions", &parts);
    if let Some(address) = decisions.insecure {
        let text = format!("also in plain text on {address}");
        render::fact("", &[paint(WARN, text)]);
    }
}

/// Where policy comes from, and what is not in order there.
fn print_sources(pdp: &PdpStatus, clock: &Clock) {
    if pdp.sources.is_empty() {
        render::fact("", &[paint(DIM, snippet::clean(&pdp.folder))]);
    }
    for source in &pdp.sources {
        let mut parts = Vec::new();
        if !source.name.is_empty() {
            parts.push(render::strong(snippet::clean(&source.name)));
        }
        let has: String = source.has.chars().take(10).collect();
        match (has.as_str(), source.since_us) {
            ("", _) => parts.push(paint(WARN, "nothing in force")),
            (has, Some(us)) => parts.push(format!("{has} for {}", span(clock, us))),
            (has, None) => parts.push(has.to_owned()),
        }
        parts.push(paint(DIM, snippet::clean(&source.place)));
        render::fact("", &parts);
        for fault in &source.faults {
            let code = paint(DIM, format!("PLS{:04}", fault.code));
            let text = format!(
                "{} for {}",
                snippet::clean(&fault.text),
                span(clock, fault.since_us)
            );
            render::fact("", &[format!("{} {text}  {code}", paint(WARN, "!"))]);
        }
    }
}

fn standing(proxy: &SubscriberStatus) -> (anstyle::Style, &'static str) {
    match (proxy.connected, &proxy.nack, proxy.sequence == proxy.wanted) {
        (true, None, true) if !proxy.draining && proxy.rivals == 0 => (GOOD, "✓"),
        (_, Some(_), _) => (BAD, "✗"),
        _ => (WARN, "!"),
    }
}
