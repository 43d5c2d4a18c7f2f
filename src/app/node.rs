//! Names of nodes.

/// Longest part of the host's name that is taken.
const MAX_HOST_CHARACTERS: usize = 40;

/// A name that no other process has: the given one or the host's, which tells people where it is, and a random part. A
/// restarted process is another node: were it the same, nobody would notice that the agents of the one before are gone,
/// and those that do not come back would be shown as connected for good.
pub fn id(given: Option<String>) -> String {
    let name = given.unwrap_or_else(|| {
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        host.chars().filter(is_plain).take(MAX_HOST_CHARACTERS).collect()
    });
    format!("{name}-{:08x}", rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_process_is_another_node_even_under_a_given_name() {
        for given in [None, Some("gateway-1".to_owned())] {
            let (before, after) = (id(given.clone()), id(given.clone()));
            assert_ne!(before, after);
            assert!(before.starts_with(&given.unwrap_or_default()), "{before}");
        }
    }
}
