//! DPDK's own measurement of its ring: `ring_perf_autotest` of `dpdk-test` (Debian 12: package `dpdk-dev`), as a process.

use crate::rig::BenchResult;
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "dpdk-test";
const TIME_MAX: Duration = Duration::from_secs(180);
/// Its output has about 4 kB.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Runs the test on two cores: TSC cycles an element of its single-producer, single-consumer ring between the two in bulks
/// of `bulk` (8 or 32), those of both cores added.
///
/// # Errors
/// If there are no two cores, the program is not installed, takes more than three minutes, or prints no such line.
pub fn run(pair: Option<(usize, usize)>, bulk: usize) -> BenchResult<f64> {
    let (first, second) = pair.ok_or("there are no two cores to run on")?;
    let mut child = Command::new(PROGRAM)
        .args(["--no-huge", "-m", "256", "--no-pci", "--no-shconf", "-l", &format!("{first},{second}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => "`dpdk-test` is not installed (Debian 12 has it in `dpdk-dev`)".to_owned(),
            _ => format!("`dpdk-test` does not start: {error}"),
        })?;
    let output = finish(&mut child);
    if output.is_err() {
        // Fails only if it has ended already.
        let _ = child.kill();
    }
    child.wait()?;
    Ok(parse(&output?, bulk).ok_or("`dpdk-test` printed no cycles for two cores")?)
}

/// Gives the commands and collects what is printed until the program ends.
fn finish(child: &mut Child) -> BenchResult<String> {
    let mut input = child.stdin.take().ok_or("`dpdk-test` has no input")?;
    let output = child.stdout.take().ok_or("`dpdk-test` has no output")?;
    input.write_all(b"ring_perf_autotest\nquit\n")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        output.take(OUTPUT_BYTES_MAX).read_to_end(&mut text).map(|_| text)
    });
    let end = Instant::now() + TIME_MAX;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            return Err("`dpdk-test` did not end within three minutes".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(input);
    let text = reader.join().map_err(|_| "reading the output of `dpdk-test` failed")??;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The first line for the bulk size in the section for two cores.
fn parse(output: &str, bulk: usize) -> Option<f64> {
    let size = format!("(size: {bulk})");
    output
        .lines()
        .skip_while(|line| !line.starts_with("### Testing using two "))
        .find(|line| line.contains("SP/SC") && line.contains("bulk") && line.contains(&size))
        .and_then(|line| line.rsplit(':').next()?.trim().parse().ok())
        .filter(|&cycles| cycles > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of DPDK 22.11.
    const OUTPUT: &str = "\
### Testing bulk enq/deq ###
legacy APIs: SP/SC: bulk (size: 32): 68.25

### Testing using two physical cores ###
legacy APIs: SP/SC: bulk (size: 8): 15.53
legacy APIs: MP/MC: bulk (size: 32): 57.38
legacy APIs: SP/SC: bulk (size: 32): 6.50

### Testing using two physical cores ###
elem APIs: element size 16B: SP/SC: bulk (size: 32): 11.36
";

    #[test]
    fn the_line_for_two_cores_is_found() {
        assert_eq!(parse(OUTPUT, 32), Some(6.5));
        assert_eq!(parse("SP/SC bulk enq/dequeue (size: 32): 9.00\n", 32), None);
        assert_eq!(
            parse("### Testing using two hyperthreads ###\nSP/SC bulk enq/dequeue (size: 32): x\n", 32),
            None
        );
        assert_eq!(parse("", 32), None);
    }

    #[test]
    fn one_core_is_not_enough() {
        assert!(run(None, 32).unwrap_err().to_string().contains("two cores"));
    }
}
