//! Every admin call against a running server, and a reload of its tenants.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::Server;
use serde_json::{Value, json};

const TENANTS: &str = "[[tenant]]\nname = \"a\"\nprefix = \"a:\"\nreserved = \"1MiB\"\n\n[[tenant]]\nname = \"b\"\nprefix = \"b:\"\nreserved = \"1MiB\"\n";

/// Shortest time for which a connection is not heard that asked for too much.
const HELD_MIN: Duration = Duration::from_millis(5);

struct Rig {
    server: Server,
    folder: tempfile::TempDir,
}

fn start(more: &[&str]) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let tenants = folder.path().join("tenants.toml");
    std::fs::write(&tenants, TENANTS).unwrap();
    let flags = ["-m", "8", "--config", tenants.to_str().unwrap(), "--admin", "127.0.0.1:0"];
    Rig { server: Server::start(0, &[&flags, more].concat()), folder }
}

impl Rig {
    /// Status and body of an answer.
    fn ask(&self, verb: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let at = self.server.running.as_ref().unwrap().admin_address().unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        let token = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let length = body.len();
        write!(
            stream,
            "{verb} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn json(&self, verb: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.ask(verb, path, None, body);
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    fn reserved(&self, name: &str) -> i64 {
        self.json("GET", &format!("/tenants/{name}"), "").1["reserved_configured"].as_i64().unwrap()
    }
}

#[test]
fn tenants_are_told_and_reserved_anew_while_they_are_served() {
    let rig = start(&[]);
    let mut client = rig.server.client();
    client.expect("set a:key 0 0 5\r\nhello\r\n", "STORED\r\n");
    let (status, all) = rig.json("GET", "/tenants", "");
    assert_eq!((status, &all["a"]["cmd_set"], &all["a"]["rank"]), (200, &json!(1), &json!("score")));
    assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), ["a", "b", "default"]);
    let (status, a) = rig.json("PUT", "/tenants/a", r#"{"reserved": "3MiB", "rank": "lfu"}"#);
    assert_eq!((status, &a["reserved_configured"], &a["rank"]), (200, &json!(3 << 20), &json!("lfu")));
    let stats = client.stats("tenants");
    assert!(stats["a:reserved"].parse::<f64>().unwrap() > 2.0 * stats["b:reserved"].parse::<f64>().unwrap());
    client.expect("get a:key\r\n", "VALUE a:key 0 5\r\nhello\r\nEND\r\n");
    assert_eq!(rig.json("GET", "/tenants/none", "").0, 404);
}

#[test]
fn changes_are_written_into_the_configuration() {
    let rig = start(&[]);
    let path = rig.folder.path().join("tenants.toml");
    std::fs::write(&path, format!("# by hand\n{TENANTS}")).unwrap();
    assert_eq!(rig.json("PUT", "/tenants/a", r#"{"reserved": "3MiB"}"#).0, 200);
    assert_eq!(rig.json("PUT", "/tenants/c", r#"{"prefix": "c:", "max_requests": 50}"#).0, 201);
    assert_eq!(rig.json("DELETE", "/tenants/b", "").0, 200);
    let (status, answer) = rig.json("POST", "/config", "");
    assert_eq!((status, answer["written"].as_str()), (200, path.to_str()));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("# by hand\n") && text.contains("max_requests = 50"), "{text}");
    rig.server.running.as_ref().unwrap().reload();
    assert_eq!((rig.reserved("a"), rig.json("GET", "/tenants/c", "").0), (3 << 20, 200));
    assert_eq!(rig.json("GET", "/tenants/b", "").0, 404);
    // what cannot be written is said, and nothing changes
    std::fs::write(&path, "nonsense").unwrap();
    let (status, answer) = rig.json("POST", "/config", "");
    assert!(status == 500 && answer["error"].as_str().unwrap().contains("tenants.toml"), "{answer}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "nonsense");
}

#[test]
fn what_cannot_be_is_refused_whole_with_the_reason() {
    let rig = start(&[]);
    for (path, body, status, reason) in [
        ("/tenants/a", "{\"reserved\": \"90MiB\"}", 409, "more than the memory"),
        ("/tenants/a", "{\"reserved\": \"many\"}", 400, "reserved"),
        ("/tenants/a", "{\"reserved\": \"2MiB\", \"rank\": \"best\"}", 400, "no rank"),
        ("/tenants/a", "{\"wings\": 2}", 400, "wings"),
        ("/tenants/a", "nonsense", 400, "expected"),
        ("/tenants/none", "{\"reserved\": \"2MiB\"}", 400, "no tenant"),
        ("/tenants/a", "{\"prefix\": \"b:\"}", 400, "otherwise"),
        ("/tenants/a", "{\"name\": \"b\"}", 400, "another name"),
        ("/tenants/a", "{\"weight\": 0}", 409, "weight"),
        ("/tenants/a", "{\"goal_hit_ratio\": 1.5}", 409, "goal"),
        ("/tenants/a", "{\"flash_write_budget\": \"1GiB/fortnight\"}", 400, "200GB/day"),
        ("/tenants/c", "{\"prefix\": \"b:\"}", 409, "same prefix"),
        ("/tenants/c", "{\"prefix\": \"c:\", \"port\": 1}", 400, "one of"),
        ("/tenants/c:", "{\"prefix\": \"c:\"}", 400, "colons"),
        ("/nowhere", "{}", 404, "/healthz"),
    ] {
        let (got, answer) = rig.json("PUT", path, body);
        let said = answer["error"].as_str().unwrap();
        assert!(got == status && said.contains(reason), "{path} {body}: {got}, {said}");
        assert_eq!((rig.reserved("a"), rig.reserved("b")), (1 << 20, 1 << 20));
    }
    assert_eq!(rig.ask("DELETE", "/tenants/default", None, "").0, 400);
    assert_eq!(rig.ask("DELETE", "/tenants/none", None, "").0, 404);
    assert_eq!(rig.ask("POST", "/tenants/a", None, "").0, 405);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let (status, answer) = rig.json("PUT", "/tenants/p", &format!("{{\"port\": {taken}}}"));
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("cannot listen"), "{answer}");
    assert_eq!(rig.json("GET", "/tenants/p", "").0, 404);
}

#[test]
fn tenants_come_and_go_while_they_are_served() {
    let rig = start(&["-l", "127.0.0.1"]);
    let mut client = rig.server.client();
    // before c is there, its keys are the default tenant's
    client.expect("set c:key 0 0 3\r\nold\r\nset other 0 0 4\r\nkept\r\n", "STORED\r\nSTORED\r\n");
    let (status, c) = rig.json("PUT", "/tenants/c", r#"{"prefix": "c:", "reserved": "1MiB"}"#);
    assert_eq!((status, &c["reserved_configured"]), (201, &json!(1 << 20)));
    client.expect("get c:key\r\n", "END\r\n");
    client.expect("set c:key 0 0 3\r\nnew\r\nget c:key\r\n", "STORED\r\nVALUE c:key 0 3\r\nnew\r\nEND\r\n");
    assert_eq!(rig.json("GET", "/tenants/c", "").1["cmd_set"], json!(1));
    // when it goes, the keys are the default tenant's again: neither its value nor the one of before is there
    assert_eq!(rig.json("DELETE", "/tenants/c", ""), (200, json!({"removed": "c"})));
    client.expect("get c:key other\r\n", "VALUE other 0 4\r\nkept\r\nEND\r\n");
    client.expect("add c:key 0 0 5\r\nthird\r\n", "STORED\r\n");
    assert_eq!(rig.json("GET", "/tenants/c", "").0, 404);
    // and when it comes back, it begins with nothing
    assert_eq!(rig.json("PUT", "/tenants/c", r#"{"prefix": "c:"}"#).0, 201);
    client.expect("get c:key\r\n", "END\r\n");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(rig.json("PUT", "/tenants/p", &format!("{{\"port\": {free}}}")).0, 201);
    let mut own = common::Client { stream: TcpStream::connect(("127.0.0.1", free)).unwrap() };
    own.expect("set other 0 0 3\r\nown\r\nget other\r\n", "STORED\r\nVALUE other 0 3\r\nown\r\nEND\r\n");
    // a flush and a listing by others do not reach it, nor its own them
    own.expect("flush_all\r\n", "OK\r\n");
    client.expect("get other\r\n", "VALUE other 0 4\r\nkept\r\nEND\r\n");
    own.expect("set other 0 0 3\r\nown\r\n", "STORED\r\n");
    client.send(b"stats cachedump 1 0\r\n");
    assert!(!client.read_until("END\r\n").contains("[3 b;"), "its keys are nobody else's");
    client.expect("flush_all\r\nget other\r\n", "OK\r\nEND\r\n");
    own.expect("get other\r\n", "VALUE other 0 3\r\nown\r\nEND\r\n");
    assert_eq!(rig.ask("DELETE", "/tenants/p", None, "").0, 200);
    own.expect("get other\r\n", "ERROR this tenant is gone\r\n");
    assert!(TcpStream::connect(("127.0.0.1", free)).is_err(), "its port is closed");
}

#[test]
fn limits_hold_for_their_tenant_only() {
    let rig = start(&[]);
    let mut client = rig.server.client();
    let limits = r#"{"max_requests": 50, "max_item_size": "1KiB"}"#;
    assert_eq!(rig.json("PUT", "/tenants/a", limits).0, 200);
    let large = "x".repeat(1100);
    client.expect("set a:k 0 0 5\r\nfirst\r\n", "STORED\r\n");
    client.expect(
        &format!("set a:k 0 0 1100\r\n{large}\r\nget a:k\r\nset b:k 0 0 1100\r\n{large}\r\n"),
        "SERVER_ERROR object too large for cache\r\nEND\r\nSTORED\r\n",
    );
    let mut refused = 0;
    let began = Instant::now();
    for n in 0..200 {
        // a multiget asks once for each key, however its keys are spelled
        client.send(if n % 2 == 0 { b"get a:x a:y\r\n" } else { b"mg YTp4 b v\r\n" });
        client.send(b"mn\r\n");
        refused += u32::from(client.read_until("MN\r\n").contains("SERVER_ERROR limit of requests"));
    }
    assert!(refused > 60, "{refused}");
    assert!(began.elapsed() >= refused * HELD_MIN, "who is refused is heard again at once: {refused}");
    client.expect("set a:k 0 0 5 noreply\r\nnever\r\nget b:k2\r\n", "END\r\n");
    let told = rig.json("GET", "/tenants/a", "").1["requests_refused"].as_u64().unwrap();
    assert!(told >= u64::from(refused), "{told}");
    assert_eq!(rig.json("GET", "/tenants/b", "").1["requests_refused"], json!(0));
    assert_eq!(rig.json("PUT", "/tenants/a", r#"{"max_requests": 0}"#).0, 200);
    client.expect(&"get a:none\r\n".repeat(60), &"END\r\n".repeat(60));
    // connections, of a tenant with a port of its own
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let body = format!("{{\"port\": {free}, \"max_connections\": 2, \"max_bandwidth\": \"100kB\"}}");
    assert_eq!(rig.json("PUT", "/tenants/p", &body).0, 201);
    let connect = || common::Client { stream: TcpStream::connect(("127.0.0.1", free)).unwrap() };
    let (mut one, mut two) = (connect(), connect());
    one.expect("mn\r\n", "MN\r\n");
    two.expect("mn\r\n", "MN\r\n");
    connect().expect_answer(b"ERROR Too many open connections\r\n");
    drop(two);
    let again = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(5));
        let mut client = connect();
        client.send(b"mn\r\n");
        let mut answer = [0; 4];
        client.stream.read_exact(&mut answer).is_ok() && answer == *b"MN\r\n"
    });
    assert!(again.take(400).any(|served| served), "a place that came free is given again");
    let large = "y".repeat(90_000);
    one.expect(&format!("set k 0 0 90000\r\n{large}\r\n"), "STORED\r\n");
    one.send(b"get k\r\n");
    one.read_until("END\r\n");
    // 180,000 bytes of 100 kB/s, of which a second's were saved: the next one waits for the rest
    let began = Instant::now();
    one.send(b"get k\r\n");
    one.read_until("END\r\n");
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    let told = rig.json("GET", "/tenants/p", "").1;
    assert!(told["bandwidth_waits"].as_u64().unwrap() > 10, "{told}");
    assert_eq!(told["requests_refused"], 1, "a connection too many");
}

#[test]
fn health_and_metrics_are_told() {
    let rig = start(&[]);
    let mut client = rig.server.client();
    client.expect("set a:key 0 0 5\r\nhello\r\n", "STORED\r\n");
    assert_eq!(rig.json("GET", "/healthz", ""), (200, json!({"status": "ok", "flash": null})));
    let (status, text) = rig.ask("GET", "/metrics", None, "");
    assert_eq!(status, 200);
    for line in
        ["flashare_cmd_set 1", "flashare_tenant_cmd_set{tenant=\"a\"} 1", "flashare_tenant_cmd_set{tenant=\"b\"} 0"]
    {
        assert!(text.lines().any(|own| own == line), "{line} is missing in {text}");
    }
    for line in ["# TYPE flashare_cmd_set counter", "# TYPE flashare_bytes gauge", "# HELP flashare_threads -t"] {
        assert!(text.lines().any(|own| own == line), "{line} is missing in {text}");
    }
    assert!(
        text.contains("flashare_tenant_model_recall{tenant=\"a\"}"),
        "what the predictor tells of a tenant is the tenant's"
    );
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let names: Vec<&str> = samples.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let mut once = names.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), names.len(), "a metric is told once");
    // what a sample is stands right before the first of its metric
    let mut told = "";
    for line in text.lines() {
        match line.strip_prefix("# HELP ").or(line.strip_prefix("# TYPE ")) {
            Some(rest) => told = rest.split(' ').next().unwrap(),
            None => assert_eq!(line.split([' ', '{']).next(), Some(told), "{line}"),
        }
    }
}

#[test]
fn alerts_are_of_metrics_that_exist() {
    let alerts = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/prometheus-alerts.yml");
    let alerts = std::fs::read_to_string(alerts).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig { server: Server::start(64, &["-m", "16", "--admin", "127.0.0.1:0"]), folder };
    let metrics = rig.ask("GET", "/metrics", None, "").1;
    let known: Vec<&str> =
        metrics.lines().filter_map(|line| line.split([' ', '{']).next()).filter(|name| *name != "#").collect();
    let named: Vec<&str> = alerts
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("flashare_"))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        assert!(known.contains(&name), "{name} is no metric");
    }
}

#[test]
fn who_has_no_token_learns_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "open sesame\n").unwrap();
    let rig = start(&["--admin-token", file.to_str().unwrap()]);
    for token in [None, Some("open"), Some("open sesame!")] {
        for (verb, path) in [("GET", "/tenants"), ("GET", "/metrics"), ("PUT", "/tenants/a"), ("GET", "/nowhere")] {
            assert_eq!(rig.ask(verb, path, token, "{}").0, 401, "{verb} {path}");
        }
    }
    assert_eq!(rig.ask("GET", "/tenants", Some("open sesame"), "").0, 200);
    let strangers = server::AdminConfig::new("0.0.0.0:0", None).unwrap_err();
    assert!(strangers.to_string().contains("--admin-token"));
}

