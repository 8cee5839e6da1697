//! Bytes on their way out: what is under way stays at its place in memory while more is put behind it.

/// Capacity beyond which an empty buffer gives its memory back.
const KEPT_BYTES: usize = 24 << 10;

#[derive(Default)]
pub(crate) struct Output {
    /// Behind what is under way.
    ready: Vec<u8>,
    /// Under way: unchanged until all of it is sent.
    leaving: Vec<u8>,
    /// Bytes of it that are sent.
    sent: usize,
}

impl Output {
    /// Where more is put.
    pub(crate) fn ready(&mut self) -> &mut Vec<u8> {
        &mut self.ready
    }

    /// Whether there is anything that has not even begun to leave.
    pub(crate) fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Bytes to send now. They stay where they are, unchanged, until [`Output::note_sent`] was told of all of them.
    pub(crate) fn leaving(&mut self) -> &[u8] {
        if self.leaving.is_empty() {
            std::mem::swap(&mut self.leaving, &mut self.ready);
        }
        &self.leaving[self.sent..]
    }

    /// Bytes that are not sent yet.
    pub(crate) fn unsent(&self) -> usize {
        self.ready.len() + self.leaving.len() - self.sent
    }

    /// So many of the bytes that are leaving were sent.
    pub(crate) fn note_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.leaving.len() {
            self.sent = 0;
            self.leaving.clear();
            if self.leaving.capacity() > KEPT_BYTES {
                self.leaving = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_leaving_stays_where_it_is() {
        let mut output = Output::default();
        output.ready().extend_from_slice(b"first");
        let at = output.leaving().as_ptr();
        output.ready().extend_from_slice(&[b'x'; 10_000]);
        assert_eq!(output.leaving().as_ptr(), at);
        assert_eq!(output.leaving(), b"first");
        output.note_sent(2);
        assert_eq!(output.unsent(), 10_003);
        assert_eq!(output.leaving(), b"rst");
        output.note_sent(3);
        assert_eq!(output.leaving().len(), 10_000);
        assert!(!output.has_more());
    }
}
