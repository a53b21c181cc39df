//! A push and a pull in one request each: what they bring, what they must never take for whole, and
//! how they get along with a gateway that doesn't know them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use statehold_core::bands::Profile;
use statehold_core::event::Outcome;
use statehold_core::id::PackId;
use statehold_core::limits::FAR_BEHIND_RECORDS;
use statehold_core::plan::Direction;
use statehold_core::point::Point;
use statehold_core::scope::Scope;
use statehold_repository::content::Pack;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::{advance, advance_with_content, load, load_at};
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Role;
use statehold_repository::wire::frames::{Decoder, End, Frame};
use statehold_repository::wire::key::Key;
use statehold_repository::wire::{PULL_CONTENT_BYTES_MAX, PUSH_BYTES_MAX, push as wire};
use statehold_repository::{Error, Remote, Result};
use statehold_sync::engine::{EngineError, RunOptions};
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use statehold_sync::preset::Preset;
use statehold_testkit::loopback::{Front, Manners};
use statehold_testkit::machine::{BY_HAND, Machine, Shared};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{Running, content, noise, note, push, start};

/// The way to a gateway through a front that notes what passes.
async fn through(front: &Front, key: &Key) -> GatewayRemote {
    let address = GatewayAddress::parse(&front.endpoint()).unwrap();
    let client = GatewayClient::new(&address, Some(key), None).unwrap();
    GatewayRemote::connect(client).await.unwrap()
}

async fn front(running: &Running) -> Front {
    Front::before(&running.url(""), Manners::default())
        .await
        .unwrap()
}

/// What a gateway that knows neither `/_push` nor `/_pull` says about itself.
fn older(remote: GatewayRemote) -> GatewayRemote {
    let mut info = serde_json::to_value(remote.info()).unwrap();
    let limits = info["limits"].as_object_mut().unwrap();
    for limit in ["push_bytes", "pull_content_bytes"] {
        assert!(limits.remove(limit).unwrap().as_u64().unwrap() > 0);
    }
    let info = serde_json::from_value(info).unwrap();
    GatewayRemote::with_info(remote.client().clone(), info)
}

fn machine(shared: &Shared, name: &str, remote: GatewayRemote) -> Machine {
    let remote = Arc::new(remote);
    let machine = shared.machine_over(name, Preset::Plain, Profile::Adaptive, remote);
    machine.unwrap()
}

/// The paths of the requests since the last time, without their queries.
fn requests(front: &Front) -> Vec<String> {
    let lines = front.take_lines().into_iter();
    let path = |line: String| line.split('?').next().unwrap_or_default().to_owned();
    lines.map(path).collect()
}

/// 60 files of 4 KiB, and then 8 files of 1 MB, with what a machine asks for along the way.
async fn asked_for(front: &Front, a: &Machine, b: &Machine) -> Vec<Vec<String>> {
    for machine in [a, b] {
        machine.pull().await.unwrap();
    }
    let mut asked = Vec::new();
    for (folder, files, bytes) in [("small", 60, 4_096), ("large", 8, 1_000_000)] {
        for index in 0..files {
            let path = format!("{folder}/{index}");
            a.write(&path, noise(bytes)).unwrap();
        }
        front.take_lines();
        for machine in [a, b] {
            let report = match asked.len() % 2 {
                0 => machine.push().await.unwrap(),
                _ => machine.pull().await.unwrap(),
            };
            assert_eq!(report.outcome, Outcome::Done);
            asked.push(requests(front));
        }
        assert_eq!(a.tree().unwrap(), b.tree().unwrap());
    }
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Nothing);
    asked.push(requests(front));
    a.write("one more", noise(1_000_000)).unwrap();
    a.push().await.unwrap();
    front.take_lines();
    assert_eq!(b.engine.status(Scope::All).await.unwrap().incoming.added, 1);
    let dry = RunOptions {
        dry: true,
        direction: Direction::Pull,
        ..BY_HAND
    };
    b.run(dry).await.unwrap();
    asked.push(requests(front));
    asked
}

