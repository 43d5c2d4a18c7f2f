//! The manifests of files and folders, as one set.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{Document, Invalid, load as load_file};

/// What manifests in a folder are called.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// What one manifest file came to.
struct Loaded {
    argument: String,
    /// It was named by its folder alone, and may be another manifest's body.
    is_of_folder: bool,
    result: Result<Vec<Document>, Vec<Invalid>>,
}

/// Reads the manifests that `arguments` name: files, `-` for stdin, and folders, with `recursive` those in them too. Returns
/// everything that is wrong.
///
/// Of a folder, files that one of the manifests names as a body are no manifests, and nothing is whose name begins with a dot.
pub fn load(arguments: &[String], recursive: bool) -> Result<Vec<Document>, Vec<String>> {
    let mut problems = Vec::new();
    let mut all = Vec::new();
    for argument in arguments {
        match files(argument, recursive) {
            Ok(files) => all.extend(files.into_iter().map(|(argument, is_of_folder)| Loaded {
                result: load_file(&argument),
                argument,
                is_of_folder,
            })),
            Err(problem) => problems.push(format!("{argument}: {problem}")),
        }
    }
    let bodies: BTreeSet<PathBuf> =
        all.iter().flat_map(|one| one.result.iter().flatten()).flat_map(Document::files).filter_map(real).collect();
    all.retain(|one| !one.is_of_folder || real(Path::new(&one.argument)).is_none_or(|path| !bodies.contains(&path)));
    let mut documents: Vec<Document> = Vec::new();
    for one in all {
        match one.result {
            Ok(loaded) => documents.extend(loaded),
            Err(invalid) => problems.extend(invalid.iter().map(ToString::to_string)),
        }
    }
    problems.extend(repeated(&documents));
    if problems.is_empty() { Ok(documents) } else { Err(problems) }
}

/// Names that are given twice, with both places.
fn repeated(documents: &[Document]) -> Vec<String> {
    let mut first = BTreeMap::new();
    let mut problems = Vec::new();
    for document in documents {
        let (name, place) = (document.request.name.as_str(), document.place_of("name"));
        match first.get(name) {
            Some(there) => problems.push(format!("{place}: name: policy {name:?} is there already, in {there}")),
            None => {
                first.insert(name, place);
            }
        }
    }
    problems
}

/// The manifest files that an argument stands for, in the order of their names, and whether it is a folder.
fn files(argument: &str, recursive: bool) -> Result<Vec<(String, bool)>, String> {
    let path = Path::new(argument);
    if argument == "-" || !path.is_dir() {
        return Ok(vec![(argument.to_owned(), false)]);
    }
    let mut found = Vec::new();
    walk(path, recursive, &mut found).map_err(|error| error.to_string())?;
    if found.is_empty() {
        let deeper = if recursive { "" } else { "; -R looks into folders within it" };
        return Err(format!("no manifest (*.yaml, *.yml, *.json) is in this folder{deeper}"));
    }
    found.sort();
    let names = found.into_iter().map(|path| match path.to_str() {
        Some(name) => Ok((name.to_owned(), true)),
        None => Err(format!("{}: the name is not in UTF-8", path.display())),
    });
    names.collect()
}

fn walk(folder: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if recursive {
                walk(&path, recursive, found)?;
            }
            continue;
        }
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        // Also where a link leads: mounted ConfigMaps are made of them.
        if EXTENSIONS.contains(&extension) && fs::metadata(&path)?.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

fn real(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, path: &str) -> String {
        format!("kind: Config\nname: {name}\nselector: a\nfiles: {{x: {{path: {path}}}}}\n")
    }

    fn names(arguments: &[&Path], recursive: bool) -> Result<Vec<String>, Vec<String>> {
        let arguments: Vec<String> = arguments.iter().map(|path| path.to_str().unwrap().to_owned()).collect();
        let documents = load(&arguments, recursive)?;
        Ok(documents.into_iter().map(|document| document.request.name).collect())
    }

    #[test]
    fn folders_are_read_in_order_without_bodies_and_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("b.yaml", &manifest("b", "collector.yaml"));
        write("a.yml", &manifest("a", "sub/../collector.yaml"));
        write("collector.yaml", "receivers: {}\n");
        write("c.json", r#"{"kind": "Config", "name": "c", "selector": "a", "files": {"x": {"body": ""}}}"#);
        write("notes.txt", "no manifest");
        write(".hidden.yaml", "no manifest");
        write(".git/x.yaml", "no manifest");
        write("sub/d.yaml", &manifest("d", "../collector.yaml"));
        assert_eq!(names(&[folder.path()], false).unwrap(), ["a", "b", "c"]);
        assert_eq!(names(&[folder.path()], true).unwrap(), ["a", "b", "c", "d"]);
        // Whoever names a file means it.
        let problems = names(&[&folder.path().join("collector.yaml"), folder.path()], false).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains("unknown field `receivers`"), "{problems:?}");
        write("sub/a.yaml", &manifest("a", "../collector.yaml"));
        let problems = names(&[folder.path()], true).unwrap_err();
        let (twice, first) = (folder.path().join("sub/a.yaml"), folder.path().join("a.yml"));
        let expected = format!(
            "{}: document 1, line 2: name: policy \"a\" is there already, in {}: document 1, line 2",
            twice.display(),
            first.display()
        );
        assert_eq!(problems, [expected]);
    }

    #[test]
    fn a_folder_without_manifests_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deeper")).unwrap();
        fs::write(folder.path().join("deeper/a.yaml"), manifest("a", "a.yaml")).unwrap();
        let problems = names(&[folder.path()], false).unwrap_err();
        assert!(problems[0].ends_with("is in this folder; -R looks into folders within it"), "{problems:?}");
    }
}
