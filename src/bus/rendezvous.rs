//! Who of the live config service replicas owns a shard: the one with the highest random weight for it that has not its
//! equal share yet. Every node that sees the same list of members says the same, with nothing to agree on.
//!
//! Without the bound on shares, luck would give one of two replicas up to 1.2 times, and one of eight up to 1.8 times
//! its part of 64 shards. Its price is that when a member goes, a few shards move besides its own; a move is harmless. (More
//! shards would even out luck too, but each is a transaction of its own whenever policies change.)
//!
//! Architecture invariant: pure.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::model::uid::{SHARD_COUNT, Shard, stable_hash};

/// The shards of `node` among `members` (in any order), ascending. Shares differ by one shard at most.
pub fn owned<S: AsRef<str>>(node: &str, members: &[S]) -> Vec<Shard> {
    let owners = owners(members);
    owners.into_iter().filter(|(_, owner)| *owner == node).map(|(shard, _)| shard).collect()
}

/// The owner of each shard; empty if there are no members.
pub fn owners<S: AsRef<str>>(members: &[S]) -> BTreeMap<Shard, &str> {
    let mut shares: BTreeMap<&str, u16> = members.iter().map(|member| (member.as_ref(), 0)).collect();
    let Some(count) = u16::try_from(shares.len()).ok().filter(|count| *count > 0) else {
        return BTreeMap::new();
    };
    let share = SHARD_COUNT / count;
    let mut larger_shares = SHARD_COUNT % count;
    let mut pairs: Vec<(u64, Shard, &str)> = (0..SHARD_COUNT)
        .flat_map(|shard| shares.keys().map(move |member| (weight(shard, member), shard, *member)))
        .collect();
    pairs.sort_unstable_by_key(|pair| Reverse(*pair));
    let mut owners = BTreeMap::new();
    for (_, shard, member) in pairs {
        let Some(has) = shares.get_mut(member) else { continue };
        let is_full = *has > share || *has == share && larger_shares == 0;
        if is_full || owners.contains_key(&shard) {
            continue;
        }
        larger_shares -= u16::from(*has == share);
        *has += 1;
        owners.insert(shard, member);
    }
    owners
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
        fn shares_differ_by_one_shard_at_most(members in members()) {
            let shares: Vec<usize> = members.iter().map(|member| owned(member, &members).len()).collect();
            let (least, most) = (shares.iter().min(), shares.iter().max());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{:?}", shares);
        }

        #[test]
        fn when_a_member_goes_most_shards_of_the_others_stay(members in members(), gone in any::<prop::sample::Index>()) {
            let gone = gone.get(&members).clone();
            let rest: Vec<_> = members.iter().filter(|member| **member != gone).cloned().collect();
            let after = owners(&rest);
            let moved = owners(&members)
                .into_iter()
                .filter(|(shard, owner)| *owner != gone && after.get(shard) != Some(owner))
                .count();
            prop_assert!(moved <= usize::from(SHARD_COUNT) / 4, "{} shards moved without need", moved);
        }
    }

    #[test]
    fn more_members_than_shards_have_one_each() {
        let members: Vec<String> = (0..100).map(|n| format!("replica-{n}")).collect();
        let shares: Vec<usize> = members.iter().map(|member| owned(member, &members).len()).collect();
        assert_eq!((shares.iter().max(), shares.iter().sum::<usize>()), (Some(&1), usize::from(SHARD_COUNT)));
    }

    #[test]
    fn a_member_that_is_listed_twice_counts_once() {
        assert_eq!(owners(&["a", "b", "a"]), owners(&["a", "b"]));
    }

    #[test]
    fn nobody_owns_what_nobody_can() {
        assert!(owners::<&str>(&[]).is_empty());
        assert!(owned("absent", &["present"]).is_empty());
    }

    /// Replicas of different versions must agree.
    #[test]
    fn owners_never_change_between_versions() {
        let owners: String = owners(&["a", "b", "c"]).into_values().take(16).collect();
        assert_eq!(owners, "baccabbaabaccabb");
    }
}
