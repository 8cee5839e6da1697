//! A stop, clean or not, and the start after it.
//!
//! At a clean stop what is in DRAM goes to flash, an image of the index is written beside the flash file, and the superblock
//! names that image by a nonce. A start that finds the nonce and its image serves the content; before it serves anything it takes
//! the nonce out again, so that after a crash, when the image is out of date, nothing is believed.
//!
//! With `--restart crash` a journal of what becomes invalid is kept beside the flash file, and the superblock names it too: then the
//! start after a crash believes what the journal vouches for. A start without that option takes the name out again, because nobody
//! will make notes.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cache::{
    Cache, CacheSettings, Device, Image, Journal, JournalFile, JournalInFile, Left, Numbering, Page, PartState,
    Recognition, Released, Superblock, SyncPolicy,
};
use serde::{Deserialize, Serialize};

/// Longest time that looking through what is left of before the start may take at a stop, where nothing has to be moved.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Bytes of the number that names an image, at its beginning.
const NONCE_BYTES: u64 = 8;
/// Part of the flash that its journal takes.
const JOURNAL_PART: u64 = 256;

/// Which content of flash a start believes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// That of a clean stop.
    Clean,
    /// That, and after a crash what the journal vouches for.
    Crash,
    /// None.
    Never,
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(name: &str) -> Result<Restart, String> {
        match name {
            "clean" => Ok(Restart::Clean),
            "crash" => Ok(Restart::Crash),
            "never" => Ok(Restart::Never),
            _ => Err(format!("'{name}': take clean, crash or never")),
        }
    }
}

/// The files that belong to a flash file.
#[derive(Clone, Debug)]
pub(crate) struct Companions {
    /// The image that a clean stop leaves.
    pub(crate) image: PathBuf,
    /// The journal.
    pub(crate) journal: PathBuf,
    /// Which number is whose tenant.
    pub(crate) numbers: PathBuf,
}

impl Companions {
    /// They lie beside the flash file; those of a block device in the state folder, if there is one.
    pub(crate) fn of(flash: &Path, state_dir: Option<&Path>) -> Option<Companions> {
        let is_device = std::fs::metadata(flash).is_ok_and(|found| found.file_type().is_block_device());
        let folder = if is_device { state_dir? } else { flash.parent()? };
        let name = flash.file_name()?;
        let with = |ending: &str| {
            let mut name = name.to_owned();
            name.push(ending);
            folder.join(name)
        };
        Some(Companions { image: with(".index"), journal: with(".journal"), numbers: with(".tenants") })
    }
}

/// How flash is opened.
pub(crate) struct Opening<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) companions: Option<&'a Companions>,
    pub(crate) restart: Restart,
    pub(crate) sync: SyncPolicy,
    pub(crate) journal_bytes: Option<u64>,
}

/// Makes the cache: with what a stop left, or empty. From here on the flash is in use.
pub(crate) fn begin(settings: &CacheSettings, opening: Option<&Opening<'_>>) -> Result<Cache> {
    match opening {
        Some(opening) => opening.begin(settings),
        None => Ok(Cache::new(settings.clone())?),
    }
}

