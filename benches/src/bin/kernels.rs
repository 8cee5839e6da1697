//! Which kernel for the predictor? Trains each on samples that `flashare-trace simulate --samples FILE` wrote, tests it on those that came next,
//! and tells how well it tells flashy objects from others (area under the ROC curve), how long training takes and how long a score.
//!
//! A tenant's samples are taken in their order: a thousand to train on, the next five hundred to test, then five hundred further on.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use linfa::prelude::*;
use linfa_svm::Svm;
use ndarray::{Array1, Array2};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal, Uniform};

const FEATURES: usize = predictor::FEATURES;
const TRAINED_ON: usize = 1_000;
const TESTED_ON: usize = 500;
/// Random features of the approximation of RBF.
const RANDOM_FEATURES: usize = 64;
/// Width of RBF, for features of deviation 1.
const WIDTH: f64 = 8.0;

#[derive(Parser)]
struct Args {
    /// Files that `flashare-trace simulate --samples` wrote
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// What a sample on the wrong side costs: less makes smoother machines
    #[arg(long, default_value_t = 1.0)]
    cost: f64,
    /// Leave out this feature, by name; again for more
    #[arg(long)]
    without_feature: Vec<String>,
    /// Leave out kernels whose names begin so
    #[arg(long)]
    without: Vec<String>,
    /// Most windows of each file
    #[arg(long, default_value_t = 20)]
    windows: usize,
}

type Point = [f64; FEATURES];
type Sample = (Point, bool);

/// What a kernel makes of scaled features before a linear machine sees them.
enum Map {
    Linear,
    Quadratic,
    Random {
        directions: Vec<Point>,
        phases: Vec<f64>,
    },
    /// None of the kind: the machine keeps its support vectors.
    Rbf,
}

impl Map {
    fn all() -> [(&'static str, Map); 4] {
        let mut random = StdRng::seed_from_u64(7);
        let scale = (2.0 / WIDTH).sqrt();
        let directions = (0..RANDOM_FEATURES)
            .map(|_| {
                std::array::from_fn(|_| {
                    let n: f64 = StandardNormal.sample(&mut random);
                    n * scale
                })
            })
            .collect();
        let turn = Uniform::new(0.0, std::f64::consts::TAU).expect("from 0 up");
        let phases = (0..RANDOM_FEATURES).map(|_| turn.sample(&mut random)).collect();
        [
            ("linear", Map::Linear),
            ("quadratic", Map::Quadratic),
            ("RBF by 64 random features", Map::Random { directions, phases }),
            ("RBF", Map::Rbf),
        ]
    }

    fn apply(&self, point: &Point) -> Vec<f64> {
        match self {
            Map::Linear | Map::Rbf => point.to_vec(),
            Map::Quadratic => {
                let squares = (0..FEATURES).flat_map(|a| (a..FEATURES).map(move |b| (a, b)));
                point.iter().copied().chain(squares.map(|(a, b)| point[a] * point[b])).collect()
            }
            Map::Random { directions, phases } => {
                let turned = directions.iter().zip(phases).map(|(direction, phase)| {
                    (direction.iter().zip(point).map(|(a, b)| a * b).sum::<f64>() + phase).cos()
                });
                turned.map(|cos| cos * (2.0 / RANDOM_FEATURES as f64).sqrt()).collect()
            }
        }
    }
}

fn read(path: &PathBuf, is_left_out: &[bool; FEATURES]) -> Result<BTreeMap<String, Vec<Sample>>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut all: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for (number, line) in text.lines().enumerate().skip(1) {
        let place = || format!("{}, line {}", path.display(), number + 1);
        let mut fields = line.split(',');
        let tenant = fields.next().with_context(place)?.to_owned();
        let numbers: Vec<f64> = fields.map(|field| field.parse().ok().with_context(place)).collect::<Result<_>>()?;
        ensure!(numbers.len() == FEATURES + 1, "{}: {} numbers are expected", place(), FEATURES + 1);
        all.entry(tenant)
            .or_default()
            .push((std::array::from_fn(|n| if is_left_out[n] { 0.0 } else { numbers[n] }), numbers[FEATURES] > 0.5));
    }
    Ok(all)
}

/// Features to mean 0 and deviation 1, by those that are trained on.
fn scaled(train: &[Sample], test: &[Sample]) -> (Vec<Sample>, Vec<Sample>) {
    let count = train.len() as f64;
    let mean: Point = std::array::from_fn(|n| train.iter().map(|sample| sample.0[n]).sum::<f64>() / count);
    let deviation: Point = std::array::from_fn(|n| {
        let variance = train.iter().map(|sample| (sample.0[n] - mean[n]).powi(2)).sum::<f64>() / count;
        if variance < 1e-9 { f64::INFINITY } else { variance.sqrt() }
    });
    let scale = |samples: &[Sample]| {
        let one = |sample: &Sample| (std::array::from_fn(|n| (sample.0[n] - mean[n]) / deviation[n]), sample.1);
        samples.iter().map(one).collect()
    };
    (scale(train), scale(test))
}

