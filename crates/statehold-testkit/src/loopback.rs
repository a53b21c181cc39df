//! Small HTTP servers on loopback: the frame for a double, and a front that stands before a real
//! server and changes what passes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::IF_NONE_MATCH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector as _, HttpRequest, ReqwestConnector};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::locked;

/// A server on loopback that ends when it is dropped.
#[derive(Debug)]
pub struct Loopback {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Loopback {
    /// Answers every request with what the function gives.
    pub async fn serve<Answer, Answered>(answer: Answer) -> std::io::Result<Self>
    where
        Answer: Fn(Request<Bytes>) -> Answered + Clone + Send + 'static,
        Answered: Future<Output = Response<Bytes>> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let answer = answer.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let response = match body.collect().await {
                            Ok(body) => answer(Request::from_parts(head, body.to_bytes())).await,
                            Err(_) => plain(StatusCode::BAD_REQUEST, ""),
                        };
                        Ok::<_, Infallible>(response.map(Full::new))
                    }
                });
                connections.spawn(
                    http1::Builder::new().serve_connection(TokioIo::new(connection), service),
                );
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer in words.
pub fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
}

/// A client for plain requests on loopback.
pub fn client() -> object_store::Result<HttpClient> {
    let options = ClientOptions::new()
        .with_allow_http(true)
        .with_timeout(Duration::from_secs(60));
    ReqwestConnector::default().connect(&options)
}

/// What a front does to what passes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// A request header that it takes away, in lower case.
    pub takes: Option<&'static str>,
    /// How much longer everything takes.
    pub latency: Duration,
    /// Addresses that begin like this are none here.
    pub hides: Option<&'static str>,
    /// It answers that the server is gone, and passes nothing on.
    pub is_away: bool,
    /// It answers that the server is gone, after what it passed on was done.
    pub loses_answers: bool,
    /// It refuses every overwrite and every delete, as a bucket does whose objects are locked.
    pub keeps_everything: bool,
}

/// A front before a server. It keeps the first line of every request.
#[derive(Debug)]
pub struct Front {
    loopback: Loopback,
    lines: Arc<Mutex<Vec<String>>>,
    refused: Arc<Mutex<Vec<String>>>,
    away_until: Arc<Mutex<Option<Instant>>>,
    manners: Arc<Mutex<Manners>>,
}

impl Front {
    /// A front before the server at this endpoint.
    pub async fn before(endpoint: &str, manners: Manners) -> std::io::Result<Self> {
        let client = client().map_err(std::io::Error::other)?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let manners = Arc::new(Mutex::new(manners));
        let (endpoint, noted) = (endpoint.to_owned(), Arc::clone(&lines));
        let away_until = Arc::new(Mutex::new(None));
        let away = Arc::<Mutex<Option<Instant>>>::clone(&away_until);
        let current = Arc::clone(&manners);
        let refused = Arc::<Mutex<Vec<String>>>::default();
        let refusals = Arc::clone(&refused);
        let answer = move |request| {
            let line = note(&request);
            let changes = changes(&request, &line);
            locked(&noted).push(line);
            let is_away = locked(&away).is_some_and(|until| Instant::now() < until);
            let manners = *locked(&current);
            let passing = pass(client.clone(), endpoint.clone(), manners, request);
            let refusals = Arc::clone(&refusals);
            async move {
                if is_away {
                    return plain(StatusCode::SERVICE_UNAVAILABLE, "try again later");
                }
                let answer = passing.await;
                if answer.status() == StatusCode::FORBIDDEN && answer.body() == LOCKED {
                    locked(&refusals).extend(changes);
                }
                answer
            }
        };
        let loopback = Loopback::serve(answer).await?;
        Ok(Self {
            loopback,
            lines,
            refused,
            away_until,
            manners,
        })
    }

    /// Answers 503 to everything from now on, for so long.
    pub fn go_away(&self, time: Duration) {
        *locked(&self.away_until) = Some(Instant::now() + time);
    }

    /// Changes what it does from now on.
    pub fn behave(&self, manners: Manners) {
        *locked(&self.manners) = manners;
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        self.loopback.endpoint()
    }

    /// Method and target of every request since the last time.
    pub fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.lines))
    }

    /// What was refused since the last time because it would have changed what is there: method and
    /// target, or the key for one of several that were to be deleted in one request.
    pub fn take_refused(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.refused))
    }
}

fn note(request: &Request<Bytes>) -> String {
    format!("{} {}", request.method(), request.uri())
}

/// What a request would change: its target, or the keys that its body lists.
fn changes(request: &Request<Bytes>, line: &str) -> Vec<String> {
    if !deletes_several(request) {
        return vec![line.to_owned()];
    }
    let body = String::from_utf8_lossy(request.body());
    let listed = body.split("<Key>").skip(1);
    let keys = listed.filter_map(|rest| rest.split("</Key>").next());
    keys.map(|key| format!("DELETE /{key}")).collect()
}

fn deletes_several(request: &Request<Bytes>) -> bool {
    request.method() == Method::POST && request.uri().query() == Some("delete")
}

async fn pass(
    client: HttpClient,
    endpoint: String,
    manners: Manners,
    request: Request<Bytes>,
) -> Response<Bytes> {
    tokio::time::sleep(manners.latency).await;
    if manners.is_away {
        return plain(StatusCode::BAD_GATEWAY, "");
    }
    let path = request.uri().path();
    if manners.hides.is_some_and(|hidden| path.starts_with(hidden)) {
        return plain(StatusCode::NOT_FOUND, "");
    }
    if manners.keeps_everything && would_change(&client, &endpoint, &request).await {
        return plain(StatusCode::FORBIDDEN, LOCKED);
    }
    match forward(&client, &endpoint, manners, request).await {
        Ok(_) if manners.loses_answers => plain(StatusCode::BAD_GATEWAY, ""),
        Ok(response) => response,
        Err(error) => plain(StatusCode::BAD_GATEWAY, error.to_string()),
    }
}

/// What S3 says of an object that is locked.
const LOCKED: &str = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>\
    <Message>the object is locked</Message></Error>";

/// Whether a request deletes something, or puts something where something is.
async fn would_change(client: &HttpClient, endpoint: &str, request: &Request<Bytes>) -> bool {
    match *request.method() {
        Method::DELETE => true,
        Method::POST => deletes_several(request),
        Method::PUT if request.headers().contains_key(IF_NONE_MATCH) => false,
        Method::PUT => {
            let mut look = Request::new(Bytes::new());
            *look.method_mut() = Method::HEAD;
            look.uri_mut().clone_from(request.uri());
            let found = forward(client, endpoint, Manners::default(), look).await;
            found.is_ok_and(|found| found.status().is_success())
        }
        _ => false,
    }
}

async fn forward(
    client: &HttpClient,
    endpoint: &str,
    manners: Manners,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let (mut head, body) = request.into_parts();
    head.uri = format!("{endpoint}{}", head.uri).parse()?;
    // The client writes these two itself.
    for name in ["host", "content-length"].into_iter().chain(manners.takes) {
        head.headers.remove(name);
    }
    let answer = client
        .execute(HttpRequest::from_parts(head, body.into()))
        .await?;
    let (mut head, body) = answer.into_parts();
    let body = body.bytes().await?;
    head.headers.remove("transfer-encoding");
    Ok(Response::from_parts(head, body))
}
