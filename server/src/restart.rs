//! A clean stop, and the start after it.
//!
//! At a clean stop what is in DRAM goes to flash, an image of the index is written beside the flash file, and the superblock
//! names that image by a nonce. A start that finds the nonce and its image serves the content; before it serves anything it takes
//! the nonce out again, so that after a crash, when the image is out of date, nothing is believed.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cache::{Cache, CacheSettings, Device, Page, superblock, superblock_nonce};

/// Longest time that moving DRAM's content to flash may take at a stop.
const LEAVING_MAX: Duration = Duration::from_secs(10);

/// Which content of flash a start believes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// That of a clean stop.
    Clean,
    /// None.
    Never,
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(name: &str) -> Result<Restart, String> {
        match name {
            "clean" => Ok(Restart::Clean),
            "never" => Ok(Restart::Never),
            _ => Err(format!("'{name}': take clean or never")),
        }
    }
}

/// Where the image of a flash file lies: beside it. A block device has none.
pub(crate) fn image_path(flash: &Path) -> Option<PathBuf> {
    let is_device = std::fs::metadata(flash).is_ok_and(|found| found.file_type().is_block_device());
    let mut name = flash.file_name()?.to_owned();
    name.push(".index");
    (!is_device).then(|| flash.with_file_name(name))
}

/// Makes the cache: with what a clean stop left, or empty. From here on the flash is in use.
pub(crate) fn begin(
    settings: &CacheSettings,
    device: Option<&dyn Device>,
    image: Option<&Path>,
    restart: Restart,
) -> Result<Cache> {
    let Some(device) = device else { return Ok(Cache::new(settings.clone())?) };
    let mut page = [Page::ZERO];
    let nonce = device.read(0, &mut page).map_or(0, |()| superblock_nonce(&page[0]));
    let restored = match (restart, nonce, image) {
        (Restart::Never, ..) | (_, 0, _) | (.., None) => None,
        (Restart::Clean, nonce, Some(path)) => match restore(settings, path, nonce) {
            Ok(cache) => Some(cache),
            Err(error) => {
                eprintln!("flashare: flash starts empty: {}: {error:#}", path.display());
                None
            }
        },
    };
    let cache = match restored {
        Some(cache) => {
            let objects = cache.figures().flash.map_or(0, |flash| flash.live);
            eprintln!("flashare: {objects} objects are on flash from before the last stop");
            cache
        }
        None => Cache::new(settings.clone())?,
    };
    mark(&cache, device, 0).context("writing to flash")?;
    if let Some(path) = image {
        let _ = std::fs::remove_file(path); // without the nonce it means nothing
    }
    Ok(cache)
}

fn mark(cache: &Cache, device: &dyn Device, nonce: u64) -> Result<()> {
    let flash = cache.figures().flash.context("there is no flash tier")?;
    device.write(0, &[superblock(flash.segment_bytes, flash.segments as u32, nonce)])?;
    device.sync()?;
    Ok(())
}

fn restore(settings: &CacheSettings, path: &Path, nonce: u64) -> Result<Cache> {
    let mut input = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut own = [0; 8];
    input.read_exact(&mut own)?;
    ensure!(u64::from_le_bytes(own) == nonce, "it belongs to another flash file");
    Ok(Cache::restore(settings.clone(), input)?)
}

/// Leaves everything so that the next start can serve it; what is in DRAM too, unless that is kept elsewhere. Nobody else may use
/// the cache any more.
pub(crate) fn end(cache: &Cache, device: &dyn Device, image: &Path, keeps_memory: bool) -> Result<()> {
    if !cache.figures().flash.is_some_and(|flash| flash.enabled) {
        bail!("the flash is out of use");
    }
    let began = Instant::now();
    if !keeps_memory {
        cache.leave(&mut cache.background(), device, || began.elapsed() > LEAVING_MAX);
    }
    device.sync()?;
    let nonce = cache::mix(cache.settings().seed ^ u64::from(cache.now()) ^ began.elapsed().as_nanos() as u64) | 1;
    let unfinished = image.with_extension("unfinished");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&nonce.to_le_bytes())?;
    cache.save(&mut out)?;
    out.into_inner()?.sync_all()?;
    std::fs::rename(&unfinished, image)?;
    mark(cache, device, nonce)
}

/// Where memcached's users have what is in DRAM kept over a clean stop (-e): a file, and beside it one that vouches for it.
#[derive(Clone, Debug)]
pub(crate) struct MemoryFile(pub(crate) PathBuf);

const VOUCHER_MAGIC: &[u8; 16] = b"flashare meta  1";

impl MemoryFile {
    fn voucher(&self) -> PathBuf {
        let mut name = self.0.clone().into_os_string();
        name.push(".meta");
        name.into()
    }

    /// Takes in what a clean stop left, before anybody is served. From here on the file is out of date.
    ///
    /// # Errors
    /// What is there is not ours, or not whole. It is left as it is.
    pub(crate) fn load(&self, cache: &Cache, device: Option<&dyn Device>) -> Result<()> {
        let voucher = self.voucher();
        let vouched = match std::fs::read(&voucher) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| voucher.display().to_string()),
        };
        let refused = || format!("{}: remove it to start empty", voucher.display());
        let length = std::fs::metadata(&self.0).with_context(refused)?.len();
        let expected = [VOUCHER_MAGIC.as_slice(), &length.to_le_bytes()].concat();
        ensure!(
            vouched == expected,
            "{}: it does not belong to {}; remove it to start empty",
            voucher.display(),
            self.0.display()
        );
        let input = BufReader::with_capacity(1 << 20, File::open(&self.0)?);
        let objects = cache.load_content(&mut cache.background(), device, input).with_context(refused)?;
        std::fs::remove_file(&voucher)?;
        eprintln!("flashare: {objects} objects came from {}", self.0.display());
        Ok(())
    }

    /// Leaves what is in DRAM for the next start. Nobody else may use the cache any more.
    pub(crate) fn save(&self, cache: &Cache) -> Result<()> {
        let options = || File::options().write(true).create(true).truncate(true).mode(0o600).to_owned();
        let mut out = BufWriter::with_capacity(1 << 20, options().open(&self.0)?);
        cache.save_content(&mut out)?;
        let file = out.into_inner()?;
        file.sync_all()?;
        let mut voucher = options().open(self.voucher())?;
        voucher.write_all(&[VOUCHER_MAGIC.as_slice(), &file.metadata()?.len().to_le_bytes()].concat())?;
        Ok(voucher.sync_all()?)
    }
}
