//! `flashare-trace`: tools for cache traces.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use traces::{Compare, Convert, MakeReport, Replay, Simulate, Stat, Synth};

/// Describe, make and run cache traces.
#[derive(Parser)]
#[command(name = "flashare-trace", version)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Stat(Stat),
    Convert(Convert),
    Synth(Synth),
    Simulate(Box<Simulate>),
    Replay(Replay),
    Compare(Compare),
    Report(MakeReport),
}

fn main() -> ExitCode {
    let result = match Command::parse().verb {
        Verb::Stat(stat) => stat.run(),
        Verb::Convert(convert) => convert.run(),
        Verb::Synth(synth) => synth.run(),
        Verb::Simulate(simulate) => simulate.run(),
        Verb::Replay(replay) => replay.run(),
        Verb::Compare(compare) => compare.run(),
        Verb::Report(report) => report.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flashare-trace: {error:#}");
            ExitCode::FAILURE
        }
    }
}
