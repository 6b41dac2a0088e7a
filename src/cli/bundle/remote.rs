//! `palisade bundle push` and `pull`: bundle files in registries and on web servers.

use std::path::{Path, PathBuf};

use palisade_mesh::{
    diagnostic::Diagnostic,
    place::{At, Place},
};
use palisade_pdp::bundle::file::{self, BundleFile};
use serde_json::json;

use super::{super::block_on, write};
use crate::{
    net::bundles,
    render::{self, DIM, GOOD, Output, paint, snippet::clean},
};

/// A place elsewhere, and how to get in.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Server {
    /// `oci://HOST/REPOSITORY:TAG`; `pull` takes `…@sha256:DIGEST` and `https://…`, too.
    #[arg(value_parser = at)]
    place: At,
    /// File of `https://USER:PASSWORD@HOST` lines.
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// PEM file of the roots that the server's certificate is under; else the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

fn at(text: &str) -> Result<At, String> {
    match At::parse(text) {
        Ok(at @ (At::Https(_) | At::Oci(_))) => Ok(at),
        Ok(_) => Err("write `oci://HOST/REPOSITORY:TAG` or `https://HOST/FILE`".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Server {
    fn place(&self) -> Place {
        Place {
            credentials: self.credentials.clone(),
            ca: self.ca.clone(),
            ..Place::new(self.place.clone())
        }
    }
}

/// Pushes what is a bundle file, and nothing else.
pub(super) fn push(path: &Path, server: &Server, output: Output) -> Result<(), Diagnostic> {
    let (file, place) = (file::read(path)?, server.place());
    let manifest = block_on(bundles::push(&place, file.encode().into()))?;
    match output {
        Output::Json => render::json(&json!({
            "place": place.to_string(),
            "manifest": manifest,
            "digest": file.digest.to_string(),
        })),
        Output::Human => render::line(&format!(
            "{} {} is at {}  {}",
            paint(GOOD, "✓"),
            clean(&path.display().to_string()),
            place,
            paint(DIM, manifest),
        )),
    }
    Ok(())
}

/// Pulls into a file what is a bundle, and nothing else.
pub(super) fn pull(server: &Server, path: &Path, output: Output) -> Result<(), Diagnostic> {
    let place = server.place();
    let bytes = block_on(bundles::pull(&place))?;
    let file = BundleFile::parse_from(&place.to_string(), &bytes)?;
    write(path, &file)?;
    match output {
        Output::Json => render::json(&json!({
            "place": place.to_string(),
            "file": path,
            "digest": file.digest.to_string(),
        })),
        Output::Human => render::line(&format!(
            "{} {} written  {}",
            paint(GOOD, "✓"),
            clean(&path.display().to_string()),
            paint(DIM, format!("sha256:{}", file.digest)),
        )),
    }
    Ok(())
}
