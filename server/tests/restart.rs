//! What outlives a stop, over real sockets: a clean stop's content, and nothing of a crash's.

mod common;

use std::path::{Path, PathBuf};

use clap::Parser;
use common::Client;
use server::{Config, Flags, Running, start};

fn begin(flash: &Path, more: &[&str]) -> (Running, Client) {
    begin_with("4", &format!("{}:32MiB", flash.display()), more)
}

fn begin_with(memory: &str, flash: &str, more: &[&str]) -> (Running, Client) {
    let flags = ["flashare", "-p", "-1", "-t", "2", "-m", memory, "--admission", "all", "--flash", flash];
    let running = start(Config::new(&Flags::parse_from(flags.iter().chain(more))).unwrap()).unwrap();
    let stream = std::net::TcpStream::connect(("127.0.0.1", running.port)).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    (running, Client { stream })
}

fn store(client: &mut Client, keys: usize) {
    for n in 0..keys {
        let value = format!("{n:06}").repeat(100);
        client.expect(&format!("set key{n} {} 0 600\r\n{value}\r\n", n % 5), "STORED\r\n");
    }
}

/// How many keys are there; each with its own value and flags.
fn count(client: &mut Client, keys: usize) -> usize {
    (0..keys)
        .filter(|n| {
            client.send(format!("get key{n}\r\n").as_bytes());
            let answer = client.read_until("END\r\n");
            let value = format!("{n:06}").repeat(100);
            assert!(
                answer == "END\r\n" || answer == format!("VALUE key{n} {} 600\r\n{value}\r\nEND\r\n", n % 5),
                "{answer}"
            );
            answer != "END\r\n"
        })
        .count()
}

/// A flash file as a clean stop leaves it, and how many of so many keys were there; key7 was deleted.
fn stopped(folder: &Path, keys: usize) -> (PathBuf, usize) {
    let flash = folder.join("flash");
    let (running, mut client) = begin(&flash, &[]);
    store(&mut client, keys);
    client.expect("delete key7\r\n", "DELETED\r\n");
    let before = count(&mut client, keys);
    running.stop();
    (flash, before)
}

#[test]
fn a_clean_stop_keeps_the_content() {
    const KEYS: usize = 15_000;
    let folder = tempfile::tempdir().unwrap();
    let (flash, before) = stopped(folder.path(), KEYS);
    let (running, mut client) = begin(&flash, &[]);
    assert!(!folder.path().join("flash.index").exists(), "an image is believed once");
    let after = count(&mut client, KEYS);
    assert!(before > 12_000 && after * 100 > before * 95, "of {before} objects {after} came back");
    client.expect("get key7\r\n", "END\r\n");
    store(&mut client, 1_000);
    running.stop();
    let (running, mut client) = begin(&flash, &["--restart", "never"]);
    assert_eq!(count(&mut client, KEYS), 0);
    running.stop();
}

/// More or less of either memory, and segments of the size that would be the default then: the content is found again, beside requests.
#[test]
fn content_outlives_other_sizes() {
    const KEYS: usize = 6_000;
    let folder = tempfile::tempdir().unwrap();
    let (flash, before) = stopped(folder.path(), KEYS);
    for (memory, bytes, more) in [
        ("8", "32MiB", &[][..]),
        ("8", "256MiB", &[]),
        ("8", "256MiB", &["--flash-object-size", "700", "--restart", "crash"]),
        ("6", "64MiB", &[]),
    ] {
        let (running, mut client) = begin_with(memory, &format!("{}:{bytes}", flash.display()), more);
        wait_until_found(&mut client);
        let after = count(&mut client, KEYS);
        assert!(after * 100 > before * 90, "-m {memory}, {bytes}: of {before} objects {after} came back");
        client.expect("get key7\r\n", "END\r\n");
        running.stop();
    }
    let segment = ["--flash-segment", "64KiB"];
    let (running, mut client) = begin_with("6", &format!("{}:64MiB", flash.display()), &segment);
    assert_eq!(count(&mut client, KEYS), 0, "segments of another size were asked for");
    running.stop();
}

