//! A PDP that answers the decision APIs, as a user runs it: identities from files, link
//! policies and tokens of the test's own, an audit service for its records.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
};

use palisade_mesh::{snapshot::Digest, spiffe_id::TrustDomain, svid::Identity};
use serde_json::Value;
use tonic::transport::Channel;

use super::{Home, LIMIT, Running, authority::Authority, free_port, http, wait_for};

/// The token of the client `ci`.
pub const TOKEN: &str = "5f0c7a3e";

/// The PDP and its audit service.
pub struct Desk<'h> {
    pub home: &'h Home,
    pub authority: Authority,
    domain: TrustDomain,
    /// Over TLS.
    pub address: SocketAddr,
    /// In plain text.
    pub plain: SocketAddr,
    /// Where proxies get their policy.
    pub distribution: SocketAddr,
    /// Where records go.
    pub records: SocketAddr,
    _audit: Running,
    pub pdp: Running,
}

impl<'h> Desk<'h> {
    /// Starts it on the policies in the home, and waits until it decides.
    pub fn ready(home: &'h Home, domain: &str, links: &str) -> Self {
        Self::ready_with(home, domain, links, "")
    }

    /// As [`Desk::ready`], with more keys of `pdp.decisions`, one a line.
    pub fn ready_with(home: &'h Home, domain: &str, links: &str, more: &str) -> Self {
        Self::ready_beside(home, domain, links, more, "")
    }

    /// As [`Desk::ready_with`], with more keys of `audit`, one a line.
    pub fn ready_beside(
        home: &'h Home,
        domain: &str,
        links: &str,
        more: &str,
        of_audit: &str,
    ) -> Self {
        Self::start(home, domain, links, [more, of_audit, ""])
    }

    /// As [`Desk::ready`], with more keys of `pdp`, one a line.
    pub fn ready_with_pdp(home: &'h Home, domain: &str, links: &str, of_pdp: &str) -> Self {
        Self::start(home, domain, links, ["", "", of_pdp])
    }

    fn start(
        home: &'h Home,
        domain: &str,
        links: &str,
        [more, of_audit, of_pdp]: [&str; 3],
    ) -> Self {
        let authority = Authority::new(domain);
        for part in ["audit", "pdp"] {
            let leaf = authority.leaf(&format!("palisade/{part}"));
            authority.write(&leaf, &home.path(&format!("identity-{part}")));
        }
        fs::create_dir_all(home.path("links")).unwrap();
        fs::write(home.path("links/mine.cedar"), links).unwrap();
        let hash = Digest::of(TOKEN.as_bytes());
        fs::write(home.path("tokens"), format!("ci {hash}\n")).unwrap();
        let (audit, listen, address, plain) = (free_port(), free_port(), free_port(), free_port());
        let files = |part: &str| {
            format!(
                "identity:\n    files: {{ cert: identity-{part}/cert.pem, key: identity-{part}/key.pem, bundle: identity-{part}/bundle.pem }}\n"
            )
        };
        let of_audit: String = of_audit.lines().map(|line| format!("  {line}\n")).collect();
        let text = format!(
            "trust_domain: {domain}\nstate_dir: state-audit\naudit:\n  listen: {audit}\n  {}{of_audit}",
            files("audit")
        );
        fs::write(home.path("audit.yaml"), text).unwrap();
        let of_pdp: String = of_pdp.lines().map(|line| format!("  {line}\n")).collect();
        let more: String = more.lines().map(|line| format!("    {line}\n")).collect();
        let text = format!(
            "trust_domain: {domain}\nstate_dir: state-pdp\nlinks: links\npdp:\n  policies: policies\n  listen: {listen}\n  audit: {audit}\n  {}  decisions:\n    listen: {address}\n    tokens: tokens\n    insecure_loopback: {plain}\n{more}{of_pdp}",
            files("pdp")
        );
        fs::write(home.path("pdp.yaml"), text).unwrap();
        let (distribution, records) = (listen, audit);
        let audit = home.start("audit", &["run", "audit", "--config", "audit.yaml"]);
        let pdp = home.start("pdp", &["run", "pdp", "--config", "pdp.yaml"]);
        let desk = Self {
            home,
            authority,
            domain: TrustDomain::parse(domain).unwrap(),
            address,
            plain,
            distribution,
            records,
            _audit: audit,
            pdp,
        };
        wait_for("a PDP that decides", LIMIT, || {
            let reply = desk.try_post("/access/v1/evaluation", &[], "{\"subject\":{\"type\":\"workload\",\"id\":\"\"},\"action\":{\"name\":\"GET\"},\"resource\":{\"type\":\"url\",\"id\":\"x\"}}");
            reply.ok().filter(|reply| reply.status != 503).map(|_| ())
        });
        desk
    }

    /// An identity of this trust domain.
    pub fn identity(&self, path: &str) -> Identity {
        self.authority.trusting(&self.authority.leaf(path))
    }

    /// A gRPC channel as the workload `path`.
    pub fn channel(&self, path: &str) -> Channel {
        let expected = self.domain.role("pdp");
        palisade::net::tls::channel(self.address, &expected, &self.identity(path))
    }

    fn try_post(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<http::Reply> {
        let bearer = format!("Bearer {TOKEN}");
        let mut all = vec![
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        all.retain(|(name, _)| fields.iter().all(|(other, _)| other != name));
        all.extend(fields.iter().filter(|(_, value)| !value.is_empty()));
        request(&mut http::connect(self.plain)?, "POST", path, &all, body)
    }

    /// Posts JSON with the token of `ci`; a field that is named replaces its default, an
    /// empty one takes it away.
    pub fn post(&self, path: &str, fields: &[(&str, &str)], body: &str) -> http::Reply {
        self.try_post(path, fields, body).unwrap()
    }

    /// Posts JSON and expects 200.
    pub fn answer(&self, path: &str, body: &str) -> Value {
        let reply = self.post(path, &[], body);
        assert_eq!(reply.status, 200, "{body}: {reply:?}");
        reply.json()
    }

    /// The record of a decision, once it can be searched.
    pub fn record(&self, id: &str) -> Value {
        wait_for("the record of an answer", LIMIT, || {
            let rows = self.home.rows(&format!("id:{id} last:1h"))?;
            rows.into_iter().next()
        })
    }
}

/// One request, one answer.
pub fn request(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> std::io::Result<http::Reply> {
    let host = fields.iter().any(|(name, _)| *name == "host");
    let own = ("host", "pdp.example.com");
    let fields: String = (!host)
        .then_some(&own)
        .into_iter()
        .chain(fields)
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nconnection: close\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    http::parse(&answer)
        .ok_or_else(|| std::io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
}
