//! What a machine can't do that is owned by somebody else: its push key vouches for nothing.

use statehold_core::collection::HoldBody;
use statehold_core::id::PackId;
use statehold_core::record::{BackupBody, Body, Kind, NewPack};
use statehold_core::state::State;
use statehold_repository::format::record::StoredDraft;
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Role;
use statehold_repository::{Error, Remote as _};

use crate::world::{Random, head, noise, note, push, start};

/// A note that introduces a pack.
fn naming(state: &State, pack: NewPack) -> StoredDraft {
    let mut draft_head = head(Kind::Note);
    draft_head.packs.push(pack);
    let body = note(state, "with a pack").draft.body;
    StoredDraft::new(draft_head, body, &[]).unwrap()
}

/// Goal: no record says that there is a pack which is not there: reading would name it for ever, and
/// no copy could go past that record.
#[tokio::test]
async fn a_pack_that_nobody_sent_is_not_named() {
    let store = Store::memory();
    let (one, other) = (start(&store).await, start(&store).await);
    let key = one.key(Role::Push).await;
    let remote = one.remote(&key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let (draft, pack) = push(&state, &[("large", &noise(700_000))]);
    let pack = pack.unwrap();

    let absent = remote.append(&draft, &state).await.unwrap_err();
    assert!(matches!(absent, Error::Refused { .. }), "{absent}");
    assert!(
        absent.to_string().contains("is not in the store"),
        "{absent}"
    );

    remote.put_pack(pack.id, pack.bytes.clone()).await.unwrap();
    let NewPack { id, bytes } = pack.named();
    let longer = NewPack {
        id,
        bytes: bytes + 1,
    };
    let wrong = naming(&state, longer);
    let refused = remote.append(&wrong, &state).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    let unknown = NewPack {
        id: PackId::random(&Random),
        bytes,
    };
    let refused = remote.append(&naming(&state, unknown), &state).await;
    assert!(matches!(refused, Err(Error::Refused { .. })));

    // Another gateway did not take the pack and looks for it.
    let remote = other.remote(&key).await.unwrap();
    let stored = remote.append(&draft, &state).await.unwrap();
    assert_eq!(stored.record.envelope.number, 1);
    let again = remote.append(&draft, &state).await.unwrap();
    assert_eq!(again.record.id, stored.record.id);
}

#[tokio::test]
async fn a_row_takes_the_role_maintain() {
    let running = start(&Store::memory()).await;
    for (role, may) in [
        (Role::Push, false),
        (Role::Maintain, true),
        (Role::Own, true),
    ] {
        let key = running.key(role).await;
        let remote = running.remote(&key).await.unwrap();
        let state = load(&remote).await.unwrap().state;
        let body = Body::Backup(BackupBody {
            base: state.head,
            label: "cross-region-backup".parse().unwrap(),
            to: "s3://nowhere".into(),
            at: 0,
            objects: 0,
            bytes: 0,
        });
        let draft = StoredDraft::new(head(Kind::Backup), body, &[]).unwrap();
        let answer = remote.append(&draft, &state).await;
        match may {
            true => drop(answer.unwrap()),
            false => assert!(matches!(answer, Err(Error::Denied { .. })), "{answer:?}"),
        }
    }
}

/// Goal: who may push protects its own upload from collectors, and fills no table with what was never sent.
#[tokio::test]
async fn an_upload_is_held_by_whoever_sends_it() {
    let running = start(&Store::memory()).await;
    let key = running.key(Role::Push).await;
    let remote = running.remote(&key).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    assert!(remote.time().is_some());
    let (draft, pack) = push(&state, &[("large", &noise(700_000))]);
    let pack = pack.unwrap();
    let hold = |id| {
        let body = Body::Hold(HoldBody {
            base: state.head,
            packs: vec![id],
        });
        StoredDraft::new(head(Kind::Hold), body, &[]).unwrap()
    };
    let refused = remote.append(&hold(pack.id), &state).await.unwrap_err();
    assert!(
        refused.to_string().contains("is sent before it is held"),
        "{refused}"
    );
    remote.put_pack(pack.id, pack.bytes.clone()).await.unwrap();
    let reader = running.key(Role::Read).await;
    let reader = running.remote(&reader).await.unwrap();
    let denied = reader.append(&hold(pack.id), &state).await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied}");
    for _ in 0..2 {
        remote.append(&hold(pack.id), &state).await.unwrap();
    }
    let held = load(&remote).await.unwrap().state.collection.held.clone();
    assert_eq!(held.into_iter().collect::<Vec<_>>(), [(pack.id, 2)]);
    // The push is made from the state before, and what it names is held no longer.
    remote.append(&draft, &state).await.unwrap();
    let after = load(&remote).await.unwrap().state;
    assert!(after.collection.held.is_empty() && after.packs.contains_key(&pack.id));
    remote.append(&hold(pack.id), &after).await.unwrap();
    let after = load(&remote).await.unwrap().state;
    assert!(after.collection.held.is_empty());
}
