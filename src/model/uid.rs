//! The agent's `instance_uid`, and the shard of the uid space that it falls into.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

/// How many slices the uid space has. A constant of the protocol between nodes: all nodes of one
/// deployment must agree on it.
pub const SHARD_COUNT: u16 = 64;

/// A slice of the uid space: `0..SHARD_COUNT`.
pub type Shard = u16;

/// 16 bytes that identify an agent, by the specification a UUIDv7, in practice any non-zero value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceUid([u8; 16]);

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InvalidUid {
    #[error("instance_uid is {0} bytes long, it must be 16")]
    Length(usize),
    #[error("instance_uid is all zero")]
    Zero,
    #[error("{0:?} is not a UUID")]
    Text(String),
}

impl InstanceUid {
    /// Stands in while a message is read; never a valid uid.
    pub(crate) const PLACEHOLDER: Self = Self([0; 16]);

    /// A uid from the bytes of the wire.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidUid> {
        let bytes: [u8; 16] = bytes.try_into().map_err(|_| InvalidUid::Length(bytes.len()))?;
        if bytes == [0; 16] {
            return Err(InvalidUid::Zero);
        }
        Ok(Self(bytes))
    }

    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        Self(uuid.into_bytes())
    }

    pub fn as_uuid(&self) -> uuid::Uuid {
        uuid::Uuid::from_bytes(self.0)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub fn to_bytes(self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(&self.0)
    }

    /// The uid that a second live agent with this uid is to take instead: a UUIDv7 that follows from the number of
    /// its connection (microseconds since the Unix epoch), so that whoever decides, and however often, says the same.
    pub fn successor(&self, connection_generation: u64) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"muster successor uid v1\0");
        hasher.update(self.0);
        hasher.update(connection_generation.to_be_bytes());
        let random: [u8; 32] = hasher.finalize().into();
        let mut bits = [0; 10];
        bits.copy_from_slice(&random[..10]);
        Self::from_uuid(uuid::Builder::from_unix_timestamp_millis(connection_generation / 1_000, &bits).into_uuid())
    }

    /// The shard that this agent's reports go to, and whose owner decides for it.
    pub fn shard(&self) -> Shard {
        (stable_hash(&self.0) % u64::from(SHARD_COUNT)) as Shard
    }
}

/// FNV-1a with a final avalanche: small, and the same on every node and in every version.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

impl fmt::Display for InstanceUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_uuid().hyphenated().fmt(f)
    }
}

impl fmt::Debug for InstanceUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InstanceUid {
    type Err = InvalidUid;

    fn from_str(text: &str) -> Result<Self, InvalidUid> {
        let uuid = uuid::Uuid::parse_str(text).map_err(|_| InvalidUid::Text(text.to_owned()))?;
        Self::from_slice(uuid.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_the_specification_refuses() {
        assert_eq!(InstanceUid::from_slice(&[1; 15]), Err(InvalidUid::Length(15)));
        assert_eq!(InstanceUid::from_slice(&[0; 16]), Err(InvalidUid::Zero));
        assert!("not-a-uuid".parse::<InstanceUid>().is_err());
    }

    #[test]
    fn a_successor_is_a_valid_uuid_v7_that_does_not_depend_on_who_asks() {
        let uid = InstanceUid::from_slice(&[9; 16]).unwrap();
        let successor = uid.successor(1_700_000_000_000_000);
        assert_eq!(successor.as_uuid().get_version_num(), 7);
        assert_eq!(successor.as_uuid().get_variant(), uuid::Variant::RFC4122);
        assert_eq!(successor, uid.successor(1_700_000_000_000_000));
        assert_ne!(successor, uid.successor(1_700_000_000_000_001));
    }

    #[test]
    fn shards_are_even_for_time_ordered_uids() {
        let mut counts = [0u32; SHARD_COUNT as usize];
        for n in 0u128..64_000 {
            let uid = InstanceUid::from_slice(&(0x0192_0000_0000_7000_8000_0000_0000_0000u128 + n).to_be_bytes());
            counts[usize::from(uid.unwrap().shard())] += 1;
        }
        assert!(counts.iter().all(|&n| (800..1200).contains(&n)), "{counts:?}");
    }

    /// Nodes of different versions must agree.
    #[test]
    fn shard_of_a_uid_never_changes() {
        assert_eq!(InstanceUid::from_slice(&[1; 16]).unwrap().shard(), stable_hash(&[1; 16]) as u16 % 64);
        assert_eq!(stable_hash(b""), 0xefd0_1f60_ba99_2926);
    }
}
