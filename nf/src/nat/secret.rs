//! The keyed hashes of NAT tables and of port selection (R16).
//!
//! Two kinds: tables use the data plane's fast hash, whose results nobody outside ever sees. Ports and external
//! addresses are seen by anyone, so they come from SipHash, which is made to keep its key when results are known.

use millrace_dataplane::flow::hash::KeyedHash;
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

/// The secret keys. An outsider who does not know them can neither predict ports (RFC 6056 section 3) nor
/// find keys that collide.
#[derive(Clone)]
pub struct Secret {
    tables: KeyedHash,
    ports: [u64; 2],
}

impl Secret {
    /// Keys from the operating system's random numbers.
    pub fn random() -> Self {
        let ports = [0_u64, 1].map(|n| RandomState::new().hash_one(n));
        Self { tables: KeyedHash::random(), ports }
    }

    /// Keys derived from a given one, for runs that must repeat exactly. Ports are predictable to who knows it.
    pub fn from_key(key: [u64; 2]) -> Self {
        Self { tables: KeyedHash::seeded(key[0].rotate_left(32) ^ key[1]), ports: key }
    }

    /// The hash of two words for one purpose. All 64 bits are usable.
    #[inline]
    pub fn hash(&self, purpose: Purpose, first: u64, second: u64) -> u64 {
        if !matches!(purpose, Purpose::Address | Purpose::Port) {
            return self.tables.hash(&[first, second, purpose as u64]);
        }
        let mut hasher = DefaultHasher::new();
        for word in [self.ports[0], self.ports[1], first, second, purpose as u64] {
            hasher.write_u64(word);
        }
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
        for (purpose, other) in [(Purpose::Inside, Purpose::External), (Purpose::Port, Purpose::Address)] {
            let hash = secret.hash(purpose, 3, 4);
            assert_eq!(hash, Secret::from_key([1, 2]).hash(purpose, 3, 4));
            assert_ne!(hash, Secret::from_key([1, 3]).hash(purpose, 3, 4));
            assert_ne!(hash, Secret::from_key([9, 2]).hash(purpose, 3, 4));
            assert_ne!(hash, secret.hash(other, 3, 4));
            assert_ne!(hash, secret.hash(purpose, 5, 4));
            assert_ne!(hash, secret.hash(purpose, 3, 5));
        }
        let random = [Secret::random(), Secret::random()].map(|s| s.hash(Purpose::Port, 0, 0));
        assert_ne!(random[0], random[1]);
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
