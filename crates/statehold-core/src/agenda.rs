//! What whoever keeps a folder alike without being asked does next, and when: a decision about moments,
//! which the caller reads off a clock of its own.
//!
//! A change in the folder waits until the folder is quiet for a moment, so that what is saved together
//! goes together, but never long. What is sent without a pause is rationed, looking in vain takes a bounded
//! share of the time, and what failed is tried again after a wait that grows.

use std::time::Duration;

use crate::plan::Direction;

/// A folder in which nothing changed for this long is looked at.
pub const QUIET: Duration = Duration::from_millis(40);
/// One that never comes to rest is looked at so long after the first change.
pub const PATIENCE: Duration = Duration::from_millis(400);
/// Runs that move something at once before they are rationed, for each direction.
pub const RUNS_AT_ONCE: u32 = 60;
/// One more run comes back in this time: what a folder that changes all the time comes to.
pub const RUN_EVERY: Duration = Duration::from_secs(1);
/// After a look at the folder that found nothing to send, so many times as long as it took pass before
/// the next one.
pub const REST: u32 = 2;
/// Longest such rest.
pub const REST_MAX: Duration = Duration::from_secs(5);
/// The wait after a first failure; doubled with each further one.
pub const AGAIN_MIN: Duration = Duration::from_millis(500);
/// Longest wait after a failure.
pub const AGAIN_MAX: Duration = Duration::from_secs(10);
/// The folder is looked through this often all the same: a system may lose what it should tell.
pub const LOOK_THROUGH: Duration = Duration::from_secs(60);
/// The same where the system tells nothing.
pub const LOOK_THROUGH_OFTEN: Duration = Duration::from_secs(5);
/// Folder and repository are compared this often whatever anybody told.
pub const COMPARE: Duration = Duration::from_secs(10 * 60);

/// Runs that may be made, like drops that come back one by one.
#[derive(Debug, Clone, Copy)]
struct Ration {
    left: u32,
    counted: Duration,
}

impl Ration {
    const FULL: Self = Self {
        left: RUNS_AT_ONCE,
        counted: Duration::ZERO,
    };

    fn refill(&mut self, now: Duration) {
        let periods = now.saturating_sub(self.counted).as_millis() / RUN_EVERY.as_millis();
        let back = u32::try_from(periods).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(back).min(RUNS_AT_ONCE);
        self.counted = match self.left {
            RUNS_AT_ONCE => now,
            _ => self.counted + RUN_EVERY.saturating_mul(back),
        };
    }

    /// When there is one.
    fn next(&self) -> Duration {
        match self.left {
            0 => self.counted + RUN_EVERY,
            _ => Duration::ZERO,
        }
    }

    fn take(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    fn give_back(&mut self) {
        self.left = (self.left + 1).min(RUNS_AT_ONCE);
    }
}

/// Changes in the folder that no run has looked at yet.
#[derive(Debug, Clone, Copy)]
struct Changed {
    /// When they are looked at.
    due: Duration,
    /// When they are at the latest.
    latest: Duration,
}

impl Changed {
    const fn at_once(now: Duration) -> Self {
        Self {
            due: now,
            latest: now,
        }
    }
}

/// What is to be done. All moments are counted from a beginning of the caller's choice.
#[derive(Debug, Clone)]
pub struct Agenda {
    changed: Option<Changed>,
    moved: bool,
    pushes: Ration,
    pulls: Ration,
    look_through: Duration,
    looked: Duration,
    compared: Duration,
    rests_until: Duration,
    failures: u32,
    not_before: Duration,
}

impl Agenda {
    /// The agenda of a beginning, with a comparison of both sides due at once.
    pub const fn new(now: Duration) -> Self {
        Self {
            changed: Some(Changed::at_once(now)),
            moved: true,
            pushes: Ration::FULL,
            pulls: Ration::FULL,
            look_through: LOOK_THROUGH,
            looked: now,
            compared: now,
            rests_until: now,
            failures: 0,
            not_before: now,
        }
    }

    /// Something changed in the folder.
    pub fn folder_changed(&mut self, now: Duration) {
        let latest = match self.changed {
            Some(changed) => changed.latest,
            None => now + PATIENCE,
        };
        let due = (now + QUIET).min(latest);
        self.changed = Some(Changed { due, latest });
    }

