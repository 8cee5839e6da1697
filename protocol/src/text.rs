//! The classic text dialect: lines in, lines out, to the letter of memcached's doc/protocol.txt and proto_text.c (1.6.45).

use std::io::Write as _;

use crate::MetaVerb;
use crate::command::{KEY_BYTES_MAX, Keys, Reply, Request, Store, StoreVerb, VALUE_BYTES_STATED_MAX, word_end};

const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument";
/// Bytes without a line end after which only a multiget may go on.
const LINE_BYTES_MAX: usize = 2048;
/// Longest line of a multiget.
pub const MULTIGET_BYTES_MAX: usize = 1 << 20;
/// Most words of a line that is no get.
const WORDS_MAX: usize = 24;

/// What the bytes received so far hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed<'b> {
    /// No line end yet.
    Incomplete,
    /// No line of ours: close the connection.
    Hopeless,
    /// A request in the first `usize` bytes.
    Line(Request<'b>, usize),
}

/// Parses the first line of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return unfinished(bytes) };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    match parse_line(line) {
        // a browser or a scanner: it would go on with headers, each an error
        Request::Refused { line: "ERROR", .. } if is_http(line) => Parsed::Hopeless,
        request => Parsed::Line(request, end + 1),
    }
}

/// What a glance at a request tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glance<'b> {
    /// Its (first) key, if it reads or stores one.
    pub key: Option<&'b [u8]>,
    /// It is a get of that key alone, or an mg: [`parse`] would say the same. All of it has come, and the key fits.
    pub is_certain: bool,
    /// Bytes up to the next request.
    pub bytes: usize,
}

/// Glances at the request that begins `bytes`, without judging it unless it is a get of one key or an mg. None if what is asked for is not to be seen,
/// or has not come.
#[inline]
pub fn glance(bytes: &[u8]) -> Option<Glance<'_>> {
    if let Some(rest) = bytes.strip_prefix(b"get ") {
        let len = word_end(rest)?;
        let end = match rest[len..] {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => 0,
        };
        if end > 0 && (1..=KEY_BYTES_MAX).contains(&len) {
            return Some(Glance { key: Some(&rest[..len]), is_certain: true, bytes: 4 + len + end });
        }
    } else if let Some(rest) = bytes.strip_prefix(b"mg ") {
        let len = word_end(rest)?;
        let (key, tail) = rest.split_at(len);
        // flags are few and short: what a vector search takes to begin is longer than most of them
        let end = tail.iter().position(|byte| *byte == b'\n')?;
        let words = tail[..end].strip_suffix(b"\r").unwrap_or(&tail[..end]);
        if (1..=KEY_BYTES_MAX).contains(&len) && words.first().is_none_or(|byte| *byte == b' ') {
            return Some(Glance { key: Some(key), is_certain: true, bytes: 3 + len + end + 1 });
        }
    }
    glance_at_line(bytes)
}

fn glance_at_line(bytes: &[u8]) -> Option<Glance<'_>> {
    let end = memchr::memchr(b'\n', bytes)?;
    let (verb, rest) = match bytes {
        [b'g', b'e', b't', b' ', rest @ ..] => (b'g', rest),
        [b'm', b'g', b' ', rest @ ..] => (b'g', rest),
        [b's', b'e', b't', b' ', rest @ ..] => (b's', rest),
        _ => return Some(Glance { key: None, is_certain: false, bytes: end + 1 }),
    };
    let line = &rest[..end - (bytes.len() - rest.len())];
    let key = Some(&line[..word_end(line).unwrap_or(line.len())]);
    if verb == b'g' {
        return Some(Glance { key, is_certain: false, bytes: end + 1 });
    }
    let stated = Keys(line).nth(3)?.trim_ascii_end();
    let value = stated.iter().try_fold(0usize, |sum, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(usize::from(digit))
    })?;
    Some(Glance { key, is_certain: false, bytes: (end + 1).checked_add(value)?.checked_add(2)? })
}

fn is_http(line: &[u8]) -> bool {
    line.rsplit(|byte| *byte == b' ').next().is_some_and(|word| word.starts_with(b"HTTP/"))
}

fn unfinished(bytes: &[u8]) -> Parsed<'_> {
    if bytes.len() <= LINE_BYTES_MAX {
        return Parsed::Incomplete;
    }
    let start = bytes.iter().position(|byte| *byte != b' ').unwrap_or(bytes.len());
    let is_get = start <= 100 && [&b"get "[..], b"gets "].iter().any(|verb| bytes[start..].starts_with(verb));
    if is_get && bytes.len() <= MULTIGET_BYTES_MAX { Parsed::Incomplete } else { Parsed::Hopeless }
}

