//! Two folders kept alike through a repository in a third one: the whole of an embedding application.
//!
//! `cargo run -p statehold-sync --example two_folders` works in a temporary folder and prints what it did.
//! `docs/library.md` goes through it.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::RepositoryId;
use statehold_core::plan::{Direction, Strategy};
use statehold_core::scope::Scope;
use statehold_core::time::Timestamp;
use statehold_repository::Repository;
use statehold_repository::store::Store;
use statehold_sync::engine::{Engine, Report, RunOptions};
use statehold_sync::progress::Unwatched;
use statehold_sync::workspace::{InitOptions, Workspace};

/// The crates read neither clock nor randomness themselves; an application hands both in.
#[derive(Debug)]
struct System;

impl Clock for System {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since.unwrap_or_default().as_millis();
        Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

impl Entropy for System {
    fn fill(&self, buffer: &mut [u8]) {
        use std::io::Read as _;
        fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(buffer))
            .expect("the system gives random bytes");
    }
}

/// Makes a folder a workspace and connects it with the repository in another folder.
async fn engine(folder: &Path, repository: &Path) -> Result<Engine, Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let options = InitOptions {
        machine_name: folder.display().to_string(),
        ..InitOptions::default()
    };
    let workspace = Workspace::init(folder, options, &System)?;
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(System), Arc::new(System));
    // Whoever comes first makes the repository with this id; everybody else finds it.
    let id = RepositoryId::random(&System);
    let store = Store::folder(repository)?;
    let remote =
        Repository::open_or_create(store, id, Arc::clone(&clock), Arc::clone(&entropy)).await?;
    let progress = Arc::new(Unwatched);
    Ok(Engine::new(
        workspace,
        Arc::new(remote),
        clock,
        entropy,
        progress,
    )?)
}

async fn run(engine: &Engine, direction: Direction) -> Result<Report, Box<dyn Error>> {
    let options = RunOptions {
        direction,
        scope: Scope::All,
        strategy: Strategy::Manual,
        dry: false,
        auto: false,
    };
    Ok(engine.run(options).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    let laptop = engine(&at("laptop"), &at("repository")).await?;
    let desktop = engine(&at("desktop"), &at("repository")).await?;

    fs::write(at("laptop").join("notes.md"), "written on the laptop\n")?;
    let pushed = run(&laptop, Direction::Push).await?;
    let pulled = run(&desktop, Direction::Pull).await?;
    assert_eq!(
        fs::read_to_string(at("desktop").join("notes.md"))?,
        "written on the laptop\n"
    );

    // Both change the same file: nobody loses anything, and the report names the path.
    fs::write(at("laptop").join("notes.md"), "edited on the laptop\n")?;
    fs::write(at("desktop").join("notes.md"), "edited on the desktop\n")?;
    run(&laptop, Direction::Push).await?;
    let refused = run(&desktop, Direction::Push).await?;
    assert_eq!(refused.conflicts.len(), 1);

    let status = desktop.status(Scope::All).await?;
    let mut out = std::io::stdout();
    use std::io::Write as _;
    writeln!(out, "pushed: {:?}, {} files", pushed.outcome, pushed.files)?;
    writeln!(out, "pulled: {:?}, {} files", pulled.outcome, pulled.files)?;
    writeln!(
        out,
        "second edit: {:?} at {}",
        refused.outcome, refused.conflicts[0].path
    )?;
    writeln!(
        out,
        "status: record {}, {} conflicts",
        status.head.number,
        status.conflicts.len()
    )?;
    Ok(())
}
