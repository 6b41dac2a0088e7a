//! Another configuration for a running proxy: whole, or not at all.
//!
//! The file is read again on SIGHUP and when it changes. What is wrong with it is kept
//! for `palisade check`, and the present configuration stays. A good one starts new
//! workers on the sockets whose address stays; those before finish what they have.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use palisade_mesh::diagnostic::Diagnostic;

use super::{Core, drain, feed};
use crate::config::{Config, ProxySection};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the mesh to learn a new address before the old one is given up.
const ANNOUNCE_MAX: Duration = Duration::from_secs(2);

/// A configuration that was not taken.
#[derive(Debug, Clone)]
pub(super) struct Rejected {
    pub(super) at_us: i64,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen(Option<(SystemTime, u64, u64)>);

impl Seen {
    fn of(path: &Path) -> Self {
        let seen = fs::metadata(path).and_then(|m| Ok((m.modified()?, m.len(), m.ino())));
        Self(seen.ok())
    }
}

/// Resolves each time the file has changed and stands still.
pub(super) struct Watch {
    seen: Option<Seen>,
}

impl Watch {
    pub(super) fn new(core: &Core) -> Self {
        Self {
            seen: core.file.as_deref().map(Seen::of),
        }
    }

    pub(super) async fn changed(&mut self, core: &Core) {
        let (Some(path), Some(seen)) = (&core.file, &mut self.seen) else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Seen::of(path);
            if now == *seen {
                continue;
            }
            // Editors write in steps; what still changes is looked at later.
            tokio::time::sleep(LOOK_EVERY / 10).await;
            if Seen::of(path) == now {
                *seen = now;
                return;
            }
        }
    }
}

/// Reads the file again and applies it; what is wrong with it is kept and logged.
pub(super) async fn from_file(core: &Arc<Core>) {
    let Some(path) = core.file.clone() else {
        return;
    };
    let overrides = core.overrides.clone();
    let read = move || Config::read_over(&path, &overrides);
    let read = tokio::task::spawn_blocking(read).await;
    let applied = match read {
        Ok(Ok((config, _))) => apply(core, &config).await,
        Ok(Err(found)) => Err(found),
        Err(_) => return,
    };
    match applied {
        Ok(changed) => {
            core.set_rejected(None);
            tracing::info!(changed, "configuration read again");
        }
        Err(diagnostics) => {
            for diagnostic in &diagnostics {
                tracing::error!(%diagnostic, "configuration was rejected, keeping the present one");
            }
            core.set_rejected(Some(Rejected {
                at_us: core.clock.now_us(),
                diagnostics,
            }));
        }
    }
}

/// Puts `next` in force; says whether anything has changed.
///
/// # Errors
/// Every key that cannot change while the proxy runs (`PLS5311`), or why the new
/// workers cannot start. Nothing has changed then.
pub(super) async fn apply(core: &Arc<Core>, next: &Config) -> Result<bool, Vec<Diagnostic>> {
    let present = core.config();
    let fixed: Vec<Diagnostic> = fixed_keys(&present, next)
        .into_iter()
        .map(fixed_key)
        .collect();
    if !fixed.is_empty() {
        return Err(fixed);
    }
    let section = super::super::section(next.proxy.as_ref(), "proxy")?;
    let listeners = section.listeners(next.demo);
    let before = core.section().listeners(present.demo);
    let of_role = |s: &ProxySection| (s.stale_after, s.drain.clone());
    if listeners == before {
        let changed = of_role(section) != of_role(&core.section());
        core.set_config(next, section);
        return Ok(changed);
    }
    let old = core.running();
    let (starting, new_config) = (old.clone(), listeners);
    let started = tokio::task::spawn_blocking(move || starting.succeed(new_config)).await;
    let fresh = match started {
        Ok(Ok(fresh)) => fresh,
        Ok(Err(error)) => return Err(error.diagnostics()),
        Err(_) => return Ok(false),
    };
    let announced = feed::announcements(section, fresh.inbound);
    core.succeed(fresh);
    core.set_config(next, section);
    if let Some(subscribed) = core
        .subscribed
        .as_ref()
        .filter(|_| announced != core.announced())
    {
        core.set_announced(announced.clone());
        subscribed.tell.announce(announced.clone());
        let all = |wire: &_| announced.iter().all(|a| drain::names(wire, a));
        if subscribed.state.borrow().connected
            && !drain::await_endpoints(core, ANNOUNCE_MAX, all).await
        {
            tracing::warn!("new address is not known to the mesh yet");
        }
    }
    core.retire(old, section.drain.deadline);
    Ok(true)
}

/// Keys that differ and cannot change while the proxy runs.
fn fixed_keys(present: &Config, next: &Config) -> Vec<&'static str> {
    let mut differ = vec![
        ("trust_domain", present.trust_domain != next.trust_domain),
        ("name", present.mesh_name() != next.mesh_name()),
        ("state_dir", present.state_dir != next.state_dir),
        ("demo", present.demo != next.demo),
        ("privacy", present.privacy != next.privacy),
    ];
    if let (Some(present), Some(next)) = (&present.proxy, &next.proxy) {
        differ.extend([
            ("proxy.instance", present.instance != next.instance),
            ("proxy.identity", present.identity != next.identity),
            ("proxy.spiffe_id", present.spiffe_id != next.spiffe_id),
            ("proxy.policy", present.policy != next.policy),
            (
                "proxy.policy_trust",
                present.policy_trust != next.policy_trust,
            ),
            ("proxy.records", present.records != next.records),
        ]);
    }
    differ
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
}

fn fixed_key(key: &'static str) -> Diagnostic {
    Diagnostic::error(5311, format!("`{key}` cannot change while the proxy runs"))
        .cause("it is fixed for the life of a process; nothing of the file was applied")
        .help("palisade proxy upgrade NAME, which starts a new process without losing a request; or put the old value back")
}
