//! A gateway as a client sees it: how requests are sent, and sent again. A repository behind it is [`GatewayRemote`].
//!
//! Every request may be repeated: packs have names of their own, drafts a nonce, keys and invites
//! ids that the client draws. So whatever fails on the way is tried again, and only an append that
//! never got an answer ends as "unknown".

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use statehold_core::id::{KeyId, MachineId, RepositoryId};
use statehold_core::time::Timestamp;
use statehold_repository::collect::{Collected, Usage};
use statehold_repository::format::record::StoredRecord;
use statehold_repository::remote::Batch;
use statehold_repository::store_clock::StoreClock;
use statehold_repository::wire::bodies::{
    CompactRequest, Info, InviteInfo, InviteList, KeyInfo, KeyList, NewInvite, NewKey, NewTenant,
    PurgeRequest, RedeemRequest, RenameRequest, TenantInfo, TenantList,
};
use statehold_repository::wire::frames::{Decoder, End, Frame};
use statehold_repository::wire::key::{Invite, Key};
use statehold_repository::wire::problem::{PROBLEM_BYTES_MAX, Problem};
use statehold_repository::wire::version::OWN;
use statehold_repository::wire::{HEADER_REPOSITORY, HEADER_VERSION, JSON_BYTES_MAX};
use statehold_repository::{Error, Result};
use url::{Host, Url};

use crate::prefetched::Prefetched;

mod head_stream;
mod remote;

pub use remote::GatewayRemote;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for an answer to begin, and for each further piece of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A body is expected to pass at this rate at least, in bytes per second.
const UPLOAD_RATE_MIN: u64 = 8 * 1024;
/// The gateway closes connections that say nothing for ten seconds; ours end before that.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);
/// How often a request is sent before its failure is reported.
const ATTEMPTS_MAX: u32 = 6;
/// First wait between attempts; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between attempts, also when the gateway asks for more.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Where a gateway is, and how to trust it.
#[derive(Debug, Clone)]
pub struct GatewayAddress {
    /// Its base address, such as `https://gateway.example.org`.
    pub url: Url,
    /// Further certificate authorities to trust, as PEM.
    pub authorities: Vec<Vec<u8>>,
}

impl GatewayAddress {
    /// The gateway at an address, trusted by the system's authorities.
    pub fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text)
            .map_err(|error| Error::refused(format!("{text} is no address: {error}")))?;
        let authorities = Vec::new();
        Ok(Self { url, authorities })
    }
}

/// Speaks to a gateway.
#[derive(Clone)]
pub struct GatewayClient {
    http: reqwest::Client,
    base: Url,
    /// The version of the gateway that answered first.
    answered_by: Arc<OnceLock<String>>,
    /// Set by the dates of its answers.
    clock: Arc<StoreClock>,
}

impl std::fmt::Debug for GatewayClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GatewayClient({})", self.base)
    }
}

/// A request, ready to be sent as often as need be.
struct Ask {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<(&'static str, Bytes)>,
}

impl Ask {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            body: None,
        }
    }

    fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    fn post(path: impl Into<String>, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(Error::refused)?;
        Ok(Self::new(Method::POST, path).with("application/json", body.into()))
    }

    fn with(self, media: &'static str, body: Bytes) -> Self {
        let body = Some((media, body));
        Self { body, ..self }
    }

    fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }
}

/// A gateway's certificate that was not accepted, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No authority that is trusted here vouches for it.
    #[error("no authority that is trusted here vouches for its certificate")]
    UnknownAuthority,
    /// It is an authority's own.
    #[error("its certificate is that of an authority, which no server may use")]
    Authority,
    /// It is for other times.
    #[error("its certificate has expired, or is not valid yet: {reason}")]
    Time {
        /// The times.
        reason: String,
    },
    /// It is for other names.
    #[error("its certificate is for other names: {reason}")]
    Name {
        /// The names.
        reason: String,
    },
    /// Anything else.
    #[error("its certificate is not accepted: {reason}")]
    Other {
        /// What the verifier says.
        reason: String,
    },
}

