//! Text for terminals: styled, cut to a width, and drawn again in place.

use std::{
    env,
    io::{self, IsTerminal},
};

use rustix::termios::tcgetwinsize;

use super::{
    error::Result,
    output::{self, plain},
};

/// What is no terminal: nothing is cut.
const BOUNDLESS: (usize, usize) = (usize::MAX, usize::MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
    Waiting,
}

impl Style {
    /// SGR parameters.
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Waiting => "33",
        }
    }
}

/// A line without its end. Nothing in it steers the terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(Style, String)>);

impl Line {
    pub fn new(text: &str) -> Self {
        Self::default().and(Style::Plain, text)
    }

    #[must_use]
    pub fn and(mut self, style: Style, text: &str) -> Self {
        self.0.push((style, plain(text)));
        self
    }

    /// No wider than `width` columns, with an ellipsis where it was cut.
    pub fn fitted(&self, width: usize, is_coloured: bool) -> String {
        let is_cut = self.columns() > width;
        let mut room = if is_cut { width.saturating_sub(1) } else { width };
        let mut out = String::new();
        for (style, text) in &self.0 {
            let mut part = String::new();
            for c in text.chars() {
                if columns(c) > room {
                    room = 0;
                    break;
                }
                room -= columns(c);
                part.push(c);
            }
            match style.code() {
                code if is_coloured && !code.is_empty() && !part.is_empty() => {
                    out += &format!("\u{1b}[{code}m{part}\u{1b}[0m");
                }
                _ => out += &part,
            }
        }
        if is_cut && width > 0 {
            out.push('~');
        }
        out
    }

    fn columns(&self) -> usize {
        self.0.iter().flat_map(|(_, text)| text.chars()).map(columns).sum()
    }
}

/// At most so many columns: characters beyond the scripts that are always narrow may be wide.
fn columns(c: char) -> usize {
    if c < '\u{1100}' { 1 } else { 2 }
}

/// How to write to standard output.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub width: usize,
    pub height: usize,
    pub is_coloured: bool,
}

impl Screen {
    /// As it is now: the terminal may have been resized.
    pub fn now() -> Self {
        let size = tcgetwinsize(io::stdout()).ok().map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        let (width, height) = size.filter(|(width, height)| *width > 0 && *height > 0).unwrap_or(BOUNDLESS);
        let has_colours = is_steerable() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { width, height, is_coloured: has_colours }
    }

    pub fn text(&self, lines: &[Line]) -> String {
        lines.iter().map(|line| line.fitted(self.width, self.is_coloured) + "\n").collect()
    }
}

/// Whether lines can be drawn again in place.
pub fn is_steerable() -> bool {
    io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Lines that are drawn again and again in one place of the terminal. The last stay when this is dropped.
#[derive(Default)]
pub struct Live {
    /// Columns of each line that is there.
    drawn: Vec<usize>,
}

impl Live {
    pub fn draw(&mut self, lines: &[Line]) -> Result<()> {
        let screen = Screen::now();
        let lines = &lines[..lines.len().min(screen.height.saturating_sub(1).max(1))];
        let text = format!("{}{}", self.back(screen.width), screen.text(lines));
        self.drawn = lines.iter().map(|line| line.columns().min(screen.width)).collect();
        output::write(&text)
    }

    /// Hides the cursor, and goes back to where the lines begin. A terminal that has become narrower has broken them.
    fn back(&self, width: usize) -> String {
        let rows: usize = self.drawn.iter().map(|columns| columns.div_ceil(width.max(1)).max(1)).sum();
        match rows {
            0 => "\u{1b}[?25l".to_owned(),
            rows => format!("\r\u{1b}[{rows}A\u{1b}[J"),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.drawn.is_empty() {
            // A terminal that is gone has no cursor.
            let _ = output::write("\u{1b}[?25h");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_coloured_and_steer_nothing() {
        let line = Line::new("step ").and(Style::Bad, "x\u{1b}[2J").and(Style::Plain, " done");
        assert_eq!(line.fitted(80, false), "step x\u{fffd}[2J done");
        assert_eq!(line.fitted(8, false), "step x~");
        assert_eq!(line.fitted(12, true), "step \u{1b}[31mx\u{fffd}[2J\u{1b}[0m~");
        assert_eq!((line.fitted(1, false), line.fitted(0, false)), ("~".to_owned(), String::new()));
        assert_eq!(Line::new("日本語").fitted(5, false), "日本~");
    }

    #[test]
    fn drawing_again_goes_back_over_lines_that_were_broken() {
        let live = Live { drawn: vec![0, 10, 41] };
        assert_eq!(live.back(80), "\r\u{1b}[3A\u{1b}[J");
        assert_eq!(live.back(20), "\r\u{1b}[5A\u{1b}[J");
        assert_eq!(Live::default().back(80), "\u{1b}[?25l");
        std::mem::forget(live);
    }
}
