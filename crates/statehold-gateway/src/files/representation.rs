//! A file as it is sent: which form, under which tag, and its bytes, of which few are in memory at
//! once and each is checked before it leaves.

use std::collections::VecDeque;
use std::io::Write as _;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use headers::{ETag, HeaderMapExt as _, LastModified};
use statehold_core::digest::Digest;
use statehold_core::entry::{Chunk, ContentObject, FileEntry};
use statehold_core::path::RepoPath;
use statehold_core::time::Timestamp;
use statehold_repository::content::open_chunk;
use statehold_repository::{Error, Result, Whereabouts};
use tokio::sync::OwnedSemaphorePermit;

use super::negotiation::{Coding, choose};
use crate::hosted::HostedRepository;

/// How much of a file is fetched at once, in bytes before compression. A chunk may be larger.
const WINDOW_BYTES: u64 = 1024 * 1024;
/// Where a chunk lies, as a tag counts it, in bytes.
const PLACE_BYTES: usize = 28;
/// How often the bytes of a window are in memory: as they are stored, expanded, compressed anew.
const WINDOW_COPIES: u64 = 3;

/// What may be sent as what it is: nothing that a browser would run, and nothing that it would
/// have to guess. By the end of the name, in lower case.
const MEDIA_TYPES: [(&str, &[&str]); 9] = [
    (
        "text/plain; charset=utf-8",
        &[
            "md", "txt", "log", "toml", "yaml", "yml", "ini", "cfg", "conf", "rs", "py", "sh", "ts",
        ],
    ),
    ("application/json", &["json"]),
    ("application/x-ndjson", &["ndjson", "jsonl"]),
    ("text/csv; charset=utf-8", &["csv"]),
    ("image/png", &["png"]),
    ("image/jpeg", &["jpg", "jpeg"]),
    ("image/gif", &["gif"]),
    ("image/webp", &["webp"]),
    ("application/gzip", &["gz"]),
];
const MEDIA_BYTES: &str = "application/octet-stream";

fn media_type(path: &RepoPath) -> &'static str {
    let ending = path.file_name().rsplit_once('.').map(|(_, ending)| ending);
    let ending = ending.unwrap_or_default().to_ascii_lowercase();
    let found = MEDIA_TYPES
        .iter()
        .find(|(_, endings)| endings.contains(&ending.as_str()));
    found.map_or(MEDIA_BYTES, |(media, _)| media)
}

/// The name under which a browser is to save a file, in the one form that has no way out of its
/// quotes (RFC 8187).
fn disposition(path: &RepoPath) -> HeaderValue {
    let mut text = String::from("attachment; filename*=UTF-8''");
    for byte in path.file_name().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("attachment"))
}

/// Bytes of a file as they are stored.
fn stored_bytes(file: &FileEntry) -> u64 {
    file.chunks
        .iter()
        .map(|chunk| u64::from(chunk.at.stored))
        .sum()
}

/// The tag of a file in one of its forms. It is strong: two answers with the same tag have the same
/// bytes. Stored frames differ with the way a file was cut, so their places are part of it.
pub(crate) fn tag(file: &FileEntry, coding: Coding) -> ETag {
    let digest = file.digest;
    let text = match coding {
        Coding::Identity => format!("\"{digest}\""),
        Coding::Gzip => format!("\"{digest}-gzip\""),
        Coding::Zstd => {
            let mut places = Vec::with_capacity(file.chunks.len() * PLACE_BYTES);
            for Chunk { at, .. } in &file.chunks {
                match at.object {
                    Some(ContentObject::Pack(id)) => places.extend_from_slice(id.as_bytes()),
                    Some(ContentObject::Record(number)) => {
                        places.extend_from_slice(&number.to_le_bytes());
                    }
                    None => {}
                }
                places.extend_from_slice(&at.offset.to_le_bytes());
                places.extend_from_slice(&at.stored.to_le_bytes());
            }
            let places = Digest::of(&places).to_string();
            format!("\"{digest}-zstd-{}\"", &places[..16])
        }
    };
    text.parse()
        .expect("digits and letters in quotes are a tag")
}

/// The form in which a file goes to whoever sent these headers; `None` when none is acceptable.
pub(crate) fn choose_form(headers: &HeaderMap, file: &FileEntry) -> Option<Coding> {
    if file.chunks.is_empty() {
        return choose(headers, &[Coding::Identity, Coding::Gzip]);
    }
    if stored_bytes(file) < file.size {
        return choose(headers, &[Coding::Zstd, Coding::Gzip, Coding::Identity]);
    }
    // Compressing gains nothing. That may not matter to who rules out the bytes as they are.
    choose(headers, &[Coding::Identity]).or_else(|| choose(headers, &[Coding::Zstd, Coding::Gzip]))
}

