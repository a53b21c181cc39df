//! Checks what lints cannot: that every file says what it is for, that no name says nothing, and
//! that crates name each other only along the arrows of `ARCHITECTURE.md`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Who may name whom. Dev-dependencies are free.
const ARROWS: [(&str, &[&str]); 9] = [
    ("statehold-core", &[]),
    ("statehold-repository", &["statehold-core"]),
    (
        "statehold-sync",
        &["statehold-core", "statehold-repository"],
    ),
    (
        "statehold-gateway",
        &["statehold-core", "statehold-repository"],
    ),
    (
        "statehold-cli",
        &[
            "statehold-core",
            "statehold-repository",
            "statehold-state",
            "statehold-sync",
            "statehold-gateway",
        ],
    ),
    (
        "statehold-testkit",
        &[
            "statehold-core",
            "statehold-model",
            "statehold-repository",
            "statehold-state",
            "statehold-sync",
            "statehold-gateway",
        ],
    ),
    ("statehold-state", &[]),
    ("statehold-document", &["statehold-state"]),
    ("statehold-model", &[]),
];

/// Names that attract anything because they say nothing.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "misc"];

pub(crate) fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in a workspace")?;
    let mut complaints = Vec::new();
    for file in rust_files(&root.join("crates"))?
        .into_iter()
        .chain(rust_files(&root.join("xtask"))?)
    {
        let text = fs::read_to_string(&file)?;
        let shown = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .display()
            .to_string();
        if !text.starts_with("//!") {
            complaints.push(format!("{shown}: does not open with what it is for"));
        }
        let stem = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if EMPTY_NAMES.contains(&stem) {
            complaints.push(format!("{shown}: is named {stem}, which says nothing"));
        }
        // Spelled in two parts, so that this line is none.
        for mark in [["TO", "DO"].concat(), ["FIX", "ME"].concat()] {
            if text.contains(&mark) {
                complaints.push(format!("{shown}: holds a {mark}"));
            }
        }
    }
    for (name, allowed) in ARROWS {
        let manifest = fs::read_to_string(root.join("crates").join(name).join("Cargo.toml"))
            .with_context(|| format!("{name} has no manifest"))?;
        let dependencies = manifest
            .split("[dev-dependencies]")
            .next()
            .unwrap_or_default();
        for other in dependencies
            .lines()
            .filter_map(|line| line.strip_suffix(".workspace = true"))
        {
            if other.starts_with("statehold") && !allowed.contains(&other) {
                complaints.push(format!("{name} names {other}, which no arrow allows"));
            }
        }
    }
    for decision in fs::read_dir(root.join("docs/decisions"))? {
        let path = decision?.path();
        if !fs::read_to_string(&path)?.contains("Status: ") {
            complaints.push(format!("{}: has no status", path.display()));
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("{}", complaints.join("\n"))
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}
