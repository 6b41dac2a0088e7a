//! A case that is one request: what is sent, what must come of it.

use palisade_mesh::wire::record::Verdict;

use super::{Door, Reply, Stage, h1, h2, records::Decided, upstream::Seen};

/// A request as an attacker writes it.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) host: &'static str,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Ask {
    pub(crate) fn new(method: &'static str, target: impl Into<String>) -> Self {
        Self {
            method,
            target: target.into(),
            host: "orders",
            fields: Vec::new(),
            body: String::new(),
        }
    }

    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    /// Under another host.
    pub(crate) fn host(mut self, host: &'static str) -> Self {
        self.host = host;
        self
    }

    /// With one more field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With more fields.
    pub(crate) fn fields(mut self, fields: &[(&str, &str)]) -> Self {
        for (name, value) in fields {
            self = self.field(name, value);
        }
        self
    }

    /// With a body and its length.
    pub(crate) fn body(mut self, body: &str) -> Self {
        self.body = body.to_owned();
        self.field("content-length", &body.len().to_string())
    }

    /// As HTTP/1.1; the last request of its connection.
    pub(crate) fn h1(&self) -> Vec<u8> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\n",
            self.method, self.target, self.host
        );
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self
            .fields
            .iter()
            .any(|(n, _)| n.eq_ignore_ascii_case("connection"))
        {
            text.push_str("connection: close\r\n");
        }
        text.push_str("\r\n");
        text.push_str(&self.body);
        text.into_bytes()
    }

    /// As the fields of HTTP/2, in the order and case given.
    pub(crate) fn h2(&self) -> Vec<(&str, &str)> {
        let mut fields = vec![
            (":method", self.method),
            (":scheme", "https"),
            (":authority", self.host),
            (":path", self.target.as_str()),
        ];
        fields.extend(self.fields.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        fields
    }
}

/// Names and values as the application sees them.
type Fields = Vec<(String, Vec<u8>)>;

/// What must come of a request.
#[derive(Debug, Clone)]
pub(crate) struct Expect {
    /// As it is answered; see [`refused_head`].
    pub(crate) status: u16,
    pub(crate) verdict: Verdict,
    pub(crate) reason: &'static str,
    /// Canonical path; `None` where there is none.
    pub(crate) path: Option<String>,
    /// Target and fields that the application sees, beside ours.
    pub(crate) upstream: Option<(String, Fields)>,
}

impl Expect {
    /// Allowed: the application sees `target`.
    pub(crate) fn passes(target: &str) -> Self {
        let path = target.split('?').next().unwrap();
        Self {
            status: 200,
            verdict: Verdict::Allow,
            reason: "permitted",
            path: Some(path.to_owned()),
            upstream: Some((target.to_owned(), Vec::new())),
        }
    }

    /// And it sees these fields beside those that every request has.
    pub(crate) fn with(mut self, fields: &[(&str, &str)]) -> Self {
        if let Some((_, seen)) = &mut self.upstream {
            let bytes = |(n, v): &(&str, &str)| ((*n).to_owned(), v.as_bytes().to_vec());
            seen.extend(fields.iter().map(bytes));
        }
        self
    }

    /// A `forbid` matched at the canonical `path`.
    pub(crate) fn forbidden(path: &str) -> Self {
        Self {
            status: 403,
            verdict: Verdict::Forbidden,
            reason: "forbidden",
            path: Some(path.to_owned()),
            upstream: None,
        }
    }

    /// No permit matched at the canonical `path`.
    pub(crate) fn not_permitted(path: &str) -> Self {
        Self {
            verdict: Verdict::NotPermitted,
            reason: "no_permit",
            ..Self::forbidden(path)
        }
    }

    /// Answered before any decision.
    pub(crate) fn refused(status: u16, reason: &'static str) -> Self {
        Self {
            status,
            verdict: Verdict::Refused,
            reason,
            path: None,
            upstream: None,
        }
    }

    /// No HTTP at all.
    pub(crate) fn malformed() -> Self {
        Self::refused(400, "malformed")
    }
}

/// A head that HTTP/2 itself refuses (RFC 9113 section 8.1.1): the stream is reset.
pub(crate) fn refused_head() -> Expect {
    Expect::refused(400, "head_refused")
}

/// Fields that HPACK's decoder does not take: the connection is ended, for its state
/// cannot be known any more (RFC 9113 section 4.3).
pub(crate) fn broken_fields() -> Expect {
    Expect::refused(400, "http2_violation")
}

