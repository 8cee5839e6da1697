//! The predictor: which objects that leave DRAM are worth a write to flash.
//!
//! ```text
//!  cleaner's decision --> Observation --> features --> Model::score > threshold? --> flash, or not
//!        |                                                   ^
//!        +--> Sampler: watch the key --> label --> train (linfa-svm, off the path)
//! ```
//! One model a tenant. Nothing here touches memory tiers or devices, or decides who keeps DRAM.

#![forbid(unsafe_code)]

mod admission;
mod budget;
mod calibrate;
mod features;
mod history;
mod model;
mod quality;
mod sample;
mod train;

pub use admission::{Admission, Candidate, Deputy, Plain, WORTH_WRITING, merit, thrown};
pub use budget::{Bid, Budget};
pub use features::{FEATURE_NAMES, FEATURES, Features, Observation};
pub use history::{History, LEVEL_MAX, accesses_at, level_after};
pub use model::Model;
pub use quality::{BANDS, Quality, roc_area};
pub use sample::{Sampler, WATCHED_BYTES};
pub use train::{CLASS_MIN, Kernel, NoModel, SAMPLES_MAX, accuracy, train};
