//! The keyed hashes of NAT tables and of port selection (R16).
//!
//! Tables use one key, whose results nobody outside ever sees. Ports and external addresses are seen by anyone, so they
//! have keys of their own, which tell nothing about the tables', and go through two hashes one after the other: an
//! outsider sees some sixteen bits of what six rounds of AES made of words that he does not know all.

use millrace_dataplane::flow::hash::KeyedHash;

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
    choices: [KeyedHash; 2],
}

impl Secret {
    /// Keys from the operating system's random numbers.
    pub fn random() -> Self {
        Self { tables: KeyedHash::random(), choices: [KeyedHash::random(), KeyedHash::random()] }
    }

    /// Keys derived from a given one, for runs that must repeat exactly. Ports are predictable to who knows it.
    pub fn from_key(key: [u64; 2]) -> Self {
        let seeded = |n: u64| KeyedHash::seeded(key[0].rotate_left(32) ^ key[1] ^ n << 56);
        Self { tables: seeded(0), choices: [seeded(1), seeded(2)] }
    }

    /// Where the key `word` of a table is placed. All 64 bits are usable.
    #[inline]
    pub fn hash(&self, purpose: Purpose, word: u64) -> u64 {
        one_block(&self.tables, word, purpose as u64)
    }

    /// What is chosen for two words, where outsiders see the choice. All 64 bits are usable.
    #[inline]
    pub fn choice(&self, purpose: Purpose, first: u64, second: u64) -> u64 {
        let inner = one_block(&self.choices[0], first, second);
        one_block(&self.choices[1], inner, purpose as u64)
    }
}

#[inline]
fn one_block(hash: &KeyedHash, low: u64, high: u64) -> u64 {
    let mut state = hash.begin();
    hash.absorb(&mut state, 0, low, high);
    hash.finish(state)
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

    /// R16: the key, the purpose and the words decide the hash.
    #[test]
    fn every_input_counts() {
        let secret = Secret::from_key([1, 2]);
        let hash = secret.hash(Purpose::Inside, 3);
        assert_eq!(hash, Secret::from_key([1, 2]).hash(Purpose::Inside, 3));
        for other in [[1, 3], [9, 2]] {
            assert_ne!(hash, Secret::from_key(other).hash(Purpose::Inside, 3));
            assert_ne!(
                secret.choice(Purpose::Port, 3, 4),
                Secret::from_key(other).choice(Purpose::Port, 3, 4)
            );
        }
        assert_ne!(hash, secret.hash(Purpose::External, 3));
        assert_ne!(hash, secret.hash(Purpose::Inside, 5));
        let choice = secret.choice(Purpose::Port, 3, 4);
        assert_eq!(choice, Secret::from_key([1, 2]).choice(Purpose::Port, 3, 4));
        assert_ne!(choice, secret.choice(Purpose::Address, 3, 4));
        assert_ne!(choice, secret.choice(Purpose::Port, 5, 4));
        assert_ne!(choice, secret.choice(Purpose::Port, 3, 5));
        let random = [Secret::random(), Secret::random()].map(|s| s.choice(Purpose::Port, 0, 0));
        assert_ne!(random[0], random[1]);
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
