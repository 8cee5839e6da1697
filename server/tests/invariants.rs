//! What must always hold, over real sockets: replies in order while flash answers late, memory bounded whatever clients do,
//! hostile bytes harmless, tenants apart.

mod common;

use std::io::{Read, Write};

use common::{Client, Server};

/// Stores objects until flash holds some, with every key read a few times so that they are admitted.
fn fill(client: &mut Client, keys: usize, size: usize) {
    for n in 0..keys {
        let value = format!("{n:06}").repeat(size / 6);
        client.expect(&format!("set key{n} 0 0 {}\r\n{value}\r\n", value.len()), "STORED\r\n");
        client.expect(&format!("get key{n}\r\n"), &format!("VALUE key{n} 0 {}\r\n{value}\r\nEND\r\n", value.len()));
    }
}

#[test]
fn replies_keep_request_order_when_flash_answers_late() {
    let server = Server::start(32, &["-m", "4", "--admission", "all"]);
    let mut client = server.client();
    fill(&mut client, 12_000, 1200);
    assert!(client.stats("flash")["objects"].parse::<u64>().unwrap() > 1000);
    // a pipeline that mixes flash hits, DRAM hits, misses and stores
    let mut requests = String::new();
    for n in (0..12_000).step_by(7) {
        requests += &format!("get key{n}\r\nset marker 0 0 6\r\n{n:06}\r\nget marker nothing key{}\r\n", n + 1);
    }
    let mut sender = client.stream.try_clone().unwrap();
    let thread = std::thread::spawn(move || sender.write_all(requests.as_bytes()).unwrap());
    let mut flash_or_dram = 0;
    for n in (0..12_000).step_by(7) {
        let first = client.read_until_line();
        if first.starts_with("VALUE") {
            assert!(first.starts_with(&format!("VALUE key{n} 0 ")), "{first}");
            assert!(client.read_until_line().starts_with(&format!("{n:06}")));
            assert_eq!(client.read_until_line(), "END");
            flash_or_dram += 1;
        } else {
            assert_eq!(first, "END");
        }
        assert_eq!(client.read_until_line(), "STORED");
        assert_eq!(client.read_until_line(), "VALUE marker 0 6");
        assert_eq!(client.read_until_line(), format!("{n:06}"));
        let next = client.read_until_line();
        if next != "END" {
            assert!(next.starts_with(&format!("VALUE key{} 0 ", n + 1)), "{next}");
            assert!(client.read_until_line().starts_with(&format!("{:06}", n + 1)));
            assert_eq!(client.read_until_line(), "END");
        }
    }
    thread.join().unwrap();
    assert!(flash_or_dram > 300, "{flash_or_dram}");
    assert!(client.stats("flash")["get_flash_hits"].parse::<u64>().unwrap() > 100);
}

/// Large values are sent from where they lie in DRAM, while others overwrite them and the cleaner moves them.
#[test]
fn large_values_are_whole_while_they_are_overwritten() {
    const KEYS: usize = 24;
    let server = Server::start(0, &["-m", "32"]);
    let value = |key: usize, version: usize| -> Vec<u8> {
        let text = format!("{key:04}{version:08}").into_bytes();
        let len = [17_000, 40_000, 150_000, 400_000][key % 4] / text.len() * text.len();
        text.iter().copied().cycle().take(len).collect()
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let hits: usize = std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            let mut client = server.client();
            for version in 0..1_500 {
                let key = version * 7 % KEYS;
                let value = value(key, version);
                client.send(format!("set key{key} 0 0 {}\r\n", value.len()).as_bytes());
                client.send(&[value.as_slice(), b"\r\n"].concat());
                assert_eq!(client.read_until_line(), "STORED");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let readers: Vec<_> = (0..3)
            .map(|me| {
                let (server, stop) = (&server, &stop);
                threads.spawn(move || {
                    let (mut client, mut hits) = (server.client(), 0);
                    for round in 0.. {
                        if stop.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                        let keys: Vec<usize> = (0..6).map(|n| (round * 5 + n * (me + 1)) % KEYS).collect();
                        let verb = ["get", "gets"][round % 2];
                        let names = keys.iter().map(|key| format!(" key{key}")).collect::<String>();
                        client.send(format!("{verb}{names}\r\nmg key{} v\r\n", keys[0]).as_bytes());
                        if round % 16 == 0 {
                            std::thread::sleep(std::time::Duration::from_millis(2)); // a reader that is slow to take it
                        }
                        hits += read_large(&mut client);
                    }
                    hits
                })
            })
            .collect();
        writer.join().unwrap();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(hits > 300, "{hits}");
}

/// Reads the answers to a multiget and an mg; every value says in each of its parts whose it is, and of which version.
fn read_large(client: &mut Client) -> usize {
    let (mut hits, mut ends) = (0, 0);
    while ends < 2 {
        let line = client.read_until_line();
        let words: Vec<&str> = line.split(' ').collect();
        let len: usize = match words[..] {
            ["VALUE", _, _, len, ..] | ["VA", len] => len.parse().unwrap(),
            ["END" | "EN"] => {
                ends += 1;
                continue;
            }
            _ => panic!("{line}"),
        };
        ends += usize::from(words[0] == "VA");
        let mut value = vec![0; len + 2];
        client.stream.read_exact(&mut value).unwrap();
        let (value, end) = value.split_at(len);
        assert!(end == b"\r\n" && value.chunks(12).all(|part| part == &value[..12]), "{line}");
        if words[0] == "VALUE" {
            let key: usize = words[1].strip_prefix("key").unwrap().parse().unwrap();
            assert_eq!(value[..4], *format!("{key:04}").as_bytes(), "{line}");
        }
        hits += 1;
    }
    hits
}

impl Client {
    fn read_until_line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            self.stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).unwrap()
    }
}

