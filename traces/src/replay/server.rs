//! What a server says of itself, and what the kernel says of it.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

use super::wire::{Answers, Protocol, Sender, connect, stats};
use crate::figures::ServerCost;

/// Clock ticks of /proc a second: the kernel's interface is fixed at that on Linux.
const TICKS_A_SECOND: f64 = 100.0;

/// A connection for questions about the server.
pub(super) struct Control {
    sender: Sender,
    answers: Answers,
    silent: bool,
}

/// What the server says of itself.
#[derive(Default)]
pub(super) struct Stats(HashMap<String, u64>);

impl Control {
    pub(super) fn connect(server: &str, silent: bool) -> Result<Control> {
        let (sender, answers) = connect(server, Protocol::Text)?;
        Ok(Control { sender, answers, silent })
    }

    pub(super) fn read(&mut self) -> Result<Stats> {
        if self.silent {
            return Ok(Stats::default());
        }
        let mut all = Vec::new();
        // a server of another kind answers these with an error, which is no stats
        for arguments in ["", "flash", "tenants"] {
            all.extend(stats(&mut self.sender, &mut self.answers, arguments)?);
        }
        Ok(Stats(all.into_iter().filter_map(|(key, value)| Some((key, value.parse().ok()?))).collect()))
    }
}

impl Stats {
    /// The first of these that there is.
    pub(super) fn first(&self, keys: &[&str]) -> u64 {
        keys.iter().find_map(|key| self.0.get(*key)).copied().unwrap_or(0)
    }

    pub(super) fn tenant(&self, name: &str, key: &str) -> u64 {
        self.0.get(&format!("{name}:{key}")).copied().unwrap_or(0)
    }
}

/// What a process has cost since it began.
pub(super) fn cost(pid: u32) -> Result<ServerCost> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).with_context(|| format!("process {pid}"));
    let stat = read("stat")?;
    // the name is in brackets and may hold anything; user and system time are fields 14 and 15
    let behind = stat.rsplit(')').next().unwrap_or("");
    let ticks: f64 = behind.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    let of = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
        line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(ServerCost {
        cpu_seconds: ticks / TICKS_A_SECOND,
        cpu_seconds_per_million: 0.0,
        rss_bytes: of(&read("status")?, "VmHWM:") * 1024,
        // another user's process does not show it
        device_bytes_written: read("io").map_or(0, |text| of(&text, "write_bytes:")),
        block_bytes_written: None,
    })
}