fn refused(line: &'static str) -> Request<'static> {
    Request::Refused { line, skip: 0, reply: Reply::Wanted }
}

fn parse_line(line: &[u8]) -> Request<'_> {
    if line.len() < 2 {
        return refused(BAD_FORMAT);
    }
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (verb, rest) = (&line[..end], Keys(&line[end..]));
    match verb {
        b"get" => get(rest, false, None),
        b"gets" => get(rest, true, None),
        b"gat" => get_and_touch(rest, false),
        b"gats" => get_and_touch(rest, true),
        b"set" => store(rest, StoreVerb::Set),
        b"add" => store(rest, StoreVerb::Add),
        b"replace" => store(rest, StoreVerb::Replace),
        b"append" => store(rest, StoreVerb::Append),
        b"prepend" => store(rest, StoreVerb::Prepend),
        b"cas" => store(rest, StoreVerb::Cas(0)),
        b"incr" => arithmetic(rest, true),
        b"decr" => arithmetic(rest, false),
        b"delete" => delete(rest),
        b"touch" => touch(rest),
        b"flush_all" => flush_all(rest),
        b"mg" => meta(MetaVerb::Get, rest),
        b"ms" => meta_store(rest),
        b"md" => meta(MetaVerb::Delete, rest),
        b"ma" => meta(MetaVerb::Arithmetic, rest),
        b"me" => meta(MetaVerb::Debug, rest),
        b"mn" => Request::MetaNoOp,
        b"verbosity" | b"shutdown" | b"slabs" | b"lru" | b"lru_crawler" | b"cache_memlimit" | b"watch"
        | b"extstore" | b"refresh_certs" | b"debugtime" | b"misbehave" => Request::Operator(Keys(line), words(rest).2),
        b"version" => Request::Version,
        b"quit" => Request::Quit,
        b"stats" => Request::Stats(rest.0.trim_ascii()),
        _ => refused("ERROR"),
    }
}

