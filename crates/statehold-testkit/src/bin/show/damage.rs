//! A part of all objects is flipped, cut or deleted: `verify` names each and nothing else, `repair` brings
//! all back from a copy, and without one what the log and a workspace still hold. First in a repository that has
//! all its history, then in one that was collected twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use serde_json::Value;
use statehold_core::entry::{Chunk, Entry};
use statehold_core::point::Point;
use statehold_repository::content::open_chunk;
use statehold_repository::format::record::StoredRecord;
use statehold_repository::remote::{load, load_at};
use statehold_repository::store::Store;
use statehold_repository::{Repository, layout};
use statehold_testkit::environment::{EPOCH, SeededEntropy, SimulatedClock};
use statehold_testkit::process::{Installation, RealMachine};

use crate::filling::{Amount, Filling, StandIns, pick};
use crate::program::ProgramArgs;

/// Damage
#[derive(Debug, Args)]
pub(crate) struct DamageArgs {
    /// Files in the repository
    #[arg(long, default_value_t = 4_000)]
    files: usize,
    /// Records of its history
    #[arg(long, default_value_t = 1_500)]
    records: u64,
    /// How many of a hundred objects are damaged; at least one of every kind is
    #[arg(long, default_value_t = 1.0)]
    objects_percent: f64,
    /// What follows from chance follows from this
    #[arg(long, default_value_t = 2026)]
    seed: u64,
    #[command(flatten)]
    program: ProgramArgs,
}

/// Objects by key.
type Objects = BTreeMap<String, (Vec<u8>, SystemTime)>;

pub(crate) fn run(args: &DamageArgs) -> Result<()> {
    show(args, false)?;
    show(args, true)
}

