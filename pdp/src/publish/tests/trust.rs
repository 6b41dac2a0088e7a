//! Who must have signed: on the PDP's side with a file, on the proxy's with a stream.

use std::path::PathBuf;

use palisade_mesh::{
    spiffe_id::TrustDomain,
    wire::policy::{Newest, Stamp, proxy_message::Kind},
};

use super::*;
use crate::bundle::{
    self, codes as signing,
    file::BundleFile,
    key::SigningKey,
    statement::{self, Statement},
    trust::{SignedBy, TrustConfig},
};

/// Three keys, of which two must have signed, and stamps of at most an hour.
pub(super) struct Signers {
    pub(super) keys: Vec<SigningKey>,
    dir: tempfile::TempDir,
}

pub(super) const HOUR_US: i64 = 3_600_000_000;

impl Signers {
    pub(super) fn new() -> Self {
        let made = |_| SigningKey::generate().unwrap().0;
        let signers = Self {
            keys: (0..3).map(made).collect(),
            dir: tempfile::tempdir().unwrap(),
        };
        signers.trust_without(&[]);
        signers
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("trusted.keys")
    }

    /// Writes the file anew; these keys are removed in it.
    pub(super) fn trust_without(&self, removed: &[usize]) {
        let line = |(i, key): (usize, &SigningKey)| {
            let end = ["", " removed 2026-11-02"][usize::from(removed.contains(&i))];
            format!("k{i} {}{end}\n", key.public())
        };
        let text: String = self.keys.iter().enumerate().map(line).collect();
        fs::write(self.file(), text).unwrap();
    }

    pub(super) fn trust(&self) -> TrustConfig {
        TrustConfig {
            keys: self.file(),
            threshold: 2,
            stamp_age: Some(Duration::from_secs(3600)),
            stamp_keys: None,
            proved: Vec::new(),
        }
    }
}

mod files {
    use super::*;

    /// The repository `dir` as a file, signed by these under a number, stamped at a time.
    fn sign(signers: &Signers, dir: &Path, by: &[usize], sequence: u64, now_us: i64) -> Vec<u8> {
        let compiled = crate::author::load(dir).compiled.unwrap();
        let mut file = BundleFile::new(compiled.bundle).unwrap();
        for i in by {
            file.sign_content(&signers.keys[*i]);
            file.sign_release(&signers.keys[*i], sequence, now_us);
            file.stamp(&signers.keys[*i], now_us, now_us + HOUR_US);
        }
        file.encode()
    }

    fn replace(path: &Path, bytes: &[u8]) {
        let draft = path.with_extension("new");
        fs::write(&draft, bytes).unwrap();
        fs::rename(draft, path).unwrap();
    }

    fn rejected(state: &State) -> Option<u16> {
        let rejected = state.rejected.as_ref()?;
        Some(rejected.diagnostics[0].code.0)
    }

