//! Many processes push disjoint files to one repository at once, through two gateways on one store.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use statehold_testkit::process::Installation;

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
    let installation = Installation::of(&args.program.binary()?)?;
    let gateways = [installation.serve("vault")?, installation.serve("vault")?];
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
        "{} processes pushed {} files through two gateways: all ended with 0, all files are there, \
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
