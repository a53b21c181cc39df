//! Rules are kept by the gateway too, for clients that don't.

use statehold_core::rules::SHARED_RULES_PATH;
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::Role;
use statehold_repository::{Error, Remote as _};
use statehold_sync::gateway_client::GatewayRemote;

use crate::world::{delete, push, start};

/// Pushes a file, and says why not if it was refused.
async fn try_push(remote: &GatewayRemote, files: &[(&str, &[u8])]) -> Option<String> {
    let state = load(remote).await.unwrap().state;
    let (draft, _) = push(&state, files);
    match remote.append(&draft, &state).await {
        Ok(_) => None,
        Err(Error::Refused { reason }) => Some(reason),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn what_never_travels_is_refused_whoever_sends_it() {
    let running = start(&Store::memory()).await;
    let push_key = running.key(Role::Push).await;
    let remote = running.remote(&push_key).await.unwrap();
    for (path, glob) in [
        (
            "state/log/sync-events.ndjson",
            "state/log/sync-events.ndjson",
        ),
        (
            "state/log/secrets-rotation.ndjson",
            "state/log/secrets-rotation.ndjson",
        ),
        ("_restore/x", "_restore/**"),
        ("a/.git/config", "**/.git/**"),
    ] {
        // One such path among others refuses the whole push.
        let reason = try_push(&remote, &[("fine", b"1"), (path, b"1")]).await;
        let reason = reason.unwrap_or_else(|| panic!("{path} was taken"));
        assert!(reason.contains(path) && reason.contains(glob), "{reason}");
    }
    assert_eq!(load(&remote).await.unwrap().state.head.number, 0);
}

#[tokio::test]
async fn beneath_a_strict_prefix_a_path_has_to_match_a_list() {
    let running = start(&Store::memory()).await;
    let push_key = running.key(Role::Push).await;
    let remote = running.remote(&push_key).await.unwrap();
    // Without rules of its own, a repository has the default ones.
    assert_eq!(
        try_push(&remote, &[("state/log/changelog.ndjson", b"1")]).await,
        None
    );
    let reason = try_push(&remote, &[("state/log/new.ndjson", b"1")])
        .await
        .unwrap();
    assert!(reason.contains("state/log/new.ndjson"), "{reason}");
    assert!(reason.contains(SHARED_RULES_PATH), "{reason}");
    // Its own rules go before them, from the next push on. They are the owner's.
    let owner = running.key(Role::Own).await;
    let owner = running.remote(&owner).await.unwrap();
    let rules = br#"{"SYNC_ALLOW":["state/log/new.ndjson"],"SYNC_DENY":["private/**"]}"#;
    let reason = try_push(&remote, &[(SHARED_RULES_PATH, rules)])
        .await
        .unwrap();
    assert!(reason.contains("role own"), "{reason}");
    assert_eq!(try_push(&owner, &[(SHARED_RULES_PATH, rules)]).await, None);
    assert_eq!(
        try_push(&remote, &[("state/log/new.ndjson", b"1")]).await,
        None
    );
    let reason = try_push(&remote, &[("private/x", b"1")]).await.unwrap();
    assert!(reason.contains("private/**"), "{reason}");
    let reason = try_push(&remote, &[("state/log/changelog.ndjson", b"2")]).await;
    assert!(reason.is_some());
    // Nobody else takes them away either.
    let state = load(&remote).await.unwrap().state;
    let deleted = delete(&state, SHARED_RULES_PATH);
    let error = remote.append(&deleted, &state).await.unwrap_err();
    assert!(error.to_string().contains("role own"), "{error}");
    // Rules that nobody can read are none.
    assert_eq!(try_push(&owner, &[(SHARED_RULES_PATH, b"{")]).await, None);
    assert!(
        try_push(&remote, &[("state/log/new.ndjson", b"2")])
            .await
            .is_some()
    );
    assert_eq!(try_push(&remote, &[("private/x", b"1")]).await, None);

    // Who owns the repository is above its rules.
    assert_eq!(
        try_push(&owner, &[("state/log/new.ndjson", b"3")]).await,
        None
    );
}
