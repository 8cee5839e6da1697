//! `convert`: another compression, a sample of the keys, a part of the time, one tenant.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::event::wire_key;
use crate::format::{Reader, Writer};
use crate::values::key_id;

/// Rewrites a trace.
#[derive(Args, Clone, Debug)]
pub struct Convert {
    /// Trace to read; - for standard input
    pub from: PathBuf,
    /// File to write; compressed if it ends in .zst or .gz; - for standard output
    pub to: PathBuf,
    /// Keep this share of the keys, chosen by hash, with all their requests
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    pub sample: f64,
    /// Leave out what comes before this second
    #[arg(long, value_name = "SECS", default_value_t = 0.0)]
    pub after: f64,
    /// Leave out what comes after this second
    #[arg(long, value_name = "SECS")]
    pub before: Option<f64>,
    /// Keep this tenant only
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Make trace time run so many times as fast
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub faster: f64,
}

impl Convert {
    /// Rewrites the trace.
    pub fn run(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.sample) || self.faster <= 0.0 {
            bail!("--sample takes 0 to 1, --faster a factor above 0");
        }
        let mut reader = Reader::open(&self.from)?;
        let mut writer = Writer::create(&self.to)?;
        let limit = (self.sample * u64::MAX as f64) as u64;
        let mut key = Vec::new();
        while let Some(mut event) = reader.next_event()? {
            let tenant = &reader.tenants()[event.tenant as usize];
            wire_key(tenant, &event, &mut key);
            let in_time = event.time >= self.after && self.before.is_none_or(|before| event.time <= before);
            if in_time && self.tenant.as_ref().is_none_or(|wanted| wanted == tenant) && key_id(&key) <= limit {
                event.time /= self.faster;
                writer.write(tenant, &event)?;
            }
        }
        writer.finish()
    }
}
