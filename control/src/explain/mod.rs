//! What would become of a packet, and why, without sending it.
//!
//! 1. [`packet`] reads the words in which people describe a packet, makes the frame, and puts frames into these words.
//! 2. [`look`] asks the chains of a worker; nothing of what they decide comes true.
//! 3. [`report`] is what they said, by names, as JSON; [`text`] the same for people.

pub mod look;
pub mod packet;
pub mod report;
pub mod text;

pub use report::Report;

use serde::{Deserialize, Serialize};

/// The packet that is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// In words: see [`packet::Described`]. It is addressed to the port that it comes in by.
    Packet(String),
    /// As a frame, from the Ethernet header on, without FCS.
    Frame(Vec<u8>),
}
