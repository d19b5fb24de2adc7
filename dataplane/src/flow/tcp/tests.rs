//! Connections by the segment, each case with what both ends and the RFCs make of it.

use super::*;

fn segment(flags: u8, sequence: u32, acknowledgment: u32, payload_bytes: u32) -> Segment {
    Segment { sequence, acknowledgment, payload_bytes, window: 1000, flags }
}

fn established() -> TcpTracker {
    let mut tracker = TcpTracker::default();
    assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::Established);
    tracker
}

#[test]
fn a_connection_opens_and_closes() {
    let mut tracker = established();
    assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 500), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(FIN | ACK, 601, 501, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::FinWait);
    assert_eq!(tracker.segment(true, &segment(ACK, 501, 602, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::CloseWait);
    assert_eq!(tracker.segment(true, &segment(FIN | ACK, 501, 602, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::LastAck);
    assert_eq!(tracker.segment(false, &segment(ACK, 602, 502, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::TimeWait);
    assert_eq!(tracker.segment(false, &segment(SYN, 9000, 0, 0), &[]), TcpVerdict::Reopens);
}

#[test]
fn out_of_window_segments_are_invalid() {
    let mut tracker = established();
    for bad in [
        segment(ACK, 101 + 5_000_000, 501, 10),
        segment(ACK, 101, 501 + 5_000_000, 10),
        segment(ACK, 101u32.wrapping_sub(200_000), 501, 10),
        segment(ACK, 101, 501u32.wrapping_sub(200_000), 0),
        segment(0, 101, 501, 10),
        segment(SYN | FIN, 101, 501, 0),
        segment(FIN | RST | ACK, 101, 501, 0),
        segment(RST, 101 + 5_000_000, 0, 0),
    ] {
        let before = tracker;
        assert_eq!(tracker.segment(false, &bad, &[]), TcpVerdict::Invalid, "{bad:?}");
        assert_eq!(tracker, before);
    }
    assert_eq!(tracker.segment(false, &segment(RST, 101, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::Closed);
}

#[test]
fn a_connection_needs_its_handshake() {
    let mut tracker = TcpTracker::default();
    assert_eq!(tracker.segment(false, &segment(ACK, 1, 1, 0), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 1, 1, 0), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(false, &segment(SYN, 1, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 2, 1, 0), &[]), TcpVerdict::Invalid);
}

/// RFC 9293 section 3.5: the responder answers an old SYN, and the initiator resets what that began.
#[test]
fn an_answer_to_an_older_syn_is_reset() {
    let mut tracker = TcpTracker::default();
    assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 300, 91, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::SynSent);
    // Neither does it begin the connection nor does any reset end it.
    assert_eq!(tracker.segment(false, &segment(ACK, 91, 301, 0), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(false, &segment(RST, 92, 0, 0), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(false, &segment(RST, 91, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::SynSent);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 400, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::SynReceived);
    // Once it is answered, another answer is none.
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 300, 91, 0), &[]), TcpVerdict::Invalid);
}

/// Both lost the connection, or the answer to the first SYN never came: the next SYN on its ports is answered as a first one.
#[test]
fn an_answered_late_syn_begins_the_connection_anew() {
    let mut header = vec![0u8; 24];
    header[12] = 6 << 4;
    header[20..24].copy_from_slice(&[1, 3, 3, 7]);
    let mut received = TcpTracker::default();
    assert_eq!(received.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(received.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
    let mut closing = established();
    assert_eq!(closing.segment(true, &segment(FIN | ACK, 501, 101, 0), &[]), TcpVerdict::Valid);
    for mut tracker in [received, established(), closing] {
        let answer = segment(SYN | ACK, 40_000_000, 70_000_001, 0);
        assert_eq!(tracker.segment(true, &answer, &header), TcpVerdict::Invalid, "no SYN passed");
        assert_eq!(tracker.segment(false, &segment(SYN, 70_000_000, 0, 0), &header), TcpVerdict::Valid);
        let other = segment(SYN | ACK, 40_000_000, 70_000_002, 0);
        assert_eq!(tracker.segment(true, &other, &header), TcpVerdict::Invalid);
        assert_eq!(tracker.segment(true, &answer, &header), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::SynReceived);
        assert_eq!(tracker.segment(false, &segment(ACK, 70_000_001, 40_000_001, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Established);
        // The new SYN's scale counts.
        assert_eq!(tracker.segment(true, &segment(ACK, 40_100_000, 70_000_001, 10), &[]), TcpVerdict::Valid);
        assert_eq!(
            tracker.segment(true, &segment(ACK, 40_200_000, 70_000_001, 10), &[]),
            TcpVerdict::Invalid
        );
        assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 0), &[]), TcpVerdict::Invalid);
    }
}

/// A late SYN may have a number within the old connection's window, and so may its answer.
#[test]
fn an_answered_late_syn_may_be_near_the_old_one() {
    for (late, first) in [(60, 700), (60, 501), (101, 500), (110, 700)] {
        let mut tracker = established();
        let answer = segment(SYN | ACK, first, late + 1, 0);
        assert_eq!(tracker.segment(false, &segment(SYN, late, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &answer, &[]), TcpVerdict::Valid, "{late}");
        assert_eq!(tracker.state(), TcpState::SynReceived, "{late}");
        assert_eq!(tracker.segment(false, &segment(ACK, late + 1, first + 1, 10), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Established, "{late}");
    }
}

/// The first SYN again, and its answer again, whenever they come: nothing begins, and what is open goes on.
#[test]
fn a_repeated_handshake_changes_nothing() {
    for bytes in [0, 100] {
        let mut tracker = established();
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, bytes), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(ACK, 501, 101 + bytes, bytes), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Established);
        let [next, reply] = [101 + bytes, 501 + bytes];
        assert_eq!(tracker.segment(false, &segment(ACK, next, reply, 10), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(ACK, reply, next, 10), &[]), TcpVerdict::Valid);
    }
}

/// The answer was lost, and the next one comes from a responder that remembers nothing of it.
#[test]
fn a_repeated_syn_may_have_another_answer() {
    for first in [90_000, 3_000_000_000] {
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(
            tracker.segment(true, &segment(SYN | ACK, first, 101, 0), &[]),
            TcpVerdict::Valid,
            "{first}"
        );
        assert_eq!(tracker.segment(false, &segment(ACK, 101, first + 1, 10), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(true, &segment(ACK, first + 1, 111, 10), &[]), TcpVerdict::Valid);
    }
}

/// Who gets no answer to a SYN with data repeats it without; the answer to the first may come then.
#[test]
fn a_syn_with_data_is_repeated_without() {
    for (acknowledgment, state) in
        [(101, TcpState::SynReceived), (141, TcpState::SynReceived), (142, TcpState::SynSent)]
    {
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 40), &[]), TcpVerdict::Valid);
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
        let answer = segment(SYN | ACK, 500, acknowledgment, 0);
        assert_eq!(tracker.segment(true, &answer, &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), state, "{acknowledgment}");
    }
    // Another attempt has none of it.
    let mut tracker = TcpTracker::default();
    assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 40), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(SYN, 110, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 141, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::SynSent);
}

/// The initiator repeats its SYN when both have opened at once: the responder may still send no more than that SYN's window.
#[test]
fn a_repeated_syn_of_a_simultaneous_open_keeps_its_window() {
    let mut tracker = TcpTracker::default();
    let small = |segment: Segment| Segment { window: 10, ..segment };
    assert_eq!(tracker.segment(false, &small(segment(SYN, 100, 0, 0)), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(SYN, 300, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &small(segment(SYN, 100, 0, 0)), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 300, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(ACK, 800, 101, 10), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(true, &segment(ACK, 301, 101, 10), &[]), TcpVerdict::Valid);
}

/// Half the sequence space away there is neither before nor behind.
#[test]
fn what_lies_opposite_is_out_of_the_window() {
    for opposite in [101, 102, 501, 1_101].map(|sequence: u32| sequence ^ 1 << 31) {
        for flags in [ACK, RST | ACK] {
            let mut tracker = established();
            let stray = segment(flags, opposite, 501, 0);
            assert_eq!(tracker.segment(false, &stray, &[]), TcpVerdict::Invalid, "{opposite:x} {flags:x}");
            let stray = segment(flags, 101, opposite, 0);
            assert_eq!(tracker.segment(false, &stray, &[]), TcpVerdict::Invalid, "{opposite:x} {flags:x}");
        }
    }
}

/// Who sends more than it may must be able to repeat all of it, piece by piece.
#[test]
fn what_was_not_acknowledged_may_come_again() {
    let mut tracker = established();
    assert_eq!(tracker.segment(false, &segment(ACK, 1101, 501, 1400), &[]), TcpVerdict::Valid);
    for sequence in [101, 600, 1101] {
        assert_eq!(
            tracker.segment(false, &segment(ACK, sequence, 501, 100), &[]),
            TcpVerdict::Valid,
            "{sequence}"
        );
    }
    assert_eq!(tracker.segment(true, &segment(ACK, 501, 2501, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 100), &[]), TcpVerdict::Invalid);
}

/// RFC 9293 section 3.5: both begin at once, and both answer with the SYN that they sent.
#[test]
fn both_sides_open_at_once() {
    let mut tracker = TcpTracker::default();
    assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
    let early = segment(SYN | ACK, 100, 301, 0);
    assert_eq!(tracker.segment(false, &early, &[]), TcpVerdict::Invalid, "nobody sent that");
    assert_eq!(tracker.segment(true, &segment(SYN, 300, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(SYN | ACK, 70, 301, 0), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 70, 101, 0), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(false, &early, &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 300, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 101, 301, 10), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::Established);
    // Data in a SYN need not come again with the answer.
    let mut tracker = TcpTracker::default();
    for (reply, opens) in [
        (false, segment(SYN, 100, 0, 20)),
        (true, segment(SYN, 300, 0, 40)),
        (false, early),
        (true, segment(SYN | ACK, 300, 101, 0)),
    ] {
        assert_eq!(tracker.segment(reply, &opens, &[]), TcpVerdict::Valid, "{opens:?}");
    }
    assert_eq!(tracker.state(), TcpState::SynReceived);
    // It was sent all the same, and may be acknowledged.
    for (reply, data) in [(true, segment(ACK, 341, 121, 10)), (false, segment(ACK, 121, 351, 10))] {
        assert_eq!(tracker.segment(reply, &data, &[]), TcpVerdict::Valid, "{data:?}");
    }
    assert_eq!(tracker.state(), TcpState::Established);
}

/// Of the responder nothing is known, whatever numbers would suit.
#[test]
fn a_refused_connection_takes_no_segments() {
    let mut tracker = TcpTracker::default();
    assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(RST | ACK, 0, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::Closed);
    for acknowledgment in [0, u32::MAX, 1u32.wrapping_sub(1000)] {
        let data = segment(ACK, 101, acknowledgment, 10);
        assert_eq!(tracker.segment(false, &data, &[]), TcpVerdict::Invalid, "{acknowledgment}");
    }
    assert_eq!(tracker.segment(true, &segment(ACK, 0, 101, 0), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(false, &segment(SYN, 900, 0, 0), &[]), TcpVerdict::Reopens);
}

/// The initiator's own window allows it nothing, and a closed one no byte but the probe (RFC 9293 section 3.8.6.1).
#[test]
fn nobody_sends_before_the_other_side_offers_a_window() {
    let mut tracker = TcpTracker::default();
    let closed = |segment: Segment| Segment { window: 0, ..segment };
    assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &closed(segment(SYN | ACK, 500, 101, 0)), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 102, 501, 10), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 1), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 102, 501, 1), &[]), TcpVerdict::Invalid);
    let mut tracker = TcpTracker::default();
    assert_eq!(tracker.segment(false, &closed(segment(SYN, 100, 0, 0)), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(ACK, 502, 101, 10), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(true, &segment(ACK, 501, 101, 1), &[]), TcpVerdict::Valid);
}

#[test]
fn retransmissions_and_window_scale_are_valid() {
    let mut header = vec![0u8; 24];
    header[12] = 6 << 4;
    header[20..24].copy_from_slice(&[1, 3, 3, 7]);
    assert_eq!(window_scale(&header), Some(7));
    let mut tracker = TcpTracker::default();
    let syn = segment(SYN, u32::MAX, 0, 0);
    assert_eq!(tracker.segment(false, &syn, &header), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &syn, &header), TcpVerdict::Valid);
    let answer = segment(SYN | ACK, 7, 0, 0);
    assert_eq!(tracker.segment(true, &answer, &header), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &answer, &header), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 0, 8, 0), &[]), TcpVerdict::Valid);
    // 1000 << 7 bytes are allowed now, across the wrap of the sequence space.
    assert_eq!(tracker.segment(true, &segment(ACK, 8, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 100_000, 8, 1000), &[]), TcpVerdict::Valid);
}

