//! Random histories are restored as they were; `cargo xtask show replay` does so with longer ones.

use statehold_testkit::commits::MadeUp;
use statehold_testkit::environment::SeededEntropy;
use statehold_testkit::replay::{Compared, Replay};

/// Goal: what is restored at a record, at a moment or at a snapshot is the tree that was pushed, and
/// what is live stays as it is.
/// Method: made-up histories with everything that is hard to get right, compared byte for byte.
#[tokio::test]
async fn every_record_comes_back_as_it_was() {
    for seed in 1..=2 {
        let mut made = MadeUp::new(seed);
        let mut replay = Replay::new().await.unwrap();
        for number in 0..18 {
            replay.push(made.next_commit()).await.unwrap();
            if number % 8 == 3 {
                replay.snapshot(&format!("at-{number}")).await.unwrap();
            }
        }
        assert!(made.happened.least() >= 2, "{}", made.happened);
        let entropy = SeededEntropy::new(seed);
        let mut compared = Compared::default();
        let failed = |error| panic!("seed {seed}: {error:#}");
        let done = replay.compare_every_record(&mut compared).await;
        done.unwrap_or_else(failed);
        let done = replay.compare_moments(8, &entropy, &mut compared).await;
        done.unwrap_or_else(failed);
        let done = replay.compare_snapshots(&mut compared).await;
        done.unwrap_or_else(failed);
        let done = replay.compare_parts(8, &entropy, &mut compared).await;
        done.unwrap_or_else(failed);
        replay.check_live().unwrap_or_else(failed);
        assert_eq!((compared.records, compared.snapshots), (18, 2));
    }
}
