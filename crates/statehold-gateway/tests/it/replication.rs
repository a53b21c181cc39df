//! A gateway's whole store in a second one: keys, tenants and files are there when the first is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use statehold_core::id::{RepositoryId, TenantId};
use statehold_gateway::drills::NamedStore;
use statehold_gateway::replication::{Replication, Rhythm};
use statehold_gateway::{CONTROL_PREFIX, Gateway};
use statehold_repository::drill::receipt::{Receipt, Side};
use statehold_repository::remote::load;
use statehold_repository::replicate::plan::Row;
use statehold_repository::replicate::position;
use statehold_repository::store::{Listing, Store};
use statehold_repository::wire::bodies::{NewKey, NewTenant, Role};
use statehold_repository::wire::key::Key;
use statehold_repository::{Error, Remote as _, layout};
use tokio::time::Instant;

use crate::world::{Random, Running, content, new_key, noise, note, push, start};

fn row() -> Row {
    Row {
        label: "cross-region-backup".parse().unwrap(),
        to: "memory:".into(),
    }
}

/// A tenant with a repository of its own, and a key to it.
struct Tenant {
    tenant: TenantId,
    repository: RepositoryId,
    key: Key,
}

async fn tenant(gateway: &Gateway, name: &str) -> Tenant {
    let (tenant, repository) = (TenantId::random(&Random), RepositoryId::random(&Random));
    let name = name.to_owned();
    let new = NewTenant {
        tenant,
        repository,
        name,
    };
    gateway.add_tenant(&new).await.unwrap();
    let key = Key::random(&Random);
    let new = NewKey {
        repositories: vec![repository],
        ..new_key(&key, Role::Push, None)
    };
    gateway.add_key(&new).await.unwrap();
    Tenant {
        tenant,
        repository,
        key,
    }
}

impl Tenant {
    /// Pushes a file and says at which record it stands.
    async fn push(&self, running: &Running, path: &str, content: &[u8]) -> u64 {
        let remote = running.remote(&self.key).await.unwrap();
        let state = load(&remote).await.unwrap().state;
        let (draft, pack) = push(&state, &[(path, content)]);
        let packs: Vec<_> = pack.into_iter().collect();
        let stored = remote.push(&packs, &draft, &state).await.unwrap();
        stored.record.envelope.number
    }

    async fn read(&self, running: &Running, path: &str) -> Vec<u8> {
        let remote = running.remote(&self.key).await.unwrap();
        let state = load(&remote).await.unwrap().state;
        content(&remote, &state, path).await
    }

    fn part(&self, store: &Store) -> Store {
        let store = store.inside(&self.tenant.to_string());
        store.inside(&self.repository.to_string())
    }
}

async fn whole_pass(replication: &Replication) {
    let report = replication.pass(true).await.unwrap();
    assert!(report.first_error().is_none(), "{report:?}");
}

/// Goal: after the first store is gone, a gateway on the replica serves what was replicated to
/// clients with unchanged keys, and they go on.
#[tokio::test]
async fn a_gateway_on_the_replica_serves_the_same_keys() {
    let (store, replica) = (Store::memory(), Store::memory());
    let first = start(&store).await;
    let (a, b) = (
        tenant(&first.gateway, "a").await,
        tenant(&first.gateway, "b").await,
    );
    let large = noise(700_000);
    a.push(&first, "large", &large).await;
    for round in 0..40 {
        b.push(&first, &format!("f{round}"), b"small").await;
    }
    let replication = first.gateway.replication(replica.clone(), row());
    whole_pass(&replication).await;
    let again = replication.pass(true).await.unwrap();
    // The rows of the first pass are copied, and leave none.
    assert!(again.repositories.iter().all(|one| one.row.is_none()));
    a.push(&first, "later", b"lost with the first store").await;
    drop(first);

    let second = start(&replica).await;
    assert!(second.operator.is_none(), "it was set up before");
    assert_eq!(a.read(&second, "large").await, large);
    assert_eq!(b.read(&second, "f39").await, b"small");
    a.push(&second, "new", b"life goes on").await;
    assert_eq!(a.read(&second, "new").await, b"life goes on");
}

