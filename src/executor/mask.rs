//! Masking secrets in a stream of bytes.
//!
//! Every byte that belongs to an occurrence of a secret is covered, also where occurrences overlap; each
//! covered stretch shows as `***`. The result never depends on how the stream was cut into chunks: only an end that may still
//! become a secret is held back. Deliberately not a search by pattern: secrets are exact bytes.

/// What a secret shows as.
pub const MASK: &[u8] = b"***";
/// The shortest line of a secret of several lines that is masked by itself.
const SHORTEST_LINE: usize = 8;

/// The secrets of one run.
#[derive(Clone, Default)]
pub struct Secrets {
    // Longest first, so that the first that matches is the longest.
    all: Vec<Vec<u8>>,
    // Whether any of them begins with this byte.
    begins: Vec<bool>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(***)")
    }
}

impl Secrets {
    /// The secrets to mask: each value, and each long enough line of it.
    pub fn new<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> Self {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for value in values {
            let value = value.as_ref();
            let lines = value.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            all.extend(lines.filter(|line| line.len() >= SHORTEST_LINE).map(<[u8]>::to_vec));
            if !value.is_empty() {
                all.push(value.to_vec());
            }
        }
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        let mut begins = vec![false; 256];
        for secret in &all {
            if let Some(first) = secret.first() {
                begins[usize::from(*first)] = true;
            }
        }
        Self { all, begins }
    }

    /// A whole text, masked.
    pub fn mask(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut masker = Masker::new(self.clone());
        masker.push(text, &mut out);
        masker.finish(&mut out);
        out
    }

    /// A whole text, masked; what is no UTF-8 is replaced.
    pub fn mask_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.mask(text.as_bytes())).into_owned()
    }
}

/// Masks a stream chunk by chunk.
pub struct Masker {
    secrets: Secrets,
    // What may still become a secret.
    held: Vec<u8>,
    // How many of the next bytes belong to a secret that was seen.
    covered: usize,
}

impl Masker {
    /// A masker at the beginning of its stream.
    pub fn new(secrets: Secrets) -> Self {
        Self { secrets, held: Vec::new(), covered: 0 }
    }

    /// Takes the next chunk and writes what is certain.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        if self.secrets.all.is_empty() {
            out.extend_from_slice(chunk);
        } else if self.held.is_empty() {
            let done = self.advance(chunk, false, out);
            self.held.extend_from_slice(&chunk[done..]);
        } else {
            let mut text = std::mem::take(&mut self.held);
            text.extend_from_slice(chunk);
            let done = self.advance(&text, false, out);
            text.drain(..done);
            self.held = text;
        }
    }

    /// The stream is over for now: what was held back is no secret.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let text = std::mem::take(&mut self.held);
        self.advance(&text, true, out);
        self.covered = 0;
    }

    /// Goes as far as is certain; answers how far.
    fn advance(&mut self, text: &[u8], last: bool, out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            if !self.secrets.begins[usize::from(rest[0])] {
                // Up to where a secret may begin, in one go.
                let length = rest.iter().position(|b| self.secrets.begins[usize::from(*b)]).unwrap_or(rest.len());
                let hidden = length.min(self.covered);
                self.covered -= hidden;
                out.extend_from_slice(&rest[hidden..length]);
                at += length;
                continue;
            }
            let mut longest = 0;
            for secret in &self.secrets.all {
                if rest.len() < secret.len() {
                    if !last && secret.starts_with(rest) {
                        return at;
                    }
                } else if rest.starts_with(secret) {
                    longest = secret.len();
                    break;
                }
            }
            if self.covered == 0 {
                if longest == 0 {
                    out.push(rest[0]);
                } else {
                    out.extend_from_slice(MASK);
                }
            }
            self.covered = self.covered.max(longest).saturating_sub(1);
            at += 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(secrets: &[&str], text: &str) -> String {
        Secrets::new(secrets).mask_text(text)
    }

    #[test]
    fn covers_every_byte_of_every_occurrence() {
        assert_eq!(masked(&["hunter2"], "a hunter2 b hunter2"), "a *** b ***");
        assert_eq!(masked(&["abc", "bcd"], "xabcdx"), "x***x");
        assert_eq!(masked(&["ab", "abcd"], "abc abcd"), "***c ***");
        assert_eq!(masked(&["aa"], "aaa"), "***");
        assert_eq!(masked(&[""], "text"), "text");
        assert_eq!(masked(&[], "text"), "text");
    }

    #[test]
    fn lines_of_a_long_secret_are_secrets() {
        let key = "-----BEGIN-----\r\nabcdefgh\nshort\n";
        assert_eq!(masked(&[key], "abcdefgh short -----BEGIN-----"), "*** short ***");
    }

    #[test]
    fn holds_back_no_more_than_may_be_a_secret() {
        let mut masker = Masker::new(Secrets::new(["secret"]));
        let mut out = Vec::new();
        masker.push(b"a line\nsec", &mut out);
        assert_eq!(out, b"a line\n");
        masker.push(b"ond", &mut out);
        assert_eq!(out, b"a line\nsecond");
        masker.push(b"secre", &mut out);
        masker.finish(&mut out);
        assert_eq!(out, b"a line\nsecondsecre");
    }

    #[test]
    fn never_shows_a_secret_when_it_is_printed() {
        assert_eq!(format!("{:?}", Secrets::new(["hunter2"])), "Secrets(***)");
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(
            secrets in prop::collection::vec("[ab]{1,5}", 0..4),
            text in "[abc]{0,60}",
            cuts in prop::collection::vec(1_usize..7, 1..20),
        ) {
            let secrets = Secrets::new(&secrets);
            let mut masker = Masker::new(secrets.clone());
            let mut streamed = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, later) = rest.split_at((*cut).min(rest.len()));
                masker.push(chunk, &mut streamed);
                rest = later;
            }
            masker.finish(&mut streamed);
            prop_assert_eq!(&streamed, &secrets.mask(text.as_bytes()));
            for secret in &secrets.all {
                prop_assert!(!streamed.windows(secret.len()).any(|window| window == secret));
            }
        }
    }
}