#[tokio::test]
async fn a_push_and_its_pull_are_one_request_each() {
    let running = start(&Store::memory()).await;
    let front = front(&running).await;
    let shared = Shared::in_memory();
    let key = running.key(Role::Push).await;
    let a = machine(&shared, "a", through(&front, &key).await);
    let b = machine(&shared, "b", through(&front, &key).await);
    let asked = asked_for(&front, &a, &b).await;
    let expected: [&[&str]; 6] = [
        &["POST /v1/log"],
        &["GET /_pull"],
        &["POST /_push"],
        &["GET /_pull"],
        &["GET /_pull"],
        // Who only looks downloads no content.
        &["GET /v1/log", "GET /v1/log"],
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn a_gateway_that_does_not_know_them_is_asked_in_parts() {
    let running = start(&Store::memory()).await;
    let front = front(&running).await;
    let shared = Shared::in_memory();
    let key = running.key(Role::Push).await;
    let a = machine(&shared, "a", older(through(&front, &key).await));
    let b = machine(&shared, "b", older(through(&front, &key).await));
    let asked = asked_for(&front, &a, &b).await;
    let expected: [&[&str]; 6] = [
        &["POST /v1/log"],
        &["GET /v1/log", "POST /v1/read"],
        &["PUT /v1/packs/", "POST /v1/log"],
        &["GET /v1/log", "POST /v1/read"],
        &["GET /v1/log"],
        &["GET /v1/log", "GET /v1/log"],
    ];
    for (asked, expected) in asked.iter().zip(expected) {
        let alike = |(asked, expected): (&String, &&str)| asked.starts_with(expected);
        let fits = asked.len() == expected.len() && asked.iter().zip(expected).all(alike);
        assert!(fits, "{asked:?}, not {expected:?}");
    }
}

/// Goal: one gateway of several may be older than what another one said about itself.
/// Method: a front that hides both addresses.
#[tokio::test]
async fn an_address_that_is_gone_is_done_without() {
    let running = start(&Store::memory()).await;
    let front = front(&running).await;
    let shared = Shared::in_memory();
    let key = running.key(Role::Push).await;
    let a = machine(&shared, "a", through(&front, &key).await);
    let b = machine(&shared, "b", through(&front, &key).await);
    front.behave(Manners {
        hides: Some("/_"),
        ..Manners::default()
    });
    let asked = asked_for(&front, &a, &b).await;
    let push = ["POST /_push", "PUT /v1/packs/", "POST /v1/log"];
    assert!(asked[2].iter().zip(push).all(|(a, b)| a.starts_with(b)));
    assert_eq!(asked[3], ["GET /_pull", "GET /v1/log", "POST /v1/read"]);
}

/// Goal: a push in one request that got no answer is settled as a whole by the next run.
/// Method: it never arrives, or its answers don't; the file is removed, so that the next run has
/// nothing to go by but the journal.
#[tokio::test]
async fn a_push_that_never_arrived_is_handed_in_again_with_its_packs() {
    let never_arrives = Manners {
        is_away: true,
        ..Manners::default()
    };
    let loses_answers = Manners {
        loses_answers: true,
        ..Manners::default()
    };
    tokio::join!(settled_after(never_arrives), settled_after(loses_answers));
}

async fn settled_after(manners: Manners) {
    let running = start(&Store::memory()).await;
    let front = front(&running).await;
    let shared = Shared::in_memory();
    let key = running.key(Role::Push).await;
    let a = machine(&shared, "a", through(&front, &key).await);
    a.pull().await.unwrap();
    let large = noise(1_000_000);
    a.write("large", &large).unwrap();
    front.take_lines();
    front.behave(manners);
    let error = a.push().await.unwrap_err();
    let unknown = matches!(error, EngineError::Remote(Error::Unknown { number: 1 }));
    assert!(unknown, "{error:?}");
    assert_eq!(requests(&front), ["POST /_push"; 6]);
    let arrived = if manners.loses_answers { 1 } else { 0 };

    front.behave(Manners::default());
    let remote = through(&front, &key).await;
    assert_eq!(load(&remote).await.unwrap().state.head.number, arrived);
    std::fs::remove_file(a.path("large")).unwrap();
    a.push().await.unwrap();
    let first = load_at(&remote, Point::Record(1)).await.unwrap();
    assert_eq!(content(&remote, &first, "large").await, large);
    // The deletion is a push of its own, after it.
    let head = load(&remote).await.unwrap().state;
    assert_eq!((head.head.number, head.tree.len()), (2, 0));
}

#[tokio::test]
async fn a_push_past_the_limit_goes_in_parts() {
    let running = start(&Store::memory()).await;
    let front = front(&running).await;
    let remote = through(&front, &running.key(Role::Push).await).await;
    let state = load(&remote).await.unwrap().state;
    // Four chunks that fill the 16 MiB but for some kilobytes, or but for some bytes.
    for (chunk, parts) in [(4_190_000, 1), (4_194_300, 2)] {
        let contents: Vec<Vec<u8>> = (0..4).map(|_| noise(chunk)).collect();
        let names = [0, 1, 2, 3].map(|file| format!("{chunk}/{file}"));
        let files = names.iter().zip(&contents);
        let files: Vec<(&str, &[u8])> = files.map(|(a, b)| (a.as_str(), &b[..])).collect();
        let (draft, pack) = push(&state, &files);
        front.take_lines();
        remote.push(&[pack.unwrap()], &draft, &state).await.unwrap();
        assert_eq!(requests(&front).len(), parts, "{chunk}");
    }
}

async fn post(running: &Running, key: &Key, body: impl Into<Bytes>) -> Response {
    let request = reqwest::Client::new().post(running.url("/_push"));
    let request = request.bearer_auth(key.reveal().as_str());
    request.body(body.into()).send().await.unwrap()
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let text = response.bytes().await.unwrap();
    let problem: serde_json::Value = serde_json::from_slice(&text).unwrap();
    (status, problem["code"].as_str().unwrap().to_owned())
}

fn whole(packs: &[Pack], draft: &StoredDraft) -> Vec<u8> {
    wire::write(packs, &draft.bytes).concat()
}

#[tokio::test]
async fn a_push_that_is_not_whole_or_not_right_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&Store::folder(folder.path()).unwrap()).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let (draft, pack) = push(&state, &[("a", &noise(400_000))]);
    let pack = pack.unwrap();
    let good = whole(std::slice::from_ref(&pack), &draft);

    let mut flipped = pack.clone();
    let mut bytes = flipped.bytes.to_vec();
    bytes[100_000] ^= 1;
    flipped.bytes = bytes.into();
    let renamed = Pack {
        id: PackId::from_bytes([9; 16]),
        ..pack.clone()
    };
    let (_, other) = push(&state, &[("b", &noise(400_000))]);
    let (denied, denied_pack) = push(&state, &[("_restore/x", &noise(400_000))]);
    let twice = [
        wire::write(&[], &draft.bytes)[..2].concat(),
        wire::write(&[], &draft.bytes).concat(),
    ];
    let mut after_the_end = good.clone();
    after_the_end.push(1);
    for (what, body) in [
        ("nothing", Vec::new()),
        ("no end", good[..good.len() - 20].to_vec()),
        ("cut in the pack", good[..200_000].to_vec()),
        ("more after the end", after_the_end),
        ("a bare draft", draft.bytes.to_vec()),
        ("two drafts", twice.concat()),
        ("a flipped bit in the pack", whole(&[flipped], &draft)),
        ("a pack of another name", whole(&[renamed], &draft)),
        (
            "a pack too many",
            whole(&[pack.clone(), other.unwrap()], &draft),
        ),
        (
            "a path that may not travel",
            whole(&[denied_pack.unwrap()], &denied),
        ),
    ] {
        let answer = code(post(&running, &key, body).await).await;
        assert_eq!(answer, (422, "refused".into()), "{what}");
    }
    let large = vec![0; PUSH_BYTES_MAX + 1];
    let answer = code(post(&running, &key, large).await).await;
    assert_eq!(answer, (413, "too-large".into()));
    let reader = running.key(Role::Read).await;
    let answer = code(post(&running, &reader, good.clone()).await).await;
    assert_eq!(answer, (403, "denied".into()));
    let stranger = Key::random(&crate::world::Random);
    let answer = code(post(&running, &stranger, good.clone()).await).await;
    assert_eq!(answer, (401, "unauthenticated".into()));

    assert_eq!(load(&remote).await.unwrap().state.head.number, 0);
    assert_eq!(files_below(folder.path(), "packs"), 0);
    assert_eq!(post(&running, &key, good).await.status(), 200);
    assert_eq!(files_below(folder.path(), "packs"), 1);
}