#[test]
fn a_reload_is_whole_or_nothing() {
    let rig = start(&[]);
    let file = rig.folder.path().join("tenants.toml");
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        rig.server.running.as_ref().unwrap().reload();
        (rig.reserved("a"), rig.reserved("b"))
    };
    assert_eq!(reload(&TENANTS.replace("1MiB", "2MiB")), (2 << 20, 2 << 20));
    assert_eq!(reload(&TENANTS.replace("1MiB", "5MiB")), (2 << 20, 2 << 20), "more than there is");
    assert_eq!(reload(&TENANTS.replace("prefix = \"b:\"", "prefix = \"a:\"")), (2 << 20, 2 << 20), "ambiguous");
    assert_eq!(reload("[[tenant]\n"), (2 << 20, 2 << 20), "no TOML");
    assert_eq!(reload(TENANTS), (1 << 20, 1 << 20));
    std::fs::write(&file, TENANTS.replace("name = \"b\"\nprefix = \"b:\"", "name = \"c\"\nprefix = \"c:\"")).unwrap();
    rig.server.running.as_ref().unwrap().reload();
    let names = rig.json("GET", "/tenants", "").1;
    assert_eq!(names.as_object().unwrap().keys().collect::<Vec<_>>(), ["a", "c", "default"]);
}

