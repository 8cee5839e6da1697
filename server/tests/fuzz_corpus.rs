//! The fuzz target's corpus as a normal test: every file of `tests/corpus`, whole, torn, and with bytes changed by chance.

#[path = "common/feed.rs"]
mod feed;

use std::path::Path;

use feed::Arena;

const MUTATIONS_A_SEED: usize = 400;

#[test]
fn arbitrary_bytes_hurt_nobody() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(seeds.len() >= 8, "the corpus is gone");
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut dice = move |sides: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % sides.max(1)
    };
    for (n, seed) in seeds.iter().enumerate() {
        let mut arena = Arena::new();
        for how in 0..3 {
            for cut in 0..4 {
                arena.feed(&[&[how, cut], seed.as_slice()].concat());
            }
        }
        for _ in 0..MUTATIONS_A_SEED {
            let mut bytes = [&[dice(3) as u8, dice(256) as u8], seed.as_slice()].concat();
            for _ in 0..1 + dice(4) {
                let at = 2 + dice(bytes.len() - 2);
                match dice(5) {
                    0 => bytes[at] = dice(256) as u8,
                    1 => bytes[at] ^= 1 << dice(8),
                    2 => bytes.truncate(at.max(3)),
                    3 => {
                        let other = &seeds[(n + dice(seeds.len())) % seeds.len()];
                        let from = dice(other.len());
                        bytes.splice(at..at, other[from..(from + dice(200)).min(other.len())].iter().copied());
                    }
                    _ => {
                        let number = ["0", "-1", "4294967296", "18446744073709551616", "2147483647"][dice(5)];
                        bytes.splice(at..at, number.bytes());
                    }
                }
            }
            arena.feed(&bytes);
        }
    }
}