/// How many files lie in folders of this name.
fn files_below(folder: &Path, name: &str) -> usize {
    let mut count = 0;
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            count += files_below(&path, name);
        } else if path.parent().unwrap().ends_with(name) {
            count += 1;
        }
    }
    count
}

#[tokio::test]
async fn the_same_push_again_is_the_same_record() {
    let store = Store::memory();
    let gateways = [start(&store).await, start(&store).await];
    let key = gateways[0].key(Role::Push).await;
    let here = gateways[0].remote(&key).await.unwrap();
    let there = gateways[1].remote(&key).await.unwrap();
    let state = load(&here).await.unwrap().state;
    let one = noise(400_000);
    let (draft, pack) = push(&state, &[("a", &one)]);
    let packs = [pack.unwrap()];
    let first = here.push(&packs, &draft, &state).await.unwrap();
    there
        .append(&note(&state, "between"), &state)
        .await
        .unwrap();
    for remote in [&here, &there] {
        let again = remote.push(&packs, &draft, &state).await.unwrap();
        assert_eq!((&again.bytes, &again.record), (&first.bytes, &first.record));
        let again = remote.append(&draft, &state).await.unwrap();
        assert_eq!(again.record, first.record);
    }
    let head = load(&there).await.unwrap().state;
    assert_eq!(head.head.number, 2);
    assert_eq!(content(&there, &head, "a").await, one);
}

