//! Keeping a folder and a repository alike without being asked: pulls when the repository's head moved,
//! pushes when something changed in the folder.
//!
//! When is decided by [`Agenda`]; what is done is done by the engine, with its rules and locks. Nothing is
//! remembered here that a run could not find out: a watch may be killed anywhere, and the next one begins
//! with a comparison of both sides.

use std::time::Duration;

use statehold_core::agenda::{Agenda, again_after};
use statehold_core::plan::{Action, Direction, Strategy};
use statehold_core::record::RecordRef;
use statehold_core::scope::Scope;
use statehold_repository::Error;
use tokio::time::{Instant, sleep_until, timeout};

use crate::engine::{Engine, EngineError, Report, RunOptions};
use crate::folder_watch::{FolderWatch, Interest};
use crate::gateway_client::chance;

/// How long a run under way may go on once the watch is to stop. One that takes longer is broken off, and
/// goes on with the next command.
const GRACE: Duration = Duration::from_secs(10);
/// Waiting for a head that went well for this long makes up for earlier failures.
const WENT_WELL: Duration = Duration::from_secs(60);

/// What is watched, and how.
#[derive(Debug, Clone, Copy)]
pub struct WatchOptions {
    /// Which paths it is about.
    pub scope: Scope,
    /// What to do about true conflicts.
    pub strategy: Strategy,
    /// Whether this machine's key may push; otherwise it only receives.
    pub may_push: bool,
}

/// What a watch tells.
#[derive(Debug)]
pub enum News<'a> {
    /// The system does not tell every change in the folder, so that it is looked through every few seconds
    /// instead.
    Untold {
        /// Why, and what to do about it.
        reason: String,
    },
    /// A run ended. One that failed is made again by itself.
    Ran {
        /// What it was to do.
        options: RunOptions,
        /// How long it took.
        took: Duration,
        /// What it came to.
        result: Result<&'a Report, &'a EngineError>,
    },
}

