//! The page of a package in a real browser: it takes a package that holds, and says of every
//! other one which file is wrong and why.

use std::{fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::*;
use crate::cosignature::Cosigner;

mod doubtful;

/// Packages as folders, and what the page has to say of each.
struct Cases {
    dir: tempfile::TempDir,
    all: Vec<Value>,
}

impl Cases {
    fn folder(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name.replace(' ', "-")).join("package")
    }

    /// Puts files into a folder of their own, and says what comes of it.
    fn add(&mut self, name: &str, files: &Files, keys: &[&str], told: (&str, &[&str])) {
        let folder = self.folder(name);
        for (file, content) in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let (verdict, says) = told;
        self.all.push(json!({
            "name": name, "folder": folder, "keys": keys, "quorum": "", "verdict": verdict, "says": says, "gone": null,
        }));
    }

    /// Has so many witnesses asked for in the last case.
    fn at_least(&mut self, quorum: &str) {
        self.all.last_mut().unwrap()["quorum"] = quorum.into();
    }

    /// Has a file of the last case taken away after the folder was chosen.
    fn gone(&mut self, file: &str) {
        self.all.last_mut().unwrap()["gone"] = file.into();
    }

    fn run(&self) {
        let list = self.dir.path().join("cases.json");
        fs::write(&list, serde_json::to_vec(&self.all).unwrap()).unwrap();
        let python = std::env::var("PALISADE_TEST_PYTHON").unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/interop/verifier.py");
        let mut command = Command::new(python);
        command
            .arg(script)
            .arg(self.folder("holds").join(VERIFIER))
            .arg(list);
        command.args(std::env::var_os("PALISADE_TEST_SHOTS"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let more = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{more}");
        assert_eq!(said.lines().count(), self.all.len(), "{said}");
    }
}

/// A log that a witness has cosigned before its last records, and the key of the witness.
async fn cosigned() -> (Stage, String) {
    let stage = stage().await;
    let checkpoint = stage.log.checkpoint();
    let (text, _) = crate::note::parts(&checkpoint.note).unwrap();
    let key = stage.dir.path().join("witness");
    let witness = Cosigner::load(&key, "witness.test/w", true).unwrap();
    let line = witness.cosign(text, 1_763_650_000).unwrap();
    let note = format!("{}{line}", checkpoint.note);
    fs::write(stage.dir.path().join(COSIGNED), note).unwrap();
    let stream = Arc::new(StreamKey {
        reporter: reporter(),
        boot: ulid::Ulid::from_parts(8, 8),
        worker: 0,
    });
    let pending = (1..=9).map(|sequence| Pending {
        stream: stream.clone(),
        sequence,
        record: record(sequence, stage.now_us - 1),
    });
    let mut receipt = stage.log.append(pending.collect());
    receipt.checkpointed().await.unwrap();
    stage.store.flush().await.unwrap();
    (stage, witness.key().to_string())
}

fn opened(stage: &Stage, packed: &[u8]) -> Files {
    let mut seal = Seal::new(stage.log.verifier());
    archive::read(packed, PACKAGE_BYTES_MAX, &mut seal).unwrap()
}

/// Changes the lines of the proofs, each as JSON.
fn proofs(files: &mut Files, change: impl Fn(&mut Vec<Value>)) {
    let text = String::from_utf8(files[PROOFS].clone()).unwrap();
    let mut lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    change(&mut lines);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    files.insert(PROOFS.into(), text.into());
}

/// The same with one bit another, as base64.
fn bit(value: &mut Value) {
    let mut bytes = BASE64.decode(value.as_str().unwrap()).unwrap();
    bytes[9] ^= 1;
    *value = BASE64.encode(bytes).into();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs python3 and chromium; .ci/run has them"]
async fn the_page_takes_what_holds_and_names_what_does_not() {
    let (stage, witness) = cosigned().await;
    let (report, _) = stage.made("soc2");
    let key = stage.log.verifier().to_string();
    let files = stage.files(&report);
    let elsewhere = tempfile::tempdir().unwrap();
    let other_log = open_log(&elsewhere);
    let other = other_log.verifier().to_string();
    let stranger = Cosigner::load(&elsewhere.path().join("w"), "witness.test/x", true).unwrap();
    let stranger = stranger.key().to_string();
    let mut cases = Cases {
        dir: tempfile::tempdir().unwrap(),
        all: Vec::new(),
    };
    let size = stage.log.checkpoint().size;
    let signed = format!("{size} records under one root");
    let says = [
        "the key that you gave",
        &signed,
        "every record of the period",
        "witness.test/w",
        "no more than where you have that key from",
        "every decision",
        "another log: no witness whose key you gave has cosigned it",
    ];
    cases.add("holds", &files, &[&key], ("verified", &says));
    let says = [
        "witness.test/w on 2025-11-20 14:46:40 UTC",
        "came after it",
        "another log: what the witnesses of your keys have cosigned ends after",
    ];
    cases.add("cosigned", &files, &[&key, &witness], ("verified", &says));
    let says = ["whoever made the package could have made that key"];
    cases.add("no key", &files, &[], ("unvouched", &says));
    let says = [
        "checkpoint.pub: it is another key than you gave",
        "SHA256SUMS.note: it is not signed with a key",
    ];
    cases.add("another key", &files, &[&other], ("refused", &says));
    let says = ["cosigned: witness.test/x has not cosigned it"];
    cases.add(
        "another witness",
        &files,
        &[&key, &stranger],
        ("refused", &says),
    );
    cases.add(
        "half a key",
        &files,
        &[&key[..key.len() - 4]],
        ("", &["cannot be used"]),
    );
    cases.add(
        "no package",
        &Files::from([("a".into(), vec![])]),
        &[&key],
        ("", &["no SHA256SUMS in this folder itself"]),
    );

    // On the way: somebody without the log's key.
    let changed = |change: &dyn Fn(&mut Files)| {
        let mut files = files.clone();
        change(&mut files);
        files
    };
    let altered = changed(&|files| {
        let rows = String::from_utf8(files[ROWS].clone()).unwrap();
        files.insert(
            ROWS.into(),
            rows.replacen("/orders/", "/payments/", 1).into(),
        );
    });
    let says = ["records/records.jsonl: its sum is not the one"];
    cases.add("an altered record", &altered, &[&key], ("refused", &says));
    let less = changed(&|files| {
        files.remove("queries.txt");
    });
    cases.add(
        "a missing file",
        &less,
        &[&key],
        ("refused", &["queries.txt: it is missing"]),
    );
    let less = changed(&|files| {
        files.remove(CHECKPOINT);
    });
    cases.add(
        "a missing checkpoint",
        &less,
        &[&key],
        ("refused", &["checkpoint: it is missing"]),
    );
    let hostile = "report/<img src=x onerror=alert(1)>.html";
    let more = changed(&|files| {
        files.insert(hostile.into(), b"x".to_vec());
        files.insert(".DS_Store".into(), b"left by a file manager".to_vec());
    });
    let told = format!("{hostile}: no sum speaks for it");
    cases.add("an added file", &more, &[&key], ("refused", &[&told]));
    let resummed = changed(&|files| {
        files.get_mut(REPORT).unwrap().push(b' ');
        files.remove(SUMS);
        let note = files.remove(NOTE).unwrap();
        files.insert(SUMS.into(), sums(files).into());
        files.insert(NOTE.into(), note);
    });
    cases.add(
        "sums made anew",
        &resummed,
        &[&key],
        ("refused", &["SHA256SUMS: it is not what was signed"]),
    );
    let forged = changed(&|files| {
        let note = String::from_utf8(files[NOTE].clone()).unwrap();
        files.insert(
            NOTE.into(),
            note.replacen("report: soc2", "report: soc3", 1).into(),
        );
    });
    let says = ["SHA256SUMS.note: its signature by palisade/acme.test does not verify"];
    cases.add("a forged note", &forged, &[&key], ("refused", &says));

    // Signed all the same, by whoever has the log's key: the proofs do not follow.
    let resealed = |change: &dyn Fn(&mut Files)| opened(&stage, &stage.resealed(&report, change));
    let moved = resealed(&|files| proofs(files, |lines| bit(&mut lines[20]["leaf"])));
    let says = [
        "line 21, record ",
        "is not in the log: its proof leads to another root",
    ];
    cases.add(
        "a record that was never in the log",
        &moved,
        &[&key],
        ("refused", &says),
    );
    let lowest = resealed(&|files| proofs(files, |lines| bit(&mut lines[0]["proof"][0])));
    cases.add(
        "a forged proof",
        &lowest,
        &[&key],
        ("refused", &["line 1, record 0 is not in the log"]),
    );
    // Of the last record, the hash that all have in common.
    let highest = resealed(&|files| {
        proofs(files, |lines| {
            let n = lines.len() - 2;
            let proof = lines[n]["proof"].as_array_mut().unwrap();
            bit(proof.last_mut().unwrap());
        });
    });
    cases.add(
        "a proof forged at its top",
        &highest,
        &[&key],
        ("refused", &["is not in the log: its proof leads"]),
    );
    let shorter = resealed(&|files| {
        proofs(files, |lines| {
            lines[3]["proof"].as_array_mut().unwrap().pop();
        });
    });
    cases.add(
        "a shortened proof",
        &shorter,
        &[&key],
        ("refused", &["hashes where"]),
    );
    let again = resealed(&|files| proofs(files, |lines| lines.insert(5, lines[5].clone())));
    cases.add(
        "a record twice",
        &again,
        &[&key],
        ("refused", &["is out of order"]),
    );
    let less = resealed(&|files| {
        proofs(files, |lines| {
            lines.pop();
        });
    });
    cases.add(
        "a record without proof",
        &less,
        &[&key],
        ("refused", &["records/records.jsonl: "]),
    );
    let split = resealed(&|files| {
        let mut lines = String::from_utf8(files[CONSISTENCY].clone()).unwrap();
        let other = if lines.starts_with('0') { "1" } else { "0" };
        lines.replace_range(0..1, other);
        files.insert(CONSISTENCY.into(), lines.into());
    });
    cases.add(
        "another history",
        &split,
        &[&key],
        ("refused", &["cosigned: it is of another history"]),
    );
    let mut moved = report.clone();
    moved.header.checkpoint.time = "2026-01-01T00:00:00.000000Z".into();
    moved.header.checkpoint.note.push(' ');
    let moved = resealed(&|files| files.extend(forms(&moved).unwrap()));
    cases.add(
        "a report of another log",
        &moved,
        &[&key],
        ("refused", &["report/report.json: it rests on another"]),
    );
    doubtful::misshapen(&mut cases, &stage, &report);
    doubtful::of_two_logs(&mut cases, &stage, &report, &other_log);
    doubtful::barely_cosigned(&mut cases, &stage, &report);
    doubtful::by_a_quorum(&mut cases, &stage, &report);
    doubtful::around(&mut cases, &files, &key);
    cases.run();
}
