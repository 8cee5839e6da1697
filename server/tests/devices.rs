//! Flash devices that hang, come back, and come in pairs, behind a server with real sockets; under both drivers.

mod common;

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cache::{Device, FileDevice, Page};
use clap::Parser;
use common::Client;
use server::{Config, Flags, Running, start, start_on};

/// Longest time that a request may take while a device hangs: a read's bound or a segment's, and some for a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(9);

/// A file that answers nothing while it hangs.
struct Hanging {
    file: FileDevice,
    hangs: AtomicBool,
    /// It cannot be written.
    refuses: AtomicBool,
    /// Reading from it waits for ever, or until the other end is closed.
    nothing: UnixStream,
    _other_end: UnixStream,
}

impl Hanging {
    fn open(path: &Path) -> Arc<Hanging> {
        let file = FileDevice::open(path, 32 << 20, false).unwrap();
        let (nothing, other_end) = UnixStream::pair().unwrap();
        let [hangs, refuses] = [false, false].map(AtomicBool::new);
        Arc::new(Hanging { file, hangs, refuses, nothing, _other_end: other_end })
    }

    fn wait(&self) {
        while self.hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Device for Hanging {
    fn read(&self, at: u64, pages: &mut [Page]) -> io::Result<()> {
        self.wait();
        self.file.read(at, pages)
    }

    fn write(&self, at: u64, pages: &[Page]) -> io::Result<()> {
        self.wait();
        if self.refuses.load(Ordering::Relaxed) {
            return Err(io::Error::other("it cannot be written"));
        }
        self.file.write(at, pages)
    }

    fn descriptor(&self, at: u64) -> Option<(RawFd, u64)> {
        if self.hangs.load(Ordering::Relaxed) { Some((self.nothing.as_raw_fd(), 0)) } else { self.file.descriptor(at) }
    }

    fn bytes(&self) -> u64 {
        self.file.bytes()
    }
}

fn connect(running: &Running) -> Client {
    let stream = std::net::TcpStream::connect(("127.0.0.1", running.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    Client { stream }
}

fn stat(client: &mut Client, name: &str) -> u64 {
    client.send(b"stats flash\r\n");
    let stats = client.read_until("END\r\n");
    let row = stats.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")).map(str::to_owned));
    row.unwrap_or_else(|| panic!("no {name} in {stats}")).parse().unwrap()
}

fn value(n: usize) -> String {
    format!("{n:06}").repeat(100)
}

fn set(client: &mut Client, n: usize) {
    client.expect(&format!("set key{n} 0 0 600\r\n{}\r\n", value(n)), "STORED\r\n");
}

fn get(client: &mut Client, n: usize) -> bool {
    client.send(format!("get key{n}\r\n").as_bytes());
    let answer = client.read_until("END\r\n");
    assert!(answer == "END\r\n" || answer == format!("VALUE key{n} 0 600\r\n{}\r\nEND\r\n", value(n)), "{answer}");
    answer != "END\r\n"
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn a_device_that_hangs(driver: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flash");
    let device = Hanging::open(&path);
    let flash = format!("{}:32MiB", path.display());
    let flags = ["flashare", "-p", "-1", "-t", "2", "-m", "4", "--admission", "all", "--flash", &flash, "--io", driver];
    let config = Config::new(&Flags::parse_from(flags)).unwrap();
    let running = start_on(config, Some(Arc::clone(&device) as Arc<dyn Device>)).unwrap();
    let mut client = connect(&running);
    const KEYS: usize = 12_000;
    (0..KEYS).for_each(|n| set(&mut client, n));
    assert!((0..KEYS).filter(|n| get(&mut client, *n)).count() > KEYS / 2);
    assert!(stat(&mut client, "get_flash_hits") > 1000);

    device.hangs.store(true, Ordering::Relaxed);
    let mut clients: Vec<Client> = (0..12).map(|_| connect(&running)).collect();
    let begins = Instant::now();
    // every client asks for much that is on flash only; each answer comes in time, until the device is out and all are quick
    std::thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || {
                for n in (number..KEYS).step_by(977) {
                    let asked = Instant::now();
                    get(client, n);
                    assert!(asked.elapsed() < ANSWER_MAX, "a get took {:?}", asked.elapsed());
                }
            });
        }
        let mut storing = connect(&running);
        scope.spawn(move || {
            while begins.elapsed() < Duration::from_secs(8) {
                let asked = Instant::now();
                (KEYS..KEYS + 500).for_each(|n| set(&mut storing, n));
                assert!(asked.elapsed() < ANSWER_MAX, "500 sets took {:?}", asked.elapsed());
            }
        });
    });
    until("the device's being taken out", || stat(&mut client, "devices_out") == 1);
    let asked = Instant::now();
    (0..KEYS).for_each(|n| _ = get(&mut client, n));
    assert!(asked.elapsed() < ANSWER_MAX, "what serves from DRAM only is not held up");

    device.hangs.store(false, Ordering::Relaxed);
    let _ = (&device.nothing).write(b"x");
    until("its coming back", || stat(&mut client, "devices_out") == 0);
    let (hits, found) = (stat(&mut client, "get_flash_hits"), (0..KEYS).filter(|n| get(&mut client, *n)).count());
    assert!(stat(&mut client, "get_flash_hits") - hits > 1000, "it has what it had: {found} keys found");
    let written = stat(&mut client, "segments_written");
    (0..KEYS).for_each(|n| set(&mut client, n + 100_000));
    until("a new segment", || stat(&mut client, "segments_written") > written);
    assert!((0..KEYS).all(|n| get(&mut client, n + 100_000) || n < KEYS));
    running.stop();
}

#[test]
fn a_device_that_hangs_holds_nobody_up_and_comes_back_tokio() {
    a_device_that_hangs("tokio");
}

#[test]
fn a_device_that_hangs_holds_nobody_up_and_comes_back_uring() {
    a_device_that_hangs("auto");
}

#[test]
fn a_stop_while_the_device_is_out_of_use_leaves_what_is_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flash");
    let flash = format!("{}:32MiB", path.display());
    let begin = |device: &Arc<Hanging>| {
        let admitted = ["--admission", "all", "--flash-write-budget", "none", "--restart", "crash"];
        let flags = ["flashare", "-p", "-1", "-t", "2", "-m", "4", "--flash", &flash, "--io", "tokio"];
        let config = Config::new(&Flags::parse_from(flags.iter().chain(&admitted))).unwrap();
        start_on(config, Some(Arc::clone(device) as Arc<dyn Device>)).unwrap()
    };
    let device = Hanging::open(&path);
    let running = begin(&device);
    let mut client = connect(&running);
    const KEYS: usize = 12_000;
    (0..KEYS).for_each(|n| set(&mut client, n));
    device.refuses.store(true, Ordering::Relaxed);
    let mut more = KEYS..;
    until("the device's being taken out", || {
        set(&mut client, more.next().unwrap());
        stat(&mut client, "devices_out") == 1
    });
    for n in 0..100 {
        client.send(format!("delete key{n}\r\n").as_bytes());
        client.read_until("\r\n");
    }
    running.stop();
    drop(client);
    drop(device);

