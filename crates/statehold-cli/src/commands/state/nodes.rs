//! The nodes that write states: listed, and let go of.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use statehold_state::NodeId;

use super::super::GlobalArgs;
use super::opened::{Make, Opened};
use super::shown;
use crate::exit::{Exit, WrongUsage};
use crate::output::Output;

/// List the nodes that write states, and what is wrong with what they sent
#[derive(Debug, Args)]
#[command(
    after_help = "A node is a folder of states on one machine; a copy of it becomes another node. Ends with 7 if
something that came is damaged or cannot be right.

Example:
  statehold state nodes"
)]
pub(super) struct NodesArgs {}

/// Let go of a node whose machine does not come back
#[derive(Debug, Args)]
#[command(
    after_help = "What it wrote stays: this node's snapshot takes the place of its files. Should it come back all
the same, nothing is lost.

Example:
  statehold state retire 5f1c22aa"
)]
pub(super) struct RetireArgs {
    /// The node, or the first digits of its name
    node: String,
}

pub(super) fn list(_: &NodesArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let opened = Opened::open(global, Make::No)?;
    let alarms = opened.publish()?;
    let nodes = opened.carried.nodes(&opened.manager)?;
    let me = opened.manager.node();
    for node in &nodes {
        let what = match node.events {
            Some(events) if events > node.known => format!("{} of {events} known", node.known),
            Some(events) => format!("{events} known"),
            None => format!("{} known; its head cannot be read", node.known),
        };
        let current = if node.node == me {
            ", this one"
        } else if node.is_current {
            ", up to date"
        } else {
            ""
        };
        output.line(format!(
            "{}  events: {what}{current}",
            shown::node(node.node)
        ));
    }
    if nodes.is_empty() {
        output.line("no node has written anything");
    }
    output.value(&json!({
        "node": me, "root": opened.manager.root().to_string(), "nodes": nodes,
        "refused": opened.received.refused, "missing": opened.received.reconciled.missing,
        "alarms": alarms,
    }));
    let is_wrong = !opened.received.refused.is_empty() || !alarms.is_empty();
    Ok(if is_wrong { Exit::Damaged } else { Exit::Done }.into())
}

pub(super) fn retire(args: &RetireArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let opened = Opened::open(global, Make::No)?;
    let nodes = opened.carried.nodes(&opened.manager)?;
    let named: Vec<NodeId> = nodes
        .iter()
        .map(|node| node.node)
        .filter(|node| node.to_string().starts_with(&args.node))
        .collect();
    let [node] = named[..] else {
        let problem = if named.is_empty() {
            "no node"
        } else {
            "several nodes"
        };
        return Err(WrongUsage::because(format!(
            "{problem} of that name; `statehold state nodes` shows those there are"
        )));
    };
    opened.carried.retire(&opened.manager, node)?;
    output.line(format!(
        "{} is retired; the next push takes its files away everywhere, and none of its values",
        shown::node(node)
    ));
    output.value(&json!({"retired": node}));
    Ok(Exit::Done.into())
}
