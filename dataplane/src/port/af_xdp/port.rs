//! The port over one AF_XDP socket.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use super::device::Reopener;
use super::frames::Frames;
use super::shared::Device;
use super::socket::{Kick, XskSocket};
use super::umem::Umem;
use crate::affinity;
use crate::drops::DropReason;
use crate::limits::DATA_OFFSET;
use crate::memory::Pool;
use crate::packet::{Burst, Packet};
use crate::port::kernel::interface::{LINK_HEADER_BYTES, Promiscuous, keep_address};
use crate::port::kernel::netlink::{Link, LinkNews, LinkWatch, RouteSocket};
use crate::port::kernel::{self, Failure};
use crate::port::{MacAddress, Port, PortCounters, PortInfo};
use crate::time::Time;

/// How often the port looks for news about its link.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often it tries to come back.
const RETURN_INTERVAL: Duration = Duration::from_secs(1);
/// Most finished transmissions taken back in one call: four bursts.
const COMPLETIONS_MAX: u32 = 256;
/// How long closing waits for packets that the kernel is still sending.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(100);
/// An Ethernet header with two tags, without FCS: what comes on top of the MTU when sending.
const TX_HEADER_BYTES: usize = LINK_HEADER_BYTES + 4;

/// One queue of an interface. Made by [`super::AfXdpDevice::port`].
///
/// The kernel has up to `fill_ring` frames of the pool for packets to receive and up to `tx_ring` with
/// packets to send. A packet counts as sent when the kernel says so; until then it is in [`Port::buffered`].
#[derive(Debug)]
pub struct AfXdpPort {
    info: PortInfo,
    counters: PortCounters,
    copied_packets: u64,
    broken_descriptors: u64,
    frame_room: usize,
    /// `None` once the port is closed, and while its interface is gone.
    live: Option<Live>,
    reopener: Reopener,
    /// While another thread opens the queue again.
    returning: Option<Receiver<Reopened>>,
    next_return: Time,
    /// What the last try to come back failed for: said once.
    said: Option<String>,
    is_closed: bool,
    /// What sockets before the present one missed.
    missed_before: u64,
    /// The interface's own address, which may change while the port keeps its own.
    link_mac: MacAddress,
    promiscuous: Option<Promiscuous>,
}

/// What became of a try to come back.
type Reopened = Result<(Link, Live), Failure>;

/// What an open port works with.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) socket: XskSocket,
    pub(super) frames: Frames,
    pub(super) umem: Umem,
    pub(super) device: Arc<Device>,
    pub(super) queue: u32,
    pub(super) fill_target: u32,
    pub(super) tx_ring: u32,
    pub(super) watch: LinkWatch,
    pub(super) next_look: Time,
    /// Held for as long as all frames are to be received, beyond what the configuration says.
    pub(super) promiscuous: Option<OwnedFd>,
}

impl AfXdpPort {
    pub(super) fn new(link: &Link, live: Live, reopener: Reopener) -> Self {
        let info = PortInfo {
            name: reopener.config.name.clone(),
            description: describe(link, &live),
            mac: link.mac,
            mtu: 0,
            link_up: link.is_up(),
        };
        let mut port = Self {
            info,
            counters: PortCounters::default(),
            copied_packets: 0,
            broken_descriptors: 0,
            frame_room: live.umem.frame_bytes() - DATA_OFFSET,
            live: Some(live),
            reopener,
            returning: None,
            next_return: Time(0),
            said: None,
            is_closed: false,
            missed_before: 0,
            link_mac: link.mac,
            promiscuous: None,
        };
        port.set_mtu(link.mtu);
        port
    }

    /// Packets that were copied to be sent, since their frames were not of the port's pool.
    pub fn copied_packets(&self) -> u64 {
        self.copied_packets
    }

    /// Descriptors of the kernel that made no sense. Each that brought a frame back is also in `rx_drops`.
    pub fn broken_descriptors(&self) -> u64 {
        self.broken_descriptors
    }

    fn set_mtu(&mut self, mtu: u32) {
        let room = self.frame_room.saturating_sub(LINK_HEADER_BYTES);
        self.info.mtu = u16::try_from((mtu as usize).min(room)).unwrap_or(u16::MAX);
    }