fn show(args: &DamageArgs, is_collected: bool) -> Result<()> {
    let installation = Installation::of(&args.program.binary()?)?;
    let vault = installation.path("vault");
    let machine = linked(&installation, "anna", &vault)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let amount = Amount {
        files: args.files,
        seed: args.seed,
    };
    let stand_ins = runtime.block_on(async {
        let mut filling = Filling::begin(&vault, amount).await?;
        filling.go_on(args.records).await?;
        if !is_collected {
            return Ok(StandIns::default());
        }
        filling.keep(args.records / 3).await?;
        filling.collect().await?;
        filling.go_on(args.records / 5).await?;
        filling.collect().await?;
        filling.go_on(args.records / 20).await?;
        filling.stand_ins().await
    })?;
    machine.run(&["pull"])?.expect(0)?;
    let replica = installation.path("replica");
    copy(&vault, &replica)?;
    let sound = objects(&vault)?;
    let bytes: usize = sound.values().map(|(bytes, _)| bytes.len()).sum();
    let started = Instant::now();
    machine.run(&["verify", "--read-data"])?.expect(0)?;
    println!(
        "{} files, {} records{}, {} objects of {:.1} MB: all is well, {:.1} s",
        args.files,
        sound.keys().filter(|key| kind(key) == "log").count(),
        if is_collected {
            ", two thirds of the states let go"
        } else {
            ""
        },
        sound.len(),
        bytes as f64 / 1e6,
        started.elapsed().as_secs_f64()
    );
    let from = replica.to_str().context("a path of text")?.to_owned();

    let damaged = damage(&vault, &sound, &stand_ins, args, 1)?;
    check_named(&machine, &damaged)?;
    let before = objects(&vault)?;
    let started = Instant::now();
    let said = machine.run(&["repair", "--from", &from, "--json"])?;
    let said = said.expect(0)?.json()?;
    let took = started.elapsed().as_secs_f64();
    let healed = healed_keys(&said);
    ensure!(
        healed == keys(&damaged),
        "other objects were written than were damaged: {:?}",
        healed
            .symmetric_difference(&keys(&damaged))
            .collect::<Vec<_>>()
    );
    check_untouched(&before, &objects(&vault)?, &damaged)?;
    ensure!(
        contents(&objects(&vault)?) == contents(&sound),
        "what came back is not what was"
    );
    machine.run(&["verify", "--read-data"])?.expect(0)?;
    println!(
        "{} damaged ({}): verify named each and nothing else; repair from a copy brought all back, byte \
         by byte, {took:.1} s",
        damaged.len(),
        by_kind(&damaged)
    );

    let damaged = damage(&vault, &sound, &stand_ins, args, 2)?;
    check_named(&machine, &damaged)?;
    let before = objects(&vault)?;
    let started = Instant::now();
    let ran = machine.run(&["repair", "--json"])?;
    let took = started.elapsed().as_secs_f64();
    let said = ran.json()?;
    let left = damaged_keys(&said["repositories"][0]["left"]);
    ensure!(
        ran.code == Some(if left.is_empty() { 0 } else { 7 }),
        "it ended with {:?}",
        ran.code
    );
    let after = objects(&vault)?;
    check_untouched(&before, &after, &damaged)?;
    check_caches(&said["repositories"][0]["left"], &left, &stand_ins)?;
    let (lost, all) = match is_collected {
        true => runtime.block_on(compare_kept(&vault, &replica, &said))?,
        false => {
            let (listed, lost, all) = runtime.block_on(compare_lost(&vault, &replica, &said))?;
            ensure!(
                listed == lost,
                "what is listed as lost is not what can't be read: {:?}",
                listed.symmetric_difference(&lost).collect::<Vec<_>>()
            );
            (lost.len(), all)
        }
    };
    println!(
        "{} damaged anew ({}), no copy: {} objects came back from the log and a workspace, {} stay damaged; of \
         {all} versions of files {lost} can't be read, and exactly these are listed; {took:.1} s",
        damaged.len(),
        by_kind(&damaged),
        damaged.len() - left.len(),
        left.len(),
    );
    machine.run(&["repair", "--from", &from])?.expect(0)?;
    machine.run(&["verify", "--read-data"])?.expect(0)?;
    let end = objects(&vault)?;
    let mut others = 0;
    for key in sound.keys() {
        let is_cache = ["trees", "checkpoints"].contains(&kind(key));
        // Made anew, a pack has what is kept, and not what only states had that were let go.
        let may_differ = is_cache || is_collected && kind(key) == "packs";
        let is_same = end[key].0 == sound[key].0;
        ensure!(
            is_same || may_differ && damaged.contains_key(key),
            "{key} is not what it was"
        );
        others += usize::from(!is_same);
    }
    println!(
        "with the copy the rest came back; all objects are what they were, but for {others} that were made \
         anew"
    );
    Ok(())
}

fn linked(installation: &Installation, name: &str, vault: &Path) -> Result<RealMachine> {
    let machine = installation.machine(name)?;
    machine.run(&["init"])?.expect(0)?;
    fs::remove_file(machine.path(".stateholdignore"))?;
    let link = format!("file://{}", vault.display());
    machine.run(&["link", &link])?.expect(0)?;
    Ok(machine)
}

/// Everything in a store's folder but what repair put aside and what the store says of itself.
fn objects(root: &Path) -> Result<Objects> {
    fn walk(root: &Path, folder: &Path, found: &mut Objects) -> Result<()> {
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            let key = path
                .strip_prefix(root)?
                .to_str()
                .context("a key is text")?
                .to_owned();
            if ["damaged", "probes"].contains(&key.as_str()) {
                continue;
            }
            if path.is_dir() {
                walk(root, &path, found)?;
            } else {
                let modified = fs::metadata(&path)?.modified()?;
                found.insert(key, (fs::read(&path)?, modified));
            }
        }
        Ok(())
    }
    let mut found = Objects::new();
    walk(root, root, &mut found)?;
    Ok(found)
}

