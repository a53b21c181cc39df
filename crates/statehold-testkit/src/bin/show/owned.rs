//! A machine that somebody else has taken over does with its push key what it can: afterwards its key is
//! revoked, one command rewinds to before, and nothing is missing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use statehold_core::id::RepositoryId;
use statehold_core::point::Point;
use statehold_core::state::State;
use statehold_repository::location::StoreLocation;
use statehold_repository::remote::{load, load_at};
use statehold_repository::replicate::position;
use statehold_repository::store::Store;
use statehold_repository::wire::key::Key;
use statehold_sync::gateway_client::{GatewayAddress, GatewayClient, GatewayRemote};
use statehold_testkit::author::read_file;
use statehold_testkit::commits::{Item, items_in};
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::process::{Installation, RealMachine, RunningGateway};

use crate::hostile::{Attacker, Tally};
use crate::program::ProgramArgs;

/// Owned
#[derive(Debug, Args)]
pub(crate) struct OwnedArgs {
    /// Hostile requests
    #[arg(long, default_value_t = 10_000)]
    requests: u64,
    /// Honest pushes before
    #[arg(long, default_value_t = 40)]
    pushes: u64,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    program: ProgramArgs,
}

/// How long replication may take to catch up.
const PATIENCE: Duration = Duration::from_secs(120);
/// The last names of keys and machines.
const OWNED: &str = "owned";

pub(crate) fn run(args: &OwnedArgs) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let installation = Installation::of(&args.program.binary()?)?;
    runtime.block_on(show(args, &installation))
}

/// The operator's command line.
fn admin(
    installation: &Installation,
    gateway: &RunningGateway,
    words: &[&str],
) -> Result<serde_json::Value> {
    let operator = installation.operator()?;
    let words = [&["admin", "--gateway", &gateway.url, "--json"], words].concat();
    operator.run(&words)?.expect(0)?.json()
}

/// A key that is held by no machine.
fn key(
    installation: &Installation,
    gateway: &RunningGateway,
    label: &str,
    further: &[&str],
) -> Result<Key> {
    let file = installation.path(&format!("{label}.key"));
    let file = file.to_string_lossy();
    let words = [&["key", "--label", label, "--to", &file], further].concat();
    admin(installation, gateway, &words)?;
    Ok(std::fs::read_to_string(&*file)?.trim().parse()?)
}

async fn remote(
    gateway: &RunningGateway,
    key: &Key,
    id: Option<RepositoryId>,
) -> Result<GatewayRemote> {
    let address = GatewayAddress::parse(&gateway.url)?;
    let client = GatewayClient::new(&address, Some(key), id)?;
    Ok(GatewayRemote::connect(client).await?)
}

/// What the folder of a machine holds, but for what never travels.
fn files(machine: &RealMachine) -> Result<BTreeMap<String, Item>> {
    let mut items = items_in(&machine.root)?;
    items.retain(|path, _| !path.starts_with(".statehold"));
    Ok(items)
}

/// A repository at one moment: its newest state, and each record's listing.
struct Before {
    state: std::sync::Arc<State>,
    roots: BTreeMap<u64, statehold_core::digest::Digest>,
    /// A file at a record, and what it held.
    contents: Vec<(u64, String, bytes::Bytes)>,
}

impl Before {
    async fn read(remote: &GatewayRemote) -> Result<Self> {
        let state = load(remote).await?.state;
        let (mut roots, mut contents) = (BTreeMap::new(), Vec::new());
        for number in 1..=state.head.number {
            let then = load_at(remote, Point::Record(number)).await?;
            roots.insert(number, then.tree.root());
            for (path, _) in then
                .tree
                .iter()
                .skip(usize::try_from(number % 5)?)
                .step_by(5)
            {
                let content = read_file(remote, &then, path.as_str()).await?;
                contents.push((number, path.to_string(), content));
            }
        }
        Ok(Self {
            state,
            roots,
            contents,
        })
    }

