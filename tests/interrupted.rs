//! Ctrl-C while a report is made or a log verified: nothing of it is left, and whoever waited hears
//! of it. And how far it is until then. Of an export what is there is left, and the same command
//! goes on with it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs::{self, DirBuilder},
    io::{Read as _, Write as _},
    os::unix::{
        fs::DirBuilderExt as _,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use serde_json::Value;
use support::{Home, LIMIT, Running, lone, records::grow_of, wait_for};

/// Who reports what a log has.
const REPORTER: &str = "spiffe://acme.test/ns/shop/sa/orders";

/// So many records that to read them takes a while.
const MANY: u64 = 60_000;

/// Decisions of an export that has pages enough to be ended between two of them.
const EXPORTED: u64 = 16_000;

/// How often an export may be done before it is ended.
const TRIES: usize = 10;

/// An audit service that says how far work is, and never all that came of it.
struct Service {
    /// Where it listens.
    socket: PathBuf,
    /// Told when a report is asked for.
    asked: Receiver<()>,
    /// Told when whoever asked has gone away.
    left: Receiver<()>,
}

impl Service {
    /// One that says so much of an answer.
    fn start(home: &Home, part: &'static str) -> Self {
        let folder = home.path("run/palisade");
        let mut private = DirBuilder::new();
        private.mode(0o700).recursive(true).create(&folder).unwrap();
        let socket = folder.join("demo.audit.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let ((ask, asked), (leave, left)) = (channel(), channel());
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), part, &ask, &leave);
            }
        });
        Self {
            socket,
            asked,
            left,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Nobody finds it any more.
        let _ = fs::remove_file(&self.socket);
    }
}

fn answer(mut stream: UnixStream, part: &str, ask: &Sender<()>, leave: &Sender<()>) {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let len = stream.read(&mut piece).unwrap();
        request.extend_from_slice(&piece[..len]);
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    if request.starts_with(b"GET /v1/about ") {
        let about =
            r#"{"mesh":"demo","version":"1","pid":1,"roles":["audit"],"demo":true,"started_us":0}"#;
        let len = about.len();
        write!(stream, "{head}content-length: {len}\r\n\r\n{about}").unwrap();
        return;
    }
    let len = part.len();
    write!(
        stream,
        "{head}transfer-encoding: chunked\r\n\r\n{len:x}\r\n{part}\r\n"
    )
    .unwrap();
    ask.send(()).unwrap();
    // What is left of the question, and then its end.
    while stream.read(&mut piece).is_ok_and(|len| len > 0) {}
    leave.send(()).unwrap();
}

/// What is said of work that goes on.
const FAR: &str = "{\"far\":{\"records\":7,\"done\":1,\"all\":2}}\n";

/// The same, with the beginning of what came of it.
const HALF: &str = "{\"far\":{\"records\":7,\"done\":1,\"all\":2}}\n\"done\"\n{\"format\":";

