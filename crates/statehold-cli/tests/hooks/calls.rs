//! The program as an agent's hooks call it, and the row that every call leaves in the event log.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A workspace with a home of its own, beside the folder that holds the repository.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new(preset: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["work", "repository"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let machine = Self { folder };
        assert_eq!(
            machine.call("init", &["--preset", preset]).status.code(),
            Some(0)
        );
        machine
    }

    fn linked(preset: &str) -> Self {
        let machine = Self::new(preset);
        let url = format!(
            "file://{}",
            machine.folder.path().join("repository").display()
        );
        let linked = machine.call("link", &[&url]);
        assert_eq!(linked.status.code(), Some(0), "{linked:?}");
        machine
    }

    fn command(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_statehold"));
        command
            .arg(verb)
            .args(args)
            .current_dir(self.folder.path().join("work"))
            .env("STATEHOLD_HOME", self.folder.path().join("home"))
            .env_remove("STATEHOLD_KEY");
        command
    }

    fn call(&self, verb: &str, args: &[&str]) -> Output {
        self.command(verb, args).output().unwrap()
    }

    /// Calls, and says how it ended and what stands in the row it left.
    fn row(&self, verb: &str, args: &[&str]) -> (i32, Value) {
        let before = self.rows().len();
        let output = self.call(verb, args);
        let rows = self.rows();
        assert_eq!(rows.len(), before + 1, "{verb} {args:?}: {output:?}");
        (output.status.code().unwrap(), rows.last().unwrap().clone())
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.folder.path().join("work").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn rows(&self) -> Vec<Value> {
        let work = self.folder.path().join("work");
        let logs = [
            "state/log/sync-events.ndjson",
            ".statehold/log/sync-events.ndjson",
        ];
        let texts = logs.iter().map(|log| fs::read_to_string(work.join(log)));
        let text = texts.flatten().collect::<String>();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn outcomes(&self) -> Vec<String> {
        let rows = self.rows().into_iter();
        rows.map(|row| row["outcome"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until the log has so many rows.
    fn wait_for_rows(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.rows().len() < count {
            assert!(Instant::now() < deadline, "{:?}", self.outcomes());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_in_repository(&self, path: &str) -> bool {
        self.call("cat", &[path]).status.success()
    }

    /// The file in which a process notes that it owes a push.
    fn deferred_note(&self) -> PathBuf {
        let run = self.folder.path().join("home/run/statehold");
        let mut items = fs::read_dir(run).unwrap().map(|item| item.unwrap().path());
        let is_note = |path: &PathBuf| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("deferred-")
        };
        items.find(is_note).unwrap()
    }

    /// The process that waits, once it does.
    fn waiting(&self) -> rustix::process::Pid {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(self.deferred_note()).unwrap();
            if let Some(pid) = text.parse().ok().and_then(rustix::process::Pid::from_raw) {
                return pid;
            }
            assert!(Instant::now() < deadline, "nobody waits");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn hook(seconds: &'static str) -> [&'static str; 5] {
    [
        "--auto",
        "--runtime",
        "codex",
        "--debounce-seconds",
        seconds,
    ]
}

#[test]
fn calls_within_a_window_are_deferred_and_the_last_edits_are_sent_once() {
    let machine = Machine::linked("plain");
    machine.write("a", "1");
    let (code, row) = machine.row("push", &hook("4"));
    assert_eq!(
        (code, &row["outcome"], &row["trigger"]),
        (0, &"done".into(), &"codex".into())
    );
    let started = Instant::now();
    for path in ["b", "c", "d"] {
        machine.write(path, "2");
        let output = machine.call("push", &hook("4"));
        // Silent, since an agent shows what its hooks say.
        assert_eq!(output.status.code(), Some(0));
        assert_eq!((output.stdout, output.stderr), (Vec::new(), Vec::new()));
    }
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "a hook has waited"
    );
    assert_eq!(
        machine.outcomes()[1..],
        ["deferred", "deferred", "deferred"]
    );
    machine.wait_for_rows(5);
    assert_eq!(machine.outcomes()[4], "done");
    let row = machine.rows().pop().unwrap();
    assert_eq!(
        (&row["files"], &row["op"], &row["trigger"]),
        (&3.into(), &"push".into(), &"codex".into())
    );
    for path in ["a", "b", "c", "d"] {
        assert!(machine.is_in_repository(path), "{path}");
    }
    // Nobody else was waiting: a further window brings nothing.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(machine.rows().len(), 5);
    assert_eq!(fs::read_to_string(machine.deferred_note()).unwrap(), "");
}

#[test]
fn a_push_whose_process_died_is_taken_over_by_the_next_call() {
    let machine = Machine::linked("plain");
    machine.write("a", "1");
    machine.row("push", &hook("600"));
    machine.write("b", "2");
    machine.row("push", &hook("600"));
    let first = machine.waiting();
    rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    // The next call, whatever it is, starts another one that waits.
    loop {
        machine.call("pull", &hook("600"));
        std::thread::sleep(Duration::from_millis(100));
        if machine.waiting() != first {
            break;
        }
        assert!(Instant::now() < deadline, "nobody took over");
    }
    assert!(!machine.is_in_repository("b"));
    // And where the window is over, the next call makes the push itself.
    let second = machine.waiting();
    rustix::process::kill_process(second, rustix::process::Signal::KILL).unwrap();
    while rustix::process::test_kill_process(second).is_ok() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (_, row) = machine.row("push", &hook("0"));
    assert_eq!(row["outcome"], "done");
    assert!(machine.is_in_repository("b"));
    assert_eq!(fs::read_to_string(machine.deferred_note()).unwrap(), "");
}

#[test]
fn every_outcome_leaves_one_row() {
    let machine = Machine::new("agent");
    machine.write("state/a.md", "1");
    let (code, row) = machine.row("push", &[]);
    assert_eq!((code, &row["outcome"]), (1, &"failed".into()));
    assert!(
        row["error"].as_str().unwrap().contains("not linked"),
        "{row}"
    );

    let url = format!(
        "file://{}",
        machine.folder.path().join("repository").display()
    );
    assert!(machine.call("link", &[&url]).status.success());
    let (code, row) = machine.row("push", &["--dry", "--scope", "state"]);
    assert_eq!(
        (code, &row["outcome"], &row["scope"]),
        (0, &"dry".into(), &"state".into())
    );
    let paths: Vec<&str> = row["paths"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| path.as_str().unwrap())
        .collect();
    assert!(paths.contains(&"state/a.md"), "{row}");
    assert_eq!(row["manifest_before"], row["manifest_after"]);

    let (code, row) = machine.row("push", &[]);
    assert_eq!(
        (code, &row["outcome"], &row["trigger"]),
        (0, &"done".into(), &"manual".into())
    );
    assert!(row["paths"].is_null() && row["error"].is_null());
    assert_ne!(row["manifest_before"], row["manifest_after"]);
    assert!(row["bytes"].as_u64().unwrap() > 0 && row["dur_ms"].is_u64());
    let landed = row["manifest_after"].clone();

    for verb in ["push", "pull", "sync"] {
        let (code, row) = machine.row(verb, &[]);
        assert_eq!(
            (code, &row["outcome"], &row["op"]),
            (0, &"nothing".into(), &verb.into())
        );
        assert_eq!(
            (&row["manifest_before"], &row["manifest_after"]),
            (&landed, &landed)
        );
    }

    machine.write("state/large.bin", vec![0; 10_000_001]);
    machine.write("state/b.md", "2");
    let (code, row) = machine.row("push", &[]);
    assert_eq!(
        (code, &row["outcome"], &row["error"]),
        (1, &"refused".into(), &"1 file too large".into())
    );
    assert_eq!(
        (&row["manifest_before"], &row["manifest_after"]),
        (&landed, &landed)
    );
    fs::remove_file(machine.folder.path().join("work/state/large.bin")).unwrap();

    let secret = format!("gl{}-9kQz3VbN7mXw2RtY5hLp\n", "pat");
    machine.write("state/c.md", format!("token\n{secret}"));
    let output = machine.call("push", &[]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("state/c.md:2: looks like a GitLab token"),
        "{told}"
    );
    assert!(
        told.contains("--allow-secret") && told.contains(".stateholdignore"),
        "{told}"
    );
    let (code, row) = machine.row("push", &[]);
    assert_eq!((code, &row["outcome"]), (1, &"refused".into()));
    assert!(!row.to_string().contains("9kQz3V"), "{row}");

    let (code, row) = machine.row("push", &hook("0"));
    assert_eq!(
        (code, &row["outcome"], &row["files"]),
        (4, &"partial".into(), &1.into())
    );
    assert_ne!(row["manifest_before"], row["manifest_after"]);
    let (code, row) = machine.row("push", &["--allow-secret", "state/c.md"]);
    assert_eq!((code, &row["outcome"]), (0, &"done".into()));

    let (_, row) = machine.row("push", &hook("0"));
    assert_eq!(row["outcome"], "nothing");
    let (code, row) = machine.row("push", &hook("600"));
    assert_eq!((code, &row["outcome"]), (0, &"deferred".into()));
    assert_eq!(row["manifest_before"], row["manifest_after"]);
    let waiting = machine.waiting();
    rustix::process::kill_process(waiting, rustix::process::Signal::KILL).unwrap();

    // The repository is gone, as when the gateway's host is.
    let repository = machine.folder.path().join("repository");
    fs::rename(&repository, machine.folder.path().join("elsewhere")).unwrap();
    fs::write(&repository, "no folder").unwrap();
    machine.write("state/d.md", "4");
    let (code, row) = machine.row("push", &[]);
    assert_ne!(code, 0);
    assert_eq!(row["outcome"], "failed");
    assert_eq!(row["manifest_before"], row["manifest_after"]);
    assert!(row["error"].is_string() && row["manifest_before"].is_string());
}

#[test]
fn a_conflict_leaves_a_row_and_moves_nothing() {
    let (a, b) = (Machine::linked("plain"), Machine::new("plain"));
    let url = format!("file://{}", a.folder.path().join("repository").display());
    assert!(b.call("link", &[&url]).status.success());
    a.write("note", "0");
    a.row("push", &[]);
    b.row("pull", &[]);
    a.write("note", "from a");
    b.write("note", "from b");
    a.row("push", &[]);
    for verb in ["push", "pull", "sync"] {
        let (code, row) = b.row(verb, &[]);
        assert_eq!(
            (code, &row["outcome"], &row["error"]),
            (3, &"conflict".into(), &"1 conflict".into()),
            "{verb}"
        );
        assert_eq!(row["manifest_before"], row["manifest_after"]);
    }
}

/// Goal: a row says from which record to which a call led, whoever looked at the repository before.
/// Method: a link, a status and a dry run see what is new; then a pull brings it.
#[test]
fn a_look_does_not_hide_what_a_pull_brings() {
    let (a, b) = (Machine::linked("plain"), Machine::new("plain"));
    let url = format!("file://{}", a.folder.path().join("repository").display());
    let ends = |(code, row): (i32, Value)| {
        assert_eq!((code, &row["outcome"]), (0, &"done".into()), "{row}");
        let end = |field: &str| row[field].as_str().unwrap().to_owned();
        (end("manifest_before"), end("manifest_after"))
    };
    a.write("note", "0");
    let (empty, first) = ends(a.row("push", &[]));
    assert!(b.call("link", &[&url]).status.success());
    assert!(b.call("status", &[]).status.success());
    fs::remove_file(b.folder.path().join("work/.stateholdignore")).unwrap();
    assert_eq!(ends(b.row("pull", &[])), (empty, first.clone()));

    a.write("note", "1");
    let (before, second) = ends(a.row("push", &[]));
    assert_eq!(before, first);
    assert!(b.call("status", &[]).status.success());
    let (_, row) = b.row("pull", &["--dry"]);
    assert_eq!(row["manifest_before"], first.as_str());
    assert_eq!(row["manifest_after"], first.as_str());
    assert_eq!(ends(b.row("sync", &[])), (first, second.clone()));
    let (_, row) = b.row("pull", &[]);
    assert_eq!(row["manifest_before"], second.as_str());
    assert_eq!(row["manifest_after"], second.as_str());
}

#[test]
fn rules_are_checked_and_explained() {
    let machine = Machine::new("agent");
    assert_eq!(machine.call("rules", &["check"]).status.code(), Some(0));
    machine.write("state/log/new.ndjson", "1");
    let checked = machine.call("rules", &["check", "--json"]);
    assert_eq!(checked.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(value["uncovered"][0]["path"], "state/log/new.ndjson");
    machine.write(".stateholdignore", "*.tmp\n");
    for (path, travels, why) in [
        ("state/log/new.ndjson", false, "state/log/"),
        ("state/log/changelog.ndjson", true, "SYNC_ALLOW"),
        ("state/log/sync-events.ndjson", false, "never travels"),
        ("state/.env", false, "**/.env"),
        ("state/a.tmp", false, ".stateholdignore has *.tmp"),
        ("state/a.md", true, "no rule"),
    ] {
        let told = machine.call("rules", &["explain", path]);
        let told = String::from_utf8(told.stdout).unwrap();
        let verb = if travels { "travels" } else { "stays here" };
        assert!(told.starts_with(&format!("{path}: {verb}")), "{told}");
        assert!(told.contains(why), "{told}");
    }
}

/// Goal: a file larger than the memory that its push takes. Method: the most that the kernel says the
/// process had, looked up again and again until it ends.
#[test]
fn a_large_source_takes_bounded_memory() {
    const FILE_BYTES: usize = 200_000_000;
    let machine = Machine::linked("plain");
    let mut state = 1_u64;
    let mut noise = || {
        // An xorshift generator: enough to be neither compressed nor found twice.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let content: Vec<u8> = (0..FILE_BYTES / 8).flat_map(|_| noise()).collect();
    machine.write("sources/film.mkv", content);
    let mut push = machine
        .command("push", &["--scope", "sources"])
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", push.id());
    let mut most_kb = 0;
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.trim().strip_suffix(" kB"));
        most_kb = most_kb.max(kb.map_or(0, |kb| kb.parse::<usize>().unwrap()));
        if let Some(ended) = push.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(ended.success());
    assert_eq!(machine.rows().last().unwrap()["outcome"], "done");
    assert!(most_kb > 0 && most_kb < 160_000, "{most_kb} kB");
}
