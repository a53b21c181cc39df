//! A process that writes application state is killed a few times; `cargo xtask show state-kill`
//! does so more often.

use std::path::Path;

use statehold_testkit::state_killing::kill_writers;

#[test]
fn killed_writers_lose_nothing_that_was_acknowledged() {
    let program = Path::new(env!("CARGO_BIN_EXE_show"));
    let kills = kill_writers(program, "state-writer", 12, 4).expect("nothing is lost");
    assert_eq!(kills.kills, 12);
    assert!(kills.acknowledged >= 12, "{kills:?}");
}
