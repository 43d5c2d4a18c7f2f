use super::*;
use crate::{
    model::ContentHash,
    proto::opamp::{DownloadableFile, Header, Headers, PackageAvailable, PackageType},
};

fn parsed(text: &str) -> Vec<Document> {
    parse("m.yaml", Path::new("."), text.as_bytes()).expect(text)
}

fn refused(text: &str) -> Vec<String> {
    let invalid = parse("m.yaml", Path::new("."), text.as_bytes()).expect_err(text);
    invalid.iter().map(ToString::to_string).collect()
}

#[test]
fn the_whole_grammar() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("c.yaml"), [0xff, b'a']).unwrap();
    let text = "# The base.
kind: Config
name: linux-base
selector: os.type = linux, deployment.environment.name in (prod, staging), !legacy
priority: -5
files:
  collector.yaml: {content_type: text/yaml, path: ./c.yaml, role: main}
  \"\":
    body: |
      a: 1
allow_empty: true
rollout: {max_per_second: 500}
---
---
kind: Config
name: second
selector: \"\"
files: {x: {body: ''}}
";
    let documents = parse("m.yaml", folder.path(), text.as_bytes()).unwrap();
    let [first, second] = &documents[..] else { panic!("{documents:?}") };
    let file = |name: &str, content_type: &str, role: &str, body: &[u8]| PolicyFile {
        name: name.into(),
        content_type: content_type.into(),
        role: role.into(),
        body: body.to_vec().into(),
        ..Default::default()
    };
    let expected = ApplyPolicyRequest {
        name: "linux-base".into(),
        kind: PolicyKind::Config.into(),
        selector: "os.type = linux, deployment.environment.name in (prod, staging), !legacy".into(),
        priority: -5,
        files: vec![file("", "", "", b"a: 1\n"), file("collector.yaml", "text/yaml", "main", &[0xff, b'a'])],
        allow_empty: true,
        max_per_second: 500,
        ..Default::default()
    };
    assert_eq!(first.request, expected);
    assert_eq!((second.request.selector.as_str(), second.request.files.len()), ("", 1));
    assert_eq!((first.place.document, second.place.document, second.place.line), (1, 2, 15));
}

#[test]
fn refused_fields_are_found() {
    let document = &parsed("kind: Config\nname: a\nselector: b\nfiles:\n  x: {body: ''}\n  y: {body: ''}\n")[0];
    let line = |field: &str| document.place_of(field).line;
    assert_eq!((line("selector"), line("files[\"y\"].body"), line("files[\"x\"]"), line("other")), (3, 6, 5, 1));
}

#[test]
fn steps_come_as_they_are_written() {
    let head = "kind: Config\nname: a\nselector: b\nrollout:\n";
    let document = &parsed(&format!("{head}  steps: [3, 1%, 0.5, -5, +5, .5, 10x, ring = a, 100%]\n"))[0];
    let plan = document.request.rollout.clone().unwrap_or_default();
    assert_eq!(plan.steps, ["3", "1%", "0.5", "-5", "+5", ".5", "10x", "ring = a", "100%"]);
}

#[test]
fn mistakes_are_named_with_their_line() {
    let head = "kind: Config\nname: a\nselector: b\n";
    for (text, expected) in [
        ("", "m.yaml: there is no document in this file"),
        ("kind: Config\nname: a\n", "m.yaml: document 1, line 2, column 1: missing field `selector`"),
        (&format!("{head}selektor: x\n"), "m.yaml: document 1, line 4, column 1: unknown field `selektor`"),
        (&format!("{head}priority: high\n"), "m.yaml: document 1, line 4, column 11: "),
        (&format!("{head}---\n{head}frobs: 1\n"), "m.yaml: document 2, line 8, column 1: unknown field `frobs`"),
        ("kind: Package\nname: a\nselector: b\n", "m.yaml: document 1, line 1: kind: \"Package\" is not a kind"),
        (&format!("{head}packages: {{}}\n"), "m.yaml: document 1, line 4: packages: is not a field of kind Config"),
        (&format!("{head}files:\n  x: {{}}\n"), "m.yaml: document 1, line 5: files: \"x\": path or body is needed"),
        (
            &format!("{head}files:\n  x: {{path: a, body: b}}\n"),
            "m.yaml: document 1, line 5: files: \"x\": path and body",
        ),
        (
            &format!("{head}files:\n  x: {{path: none.yaml}}\n"),
            "m.yaml: document 1, line 5: files: \"x\": ./none.yaml: No such file",
        ),
        (
            &format!("{head}files:\n  x: {{body: a}}\n  x: {{body: b}}\n"),
            "m.yaml: document 1, line 6, column 3: duplicate",
        ),
        (
            &format!("{head}rollout:\n  steps: [1%, 100%]\n  bake: soon\n"),
            "m.yaml: document 1, line 6: rollout: bake: \"soon\" is no time such as 10m",
        ),
        (&format!("{head}rollout:\n  pace: 5\n"), "m.yaml: document 1, line 5, column 3: unknown field `pace`"),
        (
            "kind: Config\nname: a\nselector: !legacy\n",
            "m.yaml: document 1, line 3, column 18: there is no text here; one that is empty or starts with ! needs quotes",
        ),
        ("kind: Config\nname: a\nselector: !legacy, b\n", "m.yaml: document 1, line 3, column "),
        ("kind: [", "m.yaml: document 1, line 1"),
    ] {
        let problems = refused(text);
        assert!(problems[0].starts_with(expected), "{text}\n{problems:?}\nexpected {expected}");
    }
    let of_a_tag = &refused("kind: Config\nname: a\nselector: !legacy, b\n")[0];
    assert!(
        of_a_tag.contains(": while scanning a tag, ") && of_a_tag.ends_with("; a text that starts with ! needs quotes")
    );
}