impl Opening<'_> {
    fn begin(&self, settings: &CacheSettings) -> Result<Cache> {
        let numbers = self.companions.map(|companions| companions.numbers.as_path());
        let anew = || numbers.map(|_| Numbering { identity: nonce_of(settings), ..Numbering::default() });
        let numbering = numbers.and_then(|path| match read_numbers(path) {
            Ok(Some(numbering)) => Some(numbering),
            Ok(None) => anew(),
            Err(error) => {
                eprintln!("flashare: flash starts empty: {error:#}");
                anew()
            }
        });
        // where nothing of the flash is believed, nobody's number means anything any more
        let empty = CacheSettings { numbering: anew(), ..settings.clone() };
        let settings = &CacheSettings { numbering, ..settings.clone() };
        let found = read_superblocks(self.device);
        let (cache, keeps_journal) = match (self.restored(settings, found.image), found.journal) {
            (Some(cache), journal) => (cache, journal != 0),
            (None, 0) => (Cache::new(empty)?, false),
            (None, journal) => match self.recovered(settings, journal) {
                Some(cache) => (cache, true),
                None => (Cache::new(empty)?, false),
            },
        };
        let journal = match (self.restart, self.companions) {
            (Restart::Crash, Some(companions)) => self.journal_of(&cache, companions, keeps_journal)?,
            (Restart::Crash, None) => bail!("--restart crash: a block device needs --state-dir for its journal"),
            _ => 0,
        };
        cache.settle_tenants();
        if let Some(path) = numbers {
            keep_numbers(path, &cache.registry().numbering())?;
        }
        mark(&cache, self.device, 0, journal).context("writing to flash")?;
        if let Some(companions) = self.companions {
            let _ = std::fs::remove_file(&companions.image); // without the nonce it means nothing
            if journal == 0 {
                let _ = std::fs::remove_file(&companions.journal);
            }
        }
        Ok(cache)
    }

    /// What a clean stop left.
    fn restored(&self, settings: &CacheSettings, image: u64) -> Option<Cache> {
        let path = &self.companions?.image;
        if self.restart == Restart::Never || image == 0 {
            return None;
        }
        match restore(settings, path, image) {
            Ok(cache) => {
                let (objects, segments) = cache.figures().flash.map_or((0, 0), |flash| (flash.live, flash.to_recover));
                if cache.is_recovering() {
                    eprintln!(
                        "flashare: sizes have changed: {segments} segments of flash are looked through for what was there"
                    );
                } else {
                    eprintln!("flashare: {objects} objects are on flash from before the last stop");
                }
                Some(cache)
            }
            Err(error) => {
                eprintln!("flashare: the image of the last stop is no use: {}: {error:#}", path.display());
                None
            }
        }
    }

    /// What the journal vouches for, if it can be believed. The cache keeps that journal.
    fn recovered(&self, settings: &CacheSettings, journal: u64) -> Option<Cache> {
        let companions = self.companions.filter(|_| self.restart == Restart::Crash)?;
        let opened = self.open_journal(companions, journal);
        let recovered =
            opened.and_then(|file| Ok(Cache::recover(settings.clone(), self.device, file, self.sync, boot())?));
        match recovered {
            Ok(cache) => {
                let segments = cache.figures().flash.map_or(0, |flash| flash.to_recover);
                eprintln!("flashare: the last run was cut off: {segments} segments of flash are looked through");
                Some(cache)
            }
            Err(error) => {
                eprintln!("flashare: flash starts empty: {}: {error:#}", companions.journal.display());
                None
            }
        }
    }

    fn open_journal(&self, companions: &Companions, nonce: u64) -> Result<Box<dyn JournalFile>> {
        let file = JournalInFile::open(&companions.journal)?.context("there is no journal")?;
        ensure!(Journal::identity(&file)?.nonce == nonce, "it belongs to another flash file");
        Ok(Box::new(file))
    }

    /// Sees that the cache keeps a journal. Returns its nonce.
    fn journal_of(&self, cache: &Cache, companions: &Companions, goes_on: bool) -> Result<u64> {
        if let Some(journal) = cache.journal() {
            return Ok(journal.belongs_to().nonce); // it was recovered by it
        }
        if goes_on {
            let opened = JournalInFile::open(&companions.journal)?;
            let resumed = opened.map(|file| cache.resume_journal(Box::new(file), self.sync, boot()));
            if let (Some(Ok(())), Some(journal)) = (resumed, cache.journal()) {
                return Ok(journal.belongs_to().nonce);
            }
        }
        let path = &companions.journal;
        let flash = cache.figures().flash.context("there is no flash tier")?;
        let part = flash.segments as u64 * flash.segment_bytes as u64 / JOURNAL_PART;
        let bytes = self.journal_bytes.unwrap_or_else(|| part.clamp(1 << 20, 32 << 20));
        let nonce = nonce_of(cache.settings());
        let _ = std::fs::remove_file(path);
        JournalInFile::create(path, bytes.next_multiple_of(cache::PAGE_BYTES as u64))
            .and_then(|file| cache.begin_journal(self.device, Box::new(file), self.sync, boot(), nonce))
            .with_context(|| format!("the journal {}", path.display()))?;
        Ok(nonce)
    }
}

