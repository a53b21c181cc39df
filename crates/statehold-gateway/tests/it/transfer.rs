//! Pushing and pulling through gateways.

use std::sync::Arc;

use futures::future::join_all;
use statehold_core::digest::Digest;
use statehold_core::id::PackId;
use statehold_core::point::Point;
use statehold_repository::content::FrameLine;
use statehold_repository::format::container::ContainerWriter;
use statehold_repository::format::frame::FrameWriter;
use statehold_repository::format::header::ObjectKind;
use statehold_repository::remote::{advance, load};
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Role;
use statehold_repository::{Error, Remote as _};
use statehold_sync::gateway_client::GatewayRemote;

use crate::world::{content, noise, note, push, start};

async fn round_trip(store: Store) {
    let running = start(&store).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let empty = load(&remote).await.unwrap().state;
    assert_eq!(empty.head.number, 0);
    assert!(remote.records(0).await.unwrap().records.is_empty());

    // Little content rides in the record, much of it in a pack.
    let (draft, pack) = push(&empty, &[("a/small", b"hello"), ("empty", b"")]);
    assert!(pack.is_none());
    let stored = remote.append(&draft, &empty).await.unwrap();
    assert_eq!(stored.record.envelope.key, Some(key.id()));
    let after = advance(&remote, &empty).await.unwrap();
    assert_eq!(after.head, stored.record.reference());

    let (one, two) = (noise(400_000), noise(300_000));
    let (draft, pack) = push(&after, &[("b/one", &one), ("b/two", &two)]);
    let pack = pack.unwrap();
    for _ in 0..2 {
        remote.put_pack(pack.id, pack.bytes.clone()).await.unwrap();
    }
    remote.append(&draft, &after).await.unwrap();

    // Somebody new sees all of it, byte for byte.
    let reader = running.key(Role::Read).await;
    let reader = running.remote(&reader).await.unwrap();
    let state = load(&reader).await.unwrap().state;
    assert_eq!((state.head.number, state.tree.len()), (2, 4));
    assert_eq!(content(&reader, &state, "a/small").await, b"hello");
    assert_eq!(content(&reader, &state, "b/one").await, one);
    assert_eq!(content(&reader, &state, "b/two").await, two);
    assert_eq!(content(&reader, &state, "empty").await, b"");

    running.stop.send(()).unwrap();
    running.task.await.unwrap().unwrap();

    // A gateway that starts anew knows keys and content; nothing was only in the first one.
    let again = start(&store).await;
    assert!(again.operator.is_none());
    let remote = again.remote(&key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    assert_eq!(content(&remote, &state, "b/one").await, one);
}

#[tokio::test]
async fn what_is_pushed_is_pulled_from_memory() {
    round_trip(Store::memory()).await;
}

#[tokio::test]
async fn what_is_pushed_is_pulled_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    round_trip(Store::folder(folder.path()).unwrap()).await;
}

#[tokio::test]
async fn records_past_the_first_checkpoint_are_served() {
    let running = start(&Store::memory()).await;
    let remote = running
        .remote(&running.key(Role::Push).await)
        .await
        .unwrap();
    let mut state = load(&remote).await.unwrap().state;
    for number in 0_u32..70 {
        let name = format!("file-{number}");
        let (draft, _) = push(&state, &[(&name, &number.to_le_bytes())]);
        remote.append(&draft, &state).await.unwrap();
        state = advance(&remote, &state).await.unwrap();
    }
    running.gateway.finish().await;
    let opening = remote.open(Point::Newest).await.unwrap();
    let (checkpoint, _) = opening.checkpoint.unwrap();
    assert!(checkpoint.at.number >= 32);
    let fresh = load(&remote).await.unwrap().state;
    assert_eq!(fresh, state);
    assert_eq!(
        content(&remote, &fresh, "file-3").await,
        3_u32.to_le_bytes()
    );
    let old = remote.open(Point::Record(5)).await.unwrap();
    assert!(old.checkpoint.is_none());
}

/// Goal: no machine can be stopped by a chunk that isn't what its pack says.
/// Method: a well-formed pack, checksums and all, whose table gives a frame another content's digest.
#[tokio::test]
async fn a_pack_that_lies_about_a_chunk_is_turned_away() {
    let running = start(&Store::memory()).await;
    let remote = running
        .remote(&running.key(Role::Push).await)
        .await
        .unwrap();
    let frame = FrameWriter::default().compress(b"what is there");
    for (said, is_taken) in [(&b"what is there"[..], true), (b"what is said!", false)] {
        let mut container = ContainerWriter::new(ObjectKind::Pack);
        let offset = container.push(&frame);
        let line = FrameLine {
            blake3: Digest::of(said),
            offset,
            stored: u32::try_from(frame.len()).unwrap(),
            raw: 13,
            check: Digest::of(&frame).to_string()[..32].to_owned(),
        };
        let id = PackId::from_bytes([u8::from(is_taken); 16]);
        let put = remote.put_pack(id, container.finish([line])).await;
        assert_eq!(put.is_ok(), is_taken, "{put:?}");
    }
}