#[derive(Default)]
struct Tally {
    areas: Vec<f64>,
    training_secs: f64,
    score_ns: Vec<f64>,
}

fn measure(map: &Map, cost: f64, train: &[Sample], test: &[Sample], tally: &mut Tally) -> Result<()> {
    let rows: Vec<Vec<f64>> = train.iter().map(|sample| map.apply(&sample.0)).collect();
    let width = rows[0].len();
    let records = Array2::from_shape_vec((rows.len(), width), rows.concat())?;
    let targets = Array1::from_iter(train.iter().map(|sample| sample.1));
    let flashy = train.iter().filter(|sample| sample.1).count() as f64;
    let total = train.len() as f64;
    let began = Instant::now();
    let params = Svm::<f64, bool>::params()
        .pos_neg_weights(cost * total / (2.0 * flashy), cost * total / (2.0 * (total - flashy)))
        .eps(1e-2);
    let params = if matches!(map, Map::Rbf) { params.gaussian_kernel(WIDTH) } else { params.linear_kernel() };
    let machine = params.fit(&Dataset::new(records, targets))?;
    tally.training_secs += began.elapsed().as_secs_f64();
    let decide = |point: Vec<f64>| machine.weighted_sum(&Array1::from_vec(point)) - machine.rho;
    let score: Box<dyn Fn(&Point) -> f64> = if matches!(map, Map::Rbf) {
        Box::new(|point| decide(point.to_vec()))
    } else {
        // read back, as predictor::train does
        let at = |n: Option<usize>| decide((0..width).map(|k| f64::from(u8::from(Some(k) == n))).collect());
        let origin = at(None);
        let weights: Vec<f64> = (0..width).map(|n| at(Some(n)) - origin).collect();
        Box::new(move |point| map.apply(point).iter().zip(&weights).map(|(a, b)| a * b).sum::<f64>() + origin)
    };
    let scores = test.iter().map(|sample| (score(&sample.0) as f32, sample.1)).collect();
    tally.areas.push(predictor::roc_area(scores).expect("both kinds of samples are there").into());
    let began = Instant::now();
    for sample in test {
        black_box(score(black_box(&sample.0)));
    }
    tally.score_ns.push(began.elapsed().as_secs_f64() * 1e9 / test.len() as f64);
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let names = predictor::FEATURE_NAMES;
    for name in &args.without_feature {
        ensure!(names.contains(&name.as_str()), "--without-feature {name}: take one of {}", names.join(", "));
    }
    let is_left_out = names.map(|name| args.without_feature.iter().any(|out| out == name));
    println!(
        "{:<28} {:<28} {:>8} {:>8} {:>12} {:>10}",
        "samples", "kernel", "windows", "area", "training, s", "score, ns"
    );
    for path in &args.files {
        let mut tallies: Vec<(&str, Map, Tally)> =
            Map::all().into_iter().map(|(name, map)| (name, map, Tally::default())).collect();
        tallies.retain(|(name, ..)| !args.without.iter().any(|begin| name.starts_with(begin.as_str())));
        for samples in read(path, &is_left_out)?.values() {
            let mut at = 0;
            while at + TRAINED_ON + TESTED_ON <= samples.len() && tallies[0].2.areas.len() < args.windows {
                let (train, test) = (&samples[at..][..TRAINED_ON], &samples[at + TRAINED_ON..][..TESTED_ON]);
                at += TESTED_ON;
                let flashy = |samples: &[Sample]| samples.iter().filter(|sample| sample.1).count();
                let has_both = |samples: &[Sample]| (20..=samples.len() - 20).contains(&flashy(samples));
                if !has_both(train) || !has_both(test) {
                    continue;
                }
                let (train, test) = scaled(train, test);
                for (_, map, tally) in &mut tallies {
                    measure(map, args.cost, &train, &test, tally)?;
                }
            }
        }
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        for (kernel, _, tally) in &tallies {
            let windows = tally.areas.len();
            let mean = |values: &[f64]| values.iter().sum::<f64>() / windows.max(1) as f64;
            let training = tally.training_secs / windows.max(1) as f64;
            println!(
                "{name:<28} {kernel:<28} {windows:>8} {:>8.4} {training:>12.3} {:>10.0}",
                mean(&tally.areas),
                mean(&tally.score_ns),
            );
        }
    }
    Ok(())
}