    /// Looks for news about the link, if it is time.
    fn look(&mut self, pool: &mut Pool, now: Time) {
        if self.live.is_none() {
            return self.look_for_return(now);
        }
        let Some(live) = self.live.as_mut().filter(|live| now >= live.next_look) else { return };
        live.next_look = now + LOOK_INTERVAL;
        match live.watch.news() {
            Ok(None) => {}
            Ok(Some(LinkNews::Changed(link, was_down))) => self.link_changed(&link, was_down),
            Ok(Some(LinkNews::Gone)) => self.fail(pool),
            Err(error) => tracing::warn!(port = self.info.name, %error, "can't read news about the link"),
        }
    }

    fn link_changed(&mut self, link: &Link, was_down: bool) {
        if link.is_up() != self.info.link_up {
            tracing::info!(port = self.info.name, interface = link.name, up = link.is_up(), "link changed");
        }
        self.set_link(link.is_up(), was_down);
        let before = self.info.mtu;
        self.set_mtu(link.mtu);
        if self.info.mtu != before {
            let (interface, mtu) = (&link.name, self.info.mtu);
            tracing::info!(port = self.info.name, interface, before, mtu, "the MTU changed");
        }
        if link.mac != self.link_mac {
            self.link_mac = link.mac;
            let keeps = link.mac != self.info.mac;
            self.promiscuous = keeps.then(|| keep_address(&self.info.name, link));
        }
    }

    /// Takes note of the link's state; `was_down` says that it was down since the last look.
    fn set_link(&mut self, up: bool, was_down: bool) {
        self.counters.link_losses += u64::from(self.info.link_up && (was_down || !up));
        self.info.link_up = up;
    }

