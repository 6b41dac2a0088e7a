//! A text with a name, and places in it.

pub(crate) use palisade_mesh::yaml::{Source, Span};