fn contents(objects: &Objects) -> BTreeMap<&str, &[u8]> {
    let objects = objects.iter();
    objects
        .map(|(key, (bytes, _))| (key.as_str(), &bytes[..]))
        .collect()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for (key, (bytes, _)) in objects(from)? {
        let path = to.join(key);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(path, bytes)?;
    }
    Ok(())
}

fn kind(key: &str) -> &str {
    key.split('/').next().unwrap_or_default()
}

/// What was done to which object.
type Damage = BTreeMap<String, &'static str>;

fn keys(damage: &Damage) -> BTreeSet<String> {
    damage.keys().cloned().collect()
}

fn by_kind(damage: &Damage) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for (key, way) in damage {
        *counts.entry(format!("{} {way}", kind(key))).or_default() += 1;
    }
    let counts = counts.iter().map(|(what, count)| format!("{count} {what}"));
    counts.collect::<Vec<_>>().join(", ")
}

/// Damages so many objects, and one of each kind at least.
fn damage(
    vault: &Path,
    sound: &Objects,
    stand_ins: &StandIns,
    args: &DamageArgs,
    round: u64,
) -> Result<Damage> {
    let entropy = SeededEntropy::new(args.seed.wrapping_mul(31).wrapping_add(round));
    let all: Vec<&String> = sound.keys().collect();
    let wanted = (all.len() as f64 * args.objects_percent / 100.0).ceil();
    let kinds: BTreeSet<&str> = all.iter().map(|key| kind(key)).collect();
    let mut chosen = BTreeSet::new();
    for name in kinds {
        let own: Vec<&&String> = all.iter().filter(|key| kind(key) == name).collect();
        if let Some(key) = entropy.pick(&own) {
            chosen.insert(key.as_str());
        }
    }
    while (chosen.len() as f64) < wanted {
        chosen.extend(entropy.pick(&all).map(|key| key.as_str()));
    }
    // Only its own checkpoint says where the newest listing lies, or that at the cut, and only its record that
    // there is a pack: of two that vouch for each other one stays sound.
    let newest = sound.keys().find(|key| kind(key) == "checkpoints");
    let mut alone = newest.into_iter().chain(&stand_ins.at_cut);
    if alone.any(|alone| chosen.contains(alone.as_str())) {
        chosen.retain(|key| kind(key) != "trees");
    }
    let introduced = introduced(sound, &chosen)?;
    chosen.retain(|key| !introduced.contains(*key));
    let mut damage = Damage::new();
    for key in chosen {
        let path = vault.join(key);
        let mut bytes = sound[key].0.clone();
        fs::remove_file(&path)?;
        let way = match pick(&entropy, 3) {
            0 => {
                let at = pick(&entropy, bytes.len());
                bytes[at] ^= 0xff;
                fs::write(&path, bytes)?;
                "flipped"
            }
            1 => {
                bytes.truncate(pick(&entropy, bytes.len()));
                fs::write(&path, bytes)?;
                "cut"
            }
            _ => "deleted",
        };
        damage.insert(key.to_owned(), way);
    }
    Ok(damage)
}

/// The packs that chosen records introduce.
fn introduced(sound: &Objects, chosen: &BTreeSet<&str>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for key in chosen {
        if let Some(number) = layout::parse_record(key) {
            let stored = StoredRecord::read(number, sound[*key].0.clone().into())?;
            let packs = stored.record.envelope.draft.packs.iter();
            found.extend(packs.map(|pack| layout::pack(pack.id)));
        }
    }
    Ok(found)
}

/// The keys that a report calls damaged or missing.
fn damaged_keys(report: &Value) -> BTreeSet<String> {
    let damaged = report["damaged"].as_array().into_iter().flatten();
    let damaged = damaged.filter_map(|damaged| damaged["key"].as_str());
    let missing = report["missing_caches"].as_array().into_iter().flatten();
    damaged
        .chain(missing.filter_map(Value::as_str))
        .map(str::to_owned)
        .collect()
}