/// Everything that is in a home, however deep, but for what this test itself writes there.
fn files(home: &Home) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![home.path(".")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            if path.extension().is_none_or(|e| e != "log") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// In whichever form it was to be written, also where a part of it is here; and the next one
/// begins anew.
#[test]
fn a_report_that_is_interrupted_leaves_nothing() {
    for part in [FAR, HALF] {
        let home = Home::new();
        let service = Service::start(&home, part);
        let before = files(&home);
        for to in ["denials.pdf", "denials.tar.zst", "denials.pdf"] {
            let args = [
                "report", "run", "denials", "--period", "last:1h", "--to", to,
            ];
            let mut run = home.start("run", &args);
            service.asked.recv_timeout(LIMIT).unwrap();
            let ended = run.interrupt();
            assert_eq!(ended.code(), Some(1), "{}", run.printed());
            assert!(run.printed().contains("PLS7812"), "{}", run.printed());
            service.left.recv_timeout(LIMIT).unwrap();
            assert_eq!(files(&home), before);
        }
    }
}

/// The service hears of it, and whoever waited that nothing is known.
#[test]
fn a_verification_that_is_interrupted_says_so() {
    let home = Home::new();
    let service = Service::start(&home, FAR);
    let mut run = home.start("run", &["audit", "verify"]);
    service.asked.recv_timeout(LIMIT).unwrap();
    let ended = run.interrupt();
    assert_eq!(ended.code(), Some(1), "{}", run.printed());
    assert!(run.printed().contains("PLS7216"), "{}", run.printed());
    service.left.recv_timeout(LIMIT).unwrap();
}

/// Neither the report nor the index that is made for it, which has everything that the log has.
#[test]
fn a_report_of_a_folder_that_is_interrupted_leaves_nothing() {
    let home = Home::new();
    grow_of(&home.path("log"), REPORTER, 1..=MANY, "/orders");
    let before = files(&home);
    let args = [
        "report", "run", "access", "--period", "last:1h", "--log", "log", "--to", "a.pdf", "--to",
        "a.json",
    ];
    let mut run = home.start("run", &args);
    wait_for("an index in the making", LIMIT, || {
        assert_eq!(run.ended(), None, "{}", run.printed());
        let index = |path: &PathBuf| path.to_string_lossy().contains("/palisade-index-");
        files_now(&home).iter().any(index).then_some(())
    });
    let ended = run.interrupt();
    assert_eq!(ended.code(), Some(1), "{}", run.printed());
    assert!(run.printed().contains("PLS7812"), "{}", run.printed());
    assert_eq!(files(&home), before);
}

/// What lies in a home at this moment, while others may take it away.
fn files_now(home: &Home) -> Vec<PathBuf> {
    let all = fs::read_dir(home.path(".")).unwrap();
    all.map(|entry| entry.unwrap().path()).collect()
}

/// A service that verifies its log says meanwhile how far it is, and then what it found.
#[test]
fn a_verification_tells_how_far_it_is() {
    let home = Home::new();
    lone::configure(&home, "");
    grow_of(&home.path("state/audit/log"), REPORTER, 1..=MANY, "/orders");
    let _audit = lone::start(&home);
    let folder = fs::read_dir(home.path("run/palisade")).unwrap();
    let socket = folder
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with(".audit.sock"));
    let mut stream = UnixStream::connect(socket.unwrap()).unwrap();
    let asked = r#"{"replay":""}"#;
    let len = asked.len();
    write!(
        stream,
        "POST /v1/audit/verify HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\r\n{asked}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (_, said) = answer.split_once("\r\n\r\n").unwrap();
    let (lines, report) = said.split_once("\"done\"\n").unwrap();
    let far: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["far"].clone())
        .collect();
    let records = |far: &Value| far["records"].as_u64().unwrap();
    assert!(far.is_sorted_by_key(records), "{lines}");
    // To read the log is one part, and to make its decisions again the other.
    let partly = |far: &Value| {
        let done = far["done"].as_u64().unwrap();
        far["all"] == 2000 && done > 0 && done < 2000 && records(far) > 0
    };
    assert!(far.iter().any(partly), "{lines}");
    let report: Value = serde_json::from_str(report).unwrap();
    assert!(report["records"].as_u64().unwrap() > MANY, "{report:#}");
    assert_eq!(report["findings"], serde_json::json!([]));
}

/// A `kill -9`, and another one of what goes on after it, and Ctrl-C: in the end nothing is
/// missing from the file and nothing is there twice.
#[test]
fn an_export_that_is_ended_midway_goes_on_to_the_same_bytes() {
    let home = Home::new();
    let query = grown(&home);
    let _audit = served(&home);
    for (format, end) in [
        ("csv", Running::kill as fn(&mut Running)),
        ("jsonl", interrupted),
    ] {
        let (whole, file) = (format!("whole.{format}"), format!("ended.{format}"));
        let expected = exported(&home, &query, &whole, &[]);
        end_midway(&home, &query, &file, end);
        let told = home.says(&export(&query, &file, &[]), 3);
        assert!(told.contains("PLS7704"), "{told}");
        // Once more; what it may have come to by then is held against the same bytes.
        let mut run = home.start("resumed", &export(&query, &file, &["--resume"]));
        wait_for_more(&home, &file, &mut run);
        run.kill();
        if home.path(&part_of(&file)).exists() {
            let said = exported(&home, &query, &file, &["--resume"]);
            for key in ["records", "bytes", "sha256", "from", "to"] {
                assert_eq!(said[key], expected[key], "{key}: {said}");
            }
        }
        is_whole(&home, &file, &whole);
    }
}

