//! The trie against a linear scan, and at full size.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::Instant;

/// Prefixes that often contain one another: few distinct bytes, all lengths.
fn prefix() -> impl Strategy<Value = IpNet> {
    let byte = || prop_oneof![Just(0u8), Just(0xff), Just(0x80), Just(1), any::<u8>()];
    let v4 = (proptest::array::uniform4(byte()), 0..=32u8)
        .prop_map(|(bytes, length)| IpNet::new(IpAddr::from(bytes), length).unwrap().trunc());
    let v6 = (proptest::array::uniform16(byte()), 0..=128u8)
        .prop_map(|(bytes, length)| IpNet::new(IpAddr::from(bytes), length).unwrap().trunc());
    prop_oneof![v4, v6]
}

#[derive(Clone, Debug)]
enum Change {
    Insert(IpNet, u32),
    Remove(IpNet),
    /// Removes a prefix that is there, chosen by this number.
    RemoveExisting(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (prefix(), any::<u32>()).prop_map(|(prefix, value)| Change::Insert(prefix, value)),
        1 => prefix().prop_map(Change::Remove),
        2 => any::<usize>().prop_map(Change::RemoveExisting),
    ]
}

fn scan(model: &HashMap<IpNet, u32>, address: IpAddr) -> Option<u32> {
    model
        .iter()
        .filter(|(net, _)| net.contains(&address))
        .max_by_key(|(net, _)| net.prefix_len())
        .map(|(_, v)| *v)
}

/// Addresses at and just outside both ends of a prefix.
fn edges(net: IpNet) -> Vec<IpAddr> {
    match net {
        IpNet::V4(net) => {
            let (low, high) = (net.network().to_bits(), net.broadcast().to_bits());
            [low, high, low.wrapping_sub(1), high.wrapping_add(1)]
                .map(|bits| Ipv4Addr::from_bits(bits).into())
                .into()
        }
        IpNet::V6(net) => {
            let (low, high) = (net.network().to_bits(), net.broadcast().to_bits());
            [low, high, low.wrapping_sub(1), high.wrapping_add(1)]
                .map(|bits| Ipv6Addr::from_bits(bits).into())
                .into()
        }
    }
}

proptest! {
    #[test]
    fn equals_a_linear_scan_through_any_changes(
        changes in proptest::collection::vec(change(), 1..300),
        probes in proptest::collection::vec(prefix(), 20),
    ) {
        let mut trie = PrefixTrie::new(1 << 20);
        let mut model: HashMap<IpNet, u32> = HashMap::new();
        for change in changes {
            match change {
                Change::Insert(net, value) => prop_assert_eq!(trie.insert(net, value), Ok(model.insert(net, value))),
                Change::Remove(net) => prop_assert_eq!(trie.remove(net), model.remove(&net)),
                Change::RemoveExisting(number) => {
                    let mut nets: Vec<_> = model.keys().copied().collect();
                    nets.sort();
                    if let Some(&net) = nets.get(number % nets.len().max(1)) {
                        prop_assert_eq!(trie.remove(net), model.remove(&net));
                    }
                }
            }
        }
        prop_assert_eq!(trie.len(), model.len());
        for net in model.keys().chain(&probes).copied() {
            prop_assert_eq!(trie.get(net), model.get(&net).copied());
            for address in edges(net) {
                prop_assert_eq!(trie.lookup(address), scan(&model, address), "{}", address);
            }
        }
        // Removing everything leaves no node behind.
        for net in model.keys() {
            prop_assert!(trie.remove(*net).is_some());
        }
        prop_assert!(trie.is_empty());
        prop_assert_eq!((trie.ipv4.nodes_used, trie.ipv6.nodes_used), (0, 0));
        prop_assert_eq!((trie.ipv4.root.children, trie.ipv6.root.ends), (0, 0));
    }
}

