//! Names of nodes.

/// Longest part of the host's name that is taken.
const MAX_HOST_CHARACTERS: usize = 40;

/// The given name, or one that no other process has: the host's name, which tells people where it is, and a random part. A
/// restarted process is another node.
pub fn id(given: Option<String>) -> String {
    given.unwrap_or_else(|| {
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        let host: String = host.chars().filter(is_plain).take(MAX_HOST_CHARACTERS).collect();
        format!("{host}-{:08x}", rand::random::<u32>())
    })
}
