//! Functions that look at payloads, as people use them: what `check` and `explain` say, what a running instance counts and drops, and
//! what `apply` does to them while packets flow.

mod common;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use serde_json::Value;

use common::{Site, millrace};

/// The chain of the site with a function `ids` at this place, and its table.
fn with(site: &Site, place: usize, table: &str) -> String {
    let mut functions = vec!["firewall", "nat", "router"];
    functions.insert(place, "ids");
    let list = format!("functions = {functions:?}");
    let text = site.text().replace("functions = [\"firewall\", \"nat\", \"router\"]", &list);
    format!("{text}[functions.ids]\nkind = \"inspect\"\n{table}")
}

/// A pattern for each value of a byte: every payload holds one of them.
fn any_byte(action: &str) -> String {
    let pattern = |byte: u8| {
        format!(
            "[[functions.ids.patterns]]\nname = \"b{byte:02x}\"\nhex = \"{byte:02x}\"\naction = \"{action}\"\n"
        )
    };
    (0..=255).map(pattern).collect()
}

fn sum(rows: &[Value], item: &str, column: &str) -> u64 {
    let rows = rows.iter().filter(|row| row["function"] == "ids");
    rows.filter(|row| row["item"].as_str().unwrap().starts_with(item))
        .map(|row| row[column].as_u64().unwrap())
        .sum()
}

fn dropped(site: &Site) -> u64 {
    let rows = site.show("drops").unwrap();
    rows.iter()
        .filter(|row| row["reason"] == "payload_denied")
        .map(|row| row["packets"].as_u64().unwrap())
        .sum()
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn patterns_of_a_running_instance_change_and_count_on() {
    let site = Site::new();
    site.write("run.toml", &with(&site, 0, &any_byte("count")));
    let running = site.start();
    let functions = || site.show("functions").unwrap();
    wait("payloads are looked at", || sum(&functions(), "inspected", "count") > 1_000);
    let rows = functions();
    assert!(sum(&rows, "pattern", "packets") > 0 && sum(&rows, "dropped", "count") == 0);
    assert_eq!(dropped(&site), 0);
    let chain = &site.show("chains").unwrap()[0];
    assert_eq!(chain["functions"], "ids firewall nat router");
    let opened = || site.show("chains").unwrap()[0]["sessions_opened"].as_u64().unwrap();
    wait("all flows have their sessions", || opened() >= 3_000);

    site.applied(&with(&site, 0, &any_byte("drop")));
    wait("packets are dropped", || dropped(&site) > 1_000);
    let rows = functions();
    assert_eq!(sum(&rows, "inspected", "count"), sum(&rows, "inspected", "packets"));
    assert!(sum(&rows, "dropped", "count") > 0);

    // Back to what passes: nothing was forgotten, and the connections are the same.
    site.applied(&with(&site, 0, &any_byte("count")));
    let before = dropped(&site);
    wait("packets pass again", || site.show("ports").unwrap()[1]["tx_packets"].as_u64().unwrap() > 5_000);
    assert_eq!(dropped(&site), before);
    assert_eq!(opened(), 3_000);
    let accounting = running.stop();
    assert!(accounting["sums"]["dropped"].as_u64().unwrap() >= before, "{accounting}");
}

#[test]
fn a_function_comes_and_goes_where_no_connection_is_cut() {
    let site = Site::new();
    site.write("run.toml", &site.text());
    let running = site.start();
    let opened = || site.show("chains").unwrap()[0]["sessions_opened"].as_u64().unwrap();
    wait("all flows have their sessions", || opened() >= 3_000);
    // In front of what keeps connections, behind it, and out again: they go on.
    for text in [with(&site, 0, &any_byte("count")), with(&site, 2, &any_byte("count")), site.text()] {
        site.applied(&text);
        let sent = || site.show("ports").unwrap()[1]["tx_packets"].as_u64().unwrap();
        let before = sent();
        wait("packets pass", || sent() > before + 5_000);
        assert_eq!(opened(), 3_000);
    }
    // Between them it would cut all.
    let refused = site.apply(&with(&site, 1, &any_byte("count")));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("chains.measured.functions"), "{said}");
    assert!(said.contains("between `firewall` and `nat`") && said.contains("change.toml:"), "{said}");
    let accounting = running.stop();
    // All flows walk anew at once, which may take longer than a burst may spend on misses (R12).
    let drops = accounting["drops"].as_array().unwrap();
    assert!(drops.iter().all(|drop| drop["reason"] == "miss_budget"), "{accounting}");
}

