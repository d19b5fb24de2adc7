//! A map from address prefixes to small values, with longest-prefix match.
//!
//! **What.** A tree bitmap (Eatherton, Varghese, Dittia: "Tree Bitmap: Hardware/Software IP Lookups with
//! Incremental Updates", 2004) with strides of six bits. One node covers six bits of the address with two
//! 64-bit maps: which prefixes end inside it, and which children exist. Children and values of a node lie
//! side by side, so that an index is a base plus a population count.
//!
//! **Cost (R15).** A look-up reads at most one node per six bits (6 for IPv4, 22 for IPv6) and one value,
//! whatever the table holds. An update rewrites at most that many nodes and blocks of 64. Nothing is rebuilt.
//!
//! **Memory.** A node is 24 bytes, a value 4; an empty map allocates nothing. Blocks come in twelve sizes and are
//! recycled by size, so the storage never exceeds the sum of the most ever used of each size. The number of
//! nodes has a limit: an insert that would pass it is refused and changes nothing.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address bits that one node decides.
const STRIDE: u8 = 6;
/// Most nodes on a path: 128 bits in strides of six.
const DEPTH_MAX: usize = 22;
/// Capacities of blocks. Each is at most 1.5 times (above 2) the one before it.
const BLOCK_SIZES: [u8; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

/// For each value of a stride, the prefixes of length 0 to 5 that contain it. A prefix of length `l` and
/// value `v` has the number `1 << l | v`, so a higher number is a longer prefix.
const ANCESTORS: [u64; 64] = {
    let mut table = [0u64; 64];
    let mut value = 0;
    while value < 64 {
        let mut length = 0;
        while length < STRIDE as usize {
            table[value] |= 1 << (1usize << length | value >> (STRIDE as usize - length));
            length += 1;
        }
        value += 1;
    }
    table
};

/// The smallest class of [`BLOCK_SIZES`] that holds `count` elements (1 to 64).
fn size_class(count: u32) -> usize {
    BLOCK_SIZES.iter().position(|&size| u32::from(size) >= count).unwrap_or(BLOCK_SIZES.len() - 1)
}

/// Storage for blocks of 1 to 64 elements that lie side by side, recycled by size.
///
/// The vector may grow by moving; at the sizes where that would hurt, the allocator remaps pages instead of copying.
#[derive(Clone, Debug)]
struct Blocks<T> {
    elements: Vec<T>,
    /// Starts of unused blocks, by size class.
    free: [Vec<u32>; BLOCK_SIZES.len()],
}

impl<T: Copy + Default> Blocks<T> {
    fn new() -> Self {
        Self { elements: Vec::new(), free: Default::default() }
    }

    fn allocate(&mut self, count: u32) -> u32 {
        let class = size_class(count);
        if let Some(start) = self.free[class].pop() {
            return start;
        }
        let start = self.elements.len();
        self.elements.resize(start + usize::from(BLOCK_SIZES[class]), T::default());
        start as u32
    }

    /// Makes room for one element at `at` in the block of `count` elements at `base`; returns the new base.
    fn insert(&mut self, base: u32, count: u32, at: u32, element: T) -> u32 {
        let fits = count > 0 && size_class(count) == size_class(count + 1);
        let target = if fits { base } else { self.allocate(count + 1) };
        let (from, to, at, count_) = (base as usize, target as usize, at as usize, count as usize);
        self.elements.copy_within(from + at..from + count_, to + at + 1);
        if !fits && count > 0 {
            self.elements.copy_within(from..from + at, to);
            self.free[size_class(count)].push(base);
        }
        self.elements[to + at] = element;
        target
    }

    /// Closes the gap of the element at `at` in the block of `count` elements; returns the new base.
    fn remove(&mut self, base: u32, count: u32, at: u32) -> u32 {
        if count == 1 {
            self.free[size_class(1)].push(base);
            return 0;
        }
        let fits = size_class(count) == size_class(count - 1);
        let target = if fits { base } else { self.allocate(count - 1) };
        let (from, to, at, count_) = (base as usize, target as usize, at as usize, count as usize);
        if !fits {
            self.elements.copy_within(from..from + at, to);
            self.free[size_class(count)].push(base);
        }
        self.elements.copy_within(from + at + 1..from + count_, to + at);
        target
    }

    fn memory_bytes(&self) -> usize {
        let free: usize = self.free.iter().map(|list| list.capacity() * size_of::<u32>()).sum();
        self.elements.capacity() * size_of::<T>() + free
    }
}

/// Six bits of the address space below one path.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// Prefixes that end in this node, by number (see [`ANCESTORS`]); bit 0 is unused.
    ends: u64,
    /// Children, by the value of their six bits.
    children: u64,
    /// First value of this node.
    values_base: u32,
    /// First child of this node.
    children_base: u32,
}

const _: () = assert!(size_of::<Node>() == 24);

