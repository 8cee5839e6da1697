//! Which tenants there are, and whose a request is. Tenants come and go while requests are served.
//!
//! A tenant's number is its place in an append-only table: it is hashed with every key and stored with every object, so it is never
//! given to another. A tenant that goes leaves its place behind; if one of the same name and rule comes, it gets that place back. Which
//! requests are whose ([`Routes`]) is replaced whole, and looked up without a lock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::account::Account;
use crate::arbiter::{ARBITERS, Arbiter};
use crate::curve::LiveCurve;
use crate::meter::{Limits, Meter};
use crate::prefixes::Prefixes;
use crate::rank::{RANKS, Rank};
use crate::shadow_queue::ShadowQueue;
use crate::write_budget::WriteBudget;

/// Name of the tenant that owns what no other tenant's rule claims.
pub const DEFAULT_TENANT: &str = "default";
/// Most tenants that there can have been.
pub const TENANTS_MAX: usize = 60_000;

/// How a tenant's requests are told from others'.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Recognition {
    /// Whatever nobody else claims.
    #[default]
    Rest,
    /// Keys that begin with this.
    Prefix(String),
    /// Connections to this port.
    Port(u16),
    /// Clients that have authenticated as this user.
    User(String),
}

impl Recognition {
    /// Whether a tenant's keys share one space with the default tenant's: the rule is about the key.
    pub fn is_by_key(&self) -> bool {
        matches!(self, Recognition::Rest | Recognition::Prefix(_))
    }

    /// The port that it listens to, if that is its rule.
    pub fn port(&self) -> Option<u16> {
        if let Recognition::Port(port) = self { Some(*port) } else { None }
    }
}

/// What a tenant is promised and held to. All of it can be changed while it is served.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Terms {
    /// Bytes of DRAM that it is guaranteed, in units of the configured memory.
    pub reserved_bytes: i64,
    /// Its order of worth.
    pub rank: Rank,
    /// What its hits count, against those of others.
    pub weight: f32,
    /// Hit ratio that it is to reach, if memory can do that; 0 for none.
    pub goal_hit_ratio: f32,
    /// Bytes of flash records that it is guaranteed.
    pub flash_reserved_bytes: u64,
    /// What may be written to flash for it.
    pub flash_write_budget: WriteBudget,
    /// What its clients may ask for.
    pub limits: Limits,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms {
            reserved_bytes: 0,
            rank: Rank::default(),
            weight: 1.0,
            goal_hit_ratio: 0.0,
            flash_reserved_bytes: 0,
            flash_write_budget: WriteBudget::Unlimited,
            limits: Limits::default(),
        }
    }
}

/// A tenant as the configuration states it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TenantSpec {
    /// Its name in stats.
    pub name: String,
    /// How it is recognised.
    pub recognised: Recognition,
    /// What it is promised and held to.
    pub terms: Terms,
}

/// Who somebody is: a name, and how it is recognised. Under the same name with another rule it would be somebody else.
type Who<'a> = (&'a str, &'a Recognition);

impl TenantSpec {
    fn who(&self) -> Who<'_> {
        (&self.name, &self.recognised)
    }
}

/// Why a set of tenants cannot be.
#[derive(Debug, thiserror::Error, PartialEq)]
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
    /// The same of flash.
    #[error("reservations of flash add up to {0} bytes, more than the flash of {1} bytes: lower them")]
    FlashOversubscribed(u64, u64),
    /// A reservation below nothing.
    #[error("tenant '{0}': a reservation is 0 or more")]
    Negative(String),
    /// A weight, a goal or a prefix that means nothing.
    #[error("tenant '{0}': {1}")]
    Meaningless(String, &'static str),
    /// Everybody has to be somebody's.
    #[error("tenant '{DEFAULT_TENANT}' takes what nobody else claims: it has no prefix, port or user")]
    DefaultClaims,
    /// More than a tenant number can tell apart.
    #[error("there were {0} tenants since the flash was formatted; at most {TENANTS_MAX} are possible")]
    TooMany(usize),
    /// What is kept of tenants leaves too little for objects.
    #[error(
        "what is kept of {0} tenants, {1} bytes of one more, leaves less than an eighth of the memory for objects: raise -m, or remove tenants"
    )]
    TooLittleMemory(usize, usize),
    /// The numbers of tenants have to outlive the process, and cannot.
    #[error("which number is whose cannot be written down: {0}")]
    Unwritten(String),
}

