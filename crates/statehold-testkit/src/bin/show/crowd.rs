//! Many processes push disjoint files to one repository at once, through two gateways on one store.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use statehold_testkit::process::{Installation, RunningGateway};
use statehold_testkit::servers;

use crate::program::ProgramArgs;

/// Crowd
#[derive(Debug, Args)]
pub(crate) struct CrowdArgs {
    /// Processes that push at once
    #[arg(long, default_value_t = 50)]
    count: usize,
    /// Files that each of them pushes
    #[arg(long, default_value_t = 10)]
    files: usize,
    #[command(flatten)]
    program: ProgramArgs,
}

pub(crate) fn run(args: &CrowdArgs) -> Result<()> {
    let folder = Installation::of(&args.program.binary()?)?;
    let serve = || folder.serve("vault");
    crowd(args, "a folder", &folder, [serve()?, serve()?])?;

    let server = match servers::moto() {
        Ok(server) => server,
        Err(absent) => {
            ensure!(!servers::installs_everything(), "the S3 server {absent}");
            println!("SKIP: the S3 server {absent}");
            return Ok(());
        }
    };
    let made = tokio::runtime::Runtime::new()?.block_on(server.make_bucket("crowd"));
    made.map_err(|reason| anyhow!("no bucket: {reason}"))?;
    let variables = server.variables();
    let bucket = Installation::of(&args.program.binary()?)?;
    let location = server.location("crowd");
    let serve = || bucket.serve_on(location.as_ref(), "127.0.0.1:0", &variables);
    crowd(args, "a bucket (moto)", &bucket, [serve()?, serve()?])
}

fn crowd(
    args: &CrowdArgs,
    store: &str,
    installation: &Installation,
    gateways: [RunningGateway; 2],
) -> Result<()> {
    let mut machines = Vec::new();
    for number in 0..args.count {
        let gateway = &gateways[number % gateways.len()];
        let machine = installation.linked(&format!("machine-{number}"), gateway)?;
        for file in 0..args.files {
            let path = format!("from-{number}/file-{file}.md");
            machine.write(&path, content(number, file))?;
        }
        machines.push(machine);
    }
    println!("{} machines are linked; all push now", machines.len());
    let started = Instant::now();
    let mut running = Vec::new();
    for machine in &machines {
        running.push(machine.start(machine.command(&["push"]), "")?);
    }
    for (number, running) in running.into_iter().enumerate() {
        let ran = running.finish()?;
        ensure!(
            ran.code == Some(0),
            "machine {number} ended with {:?}: {}{}",
            ran.code,
            ran.out,
            ran.err
        );
    }
    let took = started.elapsed();

    let witness = installation.linked("witness", &gateways[0])?;
    witness.run(&["pull"])?.expect(0)?;
    for number in 0..args.count {
        for file in 0..args.files {
            let there = witness.read(&format!("from-{number}/file-{file}.md"))?;
            ensure!(
                there == content(number, file).as_bytes(),
                "file {file} of machine {number} is another one"
            );
        }
    }
    let status = witness.run(&["status", "--json"])?.expect(0)?.json()?;
    ensure!(
        status["entries"] == args.count * args.files,
        "there are {} files",
        status["entries"]
    );
    ensure!(
        status["head"]["number"] == args.count,
        "there are {} records",
        status["head"]["number"]
    );
    let (mut answers, mut failed) = (0, 0);
    for gateway in &gateways {
        answers += gateway.answers()?;
        failed += gateway.answers_from(500)?;
    }
    ensure!(answers > args.count, "the gateways' logs say too little");
    ensure!(failed == 0, "{failed} answers had a status of 500 or above");
    println!(
        "{} processes pushed {} files through two gateways on {store}: all ended with 0, all files are there, \
         {answers} answers and none above 499; {:.1} s",
        args.count,
        args.count * args.files,
        took.as_secs_f64()
    );
    Ok(())
}

fn content(number: usize, file: usize) -> String {
    format!("file {file} of machine {number}\n").repeat(30)
}
