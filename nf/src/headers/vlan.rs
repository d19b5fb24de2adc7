//! VLAN tags: IEEE 802.1Q and 802.1ad (QinQ).

use arrayvec::ArrayVec;

/// Tag protocol identifier of a customer tag (802.1Q).
pub const TPID_8021Q: u16 = 0x8100;
/// Tag protocol identifier of a service tag (802.1ad).
pub const TPID_8021AD: u16 = 0x88a8;
/// Most tags that are parsed; a third is left as the frame's EtherType.
pub const TAGS_MAX: usize = 2;

/// The tags of a frame, outermost first.
pub type VlanTags = ArrayVec<VlanTag, TAGS_MAX>;

/// One tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// Tag protocol identifier: [`TPID_8021Q`] or [`TPID_8021AD`].
    pub tpid: u16,
    /// Tag control information: priority (3 bits), drop eligible (1 bit), VLAN identifier (12 bits).
    pub tci: u16,
}

impl VlanTag {
    /// Bytes of a tag.
    pub const BYTES: usize = 4;

    /// The VLAN identifier, 0 to 4,095.
    pub const fn vlan_id(self) -> u16 {
        self.tci & 0x0fff
    }

    /// The priority code point, 0 to 7.
    pub const fn priority(self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// Whether the frame may be dropped first.
    pub const fn drop_eligible(self) -> bool {
        self.tci & 0x1000 != 0
    }
}

/// Whether `ether_type` announces a tag.
#[inline]
pub const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, TPID_8021Q | TPID_8021AD)
}