#[tokio::test]
async fn a_conflict_names_the_paths_here_too() {
    let store = Store::memory();
    let gateways = [start(&store).await, start(&store).await];
    let key = gateways[0].key(Role::Push).await;
    let here = gateways[0].remote(&key).await.unwrap();
    let there = gateways[1].remote(&key).await.unwrap();
    let state = load(&here).await.unwrap().state;
    let (ours, our_pack) = push(&state, &[("notes.md", &noise(400_000))]);
    let (theirs, their_pack) = push(&state, &[("Notes.md", &noise(400_000))]);
    let (disjoint, pack) = push(&state, &[("other.md", &noise(400_000))]);
    here.push(&[our_pack.unwrap()], &ours, &state)
        .await
        .unwrap();
    let pushed = there.push(&[their_pack.unwrap()], &theirs, &state).await;
    let Err(Error::Conflict { number, overlap }) = pushed else {
        panic!("both were taken");
    };
    let paths = overlap.paths.iter().map(|(a, b)| (a.as_str(), b.as_str()));
    assert_eq!(number, 1);
    assert_eq!(paths.collect::<Vec<_>>(), [("Notes.md", "notes.md")]);
    // What touches other paths goes after it.
    let pushed = there.push(&[pack.unwrap()], &disjoint, &state).await;
    assert_eq!(pushed.unwrap().record.envelope.number, 2);
}

/// The frames of a pull, its end included.
async fn pull(running: &Running, key: &Key, query: &str) -> (Vec<Frame>, End) {
    let request = reqwest::Client::new().get(running.url(&format!("/_pull?{query}")));
    let request = request.bearer_auth(key.reveal().as_str());
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{query}");
    let mut decoder = Decoder::default();
    decoder.push(&response.bytes().await.unwrap());
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        frames.push(frame);
    }
    (frames, decoder.finish().unwrap())
}

/// How many records a pull brought, and how many bytes of content in how many pieces beside them.
fn sums(frames: &[Frame]) -> (usize, usize, u64) {
    let (mut records, mut pieces, mut bytes) = (0, 0, 0);
    for frame in frames {
        match frame {
            Frame::Record { .. } => records += 1,
            Frame::Content { bytes: piece, .. } => {
                pieces += 1;
                bytes += piece.len() as u64;
            }
            other => panic!("{other:?}"),
        }
    }
    (records, pieces, bytes)
}