/// Under -M, what lies on flash can be read when DRAM is full, and whoever would change it is told that there is no memory for that.
#[test]
fn a_change_of_what_flash_has_is_refused_where_dram_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let (flash, _) = stopped(folder.path(), 6_000);
    let (running, mut client) = begin(&flash, &["-M"]);
    let value = "x".repeat(500);
    let is_refused = |client: &mut Client, key: usize, value: &str| {
        client.send(format!("set new{key} 0 0 {}\r\n{value}\r\n", value.len()).as_bytes());
        client.read_until("\r\n") == "SERVER_ERROR out of memory storing object\r\n"
    };
    assert!((0..100_000).any(|n| is_refused(&mut client, n, &value)));
    let key = (0..6_000).rev().find(|n| {
        client.send(format!("get key{n}\r\n").as_bytes());
        client.read_until("END\r\n") != "END\r\n"
    });
    let key = key.expect("something of it is on flash");
    for change in [
        "append KEY 0 0 2\r\nab\r\n",
        "incr KEY 1\r\n",
        "touch KEY 100\r\n",
        "gat 100 KEY\r\n",
        "ms KEY 2 MA\r\nab\r\n",
    ] {
        client.send(change.replace("KEY", &format!("key{key}")).as_bytes());
        let answer = client.read_until("\r\n");
        assert!(answer.starts_with("SERVER_ERROR out of memory"), "{change:?}: {answer:?}");
    }
    let kept = format!("{key:06}").repeat(100);
    client.expect(&format!("get key{key}\r\n"), &format!("VALUE key{key} {} 600\r\n{kept}\r\nEND\r\n", key % 5));
    running.stop();
}

fn wait_until_found(client: &mut Client) {
    for _ in 0..600 {
        client.send(b"stats flash\r\n");
        if client.read_until("END\r\n").contains("STAT recovering_segments 0\r\n") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("the search does not end");
}

#[test]
fn after_a_crash_nothing_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let (flash, image) = (folder.path().join("flash"), folder.path().join("flash.index"));
    let (running, mut client) = begin(&flash, &[]);
    store(&mut client, 5_000);
    running.stop();
    let kept = std::fs::read(&image).unwrap();
    let (running, mut client) = begin(&flash, &[]);
    assert!(count(&mut client, 5_000) > 4_500);
    // as a crash leaves it: the flash as it is while it is in use, and an image of the past
    let crashed = folder.path().join("crashed");
    std::fs::copy(&flash, &crashed).unwrap();
    std::fs::write(folder.path().join("crashed.index"), &kept).unwrap();
    std::fs::copy(folder.path().join("flash.tenants"), folder.path().join("crashed.tenants")).unwrap();
    running.stop();
    let (running, mut client) = begin(&crashed, &[]);
    assert_eq!(count(&mut client, 5_000), 0);
    running.stop();
    // an image that is damaged, or of another file, is refused
    let mut damaged = std::fs::read(&image).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&image, &damaged).unwrap();
    let (running, mut client) = begin(&flash, &[]);
    assert_eq!(count(&mut client, 5_000), 0);
    running.stop();
}

#[test]
fn what_is_in_memory_outlives_a_clean_stop_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("memory");
    let begin = |more: &[&str]| {
        let flags = ["flashare", "-p", "-1", "-t", "2", "-m", "8", "--no-flash", "-e", file.to_str().unwrap()];
        let running = start(Config::new(&Flags::parse_from(flags.iter().chain(more))).unwrap())?;
        let stream = std::net::TcpStream::connect(("127.0.0.1", running.port)).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        anyhow::Ok((running, Client { stream }))
    };
    let (running, mut client) = begin(&[]).unwrap();
    store(&mut client, 500);
    client.expect("set old 0 0 1\r\nx\r\n", "STORED\r\n");
    client.expect("flush_all\r\n", "OK\r\n");
    store(&mut client, 400);
    client.expect("delete key7\r\n", "DELETED\r\n");
    client.expect("ms chosen 1 E77\r\ny\r\n", "HD\r\n");
    client.send(b"gets key8\r\n");
    let before = client.read_until("END\r\n");
    running.stop();
    let (running, mut client) = begin(&[]).unwrap();
    assert_eq!(count(&mut client, 500), 399);
    client.expect("get old\r\n", "END\r\n");
    client.expect("mg chosen c v\r\n", "VA 1 c77\r\ny\r\n");
    client.send(b"gets key8\r\n");
    assert_eq!(client.read_until("END\r\n"), before);
    drop(running); // it crashes, as far as the file is concerned
    let (running, mut client) = begin(&[]).unwrap();
    assert_eq!(count(&mut client, 500), 0);
    store(&mut client, 10);
    running.stop();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let refused = begin(&[]).err().expect("a damaged file is refused");
    assert!(format!("{refused:#}").contains("remove it"), "{refused:#}");
}

/// What is in DRAM goes to its file, what is on flash stays there, the segment that was open too.
#[test]
fn flash_outlives_a_clean_stop_beside_a_memory_file() {
    const KEYS: usize = 15_000;
    let folder = tempfile::tempdir().unwrap();
    let (flash, file) = (folder.path().join("flash"), folder.path().join("memory"));
    let flags = ["-e", file.to_str().unwrap()];
    let (running, mut client) = begin(&flash, &flags);
    store(&mut client, KEYS);
    let before = count(&mut client, KEYS);
    running.stop();
    let (running, mut client) = begin(&flash, &flags);
    let after = count(&mut client, KEYS);
    assert!(before > 12_000 && after * 100 > before * 95, "of {before} objects {after} came back");
    running.stop();
}

