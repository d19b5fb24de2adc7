//! What ports, chains and functions must be to each other.

use std::collections::HashMap;

use millrace_dataplane::limits::PACKET_FUNCTIONS_MAX;

use super::Config;
use super::chains::Chain;
use super::context::{Context, Finding};
use super::functions::{Function, FunctionKind};
use super::places::join;
use super::ports::{Pcap, PortKind};

/// Checks all references; unknown names were noted when they were read.
pub(crate) fn check(context: &Context<'_>, config: &Config) {
    check_port_use(context, config);
    check_function_use(context, config);
    for chain in &config.chains {
        check_forwarder(context, chain, &config.functions);
        check_segments(context, chain, &config.functions);
    }
    check_devices(context, config);
}

/// Notes ports and functions that no chain uses.
pub(crate) fn check_unused(context: &Context<'_>, config: &Config) {
    for port in config.ports.iter().filter(|port| config.chain_of_port(&port.name).is_none()) {
        let name = &port.name;
        let finding =
            Finding::warning(join("ports", name), format!("no chain uses the port `{name}`")).at_key();
        context.push(finding.help("its packets would be dropped: put it in a zone of a chain, or remove it"));
    }
    for function in config.functions.iter().filter(|function| config.chain_of(&function.name).is_none()) {
        let message = format!("no chain uses the function `{}`", function.name);
        let finding = Finding::warning(join("functions", &function.name), message).at_key();
        context.push(finding.help("add it to `functions` of a chain, or remove it"));
    }
}

/// A port belongs to one zone of one chain.
fn check_port_use(context: &Context<'_>, config: &Config) {
    let mut used: HashMap<&str, String> = HashMap::new();
    for chain in &config.chains {
        for zone in &chain.zones {
            let path = join(&format!("{}.zones", join("chains", &chain.name)), &zone.name);
            for (index, port) in zone.ports.iter().enumerate() {
                let path = context.item(&path, index);
                if let Some(first) = used.get(port.as_str()) {
                    let finding = Finding::error(&path, format!("the port `{port}` is already in a zone"));
                    let finding =
                        finding.found(format!("\"{port}\"")).help(format!("it is named by {first}"));
                    context.push(finding.valid("each port in one zone of one chain"));
                } else {
                    used.insert(port, path);
                }
            }
        }
    }
}

/// A function belongs to one chain, once: it has state of its own.
fn check_function_use(context: &Context<'_>, config: &Config) {
    let mut used: HashMap<&str, String> = HashMap::new();
    for chain in &config.chains {
        let list = format!("{}.functions", join("chains", &chain.name));
        for (index, function) in chain.functions.iter().enumerate() {
            let path = context.item(&list, index);
            if let Some(first) = used.get(function.as_str()) {
                let message = format!("the function `{function}` is used twice");
                let finding = Finding::error(&path, message).found(format!("\"{function}\""));
                let help = format!("it is named by {first}; a second [functions.NAME] has its own state");
                context.push(finding.valid("each function once: it has its own state").help(help));
            } else {
                used.insert(function, path);
            }
        }
    }
}

/// The last function of a chain, and no other, says where packets leave.
fn check_forwarder(context: &Context<'_>, chain: &Chain, functions: &[Function]) {
    let list = format!("{}.functions", join("chains", &chain.name));
    let kind = |name: &str| functions.iter().find(|f| f.name == name).map(|f| &f.kind);
    // Where a kind is not known, the function's own error comes first.
    let Some(last) = chain.functions.last().and_then(|name| kind(name)) else { return };
    if last.forwards() {
        for (index, name) in chain.functions.iter().enumerate().rev().skip(1) {
            if kind(name).is_some_and(FunctionKind::forwards) {
                let message = format!("`{name}` forwards, and so must be the last function of the chain");
                let finding =
                    Finding::error(context.item(&list, index), message).found(format!("\"{name}\""));
                context.push(finding.valid("firewall, nat and inspect before, one router at the end"));
            }
        }
        return;
    }
    let last_index = chain.functions.len() - 1;
    let router = chain.functions.iter().position(|name| kind(name).is_some_and(FunctionKind::forwards));
    let (finding, help) = match router {
        Some(index) => {
            let name = &chain.functions[index];
            let message = format!("`{name}` forwards, and so must be the last function of the chain");
            let mut order: Vec<_> = chain.functions.iter().filter(|f| *f != name).cloned().collect();
            order.push(name.clone());
            let order = order.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            (Finding::error(context.item(&list, index), message), Some(format!("functions = [{order}]")))
        }
        None => {
            let spare = functions.iter().find(|function| function.kind.forwards());
            let help = spare.map(|router| format!("add \"{}\" at the end", router.name));
            let message = format!("the chain `{}` ends without a forwarding function", chain.name);
            (Finding::error(context.item(&list, last_index), message), help)
        }
    };
    let found = format!("\"{}\" of kind \"{}\" at the end", chain.functions[last_index], last.name());
    context.push(finding.found(found).valid("a function of kind \"router\" at the end").maybe_help(help));
}

/// Segments have numbers, and so have their logical ports.
fn check_segments(context: &Context<'_>, chain: &Chain, functions: &[Function]) {
    let splits = |name: &String| functions.iter().any(|f| f.name == *name && f.kind.splits());
    let splitting: Vec<usize> =
        (0..chain.functions.len()).filter(|at| splits(&chain.functions[*at])).collect();
    if let Some(&index) = splitting.get(PACKET_FUNCTIONS_MAX) {
        let path = context.item(&format!("{}.functions", join("chains", &chain.name)), index);
        let message = "the chain has too many functions that work on payloads";
        let found = format!("{} of them", splitting.len());
        context.push(
            Finding::error(path, message).found(found).valid(format!("at most {PACKET_FUNCTIONS_MAX}")),
        );
    }
}

/// An interface and a file to write belong to one port.
fn check_devices(context: &Context<'_>, config: &Config) {
    let mut interfaces: HashMap<&str, &str> = HashMap::new();
    let mut outputs = HashMap::new();
    for port in &config.ports {
        let path = join("ports", &port.name);
        if let Some((key, interface)) = port.kind.interface()
            && let Some(first) = interfaces.insert(interface, &port.name)
        {
            let message = format!("the interface `{interface}` already has a port");
            let finding = Finding::error(format!("{path}.{key}"), message).found(format!("\"{interface}\""));
            context.push(finding.valid(format!("another interface than that of `{first}`")));
        }
        if let PortKind::Pcap(Pcap { output: Some(output), .. }) = &port.kind
            && let Some(first) = outputs.insert(output, &port.name)
        {
            let message = format!("two ports write to {}", output.display());
            let finding = Finding::error(format!("{path}.output"), message);
            let finding = finding.found(output.display().to_string());
            context.push(finding.valid(format!("another file than that of `{first}`")));
        }
    }
    for port in &config.ports {
        let PortKind::Pcap(pcap) = &port.kind else { continue };
        let reader = pcap.input.as_ref().and_then(|input| outputs.get_key_value(input));
        if let Some((file, writer)) = reader.filter(|(_, writer)| **writer != &port.name) {
            let message = format!("`{writer}` overwrites {} while it is read", file.display());
            let finding = Finding::error(format!("{}.input", join("ports", &port.name)), message);
            context.push(finding.found(file.display().to_string()).valid("a file that no port writes to"));
        }
    }
}
