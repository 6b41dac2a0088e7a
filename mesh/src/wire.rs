//! Wire messages, generated from `mesh/proto` at build time.
//!
//! Nothing is written here by hand: the `.proto` files are the documentation.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]

/// `palisade.record.v1`: the record schema.
pub mod record {
    tonic::include_proto!("palisade.record.v1");
}

/// `palisade.audit.v1`: ingest and the envelope of a log leaf.
pub mod audit {
    tonic::include_proto!("palisade.audit.v1");
}

/// `palisade.policy.v1`: bundles and their distribution.
pub mod policy {
    tonic::include_proto!("palisade.policy.v1");
}

/// `palisade.ca.v1`: issuance for attested workloads.
pub mod ca {
    tonic::include_proto!("palisade.ca.v1");
}

/// `palisade.agent.v1`: what an agent tells the parts on its host.
pub mod agent {
    tonic::include_proto!("palisade.agent.v1");
}

/// `palisade.kill.v1`: the kill list.
pub mod kill {
    tonic::include_proto!("palisade.kill.v1");
}

/// `palisade.decide.v1`: the decision API of our own.
pub mod decide {
    tonic::include_proto!("palisade.decide.v1");
}

/// `envoy.service.auth.v3`: Envoy's external authorization, as far as it is used here.
pub mod ext_authz {
    tonic::include_proto!("envoy.service.auth.v3");
}

/// The SPIFFE Workload API; the standard gives it no package.
pub mod workload {
    tonic::include_proto!("_");
}
