//! Running it (T90 to T95): what a caller can make grow, read, steer or exhaust.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    path::Path,
};

use rcgen::SanType;

use crate::{
    guarded::{Guarded, Setting, WEB, of_class, request, status},
    support::{LIMIT, http, wait_for},
};

const PUBLIC: &str = "GET /public/x HTTP/1.1\r\nhost: orders";

/// Names and labels of every series.
fn series(metrics: &str) -> BTreeSet<String> {
    let samples = metrics.lines().filter(|l| !l.starts_with('#'));
    let names = samples.filter_map(|l| l.rsplit_once(' '));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn t90_hosts_and_paths_make_no_series() {
    const REQUESTS: usize = 100_000;
    const AT_ONCE: usize = 200;
    let guarded = Guarded::start();
    let config = Guarded::config(&guarded.authority.leaf(WEB), &[]);
    for head in [
        PUBLIC,
        "GET /x HTTP/1.1\r\nhost: a",
        "GET /a%2fb HTTP/1.1\r\nhost: a",
    ] {
        guarded.status(head);
    }
    let before = series(&guarded.admin("GET", "/metrics").body);
    let mut stream = guarded.dial(&config, "orders");
    for batch in 0..REQUESTS / AT_ONCE {
        let heads: String = (0..AT_ONCE)
            .map(|n| {
                let n = batch * AT_ONCE + n;
                let host = match n % 2 {
                    0 => "orders".to_owned(),
                    _ => format!("h{n}.evil.test"),
                };
                format!("GET /p{n}/x HTTP/1.1\r\nhost: {host}\r\nuser-agent: u{n}\r\n\r\n")
            })
            .collect();
        stream.write_all(heads.as_bytes()).unwrap();
        let mut answers = 0;
        let mut tail = Vec::new();
        let mut buffer = [0; 64 * 1024];
        while answers < AT_ONCE {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "closed after {answers} of batch {batch}");
            tail.extend_from_slice(&buffer[..read]);
            let found = tail.windows(11).filter(|w| w == b"HTTP/1.1 40").count();
            answers += found;
            let keep = tail.len().saturating_sub(10);
            tail.drain(..keep);
        }
    }
    let metrics = guarded.admin("GET", "/metrics").body;
    assert!(
        metrics.contains("palisade_requests_total 100003"),
        "{metrics}"
    );
    let new: Vec<_> = series(&metrics).difference(&before).cloned().collect();
    assert!(new.len() <= 2, "{new:?}");
    assert!(!metrics.contains("evil"), "{metrics}");
    assert_eq!(guarded.app.seen().len(), 1);
}

#[test]
fn t91_the_admin_port_changes_nothing() {
    let guarded = Guarded::start();
    for path in [
        "/shutdown",
        "/quitquitquit",
        "/drain",
        "/livez",
        "/state",
        "/logging",
    ] {
        for method in ["POST", "PUT", "DELETE"] {
            let status = guarded.admin(method, path).status;
            assert!([404, 405].contains(&status), "{method} {path}: {status}");
        }
    }
    assert_eq!(guarded.admin("GET", "/readyz").status, 200);
    assert_eq!(guarded.status(PUBLIC), 200);
}

#[test]
fn t92_no_dump_shows_keys_or_the_environment() {
    let guarded = Guarded::start();
    let pem = fs::read_to_string(guarded.home.path("identity/key.pem")).unwrap();
    let key = pem.lines().nth(1).unwrap().to_owned();
    for path in ["/state", "/metrics", "/livez", "/readyz"] {
        let body = guarded.admin("GET", path).body;
        for secret in [key.as_str(), "PRIVATE KEY", "XDG_RUNTIME_DIR", "PATH="] {
            assert!(!body.contains(secret), "{path} shows {secret}");
        }
    }
    for path in [
        "/env.json",
        "/env",
        "/config_dump",
        "/debug/pprof",
        "/proc/self/environ",
        "/",
    ] {
        assert_eq!(guarded.admin("GET", path).status, 404, "{path}");
    }
    for name in ["evil.test", "orders"] {
        let reply = http::send(guarded.admin, "GET", name, "/state", "").unwrap();
        assert_eq!(reply.status, 421, "{name}");
    }
}

