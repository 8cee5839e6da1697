//! The classic text protocol over real sockets, to the letter.

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::Server;

#[test]
fn every_command_answers_as_memcached_does() {
    let server = Server::start(0, &[]);
    let mut client = server.client();
    let long = "k".repeat(251);
    for (request, answer) in [
        ("set a 5 0 3\r\nabc\r\n", "STORED\r\n"),
        ("get a\r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
        ("get a missing a\r\n", "VALUE a 5 3\r\nabc\r\nVALUE a 5 3\r\nabc\r\nEND\r\n"),
        ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("replace b 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("append a 9 9 2\r\nde\r\n", "STORED\r\n"),
        ("prepend a 9 9 1\r\n_\r\n", "STORED\r\n"),
        ("get a\r\n", "VALUE a 5 6\r\n_abcde\r\nEND\r\n"),
        ("append b 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("cas b 0 0 1 5\r\nx\r\n", "NOT_FOUND\r\n"),
        ("cas a 0 0 1 999999\r\nx\r\n", "EXISTS\r\n"),
        ("set n 0 0 2\r\n10\r\n", "STORED\r\n"),
        ("incr n 5\r\n", "15\r\n"),
        ("decr n 10\r\n", "5\r\n"),
        ("get n\r\n", "VALUE n 0 2\r\n5 \r\nEND\r\n"),
        ("decr n 100\r\n", "0\r\n"),
        ("incr n 18446744073709551615\r\n", "18446744073709551615\r\n"),
        ("incr n 2\r\n", "1\r\n"),
        ("incr missing 1\r\n", "NOT_FOUND\r\n"),
        ("incr a 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
        ("incr n x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("touch a 100\r\n", "TOUCHED\r\n"),
        ("touch missing 100\r\n", "NOT_FOUND\r\n"),
        ("gat 100 a missing\r\n", "VALUE a 5 6\r\n_abcde\r\nEND\r\n"),
        ("delete a\r\n", "DELETED\r\n"),
        ("delete a\r\n", "NOT_FOUND\r\n"),
        ("set neg 0 -1 1\r\nx\r\nget neg\r\n", "STORED\r\nEND\r\n"),
        ("verbosity 1\r\n", "OK\r\n"),
        ("nonsense\r\n", "ERROR\r\n"),
        ("set k 0 0 -5\r\n", "CLIENT_ERROR bad command line format\r\n"),
        ("set k 0 0 3\r\nabcdef\r\n", "CLIENT_ERROR bad data chunk\r\nCLIENT_ERROR bad command line format\r\n"),
        ("flush_all\r\nget n\r\n", "OK\r\nEND\r\n"),
    ] {
        client.expect(request, answer);
    }
    client.expect(&format!("get {long}\r\n"), "CLIENT_ERROR bad command line format\r\n");
    client.expect(
        &format!("set {long} 0 0 2\r\nhi\r\nversion\r\n"),
        &format!("CLIENT_ERROR bad command line format\r\nVERSION {}\r\n", server::VERSION),
    );
    client.send(b"quit\r\n");
    assert!(client.is_closed());
}

#[test]
fn cas_takes_the_unique_that_gets_gave() {
    let server = Server::start(0, &[]);
    let mut client = server.client();
    client.expect("set a 0 0 1\r\nx\r\n", "STORED\r\n");
    client.send(b"gets a\r\n");
    let text = client.read_until("END\r\n");
    let unique = text.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    client.expect(&format!("cas a 0 0 1 {unique}\r\ny\r\n"), "STORED\r\n");
    client.expect(&format!("cas a 0 0 1 {unique}\r\nz\r\n"), "EXISTS\r\n");
}

#[test]
fn a_noreply_error_stays_silent() {
    let server = Server::start(0, &[]);
    let mut client = server.client();
    let long = "k".repeat(251);
    client.send(b"set a 0 0 1 noreply\r\nx\r\nadd a 0 0 1 noreply\r\ny\r\nincr a x noreply\r\ndelete none noreply\r\n");
    client.send(format!("set {long} 0 0 1 noreply\r\nx\r\ntouch a 5 noreply\r\nflush_all 100 noreply\r\n").as_bytes());
    client.expect("get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn pipelines_and_fragments_are_served_in_order() {
    let server = Server::start(0, &[]);
    let mut client = server.client();
    let mut requests = String::new();
    let mut answers = String::new();
    for n in 0..2000 {
        requests += &format!("set k{n} 0 0 5\r\n{n:05}\r\nget k{n}\r\n");
        answers += &format!("STORED\r\nVALUE k{n} 0 5\r\n{n:05}\r\nEND\r\n");
    }
    let mut sender = client.stream.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        for piece in requests.as_bytes().chunks(977) {
            std::io::Write::write_all(&mut sender, piece).unwrap();
        }
    });
    client.expect_answer(answers.as_bytes());
    thread.join().unwrap();
}

#[test]
fn values_up_to_the_limit_are_kept_and_larger_ones_refused() {
    let server = Server::start(0, &["-m", "64", "-I", "8m"]);
    let mut client = server.client();
    for size in [100_000, 1_000_000, 7_000_000] {
        let value: String = (0..size).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
        client.expect(&format!("set big 0 0 {size}\r\n{value}\r\n"), "STORED\r\n");
        client.expect("get big\r\n", &format!("VALUE big 0 {size}\r\n{value}\r\nEND\r\n"));
    }
    let size = 9_000_000;
    let refused = format!("set big 0 0 {size}\r\n{}\r\n", "x".repeat(size));
    client.expect(&refused, "SERVER_ERROR object too large for cache\r\n");
    client.expect("get big\r\n", "END\r\n"); // the old value must not outlive a failed set
}

/// The line of a large value that follows one is received with little behind it, the rest and its line end at once: whatever comes how.
#[test]
fn large_values_one_after_another_come_in_any_pieces() {
    let server = Server::start(0, &["-m", "64"]);
    let mut client = server.client();
    for round in 0..60 {
        let size = 33_000 + 1_777 * round;
        let value: String = (0..size).map(|n| char::from(b'a' + ((n / 5 + round) % 19) as u8)).collect();
        let line = format!("set large{round} 0 0 {size}\r\n");
        let behind = ["", "get none\r\n", "get none\r\nmn\r\nset small 0 0 5\r\nsmall\r\n"][round % 3];
        let sent = format!("{line}{value}\r\n{behind}").into_bytes();
        let end = line.len() + size;
        // in one piece, or cut within the line, behind it, before the value's end, within the line end, and behind that
        let cuts = [
            vec![],
            vec![7],
            vec![line.len()],
            vec![line.len() + 900, end - 1],
            vec![end],
            vec![line.len() + 20_000, end + 1],
            vec![end + 2],
        ];
        let mut from = 0;
        for to in cuts[round % cuts.len()].iter().copied().chain([sent.len()]) {
            client.send(&sent[from..to]);
            std::thread::sleep(Duration::from_millis(1));
            from = to;
        }
        client.expect_answer(b"STORED\r\n");
        client.expect_answer([&b""[..], b"END\r\n", b"END\r\nMN\r\nSTORED\r\n"][round % 3]);
        client.send(format!("get large{round}\r\n").as_bytes());
        client.expect_answer(format!("VALUE large{round} 0 {size}\r\n{value}\r\nEND\r\n").as_bytes());
    }
}

/// The rest of a large value is received past the buffers that connections share, up to its end and no further: what is pipelined behind it is served.
#[test]
fn large_values_that_come_in_pieces_leave_what_is_behind_them_alone() {
    let server = Server::start(0, &["-m", "64"]);
    let value = |key: usize, size: usize| -> String {
        (0..size).map(|n| char::from(b'a' + ((n / 7 + key) % 23) as u8)).collect()
    };
    let sizes = [131_000, 600_000, 20, 300_000, 131_073, 1_000_000, 140_000];
    let (mut sent, mut answers) = (String::new(), String::new());
    for (key, size) in sizes.into_iter().enumerate() {
        let value = value(key, size);
        sent += &format!("get none\r\nset big{key} 0 0 {size}\r\n{value}\r\nget big{key}\r\n");
        answers += &format!("END\r\nSTORED\r\nVALUE big{key} 0 {size}\r\n{value}\r\nEND\r\n");
    }
    // conditions are looked at when the value has come
    let other = value(9, 400_000);
    for (line, answer) in [
        ("add big1 0 0 400000", "NOT_STORED"),
        ("replace nobody 0 0 400000", "NOT_STORED"),
        ("cas nobody 0 0 400000 1", "NOT_FOUND"),
        ("cas big1 0 0 400000 1", "EXISTS"),
        ("ms big1 400000 ME s c", "NS s400000 c0"),
        ("ms bmV3 400000 b k s F3", "HD kbmV3 b s400000"),
        ("ms new 400000 MR q", ""),
        ("set new 0 0 399999", "CLIENT_ERROR bad data chunk\r\nCLIENT_ERROR bad command line format"),
        ("append big2 0 0 400000", "STORED"),
    ] {
        sent += &format!("{line}\r\n{other}\r\n");
        answers += &if answer.is_empty() { String::new() } else { format!("{answer}\r\n") };
    }
    sent += "get new big1 big2\r\n";
    answers += &format!("VALUE new 0 400000\r\n{other}\r\n");
    answers += &format!("VALUE big1 0 600000\r\n{}\r\n", value(1, 600_000));
    answers += &format!("VALUE big2 0 400020\r\n{}{other}\r\nEND\r\n", value(2, 20));
    for piece in [2_500_000, 100_003, 9_001] {
        let mut client = server.client();
        let mut writer = client.stream.try_clone().unwrap();
        let bytes = sent.clone().into_bytes();
        let sender = std::thread::spawn(move || {
            for piece in bytes.chunks(piece) {
                writer.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        client.expect_answer(answers.as_bytes());
        sender.join().unwrap();
    }
    // half of one lies in the log, not with the connection
    let mut half = server.client();
    half.send(format!("set half 0 0 600000\r\n{}", "z".repeat(400_000)).as_bytes());
    let mut client = server.client();
    let before: usize = client.stats("")["bytes_read"].parse().unwrap();
    let mut read = before;
    for _ in 0..500 {
        std::thread::sleep(Duration::from_millis(10));
        let now: usize = client.stats("")["bytes_read"].parse().unwrap();
        if now < read + 1_000 {
            break; // nothing but our own questions
        }
        read = now;
    }
    let collected: usize = client.stats("")["read_buf_bytes"].parse().unwrap();
    assert!(collected < 50_000, "{collected}");
    drop((half, client));
    // who goes away in the middle leaves the old value, and no connection behind
    for _ in 0..20 {
        let mut client = server.client();
        client.send(format!("set big1 0 0 600000\r\n{}", "z".repeat(400_000)).as_bytes());
    }
    let mut client = server.client();
    client.expect("get big1\r\n", &format!("VALUE big1 0 600000\r\n{}\r\nEND\r\n", value(1, 600_000)));
    let began = std::time::Instant::now();
    while client.stats("")["curr_connections"] != "1" {
        assert!(began.elapsed().as_secs() < 20, "{:?}", client.stats("")["curr_connections"]);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Without eviction, what is stored anew makes room for itself; what finds none is refused, whatever it is, and nothing is lost.
#[test]
fn a_full_memory_without_eviction_says_so() {
    let server = Server::start(0, &["-m", "64", "-M"]);
    let mut client = server.client();
    let value = "x".repeat(10_000);
    for round in 0..40 {
        let sets: String = (0..400).map(|n| format!("set k{n} 0 0 10000\r\n{value}\r\n")).collect();
        client.send(sets.as_bytes()); // 4 MB a round
        assert_eq!(client.read_until(&"STORED\r\n".repeat(400)).len(), 3_200, "round {round}");
    }
    client.expect("set number 0 0 1\r\n9\r\n", "STORED\r\n");
    let mut full = 0;
    for n in 0..8_000 {
        client.send(format!("set more{n} 0 0 10000\r\n{value}\r\n").as_bytes());
        full += usize::from(client.read_until("\r\n") == "SERVER_ERROR out of memory storing object\r\n");
    }
    assert!(full > 1_000, "{full} of 8,000 were refused: 80 MB are more than there is");
    // small ones may find a place still; when none is left, other requests are told so as well
    (0..200_000).find(|n| {
        client.send(format!("set s{n} 0 0 1\r\nx\r\n").as_bytes());
        client.read_until("\r\n") != "STORED\r\n"
    });
    let told = (0..100).any(|_| {
        client.send(b"incr number 1\r\n");
        let answer = client.read_until("\r\n");
        let told = answer == "SERVER_ERROR out of memory\r\n";
        assert!(told || answer.trim_end().parse::<u64>().is_ok(), "{answer:?}");
        told
    });
    assert!(told, "a counter takes a new place each time");
    client.expect("incr number 1 noreply\r\nmn\r\n", "MN\r\n");
    for n in (0..400).step_by(37) {
        client.expect(&format!("get k{n}\r\n"), &format!("VALUE k{n} 0 10000\r\n{value}\r\nEND\r\n"));
    }
    let refused: usize = client.stats("")["store_no_memory"].parse().unwrap();
    assert!(refused >= full, "{refused} counted");
    client.expect("flush_all\r\nset after 0 0 10000\r\n", "OK\r\n");
    client.expect(&format!("{value}\r\n"), "STORED\r\n");
}

/// What is read in a pipeline is what was there between the appends around it, also where its pieces are the larger value's as well.
#[test]
fn large_values_that_grow_are_read_as_they_were() {
    let server = Server::start(0, &["-m", "64"]);
    let (mut sent, mut answers) = (String::new(), String::new());
    for (key, size) in [20_000, 90_000, 200_000].into_iter().enumerate() {
        let mut value = "a".repeat(size);
        sent += &format!("set grown{key} 0 0 {size}\r\n{value}\r\n");
        answers += "STORED\r\n";
        for n in 0..60 {
            let more = format!("{n:02}").repeat([3, 50, 4_000, 30][n % 4]);
            let (command, bytes) = (if n == 37 { "prepend" } else { "append" }, more.len());
            value = if n == 37 { more.clone() + &value } else { value + &more };
            sent += &format!("{command} grown{key} 0 0 {bytes}\r\n{more}\r\n");
            answers += "STORED\r\n";
            if n % 5 == 0 {
                sent += &format!("get grown{key}\r\n");
                answers += &format!("VALUE grown{key} 0 {}\r\n{value}\r\nEND\r\n", value.len());
            }
        }
    }
    let mut client = server.client();
    let mut writer = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(sent.as_bytes()).unwrap());
    client.expect_answer(answers.as_bytes());
    sender.join().unwrap();
}

#[test]
fn time_to_live_and_delayed_flush_take_effect() {
    let server = Server::start(0, &[]);
    let mut client = server.client();
    client.expect("set short 0 1 1\r\nx\r\nset long 0 100 1\r\ny\r\n", "STORED\r\nSTORED\r\n");
    client.expect("flush_all 3\r\n", "OK\r\n");
    let began = std::time::Instant::now();
    let mut gone = [None, None];
    while gone.iter().any(Option::is_none) {
        assert!(began.elapsed().as_secs() < 15, "{gone:?}");
        for (n, key) in ["short", "long"].iter().enumerate() {
            client.send(format!("get {key}\r\n").as_bytes());
            if client.read_until("END\r\n") == "END\r\n" {
                gone[n].get_or_insert(began.elapsed().as_millis());
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(gone[0] < gone[1], "the expiry comes before the flush");
}

#[test]
fn stats_speak_memcacheds_names() {
    let server = Server::start(0, &[]);
    let mut client = server.client();
    client.expect("set a 0 0 1\r\nx\r\nget a\r\nget b\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nEND\r\n");
    let stats = client.stats("");
    for (key, value) in
        [("cmd_get", "2"), ("get_hits", "1"), ("get_misses", "1"), ("cmd_set", "1"), ("curr_items", "1")]
    {
        assert_eq!(stats[key], value, "{key}");
    }
    for key in [
        "pid",
        "uptime",
        "version",
        "rusage_user",
        "curr_connections",
        "limit_maxbytes",
        "bytes",
        "threads",
        "evictions",
    ] {
        assert!(stats.contains_key(key), "{key}");
    }
    assert_eq!(client.stats("settings")["maxbytes"], (64 << 20).to_string());
    assert_eq!(client.stats("tenants")["default:get_hits"], "1");
    client.expect("stats reset\r\n", "RESET\r\n");
    assert_eq!(client.stats("")["cmd_get"], "0");
}

#[test]
fn what_was_sent_before_the_end_is_answered() {
    let server = Server::start(0, &["-m", "8"]);
    for _ in 0..200 {
        let mut client = server.client();
        client.send(b"set a 0 0 1\r\n1\r\nget a\r\nget b\r\n");
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = String::new();
        client.stream.read_to_string(&mut all).unwrap();
        assert_eq!(all, "STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\nEND\r\n");
    }
}

/// A pipeline is looked at ahead: what was seen of a key then must not outlive a change to it in between, and a key in base64 is not what stands
/// on the line.
#[test]
fn a_pipeline_of_gets_in_both_dialects_sees_what_lies_between_them() {
    let pipeline = [
        ("set foo 7 0 3\r\none\r\n", "STORED\r\n"),
        ("mg foo v f\r\n", "VA 3 f7\r\none\r\n"),
        ("mg Zm9v b v k Oabc\r\n", "VA 3 kZm9v b Oabc\r\none\r\n"),
        ("mg Zm9v v\r\n", "EN\r\n"),
        ("set foo 0 0 3\r\ntwo\r\n", "STORED\r\n"),
        ("mg foo v s\n", "VA 3 s3\r\ntwo\r\n"),
        ("get foo\r\n", "VALUE foo 0 3\r\ntwo\r\nEND\r\n"),
        ("delete foo\r\n", "DELETED\r\n"),
        ("mg foo v\r\n", "EN\r\n"),
        ("mg foo v q\r\n", ""),
        ("mg foo N30 v t\r\n", "VA 0 t30 W\r\n\r\n"),
        ("mg foo v c0 v\r\n", "CLIENT_ERROR duplicate flag\r\n"),
        ("mg  foo v\r\n", "VA 0 Z\r\n\r\n"),
        ("mg foo\r\n", "HD Z\r\n"),
        ("mg fo\to v\r\n", "EN\r\n"),
        ("mg foo v !\r\n", "CLIENT_ERROR invalid flag\r\n"),
        ("mg\r\n", "CLIENT_ERROR bad command line format\r\n"),
        ("gets missing\r\n", "END\r\n"),
        ("mn\r\n", "MN\r\n"),
    ];
    let server = Server::start(0, &[]);
    let mut client = server.client();
    // what comes first is there when the rest is looked at
    let (first, rest) = pipeline.split_first().unwrap();
    client.expect(first.0, first.1);
    let requests: String = rest.iter().map(|(request, _)| *request).collect();
    let answers: String = rest.iter().map(|(_, answer)| *answer).collect();
    client.expect(&requests, &answers);
    // those whose flags are wrong, and the one without a key, do not count
    assert_eq!(client.stats("")["cmd_meta"], "10");
}

/// Where memory is short, who waits for it goes before who comes later: few batches of stores are overtaken by many times as many as there
/// are clients.
#[test]
fn who_waits_for_memory_is_not_overtaken_again_and_again() {
    const CLIENTS: usize = 24;
    const BATCHES: usize = 150;
    let server = Server::start(0, &["-m", "32", "-t", "1"]);
    let done = AtomicUsize::new(0);
    let value = "x".repeat(12_000);
    // of each batch of a client: how many of the others were done meanwhile
    let overtaken = |client: usize| {
        let mut connection = server.client();
        (0..BATCHES)
            .map(|batch| {
                let key = |n| format!("k{client}:{n}:{}", batch % 20);
                let sets: String = (0..16).map(|n| format!("set {} 0 0 12000\r\n{value}\r\n", key(n))).collect();
                let before = done.load(Ordering::Relaxed);
                connection.send(sets.as_bytes());
                assert_eq!(connection.read_until(&"STORED\r\n".repeat(16)).len(), 128);
                done.fetch_add(1, Ordering::Relaxed) - before
            })
            .collect::<Vec<_>>()
    };
    let mut all = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let overtaken = &overtaken;
                scope.spawn(move || overtaken(client))
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    all.sort_unstable();
    // where the clients themselves are slow one of the two may be so, but not both
    let (half, late) = (all[all.len() / 2], all[all.len() * 49 / 50]);
    let what = format!(
        "half of the batches were overtaken by fewer than {half} of {CLIENTS} clients', one in fifty by {late}"
    );
    assert!(half >= CLIENTS / 2 || late < 4 * CLIENTS, "{what}");
}