    /// The repository's head is another one than the last pull met, or nobody can tell.
    pub const fn head_moved(&mut self) {
        self.moved = true;
    }

    /// Whether a pull is due already, so that nobody has to be asked for the head.
    pub const fn awaits_pull(&self) -> bool {
        self.moved
    }

    /// The system does not tell what changes in the folder, so it is looked through more often from now on.
    pub const fn look_through_often(&mut self) {
        self.look_through = LOOK_THROUGH_OFTEN;
    }

    /// When [`Self::take`] has something to give, if nothing happens before.
    pub fn next(&self) -> Duration {
        let push = match self.changed {
            Some(changed) => changed.due.max(self.pushes.next()).max(self.rests_until),
            None => self.looked + self.look_through,
        };
        let pull = match self.moved {
            true => self.pulls.next(),
            false => self.compared + COMPARE,
        };
        push.min(pull).max(self.not_before)
    }

    /// What to do now, if anything. Its end is to be told to [`Self::done`] or [`Self::failed`].
    pub fn take(&mut self, now: Duration) -> Option<Direction> {
        self.pushes.refill(now);
        self.pulls.refill(now);
        if now < self.next() {
            return None;
        }
        if now >= self.looked + self.look_through {
            self.changed.get_or_insert(Changed::at_once(now));
        }
        self.moved |= now >= self.compared + COMPARE;
        let is_rested = self.changed.is_some_and(|changed| changed.due <= now);
        let pushes = is_rested && self.pushes.next().max(self.rests_until) <= now;
        let pulls = self.moved && self.pulls.next() <= now;
        let direction = match (pushes, pulls) {
            (true, true) => Direction::Bidirectional,
            (true, false) => Direction::Push,
            (false, true) => Direction::Pull,
            (false, false) => return None,
        };
        if pushes {
            self.changed = None;
            self.looked = now;
            self.pushes.take();
        }
        if pulls {
            self.moved = false;
            self.compared = now;
            self.pulls.take();
        }
        Some(direction)
    }

    /// A run went through. A push that found nothing to send took so long and asked nobody, as the one
    /// does that a pull sets off by what it writes.
    pub fn done(&mut self, direction: Direction, now: Duration, took: Duration, moved: bool) {
        self.failures = 0;
        if direction == Direction::Push && !moved {
            self.pushes.give_back();
            self.rests_until = now + took.saturating_mul(REST).min(REST_MAX);
        }
    }

