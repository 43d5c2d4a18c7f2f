//! The fields of `kind: Packages`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    read_file,
    settings::{Values, headers},
};
use crate::{
    cli::local_file::LocalFile,
    model::ContentHash,
    proto::opamp::{DownloadableFile, PackageAvailable, PackageType},
};

/// The server's limit, too.
const MAX_SIGNATURE_BYTES: u64 = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    r#type: Type,
    version: String,
    /// A file that is uploaded.
    #[serde(default)]
    path: Option<PathBuf>,
    /// A file that is somewhere else.
    #[serde(default)]
    url: Option<String>,
    /// Of what is at the URL; without a URL, of a file that was uploaded before.
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    /// Base64.
    #[serde(default)]
    signature: Option<String>,
    #[serde(default)]
    signature_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    TopLevel,
    Addon,
}

pub type Packages = BTreeMap<String, Spanned<Package>>;

/// What a manifest's packages come to.
#[derive(Default)]
pub struct Offered {
    pub packages: BTreeMap<String, PackageAvailable>,
    /// Files to upload before.
    pub uploads: Vec<LocalFile>,
}

/// Tells `refuse` what is wrong, with its line, and `note` where the server's fields are.
pub fn read(
    packages: Packages,
    folder: &Path,
    refuse: &mut dyn FnMut(u64, String),
    note: &mut dyn FnMut(String, u64),
) -> Offered {
    let mut offered = Offered::default();
    for (name, package) in packages {
        let line = package.referenced.line();
        note(format!("packages[{name:?}]"), line);
        match package.value.into_offer(folder) {
            Ok((package, upload)) => {
                offered.packages.insert(name, package);
                offered.uploads.extend(upload);
            }
            Err(problem) => refuse(line, format!("packages: {name:?}: {problem}")),
        }
    }
    offered
}

impl Package {
    fn into_offer(self, folder: &Path) -> Result<(PackageAvailable, Option<LocalFile>), String> {
        let given = self.sha256.as_deref().map(str::parse::<ContentHash>).transpose();
        let given = given.map_err(|_| "sha256: must be 64 hexadecimal digits".to_owned())?;
        let (hash, upload) = match (&self.path, &self.url, given) {
            (Some(_), Some(_), _) => return Err("path and url exclude each other".to_owned()),
            (Some(path), None, given) => {
                let path = folder.join(path);
                let file = LocalFile::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                if let Some(given) = given.filter(|given| *given != file.sha256) {
                    return Err(format!("{} has the SHA-256 {}, not {given}", path.display(), file.sha256));
                }
                (file.sha256, Some(file))
            }
            (None, Some(_), None) => return Err("sha256: is needed with url".to_owned()),
            (None, None, None) => {
                return Err("path, or url and sha256, or the sha256 of an uploaded file is needed".to_owned());
            }
            (None, _, Some(given)) => (given, None),
        };
        let file = DownloadableFile {
            download_url: self.url.unwrap_or_default(),
            content_hash: hash.to_bytes(),
            signature: signature(self.signature, self.signature_file, folder)?.into(),
            headers: headers(self.headers),
        };
        let r#type = match self.r#type {
            Type::TopLevel => PackageType::TopLevel,
            Type::Addon => PackageType::Addon,
        };
        let package =
            PackageAvailable { r#type: r#type.into(), version: self.version, file: Some(file), ..Default::default() };
        Ok((package, upload))
    }
}

fn signature(text: Option<String>, file: Option<PathBuf>, folder: &Path) -> Result<Vec<u8>, String> {
    match (text, file) {
        (Some(_), Some(_)) => Err("signature and signature_file exclude each other".to_owned()),
        (Some(text), None) => STANDARD
            .decode(text.trim())
            .map_err(|_| "signature: not in base64; signature_file takes any bytes".to_owned()),
        (None, Some(file)) => read_file(&folder.join(file), MAX_SIGNATURE_BYTES),
        (None, None) => Ok(Vec::new()),
    }
}
