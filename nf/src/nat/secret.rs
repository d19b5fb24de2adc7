//! The keyed hash of all NAT tables and of port selection (R16).

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

/// What a hash is used for. It goes into the hash, so that one use tells nothing about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Placing a mapping by its inside tuple.
    Inside = 1,
    /// Placing a mapping by its external tuple.
    External,
    /// Placing a contacted remote address.
    Contact,
    /// Placing a subscriber.
    Subscriber,
    /// Choosing the external address of a subscriber.
    Address,
    /// Choosing an external port.
    Port,
}

/// The secret key of the hash. An outsider who does not know it can neither predict ports (RFC 6056
/// section 3) nor find keys that collide.
#[derive(Clone)]
pub struct Secret([u64; 2]);

impl Secret {
    /// A key from the operating system's random numbers.
    pub fn random() -> Self {
        Self([RandomState::new().hash_one(0_u64), RandomState::new().hash_one(1_u64)])
    }

    /// A given key, for runs that must repeat exactly. Ports are predictable to who knows it.
    pub const fn from_key(key: [u64; 2]) -> Self {
        Self(key)
    }

    /// The hash of two words for one purpose. All 64 bits are usable.
    #[inline]
    pub fn hash(&self, purpose: Purpose, first: u64, second: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0[0]);
        hasher.write_u64(self.0[1]);
        hasher.write_u64(first);
        hasher.write_u64(second);
        hasher.write_u8(purpose as u8);
        hasher.finish()
    }
}

impl std::fmt::Debug for Secret {
    /// Never prints the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R16: the key, the purpose and both words decide the hash.
    #[test]
    fn every_input_counts() {
        let secret = Secret::from_key([1, 2]);
        let hash = secret.hash(Purpose::Inside, 3, 4);
        assert_eq!(hash, Secret::from_key([1, 2]).hash(Purpose::Inside, 3, 4));
        assert_ne!(hash, Secret::from_key([1, 3]).hash(Purpose::Inside, 3, 4));
        assert_ne!(hash, Secret::from_key([9, 2]).hash(Purpose::Inside, 3, 4));
        assert_ne!(hash, secret.hash(Purpose::External, 3, 4));
        assert_ne!(hash, secret.hash(Purpose::Inside, 5, 4));
        assert_ne!(hash, secret.hash(Purpose::Inside, 3, 5));
        let random = [Secret::random(), Secret::random()].map(|s| s.hash(Purpose::Port, 0, 0));
        assert_ne!(random[0], random[1]);
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
