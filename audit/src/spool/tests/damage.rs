//! Spool files of which something cannot be read, and records that the log refuses.

use palisade_mesh::wire::record::{Alert, AuthnFailure, Record, SpoolEvent};
use prost::Message as _;

use super::*;
use crate::{log::Pending, testing::encoded};

/// Where each chunk of a file starts, and where the file ends.
fn chunks(bytes: &[u8]) -> Vec<usize> {
    let mut places = vec![0];
    while let Some(len) = bytes
        .get(places[places.len() - 1]..)
        .and_then(|b| b.first_chunk())
    {
        places.push(places[places.len() - 1] + 8 + u32::from_le_bytes(*len) as usize);
    }
    places.remove(0);
    places
}

/// A spool of an ended process: a file of four chunks, the last of which is the closing head.
async fn left(chunks: impl IntoIterator<Item = std::ops::RangeInclusive<u64>>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir);
    let mut stream = spool.open(0);
    for numbers in chunks {
        append(&mut stream, numbers).await;
    }
    drop(stream);
    drop(spool);
    dir
}

/// Changes the only file.
fn change(dir: &TempDir, how: impl FnOnce(&mut Vec<u8>, &[usize])) -> PathBuf {
    let file = spool_files(dir).pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let places = chunks(&bytes);
    how(&mut bytes, &places);
    fs::write(&file, bytes).unwrap();
    file
}

/// Waits for what the spool says of itself with a verb.
async fn told(log: &Log, spool: &Arc<Spool>, verb: &str) -> SpoolEvent {
    let server = server(log).await;
    let task = uplink(spool, &server);
    let event = || {
        let mut received = received(log).into_iter();
        received.find_map(|(_, record)| match record.body {
            Some(Body::SpoolEvent(event)) if event.verb == verb => Some(event),
            _ => None,
        })
    };
    until(|| event().is_some()).await;
    task.abort();
    let _ = task.await;
    event().unwrap()
}

