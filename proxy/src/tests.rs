//! Stories over real sockets: a whole proxy, an application, callers with and
//! without an identity.

mod chain;
mod cost;
mod drain;
mod enforcement;
mod hygiene;
mod masks;
mod modes;
mod paths;
mod records;
mod shadow;
mod smuggling;
mod streams;
mod succession;
mod support;
mod upstream;
