//! Bounded worlds of the one model: who takes part, and how often.

use std::time::{Duration, Instant};

use stateright::{Checker as _, HasDiscoveries, Model as _};

use crate::rule::{Rule, Rules};
use crate::writer::{Task, Work};

/// A bounded world.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// What it is called.
    pub name: &'static str,
    /// Who pushes, and what.
    pub work: Vec<Work>,
    /// How many collectors there are; each compacts and removes once.
    pub collectors: usize,
    /// Crashes of writers; a collector or replicator that crashes is one that stops, which any may.
    pub crashes: u8,
    /// Whether somebody reads along, record by record, from the first one.
    pub reader: bool,
    /// Whether the log is copied to a replica.
    pub replicator: bool,
    /// Whether an owner fences, promotes, and brings over.
    pub owner: bool,
    /// The rules in force.
    pub rules: Rules,
}

/// What came of a check.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Different worlds that were looked at.
    pub worlds: usize,
    /// Whether there are no others within the bounds.
    pub is_exhausted: bool,
    /// Steps of the longest path to one that was met first, the beginning included.
    pub depth: usize,
    /// How many properties were looked at in each.
    pub properties: usize,
    /// Promises that broke, with the steps that break them.
    pub broken: Vec<(&'static str, String)>,
    /// What has to be possible and is not.
    pub unseen: Vec<&'static str>,
    /// How long it took.
    pub took: Duration,
}

/// How much a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Seconds: with every change.
    Small,
    /// Minutes: before a release, and when the protocol changes.
    Large,
}

/// Steps after which a check stops, unless it is told otherwise: a few gigabytes.
pub const STEPS_MAX: usize = 20_000_000;

const fn work(task: Task, plans: u8) -> Work {
    Work { task, plans }
}

impl Configuration {
    fn new(name: &'static str, work: &[Work]) -> Self {
        Self {
            name,
            work: work.to_vec(),
            collectors: 0,
            crashes: 0,
            reader: false,
            replicator: false,
            owner: false,
            rules: Rules::default(),
        }
    }

    /// The same without one rule.
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        self.rules = Rules::without(rule);
        self
    }

    /// How many users push.
    pub fn users(&self) -> usize {
        let is_own = |work: &&Work| !matches!(work.task, Task::Again { .. });
        self.work.iter().filter(is_own).count()
    }

    /// Writers alone: races, lost answers, late requests, crashes, a conflict at one path.
    pub fn appends(size: Size) -> Self {
        let mut work_list = vec![
            work(Task::Upload(0), 2),
            work(Task::Inline(2), 2),
            work(Task::Inline(0), 2),
        ];
        if size == Size::Large {
            work_list.push(work(Task::Rollback(1), 2));
        }
        Self {
            crashes: 2,
            ..Self::new("appends", &work_list)
        }
    }

    /// One draft handed in through two gateways that do not know of each other, beside another writer
    /// of the same path.
    pub fn two_gateways(size: Size) -> Self {
        let again = Task::Again { of: 0, path: 0 };
        let mut list = vec![
            work(Task::Upload(0), 1),
            work(again, 2),
            work(Task::Inline(0), 2),
        ];
        if size == Size::Large {
            list.push(work(Task::Inline(2), 2));
        }
        Self {
            crashes: 1,
            ..Self::new("two gateways", &list)
        }
    }

    /// Two collectors beside an upload and a push that names what lies in a half-dead pack.
    pub fn collection(size: Size) -> Self {
        let reuse = Task::Reuse {
            path: 2,
            point: 2,
            of: 1,
        };
        let (plans, crashes) = if size == Size::Small { (1, 0) } else { (2, 1) };
        let list = [work(reuse, plans), work(Task::Upload(0), plans)];
        Self {
            collectors: 2,
            crashes,
            ..Self::new("collection", &list)
        }
    }

    /// A rollback to a point that two collectors let expire, beside a push that names content in a record.
    pub fn rollback(size: Size) -> Self {
        let reuse = Task::Reuse {
            path: 2,
            point: 3,
            of: 1,
        };
        let plans = if size == Size::Small { 2 } else { 3 };
        let list = [work(Task::Rollback(2), plans), work(reuse, plans)];
        Self {
            collectors: 2,
            ..Self::new("rollback", &list)
        }
    }

    /// A reader that comes from the first record, and two writers: what follows the base of one is retired when
    /// the other was first.
    pub fn retirement(size: Size) -> Self {
        let list = [work(Task::Inline(0), 2), work(Task::Upload(2), 2)];
        let collectors = if size == Size::Small { 1 } else { 2 };
        Self {
            collectors,
            crashes: 1,
            reader: true,
            ..Self::new("retirement", &list)
        }
    }

    /// A replicator that runs behind a writer and a collector, and an owner who promotes at any moment.
    pub fn replication(size: Size) -> Self {
        let mut list = vec![work(Task::Upload(0), 2)];
        if size == Size::Large {
            list.push(work(Task::Inline(2), 2));
        }
        Self {
            collectors: 1,
            replicator: true,
            owner: true,
            ..Self::new("replication", &list)
        }
    }

    /// A switch while two writers work: each goes over when it likes, with its draft.
    pub fn fail_over(size: Size) -> Self {
        let mut list = vec![work(Task::Upload(0), 2), work(Task::Inline(2), 2)];
        if size == Size::Large {
            list.push(work(Task::Inline(1), 2));
        }
        Self {
            replicator: true,
            owner: true,
            ..Self::new("fail-over", &list)
        }
    }

    /// All of them.
    pub fn all(size: Size) -> Vec<Self> {
        vec![
            Self::appends(size),
            Self::two_gateways(size),
            Self::collection(size),
            Self::rollback(size),
            Self::retirement(size),
            Self::replication(size),
            Self::fail_over(size),
        ]
    }

    /// Looks for a way to break one promise. Gives the steps, if there is one.
    pub fn counterexample(self, property: &'static str, threads: usize) -> Option<String> {
        let checker = self
            .checker()
            .threads(threads)
            .finish_when(HasDiscoveries::AnyOf([property].into()))
            .spawn_bfs()
            .join();
        let path = checker.discovery(property)?;
        Some(path.to_string())
    }

    /// Looks at every world that can be reached, nearest first. Stops at the first promise that breaks, and
    /// after so many steps, the same world counted each time it is reached, so that memory has a bound.
    pub fn check(self, threads: usize, steps_max: usize) -> Outcome {
        let started = Instant::now();
        let properties = self.properties();
        let checker = self
            .checker()
            .threads(threads)
            .target_state_count(steps_max)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let found = checker.discoveries();
        let (mut broken, mut unseen) = (Vec::new(), Vec::new());
        for property in &properties {
            match found.get(property.name) {
                Some(path) if property.expectation.discovery_is_failure() => {
                    broken.push((property.name, path.to_string()));
                }
                None if !property.expectation.discovery_is_failure() => unseen.push(property.name),
                _ => {}
            }
        }
        Outcome {
            worlds: checker.unique_state_count(),
            is_exhausted: checker.state_count() < steps_max && broken.is_empty(),
            depth: checker.max_depth(),
            properties: properties.len(),
            broken,
            unseen,
            took: started.elapsed(),
        }
    }
}
