//! Manifests: policies as YAML. Errors name the file, the document and the line.

mod packages;
pub mod rollout;
pub mod set;
mod settings;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::local_file::LocalFile;
use crate::{
    model::syntax,
    proto::admin::{ApplyPolicyRequest, PolicyFile, PolicyKind},
};
use packages::Packages;
use rollout::Rollout;
use settings::{Connections, OpAmp, Other, Telemetry};

/// Largest file body, which is also the server's limit.
const MAX_BODY_BYTES: u64 = 4 * 1024 * 1024;
/// Largest manifest; bodies may be inline.
const MAX_MANIFEST_BYTES: u64 = 32 * 1024 * 1024;

/// One document of a manifest.
#[derive(Debug)]
pub struct Document {
    pub place: Place,
    /// Lines of the fields that the server may refuse, by the name that it gives them.
    lines: BTreeMap<String, u64>,
    pub request: ApplyPolicyRequest,
    /// Files to upload before it is applied.
    pub uploads: Vec<LocalFile>,
    /// Files whose text is in the request.
    bodies: Vec<PathBuf>,
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A path, or `stdin`.
    pub file: String,
    /// From 1; 0 for the file as a whole.
    pub document: usize,
    /// From 1; 0 if it is not known.
    pub line: u64,
    /// From 1; 0 if it is not known.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.document > 0 {
            write!(f, ": document {}", self.document)?;
        }
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        if self.column > 0 {
            write!(f, ", column {}", self.column)?;
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Invalid {
    pub place: Place,
    pub problem: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl Document {
    /// Files that it names as bodies, or to upload.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.bodies.iter().map(PathBuf::as_path).chain(self.uploads.iter().map(LocalFile::path))
    }

    /// Where a field is that the server refuses: its own line, that of what it is in, or the document's.
    pub fn place_of(&self, field: &str) -> Place {
        let mut enclosing = Some(field);
        let line = std::iter::from_fn(|| {
            let field = enclosing?;
            enclosing = field.rfind('.').map(|at| &field[..at]);
            Some(self.lines.get(field))
        });
        let line = line.flatten().next();
        Place { line: line.copied().unwrap_or(self.place.line), ..self.place.clone() }
    }
}

/// All fields of all kinds, so that one at the wrong kind is told from one that is misspelt.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    kind: Spanned<String>,
    name: Spanned<String>,
    /// Has no default: a policy for every agent says `selector: ""`.
    selector: Spanned<String>,
    /// Only if the policy has this etag.
    #[serde(default)]
    etag: Option<Spanned<String>>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    files: Option<Spanned<BTreeMap<String, Spanned<File>>>>,
    #[serde(default)]
    packages: Option<Spanned<Packages>>,
    #[serde(default)]
    opamp: Option<Spanned<OpAmp>>,
    #[serde(default)]
    own_metrics: Option<Spanned<Telemetry>>,
    #[serde(default)]
    own_traces: Option<Spanned<Telemetry>>,
    #[serde(default)]
    own_logs: Option<Spanned<Telemetry>>,
    #[serde(default)]
    other: Option<Spanned<BTreeMap<String, Spanned<Other>>>>,
    #[serde(default)]
    allow_empty: bool,
    #[serde(default)]
    rollout: Option<Rollout>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    content_type: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    path: Option<PathBuf>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    template: bool,
}

/// Reads a manifest file, or stdin for `-`, with the files that it names.
pub fn load(argument: &str) -> Result<Vec<Document>, Vec<Invalid>> {
    let (file, folder) = match argument {
        "-" => ("stdin".to_owned(), PathBuf::new()),
        path => (path.to_owned(), Path::new(path).parent().map(Path::to_path_buf).unwrap_or_default()),
    };
    let text = match argument {
        "-" => read(std::io::stdin().lock(), MAX_MANIFEST_BYTES),
        path => fs::File::open(path).map_err(|error| error.to_string()).and_then(|file| read(file, MAX_MANIFEST_BYTES)),
    };
    let place = Place { file: file.clone(), document: 0, line: 0, column: 0 };
    match text {
        Ok(text) => parse(&file, &folder, &text),
        Err(problem) => Err(vec![Invalid { place, problem }]),
    }
}

fn read(reader: impl Read, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!("larger than {limit} bytes"));
    }
    Ok(bytes)
}

/// All documents, or everything that is wrong with them. Paths in them are relative to `folder`.
pub fn parse(file: &str, folder: &Path, text: &[u8]) -> Result<Vec<Document>, Vec<Invalid>> {
    let mut documents = Vec::new();
    let mut invalid = Vec::new();
    let mut reader = text;
    for (index, result) in serde_saphyr::read::<_, Spanned<Manifest>>(&mut reader).enumerate() {
        let place = Place { file: file.to_owned(), document: index + 1, line: 0, column: 0 };
        match result {
            Ok(manifest) => match document(place, folder, manifest) {
                Ok(document) => documents.push(document),
                Err(problems) => invalid.extend(problems),
            },
            Err(error) => {
                let (line, column) = error.location().map_or((0, 0), |location| (location.line(), location.column()));
                invalid.push(Invalid { place: Place { line, column, ..place }, problem: problem_of(&error) });
            }
        }
    }
    if documents.is_empty() && invalid.is_empty() {
        let place = Place { file: file.to_owned(), document: 0, line: 0, column: 0 };
        invalid.push(Invalid { place, problem: "there is no document in this file".to_owned() });
    }
    if invalid.is_empty() { Ok(documents) } else { Err(invalid) }
}

