//! Feeds arbitrary bytes to sessions, in arbitrary fragments, over a small cache with flash; asserts what must hold whatever
//! they are. Used by the corpus test and by the fuzz target.

use std::sync::Arc;

use cache::{Cache, Device, MemoryDevice, Page};
use clap::Parser;
use server::{Arrival, Config, Connection, Dialect, Driver, Flags, Server, Wanted};

const FLASH_BYTES: u64 = 16 << 20;
/// Output that waits at most: what is begun below the limit may add one large value, or a table of stats.
const OUTPUT_BYTES_MAX: usize = (64 << 10) + (1 << 20) + (64 << 10);
/// Of the byte that says how a session is fed.
pub(crate) const SERVED_IN_PLACE: u8 = 0x80;
/// Turns without progress that mean that a session is stuck.
const TURNS_MAX: usize = 100_000;

/// A cache and a server that sessions are opened on.
pub(crate) struct Arena {
    cache: Arc<Cache>,
    server: Arc<Server>,
    device: MemoryDevice,
    background: cache::Background,
    worker: cache::Worker,
}

impl Arena {
    /// A fresh one.
    pub(crate) fn new() -> Arena {
        let flags = Flags::parse_from(["flashare", "-m", "8", "-A", "--no-flash", "--admission", "all", "-I", "1m"]);
        let config = Config::new(&flags).unwrap();
        let mut settings = config.cache.clone();
        settings.flash = Some(server::flash_settings(FLASH_BYTES, settings.memory_bytes, None));
        let cache = Arc::new(Cache::new(settings).unwrap());
        cache.advance(1_000_000);
        let (background, worker) = (cache.background(), cache.worker());
        let server = Arc::new(Server::new(config, Driver::Tokio).unwrap());
        Arena { cache, server, device: MemoryDevice::new(FLASH_BYTES), background, worker }
    }

    fn open(&self, dialect: Dialect) -> Connection {
        Connection::new(Arc::clone(&self.server), Arrival { tenant: None, counted: false, dialect, peer: None })
    }

    /// One session's life. The first byte chooses the protocol; the second, how the rest is cut into fragments, and whether those are served where
    /// they lie. Returns what was answered.
    pub(crate) fn feed(&mut self, data: &[u8]) -> Vec<u8> {
        let [how, cut, bytes @ ..] = data else { return Vec::new() };
        let (in_place, cut) = (cut & SERVED_IN_PLACE != 0, cut & !SERVED_IN_PLACE);
        let mut answered = Vec::new();
        let dialect = [Dialect::Auto, Dialect::Ascii, Dialect::Binary][usize::from(*how) % 3];
        let mut connection = self.open(dialect);
        let mut state = u64::from(cut).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut rest = bytes;
        while !rest.is_empty() && !connection.is_closing() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let wanted = match cut % 4 {
                0 => rest.len(),
                1 => 1,
                _ => 1 + (state % 97) as usize,
            };
            let (fragment, later) = rest.split_at(wanted.min(rest.len()));
            if in_place {
                connection.serve_received(&self.cache, &mut self.worker, fragment);
            } else {
                connection.receive(fragment);
            }
            rest = later;
            answered.extend(self.settle(&mut connection));
        }
        connection.end(&self.cache);
        assert_eq!(self.cache.received_bytes(), 0, "a session that has ended holds memory");
        self.expect_service();
        answered
    }

    /// Serves until nothing more can be done without further bytes. Returns what was answered.
    fn settle(&mut self, connection: &mut Connection) -> Vec<u8> {
        let mut answered = Vec::new();
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "a session does not come to rest");
            connection.serve(&self.cache, &mut self.worker);
            assert!(connection.unsent() <= OUTPUT_BYTES_MAX, "{} bytes of output wait", connection.unsent());
            if connection.is_watching() {
                connection.pump();
            }
            let output = connection.output();
            let sent = output.len();
            answered.extend_from_slice(output);
            connection.note_sent(sent);
            let wanted = connection.take_wanted();
            let reads = !wanted.is_empty();
            for Wanted { slot, read } in wanted {
                let mut pages = vec![Page::ZERO; read.pages()];
                self.device.read(read.at(), &mut pages).unwrap();
                connection.complete(&self.cache, &mut self.worker, slot, read, Some(&pages));
            }
            while self.cache.wants_cleaning() || connection.is_stalled() {
                if !self.cache.step(&mut self.background, Some(&self.device)) {
                    break;
                }
            }
            if sent == 0 && !reads && !connection.can_go_on() && !connection.is_stalled() {
                return answered;
            }
        }
        answered
    }

    /// A valid command on a new connection works, whatever came before.
    fn expect_service(&mut self) {
        let mut connection = self.open(Dialect::Auto);
        connection.receive(b"set after 0 0 2\r\nok\r\nget after\r\n");
        let answered = self.settle(&mut connection);
        assert_eq!(String::from_utf8_lossy(&answered), "STORED\r\nVALUE after 0 2\r\nok\r\nEND\r\n");
        connection.end(&self.cache);
    }
}
