//! Who may know whom. The rules are those of `ARCHITECTURE.md`; this holds them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each module, and the other modules of the crate that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("model", &["proto"]),
    ("protocol", &["model", "proto"]),
    ("packages", &["model", "proto"]),
    ("pki", &["model"]),
    ("trace", &[]),
    ("tls", &[]),
    ("bus", &["model", "tls", "trace"]),
    ("store", &["model", "proto", "tls", "trace"]),
    ("auth", &["store"]),
    ("gateway", &["auth", "bus", "model", "packages", "pki", "proto", "protocol", "trace"]),
    ("config_service", &["bus", "model", "packages", "pki", "proto", "protocol", "store", "trace"]),
    ("admin", &["auth", "bus", "model", "packages", "pki", "proto", "store", "trace"]),
    ("load", &["proto"]),
    ("admin_client", &["proto"]),
    // Neither proto nor protocol nor gateway: it judges them.
    ("conformance", &["admin_client"]),
    ("cli", &["model", "proto"]),
    ("telemetry", &["trace"]),
    (
        "settings",
        &[
            "admin",
            "bus",
            "config_service",
            "conformance",
            "gateway",
            "load",
            "model",
            "packages",
            "store",
            "telemetry",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "auth",
            "bus",
            "config_service",
            "conformance",
            "gateway",
            "load",
            "model",
            "packages",
            "pki",
            "settings",
            "store",
            "telemetry",
        ],
    ),
];

/// External crates that only some modules may name, and why.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("sqlx", &["store"], "SQL lives in the store alone"),
    ("redis", &["bus"], "Redis lives in the bus alone"),
    ("object_store", &["packages"], "folders and buckets of files live in packages alone"),
    ("hyper", &["gateway", "load", "app"], "the config service knows no web framework"),
    ("axum", &["gateway", "app", "admin"], "the config service knows no web framework"),
    ("tonic", &["admin", "admin_client", "cli", "proto"], "gRPC is the admin API's"),
    (
        "rcgen",
        &["pki", "conformance"],
        "certificates are made in one place; what conformance makes are requests for them",
    ),
    ("opentelemetry", &["trace", "telemetry"], "spans are made in one way"),
    ("opentelemetry_sdk", &["telemetry"], "where spans go is known in one place"),
    ("opentelemetry_otlp", &["telemetry"], "where spans go is known in one place"),
    ("reqwest", &["telemetry"], "only telemetry asks others by HTTP"),
    (
        "rustls",
        &["gateway", "conformance", "telemetry", "bus", "tls"],
        "TLS is the listener's, and that of the connections which conformance, telemetry and the bus open",
    ),
    (
        "tokio",
        &[
            "gateway",
            "config_service",
            "admin",
            "bus",
            "store",
            "packages",
            "load",
            "admin_client",
            "conformance",
            "cli",
            "app",
            "telemetry",
        ],
        "model and protocol do no I/O",
    ),
];

/// What must not appear in modules that do no I/O and take time as a parameter.
const IMPURE: &[&str] = &["SystemTime::now", "Instant::now", "Timestamp::now", "std::fs", "std::net", "rand::"];

#[test]
fn modules_know_only_whom_they_may() {
    let mut broken = Vec::new();
    for (module, code) in sources() {
        let allowed = MAY_USE.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = allowed else {
            broken.push(format!("module {module} has no rule"));
            continue;
        };
        for used in used_modules(&code.text) {
            if used != module && !allowed.contains(&used.as_str()) {
                broken.push(format!("{}: {module} must not know {used}", code.path.display()));
            }
        }
        for (krate, modules, why) in ONLY_IN {
            if !modules.contains(&module.as_str()) && names_crate(&code.text, krate) {
                broken.push(format!("{}: {module} must not name {krate}: {why}", code.path.display()));
            }
        }
        if ["model", "protocol"].contains(&module.as_str()) {
            for impure in IMPURE.iter().filter(|impure| code.text.contains(**impure)) {
                broken.push(format!("{}: {module} must not use {impure}", code.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// The conformance runner judges the server: it shares nothing with it that could be wrong in the same way.
/// A file is read as a whole.
const MAX_LINES: usize = 600;

#[test]
fn no_file_is_too_long_to_be_read() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    }
    assert!(files.len() > 500, "{} files", files.len());
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().count();
    let long: Vec<_> = files.into_iter().filter(|path| lines(path) > MAX_LINES).collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines: {long:?}");
}

#[test]
fn the_conformance_runner_has_a_protocol_stack_of_its_own() {
    let shared = ["crate::protocol", "crate::gateway", "crate::proto", "prost", "hyper", "tungstenite", "tonic"];
    let mut seen = 0;
    for (module, code) in sources() {
        if module != "conformance" {
            continue;
        }
        seen += 1;
        for name in shared {
            let named = code.text.match_indices(name).any(|(at, _)| {
                let before = code.text[..at].chars().next_back();
                before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':'))
            });
            assert!(!named, "{}: names {name}", code.path.display());
        }
    }
    assert!(seen > 10, "the runner is not where this test looks for it");
}

struct Code {
    path: PathBuf,
    /// Without comments and without the tests at the end of the file.
    text: String,
}

/// Every source file with the name of its top-level module.
fn sources() -> Vec<(String, Code)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 30, "the sources are not where this test looks for them");
    let of = |path: PathBuf| {
        let relative = path.strip_prefix(&root).expect("a file below src").to_path_buf();
        let first = relative.components().next().expect("a file name").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).expect("a readable source file");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        (module, Code { path: relative, text: lines.collect::<Vec<_>>().join("\n") })
    };
    files.into_iter().map(of).filter(|(module, _)| !["lib", "bin"].contains(&module.as_str())).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Modules named by `crate::x` or inside `crate::{x::…, y::…}`.
fn used_modules(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => used.extend([identifier(std::mem::take(&mut item).trim())]),
                _ => {}
            }
            if depth == 0 && c != ',' {
                item.push(c);
            }
        }
        used.insert(identifier(item.trim()));
    }
    used.remove("");
    used
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn names_crate(text: &str, krate: &str) -> bool {
    text.match_indices(&format!("{krate}::")).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':'))
    })
}
