//! Changing tenants while they are served: what a reload and the admin socket do. One change at a time; each is whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use cache::{Cache, Revised, TenantSpec, Terms};
use parking_lot::Mutex;

use crate::listen::Ports;
use crate::restart;
use crate::rewrite::rewrite;

/// Who may change tenants, and what has to follow.
pub(crate) struct Tenancy {
    cache: Arc<Cache>,
    ports: Arc<Ports>,
    /// The file that says which number is whose, where flash outlives the process.
    numbers: Option<PathBuf>,
    turn: Mutex<()>,
}

impl Tenancy {
    pub(crate) fn new(cache: &Arc<Cache>, ports: &Arc<Ports>, numbers: Option<PathBuf>) -> Tenancy {
        Tenancy { cache: Arc::clone(cache), ports: Arc::clone(ports), numbers, turn: Mutex::new(()) }
    }

    /// Makes the tenants be those of the specs.
    pub(crate) fn replace(&self, specs: &[TenantSpec]) -> Result<()> {
        let _turn = self.turn.lock();
        self.revise(specs)
    }

    /// Changes the present specs as `change` says.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<TenantSpec>) -> Result<()>) -> Result<()> {
        let _turn = self.turn.lock();
        let mut specs = self.specs();
        change(&mut specs)?;
        self.revise(&specs)
    }

    /// Brings a configuration file up to date with the present specs.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let _turn = self.turn.lock();
        rewrite(path, &self.specs())
    }

    fn specs(&self) -> Vec<TenantSpec> {
        self.cache.registry().tenants().map(|tenant| tenant.spec()).collect()
    }

    fn revise(&self, specs: &[TenantSpec]) -> Result<()> {
        let registry = self.cache.registry();
        // a port that cannot be had refuses the whole, so it is bound before anything changes
        let mut bound = Vec::new();
        for spec in specs {
            if let Some(port) = spec.recognised.port()
                && registry.by_port(port).is_none()
            {
                ensure!(self.ports.may_open(), "tenant '{}': with -s there are no ports", spec.name);
                bound.push((port, self.ports.bind(port)?));
            }
        }
        let before: Vec<(u16, u16)> = registry.ports();
        let keep = |numbering: &cache::Numbering| match &self.numbers {
            Some(path) => restart::keep_numbers(path, numbering).map_err(|error| format!("{error:#}")),
            None => Ok(()),
        };
        let revised = self.cache.revise_tenants(specs, keep)?;
        if revised.iter().any(|change| matches!(change, Revised::Removed(_)))
            && let Err(error) = keep(&registry.numbering())
        {
            // the version that was written before is the latest that there could be: it is safe, if it forgets more
            eprintln!("flashare: {error}");
        }
        for (port, tenant) in before {
            if registry.by_port(port) != Some(tenant) {
                self.ports.close(tenant);
            }
        }
        for (port, listening) in bound {
            let tenant = registry.by_port(port);
            for (listening, at) in listening {
                self.ports.listen(listening, tenant, &at)?;
            }
        }
        tell(&revised);
        Ok(())
    }
}

/// Logs what a revision has changed.
fn tell(revised: &[Revised]) {
    for change in revised {
        match change {
            Revised::Added(spec) => eprintln!("flashare: tenant {}: added, {}", spec.name, spell(&spec.terms)),
            Revised::Removed(name) => eprintln!("flashare: tenant {name}: removed; its memory goes to the others"),
            Revised::Changed { name, before, now } => {
                eprintln!("flashare: tenant {name}: {} before, {} now", spell(before), spell(now));
            }
        }
    }
}

/// Terms in a line: what differs from none.
fn spell(terms: &Terms) -> String {
    let mut line = format!("reserved {} bytes, rank {}", terms.reserved_bytes, terms.rank.name());
    let none = Terms::default();
    let mut add = |differs: bool, text: String| {
        if differs {
            line.push_str(&text);
        }
    };
    add(terms.weight != none.weight, format!(", weight {}", terms.weight));
    add(terms.goal_hit_ratio > 0.0, format!(", goal {}", terms.goal_hit_ratio));
    add(terms.flash_reserved_bytes > 0, format!(", flash {} bytes", terms.flash_reserved_bytes));
    add(terms.flash_write_budget.is_limited(), format!(", flash writes {}", terms.flash_write_budget));
    add(terms.limits.requests > 0, format!(", {} requests/s", terms.limits.requests));
    add(terms.limits.bandwidth > 0, format!(", {} bytes/s", terms.limits.bandwidth));
    add(terms.limits.connections > 0, format!(", {} connections", terms.limits.connections));
    add(terms.limits.item_bytes > 0, format!(", objects up to {} bytes", terms.limits.item_bytes));
    line
}
