//! The samples that models are trained on, as a CSV file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use cache::{Cache, FEATURE_NAMES};

/// A file that samples go to.
pub(super) struct Samples {
    out: Arc<Mutex<Out>>,
    place: String,
}

struct Out {
    file: BufWriter<File>,
    failed: Option<std::io::Error>,
}

/// Has the cache's samples written to a file.
pub(super) fn listen(path: &Path, cache: &Cache) -> Result<Samples> {
    let place = format!("--samples {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(|| place.clone())?);
    writeln!(file, "tenant,{},read_again", FEATURE_NAMES.join(",")).with_context(|| place.clone())?;
    let out = Arc::new(Mutex::new(Out { file, failed: None }));
    let names: Vec<String> = cache.registry().tenants().map(|tenant| tenant.name.clone()).collect();
    let shared = Arc::clone(&out);
    cache.tell_samples(Box::new(move |tenant, samples| {
        let Out { file, failed } = &mut *shared.lock().expect("nobody panics with it");
        for (features, read_again) in samples {
            let features: Vec<String> = features.iter().map(f32::to_string).collect();
            let name = names.get(usize::from(tenant)).map_or("", String::as_str);
            if let Err(error) = writeln!(file, "{name},{},{}", features.join(","), u8::from(*read_again)) {
                failed.get_or_insert(error);
            }
        }
    }));
    Ok(Samples { out, place })
}

impl Samples {
    /// Writes what is left, and tells what went wrong.
    pub(super) fn finish(self) -> Result<()> {
        let mut out = self.out.lock().expect("nobody panics with it");
        let failed = out.failed.take().map_or(Ok(()), Err);
        failed.and_then(|()| out.file.flush()).context(self.place)
    }
}
