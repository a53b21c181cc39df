//! Machines that work straight on a store, and hands in its objects.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use statehold_core::id::RepositoryId;
use statehold_core::state::State;
use statehold_repository::location::StoreLocation;
use statehold_repository::probe::keep;
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_repository::{Remote as _, Repository};
use statehold_testkit::author::Author;
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::loopback::{Front, Manners};
use statehold_testkit::process::{Installation, RealMachine, RunningGateway};
use statehold_testkit::servers::{self, Absent, Server};
use tokio::runtime::Runtime;

use crate::world::{installation, run};

/// Two machines that share a repository straight in a folder.
pub(crate) struct Direct {
    pub(crate) installation: Installation,
    pub(crate) a: RealMachine,
    pub(crate) b: RealMachine,
}

impl Direct {
    pub(crate) fn new() -> Self {
        let installation = installation();
        let a = linked_straight(&installation, "anna");
        let b = linked_straight(&installation, "bert");
        Self { installation, a, b }
    }

    pub(crate) fn object(&self, key: &str) -> PathBuf {
        self.installation.path("vault").join(key)
    }
}

pub(crate) fn linked_straight(installation: &Installation, name: &str) -> RealMachine {
    let machine = installation.machine(name).unwrap();
    let link = format!("file://{}", installation.path("vault").display());
    run(&machine, &["init"], 0);
    fs::remove_file(machine.path(".stateholdignore")).unwrap();
    run(&machine, &["link", &link], 0);
    machine
}

/// Changes an object in a store. They are written once, so their files may be read-only.
pub(crate) fn overwrite(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

pub(crate) fn flipped(path: &Path, at: usize) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    bytes
}

/// Runs asynchronous work beside the programs.
pub(crate) fn beside<T>(work: impl Future<Output = T>) -> (Runtime, T) {
    let runtime = Runtime::new().unwrap();
    let done = runtime.block_on(work);
    (runtime, done)
}

/// Writes what no command would, straight into the folder of a store.
pub(crate) fn tamper(folder: &Path, work: impl AsyncFnOnce(&Repository, Arc<State>)) {
    beside(async {
        let store = Store::folder(folder).unwrap();
        let clock = Arc::new(SimulatedClock::standing(EPOCH));
        let entropy = Arc::new(SeededEntropy::new(8));
        let id = RepositoryId::from_bytes([1; 16]);
        let repository = Repository::open_or_create(store, id, clock, entropy).await;
        let repository = repository.unwrap();
        let state = load(&repository).await.unwrap().state;
        work(&repository, state).await;
    });
}

/// The files beneath a folder.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(items) = fs::read_dir(folder) else {
        return found;
    };
    for item in items {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(objects(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The objects of a repository in a store's folder, by their kind. The gateway's own are left out.
pub(crate) fn in_folder(store: &Path, kind: &str) -> Vec<PathBuf> {
    let is_wanted = |path: &PathBuf| {
        let folder = path.parent();
        folder.is_some_and(|folder| folder.ends_with(kind))
            && !path.components().any(|part| part.as_os_str() == "_control")
    };
    objects(store).into_iter().filter(is_wanted).collect()
}

/// Appends until there is an object of every kind, and gives what files there are then.
pub(crate) fn fill_with_every_kind(vault: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut whole: BTreeMap<String, Vec<u8>> = (1..70)
        .map(|number| {
            (
                format!("file-{number}"),
                format!("text {number}").into_bytes(),
            )
        })
        .collect();
    whole.insert("file-0".into(), SeededEntropy::new(5).bytes(700_000));
    tamper(vault, async |repository, mut state| {
        let author = Author::new(4);
        for (path, content) in &whole {
            let change = [(path.as_str(), Some(&content[..]))];
            author.push(repository, &state, change).await.unwrap();
            state = repository.catch_up(&state).await.unwrap().0;
            repository.tend(&state).await.unwrap();
        }
    });
    whole
}

/// moto with one bucket, `vault`, and a front before it.
pub(crate) struct Bucket {
    pub(crate) server: Server,
    pub(crate) front: Front,
    _runtime: Runtime,
}

impl Bucket {
    /// Prefixes of the bucket where a verdict on it is kept already. What a probe says of moto is the
    /// matter of other tests, and here it would take its seconds each time.
    pub(crate) const TEAM: &'static str = "s3://vault/team";
    pub(crate) const DIRECT: &'static str = "s3://vault/direct";

    /// Starts it; an error says why it can't be installed here.
    pub(crate) fn new() -> Result<Self, Absent> {
        let server = servers::moto()?;
        let (runtime, front) = beside(async {
            server.make_bucket("vault").await.unwrap();
            let location: StoreLocation = "s3://vault".parse().unwrap();
            let store = location.open(&|name| server.variable(server.endpoint(), name));
            let store = store.unwrap();
            let verdict = serde_json::json!({
                "version": 1, "at": "2026-01-01T00:00:00.000Z", "grade": "A",
                "sha_strategy": "header", "findings": [], "took_ms": 0,
            });
            let verdict = serde_json::from_value(verdict).unwrap();
            for prefix in ["team", "direct"] {
                keep(&store.inside(prefix), &verdict).await.unwrap();
            }
            Front::before(server.endpoint(), Manners::default()).await
        });
        Ok(Self {
            server,
            front: front.unwrap(),
            _runtime: runtime,
        })
    }

    /// What the environment says of a program that uses it.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let names = [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ENDPOINT_URL",
        ];
        let value = |name| self.server.variable(&self.front.endpoint(), name);
        names.map(|name| (name, value(name).unwrap())).into()
    }

    /// A gateway on it.
    pub(crate) fn serve(&self, installation: &Installation, listen: &str) -> RunningGateway {
        let gateway = installation.serve_on(Self::TEAM.as_ref(), listen, &self.variables());
        gateway.unwrap()
    }
}

/// Copies a folder and all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// An S3 server, if it can be had here.
pub(crate) fn moto() -> Option<Server> {
    match servers::moto() {
        Ok(server) => Some(server),
        Err(absent) => {
            assert!(!servers::installs_everything(), "moto {absent}");
            println!("SKIP: moto {absent}");
            None
        }
    }
}
