//! Records as a syslog receiver gets them over TLS: each of them, through a receiver that
//! goes away and a service that is killed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use support::{
    Home, LIMIT, Running, free_port,
    lone::{self, search},
    records::decide_at,
    wait_for,
};

/// A certificate and its key for this host, written to `NAME.pem` and `NAME.key`.
fn certificate(home: &Home, name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(home.path(&format!("{name}.pem")), made.cert.pem()).unwrap();
    let key = made.signing_key.serialize_pem();
    fs::write(home.path(&format!("{name}.key")), key).unwrap();
    made
}

/// A receiver of our own: takes frames apart, and keeps the messages.
struct Receiver {
    address: SocketAddr,
    messages: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Receiver {
    /// At `address`, with this certificate; `clients` is whom it lets in, all where nobody.
    fn start(
        address: SocketAddr,
        made: &rcgen::CertifiedKey<rcgen::KeyPair>,
        clients: Option<&rcgen::CertifiedKey<rcgen::KeyPair>>,
        messages: Arc<Mutex<Vec<String>>>,
    ) -> Self {
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(client.cert.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                    .build()
                    .unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![made.cert.der().clone()];
        let config = builder
            .with_single_cert(chain, PrivateKeyDer::Pkcs8(key))
            .unwrap();
        let config = Arc::new(config);
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, kept) = (stop.clone(), messages.clone());
        let listener = wait_for("the receiver's port", LIMIT, || {
            TcpListener::bind(address).ok()
        });
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((tcp, _)) => {
                        tcp.set_nonblocking(false).unwrap();
                        tcp.set_read_timeout(Some(Duration::from_millis(20)))
                            .unwrap();
                        let session = ServerConnection::new(config.clone()).unwrap();
                        let _ = receive(StreamOwned::new(session, tcp), &ended, &kept);
                    }
                    Err(_) => thread::park_timeout(Duration::from_millis(10)),
                }
            }
        });
        Self {
            address,
            messages,
            stop,
            thread: Some(thread),
        }
    }

    fn messages(&self) -> Vec<String> {
        self.messages.lock().unwrap().clone()
    }

    /// Goes away without a word.
    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn receive(
    mut stream: StreamOwned<ServerConnection, std::net::TcpStream>,
    ended: &AtomicBool,
    kept: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    while !ended.load(Ordering::Relaxed) {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(e) => return Err(e),
        }
        while let Some(blank) = buffer.iter().position(|b| *b == b' ') {
            let len: usize = std::str::from_utf8(&buffer[..blank])
                .unwrap()
                .parse()
                .unwrap();
            if buffer.len() < blank + 1 + len {
                break;
            }
            let message = String::from_utf8(buffer[blank + 1..blank + 1 + len].to_vec()).unwrap();
            kept.lock().unwrap().push(message);
            buffer.drain(..blank + 1 + len);
        }
    }
    if !ended.load(Ordering::Relaxed) {
        // Everything has been read: that is said.
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }
    Ok(())
}

/// Index in the log of each message.
fn entries(messages: &[String]) -> Vec<u64> {
    let entry = |message: &String| {
        let (_, json) = message.split_once("] ").unwrap();
        let row: Value = serde_json::from_str(json).unwrap();
        row["entry"].as_u64().unwrap()
    };
    messages.iter().map(entry).collect()
}

/// An audit service alone, that forwards to `address`.
fn start(home: &Home, address: SocketAddr, more: &str) -> Running {
    let syslog = format!("  syslog:\n    address: {address}\n    ca: receiver.pem\n{more}");
    lone::configure(home, &syslog);
    lone::start(home)
}

fn status(home: &Home) -> Value {
    home.json(&["status"])["audit"][0]["syslog"].clone()
}

fn len(home: &Home) -> u64 {
    home.json(&["status"])["audit"][0]["records"]
        .as_u64()
        .unwrap()
}

/// Waits until everything up to now has arrived; all entries that did.
fn all_arrived(home: &Home, receiver: &Receiver) -> Vec<u64> {
    let wanted = len(home) - 1;
    wait_for("every record", LIMIT, || {
        let entries = entries(&receiver.messages());
        entries.contains(&wanted).then_some(entries)
    })
}