    /// Attack T104: what is not signed enough, or under an older number, changes nothing.
    #[tokio::test]
    async fn a_signed_file_is_served_under_its_number_and_nothing_else_is() {
        let (signers, dir) = (Signers::new(), sample::copy());
        let (state, records) = (tempfile::tempdir().unwrap(), Records::default());
        let path = dir.path().join("shop.palisade");
        let now_us = Clock::system().now_us();
        replace(&path, &sign(&signers, dir.path(), &[0, 1], 42, now_us));
        let source = Source::open(
            SourceConfig {
                trust: Some(signers.trust()),
                ..config(&path, state.path())
            },
            Clock::system(),
            records.recorder(),
        );
        let source = source.await.unwrap();
        let mut seen = source.state();
        let history = source.history();
        let first = seen.borrow().current.clone().unwrap();
        assert_eq!(first.sequence(), 42);
        assert_eq!(first.signed.to_string(), "signed in CI (2 of 3)");
        assert_eq!(first.stamp(0).issued_us, now_us);
        let task = tokio::spawn(source.run());

        // Stamped anew: the same revision, another stamp.
        replace(&path, &sign(&signers, dir.path(), &[0, 1], 42, now_us + 5));
        let renewed = until(&mut seen, "new stamp", |s| {
            s.current
                .as_ref()
                .is_some_and(|c| c.stamp(0).issued_us == now_us + 5)
        });
        assert_eq!(sequence(&renewed.await), 42);

        let text = format!("@id(\"x\")\n{PERMIT}");
        sample::write(dir.path(), "policies/x.cedar", &text);
        for (by, number, code) in [
            (&[2][..], 43, signing::NOT_SIGNED),
            (&[0, 1][..], 41, codes::SEQUENCE),
        ] {
            replace(&path, &sign(&signers, dir.path(), by, number, now_us));
            let kept = until(&mut seen, "rejection", |s| rejected(s) == Some(code)).await;
            assert_eq!(sequence(&kept), 42);
        }
        replace(
            &path,
            &sign(&signers, dir.path(), &[1, 2], 43, now_us - 2 * HOUR_US),
        );
        until(&mut seen, "ended stamp", |s| {
            rejected(s) == Some(signing::STAMP)
        })
        .await;
        replace(&path, b"something else");
        until(&mut seen, "no file", |s| rejected(s) == Some(signing::FILE)).await;
        replace(&path, &sign(&signers, dir.path(), &[1, 2], 43, now_us));
        until(&mut seen, "next revision", |s| sequence(s) == 43).await;
        // A key that is taken out counts no longer; what is in force stays, and it is said.
        signers.trust_without(&[1]);
        let told = until(&mut seen, "key removed", |s| {
            rejected(s) == Some(signing::NOT_SIGNED)
        });
        assert_eq!(sequence(&told.await), 43);
        signers.trust_without(&[]);
        until(&mut seen, "key back", |s| rejected(s).is_none()).await;
        // Going back is old content under a new number.
        fs::remove_file(dir.path().join("policies/x.cedar")).unwrap();
        replace(&path, &sign(&signers, dir.path(), &[0, 2], 44, now_us));
        let back = until(&mut seen, "rollback", |s| sequence(s) == 44).await;
        assert_eq!(back.current.unwrap().digest(), first.digest());
        task.abort();

        let noted = history.log().unwrap();
        let numbers: Vec<u64> = noted.iter().map(|e| e.sequence).collect();
        assert_eq!(numbers, [42, 43, 44]);
        assert_eq!(noted[2].signers, ["k0", "k2"]);
        let kept: Vec<u64> = history.revisions().iter().map(|r| r.sequence).collect();
        // The last three by content: what is in force again is not kept twice.
        assert_eq!(kept, [44, 43]);
    }

    async fn served(signers: &Signers, path: &Path, state: &Path) -> Source {
        let source = SourceConfig {
            trust: Some(signers.trust()),
            domain: Some(TrustDomain::parse("demo.test").unwrap()),
            ..config(path, state)
        };
        Source::open(source, Clock::system(), Records::default().recorder())
            .await
            .unwrap()
    }

    /// Attack T104, by a signature that is good for somebody else or for another time.
    #[tokio::test]
    async fn what_is_signed_for_another_domain_or_day_is_refused() {
        let (signers, dir, state) = (Signers::new(), sample::copy(), tempfile::tempdir().unwrap());
        let path = dir.path().join("shop.palisade");
        let now_us = Clock::system().now_us();
        let other = tempfile::tempdir().unwrap();
        sample::write(
            other.path(),
            "palisade.yaml",
            "trust_domain: staging.demo.test\n",
        );
        replace(&path, &sign(&signers, other.path(), &[0, 1], 900, now_us));
        let source = served(&signers, &path, state.path()).await;
        let mut seen = source.state();
        assert_eq!(rejected(&seen.borrow()), Some(codes::FOREIGN_DOMAIN));
        let task = tokio::spawn(source.run());
        let tomorrow = now_us + 24 * HOUR_US;
        replace(&path, &sign(&signers, dir.path(), &[0, 1], 42, tomorrow));
        until(&mut seen, "stamp of tomorrow", |s| {
            rejected(s) == Some(signing::STAMP)
        })
        .await;
        // Neither has used up a number.
        replace(&path, &sign(&signers, dir.path(), &[0, 1], 42, now_us));
        until(&mut seen, "the right one", |s| sequence_of(s) == Some(42)).await;
        task.abort();
    }

