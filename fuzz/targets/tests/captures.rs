//! Frames that broke other people's parsers, and frames of every kind of our own: whole, cut off at each of their first bytes, with
//! bytes flipped; through the parsers, each function and the whole chain, from both sides, with and without a flow cache, with one worker and
//! with two. Nothing panics,
//! everything is accounted for, and what leaves is right if what came was: by etherparse, and by tshark for what was whole.
//!
//! Captures are looked for in `MILLRACE_CAPTURES`, else in `../shared/captures` beside the repository.

use millrace_control::config::{self, Host};
use millrace_control::instance::thread::WorkerThreads;
use millrace_control::instance::{Instance, Options};
use millrace_dataplane::budget::BudgetConfig;
use millrace_dataplane::port::pcap::{CaptureError, CaptureReader, CaptureWriter};
use millrace_dataplane::time::Time;
use millrace_fuzz::check::fault;
use millrace_fuzz::frames::{OWN, samples};
use millrace_fuzz::random::Random;
use millrace_fuzz::site::{ALL_TIMERS, INSIDE, OUTSIDE, Plan, Site};
use millrace_fuzz::{capture, parser};
use millrace_nf::firewall::rules::Action;
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Frames are cut off at each of this many first bytes.
const CUTS: usize = 128;
/// Copies of each frame with a byte flipped.
const FLIPS: usize = 16;
/// Largest frame that a pool's buffers take here; longer ones are a port's to refuse.
const FRAME_BYTES_MAX: usize = 2112;

/// What became of a set of frames.
#[derive(Debug, Default)]
struct Totals {
    frames: usize,
    sent_in: usize,
    left: usize,
    checked: usize,
}

/// Every function alone before a router, the router alone, and all of them; with a cache and without.
fn sites() -> Vec<(&'static str, Site)> {
    let all = Plan { firewall: Some((Vec::new(), Action::Allow)), ..Plan::default() };
    let plans = [
        ("router", Plan { firewall: None, nat: None, ..all.clone() }),
        ("firewall", Plan { nat: None, ..all.clone() }),
        ("nat", Plan { firewall: None, ..all.clone() }),
        ("all", all.clone()),
        ("all without cache", Plan { cache_entries: 0, ..all }),
    ];
    plans.into_iter().map(|(name, plan)| (name, Site::new(&plan).expect("a good plan"))).collect()
}

/// The same frame as if it were sent to the router's port.
fn to_router(frame: &[u8], port: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Some(destination) = frame.first_chunk_mut() {
        *destination = OWN[usize::from(port)];
    }
    frame
}

/// Sends one frame alone and checks what leaves. Returns the frames that left.
fn pass(site: &mut Site, port: u16, frame: &[u8], totals: &mut Totals) -> Vec<Vec<u8>> {
    let originated = site.engine.outputs.sums.originated;
    let sent = site.send(port, &[frame.to_vec()]);
    let all_originated = site.engine.outputs.sums.originated - originated == sent.len() as u64;
    totals.sent_in += 1;
    totals.left += sent.len();
    // What the data plane makes itself is right, whatever it answers.
    if !sent.is_empty() && (all_originated || fault(frame).is_none()) {
        for (_, out) in &sent {
            assert_eq!(fault(out), None, "from {frame:02x?}\nto {out:02x?}");
            totals.checked += 1;
        }
    }
    // Nothing waits, so that what leaves next comes from the next frame.
    site.engine.drain(&mut site.pool);
    sent.into_iter().map(|(_, out)| out).collect()
}

/// All variants of all frames through everything. Returns each whole frame with what the router and the whole chain made of it.
fn run(frames: &[Vec<u8>], totals: &mut Totals) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut random = Random::new(1);
    let mut sites = sites();
    let mut pairs = Vec::new();
    let mut seen = HashSet::new();
    totals.frames += frames.len();
    for frame in frames.iter().filter(|frame| frame.len() <= FRAME_BYTES_MAX) {
        let broken = variants(frame, &mut random, &mut seen);
        for variant in std::iter::once(frame).chain(&broken) {
            parser::run(variant);
        }
        for (name, site) in &mut sites {
            for port in [INSIDE, OUTSIDE] {
                pass(site, port, frame, totals);
                let readdressed = to_router(frame, port);
                for out in pass(site, port, &readdressed, totals) {
                    if ["router", "all"].contains(name) {
                        pairs.push((readdressed.clone(), out));
                    }
                }
                for variant in &broken {
                    pass(site, port, &to_router(variant, port), totals);
                }
            }
            site.pass(100, ALL_TIMERS);
        }
    }
    sites.into_iter().for_each(|(_, site)| site.finish());
    pairs
}

