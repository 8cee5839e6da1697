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
    /// Read only so many requests
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    pub limit: u64,
    /// Keep this tenant only (as the trace names it); repeat for more
    #[arg(long = "tenant", value_name = "NAME")]
    pub tenants: Vec<String>,
    /// Give a tenant another name; * names all that no other option does. Repeat for more
    #[arg(long = "rename", value_name = "FROM=TO")]
    pub renames: Vec<Rename>,
    /// The tenant is what a key says before this character, as applications on one memcached tell their keys apart; keys without it
    /// stay with the tenant of the trace
    #[arg(long, value_name = "CHAR")]
    pub prefix_delimiter: Option<char>,
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

    /// Whether the sample has it.
    fn keeps(&self, tenant: &str, event: &Event, highest: u64, wire: &mut Vec<u8>) -> bool {
        if self.sample < 1.0 {
            wire_key(tenant, event, wire);
        }
        self.sample >= 1.0 || key_id(wire) <= highest
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
        let highest = (self.sample * u64::MAX as f64) as u64;
        let mut left = self.limit;
        let (mut key, mut wire, mut event, mut first) = (Vec::new(), Vec::new(), Event::default(), None);
        while left > 0 && reader.read(&mut event)? {
            left -= 1;
            let prefix = self.prefix_delimiter.and_then(|delimiter| split_prefix(delimiter, &event.key));
            let (tenant, own) = prefix.unwrap_or((&reader.tenants()[event.tenant as usize], &event.key));
            let begin = *first.get_or_insert(event.time);
            let in_time = event.time >= self.after && self.before.is_none_or(|before| event.time <= before);
            if !in_time || !(self.tenants.is_empty() || self.tenants.iter().any(|wanted| wanted == tenant)) {
                continue;
            }
            // the reader's event stays as it is: the next may be the same again
            key.clear();
            key.extend_from_slice(own);
            let time = (event.time - if self.from_zero { begin } else { 0.0 }) / self.faster;
            let told = Event { time, key: std::mem::take(&mut key), ..event };
            if self.keeps(tenant, &told, highest, &mut wire) {
                let name = self.name(tenant);
                writer.write(name, &told).with_context(|| format!("writing {}", self.to.display()))?;
            }
            key = told.key;
        }
        Ok(())
    }
}

/// What a key says before the delimiter, and what behind it. None if it has no such prefix, or one that cannot name a tenant.
fn split_prefix(delimiter: char, key: &[u8]) -> Option<(&str, &[u8])> {
    let mut bytes = [0; 4];
    let delimiter = delimiter.encode_utf8(&mut bytes).as_bytes();
    let at = memchr::memmem::find(key, delimiter)?;
    let (prefix, own) = (&key[..at], &key[at + delimiter.len()..]);
    let is_name = !prefix.is_empty() && prefix.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',');
    std::str::from_utf8(prefix).ok().filter(|_| is_name && !own.is_empty()).map(|prefix| (prefix, own))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Call {
        #[command(flatten)]
        convert: Convert,
    }

    /// What becomes of a trace of our own format under these flags.
    fn converted(trace: &str, flags: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from.csv"), folder.path().join("to.csv"));
        std::fs::write(&from, trace).unwrap();
        let paths = [from.to_str().unwrap(), to.to_str().unwrap()];
        Call::parse_from(["convert"].iter().chain(&paths).chain(flags)).convert.run().unwrap();
        std::fs::read_to_string(to).unwrap()
    }

    #[test]
    fn a_prefix_names_the_tenant() {
        let trace = "1.000,shop:7:x,40,5,all,get,0\n2.000,plain,5,5,all,set,9\n3.000,:x,2,5,all,get,0\n4.000,feed:,5,5,all,get,0\n";
        let by_prefix =
            "1.000,7:x,40,5,shop,get,0\n2.000,plain,5,5,all,set,9\n3.000,:x,2,5,all,get,0\n4.000,feed:,5,5,all,get,0\n";
        assert_eq!(converted(trace, &["--prefix-delimiter", ":"]), by_prefix);
        assert_eq!(converted(trace, &["--prefix-delimiter", ":", "--tenant", "shop"]), "1.000,7:x,40,5,shop,get,0\n");
        let renamed = "1.000,7:x,40,5,web,get,0\n";
        assert_eq!(converted(trace, &["--prefix-delimiter", ":", "--rename", "shop=web", "--before", "1.5"]), renamed);
        assert_eq!(converted(trace, &[]), trace);
    }

    #[test]
    fn what_a_line_says_twice_is_rewritten_twice() {
        let trace = "op_time,key,key_size,op,op_count,size,ttl\n10,a:b,3,GET,1,5,0\n14,a:b,3,GET,3,5,0\n";
        let twice = "0.000,b,3,5,a,get,0\n2.000,b,3,5,a,get,0\n2.000,b,3,5,a,get,0\n2.000,b,3,5,a,get,0\n";
        assert_eq!(converted(trace, &["--from-zero", "--faster", "2", "--prefix-delimiter", ":"]), twice);
        assert_eq!(
            converted(trace, &["--limit", "3"]).lines().count(),
            3,
            "in the middle of a line that stands for three"
        );
    }

    #[test]
    fn times_and_keys_are_cut() {
        let trace: String = (0..1_000).map(|n| format!("{n}.5,k{},3,4,t,get,0\n", n % 100)).collect();
        let cut = converted(&trace, &["--after", "100", "--before", "199.5", "--from-zero", "--faster", "2"]);
        assert_eq!(cut.lines().count(), 100);
        assert_eq!(
            (cut.lines().next(), cut.lines().last()),
            (Some("50.000,k0,3,4,t,get,0"), Some("99.500,k99,3,4,t,get,0"))
        );
        // a sample has all requests of a key or none
        let sample = converted(&trace, &["--sample", "0.3"]);
        let keys: std::collections::HashSet<&str> = sample.lines().filter_map(|line| line.split(',').nth(1)).collect();
        assert!((15..50).contains(&keys.len()) && sample.lines().count() == keys.len() * 10, "{}", keys.len());
    }
}
