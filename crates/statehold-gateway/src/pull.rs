//! `GET /_pull`: the records after one that a client knows, and the content that it lacks then, in
//! one answer. Content is read while the answer is sent, a window at a time.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt as _};
use serde::Deserialize;
use statehold_core::brought::content_brought;
use statehold_core::digest::Digest;
use statehold_core::entry::Location;
use statehold_core::scope::Scope;
use statehold_repository::wire::bodies::Role;
use statehold_repository::wire::frames::{End, Frame};
use statehold_repository::wire::{MEDIA_FRAMES, PULL_CONTENT_BYTES_MAX};
use statehold_repository::{Error, Remote as _};

use crate::auth::Access;
use crate::handlers::{Answer, Asked, check_number, is_readable, records_since};
use crate::hosted::HostedRepository;

/// Stored bytes of content that are read at once.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Windows in memory that have been read and not yet been sent, or are being read.
const WINDOWS_AHEAD: usize = 2;

#[derive(Debug, Deserialize)]
pub(crate) struct PullQuery {
    since: u64,
    id: Option<Digest>,
    #[serde(default)]
    scope: Scope,
}

pub(crate) async fn pull(access: Access, Asked(query): Asked<PullQuery>) -> Answer<Response> {
    let repository = access.repository(Role::Read).await?;
    check_number(query.since)?;
    let batch = records_since(&repository, query.since, query.id).await?;
    let (more, far) = (batch.more, batch.far);
    let places = match more {
        // What the next records leave of it is not known yet.
        true => Vec::new(),
        false => wanted(content_brought(
            batch.records.iter().map(|stored| &stored.record),
            query.scope,
        )),
    };
    let last = batch.records.last();
    let head = last.map_or(query.since, |stored| stored.record.envelope.number);
    let records = batch.records.into_iter().map(|stored| Frame::Record {
        number: stored.record.envelope.number,
        bytes: stored.bytes,
    });
    let content = stream::iter(windows(places))
        .map(move |window| read_window(repository.clone(), window))
        .buffered(WINDOWS_AHEAD)
        .flat_map(stream::iter);
    let frames = stream::iter(records).chain(content);
    Ok(streamed(frames, head, more, far))
}

/// What comes along, up to the bound. The client reads the rest by itself.
fn wanted(mut places: Vec<Location>) -> Vec<Location> {
    let mut left = PULL_CONTENT_BYTES_MAX;
    // A void record may name what no object holds.
    places.retain(|place| is_readable(place.offset, place.stored));
    let fits = |place: &Location| {
        let rest = left.checked_sub(u64::from(place.stored));
        rest.map(|rest| left = rest).is_some()
    };
    places.into_iter().take_while(fits).collect()
}

/// Cuts places into windows that are read at once.
fn windows(places: Vec<Location>) -> Vec<Vec<Location>> {
    let (mut windows, mut bytes) = (Vec::<Vec<Location>>::new(), 0);
    for place in places {
        let stored = u64::from(place.stored);
        match windows.last_mut() {
            Some(window) if bytes + stored <= WINDOW_BYTES => {
                window.push(place);
                bytes += stored;
            }
            _ => {
                windows.push(vec![place]);
                bytes = stored;
            }
        }
    }
    windows
}

/// The content of a window. What can't be read is left out: the client finds it missing, asks for it
/// by place, and is told what is wrong with it.
async fn read_window(repository: HostedRepository, window: Vec<Location>) -> Vec<Frame> {
    let chunks = match repository.read(&window).await {
        Ok(chunks) => chunks,
        Err(error) => {
            tracing::warn!(%error, "content is left out of a pull");
            return Vec::new();
        }
    };
    let frame = |(place, bytes): (&Location, _)| {
        let offset = place.offset;
        place.object.map(|object| Frame::Content {
            object,
            offset,
            bytes,
        })
    };
    window.iter().zip(chunks).filter_map(frame).collect()
}

/// An answer of frames as they come, and the end that counts them.
fn streamed(
    frames: impl Stream<Item = Frame> + Send + 'static,
    head: u64,
    more: bool,
    far: bool,
) -> Response {
    let with_end = frames.map(Some).chain(stream::iter([None]));
    let counted = with_end.scan(0, move |count, frame| {
        let frame = frame.unwrap_or(Frame::End(End {
            frames: *count,
            more,
            head,
            far,
        }));
        *count += 1;
        std::future::ready(Some(frame))
    });
    let parts = counted.flat_map(|frame| stream::iter(frame.encode()));
    let parts = parts.filter(|part| std::future::ready(!part.is_empty()));
    let mut response = Body::from_stream(parts.map(Ok::<_, Error>)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_FRAMES));
    response
}

#[cfg(test)]
mod tests {
    use statehold_core::entry::ContentObject;

    use super::*;

    fn place(offset: u64, stored: u32) -> Location {
        let object = Some(ContentObject::Record(1));
        Location {
            object,
            offset,
            stored,
        }
    }

    #[test]
    fn windows_and_the_whole_are_bounded() {
        let chunk = 1 << 20;
        let places: Vec<_> = (0..100)
            .map(|i| place(i * u64::from(chunk), chunk))
            .collect();
        let wanted = wanted(places);
        assert_eq!(wanted.len(), 32);
        let windows = windows(wanted);
        assert_eq!(windows.iter().map(Vec::len).collect::<Vec<_>>(), [4; 8]);
        assert!(
            super::wanted(vec![place(u64::MAX, 9), place(0, 0), place(0, u32::MAX)]).is_empty()
        );
        assert!(super::windows(Vec::new()).is_empty());
    }
}