fn healed_keys(said: &Value) -> BTreeSet<String> {
    let healed = said["repositories"][0]["healed"].as_array();
    let keys = healed
        .into_iter()
        .flatten()
        .filter_map(|healed| healed["key"].as_str());
    keys.map(str::to_owned).collect()
}

/// `verify` names all that was damaged, and nothing else.
fn check_named(machine: &RealMachine, damage: &Damage) -> Result<()> {
    let said = machine.run(&["verify", "--read-data", "--json"])?;
    let said = said.expect(7)?.json()?;
    let named = damaged_keys(&said["repositories"][0]);
    let wrong: Vec<_> = named.symmetric_difference(&keys(damage)).cloned().collect();
    let ways: Vec<_> = wrong.iter().map(|key| (key, damage.get(key))).collect();
    ensure!(wrong.is_empty(), "named and damaged differ in {ways:?}");
    Ok(())
}

/// What is still damaged is content, records, or a cache of states that a lost record keeps in the dark.
fn check_caches(report: &Value, left: &BTreeSet<String>, stand_ins: &StandIns) -> Result<()> {
    let gaps = gaps(report);
    let is_dark = |from: u64, to: u64| gaps.iter().any(|gap| gap.0 <= to && from <= gap.1);
    for key in left.difference(&stand_ins.keys) {
        let is_told = match kind(key) {
            "segments" => {
                let (from, to) = layout::parse_segment(key).context("a segment's key")?;
                !(from..=to).any(|number| left.contains(&layout::record(number)))
            }
            "checkpoints" => {
                let (number, _) = layout::parse_checkpoint(key).context("a checkpoint's key")?;
                !is_dark(number, number)
            }
            "trees" => gaps.is_empty(),
            // Only the first record says which one it is.
            "repository.json" => !left.contains(&layout::record(1)),
            _ => false,
        };
        ensure!(!is_told, "{key} was not made anew");
    }
    Ok(())
}

/// The runs of records at which the state can't be told.
fn gaps(report: &Value) -> Vec<(u64, u64)> {
    let gaps = report["gaps"].as_array().into_iter().flatten();
    gaps.filter_map(|gap| Some((gap["from"].as_u64()?, gap["to"].as_u64()?)))
        .collect()
}

/// Nothing that was sound was written to.
fn check_untouched(before: &Objects, after: &Objects, damage: &Damage) -> Result<()> {
    for (key, there) in before {
        let is_same = after.get(key) == Some(there);
        ensure!(
            is_same || damage.contains_key(key),
            "{key} was sound and was touched"
        );
    }
    Ok(())
}

/// A version of a file: its path and the record that put it there.
type Version = (String, u64);

/// The versions that are listed as lost, those that can't be read, and how many there are. What a
/// version holds is told by the copy, and whether it can be read is tried in the vault.
async fn compare_lost(
    vault: &Path,
    replica: &Path,
    said: &Value,
) -> Result<(BTreeSet<Version>, BTreeSet<Version>, usize)> {
    let left = &said["repositories"][0]["left"];
    let mut listed = BTreeSet::new();
    for damaged in left["damaged"].as_array().into_iter().flatten() {
        for version in damaged["versions"].as_array().into_iter().flatten() {
            let path = version["path"].as_str().context("a path")?.to_owned();
            listed.insert((path, version["record"].as_u64().context("a number")?));
        }
    }
    let gaps = gaps(left);
    let (vault, replica) = (Store::folder(vault)?, Store::folder(replica)?);
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let entropy = Arc::new(SeededEntropy::new(3));
    let copy = Repository::open_existing(replica, clock, entropy).await?;
    let copy = copy.ok_or_else(|| anyhow!("the copy holds no repository"))?;
    let mut state = copy.empty_state();
    let (mut lost, mut all) = (BTreeSet::new(), 0);
    let mut read = BTreeMap::new();
    while let Some(stored) = copy.record(state.head.number + 1).await? {
        state.apply(&stored.record)?;
        let number = state.head.number;
        if gaps
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&number))
        {
            continue;
        }
        let changes = stored.record.body.changes().into_iter();
        for upsert in changes.flat_map(|changes| &changes.upserts) {
            let Some(Entry::File(file)) = state.tree.get(upsert.path.as_str()) else {
                continue;
            };
            all += 1;
            for chunk in &file.chunks {
                let place = (chunk.at.object, chunk.at.offset);
                let is_there = match read.get(&place) {
                    Some(is_there) => *is_there,
                    None => {
                        let is_there = can_be_read(&vault, chunk).await;
                        read.insert(place, is_there);
                        is_there
                    }
                };
                if !is_there {
                    lost.insert((upsert.path.to_string(), number));
                }
            }
        }
    }
    Ok((listed, lost, all))
}