    /// Makes sure that all of it is still to be had, and that the newest state is the same again.
    async fn check(&self, remote: &GatewayRemote) -> Result<()> {
        let state = load(remote).await?.state;
        let paths = |state: &State| -> Vec<_> {
            let entries = state.tree.iter();
            entries
                .map(|(path, entry)| (path.clone(), format!("{:?}", entry.signature())))
                .collect()
        };
        ensure!(
            paths(&state) == paths(&self.state),
            "the newest state is another"
        );
        for (path, entry) in state.tree.iter() {
            if let statehold_core::entry::Entry::File(file) = entry {
                let content = read_file(remote, &state, path.as_str()).await?;
                let digest = statehold_core::digest::Digest::of(&content);
                ensure!(digest == file.digest, "{path} holds something else");
            }
        }
        for (id, snapshot) in &self.state.snapshots {
            let there = state.snapshots.get(id);
            ensure!(
                there == Some(snapshot),
                "the snapshot {id} is not what it was"
            );
        }
        let mut then: Option<std::sync::Arc<State>> = None;
        for (number, path, content) in &self.contents {
            if then.as_ref().map(|then| then.head.number) != Some(*number) {
                let found = load_at(remote, Point::Record(*number)).await?;
                let root = self.roots.get(number).copied();
                ensure!(
                    Some(found.tree.root()) == root,
                    "record {number} is another"
                );
                then = Some(found);
            }
            let Some(then) = &then else { continue };
            let there = read_file(remote, then, path).await?;
            ensure!(there == *content, "{path} at record {number} is another");
        }
        Ok(())
    }
}

async fn show(args: &OwnedArgs, installation: &Installation) -> Result<()> {
    let copy = installation.path("copy").to_string_lossy().into_owned();
    let further = ["--replicate-to", &copy, "--replicate-every", "continuous"];
    let store = installation.path("vault");
    let gateway = installation.serve_with(store.as_os_str(), "127.0.0.1:0", &[], &further)?;
    let a = installation.linked("anna", &gateway)?;
    let b = installation.linked("bert", &gateway)?;
    let owner = installation.machine("owner")?;
    owner.run(&["init"])?.expect(0)?;
    let invite = admin(installation, &gateway, &["invite", "--role", "own"])?;
    let invite = invite["invite"].as_str().context("an invite")?;
    owner.run_with(&["link", &gateway.url], invite)?.expect(0)?;
    std::fs::remove_file(owner.path(".stateholdignore"))?;
    let other = admin(installation, &gateway, &["tenant", "add", "other"])?;
    let other = other["repositories"][0][0]
        .as_str()
        .context("a repository")?;

    honest_history(args, &a, &b)?;
    let watcher = key(installation, &gateway, "watcher", &["--role", "read"])?;
    let others = key(installation, &gateway, "others", &["--repository", other])?;
    let other: RepositoryId = other.parse()?;
    let owned = key(installation, &gateway, OWNED, &[])?;
    let watching = remote(&gateway, &watcher, None).await?;
    let before = Before::read(&watching).await?;
    let (folder, head) = (files(&a)?, before.state.head.number);
    b.run(&["pull"])?.expect(0)?;
    ensure!(files(&b)? == folder, "the machines differ before");
    println!(
        "before: {} files, record {head}, {} snapshots",
        before.state.tree.len(),
        before.state.snapshots.len()
    );

    let begun = Instant::now();
    let mut attacker = Attacker::new(args.seed, &gateway.url, &owned, other).await?;
    let half = args.requests / 2;
    attacker.attack(half).await?;
    // An honest machine takes what it is given in the middle of it. Files that were said to lie where
    // they do not are told to be damaged, which is a 5xx of its own kind.
    let earlier = failures(&gateway)?;
    let pulled = b.run(&["pull", "--on-conflict", "remote"])?;
    ensure!(matches!(pulled.code, Some(0 | 4 | 7)), "{}", pulled.err);
    let told = failures(&gateway)? - earlier;
    attacker.attack(args.requests - half).await?;
    let Tally { answers, taken } = &attacker.tally;
    println!(
        "attacked: {} requests in {:.1} s, {taken} records taken, answers {answers:?}; a pull in the \
         middle ended with {:?}",
        args.requests,
        begun.elapsed().as_secs_f64(),
        pulled.code
    );

    // Afterwards.
    let id = owned.id().to_string();
    owner.run(&["machines", "revoke", &id])?.expect(0)?;
    let label = format!("--confirm-label=record-{head}");
    let to = head.to_string();
    let rewound = Instant::now();
    owner
        .run(&["rollback", "--to", &to, "--apply", &label])?
        .expect(0)?;
    println!(
        "rewound with one command in {:.1} s",
        rewound.elapsed().as_secs_f64()
    );
    let watching = remote(&gateway, &watcher, None).await?;
    before.check(&watching).await?;
    ensure!(files(&owner)? == folder, "the owner has something else");
    for machine in [&a, &b] {
        machine.run(&["pull"])?.expect(0)?;
        ensure!(
            files(machine)? == folder,
            "{} has something else",
            machine.name
        );
    }
    a.write("after", "life goes on")?;
    a.run(&["push"])?.expect(0)?;
    b.run(&["pull"])?.expect(0)?;
    ensure!(files(&a)? == files(&b)?, "the machines differ afterwards");
    let untouched = remote(&gateway, &others, Some(other)).await?;
    ensure!(
        load(&untouched).await?.state.head.number == 0,
        "the other tenant has records"
    );
    let late = attacker.is_shut_out().await;
    ensure!(late, "the revoked key still opens something");

    let newest = load(&watching).await?.state.head.number;
    replicated(&store, &copy, newest).await?;
    let scratch = installation.path("scratch");
    std::fs::create_dir_all(&scratch)?;
    let [store, scratch] = [&store, &scratch].map(|path| path.to_string_lossy());
    let operator = installation.operator()?;
    let words = [
        "drill",
        "--store",
        &store,
        "--replica",
        &copy,
        "--scratch",
        &scratch,
    ];
    drill(&operator, &words)?;
    let failed = failures(&gateway)? - told;
    ensure!(failed == 0, "{failed} answers of 500 and above");
    println!(
        "afterwards: {} files at {} moments read back, both machines go on, the copy is at record \
         {newest}, no answer of 500 or above but {told} about damage to the pull in the middle",
        before.contents.len(),
        before.roots.len()
    );
    Ok(())
}

