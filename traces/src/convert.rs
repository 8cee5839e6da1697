//! `convert`: another format or compression, a sample of the keys, a part of the time, other tenants.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::event::{Event, wire_key};
use crate::format::{Format, Reader, Reading, Writer};
use crate::values::key_id;

/// Rewrites a trace.
#[derive(Args, Clone, Debug)]
pub struct Convert {
    /// Trace to read; - for standard input
    pub from: PathBuf,
    /// File to write; compressed if it ends in .zst, .gz or .xz; - for standard output
    pub to: PathBuf,
    /// How it is read
    #[command(flatten)]
    pub reading: Reading,
    /// Format to write
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "csv")]
    pub to_format: Format,
    /// Keep this share of the keys, chosen by hash, with all their requests
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    pub sample: f64,
    /// Leave out what comes before this second
    #[arg(long, value_name = "SECS", default_value_t = f64::MIN, hide_default_value = true, allow_negative_numbers = true)]
    pub after: f64,
    /// Leave out what comes after this second
    #[arg(long, value_name = "SECS")]
    pub before: Option<f64>,
    /// Keep this tenant only (as the trace names it); repeat for more
    #[arg(long = "tenant", value_name = "NAME")]
    pub tenants: Vec<String>,
    /// Give a tenant another name; * names all that no other option does. Repeat for more
    #[arg(long = "rename", value_name = "FROM=TO")]
    pub renames: Vec<Rename>,
    /// Let time begin at 0
    #[arg(long)]
    pub from_zero: bool,
    /// Make trace time run so many times as fast
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub faster: f64,
}

/// A tenant's new name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename(String, String);

impl FromStr for Rename {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Rename> {
        let (from, to) = text.split_once('=').with_context(|| format!("'{text}': write FROM=TO"))?;
        if to.is_empty() || to.contains([',', ':', ' ']) {
            bail!("'{text}': a tenant's name is not empty and has no comma, colon or space");
        }
        Ok(Rename(from.to_owned(), to.to_owned()))
    }
}

impl Convert {
    fn name<'n>(&'n self, tenant: &'n str) -> &'n str {
        let named =
            |wanted: &str| self.renames.iter().find(|rename| rename.0 == wanted).map(|rename| rename.1.as_str());
        named(tenant).or_else(|| named("*")).unwrap_or(tenant)
    }

    /// Rewrites the trace.
    pub fn run(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.sample) || self.faster <= 0.0 {
            bail!("--sample takes 0 to 1, --faster a factor above 0");
        }
        if self.from == self.to && self.from != Path::new("-") {
            bail!("{}: a trace cannot be rewritten in its place", self.from.display());
        }
        let mut reader = Reader::with(&self.from, &self.reading)?;
        let mut writer = Writer::create(&self.to, self.to_format)?;
        // what was read before an error is kept
        let outcome = self.rewrite(&mut reader, &mut writer);
        writer.finish().with_context(|| format!("writing {}", self.to.display()))?;
        outcome
    }

    fn rewrite(&self, reader: &mut Reader, writer: &mut Writer) -> Result<()> {
        let limit = (self.sample * u64::MAX as f64) as u64;
        let (mut key, mut event, mut first) = (Vec::new(), Event::default(), None);
        while reader.read(&mut event)? {
            let tenant = &reader.tenants()[event.tenant as usize];
            let begin = *first.get_or_insert(event.time);
            let in_time = event.time >= self.after && self.before.is_none_or(|before| event.time <= before);
            if !in_time || !(self.tenants.is_empty() || self.tenants.contains(tenant)) {
                continue;
            }
            if self.sample < 1.0 {
                wire_key(tenant, &event, &mut key);
                if key_id(&key) > limit {
                    continue;
                }
            }
            event.time = (event.time - if self.from_zero { begin } else { 0.0 }) / self.faster;
            let name = self.name(tenant);
            writer.write(name, &event).with_context(|| format!("writing {}", self.to.display()))?;
        }
        Ok(())
    }
}
