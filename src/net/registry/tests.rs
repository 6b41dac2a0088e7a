//! A registry in this process that does what it is told, also wrongly.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::net::TcpListener;

use super::*;

const LEN_MAX: usize = 1 << 20;

/// What the registry does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The body of a blob ends too early.
    Cut,
    /// A blob has other bytes than its digest says.
    Damaged,
    /// A blob is said to be, and is, larger than its manifest says.
    Huge,
    /// Everything is somewhere else, where nobody is.
    Elsewhere,
    /// Redirects for ever.
    Round,
    /// Nobody is let in.
    Locked,
    /// A token is wanted.
    Token,
    /// A manifest of something else.
    Image,
}

struct Fake {
    fault: Fault,
    address: SocketAddr,
    manifests: Mutex<HashMap<String, Bytes>>,
    blobs: Mutex<HashMap<String, Bytes>>,
    /// Every request line, and whether it came with `Authorization`.
    seen: Mutex<Vec<(String, bool)>>,
}

impl Fake {
    async fn start(fault: Fault) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Arc::new(Self {
            fault,
            address: listener.local_addr().unwrap(),
            manifests: Mutex::default(),
            blobs: Mutex::default(),
            seen: Mutex::default(),
        });
        let app = Router::new().fallback(handle).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        fake
    }

    fn name(&self) -> String {
        format!("{}/team/policy:prod", self.address)
    }

    /// Puts a bundle there.
    fn hold(&self, bytes: &[u8]) {
        let layer = sha256(bytes);
        let kind = if self.fault == Fault::Image {
            "application/tar"
        } else {
            LAYER_TYPE
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": { "mediaType": EMPTY_TYPE, "digest": sha256(EMPTY), "size": 2 },
            "layers": [{ "mediaType": kind, "digest": layer, "size": bytes.len() }],
        });
        let manifest = Bytes::from(manifest.to_string());
        let digest = sha256(&manifest);
        let mut manifests = self.manifests.lock().unwrap();
        manifests.insert(digest, manifest.clone());
        manifests.insert("prod".into(), manifest);
        self.blobs
            .lock()
            .unwrap()
            .insert(layer, Bytes::copy_from_slice(bytes));
    }

    fn blob(&self, digest: &str) -> Option<Response> {
        let bytes = self.blobs.lock().unwrap().get(digest).cloned()?;
        Some(match self.fault {
            Fault::Cut => {
                let half = bytes.slice(..bytes.len() / 2);
                // The head goes out first; then the connection ends.
                let cut = stream::once(async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err(std::io::Error::other("cut"))
                });
                let broken = stream::iter([Ok(half)]).chain(cut);
                Body::from_stream(broken).into_response()
            }
            Fault::Damaged => vec![b'x'; bytes.len()].into_response(),
            Fault::Huge => vec![b'x'; LEN_MAX + 1].into_response(),
            _ => bytes.into_response(),
        })
    }
}

async fn handle(State(fake): State<Arc<Fake>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let given = head.headers.get(AUTHORIZATION).cloned();
    let line = format!("{} {path}", head.method);
    fake.seen.lock().unwrap().push((line, given.is_some()));
    if path == "/token" {
        return r#"{"token":"let-me-in","access_token":"let-me-in"}"#.into_response();
    }
    match fake.fault {
        Fault::Locked => return StatusCode::UNAUTHORIZED.into_response(),
        Fault::Token if given.is_none_or(|g| g != "Bearer let-me-in") => {
            let challenge = format!(
                "Bearer realm=\"http://{}/token\",service=\"fake\",scope=\"repository:team/policy:pull,push\"",
                fake.address
            );
            return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response();
        }
        Fault::Round => {
            return (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, path)]).into_response();
        }
        Fault::Elsewhere => {
            let there = "http://registry.acme.test/v2/team/policy";
            return (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, there)]).into_response();
        }
        _ => {}
    }
    let body = body.collect().await.unwrap().to_bytes();
    let rest = path.strip_prefix("/v2/team/policy/").unwrap_or_default();
    let query = head.uri.query().unwrap_or_default();
    let answer = match (head.method.as_str(), rest.split_once('/')) {
        ("GET" | "HEAD", Some(("manifests", reference))) => {
            let manifests = fake.manifests.lock().unwrap();
            manifests.get(reference).map(|m| {
                let digest = [("docker-content-digest", sha256(m))];
                (digest, m.clone()).into_response()
            })
        }
        ("GET" | "HEAD", Some(("blobs", digest))) => fake.blob(digest),
        ("POST", Some(("blobs", "uploads/"))) => {
            let there = "/v2/team/policy/blobs/uploads/1?state=a";
            Some((StatusCode::ACCEPTED, [(LOCATION, there)]).into_response())
        }
        ("PUT", Some(("blobs", "uploads/1"))) => {
            let digest = query.strip_prefix("state=a&digest=").unwrap_or_default();
            let right = digest == sha256(&body);
            fake.blobs.lock().unwrap().insert(digest.into(), body);
            right.then(|| StatusCode::CREATED.into_response())
        }
        ("PUT", Some(("manifests", reference))) => {
            let mut manifests = fake.manifests.lock().unwrap();
            manifests.insert(sha256(&body), body.clone());
            manifests.insert(reference.into(), body);
            Some(StatusCode::CREATED.into_response())
        }
        _ => None,
    };
    answer.unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

