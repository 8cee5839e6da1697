//! Traces: read, written, made, described, and run: through the engine in process, or against a server over the network.

#![forbid(unsafe_code)]

mod compare;
mod convert;
mod event;
mod figures;
pub mod format;
mod plot;
mod progress;
mod replay;
mod report;
mod simulate;
mod stat;
mod synth;
mod told;
mod values;

pub use cache::{Point, ReuseDistances};
pub use compare::{Compare, Compared, Comparison};
pub use convert::Convert;
pub use event::{Event, Op, wire_key};
pub use figures::{Figures, Latency, Moment, Report, ServerCost};
pub use replay::{Answers, Got, Mode, Protocol, Replay, Sender, connect};
pub use report::MakeReport;
pub use simulate::{Axis, Simulate, equal_tenants};
pub use stat::{Description, Sizes, Stat, Window, measure};
pub use synth::{Synth, TenantLaw, TenantText};
pub use values::{KeyId, Values, Verdict, key_id};
