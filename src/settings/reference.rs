//! `docs/settings.md`, made from the declarations.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command};

use super::layers::{command, env_name, settings_of};

const INTRODUCTION: &str = "# Settings

<!-- Made by `muster settings-reference`; a test fails when it is out of date. -->

Every setting can be given as a flag, as an environment variable, or in a settings file, which `--config` or
`MUSTER_CONFIG_FILE` names. A flag wins over a variable, a variable over the file, the file over the default. A value that
cannot work, and a key in the file that is not a setting, stop the program at its start.

The key in the file is the variable's name without `MUSTER_`, in lower case. Keys at the top level may belong to any
command; a table named after a command holds settings of that command alone, which win:

```toml
redis_url = \"redis://redis:6379\"

[gateway]
admission_per_second = 500
```

A setting that can be given several times takes several flags, a comma-separated variable, or an array. Durations are
written like `30s`, `250ms` or `1m 30s`; addresses like `127.0.0.1:4320`. A `SECRET` is never printed; give it in a variable
or a file rather than as a flag, which other users of the machine can see.
";

/// The page.
pub fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    let root = command();
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        if settings_of(command).next().is_some() {
            section(&mut page, command);
        }
    }
    page
}

fn section(page: &mut String, command: &Command) {
    // Writing to a String cannot fail.
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(page, "\n## muster {}\n\n{}.", command.get_name(), about.trim_end_matches('.'));
    let mut headings: Vec<&str> = Vec::new();
    for heading in settings_of(command).filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        let _ = writeln!(page, "\n### {heading}\n\n| flag | variable | type | default | |\n|---|---|---|---|---|");
        for setting in settings_of(command).filter(|setting| setting.get_help_heading() == Some(heading)) {
            row(page, setting);
        }
    }
}

fn row(page: &mut String, setting: &Arg) {
    let text = |text: String| text.replace('|', "\\|");
    let values: Vec<String> =
        setting.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let value_name = setting.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default();
    let kind = if values.is_empty() { value_name } else { values.join(", ") };
    let several = if matches!(setting.get_action(), ArgAction::Append) { ", several" } else { "" };
    let defaults: Vec<String> =
        setting.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let variable = env_name(setting.get_id().as_str());
    let help = setting.get_long_help().or(setting.get_help()).map(ToString::to_string).unwrap_or_default();
    let help = help.replace(&format!(" [env: {variable}]"), "").split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(
        page,
        "| `--{}` | `{variable}` | {}{several} | {} | {} |",
        setting.get_long().unwrap_or_default(),
        text(kind),
        text(defaults.join(", ")),
        text(help)
    );
}
