//! A client of OCI registries: one bundle file is one artifact with one layer.
//!
//! OCI distribution specification 1.1 (pull, push, tokens as registries give them) and image
//! specification 1.1 (manifests of artifacts). Written over the HTTP stack that is here: the
//! `oci-client` crate would bring a second one.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
};
use palisade_mesh::{
    diagnostic::Diagnostic,
    place::{OciName, oci_name},
};
use serde::{Deserialize, Serialize};

use super::web::{Ask, Reply, Web, is_this_host, resolve};

/// What the artifact is.
pub const ARTIFACT_TYPE: &str = "application/vnd.palisade.policy.v1";
/// What its layer is: a bundle file.
pub const LAYER_TYPE: &str = "application/vnd.palisade.bundle.v1";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The empty configuration of an artifact.
const EMPTY: &[u8] = b"{}";
/// Longest manifest, and longest answer that is not a bundle.
const MANIFEST_LEN_MAX: usize = 256 << 10;

/// A place in a registry.
#[derive(Debug)]
pub struct Registry<'a> {
    web: &'a Web,
    name: OciName<'a>,
    /// What was given to be let in.
    authorization: Option<HeaderValue>,
}

/// A bundle that was pulled.
#[derive(Debug)]
pub struct Pulled {
    /// Digest of its manifest, `sha256:…`.
    pub digest: String,
    /// The bundle file.
    pub bytes: Bytes,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    artifact_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

/// Some servers give both, for clients of either kind.
#[derive(Debug, Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Registry<'a> {
    /// The place `name`: `HOST[:PORT]/REPOSITORY:TAG`, or `…@sha256:DIGEST`.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(web: &'a Web, name: &'a str) -> Result<Self, Diagnostic> {
        let name = oci_name(name).ok_or_else(|| {
            Diagnostic::error(3214, format!("`oci://{name}` is no place in a registry"))
                .help("write `oci://HOST/REPOSITORY:TAG`")
        })?;
        Ok(Self {
            web,
            name,
            authorization: None,
        })
    }

    /// The digest of what is there now.
    ///
    /// # Errors
    /// When the registry does not answer, or has nothing there.
    pub async fn head(&mut self) -> Result<String, Diagnostic> {
        let ask = self.ask(Method::HEAD, &self.manifest(), MANIFEST_LEN_MAX)?;
        let reply = self
            .send(ask.header(ACCEPT, HeaderValue::from_static(MANIFEST_TYPE)))
            .await?;
        self.expect(&reply, &[StatusCode::OK])?;
        let told = reply
            .headers
            .get("docker-content-digest")
            .and_then(|d| d.to_str().ok());
        match told {
            Some(digest) => Ok(digest.to_owned()),
            None => self.fetch_manifest().await.map(|(digest, _)| digest),
        }
    }

    /// Pulls the bundle file; everything is what its digest says, up to the reference.
    ///
    /// # Errors
    /// When it is not there whole, or is no bundle.
    pub async fn pull(&mut self, len_max: usize) -> Result<Pulled, Diagnostic> {
        let (digest, manifest) = self.fetch_manifest().await?;
        let ours = manifest.artifact_type.as_deref() == Some(ARTIFACT_TYPE);
        let layer = match manifest.layers.as_slice() {
            [layer] if ours && layer.media_type == LAYER_TYPE => layer,
            _ => return Err(self.no_bundle("its manifest has another type, or not one layer")),
        };
        if layer.size > u64::try_from(len_max).unwrap_or(u64::MAX) {
            return Err(self.no_bundle(&format!("it has more than {len_max} bytes")));
        }
        let path = format!("blobs/{}", layer.digest);
        let ask = self.ask(Method::GET, &path, len_max)?;
        let reply = self.send(ask).await?;
        self.expect(&reply, &[StatusCode::OK])?;
        if sha256(&reply.body) != layer.digest {
            return Err(self.damaged("the layer"));
        }
        Ok(Pulled {
            digest,
            bytes: reply.body,
        })
    }

    /// Pushes a bundle file under the tag; gives the digest of the manifest.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn push(&mut self, bytes: Bytes) -> Result<String, Diagnostic> {
        let config = self
            .push_blob(EMPTY_TYPE, Bytes::from_static(EMPTY))
            .await?;
        let layer = self.push_blob(LAYER_TYPE, bytes).await?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.into(),
            artifact_type: Some(ARTIFACT_TYPE.into()),
            config,
            layers: vec![layer],
        };
        let body = serde_json::to_vec(&manifest).map_err(|e| self.no_bundle(&e.to_string()))?;
        let digest = sha256(&body);
        let mut ask = self.ask(Method::PUT, &self.manifest(), MANIFEST_LEN_MAX)?;
        ask.body = body.into();
        let ask = ask.header(CONTENT_TYPE, HeaderValue::from_static(MANIFEST_TYPE));
        let reply = self.send(ask).await?;
        self.expect(&reply, &[StatusCode::CREATED])?;
        Ok(digest)
    }

    async fn push_blob(&mut self, kind: &str, bytes: Bytes) -> Result<Descriptor, Diagnostic> {
        let descriptor = Descriptor {
            media_type: kind.into(),
            digest: sha256(&bytes),
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        };
        let there = self.ask(
            Method::HEAD,
            &format!("blobs/{}", descriptor.digest),
            MANIFEST_LEN_MAX,
        )?;
        if self.send(there).await?.status == StatusCode::OK {
            return Ok(descriptor);
        }
        let begin = self.ask(Method::POST, "blobs/uploads/", MANIFEST_LEN_MAX)?;
        let begin_uri = begin.uri.clone();
        let reply = self.send(begin).await?;
        self.expect(&reply, &[StatusCode::ACCEPTED])?;
        let location = reply.headers.get(LOCATION).and_then(|l| l.to_str().ok());
        let location = location.and_then(|l| resolve(&begin_uri, l));
        let location =
            location.ok_or_else(|| self.no_bundle("the registry names no place to upload to"))?;
        if location.authority() != begin_uri.authority() || location.scheme() != begin_uri.scheme()
        {
            return Err(self.no_bundle("the registry wants the upload somewhere else"));
        }
        let joint = if location.query().is_some() { '&' } else { '?' };
        let target = format!("{location}{joint}digest={}", descriptor.digest);
        let uri = target
            .parse()
            .map_err(|_| self.no_bundle("the registry names no place to upload to"))?;
        let mut put = Ask::new(Method::PUT, uri, MANIFEST_LEN_MAX);
        put.body = bytes;
        let put = put.header(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let reply = self.send(put).await?;
        self.expect(&reply, &[StatusCode::CREATED])?;
        Ok(descriptor)
    }

    async fn fetch_manifest(&mut self) -> Result<(String, Manifest), Diagnostic> {
        let ask = self.ask(Method::GET, &self.manifest(), MANIFEST_LEN_MAX)?;
        let reply = self
            .send(ask.header(ACCEPT, HeaderValue::from_static(MANIFEST_TYPE)))
            .await?;
        self.expect(&reply, &[StatusCode::OK])?;
        let digest = sha256(&reply.body);
        if self.name.reference.contains(':') && digest != self.name.reference {
            return Err(self.damaged("the manifest"));
        }
        let manifest =
            serde_json::from_slice(&reply.body).map_err(|e| self.no_bundle(&e.to_string()))?;
        Ok((digest, manifest))
    }

    /// Sends, and does what is asked for to be let in, once.
    async fn send(&mut self, mut ask: Ask) -> Result<Reply, Diagnostic> {
        if let Some(given) = &self.authorization {
            ask = ask.header(AUTHORIZATION, given.clone());
        }
        let reply = self.web.send(ask.clone()).await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            return Ok(reply);
        }
        // A server that we were sent to asks for nothing that is the registry's.
        if reply.from.authority() != ask.uri.authority() {
            return Ok(reply);
        }
        let challenge = reply
            .headers
            .get(WWW_AUTHENTICATE)
            .and_then(|c| c.to_str().ok());
        let Some(given) = self.answer(challenge.unwrap_or_default(), &ask.uri).await? else {
            return Ok(reply);
        };
        self.authorization = Some(given.clone());
        self.web.send(ask.header(AUTHORIZATION, given)).await
    }

    /// What to answer to a challenge (RFC 9110, section 11.6.1); nothing where we have no
    /// answer.
    async fn answer(&self, challenge: &str, uri: &Uri) -> Result<Option<HeaderValue>, Diagnostic> {
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Ok(self.web.basic(uri));
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Ok(None);
        }
        let Some(realm) = parameter(rest, "realm") else {
            return Ok(None);
        };
        let mut query = String::new();
        for name in ["service", "scope"] {
            if let Some(value) = parameter(rest, name) {
                let sign = if query.is_empty() { '?' } else { '&' };
                query.push_str(&format!("{sign}{name}={}", encoded(value)));
            }
        }
        let Ok(address) = format!("{realm}{query}").parse::<Uri>() else {
            return Ok(None);
        };
        // A registry that is spoken to over TLS cannot have anything asked without.
        if address.scheme_str() != uri.scheme_str() && address.scheme_str() != Some("https") {
            return Ok(None);
        }
        let basic = self.web.basic(&address);
        let mut ask = Ask::new(Method::GET, address, MANIFEST_LEN_MAX);
        if let Some(basic) = basic {
            ask = ask.header(AUTHORIZATION, basic);
        }
        let reply = self.web.send(ask).await?;
        if reply.status != StatusCode::OK {
            return Ok(None);
        }
        let token: Option<Token> = serde_json::from_slice(&reply.body).ok();
        let token = token.and_then(|t| t.token.or(t.access_token));
        let value = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        Ok(value.map(|mut value| {
            value.set_sensitive(true);
            value
        }))
    }

    fn ask(&self, method: Method, path: &str, len_max: usize) -> Result<Ask, Diagnostic> {
        let OciName {
            registry,
            repository,
            ..
        } = self.name;
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let scheme = if is_this_host(host) { "http" } else { "https" };
        let uri = format!("{scheme}://{registry}/v2/{repository}/{path}").parse();
        let uri = uri.map_err(|_| self.no_bundle("its name makes no address"))?;
        Ok(Ask::new(method, uri, len_max))
    }

    fn manifest(&self) -> String {
        format!("manifests/{}", self.name.reference)
    }

    fn expect(&self, reply: &Reply, expected: &[StatusCode]) -> Result<(), Diagnostic> {
        if expected.contains(&reply.status) {
            return Ok(());
        }
        let status = reply.status;
        let place = self.place();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Diagnostic::error(3211, format!("the registry does not let us use `{place}`"))
                    .cause(format!("it answers {status}"))
                    .help("name a file of `https://USER:PASSWORD@HOST` lines as `credentials`")
            }
            StatusCode::NOT_FOUND => Diagnostic::error(3202, format!("there is no `{place}`"))
                .cause("the registry answers, and has nothing of this name")
                .help("push it: palisade bundle push FILE oci://…; what runs goes on"),
            _ => Diagnostic::error(3201, format!("the registry gives no `{place}`"))
                .cause(format!("it answers {status}"))
                .help("see the registry's log; a source that is followed is asked again"),
        })
    }

    fn place(&self) -> String {
        let OciName {
            registry,
            repository,
            reference,
        } = self.name;
        let joint = if reference.contains(':') { '@' } else { ':' };
        format!("oci://{registry}/{repository}{joint}{reference}")
    }

    fn damaged(&self, what: &str) -> Diagnostic {
        Diagnostic::error(
            3213,
            format!("{what} of `{}` is not what its digest says", self.place()),
        )
        .cause("its bytes have another SHA-256")
        .help("push it again; nothing of it is used")
    }

    fn no_bundle(&self, cause: &str) -> Diagnostic {
        Diagnostic::error(3214, format!("`{}` is no policy bundle", self.place()))
            .cause(cause)
            .help("push one: palisade bundle push FILE oci://HOST/REPOSITORY:TAG")
    }
}

fn sha256(bytes: &[u8]) -> String {
    let hash = digest(&SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// The value of `name` in the parameters of a challenge, which are quoted strings.
fn parameter<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let is_start = |at: usize| {
        text.get(..at)
            .is_some_and(|b| b.trim_end().is_empty() || b.trim_end().ends_with(','))
    };
    let mut found = text.match_indices(name).filter(|(at, _)| is_start(*at));
    found.find_map(|(at, _)| {
        let value = text.get(at + name.len()..)?.strip_prefix("=\"")?;
        value.split_once('"').map(|(value, _)| value)
    })
}

/// `text` as a value in a query.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests;
