use std::path::Path;
use std::sync::mpsc::channel;

use millrace_dataplane::handoff::Waker;

use super::*;
use crate::config::{self, Host};
use crate::instance::thread::WorkerThreads;
use crate::instance::{Instance, Options};

/// A generator, whose own MTU of 9000 is not the one of its settings, and a sink. `edit` changes the configuration.
fn started(workers: &str, edit: impl Fn(&str) -> String) -> (Control, WorkerThreads) {
    let text = include_str!("../../../../configs/generator.toml")
        .replace("packets = 10000000", "rate = \"1 kpps\"")
        .replace("pool = [\"203.0.113.16/28\"]", "pool = [\"203.0.113.16/28\"]\nhairpinning = false");
    let text = edit(&text)
        + &format!("\n[memory]\nhugepages = \"off\"\n[workers]\n{workers}\n[metrics]\nlisten = \"off\"\n");
    let parsed = config::parse(Path::new("links.toml"), &text, &Host::default());
    let config = parsed.config.unwrap_or_else(|| panic!("{}", parsed.report));
    let options = Options { pinned: false, ..Options::default() };
    let Instance { workers, control } = Instance::build(config, options).unwrap();
    let threads = WorkerThreads::start(workers, &control, false).unwrap();
    (control, threads)
}

/// Of each port: the MTU that functions know, and what the port said of it.
fn mtus(control: &Control) -> Vec<(u16, u16)> {
    control.ports().iter().map(|port| (port.mtu, port.device_mtu)).collect()
}

/// What a look would find if the generator and the sink had these MTUs.
fn with_mtus(control: &Control, mtus: [u16; 2]) -> HashMap<PortId, Seen> {
    let seen = |mtu| Seen { is_up: true, losses: 0, mtu };
    control.ports().iter().zip(mtus).map(|(port, mtu)| (port.id, seen(mtu))).collect()
}

fn finish(threads: WorkerThreads) {
    assert_eq!(threads.finish().unwrap().problems(), Vec::<String>::new());
}

#[test]
fn who_asks_a_worker_that_has_ended_is_not_left_waiting() {
    let text = include_str!("../../../../configs/generator.toml")
        .replace("packets = 10000000", "packets = 100")
        + "\n[memory]\nhugepages = \"off\"\n[metrics]\nlisten = \"off\"\n";
    let config = config::parse(Path::new("links.toml"), &text, &Host::default()).config.unwrap();
    let options = Options { pinned: false, ..Options::default() };
    let Instance { workers, control } = Instance::build(config, options).unwrap();
    let control = Arc::new(control);
    let threads = WorkerThreads::start(workers, &control, true).unwrap();
    let start = Instant::now();
    while !control.has_ended() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = Instant::now();
    assert!(matches!(Links::default().look(&control), Err(InstanceError::WorkerGone)));
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    finish(threads);
}

/// Whoever looks, and however late: what functions know is held against what ports say.
#[test]
fn functions_learn_an_mtu_that_changed_before_the_first_look() {
    let (control, threads) = started("cores = [0]", str::to_owned);
    let running = || Arc::clone(&control.running.lock().unwrap());
    let before = running();
    Links::default().look(&control).unwrap();
    assert!(Arc::ptr_eq(&before, &running()), "nothing has changed, and nothing is told");
    drop(before);

    // The sink had another one when functions were told.
    let mut old = control.running.lock().unwrap();
    let drain = &mut Arc::get_mut(&mut old).unwrap().facts[1];
    (drain.mtu, drain.device_mtu) = (1_400, 1_400);
    drop(old);
    let mut links = Links::default();
    links.look(&control).unwrap();
    assert_eq!(mtus(&control), [(1_500, 9_000), (1_500, 1_500)], "the generator's is as it was");
    let told = running();
    links.look(&control).unwrap();
    Links::default().look(&control).unwrap();
    assert!(Arc::ptr_eq(&told, &running()));
    finish(threads);
}

#[test]
fn an_mtu_that_functions_cannot_take_keeps_back_no_other() {
    let ipv4 = "addresses = [\"192.0.2.1/24\"]";
    let both = "addresses = [\"192.0.2.1/24\", \"fd00::1/64\"]";
    let (control, threads) = started("cores = [0]", |text| text.replace(ipv4, both));
    let mut links = Links::default();
    let mut follow = |mtus| {
        links.follow_mtus(&control, &control.ports(), &with_mtus(&control, mtus));
        links.refused.values().map(|refused| (refused.mtu, refused.at)).collect::<Vec<_>>()
    };
    // Too little for IPv6.
    let refused = follow([1_000, 1_300]);
    assert!(matches!(*refused, [(1_000, _)]) && mtus(&control)[0] == (1_500, 9_000), "{refused:?}");
    assert_eq!(follow([1_000, 1_300]), refused, "it is not asked for at once again");
    assert_eq!(mtus(&control), [(1_500, 9_000), (1_300, 1_300)]);
    std::thread::sleep(RETRY_AFTER);
    let again = follow([1_000, 1_300]);
    assert!(again.len() == 1 && again[0].1 > refused[0].1, "{again:?}");
    assert_eq!(follow([1_400, 1_300]), []);
    assert_eq!(mtus(&control), [(1_400, 1_400), (1_300, 1_300)]);
    finish(threads);
}

#[test]
fn an_mtu_that_a_worker_takes_late_is_told_once() {
    let (mut control, threads) = started("cores = [0, 1]", str::to_owned);
    // Commands for the second worker go by here: what comes behind the question whether it is busy waits.
    let (sender, commands) = channel();
    let (release, held) = channel::<()>();
    let real = std::mem::replace(&mut control.workers[1], WorkerHandle::new(sender, Waker::new().unwrap()));
    let way = std::thread::spawn(move || {
        for (at, command) in commands.into_iter().enumerate() {
            if at == 1 {
                held.recv().unwrap();
            }
            real.call(move |worker| command(worker)).unwrap();
        }
    });
    let mut links = Links::default();
    let now = with_mtus(&control, [9_000, 1_300]);
    links.follow_mtus(&control, &control.ports(), &now);
    assert_eq!(mtus(&control), [(1_500, 9_000), (1_300, 1_300)]);
    assert!(links.refused.is_empty(), "it is in force: {:?}", links.refused);
    release.send(()).unwrap();
    let before = Arc::clone(&control.running.lock().unwrap());
    links.follow_mtus(&control, &control.ports(), &now);
    assert!(Arc::ptr_eq(&before, &control.running.lock().unwrap()));
    drop(control);
    way.join().unwrap();
    finish(threads);
}

#[test]
fn a_worker_that_is_late_keeps_no_other_from_forgetting_neighbours() {
    let (mut control, threads) = started("cores = [0, 1, 2]", str::to_owned);
    let mut links = Links::default();
    links.look(&control).unwrap();
    links.seen.values_mut().for_each(|seen| seen.is_up = false);
    let (mute, commands): (Vec<_>, Vec<_>) = [1, 2]
        .map(|at| {
            let (sender, commands) = channel();
            let handle = WorkerHandle::new(sender, Waker::new().unwrap());
            (std::mem::replace(&mut control.workers[at], handle), commands)
        })
        .into_iter()
        .unzip();
    assert!(matches!(links.look(&control), Err(InstanceError::WorkerGone)));
    assert_eq!(commands.iter().map(|commands| commands.try_iter().count()).collect::<Vec<_>>(), [1, 1]);
    control.workers.splice(1.., mute);
    links.look(&control).unwrap();
    finish(threads);
}
