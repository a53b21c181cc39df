//! Progress bars, shown only where a person is looking.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use statehold_repository::verify::Watch;
use statehold_sync::progress::{Phase, Progress};

/// One bar at a time on standard error.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    bar: Mutex<Option<ProgressBar>>,
}

// Decimal, as sizes are everywhere else.
const BYTES: &str = "{prefix:>9} {bar:30} {decimal_bytes}/{decimal_total_bytes} \
     {decimal_bytes_per_sec} {eta} left";
const FILES: &str = "{prefix:>9} {bar:30} {pos}/{len} {eta} left";
const UNKNOWN: &str = "{prefix:>9} {spinner}";

impl Progress for Bars {
    fn begin(&self, phase: Phase, total: u64) {
        let (prefix, template) = match phase {
            Phase::Scan => ("looking", UNKNOWN),
            Phase::Ask => ("asking", UNKNOWN),
            Phase::Send => ("sending", BYTES),
            Phase::Receive => ("receiving", BYTES),
            Phase::Place => ("placing", FILES),
        };
        let bar = ProgressBar::new(total).with_prefix(prefix);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        self.show(Some(bar));
    }

    fn advance(&self, done: u64) {
        if let Ok(Some(bar)) = self.bar.lock().as_deref() {
            bar.inc(done);
        }
    }

    fn end(&self) {
        self.show(None);
    }
}

impl Watch for Bars {
    fn expect(&self, objects: u64) {
        if let Ok(Some(bar)) = self.bar.lock().as_deref() {
            bar.inc_length(objects);
        }
    }

    fn done(&self, objects: u64) {
        self.advance(objects);
    }
}

impl Bars {
    /// A bar for the objects of a repository, which are counted as they are found.
    pub(crate) fn begin_check(&self) {
        let bar = ProgressBar::new(0).with_prefix("checking");
        if let Ok(style) = ProgressStyle::with_template(FILES) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        self.show(Some(bar));
    }

    /// The repository has been looked at.
    pub(crate) fn end_check(&self) {
        self.show(None);
    }

    fn show(&self, next: Option<ProgressBar>) {
        if let Ok(mut bar) = self.bar.lock()
            && let Some(old) = std::mem::replace(&mut *bar, next)
        {
            old.finish_and_clear();
        }
    }
}

/// A bar for copying, whose end moves away as more is found.
pub(crate) fn copying() -> ProgressBar {
    let bar = ProgressBar::new(0).with_prefix("copying");
    if let Ok(style) = ProgressStyle::with_template(BYTES) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