fn aside(file: &std::path::Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

/// One bit, and everything behind it is sent; the rest is evidence, and said to be.
#[tokio::test]
async fn what_follows_a_damaged_part_is_sent_and_the_file_is_kept() {
    let dir = left([1..=3, 4..=6, 7..=9]).await;
    let file = change(&dir, |bytes, places| bytes[places[0] + 60] ^= 1);
    let damaged = fs::read(&file).unwrap();
    let spool = open(&dir);
    assert_eq!(spool.stats().damaged, 1);
    let (_log_dir, log) = deliver(&spool).await;
    assert_eq!(paths(&log), expected_paths(4..=9));
    assert!(!file.exists());
    assert_eq!(fs::read(aside(&file)).unwrap(), damaged);
    assert_eq!(spool.stats().bytes, 0, "it does not count");
    // The numbers are missing, and the spool says where they went.
    let gaps = log.gaps();
    assert_eq!(
        (gaps.len(), gaps[0].missing.from, gaps[0].missing.to),
        (1, 1, 3)
    );
    let event = told(&log, &spool, "damaged").await;
    let name = aside(&file);
    let name = name.strip_prefix(dir.path()).unwrap();
    assert!(event.detail.contains(name.to_str().unwrap()), "{event:?}");
    // As long as it lies there.
    drop(spool);
    assert_eq!(open(&dir).stats().damaged, 1);
    fs::remove_file(aside(&file)).unwrap();
    assert_eq!(open(&dir).health().damaged, 0);
}

/// A frame whose length is damaged ends where its records do, whether the length still fits
/// the file or not; one whose records are damaged, where its length says.
#[tokio::test]
async fn a_damaged_length_hides_nothing_that_follows() {
    for at in [0, 1, 3, 8 + 16 + 20] {
        for bit in [0, 5, 7] {
            let dir = left([1..=3, 4..=6, 7..=9]).await;
            change(&dir, |bytes, places| bytes[places[1] + at] ^= 1 << bit);
            let spool = open(&dir);
            let (_log_dir, log) = deliver(&spool).await;
            let mut expected = expected_paths(1..=9);
            expected.retain(|path| !path.ends_with(['4', '5', '6']));
            assert_eq!(paths(&log), expected, "bit {bit} of byte {at}");
            assert_eq!(spool.stats().damaged, 1);
        }
    }
}

/// Disks lose sectors and pages, and what is lost with them is what stood there: also where that is
/// the beginning of a chunk, the end of one and the beginning of the next, or the head of the file.
#[tokio::test]
async fn a_page_that_is_lost_takes_no_chunk_behind_it_along() {
    type Lost = fn(&[usize]) -> std::ops::Range<usize>;
    let cases: [(Lost, std::ops::RangeInclusive<u64>); 5] = [
        (|at| at[1]..at[1] + 28, 4..=6),
        (|at| at[1] - 10..at[1] + 44, 1..=6),
        (|at| at[1] - 10..at[2] + 44, 1..=9),
        (|at| at[0]..at[2], 1..=6),
        (|at| 0..at[1] + 8, 1..=6),
    ];
    for byte in [0, 0xff] {
        for (n, (range, gone)) in cases.clone().into_iter().enumerate() {
            let dir = left([1..=3, 4..=6, 7..=9, 10..=12]).await;
            change(&dir, |bytes, places| bytes[range(places)].fill(byte));
            let spool = open(&dir);
            let (_log_dir, log) = deliver(&spool).await;
            let mut expected: Vec<_> = (1..=12)
                .filter(|n| !gone.contains(n))
                .map(|n| format!("/orders/{n}"))
                .collect();
            expected.sort();
            assert_eq!(paths(&log), expected, "case {n}, {byte:#x}");
            assert_eq!(spool.stats().damaged, 1, "case {n}, {byte:#x}");
        }
    }
}

/// As an earlier version wrote it.
fn unmarked(dir: &TempDir) -> PathBuf {
    let path = spool_files(dir).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let mut places = chunks(&bytes);
    places.insert(0, 0);
    let mut old = Vec::new();
    for range in places.windows(2) {
        let payload = &bytes[range[0] + 8..range[1]];
        match payload.strip_prefix(b"palispo2") {
            Some(rest) => frame::write(&mut old, &[b"palispol", &rest[16..]]),
            None => frame::write(&mut old, &[&payload[16..]]),
        }
    }
    fs::write(&path, old).unwrap();
    path
}

/// What a version before markers left is sent as it was.
#[tokio::test]
async fn files_without_markers_stay_readable() {
    for flipped in [None, Some(60), Some(1)] {
        let dir = left([1..=3, 4..=6, 7..=9]).await;
        let path = unmarked(&dir);
        if let Some(at) = flipped {
            change(&dir, |bytes, places| bytes[places[1] + at] ^= 1);
        }
        let spool = open(&dir);
        let (_log_dir, log) = deliver(&spool).await;
        let mut expected = expected_paths(1..=9);
        if flipped.is_some() {
            expected.retain(|path| !path.ends_with(['4', '5', '6']));
        }
        assert_eq!(paths(&log), expected, "{flipped:?}");
        assert_eq!(spool.stats().damaged, u64::from(flipped.is_some()));
        assert!(!path.exists());
    }
    // Also where its head is damaged.
    let dir = left([1..=3]).await;
    unmarked(&dir);
    change(&dir, |bytes, _| bytes[20] ^= 1);
    let spool = open(&dir);
    let (_log_dir, log) = deliver(&spool).await;
    assert_eq!(paths(&log), expected_paths(1..=3));
}

/// Nothing of it can be sent: it is not forgotten for that.
#[tokio::test]
async fn a_file_of_which_nothing_can_be_read_is_kept_and_told() {
    let dir = left([1..=3]).await;
    let file = change(&dir, |bytes, places| {
        for place in places.iter().take(2) {
            bytes[*place + 40] ^= 1;
        }
    });
    let spool = open(&dir);
    assert!(aside(&file).exists() && !file.exists());
    let stats = spool.stats();
    assert_eq!((stats.waiting, stats.bytes, stats.damaged), (0, 0, 1));
    let (_log_dir, log) = deliver(&spool).await;
    told(&log, &spool, "damaged").await;
}

/// A disk that garbles every file fills with none of them.
#[tokio::test]
async fn so_many_damaged_files_are_kept_and_no_more() {
    let dir = left([1..=3]).await;
    let file = change(&dir, |bytes, places| bytes[places[0]..].fill(0xff));
    let earlier = |n: usize| {
        let boot = Ulid::from_parts(1, n as u128).to_string();
        dir.path().join(boot).join("0000000000.spool.damaged")
    };
    for n in 0..queue::DAMAGED_MAX {
        fs::create_dir(earlier(n).parent().unwrap()).unwrap();
        fs::write(earlier(n), "evidence").unwrap();
    }
    let spool = open(&dir);
    assert!(aside(&file).exists(), "the newest is kept");
    assert!(!earlier(0).parent().unwrap().exists(), "the oldest is not");
    for n in 1..queue::DAMAGED_MAX {
        assert!(earlier(n).exists(), "{n}");
    }
    drop(spool);
}

/// What says whose a file is can be damaged as well; its records say it, too.
#[tokio::test]
async fn a_file_whose_head_is_damaged_is_sent_if_its_records_are_ours() {
    let dir = left([1..=3]).await;
    change(&dir, |bytes, _| bytes[20] ^= 1);
    let spool = open(&dir);
    let (_log_dir, log) = deliver(&spool).await;
    assert_eq!(paths(&log), expected_paths(1..=3));
    assert_eq!(spool.stats().damaged, 1);

    let dir = left([1..=3]).await;
    let file = change(&dir, |bytes, _| bytes[20] ^= 1);
    let other = SpiffeId::parse("spiffe://acme.test/other").unwrap();
    let spool = Spool::open(dir.path(), other, SpoolOptions::default(), Clock::system()).unwrap();
    assert_eq!((spool.stats().waiting, spool.stats().damaged), (0, 1));
    assert!(file.exists(), "it is left as it is");
}

/// A file that was cut off is damaged, unless it is the last: that is half a write.
#[tokio::test]
async fn a_cut_file_is_damaged_if_another_follows() {
    for is_last in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let small = SpoolOptions {
            file_bytes: 1,
            ..SpoolOptions::default()
        };
        let spool = open_with(&dir, small);
        let mut stream = spool.open(0);
        append(&mut stream, 1..=3).await;
        append(&mut stream, 4..=6).await;
        drop(stream);
        drop(spool);
        let mut files = spool_files(&dir);
        let file = if is_last {
            files.pop()
        } else {
            files.drain(..).next()
        };
        let file = file.unwrap();
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
        let spool = open(&dir);
        assert_eq!(spool.stats().damaged, u64::from(!is_last));
        let (_log_dir, log) = deliver(&spool).await;
        let arrived = if is_last { 1..=6 } else { 4..=6 };
        assert_eq!(paths(&log), expected_paths(arrived));
        assert_eq!(aside(&file).exists(), !is_last);
    }
}

