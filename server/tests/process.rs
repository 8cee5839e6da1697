//! The binary as a service manager sees it.

mod common;

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ends the process if a test fails before it has.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn flashare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashare"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn port_in(file: &Path) -> u16 {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().find_map(|line| line.strip_prefix("TCP INET: ")).unwrap().parse().unwrap()
}

#[test]
fn a_service_manager_is_told_when_it_serves_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, ports) = (folder.path().join("notify"), folder.path().join("ports"));
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let news = || {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut command = flashare(&["--port=-1", "-m", "16", "--no-flash"]);
    command.env("NOTIFY_SOCKET", &socket).env("MEMCACHED_PORT_FILENAME", &ports);
    let mut process = Process(command.spawn().unwrap());
    let first = news();
    assert!(first.lines().any(|line| line == "READY=1"), "{first}");
    assert!(first.contains("STATUS=serves on "), "{first}");
    TcpStream::connect(("127.0.0.1", port_in(&ports))).expect("it serves by the time that it says so");
    kill(Pid::from_raw(process.0.id() as i32), Signal::SIGTERM).unwrap();
    let last = news();
    assert!(last.lines().any(|line| line == "STOPPING=1"), "{last}");
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
}

/// The unit does not try again after code 2 (`RestartPreventExitStatus=`), and does after 1: a port may come free.
#[test]
fn flags_that_mean_nothing_end_with_another_code_than_what_may_pass() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let code = |arguments: &[&str]| flashare(arguments).status().unwrap().code();
    assert_eq!(code(&["--nonsense"]), Some(2));
    assert_eq!(code(&["-l", "127.0.0.1", "-p", &port, "-m", "16", "--no-flash"]), Some(1));
}

/// The kernel takes the rings of a process apart a while after its end, and listeners are held until then.
#[test]
fn who_was_killed_can_be_started_again_at_once() {
    let ports = tempfile::tempdir().unwrap();
    let ports = ports.path().join("ports");
    let mut port = "-1".to_owned();
    for _ in 0..10 {
        let mut command = flashare(&["-p", &port, "-m", "16", "--no-flash"]);
        let mut process = Process(command.env("MEMCACHED_PORT_FILENAME", &ports).spawn().unwrap());
        while !ports.exists() {
            assert_eq!(process.0.try_wait().unwrap(), None, "it could not start");
            std::thread::sleep(Duration::from_millis(1));
        }
        port = port_in(&ports).to_string();
        let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", port_in(&ports))).unwrap()).collect();
        std::fs::remove_file(&ports).unwrap();
        drop(process);
        drop(clients);
    }
}

/// As a container is paused, or a machine moved: what flash was asked meanwhile has not failed.
#[test]
fn a_process_that_stood_still_goes_on_with_its_flash() {
    const KEYS: usize = 20_000;
    const READERS: usize = 16;
    let folder = tempfile::tempdir().unwrap();
    let (flash, ports) = (format!("{}:64MiB", folder.path().join("flash").display()), folder.path().join("ports"));
    let driver = std::env::var("FLASHARE_IO").unwrap_or_else(|_| "auto".to_owned());
    let admitted = ["--admission", "all", "--flash-write-budget", "none"];
    let mut command = flashare(&["--port=-1", "-m", "16", "--flash", &flash, "--io", &driver]);
    command.args(admitted).env("MEMCACHED_PORT_FILENAME", &ports);
    let process = Process(command.spawn().unwrap());
    let pid = Pid::from_raw(process.0.id() as i32);
    while !ports.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let client = || {
        let stream = TcpStream::connect(("127.0.0.1", port_in(&ports))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Client { stream }
    };
    let mut storing = client();
    let value = "v".repeat(2_000);
    for key in 0..KEYS {
        storing.expect(&format!("set key{key} 0 0 2000\r\n{value}\r\n"), "STORED\r\n");
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (mut reading, ended) = (client(), &ended);
            scope.spawn(move || {
                let mut key = reader;
                while !ended.load(Ordering::Relaxed) {
                    let asked = (0..50).map(|_| {
                        key = (key + 7_919) % KEYS;
                        format!("mg key{key} s\r\n")
                    });
                    reading.send((asked.collect::<String>() + "mn\r\n").as_bytes());
                    reading.read_until("MN\r\n");
                }
            });
        }
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(400));
            kill(pid, Signal::SIGSTOP).unwrap();
            std::thread::sleep(Duration::from_millis(2_500));
            kill(pid, Signal::SIGCONT).unwrap();
        }
        std::thread::sleep(Duration::from_millis(400));
        ended.store(true, Ordering::Relaxed);
    });
    let flash = storing.stats("flash");
    assert!(flash["get_flash_hits"].parse::<u64>().unwrap() > 1_000, "flash was asked");
    assert_eq!((flash["read_errors"].as_str(), flash["devices_out"].as_str()), ("0", "0"));
}
