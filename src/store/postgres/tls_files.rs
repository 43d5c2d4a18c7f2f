//! The files that a database's URL names for TLS. sqlx reads them anew for each connection, and one that is not there would look like
//! a server that is not there.

use std::{env, path::Path};

use percent_encoding::percent_decode_str;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sqlx::postgres::PgSslMode;

use super::Error;

/// The names of a parameter of the URL, and the variable that stands for it.
const AUTHORITIES: (&[&str], &str) = (&["sslrootcert", "ssl-root-cert", "ssl-ca"], "PGSSLROOTCERT");
const CERTIFICATE: (&[&str], &str) = (&["sslcert", "ssl-cert"], "PGSSLCERT");
const KEY: (&[&str], &str) = (&["sslkey", "ssl-key"], "PGSSLKEY");

/// Refuses what could not be read, or has nothing in it, where a connection in this mode needs it.
pub(super) fn check(url: &str, mode: PgSslMode) -> Result<(), Error> {
    let verifies = matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    let encrypts = !matches!(mode, PgSslMode::Disable | PgSslMode::Allow);
    if verifies {
        check_file(url, AUTHORITIES, certificates)?;
    }
    if encrypts {
        check_file(url, CERTIFICATE, certificates)?;
        check_file(url, KEY, |path| PrivateKeyDer::from_pem_file(path).map(drop).map_err(|error| error.to_string()))?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<(), String> {
    let mut all = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    match all.next() {
        Some(first) => first.map(drop).map_err(|error| error.to_string()),
        None => Err("no certificate".to_owned()),
    }
}

fn check_file(
    url: &str,
    (names, variable): (&[&str], &str),
    read: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), Error> {
    let Some(value) = parameter(url, names).or_else(|| env::var(variable).ok()) else { return Ok(()) };
    // The text of one can stand there, too.
    if value.trim_start().starts_with("-----BEGIN") {
        return Ok(());
    }
    read(Path::new(&value)).map_err(|error| Error::Settings(format!("TLS: {}: {value}: {error}", names[0])))
}

/// The last of them, as sqlx takes it.
fn parameter(url: &str, names: &[&str]) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let query = query.split('#').next()?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.rfind(|(key, _)| names.contains(key))?;
    Some(percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_looked_at_where_a_connection_needs_them() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("no certificate.pem");
        fs::write(&empty, "").unwrap();
        let url = |name: &str, file: &str| format!("postgres://u@h/d?application_name=x&{name}={file}");
        let empty = empty.to_str().unwrap().replace(' ', "%20");
        for (name, mode, file, reason) in [
            ("sslrootcert", PgSslMode::VerifyFull, "/nonexistent/ca.pem", "/nonexistent/ca.pem: "),
            ("ssl-ca", PgSslMode::VerifyCa, &empty, "no certificate.pem: no certificate"),
            ("sslcert", PgSslMode::Prefer, &empty, "no certificate.pem: no certificate"),
            ("sslkey", PgSslMode::Require, &empty, "no certificate.pem: "),
        ] {
            let error = check(&url(name, file), mode).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert!(check(&url(name, file), PgSslMode::Disable).is_ok());
        }
        assert!(check(&url("sslrootcert", &empty), PgSslMode::Require).is_ok(), "nobody looks at it");
        assert!(check("postgres://u@h/d", PgSslMode::VerifyFull).is_ok());
    }
}