#[test]
fn a_plan_shows_segments_and_what_patterns_take() {
    let site = Site::new();
    let table = "[[functions.ids.patterns]]\ntext = \"evil\"\nignore_case = true\naction = \"drop\"\n";
    let check = |place: usize| {
        let file = site.write("plan.toml", &with(&site, place, table));
        let output = |json: bool| {
            let mut command = millrace();
            command.arg("check").arg(&file);
            if json {
                command.arg("--json");
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        (output(false), serde_json::from_str::<Value>(&output(true)).unwrap())
    };
    let (text, json) = check(1);
    assert!(text.contains("segments, each with a look-up of its own: firewall | nat router"), "{text}");
    assert!(text.contains("1 pattern, of which 1 drop, table of"), "{text}");
    let chain = json.pointer("/plan/chains/0").or_else(|| json.pointer("/chains/0")).unwrap();
    assert_eq!(chain["segments"], serde_json::json!([["firewall"], ["nat", "router"]]), "{json}");
    assert!(check(0).0.contains("(nothing) | firewall nat router"));
}

#[test]
fn an_explanation_goes_through_all_segments() {
    let site = Site::new();
    let table = "[[functions.ids.patterns]]\nname = \"worm\"\ntext = \"evil\"\naction = \"drop\"\n";
    let config = site.write("run.toml", &with(&site, 1, table));
    let frame = |payload: &[u8]| {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 0, 1])
            .ipv4([192, 0, 2, 7], [198, 19, 0, 7], 9)
            .udp(1_000, 53)
            .write(&mut frame, payload)
            .unwrap();
        frame
    };
    let path = site.path("two.pcap");
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
    for frame in [frame(b"good"), frame(b"an evil one")] {
        writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame)).unwrap();
    }
    drop(writer);
    let explain = |number: &str, json: bool| {
        let mut command = millrace();
        command.arg("explain").arg(&config).args(["--input", "source", "--mac", "source=02:00:00:00:00:01"]);
        command.arg("--capture").arg(&path).args(["--frame", number]);
        if json {
            command.arg("--json");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let good: Value = serde_json::from_str(&explain("1", true)).unwrap();
    assert_eq!(good["verdict"], "sent", "{good}");
    assert_eq!(good["outputs"], serde_json::json!(["drain"]));
    let names = |steps: &Value| -> Vec<String> {
        steps.as_array().unwrap().iter().map(|step| step["function"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&good["steps"]), ["firewall"]);
    let behind = &good["segments"][0];
    assert_eq!(
        (&behind["payload"]["function"], &behind["payload"]["verdict"]),
        (&"ids".into(), &"continue".into())
    );
    assert_eq!(names(&behind["steps"]), ["nat", "router"]);
    assert!(behind["opens"].is_object() && behind["program"]["cacheable"] == true, "{good}");
    assert!(good["sent"]["packet"].as_str().unwrap().starts_with("udp 203.0.113."), "{good}");
    let evil: Value = serde_json::from_str(&explain("2", true)).unwrap();
    assert_eq!((&evil["verdict"], &evil["reason"]), (&"dropped".into(), &"payload_denied".into()), "{evil}");
    assert_eq!(evil["segments"][0]["payload"]["by"][0]["value"], "worm");
    let text = explain("2", false);
    assert!(text.contains("ids       (inspect, forward) drop, payload_denied"), "{text}");
    assert!(text.contains("by pattern worm"), "{text}");
}

/// The site with captures in place of the generator and the sink.
fn of_captures(input: &Path, output: &Path, text: &str) -> String {
    let source = format!(
        "[ports.source]\nkind = \"pcap\"\nmac = \"02:00:00:00:00:01\"\ninput = {:?}\n[ports.drain]\nkind = \"pcap\"\noutput = {:?}\n",
        input, output
    );
    let (before, rest) = text.split_once("[ports.source]").unwrap();
    let (_, after) = rest.split_once("[chains.measured]").unwrap();
    format!("{before}{source}[chains.measured]{after}")
}

/// So many packets of 50 flows, of which each third holds the pattern, with their numbers in the payloads.
fn write_capture(path: &Path, packets: u32) {
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
    for number in 0..packets {
        let mut frame = Vec::new();
        let text = if number % 3 == 0 { "an evil one" } else { "a good one" };
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 0, 1])
            .ipv4([192, 0, 2, 7], [198, 19, 0, 7], 9)
            .udp(1_000 + (number % 50) as u16, 53)
            .write(&mut frame, format!("{text} {number:06}").as_bytes())
            .unwrap();
        writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame)).unwrap();
    }
}

