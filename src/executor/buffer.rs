//! The kept part of a stream: its head and its tail.
//!
//! Its memory is bounded whatever is pushed. Deliberately ignorant of lines and of text: a stream of
//! bytes without a newline is as good as any.

use std::collections::VecDeque;

/// The head and the tail of a stream.
#[derive(Debug)]
pub struct HeadTail {
    head: Vec<u8>,
    head_limit: usize,
    tail: VecDeque<u8>,
    tail_limit: usize,
    total: u64,
}

/// A piece of the stream, as far as it is still kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many bytes were asked for and are no longer there, before `bytes`.
    pub skipped: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Where to go on.
    pub next: u64,
}

impl HeadTail {
    /// Keeps at most `limit` bytes, one half from each end.
    pub fn new(limit: usize) -> Self {
        let head_limit = limit / 2;
        Self { head: Vec::new(), head_limit, tail: VecDeque::new(), tail_limit: limit - head_limit, total: 0 }
    }

    /// All bytes so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The bytes that are kept.
    pub fn kept(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (to_head, rest) = bytes.split_at(bytes.len().min(self.head_limit - self.head.len()));
        self.head.extend_from_slice(to_head);
        let rest = &rest[rest.len().saturating_sub(self.tail_limit)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.tail_limit);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// What is kept, with a line where it was cut.
    pub fn text(&self) -> Vec<u8> {
        let mut text = self.head.clone();
        let cut = self.total - self.kept();
        if cut > 0 {
            text.extend_from_slice(cut_line(&self.head, cut).as_bytes());
        }
        let (front, back) = self.tail.as_slices();
        text.extend_from_slice(front);
        text.extend_from_slice(back);
        text
    }

    /// The next piece of what is kept of the stream from its byte `from` on, of at most `longest` bytes.
    pub fn since(&self, from: u64, longest: usize) -> Piece {
        let tail_begin = self.total - self.tail.len() as u64;
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        if from < self.head.len() as u64 {
            // What follows the head is told in the next piece, so that a gap is always in front.
            let rest = &self.head[at(from)..];
            let bytes = rest[..rest.len().min(longest)].to_vec();
            return Piece { skipped: 0, next: from + bytes.len() as u64, bytes };
        }
        let begin = from.clamp(tail_begin, self.total);
        let first = at(begin - tail_begin);
        let bytes: Vec<u8> =
            self.tail.range(first..self.tail.len().min(first.saturating_add(longest))).copied().collect();
        Piece { skipped: begin.saturating_sub(from), next: begin + bytes.len() as u64, bytes }
    }
}

/// The line that stands where `cut` bytes are missing, after `before`.
pub fn cut_line(before: &[u8], cut: u64) -> String {
    let newline = if before.is_empty() || before.ends_with(b"\n") { "" } else { "\n" };
    format!("{newline}… {cut} bytes cut …\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keeps_both_ends_and_says_what_is_missing() {
        let mut buffer = HeadTail::new(8);
        buffer.push(b"0123456789abcdef");
        assert_eq!(String::from_utf8(buffer.text()).unwrap(), "0123\n… 8 bytes cut …\ncdef");
        assert_eq!((buffer.total(), buffer.kept()), (16, 8));
        assert_eq!(buffer.since(0, 9), Piece { skipped: 0, bytes: b"0123".to_vec(), next: 4 });
        assert_eq!(buffer.since(4, 4), Piece { skipped: 8, bytes: b"cdef".to_vec(), next: 16 });
        assert_eq!(buffer.since(16, 9), Piece { skipped: 0, bytes: vec![], next: 16 });
    }

    proptest! {
        #[test]
        fn is_the_whole_or_its_ends(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..12), limit in 0_usize..64, longest in 1_usize..70) {
            let mut buffer = HeadTail::new(limit);
            let mut followed = Vec::new();
            let mut next = 0;
            for chunk in &chunks {
                buffer.push(chunk);
                loop {
                    let piece = buffer.since(next, longest);
                    prop_assert!(piece.bytes.len() <= longest);
                    prop_assert_eq!(piece.next, next + piece.skipped + piece.bytes.len() as u64);
                    if piece.next == next { break; }
                    followed.extend(vec![None; usize::try_from(piece.skipped).unwrap()]);
                    followed.extend(piece.bytes.into_iter().map(Some));
                    next = piece.next;
                }
            }
            let whole = chunks.concat();
            prop_assert_eq!(followed.len(), whole.len());
            prop_assert!(followed.iter().zip(&whole).all(|(kept, byte)| kept.is_none_or(|kept| kept == *byte)));
            prop_assert_eq!(buffer.total(), whole.len() as u64);
            prop_assert!(buffer.kept() <= limit as u64);
            if whole.len() <= limit {
                prop_assert_eq!(buffer.text(), whole);
            } else {
                let text = buffer.text();
                let head = limit / 2;
                prop_assert!(text.starts_with(&whole[..head]));
                prop_assert!(text.ends_with(&whole[whole.len() - (limit - head)..]));
            }
        }
    }
}
