//! Files that are written for each agent: a template with the agent's attributes and labels filled in.
//!
//! The language is that of Jinja, without whatever reaches beyond the template: no includes, no functions, no I/O. What a
//! template may know is [`NAMES`]; unknown names are errors, and so is what an agent does not have.

mod names;
mod subject;

use std::sync::Arc;

use minijinja::{AutoEscape, Environment, UndefinedBehavior, syntax::SyntaxConfig};

pub use subject::{NAMES, Subject};

use super::syntax::Problem;

/// Largest template, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Largest file that comes of one, in bytes, as large as a file of a policy may be.
pub const MAX_RENDERED_BYTES: usize = 4 * 1024 * 1024;
/// Steps that filling in may take: each costs one, and so do 64 bytes. Enough for the largest file.
const FUEL: u64 = 200_000;
/// Templates have no names of their own: files have.
const NAME: &str = "template";

/// A template that has been found to be one.
#[derive(Clone, Debug)]
pub struct Template(Arc<Environment<'static>>);

impl Template {
    /// Reads a template. Every name, filter and test in it is known afterwards, also where it is not always reached.
    pub fn parse(source: &[u8]) -> Result<Self, Problem> {
        if source.len() > MAX_BYTES {
            let words = format!("a template has at most {MAX_BYTES} bytes, not {}", source.len());
            return Err(Problem::new(0, 0, &words));
        }
        let source =
            std::str::from_utf8(source).map_err(|_| Problem::new(0, 0, "a template is UTF-8, and this is not"))?;
        let environment = environment();
        names::check(source, &environment)?;
        let mut environment = environment;
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| problem(source, &error))?;
        Ok(Self(Arc::new(environment)))
    }

    /// The file for one agent. The same for the same agent, always.
    pub fn render(&self, subject: &Subject) -> Result<String, Problem> {
        let template = self.0.get_template(NAME).map_err(|error| problem("", &error))?;
        let rendered = template.render(subject.value()).map_err(|error| problem(template.source(), &error))?;
        if rendered.len() > MAX_RENDERED_BYTES {
            let words = format!("it comes to {} bytes; at most {MAX_RENDERED_BYTES} are possible", rendered.len());
            return Err(Problem::new(0, 0, &words));
        }
        Ok(rendered)
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let globals: Vec<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
    globals.iter().for_each(|name| environment.remove_global(name));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(syntax());
    environment
}

/// Lines with nothing but a `{% … %}` on them leave no line behind: in YAML, blank space counts.
fn syntax() -> SyntaxConfig {
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    syntax.build().unwrap_or_default()
}

fn problem(source: &str, error: &minijinja::Error) -> Problem {
    let range = error.range().filter(|_| error.line().is_some() && !source.is_empty());
    let expression = range.clone().and_then(|range| source.get(range)).filter(|text| !text.is_empty());
    let words = match (error.detail(), expression) {
        (Some(detail), _) => format!("{}: {detail}", error.kind()),
        (None, Some(expression)) => format!("{}: {expression}", error.kind()),
        (None, None) => error.kind().to_string(),
    };
    match range {
        Some(range) => Problem::at(source, range.start, &words),
        None => Problem::new(error.line().unwrap_or(0) as u64, 0, &words),
    }
}

#[cfg(test)]
mod tests;
