//! Epochs against a plain model that folds every log from its first record, as the model of the protocol does.

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::entry::Entry;
use crate::id::{MachineId, Nonce};
use crate::path::RepoPath;
use crate::record::{DraftHead, Envelope, FenceBody, PushBody, Upsert};
use crate::time::Timestamp;

fn record(state: &State, body: Body) -> Record {
    let kind = body.kind().unwrap();
    let machine = MachineId::from_bytes([1; 16]);
    let mut draft = DraftHead::new(kind, machine, Nonce::from_bytes([2; 16]), Vec::new());
    draft.body = Digest::of(&body.to_lines());
    let envelope = Envelope {
        number: state.head.number + 1,
        parent: state.head.id,
        time: Timestamp::from_millis(1_000),
        draft,
        key: None,
    };
    let id = Digest::of(&envelope.to_line());
    Record {
        envelope,
        id,
        body,
        content_start: 300,
    }
}

fn push(state: &State, base: RecordRef, name: &str) -> Record {
    let upserts = vec![Upsert {
        path: RepoPath::parse(name).unwrap(),
        entry: Entry::Directory,
        keep: 0,
    }];
    let deletes = Vec::new();
    let body = Body::Push(PushBody {
        base,
        upserts,
        deletes,
    });
    record(state, body)
}

fn fence(state: &State) -> Record {
    record(state, Body::Fence(FenceBody { base: state.head }))
}

fn promote(state: &State, epoch: u64, from: RecordRef) -> Record {
    let base = state.head;
    let body = Body::Promote(PromoteBody { base, epoch, from });
    record(state, body)
}

/// Folds, with every state on the way at hand.
fn take_in(states: &mut Vec<State>, record: &Record) -> Applied {
    let mut state = states.last().unwrap().clone();
    let applied = match state.apply(record).unwrap() {
        Applied::ContinuesFrom(from) => {
            assert_eq!(state, *states.last().unwrap(), "nothing has changed yet");
            let earlier = states[usize::try_from(from.number).unwrap()].clone();
            state.continue_from(earlier, record)
        }
        applied => applied,
    };
    assert_eq!(state.head, record.reference());
    states.push(state);
    applied
}

fn begun() -> Vec<State> {
    vec![State::empty(Digest::of(b"genesis"))]
}

fn names(state: &State) -> Vec<&str> {
    state.tree.iter().map(|(path, _)| path.as_str()).collect()
}

/// A log of five: pushes `a` and `b`, then `c`, which is left behind, the promote, and what follows.
#[test]
fn what_a_promote_leaves_behind_is_not_in_effect() {
    let mut states = begun();
    for name in ["a", "b", "c"] {
        let head = states.last().unwrap().head;
        let next = push(states.last().unwrap(), head, name);
        assert_eq!(take_in(&mut states, &next), Applied::Changed);
    }
    let known = states[3].clone();
    let next = promote(&known, 1, states[2].head);
    assert_eq!(take_in(&mut states, &next), Applied::Changed);
    let now = states[4].clone();
    assert_eq!(names(&now), ["a", "b"]);
    assert_eq!((now.epoch(), now.epoch_began()), (1, 4));
    assert!(now.is_left_behind(3) && !now.is_left_behind(2) && !now.is_left_behind(4));
    assert_eq!(now.fork_since(&known), Some(states[2].head));
    assert_eq!(known.fork_since(&now), None);
    assert_eq!(now.fork_since(&now), None);
    // A draft of the earlier epoch is void, whichever record its base is.
    for base in [states[1].head, states[3].head] {
        let late = push(&now, base, "late");
        let began = 4;
        let base = base.number;
        let void = Applied::Void(Violation::EarlierEpoch { base, began });
        assert_eq!(take_in(&mut states.clone(), &late), void);
    }
    let next = push(&now, now.head, "d");
    assert_eq!(take_in(&mut states, &next), Applied::Changed);
    assert_eq!(names(&states[5]), ["a", "b", "d"]);
}

