//! What each verb asks of the store, and of a gateway where one stands before it. Counted, not
//! timed; over a bound the program fails.

use anyhow::{Result, ensure};
use clap::Args;
use statehold_core::limits::{CHECKPOINT_RECORDS_MIN, PACK_BYTES_TARGET};
use statehold_core::path::RepoPath;
use statehold_core::point::Point;
use statehold_repository::meter::Usage;
use statehold_repository::remote::load_at;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::machine::{Machine, Shared};
use statehold_testkit::process::{Installation, RealMachine, RunningGateway};

/// Count requests
#[derive(Debug, Args)]
pub(crate) struct RequestsArgs {
    /// Files of 4 KiB in the first push
    #[arg(long, default_value_t = 5_000)]
    files: u64,
}

/// List prices of a large cloud, in dollars: a write or list, a read.
const WRITE_DOLLARS: f64 = 0.005 / 1_000.0;
const READ_DOLLARS: f64 = 0.000_4 / 1_000.0;
/// Once a minute, for thirty days.
const TIMES_A_MONTH: f64 = 30.0 * 24.0 * 60.0;
/// A gigabyte kept for a month.
const GIGABYTE_DOLLARS: f64 = 0.023;
/// What the store of so many tenants may cost a month.
const BUDGET_DOLLARS: f64 = 5.0;
const TENANTS: f64 = 50.0;
/// Every five minutes.
const PUSHES_A_DAY: u64 = 24 * 12;
const FILE_BYTES: usize = 4_096;
/// What any verb of a linked workspace asks of a gateway, if little is new.
const GATEWAY_REQUESTS_MAX: usize = 1;

/// A line of the table.
struct Row {
    what: String,
    usage: Usage,
    /// Why the count is fine, or the bound it is over.
    bound: String,
    holds: bool,
}

pub(crate) fn run(args: &RequestsArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let rows = runtime.block_on(measure(args))?;
    println!(
        "| what | writes | reads | lists | sent | received | bound | dollars a month, once a minute |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for Row {
        what, usage, bound, ..
    } in &rows
    {
        let Usage {
            writes,
            reads,
            lists,
            bytes_in,
            bytes_out,
            ..
        } = usage;
        let dollars = dollars(*usage) * TIMES_A_MONTH;
        println!(
            "| {what} | {writes} | {reads} | {lists} | {bytes_in} B | {bytes_out} B | {bound} | {dollars:.2} |"
        );
    }
    for row in &rows {
        ensure!(
            row.holds,
            "{}: {:?} is over its bound, {}",
            row.what,
            row.usage,
            row.bound
        );
    }
    let month = runtime.block_on(measure_day())?;
    println!(
        "\nA tenant that pushes 1 kB of a log every five minutes, and another of its machines that pulls \
         twice as often: {month:.3} dollars a month for requests and a month's growth. Bound: \
         {TENANTS} tenants for {BUDGET_DOLLARS} dollars."
    );
    ensure!(
        month * TENANTS <= BUDGET_DOLLARS,
        "{TENANTS} tenants cost {} dollars a month",
        month * TENANTS
    );
    println!("\n| what, through a gateway | HTTP requests | bound |");
    println!("|---|---|---|");
    let rows = measure_gateway()?;
    for (what, requests) in &rows {
        println!("| {what} | {requests} | {GATEWAY_REQUESTS_MAX} |");
    }
    for (what, requests) in &rows {
        let holds = *requests <= GATEWAY_REQUESTS_MAX;
        ensure!(holds, "{what}: {requests} requests are over the bound");
    }
    Ok(())
}