/// A tenant.
pub struct Tenant {
    /// Its number: its place in the registry.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// How it is recognised.
    pub recognised: Recognition,
    present: AtomicBool,
    terms: RwLock<Terms>,
    reserved_bytes: AtomicI64,
    /// Its order of worth, as a place in [`RANKS`].
    rank: AtomicU8,
    /// What it has and is owed.
    pub account: Account,
    /// What it lost last.
    pub shadow: ShadowQueue,
    /// What its clients have asked for, against its limits.
    pub meter: Meter,
    /// What it would do with memory.
    pub curve: LiveCurve,
    /// Hits of each read lately, in parts of 2^32; what goals are compared with.
    pub(crate) lately: AtomicU32,
    /// Of those, hits in DRAM.
    pub(crate) dram_lately: AtomicU32,
}

/// How much is remembered of each tenant.
#[derive(Clone, Copy, Debug)]
pub struct Memories {
    /// Bytes of lost objects that a shadow queue is worth.
    pub shadow_worth_bytes: u64,
    /// Objects that a curve follows.
    pub curve_objects: usize,
    /// Halvings of the share of keys that it follows at first.
    pub curve_halvings: u32,
    /// Largest cache that a curve is asked about.
    pub curve_reach_bytes: u64,
}

impl Memories {
    /// Bytes of DRAM that they take, for one tenant.
    pub fn bytes(&self) -> usize {
        ShadowQueue::memory_bytes(self.shadow_worth_bytes) as usize + LiveCurve::bytes_max(self.curve_objects)
    }
}

impl Tenant {
    fn new(id: u16, name: String, recognised: Recognition, terms: Option<&Terms>, memories: &Memories) -> Tenant {
        let tenant = Tenant {
            id,
            name,
            recognised,
            present: AtomicBool::new(terms.is_some()),
            terms: RwLock::default(),
            reserved_bytes: AtomicI64::new(0),
            rank: AtomicU8::new(0),
            account: Account::default(),
            shadow: ShadowQueue::new(memories.shadow_worth_bytes),
            meter: Meter::default(),
            curve: LiveCurve::new(memories.curve_objects, memories.curve_halvings, memories.curve_reach_bytes),
            lately: AtomicU32::new(0),
            dram_lately: AtomicU32::new(0),
        };
        if terms.is_some() {
            tenant.remember();
        }
        tenant.agree(terms.copied().unwrap_or_default());
        tenant
    }

    /// Takes memory for what it loses and would do with more.
    fn remember(&self) {
        self.shadow.begin();
        self.curve.begin();
    }

    /// Gives that back: who is not there loses nothing.
    fn forget(&self) {
        self.shadow.end();
        self.curve.end();
    }

    fn who(&self) -> Who<'_> {
        (&self.name, &self.recognised)
    }

    fn agree(&self, terms: Terms) {
        *self.terms.write() = terms;
        self.reserved_bytes.store(terms.reserved_bytes, Ordering::Relaxed);
        self.rank.store(place_of(&RANKS, &terms.rank), Ordering::Relaxed);
        self.meter.limit(terms.limits);
    }

    /// Whether it is there now: requests can be its.
    pub fn is_present(&self) -> bool {
        self.present.load(Ordering::Relaxed)
    }

    /// What it is promised and held to.
    pub fn terms(&self) -> Terms {
        *self.terms.read()
    }

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
        TenantSpec { name: self.name.clone(), recognised: self.recognised.clone(), terms: self.terms() }
    }
}

/// Where something stands in the list of all that have a name.
fn place_of<T: PartialEq>(list: &[(&str, T)], wanted: &T) -> u8 {
    list.iter().position(|(_, known)| known == wanted).expect("everything that has a name is listed") as u8
}

/// What a revision did to a tenant.
#[derive(Clone, PartialEq, Debug)]
pub enum Revised {
    /// It is new.
    Added(TenantSpec),
    /// It is gone.
    Removed(String),
    /// It is held to other terms.
    Changed {
        /// Its name.
        name: String,
        /// Its terms before.
        before: Terms,
        /// And now.
        now: Terms,
    },
}