/// Whatever a caller writes, neither records nor the log hold a byte that steers a
/// terminal, and no answer repeats markup.
#[test]
fn t93_no_text_of_a_caller_steers_a_terminal_or_a_page() {
    let guarded = Guarded::start();
    let config = Guarded::config(&guarded.authority.leaf(WEB), &[]);
    for head in [
        "GET /public/\x1b[31mred HTTP/1.1\r\nhost: orders",
        "GET /public/%1b%5b31mred HTTP/1.1\r\nhost: orders",
        "GET /public/<script>alert(1)</script> HTTP/1.1\r\nhost: orders",
        "GET /public/%0d%0aset-cookie:x HTTP/1.1\r\nhost: orders",
        "GET /public/x HTTP/1.1\r\nhost: <b>orders</b>",
        "GET /public/x HTTP/1.1\r\nhost: orders\r\nuser-agent: \x1b]0;title\x07",
        "GET /public/x?<script>\u{202e} HTTP/1.1\r\nhost: orders",
        "G\x1bT /public/x HTTP/1.1\r\nhost: orders",
        "<b> /public/x HTTP/1.1\r\nhost: orders",
    ] {
        let answer = guarded.raw(&config, &request(head)).unwrap();
        assert!((400..=501).contains(&status(&answer)), "{head:?}: {answer}");
        for steering in ["\x1b", "<script>", "<b>", "\u{202e}", "\r\nset-cookie"] {
            assert!(!answer.contains(steering), "{head:?}: {answer}");
        }
    }
    let names = SanType::URI("spiffe://acme.test/\x1b[2J\r\n<b>".try_into().unwrap());
    let leaf = guarded
        .authority
        .spoilt(|p| p.subject_alt_names = vec![names]);
    assert!(
        guarded
            .raw(&Guarded::config(&leaf, &[]), &request(PUBLIC))
            .is_err()
    );
    assert_eq!(guarded.app.seen(), [""; 0]);
    let metrics = guarded.admin("GET", "/metrics").body;
    let (rows, _, printed) = guarded.end();
    assert!(of_class(&rows, "decision").len() >= 8);
    for (name, value) in rows.iter().flat_map(|r| r.values()) {
        let text = serde_json::to_string(value).unwrap();
        let hostile = |c: char| c.is_control() || c == '\u{202e}';
        assert!(
            !text.contains(hostile) && !text.contains("\\u001b"),
            "{name}: {text}"
        );
    }
    let steering = |c: char| c.is_control() && c != '\n';
    assert!(!printed.contains(steering), "{printed:?}");
    assert!(!metrics.contains(steering), "{metrics:?}");
}

/// Running out of descriptors is no end: what is open is served, and when there is
/// room again so is what is new.
#[test]
fn t95_a_proxy_without_descriptors_waits_and_recovers() {
    let guarded = Guarded::set(&Setting {
        descriptors: Some(80),
        ..Setting::default()
    });
    let config = Guarded::config(&guarded.authority.leaf(WEB), &[]);
    let mut early = guarded.dial(&config, "orders");
    let keep_alive = format!("{}\r\n\r\n", "GET /admin/x HTTP/1.1\r\nhost: orders");
    let ask = |stream: &mut crate::guarded::Tls| {
        stream.write_all(keep_alive.as_bytes()).unwrap();
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).unwrap();
        status(&String::from_utf8_lossy(&buffer[..read]))
    };
    assert_eq!(ask(&mut early), 403);
    let flood: Vec<_> = (0..200)
        .map(|_| http::connect(guarded.inbound).unwrap())
        .collect();
    wait_for("an accept that fails", LIMIT, || {
        guarded
            .proxy
            .printed()
            .contains("cannot accept")
            .then_some(())
    });
    assert_eq!(ask(&mut early), 403, "an open connection is served");
    drop(flood);
    wait_for("a new connection", LIMIT, || {
        let answer = guarded.raw(&config, &request(PUBLIC)).ok()?;
        (status(&answer) == 200).then_some(())
    });
    let metrics = guarded.admin("GET", "/metrics").body;
    assert!(
        metrics.contains("palisade_accept_errors_total{reason=\"system\"}"),
        "{metrics}"
    );
}

/// What callers keep secret is in no file of ours: neither query strings, nor header
/// values, nor bodies (the audit study's leak scanner).
#[test]
fn secrets_of_callers_are_in_no_file() {
    const SECRET: &str = "s3cr3t-6f1d";
    let guarded = Guarded::start();
    for path in ["/public/x", "/admin/x", "/elsewhere", "/public/%2f"] {
        guarded.status(&format!(
            "GET {path}?token={SECRET} HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {SECRET}\r\ncookie: id={SECRET}\r\nx-tenant: {SECRET}"
        ));
    }
    assert!(guarded.app.seen()[0].contains(SECRET));
    let (rows, home, _) = guarded.end();
    assert_eq!(of_class(&rows, "decision").len(), 4);
    let mut folders = vec![home.path("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if entry.file_type().unwrap().is_file() {
                assert!(!holds(&path, SECRET), "{}", path.display());
            }
        }
    }
}

fn holds(file: &Path, secret: &str) -> bool {
    let bytes = fs::read(file).unwrap();
    bytes.windows(secret.len()).any(|w| w == secret.as_bytes())
}