    /// A run failed, so it is due again [after a wait](again_after).
    pub fn failed(&mut self, direction: Direction, now: Duration, chance: f64) {
        if direction != Direction::Pull {
            self.folder_changed(now);
        }
        // A failure says nothing about the other side, so it is looked at as well.
        self.moved = true;
        self.not_before = now + again_after(self.failures, chance);
        self.failures = self.failures.saturating_add(1);
    }
}

/// How long to wait after a failure that so many others came before. `chance`, below 1, spreads machines
/// that failed together.
pub fn again_after(failures: u32, chance: f64) -> Duration {
    let full = AGAIN_MIN
        .saturating_mul(1 << failures.min(16))
        .min(AGAIN_MAX);
    full / 2 + full.mul_f64(chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// An agenda whose first comparison is made.
    fn begun() -> Agenda {
        let mut agenda = Agenda::new(at(0));
        assert_eq!(agenda.take(at(1_000)), Some(Direction::Bidirectional));
        ended(&mut agenda, Direction::Bidirectional, 1_000);
        agenda
    }

    /// A run took no time and moved something.
    fn ended(agenda: &mut Agenda, direction: Direction, now: u64) {
        agenda.done(direction, at(now), Duration::ZERO, true);
    }

    /// What an agenda gives when it is asked whenever it wants to be, until a moment.
    fn runs(agenda: &mut Agenda, from: Duration, until: Duration) -> Vec<(u128, Direction)> {
        let (mut runs, mut now) = (Vec::new(), from);
        while now <= until {
            if let Some(direction) = agenda.take(now) {
                runs.push((now.as_millis(), direction));
                agenda.done(direction, now, Duration::ZERO, true);
            }
            now = agenda.next().max(now + at(1));
        }
        runs
    }

    #[test]
    fn what_changes_together_goes_together_soon() {
        let mut agenda = begun();
        agenda.folder_changed(at(2_000));
        agenda.folder_changed(at(2_030));
        let expected = [(2_070, Direction::Push)];
        assert_eq!(runs(&mut agenda, at(2_031), at(10_000)), expected);
        agenda.head_moved();
        let expected = [(20_000, Direction::Pull)];
        assert_eq!(runs(&mut agenda, at(20_000), at(30_000)), expected);
    }

    #[test]
    fn a_folder_without_rest_is_looked_at_all_the_same_and_not_all_the_time() {
        let mut agenda = begun();
        let mut pushes = Vec::new();
        for now in 2_000..122_000 {
            agenda.folder_changed(at(now));
            if agenda.take(at(now)) == Some(Direction::Push) {
                pushes.push(now);
            }
        }
        assert_eq!(pushes[0], 2_400);
        // As many as are made at once, and then one a second.
        let most = u64::from(RUNS_AT_ONCE) + 120;
        assert!(pushes.len() as u64 <= most, "{}", pushes.len());
        let last: Vec<u64> = pushes.iter().rev().take(10).copied().collect();
        for pair in last.windows(2) {
            assert_eq!(pair[0] - pair[1], 1_000);
        }
    }

    #[test]
    fn looking_in_vain_takes_a_share_of_the_time_and_no_ration() {
        let mut agenda = begun();
        let (mut looks, mut busy_until) = (0, 0);
        // A folder that takes 200 ms to look through, and in which nothing that travels changes.
        for now in 2_000..122_000 {
            agenda.folder_changed(at(now));
            if now >= busy_until && agenda.take(at(now)).is_some() {
                busy_until = now + 200;
                looks += 1;
                agenda.done(Direction::Push, at(busy_until), at(200), false);
            }
        }
        assert!((190..=200).contains(&looks), "{looks}");
        // A head that moves meanwhile is no later for that, and what is to be sent neither.
        agenda.folder_changed(at(200_000));
        assert_eq!(agenda.take(at(201_000)), Some(Direction::Push));
        agenda.done(Direction::Push, at(201_000), at(10_000), false);
        agenda.head_moved();
        assert_eq!(agenda.take(at(201_001)), Some(Direction::Pull));
        agenda.folder_changed(at(201_001));
        assert_eq!(agenda.next(), at(201_000) + REST_MAX);
    }

    #[test]
    fn heads_without_end_are_rationed_too() {
        let mut agenda = begun();
        let mut pulls = 0;
        for now in 2_000..62_000 {
            agenda.head_moved();
            pulls += u32::from(agenda.take(at(now)) == Some(Direction::Pull));
        }
        assert!(
            (RUNS_AT_ONCE + 50..=RUNS_AT_ONCE + 62).contains(&pulls),
            "{pulls}"
        );
    }

    #[test]
    fn in_an_hour_of_silence_little_is_done() {
        let mut agenda = begun();
        let runs = runs(&mut agenda, at(1_001), at(3_600_000));
        let pulls = runs.iter().filter(|(_, what)| *what != Direction::Push);
        assert_eq!(pulls.count(), 5);
        assert!((59..=64).contains(&runs.len()), "{}", runs.len());
        let mut untold = Agenda::new(at(0));
        untold.look_through_often();
        let first = untold.take(at(0));
        assert_eq!(first, Some(Direction::Bidirectional));
        assert_eq!(untold.next(), LOOK_THROUGH_OFTEN);
    }

    #[test]
    fn what_failed_is_due_again_later_and_later() {
        let mut agenda = begun();
        agenda.folder_changed(at(2_000));
        let mut now = agenda.next();
        let mut waits = Vec::new();
        for _ in 0..10 {
            let direction = agenda.take(now).unwrap();
            agenda.failed(direction, now, 1.0);
            // What changes meanwhile does not make it sooner.
            agenda.folder_changed(now);
            waits.push((agenda.next() - now).as_millis());
            now = agenda.next();
        }
        assert_eq!(waits[..3], [500, 1_000, 2_000]);
        assert_eq!(waits[9], AGAIN_MAX.as_millis());
        // Both sides are compared, since anything may have happened.
        assert_eq!(agenda.take(now), Some(Direction::Bidirectional));
        agenda.done(Direction::Bidirectional, now, Duration::ZERO, true);
        agenda.folder_changed(now);
        assert_eq!(agenda.next(), now + QUIET);
    }
}
