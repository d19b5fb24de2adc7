//! `millrace-fuzz`: runs fuzz targets with any toolchain, and writes their seeds.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use millrace_fuzz::{TARGETS, Target, driver};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Runs fuzz targets without a special compiler, and writes their seeds.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a target on seeds that are mutated at random; ends with status 1 and a file at the first finding.
    Run {
        /// The target.
        #[arg(value_parser = target)]
        target: Target,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// What the mutations follow from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// A directory of more inputs to start from. May be repeated.
        #[arg(long)]
        corpus: Vec<PathBuf>,
        /// Where findings go, in a directory a target.
        #[arg(long, default_value = "fuzz/artifacts")]
        artifacts: PathBuf,
    },
    /// Runs a target on files, to reproduce findings.
    Replay {
        /// The target.
        #[arg(value_parser = target)]
        target: Target,
        /// The inputs.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Writes the seeds of all targets to DIRECTORY/TARGET/NAME.
    Seeds {
        /// Where to.
        directory: PathBuf,
    },
    /// Lists the targets.
    List,
}

fn target(name: &str) -> Result<Target, String> {
    let found = TARGETS.iter().find(|target| target.name == name).copied();
    found.ok_or_else(|| format!("expected one of {}", TARGETS.map(|target| target.name).join(", ")))
}

fn main() -> ExitCode {
    match work(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(command: Command) -> std::io::Result<ExitCode> {
    match command {
        Command::Run { target, seconds, seed, corpus, artifacts } => {
            let corpus =
                corpus.iter().map(|directory| read_all(directory)).collect::<Result<Vec<_>, _>>()?.concat();
            let outcome = driver::run(&target, corpus, seed, Duration::from_secs(seconds), &artifacts);
            println!("{}: {} executions with seed {seed}", target.name, outcome.executions);
            let Some(input) = outcome.finding else { return Ok(ExitCode::SUCCESS) };
            let path = driver::keep(&artifacts, target.name, &input);
            println!("{}: a finding: {}", target.name, path.display());
            Ok(ExitCode::FAILURE)
        }
        Command::Replay { target, files } => {
            for file in files {
                println!("{}", file.display());
                (target.run)(&fs::read(file)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Seeds { directory } => {
            for target in TARGETS {
                let directory = directory.join(target.name);
                fs::create_dir_all(&directory)?;
                for (name, input) in (target.seeds)() {
                    fs::write(directory.join(name), input)?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::List => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The files of a directory, by name so that runs repeat.
fn read_all(directory: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut paths = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    paths.retain(|path| path.is_file());
    paths.sort();
    paths.iter().map(fs::read).collect()
}
