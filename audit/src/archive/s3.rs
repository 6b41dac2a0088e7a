//! A bucket of an S3 server. Who speaks HTTP and TLS for it is given: no socket is opened
//! here.

use std::{
    fmt, fs,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use object_store::{
    BackoffConfig, ClientOptions, CredentialProvider, RetryConfig,
    aws::{
        AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, Checksum, S3ConditionalPut,
    },
    client::{HttpClient, HttpConnector, HttpService},
    path::Path as Name,
};

use crate::files;

/// The words in which HTTP is spoken for a bucket.
pub mod http {
    pub use object_store::client::{
        HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    };

    /// An answer that is awaited.
    pub type Answer =
        std::pin::Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send>>;

    /// Carries a request to the server and its answer back.
    pub type Carry = std::sync::Arc<dyn Fn(HttpRequest) -> Answer + Send + Sync>;
}

/// How often a request is tried again that found no answer.
const RETRIES_MAX: usize = 3;

/// Longest time until the last try begins.
const RETRY_TIME_MAX: Duration = Duration::from_secs(10);

/// Most that is read of an error.
const ERROR_LEN_MAX: usize = 64 << 10;

/// Longest code of an error.
const CODE_LEN_MAX: usize = 64;

/// Which version an object is, `null` in a bucket that keeps none.
const VERSION: &str = "x-amz-version-id";

/// A deletion has only hidden the object.
const DELETE_MARKER: &str = "x-amz-delete-marker";

/// Longest file of credentials, in bytes.
const CREDENTIALS_LEN_MAX: u64 = 64 << 10;

/// Variables that say who we are; no other is read.
const ENVIRONMENT: [(&str, AmazonS3ConfigKey); 6] = [
    ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
    ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        AmazonS3ConfigKey::WebIdentityTokenFile,
    ),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
];

/// Where a bucket is, and who may use it.
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// What its objects' names begin with; may be empty.
    pub prefix: String,
    /// Address of the server; that of AWS for the region where none is given.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: String,
    /// A file of credentials, read again whenever they are used; the environment where none
    /// is given.
    pub credentials: Option<PathBuf>,
    /// Whether the endpoint may be plain HTTP.
    pub plain: bool,
    /// Who carries requests.
    pub carry: http::Carry,
}

impl S3 {
    /// Which bucket it is: on another server one of the same name is another.
    pub(super) fn url(&self) -> String {
        let url = match self.prefix.is_empty() {
            true => format!("s3://{}", self.bucket),
            false => format!("s3://{}/{}", self.bucket, self.prefix),
        };
        match &self.endpoint {
            None => url,
            Some(endpoint) => format!("{url} at {}", endpoint.trim_end_matches('/')),
        }
    }

    pub(super) fn prefix(&self) -> io::Result<Name> {
        Name::parse(&self.prefix).map_err(io::Error::other)
    }

    /// The store; it notes in `versions` when it hears that the bucket keeps them.
    pub(super) fn store(self, versions: Arc<AtomicBool>) -> object_store::Result<AmazonS3> {
        let mut builder = AmazonS3Builder::new();
        match self.credentials {
            Some(file) => builder = builder.with_credentials(Arc::new(CredentialFile(file))),
            None => {
                for (name, key) in ENVIRONMENT {
                    if let Ok(value) = std::env::var(name) {
                        builder = builder.with_config(key, value);
                    }
                }
            }
        }
        if let Some(endpoint) = self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        builder
            .with_bucket_name(self.bucket)
            .with_region(self.region)
            .with_client_options(ClientOptions::new().with_allow_http(self.plain))
            .with_allow_http(self.plain)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // A bucket with an object lock takes nothing without one.
            .with_checksum_algorithm(Checksum::SHA256)
            // One answer for each object, with what it says of versions.
            .with_disable_bulk_delete(true)
            .with_http_connector(Given {
                carry: self.carry,
                versions,
            })
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: RETRIES_MAX,
                retry_timeout: RETRY_TIME_MAX,
            })
            .build()
    }

    /// Whether the environment says who we are.
    pub fn is_in_environment() -> bool {
        let has = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        (has("AWS_ACCESS_KEY_ID") && has("AWS_SECRET_ACCESS_KEY"))
            || (has("AWS_WEB_IDENTITY_TOKEN_FILE") && has("AWS_ROLE_ARN"))
    }

    /// Whether a file has credentials that can be used.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check_credentials(file: &Path) -> Result<(), String> {
        read_credentials(file).map(|_| ())
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3").field(&self.url()).finish()
    }
}

/// A file as the tools of AWS write it, of which the section `[default]` counts.
#[derive(Debug)]
struct CredentialFile(PathBuf);

impl CredentialProvider for CredentialFile {
    type Credential = AwsCredential;

