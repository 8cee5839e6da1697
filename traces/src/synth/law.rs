//! The law of one tenant's requests: from a line of fields, a table of a description file, a Twitter cluster, a cachebench
//! configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::clusters::{CLUSTERS, UNKNOWN};
use crate::event::Op;

/// How often keys are asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Popularity {
    /// Zipf's law with this exponent, over so many keys.
    Zipf(f64),
    /// Classes of keys: share of the requests, share of the keys.
    Classes(Vec<(f64, f64)>),
}

/// How large values are. A key's value always has the same size.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ValueSizes {
    /// Log-normal: mean, and deviation of the logarithm.
    LogNormal(f64, f64),
    /// Classes that end at so many bytes: end, share of the objects.
    Classes(Vec<(u32, f64)>),
}

/// The law of one tenant's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantLaw {
    pub(super) name: String,
    /// Part of all requests, as a weight.
    pub(super) share: f64,
    /// Keys that are asked for again and again.
    pub(super) objects: u64,
    pub(super) popularity: Popularity,
    pub(super) sizes: ValueSizes,
    /// Operations but get, and their shares of the requests.
    pub(super) writes: Vec<(Op, f64)>,
    /// Share of gets for keys that are asked for once.
    pub(super) one_hit: f64,
    /// Key size in bytes.
    pub(super) key: u32,
    /// Seconds to live, with their shares of the keys.
    pub(super) ttls: Vec<(u32, f64)>,
    /// Keys whose popularity changes, for each request.
    pub(super) drift: f64,
    /// Seconds of trace time in which it is there.
    pub(super) start: f64,
    pub(super) stop: f64,
    /// Day and night: the load swings by this share, with this period in seconds.
    pub(super) swing: f64,
    pub(super) period: f64,
    /// Bursts: one every so many seconds, so long, so many times the load.
    pub(super) burst_every: f64,
    pub(super) burst_for: f64,
    pub(super) burst_times: f64,
    /// Scans: one every so many seconds, over so many keys.
    pub(super) scan_every: f64,
    pub(super) scan_keys: u64,
}

/// The fields of a tenant, for those who ask.
pub(super) const FIELDS: &str = "share objects alpha size sigma sets deletes one-hit key ttl drift start stop swing period burst-every burst-for burst-times scan-every scan-keys cluster cachebench";

impl TenantLaw {
    fn named(name: &str) -> Result<TenantLaw> {
        if name.is_empty() || name.contains([':', ' ', '=', ',']) {
            bail!("'{name}': begin with the tenant's name, without spaces, colons and commas");
        }
        Ok(TenantLaw {
            name: name.to_owned(),
            share: 1.0,
            objects: 20_000,
            popularity: Popularity::Zipf(0.9),
            sizes: ValueSizes::LogNormal(300.0, 0.8),
            writes: vec![(Op::Set, 0.05)],
            one_hit: 0.1,
            key: 24,
            ttls: Vec::new(),
            drift: 0.0,
            start: 0.0,
            stop: f64::INFINITY,
            swing: 0.0,
            period: 86_400.0,
            burst_every: 0.0,
            burst_for: 60.0,
            burst_times: 5.0,
            scan_every: 0.0,
            scan_keys: 10_000,
        })
    }

    /// The law of a Twitter cluster for a trace of so many requests.
    pub(super) fn of_cluster(number: u32, requests: u64) -> Result<TenantLaw> {
        let mut law = TenantLaw::named(&format!("cluster{number}"))?;
        law.follow_cluster(number, requests)?;
        Ok(law)
    }

    fn follow_cluster(&mut self, number: u32, requests: u64) -> Result<()> {
        if UNKNOWN.contains(&number) {
            bail!("cluster {number}: Twitter published no figures of it");
        }
        let cluster = CLUSTERS.iter().find(|cluster| cluster.number == number);
        let cluster = cluster.with_context(|| format!("cluster {number}: take 1 to 54"))?;
        let objects = requests as f64 / cluster.frequency.max(1.0);
        self.objects = (objects * (1.0 - cluster.one_hit)).max(100.0) as u64;
        self.one_hit = (cluster.one_hit / cluster.frequency).min(1.0);
        self.popularity = Popularity::Zipf(cluster.alpha);
        self.sizes = ValueSizes::LogNormal(f64::from(cluster.value.max(1)), 0.8);
        self.key = cluster.key;
        self.ttls = cluster.ttls.to_vec();
        let writes = cluster.writes.iter().map(|(name, share)| (Op::of(name.as_bytes()).unwrap_or(Op::Set), *share));
        self.writes = writes.collect();
        Ok(())
    }