/// The parser's words without its own way to say where. The selector `!key` is a tag to YAML, which is worth a hint.
fn problem_of(error: &serde_saphyr::Error) -> String {
    if matches!(error.without_snippet(), serde_saphyr::Error::NullIntoString { .. }) {
        return "there is no text here; one that is empty or starts with ! needs quotes".to_owned();
    }
    let text = syntax::words(error);
    let hint = if text.contains("scanning a tag") { "; a text that starts with ! needs quotes" } else { "" };
    format!("{text}{hint}")
}

fn document(place: Place, folder: &Path, manifest: Spanned<Manifest>) -> Result<Document, Vec<Invalid>> {
    let place = Place { line: manifest.referenced.line(), ..place };
    let manifest = manifest.value;
    let mut invalid = Vec::new();
    let mut refuse = |line: u64, problem: String| {
        invalid.push(Invalid { place: Place { line, ..place.clone() }, problem });
    };
    let mut lines = BTreeMap::new();
    for (name, line) in [
        ("kind", manifest.kind.referenced.line()),
        ("name", manifest.name.referenced.line()),
        ("selector", manifest.selector.referenced.line()),
    ] {
        lines.insert(name.to_owned(), line);
    }
    lines.extend(manifest.etag.as_ref().map(|etag| ("etag".to_owned(), etag.referenced.line())));
    let kind = match manifest.kind.value.as_str() {
        "Config" => PolicyKind::Config,
        "Packages" => PolicyKind::Packages,
        "ConnectionSettings" => PolicyKind::ConnectionSettings,
        other => {
            refuse(
                lines["kind"],
                format!("kind: {other:?} is not a kind of policy; Config, Packages and ConnectionSettings are"),
            );
            PolicyKind::Unspecified
        }
    };
    for (field, line, of) in manifest.fields_of_kinds() {
        if kind != of && kind != PolicyKind::Unspecified {
            refuse(line, format!("{field}: is not a field of kind {}", manifest.kind.value));
        }
    }
    let (mut files, mut bodies) = (Vec::new(), Vec::new());
    for (name, file) in manifest.files.map(|files| files.value).unwrap_or_default() {
        let line = file.referenced.line();
        lines.insert(format!("files[{name:?}]"), line);
        bodies.extend(file.value.path.as_ref().map(|path| folder.join(path)));
        match body(folder, &file.value) {
            Ok(body) => files.push(PolicyFile {
                name,
                content_type: file.value.content_type,
                role: file.value.role,
                template: file.value.template,
                body: body.into(),
                ..Default::default()
            }),
            Err(problem) => refuse(line, format!("files: {name:?}: {problem}")),
        }
    }
    let connections = Connections {
        opamp: manifest.opamp,
        own_metrics: manifest.own_metrics,
        own_traces: manifest.own_traces,
        own_logs: manifest.own_logs,
        other: manifest.other.map(|other| other.value).unwrap_or_default(),
    };
    let mut note = |field, line| {
        lines.insert(field, line);
    };
    let offered = manifest.packages.map(|packages| packages.value).unwrap_or_default();
    let offered = packages::read(offered, folder, &mut refuse, &mut note);
    let connection_settings = connections.into_offers(folder, &mut refuse, &mut note);
    let max_per_second = manifest.rollout.as_ref().map_or(0, |rollout| rollout.max_per_second(&mut note));
    let rollout = manifest.rollout.and_then(|rollout| rollout.into_plan(&mut refuse, &mut note));
    if !invalid.is_empty() {
        return Err(invalid);
    }
    let request = ApplyPolicyRequest {
        name: manifest.name.value,
        kind: kind.into(),
        selector: manifest.selector.value,
        priority: manifest.priority,
        files,
        packages: offered.packages,
        connection_settings: (kind == PolicyKind::ConnectionSettings).then_some(connection_settings),
        allow_empty: manifest.allow_empty,
        max_per_second,
        rollout,
        etag: manifest.etag.map(|etag| etag.value),
        ..Default::default()
    };
    Ok(Document { place, lines, request, uploads: offered.uploads, bodies })
}

impl Manifest {
    /// The fields that are given and belong to one kind.
    fn fields_of_kinds(&self) -> Vec<(&'static str, u64, PolicyKind)> {
        fn line<T>(given: &Option<Spanned<T>>) -> Option<u64> {
            given.as_ref().map(|given| given.referenced.line())
        }
        let fields = [
            ("files", line(&self.files), PolicyKind::Config),
            ("packages", line(&self.packages), PolicyKind::Packages),
            ("opamp", line(&self.opamp), PolicyKind::ConnectionSettings),
            ("own_metrics", line(&self.own_metrics), PolicyKind::ConnectionSettings),
            ("own_traces", line(&self.own_traces), PolicyKind::ConnectionSettings),
            ("own_logs", line(&self.own_logs), PolicyKind::ConnectionSettings),
            ("other", line(&self.other), PolicyKind::ConnectionSettings),
        ];
        fields.into_iter().filter_map(|(field, line, kind)| Some((field, line?, kind))).collect()
    }
}

fn body(folder: &Path, file: &File) -> Result<Vec<u8>, String> {
    match (&file.path, &file.body) {
        (Some(_), Some(_)) => Err("path and body exclude each other".to_owned()),
        (None, None) => Err("path or body is needed".to_owned()),
        (None, Some(body)) => Ok(body.clone().into_bytes()),
        (Some(path), None) => read_file(&folder.join(path), MAX_BODY_BYTES),
    }
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string());
    let body = file.and_then(|file| read(file, limit));
    body.map_err(|problem| format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests;