/// Nothing is left out and, while nothing breaks, nothing comes twice.
#[test]
fn every_record_arrives_through_a_receiver_that_goes_away_and_a_kill() {
    let home = Home::new();
    let made = certificate(&home, "receiver");
    let messages: Arc<Mutex<Vec<String>>> = Arc::default();
    let any = "127.0.0.1:0".parse().unwrap();
    let mut receiver = Receiver::start(any, &made, None, messages.clone());
    let address = receiver.address;
    let mut audit = start(&home, address, "");
    for _ in 0..5 {
        search(&home);
    }
    let before = all_arrived(&home, &receiver);
    let first = before[0];
    assert_eq!(
        before,
        (first..first + before.len() as u64).collect::<Vec<_>>()
    );
    assert_eq!(status(&home)["connected"], true);
    assert!(receiver.messages()[0].starts_with("<1"));

    // Away, and records come; then the service is killed, and the receiver is back.
    receiver.end();
    for _ in 0..5 {
        search(&home);
    }
    wait_for("a loss that is noticed", LIMIT, || {
        status(&home)["fault"].is_string().then_some(())
    });
    audit.kill();
    let receiver = Receiver::start(address, &made, None, messages.clone());
    let mut audit = lone::start(&home);
    search(&home);
    let mut seen = all_arrived(&home, &receiver);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (first..=*seen.last().unwrap()).collect::<Vec<_>>());

    // An end in order leaves nothing to be said twice.
    let last = *seen.last().unwrap();
    audit.end();
    let told = entries(&receiver.messages()).len();
    let mut audit = lone::start(&home);
    search(&home);
    let after = all_arrived(&home, &receiver)[told..].to_vec();
    assert!(
        after.iter().all(|entry| *entry > last),
        "{after:?} after {last}"
    );
    let mut once = after.clone();
    once.dedup();
    assert_eq!(once, after);
    audit.end();
}

/// A receiver under other roots gets nothing; one that wants a certificate gets it.
#[test]
fn receivers_are_verified_and_verify() {
    let home = Home::new();
    let (made, other) = (certificate(&home, "receiver"), certificate(&home, "other"));
    let messages: Arc<Mutex<Vec<String>>> = Arc::default();
    let any = "127.0.0.1:0".parse().unwrap();
    let mut stranger = Receiver::start(any, &other, None, messages.clone());
    let address = stranger.address;
    let client = "    cert: other.pem\n    key: other.key\n    query: class:audit_read\n";
    let mut audit = start(&home, address, client);
    search(&home);
    wait_for("a refusal", LIMIT, || {
        status(&home)["fault"].is_string().then_some(())
    });
    assert_eq!(stranger.messages(), Vec::<String>::new());
    stranger.end();
    let receiver = Receiver::start(address, &made, Some(&other), messages);
    wait_for("what was asked for", LIMIT, || {
        (!receiver.messages().is_empty()).then_some(())
    });
    assert!(
        receiver
            .messages()
            .iter()
            .all(|m| m.contains("class=\"audit_read\""))
    );
    audit.end();
}

/// `audit export` sends what a query asks for, once, and says how much.
#[test]
fn an_export_goes_to_a_receiver() {
    let home = Home::new();
    let made = certificate(&home, "receiver");
    let any = "127.0.0.1:0".parse().unwrap();
    let receiver = Receiver::start(any, &made, None, Arc::default());
    let mut audit = start(&home, free_port(), "");
    for _ in 0..3 {
        search(&home);
    }
    let to = format!("syslog+tls://{}", receiver.address);
    let export = [
        "audit",
        "export",
        "class:audit_read verb:search last:1h",
        "--to",
        &to,
        "--ca",
        "receiver.pem",
    ];
    let done = home.json(&export);
    // The question how many there are may be one of them.
    let sent = done["records"].as_u64().unwrap();
    assert!(sent >= 3, "{done}");
    assert_eq!(done["confirmed"], true, "{done}");
    wait_for("every message", LIMIT, || {
        (receiver.messages().len() as u64 == sent).then_some(())
    });
    for (args, code) in [
        (&["--to", &to, "--format", "csv"][..], "PLS7702"),
        (&["--to", "syslog+tls://nowhere"], "PLS7720"),
        (&["--to", &to, "--resume"], "PLS7705"),
    ] {
        let said = home.says(&[&["audit", "export", "class:*"], args].concat(), 3);
        assert!(said.contains(code), "{args:?}: {said}");
    }
    let gone = format!("syslog+tls://{}", free_port());
    let said = home.says(
        &[
            "audit",
            "export",
            "class:*",
            "--to",
            &gone,
            "--ca",
            "receiver.pem",
        ],
        1,
    );
    assert!(said.contains("PLS7724"), "{said}");
    audit.end();
}