fn web() -> Web {
    Web::new(None, None).unwrap()
}

async fn pull(fake: &Fake) -> Result<Bytes, u16> {
    let (web, name) = (web(), fake.name());
    let mut registry = Registry::new(&web, &name).unwrap();
    let pulled = registry.pull(LEN_MAX).await.map_err(|d| d.code.0)?;
    assert_eq!(registry.head().await.unwrap(), pulled.digest);
    Ok(pulled.bytes)
}

#[tokio::test]
async fn what_was_pushed_is_pulled_with_and_without_a_token() {
    for fault in [Fault::None, Fault::Token] {
        let fake = Fake::start(fault).await;
        assert_eq!(pull(&fake).await, Err(3202));
        let (web, name) = (web(), fake.name());
        let mut registry = Registry::new(&web, &name).unwrap();
        let digest = registry.push(Bytes::from_static(b"bundle")).await.unwrap();
        assert_eq!(pull(&fake).await.as_deref(), Ok(&b"bundle"[..]));
        // By its digest, and pushed once more, which uploads nothing anew.
        let by_digest = format!("{}/team/policy@{digest}", fake.address);
        let pulled = Registry::new(&web, &by_digest)
            .unwrap()
            .pull(LEN_MAX)
            .await
            .unwrap();
        assert_eq!(&pulled.bytes[..], b"bundle");
        fake.seen.lock().unwrap().clear();
        assert_eq!(
            registry.push(Bytes::from_static(b"bundle")).await.unwrap(),
            digest
        );
        let seen = fake.seen.lock().unwrap().clone();
        assert!(
            !seen.iter().any(|(line, _)| line.starts_with("POST")),
            "{seen:?}"
        );
    }
}

/// Nothing is used that is not whole and what it claims to be.
#[tokio::test]
async fn a_registry_that_answers_wrongly_is_refused() {
    for (fault, code) in [
        (Fault::Cut, 3203),
        (Fault::Damaged, 3213),
        (Fault::Huge, 3203),
        (Fault::Elsewhere, 3201),
        (Fault::Round, 3212),
        (Fault::Locked, 3211),
        (Fault::Image, 3214),
    ] {
        let fake = Fake::start(fault).await;
        fake.hold(b"bundle");
        assert_eq!(pull(&fake).await, Err(code), "{fault:?}");
    }
    let fake = Fake::start(Fault::None).await;
    fake.hold(b"bundle");
    let other = Bytes::from_static(b"{}");
    let name = format!("{}/team/policy@{}", fake.address, sha256(b"another"));
    fake.manifests
        .lock()
        .unwrap()
        .insert(sha256(b"another"), other);
    let web = web();
    let pulled = Registry::new(&web, &name).unwrap().pull(LEN_MAX).await;
    assert_eq!(pulled.unwrap_err().code.0, 3213);
}

#[tokio::test]
async fn a_bundle_is_bounded_on_both_sides() {
    let fake = Fake::start(Fault::None).await;
    fake.hold(&vec![b'a'; LEN_MAX]);
    assert_eq!(pull(&fake).await.map(|b| b.len()), Ok(LEN_MAX));
    fake.hold(&vec![b'a'; LEN_MAX + 1]);
    assert_eq!(pull(&fake).await, Err(3214));
}

/// A password goes to the server it is for; a redirect takes it nowhere else.
#[tokio::test]
async fn credentials_stay_with_their_server() {
    let (first, second) = (
        Fake::start(Fault::None).await,
        Fake::start(Fault::None).await,
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        format!("http://alice:a%20b@{}\n", first.address),
    )
    .unwrap();
    let web = Web::new(None, Some(file.path())).unwrap();
    let uri = |address: SocketAddr| format!("http://{address}/token").parse::<Uri>().unwrap();
    let basic = web.basic(&uri(first.address)).unwrap();
    assert_eq!(basic, "Basic YWxpY2U6YSBi");
    assert!(web.basic(&uri(second.address)).is_none());
}

#[test]
fn a_challenge_is_taken_apart_also_where_a_value_has_a_comma() {
    let text =
        "realm=\"https://auth.acme.test/token\", service=\"r\",scope=\"repository:a/b:pull,push\"";
    assert_eq!(
        parameter(text, "realm"),
        Some("https://auth.acme.test/token")
    );
    assert_eq!(parameter(text, "scope"), Some("repository:a/b:pull,push"));
    assert_eq!(parameter(text, "error"), None);
    assert_eq!(parameter("xrealm=\"a\"", "realm"), None);
    let text = "repository:a/b:pull,push x";
    assert_eq!(encoded(text), "repository:a/b:pull%2Cpush%20x");
}