    let device = Hanging::open(&path);
    let running = begin(&device);
    let mut client = connect(&running);
    until("its being looked through", || stat(&mut client, "recovering_segments") == 0);
    let found = (0..KEYS).filter(|n| get(&mut client, *n)).count();
    assert!(found > KEYS / 3, "{found} of {KEYS}");
    assert!((0..100).all(|n| !get(&mut client, n)), "they were deleted while the device was out");
    running.stop();
}

#[test]
fn two_files_are_one_tier_and_outlive_a_stop_together() {
    const KEYS: usize = 40_000;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("{}:12MiB", folder.path().join(name).display());
    let begin = |first: &str, second: &str| {
        let (first, second) = (at(first), at(second));
        let flags =
            ["flashare", "-p", "-1", "-t", "2", "-m", "4", "--admission", "all", "--flash", &first, "--flash", &second];
        start(Config::new(&Flags::parse_from(flags)).unwrap()).unwrap()
    };
    let running = begin("one", "two");
    let mut client = connect(&running);
    (0..KEYS).for_each(|n| set(&mut client, n));
    let before = (0..KEYS).filter(|n| get(&mut client, *n)).count();
    assert_eq!(stat(&mut client, "devices"), 2);
    assert!(before > 27_000, "more than one of them can hold: {before}");
    running.stop();
    let running = begin("one", "two");
    let mut client = connect(&running);
    let after = (0..KEYS).filter(|n| get(&mut client, *n)).count();
    assert!(after * 100 > before * 90, "of {before} objects {after} came back");
    running.stop();
    // the wrong way round they are no tier
    let running = begin("two", "one");
    let mut client = connect(&running);
    assert_eq!((0..KEYS).filter(|n| get(&mut client, *n)).count(), 0);
    running.stop();
}

#[test]
fn what_is_not_this_versions_flash_is_overwritten_only_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flash");
    let flash = format!("{}:16MiB", path.display());
    let begin = |more: &[&str]| {
        let flags = ["flashare", "-p", "-1", "-m", "4", "--flash", &flash];
        start(Config::new(&Flags::parse_from(flags.iter().chain(more))).unwrap())
    };
    let mut other_version = b"flashare flash 1".to_vec();
    other_version.extend_from_slice(&1u32.to_le_bytes());
    other_version.resize(8192, 7);
    for (content, complaint) in [(b"my only diary, ".repeat(1000), "not flashare's"), (other_version, "format 1")] {
        std::fs::write(&path, &content).unwrap();
        let refused = format!("{:#}", begin(&[]).err().expect("it is refused"));
        assert!(refused.contains(complaint) && refused.contains("--flash-format"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), content, "it is as it was");
        begin(&["--flash-format"]).unwrap().stop();
        begin(&[]).unwrap().stop();
    }
}

#[test]
fn a_write_rate_holds_and_what_is_beyond_is_not_admitted() {
    let folder = tempfile::tempdir().unwrap();
    let flash = format!("{}:64MiB", folder.path().join("flash").display());
    let flags =
        ["flashare", "-p", "-1", "-m", "4", "--admission", "all", "--flash", &flash, "--flash-write-rate", "1MiB"];
    let running = start(Config::new(&Flags::parse_from(flags)).unwrap()).unwrap();
    let mut client = connect(&running);
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < Duration::from_millis(3500) {
        set(&mut client, n);
        n += 1;
    }
    let (written, most) = (stat(&mut client, "flash_bytes_written"), (began.elapsed().as_secs() + 2) << 20);
    assert!(written > 0 && written <= most, "{written} bytes in {:?}", began.elapsed());
    running.stop();
}