    /// What was not believed at the start is served once it is, under its number.
    #[tokio::test]
    async fn keys_that_are_mended_after_a_start_are_enough() {
        let (signers, dir, state) = (Signers::new(), sample::copy(), tempfile::tempdir().unwrap());
        let path = dir.path().join("shop.palisade");
        let now_us = Clock::system().now_us();
        replace(&path, &sign(&signers, dir.path(), &[0, 1], 42, now_us));
        drop(served(&signers, &path, state.path()).await);
        signers.trust_without(&[1]);
        let source = served(&signers, &path, state.path()).await;
        let mut seen = source.state();
        assert_eq!(rejected(&seen.borrow()), Some(signing::NOT_SIGNED));
        assert_eq!(sequence_of(&seen.borrow()), None);
        let task = tokio::spawn(source.run());
        signers.trust_without(&[]);
        until(&mut seen, "served", |s| sequence_of(s) == Some(42)).await;
        task.abort();
    }

    fn sequence_of(state: &State) -> Option<u64> {
        state.current.as_ref().map(|c| c.sequence())
    }

    #[tokio::test]
    async fn a_folder_is_not_served_where_signatures_are_demanded() {
        let (signers, dir) = (Signers::new(), sample::copy());
        let state = tempfile::tempdir().unwrap();
        let source = Source::open(
            SourceConfig {
                trust: Some(signers.trust()),
                ..config(dir.path(), state.path())
            },
            Clock::system(),
            Records::default().recorder(),
        );
        let seen = source.await.unwrap().state().borrow().clone();
        assert!(seen.current.is_none());
        assert_eq!(rejected(&seen), Some(signing::UNSIGNED_FOLDER));
    }

