//! Contexts in the configuration file.

use serde::Serialize;

use crate::cli::{
    args::Global,
    connection::parse_server,
    contexts::{self, Context},
    error::Result,
    output::{self, Format, View},
    view::or_dash,
};

/// A context without its token.
#[derive(Serialize)]
struct Listed {
    name: String,
    current: bool,
    server: String,
    /// `none`, `inline` or the path of the token's file.
    token: String,
}

/// Makes a context, or changes what the flags give.
pub fn set(name: &str, global: &Global) -> Result<()> {
    if name.trim().is_empty() {
        return Err("a context needs a name".to_owned().into());
    }
    let path = contexts::path()?;
    let mut file = contexts::load(&path)?;
    let is_new = !file.contexts.contains_key(name);
    let context = file.contexts.entry(name.to_owned()).or_default();
    if let Some(server) = &global.server {
        context.server = parse_server(server)?.to_string();
    }
    if context.server.is_empty() {
        return Err("--server is needed for a new context".to_owned().into());
    }
    change_token(context, global)?;
    contexts::save(&path, &file)?;
    output::write(&format!("context/{name} {}\n", if is_new { "created" } else { "modified" }))
}

fn change_token(context: &mut Context, global: &Global) -> Result<()> {
    if let Some(token) = &global.token {
        (context.token, context.token_file) = (Some(token.clone()), None);
    }
    if let Some(file) = &global.token_file {
        // The context is to work from any folder.
        let file = std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?;
        (context.token, context.token_file) = (None, Some(file));
    }
    Ok(())
}

pub fn choose(name: &str) -> Result<()> {
    let path = contexts::path()?;
    let mut file = contexts::load(&path)?;
    if !file.contexts.contains_key(name) {
        return Err(format!("{}: there is no context {name:?}", path.display()).into());
    }
    file.current_context = Some(name.to_owned());
    contexts::save(&path, &file)?;
    output::write(&format!("context/{name} is now the current one\n"))
}

pub fn list(format: Format) -> Result<()> {
    let file = contexts::load(&contexts::path()?)?;
    let current = file.current_context;
    let listed = |(name, context): (String, Context)| Listed {
        current: current.as_ref() == Some(&name),
        name,
        server: context.server,
        token: match (context.token, context.token_file) {
            (Some(_), _) => "inline".to_owned(),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => "none".to_owned(),
        },
    };
    output::list(format, &file.contexts.into_iter().map(listed).collect::<Vec<_>>())
}

impl View for Listed {
    const COLUMNS: &'static [&'static str] = &["CURRENT", "NAME", "SERVER"];
    const WIDE_COLUMNS: &'static [&'static str] = &["TOKEN"];

    fn cells(&self) -> Vec<String> {
        vec![if self.current { "*" } else { "" }.to_owned(), self.name.clone(), or_dash(&self.server)]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.token.clone()]
    }

    fn name(&self) -> String {
        format!("context/{}", self.name)
    }
}
