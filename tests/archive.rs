//! Old segments in an archive, as whoever operates the audit service sees them go and come
//! back.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use palisade_audit::{
    log::{Log, LogOptions, Pending},
    stream::StreamKey,
};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{Decision, Record, record::Body},
};
use prost::Message as _;
use serde_json::Value;
use support::{Home, LIMIT, Running, authority::Authority, free_port, http::over_unix, wait_for};

const WEB: &str = "spiffe://acme.test/ns/shop/sa/web";
const OLD: u64 = 60;

/// The log of a service that ran a hundred days ago, in small segments; gives the id of the
/// first decision.
fn long_ago(dir: &Path) -> String {
    let start = jiff::Timestamp::now() - Duration::from_secs(100 * 86_400);
    let clock = Clock::manual(start);
    let options = LogOptions {
        segment_bytes: 1500,
        group_wait: Duration::ZERO,
        checkpoint_every: Duration::from_millis(20),
        ..LogOptions::new(TrustDomain::parse("acme.test").unwrap())
    };
    let log = Log::open(dir, options, clock.clone()).unwrap();
    let id = |n: u64| ulid::Ulid::from_parts(start.as_millisecond() as u64 + n, u128::from(n) << 8);
    let stream = Arc::new(StreamKey {
        reporter: SpiffeId::parse(WEB).unwrap(),
        boot: id(0),
        worker: 0,
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for n in 1..=OLD {
        let record = Record {
            id: id(n).to_bytes().to_vec(),
            time_us: clock.now_us(),
            reporter: WEB.into(),
            body: Some(Body::Decision(Decision {
                path: format!("/old/{n}"),
                ..Decision::default()
            })),
            ..Record::default()
        };
        let pending = Pending {
            stream: stream.clone(),
            sequence: n,
            record: record.encode_to_vec().into(),
        };
        let mut receipt = log.append(vec![pending]);
        runtime.block_on(receipt.durable()).unwrap();
    }
    log.close();
    id(1).to_string()
}

/// A home with that log, and an identity for its service.
fn home() -> (Home, String) {
    let home = Home::new();
    let authority = Authority::new("acme.test");
    let leaf = authority.leaf("palisade/audit");
    authority.write(&leaf, &home.path("identity"));
    let id = long_ago(&home.path("state/audit/log"));
    (home, id)
}

fn start(home: &Home, archive: &str) -> Running {
    start_with(home, archive, "")
}

fn start_with(home: &Home, archive: &str, more: &str) -> Running {
    let text = format!(
        "trust_domain: acme.test\nstate_dir: state\naudit:\n  listen: {}\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n  archive: {{ {archive} }}\n{more}",
        free_port()
    );
    fs::write(home.path("audit.yaml"), text).unwrap();
    let running = home.start("audit", &["run", "audit", "--config", "audit.yaml"]);
    wait_for("an audit service", LIMIT, || {
        home.run(&["status"]).status.success().then_some(())
    });
    running
}

fn rows(home: &Home, query: &str) -> Vec<Value> {
    let found = home.json(&["audit", "search", query, "-n", "1000"]);
    found["rows"].as_array().unwrap().clone()
}

/// What the service tells programs that collect numbers.
fn metrics(home: &Home) -> String {
    let socket = home.path("run/palisade/acme.test.audit.sock");
    over_unix(&socket, "/v1/audit/metrics").unwrap().body
}

/// The whole life of old segments: they go, all is read and proven as before, the log is
/// verified with them and says what it cannot read without, and they come back.
fn lives(home: &Home, id: &str) {
    let before = home.json(&["audit", "archive", "status"]);
    assert_eq!(before["moved"], 0);
    // What an auditor takes away.
    let earlier = home.path("earlier").display().to_string();
    fs::copy(home.path("state/audit/log/checkpoint"), &earlier).unwrap();
    assert!(before["here"].as_u64().unwrap() > 4, "{before}");
    let moved = home.json(&["audit", "archive", "run"]);
    assert_eq!(moved["faults"], serde_json::json!([]));
    let segments = moved["segments"].as_u64().unwrap();
    assert!(segments > 3, "{moved}");
    let again = home.json(&["audit", "archive", "run"]);
    assert_eq!(again["segments"], 0);
    let status = home.json(&["audit", "archive", "status"]);
    assert_eq!(status["moved"], segments);
    assert_eq!(status["fetched"], 0);
    let told = rows(home, "class:log_lifecycle verb:segments_moved last:1h");
    assert_eq!(told.len() as u64, segments);
    // A count needs no download, rows do.
    let counted = home.json(&["audit", "search", "class:decision last:200d | count"]);
    assert!(counted.to_string().contains(&OLD.to_string()), "{counted}");
    // Nor does a replay of a time that is here.
    let report = home.json(&["audit", "verify", "--replay", "last:1h"]);
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["replay"]["decisions"], 0, "{report}");
    let status = home.json(&["audit", "archive", "status"]);
    assert_eq!(status["fetched"], 0);
    assert_eq!(rows(home, "class:decision last:200d").len() as u64, OLD);
    assert_eq!(
        home.json(&["audit", "show", id])["rows"][0]["path"],
        "/old/1"
    );
    let report = home.json(&["audit", "verify", "--checkpoint", &earlier, "--replay"]);
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["moved"], segments);
    assert_eq!(report["earlier"][0]["standing"], "continued");
    assert_eq!(report["replay"]["decisions"], OLD);
    // A report over what is there and what is not, with the records that it rests on.
    let file = "evidence.tar.zst";
    let report = ["report", "run", "integrity", "--period", "last:200d"];
    home.json(&[&report[..], &["--to", file]].concat());
    let key = home.path("state/audit/log/checkpoint.pub");
    let verify = ["report", "verify", file, "--key", key.to_str().unwrap()];
    let said = home.says(&verify, 0);
    assert!(said.contains("✓ holds"), "{said}");
}

