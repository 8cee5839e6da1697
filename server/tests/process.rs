//! The binary as a service manager sees it.

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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