/// A frame cut off and damaged. Frames of one host begin alike: each beginning is taken once, as `seen` tells.
fn variants(frame: &[u8], random: &mut Random, seen: &mut HashSet<Vec<u8>>) -> Vec<Vec<u8>> {
    let flipped: Vec<Vec<u8>> = (0..FLIPS.min(frame.len())).map(|_| flip(random, frame)).collect();
    let cuts = (0..frame.len().min(CUTS + 1)).map(|length| frame[..length].to_vec());
    cuts.filter(|cut| seen.insert(cut.clone())).chain(flipped).collect()
}

fn flip(random: &mut Random, frame: &[u8]) -> Vec<u8> {
    let mut flipped = frame.to_vec();
    // Behind the addresses of the link, mostly in headers.
    let reach = flipped.len().min(if random.below(4) == 0 { usize::MAX } else { 80 });
    let at = 12.min(reach - 1) + random.below(reach - 12.min(reach - 1));
    flipped[at] ^= 1 + random.below(255) as u8;
    flipped
}

/// Checksums by tshark: 0 is bad.
const STATUSES: [&str; 5] = [
    "ip.checksum.status",
    "tcp.checksum.status",
    "udp.checksum.status",
    "icmp.checksum.status",
    "icmpv6.checksum.status",
];
/// Lengths by tshark: there if they are wrong.
const WRONG_LENGTHS: [&str; 4] =
    ["ip.bogus_ip_length", "ip.bogus_header_length", "tcp.bogus_header_length", "udp.length.bad"];

/// What tshark says of lengths and checksums, a line a frame; none without tshark.
fn dissect(path: &Path) -> Option<Vec<String>> {
    let checks = ["ip", "tcp", "udp"].map(|it| format!("{it}.check_checksum:TRUE"));
    // No reassembly over frames that have nothing to do with each other.
    let apart = ["ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.desegment_tcp_streams:FALSE"];
    let output = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(path)
        .args(checks.iter().map(String::as_str).chain(apart).flat_map(|it| ["-o", it]))
        // Of packets in packets, the outer one.
        .args(["-T", "fields", "-E", "occurrence=f", "-e", "frame.protocols"])
        .args(STATUSES.iter().chain(&WRONG_LENGTHS).flat_map(|field| ["-e", field]))
        .output()
        .ok()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {errors}");
    Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Whether the IP header or the outermost transport is wrong; what errors quote is cut off.
fn is_bad(line: &str) -> bool {
    let mut columns = line.split('\t');
    let protocols = columns.next().unwrap_or_default();
    let transport = protocols.split(':').find(|it| ["tcp", "udp", "icmp", "icmpv6"].contains(it));
    STATUSES.iter().chain(&WRONG_LENGTHS).zip(columns).any(|(field, text)| {
        let protocol = field.split('.').next();
        let counts = protocol == Some("ip") || protocol == transport;
        counts && if STATUSES.contains(field) { text == "0" } else { !text.is_empty() }
    })
}

fn write<'a>(directory: &Path, name: &str, frames: impl IntoIterator<Item = &'a Vec<u8>>) -> PathBuf {
    let path = directory.join(name);
    let mut writer = CaptureWriter::new(File::create(&path).expect("a file")).expect("it takes a header");
    for frame in frames {
        writer.write(Time::from_secs(1), frame).expect("it takes frames");
    }
    writer.flush().expect("it takes all");
    path
}

/// What left is as good by tshark as what came. Returns how many pairs were compared; none without tshark.
fn compare_by_tshark(pairs: &[(Vec<u8>, Vec<u8>)]) -> Option<usize> {
    let directory = tempfile::tempdir().expect("a directory");
    let came = dissect(&write(directory.path(), "came", pairs.iter().map(|(came, _)| came)))?;
    let left = dissect(&write(directory.path(), "left", pairs.iter().map(|(_, left)| left)))?;
    assert_eq!((came.len(), left.len()), (pairs.len(), pairs.len()));
    for ((before, after), (came, left)) in came.iter().zip(&left).zip(pairs) {
        assert!(is_bad(before) || !is_bad(after), "{before} -> {after}\nfrom {came:02x?}\nto {left:02x?}");
    }
    Some(came.iter().filter(|line| !is_bad(line)).count())
}

