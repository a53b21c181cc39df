//! Single states: read, set, deleted, listed, and what was done to them.

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use statehold_core::secrets::Search;
use statehold_state::{OperationKind, Strategy};

use super::super::GlobalArgs;
use super::opened::{Make, Opened};
use super::{StateName, shown};
use crate::exit::{Exit, WrongUsage};
use crate::output::Output;

/// Longest text of a value that is read, in bytes: with spaces it may be longer than the value itself.
const VALUE_TEXT_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Print the value of a state
#[derive(Debug, Args)]
#[command(
    after_help = "With --json: the value with its version, time, hash, clock and author.

Examples:
  statehold state get app --collection settings
  statehold state get app --json"
)]
pub(super) struct GetArgs {
    #[command(flatten)]
    name: StateName,
}

/// Create a state, or give it another value
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold state set volume 11
  statehold state set app '{\"theme\":\"dark\"}' --collection settings --strategy merge
  statehold state set profile @profile.json
  date +%s | statehold state set last-run -")]
pub(super) struct SetArgs {
    #[command(flatten)]
    name: StateName,
    /// JSON, @ and a file with it, or - for standard input
    #[arg(allow_negative_numbers = true)]
    value: String,
    /// What decides, on every machine and from now on, between edits of this collection that did not
    /// see each other: last-write-wins, merge, manual, local-wins or remote-wins
    #[arg(long, value_name = "NAME")]
    strategy: Option<Strategy>,
    /// Keep it although it looks like a secret: other machines and the store will have it
    #[arg(long)]
    allow_secret: bool,
}

/// Delete a state
#[derive(Debug, Args)]
#[command(
    after_help = "An edit that another machine made without having seen this stays.

Example:
  statehold state delete app --collection settings"
)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    name: StateName,
}

/// List the states
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  statehold state list
  statehold state list --collection settings --json")]
pub(super) struct ListArgs {
    /// Those of this collection only
    #[arg(short, long, value_name = "NAME")]
    collection: Option<String>,
}

/// Show what was done to the states, newest first
#[derive(Debug, Args)]
#[command(
    after_help = "History is kept as far as it has not given way to a snapshot.

Examples:
  statehold state log
  statehold state log app --collection settings --limit 5"
)]
pub(super) struct LogArgs {
    /// One state only
    id: Option<String>,
    /// One collection only; that of the state if one is named
    #[arg(short, long, value_name = "NAME")]
    collection: Option<String>,
    /// How many events to show at most
    #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
    limit: usize,
}

pub(super) fn get(args: &GetArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let opened = Opened::open(global, Make::No)?;
    opened.publish_for_reader();
    let collection = opened.existing(&args.name.within.collection);
    let state = match collection {
        Some(collection) => collection.get(&args.name.id)?,
        None => None,
    };
    let Some(state) = state else {
        return absent(&args.name);
    };
    output.line(format!("{:#}", state.data));
    output.value(&state);
    Ok(Exit::Done.into())
}

/// There is no such state.
pub(super) fn absent<T>(name: &StateName) -> Result<T> {
    bail!(
        "there is no {}; `statehold state list` shows what there is",
        shown::key(&name.within.collection, &name.id)
    )
}

pub(super) fn set(args: &SetArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    // Before anything is made.
    let value = parse(&args.value)?;
    if !args.allow_secret {
        refuse_secrets(&value)?;
    }
    let name = &args.name.within.collection;
    let opened = match &args.strategy {
        Some(strategy) => Opened::open_with(global, name, strategy)?,
        None => Opened::open(global, Make::Yes)?,
    };
    let collection = opened.collection(name)?;
    let state = collection.put(&args.name.id, &value)?;
    opened.publish()?;
    output.line(format!(
        "{}: version {}",
        shown::key(name, &args.name.id),
        state.version
    ));
    output.value(&state);
    Ok(Exit::Done.into())
}

