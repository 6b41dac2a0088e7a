//! Packages that hold in part, or look as if they did.

use super::*;
use crate::{merkle::Hash, note::Signer};

/// The package with its report changed, as JSON, and sealed by the log's own key.
fn reporting(stage: &Stage, report: &Report, change: impl Fn(&mut Value)) -> Files {
    let packed = stage.resealed(report, |files| {
        let mut json: Value = serde_json::from_slice(&files[REPORT]).unwrap();
        change(&mut json);
        files.insert(REPORT.into(), json.to_string().into());
    });
    opened(stage, &packed)
}

/// What is no text, number or record where one has to be.
pub(super) fn misshapen(cases: &mut Cases, stage: &Stage, report: &Report) {
    let key = stage.log.verifier().to_string();
    let mut refused = |name: &str, files: &Files, says: &[&str]| {
        cases.add(name, files, &[&key], ("refused", says));
    };
    // What cannot be made text, in any of these places.
    let odd = json!({ "toString": 1, "valueOf": 1 });
    let places = [
        ("a title", "/title"),
        ("a scope", "/header/scope"),
        ("a count", "/header/records"),
        ("a beginning", "/header/from"),
        ("a section", "/sections/0"),
        ("a section's title", "/sections/0/title"),
    ];
    for (name, place) in places {
        let files = reporting(stage, report, |json| {
            *json.pointer_mut(place).unwrap() = odd.clone();
        });
        let says = ["report/report.json: it is not a report"];
        refused(&format!("{name} that is none"), &files, &says);
    }
    let mut altered = stage.files(report);
    let none = json!({ "header": report.header, "sections": [null] }).to_string();
    altered.insert(REPORT.into(), none.into());
    let says = [
        "report/report.json: its sum is not the one",
        "it is not a report",
    ];
    refused("no sections", &altered, &says);
    let entry = stage.resealed(report, |files| {
        proofs(files, |lines| lines[2]["entry"] = odd.clone());
    });
    let says = ["line 3 is no record with its proof"];
    refused("a number that is none", &opened(stage, &entry), &says);
    let fewer = reporting(stage, report, |json| {
        json["header"]["records"] = 1_000_000.into();
    });
    let says = ["it counts 1000000 records of the period"];
    refused("more records than there are", &fewer, &says);
    for (name, place, value) in [
        ("another root", "root", json!(BASE64.encode([7; 32]))),
        ("another size", "size", json!(7)),
        ("another time", "time", json!("2020-01-01T00:00:00.000000Z")),
    ] {
        let files = reporting(stage, report, |json| {
            json["header"]["checkpoint"][place] = value.clone();
        });
        let says = ["report/report.json: it rests on another checkpoint"];
        refused(name, &files, &says);
    }
}

/// A log that a reader trusts speaks for the records of another one.
pub(super) fn of_two_logs(cases: &mut Cases, stage: &Stage, report: &Report, other: &Log) {
    let keys = [stage.log.verifier(), other.verifier()].map(ToString::to_string);
    let keys = keys.each_ref().map(String::as_str);
    let mut files = stage.files(report);
    files.retain(|name, _| name != SUMS && name != NOTE);
    let whose = [
        (stage.log.verifier(), "SHA256SUMS.note"),
        (other.verifier(), "checkpoint"),
    ];
    for (key, refused) in whose {
        let mut files = files.clone();
        files.insert(KEY.into(), format!("{key}\n").into());
        let packed = sealed(
            files,
            report,
            (other, &Going::default()),
            jiff::Timestamp::UNIX_EPOCH,
        )
        .unwrap();
        let mut seal = Seal::new(other.verifier());
        let files = archive::read(&packed, PACKAGE_BYTES_MAX, &mut seal).unwrap();
        let told = format!("{refused}: it is not signed with a key that you trust");
        let name = format!("two logs by {refused}");
        cases.add(&name, &files, &keys, ("refused", &[&told]));
    }
    let renamed = reporting(stage, report, |json| {
        json["header"]["log"] = "palisade/other.test".into();
    });
    let says = ["report/report.json: it is of another log"];
    cases.add("another name", &renamed, &keys[..1], ("refused", &says));
    // The key of a witness is none of a log, whoever puts it there.
    let path = stage.dir.path().join("witness");
    let witness = Cosigner::load(&path, "witness.test/w", false).unwrap();
    let packed = stage.resealed(report, |files| {
        files.insert(KEY.into(), format!("{}\n", witness.key()).into());
    });
    let says = ["checkpoint.pub: it is the key of a witness"];
    let files = opened(stage, &packed);
    cases.add("a key of a witness", &files, &[], ("refused", &says));
}