/// The final ACK was lost behind the tracker: the responder repeats its SYN-ACK, and the initiator must see it.
#[test]
fn a_repeated_answer_passes_an_established_connection() {
    let mut tracker = established();
    let before = tracker;
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker, before);
    let stray = segment(SYN | ACK, 500 + 5_000_000, 101, 0);
    assert_eq!(tracker.segment(true, &stray, &[]), TcpVerdict::Invalid);
    assert_eq!(tracker, before);
}

/// RFC 9293 section 3.5.1: a host that lost its connection opens it anew with the same ports.
#[test]
fn a_half_open_connection_recovers() {
    let mut tracker = established();
    let before = TcpTracker { late_syn: 70_000_001u32 as u16, ..tracker };
    let syn = segment(SYN, 70_000_000, 0, 0);
    assert_eq!(tracker.segment(false, &syn, &[]), TcpVerdict::Valid);
    assert_eq!(tracker, before, "only the responder knows what it means");
    // The challenge ACK of RFC 5961 section 4, and the reset that it provokes.
    assert_eq!(tracker.segment(true, &segment(ACK, 501, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(RST, 101, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &syn, &[]), TcpVerdict::Reopens);
    // From the responder's side a lone SYN opens nothing.
    assert_eq!(established().segment(true, &segment(SYN, 9, 0, 0), &[]), TcpVerdict::Invalid);
}

/// The same where only the responder remembers the old connection.
#[test]
fn an_older_connection_of_the_responder_is_reset() {
    let mut tracker = TcpTracker::default();
    let syn = segment(SYN, 100, 0, 0);
    assert_eq!(tracker.segment(false, &syn, &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(RST, 5_000_000, 0, 0), &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(true, &segment(ACK, 77, 5_000_000, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(RST, 5_000_000, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::SynSent);
    assert_eq!(tracker.segment(false, &syn, &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::SynReceived);
}

/// An attempt was given up, and the next one has the same ports and another sequence number.
#[test]
fn an_unanswered_attempt_is_replaced() {
    let mut tracker = TcpTracker::default();
    assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(SYN, 9_000_000, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 101, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::SynSent, "an answer to the attempt before");
    assert_eq!(tracker.segment(true, &segment(SYN | ACK, 500, 9_000_001, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::SynReceived);
}

/// RFC 7413: the data of a SYN may be left unacknowledged.
#[test]
fn data_in_a_syn_may_be_refused() {
    for (acknowledgment, state) in [
        (101, TcpState::SynReceived),
        (111, TcpState::SynReceived),
        (100, TcpState::SynSent),
        (112, TcpState::SynSent),
    ] {
        let mut tracker = TcpTracker::default();
        assert_eq!(tracker.segment(false, &segment(SYN, 100, 0, 10), &[]), TcpVerdict::Valid);
        let answer = segment(SYN | ACK, 500, acknowledgment, 0);
        assert_eq!(tracker.segment(true, &answer, &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), state, "{acknowledgment}");
    }
}

/// RFC 9293 section 3.8.4 and 3.8.6.1: keep-alives lie one below, zero window probes one above.
#[test]
fn keep_alives_and_probes_are_valid() {
    let mut tracker = established();
    assert_eq!(tracker.segment(false, &segment(ACK, 100, 501, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 100, 501, 1), &[]), TcpVerdict::Valid);
    let closed = Segment { window: 0, ..segment(ACK, 501, 1101, 0) };
    assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 1000), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &closed, &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(false, &segment(ACK, 1101, 501, 1), &[]), TcpVerdict::Valid);
}

/// RFC 5961 section 3.2: a reset counts at exactly the expected sequence number; elsewhere in the window its receiver is asked
/// first, and below what was acknowledged it is stale.
#[test]
fn a_reset_inside_the_window_does_not_close() {
    let mut tracker = established();
    assert_eq!(tracker.segment(false, &segment(ACK, 101, 501, 300), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(ACK, 501, 251, 0), &[]), TcpVerdict::Valid);
    // 251 is acknowledged, 401 is sent, 1251 is allowed.
    for sequence in [252, 400, 402, 1000, 1251] {
        for flags in [RST, RST | ACK] {
            let mut it = tracker;
            assert_eq!(it.segment(false, &segment(flags, sequence, 501, 0), &[]), TcpVerdict::Valid);
            assert_eq!(it.state(), TcpState::Established, "{sequence}");
            assert!(it.is_doubted() && it.is_assured());
            // The challenge shows that the connection lives; the reset that it provokes is exact.
            let mut lives = it;
            assert_eq!(lives.segment(true, &segment(ACK, 501, 251, 0), &[]), TcpVerdict::Valid);
            assert_eq!((lives.state(), lives.is_doubted()), (TcpState::Established, false));
            assert_eq!(it.segment(false, &segment(RST, 251, 0, 0), &[]), TcpVerdict::Valid);
            assert_eq!((it.state(), it.is_doubted()), (TcpState::Closed, false));
        }
    }
    for sequence in [101, 250, 1252, 5_000_000] {
        let before = tracker;
        let stale = segment(RST, sequence, 0, 0);
        assert_eq!(tracker.segment(false, &stale, &[]), TcpVerdict::Invalid, "{sequence}");
        assert_eq!(tracker, before);
    }
    for sequence in [251, 401] {
        let mut it = tracker;
        assert_eq!(it.segment(false, &segment(RST, sequence, 0, 0), &[]), TcpVerdict::Valid);
        assert_eq!(it.state(), TcpState::Closed, "{sequence}");
    }
    let unsent = segment(RST | ACK, 251, 501 + 5_000_000, 0);
    assert_eq!(tracker.segment(false, &unsent, &[]), TcpVerdict::Invalid);
}

/// What is closing may be a new connection already, elsewhere.
#[test]
fn a_closing_connection_takes_any_reset() {
    let mut tracker = established();
    assert_eq!(tracker.segment(false, &segment(FIN | ACK, 101, 501, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(RST, 77_000_000, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.state(), TcpState::Closed);
}

/// The responder lost the connection and has nobody to accept a new one: the initiator must be told.
#[test]
fn a_refusal_of_a_late_syn_passes() {
    let mut tracker = established();
    let refusal = segment(RST | ACK, 0, 70_000_001, 0);
    assert_eq!(tracker.segment(true, &refusal, &[]), TcpVerdict::Invalid);
    assert_eq!(tracker.segment(false, &segment(SYN, 70_000_000, 0, 0), &[]), TcpVerdict::Valid);
    assert_eq!(tracker.segment(true, &segment(RST | ACK, 0, 9, 0), &[]), TcpVerdict::Invalid);
    for sequence in [0, 501, 77_000_000] {
        let mut tracker = tracker;
        assert_eq!(tracker.segment(true, &Segment { sequence, ..refusal }, &[]), TcpVerdict::Valid);
        assert_eq!(tracker.state(), TcpState::Closed, "{sequence}");
    }
}

#[test]
fn options_are_total() {
    for bytes in [vec![], vec![0; 20], vec![0xff; 40], [vec![0xf0; 13], vec![3; 47]].concat()] {
        let _ = window_scale(&bytes);
    }
}