/// Keeps both sides alike until `stop` is over, and tells what happens. A run under way is finished then,
/// if that takes no more than ten seconds.
///
/// Failures are told and tried again after a wait that grows to ten seconds. Only a key that opens nothing
/// any more ends it.
pub async fn watch(
    engine: &Engine,
    options: WatchOptions,
    stop: impl Future<Output = ()> + Send,
    tell: &mut (dyn FnMut(News<'_>) + Send),
) -> Result<(), EngineError> {
    tokio::pin!(stop);
    let mut watch = Watch::begin(engine, options)?;
    loop {
        watch.tell_gap(tell);
        if let Some(direction) = watch.agenda.take(watch.now()) {
            let Some(run) = watch.options_of(direction) else {
                continue;
            };
            let began = Instant::now();
            let mut running = Box::pin(engine.run(run));
            let (result, is_last) = tokio::select! {
                result = &mut running => (result, false),
                () = &mut stop => match timeout(GRACE, &mut running).await {
                    Ok(result) => (result, true),
                    Err(_) => return Ok(()),
                },
            };
            tell(News::Ran {
                options: run,
                took: began.elapsed(),
                result: result.as_ref(),
            });
            watch.take_in(direction, began.elapsed(), result)?;
            if is_last {
                return Ok(());
            }
            continue;
        }
        tokio::select! {
            () = &mut stop => return Ok(()),
            happened = watch.wait() => watch.note(happened),
        }
    }
}

/// What a watch waits for.
enum Happened {
    FolderChanged,
    Head(statehold_repository::Result<RecordRef>),
    /// It is time to look at the agenda.
    Due,
}

struct Watch<'a> {
    engine: &'a Engine,
    options: WatchOptions,
    folder: FolderWatch,
    agenda: Agenda,
    began: Instant,
    /// The head that the folder has caught up with.
    known: Option<RecordRef>,
    /// When the head is asked for again.
    ask_at: Duration,
    /// Since when it has been waited for.
    asked_at: Option<Duration>,
    failures: u32,
}

impl<'a> Watch<'a> {
    fn begin(engine: &'a Engine, options: WatchOptions) -> Result<Self, EngineError> {
        let interest = interest(engine, options.scope)?;
        let folder = FolderWatch::begin(engine.workspace().root(), interest);
        Ok(Self {
            engine,
            options,
            folder,
            agenda: Agenda::new(Duration::ZERO),
            began: Instant::now(),
            known: None,
            ask_at: Duration::ZERO,
            asked_at: None,
            failures: 0,
        })
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn tell_gap(&mut self, tell: &mut (dyn FnMut(News<'_>) + Send)) {
        if let Some(reason) = self.folder.take_gap() {
            self.agenda.look_through_often();
            tell(News::Untold { reason });
        }
    }

    /// What a run is to do; none where it would have nothing to do but to send what may not be sent.
    fn options_of(&self, direction: Direction) -> Option<RunOptions> {
        let direction = match direction {
            Direction::Push if !self.options.may_push => return None,
            Direction::Bidirectional if !self.options.may_push => Direction::Pull,
            direction => direction,
        };
        Some(RunOptions {
            direction,
            scope: self.options.scope,
            strategy: self.options.strategy,
            dry: false,
            auto: true,
        })
    }

    fn take_in(
        &mut self,
        direction: Direction,
        took: Duration,
        result: Result<Report, EngineError>,
    ) -> Result<(), EngineError> {
        let now = self.now();
        match result {
            Ok(report) => {
                let moved = !report.actions.is_empty();
                self.agenda.done(direction, now, took, moved);
                self.catch_up(direction, &report);
                if !report.busy.is_empty() {
                    self.agenda.folder_changed(now);
                }
            }
            Err(error @ EngineError::Remote(Error::Denied { .. })) => return Err(error),
            Err(_) => self.agenda.failed(direction, now, chance()),
        }
        // Rules and ignore file may have come with it. What can't be read now is told by the next run.
        if let Ok(interest) = interest(self.engine, self.options.scope) {
            self.folder.set_interest(interest);
        }
        Ok(())
    }

    /// Notes which head the folder has caught up with. What was sent may have come to stand behind records
    /// that the folder does not have yet.
    fn catch_up(&mut self, direction: Direction, report: &Report) {
        let has_sent = report.actions.iter().any(Action::is_outgoing);
        let follows = |before: RecordRef, after: RecordRef| after.number == before.number + 1;
        match (direction, self.known, report.after) {
            (Direction::Push, Some(known), Some(after)) if has_sent && follows(known, after) => {
                self.known = Some(after);
            }
            // Others' records are told as news.
            (Direction::Push, ..) => {}
            (Direction::Pull | Direction::Bidirectional, _, after) => {
                self.known = after;
                // It was sent after the look at what others had done.
                if has_sent {
                    self.agenda.head_moved();
                }
            }
        }
    }

    async fn wait(&mut self) -> Happened {
        let now = self.now();
        let asks = self.known.is_some() && !self.agenda.awaits_pull();
        let may_ask = asks && now >= self.ask_at;
        let mut due = self.agenda.next();
        if asks && !may_ask {
            due = due.min(self.ask_at);
        }
        if may_ask {
            self.asked_at.get_or_insert(now);
        }
        let next_head = async {
            match self.known {
                Some(known) if may_ask => self.engine.remote().next_head(known).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.folder.changed() => Happened::FolderChanged,
            head = next_head => Happened::Head(head),
            () = sleep_until(self.began + due) => Happened::Due,
        }
    }

    fn note(&mut self, happened: Happened) {
        let now = self.now();
        match happened {
            Happened::FolderChanged => self.agenda.folder_changed(now),
            Happened::Due => {}
            Happened::Head(head) => {
                let waited = now.saturating_sub(self.asked_at.take().unwrap_or(now));
                // Nobody could tell, so anything may have happened.
                self.agenda.head_moved();
                if head.is_ok() || waited >= WENT_WELL {
                    self.failures = 0;
                }
                if let Err(error) = head {
                    tracing::debug!(%error, "the head cannot be waited for");
                    self.ask_at = now + again_after(self.failures, chance());
                    self.failures = self.failures.saturating_add(1);
                }
            }
        }
    }
}

fn interest(engine: &Engine, scope: Scope) -> Result<Interest, EngineError> {
    let workspace = engine.workspace();
    let folder = workspace.folder()?;
    Ok(Interest {
        rules: workspace.rules(&folder)?,
        ignore: workspace.ignore_file(&folder)?,
        scope,
    })
}
