//! Flags of the meta commands: mg ms md ma me, as memcached 1.6.45 takes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::command::{KEY_BYTES_MAX, Keys};

/// Longest opaque token, its flag letter counted in.
const OPAQUE_BYTES_MAX: usize = 32;
/// Most words of a line.
const WORDS_MAX: usize = 20;

/// Which meta command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetaVerb {
    /// mg.
    Get,
    /// md.
    Delete,
    /// ma.
    Arithmetic,
    /// me.
    Debug,
}

/// What the flags of a meta command say. Tokens that are answered are kept in their order in [`Meta::words`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta<'b> {
    /// The key as it is on the line.
    pub key: &'b [u8],
    /// Every word behind key and length.
    pub words: Keys<'b>,
    /// b: the key is base64.
    pub base64: bool,
    /// q: no answer for the usual outcome.
    pub quiet: bool,
    /// v: the value is wanted.
    pub value: bool,
    /// u: the access is not noted.
    pub unnoted: bool,
    /// I.
    pub invalidate: bool,
    /// x: the value goes, the item stays.
    pub blank: bool,
    /// T: new expiry, as the client states it.
    pub ttl: Option<i32>,
    /// N: create what is not there, with this expiry.
    pub create: Option<i32>,
    /// R: win if less than this is left.
    pub recache: Option<i32>,
    /// C: compare.
    pub compare: Option<u64>,
    /// E: the new unique.
    pub unique: Option<u64>,
    /// F: client flags.
    pub client_flags: u32,
    /// M: mode letter; 0 if there is none.
    pub mode: u8,
    /// J: first number.
    pub initial: u64,
    /// D: change.
    pub delta: u64,
}

fn number<T: std::str::FromStr>(token: &[u8]) -> Option<T> {
    std::str::from_utf8(token).ok()?.parse().ok()
}

const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";

impl<'b> Meta<'b> {
    /// Reads the flags. The error is the line to answer with.
    pub fn parse(key: &'b [u8], words: Keys<'b>) -> Result<Meta<'b>, &'static str> {
        let mut meta = Meta {
            key,
            words,
            base64: false,
            quiet: false,
            value: false,
            unnoted: false,
            invalidate: false,
            blank: false,
            ttl: None,
            create: None,
            recache: None,
            compare: None,
            unique: None,
            client_flags: 0,
            mode: 0,
            initial: 0,
            delta: 1,
        };
        if key.len() > KEY_BYTES_MAX {
            return Err("CLIENT_ERROR bad command line format");
        }
        let mut seen = 0u128;
        let mut error = None;
        for (count, word) in words.enumerate() {
            if count + 2 >= WORDS_MAX {
                return Err("CLIENT_ERROR options flags are too long");
            }
            let (flag, token) = (word[0], &word[1..]);
            if flag >= 127 || seen >> flag & 1 == 1 {
                return Err("CLIENT_ERROR duplicate flag");
            }
            seen |= 1 << flag;
            if let Err(line) = meta.take(flag, token)? {
                error = Some(line);
            }
        }
        error.map_or(Ok(meta), Err)
    }