#[test]
fn nothing_is_in_effect_after_a_fence_until_a_promote() {
    let mut states = begun();
    let next = fence(&states[0]);
    assert_eq!(take_in(&mut states, &next), Applied::Changed);
    let void = Applied::Void(Violation::Fenced { by: 1 });
    let next = push(&states[1], states[1].head, "a");
    assert_eq!(take_in(&mut states, &next), void);
    let next = fence(&states[2]);
    assert_eq!(take_in(&mut states, &next), void);
    let next = promote(&states[3], 1, states[3].head);
    assert_eq!(take_in(&mut states, &next), Applied::Changed);
    let next = push(&states[4], states[4].head, "a");
    assert_eq!(take_in(&mut states, &next), Applied::Changed);
    assert_eq!(names(&states[5]), ["a"]);
}

#[test]
fn a_promote_opens_the_next_epoch_from_a_record_of_this_one() {
    let mut states = begun();
    for name in ["a", "b"] {
        let head = states.last().unwrap().head;
        let next = push(states.last().unwrap(), head, name);
        take_in(&mut states, &next);
    }
    let now = states[2].clone();
    let other = RecordRef {
        number: 1,
        id: Digest::of(b"other"),
    };
    let other_head = RecordRef { number: 2, ..other };
    let later = RecordRef { number: 3, ..other };
    for (epoch, from) in [
        (0, now.head),
        (2, now.head),
        (1, other),
        (1, other_head),
        (1, later),
    ] {
        let next = promote(&now, epoch, from);
        let applied = take_in(&mut states.clone(), &next);
        assert_eq!(applied, Applied::Void(Violation::Epoch), "{epoch} {from:?}");
    }
    let next = promote(&now, 1, now.head);
    assert_eq!(take_in(&mut states, &next), Applied::Changed);
    // Not from before the epoch that it ends.
    let next = promote(&states[3], 2, states[1].head);
    let void = Applied::Void(Violation::Epoch);
    assert_eq!(take_in(&mut states, &next), void);
}

/// A step of a log: what is appended to it.
#[derive(Debug, Clone)]
enum Step {
    /// A push, from a base so far back.
    Push(u64),
    Fence,
    /// A promote of the next epoch, from so far back.
    Promote(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u64).prop_map(Step::Push),
        1 => Just(Step::Fence),
        2 => (0..4_u64).prop_map(Step::Promote),
    ]
}

/// What the rules say, from the first record on: which records are in effect, and the epoch.
#[derive(Debug, Clone, Default, PartialEq)]
struct Plain {
    in_effect: Vec<u64>,
    began: u64,
    epoch: u64,
    fenced: bool,
}

proptest! {
    /// The fold says what a model says that looks at the whole log each time.
    #[test]
    fn the_fold_is_that_of_the_model(steps in prop::collection::vec(step(), 1..30)) {
        let mut states = begun();
        let mut plain = vec![Plain::default()];
        for step in steps {
            let state = states.last().unwrap().clone();
            let number = state.head.number + 1;
            let back = |steps: u64| states[usize::try_from(state.head.number.saturating_sub(steps)).unwrap()].head;
            let mut next = plain.last().unwrap().clone();
            let record = match step {
                Step::Push(steps) => {
                    let base = back(steps);
                    if !next.fenced && base.number >= next.began {
                        next.in_effect.push(number);
                    }
                    push(&state, base, &format!("{number:02}"))
                }
                Step::Fence => {
                    next.fenced = true;
                    fence(&state)
                }
                Step::Promote(steps) => {
                    let from = back(steps);
                    let epoch = next.epoch + 1;
                    if from.number >= next.began {
                        next = plain[usize::try_from(from.number).unwrap()].clone();
                        next = Plain { began: number, epoch, fenced: false, ..next };
                    }
                    promote(&state, epoch, from)
                }
            };
            take_in(&mut states, &record);
            plain.push(next.clone());
            let state = states.last().unwrap();
            let expected: Vec<String> = next.in_effect.iter().map(|number| format!("{number:02}")).collect();
            prop_assert_eq!(names(state), expected);
            prop_assert_eq!((state.epoch(), state.epoch_began()), (next.epoch, next.began));
            prop_assert_eq!(state.fenced.is_some(), next.fenced);
            for number in &next.in_effect {
                prop_assert!(!state.is_left_behind(*number));
            }
        }
    }
}
