//! What goes to standard output.

use std::io::Write;

/// Writes a text and the end of a line. Nobody may be reading any more, which is no reason for a server to stop.
pub fn write(text: &str) {
    let mut output = std::io::stdout().lock();
    if let Err(error) =
        output.write_all(text.as_bytes()).and_then(|()| output.write_all(b"\n")).and_then(|()| output.flush())
    {
        tracing::debug!(%error, "cannot write to standard output");
    }
}