    // As `async_trait` writes it.
    fn get_credential<'life0, 'async_trait>(
        &'life0 self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let read = read_credentials(&self.0).map(Arc::new);
        let read = read.map_err(|cause| object_store::Error::Generic {
            store: "S3",
            source: format!("credentials `{}`: {cause}", self.0.display()).into(),
        });
        Box::pin(std::future::ready(read))
    }
}

fn read_credentials(file: &Path) -> Result<AwsCredential, String> {
    let meta = fs::metadata(file).map_err(|e| e.to_string())?;
    if !files::is_private(file, &meta) {
        return Err("others than its owner can read it: chmod 600".into());
    }
    if meta.len() > CREDENTIALS_LEN_MAX {
        return Err("it is too large".into());
    }
    let text = fs::read_to_string(file).map_err(|e| e.to_string())?;
    let mut default = true;
    let (mut key, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            default = line == "[default]";
        }
        let Some((name, value)) = line.split_once('=').filter(|_| default) else {
            continue;
        };
        let value = Some(value.trim().to_owned());
        match name.trim() {
            "aws_access_key_id" => key = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    match (key, secret) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential {
            key_id,
            secret_key,
            token,
        }),
        _ => Err("it has no `aws_access_key_id = …` and `aws_secret_access_key = …`".into()),
    }
}

/// Who carries requests, as the store wants it.
#[derive(Clone)]
struct Given {
    carry: http::Carry,
    versions: Arc<AtomicBool>,
}

impl Given {
    /// Keeps what is heard of versions, and of an error its code alone: what else a server says
    /// of one can have the request in it, with its token.
    async fn hear(self, answer: http::HttpResponse) -> Result<http::HttpResponse, http::HttpError> {
        let (parts, body) = answer.into_parts();
        let version = parts.headers.get(VERSION);
        if version.is_some_and(|version| version != "null")
            || parts.headers.contains_key(DELETE_MARKER)
        {
            self.versions.store(true, Ordering::Relaxed);
        }
        if !parts.status.is_client_error() && !parts.status.is_server_error() {
            return Ok(http::HttpResponse::from_parts(parts, body));
        }
        let mut said = Vec::new();
        let mut chunks = body.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            let room = ERROR_LEN_MAX.saturating_sub(said.len());
            said.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
            if chunk.len() > room {
                break;
            }
        }
        let code = code_of(&String::from_utf8_lossy(&said));
        Ok(http::HttpResponse::from_parts(parts, code.into()))
    }
}

/// The code of an error of S3, which is one word; nothing where there is none.
fn code_of(said: &str) -> String {
    let code = said.split_once("<Code>").and_then(|(_, rest)| {
        let (code, _) = rest.split_once("</Code>")?;
        let is_word = code.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        (is_word && code.len() <= CODE_LEN_MAX).then_some(code)
    });
    code.unwrap_or_default().to_owned()
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

impl HttpConnector for Given {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Given {
    fn call<'life0, 'async_trait>(
        &'life0 self,
        request: http::HttpRequest,
    ) -> Pin<
        Box<dyn Future<Output = Result<http::HttpResponse, http::HttpError>> + Send + 'async_trait>,
    >
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let (given, answer) = (self.clone(), (self.carry)(request));
        Box::pin(async move { given.hear(answer.await?).await })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// One bucket is not taken for another that has its name on another server.
    #[test]
    fn a_bucket_is_told_by_its_server_too() {
        let url = |endpoint: Option<&str>| {
            let s3 = S3 {
                bucket: "acme-audit".into(),
                prefix: "log".into(),
                endpoint: endpoint.map(ToOwned::to_owned),
                region: "us-east-1".into(),
                credentials: None,
                plain: false,
                carry: Arc::new(|_| Box::pin(std::future::pending())),
            };
            s3.url()
        };
        assert_eq!(url(None), "s3://acme-audit/log");
        let (a, b) = (url(Some("https://a.test")), url(Some("https://b.test")));
        assert_ne!(a, b);
        assert_eq!(a, url(Some("https://a.test/")));
    }

    #[test]
    fn credentials_are_those_of_the_default_section_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        let read = |text: &str, mode: u32| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            read_credentials(&file)
        };
        let good = "[other]\naws_access_key_id = no\n[default]\naws_access_key_id = A\naws_secret_access_key=S=\n";
        let found = read(good, 0o600).unwrap();
        assert_eq!(
            (&*found.key_id, &*found.secret_key, found.token),
            ("A", "S=", None)
        );
        assert!(read(good, 0o644).is_err(), "others can read it");
        assert!(read("[default]\naws_access_key_id = A\n", 0o600).is_err());
        assert!(
            read(
                "[other]\naws_access_key_id = A\naws_secret_access_key = S\n",
                0o600
            )
            .is_err()
        );
        assert!(read_credentials(&dir.path().join("none")).is_err());
    }
}
