//! The command line of a validator.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Stand for the path of each file, of each file that is YAML or JSON, and of the folder with all of them.
const FILE: &str = "{file}";
const YAML: &str = "{yaml}";
const FOLDER: &str = "{dir}";

/// Where programs are looked for if the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Words, at least one, with a place for files in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command(Vec<String>);

/// A file as it was written for a validator.
pub struct Written {
    pub path: PathBuf,
    /// By its content type or, where it has none, its name.
    pub is_yaml: bool,
}

impl Command {
    /// Words as a shell reads them, with quotes and backslashes, and nothing else that shells know.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = shlex::split(text).ok_or("a quote is not closed")?;
        if words.first().is_none_or(|program| program.is_empty()) {
            return Err("a program is needed".to_owned());
        }
        if !words[1..].iter().any(|word| [FILE, YAML, FOLDER].iter().any(|place| word.contains(place))) {
            return Err(format!("one of {FILE}, {YAML} and {FOLDER} is needed, which stand for what is looked at"));
        }
        Ok(Self(words))
    }

    pub fn program(&self) -> &str {
        &self.0[0]
    }

    /// The program's path, if it is there.
    pub fn find_program(&self) -> Option<PathBuf> {
        let program = Path::new(self.program());
        if self.program().contains('/') {
            return is_program(program).then(|| program.to_owned());
        }
        std::env::split_paths(&path()).map(|folder| folder.join(program)).find(|path| is_program(path))
    }

    /// What follows the program. A word with a place for files is there once for each file. `None` if the command looks at
    /// nothing: only at YAML, and there is none.
    pub fn arguments(&self, folder: &Path, files: &[Written]) -> Option<Vec<String>> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut arguments = Vec::new();
        let mut looks_at = 0;
        for word in &self.0[1..] {
            let word = word.replace(FOLDER, &text(folder));
            looks_at += usize::from(word.contains(&text(folder)));
            let (place, is_yaml_only) = if word.contains(YAML) { (YAML, true) } else { (FILE, false) };
            if !word.contains(place) {
                arguments.push(word);
                continue;
            }
            for file in files.iter().filter(|file| file.is_yaml || !is_yaml_only) {
                arguments.push(word.replace(place, &text(&file.path)));
                looks_at += 1;
            }
        }
        (looks_at > 0).then_some(arguments)
    }
}

/// Where programs are looked for.
pub fn path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &str, files: &[(&str, bool)]) -> Option<Vec<String>> {
        let written = |&(path, is_yaml): &(&str, bool)| Written { path: path.into(), is_yaml };
        let files: Vec<Written> = files.iter().map(written).collect();
        Command::parse(command).unwrap().arguments(Path::new("/f"), &files)
    }

    #[test]
    fn words_with_a_place_are_there_for_each_file() {
        let files = [("/f/a.yaml", true), ("/f/b.pem", false), ("/f/c", true)];
        assert_eq!(
            arguments("otelcol validate --config={yaml}", &files).unwrap(),
            ["validate", "--config=/f/a.yaml", "--config=/f/c"]
        );
        assert_eq!(arguments("lint -q {file}", &files).unwrap(), ["-q", "/f/a.yaml", "/f/b.pem", "/f/c"]);
        assert_eq!(arguments("lint 'a b' \"{dir}/x\"", &files).unwrap(), ["a b", "/f/x"]);
        assert_eq!(arguments("lint {yaml}", &files[1..2]), None, "nothing that it looks at");
        assert_eq!(arguments("lint $HOME;{file}", &files[..1]).unwrap(), ["$HOME;/f/a.yaml"], "there is no shell");
    }

    #[test]
    fn commands_that_cannot_work_are_refused() {
        for bad in ["", "  ", "'' {file}", "lint 'open {file}", "lint", "{file}"] {
            assert!(Command::parse(bad).is_err(), "{bad}");
        }
        assert!(Command::parse("sh {file}").unwrap().find_program().is_some());
        assert!(Command::parse("/bin/sh {file}").unwrap().find_program().is_some());
        assert!(Command::parse("no-such-program {file}").unwrap().find_program().is_none());
        assert!(Command::parse("/etc/passwd {file}").unwrap().find_program().is_none());
    }
}
