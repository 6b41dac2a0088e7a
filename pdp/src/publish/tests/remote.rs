//! Bundles that are fetched from elsewhere: as the repository, and as a source of several.

use std::collections::VecDeque;

use palisade_mesh::place::{At, Place};

use super::*;
use crate::{
    author::{self, codes as policy},
    bundle::{codes as signing, file::BundleFile, key::SigningKey},
};

/// A server that says what it is told to, and the last of that for ever.
#[derive(Debug, Default)]
struct Server {
    says: Mutex<VecDeque<Result<Fetched, Diagnostic>>>,
    asked_with: Mutex<Vec<Option<String>>>,
}

impl Server {
    fn says(&self, said: Result<Fetched, Diagnostic>) {
        *self.says.lock().unwrap() = VecDeque::from([said]);
    }

    /// Has `bytes`, and says so once; from then on it is the same.
    fn has(&self, tag: Option<&str>, bytes: Vec<u8>) {
        let new = Fetched::New {
            tag: tag.map(str::to_owned),
            bytes: bytes.into(),
        };
        let then = match tag {
            Some(_) => Fetched::Same,
            None => new.clone(),
        };
        *self.says.lock().unwrap() = VecDeque::from([Ok(new), Ok(then)]);
    }
}

impl Fetch for Server {
    fn fetch<'a>(&'a self, _: &'a Place, have: Option<&'a str>) -> Fetching<'a> {
        Box::pin(async move {
            let have = have.map(str::to_owned);
            self.asked_with.lock().unwrap().push(have);
            let mut says = self.says.lock().unwrap();
            let said = says.pop_front().expect("it says something");
            if says.is_empty() {
                says.push_back(said.clone());
            }
            said
        })
    }
}

fn gone() -> Diagnostic {
    Diagnostic::error(codes::UNREACHABLE_SOURCE, "the server does not answer")
}

fn built(dir: &Path) -> BundleFile {
    let compiled = author::load(dir).compiled.unwrap();
    BundleFile::new(compiled.bundle).unwrap()
}

async fn opened(server: &Arc<Server>, state: &Path) -> Source {
    let mut place: Place = Place::new(At::Oci("registry.demo.test/policy:prod".into()));
    place.poll = Duration::from_millis(20);
    let config = SourceConfig {
        fetch: Some(server.clone()),
        ..SourceConfig::new(place, state)
    };
    let source = Source::open(config, Clock::system(), Records::default().recorder());
    source.await.unwrap()
}

fn fault(standings: &[Standing]) -> Option<u16> {
    Some(standings[0].fault.as_ref()?.diagnostics[0].code.0)
}

