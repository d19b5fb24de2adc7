//! Where packets are copied, in words: `port:lan`, `port:lan/tx`, `chain:edge`, `function:nat`, `drops`, `drops:no_route`.

use millrace_dataplane::capture::Points;
use millrace_dataplane::drops::DropReason;
use millrace_dataplane::port::PortId;

use crate::config::Config;
use crate::instance::functions::PortFacts;

/// What an interface of the capture shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shows {
    /// What a port receives.
    Received(PortId),
    /// What a port is given to send.
    Sent(PortId),
    /// What is dropped for one of these reasons.
    Dropped(Vec<DropReason>),
    /// Packets as they enter a chain.
    Chain(String),
    /// Packets as they come to a function.
    Function(String),
}

/// An interface of the capture. Its number is its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its name, as it was asked for.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The port, if it shows one.
    pub port: Option<PortFacts>,
    /// What it shows.
    pub shows: Shows,
}

/// The points of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PointSet {
    /// All of them.
    pub points: Vec<Point>,
    /// By the number of a port, the chain that its packets enter: by its place in `chains`.
    pub chain_of: Vec<Option<usize>>,
    /// Chains whose packets are followed.
    pub chains: Vec<String>,
}

impl PointSet {
    /// Reads points; names are those of what runs.
    ///
    /// # Errors
    /// What is wrong with one, and what would be valid.
    pub fn parse(texts: &[String], config: &Config, ports: &[PortFacts]) -> Result<Self, String> {
        let mut set = Self::default();
        for text in texts {
            let (kind, name) =
                text.split_once(':').map_or((text.as_str(), None), |(kind, name)| (kind, Some(name)));
            match (kind, name) {
                ("ports", None) => ports.iter().for_each(|port| set.add_port(port, None)),
                ("port", Some(name)) => set.add_named_port(name, ports)?,
                ("chain", Some(name)) => set.add_chain(name, config)?,
                ("function", Some(name)) => set.add_function(name, config)?,
                ("drops", reason) => set.add_drops(reason)?,
                _ => {
                    return Err(format!(
                        "`{text}` is no point: expected port:NAME, port:NAME/rx, port:NAME/tx, ports, chain:NAME, \
                         function:NAME, drops or drops:REASON"
                    ));
                }
            }
        }
        set.follow(config, ports);
        Ok(set)
    }

    fn add(&mut self, point: Point) {
        if !self.points.iter().any(|known| known.shows == point.shows) {
            self.points.push(point);
        }
    }

    fn add_named_port(&mut self, text: &str, ports: &[PortFacts]) -> Result<(), String> {
        let (name, way) = match text.rsplit_once('/') {
            Some((name, way @ ("rx" | "tx"))) => (name, Some(way)),
            _ => (text, None),
        };
        let known = ports.iter().map(|port| port.name.as_str());
        let port = ports.iter().find(|port| port.name == name);
        let port = port.ok_or_else(|| unknown("port", name, known))?;
        self.add_port(port, way);
        Ok(())
    }

    fn add_port(&mut self, port: &PortFacts, way: Option<&str>) {
        let PortFacts { id, name, .. } = port;
        for (this, what, shows) in
            [("rx", "receives", Shows::Received(*id)), ("tx", "is given to send", Shows::Sent(*id))]
        {
            if way.is_none_or(|way| way == this) {
                self.add(Point {
                    name: format!("port:{name}/{this}"),
                    description: format!("what port {name} {what}"),
                    port: Some(port.clone()),
                    shows,
                });
            }
        }
    }

    fn add_chain(&mut self, name: &str, config: &Config) -> Result<(), String> {
        let known = || config.chains.iter().map(|chain| chain.name.as_str());
        if !known().any(|known| known == name) {
            return Err(unknown("chain", name, known()));
        }
        self.add(Point {
            name: format!("chain:{name}"),
            description: format!("packets as they enter chain {name}"),
            port: None,
            shows: Shows::Chain(name.to_owned()),
        });
        Ok(())
    }

    fn add_function(&mut self, name: &str, config: &Config) -> Result<(), String> {
        let known = || config.chains.iter().flat_map(|chain| chain.functions.iter().map(String::as_str));
        if !known().any(|known| known == name) {
            return Err(unknown("function in a chain", name, known()));
        }
        self.add(Point {
            name: format!("function:{name}"),
            description: format!("packets as they come to function {name}"),
            port: None,
            shows: Shows::Function(name.to_owned()),
        });
        Ok(())
    }

    fn add_drops(&mut self, reason: Option<&str>) -> Result<(), String> {
        let reasons = match reason {
            None => DropReason::ALL.to_vec(),
            Some(name) => {
                let found = DropReason::ALL.iter().find(|reason| reason.name() == name);
                let known = DropReason::ALL.iter().map(|reason| reason.name());
                vec![*found.ok_or_else(|| unknown("drop reason", name, known))?]
            }
        };
        let (name, description) = match reason {
            None => ("drops".to_owned(), "packets that are dropped".to_owned()),
            Some(reason) => (format!("drops:{reason}"), format!("packets that are dropped as {reason}")),
        };
        self.add(Point { name, description, port: None, shows: Shows::Dropped(reasons) });
        Ok(())
    }