/// The headers that say what a file is and in which form it comes. They are such that no browser
/// runs what is in it: whoever can push could otherwise act in the name of whoever looks.
pub(crate) fn describe(
    path: &RepoPath,
    file: &FileEntry,
    coding: Coding,
    now: Timestamp,
) -> HeaderMap {
    let mut headers = validators(file, coding, now);
    let fixed = [
        (header::CONTENT_TYPE, media_type(path)),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'; sandbox",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_DISPOSITION, disposition(path));
    match coding.token() {
        Some(token) => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(token));
        }
        None => {
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
    }
    headers
}

/// The headers by which a cache decides whether what it has may still be used.
pub(crate) fn validators(file: &FileEntry, coding: Coding, now: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.typed_insert(tag(file, coding));
    // A machine's word, which must not lie in the future (RFC 9110, 8.8.2.1).
    let seconds = file.mtime.seconds().min(now.as_millis() / 1_000);
    if let Ok(seconds) = u64::try_from(seconds) {
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        headers.typed_insert(LastModified::from(changed));
    }
    // Kept if need be, and asked about each time: a key may have ended meanwhile.
    let keep = HeaderValue::from_static("private, no-cache");
    headers.insert(header::CACHE_CONTROL, keep);
    vary(&mut headers);
    headers
}

/// Says which headers of a request an answer goes by.
pub(crate) fn vary(headers: &mut HeaderMap) {
    let names = HeaderValue::from_static("Accept-Encoding, X-Statehold-Repository");
    headers.insert(header::VARY, names);
}

/// Length of a file in one of its forms, where that is known before it has been made.
pub(crate) fn content_length(file: &FileEntry, coding: Coding) -> Option<u64> {
    match coding {
        Coding::Identity => Some(file.size),
        Coding::Zstd => Some(stored_bytes(file)),
        Coding::Gzip => None,
    }
}

/// Memory that sending a file takes, in bytes: a window and the list of its chunks.
pub(crate) fn memory(file: &FileEntry) -> usize {
    let largest = file.chunks.iter().map(|chunk| u64::from(chunk.raw)).max();
    let window = largest.unwrap_or_default().max(file.size.min(WINDOW_BYTES));
    let window = usize::try_from(window * WINDOW_COPIES).unwrap_or(usize::MAX);
    window.saturating_add(file.chunks.len() * size_of::<Chunk>())
}

/// What is left to be sent of a file.
pub(crate) struct Content {
    repository: HostedRepository,
    whereabouts: Whereabouts,
    /// Chunks that have not been fetched.
    chunks: VecDeque<Chunk>,
    form: Form,
    /// Bytes that can be sent.
    ready: VecDeque<Bytes>,
    _memory: OwnedSemaphorePermit,
}

/// How chunks become what is sent.
enum Form {
    /// As they are, but for bytes before a range; and no more than so many.
    Identity {
        skip: usize,
        left: u64,
    },
    /// As they are stored: frames that follow each other are a valid stream.
    Zstd,
    Gzip(GzEncoder<Vec<u8>>),
    /// All of it has been made.
    Ended,
}

impl Content {
    /// The whole of a file.
    pub(crate) fn whole(
        repository: HostedRepository,
        whereabouts: Whereabouts,
        file: FileEntry,
        coding: Coding,
        memory: OwnedSemaphorePermit,
    ) -> Self {
        let (skip, left) = (0, file.size);
        Self {
            repository,
            whereabouts,
            chunks: file.chunks.into(),
            form: match coding {
                Coding::Identity => Form::Identity { skip, left },
                Coding::Zstd => Form::Zstd,
                Coding::Gzip => Form::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            },
            ready: VecDeque::new(),
            _memory: memory,
        }
    }

    /// Some of a file's bytes.
    pub(crate) fn part(
        repository: HostedRepository,
        whereabouts: Whereabouts,
        file: &FileEntry,
        range: &Range<u64>,
        memory: OwnedSemaphorePermit,
    ) -> Self {
        let (mut at, mut skip) = (0, 0);
        let mut chunks = VecDeque::new();
        for chunk in &file.chunks {
            let end = at + u64::from(chunk.raw);
            if at < range.end && end > range.start {
                if chunks.is_empty() {
                    skip = usize::try_from(range.start - at).unwrap_or(usize::MAX);
                }
                chunks.push_back(*chunk);
            }
            at = end;
        }
        let left = range.end - range.start;
        Self {
            repository,
            whereabouts,
            chunks,
            form: Form::Identity { skip, left },
            ready: VecDeque::new(),
            _memory: memory,
        }
    }

