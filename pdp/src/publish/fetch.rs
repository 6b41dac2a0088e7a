//! How bundles are fetched from elsewhere. Whoever has the sockets implements it.

use std::{fmt, future::Future, pin::Pin};

use bytes::Bytes;
use palisade_mesh::{diagnostic::Diagnostic, place::Place};

/// Fetches bundle files.
pub trait Fetch: fmt::Debug + Send + Sync + 'static {
    /// Asks what is at `place`, unless it is still what `have` names.
    fn fetch<'a>(&'a self, place: &'a Place, have: Option<&'a str>) -> Fetching<'a>;
}

/// A question under way; the error is told to the operator.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Fetched, Diagnostic>> + Send + 'a>>;

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// What was there before.
    Same,
    /// Something else.
    New {
        /// What to ask with next time; none where everything is to be fetched again.
        tag: Option<String>,
        /// The bytes of a bundle file.
        bytes: Bytes,
    },
}
