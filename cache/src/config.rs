//! What a cache is made with.

use flash_store::{EntryLayout, PAGE_BYTES, SEGMENT_BYTES_MIN, segments_of};
use predictor::Admission;
use tenants::{Arbiter, Numbering, TenantSpec, WriteBudget};

/// Smallest memory that works.
pub const MEMORY_BYTES_MIN: usize = 2 << 20;

/// Seconds after which memory that nobody used is idle (Memshare: 5 hours).
pub const IDLE_SECS: u32 = 5 * 60 * 60;

/// Segments that a flash tier has at least.
pub(crate) const SEGMENTS_MIN: u32 = 4;
/// Part of the memory that a buffer of one segment may take.
const BUFFER_PART: usize = 32;

/// Settings of the flash tier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlashSettings {
    /// Bytes of flash to use.
    pub bytes: u64,
    /// Bytes of a segment; None for the default of this size.
    pub segment_bytes: Option<usize>,
    /// Mean object size that the index is made for.
    pub object_bytes: usize,
    /// Share of the records on flash that may be live, in percent; beyond it the clock makes ghosts.
    pub live_percent: usize,
}

impl FlashSettings {
    /// Defaults for so much flash.
    pub fn for_bytes(bytes: u64) -> FlashSettings {
        FlashSettings { bytes, segment_bytes: None, object_bytes: 512, live_percent: 70 }
    }
}

/// Settings of a cache.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// Memory for everything that grows with the content, in bytes (`-m`).
    pub memory_bytes: usize,
    /// Largest object: key, value and header (`-I`).
    pub item_bytes_max: usize,
    /// The flash tier, if there is one.
    pub flash: Option<FlashSettings>,
    /// Bytes of each of the devices that the flash lies on; empty if it is one.
    pub flash_devices: Vec<u64>,
    /// Bytes a second that may be written to flash; 0 for no limit.
    pub flash_write_rate: u64,
    /// What may be written to flash in all: where more deserves it, the best of it is.
    pub flash_write_budget: WriteBudget,
    /// Bytes a second that may be read from flash to recycle and to recover; 0 for no limit.
    pub flash_read_rate: u64,
    /// Tenants besides `default`.
    pub tenants: Vec<TenantSpec>,
    /// Which number was whose in the process before, where flash outlives it.
    pub numbering: Option<Numbering>,
    /// Who moves memory between tenants.
    pub arbiter: Arbiter,
    /// Which rule admits to flash.
    pub admission: Admission,
    /// Score that a model's verdict must exceed. None: whatever a write budget has room for, and 0 where no budget holds.
    pub threshold: Option<f32>,
    /// Flashy is what is read more than this often within the horizon.
    pub flashy_above_reads: u32,
    /// Whether objects are evicted when memory runs out (`-M` turns it off).
    pub evict: bool,
    /// A cleaner pass ranks all objects, not those of a few segments: slow, and what the usual passes are measured against.
    pub exact_order: bool,
    /// Memory that was not used for so many seconds is idle, and its tenant's reservation is taxed for it; 0 for no tax.
    pub idle_secs: u32,
    /// Seeds hashes and dice.
    pub seed: u64,
}

impl CacheSettings {
    /// Bytes of a segment of the flash tier; 0 without one.
    pub fn segment_bytes(&self) -> usize {
        let by_default =
            |flash: &FlashSettings| flash_store::segment_bytes_for(flash.bytes, self.memory_bytes / BUFFER_PART);
        self.flash.map_or(0, |flash| flash.segment_bytes.unwrap_or_else(|| by_default(&flash)))
    }

    /// Whether segments of so many bytes would do: a buffer of one takes no more of the memory than by default, and entries can number them.
    pub fn takes_segments_of(&self, bytes: usize) -> bool {
        let Some(flash) = self.flash.filter(|_| bytes >= PAGE_BYTES && bytes.is_multiple_of(PAGE_BYTES)) else {
            return false;
        };
        let segments = segments_of(flash.bytes, bytes);
        bytes <= (self.memory_bytes / BUFFER_PART).max(SEGMENT_BYTES_MIN)
            && segments >= SEGMENTS_MIN
            && EntryLayout::new(segments, bytes / 2).is_some()
    }

    /// Defaults for so much memory: one tenant, no flash.
    pub fn for_memory(memory_bytes: usize) -> CacheSettings {
        CacheSettings {
            memory_bytes,
            item_bytes_max: 1 << 20,
            flash: None,
            flash_devices: Vec::new(),
            flash_write_rate: 0,
            flash_write_budget: WriteBudget::Unlimited,
            flash_read_rate: 0,
            tenants: Vec::new(),
            numbering: None,
            arbiter: Arbiter::default(),
            admission: Admission::default(),
            threshold: None,
            flashy_above_reads: 0,
            evict: true,
            exact_order: false,
            idle_secs: IDLE_SECS,
            seed: 0x5eed,
        }
    }
}

/// Why there can be no such cache.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Too little memory.
    #[error("{0} bytes of memory are too few: -m takes {MEMORY_BYTES_MIN} bytes (2 MiB) or more")]
    MemoryTooSmall(usize),
    /// The flash tier is too small for its segments.
    #[error("{0} bytes of flash are too few: a flash tier takes {1} bytes or more")]
    FlashTooSmall(u64, u64),
    /// The index cannot number that many segments.
    #[error("segments of {0} bytes are too small for {1} bytes of flash: raise --flash-segment")]
    SegmentsTooMany(usize, u64),
    /// What the flash tier needs in DRAM leaves too little for objects.
    #[error(
        "an index for {0} bytes of flash takes {1} bytes of DRAM, more than a third of -m: raise -m, lower the flash size, or state a larger mean object with --flash-object-size"
    )]
    FlashIndexTooLarge(u64, usize),
    /// What else needs memory leaves too little for objects.
    #[error(
        "of {0} bytes of memory {1} are left for objects: raise -m, or lower the flash size or --flash-segment (buffers of two segments count)"
    )]
    TooLittleForObjects(usize, usize),
    /// Tenants contradict each other.
    #[error(transparent)]
    Tenants(#[from] tenants::RegistryError),
    /// The system refused the memory.
    #[error("memory for the cache: {0}")]
    Memory(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_taken_where_memory_and_entries_allow() {
        let mut settings = CacheSettings::for_memory(64 << 20);
        assert!(!settings.takes_segments_of(1 << 20), "there is no flash");
        settings.flash = Some(FlashSettings::for_bytes(1 << 30));
        let taken =
            [64 << 10, 512 << 10, 2 << 20, 4 << 20, (1 << 20) + 1, 0].map(|bytes| settings.takes_segments_of(bytes));
        assert_eq!(taken, [false, true, true, false, false, false]);
        assert!(settings.takes_segments_of(settings.segment_bytes()), "the default is among them");
        settings.flash = Some(FlashSettings::for_bytes(4 << 20));
        assert!(!settings.takes_segments_of(2 << 20), "two segments are no tier");
    }
}
