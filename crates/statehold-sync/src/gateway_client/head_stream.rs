//! The stream by which a gateway tells of heads, from the reader's side: server-sent events, of which
//! only the newest head matters.

use std::time::Duration;

use reqwest::Response;
use statehold_core::record::RecordRef;
use statehold_repository::wire::bodies::Head;
use statehold_repository::wire::{HEADS_EVENT, HEADS_PULSE_SECONDS};
use statehold_repository::{Error, Result};
use tokio::time::Instant;

use super::{Ask, Failure, GatewayClient};

/// A stream that says nothing for so long is dead: three beats of its pulse went missing.
const SILENCE: Duration = Duration::from_secs(HEADS_PULSE_SECONDS * 3 + 1);
/// A stream that ends sooner than this was not given the time that streams have.
const BRIEF: Duration = Duration::from_secs(2);
/// Longest line of a stream, and most of what one event may say, in bytes.
const EVENT_BYTES_MAX: usize = 16 * 1024;

/// An open stream.
#[derive(Debug)]
pub(super) struct HeadStream {
    response: Response,
    asked: String,
    events: Events,
    opened: Instant,
    /// What it told last.
    newest: Option<RecordRef>,
}

impl HeadStream {
    /// Opens a stream for whoever knows a head; none if the gateway doesn't know such streams.
    pub(super) async fn open(client: &GatewayClient, known: RecordRef) -> Result<Option<Self>> {
        let ask = Ask::get("v1/heads").query("since", Head::event_id(known));
        match client.try_send(&ask).await {
            Ok(response) => Ok(Some(Self {
                response,
                asked: client.asked(&ask),
                events: Events::default(),
                opened: Instant::now(),
                newest: None,
            })),
            Err(Failure::NoRoute(_)) => Ok(None),
            Err(failure) => Err(error_of(failure)),
        }
    }

    /// Waits for a head besides the one that is known; `None` when the stream has had its time. May be
    /// dropped while it waits and called again.
    pub(super) async fn next_head(&mut self, known: RecordRef) -> Result<Option<RecordRef>> {
        loop {
            while let Some(head) = self.events.next_head()? {
                self.newest = Some(head.record());
            }
            // One that is older was told before whoever asks appended something.
            let is_news = |head: &RecordRef| head.number >= known.number && *head != known;
            if let Some(head) = self.newest.filter(is_news) {
                return Ok(Some(head));
            }
            match tokio::time::timeout(SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.events.push(&bytes)?,
                Ok(Ok(None)) if self.opened.elapsed() < BRIEF => return Err(self.ended()),
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(error_of(Failure::on_the_way(&self.asked, error))),
                Err(_) => return Err(error_of(Failure::silent(&self.asked))),
            }
        }
    }

    fn ended(&self) -> Error {
        Error::Unavailable {
            what: self.asked.clone(),
            source: "it ended what it was to tell".into(),
        }
    }
}

fn error_of(failure: Failure) -> Error {
    match failure {
        Failure::Final(error) | Failure::NoRoute(error) | Failure::Again { error, .. } => error,
    }
}

/// Takes server-sent events apart as they come in.
#[derive(Debug, Default)]
struct Events {
    /// What came and is no whole line yet, or has not been looked at.
    text: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.text.extend_from_slice(bytes);
        let rest = self.text.rsplit(|byte| *byte == b'\n').next();
        check(rest.map_or(0, <[u8]>::len))
    }

    /// The next head among what came; events of other names are passed over.
    fn next_head(&mut self) -> Result<Option<Head>> {
        while let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            let line = line.trim_ascii_end();
            if line.is_empty() {
                let (name, data) = (
                    std::mem::take(&mut self.name),
                    std::mem::take(&mut self.data),
                );
                if name == HEADS_EVENT.as_bytes() {
                    let head = serde_json::from_slice(&data);
                    return Ok(Some(head.map_err(|error| {
                        Error::damaged("the gateway's stream of heads", error)
                    })?));
                }
                continue;
            }
            let (field, value) = match line.iter().position(|byte| *byte == b':') {
                Some(colon) => (&line[..colon], &line[colon + 1..]),
                None => (line, &[][..]),
            };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match field {
                b"event" => self.name = value.to_vec(),
                b"data" => {
                    if !self.data.is_empty() {
                        self.data.push(b'\n');
                    }
                    self.data.extend_from_slice(value);
                    check(self.data.len())?;
                }
                // Comments, and what a reader of one head has no use for.
                _ => {}
            }
        }
        Ok(None)
    }
}

fn check(bytes: usize) -> Result<()> {
    if bytes > EVENT_BYTES_MAX {
        let reason = format!("an event has more than {EVENT_BYTES_MAX} bytes");
        return Err(Error::damaged("the gateway's stream of heads", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": nothing new\nretry: 1000\n\nid: 7-aa\nevent: head\ndata: {\"number\":7,\"id\":\
        \"0000000000000000000000000000000000000000000000000000000000000007\",\"epoch\":1}\n\n:\n\n\
        event: other\ndata: what\n\nevent:head\r\ndata:{\"number\":8,\r\ndata: \"id\":\
        \"0000000000000000000000000000000000000000000000000000000000000008\",\"epoch\":1,\"new\":0}\r\n\r\n";

    fn numbers(events: &mut Events) -> Vec<u64> {
        let heads = std::iter::from_fn(|| events.next_head().unwrap());
        heads.map(|head| head.number).collect()
    }

    #[test]
    fn heads_are_found_however_the_stream_is_cut() {
        for length in 1..=STREAM.len() {
            let mut events = Events::default();
            let mut found = Vec::new();
            for piece in STREAM.as_bytes().chunks(length) {
                events.push(piece).unwrap();
                found.extend(numbers(&mut events));
            }
            assert_eq!(found, [7, 8], "in pieces of {length}");
            assert!(events.text.is_empty());
        }
    }

    #[test]
    fn what_has_no_end_or_no_sense_is_an_error() {
        let mut endless = Events::default();
        let piece = [b'x'; 1024];
        let pushed = (0..64).try_for_each(|_| {
            endless.push(&piece)?;
            endless.next_head().map(drop)
        });
        assert!(matches!(pushed, Err(Error::Damaged { .. })));
        let mut lines = Events::default();
        let pushed = (0..64).try_for_each(|_| {
            lines.push(&[b"data: ", &piece[..], b"\n"].concat())?;
            lines.next_head().map(drop)
        });
        assert!(matches!(pushed, Err(Error::Damaged { .. })));
        let mut odd = Events::default();
        odd.push(b"event: head\ndata: {\n\n").unwrap();
        assert!(matches!(odd.next_head(), Err(Error::Damaged { .. })));
    }
}