/// Two captures with a chain between them. `{workers}` are its cores, `{functions}` the chain.
const EDGE: &str = r#"
[memory]
hugepages = "off"
[management]
socket = "{socket}"
[metrics]
listen = "off"
[workers]
cores = {workers}
[sessions]
capacity = 4096
[ports.inside]
kind = "pcap"
input = "inside"
output = "inside-out"
mac = "02:00:00:00:00:01"
[ports.outside]
kind = "pcap"
input = "outside"
output = "outside-out"
mac = "02:00:00:00:00:02"
[chains.edge]
functions = {functions}
zones.inside = ["inside"]
zones.outside = ["outside"]
[functions.router]
kind = "router"
routes = [
    { prefix = "0.0.0.0/0", via = "192.0.2.9" },
    { prefix = "::/0", via = "2001:db8:2::9" },
    { prefix = "10.0.0.0/8", via = "10.255.0.5" },
    { prefix = "192.168.0.0/16", via = "10.255.0.5" },
]
[functions.router.interfaces.inside]
addresses = ["10.255.0.1/24", "2001:db8:1::1/64"]
neighbours = [{ address = "10.255.0.5", mac = "02:00:00:00:01:05" }]
[functions.router.interfaces.outside]
addresses = ["192.0.2.1/24", "2001:db8:2::1/64"]
neighbours = [
    { address = "192.0.2.9", mac = "02:00:00:00:01:09" },
    { address = "2001:db8:2::9", mac = "02:00:00:00:01:09" },
]
"#;

/// What stands in front of the router.
const FUNCTIONS: [(&str, &str); 3] = [
    ("firewall", "kind = \"firewall\"\ndefault = \"allow\"\n"),
    (
        "inspect",
        "kind = \"inspect\"\npatterns = [{ hex = \"00 00\", action = \"count\" }, { text = \"e\", action = \"drop\" }]\n",
    ),
    ("nat", "kind = \"nat\"\npool = [\"192.0.2.100\"]\nhairpinning = false\n"),
];

/// Each function alone, none, and all.
const CHAINS: [&[usize]; 5] = [&[], &[0], &[1], &[2], &[0, 1, 2]];

fn edge(chain: &[usize], workers: usize, socket: &Path) -> String {
    let functions = chain.iter().map(|&at| FUNCTIONS[at]);
    let names: Vec<&str> = functions.clone().map(|(name, _)| name).chain(["router"]).collect();
    let tables: String = functions.map(|(name, table)| format!("[functions.{name}]\n{table}")).collect();
    let text = EDGE.replace("{workers}", &format!("{:?}", (0..workers).collect::<Vec<_>>()));
    text.replace("{functions}", &format!("{names:?}")).replace("{socket}", &socket.display().to_string())
        + &tables
}

/// Frames from both sides through an instance with so many workers. Every packet and every frame is accounted for, on each worker
/// and between them (R13). Returns what it received, and what left.
fn through_workers(frames: &[Vec<u8>], chain: &[usize], workers: usize) -> (u64, Vec<Vec<u8>>) {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, mac) in [("inside", [2, 0, 0, 0, 0, 1]), ("outside", [2, 0, 0, 0, 0, 2])] {
        let to_port = frames.iter().filter(|frame| frame.len() <= FRAME_BYTES_MAX).map(|frame| {
            let mut frame = frame.clone();
            if let Some(destination) = frame.first_chunk_mut() {
                *destination = mac;
            }
            frame
        });
        write(directory.path(), name, &to_port.collect::<Vec<_>>());
    }
    let text = edge(chain, workers, &directory.path().join("socket"));
    let parsed = config::parse(&directory.path().join("edge.toml"), &text, &Host::default());
    let config = parsed.config.unwrap_or_else(|| panic!("{:?}", parsed.report));
    // The budget goes by real time: a slow machine would drop misses.
    let options = Options { budget: BudgetConfig::UNLIMITED, ..Options::default() };
    let Instance { workers, control } = Instance::build(config, options).expect("an instance");
    let threads = WorkerThreads::start(workers, &control, true).expect("threads");
    while !threads.has_ended() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let accounting = threads.finish().expect("no worker panicked");
    assert_eq!(accounting.problems(), Vec::<String>::new());
    let mut left = Vec::new();
    for name in ["inside-out", "outside-out"] {
        let file = File::open(directory.path().join(name)).expect("what left");
        let mut reader = CaptureReader::new(file).expect("a capture");
        let mut bytes = Vec::new();
        while reader.next_record(&mut bytes).expect("a whole capture").is_some() {
            left.push(bytes.clone());
        }
    }
    (accounting.to_json()["sums"]["received"].as_u64().expect("a number"), left)
}

