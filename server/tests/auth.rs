//! Who a client is decides what it sees; certificates are read again while it serves.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use common::{Client, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const TENANTS: &str = "[[tenant]]\nname = \"shop\"\nuser = \"anna\"\n\n[[tenant]]\nname = \"blog\"\nuser = \"bert\"\n";
const USERS: &str = "anna:secret\nbert:other\n";

fn start(folder: &Path, more: &[&str]) -> Server {
    let (users, tenants) = (folder.join("users"), folder.join("tenants.toml"));
    std::fs::write(&users, USERS).unwrap();
    std::fs::write(&tenants, TENANTS).unwrap();
    let (users, tenants) = (users.to_str().unwrap(), tenants.to_str().unwrap());
    Server::start(0, &[&["-Y", users, "--config", tenants], more].concat())
}

#[test]
fn an_ascii_user_lands_in_its_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), &[]);
    let (mut anna, mut bert) = (server.client(), server.client());
    anna.expect("get key\r\n", "CLIENT_ERROR unauthenticated\r\n");
    anna.expect("set auth 0 0 10\r\nanna other\r\n", "CLIENT_ERROR authentication failure\r\n");
    anna.expect("set auth 0 0 11\r\nanna secret\r\n", "STORED\r\n");
    bert.expect("set auth 0 0 10\r\nbert other\r\n", "STORED\r\n");
    anna.expect("set key 0 0 4\r\nshop\r\n", "STORED\r\n");
    bert.expect("get key\r\n", "END\r\n");
    bert.expect("set key 0 0 4\r\nblog\r\n", "STORED\r\n");
    anna.expect("get key\r\n", "VALUE key 0 4\r\nshop\r\nEND\r\n");
    let stats = anna.stats("tenants");
    assert_eq!(
        (stats["shop:cmd_set"].as_str(), stats["blog:cmd_set"].as_str(), stats["default:cmd_set"].as_str()),
        ("1", "1", "0")
    );
    bert.expect("flush_all\r\n", "OK\r\n");
    bert.expect("get key\r\n", "END\r\n");
    anna.expect("get key\r\n", "VALUE key 0 4\r\nshop\r\nEND\r\n");
}

/// A binary request: opcode, extras, key, value.
fn frame(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = extras.len() + key.len() + value.len();
    let mut bytes = vec![0x80, opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0];
    bytes.extend_from_slice(&(body as u32).to_be_bytes());
    bytes.extend_from_slice(&[0; 12]);
    [bytes.as_slice(), extras, key, value].concat()
}

/// The status and the body of the answer.
fn ask(client: &mut Client, request: &[u8]) -> (u16, Vec<u8>) {
    client.send(request);
    let mut head = [0; 24];
    client.stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; u32::from_be_bytes(head[8..12].try_into().unwrap()) as usize];
    client.stream.read_exact(&mut body).unwrap();
    (u16::from_be_bytes([head[6], head[7]]), body)
}

#[test]
fn a_sasl_user_lands_in_its_tenant() {
    const GET: u8 = 0x00;
    const SET: u8 = 0x01;
    const SASL_AUTH: u8 = 0x21;
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), &["-S"]);
    let (mut anna, mut bert) = (server.client(), server.client());
    assert_eq!(ask(&mut anna, &frame(GET, &[], b"key", &[])).0, 0x20);
    assert_eq!(ask(&mut anna, &frame(SASL_AUTH, &[], b"PLAIN", b"\0anna\0wrong")).0, 0x20);
    assert_eq!(ask(&mut anna, &frame(SASL_AUTH, &[], b"PLAIN", b"\0anna\0secret")).0, 0);
    assert_eq!(ask(&mut bert, &frame(SASL_AUTH, &[], b"PLAIN", b"\0bert\0other")).0, 0);
    assert_eq!(ask(&mut anna, &frame(SET, &[0; 8], b"key", b"shop")).0, 0);
    assert_eq!(ask(&mut bert, &frame(GET, &[], b"key", &[])).0, 1);
    let (status, body) = ask(&mut anna, &frame(GET, &[], b"key", &[]));
    assert_eq!((status, &body[4..]), (0, b"shop".as_slice()));
}

/// Writes a certificate for localhost that vouches for itself, and its key.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()
}

/// A connection of a client that trusts this certificate only.
fn connect(port: u16, trusted: &CertificateDer<'static>) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = StreamOwned::new(
        ClientConnection::new(Arc::new(config), name).unwrap(),
        TcpStream::connect(("127.0.0.1", port))?,
    );
    stream.write_all(b"mn\r\n")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"MN\r\n");
    Ok(stream)
}

#[test]
fn certificates_are_read_again_and_bad_ones_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let first = certify(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let options = format!("ssl_chain_cert={},ssl_key={}", path("chain.pem"), path("key.pem"));
    let server = Server::start(0, &["-Z", "-o", &options]);
    let mut old = connect(server.port, &first).unwrap();
    let second = certify(folder.path());
    assert!(connect(server.port, &second).is_err(), "nobody has asked for the new one yet");
    old.write_all(b"refresh_certs\r\n").unwrap();
    let mut answer = [0; 4];
    old.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"OK\r\n");
    connect(server.port, &second).unwrap();
    assert!(connect(server.port, &first).is_err());
    std::fs::write(folder.path().join("key.pem"), "no key").unwrap();
    old.write_all(b"refresh_certs\r\nmn\r\n").unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"MN\r\n") {
        let mut some = [0; 512];
        let read = old.read(&mut some).unwrap();
        assert!(read > 0);
        said.extend_from_slice(&some[..read]);
    }
    assert!(!said.starts_with(b"OK"), "{}", String::from_utf8_lossy(&said));
    connect(server.port, &second).unwrap();
}
