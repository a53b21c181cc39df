//! The requests, one function each: who may, what is read, what is answered.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use statehold_core::digest::Digest;
use statehold_core::id::{KeyId, PackId, RepositoryId};
use statehold_core::limits::{
    LOG_BATCH_BYTES, PACK_BYTES_MAX, READ_RANGES_MAX, RECORD_BYTES_MAX, SEGMENT_RECORDS,
};
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_core::record::{Kind, RecordRef};
use statehold_core::rules::{SHARED_RULES_PATH, Verdict};
use statehold_core::time::Timestamp;
use statehold_repository::format::record::{StoredDraft, StoredRecord};
use statehold_repository::remote::{Batch, check_range};
use statehold_repository::wire::bodies::{
    Info, InviteInfo, InviteList, KeyInfo, KeyList, Limits, NewInvite, NewKey, NewTenant, Place,
    ReadRequest, RedeemRequest, RenameRequest, Role, TenantInfo, TenantList,
};
use statehold_repository::wire::frames::{CHUNK_STORED_BYTES_MAX, End, Frame};
use statehold_repository::wire::problem::Problem;
use statehold_repository::wire::{
    DRAFT_BYTES_MAX, JSON_BYTES_MAX, MEDIA_FRAMES, READ_BYTES_MAX, version,
};
use statehold_repository::{Error, Remote};

use crate::auth::Access;
use crate::gateway::Gateway;
use crate::guard::take_body;
use crate::hosted::HostedRepository;
use crate::refusal::Refusal;

/// Drafts that are expanded at once: each may take half a gigabyte while it is.
pub(crate) const DRAFT_READERS_MAX: usize = 2;
/// Largest body of a request that says a few words, in bytes.
pub(crate) const SMALL_BYTES_MAX: usize = 64 * 1024;

pub(crate) type Answer<T> = Result<T, Refusal>;

/// An id in an address.
pub(crate) struct Id<T>(pub(crate) T);

impl<T> FromRequestParts<Gateway> for Id<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Answer<Self> {
        let text = Path::<String>::from_request_parts(parts, gateway).await;
        let text = text.map_err(|error| Problem::refused(error.body_text()))?;
        Ok(Self(text.parse().map_err(Problem::refused)?))
    }
}

/// The query of an address.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Gateway> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Gateway) -> Answer<Self> {
        let query = Query::try_from_uri(&parts.uri);
        let Query(asked) = query.map_err(|error| Problem::refused(error.body_text()))?;
        Ok(Self(asked))
    }
}

/// Reads a JSON body of at most so many bytes.
pub(crate) async fn take_json<T: DeserializeOwned>(
    gateway: &Gateway,
    body: Body,
    limit: usize,
) -> Answer<T> {
    let taken = take_body(gateway, body, limit).await?;
    Ok(serde_json::from_slice(&taken.bytes).map_err(Problem::refused)?)
}

pub(crate) async fn livez() -> &'static str {
    "alive\n"
}

pub(crate) async fn readyz(State(gateway): State<Gateway>) -> Answer<&'static str> {
    gateway.is_ready().await?;
    Ok("ready\n")
}

pub(crate) async fn info(access: Access, State(gateway): State<Gateway>) -> Answer<Json<Info>> {
    let repository = access.repository(Role::Read).await?;
    let (description, genesis) = repository.description();
    let id = access.repository_id();
    let registry = gateway.registry().await?;
    let name = registry.repository(id).map(|row| row.name.clone());
    let key = access.key();
    Ok(Json(Info {
        version: version::OWN.to_owned(),
        repository: id,
        name: name.unwrap_or_default(),
        key: key.key,
        label: key.label.clone(),
        role: key.role,
        expires: key.expires,
        description: description.clone(),
        genesis,
        limits: Limits::default(),
        one_writer: gateway.hosts().has_one_writer(),
    }))
}

#[derive(Debug, Deserialize)]
pub(crate) struct OpenQuery {
    at_most: Option<u64>,
    then: Option<u64>,
    time: Option<Timestamp>,
}

