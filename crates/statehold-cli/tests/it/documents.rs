//! The commands that README and the pages under `docs/` show: every shell block is run, or says beside
//! its fence why not; every command in running text is one that the program takes.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::installation;

/// A fenced block of a page.
#[derive(Debug)]
struct Block {
    /// What stands beside the fence.
    info: String,
    text: String,
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The pages, by name.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(project().join("docs")).unwrap();
    let docs = docs.map(|item| item.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let mut pages: Vec<(String, String)> = docs
        .chain([project().join("README.md")])
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    pages.sort();
    pages
}

/// The fenced blocks of a page, and its text without them.
fn split(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose, mut open) = (Vec::new(), String::new(), None::<Block>);
    for line in page.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(info), None) => {
                let (info, text) = (info.to_owned(), String::new());
                open = Some(Block { info, text });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                writeln!(block.text, "{line}").unwrap();
                open = Some(block);
            }
            (None, None) => writeln!(prose, "{line}").unwrap(),
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    (blocks, prose)
}

/// The shell blocks of a page that are to be run.
fn shell_blocks(page: &str) -> Vec<String> {
    let pages = pages();
    let (_, text) = pages.iter().find(|(name, _)| name == page).unwrap();
    let blocks = split(text).0.into_iter();
    blocks
        .filter(|block| block.info == "sh")
        .map(|block| block.text)
        .collect()
}

#[test]
fn every_block_says_what_it_is() {
    for (name, text) in pages() {
        for Block { info, text } in split(&text).0 {
            let why = info
                .strip_prefix("sh not-run=\"")
                .map(|why| why.trim_end_matches('"'));
            let is_known = ["sh", "text", "json", "rust,ignore"].contains(&info.as_str())
                || why.is_some_and(|why| why.len() > 10);
            assert!(is_known, "{name}: what is {info:?}?\n{text}");
            // What looks like commands is marked as such.
            if info == "text" {
                let commands = text.lines().filter(|line| line.starts_with("statehold "));
                assert_eq!(commands.count(), 0, "{name}: {text}");
            }
        }
    }
}

/// Goal: every command in running text and tables exists, with these options.
/// Method: the command with `--help`, which fails at the first word that is not known.
#[test]
fn every_command_in_the_text_is_known() {
    let installation = installation();
    let mut tried = 0;
    for (name, text) in pages() {
        let prose = split(&text).1.replace('\n', " ");
        let spans = prose.split('`').skip(1).step_by(2);
        for span in spans.filter(|span| span.starts_with("statehold ")) {
            let id = "0".repeat(32);
            let words = span.split_whitespace().skip(1);
            let words = words.map(|word| match word {
                "ID" | "KEY" => &id,
                "RECORD" => "1",
                word => word,
            });
            let words: Vec<&str> = words.collect();
            // Choices and gaps are for people; a backslash stands in what is hashed.
            if span.contains(['|', '…', '\\'])
                || span.contains("  ")
                || words.first() == Some(&"admin") && words.len() == 1
            {
                continue;
            }
            let mut command = installation.command();
            let ran = command.args(&words).arg("--help").output().unwrap();
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert!(ran.status.success(), "{name}: `{span}`: {said}");
            tried += 1;
        }
    }
    assert!(tried > 20, "only {tried} commands were found");
}

#[test]
fn the_excerpt_of_the_example_stands_in_the_example() {
    let example = project().join("crates/statehold-sync/examples/two_folders.rs");
    // However wide the two are set.
    let squeeze = |text: &str| {
        text.split_whitespace()
            .collect::<String>()
            .replace(",)", ")")
    };
    let example = squeeze(&fs::read_to_string(example).unwrap());
    let pages = pages();
    let (_, page) = pages.iter().find(|(name, _)| name == "library.md").unwrap();
    let excerpts: Vec<Block> = split(page).0;
    let excerpts = excerpts
        .into_iter()
        .filter(|block| block.info == "rust,ignore");
    for line in excerpts.flat_map(|block| block.text.lines().map(squeeze).collect::<Vec<_>>()) {
        assert!(example.contains(&line), "{line:?} is not in the example");
    }
}

