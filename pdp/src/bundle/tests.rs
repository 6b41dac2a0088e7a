//! One digest for each content, and texts that come back as they were.

use palisade_mesh::wire::policy::{File, PolicyText, Signature};

use super::{
    file::BundleFile,
    key::SigningKey,
    proofs,
    trust::{Keys, Trust},
    *,
};
use crate::author::{self, FILE_LEN_MAX, sample};

type Change = fn(&mut Bundle);

/// Several policies on a line, comments before, between and after them.
const CROWDED: &str = "// a word first\n\
    @id(\"one\") permit (principal, action, resource in Service::\"demo.test/shop/web\"); // one\n\
    \n\
    @id(\"two\") forbid (principal, action, resource) when { !context.tls.mtls };\
    @id(\"three\") permit (principal, action, resource == Service::\"demo.test/shop/orders\");\n\
    @id(\"four\")\n\
    permit (principal, action, resource is Operation)\n\
    when { context.tls.mtls };\n\
    // a word last";

fn crowded() -> Bundle {
    let dir = sample::copy();
    sample::write(dir.path(), "policies/crowded.cedar", CROWDED);
    sample::write(dir.path(), "policies/empty.cedar", "// nothing yet\n");
    let loaded = author::load(dir.path());
    let compiled = loaded.compiled.expect("compiles");
    Bundle::decode(compiled.bundle).unwrap()
}

fn digest(bundle: &Bundle) -> Digest {
    manifest::digest(&mut bundle.clone()).expect("in order")
}

#[test]
fn files_come_back_byte_for_byte() {
    let bundle = crowded();
    let mut files = bundle.files.clone();
    files.extend(texts::of_policies(&bundle).unwrap());
    let text = |path: &str| &files.iter().find(|f| f.path == path).unwrap().text;
    assert_eq!(text("policies/crowded.cedar"), CROWDED);
    assert_eq!(text("policies/empty.cedar"), "// nothing yet\n");
    let files = files.into_iter().map(|f| (f.path, f.text.into_bytes()));
    let again = author::of_files(files.collect(), bundle.git_revision.clone());
    assert_eq!(again.compiled.unwrap().digest, digest(&bundle));
}

/// Whatever is left out, the digest and the places of what is left are the same.
#[test]
fn a_bundle_without_some_policies_has_its_digest_and_lines() {
    let whole = crowded();
    let scopes: Vec<_> = whole.groups.iter().map(|g| g.scope.clone()).collect();
    assert!(scopes.len() >= 4, "{scopes:?}");
    for keep in &scopes {
        let mut slice = whole.clone();
        let left_out = slice.groups.iter_mut().filter(|g| g.scope != *keep);
        left_out.for_each(|g| g.policies.clear());
        assert_eq!(digest(&slice), digest(&whole));
        for file in texts::of_policies(&slice).unwrap() {
            let kept = slice.groups.iter().flat_map(|g| &g.policies);
            for policy in kept.filter(|p| p.file == file.path) {
                let at = file.text.find(policy.text.trim()).expect(keep);
                let line = 1 + file.text[..at].matches('\n').count();
                let before = policy.text.len() - policy.text.trim_start().len();
                let breaks = policy.text[..before].matches('\n').count();
                assert_eq!(line, policy.line as usize + breaks, "{}", policy.policy_id);
            }
        }
    }
}

#[test]
fn every_part_of_a_bundle_counts() {
    let whole = crowded();
    let changes: [Change; 12] = [
        |b| b.trust_domain = "other.test".into(),
        |b| b.git_revision = "0123".into(),
        |b| b.features.push("more".into()),
        |b| b.files[0].text.push('\n'),
        |b| b.files[0].path.insert(0, 'a'),
        |b| drop(b.files.remove(0)),
        |b| b.groups[0].scope.insert(0, '!'),
        |b| drop(b.groups.remove(0)),
        |b| b.groups[0] = regrouped(&b.groups[0], |p| p.text.push(' ')),
        |b| b.groups[0] = regrouped(&b.groups[0], |p| p.author.push('x')),
        |b| b.groups[0] = regrouped(&b.groups[0], |p| p.line += 1),
        |b| {
            b.groups[0].policies.clear();
            b.groups[0].count += 1;
        },
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut changed = whole.clone();
        change(&mut changed);
        assert_ne!(digest(&changed), digest(&whole), "change {n}");
    }
}

fn regrouped(
    group: &palisade_mesh::wire::policy::PolicyGroup,
    change: fn(&mut PolicyText),
) -> palisade_mesh::wire::policy::PolicyGroup {
    let mut policies = group.policies.clone();
    change(&mut policies[0]);
    manifest::group(group.scope.clone(), policies)
}