    /// Comes back when the interface does. A thread of its own waits for the kernel, so that no packet of other ports does.
    fn look_for_return(&mut self, now: Time) {
        if now < self.next_return || self.is_closed {
            return;
        }
        self.next_return = now + RETURN_INTERVAL;
        match self.returning.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => {}
            Some(Ok(reopened)) => {
                self.returning = None;
                self.come_back(reopened);
            }
            // The thread ended without a word, or there was none: try.
            Some(Err(TryRecvError::Disconnected)) | None => {
                self.returning = None;
                if kernel::sys::interface_index(&self.reopener.config.interface).is_some() {
                    self.next_return = now + LOOK_INTERVAL;
                    self.start_return();
                }
            }
        }
    }

    fn start_return(&mut self) {
        let (sender, receiver) = channel();
        let (reopener, mac) = (self.reopener.clone(), self.info.mac);
        let open = move || {
            affinity::join_control_cores();
            // If the port was closed meanwhile, what was opened is dropped with this.
            let _ = sender.send(reopener.open(mac));
        };
        match thread::Builder::new().name("af_xdp-return".to_owned()).spawn(open) {
            Ok(_) => self.returning = Some(receiver),
            Err(error) => self.say(format!("start a thread: {error}")),
        }
    }

    fn come_back(&mut self, reopened: Reopened) {
        match reopened {
            Ok((link, live)) => {
                self.said = None;
                self.info.link_up = link.is_up();
                self.link_mac = link.mac;
                self.info.description = describe(&link, &live);
                self.set_mtu(link.mtu);
                self.live = Some(live);
                tracing::info!(
                    port = self.info.name,
                    device = self.info.description,
                    up = self.info.link_up,
                    "the interface is back; the port is open again"
                );
            }
            Err((action, error)) => self.say(format!("{action}: {error}")),
        }
    }

    fn say(&mut self, text: String) {
        if self.said.as_ref() != Some(&text) {
            tracing::warn!(port = self.info.name, error = text, "the port can't come back yet");
            self.said = Some(text);
        }
    }

    /// Goes quiet: the interface is gone.
    fn fail(&mut self, pool: &mut Pool) {
        tracing::error!(
            port = self.info.name,
            device = self.info.description,
            "the interface is gone; the port waits for it to come back"
        );
        self.shut(Some(pool), DropReason::LinkDown);
    }

    /// Closes the socket and brings all frames back.
    fn shut(&mut self, pool: Option<&mut Pool>, reason: DropReason) {
        self.update_missed();
        self.missed_before = self.counters.rx_missed;
        if reason == DropReason::LinkDown {
            self.set_link(false, false);
        }
        self.info.link_up = false;
        self.promiscuous = None;
        let Some(live) = self.live.take() else { return };
        let Live { socket, frames, umem, device, queue, .. } = live;
        self.counters.tx_drops.count_many(reason, u64::from(frames.sending()));
        device.forget(queue);
        if let Err(error) = frames.close(socket, &umem, pool) {
            tracing::error!(
                port = self.info.name,
                %error,
                "the device keeps the frames of the closed port; they are lost to the pool"
            );
        }
    }

    fn update_missed(&mut self) {
        if let Some(Ok(missed)) = self.live.as_ref().map(|live| live.socket.missed()) {
            self.counters.rx_missed = self.missed_before + missed;
        }
    }

    fn handle(&mut self, kick: Kick, pool: &mut Pool) {
        match kick {
            Kick::Done => {}
            // Packets go on being dropped until the news say that the link is back.
            Kick::Down => self.set_link(false, false),
            Kick::Gone => self.fail(pool),
        }
    }

    /// Takes back the frames of what the kernel has sent.
    fn reap(&mut self, pool: &mut Pool) {
        let Some(live) = &mut self.live else { return };
        let count = live.socket.completion.available(COMPLETIONS_MAX);
        if count == 0 {
            return;
        }
        for _ in 0..count {
            match live.frames.finish(pool, live.socket.completion.pop()) {
                Some(length) => {
                    self.counters.tx_packets += 1;
                    self.counters.tx_bytes += u64::from(length);
                }
                None => self.broken_descriptors += 1,
            }
        }
        live.socket.completion.release();
    }

    /// Puts packets in the TX ring, and drops what does not fit or can't be sent.
    fn enqueue(&mut self, pool: &mut Pool, burst: &mut Burst) {
        let Some(live) = &mut self.live else { return };
        let length_max = usize::from(self.info.mtu) + TX_HEADER_BYTES;
        // As many as the completion ring holds: the kernel never waits for room there.
        let unfinished = live.tx_ring.saturating_sub(live.frames.sending());
        let mut room = live.socket.tx.room(burst.len() as u32).min(unfinished);
        let drops = &mut self.counters.tx_drops;
        for packet in burst.drain_all() {
            if packet.is_empty() || packet.len() > length_max {
                drops.count(DropReason::TxFailed);
                pool.discard(packet, DropReason::TxFailed);
                continue;
            }
            if room == 0 {
                drops.count(DropReason::TxQueueFull);
                pool.discard(packet, DropReason::TxQueueFull);
                continue;
            }
            match live.frames.send(packet) {
                Ok(descriptor) => {
                    live.socket.tx.push(descriptor);
                    room -= 1;
                }
                Err(foreign) => match copy(pool, foreign).map(|copy| live.frames.send(copy)) {
                    Ok(Ok(descriptor)) => {
                        live.socket.tx.push(descriptor);
                        room -= 1;
                        self.copied_packets += 1;
                    }
                    Ok(Err(packet)) => {
                        drops.count(DropReason::TxFailed);
                        pool.discard(packet, DropReason::TxFailed);
                    }
                    Err(reason) => drops.count(reason),
                },
            }
        }
        live.socket.tx.submit();
    }

    fn discard(&mut self, pool: &mut Pool, burst: &mut Burst) {
        let sends = self.live.is_some() && self.info.link_up;
        let reason = if sends { DropReason::TxFailed } else { DropReason::LinkDown };
        self.counters.tx_drops.count_many(reason, burst.len() as u64);
        pool.discard_all(burst, reason);
    }

    /// Lets the kernel finish what it has to send, for a bounded time.
    fn drain(&mut self, pool: &mut Pool) {
        const STEP: Duration = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        while waited < DRAIN_TIME_MAX {
            self.reap(pool);
            let Some(live) = self.live.as_mut().filter(|live| live.frames.sending() > 0) else { return };
            if live.socket.kick_tx() != Kick::Done {
                return;
            }
            thread::sleep(STEP);
            waited += STEP;
        }
    }
}