/// What a file of numbers says; None: there is none.
fn read_numbers(path: &Path) -> Result<Option<Numbering>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let kept: Numbers = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let released = kept.released.into_iter().map(|(prefix, version)| Released { prefix, version });
    let numbers = kept.numbers.into_iter().map(|(name, rule)| {
        let recognised = match rule {
            Rule::Rest => Recognition::Rest,
            Rule::Prefix(prefix) => Recognition::Prefix(prefix),
            Rule::Port(port) => Recognition::Port(port),
            Rule::User(user) => Recognition::User(user),
        };
        (name, recognised)
    });
    Ok(Some(Numbering { identity: kept.identity, numbers: numbers.collect(), released: released.collect() }))
}

/// Writes down which number is whose: whole, or as it was.
pub(crate) fn keep_numbers(path: &Path, numbering: &Numbering) -> Result<()> {
    let numbers = numbering.numbers.iter().map(|(name, recognised)| {
        let rule = match recognised.clone() {
            Recognition::Rest => Rule::Rest,
            Recognition::Prefix(prefix) => Rule::Prefix(prefix),
            Recognition::Port(port) => Rule::Port(port),
            Recognition::User(user) => Rule::User(user),
        };
        (name.clone(), rule)
    });
    let released = numbering.released.iter().map(|old| (old.prefix.clone(), old.version));
    let kept = Numbers { identity: numbering.identity, numbers: numbers.collect(), released: released.collect() };
    let keep = || -> Result<()> {
        let unfinished = path.with_extension("tenants-unfinished");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec_pretty(&kept)?)?;
        file.sync_all()?;
        Ok(std::fs::rename(&unfinished, path)?)
    };
    keep().with_context(|| path.display().to_string())
}