#[test]
fn a_file_that_is_too_large_is_not_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    fs::File::create(&path).unwrap().set_len(MAX_BODY_BYTES + 1).unwrap();
    let text = "kind: Config\nname: a\nselector: b\nfiles: {x: {path: large}}\n";
    let invalid = parse("m.yaml", folder.path(), text.as_bytes()).unwrap_err();
    assert!(invalid[0].problem.ends_with("larger than 4194304 bytes"), "{}", invalid[0]);
    fs::File::create(&path).unwrap().set_len(MAX_BODY_BYTES).unwrap();
    assert!(parse("m.yaml", folder.path(), text.as_bytes()).is_ok());
}

#[test]
fn packages_are_hosted_or_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("otelcol.tar.gz"), "a collector").unwrap();
    fs::write(folder.path().join("sig"), [0xff]).unwrap();
    let (hash, other) = (ContentHash::of(b"a collector"), ContentHash([0xab; 32]));
    let text = format!(
        "kind: Packages
name: collector
selector: os.type = linux
packages:
  otelcol: {{type: top_level, version: 0.149.0, path: ./otelcol.tar.gz, sha256: {hash}}}
  known: {{type: addon, version: '1', sha256: {other}, signature_file: sig}}
  rules:
    type: addon
    version: '7'
    url: https://x/
    sha256: {other}
    headers: {{A: b, C: [d, e]}}
    signature: 'aGk='
"
    );
    let documents = parse("m.yaml", folder.path(), text.as_bytes()).unwrap();
    let [document] = &documents[..] else { panic!("{documents:?}") };
    let package = |r#type: PackageType, version: &str, file: DownloadableFile| PackageAvailable {
        r#type: r#type.into(),
        version: version.into(),
        file: Some(file),
        ..Default::default()
    };
    let file = |content_hash: ContentHash, signature: &[u8]| DownloadableFile {
        content_hash: content_hash.to_bytes(),
        signature: signature.to_vec().into(),
        ..Default::default()
    };
    let header = |key: &str, value: &str| Header { key: key.into(), value: value.into() };
    let rules = DownloadableFile {
        download_url: "https://x/".into(),
        headers: Some(Headers { headers: vec![header("A", "b"), header("C", "d"), header("C", "e")] }),
        ..file(other, b"hi")
    };
    let expected = [
        ("known", package(PackageType::Addon, "1", file(other, &[0xff]))),
        ("otelcol", package(PackageType::TopLevel, "0.149.0", file(hash, b""))),
        ("rules", package(PackageType::Addon, "7", rules)),
    ];
    assert_eq!(document.request.kind(), PolicyKind::Packages);
    assert_eq!(document.request.packages, expected.map(|(name, package)| (name.to_owned(), package)).into());
    assert_eq!(document.uploads.iter().map(|file| (file.sha256, file.size)).collect::<Vec<_>>(), [(hash, 11)]);
    let line = |field: &str| document.place_of(field).line;
    assert_eq!((line("packages[\"rules\"].file.headers[\"A\"]"), line("packages[\"otelcol\"]")), (8, 5));
}

#[test]
fn mistakes_in_packages_are_named() {
    let hash = ContentHash([0xab; 32]).to_string();
    for (package, expected) in [
        ("type: addon, version: '1'", "path, or url and sha256, or the sha256 of an uploaded file is needed"),
        ("type: addon, version: '1', url: 'https://x/'", "sha256: is needed with url"),
        ("type: addon, version: '1', url: 'https://x/', path: a", "path and url exclude each other"),
        ("type: addon, version: '1', url: 'https://x/', sha256: abcd", "sha256: must be 64 hexadecimal digits"),
        ("type: addon, version: '1', path: none.tgz", "./none.tgz: No such file"),
        ("type: addon, version: '1', path: /dev/zero", "/dev/zero: is not a file that can be read twice"),
        ("type: addon, version: '1', path: Cargo.toml, sha256: HASH", "./Cargo.toml has the SHA-256 "),
        ("type: addon, version: '1', sha256: HASH, signature: '?'", "signature: not in base64"),
        ("type: addon, version: '1', sha256: HASH, signature: '', signature_file: a", "signature and signature_file"),
    ] {
        let package = package.replace("HASH", &hash);
        let problems = refused(&format!("kind: Packages\nname: a\nselector: b\npackages:\n  x: {{{package}}}\n"));
        let expected = format!("m.yaml: document 1, line 5: packages: \"x\": {expected}");
        assert!(problems[0].starts_with(&expected), "{problems:?}\nexpected {expected}");
    }
    let problems = refused("kind: Packages\nname: a\nselector: b\npackages:\n  x: {type: plugin, version: '1'}\n");
    assert!(problems[0].starts_with("m.yaml: document 1, line 5, column 13: unknown variant `plugin`"), "{problems:?}");
}
