//! INV-MEMORY over real sockets. Alone in its binary: it measures the whole process.

mod common;

use std::io::Write;

use common::{Client, Server};

/// VmRSS is what is resident now, VmHWM the most that ever was.
fn status_bytes(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Clients that send large values slowly and never finish, ask for much and never read, or fill the cache: memory stays within
/// `-m` plus 5 % plus 32 MiB over what the test process itself had.
#[test]
fn memory_stays_bounded_whatever_clients_do() {
    let before = status_bytes("VmRSS");
    let server = Server::start(64, &["-m", "32", "-c", "400"]);
    let mut writer = server.client();
    let value = "v".repeat(900_000);
    for n in 0..200 {
        writer.expect(&format!("set big{n} 0 0 900000\r\n{value}\r\n"), "STORED\r\n");
    }
    // one that sends far more than is served at a time
    let mut hasty = server.client();
    let many: Vec<u8> = (0..100)
        .flat_map(|n| format!("set hasty{n} 0 0 2000 noreply\r\n{}\r\n", "h".repeat(2000)).into_bytes())
        .collect();
    for _ in 0..1000 {
        hasty.send(&many);
    }
    hasty.expect("mn\r\n", "MN\r\n");
    let bound = (32 << 20) * 105 / 100 + (32 << 20);
    let peak = status_bytes("VmHWM") - before;
    assert!(peak <= bound, "{} MiB used, {} MiB allowed", peak >> 20, bound >> 20);
    let mut slow: Vec<Client> = (0..100).map(|_| server.client()).collect();
    for client in &mut slow {
        let _ = client.stream.set_write_timeout(Some(std::time::Duration::from_millis(20)));
        let _ = client.stream.write_all(b"set slow 0 0 1000000\r\n");
        let _ = client.stream.write_all(&vec![b'x'; 900_000]);
    }
    let mut deaf: Vec<Client> = (0..100).map(|_| server.client()).collect();
    for client in &mut deaf {
        let _ = client.stream.set_write_timeout(Some(std::time::Duration::from_millis(20)));
        let _ = client.stream.write_all("get big199 big198 big197 big196 big195\r\n".repeat(20).as_bytes());
    }
    for n in 0..20_000 {
        let small = "s".repeat(100 + n % 400);
        writer.expect(&format!("set small{n} 0 0 {}\r\n{small}\r\n", small.len()), "STORED\r\n");
    }
    let used = status_bytes("VmRSS").saturating_sub(before);
    assert!(used <= bound, "{} MiB used, {} MiB allowed", used >> 20, bound >> 20);
    drop(slow);
    drop(deaf);
    writer.expect("set after 0 0 1\r\nx\r\nget after\r\n", "STORED\r\nVALUE after 0 1\r\nx\r\nEND\r\n");
}