/// What stays of a log whose service has ended, with its archive and without.
fn is_verified_as_a_folder(home: &Home) {
    let dir = home.path("state/audit/log");
    let dir = dir.to_str().unwrap();
    let with = home.run(&[
        "audit",
        "verify",
        "--dir",
        dir,
        "--archive-config",
        "audit.yaml",
    ]);
    assert!(
        with.status.success(),
        "{}",
        String::from_utf8_lossy(&with.stdout)
    );
    let of = ["--archive-config", "audit.yaml", "--replay"];
    let replayed = home.json(&[&["audit", "verify", "--dir", dir], &of[..]].concat());
    assert_eq!(replayed["replay"]["decisions"], OLD, "{replayed}");
    let without = home.json(&["audit", "verify", "--dir", dir, "--replay"]);
    let failed = without["replay"]["failed"].to_string();
    assert!(failed.contains("PLS7585"), "{failed}");
    let without = home.run(&["audit", "verify", "--dir", dir]);
    assert!(!without.status.success());
    let said = String::from_utf8_lossy(&without.stdout).into_owned();
    for part in ["audit.archive", "could not be read", "not all was read"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("not what was signed"), "{said}");
}

/// Who is not the service's user would leave there what it cannot read.
fn a_folder_of_another_user_is_left_alone(home: &Home) {
    let dir = home.path("state/audit/log");
    let name = dir.to_str().unwrap();
    let of = ["--dir", name, "--archive-config", "audit.yaml"];
    let owner = fs::metadata(&dir).unwrap().uid();
    // Only who may give a folder away can try it out.
    if chown(&dir, Some(owner + 1), None).is_err() {
        return;
    }
    for what in ["restore", "adopt"] {
        let said = home.says(&[&["audit", "archive", what], &of[..]].concat(), 1);
        assert!(said.contains("PLS7595"), "{said}");
    }
    let files = fs::read_dir(dir.join("segments")).unwrap();
    let new = files.filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|e| e == "back")
    });
    assert_eq!(new.count(), 0);
    chown(&dir, Some(owner), None).unwrap();
}