/// The same where records are retired: of states that are kept, those that something stands in for and some of the
/// others, each file can be read or is listed, and what is listed can't be read. Gives how many versions can't,
/// of how many.
async fn compare_kept(vault: &Path, replica: &Path, said: &Value) -> Result<(usize, usize)> {
    let left = &said["repositories"][0]["left"];
    let mut listed: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for damaged in left["damaged"].as_array().into_iter().flatten() {
        for version in damaged["versions"].as_array().into_iter().flatten() {
            let path = version["path"].as_str().context("a path")?.to_owned();
            let record = version["record"].as_u64().context("a number")?;
            listed.entry(path).or_default().insert(record);
        }
    }
    let gaps = gaps(left);
    let (vault, replica) = (Store::folder(vault)?, Store::folder(replica)?);
    let clock = Arc::new(SimulatedClock::standing(EPOCH));
    let entropy = Arc::new(SeededEntropy::new(3));
    let copy = Repository::open_existing(replica, clock, entropy).await?;
    let copy = copy.ok_or_else(|| anyhow!("the copy holds no repository"))?;
    let newest = load(&copy).await?.state;
    let collection = &newest.collection;
    let listings = collection.listings.iter().map(|listing| listing.from);
    let listed_at = listed.values().flatten().copied();
    let some = (collection.cut..newest.head.number).step_by(16);
    let numbers: BTreeSet<u64> = listings.chain(listed_at).chain(some).collect();
    let is_gap = |number: u64| gaps.iter().any(|gap| (gap.0..=gap.1).contains(&number));
    let kept = |number: &&u64| !collection.expired.contains(**number) && !is_gap(**number);
    let mut read = BTreeMap::new();
    let (mut lost, mut all) = (BTreeSet::new(), BTreeSet::new());
    for number in numbers.iter().filter(kept) {
        let state = load_at(&copy, Point::Record(*number)).await?;
        for (path, entry) in state.tree.iter() {
            let Entry::File(file) = entry else { continue };
            let mut is_there = true;
            for chunk in &file.chunks {
                let place = (chunk.at.object, chunk.at.offset);
                let known = read.get(&place).copied();
                let is_read = match known {
                    Some(is_read) => is_read,
                    None => can_be_read(&vault, chunk).await,
                };
                read.insert(place, is_read);
                is_there &= is_read;
            }
            let records = listed.get(path.as_str());
            let put = records.and_then(|records| records.range(..=*number).next_back());
            all.insert((path.clone(), file.digest));
            ensure!(
                is_there || put.is_some(),
                "{path} at record {number} can't be read and is not listed"
            );
            ensure!(
                !is_there || put != Some(number),
                "{path} at record {number} can be read and is listed"
            );
            if !is_there {
                lost.insert((path.clone(), file.digest));
            }
        }
    }
    Ok((lost.len(), all.len()))
}

async fn can_be_read(vault: &Store, chunk: &Chunk) -> bool {
    let Some(object) = chunk.at.object else {
        return false;
    };
    let range = chunk.at.offset..chunk.at.offset + u64::from(chunk.at.stored);
    let frame = vault.read_range(&object.to_string(), range).await;
    frame.is_ok_and(|frame| open_chunk(chunk, &frame).is_ok())
}
