//! Promises, each exercised by a program: `cargo xtask show NAME`. One more, `badinput`, is shown by
//! tests, which xtask runs itself.

#![expect(clippy::print_stdout, reason = "these programs print their results")]

mod compaction;
mod crowd;
mod damage;
mod failover;
mod filling;
mod histories;
mod hostile;
mod kill;
mod model;
mod owned;
mod points;
mod program;
mod replay;
mod replicate;
mod simulation;
mod state_kill;
mod states;
mod target;
mod tree;
mod watch;
mod worm;

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
    /// Application state carried by push and pull between machines that are copied, put back and killed.
    States(states::StatesArgs),
    /// Changes are seen on another machine within a second; watches and gateways are killed.
    Watch(watch::WatchArgs),
    /// Histories pushed commit by commit: every restore is what the commit was, byte for byte.
    Replay(replay::ReplayArgs),
    /// Compaction without a pause while machines push and restore: nobody fails.
    Compaction(compaction::CompactionArgs),
    /// Every verb over a bucket that refuses overwrites and deletes.
    Worm(worm::WormArgs),
    /// A machine that is somebody else's: one command rewinds what it did, and nothing is missing.
    Owned(owned::OwnedArgs),
    /// Very many records: listing, restoring and pulling stay few requests in few rounds.
    Points(points::PointsArgs),
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
        Show::States(args) => states::run(&args),
        Show::Watch(args) => watch::run(&args),
        Show::Replay(args) => replay::run(&args),
        Show::Compaction(args) => compaction::run(&args),
        Show::Worm(args) => worm::run(&args),
        Show::Owned(args) => owned::run(&args),
        Show::Points(args) => points::run(&args),
        Show::StateWriter(args) => state_kill::write(&args),
    }
}