/// [`Numbering`] as it is kept.
#[derive(Serialize, Deserialize)]
struct Numbers {
    identity: u64,
    numbers: Vec<(String, Rule)>,
    released: Vec<(String, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rule {
    Rest,
    Prefix(String),
    Port(u16),
    User(String),
}

fn nonce_of(settings: &CacheSettings) -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    cache::mix(settings.seed ^ since.as_nanos() as u64 ^ u64::from(std::process::id()) << 32) | 1
}

/// Names this run of the machine; 0 where the system does not.
fn boot() -> u64 {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.iter().fold(0, |sum, byte| cache::mix(sum ^ u64::from(*byte)))
}

fn superblock(cache: &Cache, image: u64, journal: u64) -> Result<Superblock> {
    let flash = cache.figures().flash.context("there is no flash tier")?;
    let (segment_bytes, segments) = (flash.segment_bytes as u64, flash.segments as u32);
    Ok(Superblock { segment_bytes, segments, image, journal, ..Superblock::default() })
}

/// Writes the superblock of every device.
fn mark(cache: &Cache, device: &dyn Device, image: u64, journal: u64) -> Result<()> {
    let block = superblock(cache, image, journal)?;
    let firsts = device.first_pages();
    let parts = cache.flash_parts();
    for (number, at) in firsts.iter().enumerate().filter(|(number, _)| parts[*number] == PartState::In) {
        let block = Superblock { part: number as u16, parts: firsts.len() as u16, ..block };
        device.write(*at, &[block.page()])?;
    }
    device.sync()?;
    Ok(())
}

fn read_superblock(device: &dyn Device, at: u64) -> Option<Superblock> {
    let mut page = [Page::ZERO];
    device.read(at, &mut page).ok().and_then(|()| Superblock::read(&page[0]))
}

/// What the superblocks say, if they agree: one device of another tier, or one that was left out, and nothing is believed.
fn read_superblocks(device: &dyn Device) -> Superblock {
    let firsts = device.first_pages();
    let blocks: Vec<Superblock> = firsts.iter().filter_map(|at| read_superblock(device, *at)).collect();
    let Some(first) = blocks.first().copied() else { return Superblock::default() };
    let fits = |(number, block): (usize, &Superblock)| {
        *block == Superblock { part: number as u16, parts: firsts.len() as u16, ..first }
    };
    let agree = blocks.len() == firsts.len() && blocks.iter().enumerate().all(fits);
    if agree { first } else { Superblock::default() }
}

/// Whether a device takes a write and gives it back: its superblock, as it has to be while it is in use.
pub(crate) fn probe(cache: &Cache, device: &dyn Device, number: usize) -> Result<()> {
    let journal = cache.journal().filter(|journal| journal.works()).map_or(0, |journal| journal.belongs_to().nonce);
    let firsts = device.first_pages();
    let block = superblock(cache, 0, journal)?;
    let page = Superblock { part: number as u16, parts: firsts.len() as u16, ..block }.page();
    device.write(firsts[number], &[page])?;
    let mut back = [Page::ZERO];
    device.read(firsts[number], &mut back)?;
    ensure!(back[0].0 == page.0, "it gives back something else");
    Ok(())
}

/// Notes can no longer be made: takes the journal's name from the superblock, so that nobody believes it.
pub(crate) fn disown_journal(cache: &Cache, device: &dyn Device) {
    match mark(cache, device, 0, 0) {
        Ok(()) => eprintln!("flashare: the journal cannot be written: after a crash flash will start empty"),
        Err(error) => {
            eprintln!("flashare: neither journal nor flash can be written: remove the journal by hand: {error:#}");
        }
    }
}

/// The file of an image. A nonce, which names it, comes first.
struct ImageFile(File);

impl Image for ImageFile {
    fn read_at(&self, at: u64, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_at(bytes, NONCE_BYTES + at)
    }
}

fn restore(settings: &CacheSettings, path: &Path, nonce: u64) -> Result<Cache> {
    let file = File::open(path)?;
    let mut own = [0; NONCE_BYTES as usize];
    file.read_exact_at(&mut own, 0)?;
    ensure!(u64::from_le_bytes(own) == nonce, "it belongs to another flash file");
    Ok(Cache::restore(settings.clone(), Box::new(ImageFile(file)))?)
}

/// The size that segments of a flash file have, if its content may be believed.
pub(crate) fn segment_bytes_of(device: &dyn Device) -> Option<usize> {
    let found = read_superblock(device, 0)?;
    (found.image != 0 || found.journal != 0).then_some(found.segment_bytes as usize)
}

/// Leaves everything so that the next start can serve it; of what is in DRAM, as much as there is time for to be moved to flash (None: it is kept
/// elsewhere). Nobody else may use the cache any more.
pub(crate) fn end(cache: &Cache, device: &dyn Device, companions: &Companions, moving: Option<Duration>) -> Result<()> {
    if !cache.figures().flash.is_some_and(|flash| flash.enabled) {
        ensure!(cache.journal().is_some_and(cache::Journal::works), "the flash is out of use");
        eprintln!("flashare: the flash is out of use: the next start looks through what is on it, as after a crash");
        return Ok(());
    }
    let began = Instant::now();
    let is_over = |most| move || began.elapsed() > most;
    let mut background = cache.background();
    cache.finish_recovery(&mut background, device, is_over(moving.unwrap_or(STOP_MAX)));
    if let Some(most) = moving {
        let left = cache.leave(&mut background, device, is_over(most));
        if left.stayed > 0 {
            let Left { moved, stayed } = left;
            eprintln!(
                "flashare: {moved} objects of memory went to flash, for {stayed} more there was no time: see --stop-secs"
            );
        }
    }
    cache.flush_now(device);
    device.sync()?;
    let journal = cache.journal().filter(|journal| journal.works());
    if let Some(journal) = journal {
        journal.sync();
    }
    if cache.resumes_recovery() {
        eprintln!("flashare: the next start goes on to look through what was cut off");
        return Ok(());
    }
    let nonce = nonce_of(cache.settings());
    let image = &companions.image;
    let unfinished = image.with_extension("unfinished");
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&nonce.to_le_bytes())?;
    cache.save(&mut out)?;
    out.into_inner()?.sync_all()?;
    std::fs::rename(&unfinished, image)?;
    mark(cache, device, nonce, journal.map_or(0, |journal| journal.belongs_to().nonce))
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
