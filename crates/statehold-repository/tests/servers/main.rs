//! Stores on real servers: what the probe says of each, and that a repository works where it says so.
//!
//! The servers are installed into the build folder and run one at a time, so that what is measured
//! is one server's doing. One that can't be installed is skipped with a line that says why; where
//! everything has to be (`CI=true`), that is a failure for those that any machine can have.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod rounds;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{Request, StatusCode};
use statehold_core::id::RepositoryId;
use statehold_core::time::Timestamp;
use statehold_repository::Repository;
use statehold_repository::error::Error;
use statehold_repository::location::StoreLocation;
use statehold_repository::probe::{Check, Grade, Report, ShaStrategy, admit, newest, probe};
use statehold_repository::remote::load;
use statehold_repository::store::{Creation, Store};
use statehold_testkit::author::Author;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::google_double::{BUCKET, GoogleDouble, TOKEN};
use statehold_testkit::loopback::{Front, Loopback, Manners, plain};
use statehold_testkit::servers::{self, Absent, Server};
use tokio::sync::{Mutex, MutexGuard};

/// Held by the test whose server is running.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Says something even if the test passes.
fn say(line: &str) {
    // Straight to the descriptor: what is printed is shown for failed tests only.
    let mut shown = std::io::stderr();
    writeln!(shown, "{line}").unwrap();
}

/// Starts a server, or says why not. `everywhere`: any machine that tests everything can have it.
async fn start(
    name: &str,
    everywhere: bool,
    server: fn() -> Result<Server, Absent>,
) -> Option<(Server, MutexGuard<'static, ()>)> {
    let alone = ALONE.lock().await;
    let began = Instant::now();
    match tokio::task::spawn_blocking(server).await.unwrap() {
        Ok(server) => {
            say(&format!("{name} runs after {:.1?}", began.elapsed()));
            Some((server, alone))
        }
        Err(Absent::NotInstalled(reason)) if !(everywhere && servers::installs_everything()) => {
            say(&format!("SKIP {name}: {reason}"));
            None
        }
        Err(absent) => panic!("{name} {absent}"),
    }
}

fn open(server: &Server, endpoint: &str, bucket: &str) -> Store {
    let location: StoreLocation = server.location(bucket).parse().unwrap();
    let store = location.open(&|name| server.variable(endpoint, name));
    store.unwrap()
}

/// A bucket of its own, seen through a prefix as in real life.
async fn bucket(server: &Server, name: &str) -> Store {
    server.make_bucket(name).await.unwrap();
    open(server, server.endpoint(), name).inside("team")
}

async fn verdict(name: &str, store: &Store) -> Report {
    let clock = SimulatedClock::standing(EPOCH);
    let report = probe(store, &clock, &SeededEntropy::new(1)).await.unwrap();
    let reasons = report.reasons().join("; ");
    say(&format!(
        "{name}: grade {:?}, digests in the {:?}, {:.1} s {reasons}",
        report.grade,
        report.sha_strategy,
        Duration::from_millis(report.took_ms).as_secs_f32(),
    ));
    let left = store.list("probe", "probe").await.unwrap();
    assert_eq!(left, [""; 0], "{name}: the probe cleans up");
    report
}

