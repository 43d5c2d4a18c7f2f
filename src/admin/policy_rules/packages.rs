//! What packages must look like.

use std::collections::BTreeMap;

use http::Uri;

use super::{MAX_TEXT_BYTES, settings::check_headers};
use crate::{
    admin::errors::Violations,
    model::{ContentHash, packages, policy::PolicyOffer},
    proto::opamp::{DownloadableFile, PackageAvailable, PackageType},
};

const MAX_PACKAGES: usize = 64;
const MAX_SIGNATURE_BYTES: usize = 64 * 1024;

/// `hosts`: agents can be told where files are that were uploaded.
pub fn check(
    packages: BTreeMap<String, PackageAvailable>,
    allow_empty: bool,
    hosts: bool,
    violations: &mut Violations,
) -> PolicyOffer {
    if packages.is_empty() && !allow_empty {
        let problem =
            "a policy without packages offers nothing; with allow_empty it may have agents remove all of theirs";
        violations.add("packages", problem);
    }
    if packages.len() > MAX_PACKAGES {
        violations.add("packages", format!("at most {MAX_PACKAGES} packages are possible, not {}", packages.len()));
    }
    check_unnamed(&packages, violations);
    for (name, package) in &packages {
        let field = format!("packages[{name:?}]");
        check_text(name, &field, violations);
        if PackageType::try_from(package.r#type).is_err() {
            violations.add(format!("{field}.type"), format!("{} is not a type of package", package.r#type));
        }
        if package.version.is_empty() {
            violations.add(format!("{field}.version"), "must be given");
        }
        check_text(&package.version, &format!("{field}.version"), violations);
        if !package.hash.is_empty() {
            violations.add(format!("{field}.hash"), "is made by the server");
        }
        match &package.file {
            Some(file) => check_file(file, hosts, &format!("{field}.file"), violations),
            None => violations.add(format!("{field}.file"), "must be given"),
        }
    }
    PolicyOffer::Packages(packages)
}

/// The one top-level package needs no name; every other does.
fn check_unnamed(packages: &BTreeMap<String, PackageAvailable>, violations: &mut Violations) {
    let is_top_level = |package: &PackageAvailable| package.r#type == PackageType::TopLevel as i32;
    let Some(unnamed) = packages.get("") else { return };
    if !is_top_level(unnamed) || packages.values().filter(|package| is_top_level(package)).count() > 1 {
        violations.add("packages[\"\"]", "only a package that is the one top-level package may have an empty name");
    }
}

fn check_file(file: &DownloadableFile, hosts: bool, field: &str, violations: &mut Violations) {
    if ContentHash::from_slice(&file.content_hash).is_none() {
        violations.add(format!("{field}.content_hash"), "must be the SHA-256 of the file: 32 bytes");
    }
    if packages::is_hosted(file) {
        if !hosts {
            let problem = "must be given: this deployment does not know where agents reach it (setting opamp-url), \
                           or hosts no files (setting package-storage)";
            violations.add(format!("{field}.download_url"), problem);
        }
    } else if !is_url(&file.download_url) {
        let problem = format!("{:?} is not a whole URL with the scheme http or https", file.download_url);
        violations.add(format!("{field}.download_url"), problem);
    }
    if file.signature.len() > MAX_SIGNATURE_BYTES {
        let problem = format!("has {} bytes; at most {MAX_SIGNATURE_BYTES} are possible", file.signature.len());
        violations.add(format!("{field}.signature"), problem);
    }
    check_headers(&file.headers, &format!("{field}.headers"), violations);
}

fn is_url(text: &str) -> bool {
    let is_whole = |uri: Uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    };
    text.parse().is_ok_and(is_whole)
}

fn check_text(text: &str, field: &str, violations: &mut Violations) {
    if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        violations.add(field, format!("must have at most {MAX_TEXT_BYTES} bytes and no control characters"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::opamp::{Header, Headers};

    fn violated(name: &str, package: PackageAvailable, hosts: bool) -> Vec<String> {
        let mut violations = Violations::default();
        check(BTreeMap::from([(name.to_owned(), package)]), false, hosts, &mut violations);
        violations.fields().map(str::to_owned).collect()
    }

    fn package() -> PackageAvailable {
        let file = DownloadableFile {
            download_url: "https://packages.example/otelcol.tar.gz".into(),
            content_hash: vec![1; 32].into(),
            ..Default::default()
        };
        PackageAvailable { version: "1.0".into(), file: Some(file), ..Default::default() }
    }

    #[test]
    fn everything_wrong_is_named() {
        let headers = Headers { headers: vec![Header { key: "a b".into(), value: "c".into() }] };
        let file = DownloadableFile {
            download_url: "packages.example/x".into(),
            content_hash: vec![1; 31].into(),
            signature: vec![0; MAX_SIGNATURE_BYTES + 1].into(),
            headers: Some(headers),
        };
        let wrong = PackageAvailable { r#type: 2, version: String::new(), hash: vec![1].into(), file: Some(file) };
        let fields = [
            "",
            ".type",
            ".version",
            ".hash",
            ".file.content_hash",
            ".file.download_url",
            ".file.signature",
            ".file.headers[\"a b\"]",
        ];
        assert_eq!(violated("a\nb", wrong, true), fields.map(|field| format!("packages[\"a\\nb\"]{field}")));
        let none = PackageAvailable { file: None, ..package() };
        assert_eq!(violated("x", none, true), ["packages[\"x\"].file"]);
    }

    #[test]
    fn only_a_lone_top_level_package_needs_no_name() {
        let addon = || PackageAvailable { r#type: PackageType::Addon as i32, ..package() };
        for (packages, is_good) in [
            (vec![("", package()), ("a", addon())], true),
            (vec![("a", package()), ("b", package())], true),
            (vec![("", addon())], false),
            (vec![("", package()), ("a", package())], false),
        ] {
            let mut violations = Violations::default();
            let names = packages.into_iter().map(|(name, package)| (name.to_owned(), package)).collect();
            check(names, false, false, &mut violations);
            let expected: &[&str] = if is_good { &[] } else { &["packages[\"\"]"] };
            assert_eq!(violations.fields().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn uploaded_files_need_somebody_who_serves_them() {
        let mut hosted = package();
        hosted.file.get_or_insert_default().download_url.clear();
        assert_eq!(violated("x", hosted.clone(), true), [""; 0]);
        assert_eq!(violated("x", hosted, false), ["packages[\"x\"].file.download_url"]);
    }

    #[test]
    fn there_is_at_least_one_and_not_too_many() {
        for (count, allow_empty, is_good) in [(0, false, false), (0, true, true), (64, false, true), (65, false, false)]
        {
            let packages = (0..count).map(|n| (n.to_string(), package())).collect();
            let mut violations = Violations::default();
            check(packages, allow_empty, false, &mut violations);
            assert_eq!(violations.fields().next().is_none(), is_good, "{count} {allow_empty}");
        }
    }
}
