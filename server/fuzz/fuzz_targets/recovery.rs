//! `cargo +nightly fuzz run recovery` in `server/`: flash and journal that were changed at will, and the start after it. Whatever comes
//! back is what was stored last.
#![no_main]

#[path = "../../../cache/tests/crash/damage.rs"]
mod damage;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    damage::survive(data);
});