    /// Finds the chains whose packets are followed, and the ports that lead to them.
    fn follow(&mut self, config: &Config, ports: &[PortFacts]) {
        for chain in &config.chains {
            let is_followed = self.points.iter().any(|point| match &point.shows {
                Shows::Chain(name) => *name == chain.name,
                Shows::Function(name) => chain.functions.contains(name),
                Shows::Received(_) | Shows::Sent(_) | Shows::Dropped(_) => false,
            });
            if is_followed {
                for port in ports.iter().filter(|port| chain.zone_of(&port.name).is_some()) {
                    let at = usize::from(port.id.0);
                    if self.chain_of.len() <= at {
                        self.chain_of.resize(at + 1, None);
                    }
                    self.chain_of[at] = Some(self.chains.len());
                }
                self.chains.push(chain.name.clone());
            }
        }
    }

    /// The points that the data plane records.
    pub fn recorded(&self) -> Points {
        let mut recorded = Points::default();
        let points = || self.points.iter().zip(0u16..);
        for (point, number) in points() {
            match &point.shows {
                Shows::Received(port) => recorded.add_received(*port, number),
                Shows::Sent(port) => recorded.add_sent(*port, number),
                Shows::Dropped(reasons) if reasons.len() > 1 => {
                    reasons.iter().for_each(|reason| recorded.add_dropped(*reason, number));
                }
                Shows::Dropped(_) | Shows::Chain(_) | Shows::Function(_) => {}
            }
        }
        // A reason that was asked for alone has its own point.
        for (point, number) in points() {
            if let Shows::Dropped(reasons) = &point.shows
                && let &[reason] = reasons.as_slice()
            {
                recorded.add_dropped(reason, number);
            }
        }
        recorded
    }

    /// The places in [`Self::chains`] of the chains that packets of a followed point come from.
    pub fn chains_of(&self, point: &Point, config: &Config) -> Vec<usize> {
        let chains = self.chains.iter().enumerate().filter(|(_, name)| match &point.shows {
            Shows::Chain(chain) => chain == *name,
            Shows::Function(function) => {
                let chain = config.chains.iter().find(|chain| chain.name == **name);
                chain.is_some_and(|chain| chain.functions.contains(function))
            }
            Shows::Received(_) | Shows::Sent(_) | Shows::Dropped(_) => false,
        });
        chains.map(|(at, _)| at).collect()
    }

    /// True if packets of a chain are followed.
    pub fn follows(&self) -> bool {
        !self.chains.is_empty()
    }

    /// A point whose port is gone, or another one by that number.
    pub fn changed(&self, ports: &[PortFacts]) -> Option<&str> {
        let is_there =
            |port: &PortFacts| ports.iter().any(|now| (now.id, &now.name) == (port.id, &port.name));
        let gone = self.points.iter().find(|point| point.port.as_ref().is_some_and(|port| !is_there(port)));
        gone.map(|point| point.name.as_str())
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    format!("there is no {what} `{name}`; there are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Host};

    fn config() -> Config {
        let text = include_str!("../../../configs/edge.toml");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.toml");
        std::fs::write(&path, text).unwrap();
        config::load(&path, &Host::default()).config.unwrap()
    }

    fn ports(config: &Config) -> Vec<PortFacts> {
        let facts = |(port, id): (&config::Port, u16)| PortFacts {
            id: PortId(id),
            name: port.name.clone(),
            mac: [2; 6],
            mtu: 1_500,
            device_mtu: 1_500,
        };
        config.ports.iter().zip(0..).map(facts).collect()
    }

    fn parse(texts: &[&str]) -> Result<PointSet, String> {
        let config = config();
        let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
        PointSet::parse(&texts, &config, &ports(&config))
    }

    #[test]
    fn points_are_named_once_and_in_order() {
        let config = config();
        let (port, chain) = (config.ports[0].name.clone(), &config.chains[0]);
        let [one, rx, chained, function] = [
            format!("port:{port}"),
            format!("port:{port}/rx"),
            format!("chain:{}", chain.name),
            format!("function:{}", chain.functions[0]),
        ];
        let set = parse(&[&rx, &one, "drops", &chained, &function, "drops:no_route"]).unwrap();
        let names: Vec<_> = set.points.iter().map(|point| point.name.as_str()).collect();
        assert_eq!(names, [&rx, &format!("port:{port}/tx"), "drops", &chained, &function, "drops:no_route"]);
        assert_eq!((set.chains.len(), set.chain_of[0]), (1, Some(0)));
        assert_eq!(set.changed(&ports(&config)), None);
        let mut others = ports(&config);
        others[0].name.push('x');
        assert_eq!(set.changed(&others), Some(rx.as_str()));
        // The reason that was asked for alone has its own point.
        assert_eq!(
            set.recorded(),
            parse(&[&one, "drops:no_route", "drops"]).map(|_| set.recorded()).unwrap()
        );
    }

    #[test]
    fn what_is_no_point_is_said() {
        for (text, said) in [
            ("lan", "`lan` is no point: expected port:NAME"),
            ("port:nowhere/rx", "there is no port `nowhere`; there are "),
            ("chain:nothing", "there is no chain `nothing`; there are "),
            ("function:nothing", "there is no function in a chain `nothing`; there are "),
            ("drops:nothing", "there is no drop reason `nothing`; there are truncated"),
        ] {
            let error = parse(&[text]).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