    /// Takes one flag. The outer error ends parsing; an inner one is told after the flags behind it were looked at.
    fn take(&mut self, flag: u8, token: &[u8]) -> Result<Result<(), &'static str>, &'static str> {
        fn set<T: std::str::FromStr>(place: &mut Option<T>, token: &[u8]) -> Result<(), &'static str> {
            *place = Some(number(token).ok_or(BAD_TOKEN)?);
            Ok(())
        }
        let taken = match flag {
            b'b' => {
                self.base64 = true;
                let mut decoded = [0; KEY_BYTES_MAX];
                self.key_in(&mut decoded).map(drop).ok_or("CLIENT_ERROR error decoding key")
            }
            b'N' => set(&mut self.create, token),
            b'T' => set(&mut self.ttl, token),
            b'R' => set(&mut self.recache, token),
            b'C' => set(&mut self.compare, token),
            b'E' => set(&mut self.unique, token),
            b'F' => number(token).map(|flags| self.client_flags = flags).ok_or("CLIENT_ERROR bad command line format"),
            b'J' => number(token).map(|first| self.initial = first).ok_or("CLIENT_ERROR invalid numeric initial value"),
            b'D' => number(token).map(|delta| self.delta = delta).ok_or("CLIENT_ERROR invalid numeric delta value"),
            b'M' => {
                self.mode = token.first().copied().unwrap_or(b' ');
                Ok(())
            }
            b'O' if token.len() >= OPAQUE_BYTES_MAX => Err("CLIENT_ERROR opaque token too long"),
            b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'l' | b'h' => Ok(()),
            b'v' => {
                self.value = true;
                Ok(())
            }
            b'u' => {
                self.unnoted = true;
                Ok(())
            }
            b'q' => {
                self.quiet = true;
                Ok(())
            }
            b'x' => {
                self.blank = true;
                Ok(())
            }
            b'I' => {
                self.invalidate = true;
                Ok(())
            }
            _ => return Err("CLIENT_ERROR invalid flag"),
        };
        Ok(taken)
    }

    /// The key itself: what is on the line, or what it decodes to. None if it does not decode.
    pub fn key_in<'k>(&self, decoded: &'k mut [u8; KEY_BYTES_MAX]) -> Option<&'k [u8]>
    where
        'b: 'k,
    {
        if !self.base64 {
            return Some(self.key);
        }
        let len = STANDARD.decode_slice(self.key, decoded).ok().filter(|len| *len > 0)?;
        Some(&decoded[..len])
    }

    /// Spells the tokens that are copied back whatever the outcome: opaque and key.
    pub fn echo(&self, word: &[u8], out: &mut Vec<u8>) {
        match word[0] {
            b'O' => {
                out.push(b' ');
                out.extend_from_slice(word);
            }
            b'k' => {
                out.extend_from_slice(b" k");
                out.extend_from_slice(self.key);
                if self.base64 {
                    out.extend_from_slice(b" b");
                }
            }
            _ => {}
        }
    }

    /// Spells a line of a status and what is copied back.
    pub fn status_line(&self, status: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(status.as_bytes());
        self.words.for_each(|word| self.echo(word, out));
        out.extend_from_slice(b"\r\n");
    }
}

/// A key in base64, as the flag b takes it.
pub fn encoded(key: &[u8]) -> String {
    STANDARD.encode(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_they_mean() {
        let meta = Meta::parse(b"Zm9v", Keys(b" b v q T30 N-1 C18446744073709551615 F7 ME Oabc k")).unwrap();
        assert_eq!((meta.key_in(&mut [0; KEY_BYTES_MAX]), meta.value, meta.quiet), (Some(&b"foo"[..]), true, true));
        assert_eq!((meta.ttl, meta.create, meta.compare), (Some(30), Some(-1), Some(u64::MAX)));
        assert_eq!((meta.client_flags, meta.mode), (7, b'E'));
        let mut out = Vec::new();
        meta.status_line("HD", &mut out);
        assert_eq!(out, b"HD Oabc kZm9v b\r\n");
    }

    #[test]
    fn errors_are_memcacheds() {
        let error = |words: &'static [u8]| Meta::parse(b"key", Keys(words)).unwrap_err();
        assert_eq!(error(b" v v"), "CLIENT_ERROR duplicate flag");
        assert_eq!(error(b" !"), "CLIENT_ERROR invalid flag");
        assert_eq!(error(b" Tx"), BAD_TOKEN);
        assert_eq!(error(b" b"), "CLIENT_ERROR error decoding key");
        assert_eq!(error(b" Dx"), "CLIENT_ERROR invalid numeric delta value");
        assert_eq!(error(b" O01234567890123456789012345678901"), "CLIENT_ERROR opaque token too long");
        assert_eq!(error(b" a b c d e f g h i j k l m n o p q r s t u v"), "CLIENT_ERROR invalid flag");
    }
}