/// The content is believed once: it is not used up by a start that comes to nothing.
#[test]
fn a_start_that_fails_leaves_the_content_to_the_next() {
    const KEYS: usize = 15_000;
    let folder = tempfile::tempdir().unwrap();
    let (flash, before) = stopped(folder.path(), KEYS);
    let size = format!("{}:32MiB", flash.display());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let tenants = folder.path().join("tenants.toml");
    std::fs::write(&tenants, format!("[[tenant]]\nname = \"a\"\nport = {port}\n")).unwrap();
    let bad = folder.path().join("bad");
    for (name, content) in [("bad", "no memory"), ("bad.meta", "no voucher")] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let (tenants, bad, taken) = (tenants.to_str().unwrap(), bad.to_str().unwrap(), format!("127.0.0.1:{port}"));
    for (why, flags) in [
        ("cannot listen", &["-p", &port][..]),
        ("cannot listen", &["-p", "-1", "--config", tenants]),
        ("--admin", &["-p", "-1", "--admin", &taken]),
        ("-e", &["-p", "-1", "-e", bad]),
        ("no such", &["-p", "-1", "-Y", "/no/such/file"]),
    ] {
        let own = ["flashare", "-m", "4", "--flash", &size];
        let error =
            Config::new(&Flags::parse_from(own.iter().chain(flags))).and_then(start).err().expect("it cannot start");
        let error = format!("{error:#}");
        assert!(error.to_lowercase().contains(why), "{error}");
    }
    let (running, mut client) = begin(&flash, &[]);
    let after = count(&mut client, KEYS);
    assert!(after * 100 > before * 95, "of {before} objects {after} came back");
    running.stop();
}

#[test]
fn tenants_keep_their_numbers_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let (flash, file) = (folder.path().join("flash"), folder.path().join("tenants.toml"));
    let tenants = |names: &[&str]| {
        let tables = names.iter().map(|name| format!("[[tenant]]\nname = \"{name}\"\nprefix = \"{name}:\"\n"));
        std::fs::write(&file, tables.collect::<String>()).unwrap();
    };
    let flags = ["--config", file.to_str().unwrap()];
    tenants(&["a", "b"]);
    let (running, mut client) = begin(&flash, &flags);
    client
        .expect("set a:k 0 0 1\r\na\r\nset b:k 0 0 1\r\nb\r\nset c:k 0 0 1\r\nd\r\n", "STORED\r\nSTORED\r\nSTORED\r\n");
    // c takes its keys over from default, a goes, and all of it outlives the stop, in whatever order the file names them
    tenants(&["c", "b"]);
    running.reload();
    client.expect("set c:k 0 0 1\r\nc\r\nget a:k b:k\r\n", "STORED\r\nVALUE b:k 0 1\r\nb\r\nEND\r\n");
    running.stop();
    let (running, mut client) = begin(&flash, &flags);
    client.expect("get a:k b:k c:k\r\n", "VALUE b:k 0 1\r\nb\r\nVALUE c:k 0 1\r\nc\r\nEND\r\n");
    running.stop();
    // b's keys are default's for a while: what b stored before is out of date when it comes back
    tenants(&["a", "c"]);
    let (running, mut client) = begin(&flash, &flags);
    client.expect("get a:k b:k c:k\r\n", "VALUE c:k 0 1\r\nc\r\nEND\r\n");
    client.expect("set b:k 0 0 1\r\nn\r\n", "STORED\r\n");
    running.stop();
    tenants(&["b"]);
    let (running, mut client) = begin(&flash, &flags);
    client.expect("get a:k b:k c:k\r\n", "END\r\n");
    running.stop();
    // where nothing is believed, who has gone is forgotten
    let numbers = folder.path().join("flash.tenants");
    let knows = |name: &str| std::fs::read_to_string(&numbers).unwrap().contains(&format!("\"{name}\""));
    assert!(knows("a") && knows("b"));
    begin(&flash, &[flags[0], flags[1], "--restart", "never"]).0.stop();
    begin(&flash, &flags).0.stop();
    assert!(!knows("a") && knows("b"));
    // without the file nobody knows whose is what
    std::fs::remove_file(&numbers).unwrap();
    tenants(&[]);
    let (running, mut client) = begin(&flash, &flags);
    client.expect("get a:k b:k c:k\r\n", "END\r\n");
    running.stop();
}