pub(crate) async fn open(access: Access, Asked(query): Asked<OpenQuery>) -> Answer<Frames> {
    let repository = access.repository(Role::Read).await?;
    // Whoever joins and may push is likely to, soon.
    if access.key().role >= Role::Push {
        repository.get_ready();
    }
    let at = match (query.at_most, query.then, query.time) {
        (None, None, None) => Point::Newest,
        (Some(number), None, None) => Point::Record(number),
        (None, Some(number), None) => Point::Then(number),
        (None, None, Some(time)) => Point::Time(time),
        _ => {
            return Err(Problem::refused("at_most, then and time exclude each other").into());
        }
    };
    let opening = repository.open(at).await?;
    let mut frames = Vec::new();
    let mut head = 0;
    if let Some((checkpoint, trees)) = opening.checkpoint {
        head = checkpoint.at.number;
        frames.push(Frame::Checkpoint(checkpoint.write()));
        let tree = |(id, bytes)| Frame::Tree { id, bytes };
        frames.extend(trees.into_iter().map(tree));
    }
    frames.extend(opening.batch.records.into_iter().map(record_frame));
    if let Some(stored) = opening.moves {
        let number = stored.record.envelope.number;
        let bytes = stored.bytes;
        frames.push(Frame::Moves { number, bytes });
    }
    Ok(Frames::new(frames, head, opening.batch.more))
}

#[derive(Debug, Deserialize)]
pub(crate) struct LogQuery {
    after: u64,
    until: Option<u64>,
    id: Option<Digest>,
}

pub(crate) async fn log(access: Access, Asked(query): Asked<LogQuery>) -> Answer<Frames> {
    let repository = access.repository(Role::Read).await?;
    check_number(query.after)?;
    let batch = match query.until {
        None => records_since(&repository, query.after, query.id).await?,
        Some(until) => records_until(&repository, query.after, until).await?,
    };
    let frames = batch.records.into_iter().map(record_frame).collect();
    Ok(Frames::new(frames, query.after, batch.more).far(batch.far))
}

/// The records after one. A client that knows its id wants to get on from there: it is told where nothing
/// follows because another log stands here than the one it knows (where something does, the chain shows that), and
/// where so much does that an opening is sooner had.
pub(crate) async fn records_since(
    repository: &HostedRepository,
    after: u64,
    id: Option<Digest>,
) -> Answer<Batch> {
    Ok(match id {
        Some(id) => {
            let known = RecordRef { number: after, id };
            repository.records_since(known, None).await?
        }
        None => repository.records(after).await?,
    })
}

/// A segment after the other, until it is enough for one answer.
async fn records_until(repository: &HostedRepository, after: u64, until: u64) -> Answer<Batch> {
    check_number(until)?;
    check_range(after, until)?;
    let (mut records, mut bytes, mut last) = (Vec::new(), 0, after);
    while last < until && bytes < LOG_BATCH_BYTES {
        let end = (last / SEGMENT_RECORDS + 1) * SEGMENT_RECORDS;
        let next = until.min(end);
        let found = repository.records_until(last, next).await;
        for stored in found.map_err(no_such_record)? {
            bytes += stored.bytes.len();
            records.push(stored);
        }
        last = next;
    }
    let more = last < until;
    Ok(Batch {
        records,
        more,
        ..Batch::default()
    })
}

/// Whoever asks for records by their numbers may ask for some that don't exist.
fn no_such_record(error: Error) -> Error {
    match error {
        Error::NotFound { object } => Error::refused(format!("there is no {object}")),
        other => other,
    }
}

/// Refuses what is far beyond any log, and so near the end of numbers that none can be counted from
/// there.
pub(crate) fn check_number(number: u64) -> Answer<()> {
    match number > u64::MAX / 2 {
        true => Err(Problem::refused("no log is that long").into()),
        false => Ok(()),
    }
}

pub(crate) async fn read(
    access: Access,
    State(gateway): State<Gateway>,
    body: Body,
) -> Answer<Frames> {
    let repository = access.repository(Role::Read).await?;
    let request: ReadRequest = take_json(&gateway, body, JSON_BYTES_MAX).await?;
    if request.places.len() > READ_RANGES_MAX {
        let reason = format!("at most {READ_RANGES_MAX} ranges at once");
        return Err(Problem::refused(reason).into());
    }
    let stored = |place: &Place| u64::from(place.stored);
    if request.places.iter().map(stored).sum::<u64>() > READ_BYTES_MAX {
        let reason = format!("at most {READ_BYTES_MAX} bytes at once");
        return Err(Problem::refused(reason).into());
    }
    let in_bounds = |place: &Place| is_readable(place.offset, place.stored);
    if !request.places.iter().all(in_bounds) {
        return Err(Problem::refused("a range is empty or lies past the end of objects").into());
    }
    let places: Vec<_> = request
        .places
        .iter()
        .map(Place::location)
        .collect::<Result<_, _>>()?;
    let chunks = repository.read(&places).await?;
    let frames = chunks.into_iter().map(Frame::Chunk).collect();
    Ok(Frames::new(frames, 0, false))
}

