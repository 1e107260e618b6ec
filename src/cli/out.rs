//! Standard output, for which a reader that went away (`| head`) is no fault.

use std::io::{self, Write};

use serde::Serialize;

use super::failure::Failure;
use super::text;

/// Where a command's result goes.
pub(super) struct Out {
    sink: Box<dyn Write>,
    terminal: bool,
    closed: bool,
}

impl Out {
    /// Standard output.
    pub fn stdout(terminal: bool) -> Self {
        Self { sink: Box::new(io::BufWriter::new(io::stdout())), terminal, closed: false }
    }

    /// Whether the reader went away: nothing more needs to be fetched for it.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// A line of our own; what is in it of the server's is escaped already.
    pub fn line(&mut self, line: impl AsRef<str>) -> Result<(), Failure> {
        self.bytes(line.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    /// A JSON document.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::No(format!("the answer can't be written as JSON: {error}")))?;
        self.line(text::escape_json(&text))
    }

    /// What a script printed: as it is into a pipe or a file, escaped on a terminal.
    pub fn script_output(&mut self, output: &str) -> Result<(), Failure> {
        if self.terminal { self.bytes(text::escape_lines(output).as_bytes()) } else { self.bytes(output.as_bytes()) }
    }

    /// Hands everything to the reader.
    pub fn flush(&mut self) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let result = self.sink.flush();
        self.forgive(result)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let result = self.sink.write_all(bytes);
        self.forgive(result)
    }

    fn forgive(&mut self, result: io::Result<()>) -> Result<(), Failure> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

/// Says why on standard error; not even that may panic.
pub(super) fn complain(reason: &str) {
    let _ = writeln!(io::stderr(), "stagehook: {}", text::escape_lines(reason));
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_fault_and_is_remembered() {
        let mut out = Out { sink: Box::new(Gone), terminal: false, closed: false };
        out.line("a").unwrap();
        assert!(out.is_closed());
        out.flush().unwrap();
    }
}
