//! What happens to the instance, its links and its clients.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::clients::Clients;
use super::configuration::Configuration;
use super::network::Network;
use super::random::Random;

pub struct Disturber<'a> {
    network: &'a Network,
    configuration: Configuration,
    next: Instant,
    /// Links that are down, with what brings them back, and when.
    down: Option<(Instant, Repair)>,
    /// How often what happened.
    pub counts: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug)]
enum Repair {
    /// The router's end comes up again.
    Up(&'static str),
    /// The host's end comes up again, with the addresses that went with it.
    HostUp(&'static str),
    /// The interface is made again.
    Plug(&'static str),
}

impl<'a> Disturber<'a> {
    pub fn new(network: &'a Network, configuration: Configuration) -> Self {
        Self {
            network,
            configuration,
            next: Instant::now() + Duration::from_secs(3),
            down: None,
            counts: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    /// Does something now and then.
    pub fn look(&mut self, random: &mut Random, clients: &mut Clients) {
        if self.down.as_ref().is_some_and(|(until, _)| Instant::now() >= *until) {
            self.repair();
        }
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + Duration::from_millis(300 + random.below(2_500));
        match random.below(10) {
            0..=4 => self.apply(random),
            5 => self.apply_nonsense(),
            6 | 7 => {
                clients.kill_one(random);
                self.count("client killed");
            }
            8 => self.clear(random),
            _ => self.cut(random),
        }
    }

    /// Everything as it should be.
    pub fn calm(&mut self) {
        if self.down.is_some() {
            self.repair();
        }
        // Whoever is asked has connections.
        if self.configuration.has_probes() {
            let quiet = self.configuration.without_probes();
            let (accepted, said) = self.network.apply(&quiet.text(&self.network.site));
            if accepted {
                self.configuration = quiet;
            } else {
                assert!(said.contains("earlier change"), "{said}");
            }
        }
    }

    fn apply(&mut self, random: &mut Random) {
        let (new, what) = self.configuration.change(random);
        let (accepted, said) = self.network.apply(&new.text(&self.network.site));
        // The sweep of the change before may be under way still.
        if !accepted && said.contains("earlier change") {
            return self.count("apply: to be tried again");
        }
        assert!(accepted, "apply of another {what} was refused: {said}");
        self.count(&format!("apply: {what}"));
        let came = new.third && !self.configuration.third;
        self.configuration = new;
        if came {
            self.network.take_third();
        }
    }

    fn apply_nonsense(&mut self) {
        let text = self.configuration.text(&self.network.site).replace("10.1.0.1/24", "10.1.0.1/33");
        let (accepted, said) = self.network.apply(&text);
        assert!(!accepted, "a wrong configuration was accepted: {said}");
        self.count("apply: refused");
    }

    fn clear(&mut self, random: &mut Random) {
        let filter = random.one_of(&["protocol=udp", "protocol=icmp", "source=10.1.0.3", "all"]);
        let output = self.network.ask(&["clear", "sessions", filter]).output().unwrap();
        assert!(output.status.success(), "clear sessions {filter}: {output:?}");
        self.count("sessions cleared");
    }

    fn cut(&mut self, random: &mut Random) {
        if self.down.is_some() {
            return;
        }
        let link = random.one_of(&["mr-lan", "mr-wan"]);
        let host = if link == "mr-lan" { &self.network.inside } else { &self.network.outside };
        let (repair, time) = match random.below(3) {
            0 => {
                self.network.router.run(&format!("ip link set dev {link} down"));
                self.count("link down");
                (Repair::Up(link), 200 + random.below(1_500))
            }
            1 => {
                host.run("ip link set dev eth0 down");
                self.count("carrier lost");
                (Repair::HostUp(link), 200 + random.below(1_500))
            }
            _ => {
                self.network.router.run(&format!("ip link delete {link}"));
                self.count("interface deleted");
                (Repair::Plug(link), 500 + random.below(1_500))
            }
        };
        self.down = Some((Instant::now() + Duration::from_millis(time), repair));
    }

    fn repair(&mut self) {
        match self.down.take().map(|(_, repair)| repair) {
            Some(Repair::Up(link)) => self.network.router.run(&format!("ip link set dev {link} up")),
            Some(Repair::HostUp(link)) => self.network.address(link),
            Some(Repair::Plug(link)) => self.network.plug(link),
            None => {}
        }
    }
}
