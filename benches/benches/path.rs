//! Steps of the main path and of the background work, one by one: parse, get and set in DRAM, look-up in the flash index,
//! packing, scoring. `cargo bench -p benches`.

use std::hint::black_box;

use cache::{Cache, CacheSettings, Lookup, Mode, Storing};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flash_store::{FlashShape, FlashStore, Placed, RecordHead};
use log_memory::{Access, KeyHasher, LogMemory, NewObject, Shape};
use predictor::{Kernel, Observation, train};

const KEYS: u64 = 100_000;

fn key(n: u64) -> String {
    format!("key-{n:016}")
}

fn mix(n: u64) -> u64 {
    log_memory::mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for line in
        ["get key-0000000000000001\r\n", "set key-0000000000000001 0 0 100\r\n", "incr key-0000000000000001 5\r\n"]
    {
        group.bench_function(line.split(' ').next().unwrap(), |b| {
            b.iter(|| black_box(protocol::text::parse(black_box(line.as_bytes()))));
        });
    }
    group.finish();
}

/// Whose a key is, where tenants are told by prefixes of many lengths.
fn whose(c: &mut Criterion) {
    let spec = |prefix: &str| tenants::TenantSpec {
        name: prefix.to_owned(),
        recognised: tenants::Recognition::Prefix(prefix.to_owned()),
        terms: tenants::Terms::default(),
    };
    let mut group = c.benchmark_group("whose");
    group.throughput(Throughput::Elements(1));
    for (what, prefixes) in [
        ("five prefixes", vec!["key-", "session:", "img:v2:", "user:", "recommend:"]),
        ("of one first letter", vec!["key-", "keys:all:", "kv2:eu:", "k:user:", "kind-"]),
    ] {
        let settings =
            CacheSettings { tenants: prefixes.into_iter().map(spec).collect(), ..CacheSettings::for_memory(64 << 20) };
        let cache = Cache::new(settings).unwrap();
        let key = key(7);
        group.bench_function(what, |b| b.iter(|| cache.tenant_of(black_box(key.as_bytes()))));
    }
    group.finish();
}

fn dram(c: &mut Criterion) {
    let cache = Cache::new(CacheSettings::for_memory(64 << 20)).unwrap();
    let (mut worker, mut background) = (cache.worker(), cache.background());
    let keys: Vec<String> = (0..KEYS).map(key).collect();
    let mut set = |n: u64, worker: &mut cache::Worker| {
        loop {
            let stored = cache.turn(worker).store(0, &Storing::new(Mode::Set, keys[n as usize].as_bytes(), &[7; 100]));
            if stored.is_ok() {
                break;
            }
            while cache.step(&mut background, None) {}
        }
    };
    (0..KEYS).for_each(|n| set(n, &mut worker));
    let mut group = c.benchmark_group("dram");
    group.throughput(Throughput::Elements(1));
    let mut n = 0;
    group.bench_function("set", |b| {
        b.iter(|| {
            n += 1;
            set(mix(n) % KEYS, &mut worker);
        });
    });
    group.bench_function("get", |b| {
        b.iter(|| {
            n += 1;
            let mut turn = cache.turn(&mut worker);
            match turn.get(0, keys[(mix(n) % KEYS) as usize].as_bytes()) {
                Lookup::Hit(object) => object.value_bytes(),
                _ => 0,
            }
        });
    });
    group.finish();
}

