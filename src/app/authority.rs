//! The authority that issues certificates to agents.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context;

use super::data_dir::DataDir;
use crate::{
    model::UnixMs,
    pki::{Authority, Issuer},
    settings::ConfigService,
};

/// Larger than any file of a few certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// By the settings; where they name none, that of the data folder, which is made on the first start.
pub fn issuer(settings: &ConfigService, folder: Option<&DataDir>) -> anyhow::Result<Option<Issuer>> {
    let now = now();
    let authority = match (settings.agent_ca()?, folder) {
        (Some(given), _) => {
            let certificates = read(&given.certificate_file)?;
            let at = || format!("certificate authority in {}", given.certificate_file.display());
            Authority::load(&certificates, given.key.expose(), now).with_context(at)?
        }
        (None, Some(folder)) => {
            let (certificates, key) =
                folder.authority(|| Authority::generate(now).context("a certificate authority"))?;
            let at = || format!("certificate authority in {}", folder.path().display());
            Authority::load(&certificates, &key, now).with_context(at)?
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(Issuer { authority: Arc::new(authority), validity: settings.agent_certificate_validity() }))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let at = || format!("cannot read {}", path.display());
    let size = fs::metadata(path).with_context(at)?.len();
    anyhow::ensure!(size <= MAX_FILE_BYTES, "{} is longer than {MAX_FILE_BYTES} bytes", path.display());
    fs::read_to_string(path).with_context(at)
}

fn now() -> UnixMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX)
}
