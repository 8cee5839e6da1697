//! The null server, which benches compare with: the same drivers, and answers without a look.

use super::Connection;

impl Connection {
    /// The null server: a value of 100 bytes for each key that a line asks for, without a look at it.
    pub(super) fn answer_fixed(&mut self, input: &[u8]) {
        const VALUE: [u8; 100] = [b'0'; 100];
        while let Some(end) = memchr::memchr(b'\n', &input[self.used..]) {
            let line = &input[self.used..self.used + end];
            let (first, keys) = (line[0], line.iter().filter(|byte| **byte == b' ').count());
            self.used += end + 1;
            let out = self.replies.out();
            match first {
                b'g' => {
                    for _ in 0..keys {
                        out.extend_from_slice(b"VALUE key:0000000000000000 0 100\r\n");
                        out.extend_from_slice(&VALUE);
                        out.extend_from_slice(b"\r\n");
                    }
                    out.extend_from_slice(b"END\r\n");
                }
                b'm' if keys > 0 => {
                    out.extend_from_slice(b"VA 100\r\n");
                    out.extend_from_slice(&VALUE);
                    out.extend_from_slice(b"\r\n");
                }
                b'm' => out.extend_from_slice(b"MN\r\n"),
                _ => {}
            }
        }
    }
}