/// Whose a request is.
#[derive(Clone, Default)]
struct Routes {
    prefixes: Prefixes<u16>,
    ports: HashMap<u16, u16>,
    users: HashMap<Vec<u8>, u16>,
    /// Prefixes that were somebody's, and the version up to which keys that begin with them are nobody's any more.
    released: Vec<Released>,
    /// The same by prefix: the highest version of those that a key with this prefix begins with.
    over: Prefixes<u64>,
}

impl Routes {
    fn of(released: Vec<Released>) -> Routes {
        let mut over = Prefixes::default();
        let mut by_length: Vec<&Released> = released.iter().filter(|one| !one.prefix.is_empty()).collect();
        by_length.sort_by_key(|one| one.prefix.len()); // a shorter one's version is known when a longer one's is asked for
        for Released { prefix, version } in by_length {
            let shorter = over.find(prefix.as_bytes()).unwrap_or(0);
            over.insert(prefix.as_bytes(), shorter.max(*version));
        }
        Routes { released, over, ..Routes::default() }
    }
}

/// A prefix that a tenant gave up. What others stored under such keys before is out of date: the tenant may have stored it anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Released {
    /// The prefix.
    pub prefix: String,
    /// Objects with keys that begin with it are gone, up to this version.
    pub version: u64,
}

/// Which number is whose, as it has to outlive the process where flash does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Numbering {
    /// Names one line of numberings: content of another line is not to be believed.
    pub identity: u64,
    /// Name and rule of every number, from 0.
    pub numbers: Vec<(String, Recognition)>,
    /// Prefixes that were given up.
    pub released: Vec<Released>,
}

/// All tenants. Number 0 is `default`.
pub struct Registry {
    tenants: boxcar::Vec<Tenant>,
    routes: ArcSwap<Routes>,
    /// Whether a key says whose it is at all: most caches have one tenant.
    has_prefixes: AtomicBool,
    has_released: AtomicBool,
    /// Whether any tenant's clients may not ask for all that they like.
    has_limits: AtomicBool,
    pub(crate) shared_out: AtomicI64,
    memory_configured: i64,
    flash_configured: u64,
    identity: u64,
    pub(crate) arbitration: Mutex<()>,
    /// Place of the arbiter in [`ARBITERS`].
    arbiter: AtomicU8,
    revision: Mutex<()>,
}

impl Registry {
    /// Checks the specs against each other and against `memory` and `flash` bytes. Numbers are given as `numbering` says; who is in it and not in the specs is gone.
    ///
    /// # Errors
    /// The specs contradict each other.
    pub fn new(
        specs: Vec<TenantSpec>,
        memory: i64,
        flash: u64,
        memories: Memories,
        numbering: Option<&Numbering>,
    ) -> Result<Registry, RegistryError> {
        let specs = with_default(specs);
        check(&specs, memory, flash)?;
        let registry = Registry {
            tenants: boxcar::Vec::new(),
            routes: ArcSwap::default(),
            has_prefixes: AtomicBool::new(false),
            has_released: AtomicBool::new(false),
            has_limits: AtomicBool::new(false),
            shared_out: AtomicI64::new(0),
            memory_configured: memory,
            flash_configured: flash,
            identity: numbering.map_or(0, |numbering| numbering.identity),
            arbitration: Mutex::new(()),
            arbiter: AtomicU8::new(place_of(&ARBITERS, &Arbiter::default())),
            revision: Mutex::new(()),
        };
        let known = numbering.map_or(&[][..], |numbering| &numbering.numbers);
        let wanted = by_who(&specs);
        let mut there = HashSet::new();
        for (name, recognised) in known {
            let spec = wanted.get(&(name.as_str(), recognised));
            there.extend(spec.map(|spec| &spec.name));
            registry.push(name.clone(), recognised.clone(), spec.map(|spec| &spec.terms), &memories);
        }
        for spec in &specs {
            if !there.contains(&spec.name) {
                registry.push(spec.name.clone(), spec.recognised.clone(), Some(&spec.terms), &memories);
            }
        }
        if registry.tenants.count() > TENANTS_MAX {
            return Err(RegistryError::TooMany(registry.tenants.count()));
        }
        registry.route(numbering.map_or(&[][..], |numbering| &numbering.released).to_vec());
        registry.share_out(memory, |_| 1.0);
        Ok(registry)
    }