    /// Takes popularity, sizes, key size and operations from a configuration of CacheLib's cachebench.
    fn follow_cachebench(&mut self, path: &Path) -> Result<()> {
        let bench = Cachebench::read(path).with_context(|| path.display().to_string())?;
        let test = bench.test;
        let (weights, keys) = (&bench.popularity.popularity_weights, &bench.popularity.popularity_buckets);
        let (weight, count) = (weights.iter().sum::<f64>(), keys.iter().sum::<f64>());
        if weight <= 0.0 || count <= 0.0 || weights.len() != keys.len() {
            bail!("{}: popularityWeights and popularityBuckets are of one length, and not all 0", path.display());
        }
        self.objects = count as u64;
        let classes = weights.iter().zip(keys).map(|(w, k)| (w / weight, k / count));
        self.popularity = Popularity::Classes(classes.filter(|(_, keys)| *keys > 0.0).collect());
        let (ends, shares) = (&bench.sizes.val_size_range, &bench.sizes.val_size_range_probability);
        let all: f64 = shares.iter().sum();
        if all <= 0.0 || ends.len() < shares.len() {
            bail!("{}: valSizeRange has a size for each valSizeRangeProbability", path.display());
        }
        self.sizes =
            ValueSizes::Classes(ends.iter().zip(shares).map(|(end, share)| (*end as u32, share / all)).collect());
        let total = test.get_ratio + test.set_ratio + test.del_ratio + test.lone_get_ratio + test.lone_set_ratio;
        let lone = test.lone_get_ratio + test.lone_set_ratio;
        self.one_hit = lone / total;
        let writes = [(Op::Set, test.set_ratio + test.lone_set_ratio), (Op::Delete, test.del_ratio)];
        self.writes = writes.iter().filter(|(_, ratio)| *ratio > 0.0).map(|(op, ratio)| (*op, ratio / total)).collect();
        let (low, high) = (test.key_size_range.first().copied(), test.key_size_range.last().copied());
        self.key = low.zip(high).map_or(24, |(low, high)| (low + high) / 2);
        Ok(())
    }

    /// Sets one field; files are named from `folder` on.
    fn set(&mut self, field: &str, value: &str, requests: u64, folder: &Path) -> Result<()> {
        if field == "cachebench" {
            return self.follow_cachebench(&folder.join(value));
        }
        let number: f64 = value
            .parse()
            .ok()
            .filter(|number: &f64| *number >= 0.0)
            .with_context(|| format!("'{field}={value}': '{value}' is no number from 0 on"))?;
        match field {
            "cluster" => self.follow_cluster(number as u32, requests)?,
            "share" => self.share = number,
            "objects" => self.objects = number.max(1.0) as u64,
            "alpha" => self.popularity = Popularity::Zipf(number),
            "size" | "sigma" => {
                let (mean, sigma) = match self.sizes {
                    ValueSizes::LogNormal(mean, sigma) => (mean, sigma),
                    ValueSizes::Classes(_) => (300.0, 0.8),
                };
                self.sizes = match field {
                    "size" => ValueSizes::LogNormal(number.max(1.0), sigma),
                    _ => ValueSizes::LogNormal(mean, number),
                };
            }
            "sets" => self.set_writes(Op::Set, number),
            "deletes" => self.set_writes(Op::Delete, number),
            "one-hit" => self.one_hit = number,
            "key" => self.key = number as u32,
            "ttl" => self.ttls = if number == 0.0 { Vec::new() } else { vec![(number as u32, 1.0)] },
            "drift" => self.drift = number,
            "start" => self.start = number,
            "stop" => self.stop = number,
            "swing" => self.swing = number.min(1.0),
            "period" => self.period = number,
            "burst-every" => self.burst_every = number,
            "burst-for" => self.burst_for = number,
            "burst-times" => self.burst_times = number,
            "scan-every" => self.scan_every = number,
            "scan-keys" => self.scan_keys = number as u64,
            _ => bail!("'{field}' is no field of a tenant; these are: {FIELDS}"),
        }
        Ok(())
    }

    fn set_writes(&mut self, op: Op, share: f64) {
        self.writes.retain(|(own, _)| *own != op);
        if share > 0.0 {
            self.writes.push((op, share));
        }
    }