impl CertificateError {
    fn among_causes_of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            // An I/O error gives the cause of what it wraps as its own.
            let wrapped = error.downcast_ref::<std::io::Error>();
            let wrapped = wrapped.and_then(|error| error.get_ref());
            let found = match wrapped {
                Some(wrapped) => wrapped.downcast_ref::<rustls::Error>(),
                None => error.downcast_ref::<rustls::Error>(),
            };
            if let Some(rustls::Error::InvalidCertificate(found)) = found {
                return Some(Self::of(found));
            }
            cause = match wrapped {
                Some(wrapped) => Some(wrapped),
                None => error.source(),
            };
        }
        None
    }

    fn of(found: &rustls::CertificateError) -> Self {
        use rustls::CertificateError as Found;
        let reason = found.to_string();
        match found {
            Found::UnknownIssuer => Self::UnknownAuthority,
            Found::Expired
            | Found::ExpiredContext { .. }
            | Found::NotValidYet
            | Found::NotValidYetContext { .. } => Self::Time { reason },
            Found::NotValidForName | Found::NotValidForNameContext { .. } => Self::Name { reason },
            // The verifier has no name of its own for it.
            _ if reason.contains("CaUsedAsEndEntity") => Self::Authority,
            _ => Self::Other { reason },
        }
    }
}

