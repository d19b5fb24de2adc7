//! The driver that needs no special compiler: seeds, mutated at random, one after the other, from a seed that is printed. It sees no
//! coverage, so it finds less than libFuzzer in the same time.

use crate::Target;
use crate::random::Random;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Longest input.
const INPUT_BYTES_MAX: usize = 8 << 10;
/// Longest time for one input: more is a finding.
const STALL_TIME: Duration = Duration::from_secs(20);

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Inputs that were taken.
    pub executions: u64,
    /// The input that made the target panic.
    pub finding: Option<Vec<u8>>,
}

/// Runs a target on mutated seeds for a time, or until it panics. `corpus` are more inputs to start from. An input that takes too
/// long is written to `artifacts`, and the process ends.
pub fn run(target: &Target, corpus: Vec<Vec<u8>>, seed: u64, time: Duration, artifacts: &Path) -> Outcome {
    let mut inputs: Vec<Vec<u8>> = (target.seeds)().into_iter().map(|(_, input)| input).collect();
    inputs.extend(corpus);
    let mut random = Random::new(seed);
    let end = Instant::now() + time;
    let watch = watch(target.name, artifacts.to_owned());
    let mut executions = 0;
    while Instant::now() < end || executions < inputs.len() as u64 {
        // First all of them as they are.
        let input = match inputs.get(executions as usize) {
            Some(input) => input.clone(),
            None => mutated(&mut random, &inputs),
        };
        // The watch ends with this function.
        _ = watch.send(input.clone());
        executions += 1;
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            return Outcome { executions, finding: Some(input) };
        }
    }
    Outcome { executions, finding: None }
}

/// A thread that ends the process when no next input comes in time.
fn watch(name: &'static str, artifacts: PathBuf) -> Sender<Vec<u8>> {
    let (sender, receiver) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        let Ok(mut running) = receiver.recv() else { return };
        loop {
            match receiver.recv_timeout(STALL_TIME) {
                Ok(next) => running = next,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let path = keep(&artifacts, name, &running);
                    eprintln!("{name}: no end after {STALL_TIME:?}: {}", path.display());
                    std::process::exit(1);
                }
            }
        }
    });
    sender
}

/// Writes an input to a file named after its content.
///
/// # Panics
/// The file can't be written.
pub fn keep(artifacts: &Path, name: &str, input: &[u8]) -> PathBuf {
    let digest = input.iter().fold(0xcbf2_9ce4_8422_2325u64, |digest, &byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let directory = artifacts.join(name);
    let path = directory.join(format!("crash-{digest:016x}"));
    std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(&path, input))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// One of the inputs with one to eight changes.
fn mutated(random: &mut Random, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut input = inputs[random.below(inputs.len())].clone();
    let most = 1 << random.below(4);
    for _ in 0..1 + random.below(most) {
        mutate(random, &mut input, inputs);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn mutate(random: &mut Random, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
    // The front matters more: headers are there.
    let reach = if random.below(2) == 0 { 64 } else { usize::MAX };
    let at = random.below(input.len().min(reach) + 1);
    let rest = input.len() - at;
    match random.below(10) {
        0 | 1 if rest > 0 => input[at] ^= 1 << random.below(8),
        2 if rest > 0 => input[at] = random.number() as u8,
        3 if rest > 0 => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'[', b'='][random.below(8)],
        4 if rest > 1 => {
            let value = [0, 1, 20, 40, 0x7fff, 0x8000, 0xffff, rest as u16][random.below(8)];
            input[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        5 => input.truncate(at),
        6 if rest > 0 => drop(input.drain(at..at + 1 + random.below(rest.min(32)))),
        7 => {
            let count = random.below(16);
            let bytes = random.bytes(count);
            input.splice(at..at, bytes);
        }
        8 if rest > 0 => {
            let piece = input[at..at + 1 + random.below(rest.min(256))].to_vec();
            input.splice(at..at, piece);
        }
        _ => {
            // A piece of another input.
            let other = &inputs[random.below(inputs.len())];
            let from = random.below(other.len() + 1);
            let piece = other[from..].iter().copied().take(1 + random.below(256));
            let to = at + random.below(rest.min(64) + 1);
            input.splice(at..to, piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hates_seven(data: &[u8]) {
        assert!(!data.contains(&7), "a seven");
    }

    /// The driver finds what is there to be found.
    #[test]
    fn a_panic_is_a_finding() {
        let seeds = || vec![("zeros".to_owned(), vec![0; 32])];
        let target = Target { name: "test", run: hates_seven, seeds };
        let directory = tempfile::tempdir().unwrap();
        let outcome = run(&target, Vec::new(), 1, Duration::from_secs(20), directory.path());
        let finding = outcome.finding.expect("one in a few hundred inputs has a seven");
        assert!(finding.contains(&7));
        let kept = keep(directory.path(), "test", &finding);
        assert_eq!(std::fs::read(kept).unwrap(), finding);
    }
}
