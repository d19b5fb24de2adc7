//! From a device's queues to the parts of all workers in the port.

use super::place::{Place, WorkerId};
use super::poller::{Other, Peer, Poller};
use super::shared::SharedPort;
use super::waker::Waker;
use super::way::Way;
use crate::packet::Packet;
use crate::port::Port;
use crate::ring::{Consumer, Producer, ring};

/// Packets that a ring between two workers holds where one polls the port: some bursts, so that an owner may be late by a sleep's
/// end without loss.
pub const RING_PACKETS: usize = 1_024;
/// The least, where many do: each has its share of what arrives for an owner.
const RING_PACKETS_MIN: usize = 256;
/// Fragments, and owners of datagrams, that are on their way from one who polls to another.
const FRAGMENTS: usize = 256;

/// Packets that a ring from one of so many pollers to an owner holds.
pub const fn ring_packets(pollers: usize) -> usize {
    let each = RING_PACKETS / if pollers == 0 { 1 } else { pollers };
    if each < RING_PACKETS_MIN { RING_PACKETS_MIN } else { each }
}

/// A worker that takes part in a port.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub worker: WorkerId,
    /// Whether it owns connections, and so gets what is for everyone.
    pub is_owner: bool,
    /// How it is woken.
    pub waker: Waker,
}

/// What one worker polls of a port.
pub struct Queue {
    /// One queue of the device, or several as one.
    pub device: Box<dyn Port>,
    /// Says whose its packets are. All of a port say the same.
    pub place: Box<dyn Place>,
}

/// The parts of all `members` in a port, in their order: the first poll a queue each, as many as there are.
///
/// # Panics
/// There is no queue, or there are more than members.
pub fn share(queues: Vec<Queue>, members: &[Member]) -> Vec<SharedPort> {
    let pollers = queues.len();
    assert!((1..=members.len()).contains(&pollers), "from 1 to {} queues", members.len());
    let (info, takes_whole) = (queues[0].device.info().clone(), queues[0].device.takes_whole());
    let rings = Rings { members, pollers };
    let (mut to, mut from) = rings.make(pollers, members.len(), ring_packets(pollers), Way::new);
    let (mut fragments_to, mut fragments_from) = rings.make(pollers, pollers, FRAGMENTS, Way::new);
    let (mut tells, mut told) = rings.make(pollers, pollers, FRAGMENTS, |tells, _| tells);
    let mut clients: Vec<Vec<Consumer<Packet>>> = members.iter().map(|_| Vec::new()).collect();
    let mut queues = queues.into_iter();
    let mut parts = Vec::new();
    for (at, member) in members.iter().enumerate() {
        let poller = queues.next().map(|Queue { device, place }| {
            let peers = members.iter().zip(to[at].drain(..));
            let peers = peers.filter_map(|(peer, way)| Some(Peer::new(peer, way?))).collect();
            let others = (fragments_to[at].drain(..).zip(tells[at].drain(..)))
                .zip(fragments_from[at].drain(..).zip(told[at].drain(..)))
                .zip(members)
                .map(|(((to, tells), (from, told)), other)| {
                    Some(Other::new(to?, tells?, other.waker.clone(), from?, told?))
                })
                .collect();
            Poller::new(device, place, member, peers, others)
        });
        let sender = poller.is_none().then(|| {
            let sends = at % pollers;
            let (to, taken) = ring(RING_PACKETS);
            clients[sends].push(taken);
            Way::new(to, members[sends].waker.clone())
        });
        let arrivals = from[at].drain(..).flatten().collect();
        parts.push(SharedPort::new((&info, takes_whole), pollers, poller, arrivals, sender));
    }
    parts.iter_mut().zip(clients).for_each(|(part, clients)| part.serve(clients));
    parts
}

struct Rings<'a> {
    members: &'a [Member],
    pollers: usize,
}

/// By who has it, then by who is at the other end; none between a worker and itself.
type Ends<T> = Vec<Vec<Option<T>>>;

impl Rings<'_> {
    /// A ring from each of the first `from` members to each other one of the first `to`.
    fn make<T: Send, W>(
        &self,
        from: usize,
        to: usize,
        capacity: usize,
        way: impl Fn(Producer<T>, Waker) -> W,
    ) -> (Ends<W>, Ends<Consumer<T>>) {
        debug_assert!(from <= self.pollers);
        let mut producers: Ends<W> = (0..from).map(|_| Vec::new()).collect();
        let mut consumers: Ends<Consumer<T>> = (0..to).map(|_| Vec::new()).collect();
        for (giver, producers) in producers.iter_mut().enumerate() {
            for (taker, consumers) in consumers.iter_mut().enumerate() {
                let ends = (giver != taker).then(|| ring(capacity));
                let (producer, consumer) = ends.unzip();
                producers.push(producer.map(|producer| way(producer, self.members[taker].waker.clone())));
                consumers.push(consumer);
            }
        }
        (producers, consumers)
    }
}