#[tokio::test]
async fn a_pull_brings_what_is_still_in_use_each_once() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let mut state = load(&remote).await.unwrap().state;
    let early = Arc::clone(&state);
    let (old, new, twin) = (noise(300_000), noise(310_000), noise(320_000));
    for files in [
        &[("a", &old[..]), ("sources/b", &twin)][..],
        &[("a", &new), ("c", &twin)],
        &[("small", b"rides in the record")],
    ] {
        let (draft, pack) = push(&state, files);
        let packs: Vec<Pack> = pack.into_iter().collect();
        remote.push(&packs, &draft, &state).await.unwrap();
        state = advance(&remote, &state).await.unwrap();
    }
    // Noise grows a little by being framed.
    let about = |bytes: u64, raw: u64| bytes > raw && bytes < raw + 1_000;
    let (frames, end) = pull(&running, &key, "since=0").await;
    let (records, pieces, bytes) = sums(&frames);
    assert_eq!((records, pieces), (3, 2));
    assert!(about(bytes, 630_000), "{bytes}");
    assert_eq!((end.head, end.more, end.frames), (3, false, 5));
    let (frames, _) = pull(&running, &key, "since=0&scope=sources").await;
    let (records, pieces, bytes) = sums(&frames);
    assert!((records, pieces) == (3, 1) && about(bytes, 320_000));
    let (frames, end) = pull(&running, &key, "since=2").await;
    assert_eq!((sums(&frames), end.head), ((1, 0, 0), 3));
    let (frames, end) = pull(&running, &key, "since=3").await;
    assert_eq!((sums(&frames), end.head, end.more), ((0, 0, 0), 3, false));

    // What came along is read without a further request; who only looks gets records without content.
    let front = front(&running).await;
    let reader = through(&front, &running.key(Role::Read).await).await;
    let seen = advance_with_content(&reader, &early, Scope::All).await;
    let seen = seen.unwrap();
    assert_eq!(seen, state);
    front.take_lines();
    for (path, expected) in [("a", &new), ("c", &twin), ("sources/b", &twin)] {
        assert_eq!(content(&reader, &seen, path).await, *expected);
    }
    assert_eq!(
        content(&reader, &seen, "small").await,
        b"rides in the record"
    );
    assert_eq!(requests(&front), Vec::<String>::new());
    let batch = reader.records(0).await.unwrap();
    assert!(batch.records.iter().all(|stored| {
        stored.record.envelope.draft.content_bytes == 0 || !stored.has_content()
    }));
    for query in [
        "",
        "since=x",
        "since=18446744073709551615",
        "since=0&scope=nothing",
    ] {
        let request = reqwest::Client::new().get(running.url(&format!("/_pull?{query}")));
        let request = request.bearer_auth(key.reveal().as_str());
        assert_eq!(request.send().await.unwrap().status(), 422, "{query}");
    }
}

#[tokio::test]
async fn more_content_than_comes_along_is_read_afterwards() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let early = load(&remote).await.unwrap().state;
    let mut state = Arc::clone(&early);
    let contents: Vec<Vec<u8>> = (0..12).map(|_| noise(4_000_000)).collect();
    for (index, three) in contents.chunks(3).enumerate() {
        let names = [0, 1, 2].map(|file| format!("{index}/{file}"));
        let files = names.iter().zip(three);
        let files: Vec<(&str, &[u8])> = files.map(|(a, b)| (a.as_str(), &b[..])).collect();
        let (draft, pack) = push(&state, &files);
        remote.push(&[pack.unwrap()], &draft, &state).await.unwrap();
        state = advance(&remote, &state).await.unwrap();
    }
    let (frames, end) = pull(&running, &key, "since=0").await;
    let (records, pieces, bytes) = sums(&frames);
    assert_eq!((records, pieces, end.more), (4, 8, false));
    assert!(bytes <= PULL_CONTENT_BYTES_MAX, "{bytes}");
    let front = front(&running).await;
    let reader = through(&front, &key).await;
    let seen = advance_with_content(&reader, &early, Scope::All).await;
    let seen = seen.unwrap();
    front.take_lines();
    for (index, expected) in contents.iter().enumerate() {
        let path = format!("{}/{}", index / 3, index % 3);
        assert!(content(&reader, &seen, &path).await == *expected, "{path}");
    }
    assert_eq!(requests(&front), ["POST /v1/read"; 4]);
}