#[tokio::test]
async fn gateways_on_one_store_serve_writers_of_disjoint_paths_at_once() {
    let store = Store::memory();
    let gateways = [start(&store).await, start(&store).await];
    let key = gateways[0].key(Role::Push).await;
    let writers = (0..6).map(|writer: usize| {
        let (gateways, key) = (&gateways, &key);
        async move {
            let remote = gateways[writer % 2].remote(key).await.unwrap();
            let mut state = load(&remote).await.unwrap().state;
            for turn in 0..5 {
                let path = format!("writer-{writer}/file-{turn}");
                let (draft, _) = push(&state, &[(&path, path.as_bytes())]);
                remote.append(&draft, &state).await.unwrap();
                state = advance(&remote, &state).await.unwrap();
            }
        }
    });
    join_all(writers).await;
    let mut seen = Vec::new();
    for gateway in &gateways {
        let remote = gateway.remote(&key).await.unwrap();
        let state = load(&remote).await.unwrap().state;
        assert_eq!((state.head.number, state.tree.len()), (30, 30));
        let path = "writer-5/file-4";
        assert_eq!(content(&remote, &state, path).await, path.as_bytes());
        seen.push(state);
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_conflict_names_the_paths() {
    let store = Store::memory();
    let gateways = [start(&store).await, start(&store).await];
    let key = gateways[0].key(Role::Push).await;
    let here = gateways[0].remote(&key).await.unwrap();
    let there = gateways[1].remote(&key).await.unwrap();
    let state = load(&here).await.unwrap().state;
    let (ours, _) = push(&state, &[("notes.md", b"ours"), ("other", b"x")]);
    let (theirs, _) = push(&state, &[("Notes.md", b"theirs")]);
    here.append(&ours, &state).await.unwrap();
    let Err(Error::Conflict { number, overlap }) = there.append(&theirs, &state).await else {
        panic!("both were taken");
    };
    let paths: Vec<_> = overlap
        .paths
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    assert_eq!((number, paths), (1, vec![("Notes.md", "notes.md")]));
}

#[tokio::test]
async fn the_same_draft_again_is_the_same_record() {
    let store = Store::memory();
    let gateways = [start(&store).await, start(&store).await];
    let key = gateways[0].key(Role::Push).await;
    let here = gateways[0].remote(&key).await.unwrap();
    let there = gateways[1].remote(&key).await.unwrap();
    let state = load(&here).await.unwrap().state;
    let (draft, _) = push(&state, &[("a", b"1")]);
    let first = here.append(&draft, &state).await.unwrap();
    // Others go on, and the answer is asked for again, here and at the other gateway.
    let (other, _) = push(&state, &[("b", b"2")]);
    there.append(&other, &state).await.unwrap();
    for remote in [&here, &there, &here] {
        let again = remote.append(&draft, &state).await.unwrap();
        assert_eq!(again.bytes, first.bytes);
        assert_eq!(again.record, first.record);
    }
    assert_eq!(load(&here).await.unwrap().state.head.number, 2);
}

#[tokio::test]
async fn drafts_sent_many_times_at_once_land_once() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let remote = Arc::new(running.remote(&key).await.unwrap());
    let state = load(&*remote).await.unwrap().state;
    let draft = note(&state, "once");
    let sent = (0..20).map(|_| remote.append(&draft, &state));
    for stored in join_all(sent).await {
        assert_eq!(stored.unwrap().record.envelope.number, 1);
    }
    assert_eq!(load(&*remote).await.unwrap().state.head.number, 1);
}

#[tokio::test]
async fn another_history_is_told_apart() {
    let (one, two) = (start(&Store::memory()).await, start(&Store::memory()).await);
    let remote = one.remote(&one.key(Role::Push).await).await.unwrap();
    let other = two.remote(&two.key(Role::Push).await).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let foreign = other.append(&note(&state, "lost"), &state).await;
    assert!(
        matches!(foreign, Err(Error::Diverged { .. })),
        "{foreign:?}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_an_error_of_its_own() {
    let running = start(&Store::memory()).await;
    let remote: GatewayRemote = running
        .remote(&running.key(Role::Push).await)
        .await
        .unwrap();
    let state = load(&remote).await.unwrap().state;
    let (draft, pack) = push(&state, &[("a", &noise(400_000))]);
    let mut damaged = pack.clone().unwrap().bytes.to_vec();
    damaged[1_000] ^= 1;
    let id = pack.unwrap().id;
    let refused = remote.put_pack(id, damaged.into()).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let place = statehold_core::entry::Location {
        object: Some(statehold_core::entry::ContentObject::Pack(id)),
        offset: 16,
        stored: 100,
    };
    let missing = remote.read(&[place]).await;
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
    let mut cut = draft.bytes.to_vec();
    cut.pop();
    let status = reqwest::Client::new()
        .post(running.url("/v1/log"))
        .bearer_auth(running.key(Role::Push).await.reveal().as_str())
        .body(cut)
        .send()
        .await
        .unwrap()
        .status();
    assert_eq!(status, 422);
}
