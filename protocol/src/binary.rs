//! Binary frames: a header of 24 bytes, extras, key, value. After memcached's protocol_binary.h; numbers are big-endian.

/// First byte of a request.
pub const REQUEST_MAGIC: u8 = 0x80;
const RESPONSE_MAGIC: u8 = 0x81;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 24;

/// What a request asks for, apart from its quietness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "these are the opcodes of memcached's protocol, by their names")]
pub enum Command {
    Get { with_key: bool },
    GetAndTouch { with_key: bool },
    Touch,
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Delete,
    Increment,
    Decrement,
    Quit,
    Flush,
    NoOp,
    Version,
    Stat,
    Verbosity,
    SaslList,
    SaslAuth,
    SaslStep,
    Unknown,
}

impl Command {
    /// The command of an opcode, and whether its usual outcome goes unanswered.
    pub fn of(opcode: u8) -> (Command, bool) {
        use Command::{
            Add, Append, Decrement, Delete, Flush, Get, GetAndTouch, Increment, NoOp, Prepend, Quit, Replace,
        };
        use Command::{SaslAuth, SaslList, SaslStep, Set, Stat, Touch, Unknown, Verbosity, Version};
        match opcode {
            0x00 => (Get { with_key: false }, false),
            0x01 => (Set, false),
            0x02 => (Add, false),
            0x03 => (Replace, false),
            0x04 => (Delete, false),
            0x05 => (Increment, false),
            0x06 => (Decrement, false),
            0x07 => (Quit, false),
            0x08 => (Flush, false),
            0x09 => (Get { with_key: false }, true),
            0x0a => (NoOp, false),
            0x0b => (Version, false),
            0x0c => (Get { with_key: true }, false),
            0x0d => (Get { with_key: true }, true),
            0x0e => (Append, false),
            0x0f => (Prepend, false),
            0x10 => (Stat, false),
            0x11 => (Set, true),
            0x12 => (Add, true),
            0x13 => (Replace, true),
            0x14 => (Delete, true),
            0x15 => (Increment, true),
            0x16 => (Decrement, true),
            0x17 => (Quit, true),
            0x18 => (Flush, true),
            0x19 => (Append, true),
            0x1a => (Prepend, true),
            0x1b => (Verbosity, false),
            0x1c => (Touch, false),
            0x1d => (GetAndTouch { with_key: false }, false),
            0x1e => (GetAndTouch { with_key: false }, true),
            0x20 => (SaslList, false),
            0x21 => (SaslAuth, false),
            0x22 => (SaslStep, false),
            0x23 => (GetAndTouch { with_key: true }, false),
            0x24 => (GetAndTouch { with_key: true }, true),
            _ => (Unknown, false),
        }
    }

    /// Lengths that its extras may have.
    fn extras_bytes(self) -> &'static [u8] {
        match self {
            Command::Set | Command::Add | Command::Replace => &[8],
            Command::Increment | Command::Decrement => &[20],
            Command::Touch | Command::GetAndTouch { .. } | Command::Verbosity => &[4],
            Command::Flush => &[0, 4],
            _ => &[0],
        }
    }

    fn wants_key(self) -> Option<bool> {
        match self {
            Command::Quit
            | Command::Flush
            | Command::NoOp
            | Command::Version
            | Command::Verbosity
            | Command::SaslList => Some(false),
            Command::Stat | Command::Unknown => None,
            _ => Some(true),
        }
    }

    fn wants_value(self) -> bool {
        matches!(
            self,
            Command::Set
                | Command::Add
                | Command::Replace
                | Command::Append
                | Command::Prepend
                | Command::SaslAuth
                | Command::SaslStep
                | Command::Unknown
        )
    }
}

/// A request's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The opcode, copied to the answer.
    pub opcode: u8,
    /// Bytes of the key.
    pub key_bytes: usize,
    /// Bytes of the extras.
    pub extras_bytes: usize,
    /// Bytes of extras, key and value.
    pub body_bytes: usize,
    /// Copied to the answer.
    pub opaque: u32,
    /// Unique to compare; 0 for none.
    pub unique: u64,
}

impl Header {
    /// Reads a header; None if the bytes do not begin a request.
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        (bytes[0] == REQUEST_MAGIC).then(|| Header {
            opcode: bytes[1],
            key_bytes: usize::from(half(2)),
            extras_bytes: usize::from(bytes[4]),
            body_bytes: word(8) as usize,
            opaque: word(12),
            unique: u64::from_be_bytes(bytes[16..24].try_into().expect("eight bytes")),
        })
    }

    /// What it asks for.
    pub fn command(&self) -> (Command, bool) {
        Command::of(self.opcode)
    }

    /// Bytes of the value.
    pub fn value_bytes(&self) -> usize {
        self.body_bytes.saturating_sub(self.extras_bytes + self.key_bytes)
    }

    /// Whether the lengths are those of its command.
    pub fn is_sound(&self) -> bool {
        let (command, _) = self.command();
        let key_fits = self.key_bytes <= crate::KEY_BYTES_MAX
            && command.wants_key().is_none_or(|wanted| wanted == (self.key_bytes > 0));
        self.extras_bytes + self.key_bytes <= self.body_bytes
            && key_fits
            && (command == Command::Unknown || command.extras_bytes().contains(&(self.extras_bytes as u8)))
            && (command.wants_value() || self.value_bytes() == 0)
    }
}

