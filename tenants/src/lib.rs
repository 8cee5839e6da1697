//! Tenants: who they are, what memory they are guaranteed and granted, and who gets the next place in DRAM.
//!
//! This crate is policy: it never touches memory tiers or devices. It is told what is in use, lost and missed, and answers
//! which tenant is owed memory ([`contest()`]), after Memshare.

#![forbid(unsafe_code)]

mod account;
mod adviser;
mod arbiter;
mod contest;
mod curve;
mod meter;
mod prefixes;
mod rank;
mod registry;
mod shadow_queue;
mod write_budget;

pub use account::{Account, Balance};
pub use adviser::{Aim, Claim, share};
pub use arbiter::{ARBITERS, Arbiter, CREDIT_BYTES, IDLE_AFTER_SECS};
pub use contest::{Contestant, contest};
pub use curve::{Demand, IdHasher, IdMap, LiveCurve, Point, ReuseDistances, Seen};
pub use meter::{Limits, Meter};
pub use rank::{RANKS, Rank, Standing};
pub use registry::{
    DEFAULT_TENANT, Memories, Numbering, Recognition, Registry, RegistryError, Released, Revised, TENANTS_MAX, Tenant,
    TenantSpec, Terms,
};
pub use shadow_queue::ShadowQueue;
pub use write_budget::WriteBudget;
