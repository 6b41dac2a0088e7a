//! An Envoy asks our PDP about each request: mTLS caller → Envoy → PDP, so that the
//! principal is one that a handshake proved.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use support::{
    Home, LIMIT,
    decisions::{Desk, request},
    free_port, http, wait_for,
};

const DOMAIN: &str = "acme.test";
const WEB: &str = "ns/shop/sa/web";

const LINKS: &str = r#"
@id("the-edge-asserts-for-orders")
permit (principal is Workload, action == Action::"assert", resource)
when { principal.path == "/ns/edge/sa/envoy" && context.api == "ext_authz" && context has service && context.service == "acme.test/shop/orders" };
"#;

const FILES: &[(&str, &str)] = &[
    (
        "palisade.yaml",
        "trust_domain: acme.test\nheaders:\n  x-tenant: single\n",
    ),
    (
        "services/orders.yaml",
        "service: shop/orders\nidentities: [ns/shop/sa/orders]\nhosts: [orders]\noperations:\n  - { name: public, match: \"* /public/{*rest}\" }\n  - { name: admin, match: \"* /admin/{*rest}\" }\n  - { name: tenant, match: GET /tenant }\n",
    ),
    (
        "services/web.yaml",
        "service: shop/web\nidentities: [ns/shop/sa/web]\nhosts: [web]\n",
    ),
    (
        "policies/shop.cedar",
        r#"
@id("public")
permit (principal in Service::"acme.test/shop/web", action, resource == Operation::"acme.test/shop/orders/public");

@id("admin")
@deny_message("Not for you.")
forbid (principal, action, resource == Operation::"acme.test/shop/orders/admin");

@id("tenant")
permit (principal, action == Action::"GET", resource == Operation::"acme.test/shop/orders/tenant")
when { context.http.headers has "x-tenant" && context.http.headers["x-tenant"] == "gold" };
"#,
    ),
];

/// An application that answers with the head of the request that it got.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream.unwrap()));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        head.len()
    );
    let _ = stream.write_all(&head);
}

fn configuration(desk: &Desk<'_>, listen: SocketAddr, raw: bool) -> String {
    let app = application();
    let dir = desk.home.path("identity-edge");
    let tls = format!(
        "tls_certificates: [{{ certificate_chain: {{ filename: {0}/cert.pem }}, private_key: {{ filename: {0}/key.pem }} }}]",
        dir.display()
    );
    let bundle = format!("trusted_ca: {{ filename: {}/bundle.pem }}", dir.display());
    let at = |address: SocketAddr| {
        format!(
            "address: {{ socket_address: {{ address: {}, port_value: {} }} }}",
            address.ip(),
            address.port()
        )
    };
    let cluster = |name: &str, address: SocketAddr| {
        format!(
            "name: {name}\n    type: STATIC\n    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ {} }} }}] }}] }}",
            at(address)
        )
    };
    format!(
        r#"
static_resources:
  listeners:
  - {listen}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
            {tls}
            validation_context: {{ {bundle} }}
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts: [{{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: app }} }}] }}]
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              failure_mode_allow: false
              encode_raw_headers: {raw}
              clear_route_cache: true
              grpc_service: {{ envoy_grpc: {{ cluster_name: palisade }}, timeout: 5s }}
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - {app}
  - {pdp}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
          {tls}
          validation_context:
            {bundle}
            match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: "spiffe://acme.test/palisade/pdp" }} }}]
"#,
        listen = at(listen),
        app = cluster("app", app),
        pdp = cluster("palisade", desk.address),
    )
}

/// An Envoy that ends with the test.
struct Envoy(std::process::Child);

