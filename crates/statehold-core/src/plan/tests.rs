//! The planner over every small three-tree state, and the decision table for a single path.

use super::*;
use crate::digest::Digest;

fn path(text: &str) -> RepoPath {
    RepoPath::parse(text).unwrap()
}

fn file(content: &str) -> Signature {
    Signature::File {
        digest: Digest::of(content.as_bytes()),
        executable: false,
    }
}

type SmallTree = BTreeMap<RepoPath, Signature>;

/// All trees over the names `a` and `b`, two levels deep, with these contents: a name is absent, a
/// file, or a directory whose two names are absent or files (both absent: an empty directory).
fn small_trees(contents: &[&str]) -> Vec<SmallTree> {
    let leaf = |name: &str| {
        let mut choices = vec![None];
        choices.extend(
            contents
                .iter()
                .map(|content| Some((path(name), file(content)))),
        );
        choices
    };
    let slot = |name: &str| {
        let mut choices: Vec<SmallTree> = leaf(name)
            .into_iter()
            .map(|choice| choice.into_iter().collect())
            .collect();
        for a in leaf(&format!("{name}/a")) {
            for b in leaf(&format!("{name}/b")) {
                let mut tree: SmallTree = a.clone().into_iter().chain(b.clone()).collect();
                if tree.is_empty() {
                    tree.insert(path(name), Signature::Directory);
                }
                choices.push(tree);
            }
        }
        choices
    };
    let (a, b) = (slot("a"), slot("b"));
    a.iter()
        .flat_map(|a| {
            b.iter()
                .map(move |b| a.clone().into_iter().chain(b.clone()).collect())
        })
        .collect()
}

fn seen(tree: &SmallTree) -> BTreeMap<RepoPath, Seen> {
    let mtime = Mtime::default();
    tree.iter()
        .map(|(path, signature)| {
            (
                path.clone(),
                Seen {
                    signature: *signature,
                    mtime,
                },
            )
        })
        .collect()
}

fn is_sound(tree: &SmallTree) -> bool {
    tree.keys().all(|path| {
        path.ancestors()
            .all(|folder| !tree.get(folder).is_some_and(Signature::is_leaf))
    })
}

/// Carries a plan out and gives the three trees afterwards.
fn carry_out(
    plan: &Plan,
    base: &SmallTree,
    local: &SmallTree,
    remote: &SmallTree,
) -> [SmallTree; 3] {
    let [mut base, mut here, mut there] = [base.clone(), local.clone(), remote.clone()];
    let set = |tree: &mut SmallTree, path: &RepoPath, value: Option<Signature>| match value {
        Some(signature) => drop(tree.insert(path.clone(), signature)),
        None => drop(tree.remove(path)),
    };
    for action in &plan.actions {
        let path = action.path();
        let value = if action.is_outgoing() {
            local.get(path)
        } else {
            remote.get(path)
        }
        .copied();
        set(&mut here, path, value);
        set(&mut there, path, value);
        set(&mut base, path, value);
    }
    for path in &plan.agreed {
        set(&mut base, path, local.get(path).copied());
    }
    [base, here, there]
}

fn check(base: &SmallTree, local: &SmallTree, remote: &SmallTree, strategy: Strategy) {
    let context = || format!("base {base:?}\nlocal {local:?}\nremote {remote:?}\n{strategy:?}");
    let trees = Trees {
        base: base.clone(),
        local: seen(local),
        remote: seen(remote),
    };
    let plan_of = |direction| plan(&trees, direction, strategy);
    let both = plan_of(Direction::Bidirectional);
    // What all three agree on can be left out beforehand.
    let differences = Trees::of_differences(
        trees
            .base
            .iter()
            .map(|(path, signature)| (path, *signature)),
        trees.local.iter().map(|(path, seen)| (path, *seen)),
        trees.remote.iter().map(|(path, seen)| (path, *seen)),
        |_, _| true,
    );
    let of_differences = plan(&differences, Direction::Bidirectional, strategy);
    assert_eq!(of_differences, both, "{}", context());
    let [new_base, here, there] = carry_out(&both, base, local, remote);

    // Sides stay sound, and differ exactly where a conflict is listed.
    assert!(
        is_sound(&here) && is_sound(&there),
        "unsound\n{}",
        context()
    );
    let listed: BTreeSet<&RepoPath> = both
        .conflicts
        .iter()
        .map(|conflict| &conflict.path)
        .collect();
    let all: BTreeSet<&RepoPath> = here
        .keys()
        .chain(there.keys())
        .chain(new_base.keys())
        .collect();
    for path in all {
        let same = here.get(path) == there.get(path) && here.get(path) == new_base.get(path);
        assert!(
            same || listed.contains(path),
            "{path} differs\n{}",
            context()
        );
    }
    // Nobody's new content vanishes, unless the strategy names a winner.
    for (path, signature) in local.iter().chain(remote) {
        let is_new = base.get(path) != Some(signature);
        let kept = [&here, &there]
            .iter()
            .any(|tree| tree.get(path) == Some(signature));
        let gives_way = *signature == Signature::Directory;
        assert!(
            !is_new || kept || gives_way || strategy != Strategy::Manual,
            "{path} lost\n{}",
            context()
        );
    }
    // What one side left alone follows the other, unless something is in its way.
    for path in base.keys().chain(local.keys()).chain(remote.keys()) {
        let (was, l, r) = (base.get(path), local.get(path), remote.get(path));
        if l == r {
            assert!(
                here.get(path) == l && there.get(path) == l,
                "{path} changed\n{}",
                context()
            );
        } else if was == l && !listed.contains(path) && strategy == Strategy::Manual {
            assert!(here.get(path) == r, "{path} did not follow\n{}", context());
        }
    }
    // One-way plans are the two halves of the whole.
    let mut halves: Vec<Action> = plan_of(Direction::Push).actions;
    halves.extend(plan_of(Direction::Pull).actions);
    halves.sort_by(|a, b| a.path().cmp(b.path()));
    assert_eq!(halves, both.actions);
    // Planning again finds nothing more to do.
    let again = Trees {
        base: new_base,
        local: seen(&here),
        remote: seen(&there),
    };
    let again = plan(&again, Direction::Bidirectional, strategy);
    assert!(
        again.actions.is_empty() && again.agreed.is_empty(),
        "not done: {again:?}\n{}",
        context()
    );
    assert_eq!(again.conflicts, both.conflicts, "{}", context());
    // Swapping the sides swaps the plan.
    if strategy == Strategy::Manual {
        let mirrored = Trees {
            base: base.clone(),
            local: seen(remote),
            remote: seen(local),
        };
        let mirrored = plan(&mirrored, Direction::Bidirectional, strategy);
        assert_eq!(mirrored.actions.len(), both.actions.len());
        let swapped = mirrored.actions.iter().zip(&both.actions);
        assert!(
            swapped
                .into_iter()
                .all(|(a, b)| a.path() == b.path() && a.is_outgoing() != b.is_outgoing())
        );
    }
}