/// Whether a chunk may lie there: within the largest object, and no longer than chunks are.
pub(crate) fn is_readable(offset: u64, stored: u32) -> bool {
    let end = offset.checked_add(u64::from(stored));
    let fits = (1..=CHUNK_STORED_BYTES_MAX).contains(&(stored as usize));
    fits && end.is_some_and(|end| end <= RECORD_BYTES_MAX as u64)
}

pub(crate) async fn put_pack(
    access: Access,
    State(gateway): State<Gateway>,
    Id(id): Id<PackId>,
    body: Body,
) -> Answer<StatusCode> {
    let repository = access.repository(Role::Push).await?;
    let taken = take_body(&gateway, body, PACK_BYTES_MAX).await?;
    let put = repository.put_pack(id, taken.bytes.clone()).await;
    put.map_err(from_outside)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn append(
    access: Access,
    State(gateway): State<Gateway>,
    body: Body,
) -> Answer<Frames> {
    let repository = access.repository(Role::Push).await?;
    let taken = take_body(&gateway, body, DRAFT_BYTES_MAX).await?;
    let draft = admit(&access, &gateway, &repository, taken.bytes.clone()).await?;
    append_admitted(&access, &repository, &draft).await
}

/// Reads a draft, and makes sure that whoever sends it may append it.
pub(crate) async fn admit(
    access: &Access,
    gateway: &Gateway,
    repository: &HostedRepository,
    bytes: Bytes,
) -> Answer<StoredDraft> {
    let draft = read_draft(gateway, bytes).await?;
    check_kind(access, &draft)?;
    if access.key().role < Role::Own {
        check_rules(repository, &draft).await?;
        repository.check_room(&draft).await?;
    }
    Ok(draft)
}

/// Appends a draft that was [admitted](admit), and answers with the record.
pub(crate) async fn append_admitted(
    access: &Access,
    repository: &HostedRepository,
    draft: &StoredDraft,
) -> Answer<Frames> {
    let key = Some(access.key().key);
    let stored = repository.append_as(draft, key).await?;
    // What the client lacks is what stands before the body it has sent itself.
    let number = stored.record.envelope.number;
    let body_bytes = u64::from(stored.record.envelope.draft.body_bytes);
    let head = usize::try_from(stored.record.content_start.saturating_sub(body_bytes));
    let bytes = stored
        .bytes
        .slice(..head.unwrap_or(0).min(stored.bytes.len()));
    Ok(Frames::new(
        vec![Frame::Record { number, bytes }],
        number,
        false,
    ))
}

/// Expanding a draft takes processor time and memory, so few are at once, and none of them on a
/// thread that others wait for.
async fn read_draft(gateway: &Gateway, bytes: Bytes) -> Answer<StoredDraft> {
    let permit = Arc::clone(gateway.drafts()).acquire_owned().await;
    let read = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        StoredDraft::read(bytes)
    });
    let read = read
        .await
        .unwrap_or_else(|error| Err(Error::refused(error)));
    Ok(read.map_err(from_outside)?)
}

/// Damage in what a client sends says nothing about the store.
pub(crate) fn from_outside(error: Error) -> Error {
    match error {
        Error::Damaged { object, reason } => Error::refused(format!("{object}: {reason}")),
        other => other,
    }
}

/// What a role may append.
fn check_kind(access: &Access, draft: &StoredDraft) -> Answer<()> {
    match &draft.draft.head.kind {
        Kind::Push | Kind::Snapshot | Kind::Rollback | Kind::Note | Kind::Hold => {
            access.require(Role::Push).map(drop)
        }
        // A row is believed by whoever asks for the age of a copy.
        Kind::Backup => access.require(Role::Maintain).map(drop),
        Kind::Forget | Kind::Fence => access.require(Role::Own).map(drop),
        // A state can't know all that makes a removal right, so the gateway collects by itself.
        kind @ (Kind::Compact | Kind::Remove | Kind::Registry | Kind::Promote | Kind::Other(_)) => {
            Err(Problem::denied(format!("records of kind {kind} are not taken here")).into())
        }
    }
}

