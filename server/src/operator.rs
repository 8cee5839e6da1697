//! Commands of the operator's: what memcached lets one look at and turn while it runs.

use cache::Cache;
use protocol::{Keys, Reply};
use signal_hook::consts::SIGINT;

use crate::serve::Served;
use crate::session::{Connection, ListingStyle};
use crate::watch::topic_bits;

const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
/// Smallest memory in MiB that cache_memlimit takes.
const MEMLIMIT_MIB_MIN: u32 = 8;

fn number<T: std::str::FromStr>(word: Option<&[u8]>) -> Option<T> {
    std::str::from_utf8(word?).ok()?.parse().ok()
}

/// Serves a command; its words begin with the verb.
pub(crate) fn request(cache: &Cache, connection: &mut Connection, words: Keys<'_>, reply: Reply) -> Served {
    let mut row: Vec<&[u8]> = words.take(64).collect();
    row.truncate(row.len() - usize::from(reply == Reply::Silent));
    let word = |n: usize| row.get(n).copied();
    let line = match row[0] {
        b"verbosity" => match number(word(1)) {
            Some(level) => {
                connection.server().set_verbosity(level);
                "OK"
            }
            None => BAD_FORMAT,
        },
        b"cache_memlimit" => resize(cache, number(word(1))),
        b"shutdown" => match (connection.server().config.shutdown, word(1)) {
            (false, _) => "SERVER_ERROR: shutdown not enabled",
            (true, None | Some(b"graceful")) => {
                // the main thread stops the server as for any signal; without one (in a test) nothing happens
                let _ = signal_hook::low_level::raise(SIGINT);
                return Served::Close;
            }
            (true, Some(_)) => "CLIENT_ERROR invalid shutdown mode",
        },
        b"watch" => return watch(connection, &row[1..]),
        b"lru_crawler" => match (word(1), word(2), row.len()) {
            (Some(b"metadump"), Some(_), 3) => return list(cache, connection, ListingStyle::Metadump),
            (Some(b"mgdump"), Some(_), 3) => return list(cache, connection, ListingStyle::Mgdump),
            (Some(b"crawl" | b"tocrawl" | b"sleep"), Some(_), 3) | (Some(b"enable" | b"disable"), None, _) => "OK",
            _ => "ERROR",
        },
        b"slabs" => slabs(&row),
        b"lru" => match (word(1), row.len()) {
            (Some(b"tune"), 6..) | (Some(b"mode" | b"temp_ttl"), 3..) => "OK",
            _ => "ERROR",
        },
        b"extstore" if row.len() >= 3 => "OK",
        b"refresh_certs" => return refresh(connection),
        #[cfg(feature = "debugtime")]
        b"debugtime" => debug_time(cache, connection, word(1)),
        _ => "ERROR",
    };
    connection.reply(reply, line);
    Served::Done
}

#[cfg(feature = "debugtime")]
fn debug_time(cache: &Cache, connection: &Connection, word: Option<&[u8]>) -> &'static str {
    let time = connection.server().time();
    match (word, number(word)) {
        (Some(b"p"), _) => time.stop(true),
        (Some(b"r"), _) => time.stop(false),
        (_, Some(secs)) => time.move_by(secs),
        _ => return "ERROR",
    }
    cache.advance(connection.server().now());
    "OK"
}

fn resize(cache: &Cache, mib: Option<u32>) -> &'static str {
    match mib {
        None => "ERROR",
        Some(..MEMLIMIT_MIB_MIN) => "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m",
        Some(1_000_000_001..) => "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes",
        Some(mib) if cache.resize((mib as usize) << 20) => "OK",
        Some(_) => "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust",
    }
}

fn slabs(row: &[&[u8]]) -> &'static str {
    match (row.get(1).copied(), row.len()) {
        (Some(b"reassign"), 4) => match (number::<i32>(row.get(2).copied()), number::<i32>(row.get(3).copied())) {
            (Some(from), Some(to)) if from == to => "SAME src and dst class are identical",
            (Some(_), Some(_)) => "NOSPARE source class has no spare pages",
            _ => BAD_FORMAT,
        },
        (Some(b"automove"), 4..) if matches!(row[2], b"ratio" | b"freeratio" | b"window") => "OK",
        (Some(b"automove"), 3..) if number::<u32>(row.get(2).copied()).is_some() => "OK",
        (Some(b"automove"), _) => BAD_FORMAT,
        _ => "ERROR",
    }
}

fn watch(connection: &mut Connection, names: &[&[u8]]) -> Served {
    let topics = match names {
        [] => topic_bits(b"fetchers"),
        names => names.iter().try_fold(0, |topics, name| Some(topics | topic_bits(name)?)),
    };
    let line = match topics {
        _ if !connection.server().config.watch => "CLIENT_ERROR watch commands not allowed",
        _ if connection.has_output() => "ERROR cannot pipeline other commands before watch",
        None => "ERROR",
        Some(topics) => {
            connection.watch(topics);
            "OK"
        }
    };
    connection.reply(Reply::Wanted, line);
    Served::Done
}

fn list(cache: &Cache, connection: &mut Connection, style: ListingStyle) -> Served {
    let refused = if style == ListingStyle::Metadump { "metadump" } else { "key dump" };
    if !connection.server().config.dump {
        connection.reply(Reply::Wanted, &format!("ERROR {refused} not allowed"));
    } else if connection.has_output() {
        let name = if style == ListingStyle::Metadump { "metadump" } else { "mgdump" };
        connection.reply(Reply::Wanted, &format!("ERROR cannot pipeline other commands before {name}"));
    } else {
        connection.begin_listing(cache, style);
    }
    Served::Done
}

/// Reads certificates and users again.
fn refresh(connection: &mut Connection) -> Served {
    let server = std::sync::Arc::clone(connection.server());
    let refreshed =
        server.tls.as_ref().map_or(Ok(()), crate::tls::Tls::refresh).and_then(|()| server.reload_credentials());
    match refreshed {
        _ if server.tls.is_none() && !server.wants_auth() => connection.reply(Reply::Wanted, "ERROR"),
        Ok(()) => connection.reply(Reply::Wanted, "OK"),
        Err(error) => connection.reply(Reply::Wanted, &format!("SERVER_ERROR {error:#}")),
    }
    Served::Done
}
