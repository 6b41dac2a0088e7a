//! Policy from servers over TLS: whom they are proved by, who may ask them, and what people are told
//! when they are gone or hang.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use support::{
    Home,
    git::git,
    https::{Behaves, Https},
    inside::{Story, until},
};

const CLOSED: &str = "@id(\"closed\")\nforbid (principal, action, resource in Service::\"demo.test/shop/orders\");\n";
/// Within this, `status` says what is wrong.
const SAID_WITHIN: Duration = Duration::from_secs(5);

/// The sample in the folder `policies`, as a bundle.
fn bundle(home: &Home) -> Vec<u8> {
    home.says(&["bundle", "build", "policies", "-f", "built.palisade"], 0);
    fs::read(home.path("built.palisade")).unwrap()
}

fn sample(home: &Home) {
    support::copy(&support::sample_policies(), &home.path("policies"));
}

/// Waits until `palisade status` prints each of these, which is soon enough.
async fn prints(story: &Story, parts: &[&str]) {
    let begun = Instant::now();
    until("status says so", || async {
        let said = status(story);
        parts.iter().all(|part| said.contains(part))
    })
    .await;
    let took = begun.elapsed();
    assert!(took <= SAID_WITHIN, "{parts:?} took {took:?}");
}

fn status(story: &Story) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    let args = ["status", "--mesh", &story.name];
    support::said(&command.args(args).output().unwrap())
}

/// A server is proved by the roots that are named, or not asked for anything; and credentials go
/// to it, or it gives nothing.
#[test]
fn a_bundle_is_pulled_from_a_server_that_is_proved() {
    let home = Home::new();
    sample(&home);
    let server = Https::start(&home);
    let built = bundle(&home);
    server.put("shop.palisade", built.clone());
    let url = server.url("shop.palisade");
    let ca = server.ca().display().to_string();
    let pull = |more: &[&str]| {
        let _ = fs::remove_file(home.path("got.palisade"));
        let args = [&["bundle", "pull", &url, "-f", "got.palisade"], more].concat();
        let output = home.run(&args);
        let got = fs::read(home.path("got.palisade")).ok();
        assert_eq!(output.status.success(), got.is_some());
        if let Some(got) = got {
            assert_eq!(got, built);
            return String::new();
        }
        support::said(&output)
    };
    assert_eq!(pull(&["--ca", &ca]), "");
    // The system's roots, and those of somebody else, prove nothing here.
    assert!(pull(&[]).contains("PLS3201"));
    let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    fs::write(home.path("other.pem"), other.cert.pem()).unwrap();
    let other = home.path("other.pem").display().to_string();
    let said = pull(&["--ca", &other]);
    assert!(
        said.contains("PLS3201") && said.contains("certificate"),
        "{said}"
    );

    server.ask_for("ci", "secret");
    assert!(pull(&["--ca", &ca]).contains("401"));
    let file = home.path("credentials").display().to_string();
    let all = ["--ca", &ca, "--credentials", &file];
    for (password, passes) in [("wrong", false), ("secret", true)] {
        fs::write(&file, server.credential("ci", password)).unwrap();
        let said = pull(&all);
        assert_eq!(said.is_empty(), passes, "{said}");
        assert!(!said.contains(password), "{said}");
    }
}

/// The PDP follows a bundle on a server; what people read when that hangs, is gone, and when the PDP
/// itself is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pdp_follows_a_server_over_tls_and_says_what_becomes_of_it() {
    let home = Home::new();
    sample(&home);
    let server = Https::start(&home);
    server.put("shop.palisade", bundle(&home));
    let place = format!(
        "{{ https: \"{}\", ca: \"{}\", poll: 1s }}",
        server.url("shop.palisade"),
        server.ca().display()
    );
    let mut story = Story::start(&home, "tls", &place).await;
    assert_eq!(story.orders().await, 200);
    fs::write(home.path("policies/policies/closed.cedar"), CLOSED).unwrap();
    server.put("shop.palisade", bundle(&home));
    until("the new revision decides", || async {
        story.orders().await == 403
    })
    .await;
    assert!(!status(&story).contains("PLS32"), "{}", status(&story));

    let name = server.url("shop.palisade");
    server.behave(Behaves::Hangs);
    prints(
        &story,
        &["the repository has not answered", "PLS3207", &name],
    )
    .await;
    server.behave(Behaves::Cuts);
    prints(&story, &["does not answer", "PLS3201", &name]).await;
    assert_eq!(story.orders().await, 403);
    server.behave(Behaves::Answers);
    until("nothing is wrong any more", || async {
        !status(&story).contains("PLS32")
    })
    .await;

    story.stop_plane().await;
    prints(&story, &["no PDP answers here"]).await;
    assert_eq!(story.orders().await, 403);
    story.end().await;
}

/// Git asks the server with the name and password for it, and believes the roots that are named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pdp_follows_git_over_tls_with_credentials() {
    let home = Home::new();
    sample(&home);
    let git = |args: &[&str]| git(&home.path("policies"), args);
    let bare = home.path("git/policy.git").display().to_string();
    git(&["init", "--quiet", "--bare", "--initial-branch=main", &bare]);
    git(&["init", "--quiet", "--initial-branch=main"]);
    let push = || {
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "--message", "change"]);
        git(&["push", "--quiet", &bare, "main"]);
    };
    push();
    let server = Https::start(&home);
    server.ask_for("pdp", "secret");
    let credentials = home.path("credentials");
    fs::write(&credentials, server.credential("pdp", "secret")).unwrap();
    let place = format!(
        "{{ git: \"{}\", ref: main, poll: 1s, credentials: \"{}\", ca: \"{}\" }}",
        server.url("policy.git"),
        credentials.display(),
        server.ca().display()
    );
    let story = Story::start(&home, "gittls", &place).await;
    assert_eq!(story.orders().await, 200);
    fs::write(home.path("policies/policies/closed.cedar"), CLOSED).unwrap();
    push();
    until("the new commit decides", || async {
        story.orders().await == 403
    })
    .await;
    // Another password is not believed, and the one that is there is not told.
    server.ask_for("pdp", "another");
    prints(
        &story,
        &["does not answer", "PLS3201", &server.url("policy.git")],
    )
    .await;
    assert!(!status(&story).contains("secret"), "{}", status(&story));
    // What the operator wrote is only read: git itself would forget what a server refuses.
    let kept = fs::read_to_string(&credentials).unwrap();
    assert_eq!(kept, server.credential("pdp", "secret"));
    // Nor is another server: what git asks is proved.
    let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    server.ask_for("pdp", "secret");
    until("the source is in order", || async {
        !status(&story).contains("PLS32")
    })
    .await;
    fs::write(server.ca(), other.cert.pem()).unwrap();
    prints(&story, &["does not answer", "PLS3201"]).await;
    assert_eq!(story.orders().await, 403);
    story.end().await;
}