/// Lines before every script: the network and the folders of a machine that nobody else uses.
const MACHINE: &str = r#"
set -eu
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true' EXIT
ip link set lo up
mount -t tmpfs tmpfs /srv
mount -t tmpfs tmpfs /mnt
# Somebody with a home and a folder to work in.
as() {
    export HOME="$SCRATCH/$1/home"
    mkdir -p "$HOME" "$SCRATCH/$1/work"
    cd "$SCRATCH/$1/work"
}
# Waits until a gateway listens.
listens() {
    for _ in $(seq 300); do
        if (exec 3<>/dev/tcp/127.0.0.1/7411) 2>/dev/null; then return; fi
        sleep 0.1
    done
    cat "$SCRATCH"/*/work/serve.log
    exit 70
}
invite() {
    (as operator; statehold admin invite --label "$1" --quiet | grep '^shi1_')
}
"#;

/// A block with what it starts put in the background.
fn serving(block: &str) -> String {
    let mut script = String::new();
    for line in block.lines() {
        if line.starts_with("statehold serve") {
            let server = format!("{{ exec {line}\n}} >serve.log 2>&1 &\nserver=$!\nlistens\n");
            script.push_str(&server);
        } else {
            writeln!(script, "{line}").unwrap();
        }
    }
    script
}

/// How this process may have a network and folders of its own; `None` if it may not.
fn isolated() -> Option<Command> {
    let ways: [&[&str]; 2] = [
        &["--net", "--mount"],
        &["--map-root-user", "--net", "--mount"],
    ];
    ways.into_iter().find_map(|way| {
        let mut command = Command::new("unshare");
        command.args(way);
        let mut tried = Command::new("unshare");
        tried.args(way).args(["ip", "link", "set", "lo", "up"]);
        tried
            .output()
            .is_ok_and(|ran| ran.status.success())
            .then_some(command)
    })
}

/// Goal: whoever types what the pages show gets what they say.
/// Method: the very text of the blocks, in the order in which people would come to them, on a machine
/// with a network of its own. What the test adds is who types it, the pasted invites, and waiting.
#[test]
fn the_commands_of_the_pages_run() {
    let Some(mut command) = isolated() else {
        println!("SKIP the commands of the pages: no network of our own can be had here");
        return;
    };
    for tool in ["openssl", "zstd", "jq", "curl"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("SKIP the commands of the pages: there is no {tool}");
            return;
        }
    }
    let readme = shell_blocks("README.md");
    let [demo, first, second, history, serve, direct] = &readme[..] else {
        panic!("README has other blocks: {readme:?}");
    };
    let operations = shell_blocks("operations.md");
    let [
        serve_tls,
        certificate,
        spare_key,
        curl,
        watch,
        fence,
        promote,
    ] = &operations[..]
    else {
        panic!("operations.md has other blocks: {operations:?}");
    };
    let recovery = shell_blocks("recovery-by-hand.md");
    let [whose, one_record, body, snapshots] = &recovery[..] else {
        panic!("recovery-by-hand.md has other blocks: {recovery:?}");
    };
    for (name, _) in pages() {
        let expected = match name.as_str() {
            "README.md" => 6,
            "operations.md" => 7,
            "recovery-by-hand.md" => 4,
            "history.md" => 3,
            "state.md" => 3,
            _ => 0,
        };
        assert_eq!(
            shell_blocks(&name).len(),
            expected,
            "{name}: a block that is not run"
        );
    }
    let page = shell_blocks("history.md");
    let [restore, drill, export] = &page[..] else {
        panic!("history.md has other blocks: {page:?}");
    };
    // The tests' own build stands in for the one that cargo would make.
    let demo = demo.replace("cargo run --package statehold-cli -- ", "statehold ");
    let hooks = hook_commands();

    let page = shell_blocks("state.md");
    let [set, elsewhere, merged] = &page[..] else {
        panic!("state.md has other blocks: {page:?}");
    };
    let mut script = MACHINE.to_owned();
    let mut step = |who: &str, what: &str| {
        writeln!(script, "as {who}\n{what}\necho \"done: {who}\"").unwrap();
    };
    step("visitor", &format!("cd \"$PROJECT\"\n{demo}"));
    step("operator", &serving(serve));
    step("operator", spare_key);
    step("operator", "test -s spare.key");
    step("one", "mkdir memory\necho this >memory/notes.md");
    step(
        "one",
        &format!("invite=$(invite one)\n{{\n{first}}} <<<\"$invite\""),
    );
    step(
        "two",
        "statehold init\nstatehold link http://127.0.0.1:7411 <<<\"$(invite two)\"",
    );
    step("two", second);
    step("one", "statehold pull\ngrep 'and this' memory/notes.md");
    step(
        "one",
        &format!("sleep 2\n{restore}grep this _restore/notes.md-*/notes.md"),
    );
    step(
        "one",
        &format!("{drill}grep '\"passed\": true' .statehold/drills/*"),
    );
    step(
        "one",
        &format!("{export}diff -r ../as-it-was _restore/all-*"),
    );
    step(
        "two",
        &format!("{history}! grep 'and this' memory/notes.md"),
    );
    step("one", &format!("statehold pull\n{set}"));
    step("two", &format!("statehold pull\n{elsewhere}"));
    step("one", merged);
    step(
        "agent",
        "mkdir ~/.claude\nstatehold -C ~/.claude init --preset claude-code\n\
         rm ~/.claude/.stateholdignore",
    );
    let link = "statehold -C ~/.claude link http://127.0.0.1:7411 <<<\"$(invite agent)\"";
    step("agent", &format!("{link}\n{hooks}"));
    step("three", &format!("mkdir /mnt/shared\necho x >x\n{direct}"));
    let vault = "STORE=$SCRATCH/operator/work/vault";
    step("reader", &format!("{vault}\n{whose}"));
    step(
        "reader",
        &format!("REPO=$(dirname $STORE/*/*/log)\n{one_record}{body}{snapshots}"),
    );
    let key = "statehold admin key --label ci --role push --to ci.key\necho by curl >notes.md";
    step("operator", &format!("{key}\n{curl}"));
    step("one", "statehold pull\ngrep 'by curl' memory/notes.md");
    let watch = format!(
        "echo watched >memory/watched.md\n{{ exec {watch}}} >watch.log 2>&1 &\n\
         for _ in $(seq 300); do grep -q 'send .* memory/watched.md' watch.log && break; sleep 0.1; done\n\
         kill $!\nwait $!\ngrep stopped watch.log"
    );
    step("one", &watch);
    let copy = "statehold replicate --store vault --to /mnt/copy\nkill $server\nwait $server";
    step("operator", copy);
    step("operator", &format!("{fence}{}", serving(promote)));
    step("one", "echo moved >moved\nstatehold sync");
    step("operator", "kill $server\nwait $server");
    let certificate = certificate.replace("gateway.internal", "localhost");
    step("host", &format!("{certificate}\n{}", serving(serve_tls)));
    step(
        "four",
        "export STATEHOLD_CA=$SCRATCH/host/work/fullchain.pem\nstatehold init",
    );
    let invite = "as host; statehold admin invite --gateway https://localhost:7411 --quiet";
    let link = format!("statehold link https://localhost:7411 <<<\"$({invite})\"");
    step(
        "four",
        &format!("{link}\nstatehold push\nkill $server\nwait $server"),
    );

    let installation = installation();
    let scratch = installation.path("people");
    fs::create_dir_all(&scratch).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_statehold")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let ran = command
        .args(["bash", "-c", &script])
        .env_clear()
        .env("PATH", format!("{}:{path}", program.display()))
        .env("SCRATCH", &scratch)
        .env("PROJECT", project())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let complained = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{said}\n{complained}");
    for expected in [
        "Try next:",
        "push: 2 files,",
        "now at record 2",
        "push +memory/notes.md",
        "{\n  \"size\": 16,\n  \"theme\": \"light\"\n}\nsettings/app: it was merged from several",
        "/mnt/shared/state",
        "  default",
        "\"kind\": \"push\"",
        "done: four",
    ] {
        assert!(
            said.contains(expected),
            "no {expected:?} in {said}\n{complained}"
        );
    }
}

/// The commands of the hooks that a page shows.
fn hook_commands() -> String {
    let pages = pages();
    let (_, page) = pages
        .iter()
        .find(|(name, _)| name == "operations.md")
        .unwrap();
    let blocks = split(page).0;
    let hooks = blocks.iter().find(|block| block.info == "json").unwrap();
    let hooks: serde_json::Value = serde_json::from_str(&hooks.text).unwrap();
    let hooks = hooks["hooks"].as_object().unwrap();
    let commands = hooks.values().map(|hook| {
        let command = hook[0]["hooks"][0]["command"].as_str();
        command.unwrap().to_owned()
    });
    let commands: Vec<String> = commands.collect();
    assert_eq!(commands.len(), 2);
    commands.join("\n")
}