/// Why an attempt failed.
enum Failure {
    /// The answer is clear, and trying again gives the same.
    Final(Error),
    /// So it is here: there is no such address. An older gateway doesn't know them all.
    NoRoute(Error),
    /// Trying again may help.
    Again {
        error: Error,
        /// How long the gateway asks to wait.
        wait: Option<Duration>,
        /// Whether the gateway may have acted on the request.
        reached: bool,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    /// A failure on the way. A certificate that can't be trusted won't be at the next attempt either.
    fn on_the_way(asked: &str, error: reqwest::Error) -> Self {
        if let Some(untrusted) = CertificateError::among_causes_of(&error) {
            return Self::Final(Error::Unavailable {
                what: asked.to_owned(),
                source: untrusted.into(),
            });
        }
        let reached = !error.is_connect() && !error.is_builder();
        let error = Error::Unavailable {
            what: asked.to_owned(),
            source: error.without_url().into(),
        };
        Self::Again {
            error,
            wait: None,
            reached,
        }
    }

    fn silent(asked: &str) -> Self {
        let error = Error::Unavailable {
            what: asked.to_owned(),
            source: "no answer in time".into(),
        };
        Self::Again {
            error,
            wait: None,
            reached: true,
        }
    }
}

/// How a request ended for good.
struct Failed {
    error: Error,
    /// Whether the gateway may have acted on it.
    reached: bool,
    /// Whether it was told in the end that there is no such address.
    no_route: bool,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl GatewayClient {
    /// A client with a key; without one, all it can do is redeem an invite. The key of a
    /// repository among several can be used for one of them by naming it.
    ///
    /// Keys and invites never travel over plain HTTP, except to this machine itself.
    pub fn new(
        address: &GatewayAddress,
        key: Option<&Key>,
        repository: Option<RepositoryId>,
    ) -> Result<Self> {
        let url = &address.url;
        let loopback = is_loopback(url);
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            return Err(Error::refused(format!(
                "{} would carry the key in the clear; use https",
                url.host_str().unwrap_or(url.scheme())
            )));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::refused("a gateway's address holds no user name"));
        }
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_VERSION, HeaderValue::from_static(OWN));
        if let Some(key) = key {
            let text = zeroize::Zeroizing::new(format!("Bearer {}", key.reveal().as_str()));
            let mut value = HeaderValue::from_str(&text).map_err(Error::refused)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if let Some(repository) = repository {
            let value = HeaderValue::from_str(&repository.to_string()).map_err(Error::refused)?;
            headers.insert(HEADER_REPOSITORY, value);
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("statehold/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none());
        if loopback {
            // A proxy is another machine, and has no business with this one's own gateway.
            builder = builder.no_proxy();
        }
        for pem in &address.authorities {
            let found = reqwest::Certificate::from_pem_bundle(pem).map_err(Error::refused)?;
            builder = builder.tls_certs_merge(found);
        }
        let http = builder.build().map_err(|error| Error::Unavailable {
            what: "an HTTP client".into(),
            source: error.into(),
        })?;
        let mut base = url.clone();
        base.set_query(None);
        base.set_fragment(None);
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let (answered_by, clock) = (Arc::default(), Arc::default());
        Ok(Self {
            http,
            base,
            answered_by,
            clock,
        })
    }

    /// What the key reaches.
    pub async fn info(&self) -> Result<Info> {
        self.json(Ask::get("v1/info")).await
    }

    /// The gateway's clock, as the `Date` of an answer; `None` if it or a proxy leaves that out.
    pub async fn date(&self) -> Result<Option<String>> {
        match self.try_send(&Ask::get("livez")).await {
            Ok(response) => {
                let date = response.headers().get(DATE);
                Ok(date.and_then(|date| Some(date.to_str().ok()?.to_owned())))
            }
            Err(Failure::Final(error) | Failure::NoRoute(error) | Failure::Again { error, .. }) => {
                Err(error)
            }
        }
    }

    /// Turns an invite into a key drawn here. Sending it again with the same key is safe.
    pub async fn redeem(
        &self,
        invite: &Invite,
        key: &Key,
        label: &str,
        machine: Option<MachineId>,
    ) -> Result<KeyInfo> {
        let request = RedeemRequest {
            invite: invite.reveal().to_string(),
            key: key.id(),
            hash: key.hash(),
            label: label.to_owned(),
            machine,
        };
        self.json(Ask::post("v1/redeem", &request)?).await
    }

    /// The machines, that is the keys, that share a repository with this one.
    pub async fn machines(&self) -> Result<Vec<KeyInfo>> {
        let list: KeyList = self.json(Ask::get("v1/machines")).await?;
        Ok(list.keys)
    }

    /// Ends a key: one's own, or any when the own role allows it.
    pub async fn revoke(&self, key: KeyId) -> Result<KeyInfo> {
        self.json(Ask::new(Method::POST, format!("v1/machines/{key}/revoke")))
            .await
    }

    /// Calls a machine something else.
    pub async fn rename(&self, key: KeyId, label: &str) -> Result<KeyInfo> {
        let request = RenameRequest {
            label: label.to_owned(),
        };
        self.json(Ask::post(format!("v1/machines/{key}/rename"), &request)?)
            .await
    }

    /// What takes space in the repository, and what keeping every state for so many days only would free, if
    /// that is asked.
    pub async fn usage(&self, within_days: Option<u32>) -> Result<Usage> {
        let ask = Ask::get("v1/usage");
        self.json(match within_days {
            Some(days) => ask.query("within", days),
            None => ask,
        })
        .await
    }

    /// Lets go of what the policy lets go. Takes the role `maintain`, and `own` to approve of much.
    pub async fn compact(&self, request: CompactRequest) -> Result<Collected> {
        self.json(Ask::post("v1/compact", &request)?).await
    }

    /// Makes what was ever at a path unreadable, and deletes it. Takes the role `own`.
    pub async fn purge(&self, request: &PurgeRequest) -> Result<Collected> {
        self.json(Ask::post("v1/purge", request)?).await
    }

    /// Adds an invite to one's own repositories. Takes the role `own`.
    pub async fn add_invite(&self, new: &NewInvite) -> Result<InviteInfo> {
        self.json(Ask::post("v1/invites", new)?).await
    }

    /// Adds a key. Takes the role `operator`, as everything below does.
    pub async fn admin_add_key(&self, new: &NewKey) -> Result<KeyInfo> {
        self.json(Ask::post("v1/admin/keys", new)?).await
    }

    /// Adds a tenant.
    pub async fn admin_add_tenant(&self, new: &NewTenant) -> Result<TenantInfo> {
        self.json(Ask::post("v1/admin/tenants", new)?).await
    }

    /// Adds an invite to any repository.
    pub async fn admin_add_invite(&self, new: &NewInvite) -> Result<InviteInfo> {
        self.json(Ask::post("v1/admin/invites", new)?).await
    }

    /// All keys.
    pub async fn admin_keys(&self) -> Result<Vec<KeyInfo>> {
        let list: KeyList = self.json(Ask::get("v1/admin/keys")).await?;
        Ok(list.keys)
    }

    /// All tenants.
    pub async fn admin_tenants(&self) -> Result<Vec<TenantInfo>> {
        let list: TenantList = self.json(Ask::get("v1/admin/tenants")).await?;
        Ok(list.tenants)
    }

    /// All invites.
    pub async fn admin_invites(&self) -> Result<Vec<InviteInfo>> {
        let list: InviteList = self.json(Ask::get("v1/admin/invites")).await?;
        Ok(list.invites)
    }

    async fn json<T: DeserializeOwned + Send>(&self, ask: Ask) -> Result<T> {
        let Json(value) = self.send(&ask).await?;
        Ok(value)
    }

    /// Sends a request until there is a clear answer, or patience ends.
    async fn send<A: Answer>(&self, ask: &Ask) -> Result<A, Failed> {
        let mut ever_reached = false;
        let mut attempt = 1;
        let failed = |error, reached, no_route| Failed {
            error,
            reached,
            no_route,
        };
        loop {
            let outcome = match self.try_send(ask).await {
                Ok(response) => A::read(&self.asked(ask), response).await,
                Err(failure) => Err(failure),
            };
            let (error, wait) = match outcome {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(failed(error, ever_reached, false)),
                Err(Failure::NoRoute(error)) => return Err(failed(error, ever_reached, true)),
                Err(Failure::Again {
                    error,
                    wait,
                    reached,
                }) => {
                    ever_reached |= reached;
                    (error, wait)
                }
            };
            if attempt >= ATTEMPTS_MAX {
                return Err(failed(error, ever_reached, false));
            }
            let wait = wait.unwrap_or_default().max(backoff(attempt));
            tracing::debug!(path = ask.path, attempt, %error, "trying again");
            tokio::time::sleep(wait.min(BACKOFF_MAX)).await;
            attempt += 1;
        }
    }

    /// What an error says was asked of whom.
    fn asked(&self, ask: &Ask) -> String {
        let gateway = self.base.as_str().trim_end_matches('/');
        format!("the gateway at {gateway}, asked for {},", ask.path)
    }

    async fn try_send(&self, ask: &Ask) -> Result<Response, Failure> {
        let mut url = self.base.join(&ask.path).map_err(Error::refused)?;
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        let mut request = self.http.request(ask.method.clone(), url);
        let mut patience = ANSWER_TIMEOUT;
        match &ask.body {
            Some((media, body)) => {
                patience += Duration::from_secs(body.len() as u64 / UPLOAD_RATE_MIN);
                request = request.header(CONTENT_TYPE, *media).body(body.clone());
            }
            None if ask.method == Method::POST => request = request.body(Bytes::new()),
            None => {}
        }
        let response = match tokio::time::timeout(patience, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failure::on_the_way(&self.asked(ask), error)),
            Err(_) => return Err(Failure::silent(&self.asked(ask))),
        };
        let version = response.headers().get(HEADER_VERSION);
        if let Some(version) = version.and_then(|version| version.to_str().ok()) {
            self.answered_by.get_or_init(|| version.to_owned());
        }
        let date = response.headers().get(DATE);
        let date = date.and_then(|date| Timestamp::from_http_date(date.to_str().ok()?));
        if let Some(date) = date {
            self.clock.set(date);
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let seconds = response.headers().get(RETRY_AFTER);
        let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
        let wait = seconds.map(Duration::from_secs);
        let body = collect(&self.asked(ask), response, PROBLEM_BYTES_MAX).await?;
        let error = Problem::read(status.as_u16(), &body);
        Err(match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS => Failure::Again {
                error,
                wait,
                reached: !Problem::says_undone(&body),
            },
            _ if Problem::says_no_route(status.as_u16(), &body) => Failure::NoRoute(error),
            _ => Failure::Final(error),
        })
    }
}

/// What is made of an answer's body.
trait Answer: Sized {
    fn read(asked: &str, response: Response) -> impl Future<Output = Result<Self, Failure>> + Send;
}

/// Success says it all.
struct Done;

impl Answer for Done {
    async fn read(_: &str, _: Response) -> Result<Self, Failure> {
        Ok(Self)
    }
}

struct Json<T>(T);

impl<T: DeserializeOwned + Send> Answer for Json<T> {
    async fn read(asked: &str, response: Response) -> Result<Self, Failure> {
        let bytes = collect(asked, response, JSON_BYTES_MAX).await?;
        let damaged = |error| Error::damaged("the gateway's answer", error);
        Ok(Self(serde_json::from_slice(&bytes).map_err(damaged)?))
    }
}

struct Frames(Vec<Frame>, End);

impl Answer for Frames {
    async fn read(asked: &str, response: Response) -> Result<Self, Failure> {
        let mut frames = Vec::new();
        let keep = |frame| {
            frames.push(frame);
            Ok(())
        };
        let end = each_frame(asked, response, keep).await?;
        Ok(Self(frames, end))
    }
}

/// Records, and content that came along.
struct Pulled {
    batch: Batch,
    content: Prefetched,
}

impl Answer for Pulled {
    async fn read(asked: &str, response: Response) -> Result<Self, Failure> {
        let (mut records, mut content) = (Vec::new(), Prefetched::new());
        let take = |frame| {
            match frame {
                Frame::Record { number, bytes } => {
                    let stored = StoredRecord::read(number, bytes)?;
                    content.insert_record(&stored);
                    records.push(stored);
                }
                Frame::Content {
                    object,
                    offset,
                    bytes,
                } => content.insert(object, offset, bytes),
                _ => return Err(strange("something else than records and content")),
            }
            Ok(())
        };
        let End { more, far, .. } = each_frame(asked, response, take).await?;
        let batch = Batch {
            records,
            more,
            far,
            opening: None,
        };
        Ok(Self { batch, content })
    }
}

/// Takes a stream of frames apart as it comes in. What was taken before an error is part of
/// something that never was whole.
async fn each_frame(
    asked: &str,
    mut response: Response,
    mut take: impl FnMut(Frame) -> Result<()> + Send,
) -> Result<End, Failure> {
    let mut decoder = Decoder::default();
    while let Some(bytes) = next_piece(asked, &mut response).await? {
        decoder.push(&bytes);
        while let Some(frame) = decoder.next_frame()? {
            take(frame)?;
        }
    }
    // Something on the way may end the body early and make it look whole.
    decoder.finish().map_err(|error| Failure::Again {
        error,
        wait: None,
        reached: true,
    })
}

/// The wait before the next attempt: doubled each time, and spread so that clients that failed
/// together don't come back together.
fn backoff(attempt: u32) -> Duration {
    let full = BACKOFF_MIN
        .saturating_mul(1 << attempt.min(16))
        .min(BACKOFF_MAX);
    full / 2 + full.mul_f64(chance() / 2.0)
}

/// A number from 0 up to 1, to spread waits by. A hasher's seed is as random as this needs.
pub(crate) fn chance() -> f64 {
    let drawn = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
        % 1024;
    drawn as f64 / 1024.0
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

async fn next_piece(asked: &str, response: &mut Response) -> Result<Option<Bytes>, Failure> {
    match tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) => Err(Failure::on_the_way(asked, error)),
        Err(_) => Err(Failure::silent(asked)),
    }
}

