//! Single files over plain HTTP, for programs that know nothing of records: `/v1/files/{path}`.
//!
//! What is read is the state at a record, the newest one unless the request says otherwise. What is
//! written is one push, which goes the way of every other: same rules, same queue, same nonce.

mod negotiation;
mod representation;
mod upload;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use headers::{ContentRange, HeaderMapExt as _, IfMatch, IfNoneMatch, IfRange};
use hyper::body::Body as _;
use serde::Deserialize;
use statehold_core::digest::Digest;
use statehold_core::entry::{Entry, FileEntry};
use statehold_core::id::Nonce;
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::Body as RecordBody;
use statehold_core::rules::{RuleSet, Verdict};
use statehold_core::state::State as RepositoryState;
use statehold_repository::format::record::StoredRecord;
use statehold_repository::remote::load_at;
use statehold_repository::wire::bodies::Role;
use statehold_repository::wire::problem::{Fault, Problem};
use statehold_repository::wire::{HEADER_ALLOW_SECRET, HEADER_RECORD};
use statehold_repository::{Error, Remote as _, Whereabouts};

use self::negotiation::{Coding, Part, choose, coding_of_body, part};
use self::representation::{Content, choose_form, content_length, describe, tag, validators, vary};
use self::upload::{Origin, Upload, expand, find_secrets, limit, removal, too_large};
use crate::auth::Access;
use crate::gateway::Gateway;
use crate::guard::{memory_for, take_body};
use crate::handlers::{Answer, Asked, Id, denial, leave_rules};
use crate::hosted::HostedRepository;
use crate::refusal::Refusal;

/// How often a write is tried again because others wrote to the same place at once.
const WRITE_RACES_MAX: usize = 8;
/// What compressing may add to content that doesn't compress, in bytes.
const CODING_OVERHEAD_BYTES: u64 = 64 * 1024;
/// How often content is in memory while it is taken in: as it is, and cut and compressed.
const UPLOAD_COPIES: u64 = 2;
/// Longest `Idempotency-Key`, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Earlier states that are read at once: each is a whole listing in memory.
pub(crate) const HISTORY_READERS_MAX: usize = 4;
/// How many of the newest records are searched for what an `Idempotency-Key` has done before.
const IDEMPOTENCY_RECORDS: u64 = 64;

#[derive(Debug, Deserialize)]
pub(crate) struct FileQuery {
    at: Option<u64>,
}

/// `GET` and `HEAD`: a file as it is now, or as it was at a record.
pub(crate) async fn read(
    access: Access,
    State(gateway): State<Gateway>,
    Id(path): Id<RepoPath>,
    Asked(query): Asked<FileQuery>,
    method: Method,
    headers: HeaderMap,
) -> Answer<Response> {
    let repository = access.repository(Role::Read).await?;
    let state = state_at(&gateway, &repository, query.at).await?;
    let file = file_at(&state, &path)?.ok_or_else(|| no_file(&path))?;
    let record = HeaderValue::from(state.head.number);
    let source = Source {
        repository: &repository,
        state: &state,
    };
    let answer = send(&gateway, source, &path, file, &method, &headers).await;
    let mut answer = answer.unwrap_or_else(|refusal| {
        let mut response = refusal.into_response();
        vary(response.headers_mut());
        response
    });
    answer.headers_mut().insert(HEADER_RECORD, record);
    Ok(answer)
}

/// The state that a request means.
async fn state_at(
    gateway: &Gateway,
    repository: &HostedRepository,
    at: Option<u64>,
) -> Answer<Arc<RepositoryState>> {
    let head = repository.head().await?;
    let Some(number) = at.filter(|number| *number != head.head.number) else {
        return Ok(head);
    };
    if number > head.head.number {
        let newest = head.head.number;
        let object = format!("record {number}");
        let detail = format!("there is no record {number} yet; the newest is {newest}");
        return Err(Problem::new(Fault::NotFound { object }, detail).into());
    }
    // A second listing beside the one that is kept, so few at once.
    let _permit = Arc::clone(gateway.histories()).acquire_owned().await;
    Ok(load_at(repository, Point::Record(number)).await?)
}

