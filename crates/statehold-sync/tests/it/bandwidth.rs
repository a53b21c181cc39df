//! What travels, and how large it is on its way, by the size of the file.

use std::fs;
use std::io::Write as _;

use statehold_core::bands::Profile;
use statehold_core::digest::Digest;
use statehold_core::event::Outcome;
use statehold_core::plan::Direction;
use statehold_repository::meter::Usage;
use statehold_sync::engine::RunOptions;
use statehold_sync::preset::Preset;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::machine::{BY_HAND, Machine, Shared};

/// Text that compresses well and has no two equal lines.
fn text(length: usize) -> Vec<u8> {
    let lines = (0_u32..)
        .map(|number| format!("{{\"event\":\"something happened\",\"number\":{number}}}\n"));
    let mut text = Vec::with_capacity(length + 64);
    for line in lines {
        text.extend_from_slice(line.as_bytes());
        if text.len() >= length {
            break;
        }
    }
    text.truncate(length);
    text
}

/// The same with a beginning of its own, so that no piece of it is known from another size.
fn of_size(size: usize) -> Vec<u8> {
    let mut content = format!("this one has {size} bytes\n").into_bytes();
    content.extend(text(size - content.len()));
    content
}

/// Bytes that don't compress, the same for the same seed.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(length + 32);
    for block in 0_u32.. {
        if noise.len() >= length {
            break;
        }
        noise.extend_from_slice(
            Digest::of(&[seed.to_le_bytes(), block.to_le_bytes()].concat()).as_bytes(),
        );
    }
    noise.truncate(length);
    noise
}

async fn classic(shared: &Shared) -> Machine {
    let machine = shared.machine_with("a", Preset::Plain, Profile::Classic);
    machine.await.unwrap()
}

#[tokio::test]
async fn the_classic_table_holds_at_every_border() {
    let shared = Shared::in_memory();
    let a = classic(&shared).await;
    for size in [50_000, 99_999] {
        a.write("file", of_size(size)).unwrap();
        let pushed = a.push().await.unwrap();
        let size = size as u64;
        assert!(
            (size..size + 2_000).contains(&pushed.bytes),
            "{size}: {} bytes",
            pushed.bytes
        );
    }
    for size in [100_000, 100_001, 500_000, 9_999_999, 10_000_000] {
        let content = of_size(size);
        a.write("file", &content).unwrap();
        let pushed = a.push().await.unwrap();
        assert_eq!(pushed.outcome, Outcome::Done);
        assert!(
            pushed.bytes < size as u64 / 4,
            "{size}: {} bytes",
            pushed.bytes
        );
        // The other side has it byte for byte.
        let b = shared.machine("b").await.unwrap();
        b.pull().await.unwrap();
        assert!(fs::read(b.path("file")).unwrap() == content, "{size}");
    }
    for (path, size) in [("file", 10_000_001), ("eleven", 11_000_000)] {
        a.write(path, text(size)).unwrap();
        let before = shared.usage();
        let refused = a.push().await.unwrap();
        assert_eq!(refused.outcome, Outcome::Refused);
        let told = refused
            .too_large
            .iter()
            .find(|file| file.path.as_str() == path);
        let told = told.map(|file| (file.size, file.limit));
        assert_eq!(told, Some((size as u64, 10_000_000)));
        assert_eq!(
            shared.usage().since(before),
            Usage::default(),
            "somebody was asked"
        );
    }
}

#[tokio::test]
async fn what_compression_does_not_help_travels_as_it_is() {
    for profile in [Profile::Classic, Profile::Adaptive] {
        let shared = Shared::in_memory();
        let a = shared
            .machine_with("a", Preset::Plain, profile)
            .await
            .unwrap();
        a.write("noise", noise(1, 500_000)).unwrap();
        let pushed = a.push().await.unwrap();
        assert!(
            (500_000..502_000).contains(&pushed.bytes),
            "{}",
            pushed.bytes
        );
        // Small text is compressed by default, and literally raw in the classic profile.
        a.write("text", text(50_000)).unwrap();
        let pushed = a.push().await.unwrap();
        assert_eq!(
            pushed.bytes < 20_000,
            profile == Profile::Adaptive,
            "{}",
            pushed.bytes
        );
    }
}

#[tokio::test]
async fn sources_may_be_large_and_go_in_chunks() {
    let shared = Shared::in_memory();
    let (a, b) = (classic(&shared).await, shared.machine("b").await.unwrap());
    let mut content = noise(2, 30_000_000);
    a.write("sources/book.pdf", &content).unwrap();
    let before = shared.usage();
    let pushed = a.push().await.unwrap();
    assert_eq!(pushed.outcome, Outcome::Done);
    let used = shared.usage().since(before);
    assert!(used.writes >= 3, "it went up whole: {used:?}");
    // A change in the middle sends what is around it.
    content[15_000_000..15_000_010].copy_from_slice(b"0123456789");
    a.write("sources/book.pdf", &content).unwrap();
    let pushed = a.push().await.unwrap();
    assert!(pushed.bytes < 9_000_000, "{}", pushed.bytes);
    b.pull().await.unwrap();
    assert!(fs::read(b.path("sources/book.pdf")).unwrap() == content);
    // The default of --auto leaves them alone.
    a.write("sources/new", "1").unwrap();
    let state = RunOptions {
        direction: Direction::Push,
        scope: statehold_core::scope::Scope::State,
        ..BY_HAND
    };
    assert_eq!(a.run(state).await.unwrap().outcome, Outcome::Nothing);
}