#[test]
fn what_is_out_of_order_is_no_bundle() {
    let whole = crowded();
    let changes: [(&str, Change); 8] = [
        ("files", |b| b.files.swap(0, 1)),
        ("files", |b| b.files.push(b.files.last().cloned().unwrap())),
        ("groups", |b| b.groups.swap(0, 1)),
        ("policies", |b| b.groups[0].policies.swap(0, 1)),
        ("policies", |b| b.groups[0].policies[0].text.push(' ')),
        ("policies", |b| drop(b.groups[0].policies.remove(0))),
        ("empty", |b| {
            b.groups[0].policies.clear();
            b.groups[0].count = 0;
        }),
        ("empty", |b| {
            b.groups[0].policies.clear();
            b.groups[0].root.pop();
        }),
    ];
    for (n, (about, change)) in changes.iter().enumerate() {
        let mut changed = whole.clone();
        change(&mut changed);
        let error = open(&changed.encode_to_vec().into()).unwrap_err();
        assert_eq!(error.code.0, BUNDLE_BROKEN, "change {n}");
        assert!(error.cause.unwrap().contains(about), "change {n}");
    }
}

/// Places that no file has would make one of any size.
#[test]
fn a_policy_at_an_impossible_place_is_refused() {
    let at = |offset: u32, line: u32, len: usize| PolicyText {
        policy_id: format!("{offset}"),
        file: "policies/a.cedar".into(),
        offset,
        line,
        text: "x".repeat(len),
        ..PolicyText::default()
    };
    let check = |policies: Vec<PolicyText>, expected: bool| {
        let bundle = Bundle {
            groups: vec![manifest::group("*".into(), policies.clone())],
            ..Bundle::default()
        };
        let fits = texts::of_policies(&bundle).is_ok();
        assert_eq!(fits, expected, "{policies:?}");
    };
    let max = u32::try_from(FILE_LEN_MAX).unwrap();
    check(vec![at(0, 1, 1)], true);
    check(vec![at(0, 0, 1)], false);
    check(vec![at(5, 6, 1)], true);
    check(vec![at(5, 7, 1)], false);
    check(vec![at(0, 1, 3), at(3, 1, 1)], true);
    check(vec![at(0, 1, 3), at(2, 1, 1)], false);
    check(vec![at(max - 1, 1, 1)], true);
    check(vec![at(max, 1, 1)], false);
    check(vec![at(max - 1, u32::MAX, 1)], false);
    let many = |n: u32| {
        let file = |i: u32| PolicyText {
            file: format!("policies/{i}.cedar"),
            ..at(max - 1, max, 1)
        };
        (0..n).map(file).collect::<Vec<_>>()
    };
    check(many(32), true);
    check(many(33), false);
}

/// Attack T60: also what this build cannot see is told as what it is.
#[test]
fn an_unknown_feature_is_named_before_anything_else() {
    let mut bundle = crowded();
    bundle.features.push("time-travel".into());
    bundle.files.push(File::default());
    let error = open(&bundle.encode_to_vec().into()).unwrap_err();
    assert_eq!(error.code.0, FEATURE_UNKNOWN);
    assert!(error.message.contains("time-travel"));
}

