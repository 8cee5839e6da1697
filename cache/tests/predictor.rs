//! The predictor in its place: models of a tenant, one for those that have too few samples, filters where no model is any good, and budgets.

mod common;

use cache::{
    Admission, Arbiter, Background, CacheSettings, Count, FlashSettings, Mode, Recognition, TenantSpec, Terms, Worker,
    WriteBudget,
};
use common::{Dice, Rig};

fn tenant(name: &str, budget: WriteBudget) -> TenantSpec {
    TenantSpec {
        name: name.to_owned(),
        recognised: Recognition::Prefix(format!("{name}:")),
        terms: Terms { flash_write_budget: budget, ..Terms::default() },
    }
}

fn settings(tenants: Vec<TenantSpec>) -> CacheSettings {
    let mut tier = FlashSettings::for_bytes(12 << 20);
    tier.segment_bytes = Some(128 << 10);
    CacheSettings { flash: Some(tier), arbiter: Arbiter::Fixed, tenants, ..CacheSettings::for_memory(3 << 20) }
}

/// Reads a key, and stores it where it is missed.
fn ask(rig: &Rig, worker: &mut Worker, background: &mut Background, tenant: u16, key: &str, bytes: usize) {
    if rig.get(worker, tenant, key.as_bytes()).is_none() {
        rig.store(worker, || rig.step(background), tenant, key.as_bytes(), Mode::Set, 0, &vec![7; bytes]);
    }
    if rig.cache.wants_cleaning() {
        rig.step(background);
    }
}

/// Half of the requests go to small values, a few thousand of them; the others are large and come once.
fn mixed(rig: &Rig, tenant: u16, requests: u64) {
    let name = rig.cache.registry().tenants().find(|own| own.id == tenant).unwrap().name.clone();
    let (mut worker, mut background, mut dice) = (rig.cache.worker(), rig.cache.background(), Dice(9));
    for n in 0..requests {
        rig.cache.advance(1_001 + (n / 500) as u32);
        let (key, bytes) =
            if n % 2 == 0 { (format!("{name}:{}", dice.roll(40_000)), 200) } else { (format!("{name}:once{n}"), 900) };
        ask(rig, &mut worker, &mut background, tenant, &key, bytes);
        if n % 500 == 0 {
            rig.step(&mut background);
            rig.cache.train_step();
        }
    }
}

#[test]
fn a_tenant_learns_and_one_with_few_samples_borrows() {
    let rig = Rig::new(settings(vec![tenant("busy", WriteBudget::Unlimited), tenant("quiet", WriteBudget::Unlimited)]));
    assert_eq!(rig.cache.judge_name(1), "second-hit", "nobody knows anything yet");
    mixed(&rig, 1, 200_000);
    assert!(["linear", "quadratic"].contains(&rig.cache.judge_name(1)), "{}", rig.cache.judge_name(1));
    let quality = rig.cache.model_quality(1);
    assert!(quality.samples() > 200 && quality.area() > 0.85, "{quality:?}");
    let [lowest, _, high, _] = quality.calibration();
    assert!(lowest < 0.03 && high > 0.1, "{:?}", quality.calibration());
    assert_eq!((rig.cache.model(2).2, rig.cache.judge_name(2)), (0, "pooled"));
}

#[test]
fn plain_rules_ask_no_model() {
    let rule = CacheSettings { admission: "small-fifo".parse::<Admission>().unwrap(), ..settings(Vec::new()) };
    let rig = Rig::new(rule);
    mixed(&rig, 0, 20_000);
    assert_eq!((rig.cache.judge_name(0), rig.cache.model(0).2), ("rule", 0));
}

