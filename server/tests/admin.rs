//! Every admin call against a running server, and a reload of its tenants.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::Server;
use serde_json::{Value, json};

const TENANTS: &str = "[[tenant]]\nname = \"a\"\nprefix = \"a:\"\nreserved = \"1MiB\"\n\n[[tenant]]\nname = \"b\"\nprefix = \"b:\"\nreserved = \"1MiB\"\n";

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
fn what_cannot_be_is_refused_whole_with_the_reason() {
    let rig = start(&[]);
    for (path, body, status, reason) in [
        ("/tenants/a", "{\"reserved\": \"90MiB\"}", 409, "more than the memory"),
        ("/tenants/a", "{\"reserved\": \"many\"}", 400, "reserved"),
        ("/tenants/a", "{\"reserved\": \"2MiB\", \"rank\": \"best\"}", 400, "no rank"),
        ("/tenants/a", "{\"wings\": 2}", 400, "wings"),
        ("/tenants/a", "nonsense", 400, "expected"),
        ("/tenants/none", "{\"reserved\": \"2MiB\"}", 404, "no tenant"),
        ("/nowhere", "{}", 404, "/healthz"),
    ] {
        let (got, answer) = rig.json("PUT", path, body);
        let said = answer["error"].as_str().unwrap();
        assert!(got == status && said.contains(reason), "{path} {body}: {got}, {said}");
        assert_eq!((rig.reserved("a"), rig.reserved("b")), (1 << 20, 1 << 20));
    }
    assert_eq!(rig.ask("DELETE", "/tenants/a", None, "").0, 405);
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
    let names: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let mut once = names.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), names.len(), "a metric is told once");
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
    assert_eq!(reload(&TENANTS.replace("name = \"b\"", "name = \"c\"")), (2 << 20, 2 << 20), "another tenant");
    assert_eq!(reload("[[tenant]\n"), (2 << 20, 2 << 20), "no TOML");
    assert_eq!(reload(TENANTS), (1 << 20, 1 << 20));
}