    /// Who moves the pool.
    pub fn arbiter(&self) -> Arbiter {
        ARBITERS[usize::from(self.arbiter.load(Ordering::Relaxed))].1
    }

    /// Has somebody else move the pool from here on; shares stay as they are until it does. Returns who did before.
    pub fn appoint(&self, arbiter: Arbiter) -> Arbiter {
        ARBITERS[usize::from(self.arbiter.swap(place_of(&ARBITERS, &arbiter), Ordering::Relaxed))].1
    }

    fn push(&self, name: String, recognised: Recognition, terms: Option<&Terms>, memories: &Memories) -> u16 {
        let id = self.tenants.count() as u16;
        self.tenants.push(Tenant::new(id, name, recognised, terms, memories));
        id
    }

    /// Replaces the routes by those of the tenants that are there.
    fn route(&self, released: Vec<Released>) {
        let mut routes = Routes::of(released);
        for tenant in self.tenants() {
            match &tenant.recognised {
                Recognition::Rest => {}
                Recognition::Port(port) => drop(routes.ports.insert(*port, tenant.id)),
                Recognition::User(user) => drop(routes.users.insert(user.clone().into_bytes(), tenant.id)),
                Recognition::Prefix(prefix) => routes.prefixes.insert(prefix.as_bytes(), tenant.id),
            }
        }
        let (has_prefixes, has_released) = (!routes.prefixes.is_empty(), !routes.released.is_empty());
        let limited = |tenant: &Tenant| tenant.meter.limits() != Limits::default();
        self.has_limits.store(self.tenants().any(limited), Ordering::Relaxed);
        self.routes.store(Arc::new(routes));
        self.has_prefixes.store(has_prefixes, Ordering::SeqCst);
        self.has_released.store(has_released, Ordering::SeqCst);
    }

    /// Makes the tenants be those of the specs while requests are served; all of it or, on an error, nothing. Memory is shared out anew
    /// when [`Registry::share_out`] is called next.
    ///
    /// Who is new has such `memories`. `prepare` is told the numbering as it will be, and who comes again, before anything changes: it makes room for new numbers and sees that they outlive
    /// the process. `version` is asked, after requests have been told apart anew, for the version up to which what a tenant that goes has stored is over. `release` then ends
    /// what it stored.
    ///
    /// # Errors
    /// The specs contradict each other, or `prepare` fails.
    pub fn revise(
        &self,
        specs: &[TenantSpec],
        memories: &Memories,
        prepare: impl FnOnce(&Numbering, &[u16]) -> Result<(), RegistryError>,
        version: impl FnOnce() -> u64,
        mut release: impl FnMut(u16),
    ) -> Result<Vec<Revised>, RegistryError> {
        let _revision = self.revision.lock();
        let specs = with_default(specs.to_vec());
        check(&specs, self.memory_configured, self.flash_configured)?;
        let wanted = by_who(&specs);
        let known: HashMap<Who<'_>, &Tenant> = self.all().map(|tenant| (tenant.who(), tenant)).collect();
        let leaving: Vec<&Tenant> = self.tenants().filter(|tenant| !wanted.contains_key(&tenant.who())).collect();
        // who comes again is given the number of before; it is over with what was stored under it
        let back = self.all().filter(|tenant| !tenant.is_present());
        let back: Vec<(&Tenant, &TenantSpec)> =
            back.filter_map(|tenant| Some((tenant, *wanted.get(&tenant.who())?))).collect();
        let coming: Vec<&TenantSpec> = specs.iter().filter(|spec| !known.contains_key(&spec.who())).collect();
        if self.count() + coming.len() > TENANTS_MAX {
            return Err(RegistryError::TooMany(self.count() + coming.len()));
        }
        let mut planned = self.numbering();
        planned.numbers.extend(coming.iter().map(|spec| (spec.name.clone(), spec.recognised.clone())));
        let prefixes = leaving.iter().filter_map(|tenant| match &tenant.recognised {
            Recognition::Prefix(prefix) => Some(prefix.clone()),
            _ => None,
        });
        let prefixes: HashSet<String> = prefixes.collect();
        let mut released = self.routes.load().released.clone();
        released.retain(|old| !prefixes.contains(&old.prefix));
        // as long as nobody knows better: everything that is stored while this is written down
        planned.released = released.clone();
        planned.released.extend(prefixes.iter().map(|prefix| Released { prefix: prefix.clone(), version: u64::MAX }));
        prepare(&planned, &back.iter().map(|(tenant, _)| tenant.id).collect::<Vec<_>>())?;
        let mut revised = Vec::new();
        for spec in &specs {
            let Some(tenant) = known.get(&spec.who()).filter(|tenant| tenant.is_present()) else { continue };
            let (before, now) = (tenant.terms(), spec.terms);
            if before != now {
                tenant.agree(now);
                revised.push(Revised::Changed { name: spec.name.clone(), before, now });
            }
        }
        for tenant in &leaving {
            tenant.present.store(false, Ordering::SeqCst);
            tenant.agree(Terms::default());
            tenant.forget();
            revised.push(Revised::Removed(tenant.name.clone()));
        }
        for (tenant, spec) in back {
            release(tenant.id);
            tenant.agree(spec.terms);
            tenant.remember();
            tenant.present.store(true, Ordering::SeqCst);
            revised.push(Revised::Added(spec.clone()));
        }
        for spec in coming {
            self.push(spec.name.clone(), spec.recognised.clone(), Some(&spec.terms), memories);
            revised.push(Revised::Added(spec.clone()));
        }
        self.route(released.clone());
        if !leaving.is_empty() {
            let version = version();
            released.extend(prefixes.into_iter().map(|prefix| Released { prefix, version }));
            self.route(released);
            leaving.iter().for_each(|tenant| release(tenant.id));
        }
        Ok(revised)
    }