    #[tokio::test]
    async fn a_pdp_signs_by_itself_where_nobody_else_must() {
        let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
        let source = open(dir.path(), state.path(), &Records::default()).await;
        let current = source.state().borrow().current.clone().unwrap();
        assert_eq!(current.signed, SignedBy::Pdp);
        let (domain, digest) = (&current.compiled.trust_domain, current.digest());
        let signers = |said: Statement<'_>, signatures| said.signers(signatures).unwrap();
        let revision = &current.revision;
        let own = signers(
            statement::content(domain, digest),
            &revision.content_signatures,
        );
        let release = statement::release(domain, digest, revision);
        assert_eq!(signers(release, &revision.release_signatures), own);
        let stamp = current.stamp(7);
        assert!(stamp.issued_us == 7 && stamp.until_us > 7);
        let said = statement::stamp(domain, digest, 1, &stamp);
        assert_eq!(signers(said, &stamp.signatures), own);
        drop(source);
        // The key outlives the process, and is nobody else's.
        use std::os::unix::fs::PermissionsExt as _;
        let key = fs::metadata(state.path().join("signing-key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        let again = open(dir.path(), state.path(), &Records::default()).await;
        let again = again.state().borrow().current.clone().unwrap();
        assert_eq!(again.revision, current.revision);
    }
}

pub(super) mod streams {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("demo.test").unwrap()
    }

    impl Signers {
        /// A stamp by the first key.
        fn stamp(&self, revision: &Revision, issued_us: i64, until_us: i64) -> Stamp {
            let mut stamp = Stamp {
                issued_us,
                until_us,
                signatures: Vec::new(),
            };
            let digest = Digest::from_slice(&revision.sha256).unwrap();
            let domain = domain();
            let said = statement::stamp(&domain, digest, revision.sequence, &stamp);
            stamp.signatures = vec![said.sign(&self.keys[0])];
            stamp
        }

        /// Signed by these, stamped for an hour from `now_us`.
        pub(in crate::publish::tests) fn revision(
            &self,
            by: &[usize],
            content: &str,
            sequence: u64,
            now_us: i64,
        ) -> Revision {
            let mut revision = revision_of(content, sequence);
            revision.issued_us = now_us;
            let digest = Digest::from_slice(&revision.sha256).unwrap();
            let domain = domain();
            let sign = |said: Statement<'_>| by.iter().map(|i| said.sign(&self.keys[*i])).collect();
            revision.content_signatures = sign(statement::content(&domain, digest));
            revision.release_signatures = sign(statement::release(&domain, digest, &revision));
            revision.stamp = Some(self.stamp(&revision, now_us, now_us + HOUR_US));
            revision
        }
    }

    pub(in crate::publish::tests) fn message(revision: Revision) -> PdpMessage {
        PdpMessage {
            kind: Some(pdp_message::Kind::Revision(revision)),
        }
    }

    fn newest(revision: &Revision, stamp: Stamp) -> PdpMessage {
        PdpMessage {
            kind: Some(pdp_message::Kind::Newest(Newest {
                sha256: revision.sha256.clone(),
                sequence: revision.sequence,
                now_us: 0,
                stamp: Some(stamp),
            })),
        }
    }

    /// A PDP that says this, and a proxy with that trust; what the proxy answers.
    pub(in crate::publish::tests) async fn play(
        script: Vec<PdpMessage>,
        signers: &Signers,
        state: &Path,
        clock: &Clock,
    ) -> (Subscribed, mpsc::Receiver<ProxyMessage>, AbortHandle) {
        let (sender, heard) = mpsc::channel(64);
        let scripted = Scripted(Mutex::new(Some(script)), sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Server::builder()
            .add_service(server::DistributionServer::new(scripted))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        let (subscription, seen) = Subscription::new(SubscriptionConfig {
            trust: Some(signers.trust()),
            clock: clock.clone(),
            ..SubscriptionConfig::new("proxy-1", state)
        })
        .unwrap();
        let running = subscription.run(connect(address), |_| Ok(()), Status::default);
        (seen, heard, tokio::spawn(running).abort_handle())
    }

    pub(in crate::publish::tests) async fn answers(
        heard: &mut mpsc::Receiver<ProxyMessage>,
        n: usize,
    ) -> Vec<String> {
        let mut answers = Vec::new();
        while answers.len() < n {
            let message = tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap();
            match message.unwrap().kind.unwrap() {
                Kind::Ack(ack) => answers.push(format!("ack {}", ack.sequence)),
                Kind::Nack(nack) => answers.push(format!("nack {} {}", nack.sequence, nack.code)),
                _ => {}
            }
        }
        answers
    }

    pub(in crate::publish::tests) fn clock() -> Clock {
        Clock::manual("2026-11-28T12:00:00Z".parse().unwrap())
    }

    /// Attack T104: stale but validly signed, older, signed by too few, made up.
    #[tokio::test]
    async fn a_proxy_takes_only_what_those_it_trusts_have_signed() {
        let (signers, clock) = (Signers::new(), clock());
        let now_us = clock.now_us();
        let of = |by: &[usize], content: &str, n| signers.revision(by, content, n, now_us);
        let mut forged = of(&[0, 1], "c", 7);
        forged.content_signatures = of(&[0, 1], "other", 7).content_signatures;
        let mut renumbered = of(&[0, 1], "d", 8);
        renumbered.sequence = 9;
        let stale = signers.revision(&[0, 1], "e", 10, now_us - 2 * HOUR_US);
        let mut bare = of(&[0, 1], "f", 11);
        bare.stamp = None;
        let unsigned = revision_of("g", 12);
        let script = vec![
            of(&[0, 1], "a", 5),
            of(&[0], "b", 6),
            forged,
            renumbered,
            stale,
            bare,
            unsigned,
            of(&[0, 2], "older", 4),
            of(&[1, 2], "h", 13),
        ];
        let script = script.into_iter().map(message).collect();
        let state = tempfile::tempdir().unwrap();
        let (mut seen, mut heard, task) = play(script, &signers, state.path(), &clock).await;
        assert_eq!(
            answers(&mut heard, 9).await,
            [
                "ack 5",
                "nack 6 PLS3102",
                "nack 7 PLS3101",
                "nack 9 PLS3101",
                "nack 10 PLS3103",
                "nack 11 PLS3103",
                "nack 12 PLS3102",
                "nack 4 PLS3004",
                "ack 13",
            ]
        );
        let held = until(&mut seen.state, "in force", |s| s.sequence == 13).await;
        assert_eq!(held.signed.unwrap().signers(), ["k1", "k2"]);
        task.abort();
    }

    /// Attack T104: a PDP that withholds a newer revision has no new stamp to show; its
    /// word confirms nothing.
    #[tokio::test]
    async fn a_withheld_revision_shows_when_the_stamp_ends() {
        let (signers, clock) = (Signers::new(), clock());
        let now_us = clock.now_us();
        let revision = signers.revision(&[0, 1], "a", 5, now_us - HOUR_US / 2);
        let ended = signers.stamp(&revision, now_us - 2 * HOUR_US, now_us - HOUR_US);
        let script = vec![message(revision.clone()), newest(&revision, ended)];
        let state = tempfile::tempdir().unwrap();
        let (mut seen, _heard, task) = play(script, &signers, state.path(), &clock).await;
        let refused = until(&mut seen.state, "refused", |s| s.unstamped.is_some()).await;
        assert_eq!(refused.unstamped.unwrap().code.0, signing::STAMP);
        assert_eq!(refused.sequence, 5);
        let until_us = seen.freshness.stamp_until_us().unwrap();
        assert_eq!(until_us, now_us + HOUR_US / 2);
        clock.advance(Duration::from_secs(60));
        assert_eq!(seen.freshness.age(), Some(Duration::from_secs(60)));
        task.abort();

        // A good stamp is a good word, and ends no later than is demanded here.
        let long = signers.stamp(&revision, clock.now_us(), clock.now_us() + 9 * HOUR_US);
        let script = vec![newest(&revision, long)];
        let (mut seen, _heard, task) = play(script, &signers, state.path(), &clock).await;
        until(&mut seen.state, "connected", |s| s.connected).await;
        eventually("confirmed", || seen.freshness.age() == Some(Duration::ZERO)).await;
        let until_us = seen.freshness.stamp_until_us().unwrap();
        assert_eq!(until_us, clock.now_us() + HOUR_US);
        assert_eq!(seen.state.borrow().unstamped, None);
        task.abort();
    }

    /// The floor holds for what is on disk, too, and a key that is gone is gone.
    #[tokio::test]
    async fn a_kept_revision_is_not_used_once_its_signer_is_removed() {
        let (signers, clock) = (Signers::new(), clock());
        let revision = signers.revision(&[0, 1], "a", 5, clock.now_us());
        let state = tempfile::tempdir().unwrap();
        let script = vec![message(revision)];
        let (_, mut heard, task) = play(script, &signers, state.path(), &clock).await;
        assert_eq!(answers(&mut heard, 1).await, ["ack 5"]);
        task.abort();
        signers.trust_without(&[1]);
        let (mut seen, _, task) = play(Vec::new(), &signers, state.path(), &clock).await;
        let refused = until(&mut seen.state, "refused", |s| s.last_error.is_some()).await;
        let error = refused.last_error.unwrap();
        assert_eq!((error.code.0, refused.sequence), (signing::NOT_SIGNED, 0));
        assert!(error.cause.unwrap().contains("`k1`, which was removed"));
        task.abort();
    }

    /// A guard rail that is left out shows, whoever signed: see also the compiler's own
    /// tests.
    #[tokio::test]
    async fn a_proxy_is_sent_its_slice_under_the_digest_of_the_whole() {
        let mesh = Mesh::start().await;
        let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
        let state = tempfile::tempdir().unwrap();
        let mut proxy = proxy(pdp.connect(), state.path(), &[], false);
        let taken = until(&mut proxy.seen.revision, "a revision", Option::is_some).await;
        let taken = taken.unwrap();
        let whole = crate::author::load(mesh.dir.path()).compiled.unwrap();
        let slice = bundle::open(&taken.bundle).unwrap();
        assert_eq!(slice.digest, whole.digest);
        let left_out = slice.bundle.groups.iter().filter(|g| g.policies.is_empty());
        let scopes: Vec<_> = left_out.map(|g| g.scope.as_str()).collect();
        assert!(!scopes.is_empty());
        assert!(
            scopes.iter().all(|s| s.contains("::\"demo.test/")),
            "{scopes:?}"
        );
        assert!(!scopes.iter().any(|s| s.contains("shop/web")), "{scopes:?}");
        assert!(taken.bundle.len() < whole.bundle.len());
    }
}
