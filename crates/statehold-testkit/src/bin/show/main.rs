//! Promises, each exercised by a program: `cargo xtask show NAME`. One more, `badinput`, is shown by
//! tests, which xtask runs itself.

#![expect(clippy::print_stdout, reason = "these programs print their results")]

mod crowd;
mod damage;
mod failover;
mod histories;
mod kill;
mod model;
mod program;
mod replay;
mod replicate;
mod simulation;
mod state_kill;
mod tree;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask show", about = "Show that a promise holds")]
struct Arguments {
    #[command(subcommand)]
    show: Show,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Clients, gateways and a faulty store under one seed, with every invariant checked.
    Simulation(simulation::SimulationArgs),
    /// `kill -9` of client or gateway at random moments: nothing is lost, nothing is half there.
    Kill(kill::KillArgs),
    /// Many processes push at once through two gateways: all succeed.
    Crowd(crowd::CrowdArgs),
    /// Thousands of real files and the odd ones arrive as they were.
    Tree(tree::TreeArgs),
    /// Objects are flipped, cut and deleted: each is named, and what can be comes back.
    Damage(damage::DamageArgs),
    /// Continuous replication: seconds behind, and what is left when the first store is lost.
    Replicate(replicate::ReplicateArgs),
    /// The first store is lost while machines work: the copy is promoted, and all of them go on.
    Failover(failover::FailoverArgs),
    /// Every world that the protocol can get into, within bounds: no promise breaks in any.
    Model(model::ModelArgs),
    /// Random histories of application state: all nodes end equal, nothing is lost.
    Histories(histories::HistoriesArgs),
    /// `kill -9` of a process that writes application state: nothing acknowledged is lost.
    StateKill(state_kill::StateKillArgs),
    /// Histories pushed commit by commit: every restore is what the commit was, byte for byte.
    Replay(replay::ReplayArgs),
    /// The process that `state-kill` kills.
    #[command(hide = true)]
    StateWriter(state_kill::StateWriterArgs),
}

fn main() -> Result<()> {
    match Arguments::parse().show {
        Show::Simulation(args) => simulation::run(&args),
        Show::Kill(args) => kill::run(&args),
        Show::Crowd(args) => crowd::run(&args),
        Show::Tree(args) => tree::run(&args),
        Show::Damage(args) => damage::run(&args),
        Show::Replicate(args) => replicate::run(&args),
        Show::Failover(args) => failover::run(&args),
        Show::Model(args) => model::run(&args),
        Show::Histories(args) => histories::run(&args),
        Show::StateKill(args) => state_kill::run(&args),
        Show::Replay(args) => replay::run(&args),
        Show::StateWriter(args) => state_kill::write(&args),
    }
}