    /// Every tenant that is there, by number.
    pub fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.all().filter(|tenant| tenant.is_present())
    }

    /// Every tenant that there has been.
    pub fn all(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.iter().map(|(_, tenant)| tenant)
    }

    /// Numbers that are given.
    pub fn count(&self) -> usize {
        self.tenants.count()
    }

    /// One tenant.
    #[inline]
    pub fn tenant(&self, id: u16) -> &Tenant {
        &self.tenants[usize::from(id)]
    }

    /// One that is there, by its name.
    pub fn find(&self, name: &str) -> Option<&Tenant> {
        self.tenants().find(|tenant| tenant.name == name)
    }

    /// Which number is whose.
    pub fn numbering(&self) -> Numbering {
        Numbering {
            identity: self.identity,
            numbers: self.all().map(|tenant| (tenant.name.clone(), tenant.recognised.clone())).collect(),
            released: self.routes.load().released.clone(),
        }
    }

    /// What is asked of the numbering of a process before: prefixes that were tenants' then and are not now, or whose release was cut
    /// off, are released as of `version`, and `release` ends what tenants that are gone stored.
    pub fn settle(&self, version: u64, mut release: impl FnMut(u16)) {
        let mut released = self.routes.load().released.clone();
        released.iter_mut().for_each(|old| old.version = old.version.min(version));
        let held: HashSet<&Recognition> = self.tenants().map(|tenant| &tenant.recognised).collect();
        let mut given_up: HashSet<&str> = HashSet::new();
        for tenant in self.all().filter(|tenant| !tenant.is_present()) {
            release(tenant.id);
            if let Recognition::Prefix(prefix) = &tenant.recognised
                && !held.contains(&tenant.recognised)
            {
                given_up.insert(prefix);
            }
        }
        released.retain(|old| !given_up.contains(old.prefix.as_str()));
        released.extend(given_up.into_iter().map(|prefix| Released { prefix: prefix.to_owned(), version }));
        self.route(released);
    }

    /// Whether any tenant has limits.
    #[inline]
    pub fn has_limits(&self) -> bool {
        self.has_limits.load(Ordering::Relaxed)
    }

    /// Memory that the reservations are stated against.
    pub fn memory_configured(&self) -> i64 {
        self.memory_configured
    }

    /// The tenant of connections to a port, if the port is one's own.
    pub fn by_port(&self, port: u16) -> Option<u16> {
        self.routes.load().ports.get(&port).copied()
    }

    /// The tenant of clients that authenticated as a user, if the user has one.
    pub fn by_user(&self, user: &[u8]) -> Option<u16> {
        self.routes.load().users.get(user).copied()
    }

    /// Ports that tenants ask for.
    pub fn ports(&self) -> Vec<(u16, u16)> {
        self.routes.load().ports.iter().map(|(port, tenant)| (*port, *tenant)).collect()
    }

    /// The tenant of a key by its longest known prefix; `default` if there is none.
    #[inline]
    pub fn by_key(&self, key: &[u8]) -> u16 {
        if !self.has_prefixes.load(Ordering::Relaxed) {
            return 0;
        }
        self.routes.load().prefixes.find(key).unwrap_or(0)
    }

    /// Whether what was stored under this key with this version is out of date, since the key was another tenant's meanwhile.
    #[inline]
    pub fn is_released(&self, tenant: u16, key: &[u8], version: u64) -> bool {
        if !self.has_released.load(Ordering::Relaxed) || !self.tenant(tenant).recognised.is_by_key() {
            return false;
        }
        self.routes.load().over.find(key).is_some_and(|over| version <= over)
    }
}