/// rsyslog, as Debian has it, writes what it gets to a file: records, and events of OCSF.
#[test]
#[ignore = "needs rsyslogd with its gtls or ossl driver; .ci/run installs it"]
fn rsyslog_takes_the_records() {
    let home = Home::new();
    certificate(&home, "receiver");
    let (address, out) = (free_port(), home.path("received"));
    let file = |name: &str| home.path(name).display().to_string();
    let config = format!(
        "global(DefaultNetstreamDriver=\"ossl\" DefaultNetstreamDriverCAFile=\"{}\" DefaultNetstreamDriverCertFile=\"{}\" DefaultNetstreamDriverKeyFile=\"{}\" workDirectory=\"{}\")\nmodule(load=\"imtcp\" StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"anon\")\ntemplate(name=\"whole\" type=\"string\" string=\"%pri-text%|%hostname%|%app-name%|%msgid%|%structured-data%|%msg%\\n\")\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"{}\")\naction(type=\"omfile\" file=\"{}\" template=\"whole\")\n",
        file("receiver.pem"),
        file("receiver.pem"),
        file("receiver.key"),
        file("run"),
        address.port(),
        out.display()
    );
    fs::write(home.path("rsyslog.conf"), config).unwrap();
    let pid = home.path("rsyslog.pid");
    let mut rsyslog = Command::new("rsyslogd")
        .args([
            "-n",
            "-f",
            &file("rsyslog.conf"),
            "-i",
            pid.to_str().unwrap(),
        ])
        .spawn()
        .unwrap();
    wait_for("rsyslog", LIMIT, || {
        std::net::TcpStream::connect(address).ok()
    });
    let mut audit = start(&home, address, "");
    for _ in 0..5 {
        search(&home);
    }
    let wanted = len(&home) - 1;
    let text = wait_for("every record", LIMIT, || {
        let text = fs::read_to_string(&out).ok()?;
        text.contains(&format!("entry=\"{wanted}\""))
            .then_some(text)
    });
    audit.end();
    let events = rsyslog_takes_events(&home, address, &out, text.lines().count());
    rsyslog.kill().unwrap();
    rsyslog.wait().unwrap();
    are_events(&events);
    let line = text
        .lines()
        .find(|line| line.contains("|audit_read|"))
        .unwrap();
    let parts: Vec<&str> = line.splitn(6, '|').collect();
    // What it calls facility 13, and a severity of its list.
    let (facility, severity) = parts[0].split_once('.').unwrap();
    assert!(matches!(facility, "audit" | "logaudit" | "13"), "{line}");
    let severities = [
        "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
    ];
    assert!(
        severities.iter().any(|word| severity.starts_with(word)),
        "{line}"
    );
    assert_eq!(parts[1], "acme.test");
    assert_eq!(parts[2], "palisade");
    assert!(parts[4].starts_with("[palisade@32473 entry=\""), "{line}");
    let row: Value = serde_json::from_str(parts[5].trim()).unwrap();
    assert_eq!(row["class"], "audit_read");
}

/// Paths of decisions; one has what must not break a line.
const PATHS: [&str; 3] = ["/orders/1", "/tr\u{e4}ger\n\u{202e}<13>1 -", "/last"];

/// Goes on with events of OCSF; every line that came after the first `told`.
fn rsyslog_takes_events(home: &Home, to: SocketAddr, out: &Path, told: usize) -> Vec<String> {
    let log = home.path("state/audit/log");
    let reporter = "spiffe://acme.test/ns/shop/sa/orders";
    let now = jiff::Timestamp::now().as_microsecond();
    for (number, path) in (1..).zip(PATHS) {
        decide_at(&log, reporter, number, path, now);
        // Its searches are no decisions.
        let mut audit = start(home, to, "    format: ocsf\n");
        search(home);
        audit.end();
    }
    // The last one comes after all that was told before it.
    let mut audit = lone::start(home);
    let lines = wait_for("the last decision", LIMIT, || {
        let text = fs::read_to_string(out).ok()?;
        let lines = text.lines().skip(told).map(str::to_owned);
        let lines: Vec<String> = lines.collect();
        lines
            .last()?
            .contains(PATHS[PATHS.len() - 1])
            .then_some(lines)
    });
    audit.end();
    lines
}

/// That each line is the event of a decision, with its path as it was.
fn are_events(lines: &[String]) {
    let paths = lines.iter().map(|line| {
        let parts: Vec<&str> = line.splitn(6, '|').collect();
        assert_eq!(parts[3], "decision", "{line}");
        assert!(parts[4].starts_with("[palisade@32473 entry=\""), "{line}");
        assert!(parts[5].is_ascii(), "{line}");
        let event: Value = serde_json::from_str(parts[5].trim()).unwrap();
        assert_eq!(event["class_uid"], 6003, "{line}");
        event["http_request"]["url"]["path"]
            .as_str()
            .unwrap()
            .to_owned()
    });
    assert_eq!(paths.collect::<Vec<_>>(), PATHS);
}