    fn check(self) -> Result<TenantLaw> {
        let writes: f64 = self.writes.iter().map(|(_, share)| share).sum();
        match () {
            () if self.share <= 0.0 => bail!("tenant {}: share is above 0", self.name),
            () if writes > 1.0 + 1e-9 => bail!("tenant {}: sets and deletes are more than all requests", self.name),
            () if self.start >= self.stop => bail!("tenant {}: it stops before it starts", self.name),
            () if self.period <= 0.0 => bail!("tenant {}: period is above 0", self.name),
            () => Ok(self),
        }
    }

    /// How heavy its load is at a moment, in units of its share.
    pub(super) fn load_at(&self, time: f64) -> f64 {
        if time < self.start || time >= self.stop {
            return 0.0;
        }
        let day = 1.0 + self.swing * (time / self.period * std::f64::consts::TAU).sin();
        let in_burst =
            self.burst_every > 0.0 && (time - self.start) % self.burst_every >= self.burst_every - self.burst_for;
        day * if in_burst { self.burst_times } else { 1.0 }
    }

    fn of_line(text: &str, requests: u64) -> Result<TenantLaw> {
        let mut parts = text.split(',');
        let mut law = TenantLaw::named(parts.next().unwrap_or(""))?;
        for part in parts {
            let (field, value) = part.split_once('=').with_context(|| format!("'{part}': write FIELD=NUMBER"))?;
            law.set(field, value, requests, Path::new(""))?;
        }
        law.check()
    }

    /// Reads tenants from a description file: TOML, a `[[tenant]]` each, with `name` and the fields.
    pub(super) fn of_file(path: &Path, requests: u64) -> Result<Vec<TenantLaw>> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            tenant: Vec<toml::Table>,
        }
        let place = || path.display().to_string();
        let file: File = toml::from_str(&fs::read_to_string(path).with_context(place)?).with_context(place)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let law = |table: &toml::Table| {
            let name = table.get("name").and_then(toml::Value::as_str).context("a tenant has no name")?;
            let mut law = TenantLaw::named(name)?;
            // what stands for a whole law comes first, single fields change it
            let is_base = |field: &str| field == "cluster" || field == "cachebench";
            let (bases, others): (Vec<_>, Vec<_>) =
                table.iter().filter(|(field, _)| *field != "name").partition(|(field, _)| is_base(field));
            for (field, value) in bases.into_iter().chain(others) {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                law.set(field, &text, requests, folder).with_context(|| format!("tenant {name}"))?;
            }
            law.check()
        };
        file.tenant.iter().map(law).collect::<Result<_>>().with_context(place)
    }
}

/// A tenant as a flag states it. What depends on the number of requests is filled in when that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantText(String);

impl TenantText {
    pub(super) fn law(&self, requests: u64) -> Result<TenantLaw> {
        TenantLaw::of_line(&self.0, requests)
    }
}

impl FromStr for TenantText {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<TenantText> {
        TenantLaw::of_line(text, 1).map(|_| TenantText(text.to_owned()))
    }
}

/// A configuration of CacheLib's cachebench: the parts that say what requests are like.
struct Cachebench {
    test: TestConfig,
    popularity: PopularityFile,
    sizes: SizesFile,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct TestConfig {
    get_ratio: f64,
    set_ratio: f64,
    del_ratio: f64,
    lone_get_ratio: f64,
    lone_set_ratio: f64,
    key_size_range: Vec<u32>,
    pop_dist_file: Option<PathBuf>,
    val_size_dist_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PopularityFile {
    popularity_weights: Vec<f64>,
    popularity_buckets: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SizesFile {
    val_size_range: Vec<f64>,
    val_size_range_probability: Vec<f64>,
}

impl Cachebench {
    fn read(path: &Path) -> Result<Cachebench> {
        #[derive(Deserialize)]
        struct Whole {
            test_config: TestConfig,
        }
        fn parsed<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            serde_json::from_str(&text).with_context(|| path.display().to_string())
        }
        let test = parsed::<Whole>(path)?.test_config;
        // beside the configuration, by the name that it states, or with the configuration's own name before it
        let beside = |stated: &Option<PathBuf>, usual: &str| {
            let stated = stated.clone().unwrap_or_else(|| usual.into());
            let plain = path.with_file_name(&stated);
            let own =
                path.file_name().map(|name| name.to_string_lossy().replace("config.json", &stated.to_string_lossy()));
            if plain.exists() { plain } else { path.with_file_name(own.unwrap_or_default()) }
        };
        let popularity = parsed(&beside(&test.pop_dist_file, "pop.json"))?;
        let sizes = parsed(&beside(&test.val_size_dist_file, "sizes.json"))?;
        Ok(Cachebench { test, popularity, sizes })
    }
}