/// Numbers of the packets in a capture, by flow.
fn numbers(path: &Path) -> Vec<Vec<u32>> {
    let mut flows = vec![Vec::new(); 50];
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    while let Some(packet) = reader.next_packet() {
        let data = packet.unwrap().data.into_owned();
        let number: u32 = std::str::from_utf8(&data[data.len() - 6..]).unwrap().parse().unwrap();
        flows[number as usize % 50].push(number);
    }
    flows
}

const EVIL: &str = "[[functions.ids.patterns]]\nname = \"worm\"\ntext = \"evil\"\naction = \"drop\"\n";

#[test]
fn a_core_of_its_own_changes_nothing_in_what_passes() {
    let site = Site::new();
    let input = site.path("in.pcap");
    // Fewer than may be under way, so that none is dropped for want of room.
    write_capture(&input, 900);
    let expected: Vec<Vec<u32>> =
        (0..50).map(|flow| (0..900).filter(|at| at % 50 == flow && at % 3 != 0).collect()).collect();
    for place in [0, 1, 2] {
        for (core, cores, shares) in
            [("", "0", 1), ("core = 1\n", "0", 1), ("core = 1\n", "0", 2), ("", "0", 2), ("", "0, 1", 2)]
        {
            let output = site.path("out.pcap");
            let text = with(&site, place, &format!("{core}{EVIL}"));
            let text = of_captures(&input, &output, &text);
            let text = format!("[workers]\ncores = [{cores}]\nshares = {shares}\n{text}");
            let mut run = millrace();
            run.args(["run", "--json", "--interval", "0", "--duration", "60"]);
            run.arg(site.write("run.toml", &text));
            let start = Instant::now();
            let accounting = common::accounting(&run.output().unwrap());
            assert!(start.elapsed() < Duration::from_secs(50), "it does not end by itself");
            let case = format!("at {place}, {core:?}, cores {cores}, shares {shares}: {accounting}");
            assert_eq!(numbers(&output), expected, "{case}");
            assert_eq!(accounting["sums"]["dropped"], 300, "{case}");
            assert_eq!(accounting["drops"][0]["reason"], "payload_denied", "{case}");
            let functions = accounting["functions"].as_array().unwrap();
            assert_eq!(sum(functions, "pattern worm", "packets"), 300, "{case}");
            assert_eq!(sum(functions, "inspected", "count"), 900, "{case}");
            assert!(functions.iter().all(|row| row["chain"] == "measured"), "{case}");
        }
    }
}

