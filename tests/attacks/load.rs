//! Load as a weapon (T80 to T87): what costs the attacker little must cost us
//! little, and whoever else is connected must not notice.

use std::{
    fs,
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use palisade_mesh::wire::record::outcome::End;

use crate::harness::{
    Ask, Door, PATIENCE, Stage, h1,
    h2::{
        self, CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING, PRIORITY,
        RST_STREAM, SETTINGS, SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_UPDATE,
    },
    hpack, soon,
    stage::{Setting, hasty},
    upstream::OK,
    wire::Wire,
};

/// Frames of a flood: far more than any limit, and sent in a few seconds.
const FLOOD: u32 = 20_000;
/// Bytes gathered before they are sent. What comes after the peer has closed would be
/// answered with a reset, and its farewell lost; so it is less than a read.
const BATCH: usize = 2 * 1024;

/// Another caller is served as if nothing happened.
fn others_are_served(stage: &Stage) {
    let asked = Instant::now();
    assert_eq!(stage.ask(Door::InboundH2, &Ask::get("/public")).status, 200);
    assert_eq!(stage.ask(Door::InboundH1, &Ask::get("/public")).status, 200);
    assert!(asked.elapsed() < PATIENCE / 2, "{:?}", asked.elapsed());
}

/// Frames gathered into pieces of [`BATCH`] bytes.
fn batched(frames: impl Iterator<Item = Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    let mut frames = frames.peekable();
    std::iter::from_fn(move || {
        let mut batch = frames.next()?;
        while batch.len() < BATCH
            && let Some(frame) = frames.next()
        {
            batch.extend_from_slice(&frame);
        }
        Some(batch)
    })
}

/// Odd stream numbers from 1 on.
fn streams(n: u32) -> impl Iterator<Item = u32> {
    (0..n).map(|i| 2 * i + 1)
}

fn get() -> Vec<u8> {
    h2::block(&h2::pseudo("GET", "/public"))
}

/// The reason of the record that an abused connection leaves.
fn violation(stage: &Stage) {
    soon("the record of the violation", || {
        let mut decided = stage.records.decisions().into_iter();
        decided.find(|d| d.reason == "http2_violation")
    });
}

#[test]
fn t80_rapid_reset_ends_the_connection() {
    let stage = Stage::new();
    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
    let block = get();
    let pairs = streams(FLOOD).map(|stream| {
        let mut pair = h2::head(stream, &block, true);
        pair.extend_from_slice(&h2::frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        pair
    });
    assert_eq!(connection.flood(batched(pairs)), Some(ENHANCE_YOUR_CALM));
    violation(&stage);
    others_are_served(&stage);
    let decided = stage.records.decisions().len();
    assert!(decided < 3000, "{decided} of {FLOOD} were decided");
}

/// So slowly that each request begins before it is taken back.
#[test]
fn t80_requests_taken_back_at_once_end_the_connection() {
    let stage = Stage::set(Setting {
        script: Arc::new(|seen| (seen.target() != "/public/hang").then(|| OK.to_vec())),
        ..Setting::default()
    });
    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
    let block = h2::block(&h2::pseudo("GET", "/public/hang"));
    let numbers: Vec<u32> = streams(FLOOD).collect();
    let pieces = numbers.chunks(10).flat_map(|ten| {
        let heads = ten.iter().map(|s| h2::head(*s, &block, true));
        let cancel = 8_u32.to_be_bytes();
        let resets = ten.iter().map(|s| h2::frame(RST_STREAM, 0, *s, &cancel));
        [heads.flatten().collect(), resets.flatten().collect()]
    });
    connection.flood(pieces);
    violation(&stage);
    others_are_served(&stage);
    // How many get that far is up to how fast both sides read; most must not.
    let decided = stage.records.decisions().len();
    assert!(decided < 3000, "{decided} of {FLOOD} were decided");
}

/// What an honest peer had sent of its body before it heard that nobody wants it.
#[test]
fn t80_late_bodies_of_refused_requests_are_no_abuse() {
    let stage = Stage::new();
    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
    let refused = h2::block(&h2::pseudo("POST", "/admin"));
    let numbers: Vec<u32> = streams(1000).collect();
    for forty in numbers.chunks(40) {
        for stream in forty {
            connection.head(*stream, &refused, false);
            assert_eq!(connection.reply(*stream).status, 403);
        }
        for stream in forty {
            connection.send(&h2::frame(DATA, END_STREAM, *stream, b"late"));
        }
        // Room for forty answers more.
        let room = 64_000_u32.to_be_bytes();
        connection.send(&h2::frame(WINDOW_UPDATE, 0, 0, &room));
    }
    let ask = h2::pseudo("GET", "/public");
    assert_eq!(connection.ask(2001, &ask, b"").status, 200);
    assert_eq!(stage.records.decisions().len(), 1001);
}

/// A body that has no end is not read for ever.
#[test]
fn t85_the_body_of_a_refused_request_is_cut_off() {
    let stage = Stage::new();
    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
    let begun = Instant::now();
    connection.request(1, &h2::pseudo("POST", "/admin"), false);
    assert_eq!(connection.reply(1).status, 403);
    let reset = std::iter::from_fn(|| connection.next()).find(|f| f.kind == RST_STREAM);
    assert_eq!(
        reset.map(|f| f.payload),
        Some(h2::NO_ERROR.to_be_bytes().to_vec())
    );
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    others_are_served(&stage);
}

/// Ending a connection is no use where the next one is open at once.
#[test]
fn t80_whoever_floods_waits_for_the_next_connection() {
    let stage = Stage::new();
    let mut before = h2::Connection::open(stage.wire(Door::InboundH2));
    let reset = 8_u32.to_be_bytes();
    let pairs = streams(FLOOD).map(|stream| {
        [
            h2::head(stream, &get(), true),
            h2::frame(RST_STREAM, 0, stream, &reset),
        ]
        .concat()
    });
    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
    assert_eq!(connection.flood(batched(pairs)), Some(ENHANCE_YOUR_CALM));
    let begun = Instant::now();
    for _ in 0..6 {
        assert_eq!(stage.ask(Door::InboundH1, &Ask::get("/public")).status, 200);
    }
    assert!(
        begun.elapsed() > Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    // Whoever was there before is served, also while others are refused.
    let refused = "palisade_connections_refused_total{reason=\"penalty\"}";
    let inbound = stage.address(Door::InboundH1);
    let waiting: Vec<Wire> = (0..20).map(|_| Wire::plain(inbound)).collect();
    soon("a refusal", || {
        stage.metrics().contains(refused).then_some(())
    });
    let ask = h2::pseudo("GET", "/public");
    assert_eq!(before.ask(1, &ask, b"").status, 200);
    drop(waiting);
}

/// Requests whose times make a figure.
const SAMPLE: usize = 2000;

/// The 99th percentile of a caller that asks one request after another.
fn p99(stage: &Stage) -> Duration {
    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
    let ask = h2::pseudo("GET", "/public");
    let mut times: Vec<Duration> = streams(SAMPLE as u32)
        .map(|stream| {
            let begun = Instant::now();
            assert_eq!(connection.ask(stream, &ask, b"").status, 200);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[SAMPLE * 99 / 100]
}

/// What floods cost another caller of the same worker, in figures to be read:
/// `cargo test --release --test attacks t80_t81_figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures, which mean something in a release build on a quiet machine"]
fn t80_t81_figures_of_floods() {
    let stage = Stage::new();
    p99(&stage);
    println!("quiet: p99 {:?}", p99(&stage));
    let block = get();
    let resets: Vec<Vec<u8>> = streams(1000)
        .map(|stream| {
            let reset = h2::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            [h2::head(stream, &block, true), reset].concat()
        })
        .collect();
    let mut endless = vec![h2::frame(HEADERS, END_STREAM, 1, &block)];
    endless.extend((0..1000).map(|_| h2::frame(CONTINUATION, 0, 1, &[0; 100])));
    for (what, frames) in [("rapid reset", &resets), ("CONTINUATION", &endless)] {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let attacker = scope.spawn(|| {
                step_back();
                let mut rounds = 0;
                while !done.load(Ordering::Relaxed) {
                    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
                    connection.flood(batched(frames.iter().cloned()));
                    rounds += 1;
                }
                rounds
            });
            let figure = p99(&stage);
            done.store(true, Ordering::Relaxed);
            let rounds = attacker.join().unwrap();
            println!("{what}: p99 {figure:?} during {rounds} floods");
        });
    }
}

/// Gives this thread the least share of the processor: an attacker computes elsewhere.
fn step_back() {
    let own = nix::unistd::gettid().to_string();
    let renice = std::process::Command::new("renice")
        .args(["-n", "19", "-p", &own])
        .output();
    assert!(renice.unwrap().status.success());
}

/// MadeYouReset (CVE-2025-8671): frames that make us reset what is in progress.
#[test]
fn t80_made_you_reset_ends_the_connection() {
    let setting = Setting {
        script: Arc::new(|_| None),
        ..Setting::default()
    };
    let stage = Stage::set(setting);
    type Make = fn(u32) -> Vec<u8>;
    let variants: [(&str, Make); 4] = [
        ("a window update of nothing", |s| {
            h2::frame(WINDOW_UPDATE, 0, s, &[0; 4])
        }),
        ("data on a half-closed stream", |s| {
            h2::frame(DATA, 0, s, b"x")
        }),
        ("a priority of the wrong size", |s| {
            h2::frame(PRIORITY, 0, s, &[0; 4])
        }),
        ("a window that overflows", |s| {
            h2::frame(WINDOW_UPDATE, 0, s, &0x7fff_ffff_u32.to_be_bytes())
        }),
    ];
    for (what, make) in variants {
        stage.forget();
        let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
        let block = get();
        let pairs = streams(FLOOD).map(|stream| {
            let mut pair = h2::head(stream, &block, true);
            pair.extend_from_slice(&make(stream));
            pair
        });
        let code = connection.flood(batched(pairs));
        assert!(code.is_some_and(|c| c != h2::NO_ERROR), "{what}: {code:?}");
        println!(
            "{what}: {code:?}, {} decided",
            stage.records.decisions().len()
        );
        violation(&stage);
        let decided = stage.records.decisions().len();
        assert!(decided < 3000, "{what}: {decided} of {FLOOD} were decided");
    }
}

#[test]
fn t81_a_continuation_flood_ends_the_connection() {
    let stage = Stage::new();
    let mut piece = Vec::new();
    hpack::literal(&mut piece, b"x-filler", &[b'a'; 1000]);
    // Empty ones cost nothing to send.
    for piece in [&piece[..], b""] {
        stage.forget();
        let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
        connection.send(&h2::frame(HEADERS, END_STREAM, 1, &get()));
        let pieces = (0..FLOOD).map(|_| h2::frame(CONTINUATION, 0, 1, piece));
        assert_eq!(
            connection.flood(batched(pieces)),
            Some(ENHANCE_YOUR_CALM),
            "{} bytes each",
            piece.len()
        );
        violation(&stage);
        others_are_served(&stage);
    }
}

#[test]
fn t82_empty_data_ends_the_connection() {
    let stage = Stage::new();
    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
    connection.request(1, &h2::pseudo("POST", "/public"), false);
    let empty = (0..FLOOD).map(|_| h2::frame(DATA, 0, 1, b""));
    assert_eq!(connection.flood(batched(empty)), Some(ENHANCE_YOUR_CALM));
    violation(&stage);
    others_are_served(&stage);
}

/// Frames that want an answer, from a peer that reads none: we stop reading too, and
/// hold no more than the kernel's buffers.
#[test]
fn t82_floods_that_want_answers_are_held_back() {
    alone("load::floods_measured");
}

#[test]
#[ignore = "measures the memory of its process: another test runs it by itself"]
fn floods_measured() {
    let stage = Stage::set(Setting {
        limits: hasty(),
        ..Setting::default()
    });
    let settings: [u8; 6] = [0, 4, 0, 0, 0xff, 0xff];
    for (what, frame) in [
        ("ping", h2::frame(PING, 0, 0, &[7; 8])),
        ("settings", h2::frame(SETTINGS, 0, 0, &settings)),
    ] {
        let before = resident();
        let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
        let timeout = Some(Duration::from_secs(2));
        connection.wire.tcp().set_write_timeout(timeout).unwrap();
        let all = batched((0..1_000_000).map(|_| frame.clone())).all(|b| connection.send(&b));
        let grown = resident().saturating_sub(before);
        println!("{what}: all sent {all}, memory grew by {grown} KiB");
        assert!(grown < 64 * 1024, "{what}: {grown} KiB");
        others_are_served(&stage);
    }
}

/// One field of 4 KB, named again and again by one byte.
#[test]
fn t83_a_header_bomb_is_measured_unpacked() {
    let stage = Stage::new();
    let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
    let mut block = get();
    hpack::indexed_literal(&mut block, b"x-bomb", &[b'a'; 3900]);
    for _ in 0..10_000 {
        hpack::indexed(&mut block, 62);
    }
    connection.head(1, &block, true);
    let reply = connection.reply(1);
    assert_eq!(reply.goaway, Some(ENHANCE_YOUR_CALM), "{reply:?}");
    assert_eq!((stage.seen(), stage.asked()), (vec![], vec![]));
    violation(&stage);
    others_are_served(&stage);
}

#[test]
fn t83_cookie_crumbs_are_counted() {
    let stage = Stage::new();
    for crumbs in [101, 1500, 4000] {
        let pairs: Vec<_> = (0..crumbs).map(|_| ("cookie", "a=b")).collect();
        let ask = Ask::get("/public").fields(&pairs);
        for door in Door::H2 {
            stage.forget();
            let reply = stage.ask(door, &ask);
            assert_eq!(reply.status, 431, "{door:?} {crumbs}: {reply:?}");
            assert_eq!((stage.seen(), stage.asked()), (vec![], vec![]));
            if door.is_inbound() {
                let reason = stage.decisions(1).remove(0).reason;
                assert!(
                    matches!(reason.as_str(), "head_refused" | "head_too_large"),
                    "{reason}"
                );
            }
        }
    }
}

/// We unpack nothing: a body is bytes, and its coding the application's affair.
#[test]
fn t84_a_packed_body_is_passed_as_it_is() {
    let stage = Stage::new();
    let packed = "\u{1f}not even gzip\u{0}\u{1}";
    let ask = Ask::new("POST", "/public")
        .field("content-encoding", "gzip")
        .body(packed);
    let length = packed.len().to_string();
    let expect = crate::harness::Expect::passes("/public")
        .with(&[("content-encoding", "gzip"), ("content-length", &length)]);
    stage.check(&ask, &Door::ALL, &expect);
}

#[test]
fn t85_a_slow_head_is_cut() {
    let stage = Stage::set(Setting {
        limits: hasty(),
        ..Setting::default()
    });
    for door in Door::H1 {
        let mut wire = stage.wire(door);
        wire.write_all(b"GET /public HTTP/1.1\r\nhost: ord")
            .unwrap();
        let begun = Instant::now();
        let (received, closed) = wire.read_to_close();
        assert!(closed && received.is_empty(), "{door:?}: {received:?}");
        assert!(
            begun.elapsed() < PATIENCE / 2,
            "{door:?}: {:?}",
            begun.elapsed()
        );
    }
    // Over HTTP/2 a head that does not end is an idle connection.
    for door in Door::H2 {
        let mut connection = h2::Connection::open(stage.wire(door));
        connection.send(&h2::frame(HEADERS, END_STREAM, 1, &get()));
        connection.farewell();
        assert_eq!(stage.seen(), [], "{door:?}");
    }
    others_are_served(&stage);
}

#[test]
fn t85_a_slow_body_ends_with_its_time() {
    let stage = Stage::set(Setting {
        hasty: true,
        ..Setting::default()
    });
    for door in Door::INBOUND {
        stage.forget();
        if door.is_h2() {
            let mut connection = h2::Connection::open(stage.wire(door));
            connection.request(1, &h2::pseudo("POST", "/public"), false);
            connection.send(&h2::frame(DATA, 0, 1, b"x"));
            let reply = connection.reply(1);
            assert_eq!(reply.status, 504, "{door:?}: {reply:?}");
        } else {
            let mut wire = stage.wire(door);
            wire.write_all(
                b"POST /public HTTP/1.1\r\nhost: orders\r\ncontent-length: 100\r\n\r\nx",
            )
            .unwrap();
            let mut first = [0; 12];
            wire.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 504", "{door:?}");
        }
        let outcome = soon("the outcome", || stage.records.outcomes().pop()).1;
        assert_eq!(outcome.end(), End::TimedOut, "{door:?}: {outcome:?}");
        assert!(stage.seen().iter().all(|s| !s.complete), "{door:?}");
    }
}

/// A peer that grants no window: an answer that we cannot buffer whole ends with its
/// time, one that we can is given up when the connection has been idle.
#[test]
fn t85_a_reader_with_no_window_is_cut() {
    let large = |_: &_| {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".to_vec();
        answer.resize(answer.len() + 1_000_000, b'a');
        Some(answer)
    };
    for (small, end) in [(false, End::TimedOut), (true, End::Completed)] {
        let mut setting = Setting {
            limits: hasty(),
            hasty: true,
            ..Setting::default()
        };
        if !small {
            setting.script = Arc::new(large);
        }
        let stage = Stage::set(setting);
        let settings = [(SETTINGS_INITIAL_WINDOW_SIZE, 0)];
        let mut connection = h2::Connection::open_with(stage.wire(Door::InboundH2), &settings);
        connection.request(1, &h2::pseudo("GET", "/public"), true);
        let reply = connection.reply(1);
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{reply:?}");
        connection.farewell();
        let outcome = soon("the outcome", || stage.records.outcomes().pop()).1;
        let cut = !small && outcome.end() == End::Deadline;
        assert!(outcome.end() == end || cut, "{outcome:?}");
        others_are_served(&stage);
    }
}

/// Resident memory of this process, in KiB.
/// Runs one test in a process of its own: what others take meanwhile is not its memory.
fn alone(test: &str) {
    let itself = std::env::current_exe().unwrap();
    let ran = std::process::Command::new(itself)
        .args([test, "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let passed = said.contains("test result: ok. 1 passed");
    assert!(ran.status.success() && passed, "{said}");
}

fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Most memory that an idle TLS connection takes, in KiB; in this process both ends
/// of it are counted.
const IDLE_KIB_MAX: u64 = 256;

#[test]
fn t86_an_idle_connection_is_cheap() {
    alone("load::idle_measured");
}

#[test]
#[ignore = "measures the memory of its process: another test runs it by itself"]
fn idle_measured() {
    idle(200);
}

/// As many as the limit of a proxy allows; needs 20,000 file descriptors.
#[test]
#[ignore = "opens 20,000 sockets"]
fn t86_ten_thousand_idle_connections() {
    idle(9_900);
}

fn idle(n: u64) {
    let stage = Stage::new();
    others_are_served(&stage);
    let before = resident();
    let mut held = Vec::new();
    for i in 0..n {
        if i % 2 == 0 {
            let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
            assert_eq!(
                connection.ask(1, &h2::pseudo("GET", "/public"), b"").status,
                200
            );
            held.push(connection.wire);
        } else {
            let mut wire = stage.wire(Door::InboundH1);
            wire.write_all(b"GET /public HTTP/1.1\r\nhost: orders\r\n\r\n")
                .unwrap();
            h1::read_to(&mut wire, b"\r\n\r\nok");
            held.push(wire);
        }
    }
    let each = resident().saturating_sub(before) / n;
    println!("{n} idle connections, {each} KiB each, both ends");
    assert!(each < IDLE_KIB_MAX, "{each} KiB each");
    others_are_served(&stage);
}

#[test]
fn t87_a_flood_of_connections_is_refused_cheaply() {
    let mut setting = Setting::default();
    setting.limits.connections = 20;
    let stage = Stage::set(setting);
    let held: Vec<h2::Connection> = (0..20)
        .map(|_| {
            let mut connection = h2::Connection::open(stage.wire(Door::InboundH2));
            assert_eq!(
                connection.ask(1, &h2::pseudo("GET", "/public"), b"").status,
                200
            );
            connection
        })
        .collect();
    for _ in 0..200 {
        let mut wire = Wire::plain(stage.address(Door::InboundH1));
        let (received, closed) = wire.read_to_close();
        assert!(closed && received.is_empty(), "{received:?}");
    }
    let metrics = stage.metrics();
    let refused = metrics
        .lines()
        .find(|l| l.starts_with("palisade_connections_refused_total") && l.contains("limit"))
        .and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(refused.is_some_and(|n| n >= 200.0), "{metrics}");
    // Those that were there go on, and a place that is given up is taken.
    for mut connection in held {
        assert_eq!(
            connection.ask(3, &h2::pseudo("GET", "/public"), b"").status,
            200
        );
    }
    soon("a place", || {
        let mut wire = Wire::plain(stage.address(Door::InboundH1));
        wire.patience(Duration::from_millis(100));
        (!wire.read_to_close().1).then_some(())
    });
}
