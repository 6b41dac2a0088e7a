//! A repository with all that contribute to it, put together once: what a bundle is built of.
//!
//! The same code follows sources for a PDP ([`Source`](super::Source)), which has last good
//! content to fall back on. Here every source has to be there, and good.

use std::{collections::BTreeSet, time::Duration};

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use super::{SourceConfig, codes, parts::Parts};
use crate::author::{Loaded, Texts, trust_domain};

/// Longest time for all sources to be fetched.
pub const COMPOSE_WAIT: Duration = Duration::from_secs(180);
/// Words that may wait to be heard.
const WORDS_MAX: usize = 64;

/// Puts the repository at the place of `config` together with every source that it lists,
/// wherever they are, as a PDP does, and compiles it. Who must have signed a source, and how far
/// its numbers have come, is checked as there; the folder of `config` remembers the latter.
///
/// What one source lacks is an error: a bundle without it would be signed as whole.
pub async fn compose(mut config: SourceConfig, clock: Clock) -> Loaded {
    config.reproducible = true;
    if let (None, Some(dir)) = (&config.domain, config.place.folder()) {
        config.domain = trust_domain(Texts::read(dir).settings());
    }
    let (sender, mut words) = mpsc::channel(WORDS_MAX);
    let mut parts = match Parts::new(config, sender, clock) {
        Ok(parts) => parts,
        Err(diagnostic) => return Loaded::refused(vec![diagnostic]),
    };
    let deadline = Instant::now() + COMPOSE_WAIT;
    while !parts.all_spoke() {
        match timeout_at(deadline, words.recv()).await {
            Ok(Some(word)) => parts.hear(word),
            _ => break,
        }
        parts.follow();
    }
    let absent = parts.absent();
    if !absent.is_empty() {
        return Loaded::refused(absent);
    }
    let assembly = parts.assembly();
    let newest = assembly.with_newest();
    let Some(texts) = assembly.assemble(&newest, &BTreeSet::new()) else {
        return Loaded::default();
    };
    let compiled = spawn_blocking(move || texts.compile()).await;
    compiled.unwrap_or_default()
}

/// A source that had nothing to say in time.
pub(super) fn unheard(place: &str) -> Diagnostic {
    Diagnostic::error(
        codes::UNREACHABLE_SOURCE,
        format!("policy source `{place}` has not answered"),
    )
    .cause(format!("it had {} s", COMPOSE_WAIT.as_secs()))
    .help("try again; see whether its server answers at all")
}