/// One and two workers: all that is broken leaves their accounts whole, and of what is right, what leaves is right.
fn run_with_workers(what: &str, frames: &[Vec<u8>]) {
    let (mut random, mut seen) = (Random::new(2), HashSet::new());
    let broken: Vec<Vec<u8>> =
        frames.iter().flat_map(|frame| variants(frame, &mut random, &mut seen)).collect();
    let directory = tempfile::tempdir().expect("a directory");
    let lines = dissect(&write(directory.path(), "came", frames));
    let is_right = |at: usize, frame: &[u8]| {
        fault(frame).is_none() && lines.as_ref().is_none_or(|lines| !is_bad(&lines[at]))
    };
    let right = frames.iter().enumerate().filter(|(at, frame)| is_right(*at, frame));
    let right: Vec<Vec<u8>> = right.map(|(_, frame)| frame.clone()).collect();
    for (chain, workers) in CHAINS.into_iter().flat_map(|chain| [(chain, 1), (chain, 2)]) {
        let names: Vec<&str> = chain.iter().map(|&at| FUNCTIONS[at].0).chain(["router"]).collect();
        let (received, left) = through_workers(&broken, chain, workers);
        println!(
            "{what}, {names:?}, {workers} workers: {received} broken frames received, {} left",
            left.len()
        );
        assert!(received > broken.len() as u64, "from both sides");
        let (received, left) = through_workers(&right, chain, workers);
        for out in &left {
            assert_eq!(fault(out), None, "{names:?} {out:02x?}");
        }
        let dissected = dissect(&write(directory.path(), "left", &left));
        for (line, out) in dissected.iter().flatten().zip(&left) {
            assert!(!is_bad(line), "{names:?} {line}: {out:02x?}");
        }
        println!(
            "{what}, {names:?}, {workers} workers: {received} right frames received, {} left",
            left.len()
        );
        assert!(!left.is_empty());
    }
}

fn report(what: &str, totals: &Totals, pairs: &[(Vec<u8>, Vec<u8>)]) {
    let Totals { frames, sent_in, left, checked } = totals;
    println!("{what}: {frames} frames, {sent_in} sent into chains, {left} left, {checked} of them checked");
    match compare_by_tshark(pairs) {
        Some(count) => {
            println!("{what}: {} pairs, {count} of them right as they came, by tshark", pairs.len());
        }
        None => println!("SKIPPED dissection of what leaves: tshark is not there"),
    }
}

#[test]
fn frames_of_every_kind_whole_cut_off_and_damaged() {
    let frames: Vec<Vec<u8>> = samples().into_iter().map(|(_, frame)| frame).collect();
    let mut totals = Totals::default();
    let pairs = run(&frames, &mut totals);
    assert!(totals.checked > 300 && pairs.len() > 15, "{totals:?}, {} pairs", pairs.len());
    report("samples", &totals, &pairs);
    run_with_workers("samples", &frames);
}

/// The check sees what is wrong: it is blind for the checksum of no protocol.
#[test]
fn tshark_tells_right_frames_from_damaged_ones() {
    // A byte of each one's checksum.
    let fields = [
        ("udp4", 40),
        ("echo4", 36),
        ("unreachable4", 36),
        ("syn4", 50),
        ("udp6", 60),
        ("echo6", 56),
        ("gre4", 24),
    ];
    for (name, field) in fields {
        let (_, frame) = samples().into_iter().find(|(it, _)| *it == name).expect("a sample");
        let mut damaged = frame.clone();
        damaged[field] ^= 1;
        assert!(fault(&damaged).is_some(), "{name}");
        let directory = tempfile::tempdir().expect("a directory");
        let Some(lines) = dissect(&write(directory.path(), "both", [&frame, &damaged])) else {
            return println!("SKIPPED dissection of damaged frames: tshark is not there");
        };
        assert_eq!(
            lines.iter().map(|line| is_bad(line)).collect::<Vec<_>>(),
            [false, true],
            "{name}: {lines:?}"
        );
    }
}

fn captures() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/captures");
    std::env::var_os("MILLRACE_CAPTURES").map_or_else(beside, PathBuf::from)
}

#[test]
fn captures_that_broke_other_parsers() {
    let directory = captures();
    let Ok(entries) = fs::read_dir(&directory) else {
        // They are not ours to ship. What is ours went through the test above.
        return println!("no captures at hand: MILLRACE_CAPTURES names no directory of them");
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|it| it == "pcap" || it == "pcapng"));
    paths.sort();
    let (mut frames, mut seen) = (Vec::new(), HashSet::new());
    let (mut other_links, mut broken) = (0, 0);
    for path in &paths {
        // The file itself, as bytes of any kind.
        capture::run(&fs::read(path).expect("it can be read"));
        let mut reader = match CaptureReader::new(File::open(path).expect("it can be opened")) {
            Ok(reader) => reader,
            Err(CaptureError::LinkType(_)) => {
                other_links += 1;
                continue;
            }
            Err(_) => {
                broken += 1;
                continue;
            }
        };
        let mut bytes = Vec::new();
        loop {
            match reader.next_record(&mut bytes) {
                Ok(Some(record)) if record.ethernet && seen.insert(bytes.clone()) => {
                    frames.push(bytes.clone());
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    broken += 1;
                    break;
                }
            }
        }
    }
    println!("{} captures, {other_links} of other links, {broken} broken", paths.len());
    let mut totals = Totals::default();
    let pairs = run(&frames, &mut totals);
    report("captures", &totals, &pairs);
    run_with_workers("captures", &frames);
    assert!(frames.is_empty() || totals.checked > 0, "{totals:?}");
}
