//! A run's output while it grows: masked, bounded, and followed by whoever wants to.
//!
//! [`Recorder`] is the writing end, [`OutputView`] the reading one. Deliberately no channel of
//! chunks: a slow follower costs nothing and loses only what is no longer kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::buffer::{HeadTail, Piece};
use super::last_line::{self, LastLine};
use super::mask::{Masker, Secrets};
use crate::domain::record::OutputDigest;

/// The most that is read at once.
const PIECE: usize = 64 * 1024;

/// The live output of one run, for any number of readers.
#[derive(Clone, Debug)]
pub struct OutputView {
    shared: Arc<Mutex<HeadTail>>,
    // Told of every change; true when the output has ended.
    changes: watch::Receiver<bool>,
}

impl OutputView {
    /// What is kept so far, with a line where it was cut.
    pub fn snapshot(&self) -> Vec<u8> {
        lock(&self.shared).text()
    }

    /// A piece of what is kept of the output from its byte `from` on; its `next` is where to go on. A gap
    /// is told in [`Piece::skipped`]. It is small, since one is held for each reader that does not read.
    pub fn since(&self, from: u64) -> Piece {
        lock(&self.shared).since(from, PIECE)
    }

    /// Whether nothing will follow.
    pub fn ended(&self) -> bool {
        *self.changes.borrow() || self.changes.has_changed().is_err()
    }

    /// Waits until there is more than at the last call, or the end; at the end it returns at
    /// once. To be used as: read, and when there was nothing, wait.
    pub async fn changed(&mut self) {
        if !self.ended() {
            // An error says that the writer is gone, which is an end as well.
            let _ = self.changes.changed().await;
        }
    }
}

/// The writing end.
pub struct Recorder {
    shared: Arc<Mutex<HeadTail>>,
    changes: watch::Sender<bool>,
    secrets: Secrets,
    masker: Masker,
    last_line: LastLine,
    at_line_start: bool,
    scratch: Vec<u8>,
}

impl Recorder {
    /// An empty output that keeps at most `limit` bytes.
    pub fn new(limit: usize) -> (Self, OutputView) {
        let shared = Arc::new(Mutex::new(HeadTail::new(limit)));
        let (changes, receiver) = watch::channel(false);
        let view = OutputView { shared: Arc::clone(&shared), changes: receiver };
        let recorder = Self {
            shared,
            changes,
            secrets: Secrets::default(),
            masker: Masker::new(Secrets::default()),
            last_line: LastLine::default(),
            at_line_start: true,
            scratch: Vec::new(),
        };
        (recorder, view)
    }

    /// From here on these are masked.
    pub fn mask(&mut self, secrets: &Secrets) {
        self.settle();
        self.secrets = secrets.clone();
        self.masker = Masker::new(secrets.clone());
    }

    /// Takes what the script printed.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut out = std::mem::take(&mut self.scratch);
        self.masker.push(bytes, &mut out);
        self.keep(&out);
        out.clear();
        self.scratch = out;
    }

    /// Writes a line of the service's own, never in the middle of a line.
    pub fn note(&mut self, line: &str) {
        self.settle();
        let line = self.secrets.mask_text(line);
        let newline = if self.at_line_start { "" } else { "\n" };
        self.at_line_start = true;
        lock(&self.shared).push(format!("{newline}{line}\n").as_bytes());
        self.changes.send_replace(false);
    }

    /// A new attempt begins: the last line is to be its own.
    pub fn begin_attempt(&mut self) {
        self.settle();
        self.last_line = LastLine::default();
    }

    /// Nothing follows: the text as it is to be stored, its digest, and the script's last line.
    pub fn finish(mut self) -> (Vec<u8>, OutputDigest, String) {
        self.settle();
        let buffer = lock(&self.shared);
        let text = buffer.text();
        let digest =
            OutputDigest { bytes: buffer.total(), kept: buffer.kept(), sha256: hex::encode(Sha256::digest(&text)) };
        drop(buffer);
        self.changes.send_replace(true);
        // Once more: what a terminal would not show is taken out of that line, and may have stood within a secret.
        let last_line = self.secrets.mask_text(&self.last_line.get()).chars().take(last_line::LONGEST).collect();
        (text, digest, last_line)
    }

    /// What was held back is no secret, since nothing follows it.
    fn settle(&mut self) {
        let mut out = Vec::new();
        self.masker.finish(&mut out);
        self.keep(&out);
    }

    fn keep(&mut self, masked: &[u8]) {
        if let Some(last) = masked.last() {
            self.at_line_start = *last == b'\n';
            self.last_line.push(masked);
            lock(&self.shared).push(masked);
            self.changes.send_replace(false);
        }
    }
}

fn lock(shared: &Mutex<HeadTail>) -> MutexGuard<'_, HeadTail> {
    // Nothing panics while it holds the lock; and the bytes would still be bytes.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_with_colours_in_it_is_not_put_together_in_the_last_line() {
        for printed in ["hun\x1b[0mter2", "hun\x07ter2", "\x1b[31mhunter2\x1b[0m"] {
            let (mut recorder, _) = Recorder::new(1000);
            recorder.mask(&Secrets::new(["hunter2"]));
            recorder.push(printed.as_bytes());
            assert_eq!(recorder.finish().2, "***", "{printed:?}");
        }
    }

    #[tokio::test]
    async fn can_be_followed_to_its_end() {
        let (mut recorder, mut view) = Recorder::new(1000);
        recorder.mask(&Secrets::new(["hunter2"]));
        recorder.push(b"is hun");
        recorder.push(b"ter2");
        view.changed().await;
        assert_eq!(view.since(0).bytes, b"is ***");
        recorder.note("--- attempt 2 ---");
        recorder.begin_attempt();
        recorder.push(b"done");
        let follower = tokio::spawn(async move {
            while !view.ended() {
                view.changed().await;
            }
            view.snapshot()
        });
        let (text, digest, last_line) = recorder.finish();
        assert_eq!(follower.await.unwrap(), text);
        assert_eq!(text, b"is ***\n--- attempt 2 ---\ndone");
        assert_eq!(digest.bytes, text.len() as u64);
        assert_eq!(digest.kept, digest.bytes);
        assert_eq!(last_line, "done");
    }
}
