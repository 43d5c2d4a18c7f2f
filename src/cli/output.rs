//! How answers look.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns
    Table,
    /// More columns
    Wide,
    Json,
    Yaml,
    /// KIND/NAME, one a line
    Name,
}

/// Something that can be shown in every format.
pub trait View: Serialize {
    const COLUMNS: &'static [&'static str];
    /// Further columns of [`Format::Wide`].
    const WIDE_COLUMNS: &'static [&'static str];

    fn cells(&self) -> Vec<String>;
    fn wide_cells(&self) -> Vec<String>;
    /// `kind/name`.
    fn name(&self) -> String;
}

/// Shows a list: an array in JSON and YAML.
pub fn list<V: View>(format: Format, items: &[V]) -> Result<()> {
    match format {
        Format::Json | Format::Yaml => structured(format, &items),
        Format::Name => write(&items.iter().map(|item| item.name() + "\n").collect::<String>()),
        Format::Table | Format::Wide if items.is_empty() => {
            eprintln!("nothing found");
            Ok(())
        }
        Format::Table | Format::Wide => {
            let mut rows = vec![header::<V>(format)];
            rows.extend(items.iter().map(|item| row(format, item)));
            write(&Table::default().lines(rows))
        }
    }
}

/// Shows one thing: an object in JSON and YAML.
pub fn one<V: View>(format: Format, item: &V) -> Result<()> {
    match format {
        Format::Json | Format::Yaml => structured(format, item),
        _ => list(format, std::slice::from_ref(item)),
    }
}

/// As JSON or YAML.
pub fn structured<T: Serialize>(format: Format, value: &T) -> Result<()> {
    let text = match format {
        Format::Yaml => serde_saphyr::to_string(value).map_err(|error| error.to_string())?,
        _ => serde_json::to_string_pretty(value).map_err(|error| error.to_string())? + "\n",
    };
    write(&text)
}

pub fn header<V: View>(format: Format) -> Vec<String> {
    let wide = if format == Format::Wide { V::WIDE_COLUMNS } else { &[] };
    V::COLUMNS.iter().chain(wide).map(|column| (*column).to_owned()).collect()
}

pub fn row<V: View>(format: Format, item: &V) -> Vec<String> {
    let wide = if format == Format::Wide { item.wide_cells() } else { Vec::new() };
    item.cells().into_iter().chain(wide).collect()
}

/// Columns that only ever grow, so that rows can follow each other as they come.
#[derive(Default)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    pub fn lines(&mut self, rows: Vec<Vec<String>>) -> String {
        let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
        for row in &rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[String]) -> String {
        let cells = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    }
}

/// What agents say of themselves must not steer the terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// As [`plain`], of several lines.
pub fn plain_lines(text: &str) -> String {
    text.lines().map(|line| plain(line) + "\n").collect()
}

pub fn write(text: &str) -> Result<()> {
    write_bytes(text.as_bytes())
}

pub fn write_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Error::Stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_steers_the_terminal() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let mut table = Table::default();
        assert_eq!(table.lines(vec![row("A", "B"), row("ünï", "\u{1b}[31mx")]), "A     B\nünï   \u{fffd}[31mx\n");
        assert_eq!(table.lines(vec![row("x", "")]), "x\n");
    }
}