/// The file at a path, if there is anything.
fn file_at<'a>(state: &'a RepositoryState, path: &RepoPath) -> Answer<Option<&'a FileEntry>> {
    let not_a_file = |what: &str, detail: String| {
        let what = what.to_owned();
        Err(Problem::new(Fault::NotAFile { what }, detail).into())
    };
    match state.tree.get(path.as_str()) {
        Some(Entry::File(file)) => Ok(Some(file)),
        Some(Entry::Symlink { target }) => {
            let detail = format!(
                "{path} is a symbolic link to {target:?}; links are not followed, \
                 ask for what it points to"
            );
            not_a_file("symlink", detail)
        }
        found => {
            let is_directory =
                found.is_some() || state.tree.beneath(path.as_str()).next().is_some();
            if !is_directory {
                return Ok(None);
            }
            let detail = format!("{path} is a directory; ask for a file in it");
            not_a_file("directory", detail)
        }
    }
}

fn no_file(path: &RepoPath) -> Refusal {
    let object = path.to_string();
    let detail = format!("there is no file {path}");
    Problem::new(Fault::NotFound { object }, detail).into()
}

/// Every tag that a file goes by, whatever the form.
fn passes_if_match(condition: &IfMatch, file: Option<&FileEntry>) -> bool {
    let codings = [Coding::Identity, Coding::Gzip, Coding::Zstd];
    file.is_some_and(|file| {
        codings
            .into_iter()
            .any(|coding| condition.precondition_passes(&tag(file, coding)))
    })
}

fn precondition_failed(path: &RepoPath, reason: &str) -> Refusal {
    Refusal::new(Fault::PreconditionFailed, format!("{path} {reason}"))
}

/// What a file is read from.
#[derive(Clone, Copy)]
struct Source<'a> {
    repository: &'a HostedRepository,
    state: &'a RepositoryState,
}

impl Source<'_> {
    fn whereabouts(self, gateway: &Gateway, file: &FileEntry) -> Whereabouts {
        Whereabouts::of_file(self.state.head, file, Arc::clone(gateway.histories()))
    }
}