/// The value that was typed or is read.
pub(super) fn parse(typed: &str) -> Result<Value> {
    let read = |from: &mut dyn Read, what: &str| -> Result<String> {
        let mut text = String::new();
        let mut from = from.take(VALUE_TEXT_BYTES_MAX + 1);
        from.read_to_string(&mut text)
            .with_context(|| format!("the value cannot be read from {what}"))?;
        if text.len() as u64 > VALUE_TEXT_BYTES_MAX {
            bail!(
                "{what} has more than {VALUE_TEXT_BYTES_MAX} bytes; what is larger belongs in files"
            );
        }
        Ok(text)
    };
    let text = match typed.strip_prefix('@') {
        Some(path) => {
            let mut file = File::open(path).with_context(|| format!("could not open {path}"))?;
            read(&mut file, path)?
        }
        None if typed == "-" => read(&mut std::io::stdin(), "standard input")?,
        None => typed.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| {
        WrongUsage::because(format!(
            "the value is not JSON: {error}; a text needs quotes, as in '\"dark\"'"
        ))
    })
}

/// A push looks for secrets in texts, and the logs of states are none; so it is done here.
pub(super) fn refuse_secrets(value: &Value) -> Result<()> {
    let mut search = Search::default();
    search.add(value.to_string().as_bytes());
    let found = search.finish();
    if let Some(first) = found.first() {
        bail!(
            "the value holds what looks like a secret ({}), and every machine and the store would have \
             it; take it out, or set it all the same with `statehold state set --allow-secret`",
            first.rule
        );
    }
    Ok(())
}

pub(super) fn delete(args: &DeleteArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let opened = Opened::open(global, Make::No)?;
    let collection = opened.existing(&args.name.within.collection);
    let was_there = match collection {
        Some(collection) => collection.delete(&args.name.id)?,
        None => false,
    };
    opened.publish()?;
    if !was_there {
        return absent(&args.name);
    }
    let StateName { id, within } = &args.name;
    output.line(format!("deleted {}", shown::key(&within.collection, id)));
    output.value(&json!({"collection": within.collection, "id": id, "deleted": true}));
    Ok(Exit::Done.into())
}

pub(super) fn list(args: &ListArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let opened = Opened::open(global, Make::No)?;
    opened.publish_for_reader();
    let mut rows = Vec::new();
    for collection in opened.collections() {
        let name = collection.name();
        if args.collection.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        for state in collection.states()? {
            output.line(format!(
                "{}  version {}  {}  by {}  {}{}",
                shown::key(name, &state.id),
                state.version,
                shown::time(state.timestamp),
                shown::node(state.last_modified_by),
                shown::value(Some(&state.data)),
                if state.is_conflicted {
                    "  (conflict)"
                } else {
                    ""
                },
            ));
            let mut row = serde_json::to_value(&state)?;
            if let Some(fields) = row.as_object_mut() {
                fields.insert("collection".into(), name.into());
            }
            rows.push(row);
        }
    }
    if rows.is_empty() {
        output.line("no states; `statehold state set ID VALUE` makes one");
    }
    output.value(&rows);
    Ok(Exit::Done.into())
}

pub(super) fn log(args: &LogArgs, global: &GlobalArgs, output: Output) -> Result<ExitCode> {
    let opened = Opened::open(global, Make::No)?;
    opened.publish_for_reader();
    let collection = match (&args.collection, &args.id) {
        (Some(collection), _) => Some(collection.as_str()),
        (None, Some(_)) => Some("default"),
        (None, None) => None,
    };
    let mut operations = opened.manager.history()?;
    operations.retain(|operation| {
        collection.is_none_or(|only| *operation.key.collection == *only)
            && args.id.as_ref().is_none_or(|id| *operation.key.id == **id)
    });
    operations.reverse();
    operations.truncate(args.limit);
    for operation in &operations {
        let verb = match operation.kind {
            OperationKind::Create => "create",
            OperationKind::Update if operation.resolves => "settle",
            OperationKind::Update => "update",
            OperationKind::Delete => "delete",
        };
        output.line(format!(
            "{}  {:<12}  {verb}  {}  {}",
            shown::time(operation.stamp.milliseconds()),
            shown::dot(operation.dot),
            operation.key,
            shown::value(operation.data.as_ref()),
        ));
    }
    if operations.is_empty() {
        output.line("nothing that is kept was done to it");
    }
    output.value(&operations);
    Ok(Exit::Done.into())
}
