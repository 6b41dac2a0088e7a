//! What the cases share: the mesh under attack, and raw clients.

#![allow(dead_code, reason = "each case uses its part")]

pub(crate) mod case;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod hpack;
pub(crate) mod policy;
pub(crate) mod records;
pub(crate) mod stage;
pub(crate) mod upstream;
pub(crate) mod wire;

pub(crate) use case::{Ask, Expect};
pub(crate) use stage::{Door, Stage};

use std::time::{Duration, Instant};

/// Longest wait for anything in a case.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `ask` has an answer.
pub(crate) fn soon<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// What came back for one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// 0 when there was no answer.
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Error code of the RST_STREAM that ended it.
    pub(crate) reset: Option<u32>,
    /// Error code of the GOAWAY that ended its connection.
    pub(crate) goaway: Option<u32>,
}

impl Reply {
    /// Every value of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(n, _)| n == name);
        named.map(|(_, v)| v.as_str()).collect()
    }

    /// The only value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is repeated: {self:?}");
        all.first().copied()
    }
}