/// What was proved stands beside the content: the same texts have the same digest, whoever
/// builds them. But only who is trusted can say that something was proved, and only of this content.
#[test]
fn what_was_proved_leaves_the_digest_alone_and_cannot_be_made_up() {
    let dir = sample::copy();
    let never = "@id(\"never\")\nforbid (principal, action, resource in Service::\"demo.test/shop/payments\") when { !context.tls.mtls };\n";
    sample::write(dir.path(), "invariants/never.cedar", never);
    let compiled = author::load(dir.path()).compiled.unwrap();
    let plain = BundleFile::new(compiled.bundle).unwrap();
    let [key, other] = [(), ()].map(|()| SigningKey::generate().unwrap().0);
    let keys = Keys::parse("keys", &format!("ci {}", key.public())).unwrap();
    let demanding = |file: &BundleFile, id: &str| {
        let file = BundleFile::parse(&file.encode().into()).unwrap();
        let trust = Trust::new(keys.clone(), 1).demanding(vec![id.to_owned()]);
        trust.check_file(&file, 0).map(drop).map_err(|d| d.code.0)
    };
    let mut signed = plain.clone();
    signed.sign_content(&key);
    assert_eq!(demanding(&signed, "never"), Err(codes::NOT_PROVED));

    let mut proved = plain.clone().attesting(["never"], "cvc5");
    assert_eq!(proved.digest, plain.digest);
    assert_eq!(proved.signed.bundle, plain.signed.bundle, "to the byte");
    assert_eq!(demanding(&proved, "never"), Err(codes::NOT_SIGNED));
    proved.sign_content(&key);
    assert_eq!(demanding(&proved, "never"), Ok(()));
    assert_eq!(demanding(&proved, "other"), Err(codes::NOT_PROVED));
    assert_eq!(plain.clone().attesting([], "cvc5").signed, plain.signed);

    // Put beside content that is signed, by who may not say so, or may not say anything.
    let beside = |signatures: Vec<Signature>| {
        let mut file = signed.clone().attesting(["never"], "cvc5");
        file.signed.attestation.as_mut().unwrap().signatures = signatures;
        demanding(&file, "never")
    };
    assert_eq!(beside(Vec::new()), Err(codes::NOT_SIGNED));
    let mut by_other = plain.clone().attesting(["never"], "cvc5");
    by_other.sign_content(&other);
    let of = |file: &BundleFile| file.signed.attestation.clone().unwrap().signatures;
    assert_eq!(beside(of(&by_other)), Err(codes::NOT_SIGNED));
    // The signature of the content is none of the proofs.
    let content = signed.signed.content_signatures.clone();
    assert_eq!(beside(content), Err(codes::FORGED));
    // Neither is that of other proofs, nor that of another bundle's.
    let mut fewer = plain.clone().attesting(["another"], "cvc5");
    fewer.sign_content(&key);
    assert_eq!(beside(of(&fewer)), Err(codes::FORGED));
    sample::write(
        dir.path(),
        "policies/x.cedar",
        "@id(\"x\") forbid (principal, action, resource);",
    );
    let elsewhere = author::load(dir.path()).compiled.unwrap().bundle;
    let mut elsewhere = BundleFile::new(elsewhere)
        .unwrap()
        .attesting(["never"], "cvc5");
    elsewhere.sign_content(&key);
    assert_eq!(beside(of(&elsewhere)), Err(codes::FORGED));
    // What is taken away is missed.
    let mut without = proved.clone();
    without.signed.attestation = None;
    assert_eq!(demanding(&without, "never"), Err(codes::NOT_PROVED));
}

/// The word about something that is no invariant of the bundle is no word at all.
#[test]
fn what_is_attested_is_an_invariant_of_the_bundle() {
    let dir = sample::copy();
    let never = "@id(\"never\")\nforbid (principal, action, resource in Service::\"demo.test/shop/payments\") when { !context.tls.mtls };\n";
    sample::write(dir.path(), "invariants/never.cedar", never);
    let compiled = author::load(dir.path()).compiled.unwrap();
    let of = |ids: &[&str]| {
        let attestation = proofs::attestation(ids.iter().copied(), "cvc5");
        proofs::fit(attestation.as_ref(), &compiled).map_err(|d| d.code.0)
    };
    assert_eq!(of(&[]), Ok(()));
    assert_eq!(of(&["never"]), Ok(()));
    assert_eq!(of(&["card-data"]), Err(BUNDLE_BROKEN));
    assert_eq!(of(&["card-data", "never"]), Err(BUNDLE_BROKEN));
}

/// One spelling of each list: none that is empty, out of order, or a text that is two lines.
#[test]
fn an_attestation_out_of_order_is_refused() {
    let dir = sample::copy();
    let compiled = author::load(dir.path()).compiled.unwrap();
    let file = BundleFile::new(compiled.bundle).unwrap();
    let with = |names: &[&str]| {
        let mut file = file.clone().attesting(["a"], "cvc5");
        let proofs = &mut file.signed.attestation.as_mut().unwrap().proofs;
        let mut one = proofs[0].clone();
        proofs.clear();
        for name in names {
            one.invariant = (*name).to_owned();
            proofs.push(one.clone());
        }
        BundleFile::parse(&file.encode().into())
            .map(drop)
            .map_err(|d| d.code.0)
    };
    assert_eq!(with(&["a", "b"]), Ok(()));
    for bad in [
        &[][..],
        &["b", "a"],
        &["a", "a"],
        &["a b"],
        &["a\nb"],
        &[""],
    ] {
        assert_eq!(with(bad), Err(BUNDLE_BROKEN), "{bad:?}");
    }
}

/// Two texts for one file would be two policies: one for who compiles it, one for who checks.
#[test]
fn a_file_cannot_be_there_twice() {
    let mut bundle = crowded();
    let with_policies = bundle.groups[0].policies[0].file.clone();
    bundle.files.push(File {
        path: with_policies,
        text: String::new(),
    });
    bundle.files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(manifest::digest(&mut bundle).unwrap_err().contains("twice"));
    assert!(author::Texts::of_bundle(bundle).is_err());
}