/// Whether a push keeps the repository's rules, and leaves them as they are. Clients see to that
/// too; this is for those that don't, and for machines whose rules are older. Who owns the
/// repository is above them.
async fn check_rules(repository: &HostedRepository, draft: &StoredDraft) -> Answer<()> {
    let Some(push) = draft.draft.body.changes() else {
        return Ok(());
    };
    push.paths().try_for_each(leave_rules)?;
    let mut paths = push.upserts.iter().map(|upsert| &upsert.path);
    let rules = repository.rules().await?;
    match paths.find_map(|path| denial(path, &rules.shared_verdict(path))) {
        Some(reason) => Err(Problem::refused(reason).into()),
        None => Ok(()),
    }
}

/// Turns away whoever doesn't own a repository and would change its rules.
pub(crate) fn leave_rules(path: &RepoPath) -> Answer<()> {
    if path.as_str() == SHARED_RULES_PATH {
        let reason = format!("{SHARED_RULES_PATH} may be changed with a key of role own only");
        return Err(Problem::refused(reason).into());
    }
    Ok(())
}

/// Why the rules don't let a path through, if they don't.
pub(crate) fn denial(path: &RepoPath, verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Allowed => None,
        Verdict::Denied { glob } => Some(format!("{path} may not be pushed: {glob} denies it")),
        Verdict::Uncovered { prefix } => Some(format!(
            "{path} may not be pushed: beneath {prefix} every path has to match SYNC_ALLOW or \
             SYNC_DENY in {SHARED_RULES_PATH}"
        )),
    }
}

pub(crate) async fn redeem(State(gateway): State<Gateway>, body: Body) -> Answer<Json<KeyInfo>> {
    let request: RedeemRequest = take_json(&gateway, body, SMALL_BYTES_MAX).await?;
    let info = gateway
        .redeem(&request)
        .await
        .map_err(|error| match error {
            // Not the store's denial but ours.
            Error::Denied { reason } => Refusal::from(Problem::denied(reason)),
            other => other.into(),
        })?;
    Ok(Json(info))
}

/// Whether a key may be seen by another: same tenant, and a repository in common.
fn in_reach(access: &Access, info: &KeyInfo) -> bool {
    let own = access.key();
    let shares = |id: &RepositoryId| own.repositories.contains(id);
    info.tenant == own.tenant && info.repositories.iter().any(shares)
}

pub(crate) async fn machines(
    access: Access,
    State(gateway): State<Gateway>,
) -> Answer<Json<KeyList>> {
    access.require(Role::Read)?;
    let mut keys = gateway.registry().await?.keys();
    keys.retain(|info| in_reach(&access, info));
    for info in &mut keys {
        info.own = info.key == access.key().key;
    }
    Ok(Json(KeyList { keys }))
}

/// A key that may be changed by whoever asks: their own, or any in reach up to their own role.
async fn changeable(access: &Access, gateway: &Gateway, key: KeyId) -> Answer<()> {
    if key == access.key().key {
        return Ok(());
    }
    access.require(Role::Own)?;
    let registry = gateway.registry().await?;
    let info = registry.key(key).map(|row| &row.info);
    let everywhere = access.key().role == Role::Operator;
    match info.filter(|info| everywhere || in_reach(access, info)) {
        Some(info) if info.role <= access.key().role => Ok(()),
        Some(_) => Err(Problem::denied("the key has a higher role than yours").into()),
        None => {
            let object = "the key".into();
            Err(Error::NotFound { object }.into())
        }
    }
}

pub(crate) async fn revoke(
    access: Access,
    State(gateway): State<Gateway>,
    Id(key): Id<KeyId>,
) -> Answer<Json<KeyInfo>> {
    changeable(&access, &gateway, key).await?;
    Ok(Json(gateway.revoke_key(key).await?))
}

pub(crate) async fn rename(
    access: Access,
    State(gateway): State<Gateway>,
    Id(key): Id<KeyId>,
    body: Body,
) -> Answer<Json<KeyInfo>> {
    changeable(&access, &gateway, key).await?;
    let request: RenameRequest = take_json(&gateway, body, SMALL_BYTES_MAX).await?;
    Ok(Json(gateway.rename_key(key, &request.label).await?))
}

/// Only what one has oneself can be passed on. No repositories named means one's own.
fn passed_on(access: &Access, role: Role, repositories: &mut Vec<RepositoryId>) -> Answer<()> {
    if repositories.is_empty() {
        repositories.push(access.repository_id());
    }
    let own = access.key();
    if role > own.role {
        return Err(Problem::denied("the role is higher than yours").into());
    }
    let operator = own.role == Role::Operator;
    if !operator && !repositories.iter().all(|id| own.repositories.contains(id)) {
        let object = "the repository".into();
        return Err(Error::NotFound { object }.into());
    }
    Ok(())
}

