//! A server of the test's own, on a port that the system picks, and a client that speaks bytes.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use clap::Parser;
use server::{Config, Flags, Running, start};

pub struct Server {
    pub running: Option<Running>,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts with these flags; a flash file of the test's own if `flash_mib` is not 0.
    pub fn start(flash_mib: u64, flags: &[&str]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let flash = format!("{}:{flash_mib}MiB", folder.path().join("test.flash").display());
        // CI runs these tests once with each driver
        let driver = std::env::var("FLASHARE_IO").unwrap_or_else(|_| "auto".to_owned());
        let mut all = vec!["flashare", "-p", "-1", "-t", "2", "--io", &driver];
        if flash_mib == 0 {
            all.push("--no-flash");
        } else {
            all.extend(["--flash", &flash]);
        }
        all.extend(flags);
        let running = start(Config::new(&Flags::parse_from(all)).unwrap()).unwrap();
        Server { port: running.port, running: Some(running), _folder: folder }
    }

    pub fn client(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends and expects exactly this answer.
    pub fn expect(&mut self, request: &str, answer: &str) {
        self.send(request.as_bytes());
        self.expect_answer(answer.as_bytes());
    }

    pub fn expect_answer(&mut self, answer: &[u8]) {
        let mut got = vec![0; answer.len()];
        if let Err(error) = self.stream.read_exact(&mut got) {
            panic!("waiting for {:?}: {error}", String::from_utf8_lossy(answer));
        }
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(answer));
    }

    /// Reads until the text ends so.
    pub fn read_until(&mut self, end: &str) -> String {
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        while !got.ends_with(end.as_bytes()) {
            let read = self.stream.read(&mut buffer).unwrap();
            assert!(read > 0, "closed before {end:?}: {}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8(got).unwrap()
    }

    pub fn stats(&mut self, arguments: &str) -> std::collections::HashMap<String, String> {
        self.send(format!("stats {arguments}\r\n").as_bytes());
        let text = self.read_until("END\r\n");
        let pairs = text.lines().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            // what the client had sent and the server did not read makes a reset of the close
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
