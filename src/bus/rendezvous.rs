//! Who of the live config service replicas owns a shard: the one with the highest random weight for it. Every node
//! that sees the same list of members says the same, with nothing to agree on, and when a member goes only its own
//! shards move.
//!
//! Architecture invariant: pure.

use crate::model::uid::{SHARD_COUNT, Shard, stable_hash};

/// The owner of `shard` among `members` (in any order); `None` if there are none.
pub fn owner<S: AsRef<str>>(shard: Shard, members: &[S]) -> Option<&str> {
    members.iter().map(AsRef::as_ref).max_by_key(|member| (weight(shard, member), *member))
}

/// The shards of `node` among `members`, ascending.
pub fn owned<S: AsRef<str>>(node: &str, members: &[S]) -> Vec<Shard> {
    (0..SHARD_COUNT).filter(|shard| owner(*shard, members) == Some(node)).collect()
}

/// The same on every node and in every version.
fn weight(shard: Shard, member: &str) -> u64 {
    let mut key = Vec::with_capacity(member.len() + 2);
    key.extend_from_slice(&shard.to_be_bytes());
    key.extend_from_slice(member.as_bytes());
    stable_hash(&key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn members() -> impl Strategy<Value = Vec<String>> {
        prop::collection::btree_set("[a-z]{1,8}-[0-9a-f]{1,6}", 1..12).prop_map(|set| set.into_iter().collect())
    }

    proptest! {
        #[test]
        fn every_shard_has_one_owner_whatever_the_order(members in members()) {
            let reversed: Vec<_> = members.iter().rev().cloned().collect();
            let mut all = Vec::new();
            for member in &members {
                let shards = owned(member, &members);
                prop_assert_eq!(&shards, &owned(member, &reversed));
                all.extend(shards);
            }
            all.sort();
            prop_assert_eq!(all, (0..SHARD_COUNT).collect::<Vec<_>>());
        }

        #[test]
        fn a_member_that_goes_moves_its_own_shards_only(members in members(), gone in any::<prop::sample::Index>()) {
            let gone = gone.get(&members).clone();
            let rest: Vec<_> = members.iter().filter(|member| **member != gone).cloned().collect();
            for shard in 0..SHARD_COUNT {
                let before = owner(shard, &members);
                if before != Some(gone.as_str()) {
                    prop_assert_eq!(before, owner(shard, &rest));
                }
            }
        }

        /// Over many shards, since 64 alone are too few to tell bad luck from a bad hash.
        #[test]
        fn shards_are_spread_evenly(members in members()) {
            let mut shares = BTreeMap::<&str, u32>::new();
            for shard in 0..4_000 {
                *shares.entry(owner(shard, &members).unwrap_or_default()).or_default() += 1;
            }
            let fair = 4_000 / members.len() as u32;
            prop_assert_eq!(shares.len(), members.len());
            prop_assert!(shares.values().all(|share| (fair * 2 / 3..fair * 3 / 2).contains(share)), "{:?}", shares);
        }
    }

    #[test]
    fn nobody_owns_what_nobody_can() {
        assert_eq!(owner::<&str>(0, &[]), None);
        assert!(owned("absent", &["present"]).is_empty());
    }

    /// Replicas of different versions must agree.
    #[test]
    fn owners_never_change_between_versions() {
        let owners: String = (0..16).filter_map(|shard| owner(shard, &["a", "b", "c"])).collect();
        assert_eq!(owners, "baccabbaabaccabb");
    }
}
