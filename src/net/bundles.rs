//! Bundle files from web servers and registries, for [`palisade_pdp::publish`].

use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode, Uri,
    header::{AUTHORIZATION, ETAG, IF_NONE_MATCH},
};
use palisade_mesh::{
    diagnostic::Diagnostic,
    place::{At, Place},
};
use palisade_pdp::{
    bundle::file::FILE_LEN_MAX,
    publish::{Fetch, Fetched, Fetching},
};

use super::{
    registry::Registry,
    web::{Ask, Web},
};

/// Fetches over HTTPS and from OCI registries.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bundles;

impl Fetch for Bundles {
    fn fetch<'a>(&'a self, place: &'a Place, have: Option<&'a str>) -> Fetching<'a> {
        Box::pin(async move {
            // Read anew each time: credentials and roots change while we run.
            let web = Web::new(place.ca.as_deref(), place.credentials.as_deref())?;
            match &place.at {
                At::Https(url) => of_server(&web, url, have).await,
                At::Oci(name) => of_registry(&web, name, have).await,
                At::Folder(_) | At::File(_) | At::Git(_) => Ok(Fetched::Same),
            }
        })
    }
}

/// Asks whether the registry names another manifest than before, and pulls it then.
async fn of_registry(web: &Web, name: &str, have: Option<&str>) -> Result<Fetched, Diagnostic> {
    let mut registry = Registry::new(web, name)?;
    if let Some(have) = have
        && registry.head().await? == have
    {
        return Ok(Fetched::Same);
    }
    let pulled = registry.pull(FILE_LEN_MAX).await?;
    Ok(Fetched::New {
        tag: Some(pulled.digest),
        bytes: pulled.bytes,
    })
}

/// Asks for the file unless it is the one before (RFC 9110, section 13.1.2).
async fn of_server(web: &Web, url: &str, have: Option<&str>) -> Result<Fetched, Diagnostic> {
    let uri: Uri = url.parse().map_err(|_| wrong(url, "it is no address"))?;
    let mut ask = Ask::new(Method::GET, uri.clone(), FILE_LEN_MAX);
    if let Some(tag) = have.and_then(|tag| HeaderValue::from_str(tag).ok()) {
        ask = ask.header(IF_NONE_MATCH, tag);
    }
    if let Some(basic) = web.basic(&uri) {
        ask = ask.header(AUTHORIZATION, basic);
    }
    let reply = web.send(ask).await?;
    match reply.status {
        StatusCode::OK => Ok(Fetched::New {
            tag: tag(reply.headers.get(ETAG)),
            bytes: reply.body,
        }),
        StatusCode::NOT_MODIFIED if have.is_some() => Ok(Fetched::Same),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Err(Diagnostic::error(3202, format!("there is no `{url}`"))
                .cause("the server answers, and has nothing of this name")
                .help("put the bundle file there again; what runs goes on"))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Diagnostic::error(
            3211,
            format!("the server does not let us read `{url}`"),
        )
        .cause(format!("it answers {}", reply.status))
        .help("name a file of `https://USER:PASSWORD@HOST` lines as `credentials`")),
        status => Err(wrong(url, &format!("it answers {status}"))),
    }
}

/// What to ask with next time; a server that names no version is asked for all of it.
fn tag(etag: Option<&HeaderValue>) -> Option<String> {
    etag.and_then(|t| t.to_str().ok()).map(str::to_owned)
}

fn wrong(url: &str, cause: &str) -> Diagnostic {
    Diagnostic::error(3201, format!("`{url}` gives no bundle"))
        .cause(cause)
        .help("see the server's log; a source that is followed is asked again")
}

/// The bytes of a bundle file at `place`.
///
/// # Errors
/// When it cannot be fetched whole.
pub async fn pull(place: &Place) -> Result<Bytes, Diagnostic> {
    match Bundles.fetch(place, None).await? {
        Fetched::New { bytes, .. } => Ok(bytes),
        Fetched::Same => Err(no_server(place, "it is no web server and no registry")),
    }
}

/// Puts a bundle file into a registry; gives the digest of its manifest.
///
/// # Errors
/// When `place` is not in a registry, or the registry does not take it.
pub async fn push(place: &Place, bytes: Bytes) -> Result<String, Diagnostic> {
    let At::Oci(name) = &place.at else {
        return Err(no_server(place, "bundles are pushed to registries only"));
    };
    let web = Web::new(place.ca.as_deref(), place.credentials.as_deref())?;
    Registry::new(&web, name)?.push(bytes).await
}

fn no_server(place: &Place, cause: &str) -> Diagnostic {
    Diagnostic::error(3214, format!("`{place}` is no place for this"))
        .cause(cause)
        .help("write `oci://HOST/REPOSITORY:TAG`")
}

#[cfg(test)]
mod tests;
