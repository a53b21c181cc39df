//! What looks like a secret stays where it is until somebody says otherwise.

use statehold_core::event::Outcome;
use statehold_core::path::RepoPath;
use statehold_core::plan::Direction;
use statehold_repository::meter::Usage;
use statehold_sync::engine::{Report, RunOptions};
use statehold_testkit::machine::{BY_HAND, Shared};

/// Put together at run time, so that no scanner trips over this file.
fn token(letter: &str) -> String {
    format!("gl{}-{letter}9kQz3VbN7mXw2RtY5hLp", "pat")
}

fn found(report: &Report) -> Vec<(&str, u64, &str)> {
    let each = |file: &'_ statehold_sync::secrets::SecretFile| file.findings.len();
    assert!(report.secrets.iter().all(|file| each(file) > 0));
    let files = report.secrets.iter();
    files
        .flat_map(|file| {
            let path = file.path.as_str();
            let findings = file.findings.iter();
            findings.map(move |finding| (path, finding.line, finding.rule.as_str()))
        })
        .collect()
}

const PUSH: RunOptions = RunOptions {
    direction: Direction::Push,
    ..BY_HAND
};

#[tokio::test]
async fn by_hand_a_push_is_refused_whole_and_lists_everything() {
    let shared = Shared::in_memory();
    let mut a = shared.machine("a").await.unwrap();
    a.write("clean", "nothing here").unwrap();
    a.push().await.unwrap();
    a.write("notes/one.md", format!("a\nb\n{}\n", token("a")))
        .unwrap();
    a.write("two.txt", format!("{}\n", token("b"))).unwrap();
    a.write("three.txt", "clean").unwrap();
    let before = shared.usage();
    for dry in [true, false] {
        let report = a.run(RunOptions { dry, ..PUSH }).await.unwrap();
        let outcome = if dry { Outcome::Dry } else { Outcome::Refused };
        assert_eq!(report.outcome, outcome);
        assert_eq!(
            found(&report),
            [
                ("notes/one.md", 3, "GitLab token"),
                ("two.txt", 1, "GitLab token")
            ]
        );
        let told = serde_json::to_string(&report).unwrap();
        assert!(!told.contains("9kQz3Vb"), "the secret itself is told");
    }
    assert_eq!(shared.usage().since(before), Usage::default());

    // Allowed one by one; what is allowed is remembered until the file changes.
    let allow = |path: &str| vec![RepoPath::parse(path).unwrap()];
    a.engine.allow_secrets(allow("two.txt"));
    let report = a.push().await.unwrap();
    assert_eq!(report.outcome, Outcome::Refused);
    assert_eq!(found(&report), [("notes/one.md", 3, "GitLab token")]);
    a.engine.allow_secrets(allow("notes/one.md"));
    let report = a.push().await.unwrap();
    assert_eq!((report.outcome, report.files), (Outcome::Done, 3));
    a.engine.allow_secrets(Vec::new());
    a.write("two.txt", format!("{}\n", token("c"))).unwrap();
    let report = a.push().await.unwrap();
    assert_eq!(found(&report), [("two.txt", 1, "GitLab token")]);
}

#[tokio::test]
async fn with_nobody_at_the_keyboard_the_rest_goes() {
    let shared = Shared::in_memory();
    let a = shared.machine("a").await.unwrap();
    let b = shared.machine("b").await.unwrap();
    a.write("known", "clean").unwrap();
    a.push().await.unwrap();
    a.write("known", token("d")).unwrap();
    a.write("folder/new", token("e")).unwrap();
    a.write("clean", "clean").unwrap();
    let auto = RunOptions { auto: true, ..PUSH };
    let report = a.run(auto).await.unwrap();
    assert_eq!(report.outcome, Outcome::Partial);
    assert_eq!(report.secrets.len(), 2);
    b.pull().await.unwrap();
    let there = |path: &str| std::fs::read_to_string(b.path(path)).ok();
    assert_eq!(there("known").as_deref(), Some("clean"));
    assert_eq!(there("clean").as_deref(), Some("clean"));
    assert_eq!(there("folder/new"), None);

    // It is told every time, and goes once it is clean.
    assert_eq!(a.run(auto).await.unwrap().outcome, Outcome::Partial);
    a.write("known", "clean again").unwrap();
    a.write("folder/new", "clean").unwrap();
    assert_eq!(a.run(auto).await.unwrap().outcome, Outcome::Done);
}

#[tokio::test]
async fn a_secret_that_came_from_elsewhere_is_pulled_and_not_asked_about() {
    let shared = Shared::in_memory();
    let mut a = shared.machine("a").await.unwrap();
    let b = shared.machine("b").await.unwrap();
    a.write("x", token("f")).unwrap();
    a.engine.allow_secrets(vec![RepoPath::parse("x").unwrap()]);
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Done);
    assert_eq!(b.pull().await.unwrap().outcome, Outcome::Done);
    assert_eq!(b.push().await.unwrap().outcome, Outcome::Nothing);
}

#[tokio::test]
async fn a_list_of_allowed_files_that_cannot_be_used_allows_nothing() {
    let shared = Shared::in_memory();
    let mut a = shared.machine("a").await.unwrap();
    a.write("x", token("g")).unwrap();
    a.engine.allow_secrets(vec![RepoPath::parse("x").unwrap()]);
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Done);
    a.engine.allow_secrets(Vec::new());
    // The same content in the same place, as if it had never been sent.
    std::fs::remove_file(a.path("x")).unwrap();
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Done);
    a.write("x", token("g")).unwrap();
    let list = a.path(".statehold/allowed-secrets.json");
    let text = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Refused);
    std::fs::write(&list, text).unwrap();
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Done);
}
