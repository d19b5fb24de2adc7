//! What the functions of a configuration declare to read, and the keys that follow (R2): for `check`.

use millrace_dataplane::flow::key::KeySchema;
use millrace_dataplane::memory::Arena;
use millrace_dataplane::packet::{L3, L4, Shape};
use millrace_dataplane::port::PortId;
use serde::Serialize;

use super::InstanceError;
use super::functions::{self, Context, Part, PortFacts};
use super::numbers::PortNumbers;
use super::ports::mac_of;
use crate::config::Config;
use crate::config::sizing::{Sizing, mtu};
use crate::table::Table;

/// What a function reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionReads {
    /// The function.
    pub function: String,
    /// Header fields.
    pub fields: Vec<&'static str>,
}

/// The key of a chain for one shape of packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShapeKey {
    /// The headers.
    pub shape: String,
    /// Words of eight bytes; none if such packets walk each alone.
    pub words: Option<usize>,
}

/// What a chain reads, and its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainKeys {
    /// The chain.
    pub chain: String,
    /// Its functions in order.
    pub functions: Vec<FunctionReads>,
    /// Its keys by shape.
    pub keys: Vec<ShapeKey>,
}

/// Builds the chains of `config` without its ports and asks them.
///
/// # Errors
/// What a function finds wrong with its settings, such as rules that a bounded look-up can't hold (R15).
pub fn of(config: &Config) -> Result<Vec<ChainKeys>, InstanceError> {
    let numbers = PortNumbers::of(config);
    let fact = |port: &crate::config::Port| {
        let id = numbers.get(&port.name)?;
        let mac = mac_of(port.kind.mac(), id);
        let mtu = mtu(config, port);
        Some(PortFacts { id, name: port.name.clone(), mac, mtu, device_mtu: mtu })
    };
    let facts: Vec<_> = config.ports.iter().filter_map(fact).collect();
    // Only touched pages are taken, and no table is.
    let arena = Arena::anonymous(Sizing::of(config).nat_bytes as usize + (1 << 20))?;
    config
        .chains
        .iter()
        .map(|chain| {
            let context = Context {
                config,
                chain,
                ports: &facts,
                arena: &arena,
                seed: Some(0),
                logs: None,
                part: Part::WHOLE,
                others: None,
                stages: None,
            };
            of_chain(&context)
        })
        .collect()
}

fn of_chain(context: &Context<'_>) -> Result<ChainKeys, InstanceError> {
    let chain = functions::build_chain(context, &[])?;
    let functions = chain.reads_by_function().into_iter().map(|(function, reads)| FunctionReads {
        function: function.to_owned(),
        fields: reads.fields().map(|field| field.name()).collect(),
    });
    let schema = KeySchema::new(PortId(0), 0, chain.reads());
    let families = [("IPv4", L3::Ipv4), ("IPv6", L3::Ipv6)];
    let transports = [("TCP", L4::Tcp), ("UDP", L4::Udp), ("ICMP echo", L4::IcmpEcho), ("other", L4::Other)];
    let shapes =
        families.iter().flat_map(|family| transports.iter().map(move |transport| (family, transport)));
    let keys = shapes.map(|((family, l3), (transport, l4))| ShapeKey {
        shape: format!("{family} {transport}"),
        words: schema.gather(Shape::new(0, *l3, *l4)).map(|gather| gather.words()),
    });
    Ok(ChainKeys { chain: chain.name().to_owned(), functions: functions.collect(), keys: keys.collect() })
}

/// The same for people.
pub fn show(chains: &[ChainKeys]) -> String {
    let mut text = String::new();
    for chain in chains {
        let mut reads = Table::new(["function", "reads"]);
        for function in &chain.functions {
            reads.row([function.function.clone(), function.fields.join(" ")]);
        }
        let mut keys = Table::new(["packets", "words of the key"]);
        for key in &chain.keys {
            keys.row([
                key.shape.clone(),
                key.words.map_or("not cached".to_owned(), |words| words.to_string()),
            ]);
        }
        text += &format!(
            "\nchain {}: what its functions read, and the keys of its flow cache\n{reads}\n{keys}",
            chain.chain
        );
    }
    text
}
