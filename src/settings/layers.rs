//! Flags over environment over file over defaults.
//!
//! What the environment and the file add is put behind the command line as further flags, so that clap alone reads and
//! checks values, and every layer takes the same ones.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::{Cli, Error, file};

/// What the names of environment variables begin with.
const ENV_PREFIX: &str = "MUSTER_";

/// Variables that belong to `musterctl`.
const OTHER_VARIABLES: &[&str] =
    &["MUSTER_SERVER", "MUSTER_TOKEN", "MUSTER_TOKEN_FILE", "MUSTER_CONFIG", "MUSTER_CONTEXT"];

/// Settings, and what is odd about them.
pub struct Resolved {
    pub cli: Cli,
    /// Variables that look like settings and are none.
    pub unknown_variables: Vec<String>,
}

/// Reads the settings from the command line (with the program's name first), the environment, and the settings file
/// that either of them names.
pub fn resolve(arguments: Vec<OsString>, environment: &BTreeMap<String, String>) -> Result<Resolved, Error> {
    let root = command();
    let given = relaxed().try_get_matches_from(&arguments)?;
    let Some((role, given)) = given.subcommand() else {
        return Err(Error::Conflict("no command is given".to_owned()));
    };
    // clap requires a subcommand, and it is one of those that it was told of.
    let Some(role_command) = root.find_subcommand(role) else {
        return Err(Error::Conflict(format!("no command {role}")));
    };
    let file_path = file_path(given, environment);
    let file = match &file_path {
        Some(path) if settings_of(role_command).any(|setting| setting.get_id() == "config_file") => {
            file::read(path, &root, role)?
        }
        _ => file::File::default(),
    };
    let mut added = Added { file_path, ..Added::default() };
    for setting in settings_of(role_command) {
        let id = setting.get_id().as_str();
        if given.value_source(id) == Some(ValueSource::CommandLine) {
            continue;
        }
        if let Some(value) = environment.get(&env_name(id)) {
            added.take_variable(setting, value);
        } else if let Some(values) = file.values.get(id) {
            added.take_values(setting, values);
        }
    }
    let mut all = arguments;
    all.splice(2.min(all.len())..2.min(all.len()), added.arguments.iter().map(OsString::from));
    let matches = root.clone().try_get_matches_from(all).map_err(|error| added.explain(error))?;
    let cli = Cli::from_arg_matches(&matches)?;
    Ok(Resolved { cli, unknown_variables: unknown_variables(&root, environment) })
}

/// The command line with the variables' names in its help.
pub fn command() -> Command {
    let with_variable = |setting: Arg| match (setting.get_long(), setting.get_help()) {
        (Some(long), Some(help)) if !["help", "version"].contains(&long) => {
            let help = format!("{help} [env: {}]", env_name(setting.get_id().as_str()));
            setting.help(help)
        }
        _ => setting,
    };
    Cli::command().mut_subcommands(move |command| command.mut_args(with_variable))
}

/// The same without anything required: what is missing may come from elsewhere.
fn relaxed() -> Command {
    command().mut_subcommands(|command| command.mut_args(|setting| setting.required(false)))
}

/// A command's settings: its arguments with a flag.
pub fn settings_of(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_setting = |arg: &&Arg| arg.get_long().is_some_and(|long| !["help", "version"].contains(&long));
    command.get_arguments().filter(is_setting)
}

pub fn env_name(id: &str) -> String {
    format!("{ENV_PREFIX}{}", id.to_uppercase())
}

fn file_path(given: &ArgMatches, environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let flag = given.try_get_one::<PathBuf>("config_file").ok().flatten().cloned();
    flag.or_else(|| environment.get(&env_name("config_file")).map(PathBuf::from))
}

/// Flags that stand for what the environment and the file say.
#[derive(Default)]
struct Added {
    arguments: Vec<String>,
    /// Where the value of each flag comes from.
    sources: BTreeMap<String, String>,
    file_path: Option<PathBuf>,
}

impl Added {
    fn take_variable(&mut self, setting: &Arg, value: &str) {
        let is_list = matches!(setting.get_action(), ArgAction::Append);
        let values = if is_list {
            value.split(',').map(|item| item.trim().to_owned()).collect()
        } else {
            vec![value.to_owned()]
        };
        self.add(setting, &values, format!("environment variable {}", env_name(setting.get_id().as_str())));
    }

    fn take_values(&mut self, setting: &Arg, values: &[String]) {
        let file = self.file_path.clone().unwrap_or_default();
        self.add(setting, values, format!("file {}", file.display()));
    }

    fn add(&mut self, setting: &Arg, values: &[String], source: String) {
        let Some(long) = setting.get_long() else { return };
        self.arguments.extend(values.iter().map(|value| format!("--{long}={value}")));
        self.sources.insert(long.to_owned(), source);
    }

    /// Names the place that a refused value came from, where that is not the command line.
    fn explain(&self, error: clap::Error) -> Error {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(texts)) => texts.first().cloned(),
            _ => None,
        };
        let long = text(ContextKind::InvalidArg)
            .and_then(|arg| Some(arg.strip_prefix("--")?.split([' ', '=']).next()?.to_owned()));
        let Some((name, source_name)) = long.and_then(|long| self.sources.get(&long).map(|source| (long, source)))
        else {
            return error.into();
        };
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let problem = match (error.kind(), cause, text(ContextKind::InvalidValue)) {
            (ErrorKind::ArgumentConflict, ..) => "is given more than once".to_owned(),
            (_, Some(cause), Some(value)) => format!("{value:?}: {cause}"),
            (_, None, Some(value)) => match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) => format!("{value:?} is not one of {}", valid.join(", ")),
                _ => format!("{value:?} is not valid"),
            },
            (_, _, None) => error.kind().to_string(),
        };
        Error::Value { name, source_name: source_name.clone(), problem }
    }
}

/// Variables with our prefix that are no setting of any command. Kubernetes adds such variables for services named
/// like us, so they are no error; those are left out.
fn unknown_variables(root: &Command, environment: &BTreeMap<String, String>) -> Vec<String> {
    let is_setting = |name: &str| {
        root.get_subcommands().flat_map(settings_of).any(|setting| env_name(setting.get_id().as_str()) == name)
    };
    let is_service_link = |name: &str| name.contains("_SERVICE_") || name.contains("_PORT");
    let names = environment.keys().filter(|name| name.starts_with(ENV_PREFIX));
    names
        .filter(|name| !OTHER_VARIABLES.contains(&name.as_str()) && !is_service_link(name) && !is_setting(name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