/// Bytes written to flash for each byte that was allowed in the second half of a run.
fn written_by_budget(budget: WriteBudget, own: bool) -> f64 {
    let whole = if own { WriteBudget::Unlimited } else { budget };
    let terms = if own { budget } else { WriteBudget::Unlimited };
    let rig = Rig::new(CacheSettings {
        admission: Admission::All,
        flash_write_budget: whole,
        ..settings(vec![tenant("a", terms)])
    });
    let moment = |rig: &Rig| {
        let flash = rig.cache.figures().flash.unwrap();
        (flash.ledger.written as f64, rig.cache.totals(1).get(Count::StoredBytes), rig.cache.now())
    };
    mixed(&rig, 1, 60_000);
    let (written, stored, secs) = moment(&rig);
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    for n in 0..150_000u32 {
        rig.cache.advance(secs + 1 + n / 500);
        ask(&rig, &mut worker, &mut background, 1, &format!("a:late{n}"), 300 + n as usize % 500);
        if n % 500 == 0 {
            rig.step(&mut background);
        }
    }
    let (written_now, stored_now, now) = moment(&rig);
    let flash = rig.cache.figures().flash.unwrap();
    let flash_bytes = (flash.segments * flash.segment_bytes) as u64;
    let (terms, _, balance) = rig.cache.write_budget(own.then_some(1)).unwrap();
    assert_eq!(terms, budget);
    assert!(balance.abs() < 4e6, "{balance}");
    (written_now - written) / budget.allows(now - secs, stored_now - stored, flash_bytes).unwrap()
}

#[test]
fn write_budgets_are_held() {
    let budgets = [WriteBudget::Rate(80_000), WriteBudget::DriveWrites(500.0), WriteBudget::Amplification(0.2)];
    for budget in budgets {
        for own in [false, true] {
            let share = written_by_budget(budget, own);
            assert!((share - 1.0).abs() < 0.05, "{budget} of {}: {share}", if own { "a tenant" } else { "all" });
        }
    }
}

/// Bytes written for each byte stored where nothing is ever read again, which the plain rule that stands in for a model refuses.
fn written_of_refused(budget: WriteBudget, threshold: Option<f32>) -> f64 {
    let rig = Rig::new(CacheSettings { flash_write_budget: budget, threshold, ..settings(Vec::new()) });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    for n in 0..60_000u32 {
        rig.cache.advance(1_001 + n / 500);
        ask(&rig, &mut worker, &mut background, 0, &format!("once{n}"), 500);
        if n % 500 == 0 {
            rig.step(&mut background);
        }
    }
    rig.cache.figures().flash.unwrap().ledger.written as f64 / rig.cache.totals(0).get(Count::StoredBytes) as f64
}

#[test]
fn a_budget_is_spent_whatever_the_score_unless_a_threshold_is_stated() {
    let budget = WriteBudget::Amplification(0.3);
    assert_eq!(written_of_refused(WriteBudget::Unlimited, None), 0.0, "without a budget the score decides");
    let written = written_of_refused(budget, None);
    assert!((0.25..0.315).contains(&written), "{written}");
    assert_eq!(written_of_refused(budget, Some(0.0)), 0.0);
    assert!(written_of_refused(WriteBudget::Unlimited, Some(-9.0)) > 0.9);
}

/// Stores objects of which each is read `reads` times soon after, in DRAM, and from `back_from` of them on once more, when it has left DRAM. Bytes
/// written to flash for each byte stored, in each half.
fn written_of_stream(budget: WriteBudget, threshold: Option<f32>, reads: usize, back_from: u32) -> [f64; 2] {
    const MANY: u32 = 200_000;
    let rig = Rig::new(CacheSettings { flash_write_budget: budget, threshold, ..settings(Vec::new()) });
    let (mut worker, mut background, mut dice) = (rig.cache.worker(), rig.cache.background(), Dice(5));
    let stage = || {
        let written = rig.cache.figures().flash.unwrap().ledger.written as f64;
        (written, rig.cache.totals(0).get(Count::StoredBytes) as f64)
    };
    let mut stages = vec![(0.0, 0.0)];
    for n in 0..MANY {
        rig.cache.advance(1_001 + n / 500);
        ask(&rig, &mut worker, &mut background, 0, &format!("once{n}"), 500);
        for _ in 0..reads {
            rig.get(&mut worker, 0, format!("once{}", n.saturating_sub(dice.roll(50) as u32)).as_bytes());
        }
        if n > back_from + 10_000 {
            rig.get(&mut worker, 0, format!("once{}", n - 10_000).as_bytes());
        }
        if n % 500 == 0 {
            rig.step(&mut background);
            rig.cache.train_step();
        }
        if n + 1 == MANY / 2 || n + 1 == MANY {
            stages.push(stage());
        }
    }
    [0, 1].map(|half| (stages[half + 1].0 - stages[half].0) / (stages[half + 1].1 - stages[half].1))
}

