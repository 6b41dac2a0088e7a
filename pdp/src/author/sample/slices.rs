//! What a proxy makes of a slice: everything that concerns it, or nothing.

use palisade_mesh::{catalogue::ServiceId, spiffe_id::SpiffeId};

use super::*;
use crate::{bundle::codes as of_bundle, compiled::Coverage};

const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

/// The sample's bundle without the groups for which `left_out` holds.
fn without(left_out: impl Fn(&str) -> bool) -> Bytes {
    let compiled = load(&sample()).compiled.unwrap();
    let mut bundle = Bundle::decode(compiled.bundle).unwrap();
    let groups = bundle.groups.iter_mut().filter(|g| left_out(&g.scope));
    groups.for_each(|g| g.policies.clear());
    bundle.encode_to_vec().into()
}

fn orders() -> SpiffeId {
    SpiffeId::parse(ORDERS).unwrap()
}

#[test]
fn a_slice_compiles_to_what_concerns_its_service() {
    let whole = load(&sample()).compiled.unwrap();
    let bytes = without(|scope| scope != "*" && !scope.contains("shop/orders"));
    let slice = compile_slice(bytes.clone(), &orders());
    assert_eq!(slice.diagnostics, []);
    let slice = slice.compiled.unwrap();
    assert_eq!(slice.digest, whole.digest);
    let own = ServiceId::new(&whole.trust_domain, "shop", "orders");
    assert_eq!(slice.coverage, Coverage::Service(Some(own)));
    assert!(slice.info.len() < whole.info.len());
    // What is there is told as the whole tells it, to the line.
    for (id, info) in &slice.info {
        assert_eq!(info, &whole.info[id]);
    }
    assert!(slice.entities.deep_eq(&whole.entities));
    // Nobody else can use it, and nobody takes it for the whole.
    let code = |loaded: Loaded| loaded.diagnostics.first().map(|d| d.code.0);
    assert_eq!(code(compile(bytes.clone())), Some(of_bundle::NOT_WHOLE));
    let web = SpiffeId::parse("spiffe://demo.test/ns/shop/sa/web").unwrap();
    assert_eq!(code(compile_slice(bytes, &web)), None);
    let inventory = SpiffeId::parse("spiffe://demo.test/ns/shop/sa/inventory").unwrap();
    let bytes = without(|scope| scope.contains("shop/inventory"));
    assert_eq!(
        code(compile_slice(bytes, &inventory)),
        Some(of_bundle::OMITTED)
    );
    let all = compile_slice(whole.bundle, &orders()).compiled.unwrap();
    assert_eq!(all.coverage, Coverage::Whole);
}

/// Attack T104: whatever part of what concerns a proxy is missing.
#[test]
fn an_omitted_guard_rail_is_refused() {
    let dir = copy();
    let forbid = |id: &str, resource: &str| {
        format!(
            "@id(\"{id}\")\n@allow(\"impossible-policy\")\nforbid (principal, action, resource{resource}) when {{ false }};\n"
        )
    };
    let text = [
        forbid("any", ""),
        forbid("type", " is Operation"),
        forbid("own", " == Service::\"demo.test/shop/orders\""),
        forbid("operation", " == Operation::\"demo.test/shop/orders/list\""),
        forbid("namespace", " in Namespace::\"demo.test/shop\""),
        forbid("domain", " in TrustDomain::\"demo.test\""),
    ];
    write(dir.path(), "policies/rails.cedar", &text.concat());
    let compiled = load(dir.path()).compiled.unwrap();
    let bundle = Bundle::decode(compiled.bundle).unwrap();
    let mut refused = 0;
    for i in 0..bundle.groups.len() {
        let mut slice = bundle.clone();
        let rails = |g: &palisade_mesh::wire::policy::PolicyGroup| {
            g.policies.iter().any(|p| p.file == "policies/rails.cedar")
        };
        let matters = rails(&slice.groups[i]);
        slice.groups[i].policies.clear();
        let loaded = compile_slice(slice.encode_to_vec().into(), &orders());
        let code = loaded.diagnostics.iter().find(|d| d.is_error());
        if matters {
            assert_eq!(code.unwrap().code.0, of_bundle::OMITTED);
            refused += 1;
        }
    }
    assert_eq!(refused, 6);
}