/// The number of bits set in `map` below `bit`: an index into the block that the map describes.
#[inline]
const fn rank(map: u64, bit: u32) -> u32 {
    (map & ((1 << bit) - 1)).count_ones()
}

/// The node limit of a [`PrefixTrie`] is reached; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the prefix table is full")]
pub struct TrieFull;

/// Prefixes of one family. Addresses are left-aligned in 128 bits.
#[derive(Clone, Debug)]
struct Trie {
    root: Node,
    nodes: Blocks<Node>,
    values: Blocks<u32>,
    nodes_used: usize,
    count: usize,
}

/// The six bits of `key` from bit `depth` on, counted from the left; bits past the end are zero.
#[inline]
const fn stride_at(key: u128, depth: u8) -> u32 {
    ((key << depth) >> (128 - STRIDE as u32)) as u32
}

/// The number of the prefix of `length` bits of `key` within the node at `depth`.
const fn end_number(key: u128, depth: u8, length: u8) -> u32 {
    let local = length - depth;
    1 << local | stride_at(key, depth) >> (STRIDE - local)
}

/// Where a prefix ends: its node and that node's depth, and the nodes above it.
struct Path {
    /// Indexes of the nodes from the root (exclusive) down.
    below_root: [u32; DEPTH_MAX],
    len: usize,
    depth: u8,
}

impl Trie {
    fn new() -> Self {
        Self { root: Node::default(), nodes: Blocks::new(), values: Blocks::new(), nodes_used: 0, count: 0 }
    }

    /// The value of the longest prefix that contains the key of which `stride_at` gives the six bits from a depth on.
    #[inline]
    fn lookup(&self, stride_at: impl Fn(u8) -> u32) -> Option<u32> {
        let (mut node, mut depth, mut best) = (&self.root, 0u8, None);
        loop {
            let stride = stride_at(depth);
            let hits = node.ends & ANCESTORS[stride as usize];
            if hits != 0 {
                best = Some(node.values_base + rank(node.ends, 63 - hits.leading_zeros()));
            }
            if node.children >> stride & 1 == 0 {
                break;
            }
            node = &self.nodes.elements[(node.children_base + rank(node.children, stride)) as usize];
            depth += STRIDE;
        }
        best.map(|at| self.values.elements[at as usize])
    }

    fn node(&self, path: &Path, at: usize) -> &Node {
        if at == 0 { &self.root } else { &self.nodes.elements[path.below_root[at - 1] as usize] }
    }

    fn node_mut(&mut self, path: &Path, at: usize) -> &mut Node {
        if at == 0 { &mut self.root } else { &mut self.nodes.elements[path.below_root[at - 1] as usize] }
    }

    /// Walks towards the node where the prefix ends, as far as nodes exist.
    fn descend(&self, key: u128, length: u8) -> Path {
        let mut path = Path { below_root: [0; DEPTH_MAX], len: 0, depth: 0 };
        while length - path.depth >= STRIDE {
            let node = self.node(&path, path.len);
            let stride = stride_at(key, path.depth);
            if node.children >> stride & 1 == 0 {
                break;
            }
            path.below_root[path.len] = node.children_base + rank(node.children, stride);
            path.len += 1;
            path.depth += STRIDE;
        }
        path
    }

    fn get(&self, key: u128, length: u8) -> Option<u32> {
        let path = self.descend(key, length);
        let number = (length - path.depth < STRIDE).then(|| end_number(key, path.depth, length))?;
        let node = self.node(&path, path.len);
        (node.ends >> number & 1 == 1)
            .then(|| self.values.elements[(node.values_base + rank(node.ends, number)) as usize])
    }

    /// Sets the value of a prefix; returns the one it had.
    fn insert(
        &mut self,
        key: u128,
        length: u8,
        value: u32,
        nodes_max: usize,
    ) -> Result<Option<u32>, TrieFull> {
        let mut path = self.descend(key, length);
        let missing = usize::from((length - path.depth) / STRIDE);
        if self.nodes_used + missing > nodes_max {
            return Err(TrieFull);
        }
        for _ in 0..missing {
            self.add_child(key, &mut path);
        }
        let number = end_number(key, path.depth, length);
        let node = *self.node(&path, path.len);
        let at = rank(node.ends, number);
        if node.ends >> number & 1 == 1 {
            let slot = &mut self.values.elements[(node.values_base + at) as usize];
            return Ok(Some(std::mem::replace(slot, value)));
        }
        let base = self.values.insert(node.values_base, node.ends.count_ones(), at, value);
        let node = self.node_mut(&path, path.len);
        node.values_base = base;
        node.ends |= 1 << number;
        self.count += 1;
        Ok(None)
    }