/// What the real program asks of a real gateway, by the gateway's own log.
fn measure_gateway() -> Result<Vec<(&'static str, usize)>> {
    let installation = Installation::of(&super::built_statehold()?)?;
    let gateway = installation.serve("store")?;
    let noise = SeededEntropy::new(6);
    let a = installation.linked("a", &gateway)?;
    let b = installation.linked("b", &gateway)?;
    for machine in [&a, &b] {
        machine.run(&["pull"])?.expect(0)?;
    }
    let asked = |machine: &RealMachine, verb| asked(&gateway, machine, verb);
    let mut rows = Vec::new();
    for index in 0..60 {
        a.write(&format!("small/{index}"), noise.bytes(FILE_BYTES))?;
    }
    rows.push(("push of 60 files, 240 KiB", asked(&a, "push")?));
    rows.push(("pull of that push", asked(&b, "pull")?));
    for index in 0..8 {
        a.write(&format!("large/{index}"), noise.bytes(1_000_000))?;
    }
    rows.push(("push of 8 files, 8 MB", asked(&a, "push")?));
    rows.push(("pull of that push", asked(&b, "pull")?));
    rows.push(("pull with nothing new", asked(&b, "pull")?));
    rows.push(("status with nothing new", asked(&b, "status")?));
    let last = "large/7";
    ensure!(a.read(last)? == b.read(last)?, "{last} did not arrive");
    Ok(rows)
}

