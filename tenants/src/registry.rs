//! Which tenants there are, and whose a request is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use parking_lot::Mutex;

use crate::account::Account;
use crate::rank::{RANKS, Rank};
use crate::shadow_queue::ShadowQueue;

/// Name of the tenant that owns what no other tenant's rule claims.
pub const DEFAULT_TENANT: &str = "default";

/// How a tenant's requests are told from others'.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recognition {
    /// Whatever nobody else claims.
    Rest,
    /// Keys that begin with this.
    Prefix(String),
    /// Connections to this port.
    Port(u16),
    /// Clients that have authenticated as this user.
    User(String),
}

/// A tenant as the configuration states it.
#[derive(Clone, PartialEq, Debug)]
pub struct TenantSpec {
    /// Its name in stats.
    pub name: String,
    /// How it is recognised.
    pub recognised: Recognition,
    /// Bytes that it is guaranteed, in units of the configured memory.
    pub reserved_bytes: i64,
    /// Its order of worth.
    pub rank: Rank,
}

/// Why a set of tenants cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    /// Two have one name.
    #[error("tenant '{0}' is named twice")]
    DuplicateName(String),
    /// Two are recognised alike.
    #[error("tenants '{0}' and '{1}' are recognised by the same {2}")]
    Ambiguous(String, String, &'static str),
    /// More is reserved than there is.
    #[error("reservations add up to {0} bytes, more than the memory of {1} bytes: lower them, or raise -m")]
    Oversubscribed(i64, i64),
    /// A revision names a tenant that is not there.
    #[error("tenant '{0}' is not there: tenants come and go with a restart")]
    Unknown(String),
    /// A revision leaves a tenant out.
    #[error("tenant '{0}' is left out: tenants come and go with a restart")]
    LeftOut(String),
    /// A revision tells a tenant's requests by another rule.
    #[error("tenant '{0}' is recognised otherwise than before: that takes a restart")]
    Recognised(String),
    /// A reservation below nothing.
    #[error("tenant '{0}': a reservation is 0 or more")]
    Negative(String),
    /// More than a tenant number can tell apart.
    #[error("there are {0} tenants; at most 60000 are possible")]
    TooMany(usize),
}

/// A tenant.
pub struct Tenant {
    /// Its number: its place in the registry.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// How it is recognised.
    pub recognised: Recognition,
    /// Bytes that it is guaranteed, in units of the configured memory.
    reserved_bytes: AtomicI64,
    /// Its order of worth, as a place in [`RANKS`].
    rank: AtomicU8,
    /// What it has and is owed.
    pub account: Account,
    /// What it lost last.
    pub shadow: ShadowQueue,
}

impl Tenant {
    /// Bytes that it is guaranteed, in units of the configured memory.
    pub fn reserved_bytes(&self) -> i64 {
        self.reserved_bytes.load(Ordering::Relaxed)
    }

    /// Its order of worth.
    pub fn rank(&self) -> Rank {
        RANKS[usize::from(self.rank.load(Ordering::Relaxed))].1
    }

    /// What it is now, as a configuration would state it.
    pub fn spec(&self) -> TenantSpec {
        TenantSpec {
            name: self.name.clone(),
            recognised: self.recognised.clone(),
            reserved_bytes: self.reserved_bytes(),
            rank: self.rank(),
        }
    }
}

fn place_of(rank: Rank) -> u8 {
    RANKS.iter().position(|(_, known)| *known == rank).expect("every rank has a place") as u8
}

/// What a revision changes of a tenant.
#[derive(Clone, PartialEq, Debug)]
pub struct Revised {
    /// Its name.
    pub name: String,
    /// Before, and now.
    pub reserved_bytes: (i64, i64),
    /// Before, and now.
    pub rank: (Rank, Rank),
}

/// All tenants. Number 0 is `default`.
pub struct Registry {
    tenants: Vec<Tenant>,
    prefixes: Vec<(usize, HashMap<Vec<u8>, u16>)>,
    ports: HashMap<u16, u16>,
    users: HashMap<Vec<u8>, u16>,
    memory_configured: i64,
    pub(crate) arbitration: Mutex<()>,
}