/// Answers that say that something went wrong at the gateway. 501 is what a draft of a newer format gets,
/// and a flipped bit may make one.
fn failures(gateway: &RunningGateway) -> Result<usize> {
    let from = |status| gateway.answers_from(status);
    Ok(from(500)? - from(501)? + from(502)?)
}

/// The newest state of store and copy comes back; what the owned machine pushed while it
/// could may name content that never was, and is told.
fn drill(operator: &RealMachine, words: &[&str]) -> Result<()> {
    let said = operator.run(&[words, &["--json"]].concat())?;
    ensure!(matches!(said.code, Some(0 | 7)), "{}{}", said.out, said.err);
    let said = said.json()?;
    let drills = said["drills"].as_array().context("drills")?;
    let restores = drills
        .iter()
        .filter_map(|one| one["receipt"]["restores"].as_array());
    let newest = restores.flatten().filter(|one| one["what"] == "newest");
    let mut sides = 0;
    for restore in newest {
        let problems = restore["problems"].as_array().context("problems")?;
        ensure!(
            problems.is_empty(),
            "the newest state does not come back: {restore}"
        );
        sides += 1;
    }
    ensure!(sides >= 2, "nothing was restored: {said}");
    Ok(())
}

/// Pushes by both machines in turn, with deletes, overwrites, content in packs and two snapshots.
fn honest_history(args: &OwnedArgs, a: &RealMachine, b: &RealMachine) -> Result<()> {
    let noise = SeededEntropy::new(args.seed);
    for round in 0..args.pushes {
        let machine = if round % 2 == 0 { a } else { b };
        machine.run(&["pull"])?.expect(0)?;
        machine.write(&format!("notes/{}.md", round % 7), format!("round {round}"))?;
        machine.write(&format!("data/{round}"), noise.bytes(1_000))?;
        if round % 5 == 0 {
            machine.write(&format!("large/{}", round % 3), noise.bytes(400_000))?;
        }
        if round % 6 == 5 {
            std::fs::remove_file(machine.path(&format!("data/{}", round - 1)))?;
        }
        machine.run(&["push"])?.expect(0)?;
        if round == args.pushes / 3 || round == args.pushes / 2 {
            machine
                .run(&["snapshot", &format!("round-{round}")])?
                .expect(0)?;
        }
    }
    a.run(&["pull"])?.expect(0)?;
    Ok(())
}

/// Waits until the copy of the repository with the most records is complete up to one.
async fn replicated(store: &std::path::Path, copy: &str, newest: u64) -> Result<()> {
    let location: StoreLocation = copy.parse()?;
    let replica: Store = location.open(&|_| None)?;
    let source: StoreLocation = store.to_string_lossy().parse()?;
    let source = source.open(&|_| None)?;
    let places = statehold_repository::verify::places::find(&source).await?;
    let begun = Instant::now();
    loop {
        for place in &places.repositories {
            let at = position(&place.in_other(&replica)).await?;
            if place.prefix.contains('/') && at.is_some_and(|at| at.number >= newest) {
                return Ok(());
            }
        }
        if begun.elapsed() > PATIENCE {
            bail!("the copy does not come to record {newest}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