/// Kind, interface and queue, for people.
fn describe(link: &Link, live: &Live) -> String {
    let copies = if live.socket.is_zero_copy() { "zero-copy mode" } else { "copy mode" };
    let mode = live.device.program.mode_text();
    format!("af_xdp {} queue {} ({mode}, {copies})", link.name, live.queue)
}

/// Copies a packet to a frame of `pool`.
fn copy(pool: &mut Pool, packet: Packet) -> Result<Packet, DropReason> {
    let copied = match pool.take() {
        None => Err(DropReason::PoolExhausted),
        Some(mut target) => match target.set_contents(packet.bytes()) {
            Ok(()) => Ok(target),
            Err(_) => {
                pool.put(target);
                Err(DropReason::TxFailed)
            }
        },
    };
    match &copied {
        Ok(_) => pool.put(packet),
        Err(reason) => pool.discard(packet, *reason),
    }
    copied
}

impl Port for AfXdpPort {
    fn rx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.look(pool, now);
        let Some(live) = self.live.as_mut().filter(|live| live.frames.is_of(pool)) else { return };
        let count = live.socket.rx.available(burst.room() as u32);
        let before = burst.len();
        for _ in 0..count {
            match live.frames.take_received(pool, live.socket.rx.pop()) {
                Ok(packet) => {
                    self.counters.rx_bytes += packet.len() as u64;
                    // `count` was no more than what fits.
                    let _ = burst.push(packet);
                }
                Err(_) => {
                    self.broken_descriptors += 1;
                    self.counters.rx_drops.count(DropReason::BadLength);
                }
            }
        }
        if count > 0 {
            live.socket.rx.release();
            self.counters.rx_packets += (burst.len() - before) as u64;
        }
        let wanted = live.fill_target.saturating_sub(live.frames.filling());
        if wanted > 0 && live.frames.fill(pool, &mut live.socket.fill, wanted) > 0 {
            live.socket.fill.submit();
        }
        let kick = live.socket.kick_rx();
        self.handle(kick, pool);
    }

    fn tx(&mut self, pool: &mut Pool, now: Time, burst: &mut Burst) {
        self.look(pool, now);
        self.reap(pool);
        let Some(live) = self.live.as_mut().filter(|live| live.frames.is_of(pool)) else {
            return self.discard(pool, burst);
        };
        if !burst.is_empty() {
            if !self.info.link_up {
                return self.discard(pool, burst);
            }
            if live.socket.tx.room(burst.len() as u32) < burst.len() as u32 {
                let kick = live.socket.kick_tx();
                self.reap(pool);
                self.handle(kick, pool);
            }
            self.enqueue(pool, burst);
            if !burst.is_empty() {
                return self.discard(pool, burst);
            }
        }
        if let Some(live) = &mut self.live {
            let kick = live.socket.kick_tx();
            self.handle(kick, pool);
        }
        self.reap(pool);
    }

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn counters(&mut self) -> PortCounters {
        self.update_missed();
        self.counters.clone()
    }

    fn buffered(&self) -> u64 {
        self.live.as_ref().map_or(0, |live| u64::from(live.frames.sending()))
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.live.as_ref().map(|live| live.socket.raw_fd())
    }

    fn close(&mut self, mut pool: Option<&mut Pool>) {
        if let Some(pool) = &mut pool {
            self.drain(pool);
        }
        self.is_closed = true;
        self.returning = None;
        self.shut(pool, DropReason::Shutdown);
    }
}

impl Drop for AfXdpPort {
    fn drop(&mut self) {
        self.shut(None, DropReason::Shutdown);
    }
}

/// Opens the watch of a link before the link is read, so that no change between the two is missed.
pub(super) fn watch_and_read(interface_index: u32) -> io::Result<(LinkWatch, Link)> {
    let watch = LinkWatch::open(interface_index)?;
    let link = RouteSocket::open()?.link_by_index(interface_index)?;
    Ok((watch, link))
}
