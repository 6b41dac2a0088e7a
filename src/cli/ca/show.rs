//! The authority's tables, for people.

use std::path::Path;

use palisade_mesh::clock::Clock;

use crate::{
    control::status::{AgentStatus, AuthorityStatus, CaStatus, WaitingStatus, ago, ahead},
    render::{
        self, BAD, DIM, GOOD, WARN, paint,
        snippet::clean,
        table::{self, col},
    },
};

pub(super) fn status(status: &CaStatus) {
    let clock = Clock::system();
    render::line(&format!(
        "{}  {}",
        render::strong(&status.trust_domain),
        paint(
            DIM,
            format!("trust state {}, epoch {}", status.sequence, status.epoch)
        )
    ));
    authorities(&status.authorities);
    match &status.waiting {
        Some(waiting) => print_waiting(waiting, &clock),
        None => render::line("no rotation waits for anybody\n"),
    }
    agents(&status.agents, status, &clock);
}

/// After an order: what has begun, and what it waits for.
pub(super) fn rotating(status: &CaStatus, compromised: bool) {
    let clock = Clock::system();
    authorities(&status.authorities);
    match &status.waiting {
        Some(waiting) => print_waiting(waiting, &clock),
        None if compromised => render::line("the old authority is revoked\n"),
        None => render::line("nothing is waited for\n"),
    }
    render::next(&[("palisade ca status".into(), "how it goes on")]);
}

pub(super) fn authorities(authorities: &[AuthorityStatus]) {
    let clock = Clock::system();
    let mut rows = table::Table::new(&[
        col(""),
        col("AUTHORITY"),
        col("KEY ID"),
        col("STATE"),
        col("SINCE").optional(),
        col("ENDS"),
        col("UNDER").optional(),
    ]);
    for a in authorities {
        let (style, mark) = match a.state.as_str() {
            "active" => (GOOD, "✓"),
            "tainted" => (BAD, "✗"),
            _ => (DIM, "·"),
        };
        let under = if a.issuer == a.key_id { "" } else { &a.issuer };
        rows.row([
            table::styled(style, mark),
            a.kind.as_str().into(),
            short(&a.key_id).into(),
            table::styled(style, &a.state),
            ago(&clock, a.since_us).into(),
            ahead(&clock, a.not_after_s).into(),
            table::styled(DIM, short(under)),
        ]);
    }
    rows.print();
    for root in authorities.iter().filter(|a| a.kind == "root") {
        render::line(&format!(
            "root {}  sha256 {}",
            short(&root.key_id),
            root.digest
        ));
    }
    render::line("");
}

fn print_waiting(waiting: &WaitingStatus, clock: &Clock) {
    let what = if waiting.state == "tainted" {
        "is revoked"
    } else {
        "signs"
    };
    let until = ahead(clock, waiting.deadline_s);
    render::line(&paint(
        WARN,
        format!(
            "root {} {what} when everybody has acknowledged, or {until}",
            short(&waiting.key_id)
        ),
    ));
    for missing in &waiting.missing {
        let who = match &missing.spiffe_id {
            Some(id) => format!("{} at {}", clean(id), clean(&missing.agent)),
            None => clean(&missing.agent),
        };
        let heard = ago(clock, missing.heard_us);
        render::line(&format!("  waits for {who}, heard {heard}"));
    }
    render::line("");
}

fn agents(agents: &[AgentStatus], status: &CaStatus, clock: &Clock) {
    let mut rows = table::Table::new(&[
        col(""),
        col("HOLDER"),
        col("TRUST STATE").right(),
        col("STREAMS").right(),
        col("CERTIFICATE UNDER").optional(),
        col("HEARD"),
    ]);
    let mark = |epoch, sequence| {
        if (epoch, sequence) == (status.epoch, status.sequence) {
            table::styled(GOOD, "✓")
        } else {
            table::styled(WARN, "!")
        }
    };
    for agent in agents {
        rows.row([
            mark(agent.epoch, agent.sequence),
            clean(&agent.name).as_str().into(),
            agent.sequence.to_string().into(),
            "".into(),
            "".into(),
            ago(clock, agent.heard_us).into(),
        ]);
        for holder in &agent.holders {
            let issuers: Vec<String> = holder.issuers.iter().map(|i| short(i)).collect();
            rows.row([
                mark(agent.epoch, holder.sequence),
                format!("  {}", clean(&holder.spiffe_id)).as_str().into(),
                holder.sequence.to_string().into(),
                holder.streams.to_string().into(),
                table::styled(DIM, issuers.join(" ")),
                "".into(),
            ]);
        }
    }
    if agents.is_empty() {
        render::line("no agent has been heard");
    } else {
        rows.print();
    }
}

/// Says where the key is that no backup holds.
pub(super) fn kek(path: &Path) {
    render::line(&format!(
        "keep a copy of {} apart: no backup holds it, and nothing opens without it",
        path.display()
    ));
}

fn short(key_id: &str) -> String {
    key_id.chars().take(8).collect()
}
