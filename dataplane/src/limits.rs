//! Every bound of the data plane, with the relations between them checked at compile time.

/// Most packets in one burst.
pub const BURST_PACKETS_MAX: usize = 64;
/// Bytes of the metadata line at the start of each frame.
pub const METADATA_BYTES: usize = 64;
/// Least bytes free in front of a received packet, for pushed headers.
pub const HEADROOM_BYTES_MIN: usize = 192;
/// Where a received packet starts in its frame. AF_XDP fixes it: the kernel leaves 256 bytes free.
pub const DATA_OFFSET: usize = METADATA_BYTES + HEADROOM_BYTES_MIN;
/// Most ports that one worker serves.
pub const PORTS_MAX: usize = 64;
/// Most logical ports at a time, by which packets come in again behind packet functions. Their numbers follow those of ports.
pub const LOGICAL_PORTS_MAX: usize = 2_048;
/// Most packet functions of a chain.
pub const PACKET_FUNCTIONS_MAX: usize = 8;
/// Largest frame of a port without FCS (an MTU of 9,000 and the Ethernet header with two tags).
pub const FRAME_BYTES_MAX: usize = 9_022;
/// Bytes of a frame for what a kernel hands over as one though it is several packets: as large as a frame's offsets allow, and an
/// odd number of lines.
pub const LARGE_FRAME_BYTES: usize = 65_472;
/// Where a packet starts in such a frame: so far in front that the largest that Linux makes of a TCP stream (65,226 bytes) fits.
/// Nothing but a tag is put in front of a frame that is carried whole: it is cut before.
pub const LARGE_DATA_OFFSET: usize = METADATA_BYTES + 128;
/// Large frames that wait to be filled by a port that receives into them.
pub const LARGE_FRAMES_POSTED: usize = 16;
/// Most frames that are carried whole which a worker takes in a turn from a queue, or from a ring of another that polls: should each
/// have to be cut, a ring between two workers holds their packets.
pub const LARGE_FRAMES_TURN: usize = 8;
/// Most packets that a frame stands for which is carried whole; of smaller pieces it is cut when it is received.
pub const LARGE_PACKETS_MAX: usize = 128;

const _: () = assert!(LARGE_FRAME_BYTES <= u16::MAX as usize && LARGE_FRAME_BYTES / 64 % 2 == 1);
const _: () = assert!(LARGE_FRAME_BYTES - LARGE_DATA_OFFSET >= 65_226 + 4);
const _: () = assert!(DATA_OFFSET == 256);
// Two for each port and packet function, and as many again, so that a number rests before it is used again.
const _: () = assert!(LOGICAL_PORTS_MAX >= 4 * PORTS_MAX * PACKET_FUNCTIONS_MAX);
const _: () = assert!(BURST_PACKETS_MAX.is_power_of_two());