async fn send(
    gateway: &Gateway,
    source: Source<'_>,
    path: &RepoPath,
    file: &FileEntry,
    method: &Method,
    headers: &HeaderMap,
) -> Answer<Response> {
    let condition = headers.typed_get::<IfMatch>();
    if condition.is_some_and(|condition| !passes_if_match(&condition, Some(file))) {
        return Err(precondition_failed(path, "is not what If-Match names"));
    }
    let form = choose_form(headers, file);
    let none_match = headers.typed_get::<IfNoneMatch>();
    let now = gateway.now();
    if let (Some(condition), Some(coding)) = (none_match, form)
        && !condition.precondition_passes(&tag(file, coding))
    {
        let headers = validators(file, coding, now);
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let is_head = method == Method::HEAD;
    if !is_head && let Some(asked) = range_asked(headers, file) {
        let Part::Bytes(range) = asked else {
            let size = file.size;
            let detail = format!("{path} has {size} bytes, and none in this range");
            return Err(Refusal::new(Fault::UnsatisfiableRange { size }, detail));
        };
        let mut headers = describe(path, file, Coding::Identity, now);
        headers.insert(
            header::CONTENT_LENGTH,
            HeaderValue::from(range.end - range.start),
        );
        let content_range = ContentRange::bytes(range.clone(), file.size);
        headers.typed_insert(content_range.map_err(Problem::refused)?);
        let memory = memory_for(gateway.answers(), representation::memory(file)).await?;
        let whereabouts = source.whereabouts(gateway, file);
        let repository = source.repository.clone();
        let mut content = Content::part(repository, whereabouts, file, &range, memory);
        content.begin().await?;
        let body = content.into_body();
        return Ok((StatusCode::PARTIAL_CONTENT, headers, body).into_response());
    }
    let coding = form.ok_or_else(|| {
        let detail = format!("{path} can be sent as it is, with gzip, or as a rule with zstd");
        Refusal::new(Fault::NotAcceptable, detail)
    })?;
    let mut headers = describe(path, file, coding, now);
    let mut length = content_length(file, coding);
    let body = if is_head {
        // A stream, whose length nobody takes for that of the file.
        Body::from_stream(stream::empty::<Result<bytes::Bytes, Error>>())
    } else {
        let memory = memory_for(gateway.answers(), representation::memory(file)).await?;
        let whereabouts = source.whereabouts(gateway, file);
        let repository = source.repository.clone();
        let mut content = Content::whole(repository, whereabouts, file.clone(), coding, memory);
        length = content.begin().await?.or(length);
        content.into_body()
    };
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok((headers, body).into_response())
}

/// The part of a file that is asked for, unless that is the whole. Ranges are of the bytes as they
/// are, so they count for those who take these, and only on the file that `If-Range` names.
fn range_asked(headers: &HeaderMap, file: &FileEntry) -> Option<Part> {
    let plain = tag(file, Coding::Identity);
    choose(headers, &[Coding::Identity])?;
    if headers.contains_key(header::IF_RANGE) {
        // A date says less than a tag: two versions may carry the same one.
        let condition = headers.typed_get::<IfRange>()?;
        if condition.is_modified(Some(&plain), None) {
            return None;
        }
    }
    Some(part(headers, file.size)).filter(|part| *part != Part::Whole)
}

/// What a request to write asks for besides its content.
struct Wishes {
    if_match: Option<IfMatch>,
    if_none_match: Option<IfNoneMatch>,
    allow_secret: bool,
    /// Whether the nonce may have been used before.
    repeatable: bool,
    origin: Origin,
}

impl Wishes {
    fn read(access: &Access, gateway: &Gateway, headers: &HeaderMap) -> Answer<Self> {
        let key = access.key();
        let machine = key.machine.unwrap_or_else(|| {
            // Who has no machine is known by the key.
            statehold_core::id::MachineId::from_bytes(*key.key.as_bytes())
        });
        let repeated = headers.get("idempotency-key");
        let nonce = match repeated {
            Some(value) if (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&value.len()) => {
                let own = [
                    b"statehold idempotency key\n",
                    &key.key.as_bytes()[..],
                    value.as_bytes(),
                ];
                let digest = Digest::of(&own.concat());
                let mut nonce = [0; 16];
                nonce.copy_from_slice(&digest.as_bytes()[..16]);
                Nonce::from_bytes(nonce)
            }
            Some(_) => {
                let reason =
                    format!("an Idempotency-Key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
                return Err(Problem::refused(reason).into());
            }
            None => Nonce::random(gateway.entropy()),
        };
        let allowed = headers.get(HEADER_ALLOW_SECRET);
        if allowed.is_some_and(|value| value != "1") {
            let reason = format!("{HEADER_ALLOW_SECRET} is 1 or absent");
            return Err(Problem::refused(reason).into());
        }
        Ok(Self {
            if_match: headers.typed_get(),
            if_none_match: headers.typed_get(),
            allow_secret: allowed.is_some(),
            repeatable: repeated.is_some(),
            origin: Origin { machine, nonce },
        })
    }

    /// Whether a file is what the request expects.
    fn check(&self, path: &RepoPath, file: Option<&FileEntry>) -> Answer<()> {
        if let Some(condition) = &self.if_match
            && !passes_if_match(condition, file)
        {
            let reason = "is not what If-Match names; get it anew and decide again";
            return Err(precondition_failed(path, reason));
        }
        if let (Some(condition), Some(file)) = (&self.if_none_match, file)
            && !condition.precondition_passes(&tag(file, Coding::Identity))
        {
            return Err(precondition_failed(
                path,
                "is there, which If-None-Match rules out",
            ));
        }
        Ok(())
    }

    /// The record that this very request became when it was sent before.
    async fn done_before(
        &self,
        repository: &HostedRepository,
        state: &RepositoryState,
    ) -> Answer<Option<StoredRecord>> {
        if !self.repeatable {
            return Ok(None);
        }
        let mut after = state.head.number.saturating_sub(IDEMPOTENCY_RECORDS);
        loop {
            let batch = repository.records(after).await?;
            for stored in batch.records {
                after = stored.record.envelope.number;
                if stored.record.envelope.draft.nonce == self.origin.nonce {
                    return Ok(Some(stored));
                }
            }
            if !batch.more {
                return Ok(None);
            }
        }
    }
}

/// Whether a record puts this content at a path, and does nothing else.
fn brings(stored: &StoredRecord, path: &RepoPath, digest: Digest) -> bool {
    let RecordBody::Push(push) = &stored.record.body else {
        return false;
    };
    let [upsert] = &push.upserts[..] else {
        return false;
    };
    let is_content = matches!(&upsert.entry, Entry::File(file) if file.digest == digest);
    push.deletes.is_empty() && upsert.path == *path && is_content
}

/// Whether a record takes a path away, and does nothing else.
fn takes_away(stored: &StoredRecord, path: &RepoPath) -> bool {
    let RecordBody::Push(push) = &stored.record.body else {
        return false;
    };
    push.upserts.is_empty() && push.deletes[..] == [path.clone()]
}

/// The number of the record that has a request's nonce, if it does what the request wants.
fn number_if(stored: &StoredRecord, is_the_request: bool) -> Answer<u64> {
    if !is_the_request {
        let reason = "this Idempotency-Key was used for another request; draw a new one";
        return Err(Problem::refused(reason).into());
    }
    Ok(stored.record.envelope.number)
}

/// Goes by the repository's rules for a path.
struct PathRules {
    rules: Arc<RuleSet>,
    may_be_large: bool,
}

impl PathRules {
    async fn read(repository: &HostedRepository, path: &RepoPath) -> Answer<Self> {
        let rules = repository.rules().await?;
        let may_be_large = rules.may_be_large(path);
        Ok(Self {
            rules,
            may_be_large,
        })
    }

    fn check(&self, path: &RepoPath, access: &Access, wishes: &Wishes) -> Answer<()> {
        if access.key().role < Role::Own {
            leave_rules(path)?;
            if let Some(reason) = denial(path, &self.rules.shared_verdict(path)) {
                return Err(Problem::refused(reason).into());
            }
        }
        // There is no client that would have looked at the name.
        match self.rules.verdict(path) {
            Verdict::Denied { glob }
                if !wishes.allow_secret && self.rules.shared_verdict(path) == Verdict::Allowed =>
            {
                let reason = format!(
                    "{path} has the name of a file with credentials ({glob}); \
                     send it all the same with {HEADER_ALLOW_SECRET}: 1"
                );
                Err(Problem::refused(reason).into())
            }
            _ => Ok(()),
        }
    }
}

/// `PUT`: the body becomes the content of the file, which is made if there is none.
pub(crate) async fn write(
    access: Access,
    State(gateway): State<Gateway>,
    Id(path): Id<RepoPath>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let repository = access.repository(Role::Push).await?;
    let wishes = Wishes::read(&access, &gateway, &headers)?;
    let coding = check_body(&headers)?;
    let rules = PathRules::read(&repository, &path).await?;
    rules.check(&path, &access, &wishes)?;
    let limit = limit(rules.may_be_large);
    let sent = body.size_hint().exact().unwrap_or(u64::MAX);
    if coding == Coding::Identity && sent > limit {
        return Err(too_large(&path, sent, limit));
    }
    let content_max = match coding {
        Coding::Identity => sent,
        Coding::Gzip | Coding::Zstd => limit,
    };
    let memory = usize::try_from(content_max * UPLOAD_COPIES).unwrap_or(usize::MAX);
    let _memory = memory_for(gateway.bodies(), memory).await?;
    let body_max = usize::try_from(limit + CODING_OVERHEAD_BYTES).unwrap_or(usize::MAX);
    let taken = take_body(&gateway, body, body_max).await?;

    let state = repository.head().await?;
    let upload = {
        let (gateway, path, state) = (gateway.clone(), path.clone(), Arc::clone(&state));
        let (body, allow_secret) = (taken.bytes.clone(), wishes.allow_secret);
        on_a_thread(move || {
            let content = expand(&path, &body, coding, limit)?;
            if !allow_secret {
                refuse_secrets(&path, &content)?;
            }
            let (now, entropy) = (gateway.now(), gateway.entropy());
            Ok(Upload::new(&content, &state, now, entropy)?)
        })
        .await?
    };
    let digest = upload.file().digest;
    if let Some(stored) = wishes.done_before(&repository, &state).await? {
        let number = number_if(&stored, brings(&stored, &path, digest))?;
        return Ok(written(StatusCode::NO_CONTENT, Some(upload.file()), number));
    }
    for pack in &upload.packs {
        repository.put_pack(pack.id, pack.bytes.clone()).await?;
    }
    let mut state = state;
    for _ in 0..WRITE_RACES_MAX {
        let present = file_at(&state, &path)?;
        wishes.check(&path, present)?;
        // What is there already needs no record, unless a repeated request is to find one.
        if !wishes.repeatable && present.is_some_and(|file| file.digest == digest) {
            let number = state.head.number;
            return Ok(written(StatusCode::NO_CONTENT, present, number));
        }
        if present.is_none()
            && let Some(other) = state.tree.in_the_way_of(&path)
        {
            let reason = format!("{other} is in the way of {path}, on some machines at least");
            return Err(Problem::refused(reason).into());
        }
        let executable = present.is_some_and(|file| file.executable);
        let status = match present {
            Some(_) => StatusCode::NO_CONTENT,
            None => StatusCode::CREATED,
        };
        let draft = upload.draft(&path, executable, wishes.origin, state.head)?;
        match repository.append_as(&draft, Some(access.key().key)).await {
            Ok(stored) => {
                let number = number_if(&stored, brings(&stored, &path, digest))?;
                return Ok(written(status, Some(upload.file()), number));
            }
            Err(Error::Conflict { .. }) => state = repository.head().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::busy())
}

/// `DELETE`: the file is taken away; its history stays.
pub(crate) async fn remove(
    access: Access,
    State(gateway): State<Gateway>,
    Id(path): Id<RepoPath>,
    headers: HeaderMap,
) -> Answer<Response> {
    let repository = access.repository(Role::Push).await?;
    let wishes = Wishes::read(&access, &gateway, &headers)?;
    if access.key().role < Role::Own {
        leave_rules(&path)?;
    }
    let mut state = repository.head().await?;
    if let Some(stored) = wishes.done_before(&repository, &state).await? {
        let number = number_if(&stored, takes_away(&stored, &path))?;
        return Ok(written(StatusCode::NO_CONTENT, None, number));
    }
    for _ in 0..WRITE_RACES_MAX {
        // A link and an empty directory can be taken away too; they have no tag to go by.
        let file = match state.tree.get(path.as_str()) {
            Some(Entry::File(file)) => Some(file),
            Some(Entry::Symlink { .. }) => None,
            Some(Entry::Directory) if state.tree.beneath(path.as_str()).count() == 1 => None,
            _ => Some(file_at(&state, &path)?.ok_or_else(|| no_file(&path))?),
        };
        wishes.check(&path, file)?;
        let draft = removal(&path, wishes.origin, state.head)?;
        match repository.append_as(&draft, Some(access.key().key)).await {
            Ok(stored) => {
                let number = number_if(&stored, takes_away(&stored, &path))?;
                return Ok(written(StatusCode::NO_CONTENT, None, number));
            }
            Err(Error::Conflict { .. }) => state = repository.head().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::busy())
}

/// The answer to a write: at which record the path is as the request wanted it.
fn written(status: StatusCode, file: Option<&FileEntry>, record: u64) -> Response {
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(HEADER_RECORD, HeaderValue::from(record));
    if let Some(file) = file {
        headers.typed_insert(tag(file, Coding::Identity));
    }
    response
}

/// Checks what a body is said to be, and gives its coding.
fn check_body(headers: &HeaderMap) -> Answer<Coding> {
    // Without a length there is no body, and an empty file is not what that means.
    if !headers.contains_key(header::CONTENT_LENGTH) {
        let detail = "send the body with a Content-Length";
        return Err(Refusal::new(Fault::LengthRequired, detail));
    }
    // RFC 9110, 14.5: taking a part for the whole would lose the rest.
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Problem::refused("a file is sent whole, not by ranges").into());
    }
    let media = headers.get(header::CONTENT_TYPE);
    let media = media.map_or(&b""[..], HeaderValue::as_bytes);
    if media.to_ascii_lowercase().starts_with(b"multipart/") {
        let detail = "the body is the file itself, not a form: with curl, -T FILE and not -F";
        return Err(Refusal::new(Fault::UnsupportedMedia, detail));
    }
    coding_of_body(headers).ok_or_else(|| {
        let detail = "the body may be sent as it is, with gzip or with zstd";
        Refusal::new(Fault::UnsupportedMedia, detail)
    })
}

fn refuse_secrets(path: &RepoPath, content: &[u8]) -> Answer<()> {
    let findings = find_secrets(content);
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| format!("line {}: {}", finding.line, finding.rule))
        .collect();
    let reason = format!(
        "{path} seems to hold secrets ({}); take them out, or send it all the same with \
         {HEADER_ALLOW_SECRET}: 1",
        lines.join(", ")
    );
    Err(Problem::refused(reason).into())
}

/// Runs what takes a processor for a while where nobody waits for the thread.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        let what = "taking in a file".into();
        let source = error.into();
        Err(Error::Unavailable { what, source }.into())
    })
}