/// The words behind a verb, in a row of fixed size, how many there are but for `noreply`, and whether that is the last. Words
/// beyond those that a command knows are ignored, as in memcached.
fn words<'b>(rest: Keys<'b>) -> ([&'b [u8]; WORDS_MAX], usize, Reply) {
    let mut row: [&[u8]; WORDS_MAX] = [b""; WORDS_MAX];
    let mut count = 0;
    for word in rest.take(WORDS_MAX) {
        row[count] = word;
        count += 1;
    }
    let silent = count > 0 && row[count - 1] == b"noreply";
    (row, count - usize::from(silent), if silent { Reply::Silent } else { Reply::Wanted })
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn refuse(line: &'static str, reply: Reply) -> Request<'static> {
    Request::Refused { line, skip: 0, reply }
}

fn get(keys: Keys<'_>, with_cas: bool, touch: Option<i64>) -> Request<'_> {
    let mut keys_seen = 0;
    let fit = keys.inspect(|_| keys_seen += 1).all(|key| key.len() <= KEY_BYTES_MAX);
    if fit && keys_seen > 0 { Request::Get { keys, with_cas, touch } } else { refused(BAD_FORMAT) }
}

fn get_and_touch(mut rest: Keys<'_>, with_cas: bool) -> Request<'_> {
    let exptime = rest.next();
    if rest.clone().next().is_none() {
        return refused(BAD_FORMAT);
    }
    match exptime.and_then(number) {
        Some(exptime) => get(rest, with_cas, Some(exptime)),
        None => refused(BAD_EXPTIME),
    }
}

fn store(rest: Keys<'_>, verb: StoreVerb) -> Request<'_> {
    let (row, count, reply) = words(rest);
    let wanted = if matches!(verb, StoreVerb::Cas(_)) { 5 } else { 4 };
    // what follows a refused line is skipped if its length can be made out
    let stated = number::<i64>(row[3]).filter(|bytes| (0..=VALUE_BYTES_STATED_MAX).contains(bytes));
    let refuse = || Request::Refused { line: BAD_FORMAT, skip: stated.map_or(0, |bytes| bytes as usize + 2), reply };
    if count < wanted {
        return refuse();
    }
    let fields = (number(row[1]), number(row[2]), stated);
    let (Some(client_flags), Some(exptime), Some(bytes)) = fields else { return refuse() };
    let verb = match verb {
        StoreVerb::Cas(_) => match number(row[4]) {
            Some(unique) => StoreVerb::Cas(unique),
            None => return refuse(),
        },
        verb => verb,
    };
    if row[0].len() > KEY_BYTES_MAX {
        return refuse();
    }
    Request::Store(Store { verb, key: row[0], client_flags, exptime, bytes: bytes as usize, reply })
}

/// The key of a command that takes `count` words, if it is there and fits.
fn checked_key<'b>(row: &[&'b [u8]; WORDS_MAX], count: usize, wanted: usize) -> Option<&'b [u8]> {
    (count >= wanted && row[0].len() <= KEY_BYTES_MAX).then_some(row[0])
}

fn arithmetic(rest: Keys<'_>, up: bool) -> Request<'_> {
    let (row, count, reply) = words(rest);
    let Some(key) = checked_key(&row, count, 2) else { return refuse(BAD_FORMAT, reply) };
    match number(row[1]) {
        Some(delta) => Request::Arithmetic { key, up, delta, reply },
        None => refuse("CLIENT_ERROR invalid numeric delta argument", reply),
    }
}

fn delete(rest: Keys<'_>) -> Request<'_> {
    let (row, count, reply) = words(rest);
    checked_key(&row, count, 1).map_or_else(|| refuse(BAD_FORMAT, reply), |key| Request::Delete(key, reply))
}

fn touch(rest: Keys<'_>) -> Request<'_> {
    let (row, count, reply) = words(rest);
    let Some(key) = checked_key(&row, count, 2) else { return refuse(BAD_FORMAT, reply) };
    match number(row[1]) {
        Some(exptime) => Request::Touch { key, exptime, reply },
        None => refuse(BAD_EXPTIME, reply),
    }
}

fn flush_all(rest: Keys<'_>) -> Request<'_> {
    let (row, count, reply) = words(rest);
    match (count, number(row[0])) {
        (0, _) => Request::FlushAll(0, reply),
        (_, Some(delay)) => Request::FlushAll(delay, reply),
        (_, None) => refuse(BAD_EXPTIME, reply),
    }
}

fn meta(verb: MetaVerb, mut rest: Keys<'_>) -> Request<'_> {
    rest.next().map_or_else(|| refused(BAD_FORMAT), |key| Request::Meta(verb, key, rest))
}

fn meta_store(mut rest: Keys<'_>) -> Request<'_> {
    let (Some(key), Some(bytes)) = (rest.next(), rest.next()) else { return refused(BAD_FORMAT) };
    match number::<i64>(bytes).filter(|bytes| (0..=VALUE_BYTES_STATED_MAX).contains(bytes)) {
        Some(bytes) => Request::MetaStore(key, bytes as usize, rest),
        None => refused(BAD_FORMAT),
    }
}

/// Spells `VALUE key flags bytes [unique]` and the line's end.
#[inline]
pub fn value_header(out: &mut Vec<u8>, key: &[u8], client_flags: u32, bytes: usize, unique: Option<u64>) {
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    if client_flags == 0 {
        out.extend_from_slice(b" 0 ");
    } else {
        out.push(b' ');
        out.extend_from_slice(digits.format(client_flags).as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(digits.format(bytes).as_bytes());
    if let Some(unique) = unique {
        out.push(b' ');
        out.extend_from_slice(digits.format(unique).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Spells a line.
pub fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Spells a number on a line of its own.
pub fn number_line(out: &mut Vec<u8>, number: u64) {
    line(out, itoa::Buffer::new().format(number));
}

/// Spells a line of stats.
pub fn stat(out: &mut Vec<u8>, key: impl std::fmt::Display, value: impl std::fmt::Display) {
    let _ = write!(out, "STAT {key} {value}\r\n"); // a vector takes all that it is given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Request<'_> {
        match parse(line.as_bytes()) {
            Parsed::Line(request, used) => {
                assert_eq!(used, line.len());
                request
            }
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn error(text: &str) -> (&'static str, usize, Reply) {
        match request(text) {
            Request::Refused { line, skip, reply } => (line, skip, reply),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn every_command_parses() {
        let Request::Get { keys, with_cas, touch } = request("gets a  bb \r\n") else { panic!() };
        assert_eq!((keys.collect::<Vec<_>>(), with_cas, touch), (vec![&b"a"[..], b"bb"], true, None));
        assert!(matches!(request("gat 10 a\n"), Request::Get { touch: Some(10), with_cas: false, .. }));
        let expected =
            Store { verb: StoreVerb::Cas(9), key: b"k", client_flags: 1, exptime: -1, bytes: 3, reply: Reply::Silent };
        assert_eq!(request("cas k 1 -1 3 9 noreply\r\n"), Request::Store(expected));
        assert!(matches!(
            request("incr k 18446744073709551615\r\n"),
            Request::Arithmetic { delta: u64::MAX, up: true, .. }
        ));
        assert_eq!(request("delete k noreply\r\n"), Request::Delete(b"k", Reply::Silent));
        assert_eq!(request("delete k 0\r\n"), Request::Delete(b"k", Reply::Wanted));
        assert_eq!(request("flush_all 5\r\n"), Request::FlushAll(5, Reply::Wanted));
        assert_eq!(request("stats items\r\n"), Request::Stats(b"items"));
        assert_eq!(request("version\r\n"), Request::Version);
    }

    #[test]
    fn a_glance_sees_what_a_parser_would() {
        let seen = |text: &'static str| {
            let glance = glance(text.as_bytes()).unwrap();
            (std::str::from_utf8(glance.key.unwrap()).unwrap(), glance.is_certain, glance.bytes)
        };
        assert_eq!(seen("get a\r\nget b\r\n"), ("a", true, 7));
        assert_eq!(seen("get key-of-more-than-eight-bytes\n"), ("key-of-more-than-eight-bytes", true, 33));
        assert_eq!(seen("mg a v\r\nmn\r\n"), ("a", true, 8));
        assert_eq!(seen("mg key-of-more-than-eight-bytes\n"), ("key-of-more-than-eight-bytes", true, 32));
        for (other, key) in [
            ("get a b\r\n", "a"),
            ("get a \r\n", "a"),
            ("get a\tb\r\n", "a"),
            ("get  a\r\n", ""),
            ("mg  a v\r\n", ""),
            ("mg a\tb v\r\n", "a"),
        ] {
            assert_eq!(seen(other), (key, false, other.len()), "{other:?}");
        }
        assert_eq!(seen("set a 0 0 3\r\nabc\r\nget b\r\n"), ("a", false, 18));
        assert_eq!(glance(b"get a"), None);
        assert_eq!(glance(b"get a\r"), None);
        assert_eq!(glance(b"mg a v\r"), None);
        for verb in ["get", "mg"] {
            let long = format!("{verb} {}\r\n", "k".repeat(251));
            assert!(!glance(long.as_bytes()).unwrap().is_certain, "{verb}");
        }
    }

    #[test]
    fn errors_are_memcacheds() {
        let long = "k".repeat(251);
        assert_eq!(error("bogus\r\n").0, "ERROR");
        assert_eq!(error("  get a\r\n").0, "ERROR");
        for line in [
            "\r\n",
            "x\r\n",
            "get\r\n",
            "gat\r\n",
            "gat 1\r\n",
            "set a 0 0\r\n",
            "incr k\r\n",
            "delete\r\n",
            "touch k\r\n",
        ] {
            assert_eq!(error(line).0, BAD_FORMAT, "{line:?}");
        }
        assert_eq!(error(&format!("get {long}\r\n")).0, BAD_FORMAT);
        assert_eq!(error("set k 0 0 -1\r\n").0, BAD_FORMAT);
        assert_eq!(error("set k abc 0 5\r\n"), (BAD_FORMAT, 7, Reply::Wanted));
        assert_eq!(error(&format!("set {long} 0 0 5 noreply\r\n")), (BAD_FORMAT, 7, Reply::Silent));
        assert_eq!(error("incr k x\r\n").0, "CLIENT_ERROR invalid numeric delta argument");
        assert_eq!(error("touch k x\r\n").0, BAD_EXPTIME);
        assert_eq!(request("delete k 5 words\r\n"), Request::Delete(b"k", Reply::Wanted));
    }

    #[test]
    fn lines_without_an_end_are_bounded() {
        assert_eq!(parse(b"get a"), Parsed::Incomplete);
        assert_eq!(parse(&vec![b'x'; 3000]), Parsed::Hopeless);
        let multiget = [&b"get "[..], &vec![b'k'; 5000]].concat();
        assert_eq!(parse(&multiget), Parsed::Incomplete);
        assert_eq!(parse(&[&b"get "[..], &vec![b'k'; MULTIGET_BYTES_MAX]].concat()), Parsed::Hopeless);
    }

    proptest::proptest! {
        #[test]
        fn what_a_glance_is_certain_of_a_parser_says_too(rest in "[ab \t\r\n\u{0}]{0,12}", verb in "(get|mg) ?") {
            let text = format!("{verb}{rest}");
            let Some(Glance { key: Some(seen), is_certain: true, bytes }) = glance(text.as_bytes()) else {
                return Ok(());
            };
            let Parsed::Line(request, line) = parse(text.as_bytes()) else { panic!("{text:?}") };
            assert_eq!(line, bytes, "{text:?}");
            match request {
                Request::Get { keys, with_cas: false, touch: None } => {
                    assert_eq!(keys.collect::<Vec<_>>(), [seen], "{text:?}");
                }
                // what stands behind the key, less the line's end, are the flags
                Request::Meta(MetaVerb::Get, key, words) => {
                    let rest = &text.as_bytes()[3 + seen.len()..line - 1];
                    let flags = Keys(rest.strip_suffix(b"\r").unwrap_or(rest));
                    assert_eq!((key, words.collect::<Vec<_>>()), (seen, flags.collect::<Vec<_>>()), "{text:?}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Parsed::Line(Request::Get { keys, .. }, _) = parse(&bytes) {
                assert!(keys.count() > 0);
            }
        }
    }
}