impl Envoy {
    fn start(desk: &Desk<'_>, listen: SocketAddr, raw: bool) -> Self {
        let program = std::env::var("PALISADE_TEST_ENVOY").expect("PALISADE_TEST_ENVOY names it");
        let file = desk.home.path(&format!("envoy-{raw}.yaml"));
        fs::write(&file, configuration(desk, listen, raw)).unwrap();
        let log = fs::File::create(desk.home.path(&format!("envoy-{raw}.log"))).unwrap();
        let child = Command::new(program)
            .args([
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "-l",
                "warning",
                "-c",
            ])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A request to the Envoy as the workload `path`.
fn call(
    desk: &Desk<'_>,
    envoy: SocketAddr,
    path: &str,
    target: &str,
    fields: &[(&str, &str)],
) -> std::io::Result<http::Reply> {
    let expected = palisade_mesh::spiffe_id::SpiffeId::parse("spiffe://acme.test/ns/edge/sa/envoy");
    let config = desk
        .identity(path)
        .client_config(&[expected.unwrap()], &[b"http/1.1"]);
    let name = rustls_pki_types::ServerName::IpAddress(envoy.ip().into());
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, http::connect(envoy)?);
    let mut all = vec![("host", "orders")];
    all.extend(fields);
    request(&mut stream, "GET", target, &all, "")
}

/// Allows and denies, under the canonical path, for the principal of the handshake.
#[test]
#[ignore = "needs Envoy (PALISADE_TEST_ENVOY), which .ci/run installs"]
fn envoy_with_ext_authz_allows_and_denies() {
    let home = Home::new();
    for (name, text) in FILES {
        let path = home.path("policies").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let desk = Desk::ready(&home, DOMAIN, LINKS);
    let edge = desk.authority.leaf("ns/edge/sa/envoy");
    desk.authority.write(&edge, &home.path("identity-edge"));
    for raw in [true, false] {
        let listen = free_port();
        let _envoy = Envoy::start(&desk, listen, raw);
        let said = || fs::read_to_string(home.path(&format!("envoy-{raw}.log"))).unwrap();
        let reply = wait_for("an Envoy that answers", LIMIT, || {
            let reply = call(&desk, listen, WEB, "/public/a", &[]).ok()?;
            (reply.status != 503).then_some(reply)
        });
        assert_eq!(reply.status, 200, "{reply:?}\n{}", said());
        // What the application got: our id, and who really called.
        let forged = [
            (
                "x-forwarded-client-cert",
                "URI=spiffe://acme.test/ns/shop/sa/orders",
            ),
            ("palisade-decision-id", "1"),
            ("x-palisade-principal", "orders"),
        ];
        let reply = call(&desk, listen, WEB, "/public/./a?q=1", &forged).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(
            reply.body.starts_with("GET /public/a?q=1 HTTP/1.1"),
            "{}",
            reply.body
        );
        let got = |name: &str| {
            let fields = reply.body.lines().filter_map(|line| line.split_once(": "));
            let mut named = fields.filter(|(n, _)| *n == name).map(|(_, value)| value);
            let first = named.next();
            assert!(named.next().is_none(), "{name} twice: {}", reply.body);
            first
        };
        let cert = got("x-forwarded-client-cert").unwrap();
        assert!(
            cert.ends_with("URI=spiffe://acme.test/ns/shop/sa/web"),
            "{cert}"
        );
        assert_eq!(got("x-palisade-principal"), None);
        let record = desk.record(got("palisade-decision-id").unwrap());
        assert_eq!(record["principal"], "spiffe://acme.test/ns/shop/sa/web");
        assert_eq!(record["asserted_by"], "spiffe://acme.test/ns/edge/sa/envoy");
        for (who, target, fields, expected) in [
            (WEB, "/admin/a", &[][..], 403),
            (WEB, "/public/../admin/a", &[], 403),
            (WEB, "/public/..%2fadmin", &[], 400),
            ("ns/shop/sa/orders", "/public/a", &[], 403),
            (WEB, "/nothing", &[], 403),
            (WEB, "/tenant", &[("x-tenant", "gold")], 200),
            (
                WEB,
                "/tenant",
                &[("x-tenant", "gold"), ("x-tenant", "gold")],
                if raw { 400 } else { 503 },
            ),
        ] {
            let reply = call(&desk, listen, who, target, fields).unwrap();
            assert_eq!(
                reply.status, expected,
                "{raw} {who} {target} {fields:?}: {reply:?}"
            );
            if expected != 200 {
                assert_eq!(
                    reply.header("content-type"),
                    Some("application/problem+json")
                );
                let id = reply.header("palisade-decision-id").unwrap();
                assert_eq!(reply.json()["decision_id"], id);
                assert_eq!(desk.record(id)["api"], "ext_authz");
            }
        }
        let reply = call(&desk, listen, WEB, "/admin/a", &[]).unwrap();
        assert_eq!(reply.json()["detail"], "Not for you.");
    }
}