impl Registry {
    /// Checks the specs against each other and against `memory` bytes. `shadow_worth_bytes` is what each shadow queue
    /// remembers.
    pub fn new(specs: Vec<TenantSpec>, memory: i64, shadow_worth_bytes: u64) -> Result<Registry, RegistryError> {
        if specs.len() > 60_000 {
            return Err(RegistryError::TooMany(specs.len()));
        }
        check(&specs, memory)?;
        let mut specs = specs;
        // default comes first; it is added where the configuration does not name it, and one tenant alone is everyone's
        match specs.iter().position(|spec| spec.name == DEFAULT_TENANT) {
            Some(at) => specs[..=at].rotate_right(1),
            None => specs.insert(
                0,
                TenantSpec {
                    name: DEFAULT_TENANT.to_owned(),
                    recognised: Recognition::Rest,
                    reserved_bytes: 0,
                    rank: Rank::default(),
                },
            ),
        }
        let mut registry = Registry {
            tenants: Vec::new(),
            prefixes: Vec::new(),
            ports: HashMap::new(),
            users: HashMap::new(),
            memory_configured: memory,
            arbitration: Mutex::new(()),
        };
        for (id, spec) in specs.into_iter().enumerate() {
            registry.add(id as u16, spec, shadow_worth_bytes);
        }
        registry.prefixes.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        registry.share_out(memory, |_| 1.0);
        Ok(registry)
    }

    fn add(&mut self, id: u16, spec: TenantSpec, shadow_worth_bytes: u64) {
        match spec.recognised.clone() {
            Recognition::Rest => {}
            Recognition::Port(port) => drop(self.ports.insert(port, id)),
            Recognition::User(user) => drop(self.users.insert(user.into_bytes(), id)),
            Recognition::Prefix(prefix) => {
                let prefix = prefix.into_bytes();
                match self.prefixes.iter_mut().find(|(len, _)| *len == prefix.len()) {
                    Some((_, names)) => drop(names.insert(prefix, id)),
                    None => self.prefixes.push((prefix.len(), HashMap::from([(prefix, id)]))),
                }
            }
        }
        self.tenants.push(Tenant {
            id,
            name: spec.name,
            recognised: spec.recognised,
            reserved_bytes: AtomicI64::new(spec.reserved_bytes),
            rank: AtomicU8::new(place_of(spec.rank)),
            account: Account::new(spec.reserved_bytes),
            shadow: ShadowQueue::new(shadow_worth_bytes),
        });
    }

    /// Changes reservations and ranks while tenants are served; all of it or, on an error, nothing. Memory is shared out anew when
    /// [`Registry::share_out`] is called next. Returns what has changed.
    ///
    /// # Errors
    /// The specs contradict each other, or are of other tenants than there are (`default` may be left out: it reserves nothing then).
    pub fn revise(&self, specs: &[TenantSpec]) -> Result<Vec<Revised>, RegistryError> {
        check(specs, self.memory_configured)?;
        let _turn = self.arbitration.lock();
        for spec in specs {
            let known = self.tenants.iter().find(|tenant| tenant.name == spec.name);
            let known = known.ok_or_else(|| RegistryError::Unknown(spec.name.clone()))?;
            if known.recognised != spec.recognised {
                return Err(RegistryError::Recognised(spec.name.clone()));
            }
            if spec.reserved_bytes < 0 {
                return Err(RegistryError::Negative(spec.name.clone()));
            }
        }
        let mut changed = Vec::new();
        for tenant in &self.tenants {
            let wanted = match specs.iter().find(|spec| spec.name == tenant.name) {
                Some(spec) => (spec.reserved_bytes, spec.rank),
                None if tenant.name == DEFAULT_TENANT => (0, Rank::default()),
                None => return Err(RegistryError::LeftOut(tenant.name.clone())),
            };
            changed.push((tenant, wanted));
        }
        let changed =
            changed.into_iter().filter(|(tenant, wanted)| (tenant.reserved_bytes(), tenant.rank()) != *wanted);
        let revised = changed.map(|(tenant, (reserved, rank))| {
            let before = (tenant.reserved_bytes(), tenant.rank());
            tenant.reserved_bytes.store(reserved, Ordering::Relaxed);
            tenant.rank.store(place_of(rank), Ordering::Relaxed);
            Revised { name: tenant.name.clone(), reserved_bytes: (before.0, reserved), rank: (before.1, rank) }
        });
        Ok(revised.collect())
    }

    /// Every tenant, by number.
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// One tenant.
    pub fn tenant(&self, id: u16) -> &Tenant {
        &self.tenants[usize::from(id)]
    }

    /// Memory that the reservations are stated against.
    pub fn memory_configured(&self) -> i64 {
        self.memory_configured
    }

    /// The tenant of connections to a port, if the port is one's own.
    pub fn by_port(&self, port: u16) -> Option<u16> {
        self.ports.get(&port).copied()
    }

    /// The tenant of clients that authenticated as a user, if the user has one.
    pub fn by_user(&self, user: &[u8]) -> Option<u16> {
        self.users.get(user).copied()
    }

    /// Ports that tenants ask for.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }

    /// The tenant of a key by its longest known prefix; `default` if there is none.
    #[inline]
    pub fn by_key(&self, key: &[u8]) -> u16 {
        let found = self.prefixes.iter().find_map(|(len, names)| names.get(key.get(..*len)?));
        found.copied().unwrap_or(0)
    }
}