#[test]
fn a_function_on_a_core_of_its_own_is_shown_changed_and_ends_under_load() {
    for shares in [1, 2] {
        let site = Site::new();
        let text = |place, core: &str, action| {
            let text = with(&site, place, &format!("{core}{}", any_byte(action)));
            format!("[workers]\ncores = [0]\nshares = {shares}\n{text}")
        };
        site.write("run.toml", &text(1, "core = 1\n", "count"));
        let running = site.start();
        let functions = || site.show("functions").unwrap();
        wait("payloads are looked at", || sum(&functions(), "inspected", "count") > 5_000);
        assert_eq!(dropped(&site), 0);
        let workers = site.show("workers").unwrap();
        assert_eq!(workers.len(), 2, "{workers:?}");
        assert_eq!((&workers[1]["worker"], &workers[1]["core"]), (&"stage-ids".into(), &1.into()));
        let busy =
            |row: &Value| row["busy_ms"].as_u64().unwrap() > 0 && row["busy_turns"].as_u64().unwrap() > 0;
        wait("its thread is busy", || busy(&site.show("workers").unwrap()[1]));

        assert!(sum(&functions(), "under way", "count") <= 1_024 * shares);
        assert_eq!(functions().iter().filter(|row| row["item"] == "refused, ring full").count(), 1);

        site.applied(&text(1, "core = 1\n", "drop"));
        wait("packets are dropped", || dropped(&site) > 1_000);
        // What its likeness with the share foresees is what it does.
        let traced = site.ask(&["trace", "all", "--count", "1", "--json"]);
        let traced = String::from_utf8(traced.stdout).unwrap();
        let report: Value = serde_json::from_str(traced.lines().next().unwrap()).unwrap();
        let step = &report["segments"][0]["payload"];
        assert_eq!((&step["function"], &step["verdict"]), (&"ids".into(), &"drop".into()), "{report}");
        // Where it works is fixed.
        for core in ["", "core = 0\n"] {
            let refused = site.apply(&text(1, core, "drop"));
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && said.contains("functions.ids.core"), "{said}");
        }
        site.applied(&text(1, "core = 1\n", "count"));
        let sent = || site.show("ports").unwrap()[1]["tx_packets"].as_u64().unwrap();
        let before = sent();
        wait("packets pass again", || sent() > before + 5_000);
        // The sums and the pools are checked there.
        let accounting = running.stop();
        let functions = accounting["functions"].as_array().unwrap();
        let (inspected, kept) = (sum(functions, "inspected", "count"), sum(functions, "dropped", "count"));
        let denied = accounting["drops"].as_array().unwrap().iter();
        let denied = denied.filter(|row| row["reason"] == "payload_denied");
        assert_eq!(denied.map(|row| row["packets"].as_u64().unwrap()).sum::<u64>(), kept, "{accounting}");
        assert!(inspected > 5_000 && kept > 1_000, "{accounting}");
    }
}

#[test]
fn a_core_is_for_one_alone() {
    let site = Site::new();
    let check = |text: &str| {
        let output = millrace().arg("check").arg(site.write("plan.toml", text)).output().unwrap();
        let all = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(all).unwrap())
    };
    let of = |workers: &str, core: u32| {
        let text = with(&site, 1, &format!("core = {core}\n{EVIL}"));
        check(&format!("{workers}{text}"))
    };
    let (valid, said) = of("[workers]\ncores = [0]\n", 1);
    assert!(valid && said.contains(", alone on core 1"), "{said}");
    let (valid, said) = of("[workers]\ncores = [0]\n", 0);
    assert!(!valid && said.contains("a worker is on core 0: each would take the other's time"), "{said}");
    assert!(said.contains("functions.ids.core"), "{said}");
    let (valid, said) = of("[workers]\ncores = [0]\n", 4_000);
    assert!(!valid && said.contains("there is no core 4000 that this process may use"), "{said}");
    let two = with(&site, 1, &format!("core = 1\n{EVIL}")).replace("\"ids\"", "\"ids\", \"more\"");
    let two = format!(
        "[workers]\ncores = [0]\n{two}[functions.more]\nkind = \"inspect\"\ncore = 1\n{}",
        EVIL.replace("ids", "more")
    );
    let (valid, said) = check(&two);
    assert!(!valid && said.contains("`ids` is on core 1"), "{said}");
}
