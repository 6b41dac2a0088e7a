//! Compiles the wire messages in `proto/` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "record.proto",
        "audit.proto",
        "policy.proto",
        "ca.proto",
        "agent.proto",
        "kill.proto",
        "decide.proto",
        "ext_authz.proto",
        "workload.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".palisade.audit.v1.Batch.records")
        .bytes(".palisade.audit.v1.Envelope.record")
        .bytes(".palisade.policy.v1.Revision.bundle")
        .bytes(".palisade.policy.v1.SignedBundle.bundle")
        .compile_fds(descriptors)?;
    Ok(())
}
