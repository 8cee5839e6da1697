//! `stat`: what a trace is like, whole and a tenant apart. Exact up to two million objects (half a million of a tenant); beyond,
//! what is counted by object comes from a sample of the keys, and memory stays as it is.

mod shape;
mod tell;

pub(crate) use tell::plots as plots_of;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::event::{Event, wire_key};
use crate::figures::write_json;
use crate::format::{Reader, Reading};
use crate::progress::Progress;
use crate::values::key_id;

use shape::Measure;
pub use shape::{Description, Sizes, Window};

/// Objects that are followed of a whole trace, and of one of its tenants.
const OBJECTS_MAX: usize = 1 << 21;
const OBJECTS_MAX_OF_TENANT: usize = 1 << 19;

/// Describes a trace.
#[derive(Args, Clone, Debug)]
pub struct Stat {
    /// Trace to read; - for standard input
    pub trace: PathBuf,
    /// How it is read
    #[command(flatten)]
    pub reading: Reading,
    /// Stop after so many requests
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the curves into this folder, as SVG and PNG
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<PathBuf>,
}

/// Reads a trace to its end, or to where it cannot be read further: then the error is beside what was measured.
pub fn measure(stat: &Stat) -> Result<(Description, Option<anyhow::Error>)> {
    let mut reader = Reader::with(&stat.trace, &stat.reading)?;
    let mut whole = Measure::new(OBJECTS_MAX);
    let mut tenants: Vec<Measure> = Vec::new();
    let (mut key, mut event) = (Vec::new(), Event::default());
    let progress = Progress::new(stat.limit);
    let mut count = 0;
    let failed = loop {
        if stat.limit.is_some_and(|limit| count >= limit) {
            break None;
        }
        match reader.read(&mut event) {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => break Some(error),
        }
        let tenant = event.tenant as usize;
        while tenants.len() <= tenant {
            tenants.push(Measure::new(OBJECTS_MAX_OF_TENANT));
        }
        wire_key(&reader.tenants()[tenant], &event, &mut key);
        let id = key_id(&key);
        whole.take(id, &event);
        tenants[tenant].take(id, &event);
        count += 1;
        progress.at(count);
    };
    progress.finish();
    let mut description = whole.describe();
    description.format = reader.format().name();
    description.bad_lines = reader.bad_lines();
    description.complete = failed.is_none();
    let names = reader.tenants().iter().cloned();
    description.tenants = names.zip(tenants.into_iter().map(Measure::describe)).collect();
    Ok((description, failed))
}

impl Stat {
    /// Prints tables, writes JSON and plots.
    pub fn run(&self) -> Result<()> {
        let (description, failed) = measure(self)?;
        tell::print(&description);
        if let Some(path) = &self.json {
            write_json(path, &description)?;
        }
        if let Some(folder) = &self.plots {
            tell::plot(&description, folder)?;
        }
        failed.map_or(Ok(()), |error| Err(error.context("the trace could not be read to its end")))
    }
}

#[cfg(test)]
mod tests;