/// Goal: a slow reader costs the gateway no memory.
/// Method: a client that asks for 32 MB and takes nothing but the beginning; the store's own count.
#[tokio::test]
async fn content_is_read_from_the_store_as_it_is_taken() {
    let (store, meter) = Store::memory().metered();
    let running = start(&store).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let contents: Vec<Vec<u8>> = (0..8).map(|_| noise(4_000_000)).collect();
    let names = [0, 1, 2, 3, 4, 5, 6, 7].map(|file| file.to_string());
    let files = names.iter().zip(&contents);
    let files: Vec<(&str, &[u8])> = files.map(|(a, b)| (a.as_str(), &b[..])).collect();
    let (first, second) = files.split_at(4);
    let (draft, pack) = push(&state, first);
    remote.push(&[pack.unwrap()], &draft, &state).await.unwrap();
    let state = advance(&remote, &state).await.unwrap();
    let (draft, pack) = push(&state, second);
    remote.push(&[pack.unwrap()], &draft, &state).await.unwrap();

    let before = meter.usage();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = format!(
        "GET /_pull?since=0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        key.reveal().as_str()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = meter.usage().since(before).bytes_out;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let whole = meter.usage().since(before).bytes_out;
    assert!(answer.len() > 32_000_000 && whole > 32_000_000);
    // Two windows, one on its way, and what the system takes for both ends of a connection.
    assert!(held < 20_000_000, "{held} of {whole}");
}

#[tokio::test]
async fn records_come_in_several_answers_and_content_with_the_last() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let early = load(&remote).await.unwrap().state;
    let mut state = Arc::clone(&early);
    for index in 0..150_u32 {
        let len = if index % 149 == 0 { 400_000 } else { 262_000 };
        let (draft, pack) = push(&state, &[(&format!("{index}"), &noise(len))]);
        let packs: Vec<Pack> = pack.into_iter().collect();
        remote.push(&packs, &draft, &state).await.unwrap();
        state = advance(&remote, &state).await.unwrap();
    }
    let (mut since, mut answers) = (0, 0);
    loop {
        let (frames, end) = pull(&running, &key, &format!("since={since}")).await;
        let (records, pieces, _) = sums(&frames);
        assert_eq!(end.head, since + records as u64);
        (since, answers) = (end.head, answers + 1);
        if !end.more {
            assert_eq!(pieces, 1, "content comes with the last");
            break;
        }
        assert!(records > 0 && pieces == 0, "{records} {pieces}");
    }
    assert!(since == 150 && answers > 1, "{since} {answers}");
    let seen = advance_with_content(&remote, &early, Scope::All).await;
    assert_eq!(seen.unwrap(), state);
}

/// Goal: a machine that was away for long is there in two requests, whatever it missed.
#[tokio::test]
async fn who_is_far_behind_begins_with_a_checkpoint() {
    let store = Store::memory();
    let running = start(&store).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let mut state = load(&remote).await.unwrap().state;
    let mut known = Vec::new();
    for index in 0..200_u32 {
        let (draft, _) = push(&state, &[(&format!("{}", index % 7), &noise(100))]);
        remote.push(&[], &draft, &state).await.unwrap();
        state = advance(&remote, &state).await.unwrap();
        known.push(Arc::clone(&state));
    }
    // Another gateway, which has none of it in memory.
    let other = start(&store).await;
    let front = front(&other).await;
    let reader = through(&front, &key).await;
    for (behind, expected) in [
        (190, vec!["GET /_pull", "GET /v1/open"]),
        (FAR_BEHIND_RECORDS, vec!["GET /_pull"]),
    ] {
        front.take_lines();
        let early = &known[known.len() - 1 - behind];
        let seen = advance_with_content(&reader, early, Scope::All).await;
        assert_eq!(*seen.unwrap(), *state, "{behind}");
        assert_eq!(requests(&front), expected, "{behind}");
    }
}

/// Goal: damage in the store stops neither the pull nor the message about it.
#[tokio::test]
async fn content_that_cannot_be_read_is_left_out_and_named_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&Store::folder(folder.path()).unwrap()).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let early = load(&remote).await.unwrap().state;
    let (draft, pack) = push(&early, &[("a", &noise(400_000))]);
    remote.push(&[pack.unwrap()], &draft, &early).await.unwrap();
    remove_below(folder.path(), "packs");
    let (frames, end) = pull(&running, &key, "since=0").await;
    assert_eq!((sums(&frames), end.head), ((1, 0, 0), 1));
    let seen = advance_with_content(&remote, &early, Scope::All).await;
    let seen = seen.unwrap();
    let Some(statehold_core::entry::Entry::File(file)) = seen.tree.get("a") else {
        panic!("the listing is whole");
    };
    let read: Result<_> = remote.read(&[file.chunks[0].at]).await;
    assert!(matches!(read, Err(Error::NotFound { .. })), "{read:?}");
}

fn remove_below(folder: &Path, name: &str) {
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            remove_below(&path, name);
        } else if path.parent().unwrap().ends_with(name) {
            std::fs::remove_file(path).unwrap();
        }
    }
}