/// Nothing of it is there, or only what an earlier one has left: it goes on from the beginning,
/// without a byte of what was before.
#[test]
fn an_export_that_is_ended_before_its_first_page_goes_on_from_the_beginning() {
    let home = Home::new();
    let query = grown(&home);
    let mut audit = served(&home);
    exported(&home, &query, "whole.csv", &[]);
    end_midway(&home, &query, "again.csv", Running::kill);
    assert!(home.path(&part_of("again.csv")).exists());
    audit.end();

    let service = Service::start(&home, FAR);
    let mut run = home.start("first", &export(&query, "first.csv", &[]));
    service.asked.recv_timeout(LIMIT).unwrap();
    interrupted(&mut run);
    service.left.recv_timeout(LIMIT).unwrap();
    let mut run = home.start("again", &export(&query, "again.csv", &["--overwrite"]));
    service.asked.recv_timeout(LIMIT).unwrap();
    run.kill();
    service.left.recv_timeout(LIMIT).unwrap();
    drop(service);

    let _audit = served(&home);
    for file in ["first.csv", "again.csv"] {
        assert_eq!(fs::metadata(home.path(&part_of(file))).unwrap().len(), 0);
        exported(&home, &query, file, &["--resume"]);
        is_whole(&home, file, "whole.csv");
    }
}

/// Fills the log of an audit service; a query for all of it, which is of the same time whenever
/// it is asked.
fn grown(home: &Home) -> String {
    lone::configure(home, "");
    let from = jiff::Timestamp::now();
    let log = home.path("state/audit/log");
    grow_of(&log, REPORTER, 1..=EXPORTED, "/orders");
    let until = jiff::Timestamp::now();
    format!("class:decision since:{from} until:{until}")
}

/// An audit service that answers about everything in its log.
fn served(home: &Home) -> Running {
    let audit = lone::start(home);
    wait_for("an index of everything", LIMIT, || {
        (home.decisions() == Some(EXPORTED)).then_some(())
    });
    audit
}

/// Arguments of an export.
fn export<'a>(query: &'a str, file: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["audit", "export", query, "--to", file], more].concat()
}

/// What an export says that comes to its end.
fn exported(home: &Home, query: &str, file: &str, more: &[&str]) -> Value {
    let said = home.json(&export(query, file, more));
    assert_eq!(said["records"], EXPORTED, "{said}");
    said
}

fn part_of(file: &str) -> String {
    format!("{file}.part")
}

/// Waits until a page more is in the part of an export, or the export is done.
fn wait_for_more(home: &Home, file: &str, run: &mut Running) {
    let part = home.path(&part_of(file));
    let written = || fs::metadata(&part).map_or(0, |part| part.len());
    let before = written();
    wait_for("a page more", LIMIT, || {
        (written() > before || run.ended().is_some()).then_some(())
    });
}

/// Begins an export and ends it with a part of its file written; one that was done before that
/// is begun anew.
fn end_midway(home: &Home, query: &str, file: &str, end: fn(&mut Running)) {
    for _ in 0..TRIES {
        let mut run = home.start("ended", &export(query, file, &[]));
        wait_for_more(home, file, &mut run);
        if run.ended().is_none() {
            end(&mut run);
        }
        if home.path(&part_of(file)).exists() {
            return;
        }
        fs::remove_file(home.path(file)).unwrap();
    }
    panic!("it was done before it was ended, {TRIES} times");
}

/// Ctrl-C, of which an export says what to do next.
fn interrupted(run: &mut Running) {
    let ended = run.interrupt();
    if ended.success() {
        // The last page came before it.
        return;
    }
    assert_eq!(ended.code(), Some(1), "{}", run.printed());
    for word in ["PLS7707", "--resume"] {
        assert!(run.printed().contains(word), "{}", run.printed());
    }
}

/// That a file is the one of an export that nothing ended, which has every decision once, and
/// that nothing lies beside it.
fn is_whole(home: &Home, file: &str, whole: &str) {
    let read = |name: &str| fs::read_to_string(home.path(name)).unwrap();
    let text = read(file);
    assert!(
        text == read(whole),
        "{file} is not the file it would have been"
    );
    let paths = text
        .split(['"', ','])
        .filter(|word| word.starts_with("/orders/"));
    let mut paths: Vec<&str> = paths.collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len() as u64, EXPORTED);
    let left = files_now(home)
        .into_iter()
        .map(|path| path.display().to_string());
    let left: Vec<String> = left.filter(|path| path.contains(&part_of(file))).collect();
    assert_eq!(left, Vec::<String>::new());
}