fn by_who(specs: &[TenantSpec]) -> HashMap<Who<'_>, &TenantSpec> {
    specs.iter().map(|spec| (spec.who(), spec)).collect()
}

/// Default comes first; it is added where the configuration does not name it.
fn with_default(mut specs: Vec<TenantSpec>) -> Vec<TenantSpec> {
    match specs.iter().position(|spec| spec.name == DEFAULT_TENANT) {
        Some(at) => specs[..=at].rotate_right(1),
        None => specs.insert(0, TenantSpec { name: DEFAULT_TENANT.to_owned(), ..TenantSpec::default() }),
    }
    specs
}

fn check(specs: &[TenantSpec], memory: i64, flash: u64) -> Result<(), RegistryError> {
    if specs.len() > TENANTS_MAX {
        return Err(RegistryError::TooMany(specs.len()));
    }
    let mut names = HashMap::new();
    let mut rules: HashMap<&Recognition, &str> = HashMap::new();
    for TenantSpec { name, recognised, terms } in specs {
        if names.insert(name, ()).is_some() {
            return Err(RegistryError::DuplicateName(name.clone()));
        }
        if name == DEFAULT_TENANT && *recognised != Recognition::Rest {
            return Err(RegistryError::DefaultClaims);
        }
        if terms.reserved_bytes < 0 {
            return Err(RegistryError::Negative(name.clone()));
        }
        if *recognised == Recognition::Prefix(String::new()) {
            return Err(RegistryError::Meaningless(name.clone(), "a prefix is not empty"));
        }
        if !(terms.weight > 0.0 && terms.weight <= 1e6) {
            return Err(RegistryError::Meaningless(name.clone(), "a weight is above 0 and at most 1000000"));
        }
        if !(0.0..1.0).contains(&terms.goal_hit_ratio) {
            return Err(RegistryError::Meaningless(name.clone(), "a goal is 0 or more and below 1"));
        }
        let kind = match recognised {
            Recognition::Rest => continue,
            Recognition::Port(_) => "port",
            Recognition::User(_) => "user",
            Recognition::Prefix(_) => "prefix",
        };
        if let Some(other) = rules.insert(recognised, name) {
            return Err(RegistryError::Ambiguous(other.to_owned(), name.clone(), kind));
        }
    }
    let reserved = specs.iter().map(|spec| spec.terms.reserved_bytes).sum();
    if reserved > memory {
        return Err(RegistryError::Oversubscribed(reserved, memory));
    }
    let reserved = specs.iter().map(|spec| spec.terms.flash_reserved_bytes).sum();
    if reserved > flash {
        return Err(RegistryError::FlashOversubscribed(reserved, flash));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) const MEMORIES: Memories =
    Memories { shadow_worth_bytes: 1 << 16, curve_objects: 1_000, curve_halvings: 0, curve_reach_bytes: 1 << 26 };

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, recognised: Recognition, reserved_bytes: i64) -> TenantSpec {
        TenantSpec { name: name.to_owned(), recognised, terms: Terms { reserved_bytes, ..Terms::default() } }
    }

    fn prefix(text: &str) -> Recognition {
        Recognition::Prefix(text.to_owned())
    }

    fn registry(specs: Vec<TenantSpec>) -> Registry {
        Registry::new(specs, 1_000, 1_000, MEMORIES, None).unwrap()
    }

    fn revise(registry: &Registry, specs: &[TenantSpec], version: u64) -> Result<Vec<Revised>, RegistryError> {
        registry.revise(specs, &MEMORIES, |_, _| Ok(()), || version, |_| {})
    }

    fn names(registry: &Registry) -> Vec<&str> {
        registry.tenants().map(|tenant| tenant.name.as_str()).collect()
    }

    #[test]
    fn a_revision_is_whole_or_nothing() {
        let specs = || vec![spec("a", prefix("a:"), 100), spec("b", prefix("b:"), 200)];
        let registry = registry(specs());
        let reserved = || registry.tenants().map(Tenant::reserved_bytes).collect::<Vec<_>>();
        let mut bad = spec("b", prefix("b:"), 1);
        bad.terms.weight = f32::NAN;
        let bad = [
            (spec("a", prefix("a:"), 900), spec("b", prefix("b:"), 200)),
            (spec("a", prefix("a:"), 500), spec("b", prefix("a:"), 1)),
            (spec("a", prefix("a:"), 500), spec("b", prefix("b:"), -1)),
            (spec("a", prefix("a:"), 500), spec("a", prefix("b:"), 1)),
            (spec("a", prefix("a:"), 500), spec("default", prefix("b:"), 1)),
            (spec("a", prefix("a:"), 500), bad),
        ];
        for (a, b) in bad {
            revise(&registry, &[a, b], 1).unwrap_err();
            assert_eq!((reserved(), names(&registry)), (vec![0, 100, 200], vec!["default", "a", "b"]));
        }
        let failed = registry.revise(
            &[],
            &MEMORIES,
            |_, _| Err(RegistryError::Unwritten("disk full".to_owned())),
            || 1,
            |_| panic!("nothing is released"),
        );
        assert_eq!((failed, names(&registry).len()), (Err(RegistryError::Unwritten("disk full".to_owned())), 3));
        let mut lfu = spec("a", prefix("a:"), 500);
        lfu.terms.rank = Rank::Lfu;
        let revised = revise(&registry, &[lfu, spec("b", prefix("b:"), 200)], 1).unwrap();
        assert_eq!(revised.len(), 1, "only what has changed is told: {revised:?}");
        assert_eq!((reserved(), registry.tenant(1).rank()), (vec![0, 500, 200], Rank::Lfu));
        registry.share_out(1_000, |_| 1.0);
        assert_eq!((registry.targets_sum(), registry.tenant(1).account.balance().reserved), (1_000, 500));
    }

    #[test]
    fn numbers_are_never_given_to_another() {
        let registry = registry(vec![spec("a", prefix("a:"), 100), spec("p", Recognition::Port(7), 0)]);
        let number = |key: &[u8]| registry.by_key(key);
        assert_eq!((number(b"a:x"), registry.by_port(7)), (1, Some(2)));
        let mut gone = Vec::new();
        let revised = registry
            .revise(&[spec("b", prefix("b:"), 50)], &MEMORIES, |_, _| Ok(()), || 40, |id| gone.push(id))
            .unwrap();
        assert_eq!((gone, revised.len(), names(&registry)), (vec![1, 2], 3, vec!["default", "b"]));
        assert_eq!((number(b"a:x"), number(b"b:x"), registry.by_port(7)), (0, 3, None));
        // what default held under a's keys before a came is out of date, and what it holds of other keys is not
        assert!(registry.is_released(0, b"a:x", 40) && !registry.is_released(0, b"a:x", 41));
        assert!(
            !registry.is_released(0, b"x", 40) && !registry.is_released(2, b"a:x", 40),
            "ports have keys of their own"
        );
        // a comes again, to its own place; with another rule it would be another
        let mut over = Vec::new();
        registry.revise(&[spec("a", prefix("a:"), 0)], &MEMORIES, |_, _| Ok(()), || 60, |id| over.push(id)).unwrap();
        assert_eq!((number(b"a:x"), over), (1, vec![1, 3]));
        revise(&registry, &[spec("a", prefix("A:"), 0)], 70).unwrap();
        assert_eq!((number(b"a:x"), number(b"A:x"), registry.count()), (0, 4, 5));
        registry.share_out(1_000, |_| 1.0);
        assert_eq!(registry.targets_sum(), 1_000);
    }

    #[test]
    fn a_key_is_over_by_the_latest_of_the_prefixes_that_were_given_up() {
        let registry = registry(Vec::new());
        for (name, version) in [("a:b:", 50), ("a:", 20), ("a:b:c:", 30), ("x", 90), ("a:", 40)] {
            revise(&registry, &[spec("t", prefix(name), 0)], 1).unwrap();
            revise(&registry, &[], version).unwrap();
        }
        let over = |key: &[u8]| (0..=100).rev().find(|version| registry.is_released(0, key, *version)).unwrap_or(0);
        assert_eq!([&b"a:1"[..], b"a:b:1", b"a:b:c:1", b"x", b"b"].map(over), [40, 50, 50, 90, 0]);
    }

    #[test]
    fn numbers_outlive_the_process() {
        let before = registry(vec![spec("a", prefix("a:"), 0), spec("b", prefix("b:"), 0)]);
        revise(&before, &[spec("b", prefix("b:"), 0), spec("c", prefix("c:"), 0)], 9).unwrap();
        let numbering = before.numbering();
        let specs = vec![spec("c", prefix("c:"), 0), spec("d", prefix("d:"), 0)];
        let after = Registry::new(specs, 1_000, 0, MEMORIES, Some(&numbering)).unwrap();
        assert_eq!((after.by_key(b"c:x"), after.by_key(b"d:x"), after.by_key(b"b:x")), (3, 4, 0));
        let mut over = Vec::new();
        after.settle(20, |id| over.push(id));
        assert_eq!(over, [1, 2]);
        assert!(
            after.is_released(0, b"b:x", 20) && after.is_released(0, b"a:x", 9) && !after.is_released(0, b"b:x", 21)
        );
    }

    #[test]
    fn the_longest_prefix_wins_and_the_rest_is_default() {
        let specs = vec![
            spec("a", prefix("a:"), 0),
            spec("ab", prefix("a:b:"), 0),
            spec("p", Recognition::Port(7), 0),
            spec("u", Recognition::User("joe".to_owned()), 0),
        ];
        let registry = registry(specs);
        let name = |key: &[u8]| registry.tenant(registry.by_key(key)).name.as_str();
        assert_eq!((name(b"a:x"), name(b"a:b:x"), name(b"x"), name(b"a")), ("a", "ab", "default", "default"));
        assert_eq!(registry.by_port(7).map(|id| registry.tenant(id).name.as_str()), Some("p"));
        assert_eq!((registry.by_port(8), registry.by_user(b"ann")), (None, None));
        assert_eq!(registry.by_user(b"joe").map(|id| registry.tenant(id).name.as_str()), Some("u"));
    }

    #[test]
    fn contradictions_are_refused() {
        let make = |specs| Registry::new(specs, 1000, 0, MEMORIES, None).err();
        assert_eq!(
            make(vec![spec("a", prefix("x"), 600), spec("b", prefix("y"), 600)]),
            Some(RegistryError::Oversubscribed(1200, 1000))
        );
        assert!(matches!(
            make(vec![spec("a", prefix("x"), 0), spec("a", prefix("y"), 0)]),
            Some(RegistryError::DuplicateName(_))
        ));
        assert!(matches!(
            make(vec![spec("a", prefix("x"), 0), spec("b", prefix("x"), 0)]),
            Some(RegistryError::Ambiguous(..))
        ));
        assert!(matches!(make(vec![spec("a", prefix(""), 0)]), Some(RegistryError::Meaningless(..))));
        let mut flash = spec("a", prefix("x"), 0);
        flash.terms.flash_reserved_bytes = 1;
        assert_eq!(make(vec![flash]), Some(RegistryError::FlashOversubscribed(1, 0)));
    }
}