    /// Fetches what is sent first, so that trouble is answered as such and does not come as a
    /// broken connection. Gives the length of all of it if that is now known.
    pub(crate) async fn begin(&mut self) -> Result<Option<u64>> {
        self.fetch().await?;
        let len = |bytes: &Bytes| bytes.len() as u64;
        let ended = matches!(self.form, Form::Ended);
        Ok(ended.then(|| self.ready.iter().map(len).sum()))
    }

    /// The bytes as the body of an answer. One that meets trouble is cut, and whoever reads it
    /// notices by its length or its missing end.
    pub(crate) fn into_body(self) -> Body {
        let next = |mut content: Self| async move {
            match content.next().await {
                Ok(Some(bytes)) => Ok(Some((bytes, content))),
                Ok(None) => Ok(None),
                Err(error) => {
                    tracing::error!(%error, "a file could not be sent to its end");
                    Err(error)
                }
            }
        };
        Body::from_stream(stream::try_unfold(self, next))
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            if matches!(self.form, Form::Ended) {
                return Ok(None);
            }
            self.fetch().await?;
        }
    }

    /// Fetches the next window and makes of it what is sent.
    async fn fetch(&mut self) -> Result<()> {
        let (mut window, mut raw) = (Vec::new(), 0);
        while let Some(chunk) = self.chunks.front() {
            raw += u64::from(chunk.raw);
            if raw > WINDOW_BYTES && !window.is_empty() {
                break;
            }
            window.push(*chunk);
            self.chunks.pop_front();
        }
        let frames = match window.is_empty() {
            true => Vec::new(),
            false => self.whereabouts.read(&self.repository, &window).await?,
        };
        let is_last = self.chunks.is_empty();
        let form = std::mem::replace(&mut self.form, Form::Ended);
        let made = tokio::task::spawn_blocking(move || form.make(&window, frames, is_last)).await;
        let made = made.map_err(|error| Error::Unavailable {
            what: "expanding a file".into(),
            source: error.into(),
        })?;
        (self.form, self.ready) = made?;
        Ok(())
    }
}

impl Form {
    /// Checks chunks against their digests and turns them into what is sent.
    fn make(
        mut self,
        chunks: &[Chunk],
        frames: Vec<Bytes>,
        is_last: bool,
    ) -> Result<(Self, VecDeque<Bytes>)> {
        let mut made = VecDeque::new();
        for (chunk, frame) in chunks.iter().zip(frames) {
            let mut raw = open_chunk(chunk, &frame)?;
            match &mut self {
                Self::Identity { skip, left } => {
                    raw.drain(..(*skip).min(raw.len()));
                    *skip = 0;
                    raw.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= raw.len() as u64;
                    made.push_back(raw.into());
                }
                Self::Zstd => made.push_back(frame),
                Self::Gzip(encoder) => encoder.write_all(&raw).map_err(gzip_failed)?,
                Self::Ended => {}
            }
        }
        if let Self::Gzip(encoder) = &mut self {
            made.push_back(std::mem::take(encoder.get_mut()).into());
        }
        if is_last {
            if let Self::Gzip(encoder) = self {
                made.push_back(encoder.finish().map_err(gzip_failed)?.into());
            }
            self = Self::Ended;
        }
        made.retain(|bytes: &Bytes| !bytes.is_empty());
        Ok((self, made))
    }
}

fn gzip_failed(error: std::io::Error) -> Error {
    Error::Unavailable {
        what: "compressing a file".into(),
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_browser_runs_is_named_as_what_it_is() {
        let media = |text| media_type(&RepoPath::parse(text).unwrap());
        for hostile in [
            "a.html",
            "a.htm",
            "A.XHTML",
            "a.svg",
            "a.xml",
            "a.js",
            "a.mjs",
            "a.css",
            "a.pdf",
            "a.swf",
            "a",
            ".html",
            "md",
            "a.md.html",
            "a.json ",
            "html.",
        ] {
            assert_eq!(media(hostile), MEDIA_BYTES, "{hostile}");
        }
        assert_eq!(media("docs/a.MD"), "text/plain; charset=utf-8");
        assert_eq!(media("x.tar.gz"), "application/gzip");
    }

    #[test]
    fn names_do_not_break_out_of_their_header() {
        let path = RepoPath::parse("a/b\"; x=\r\nSet-Cookie: ü.txt").unwrap();
        assert_eq!(
            disposition(&path),
            "attachment; filename*=UTF-8''b%22%3B%20x%3D%0D%0ASet-Cookie%3A%20%C3%BC.txt"
        );
    }
}
