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
mod features;
mod history;
mod model;
mod sample;
mod train;

pub use admission::{Admission, Candidate, seen_twice};
pub use features::{FEATURES, Features, Observation};
pub use history::{COUNT_MAX, History};
pub use model::Model;
pub use sample::{Sampler, WATCHED_BYTES};
pub use train::{CLASS_MIN, NoModel, SAMPLES_MAX, accuracy, train};