/// Cosigned, and yet nothing of the package was.
pub(super) fn barely_cosigned(cases: &mut Cases, stage: &Stage, report: &Report) {
    let path = stage.dir.path().join("witness");
    let witness = Cosigner::load(&path, "witness.test/w", false).unwrap();
    let keys = [stage.log.verifier().to_string(), witness.key().to_string()];
    let keys = keys.each_ref().map(String::as_str);
    let beside = |note: &str, proof: &str| {
        let packed = stage.resealed(report, |files| {
            files.insert(COSIGNED.into(), note.into());
            files.insert(CONSISTENCY.into(), proof.into());
        });
        opened(stage, &packed)
    };
    let own = stage.log.checkpoint();
    let says = [
        "nobody has cosigned it",
        "another log: no witness has cosigned it",
    ];
    let alone = beside(&own.note, "");
    cases.add("by nobody", &alone, &keys[..1], ("verified", &says));
    let (text, _) = crate::note::parts(&own.note).unwrap();
    let whole = format!(
        "{}{}",
        own.note,
        witness.cosign(text, 1_763_650_000).unwrap()
    );
    let says = ["cosigned by witness.test/w", "✓ holds"];
    let all = beside(&whole, "");
    cases.add("cosigned whole", &all, &keys, ("verified", &says));
    let says = ["cosigned.consistency: its last line does not end"];
    let open = beside(&whole, &"0".repeat(64));
    cases.add("an open line", &open, &keys, ("refused", &says));

    // The first checkpoint of the log, of nothing, and one that says that it is.
    let signer = stage.dir.path().join("checkpoint.key");
    let signer = Signer::load(&signer, stage.log.verifier().name(), false).unwrap();
    let of_nothing = |root: Hash| {
        let time = jiff::Timestamp::UNIX_EPOCH;
        let note = Checkpoint::sign(&signer, 0, root, time).unwrap().note;
        let (text, _) = crate::note::parts(&note).unwrap();
        let line = witness.cosign(text, 1_763_650_000).unwrap();
        beside(&format!("{note}{line}"), "")
    };
    let says = [
        "it speaks for none of them",
        "– not shown",
        "another log: what the witnesses of your keys have cosigned ends after 0 records",
    ];
    let first = of_nothing(crate::merkle::empty_root());
    cases.add("cosigned before", &first, &keys, ("verified", &says));
    let says = ["cosigned: it is of another history: an empty log"];
    let forged = of_nothing([7; 32]);
    cases.add("an empty log", &forged, &keys, ("refused", &says));
}