impl Stage {
    /// Sends `ask` through each door and checks answer, application and record.
    pub(crate) fn check(&self, ask: &Ask, doors: &[Door], expect: &Expect) {
        for door in doors {
            self.forget();
            let what = format!("{door:?} {ask:?}");
            let reply = self.ask(*door, ask);
            self.check_answer(&what, &reply, expect);
            let seen = self.seen();
            let asked = self.asked();
            if !door.is_inbound() && expect.verdict == Verdict::Refused {
                // The calling side has refused it; the destination never heard of it.
                assert_eq!(self.records.decisions(), [], "{what}");
                assert_eq!((seen, asked), (vec![], vec![]), "{what}");
                continue;
            }
            let decisions = self.decisions(1);
            let [decided] = &decisions[..] else {
                panic!("{what}: {decisions:?}");
            };
            check_record(&what, decided, expect);
            let paths: Vec<&str> = asked.iter().map(|a| a.path.as_str()).collect();
            match &expect.path {
                Some(path) => assert_eq!(paths, [path.as_str()], "asked: {what}"),
                None => assert!(paths.is_empty(), "{what}: {paths:?}"),
            }
            match &expect.upstream {
                Some((target, fields)) => {
                    let [seen] = &seen[..] else {
                        panic!("{what}: {seen:?}");
                    };
                    check_seen(&what, ask, seen, target, fields, decided);
                }
                None => assert_eq!(seen, [], "{what}"),
            }
        }
    }

    /// Sends one request on a connection of its own.
    pub(crate) fn ask(&self, door: Door, ask: &Ask) -> Reply {
        if door.is_h2() {
            let mut connection = h2::Connection::open(self.wire(door));
            return connection.ask(1, &ask.h2(), ask.body.as_bytes());
        }
        let mut replies = h1::exchange(&mut self.wire(door), &ask.h1());
        assert_eq!(replies.len(), 1, "{door:?} {ask:?}: {replies:?}");
        replies.remove(0)
    }

    fn check_answer(&self, what: &str, reply: &Reply, expect: &Expect) {
        if expect.reason == "http2_violation" {
            assert_eq!(
                (reply.status, reply.goaway),
                (0, Some(h2::PROTOCOL_ERROR)),
                "{what}"
            );
            return;
        }
        // What HTTP/2 itself calls malformed is answered by a reset.
        if expect.reason == "head_refused" {
            assert_eq!(
                (reply.status, reply.reset),
                (0, Some(h2::PROTOCOL_ERROR)),
                "{what}"
            );
            return;
        }
        assert_eq!(reply.status, expect.status, "{what}: {reply:?}");
        // hyper's own answers carry nothing of ours.
        if matches!(expect.reason, "malformed" | "head_too_large") {
            return;
        }
        let refused = reply.field("palisade-refused");
        if expect.upstream.is_none() {
            assert_eq!(refused, Some(expect.reason), "{what}: {reply:?}");
        } else {
            assert_eq!(refused, None, "{what}");
        }
    }
}

fn check_record(what: &str, decided: &Decided, expect: &Expect) {
    assert_eq!(
        (decided.verdict, decided.reason.as_str()),
        (expect.verdict, expect.reason),
        "{what}: {decided:?}"
    );
    if let Some(path) = &expect.path {
        assert_eq!(&decided.path, path, "recorded: {what}");
    }
}

fn check_seen(
    what: &str,
    ask: &Ask,
    seen: &Seen,
    target: &str,
    fields: &[(String, Vec<u8>)],
    decided: &Decided,
) {
    assert_eq!(
        seen.line,
        format!("{} {target} HTTP/1.1", ask.method),
        "{what}"
    );
    assert_eq!(decided.method, ask.method, "{what}");
    assert_eq!(seen.body, ask.body.as_bytes(), "{what}");
    assert!(seen.behind.is_empty(), "{what}: {seen:?}");
    let mut expected = fields.to_vec();
    expected.push(("host".into(), decided.host.clone().into_bytes()));
    expected.push((
        "palisade-decision-id".into(),
        decided.id.clone().into_bytes(),
    ));
    let (certs, mut rest): (Vec<_>, Vec<_>) = seen
        .fields
        .iter()
        .cloned()
        .partition(|(n, _)| n == "x-forwarded-client-cert");
    assert_eq!(certs.len(), 1, "{what}: {seen:?}");
    let cert = String::from_utf8_lossy(&certs[0].1).into_owned();
    assert!(
        cert.starts_with("By=spiffe://demo.test/ns/shop/sa/orders;Hash=")
            && cert.ends_with(&format!(";URI={}", decided.principal)),
        "{what}: {cert}"
    );
    // No body, as HTTP/1.1 says it of methods that may have one.
    if ask.body.is_empty() && ask.method != "GET" {
        rest.retain(|(n, v)| (n.as_str(), v.as_slice()) != ("content-length", b"0"));
    }
    expected.sort();
    rest.sort();
    assert_eq!(rest, expected, "{what}");
}
