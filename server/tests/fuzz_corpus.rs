//! The fuzz target's corpus as a normal test: every file of `tests/corpus`, whole, torn, and with bytes changed by chance.

#[path = "common/feed.rs"]
mod feed;

use std::path::Path;

use feed::{Arena, SERVED_IN_PLACE};

const MUTATIONS_A_SEED: usize = 400;

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(seeds.len() >= 8, "the corpus is gone");
    seeds
}

/// However requests come, torn in whatever way, they are answered alike where they were received and where they were copied to.
#[test]
fn requests_are_answered_alike_wherever_they_lie() {
    let mut compared = 0;
    for seed in corpus() {
        for cut in 0..32 {
            let answer = |cut: u8| Arena::new().feed(&[&[0, cut], seed.as_slice()].concat());
            let (copied, in_place) = (answer(cut), answer(cut | SERVED_IN_PLACE));
            // numbers that are others each time
            let is_told = |word: &[u8]| copied.windows(word.len()).any(|found| found == word);
            if copied.is_empty() || is_told(b"rusage") || is_told(b"ts=") {
                continue;
            }
            compared += 1;
            let (copied, in_place) = (String::from_utf8_lossy(&copied), String::from_utf8_lossy(&in_place));
            assert!(copied == in_place, "cut {cut}: {copied:.300} and {in_place:.300}");
        }
    }
    assert!(compared >= 200, "{compared} answers were compared");
}

#[test]
fn arbitrary_bytes_hurt_nobody() {
    let seeds = corpus();
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut dice = move |sides: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % sides.max(1)
    };
    for (n, seed) in seeds.iter().enumerate() {
        let mut arena = Arena::new();
        for how in 0..3 {
            for cut in (0..4).flat_map(|cut| [cut, cut | SERVED_IN_PLACE]) {
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