/// Cosigned by two of three witnesses, which is enough for whoever says so; and a line that is
/// none of theirs is enough for nobody.
pub(super) fn by_a_quorum(cases: &mut Cases, stage: &Stage, report: &Report) {
    let witness = |name: &str| {
        let path = stage.dir.path().join(name);
        Cosigner::load(&path, &format!("witness.test/{name}"), true).unwrap()
    };
    let [first, second, third] = ["w1", "w2", "w3"].map(witness);
    let own = stage.log.checkpoint();
    let (text, _) = crate::note::parts(&own.note).unwrap();
    let line = |witness: &Cosigner| witness.cosign(text, 1_763_650_000).unwrap();
    let (one, two) = (line(&first), line(&second));
    let beside = |note: String| {
        let packed = stage.resealed(report, |files| {
            files.insert(COSIGNED.into(), note.clone().into());
            files.insert(CONSISTENCY.into(), Vec::new());
        });
        opened(stage, &packed)
    };
    let log = stage.log.verifier().to_string();
    let of = [&first, &second, &third].map(|witness| witness.key().to_string());
    let keys = [&*log, &*of[0], &*of[1], &*of[2]];
    let both = beside(format!("{}{one}{two}", own.note));
    let says = ["cosigned: witness.test/w3 has not cosigned it"];
    cases.add("two of three", &both, &keys, ("refused", &says));
    let says = [
        "2 of the 3 witnesses whose keys you gave have cosigned this log.",
        "witness.test/w3 has not; you asked for at least 2.",
        "and not by witness.test/w3",
    ];
    cases.add("two are enough", &both, &keys, ("verified", &says));
    cases.at_least("2");
    let alone = beside(format!("{}{one}", own.note));
    let says = ["1 of the 2 that you ask for have"];
    cases.add("one is not", &alone, &keys, ("refused", &says));
    cases.at_least("2");
    let twice = [&*log, &*of[0], &*of[0]];
    let says = ["Of the 1 witnesses whose keys you gave"];
    cases.add("one counts once", &alone, &twice, ("", &says));
    cases.at_least("2");
    let says = ["cannot be the number that has to have cosigned"];
    for wrong in ["0", "4", "two", "1.5", "-1"] {
        let name = format!("not a number {wrong}");
        cases.add(&name, &both, &keys, ("", &says));
        cases.at_least(wrong);
    }
    // By the key of the second, over another time than the line says.
    let other = second.cosign(text, 1_763_650_001).unwrap();
    let forged = forged(&two, &other);
    let forged = beside(format!("{}{one}{forged}", own.note));
    let says = ["the cosignature of witness.test/w2 does not verify"];
    cases.add("a forged line", &forged, &keys, ("refused", &says));
    cases.at_least("1");
}

/// A line with the key and the time of `line`, and the signature of `other`.
fn forged(line: &str, other: &str) -> String {
    let signature = |line: &str| {
        let last = line.trim_end().rsplit(' ').next().unwrap();
        BASE64.decode(last).unwrap()
    };
    let (mut mine, theirs) = (signature(line), signature(other));
    // Key hash and time come first, 4 and 8 bytes.
    mine[12..].copy_from_slice(&theirs[12..]);
    let (head, _) = line.trim_end().rsplit_once(' ').unwrap();
    format!("{head} {}\n", BASE64.encode(mine))
}

/// What lies around a package or is taken from it.
pub(super) fn around(cases: &mut Cases, files: &Files, key: &str) {
    let mut hidden: Files = files
        .iter()
        .map(|(name, content)| (format!(".hidden/pkg/{name}"), content.clone()))
        .collect();
    hidden.insert("report.html".into(), b"forged".to_vec());
    let says = ["no SHA256SUMS in this folder itself"];
    cases.add("a package within", &hidden, &[key], ("", &says));
    let mut twice = files.clone();
    twice.insert("deeper/SHA256SUMS".into(), files[SUMS].clone());
    let says = ["deeper/SHA256SUMS: no sum speaks for it"];
    cases.add("sums twice", &twice, &[key], ("refused", &says));
    let mut stray = files.clone();
    stray.insert("report/._report.html".into(), b"anything".to_vec());
    let says = [
        "none was added but the 1 that were passed over",
        "which were passed over: report/._report.html",
    ];
    cases.add("a stray file", &stray, &[key], ("verified", &says));
    let says = ["queries.txt: it could not be read here"];
    cases.add("a file gone", files, &[key], ("unfinished", &says));
    cases.gone("queries.txt");
    let mut altered = files.clone();
    altered.insert(ABOUT.into(), b"altered".to_vec());
    let says = ["README.txt: its sum is not the one"];
    cases.add("altered and gone", &altered, &[key], ("refused", &says));
    cases.gone("queries.txt");
}
