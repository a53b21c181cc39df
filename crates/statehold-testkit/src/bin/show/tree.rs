//! Thousands of real files and the odd ones go through a real gateway and arrive as they were.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use statehold_core::secrets::find_secrets;
use statehold_testkit::process::{Installation, RealMachine};

use crate::program::ProgramArgs;

/// Tree
#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// Files of real text: sources of the crates that this project is built from
    #[arg(long, default_value_t = 5_000)]
    files: usize,
    #[command(flatten)]
    program: ProgramArgs,
}

/// Larger ones are left out, as a push by hand would refuse them.
const FILE_BYTES_MAX: u64 = 10_000_000;

pub(crate) fn run(args: &TreeArgs) -> Result<()> {
    let installation = Installation::of(&args.program.binary()?)?;
    let gateway = installation.serve("vault")?;
    let a = installation.linked("anna", &gateway)?;
    let b = installation.linked("bert", &gateway)?;
    let bytes = copy_sources(&a, args.files)?;
    let odd = write_odd_files(&a)?;

    let started = Instant::now();
    // All went but what no push can send, and that is named.
    let status = a.run(&["push"])?.expect(4)?;
    let push = started.elapsed();
    for (name, target) in ["absolute", "upward", "far"].iter().zip(OUTSIDE) {
        let line = format!(
            "left out      links/{name}: a link that leads outside the workspace, to {target}"
        );
        ensure!(
            status.out.contains(&line),
            "the link {name} was not told:\n{}",
            status.out
        );
        fs::remove_file(a.path("links").join(name))?;
    }
    ensure!(
        status.out.contains("not UTF-8"),
        "the name that is no text was not told:\n{}",
        status.out
    );
    fs::remove_file(a.root.join(no_text()))?;
    let started = Instant::now();
    b.run(&["pull"])?.expect(0)?;
    let pull = started.elapsed();

    let diff = Command::new("diff")
        .args(["-r", "--no-dereference", "--exclude=.statehold"])
        .args([&a.root, &b.root])
        .output()
        .context("diff could not be started")?;
    ensure!(
        diff.status.success(),
        "diff -r found something:\n{}{}",
        String::from_utf8_lossy(&diff.stdout),
        String::from_utf8_lossy(&diff.stderr)
    );
    let (here, there) = (modes(&a.root)?, modes(&b.root)?);
    ensure!(here == there, "kinds, executable bits or times differ");
    let unchanged = b.run(&["push", "--json"])?.expect(0)?.json()?;
    ensure!(
        unchanged["outcome"] == "nothing",
        "the copy is not what was pulled"
    );
    println!(
        "{} files of real text ({:.1} MB) and {odd} odd ones: push {:.1} s, pull {:.1} s; diff -r \
         finds nothing, executable bits and times are equal, 3 links outside and a name that is no \
         text are told by name",
        args.files,
        bytes as f64 / 1e6,
        push.as_secs_f64(),
        pull.as_secs_f64()
    );
    Ok(())
}

/// Copies sources of the crates in cargo's registry.
fn copy_sources(machine: &RealMachine, count: usize) -> Result<u64> {
    let home = match (std::env::var_os("CARGO_HOME"), std::env::var_os("HOME")) {
        (Some(home), _) => PathBuf::from(home),
        (None, Some(home)) => PathBuf::from(home).join(".cargo"),
        (None, None) => bail!("neither CARGO_HOME nor HOME says where cargo keeps its sources"),
    };
    let (mut copied, mut bytes) = (0, 0);
    for root in folders_in(&home.join("registry/src"))?
        .iter()
        .flat_map(|registry| {
            // One that can't be listed has nothing to copy.
            folders_in(registry).unwrap_or_default()
        })
    {
        let name = root.file_name().context("a folder has a name")?;
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let Ok(items) = fs::read_dir(root.join(&folder)) else {
                continue;
            };
            for item in items {
                let item = item?;
                let path = folder.join(item.file_name());
                let meta = item.metadata()?;
                if meta.is_dir() {
                    folders.push(path);
                } else if meta.is_file() && meta.len() <= FILE_BYTES_MAX && is_text(&item.path())? {
                    // Test data of crates for cryptography, which a push keeps back.
                    if !find_secrets(&fs::read(item.path())?).is_empty() {
                        continue;
                    }
                    let to = machine.path("sources-of-crates").join(name).join(&path);
                    fs::create_dir_all(to.parent().context("a folder")?)?;
                    bytes += fs::copy(item.path(), to)?;
                    copied += 1;
                    if copied == count {
                        return Ok(bytes);
                    }
                }
            }
        }
    }
    bail!("cargo's registry holds {copied} files of text only")
}

/// The folders in a folder, in order.
fn folders_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let items = fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    let mut found = Vec::new();
    for item in items {
        let path = item?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_text(path: &Path) -> Result<bool> {
    Ok(String::from_utf8(fs::read(path)?).is_ok_and(|text| !text.contains('\0')))
}

/// Where links outside lead.
const OUTSIDE: [&str; 3] = ["/etc/hostname", "../../above", "../links/../../far"];

/// A name that is no text.
fn no_text() -> &'static Path {
    Path::new(std::ffi::OsStr::from_bytes(b"\xff\xfe no text"))
}

/// Everything that paths, links and files can be besides ordinary. Says how many there are that
/// travel.
fn write_odd_files(machine: &RealMachine) -> Result<usize> {
    let names = [
        "odd/with space",
        "odd/with \"quotes\" and 'quotes'",
        "odd/with\nnewline",
        "odd/with\ttab",
        "odd/emoji 😀.md",
        "odd/combining e\u{301}.md",
        "odd/-starts-with-a-dash",
        "odd/back\\slash",
        "odd/$HOME `id` ;",
        "odd/ends with a dot.",
        "odd/.hidden",
        "odd/…",
        "odd/日本語/ファイル",
    ];
    for name in names {
        machine.write(name, name)?;
    }
    machine.write("odd/empty", "")?;
    machine.write("odd/script.sh", "#!/bin/sh\nexit 0\n")?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(machine.path("odd/script.sh"), executable)?;
    fs::create_dir_all(machine.path("odd/empty folder"))?;
    fs::create_dir_all(machine.path("links"))?;
    for (name, target) in [
        ("links/sibling", "inside"),
        ("links/inside", "../odd/empty"),
        ("links/dangling", "nobody-there"),
        ("links/folder", "../odd"),
    ] {
        symlink(target, machine.path(name))?;
    }
    for (name, target) in ["absolute", "upward", "far"].iter().zip(OUTSIDE) {
        symlink(target, machine.path("links").join(name))?;
    }
    fs::write(machine.root.join(no_text()), "x")?;
    Ok(names.len() + 2 + 1 + 4)
}

/// What everything in a folder is: links by target, files by executable bit and time.
fn modes(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(root.join(&folder))? {
            let item = item?;
            let path = folder.join(item.file_name());
            if path == Path::new(".statehold") {
                continue;
            }
            let meta = fs::symlink_metadata(item.path())?;
            found.push(if meta.is_symlink() {
                format!("{path:?} -> {:?}", fs::read_link(item.path())?)
            } else if meta.is_dir() {
                folders.push(path.clone());
                format!("{path:?}/")
            } else {
                let executable = meta.permissions().mode() & 0o111 != 0;
                format!("{path:?} {executable} {:?}", meta.modified()?)
            });
        }
    }
    found.sort();
    Ok(found)
}