    /// Adds the child of the path's last node that `key` leads to, and steps into it.
    fn add_child(&mut self, key: u128, path: &mut Path) {
        let stride = stride_at(key, path.depth);
        let node = *self.node(path, path.len);
        let at = rank(node.children, stride);
        let base = self.nodes.insert(node.children_base, node.children.count_ones(), at, Node::default());
        let parent = self.node_mut(path, path.len);
        parent.children_base = base;
        parent.children |= 1 << stride;
        path.below_root[path.len] = base + at;
        path.len += 1;
        path.depth += STRIDE;
        self.nodes_used += 1;
    }

    /// Removes a prefix and the nodes that only it needed; returns its value.
    fn remove(&mut self, key: u128, length: u8) -> Option<u32> {
        let value = self.get(key, length)?;
        let path = self.descend(key, length);
        let number = end_number(key, path.depth, length);
        let node = *self.node(&path, path.len);
        let base = self.values.remove(node.values_base, node.ends.count_ones(), rank(node.ends, number));
        let node = self.node_mut(&path, path.len);
        node.values_base = base;
        node.ends &= !(1 << number);
        self.count -= 1;
        for at in (1..=path.len).rev() {
            let node = self.node(&path, at);
            if node.ends != 0 || node.children != 0 {
                break;
            }
            let stride = stride_at(key, (at as u8 - 1) * STRIDE);
            let parent = *self.node(&path, at - 1);
            let child = rank(parent.children, stride);
            let base = self.nodes.remove(parent.children_base, parent.children.count_ones(), child);
            let parent = self.node_mut(&path, at - 1);
            parent.children_base = base;
            parent.children &= !(1 << stride);
            self.nodes_used -= 1;
        }
        Some(value)
    }
}

/// A map from IPv4 and IPv6 prefixes to `u32` values.
#[derive(Clone, Debug)]
pub struct PrefixTrie {
    ipv4: Trie,
    ipv6: Trie,
    nodes_max: usize,
}

/// A prefix as its family's trie keeps it: left-aligned address and length.
fn key_of(prefix: IpNet) -> (u128, u8) {
    (left_aligned(prefix.network()), prefix.prefix_len())
}

#[inline]
fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => left_aligned_v4(address),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[inline]
fn left_aligned_v4(address: Ipv4Addr) -> u128 {
    u128::from(address.to_bits()) << 96
}

impl PrefixTrie {
    /// An empty map that uses at most `nodes_max` nodes of 24 bytes (16,777,216 at most) for each family.
    pub fn new(nodes_max: usize) -> Self {
        // Keeps every index of the storage within 32 bits.
        Self { ipv4: Trie::new(), ipv6: Trie::new(), nodes_max: nodes_max.min(1 << 24) }
    }

    fn family(&mut self, prefix: IpNet) -> &mut Trie {
        match prefix {
            IpNet::V4(_) => &mut self.ipv4,
            IpNet::V6(_) => &mut self.ipv6,
        }
    }

    /// The value of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address),
            IpAddr::V6(address) => self.lookup_v6(address),
        }
    }

    /// As [`PrefixTrie::lookup`], for an IPv4 address.
    #[inline]
    pub fn lookup_v4(&self, address: Ipv4Addr) -> Option<u32> {
        // In one machine word: no node lies deeper than 30 bits.
        let key = u64::from(address.to_bits()) << 32;
        self.ipv4.lookup(|depth| ((key << depth) >> (64 - STRIDE)) as u32)
    }

    /// As [`PrefixTrie::lookup`], for an IPv6 address.
    #[inline]
    pub fn lookup_v6(&self, address: Ipv6Addr) -> Option<u32> {
        let key = address.to_bits();
        self.ipv6.lookup(|depth| stride_at(key, depth))
    }

    /// The value of exactly this prefix. Host bits of `prefix` are ignored, here and everywhere.
    pub fn get(&self, prefix: IpNet) -> Option<u32> {
        let (key, length) = key_of(prefix);
        match prefix {
            IpNet::V4(_) => self.ipv4.get(key, length),
            IpNet::V6(_) => self.ipv6.get(key, length),
        }
    }

    /// Sets the value of a prefix and returns the one it had.
    ///
    /// # Errors
    /// [`TrieFull`] when the node limit is reached; the map is unchanged.
    pub fn insert(&mut self, prefix: IpNet, value: u32) -> Result<Option<u32>, TrieFull> {
        let (key, length) = key_of(prefix);
        let nodes_max = self.nodes_max;
        self.family(prefix).insert(key, length, value, nodes_max)
    }

    /// Removes a prefix and returns its value.
    pub fn remove(&mut self, prefix: IpNet) -> Option<u32> {
        let (key, length) = key_of(prefix);
        self.family(prefix).remove(key, length)
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.ipv4.count + self.ipv6.count
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes allocated.
    pub fn memory_bytes(&self) -> usize {
        [&self.ipv4, &self.ipv6]
            .iter()
            .map(|trie| trie.nodes.memory_bytes() + trie.values.memory_bytes())
            .sum()
    }
}

#[cfg(test)]
#[path = "prefix_trie_tests.rs"]
mod tests;