fn check(specs: &[TenantSpec], memory: i64) -> Result<(), RegistryError> {
    let mut names = HashMap::new();
    let mut rules: Vec<(&Recognition, &str)> = Vec::new();
    for spec in specs {
        if names.insert(&spec.name, ()).is_some() {
            return Err(RegistryError::DuplicateName(spec.name.clone()));
        }
        if spec.recognised != Recognition::Rest {
            if let Some((rule, other)) = rules.iter().find(|(rule, _)| **rule == spec.recognised) {
                let kind = match rule {
                    Recognition::Port(_) => "port",
                    Recognition::User(_) => "user",
                    Recognition::Prefix(_) | Recognition::Rest => "prefix",
                };
                return Err(RegistryError::Ambiguous((*other).to_owned(), spec.name.clone(), kind));
            }
            rules.push((&spec.recognised, &spec.name));
        }
    }
    let reserved = specs.iter().map(|spec| spec.reserved_bytes).sum();
    if reserved > memory { Err(RegistryError::Oversubscribed(reserved, memory)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, recognised: Recognition, reserved_bytes: i64) -> TenantSpec {
        TenantSpec { name: name.to_owned(), recognised, reserved_bytes, rank: Rank::Lru }
    }

    fn prefix(text: &str) -> Recognition {
        Recognition::Prefix(text.to_owned())
    }

    #[test]
    fn a_revision_is_whole_or_nothing() {
        let specs = || vec![spec("a", prefix("a:"), 100), spec("b", prefix("b:"), 200)];
        let registry = Registry::new(specs(), 1_000, 1 << 16).unwrap();
        let reserved = || registry.tenants().iter().map(Tenant::reserved_bytes).collect::<Vec<_>>();
        let revise = |a: TenantSpec, b: TenantSpec| registry.revise(&[a, b]);
        let bad = [
            (spec("a", prefix("a:"), 900), spec("b", prefix("b:"), 200)),
            (spec("a", prefix("a:"), 500), spec("c", prefix("b:"), 1)),
            (spec("a", prefix("a:"), 500), spec("b", prefix("x:"), 1)),
            (spec("a", prefix("a:"), 500), spec("b", prefix("b:"), -1)),
            (spec("a", prefix("a:"), 500), spec("a", prefix("b:"), 1)),
        ];
        for (a, b) in bad {
            revise(a, b).unwrap_err();
            assert_eq!(reserved(), [0, 100, 200]);
        }
        assert_eq!(registry.revise(&specs()[..1]), Err(RegistryError::LeftOut("b".to_owned())));
        let lfu = TenantSpec { rank: Rank::Lfu, ..spec("a", prefix("a:"), 500) };
        let revised = revise(lfu, spec("b", prefix("b:"), 200)).unwrap();
        assert_eq!(revised.len(), 1, "only what has changed is told: {revised:?}");
        assert_eq!((reserved(), registry.tenant(1).rank()), (vec![0, 500, 200], Rank::Lfu));
        registry.share_out(1_000, |_| 1.0);
        assert_eq!((registry.targets_sum(), registry.tenant(1).account.balance().reserved), (1_000, 500));
    }

    #[test]
    fn the_longest_prefix_wins_and_the_rest_is_default() {
        let specs = vec![
            spec("a", prefix("a:"), 0),
            spec("ab", prefix("a:b:"), 0),
            spec("p", Recognition::Port(7), 0),
            spec("u", Recognition::User("joe".to_owned()), 0),
        ];
        let registry = Registry::new(specs, 1 << 20, 1 << 16).unwrap();
        let name = |key: &[u8]| registry.tenant(registry.by_key(key)).name.as_str();
        assert_eq!((name(b"a:x"), name(b"a:b:x"), name(b"x"), name(b"a")), ("a", "ab", "default", "default"));
        assert_eq!(registry.by_port(7).map(|id| registry.tenant(id).name.as_str()), Some("p"));
        assert_eq!((registry.by_port(8), registry.by_user(b"ann")), (None, None));
        assert_eq!(registry.by_user(b"joe").map(|id| registry.tenant(id).name.as_str()), Some("u"));
    }

    #[test]
    fn contradictions_are_refused() {
        let make = |specs| Registry::new(specs, 1000, 1 << 16).err();
        assert!(matches!(
            make(vec![spec("a", prefix("x"), 600), spec("b", prefix("y"), 600)]),
            Some(RegistryError::Oversubscribed(1200, 1000))
        ));
        assert!(matches!(
            make(vec![spec("a", prefix("x"), 0), spec("a", prefix("y"), 0)]),
            Some(RegistryError::DuplicateName(_))
        ));
        assert!(matches!(
            make(vec![spec("a", prefix("x"), 0), spec("b", prefix("x"), 0)]),
            Some(RegistryError::Ambiguous(..))
        ));
    }
}