/// Everything that is asked of a store for many writers.
async fn is_for_many_writers(name: &str, store: &Store) {
    let report = verdict(name, store).await;
    assert_eq!(report.grade, Grade::A, "{name}: {report:?}");
    let began = Instant::now();
    statehold_testkit::conformance::all(&store.inside("conformance")).await;
    let conforms = began.elapsed();
    rounds::many_keys_are_listed(&store.inside("keys")).await;
    let keys = began.elapsed() - conforms;
    rounds::a_repository_has_four_writers(&store.inside("repository")).await;
    let repository = began.elapsed() - keys - conforms;
    say(&format!(
        "{name}: conformance {conforms:.1?}, 2,500 keys {keys:.1?}, repository {repository:.1?}"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_is_for_many_writers() {
    let Some((server, _alone)) = start("moto", true, servers::moto).await else {
        return;
    };
    is_for_many_writers("moto", &bucket(&server, "plain").await).await;
    let versioned = bucket(&server, "versioned").await;
    server.keep_versions("versioned").await.unwrap();
    let report = verdict("moto, versioned bucket", &versioned).await;
    assert_eq!(report.grade, Grade::A, "{report:?}");
    without_conditions(&server).await;
    at_a_distance(&server).await;
    misfortunes(&server).await;
    whose_clock_is_ahead(&server).await;
}

/// A server that drops the condition on the way, as gateways and old servers do.
async fn without_conditions(server: &Server) {
    let manners = Manners {
        takes: Some("if-none-match"),
        ..Manners::default()
    };
    let front = Front::before(server.endpoint(), manners).await.unwrap();
    let store = open(server, &front.endpoint(), "plain").inside("unconditional");
    let report = verdict("moto without conditions", &store).await;
    assert_eq!(report.grade, Grade::B, "{report:?}");
    assert!(!report.finding(Check::CreateOnly).unwrap().holds);
    let admission = admit(&report);
    let error = admission.enter().unwrap_err().to_string();
    assert!(error.contains("created twice"), "{error}");
    let period = Duration::from_millis(900);
    let entropy = SeededEntropy::new(31);
    let leased = admission.enter_with_lease(store.clone(), &entropy, period);
    let leased = leased.await.unwrap();
    // The server says "made" to everybody; under the lease the second one is told.
    let made = [
        leased.create("a", "1".into()).await.unwrap(),
        leased.create("a", "2".into()).await.unwrap(),
    ];
    assert_eq!(made, [Creation::New, Creation::Exists]);
    assert_eq!(store.read("a").await.unwrap().unwrap(), "1");
}

/// Twenty milliseconds away: the probe takes seconds, and the first page of a listing one request.
async fn at_a_distance(server: &Server) {
    let manners = Manners {
        latency: Duration::from_millis(20),
        ..Manners::default()
    };
    let front = Front::before(server.endpoint(), manners).await.unwrap();
    let store = open(server, &front.endpoint(), "plain").inside("team");
    let report = verdict("moto, 20 ms away", &store).await;
    // The promise is 10 s, kept in simulated time; here a busy machine does the server's work, too.
    assert!(report.took_ms < 20_000, "{} ms", report.took_ms);
    front.take_lines();
    let first = store.inside("keys").list_first("log", "log").await.unwrap();
    assert_eq!(first.first().unwrap(), "log/00000000000000000001");
    let lines = front.take_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(newest(&store).await.unwrap(), None);
    assert_eq!(front.take_lines().len(), 1);
}

/// What isn't there is named, and nothing is tried for long that can't succeed.
async fn misfortunes(server: &Server) {
    let nowhere = open(server, server.endpoint(), "nowhere");
    let clock = SimulatedClock::standing(EPOCH);
    let began = Instant::now();
    let error = nowhere.create("log/1", "x".into()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = nowhere.list("log", "log").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = probe(&nowhere, &clock, &SeededEntropy::new(1)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = newest(&nowhere).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let deaf = open(server, "http://127.0.0.1:9", "plain");
    let error = probe(&deaf, &clock, &SeededEntropy::new(1)).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn ceph_is_for_many_writers_unless_its_bucket_keeps_versions() {
    let everywhere = cfg!(target_os = "linux");
    let Some((server, _alone)) = start("Ceph", everywhere, servers::ceph).await else {
        return;
    };
    is_for_many_writers("Ceph", &bucket(&server, "plain").await).await;
    let versioned = bucket(&server, "versioned").await;
    server.keep_versions("versioned").await.unwrap();
    let report = verdict("Ceph, versioned bucket", &versioned).await;
    // A later release may do better; that the probe says so is all that can be asked of it then.
    if servers::ceph_release() == Some(16) {
        assert_eq!(report.grade, Grade::B, "{report:?}");
    }
    // It checks signatures.
    let location: StoreLocation = "s3://plain".parse().unwrap();
    let stranger = |name: &str| match name {
        "AWS_SECRET_ACCESS_KEY" => Some("another".to_owned()),
        name => server.variable(server.endpoint(), name),
    };
    is_shut(&location.open(&stranger).unwrap()).await;
}

/// Wrong credentials are called that, at once.
async fn is_shut(store: &Store) {
    let began = Instant::now();
    let error = store.create("log/1", "x".into()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let error = store.read("log/1").await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let error = store.list("log", "log").await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite_is_for_many_writers() {
    let Some((server, _alone)) = start("Azurite", true, servers::azurite).await else {
        return;
    };
    is_for_many_writers("Azurite", &bucket(&server, "plain").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone_is_not_for_many_writers() {
    let Some((server, _alone)) = start("rclone", false, servers::rclone).await else {
        return;
    };
    let report = verdict("rclone", &bucket(&server, "plain").await).await;
    assert_ne!(report.grade, Grade::A, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3s_fs_is_not_for_many_writers() {
    let Some((server, _alone)) = start("s3s-fs", false, servers::s3s_fs).await else {
        return;
    };
    let store = bucket(&server, "plain").await;
    // It wins most races, so once is not enough to know that it is always found out.
    for run in 0..5 {
        let store = store.inside(&run.to_string());
        let report = verdict("s3s-fs", &store).await;
        assert_ne!(report.grade, Grade::A, "{report:?}");
    }
}

/// A double, not a server: see its own page.
#[tokio::test(flavor = "multi_thread")]
async fn the_double_of_google_is_for_many_writers() {
    let _alone = ALONE.lock().await;
    let double = GoogleDouble::start().await.unwrap();
    let location: StoreLocation = format!("gs://{BUCKET}/team").parse().unwrap();
    let environment = |name: &str| match name {
        "GOOGLE_BASE_URL" => Some(double.endpoint()),
        "GOOGLE_BEARER_TOKEN" => Some(TOKEN.to_owned()),
        _ => None,
    };
    let store = location.open(&environment).unwrap();
    is_for_many_writers("double of Google", &store).await;
    double.take_requests();
    let keys = store.inside("keys");
    let first = keys.list_first("log", "log").await.unwrap().len();
    assert_eq!(double.take_requests().len(), 1);
    assert!(keys.list("log", "log").await.unwrap().len() > first);
    assert_eq!(double.take_requests().len(), 5);
    let wrong = |name: &str| match name {
        "GOOGLE_BEARER_TOKEN" => Some("another".to_owned()),
        name => environment(name),
    };
    is_shut(&location.open(&wrong).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_for_many_writers() {
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let location: StoreLocation = folder.path().to_str().unwrap().parse().unwrap();
    let store = location.open(&|_| None).unwrap();
    is_for_many_writers("folder", &store).await;
    let report = verdict("folder", &store).await;
    assert_eq!(report.sha_strategy, ShaStrategy::Sidecar);
}

/// S3 says "conflict" while another write is under way. No object may come of that one, so the
/// answer is no "exists".
#[tokio::test]
async fn an_undecided_create_is_sent_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let answer = move |_: Request<Bytes>| {
        let mut response = plain(StatusCode::OK, "");
        if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            response = plain(
                StatusCode::CONFLICT,
                "<Error><Code>ConditionalRequestConflict</Code></Error>",
            );
        }
        let tag = HeaderValue::from_static("\"1\"");
        response.headers_mut().insert("etag", tag);
        std::future::ready(response)
    };
    let server = Loopback::serve(answer).await.unwrap();
    let location: StoreLocation = "s3://bucket".parse().unwrap();
    let environment = |name: &str| match name {
        "DO_SPACES_KEY" | "DO_SPACES_SECRET" => Some("any".to_owned()),
        "AWS_ENDPOINT_URL" => Some(server.endpoint()),
        _ => None,
    };
    let store = location.open(&environment).unwrap();
    let created = store.create("log/1", "x".into()).await.unwrap();
    assert_eq!((created, asked.load(Ordering::Relaxed)), (Creation::New, 2));
}

/// Goal: a clock that is more than five minutes ahead of the store's dates nothing, and five minutes
/// are no more than five.
async fn whose_clock_is_ahead(server: &Server) {
    server.make_bucket("clock").await.unwrap();
    let store = open(server, server.endpoint(), "clock");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.unwrap().as_millis()).unwrap();
    let ahead_by = |seconds: i64| {
        let now = Timestamp::from_millis(now + seconds * 1_000);
        Arc::new(SimulatedClock::standing(now))
    };
    let at = |clock: Arc<SimulatedClock>| {
        let entropy = Arc::new(SeededEntropy::new(3));
        let id = RepositoryId::from_bytes([3; 16]);
        Repository::open_or_create(store.clone(), id, clock, entropy)
    };
    let refused = at(ahead_by(600)).await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("s ahead of the store's"), "{told}");
    assert!(store.list("", "").await.unwrap().is_empty());

    let author = Author::new(5);
    let repository = at(ahead_by(200)).await.unwrap();
    let state = load(&repository).await.unwrap().state;
    let record = author.push(&repository, &state, [("x", Some(&b"1"[..]))]);
    record.await.unwrap();
    let repository = at(ahead_by(600)).await.unwrap();
    let state = load(&repository).await.unwrap().state;
    let refused = author.push(&repository, &state, [("x", Some(&b"2"[..]))]);
    match refused.await {
        Err(Error::ClockAhead { seconds }) => assert!((500..=600).contains(&seconds), "{seconds}"),
        other => panic!("{other:?}"),
    }
    // A clock that is behind keeps nobody from anything, and takes no record back in time.
    let repository = at(ahead_by(-86_400)).await.unwrap();
    let record = author.push(&repository, &state, [("x", Some(&b"2"[..]))]);
    let record = record.await.unwrap();
    assert_eq!(record.record.envelope.time, state.time);
}