/// Who moves memory, after a reload of a file that begins with these lines.
fn arbiter_after(rig: &Rig, lines: &str) -> String {
    std::fs::write(rig.folder.path().join("tenants.toml"), format!("{lines}{TENANTS}")).unwrap();
    rig.server.running.as_ref().unwrap().reload();
    let mut client = rig.server.client();
    client.send(b"stats settings\r\n");
    let told = client.read_until("END\r\n");
    let line = told.lines().find_map(|line| line.strip_prefix("STAT arbiter ")).unwrap();
    line.to_owned()
}

#[test]
fn another_arbiter_takes_over_at_a_reload() {
    let rig = start(&[]);
    assert_eq!(arbiter_after(&rig, ""), "curve");
    assert_eq!(arbiter_after(&rig, "arbiter = \"shadow\"\n"), "shadow");
    assert_eq!(arbiter_after(&rig, "arbiter = \"nobody\"\n"), "shadow", "what cannot be read changes nothing");
    assert_eq!(arbiter_after(&rig, ""), "curve");
    let stated = start(&["--arbiter", "fixed"]);
    assert_eq!(
        arbiter_after(&stated, "arbiter = \"shadow\"\n"),
        "fixed",
        "a flag is stronger than the file, as at the start"
    );
}

#[test]
fn curves_and_advice_say_where_memory_would_earn_hits() {
    let rig = start(&[]);
    let mut client = rig.server.client();
    let value = "v".repeat(1_000);
    // b asks again and again for 3 MB; a never asks twice
    let mut dice = 1u64;
    for n in 0..12_000 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (a, b) = (format!("a:{n}"), format!("b:{}", (dice >> 33) % 3_000));
        for key in [a, b] {
            client.send(format!("get {key}\r\n").as_bytes());
            if client.read_until("END\r\n") == "END\r\n" {
                client.expect(&format!("set {key} 0 0 1000\r\n{value}\r\n"), "STORED\r\n");
            }
        }
    }
    let (status, curve) = rig.json("GET", "/curves/b", "");
    assert_eq!(status, 200);
    let points = curve["dram_and_flash"].as_array().unwrap();
    let ratio = |n: usize| points[n]["hit_ratio"].as_f64().unwrap();
    assert!(points.len() > 4 && ratio(points.len() - 1) > 0.5 && ratio(0) < 0.1, "{curve}");
    assert!(points.windows(2).all(|two| two[0]["hit_ratio"].as_f64() <= two[1]["hit_ratio"].as_f64()));
    assert!(rig.json("GET", "/curves/a", "").1["sampled_objects"].as_u64().unwrap() > 10);
    let (status, advice) = rig.json("GET", "/advice?aim=hits", "");
    let of = |name: &str, key: &str| advice["tenants"][name][key].as_f64().unwrap();
    assert_eq!(status, 200);
    assert!(of("b", "advised") > 2.0 * of("a", "advised"), "{advice}");
    assert!(of("b", "hit_ratio_advised") >= of("b", "hit_ratio") && of("a", "hit_ratio_advised") < 0.2, "{advice}");
    assert!(advice["hit_ratio_advised"].as_f64() >= advice["hit_ratio"].as_f64());
    // the arbiter has followed it as far as reservations let it
    assert!(of("b", "target") > of("a", "target"), "{advice}");
    for aim in ["fairness", "goals"] {
        assert_eq!(rig.json("GET", &format!("/advice?aim={aim}"), "").0, 200);
    }
    assert_eq!((rig.json("GET", "/advice?aim=fame", "").0, rig.json("GET", "/curves/none", "").0), (400, 404));
}