/// What is altered is told as that.
fn an_altered_object_is_told_as_one(home: &Home, store: &Path) {
    let mut folder = store.join("acme.test");
    folder.push(
        fs::read_dir(&folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .file_name(),
    );
    let objects = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let object = objects
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .min();
    let object = object.unwrap();
    let bytes = fs::read(&object).unwrap();
    fs::write(&object, b"another's").unwrap();
    let dir = home.path("state/audit/log");
    let dir = dir.to_str().unwrap();
    let verify = [
        "audit",
        "verify",
        "--dir",
        dir,
        "--archive-config",
        "audit.yaml",
    ];
    let report = home.run(&verify);
    let said = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(
        !report.status.success() && said.contains("missing, or not what was signed"),
        "{said}"
    );
    fs::write(&object, bytes).unwrap();
    assert!(home.run(&verify).status.success());
}

/// What a server says of an error can have the request in it, with its token: its code is told,
/// and nothing else is kept anywhere.
#[test]
fn what_a_server_says_of_an_error_is_not_repeated() {
    const TOKEN: &str = "FwoGZXIvYXdzEBYaDHRva2Vu";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || refuse(&mut client, TOKEN));
        }
    });
    let (home, _) = home();
    let credentials = "[default]\naws_access_key_id = test\naws_secret_access_key = test\n";
    fs::write(home.path("s3"), credentials).unwrap();
    fs::set_permissions(home.path("s3"), fs::Permissions::from_mode(0o600)).unwrap();
    let archive =
        format!("url: 's3://acme-audit/log', endpoint: 'http://127.0.0.1:{port}', credentials: s3");
    let mut audit = start(&home, &archive);
    let run = home.run(&["audit", "archive", "run"]);
    assert!(!run.status.success());
    let mut all = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(
        all.contains("403") && all.contains("SignatureDoesNotMatch"),
        "{all}"
    );
    for args in [&["audit", "archive", "status"][..], &["check"], &["status"]] {
        all += &String::from_utf8_lossy(&home.run(args).stdout);
    }
    assert!(audit.end().success());
    all += &fs::read_to_string(home.path("state/audit/archive.json")).unwrap();
    assert!(!all.contains(TOKEN), "{all}");
    let here = home.path("state/audit/log/segments");
    let stubs = fs::read_dir(here).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension()
            .is_some_and(|extension| extension == "moved")
    });
    assert_eq!(stubs.count(), 0, "nothing goes");
}

/// Answers as S3 does to a signature that is not right.
fn refuse(client: &mut TcpStream, token: &str) {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let mut buf = [0; 4096];
        match client.read(&mut buf) {
            Ok(n) if n > 0 => head.extend_from_slice(&buf[..n]),
            _ => return,
        }
    }
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>no</Message><CanonicalRequest>x-amz-security-token:{token}</CanonicalRequest></Error>"
    );
    let answer = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = client.write_all(answer.as_bytes());
}

