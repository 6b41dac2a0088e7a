//! Ctrl-C while a report is made: nothing of it is left, and whoever made it hears of it.

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
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use support::{Home, LIMIT};

/// An audit service that says how far a report is, and never that it is done.
struct Service {
    /// Told when a report is asked for.
    asked: Receiver<()>,
    /// Told when whoever asked has gone away.
    left: Receiver<()>,
}

impl Service {
    fn start(home: &Home) -> Self {
        let folder = home.path("run/palisade");
        DirBuilder::new().mode(0o700).create(&folder).unwrap();
        let listener = UnixListener::bind(folder.join("demo.audit.sock")).unwrap();
        let ((ask, asked), (leave, left)) = (channel(), channel());
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &ask, &leave);
            }
        });
        Self { asked, left }
    }
}

fn answer(mut stream: UnixStream, ask: &Sender<()>, leave: &Sender<()>) {
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
    let line = "{\"far\":{\"records\":7,\"done\":1,\"all\":2}}\n";
    let len = line.len();
    write!(
        stream,
        "{head}transfer-encoding: chunked\r\n\r\n{len:x}\r\n{line}\r\n"
    )
    .unwrap();
    ask.send(()).unwrap();
    // What is left of the question, and then its end.
    while stream.read(&mut piece).is_ok_and(|len| len > 0) {}
    leave.send(()).unwrap();
}

/// What is in a home, but for what this test itself writes there.
fn files(home: &Home) -> Vec<String> {
    let all = fs::read_dir(home.path(".")).unwrap();
    let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".log")).collect();
    names.sort();
    names
}

/// In whichever form it was to be written; and the next one begins anew.
#[test]
fn a_report_that_is_interrupted_leaves_nothing() {
    let home = Home::new();
    let service = Service::start(&home);
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
