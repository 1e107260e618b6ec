//! A place in a script where it tells that it has come there, and waits until the test lets it go on.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use super::poll::within;

/// Two pipes: the script writes its process number into one and reads a line from the other. See `LIBRARY` in
/// `world` for the script's side.
pub struct Gate {
    name: String,
    entered: Receiver,
    go: Sender,
}

impl Gate {
    /// Puts a gate into the way of a script: `key` is its stage, or `undo.` and the stage.
    pub fn new(folder: &Path, key: &str) -> Self {
        let pipe = |end: &str| {
            let path = folder.join(format!("{key}.{end}"));
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            path
        };
        // Open for both, so that neither side ever sees the end of the pipe.
        let entered = OpenOptions::new().read_write(true).open_receiver(pipe("in")).unwrap();
        let go = OpenOptions::new().read_write(true).open_sender(pipe("out")).unwrap();
        Self { name: key.to_owned(), entered, go }
    }

    /// Waits until a script has come here, and gives its process number.
    pub async fn entered(&mut self) -> Pid {
        let mut line = Vec::new();
        let name = self.name.clone();
        let read = async {
            while line.last() != Some(&b'\n') {
                line.push(self.entered.read_u8().await.unwrap());
            }
        };
        within(&format!("a script has come to {name}"), read).await;
        Pid::from_raw(String::from_utf8(line).unwrap().trim().parse().unwrap()).unwrap()
    }

    /// Lets one script go on.
    pub async fn open(&mut self) {
        self.go.write_all(b"go\n").await.unwrap();
    }
}