#[test]
fn old_segments_go_to_a_folder_and_come_back() {
    let (home, id) = home();
    let store = home.path("store");
    fs::create_dir(&store).unwrap();
    let url = format!("url: 'file://{}'", store.display());
    let mut audit = start(&home, &url);
    lives(&home, &id);
    // A store that is away is told, by code, and only to those who need it.
    assert!(audit.end().success());
    fs::remove_dir_all(home.path("state/audit/log/fetched")).unwrap();
    let gone = home.path("gone");
    fs::rename(&store, &gone).unwrap();
    let mut audit = start(&home, &url);
    let refused = home.says(&["audit", "show", &id], 1);
    assert!(refused.contains("PLS7581"), "{refused}");
    assert!(
        refused.contains("segment that begins with record 0"),
        "{refused}"
    );
    assert!(!rows(&home, "class:log_lifecycle last:1h").is_empty());
    let refused = home.says(&["audit", "search", "class:decision last:200d"], 1);
    assert!(refused.contains("PLS7581"), "{refused}");
    let counted = home.json(&["audit", "search", "class:decision last:200d | count"]);
    assert!(counted.to_string().contains(&OLD.to_string()), "{counted}");
    let metrics = metrics(&home);
    assert!(
        metrics.contains("palisade_archive_failing 1\n"),
        "{metrics}"
    );
    let status = home.run(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        status.contains("file://") && status.contains("cannot be used"),
        "{status}"
    );
    let check = home.run(&["check"]);
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("PLS7588"), "{check}");
    fs::rename(&gone, &store).unwrap();
    wait_for("the store again", LIMIT, || {
        home.run(&["audit", "show", &id])
            .status
            .success()
            .then_some(())
    });
    assert!(audit.end().success());
    is_verified_as_a_folder(&home);
    an_altered_object_is_told_as_one(&home, &store);
    a_folder_of_another_user_is_left_alone(&home);
    let mut audit = start(&home, &url);
    // Only what lies at an address of before can be said to be deleted.
    let refused = [
        "audit",
        "archive",
        "deleted",
        "--store",
        &url[6..url.len() - 1],
    ];
    assert!(home.says(&refused, 1).contains("PLS7596"));
    let none = ["audit", "archive", "deleted", "--store", "s3://of-before"];
    assert_eq!(home.json(&none)["segments"], 0);
    assert_eq!(
        rows(&home, "class:admin verb:archive_deleted last:1h").len(),
        2
    );
    let back = home.json(&["audit", "archive", "restore", "--until", "2020-01-01"]);
    assert_eq!(back["segments"], 0, "nothing is so old");
    let back = home.json(&["audit", "archive", "restore"]);
    assert!(back["segments"].as_u64().unwrap() > 3, "{back}");
    let status = home.json(&["audit", "archive", "status"]);
    assert_eq!(
        (&status["moved"], &status["back"]),
        (&0.into(), &back["segments"])
    );
    assert_eq!(home.json(&["audit", "archive", "run"])["segments"], 0);
    assert_eq!(home.json(&["audit", "verify"])["moved"], 0);
    assert!(audit.end().success());
}

/// A report is made while the index waits for the archive, and says what it lacks; a sound one
/// is not called wrong then.
#[test]
fn a_report_is_not_called_wrong_while_the_index_waits() {
    let (home, _) = home();
    let store = home.path("store");
    fs::create_dir(&store).unwrap();
    let url = format!("url: 'file://{}'", store.display());
    let mut audit = start(&home, &url);
    let moved = home.json(&["audit", "archive", "run"]);
    assert!(moved["segments"].as_u64().unwrap() > 3, "{moved}");
    let run = ["report", "run", "denials", "--period", "last:200d"];
    home.json(&[&run[..], &["--to", "sound.json"]].concat());
    let verify = ["report", "verify", "sound.json"];
    home.says(&verify, 0);
    assert!(audit.end().success());
    for derived in ["index", "log/fetched"] {
        let _ = fs::remove_dir_all(home.path("state/audit").join(derived));
    }
    let gone = home.path("gone");
    fs::rename(&store, &gone).unwrap();
    let mut audit = start(&home, &url);
    let pack = [&run[..], &["--to", "made.tar.zst"]].concat();
    for asked in [&verify[..], &pack[..]] {
        let refused = home.says(asked, 1);
        assert!(
            refused.contains("PLS7204") && refused.contains("file://"),
            "{refused}"
        );
    }
    let lacks = home.json(&run);
    assert!(lacks.to_string().contains("the index waits"), "{lacks}");
    fs::rename(&gone, &store).unwrap();
    wait_for("the index again", LIMIT, || {
        home.run(&verify).status.success().then_some(())
    });
    // One that tells of the whole log, of which the archive has a part that is away.
    let run = ["report", "run", "integrity", "--period", "last:1h"];
    home.json(&[&run[..], &["--to", "whole.json"]].concat());
    assert!(audit.end().success());
    let _ = fs::remove_dir_all(home.path("state/audit/log/fetched"));
    fs::rename(&store, &gone).unwrap();
    let mut audit = start(&home, &url);
    let said = home.says(&["report", "verify", "whole.json"], 0);
    assert!(said.contains("could not be read in the archive"), "{said}");
    assert!(audit.end().success());
}

