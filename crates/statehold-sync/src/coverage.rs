//! Which files beneath a strict prefix no list names: what a check in CI asks for.

use serde::Serialize;
use statehold_core::path::RepoPath;
use statehold_core::rules::{RuleSet, Verdict};

use crate::folder::{Directory, Folder, FolderError, FoundKind};
use crate::workspace::{Workspace, WorkspaceError};

/// A file that neither list names. It does not travel until one does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uncovered {
    /// The file.
    pub path: RepoPath,
    /// The prefix beneath which it has to be named.
    pub prefix: String,
}

/// Files beneath the strict prefixes that match neither list, by path. Ignored ones count too: the
/// lists have to be complete whatever a user leaves out.
pub fn coverage(workspace: &Workspace) -> Result<Vec<Uncovered>, WorkspaceError> {
    let folder = workspace.folder()?;
    let rules = workspace.rules(&folder)?;
    let mut found = Vec::new();
    if !rules.strict_prefixes().is_empty() {
        let root = folder.list_root()?;
        walk(&folder, root, "", &rules, &mut found)?;
    }
    found.sort_by(|left: &Uncovered, right| left.path.cmp(&right.path));
    Ok(found)
}

fn walk(
    folder: &Folder,
    mut directory: Directory,
    at: &str,
    rules: &RuleSet,
    found: &mut Vec<Uncovered>,
) -> Result<(), FolderError> {
    let io = |source| FolderError::Io {
        action: "list",
        path: folder.path().join(at),
        source,
    };
    for item in directory.items().map_err(io)? {
        let Ok(name) = item.name.to_str() else {
            continue;
        };
        // Statehold's own folder, or a path that can't travel anyway.
        let Ok(path) = RepoPath::parse(&format!("{at}{name}")) else {
            continue;
        };
        let kind = match item.kind {
            Some(kind) => kind,
            None => directory.stat(&item.name).map_err(io)?.kind,
        };
        if kind == FoundKind::Directory {
            let inside = format!("{path}/");
            // Only on the way to a strict prefix, or beneath one.
            let leads_there = |prefix: &String| {
                prefix.starts_with(&inside) || inside.starts_with(prefix.as_str())
            };
            if rules.strict_prefixes().iter().any(leads_there) {
                let inner = directory.open_directory(&item.name).map_err(io)?;
                walk(folder, inner, &inside, rules, found)?;
            }
        } else if let Verdict::Uncovered { prefix } = rules.verdict(&path) {
            found.push(Uncovered { path, prefix });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use statehold_testkit::environment::SeededEntropy;

    use super::*;
    use crate::preset::Preset;
    use crate::workspace::InitOptions;

    #[test]
    fn what_neither_list_names_is_listed() {
        let root = tempfile::tempdir().unwrap();
        let options = InitOptions {
            preset: Preset::Agent,
            ..InitOptions::default()
        };
        let workspace = Workspace::init(root.path(), options, &SeededEntropy::new(1)).unwrap();
        let write = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        for path in [
            "state/memory.md",
            "state/log/changelog.ndjson",
            "state/log/sync-events.ndjson",
            "state/log/alerts/a/b.md",
            "state/log/regen-queue/deep/er.json",
        ] {
            write(path);
        }
        assert_eq!(coverage(&workspace).unwrap(), []);
        write("state/log/new.ndjson");
        write("state/log/folder/deep/x");
        std::os::unix::fs::symlink("new.ndjson", root.path().join("state/log/link")).unwrap();
        let paths = |found: Vec<Uncovered>| -> Vec<String> {
            found.into_iter().map(|one| one.path.to_string()).collect()
        };
        let found = coverage(&workspace).unwrap();
        assert!(found.iter().all(|one| one.prefix == "state/log/"));
        assert_eq!(
            paths(found),
            [
                "state/log/folder/deep/x",
                "state/log/link",
                "state/log/new.ndjson"
            ]
        );
        // Leaving it out is no answer; naming it is, in whichever list.
        fs::write(
            root.path().join(".stateholdignore"),
            "/state/log/new.ndjson\n",
        )
        .unwrap();
        let rules = workspace.rules_path();
        fs::create_dir_all(rules.parent().unwrap()).unwrap();
        let text = r#"{"SYNC_ALLOW":["state/log/*.ndjson","state/log/regen-queue/**"],
            "SYNC_DENY":["state/log/folder/**"]}"#;
        fs::write(rules, text).unwrap();
        assert_eq!(paths(coverage(&workspace).unwrap()), ["state/log/link"]);
    }
}
