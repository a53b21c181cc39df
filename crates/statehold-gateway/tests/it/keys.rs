//! Who may do what.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::Response;
use statehold_core::id::{RepositoryId, TenantId};
use statehold_core::time::Timestamp;
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_repository::wire::bodies::{NewInvite, NewTenant, RedeemRequest, Role};
use statehold_repository::wire::key::{Invite, Key};
use statehold_repository::{Error, Remote as _};
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient};
use tokio::time::Instant;

use crate::world::{Random, Running, new_key, note, push, start};

async fn get(running: &Running, path: &str, key: Option<&str>) -> Response {
    let mut request = reqwest::Client::new().get(running.url(path));
    if let Some(key) = key {
        request = request.header("authorization", key);
    }
    request.send().await.unwrap()
}

fn bearer(key: &Key) -> String {
    format!("Bearer {}", key.reveal().as_str())
}

#[tokio::test]
async fn every_key_that_opens_nothing_gets_the_same_answer() {
    let running = start(&Store::memory()).await;
    let good = running.key(Role::Read).await;
    let revoked = running.key(Role::Read).await;
    running.gateway.revoke_key(revoked.id()).await.unwrap();
    let past = Timestamp::from_millis(1_000_000);
    let expired = running.key_until(Role::Read, Some(past)).await;
    // The secret of a key that nobody added, under the id of one that is good.
    let (ours, unknown) = (good.reveal().to_string(), Key::random(&Random));
    let theirs = unknown.reveal().to_string();
    let id = |text: &str| text.split('_').nth(1).unwrap().to_owned();
    let forged = theirs.replace(&id(&theirs), &id(&ours));
    let checked = forged.rsplit_once('_').unwrap().0;
    let check = statehold_core::digest::Digest::of(checked.as_bytes()).to_string();
    let wrong: Key = format!("{checked}_{}", &check[..8]).parse().unwrap();
    assert_eq!(wrong.id(), good.id());

    let mut answers = Vec::new();
    for key in [
        None,
        Some(String::new()),
        Some("Bearer".into()),
        Some("Bearer nonsense".into()),
        Some(format!("Basic {ours}")),
        Some(format!("{}0", bearer(&good))),
        Some(bearer(&unknown)),
        Some(bearer(&wrong)),
        Some(bearer(&revoked)),
        Some(bearer(&expired)),
    ] {
        let response = get(&running, "/v1/info", key.as_deref()).await;
        assert_eq!(response.status(), 401, "{key:?}");
        let mut headers = response.headers().clone();
        headers.remove("date");
        answers.push((headers, response.bytes().await.unwrap()));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let ok = get(&running, "/v1/info", Some(&bearer(&good))).await;
    assert_eq!(ok.status(), 200);
    // In the address it is refused, however good.
    let address = format!("/v1/info?key={ours}");
    assert_eq!(
        get(&running, &address, Some(&bearer(&good))).await.status(),
        422
    );
}

#[tokio::test]
async fn a_revocation_is_seen_by_every_gateway_within_five_seconds() {
    let store = Store::memory();
    let gateways = [start(&store).await, start(&store).await];
    let key = gateways[0].key(Role::Own).await;
    let remotes = [
        gateways[0].remote(&key).await.unwrap(),
        gateways[1].remote(&key).await.unwrap(),
    ];
    remotes[0].client().revoke(key.id()).await.unwrap();
    let started = Instant::now();
    for remote in &remotes {
        loop {
            match remote.client().info().await {
                Err(Error::Denied { .. }) => break,
                other => assert!(started.elapsed() < Duration::from_secs(5), "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn a_key_ends_when_its_time_has_come() {
    let running = start(&Store::memory()).await;
    let soon = statehold_core::environment::Clock::now(&*running.clock).as_millis() + 60_000;
    let key = running
        .key_until(Role::Read, Some(Timestamp::from_millis(soon)))
        .await;
    let remote = running.remote(&key).await.unwrap();
    running.clock.ahead.store(61_000, Ordering::Relaxed);
    let late = remote.records(0).await;
    assert!(matches!(late, Err(Error::Denied { .. })), "{late:?}");
}

#[tokio::test]
async fn roles_bound_what_a_key_may_do() {
    let running = start(&Store::memory()).await;
    let reader = running.key(Role::Read).await;
    let remote = running.remote(&reader).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let (draft, _) = push(&state, &[("a", b"1")]);
    let denied = remote.append(&draft, &state).await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    let http = reqwest::Client::new();
    for (method, path, role) in [
        ("POST", "/v1/log", Role::Push),
        (
            "PUT",
            "/v1/packs/00000000000000000000000000000000",
            Role::Push,
        ),
        ("POST", "/v1/invites", Role::Own),
        ("GET", "/v1/admin/keys", Role::Operator),
        ("POST", "/v1/admin/keys", Role::Operator),
        ("GET", "/v1/admin/tenants", Role::Operator),
        ("POST", "/v1/admin/tenants", Role::Operator),
        ("GET", "/v1/admin/invites", Role::Operator),
        ("POST", "/v1/admin/invites", Role::Operator),
    ] {
        for own in [
            Role::Read,
            Role::Push,
            Role::Maintain,
            Role::Own,
            Role::Operator,
        ] {
            let key = running.key(own).await;
            let method = method.parse().unwrap();
            let request = http.request(method, running.url(path)).body("x");
            let response = request
                .bearer_auth(key.reveal().as_str())
                .send()
                .await
                .unwrap();
            let denied = response.status() == 403;
            assert_eq!(denied, own < role, "{path} as {own}: {}", response.status());
        }
        let method = method.parse().unwrap();
        let anonymous = http
            .request(method, running.url(path))
            .body("x")
            .send()
            .await
            .unwrap();
        assert_eq!(anonymous.status(), 401, "{path}");
    }
    assert_eq!(load(&remote).await.unwrap().state.head.number, 0);
}

#[tokio::test]
async fn an_invite_becomes_one_key_however_often_it_is_sent() {
    let running = start(&Store::memory()).await;
    let owner = running.remote(&running.key(Role::Own).await).await.unwrap();
    let invite = Invite::random(&Random);
    let new = NewInvite {
        invite: invite.id(),
        hash: invite.hash(),
        role: Role::Push,
        label: "for the laptop".into(),
        repositories: Vec::new(),
        expires: None,
    };
    for _ in 0..2 {
        owner.client().add_invite(&new).await.unwrap();
    }
    // Nobody passes on more than they have.
    let more = NewInvite {
        role: Role::Operator,
        ..new.clone()
    };
    assert!(matches!(
        owner.client().add_invite(&more).await,
        Err(Error::Denied { .. })
    ));

    let address = GatewayAddress::parse(&running.url("")).unwrap();
    let nobody = GatewayClient::new(&address, None, None).unwrap();
    let key = Key::random(&Random);
    for _ in 0..3 {
        let info = nobody.redeem(&invite, &key, "laptop", None).await.unwrap();
        assert_eq!((info.role, info.key), (Role::Push, key.id()));
    }
    let second = nobody
        .redeem(&invite, &Key::random(&Random), "thief", None)
        .await;
    assert!(matches!(second, Err(Error::Denied { .. })), "{second:?}");
    let forged = nobody
        .redeem(&Invite::random(&Random), &key, "thief", None)
        .await;
    assert!(matches!(forged, Err(Error::Denied { .. })), "{forged:?}");

    // Nor does a used invite show whoever has it what another key may do.
    let other = running.key(Role::Operator).await;
    let request = RedeemRequest {
        invite: invite.reveal().to_string(),
        key: other.id(),
        hash: key.hash(),
        label: "laptop".into(),
        machine: None,
    };
    let asked = running.gateway.redeem(&request).await;
    assert!(matches!(asked, Err(Error::Denied { .. })), "{asked:?}");

    let laptop = running.remote(&key).await.unwrap();
    let state = load(&laptop).await.unwrap().state;
    laptop.append(&note(&state, "hello"), &state).await.unwrap();

    laptop
        .client()
        .rename(key.id(), "old laptop")
        .await
        .unwrap();
    let machines = laptop.client().machines().await.unwrap();
    let own: Vec<_> = machines.iter().filter(|info| info.own).collect();
    assert_eq!((own.len(), own[0].label.as_str()), (1, "old laptop"));
    // A machine ends its own key, and nobody else's.
    let other = running.key(Role::Read).await;
    assert!(matches!(
        laptop.client().revoke(other.id()).await,
        Err(Error::Denied { .. })
    ));
    owner.client().revoke(other.id()).await.unwrap();
    laptop.client().revoke(key.id()).await.unwrap();
    assert!(matches!(laptop.records(0).await, Err(Error::Denied { .. })));
}

#[tokio::test]
async fn redeeming_one_invite_everywhere_at_once_makes_one_key() {
    let store = Store::memory();
    let gateways = [start(&store).await, start(&store).await];
    let invite = Invite::random(&Random);
    let new = NewInvite {
        invite: invite.id(),
        hash: invite.hash(),
        role: Role::Push,
        label: String::new(),
        repositories: Vec::new(),
        expires: None,
    };
    gateways[0].gateway.add_invite(&new).await.unwrap();
    let redeem = async |number: usize| {
        let address = GatewayAddress::parse(&gateways[number % 2].url("")).unwrap();
        let client = GatewayClient::new(&address, None, None).unwrap();
        client
            .redeem(&invite, &Key::random(&Random), "m", None)
            .await
            .is_ok()
    };
    let done = futures::future::join_all((0..8).map(redeem)).await;
    assert_eq!(done.iter().filter(|done| **done).count(), 1);
}

#[tokio::test]
async fn tenants_see_nothing_of_each_other() {
    let running = start(&Store::memory()).await;
    let operator = running.client(running.operator.as_ref().unwrap());
    let new = NewTenant {
        tenant: TenantId::random(&Random),
        repository: RepositoryId::random(&Random),
        name: "other".into(),
    };
    for _ in 0..2 {
        operator.admin_add_tenant(&new).await.unwrap();
    }
    let key = Key::random(&Random);
    let mut theirs = new_key(&key, Role::Own, None);
    theirs.repositories = vec![new.repository];
    operator.admin_add_key(&theirs).await.unwrap();

    let ours = running.remote(&running.key(Role::Own).await).await.unwrap();
    let theirs = running.remote(&key).await.unwrap();
    assert_eq!(theirs.info().repository, new.repository);
    let state = load(&ours).await.unwrap().state;
    let (draft, _) = push(&state, &[("secret", b"plans")]);
    ours.append(&draft, &state).await.unwrap();
    assert_eq!(load(&theirs).await.unwrap().state.head.number, 0);

    // Their keys are not to be seen, not to be revoked, and not to be told from ones that aren't.
    let client = theirs.client();
    assert_eq!(client.machines().await.unwrap().len(), 1);
    let foreign = client.revoke(ours.info().key).await.unwrap_err();
    let unknown = client.revoke(Key::random(&Random).id()).await.unwrap_err();
    assert_eq!(foreign.to_string(), unknown.to_string());
    let address = GatewayAddress::parse(&running.url("")).unwrap();
    for named in [ours.info().repository, RepositoryId::random(&Random)] {
        let client = GatewayClient::new(&address, Some(&key), Some(named)).unwrap();
        let refused = client.info().await.unwrap_err();
        assert!(matches!(refused, Error::Denied { .. }), "{refused}");
        assert_eq!(
            refused.to_string(),
            "access denied: the key reaches no repository of that id"
        );
    }
    assert_eq!(operator.admin_tenants().await.unwrap().len(), 2);
    assert_eq!(operator.admin_keys().await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_last_operator_stays() {
    let running = start(&Store::memory()).await;
    let first = running.operator.clone().unwrap();
    let refused = running.client(&first).revoke(first.id()).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let second = running.gateway.add_operator("second").await.unwrap();
    running.client(&second).revoke(first.id()).await.unwrap();
    let late = running.client(&first).info().await;
    assert!(matches!(late, Err(Error::Denied { .. })), "{late:?}");
}

#[tokio::test]
async fn gateways_that_begin_together_make_one_operator() {
    let store = Store::memory();
    let (one, two, three) = tokio::join!(start(&store), start(&store), start(&store));
    let operators = [&one, &two, &three].map(|running| running.operator.is_some());
    assert_eq!(operators.iter().filter(|made| **made).count(), 1);
    assert_eq!(one.gateway.registry().await.unwrap().tenants().len(), 1);
}