/// A request whose body has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'b> {
    /// Its header.
    pub header: Header,
    /// Extras.
    pub extras: &'b [u8],
    /// Key.
    pub key: &'b [u8],
    /// Value.
    pub value: &'b [u8],
}

impl<'b> Frame<'b> {
    /// Divides a body; the header is sound.
    pub fn new(header: Header, body: &'b [u8]) -> Frame<'b> {
        let (extras, rest) = body.split_at(header.extras_bytes);
        let (key, value) = rest.split_at(header.key_bytes);
        Frame { header, extras, key, value }
    }

    /// The 32-bit number at byte `at` of the extras.
    pub fn extra(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.extras[at..at + 4].try_into().expect("four bytes"))
    }

    /// The 64-bit number at byte `at` of the extras.
    pub fn extra_long(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.extras[at..at + 8].try_into().expect("eight bytes"))
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
#[expect(missing_docs, reason = "these are the statuses of memcached's protocol, by their names")]
pub enum Status {
    Success = 0,
    NotFound = 1,
    Exists = 2,
    TooLarge = 3,
    Invalid = 4,
    NotStored = 5,
    NotANumber = 6,
    AuthFailed = 0x20,
    AuthContinue = 0x21,
    UnknownCommand = 0x81,
    OutOfMemory = 0x82,
    Busy = 0x85,
}

impl Status {
    /// What the body of an error says.
    pub fn text(self) -> &'static str {
        match self {
            Status::Success | Status::AuthContinue => "",
            Status::NotFound => "Not found",
            Status::Exists => "Data exists for key.",
            Status::TooLarge => "Too large.",
            Status::Invalid => "Invalid arguments",
            Status::NotStored => "Not stored.",
            Status::NotANumber => "Non-numeric server-side value for incr or decr",
            Status::AuthFailed => "Auth failure.",
            Status::UnknownCommand => "Unknown command",
            Status::OutOfMemory => "Out of memory",
            Status::Busy => "Busy: a limit is exceeded",
        }
    }
}

/// Spells the header of an answer.
pub fn response_header(
    out: &mut Vec<u8>,
    (opcode, opaque): (u8, u32),
    status: Status,
    (extras, key, value): (usize, usize, usize),
    unique: u64,
) {
    out.extend_from_slice(&[RESPONSE_MAGIC, opcode]);
    out.extend_from_slice(&(key as u16).to_be_bytes());
    out.extend_from_slice(&[extras as u8, 0]);
    out.extend_from_slice(&(status as u16).to_be_bytes());
    out.extend_from_slice(&((extras + key + value) as u32).to_be_bytes());
    out.extend_from_slice(&opaque.to_be_bytes());
    out.extend_from_slice(&unique.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: u8, key: u16, extras: u8, body: u32) -> Header {
        let mut bytes = [0; HEADER_BYTES];
        (bytes[0], bytes[1], bytes[4]) = (REQUEST_MAGIC, opcode, extras);
        bytes[2..4].copy_from_slice(&key.to_be_bytes());
        bytes[8..12].copy_from_slice(&body.to_be_bytes());
        bytes[12..16].copy_from_slice(&7u32.to_be_bytes());
        bytes[16..24].copy_from_slice(&9u64.to_be_bytes());
        Header::read(&bytes).unwrap()
    }

    #[test]
    fn a_header_gives_back_what_was_sent() {
        let set = header(0x11, 3, 8, 16);
        assert_eq!((set.command(), set.opaque, set.unique), ((Command::Set, true), 7, 9));
        assert!(set.is_sound());
        let frame = Frame::new(set, b"\0\0\0\x05\0\0\0\x09keyvalue"[..16].try_into().unwrap());
        assert_eq!((frame.extra(0), frame.extra(4), frame.key, frame.value), (5, 9, &b"key"[..], &b"value"[..]));
        assert!(Header::read(&[0x81; HEADER_BYTES]).is_none());
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        for unsound in [
            header(0x01, 3, 8, 10),
            header(0x01, 0, 8, 8),
            header(0x00, 3, 4, 7),
            header(0x00, 3, 0, 9),
            header(0x0a, 1, 0, 1),
            header(0x00, 251, 0, 251),
        ] {
            assert!(!unsound.is_sound(), "{unsound:?}");
        }
        assert!(
            header(0x08, 0, 4, 4).is_sound() && header(0x08, 0, 0, 0).is_sound() && header(0x10, 5, 0, 5).is_sound()
        );
    }
}
