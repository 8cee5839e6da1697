//! Commands of the operator's: what memcached lets one look at and turn while it runs.

use cache::Cache;
use protocol::{Keys, Reply};

use crate::serve::Served;
use crate::session::Connection;

const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";

fn number<T: std::str::FromStr>(word: Option<&[u8]>) -> Option<T> {
    std::str::from_utf8(word?).ok()?.parse().ok()
}

/// Serves a command; its words begin with the verb.
pub(crate) fn request(cache: &Cache, connection: &mut Connection, words: Keys<'_>, reply: Reply) -> Served {
    let row: Vec<&[u8]> = words.collect();
    let word = |n: usize| row.get(n).copied();
    let line = match row[0] {
        b"verbosity" => match number(word(1)) {
            Some(level) => {
                connection.server().set_verbosity(level);
                "OK"
            }
            None => BAD_FORMAT,
        },
        _ => "ERROR",
    };
    let _ = cache;
    connection.reply(reply, line);
    Served::Done
}
