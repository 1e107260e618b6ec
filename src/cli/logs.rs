//! `logs`: what a run printed, up to now or (`-f`) until it is over.

use reqwest::Method;

use super::args::LogsArgs;
use super::client;
use super::failure::Failure;
use super::out::Out;
use super::target::Target;

/// Prints the output of a run.
pub(super) async fn logs(args: &LogsArgs, target: &Target, out: &mut Out) -> Result<(), Failure> {
    let client = target.client()?;
    let run = args.run.to_string();
    let query: &[_] = if args.follow { &[("follow", "true".to_owned())] } else { &[] };
    // No deadline: a script may be silent for as long as its timeout allows.
    let request = client.request(Method::GET, &["api", "v1", "runs", &run, "logs"], query);
    let mut response = client::accepted(client.send(request).await?, client).await?;
    let streams =
        response.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if !streams {
        return out.script_output(&client.text(response).await?);
    }
    let mut events = Events::default();
    while let Some(chunk) = client.chunk(&mut response).await? {
        for event in events.feed(&chunk) {
            match event.name.as_str() {
                "output" | "" => out.script_output(&event.data)?,
                "end" => return Ok(()),
                _ => {}
            }
        }
        out.flush()?;
        if out.is_closed() {
            return Ok(());
        }
    }
    Err(Failure::Unreachable("the server went away before the run was over; ask again with `stagehook logs`".into()))
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
}

/// Cuts a byte stream into server-sent events. Comments (`: …`, which keep a connection alive) and the fields that
/// only a reconnecting client needs are passed over.
#[derive(Debug, Default)]
struct Events {
    rest: Vec<u8>,
    event: Event,
    has_data: bool,
}

impl Events {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut taken = 0;
        while let Some(length) = self.rest.get(taken..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n')) {
            let line = String::from_utf8_lossy(&self.rest[taken..taken + length]).into_owned();
            taken += length + 1;
            events.extend(self.line(line.strip_suffix('\r').unwrap_or(&line)));
        }
        self.rest.drain(..taken);
        events
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let has_data = std::mem::take(&mut self.has_data);
            return (has_data || !event.name.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn events_are_put_together_from_any_pieces() {
        let stream = ": hello\r\nevent: output\ndata: one\ndata:  two\ndata:\n\nid: 7\ndata: äö\n\nevent: end\n\n";
        let expected = [event("output", "one\n two\n"), event("", "äö"), event("end", "")];
        for size in 1..stream.len() {
            let mut events = Events::default();
            let got: Vec<_> = stream.as_bytes().chunks(size).flat_map(|chunk| events.feed(chunk)).collect();
            assert_eq!(got, expected, "in pieces of {size}");
        }
    }
}
