//! Palisade: the roof over proxy, pdp, ca and audit.
//!
//! Reads what was asked for ([`cli`]), what was configured ([`config`]), wires the
//! roles together ([`run`], [`demo`]), opens the links between them ([`net`]), and
//! answers people on the local socket ([`control`]) in a readable form ([`render`]).

pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod net;
pub mod render;
pub mod run;