/// A server of S3, and a way to it that can be shut; what is asked on the way is kept.
struct Bucket {
    server: std::process::Child,
    direct: u16,
    way: u16,
    open: Arc<AtomicBool>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Bucket {
    const NAME: &str = "acme-audit";
    /// The server asks who somebody is, and believes it.
    const ANYBODY: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

    fn start() -> Self {
        let program = std::env::var_os("PALISADE_TEST_S3").expect("PALISADE_TEST_S3 is a server");
        let direct = free_port().port();
        let server = std::process::Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &direct.to_string()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bucket = Self {
            server,
            direct,
            way: listener.local_addr().unwrap().port(),
            open: Arc::new(AtomicBool::new(true)),
            heads: Arc::default(),
        };
        let (open, heads) = (bucket.open.clone(), bucket.heads.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if open.load(Ordering::SeqCst) {
                    let heads = heads.clone();
                    std::thread::spawn(move || relay(client, direct, &heads));
                }
            }
        });
        wait_for("a server of S3", LIMIT, || {
            TcpStream::connect(("127.0.0.1", direct)).ok()
        });
        assert_eq!(bucket.ask("PUT", "", b"").0, 200);
        bucket
    }

    /// Asks the server itself: status and body.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.ask_with(method, path, "", body)
    }

    fn ask_with(&self, method: &str, path: &str, field: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.direct)).unwrap();
        let len = body.len();
        let head = format!(
            "{method} /{}{path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: {}\r\ncontent-length: {len}\r\n{field}connection: close\r\n\r\n",
            Self::NAME,
            self.direct,
            Self::ANYBODY,
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let at = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..at]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer[at + 4..].to_vec())
    }

    fn objects(&self) -> Vec<String> {
        let (status, list) = self.ask("GET", "?list-type=2", b"");
        assert_eq!(status, 200);
        let list = String::from_utf8(list).unwrap();
        let keys = list.split("<Key>").skip(1);
        let keys = keys.map(|rest| format!("/{}", rest.split('<').next().unwrap()));
        keys.filter(|key| key.ends_with(".seg")).collect()
    }

    /// What was asked on the way, that began so.
    fn asked(&self, method: &str) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        let asked = heads.iter().filter(|head| head.starts_with(method));
        asked.cloned().collect()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn relay(mut client: TcpStream, to: u16, heads: &Mutex<Vec<String>>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)) else {
        return;
    };
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let mut buf = [0; 4096];
        match client.read(&mut buf) {
            Ok(n) if n > 0 => head.extend_from_slice(&buf[..n]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    heads.lock().unwrap().push(text);
    if server.write_all(&head).is_err() {
        return;
    }
    let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up, &mut down);
        let _ = down.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Both);
}

