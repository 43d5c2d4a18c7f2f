//! What a validator says, as far as it is kept.

use std::path::Path;

/// More is not read: it is ended.
const MAX_READ_BYTES: usize = 1024 * 1024;
/// Of these the first are kept.
const MAX_KEPT_BYTES: usize = 16 * 1024;
/// Of these as much goes into an error: those travel in headers, where what is no letter or digit takes three bytes for one.
const MAX_SHOWN_BYTES: usize = 3_000;

#[derive(Default)]
pub struct Capture {
    kept: Vec<u8>,
    read: usize,
}

impl Capture {
    /// Returns whether more may come.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        let room = MAX_KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.read += bytes.len();
        self.read <= MAX_READ_BYTES
    }

    /// Lines without control characters. Files are called by their names, without the `folder` that they were in.
    pub fn text(&self, folder: &Path) -> String {
        let text = String::from_utf8_lossy(&self.kept).replace(&format!("{}/", folder.display()), "");
        let lines = text.lines().map(|line| line.replace('\t', "    ").replace(char::is_control, ""));
        let lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect();
        let text = lines.join("\n");
        let mut room = MAX_SHOWN_BYTES;
        let fits = |c: &char| {
            room = room.saturating_sub(if c.is_ascii_alphanumeric() { 1 } else { 3 * c.len_utf8() });
            room > 0
        };
        let shown: String = text.chars().take_while(fits).collect();
        match shown.len() < text.len() || self.read > self.kept.len() {
            true => format!("{shown}\n(it said more: {} bytes)", self.read),
            false => shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_shown_in_part_and_without_harm() {
        let mut capture = Capture::default();
        assert!(capture.take(b"error in /tmp/x/a.yaml:\r\n\n\tline \x1b[31m3\xff\n"));
        assert_eq!(capture.text(Path::new("/tmp/x")), "error in a.yaml:\n    line [31m3\u{fffd}");
        assert!(capture.take(&[b'x'; 100_000]));
        let text = capture.text(Path::new("/tmp/x"));
        assert!(text.len() < 3_100 && text.ends_with("(it said more: 100040 bytes)"), "{text}");
        assert!(!capture.take(&vec![b'x'; 1024 * 1024]));
        let mut capture = Capture::default();
        capture.take("ä".repeat(5_000).as_bytes());
        assert!(capture.text(Path::new("/")).len() < 1_100);
    }
}