/// Goal: a replica's registry names no repository that is at the source and not in the replica.
/// Method: one repository whose description is damaged, added between two others.
#[tokio::test]
async fn the_registry_waits_for_its_repositories() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = Store::new(Arc::clone(&objects), Listing::Sorted);
    let replica = Store::memory();
    let first = start(&store).await;
    let good = tenant(&first.gateway, "good").await;
    let bad = tenant(&first.gateway, "bad").await;
    let after = tenant(&first.gateway, "after").await;
    for each in [&good, &bad, &after] {
        each.push(&first, "x", b"1").await;
    }
    let key = format!("{}/{}/{}", bad.tenant, bad.repository, layout::REPOSITORY);
    let whole = objects.get(&Path::from(&*key)).await.unwrap();
    let whole = whole.bytes().await.unwrap();
    let damaged = whole.slice(..whole.len() / 2);
    objects
        .put(&Path::from(&*key), damaged.into())
        .await
        .unwrap();
    let replication = first.gateway.replication(replica.clone(), row());
    let report = replication.pass(true).await.unwrap();
    assert!(matches!(report.first_error(), Some(Error::Damaged { .. })));
    assert_eq!(report.held_back, Some(bad.repository));
    let names = names_in(&replica).await;
    assert_eq!(names, BTreeSet::from(["default".into(), "good".into()]));

    // Once it is repaired, everything follows.
    objects.put(&Path::from(&*key), whole.into()).await.unwrap();
    whole_pass(&replication).await;
    assert_eq!(names_in(&replica).await.len(), 4);
    assert!(position(&after.part(&replica)).await.unwrap().is_some());
}

async fn names_in(replica: &Store) -> BTreeSet<String> {
    let running = start(replica).await;
    let tenants = running.gateway.registry().await.unwrap().tenants();
    tenants.into_iter().map(|tenant| tenant.name).collect()
}

/// Goal: damage in one repository holds up no other, and its replica stays usable.
#[tokio::test]
async fn one_damaged_repository_holds_up_no_other() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = Store::new(Arc::clone(&objects), Listing::Sorted);
    let replica = Store::memory();
    let first = start(&store).await;
    let (a, b) = (
        tenant(&first.gateway, "a").await,
        tenant(&first.gateway, "b").await,
    );
    for number in 1..=3 {
        a.push(&first, &format!("f{number}"), b"1").await;
        b.push(&first, &format!("f{number}"), b"1").await;
    }
    let key = format!("{}/{}/{}", a.tenant, a.repository, layout::record(2));
    objects.put(&Path::from(&*key), "x".into()).await.unwrap();
    let replication = first.gateway.replication(replica.clone(), row());
    let report = replication.pass(true).await.unwrap();
    let said = report.first_error().unwrap().to_string();
    assert!(said.contains(&layout::record(2)), "{said}");
    let at = |part: Store| async move { position(&part).await.unwrap().unwrap().number };
    assert_eq!(at(a.part(&replica)).await, 1);
    assert_eq!(at(b.part(&replica)).await, 3);
    let second = start(&replica).await;
    assert_eq!(a.read(&second, "f1").await, b"1");
    assert_eq!(b.read(&second, "f3").await, b"1");
}