/// The same with a server of S3 that others have written: objects are only ever created, one
/// that is not ours stays, and a server that is away is told.
#[test]
#[ignore = "needs a server of S3, which .ci/run installs"]
fn old_segments_go_to_a_bucket_and_come_back() {
    let bucket = Bucket::start();
    let (home, id) = home();
    let credentials = home.path("s3");
    fs::write(
        &credentials,
        "[default]\naws_access_key_id = test\naws_secret_access_key = test\n",
    )
    .unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
    let archive = format!(
        "url: 's3://{}/log', endpoint: 'http://127.0.0.1:{}', credentials: s3",
        Bucket::NAME,
        bucket.way
    );
    let mut audit = start(&home, &archive);
    lives(&home, &id);
    let objects = bucket.objects();
    assert!(objects.len() > 3 && objects.iter().all(|o| o.starts_with("/log/acme.test/")));
    let puts = bucket.asked("put ");
    let (made, drawn): (Vec<&String>, Vec<&String>) = puts
        .iter()
        .partition(|h| h.contains("\r\nif-none-match: *\r\n"));
    let marks = made.iter().filter(|h| h.contains("/archive.mark "));
    assert_eq!(marks.count(), 1, "the place is marked once");
    assert_eq!(made.len(), objects.len() + 1, "each is put once");
    assert!(!drawn.is_empty(), "a run draws its turn");
    assert!(
        drawn
            .iter()
            .all(|h| h.contains("/archive.mark ") && h.contains("\r\nif-match: ")),
        "only the mark is written over, and only as it was read"
    );
    // As a bucket with an object lock demands.
    assert!(
        puts.iter()
            .all(|h| h.contains("\r\nx-amz-checksum-sha256: "))
    );
    assert_eq!(
        bucket.asked("head "),
        [""; 0],
        "who may not list is refused that"
    );
    assert!(
        puts.iter()
            .all(|h| h.contains("\r\nauthorization: aws4-hmac-sha256 "))
    );
    // The server keeps to it, too.
    let (status, _) = bucket.ask_with("PUT", &objects[0], "if-none-match: *\r\n", b"another's");
    assert_eq!(status, 412);
    // A server that is away.
    assert!(audit.end().success());
    fs::remove_dir_all(home.path("state/audit/log/fetched")).unwrap();
    let mut audit = start(&home, &archive);
    bucket.open.store(false, Ordering::SeqCst);
    let refused = home.says(&["audit", "show", &id], 1);
    assert!(
        refused.contains("PLS7581") && refused.contains("s3://"),
        "{refused}"
    );
    assert!(!rows(&home, "class:log_lifecycle last:1h").is_empty());
    bucket.open.store(true, Ordering::SeqCst);
    wait_for("the server again", LIMIT, || {
        home.run(&["audit", "show", &id])
            .status
            .success()
            .then_some(())
    });
    // What is gone, and what another has put there.
    let (_, bytes) = bucket.ask("GET", &objects[1], b"");
    assert_eq!(bucket.ask("DELETE", &objects[1], b"").0, 204);
    let cache = home.path("state/audit/log/fetched");
    fs::remove_dir_all(&cache).unwrap();
    let report = home.run(&["audit", "verify"]);
    let said = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(
        !report.status.success() && said.contains(objects[1].rsplit('/').next().unwrap()),
        "{said}"
    );
    assert_eq!(bucket.ask("PUT", &objects[1], &bytes).0, 200);
    let back = home.json(&["audit", "archive", "restore"]);
    assert_eq!(back["segments"], objects.len());
    assert_eq!(bucket.ask("PUT", &objects[2], b"another's").0, 200);
    let run = home.json(&["audit", "archive", "run", "--after", "0 days"]);
    let faults = run["faults"].to_string();
    assert!(faults.contains("PLS7583"), "{run}");
    assert_eq!(bucket.ask("GET", &objects[2], b"").1, b"another's");
    assert!(
        home.run(&["audit", "verify"]).status.success(),
        "what could not go is here"
    );
    assert!(audit.end().success());
    is_verified_as_a_folder(&home);
    assert_eq!(
        bucket
            .ask("PUT", &objects[2], &bytes_of(&home, &objects[2]))
            .0,
        200
    );
    versions_are_told(&bucket, &home, &archive);
}

/// The bytes that an object had, of a segment that is here.
fn bytes_of(home: &Home, object: &str) -> Vec<u8> {
    let name = object.rsplit('/').next().unwrap();
    let first = name.split('-').next().unwrap();
    fs::read(home.path(&format!("state/audit/log/segments/{first}.seg"))).unwrap()
}

/// A bucket that keeps versions is recognised, and objects are deleted one by one, with an
/// answer for each.
fn versions_are_told(bucket: &Bucket, home: &Home, archive: &str) {
    let enabled = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(bucket.ask("PUT", "?versioning", enabled).0, 200);
    let mut audit = start_with(
        home,
        archive,
        "  retention: { decision: 31 days, outcome: 31 days }\n",
    );
    let before = bucket.objects();
    let dropped = home.run(&["audit", "retention", "run", "--trust-clock"]);
    assert!(
        dropped.status.success(),
        "{}",
        String::from_utf8_lossy(&dropped.stdout)
    );
    let run = home.json(&["audit", "archive", "run", "--after", "0 days"]);
    assert_eq!(run["faults"], serde_json::json!([]));
    assert!(!bucket.asked("delete /").is_empty());
    assert_eq!(bucket.asked("post "), [""; 0]);
    let after = bucket.objects();
    assert!(before.iter().any(|object| !after.contains(object)));
    assert_eq!(home.json(&["audit", "archive", "status"])["versions"], true);
    let check = home.run(&["check"]);
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("PLS7594"), "{check}");
    assert!(audit.end().success());
}