async fn new_invite(
    access: &Access,
    gateway: &Gateway,
    body: Body,
) -> Answer<(StatusCode, Json<InviteInfo>)> {
    let mut new: NewInvite = take_json(gateway, body, SMALL_BYTES_MAX).await?;
    passed_on(access, new.role, &mut new.repositories)?;
    Ok((StatusCode::CREATED, Json(gateway.add_invite(&new).await?)))
}

pub(crate) async fn add_invite(
    access: Access,
    State(gateway): State<Gateway>,
    body: Body,
) -> Answer<impl IntoResponse> {
    access.require(Role::Own)?;
    new_invite(&access, &gateway, body).await
}

pub(crate) async fn admin_add_invite(
    access: Access,
    State(gateway): State<Gateway>,
    body: Body,
) -> Answer<impl IntoResponse> {
    access.require(Role::Operator)?;
    new_invite(&access, &gateway, body).await
}

pub(crate) async fn admin_invites(
    access: Access,
    State(gateway): State<Gateway>,
) -> Answer<Json<InviteList>> {
    access.require(Role::Operator)?;
    let invites = gateway.registry().await?.invites();
    Ok(Json(InviteList { invites }))
}

pub(crate) async fn admin_add_key(
    access: Access,
    State(gateway): State<Gateway>,
    body: Body,
) -> Answer<(StatusCode, Json<KeyInfo>)> {
    access.require(Role::Operator)?;
    let mut new: NewKey = take_json(&gateway, body, SMALL_BYTES_MAX).await?;
    passed_on(&access, new.role, &mut new.repositories)?;
    Ok((StatusCode::CREATED, Json(gateway.add_key(&new).await?)))
}

pub(crate) async fn admin_keys(
    access: Access,
    State(gateway): State<Gateway>,
) -> Answer<Json<KeyList>> {
    access.require(Role::Operator)?;
    let keys = gateway.registry().await?.keys();
    Ok(Json(KeyList { keys }))
}

pub(crate) async fn admin_add_tenant(
    access: Access,
    State(gateway): State<Gateway>,
    body: Body,
) -> Answer<(StatusCode, Json<TenantInfo>)> {
    access.require(Role::Operator)?;
    let new: NewTenant = take_json(&gateway, body, SMALL_BYTES_MAX).await?;
    Ok((StatusCode::CREATED, Json(gateway.add_tenant(&new).await?)))
}

pub(crate) async fn admin_tenants(
    access: Access,
    State(gateway): State<Gateway>,
) -> Answer<Json<TenantList>> {
    access.require(Role::Operator)?;
    let tenants = gateway.registry().await?.tenants();
    Ok(Json(TenantList { tenants }))
}

/// A record without its content, which who only looks has no use for.
fn record_frame(stored: StoredRecord) -> Frame {
    let start = usize::try_from(stored.record.content_start).unwrap_or(usize::MAX);
    Frame::Record {
        number: stored.record.envelope.number,
        bytes: stored.bytes.slice(..start.min(stored.bytes.len())),
    }
}

/// An answer of frames, its end included.
pub(crate) struct Frames(Vec<Frame>);

impl Frames {
    /// `head` stands for the newest record where the frames hold none.
    fn new(mut frames: Vec<Frame>, head: u64, more: bool) -> Self {
        let number = |frame: &Frame| match frame {
            Frame::Record { number, .. } => Some(*number),
            _ => None,
        };
        let head = frames.iter().rev().find_map(number).unwrap_or(head);
        let end = End {
            frames: frames.len() as u64,
            more,
            head,
            far: false,
        };
        frames.push(Frame::End(end));
        Self(frames)
    }

    /// Says whether the records go on for so long that an opening is sooner had.
    fn far(mut self, far: bool) -> Self {
        if let Some(Frame::End(end)) = self.0.last_mut() {
            end.far = far;
        }
        self
    }
}

impl IntoResponse for Frames {
    fn into_response(self) -> Response {
        let parts: Vec<Bytes> = self.0.iter().flat_map(Frame::encode).collect();
        let len: usize = parts.iter().map(Bytes::len).sum();
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        let body = Body::from_stream(stream::iter(parts.map(Ok::<_, std::convert::Infallible>)));
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_FRAMES));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        response
    }
}