#[test]
fn a_full_table_refuses_and_stays_as_it_was() {
    let mut trie = PrefixTrie::new(6);
    let first: IpNet = "10.0.0.0/24".parse().unwrap();
    trie.insert(first, 1).unwrap();
    assert_eq!(trie.insert("192.168.0.0/24".parse().unwrap(), 2), Err(TrieFull));
    assert_eq!(trie.len(), 1);
    assert_eq!(trie.ipv4.nodes_used, 4);
    assert_eq!(trie.lookup("192.168.0.1".parse().unwrap()), None);
    trie.insert("10.0.0.0/8".parse().unwrap(), 3).unwrap();
    assert_eq!(trie.lookup("10.1.0.1".parse().unwrap()), Some(3));
}

#[test]
fn five_routes_stay_small() {
    let mut trie = PrefixTrie::new(1 << 20);
    assert_eq!(trie.memory_bytes(), 0);
    for (value, net) in ["0.0.0.0/0", "10.0.0.0/24", "192.168.1.0/24", "::/0", "fd00::/64"].iter().enumerate()
    {
        trie.insert(net.parse().unwrap(), value as u32).unwrap();
    }
    assert!(trie.memory_bytes() < 2_048, "{}", trie.memory_bytes());
}

#[test]
fn storage_does_not_grow_under_churn() {
    let mut trie = PrefixTrie::new(1 << 20);
    let net = |n: u32| -> IpNet { format!("10.{}.{}.0/24", n >> 8 & 255, n & 255).parse().unwrap() };
    (0..2_000).for_each(|n| assert_eq!(trie.insert(net(n), n), Ok(None)));
    let mut peak = 0;
    for round in 0..20 {
        for n in 0..2_000 {
            trie.remove(net(n)).unwrap();
            trie.insert(net(n), n).unwrap();
        }
        if round == 0 {
            peak = trie.memory_bytes();
        }
    }
    assert_eq!(trie.memory_bytes(), peak);
}

/// A cheap generator of well-mixed numbers (splitmix64).
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Lengths as in the Internet's tables: most /24 and /48, the rest spread.
fn internet_prefix(state: &mut u64, ipv6: bool) -> IpNet {
    let (bits, choice) = (mix(state), mix(state) % 10);
    if ipv6 {
        let length = if choice < 5 { 48 } else { 29 + (mix(state) % 20) as u8 };
        // 2000::/3, in a few hundred registry blocks.
        let high = 0x2000 << 48 | (bits & 0x00ff_ffff_ffff_ffff) & 0x1fff_ffff_ffff_ffff;
        IpNet::new(Ipv6Addr::from_bits(u128::from(high) << 64).into(), length).unwrap().trunc()
    } else {
        let length = if choice < 6 { 24 } else { 12 + (mix(state) % 13) as u8 };
        IpNet::new(Ipv4Addr::from_bits(bits as u32).into(), length).unwrap().trunc()
    }
}

#[test]
fn a_million_prefixes_of_each_family() {
    for ipv6 in [false, true] {
        let mut trie = PrefixTrie::new(1 << 24);
        let mut state = 7;
        let started = Instant::now();
        let mut nets = HashMap::new();
        while nets.len() < 1_000_000 {
            let net = internet_prefix(&mut state, ipv6);
            let value = nets.len() as u32;
            nets.entry(net).or_insert(value);
        }
        let generated = Instant::now();
        nets.iter().for_each(|(net, value)| assert_eq!(trie.insert(*net, *value), Ok(None)));
        let inserted = Instant::now();
        let mut found = 0u32;
        for _ in 0..1_000_000 {
            found += u32::from(trie.lookup(internet_prefix(&mut state, ipv6).addr()).is_some());
        }
        println!(
            "ipv6={ipv6} prefixes={} generated in {:?}, inserted in {:?}, memory {} KiB, a million look-ups with their \
             generation in {:?} ({found} found)",
            trie.len(),
            generated - started,
            inserted - generated,
            trie.memory_bytes() / 1024,
            inserted.elapsed(),
        );
        assert!(trie.memory_bytes() < 128 << 20);
        assert!(nets.iter().take(50_000).all(|(net, value)| trie.get(*net) == Some(*value)));
        nets.keys().for_each(|net| assert!(trie.remove(*net).is_some()));
        assert_eq!((trie.len(), trie.ipv4.nodes_used + trie.ipv6.nodes_used), (0, 0));
    }
}
