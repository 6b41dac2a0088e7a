//! What proxies sign about their streams, and what it brings to light.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::{Home, LIMIT, demo::one_at_a_time, mesh::Separate, wait_for};

/// Bytes before the payload of a frame in a spool file.
const FRAME_HEADER: usize = 8;

/// Idle proxies sign how far they are; one that is killed is named by an alarm until it
/// is back, and its next start clears it.
#[test]
fn a_proxy_that_stops_sending_is_named_until_it_is_back() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    for service in ["web", "orders"] {
        let query = format!("class:stream_heads reporter:{service} last:1h");
        let rows = wait_for("heads of an idle proxy", LIMIT, || {
            home.rows(&query).filter(|rows| rows.len() >= 2)
        });
        assert!(!rows[0]["heads"].as_array().unwrap().is_empty(), "{rows:?}");
    }
    home.says(&["audit", "verify"], 0);
    assert!(!codes(&home).contains(&"PLS7526".into()));

    mesh.kill("proxy-orders");
    wait_for("an alarm", LIMIT, || {
        codes(&home).contains(&"PLS7526".into()).then_some(())
    });
    let status = home.json(&["status"]);
    assert_eq!(status["alarms"][0]["code"], 7526, "{status:#}");
    let cause = status["alarms"][0]["cause"].as_str().unwrap();
    assert!(cause.contains("sa/orders"), "{cause}");
    let gaps = home.json(&["audit", "gaps"]);
    assert_eq!(gaps["silent"].as_array().unwrap().len(), 1, "{gaps:#}");

    mesh.start("proxy-orders");
    wait_for("an alarm that ends", LIMIT, || {
        (!codes(&home).contains(&"PLS7526".into())).then_some(())
    });
}

/// Somebody with the right to write a proxy's spool alters a record there and takes
/// others away, checksums and all, before the log has them.
#[test]
fn records_that_were_altered_or_withheld_on_their_way_are_named() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    wait_for("records that have arrived", LIMIT, || home.decisions());
    mesh.end("audit");

    assert_eq!(mesh.get("/orders/4711"), Some(200));
    mesh.end("proxy-orders");
    let altered = spool_file(&home, |bytes| find(bytes, b"/orders/4711").is_some());
    alter(&altered);

    mesh.start("proxy-orders");
    mesh.wait_until_ready();
    mesh.end("proxy-orders");
    let before = boot_of(&altered);
    let withheld = spool_file(&home, |_| true);
    assert_ne!(boot_of(&withheld), before);
    withhold(&withheld);

    mesh.start("audit");
    mesh.start("proxy-orders");
    let report = wait_for("a contradiction", LIMIT, || {
        let report = home.json(&["audit", "verify"]);
        let found = report["findings"].as_array()?.first()?.clone();
        (found["kind"] == "heads").then_some(report)
    });
    let what = report["findings"][0]["what"].as_str().unwrap();
    assert!(
        what.contains("sa/orders") && what.contains(&before),
        "{what}"
    );
    let said = home.says(&["audit", "verify"], 8);
    assert!(
        said.contains("are not those that their reporter signed"),
        "{said}"
    );
    wait_for("both alarms", LIMIT, || {
        let codes = codes(&home);
        let both = ["PLS7523", "PLS7527"]
            .iter()
            .all(|c| codes.contains(&(*c).into()));
        both.then_some(())
    });
    let gaps = home.json(&["audit", "gaps"]);
    let open = gaps["open"].as_array().unwrap();
    assert_eq!(open[0]["boot"], boot_of(&withheld), "{gaps:#}");
    assert_eq!(
        (&open[0]["worker"], &open[0]["first"]),
        (&0.into(), &1.into())
    );
}

/// Codes of everything that `check` finds wrong.
fn codes(home: &Home) -> Vec<String> {
    let facts = home.json(&["check"]);
    let codes = facts.as_array().unwrap().iter();
    codes
        .filter_map(|fact| Some(format!("PLS{}", fact["code"].as_u64()?)))
        .collect()
}

/// The newest spool file of orders whose bytes are such.
fn spool_file(home: &Home, such: impl Fn(&[u8]) -> bool) -> PathBuf {
    let mut files = Vec::new();
    for boot in fs::read_dir(home.path("state-orders/spool")).unwrap() {
        let boot = boot.unwrap().path();
        if boot.is_dir() {
            files.extend(fs::read_dir(boot).unwrap().map(|e| e.unwrap().path()));
        }
    }
    files.sort();
    let found = files
        .into_iter()
        .rev()
        .find(|f| such(&fs::read(f).unwrap()));
    found.unwrap()
}

fn boot_of(file: &Path) -> String {
    let folder = file.parent().unwrap().file_name().unwrap();
    folder.to_str().unwrap().to_owned()
}

/// Changes a digit of a path, and mends the checksum.
fn alter(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let at = find(&bytes, b"/orders/4711").unwrap() + 8;
    bytes[at] = b'5';
    let mut offset = 0;
    for (start, end) in frames(&bytes) {
        if (start..end).contains(&at) {
            offset = start;
        }
    }
    let end = frames(&bytes)
        .into_iter()
        .find(|f| f.0 == offset)
        .unwrap()
        .1;
    let covered = [
        &bytes[offset..offset + 4],
        &bytes[offset + FRAME_HEADER..end],
    ]
    .concat();
    bytes[offset + 4..offset + FRAME_HEADER].copy_from_slice(&crc32(&covered).to_le_bytes());
    fs::write(file, bytes).unwrap();
}

/// Takes every chunk of the first worker away.
fn withhold(file: &Path) {
    let bytes = fs::read(file).unwrap();
    let of_worker = |start: usize| bytes[start + FRAME_HEADER..][..4] == [0; 4];
    let kept: Vec<&[u8]> = frames(&bytes)
        .into_iter()
        .filter(|(start, _)| *start == 0 || !of_worker(*start))
        .map(|(start, end)| &bytes[start..end])
        .collect();
    assert!(kept.concat().len() < bytes.len());
    fs::write(file, kept.concat()).unwrap();
}

/// Where each frame begins and ends.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let len = u32::from_le_bytes(bytes[start..start + 4].try_into().unwrap());
        let end = start + FRAME_HEADER + len as usize;
        found.push((start, end));
        start = end;
    }
    found
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|w| w == wanted)
}