#[test]
fn what_is_never_read_again_is_not_written_however_much_may_be() {
    let budget = WriteBudget::Amplification(0.5);
    let nowhere = u32::MAX / 2;
    for (budget, threshold, reads) in [(budget, None, 0), (budget, None, 3), (WriteBudget::Unlimited, Some(0.0), 3)] {
        let [first, second] = written_of_stream(budget, threshold, reads, nowhere);
        assert!(first > 0.01 || threshold.is_some(), "{first} before anything is known");
        assert!(second < 0.01, "{second} after that, read {reads} times in DRAM");
    }
    let [_, second] = written_of_stream(budget, None, 0, 100_000);
    assert!(second > 0.3, "{second}, though it is read again by now");
}

/// Objects that were in demand once, among others that never are, until flash has been written several times: how many of either were kept
/// when their segment was recycled, and bytes written for each byte stored. Nothing is read from flash.
fn kept_by_budget(budget: WriteBudget) -> ([usize; 2], f64) {
    let rig = Rig::new(CacheSettings {
        admission: Admission::All,
        flash_write_budget: budget,
        ..settings(vec![tenant("a", WriteBudget::Unlimited)])
    });
    let (mut worker, mut background, mut dice) = (rig.cache.worker(), rig.cache.background(), Dice(7));
    let key = |n: u32| format!("a:{}{n}", if n.is_multiple_of(10) { "wanted" } else { "once" });
    let many = 120_000;
    for n in 0..many {
        rig.cache.advance(1_001 + n / 500);
        ask(&rig, &mut worker, &mut background, 1, &key(n), 500);
        // ten reads each, while it is in DRAM
        let lately = (n / 10).saturating_sub(dice.roll(100) as u32) * 10;
        rig.get(&mut worker, 1, key(lately).as_bytes());
        if n % 500 == 0 {
            rig.step(&mut background);
        }
    }
    let totals = rig.cache.totals(1);
    let written = rig.cache.figures().flash.unwrap().ledger.written as f64;
    // of the first half: what is new has not been recycled yet
    let held = |wanted: bool| {
        let asked = (0..many / 2).filter(|n| n.is_multiple_of(10) == wanted);
        asked.filter(|n| rig.get(&mut rig.cache.worker(), 1, key(*n).as_bytes()).is_some()).count()
    };
    ([held(true), held(false)], written / totals.get(Count::StoredBytes) as f64)
}

/// Of the hits on what is read again and again since it is on flash, how many were in DRAM.
fn hits_in_dram(budget: WriteBudget) -> f64 {
    let rig = Rig::new(CacheSettings {
        admission: Admission::All,
        flash_write_budget: budget,
        ..settings(vec![tenant("a", WriteBudget::Unlimited)])
    });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let mut hits = [(0, 0); 2];
    for n in 0..120_000u32 {
        rig.cache.advance(1_001 + n / 500);
        ask(&rig, &mut worker, &mut background, 1, &format!("a:{n}"), 500);
        // half of the first 20,000, in turns that are longer than a stay in DRAM and shorter than one on flash
        if n >= 20_000 {
            rig.get(&mut worker, 1, format!("a:{}", n % 10_000 * 2).as_bytes());
        }
        if n % 500 == 0 {
            rig.step(&mut background);
        }
        if n == 60_000 || n == 119_999 {
            let totals = rig.cache.totals(1);
            hits[usize::from(n > 60_000)] = (totals.get(Count::DramHits), totals.get(Count::FlashHits));
        }
    }
    let (dram, flash) = (hits[1].0 - hits[0].0, hits[1].1 - hits[0].1);
    assert!(dram + flash > 5_000, "{dram} and {flash}");
    dram as f64 / (dram + flash) as f64
}

