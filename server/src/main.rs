//! The server's binary: flags in, a running server, and out again on a signal.

use std::process::ExitCode;

use clap::Parser;
use server::{Config, Flags, start};
use signal_hook::consts::{SIGINT, SIGTERM};

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flashare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let config = Config::new(flags)?;
    let (listen, memory) = (config.listen.clone(), config.memory_bytes >> 20);
    let running = start(config)?;
    let flash = running.cache.settings().flash.map_or(0, |flash| flash.bytes >> 20);
    let tenants = running.cache.registry().tenants().len();
    println!(
        "flashare {} serves on {listen}:{} from {memory} MiB of DRAM and {flash} MiB of flash, {tenants} tenant(s)",
        server::VERSION,
        running.port
    );
    signals.forever().next();
    running.stop();
    Ok(())
}