/// The steps of a get, one by one, over as many objects as do not fit the processor's caches.
fn steps(c: &mut Criterion) {
    const OBJECTS: u64 = 1_000_000;
    let shape = Shape::for_memory(512 << 20);
    let memory = LogMemory::new(shape, KeyHasher::new(1)).unwrap();
    let (part, mut writer) = (memory.join(), memory.writer());
    for n in 0..OBJECTS {
        let (turn, name) = (part.enter(), key(n));
        let hash = memory.hash(0, name.as_bytes());
        let object = NewObject {
            tenant: 0,
            key: name.as_bytes(),
            value: &[&[7; 100]],
            client_flags: 0,
            expiry: 0,
            version: n + 1,
            unique: None,
            birth: 0,
            access: Access::default(),
            history: 0,
            rescued: false,
        };
        let at = memory.append(&mut writer, hash, &object).unwrap();
        memory.publish(&turn, &memory.lock(hash), at, None);
        if memory.wanted_index_growth().is_some() {
            memory.grow_index().unwrap();
            drop(turn);
            while memory.grow_index_step(&part.enter(), 1024) {}
        }
    }
    let names: Vec<String> = (0..1 << 16).map(|n| key(mix(n) % OBJECTS)).collect();
    let turn = part.enter();
    let mut group = c.benchmark_group("steps of a get");
    group.throughput(Throughput::Elements(1));
    let mut n = 0;
    let mut next = || {
        n = (n + 1) % names.len();
        names[n].as_bytes()
    };
    group.bench_function("hash", |b| b.iter(|| memory.hash(0, black_box(next()))));
    group.bench_function("index and object, alone", |b| {
        b.iter(|| {
            let name = next();
            memory.find(&turn, memory.hash(0, name), 0, name).is_some()
        });
    });
    group.throughput(Throughput::Elements(16));
    group.bench_function("index and object, sixteen expected together", |b| {
        b.iter(|| {
            let batch: [&[u8]; 16] = std::array::from_fn(|_| next());
            let hashes = batch.map(|name| memory.hash(0, name));
            hashes.iter().for_each(|hash| memory.prefetch(*hash));
            let seen = hashes.map(|hash| (hash, memory.prefetch_object(hash)));
            batch.iter().zip(seen).filter(|(name, seen)| memory.find_seen(&turn, *seen, 0, name).is_some()).count()
        });
    });
    group.throughput(Throughput::Elements(1));
    let (mut out, hot) = (Vec::new(), key(5));
    let object = memory.find(&turn, memory.hash(0, hot.as_bytes()), 0, hot.as_bytes()).unwrap();
    group.bench_function("note the access", |b| b.iter(|| object.note_read(black_box(1), || 7)));
    group.bench_function("reply", |b| {
        b.iter(|| {
            out.clear();
            protocol::text::value_header(&mut out, hot.as_bytes(), object.client_flags(), object.value_bytes(), None);
            object.value().for_each(|piece| out.extend_from_slice(piece));
            out.extend_from_slice(b"\r\nEND\r\n");
            out.len()
        });
    });
    group.finish();
}

fn flash(c: &mut Criterion) {
    let shape = FlashShape { flash_bytes: 256 << 20, segment_bytes: 16 << 20, objects: 500_000, secret: 1 };
    let head = |key| RecordHead {
        tenant: 0,
        key,
        client_flags: 0,
        expiry: 0,
        version: 1,
        reads: 0,
        updates: 0,
        history: 0,
        accessed: 0,
        rescued: false,
        won: false,
    };
    let store = FlashStore::new(shape).unwrap();
    let mut stored = 0;
    while stored < 40_000
        && store.append(mix(stored), &head(b"a-key-of-20-bytes..."), [&[7u8; 300][..]].into_iter()) == Placed::Yes
    {
        stored += 1;
    }
    let mut group = c.benchmark_group("flash");
    group.throughput(Throughput::Elements(1));
    let mut n = 0;
    group.bench_function("index look-up, hit", |b| {
        b.iter(|| {
            n += 1;
            store.may_hold(mix(n % stored))
        });
    });
    group.bench_function("index look-up, miss", |b| {
        b.iter(|| {
            n += 1;
            store.may_hold(mix(n + (1 << 40)))
        });
    });
    group.bench_function("pack a record of 300 bytes", |b| {
        b.iter_batched(
            || FlashStore::new(FlashShape { flash_bytes: 65 << 20, ..shape }).unwrap(),
            |fresh| {
                for n in 0..1000 {
                    black_box(fresh.append(mix(n), &head(b"a-key-of-20-bytes..."), [&[7u8; 300][..]].into_iter()));
                }
                fresh
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn scoring(c: &mut Criterion) {
    // reads of two to four are good: a law that needs products
    let sample = |n: u32| {
        let seen = Observation {
            reads: n % 7,
            idle: n % 50,
            age: 50 + n % 91,
            bytes: 100 + n % 13 * 50,
            ..Observation::default()
        };
        (seen.features(), (2..=4).contains(&seen.reads))
    };
    let samples: Vec<_> = (0..500).map(sample).collect();
    let observation =
        Observation { reads: 3, updates: 1, age: 500, idle: 20, bytes: 300, history: 1, ttl_left: Some(3600) };
    for (name, kernel) in [("score an object", Kernel::Linear), ("score an object, with products", Kernel::Quadratic)] {
        let model = train(&samples, kernel).expect("both kinds of samples are there");
        c.bench_function(name, |b| b.iter(|| model.score(&black_box(observation).features())));
        let features = observation.features();
        c.bench_function(&format!("{name}, from features"), |b| b.iter(|| model.score(&black_box(features))));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500)).measurement_time(std::time::Duration::from_secs(2));
    targets = parse, whose, steps, dram, flash, scoring
}
criterion_main!(benches);
