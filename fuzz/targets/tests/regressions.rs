//! Findings stay found: every file of `regressions/TARGET/`, every seed, and a short run of each target with mutated seeds. The committed
//! seeds are what the generator makes.

use millrace_fuzz::{TARGETS, driver};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeMap::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    paths.map(|path| (name(&path), fs::read(&path).expect("it can be read"))).collect()
}

fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

#[test]
fn findings_stay_mended() {
    for target in TARGETS {
        for (name, input) in files(&beside("regressions").join(target.name)) {
            println!("{} {name}", target.name);
            (target.run)(&input);
        }
    }
}

#[test]
fn seeds_are_what_the_generator_makes() {
    for target in TARGETS {
        let made: BTreeMap<_, _> = (target.seeds)().into_iter().collect();
        let committed = files(&beside("seeds").join(target.name));
        assert!(
            made == committed,
            "{}: write them anew: cargo run -p millrace-fuzz -- seeds fuzz/seeds",
            target.name
        );
    }
}

#[test]
fn a_short_run_of_each_target_finds_nothing() {
    for target in TARGETS {
        let directory = tempfile::tempdir().expect("a directory");
        let outcome = driver::run(&target, Vec::new(), 1, Duration::from_secs(3), directory.path());
        println!("{}: {} executions", target.name, outcome.executions);
        if let Some(input) = outcome.finding {
            panic!("{}: {}", target.name, String::from_utf8_lossy(&input).escape_debug());
        }
    }
}