/// A registry that is gone, or has something broken, changes nothing; what comes next is taken.
#[tokio::test]
async fn what_was_fetched_outlives_its_server() {
    let (dir, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let server = Arc::new(Server::default());
    server.has(Some("sha256:1"), built(dir.path()).encode());
    let source = opened(&server, state.path()).await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let first = seen.borrow().current.clone().unwrap();
    assert_eq!(first.sequence(), 1);
    assert_eq!(standings.borrow()[0].has, first.digest().short());
    let task = tokio::spawn(source.run());
    server.says(Err(gone()));
    until(&mut standings, "fault", |s| {
        fault(s) == Some(codes::UNREACHABLE_SOURCE)
    })
    .await;
    server.has(Some("sha256:2"), b"<html>".to_vec());
    let told = until(&mut seen, "refusal", |s| s.rejected.is_some()).await;
    assert_eq!(told.rejected.unwrap().diagnostics[0].code.0, signing::FILE);
    assert_eq!(told.current.unwrap().digest(), first.digest());
    let text = format!("@id(\"x\")\n{PERMIT}");
    sample::write(dir.path(), "policies/x.cedar", &text);
    server.has(None, built(dir.path()).encode());
    let next = until(&mut seen, "next revision", |s| {
        s.current.as_ref().is_some_and(|c| c.sequence() == 2)
    })
    .await;
    assert!(next.rejected.is_none());
    task.abort();
    let asked = server.asked_with.lock().unwrap().clone();
    assert_eq!(asked[0], None);
    assert!(asked.contains(&Some("sha256:1".to_owned())), "{asked:?}");

    // The last one is served by who starts without the server, under its number.
    server.says(Err(gone()));
    let again = opened(&server, state.path()).await;
    let kept = again.state().borrow().current.clone().unwrap();
    assert_eq!(
        (kept.sequence(), kept.digest()),
        (2, next.current.unwrap().digest())
    );
}

const LEDGER: &str = "service: pay/ledger\noperations:\n  - { name: list, match: GET /entries }\n";

/// A team's bundle, which is put together with the repository when the team has signed it.
#[tokio::test]
async fn a_team_contributes_by_a_signed_bundle() {
    let team = tempfile::tempdir().unwrap();
    sample::write(team.path(), "palisade.yaml", "trust_domain: demo.test\n");
    sample::write(team.path(), "services/ledger.yaml", LEDGER);
    let permit = "@id(\"pay-read\")\npermit (principal, action, resource in Namespace::\"demo.test/pay\");\n";
    sample::write(team.path(), "policies/pay.cedar", permit);
    let mut file = built(team.path());
    let (key, _) = SigningKey::generate().unwrap();
    let (guard, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let settings = fs::read_to_string(guard.path().join("palisade.yaml")).unwrap();
    let source = format!(
        "sources:\n  pay:\n    namespaces: [pay]\n    oci: registry.demo.test/pay:prod\n    poll: 1s\n    signers: [\"pay {}\"]\n",
        key.public()
    );
    sample::write(
        guard.path(),
        "palisade.yaml",
        &format!("{settings}{source}"),
    );
    let server = Arc::new(Server::default());
    server.has(Some("1"), file.encode());
    let config = SourceConfig {
        fetch: Some(server.clone()),
        ..config(guard.path(), state.path())
    };
    let source = Source::open(config, Clock::system(), Records::default().recorder());
    let source = source.await.unwrap();
    let (mut seen, standings) = (source.state(), source.standings());
    let before = seen.borrow().clone();
    assert!(!has(&before, "pay-read"));
    let unsigned = before.rejected.unwrap().diagnostics[0].code.0;
    assert_eq!(unsigned, signing::NOT_SIGNED);
    let task = tokio::spawn(source.run());

    file.sign_content(&key);
    file.sign_release(&key, 5, 1);
    server.has(Some("2"), file.encode());
    let taken = until(&mut seen, "signed", |s| has(s, "pay-read")).await;
    let compiled = taken.current.unwrap().compiled.clone();
    assert_eq!(&*compiled.info["pay-read"].file, "pay/policies/pay.cedar");
    let told = standings.borrow().clone();
    assert_eq!(told[1].signer.as_deref(), Some("pay"));

    // What speaks for others is refused, also when it is signed.
    let all = "@id(\"all\")\npermit (principal, action, resource);\n";
    sample::write(team.path(), "policies/all.cedar", all);
    let mut greedy = built(team.path());
    greedy.sign_content(&key);
    greedy.sign_release(&key, 6, 1);
    server.has(Some("3"), greedy.encode());
    let told = until(&mut seen, "refusal", |s| s.rejected.is_some()).await;
    let found = &told.rejected.as_ref().unwrap().diagnostics;
    let code = found.iter().find(|d| d.is_error()).unwrap().code.0;
    assert!(
        (policy::FOREIGN_SERVICE..=policy::FOREIGN_FILE).contains(&code),
        "{code}"
    );
    assert!(has(&told, "pay-read") && !has(&told, "all"));

    // Nor does an older one come back, by whoever may put bundles there but not sign.
    server.has(Some("4"), file.encode());
    let refused = |s: &Vec<Standing>| {
        let refused = s[1].refused.as_ref().map(|f| f.diagnostics[0].code.0);
        refused == Some(codes::SEQUENCE)
    };
    let mut standings = standings;
    until(&mut standings, "older", refused).await;
    assert!(has(&seen.borrow(), "pay-read"));
    task.abort();
}

fn has(state: &State, id: &str) -> bool {
    let current = state.current.as_ref();
    current.is_some_and(|c| c.compiled.info.contains_key(id))
}