#[tokio::test]
async fn a_long_log_sends_its_tail_and_a_rewritten_one_arrives_whole() {
    let shared = Shared::in_memory();
    let a = shared
        .machine_with("a", Preset::ClaudeCode, Profile::Classic)
        .await
        .unwrap();
    let b = shared
        .machine_with("b", Preset::ClaudeCode, Profile::Classic)
        .await
        .unwrap();
    let log = "projects/p/session.jsonl";
    let mut content = text(12_000_000);
    // The same under a name that the rules don't call append-only is refused.
    a.write("projects/p/other.txt", &content).unwrap();
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Refused);
    fs::remove_file(a.path("projects/p/other.txt")).unwrap();

    a.write(log, &content).unwrap();
    assert_eq!(a.push().await.unwrap().outcome, Outcome::Done);
    let tail = noise(3, 1_000);
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(a.path(log))
        .unwrap();
    file.write_all(&tail).unwrap();
    content.extend_from_slice(&tail);
    let before = shared.usage();
    let pushed = a.push().await.unwrap();
    assert!(pushed.bytes < 8_000, "{}", pushed.bytes);
    assert!(shared.usage().since(before).bytes_in < 8_000);
    b.pull().await.unwrap();
    assert!(fs::read(b.path(log)).unwrap() == content);

    // Longer than before and another one: no old piece is taken for a new one.
    content[5] ^= 1;
    content[6_000_000] ^= 1;
    content.extend_from_slice(b"one more line\n");
    a.write(log, &content).unwrap();
    a.push().await.unwrap();
    b.pull().await.unwrap();
    assert!(fs::read(b.path(log)).unwrap() == content);
}

/// A log as agents write them: events with times, ids, durations and outcomes that differ from line to
/// line, and words that come again.
fn agent_log(seed: u64, lines: usize) -> Vec<u8> {
    let random = SeededEntropy::new(seed);
    let one_of = |words: &[&str]| {
        let byte = usize::from(random.bytes(1)[0]);
        words[byte % words.len()].to_owned()
    };
    let mut log = String::new();
    for line in 0..lines {
        let number = |bytes: usize| {
            let bytes = random.bytes(bytes);
            bytes
                .iter()
                .fold(0_u64, |sum, byte| sum * 256 + u64::from(*byte))
        };
        let at = 1_776_000_000_000 + line as u64 * 7_000 + number(2) / 10;
        log.push_str(&format!(
            "{{\"ts\":{at},\"session\":\"{:016x}\",\"kind\":\"{}\",\"tool\":\"{}\",\
             \"path\":\"state/skills/{}/SKILL.md\",\"dur_ms\":{},\"tokens\":{},\
             \"outcome\":\"{}\",\"note\":\"{} {} {} {}\"}}\n",
            0x5eed_0000_u64 + line as u64 / 40,
            one_of(&["tool_call", "tool_result", "message", "thinking"]),
            one_of(&["read", "edit", "bash", "search", "write"]),
            one_of(&["review", "deploy", "research", "triage", "writing"]),
            number(2),
            number(2) / 7,
            one_of(&["done", "done", "done", "failed", "refused"]),
            one_of(&["looked at", "changed", "asked about", "summarised"]),
            one_of(&["the test", "the build", "the report", "the schema"]),
            one_of(&["after", "before", "because of", "instead of"]),
            one_of(&["the release", "the review", "an error", "the meeting"]),
        ));
    }
    log.into_bytes()
}

/// Goal: the reason that is given for compressing logs holds here: a megabyte of one travels as about
/// a hundred kilobytes.
#[tokio::test]
async fn a_log_travels_at_an_eighth_of_its_size() {
    let shared = Shared::in_memory();
    let a = shared.machine("a").await.unwrap();
    let log = agent_log(1, 4_500);
    assert!((900_000..1_300_000).contains(&log.len()), "{}", log.len());
    a.write("changelog.ndjson", &log).unwrap();
    let before = shared.usage();
    a.push().await.unwrap();
    let sent = shared.usage().since(before).bytes_in;
    let times = log.len() as f64 / sent as f64;
    println!(
        "{} bytes travel as {sent}: {times:.1} times smaller",
        log.len()
    );
    assert!(times >= 8.0, "{} bytes travel as {sent}", log.len());
}