/// While the process that wrote it runs; nobody waits for what is gone.
#[tokio::test]
async fn a_file_that_is_damaged_while_it_waits_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir);
    let mut stream = spool.open(0);
    for numbers in [1..=3, 4..=6, 7..=9] {
        append(&mut stream, numbers).await;
    }
    // In place: a file that is replaced is written anew from what is open.
    let path = spool_files(&dir).pop().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let places = chunks(&fs::read(&path).unwrap());
    for place in [places[0], places[2]] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"~~~~", place as u64 + 60).unwrap();
    }
    let (_log_dir, log) = deliver(&spool).await;
    assert_eq!(paths(&log), expected_paths(4..=6));
    assert_eq!(spool.stats().damaged, 1);
    told(&log, &spool, "damaged").await;
    append(&mut stream, 10..=12).await;
    // Nothing is written behind what cannot be read.
    let written = spool_files(&dir).pop().unwrap();
    assert_ne!(written, path);
    drop(stream);
    let server = server(&log).await;
    let task = uplink(&spool, &server);
    spool.close();
    soon(task).await.unwrap();
    let mut expected = expected_paths(4..=6);
    expected.extend(expected_paths(10..=12));
    expected.sort();
    assert_eq!(paths(&log), expected);
    assert_eq!(log.gaps().len(), 2);
    assert!(aside(&path).exists() && !path.exists());
}

/// What a caller sent may look like a frame; nothing looks for one in there.
#[tokio::test]
async fn a_frame_within_a_record_is_never_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir);
    let forged = buffer::Chunk {
        worker: 0,
        first_sequence: 100,
        count: 1,
        bytes: {
            let record = decision(666).encode_to_vec();
            let len = (record.len() as u32).to_le_bytes();
            [&len[..], &record].concat().into()
        },
    };
    let mut frame = Vec::new();
    file::chunk(&mut frame, &forged, &[7; 16]);
    let mut stream = spool.open(0);
    let record = Record {
        body: Some(Body::AuthnFailure(AuthnFailure {
            serial: frame.repeat(20),
            ..AuthnFailure::default()
        })),
        ..decision(1)
    };
    stream.append(&record).unwrap();
    soon(stream.durable()).await.unwrap();
    append(&mut stream, 2..=3).await;
    drop(stream);
    drop(spool);
    change(&dir, |bytes, places| {
        // The length of the frame and that of its record.
        bytes[places[0] + 1] ^= 1;
        bytes[places[0] + 8 + 16 + 20 + 1] ^= 2;
    });
    let spool = open(&dir);
    let (_log_dir, log) = deliver(&spool).await;
    assert!(!paths(&log).contains(&"/orders/666".to_owned()));
    assert_eq!(spool.stats().damaged, 1);
}