/// How many requests a verb makes.
fn asked(gateway: &RunningGateway, machine: &RealMachine, verb: &str) -> Result<usize> {
    let before = gateway.answers()?;
    machine.run(&[verb])?.expect(0)?;
    Ok(gateway.answers()? - before)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn dollars(usage: Usage) -> f64 {
    (usage.writes + usage.lists) as f64 * WRITE_DOLLARS + usage.reads as f64 * READ_DOLLARS
}

async fn measure(args: &RequestsArgs) -> Result<Vec<Row>> {
    let shared = Shared::in_memory();
    let noise = SeededEntropy::new(5);
    let (a, b) = (shared.machine("a").await?, shared.machine("b").await?);
    let mut rows = Vec::new();
    let mut row = |what: String, usage: Usage, bound: &str, holds: bool| {
        rows.push(Row {
            what,
            usage,
            bound: bound.into(),
            holds,
        });
    };
    let since = |before: Usage| shared.usage().since(before);

    for index in 0..args.files {
        a.write(
            &format!("d{}/f{index}", index % 50),
            noise.bytes(FILE_BYTES),
        )?;
    }
    let before = shared.usage();
    a.push().await?;
    let used = since(before);
    let holds = used.writes <= 4;
    row(
        format!("first push of {} files of 4 KiB", args.files),
        used,
        "4 writes",
        holds,
    );
    let pieces = used.bytes_in.div_ceil(PACK_BYTES_TARGET as u64);

    let before = shared.usage();
    b.pull().await?;
    let used = since(before);
    let holds = used.reads + used.lists <= 8 + pieces;
    row(
        "clone of that tree".into(),
        used,
        "8 reads and one per 16 MiB",
        holds,
    );

    let before = shared.usage();
    b.pull().await?;
    let used = since(before);
    let holds = (used.reads, used.lists, used.writes) == (1, 0, 0);
    row("pull with nothing new".into(), used, "1 read", holds);

    for index in 0..60 {
        a.write(&format!("small/{index}"), noise.bytes(FILE_BYTES))?;
    }
    let before = shared.usage();
    a.push().await?;
    let used = since(before);
    let holds = (used.writes, used.reads, used.lists) == (1, 0, 0);
    row("push of 60 files, 240 KiB".into(), used, "1 write", holds);

    let before = shared.usage();
    b.pull().await?;
    let used = since(before);
    row(
        "pull of that push".into(),
        used,
        "4 reads",
        used.reads <= 4 && used.lists == 0,
    );

    a.write("log.ndjson", noise.bytes(5_000_000))?;
    a.push().await?;
    append(&a, &noise.bytes(1_000))?;
    let before = shared.usage();
    a.push().await?;
    let used = since(before);
    let holds = used.bytes_in < 8_000 && used.writes == 1;
    row(
        "append of 1 kB to a log of 5 MB".into(),
        used,
        "1 write, 8 kB",
        holds,
    );

    // Up to just before the next checkpoint, the most records that a reader can have to fold.
    let (mut pushes, mut writes) = (0_u64, 0);
    loop {
        let state = a.engine.remote_state().await?;
        let since_checkpoint = state.head.number - state.growth.checkpoint;
        if state.growth.checkpoint > 0 && since_checkpoint + 1 >= CHECKPOINT_RECORDS_MIN {
            break;
        }
        a.write("counter", format!("{pushes}"))?;
        let before = shared.usage();
        a.push().await?;
        writes += since(before).writes;
        pushes += 1;
    }
    let extra = writes - pushes;
    let holds = extra * 8 <= pushes;
    let usage = Usage {
        writes: extra,
        ..Usage::default()
    };
    row(
        format!("segments and checkpoints over {pushes} pushes"),
        usage,
        "1 write per 8 pushes",
        holds,
    );

    let late = shared.machine("late").await?;
    let before = shared.usage();
    late.pull().await?;
    let used = since(before);
    let pieces = used.bytes_out.div_ceil(PACK_BYTES_TARGET as u64);
    let holds = used.reads + used.lists <= 24 + pieces;
    row(
        "clone just before a checkpoint".into(),
        used,
        "24 reads and one per 16 MiB",
        holds,
    );
    ensure!(
        a.tree()? == late.tree()?,
        "the late machine has another tree"
    );
    rows.push(measure_restore(&shared, &late).await?);
    Ok(rows)
}

/// What it costs to bring back one file of 3 KB as it was at an old record.
async fn measure_restore(shared: &Shared, machine: &Machine) -> Result<Row> {
    machine.write("skills/image/SKILL.md", SeededEntropy::new(8).bytes(3_000))?;
    machine.push().await?;
    let then = machine.engine.remote_state().await?;
    for index in 0..CHECKPOINT_RECORDS_MIN {
        machine.write("skills/image/SKILL.md", format!("{index}"))?;
        machine.push().await?;
    }
    // As a program that has just started.
    let repository = shared.repository().await?;
    let before = shared.usage();
    let state = load_at(&repository, Point::Record(then.head.number)).await?;
    let tree = shared.usage().since(before);
    let path = RepoPath::parse("skills/image/SKILL.md")?;
    let fresh = shared.machine("fresh").await?;
    let before = shared.usage();
    let moment = state.time;
    fresh.engine.restore(&state, Some(&path), moment).await?;
    let content = shared.usage().since(before);
    let usage = Usage {
        reads: tree.reads + content.reads,
        lists: tree.lists + content.lists,
        writes: tree.writes + content.writes,
        bytes_in: tree.bytes_in + content.bytes_in,
        bytes_out: tree.bytes_out + content.bytes_out,
        deletes: 0,
    };
    let holds = content.reads == 1
        && content.bytes_out < 4_000
        && usage.reads + usage.lists <= 24
        && usage.writes == 0;
    Ok(Row {
        what: format!(
            "restore of a file of 3 KB at a record {CHECKPOINT_RECORDS_MIN} back: {} for the tree, {} \
             for the content",
            tree.reads, content.reads
        ),
        usage,
        bound: "24 reads, 1 of them for content".into(),
        holds,
    })
}

/// What a month costs of a tenant whose log grows all day, by the requests of one day.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
async fn measure_day() -> Result<f64> {
    let shared = Shared::in_memory();
    let noise = SeededEntropy::new(7);
    let (a, b) = (shared.machine("a").await?, shared.machine("b").await?);
    a.write("log.ndjson", noise.bytes(1_000))?;
    a.push().await?;
    b.pull().await?;
    let before = shared.usage();
    for _ in 0..PUSHES_A_DAY {
        append(&a, &noise.bytes(1_000))?;
        a.push().await?;
        b.pull().await?;
        b.pull().await?;
    }
    ensure!(a.tree()? == b.tree()?, "the two machines differ");
    let day = shared.usage().since(before);
    let gigabytes = day.bytes_in as f64 * 30.0 / 1e9;
    Ok(dollars(day) * 30.0 + gigabytes * GIGABYTE_DOLLARS)
}

fn append(machine: &Machine, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let mut log = std::fs::OpenOptions::new()
        .append(true)
        .open(machine.path("log.ndjson"))?;
    Ok(log.write_all(bytes)?)
}