#[test]
fn changes_of_what_lies_on_flash_see_it() {
    let server = Server::start(32, &["-m", "4", "--admission", "all"]);
    let mut client = server.client();
    fill(&mut client, 9_000, 1200);
    let mut appended = 0;
    for n in 0..9_000 {
        let value = format!("{n:06}").repeat(200);
        client.send(format!("append key{n} 0 0 1\r\n!\r\n").as_bytes());
        if client.read_until_line() == "STORED" {
            client.expect(&format!("get key{n}\r\n"), &format!("VALUE key{n} 0 1201\r\n{value}!\r\nEND\r\n"));
            appended += 1;
        }
    }
    assert!(appended > 3_000, "{appended}");
    assert_eq!(client.stats("flash")["write_errors"], "0");
}

#[test]
fn hostile_bytes_hurt_their_own_connection_only() {
    let server = Server::start(0, &["-m", "8"]);
    let mut state = 7u64;
    for round in 0..60 {
        let mut hostile = server.client();
        let mut bytes = Vec::new();
        for _ in 0..3000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bytes.push((state >> 56) as u8);
        }
        if round % 3 == 0 {
            bytes = [&b"set a 0 0 4000000000\r\nget \r\nset b 0 0 18446744073709551615\r\n"[..], &bytes].concat();
        }
        let _ = hostile.stream.write_all(&bytes);
        if round % 2 == 0 {
            drop(hostile);
        }
        let mut good = server.client();
        good.expect("set ok 0 0 2\r\nhi\r\nget ok\r\n", "STORED\r\nVALUE ok 0 2\r\nhi\r\nEND\r\n");
    }
    let mut endless = server.client();
    let _ = endless.stream.write_all(&vec![b'x'; 100_000]);
    assert!(endless.is_closed(), "a line without an end closes the connection");
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let server = Server::start(0, &["-c", "3"]);
    let mut kept: Vec<Client> = (0..3).map(|_| server.client()).collect();
    kept.iter_mut().for_each(|client| client.expect("version\r\n", &format!("VERSION {}\r\n", server::VERSION)));
    let mut text = String::new();
    server.client().stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ERROR Too many open connections\r\n");
}

#[test]
fn tenants_are_apart_by_prefix_and_by_port() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("flashare.toml");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "[[tenant]]\nname = \"a\"\nprefix = \"a:\"\nreserved = \"2MiB\"\n[[tenant]]\nname = \"own\"\nport = {free}\nrank = \"lfu\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let server = Server::start(0, &["--config", config.to_str().unwrap()]);
    let mut shared = server.client();
    let stream = std::net::TcpStream::connect(("127.0.0.1", free)).unwrap();
    let mut own = Client { stream };
    shared.expect("set x 0 0 6\r\nshared\r\n", "STORED\r\n");
    own.expect("get x\r\n", "END\r\n");
    own.expect("set x 0 0 3\r\nown\r\nset a:1 0 0 1\r\no\r\n", "STORED\r\nSTORED\r\n");
    shared.expect("get x a:1\r\n", "VALUE x 0 6\r\nshared\r\nEND\r\n");
    own.expect("flush_all\r\nget x\r\n", "OK\r\nEND\r\n");
    shared.expect("get x\r\n", "VALUE x 0 6\r\nshared\r\nEND\r\n");
    shared.expect("set a:1 0 0 1\r\na\r\n", "STORED\r\n");
    let stats = shared.stats("tenants");
    assert_eq!((stats["a:cmd_set"].as_str(), stats["own:rank"].as_str()), ("1", "lfu"));
}
