//! `cargo +nightly fuzz run session ../tests/corpus` in `server/`: arbitrary bytes in arbitrary fragments to a session.
#![no_main]

#[path = "../../tests/common/feed.rs"]
mod feed;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

thread_local! {
    static ARENA: RefCell<feed::Arena> = RefCell::new(feed::Arena::new());
}

fuzz_target!(|data: &[u8]| ARENA.with(|arena| drop(arena.borrow_mut().feed(data))));
