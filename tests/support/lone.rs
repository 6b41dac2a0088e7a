//! An audit service by itself, with an identity from files.

use std::{fs, net::SocketAddr};

use super::{Home, LIMIT, Running, authority::Authority, said, wait_for};

/// Writes `audit.yaml`, with this in the section `audit`, and the identity that it names.
pub fn configure(home: &Home, of_audit: &str) {
    configure_at(home, SocketAddr::from(([127, 0, 0, 1], 0)), of_audit);
}

/// The same of one that takes records at `listen`, from whom this authority has given an identity.
pub fn configure_at(home: &Home, listen: SocketAddr, of_audit: &str) -> Authority {
    let authority = Authority::new("acme.test");
    let leaf = authority.leaf("palisade/audit");
    authority.write(&leaf, &home.path("identity"));
    let text = format!(
        "trust_domain: acme.test\nstate_dir: state\naudit:\n  listen: {listen}\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n{of_audit}"
    );
    fs::write(home.path("audit.yaml"), text).unwrap();
    authority
}

/// Starts it as it is configured, and waits until it answers.
pub fn start(home: &Home) -> Running {
    let running = home.start("audit", &["run", "audit", "--config", "audit.yaml"]);
    wait_for("an audit service", LIMIT, || {
        home.run(&["status"]).status.success().then_some(())
    });
    running
}

/// Leaves one record, of a search.
pub fn search(home: &Home) {
    let output = home.run(&["audit", "search", "class:admin last:1h"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// Writes the repository `policies`, in which a service may call another.
pub fn policies(home: &Home) {
    let write = |name: &str, text: &str| {
        let path = home.path(&format!("policies/{name}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("palisade.yaml", "trust_domain: acme.test\n");
    write(
        "services/web.yaml",
        "service: shop/web\nidentities: [ns/shop/sa/web]\nhosts: [web]\n",
    );
    write(
        "services/orders.yaml",
        "service: shop/orders\nidentities: [ns/shop/sa/orders]\nhosts: [orders]\noperations:\n  - { name: open, match: \"* /open/{*rest}\" }\n",
    );
    write(
        "policies/shop.cedar",
        "@id(\"orders\") permit (principal, action, resource == Operation::\"acme.test/shop/orders/open\");\n",
    );
}