/// Goal: continuous replication is a moment behind, for repositories that exist and for new ones.
#[tokio::test]
async fn continuous_replication_follows() {
    let (store, replica) = (Store::memory(), Store::memory());
    let first = start(&store).await;
    let a = tenant(&first.gateway, "a").await;
    a.push(&first, "before", b"1").await;
    let replication = first.gateway.replication(replica.clone(), row());
    let keep = replication.keep(Rhythm::Continuous);
    let work = async {
        let marked = async |part: &Store, number: u64| {
            let begun = Instant::now();
            while position(part)
                .await
                .unwrap()
                .is_none_or(|at| at.number < number)
            {
                assert!(begun.elapsed() < Duration::from_secs(5), "{number}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        marked(&a.part(&replica), 1).await;
        for round in 0..5 {
            let number = a.push(&first, &format!("f{round}"), b"1").await;
            marked(&a.part(&replica), number).await;
        }
        let b = tenant(&first.gateway, "b").await;
        let number = b.push(&first, "x", b"1").await;
        marked(&b.part(&replica), number).await;
        let end = store.inside(CONTROL_PREFIX);
        let end = end.list(layout::LOG, layout::LOG).await.unwrap().len();
        marked(&replica.inside(CONTROL_PREFIX), end as u64).await;
        // A record that says nothing about files counts as well.
        let remote = first.remote(&b.key).await.unwrap();
        let state = load(&remote).await.unwrap().state;
        let stored = remote.append(&note(&state, "so"), &state).await.unwrap();
        marked(&b.part(&replica), stored.record.envelope.number).await;
        let second = start(&replica).await;
        assert_eq!(b.read(&second, "x").await, b"1");
    };
    tokio::select! {
        () = keep => panic!("it ended"),
        () = work => {}
    }
}

/// Goal: of several gateways on one store, one replicates in each slot, and the rows say so.
/// Method: three gateways with one clock, moved on by a week three times.
#[tokio::test]
async fn several_gateways_replicate_once_a_week() {
    let (store, replica) = (Store::memory(), Store::memory());
    let gateways = [
        start(&store).await,
        start(&store).await,
        start(&store).await,
    ];
    let [first, ..] = &gateways;
    let a = tenant(&first.gateway, "a").await;
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    for round in 0..3_i64 {
        for gateway in &gateways {
            let millis = i64::try_from(week.as_millis()).unwrap() * round;
            gateway.clock.ahead.store(millis, Ordering::Relaxed);
        }
        a.push(first, &format!("f{round}"), b"1").await;
        let replications = gateways
            .each_ref()
            .map(|gateway| gateway.gateway.replication(replica.clone(), row()));
        let keeping = replications
            .each_ref()
            .map(|replication| replication.keep(Rhythm::Every(week)));
        let all = futures::future::join_all(keeping);
        drop(tokio::time::timeout(Duration::from_secs(2), all).await);
    }
    let jobs = store.list(layout::JOBS, layout::JOBS).await.unwrap();
    assert_eq!(jobs.len(), 3, "{jobs:?}");
    let part = a.part(&store);
    let kept = part.list(layout::LOG, layout::LOG).await.unwrap();
    // A push and a row for each week.
    assert_eq!(kept.len(), 6, "{kept:?}");
    let at = position(&a.part(&replica)).await.unwrap().unwrap();
    assert_eq!(at.number, 5);
}

/// Goal: a scheduled drill that comes before the first copy is no failure; one whose copy is gone is.
#[tokio::test]
async fn a_copy_is_missed_only_once_it_was_made() {
    let (store, copied, other) = (Store::memory(), Store::memory(), Store::memory());
    let one = start(&store).await;
    let a = tenant(&one.gateway, "a").await;
    a.push(&one, "f", &noise(1_000)).await;
    let scratch = tempfile::tempdir().unwrap();
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    for (round, copy, passes) in [(0, &copied, true), (1, &copied, true), (2, &other, false)] {
        let millis = i64::try_from(week.as_millis()).unwrap() * round;
        one.clock.ahead.store(millis, Ordering::Relaxed);
        let copy = NamedStore {
            store: copy.clone(),
            at: "there".into(),
        };
        let folder = scratch.path().to_owned();
        let drills = one.gateway.drills("here".into(), Some(copy), folder);
        drop(tokio::time::timeout(Duration::from_secs(1), drills.keep(week)).await);
        let newest = Receipt::newest(&a.part(&store)).await.unwrap().unwrap();
        let asks = newest.restores.iter().any(|one| one.side == Side::Replica);
        assert_eq!((newest.passed, asks), (passes, round > 0), "{newest:?}");
        whole_pass(&one.gateway.replication(copied.clone(), row())).await;
    }
}

/// Goal: of several gateways on one store, one drills in each slot, all repositories from the store
/// and from the copy; a drill that fails is kept as such, and the one after it is made all the same.
/// Method: three gateways with one clock, moved on by a week three times; damage in the copy before the
/// second.
#[tokio::test]
async fn several_gateways_drill_once_a_week() {
    let copied = Arc::new(InMemory::new());
    let objects: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(&copied);
    let (store, replica) = (Store::memory(), Store::new(objects, Listing::Sorted));
    let gateways = [
        start(&store).await,
        start(&store).await,
        start(&store).await,
    ];
    let [first, ..] = &gateways;
    let (a, unused) = (
        tenant(&first.gateway, "a").await,
        tenant(&first.gateway, "unused").await,
    );
    a.push(first, "large", &noise(700_000)).await;
    whole_pass(&first.gateway.replication(replica.clone(), row())).await;
    let packs = a.part(&replica).list("packs", "packs").await.unwrap();
    let pack = Path::from(format!("{}/{}/{}", a.tenant, a.repository, packs[0]));
    let sound = copied.get(&pack).await.unwrap().bytes().await.unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    for round in 0..3_i64 {
        for gateway in &gateways {
            let millis = i64::try_from(week.as_millis()).unwrap() * round;
            gateway.clock.ahead.store(millis, Ordering::Relaxed);
        }
        match round {
            1 => copied.delete(&pack).await.unwrap(),
            _ => drop(copied.put(&pack, sound.clone().into()).await.unwrap()),
        }
        let drills = gateways.each_ref().map(|gateway| {
            let copy = NamedStore {
                store: replica.clone(),
                at: "there".into(),
            };
            let folder = scratch.path().to_owned();
            gateway.gateway.drills("here".into(), Some(copy), folder)
        });
        let keeping = drills.each_ref().map(|drills| drills.keep(week));
        let all = futures::future::join_all(keeping);
        drop(tokio::time::timeout(Duration::from_secs(2), all).await);
        let newest = Receipt::newest(&a.part(&store)).await.unwrap().unwrap();
        assert_eq!(newest.passed, round != 1, "{newest:?}");
        assert!(newest.restores.iter().any(|one| one.side == Side::Replica));
    }
    let part = a.part(&store);
    let receipts = part.list(layout::DRILLS, layout::DRILLS).await.unwrap();
    assert_eq!(receipts.len(), 3, "{receipts:?}");
    let none = Receipt::newest(&unused.part(&store)).await.unwrap();
    assert_eq!(none, None, "nothing to restore, so nothing was");
    // A push, the copy's row, and a note for each week.
    let kept = part.list(layout::LOG, layout::LOG).await.unwrap();
    assert_eq!(kept.len(), 5, "{kept:?}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
