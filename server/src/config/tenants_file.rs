//! Tenants, as the `--config` file and the admin socket state them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use cache::{Arbiter, Limits, Rank, Recognition, TenantSpec, Terms, WriteBudget};
use serde::Deserialize;

use super::amounts::{parse_size, parse_write_budget};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    arbiter: Option<ArbiterName>,
    #[serde(default)]
    tenant: Vec<TenantTable>,
}

/// A tenant as the file and the admin socket state it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantTable {
    pub(crate) name: Option<String>,
    prefix: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    reserved: Option<Size>,
    rank: Option<RankName>,
    weight: Option<f32>,
    goal_hit_ratio: Option<f32>,
    flash_reserved: Option<Size>,
    flash_write_budget: Option<Budget>,
    max_requests: Option<u32>,
    max_bandwidth: Option<Size>,
    max_connections: Option<u32>,
    max_item_size: Option<Size>,
}

impl TenantTable {
    /// How requests of this tenant are told; None if that is not stated.
    ///
    /// # Errors
    /// More than one way is stated, or one that says nothing.
    pub(crate) fn recognition(&self, name: &str) -> Result<Option<Recognition>> {
        match (&self.prefix, self.port, &self.user) {
            (Some(prefix), None, None) => Ok(Some(Recognition::Prefix(prefix.clone()))),
            (None, Some(0), None) => bail!("tenant '{name}': port 0 is none"),
            (None, Some(port), None) => Ok(Some(Recognition::Port(port))),
            (None, None, Some(user)) => Ok(Some(Recognition::User(user.clone()))),
            (None, None, None) => Ok(None),
            _ => bail!("tenant '{name}': state one of prefix, port and user"),
        }
    }

    /// The terms, where what is not stated is as in `else`.
    pub(crate) fn terms(&self, or: &Terms) -> Terms {
        let limits = or.limits;
        let bytes = |size: &Option<Size>, or: u64| size.as_ref().map_or(or, |size| size.0);
        Terms {
            reserved_bytes: bytes(&self.reserved, or.reserved_bytes as u64) as i64,
            rank: self.rank.as_ref().map_or(or.rank, |rank| rank.0),
            weight: self.weight.unwrap_or(or.weight),
            goal_hit_ratio: self.goal_hit_ratio.unwrap_or(or.goal_hit_ratio),
            flash_reserved_bytes: bytes(&self.flash_reserved, or.flash_reserved_bytes),
            flash_write_budget: self.flash_write_budget.as_ref().map_or(or.flash_write_budget, |budget| budget.0),
            limits: Limits {
                requests: self.max_requests.unwrap_or(limits.requests),
                bandwidth: bytes(&self.max_bandwidth, limits.bandwidth),
                connections: self.max_connections.unwrap_or(limits.connections),
                item_bytes: bytes(&self.max_item_size, limits.item_bytes.into()).min(u64::from(u32::MAX)) as u32,
            },
        }
    }
}

/// Whether a tenant may have this name: it stands in stats keys and in paths.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == ':' || c == '/') {
        bail!("tenant '{name}': a name is not empty and has no spaces, colons or slashes");
    }
    Ok(())
}

struct Budget(WriteBudget);

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Budget, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_write_budget(&text).map(Budget).map_err(serde::de::Error::custom)
    }
}

/// A size in the file.
#[derive(Default)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_size(&text, 1).map(Size).map_err(serde::de::Error::custom)
    }
}

struct ArbiterName(Arbiter);

impl<'de> Deserialize<'de> for ArbiterName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ArbiterName, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(ArbiterName).map_err(serde::de::Error::custom)
    }
}

#[derive(Default)]
struct RankName(Rank);

impl<'de> Deserialize<'de> for RankName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<RankName, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(RankName).map_err(serde::de::Error::custom)
    }
}

/// What a configuration file says.
#[derive(Clone, Debug, Default)]
pub struct TenantsFile {
    /// Who moves memory between tenants, if it says so.
    pub arbiter: Option<Arbiter>,
    /// The tenants.
    pub tenants: Vec<TenantSpec>,
}

/// Reads tenants from the text of a configuration file. Errors name line and key.
pub fn parse_tenants(text: &str) -> Result<TenantsFile> {
    let file: File = toml::from_str(text)?;
    let read = |table: TenantTable| {
        let name = table.name.clone().context("a tenant has no name")?;
        check_name(&name)?;
        let recognised = match table.recognition(&name)? {
            Some(recognised) => recognised,
            None if name == cache::DEFAULT_TENANT => Recognition::Rest,
            None => bail!("tenant '{name}': state how it is recognised, by prefix, by port or by user"),
        };
        Ok(TenantSpec { terms: table.terms(&Terms::default()), name, recognised })
    };
    let tenants = file.tenant.into_iter().map(read).collect::<Result<_>>()?;
    Ok(TenantsFile { arbiter: file.arbiter.map(|arbiter| arbiter.0), tenants })
}

/// Reads tenants from a file.
pub fn read_tenants(path: &Path) -> Result<TenantsFile> {
    let text = std::fs::read_to_string(path).with_context(|| format!("configuration {}", path.display()))?;
    parse_tenants(&text).with_context(|| format!("configuration {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_file_names_line_and_key() {
        let error = |text: &str| format!("{:#}", parse_tenants(text).unwrap_err());
        let unknown = error("[[tenant]]\nname = \"a\"\nprefix = \"a:\"\nreservd = \"1MiB\"\n");
        assert!(unknown.contains("line 4") && unknown.contains("reservd"), "{unknown}");
        let size = error("[[tenant]]\nname = \"a\"\nprefix = \"a:\"\nreserved = \"lots\"\n");
        assert!(size.contains("line 4") && size.contains("lots"), "{size}");
        assert!(error("[[tenant]]\nname = \"a\"\n").contains("by prefix, by port or by user"));
        assert!(error("[[tenant]]\nname = \"a\"\nprefix=\"a\"\nrank=\"best\"").contains("density"));
    }
}