#[test]
fn what_was_hit_stays_on_flash_if_a_budget_has_it_and_goes_through_dram_without_one() {
    let [with, without] = [WriteBudget::Amplification(4.0), WriteBudget::Unlimited].map(hits_in_dram);
    assert!(with < 0.7 && without > 0.78, "{with} and {without}");
}

#[test]
fn what_is_hit_again_and_again_on_flash_comes_back_to_dram() {
    let rig = Rig::new(CacheSettings { admission: Admission::All, ..settings(Vec::new()) });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let store = |worker: &mut Worker, background: &mut Background, key: &str| {
        rig.store(worker, || rig.step(background), 0, key.as_bytes(), Mode::Set, 0, &[7; 500]);
    };
    store(&mut worker, &mut background, "hot");
    for n in 0..10_000 {
        store(&mut worker, &mut background, &format!("once{n}"));
        rig.step(&mut background);
    }
    let hits = || (rig.cache.totals(0).get(Count::DramHits), rig.cache.totals(0).get(Count::FlashHits));
    for _ in 0..100 {
        assert_eq!(rig.get(&mut worker, 0, b"hot").unwrap().1, [7; 500]);
    }
    let (dram, flash) = hits();
    assert!(dram > 0 && flash > 1 && dram + flash == 100, "{dram} and {flash}");
    rig.get(&mut worker, 0, b"hot").unwrap();
    assert_eq!(hits(), (dram + 1, flash), "it stays there");
    // and no copy of it is left on flash, to come back once it is changed or gone
    store(&mut worker, &mut background, "hot");
    assert!(rig.cache.turn(&mut worker).delete(0, b"hot"));
    assert_eq!(rig.get(&mut worker, 0, b"hot"), None);
}

#[test]
fn what_flash_would_have_leaves_dram_first() {
    let rig = Rig::new(CacheSettings {
        admission: Admission::All,
        flash_write_budget: WriteBudget::Amplification(2.0),
        ..settings(vec![tenant("a", WriteBudget::Unlimited)])
    });
    let (mut worker, mut background) = (rig.cache.worker(), rig.cache.background());
    let key = |n: u32| format!("a:{n}");
    let many = 40_000;
    for n in 0..many {
        rig.cache.advance(1_001 + n / 500);
        // every other one is stored twice: flash would have to take it again and again
        for _ in 0..1 + n % 2 {
            rig.store(&mut worker, || rig.step(&mut background), 1, key(n).as_bytes(), Mode::Set, 0, &[7; 500]);
        }
        if n % 100 == 0 {
            rig.step(&mut background);
        }
    }
    let in_dram = |updated: u32| {
        let before = rig.cache.totals(1).get(Count::DramHits);
        let asked = (0..many - 1_000).filter(|n| n % 2 == updated);
        asked.for_each(|n| drop(rig.get(&mut rig.cache.worker(), 1, key(n).as_bytes())));
        rig.cache.totals(1).get(Count::DramHits) - before
    };
    let [once, twice] = [0, 1].map(in_dram);
    assert!(twice > 2 * once && twice > 1_000, "{once} and {twice}");
}

#[test]
fn a_budget_is_spent_on_keeping_what_was_in_demand() {
    let ([wanted, once], written) = kept_by_budget(WriteBudget::Amplification(0.4));
    assert!(written < 0.42, "{written}");
    let share = wanted as f64 / 6_000.0;
    assert!(share > 0.85 && once < 1_200, "{share} and {once}");
    let ([wanted, once], _) = kept_by_budget(WriteBudget::Unlimited);
    assert!(wanted + once < 600, "without one nothing is kept that nobody reads: {wanted}, {once}");
}