#[test]
fn every_small_state_under_every_strategy() {
    // One name slot in full depth: 12 trees, 1,728 states; two slots are run by the show command.
    let trees: Vec<SmallTree> = small_trees(&["x", "y"])
        .into_iter()
        .filter(|tree| tree.keys().all(|path| path.as_str().starts_with('a')))
        .collect();
    assert_eq!(trees.len(), 12);
    for base in &trees {
        for local in &trees {
            for remote in &trees {
                for strategy in [
                    Strategy::Manual,
                    Strategy::Local,
                    Strategy::Remote,
                    Strategy::Newest,
                ] {
                    check(base, local, remote, strategy);
                }
            }
        }
    }
}

#[test]
fn a_sample_of_all_two_name_states() {
    let trees = small_trees(&["x", "y"]);
    assert_eq!(trees.len(), 144);
    // A stride that is coprime to 144 visits bases, locals and remotes in ever new combinations.
    let mut index = 0_usize;
    for _ in 0..20_000 {
        index = (index + 1_299_709) % (144 * 144 * 144);
        let (base, local, remote) = (index % 144, index / 144 % 144, index / 144 / 144);
        for strategy in [
            Strategy::Manual,
            Strategy::Local,
            Strategy::Remote,
            Strategy::Newest,
        ] {
            check(&trees[base], &trees[local], &trees[remote], strategy);
        }
    }
}

#[test]
fn newest_takes_the_later_edit_and_prefers_an_edit_to_a_deletion() {
    let at = |content: &str, seconds| Seen {
        signature: file(content),
        mtime: Mtime::new(seconds, 0),
    };
    let base = [(path("f"), file("old"))]
        .into_iter()
        .collect::<BTreeMap<_, _>>();
    let one = |seen: Option<Seen>| seen.map(|seen| (path("f"), seen)).into_iter().collect();
    for (local, remote, expected) in [
        (
            Some(at("l", 2)),
            Some(at("r", 1)),
            Action::Upload(path("f")),
        ),
        (
            Some(at("l", 1)),
            Some(at("r", 2)),
            Action::Download(path("f")),
        ),
        (
            Some(at("l", 1)),
            Some(at("r", 1)),
            Action::Download(path("f")),
        ),
        (Some(at("l", 1)), None, Action::Upload(path("f"))),
        (None, Some(at("r", 1)), Action::Download(path("f"))),
    ] {
        let trees = Trees {
            base: base.clone(),
            local: one(local),
            remote: one(remote),
        };
        let plan = plan(&trees, Direction::Bidirectional, Strategy::Newest);
        assert_eq!(plan.actions, [expected]);
    }
}

/// Goal: nobody is ever asked about what a node can write again. An edit brings back what was deleted,
/// and of two edits the one that came first stays.
#[test]
fn node_logs_are_never_in_conflict() {
    let log = path(&format!("state/app/{}/head", "0".repeat(32)));
    let at = |content: &str| {
        Some(Seen {
            signature: file(content),
            mtime: Mtime::default(),
        })
    };
    let base: BTreeMap<_, _> = [(log.clone(), file("old"))].into();
    let one = |seen: Option<Seen>| seen.map(|seen| (log.clone(), seen)).into_iter().collect();
    for (local, remote, expected) in [
        (at("l"), at("r"), Action::Download(log.clone())),
        (at("l"), None, Action::Upload(log.clone())),
        (None, at("r"), Action::Download(log.clone())),
        (at("old"), None, Action::DeleteLocal(log.clone())),
        (None, at("old"), Action::DeleteRemote(log.clone())),
    ] {
        for strategy in [Strategy::Manual, Strategy::Local, Strategy::Remote] {
            let trees = Trees {
                base: base.clone(),
                local: one(local),
                remote: one(remote),
            };
            let plan = plan(&trees, Direction::Bidirectional, strategy);
            assert_eq!(
                plan.actions,
                std::slice::from_ref(&expected),
                "{strategy:?}"
            );
            assert!(plan.conflicts.is_empty());
        }
    }
}
