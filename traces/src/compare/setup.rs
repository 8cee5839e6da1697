//! The file that names what is compared.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;

use super::Compared;
use crate::replay::Protocol;

/// What to compare.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Setup {
    /// Trace, from the setup's folder on.
    pub(super) trace: Option<PathBuf>,
    /// Memory of each server, page cache counted, as a size.
    memory: Option<String>,
    #[serde(default = "one")]
    pub(super) rounds: usize,
    #[serde(default = "four")]
    pub(super) connections: usize,
    #[serde(default = "sixteen")]
    pub(super) pipeline: usize,
    /// As `replay --speed`.
    #[serde(default = "max")]
    pub(super) speed: String,
    /// As `replay --rate`.
    pub(super) rate: Option<f64>,
    /// As `replay --value-max`.
    #[serde(default = "value_max")]
    pub(super) value_max: String,
    #[serde(rename = "server")]
    pub(super) servers: Vec<ServerSetup>,
}

/// A server to compare.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerSetup {
    pub(super) name: String,
    /// Its command line, run by a shell. `{port}`: where it has to listen; `{folder}`: a folder of its own; `{tenants}`: a file for
    /// --config with the trace's tenants, each with an equal part of half of `dram` reserved.
    command: String,
    /// DRAM that reservations are taken from.
    dram: Option<String>,
    protocol: Option<String>,
    /// Memory of this server, instead of everyone's; 0 for no limit.
    memory: Option<String>,
    pub(super) value_max: Option<String>,
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

fn sixteen() -> usize {
    16
}

fn max() -> String {
    "max".to_owned()
}

fn value_max() -> String {
    "1000KiB".to_owned()
}

impl Setup {
    pub(super) fn read(path: &Path) -> Result<Setup> {
        let place = || path.display().to_string();
        let mut setup: Setup = toml::from_str(&fs::read_to_string(path).with_context(place)?).with_context(place)?;
        if setup.servers.is_empty() {
            bail!("{}: name a server to run: [[server]] with name and command", path.display());
        }
        for (number, server) in setup.servers.iter().enumerate() {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if server.name.is_empty() || !server.name.chars().all(is_plain) {
                bail!("{}: server '{}': a name has letters, digits, - _ and . only", path.display(), server.name);
            }
            if setup.servers[..number].iter().any(|other| other.name == server.name) {
                bail!("{}: two servers are named '{}'", path.display(), server.name);
            }
            if !server.command.contains("{port}") {
                bail!(
                    "{}: server {}: write {{port}} where the port belongs in the command",
                    path.display(),
                    server.name
                );
            }
            server.protocol()?;
        }
        setup.memory_bytes().with_context(place)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        setup.trace = setup.trace.map(|trace| folder.join(trace));
        Ok(setup)
    }

    pub(super) fn memory_bytes(&self) -> Result<Option<u64>> {
        self.memory.as_deref().map(|text| ::server::parse_size(text, 1 << 20)).transpose().context("memory")
    }
}

impl ServerSetup {
    /// The limit of this server, where everyone's is `all`.
    pub(super) fn memory_bytes(&self, all: Option<u64>) -> Result<Option<u64>> {
        let own = self.memory.as_deref().map(|text| ::server::parse_size(text, 1 << 20)).transpose();
        let own = own.with_context(|| format!("server {}: memory", self.name))?;
        Ok(own.map_or(all, |bytes| all.is_some().then_some(bytes).filter(|bytes| *bytes > 0)))
    }

    pub(super) fn compared(&self) -> Compared {
        Compared { name: self.name.clone(), command: self.command.clone(), median: 0, rounds: Vec::new() }
    }

    pub(super) fn protocol(&self) -> Result<Protocol> {
        let name = self.protocol.as_deref().unwrap_or("text");
        Protocol::from_str(name, true).map_err(|_| anyhow::anyhow!("server {}: protocol is text or meta", self.name))
    }

    /// The command with its blanks filled in; writes the file of tenants if it is asked for.
    pub(super) fn command_line(&self, port: u16, folder: &Path, tenants: &[String]) -> Result<String> {
        let mut line =
            self.command.replace("{port}", &port.to_string()).replace("{folder}", &folder.display().to_string());
        if line.contains("{tenants}") {
            let dram = self.dram.as_deref().with_context(|| {
                format!("server {}: {{tenants}} needs dram = \"SIZE\", of which half is reserved", self.name)
            })?;
            let reserved = ::server::parse_size(dram, 1 << 20).context("dram")? / 2 / tenants.len().max(1) as u64;
            let rows = tenants.iter().map(|name| {
                format!("[[tenant]]\nname = \"{name}\"\nprefix = \"{name}:\"\nreserved = \"{reserved}b\"\n")
            });
            let file = folder.join("tenants.toml");
            fs::write(&file, rows.collect::<String>()).with_context(|| file.display().to_string())?;
            line = line.replace("{tenants}", &file.display().to_string());
        }
        Ok(line)
    }
}