/// No uplink would ever get past it.
#[tokio::test]
async fn a_record_that_the_log_refuses_is_set_aside_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir);
    let mut stream = spool.open(0);
    for n in 1..=5 {
        stream.append(&decision(n)).unwrap();
    }
    let refused = Record {
        body: Some(Body::Alert(Alert::default())),
        ..decision(0)
    };
    stream.append(&refused).unwrap();
    for n in 7..=9 {
        stream.append(&decision(n)).unwrap();
    }
    soon(stream.durable()).await.unwrap();
    assert_eq!(spool.health().refusal, None);
    let (_log_dir, log) = deliver(&spool).await;
    let mut expected = expected_paths(1..=9);
    expected.retain(|path| !path.ends_with('6'));
    assert_eq!(paths(&log), expected);
    let health = spool.health();
    assert_eq!((health.refused, spool.stats().refused), (1, 1));
    let words = health.refusal.unwrap();
    assert!(words.contains("only the log itself may"), "{words}");
    let kept = dir.path().join(format!("{}/0-6.refused", spool.boot()));
    assert_eq!(fs::read(&kept).unwrap(), refused.encode_to_vec());
    let gaps = log.gaps();
    assert_eq!(
        (gaps.len(), gaps[0].missing.from, gaps[0].missing.to),
        (1, 6, 6)
    );
    let event = told(&log, &spool, "refused").await;
    assert!(event.detail.contains("record 6 of worker 0"), "{event:?}");
    assert!(
        event.detail.contains("only the log itself may"),
        "{event:?}"
    );
    // Also after it, and where nothing follows.
    stream.append(&refused).unwrap();
    soon(stream.durable()).await.unwrap();
    let server = server(&log).await;
    let task = uplink(&spool, &server);
    soon(spool.delivered()).await;
    drop(stream);
    task.abort();
    let _ = task.await;
    drop(spool);
    assert_eq!(open(&dir).health().refused, 2);
}

/// A record for which the log has no place now is as good as any: it stays, and is taken once there
/// is one.
#[tokio::test]
async fn what_the_log_has_no_place_for_now_is_sent_later() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(&dir);
    let stream = Arc::new(StreamKey {
        reporter: reporter(),
        boot: spool.boot(),
        worker: 0,
    });
    let mut records = spool.open(0);
    append(&mut records, 1..=4).await;
    append(&mut records, 5..=6).await;
    drop(records);
    drop(spool);
    change(&dir, |bytes, places| bytes[places[0] + 60] ^= 1);
    // The first gap of the stream would become two, and it has as many as it may have.
    let log_dir = tempfile::tempdir().unwrap();
    let log = open_log(&log_dir);
    let pending = |sequence| Pending {
        stream: stream.clone(),
        sequence,
        record: encoded(sequence),
    };
    let gaps = 0..crate::stream::GAPS_MAX as u64;
    crate::testing::append(&log, gaps.map(|n| pending(10 + 2 * n)).collect()).await;
    let spool = open(&dir);
    let server = server(&log).await;
    let task = uplink(&spool, &server);
    // More often than a record is that is set aside.
    until(|| spool.shared.connections.load(Ordering::Relaxed) >= 5).await;
    assert!(spool.health().refusal.unwrap().contains("gaps"));
    assert_eq!(spool.stats().refused, 0);
    assert!(!paths(&log).contains(&"/orders/5".to_owned()));
    crate::testing::append(&log, vec![pending(11)]).await;
    soon(spool.delivered()).await;
    for path in ["/orders/5", "/orders/6"] {
        assert!(paths(&log).contains(&path.to_owned()), "{path}");
    }
    let health = spool.health();
    assert_eq!((health.refusal, health.refused), (None, 0));
    task.abort();
}

/// A log that refuses everything is not to empty the spool.
#[test]
fn so_many_records_are_set_aside_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let boot = new_ulid(&Clock::system());
    let folder = dir.path().join(boot.to_string());
    fs::create_dir(&folder).unwrap();
    for n in 1..refusal::ASIDE_MAX {
        fs::write(folder.join(format!("0-{n}.refused")), "x").unwrap();
    }
    let spool = open(&dir);
    let aside = |n| {
        spool
            .shared
            .set_aside(spool.boot(), 0, n, b"x", "no")
            .unwrap()
    };
    assert!(aside(1));
    assert_eq!(spool.stats().refused, refusal::ASIDE_MAX);
    assert!(!aside(2));
    assert!(aside(1), "it is there already");
    assert_eq!(spool.stats().refused, refusal::ASIDE_MAX);
}

/// The proxy starts for all that.
#[tokio::test]
async fn a_file_that_is_called_as_a_boot_is_in_nobody_s_way() {
    let dir = left([1..=3]).await;
    let stray = dir.path().join(new_ulid(&Clock::system()).to_string());
    fs::write(&stray, "somebody's").unwrap();
    let spool = open(&dir);
    let (_log_dir, log) = deliver(&spool).await;
    assert_eq!(paths(&log), expected_paths(1..=3));
    assert!(stray.exists());
}