async fn collect(asked: &str, mut response: Response, limit: usize) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = next_piece(asked, &mut response).await? {
        if bytes.len() + piece.len() > limit {
            let reason = format!("it has more than {limit} bytes");
            return Err(Error::damaged("the gateway's answer", reason).into());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

fn strange(what: &str) -> Error {
    Error::damaged("the gateway's answer", format!("it holds {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_travel_in_the_clear_only_within_this_machine() {
        for (url, allowed) in [
            ("https://gateway.example.org", true),
            ("https://gateway.example.org/behind/a/path", true),
            ("http://127.0.0.1:8080", true),
            ("http://localhost:8080", true),
            ("http://[::1]:8080", true),
            ("http://gateway.example.org", false),
            ("http://localhost.example.org", false),
            ("http://10.0.0.1", false),
            ("http://127.0.0.1.example.org", false),
            ("ftp://localhost", false),
            ("file:///etc/passwd", false),
            ("https://user:word@gateway.example.org", false),
        ] {
            let address = GatewayAddress::parse(url).unwrap();
            let client = GatewayClient::new(&address, None, None);
            assert_eq!(client.is_ok(), allowed, "{url}");
        }
    }

    #[test]
    fn waits_grow_and_stay_in_bounds() {
        for attempt in 1..40 {
            assert!((BACKOFF_MIN..=BACKOFF_MAX).contains(&backoff(attempt)));
        }
    }
}
