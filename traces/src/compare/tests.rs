//! A comparison of servers that are there on every machine: scripts.

use super::*;
use crate::Synth;

/// Answers every request line of a replay with a miss, and the rest as it should; after so many gets, it ends. "late": somebody else
/// listens there at first, accepts nobody, and goes.
const SCRIPT: &str = r#"
import socketserver, sys, os, socket, time
if "late" in sys.argv:
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
        time.sleep(0.3)
left = int(sys.argv[2])
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        global left
        for line in self.rfile:
            words = line.split()
            if words[0] == b"stats":
                self.wfile.write(b"STAT cmd_get 7\r\nEND\r\n")
            elif words[0] == b"set":
                self.rfile.read(int(words[4]) + 2)
                self.wfile.write(b"STORED\r\n")
            elif words[0] == b"get":
                left -= 1
                if left == 0:
                    os._exit(3)
                self.wfile.write(b"END\r\n")
            else:
                self.wfile.write(b"NOT_FOUND\r\n")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = True
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

fn compare(folder: &Path, setup: &str) -> (Result<()>, Option<Comparison>) {
    fs::write(folder.join("server.py"), SCRIPT).unwrap();
    fs::write(folder.join("setup.toml"), setup.replace("SCRIPT", &folder.join("server.py").display().to_string()))
        .unwrap();
    Synth::of(folder.join("trace.csv"), 2_000, 1, &["a,size=50", "b,size=60"]).run().unwrap();
    let compare = Compare {
        setup: folder.join("setup.toml"),
        trace: None,
        reading: Reading::default(),
        rounds: None,
        limit: None,
        folder: Some(folder.join("work")),
        json: Some(folder.join("out.json")),
        report: Some(folder.join("out.html")),
    };
    let outcome = compare.run();
    let written = fs::read_to_string(folder.join("out.json")).ok();
    (outcome, written.map(|text| serde_json::from_str(&text).unwrap()))
}

#[test]
fn each_server_runs_in_each_round() {
    let folder = tempfile::tempdir().unwrap();
    let setup = "trace = \"trace.csv\"\nrounds = 3\n\n[[server]]\nname = \"one\"\ncommand = \"python3 SCRIPT {port} -1 late\"\n\n\
                 [[server]]\nname = \"two\"\ndram = \"8MiB\"\ncommand = \"python3 SCRIPT {port} -1 {tenants} {folder}\"\n";
    let (outcome, comparison) = compare(folder.path(), setup);
    outcome.unwrap();
    let comparison = comparison.unwrap();
    assert!(comparison.complete);
    for server in &comparison.servers {
        assert_eq!(server.rounds.len(), 3);
        let run = server.typical().unwrap();
        assert_eq!((run.total.requests, run.total.hits, run.wrong_values, run.errors), (2_000, 0, 0, 0));
        assert!(run.server.as_ref().unwrap().rss_bytes > 1 << 20);
        assert_eq!(run.tenants.keys().collect::<Vec<_>>(), ["a", "b"]);
    }
    let html = fs::read_to_string(folder.path().join("out.html")).unwrap();
    assert!(html.contains("one") && html.contains("<svg") && !html.contains("http://") || html.contains("www.w3.org"));
    assert!(fs::read_dir(folder.path().join("work")).unwrap().next().is_none(), "servers' folders are gone");
}

#[test]
fn a_server_that_dies_leaves_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let setup = "trace = \"trace.csv\"\n\n[[server]]\nname = \"whole\"\ncommand = \"python3 SCRIPT {port} -1\"\n\n\
                 [[server]]\nname = \"frail\"\ncommand = \"python3 SCRIPT {port} 500\"\n";
    let (outcome, comparison) = compare(folder.path(), setup);
    let why = format!("{:#}", outcome.unwrap_err());
    assert!(why.contains("server frail") && why.contains("before the trace did"), "{why}");
    let comparison = comparison.unwrap();
    assert!(!comparison.complete);
    assert_eq!(comparison.servers[0].rounds[0].total.requests, 2_000);
    let frail = &comparison.servers[1].rounds[0];
    assert!(!frail.complete && (200..500).contains(&frail.total.gets), "{}", frail.total.gets);
}

#[test]
fn what_is_wrong_with_a_setup_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for (setup, part) in [
        ("[[server]]\nname = \"a\"\ncommand = \"x\"\n", "{port}"),
        ("[[server]]\nname = \"a b\"\ncommand = \"x {port}\"\n", "letters, digits"),
        (
            "[[server]]\nname = \"a\"\ncommand = \"x {port}\"\n\n[[server]]\nname = \"a\"\ncommand = \"x {port}\"\n",
            "two servers",
        ),
        ("memory = \"many\"\n\n[[server]]\nname = \"a\"\ncommand = \"x {port}\"\n", "'many'"),
        ("wings = 2\n\n[[server]]\nname = \"a\"\ncommand = \"x {port}\"\n", "wings"),
        ("[[server]]\nname = \"a\"\ncommand = \"x {port}\"\n", "name a trace"),
        (
            "trace = \"trace.csv\"\n\n[[server]]\nname = \"a\"\ncommand = \"sh -c 'echo no wings; exit 3' {port}\"\n",
            "no wings",
        ),
        ("trace = \"trace.csv\"\n\n[[server]]\nname = \"a\"\ncommand = \"x {port} {tenants}\"\n", "dram"),
    ] {
        let error = format!("{:#}", compare(folder.path(), setup).0.unwrap_err());
        assert!(error.contains(part), "{setup}: {error}");
    }
}
