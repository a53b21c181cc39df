//! The stream of heads: whoever watches a repository is told its newest record, now and each time that it
//! is another one.
//!
//! The form is that of server-sent events. An event says only what the newest record is, so a reader that
//! is slow or was away misses nothing by missing events, and nothing is kept for it: each stream holds the
//! one head that it told last. A key that is revoked, a gateway that stops and the end of its time end a
//! stream cleanly, and the reader asks again, at any gateway.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, stream};
use serde::Deserialize;
use statehold_core::id::KeyId;
use statehold_core::state::State as Folded;
use statehold_repository::wire::bodies::{Head, Role};
use statehold_repository::wire::{HEADS_EVENT, HEADS_PULSE_SECONDS};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::auth::Access;
use crate::gateway::Gateway;
use crate::guard::GoesOn;
use crate::handlers::{Answer, Asked};
use crate::refusal::Refusal;

/// Streams at once; further ones are asked to come back.
pub const WATCHERS_MAX: usize = 1_024;
/// Streams of one key at once.
pub const WATCHERS_PER_KEY_MAX: usize = 16;
/// A stream goes on for this long at least. Proxies end what takes longer than their own bound, ten
/// minutes as a rule, and not as cleanly.
const LIFETIME: Duration = Duration::from_secs(540);
/// Streams that began together end within this time of each other.
const LIFETIME_SPREAD: Duration = Duration::from_secs(50);
/// How often a stream looks whether its key still opens anything. Together with the age of a registry
/// that is believed while the store doesn't answer this stays below five seconds.
const KEY_EVERY: Duration = Duration::from_millis(400);
/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(1);
/// What names the last event that a reader saw, when it comes back.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Who watches at this gateway.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    of_keys: Mutex<HashMap<KeyId, usize>>,
}

impl Watchers {
    fn of_keys(&self) -> MutexGuard<'_, HashMap<KeyId, usize>> {
        self.of_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, until it is dropped; none if there are too many, of this key or in all.
    fn enter(self: &Arc<Self>, key: KeyId) -> Option<Watcher> {
        let mut of_keys = self.of_keys();
        let in_all: usize = of_keys.values().sum();
        let of_key = of_keys.get(&key).copied().unwrap_or_default();
        if in_all >= WATCHERS_MAX || of_key >= WATCHERS_PER_KEY_MAX {
            return None;
        }
        of_keys.insert(key, of_key + 1);
        let watchers = Arc::clone(self);
        Some(Watcher { watchers, key })
    }
}

/// A place among those who watch.
struct Watcher {
    watchers: Arc<Watchers>,
    key: KeyId,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut of_keys = self.watchers.of_keys();
        if let Some(of_key) = of_keys.get_mut(&self.key) {
            *of_key = of_key.saturating_sub(1);
            if *of_key == 0 {
                of_keys.remove(&self.key);
            }
        }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct HeadsQuery {
    since: Option<String>,
}

/// `GET /v1/heads`
pub(crate) async fn heads(
    access: Access,
    State(gateway): State<Gateway>,
    Extension(stopping): Extension<CancellationToken>,
    Asked(query): Asked<HeadsQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let repository = access.repository(Role::Read).await?;
    let place = gateway.watchers().enter(access.key().key);
    let place = place.ok_or_else(Refusal::busy)?;
    let states = repository.watch().await?;
    // A browser that comes back sends the address it began with, and what it saw last in the header.
    let last = headers.get(LAST_EVENT_ID);
    let last = last.and_then(|id| id.to_str().ok().map(str::to_owned));
    let pulse = Duration::from_secs(HEADS_PULSE_SECONDS);
    let told = Told {
        access,
        states,
        stopping,
        told: last.or(query.since),
        greeted: false,
        pulse: every(pulse),
        key: every(KEY_EVERY),
        end: Instant::now() + lifetime(&gateway),
        _place: place,
    };
    let mut response = Sse::new(told.into_stream()).into_response();
    response.extensions_mut().insert(GoesOn);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies of one kind keep answers back until they are whole, unless they are told not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn lifetime(gateway: &Gateway) -> Duration {
    let mut chance = [0];
    gateway.entropy().fill(&mut chance);
    LIFETIME + LIFETIME_SPREAD.mul_f64(f64::from(chance[0]) / 255.0)
}

/// A stream, and what it told last.
struct Told {
    access: Access,
    states: watch::Receiver<Option<Arc<Folded>>>,
    stopping: CancellationToken,
    /// The event that the reader knows.
    told: Option<String>,
    /// Whether anything was sent.
    greeted: bool,
    pulse: Interval,
    key: Interval,
    end: Instant,
    _place: Watcher,
}

impl Told {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut told| async move {
            let event = told.next().await?;
            Some((Ok(event), told))
        })
    }

    /// The next event; none when the stream ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.news() {
                return Some(event);
            }
            if !self.greeted {
                self.greeted = true;
                // So that a reader hears at once that it is heard.
                return Some(Event::default().comment("nothing new").retry(RETRY));
            }
            tokio::select! {
                () = self.stopping.cancelled() => return None,
                () = sleep_until(self.end) => return None,
                changed = self.states.changed() => changed.ok()?,
                _ = self.key.tick() => {
                    if !self.access.is_live().await {
                        return None;
                    }
                }
                _ = self.pulse.tick() => return Some(Event::default().comment("")),
            }
        }
    }

    /// The head, unless it is the one that was told last.
    fn news(&mut self) -> Option<Event> {
        let head = {
            let state = self.states.borrow_and_update();
            let state = state.as_ref()?;
            Head {
                number: state.head.number,
                id: state.head.id,
                epoch: state.epoch(),
            }
        };
        let id = Head::event_id(head.record());
        if self.told.as_ref() == Some(&id) {
            return None;
        }
        let mut event = Event::default().id(&id).event(HEADS_EVENT);
        if !self.greeted {
            self.greeted = true;
            event = event.retry(RETRY);
        }
        self.told = Some(id);
        event.json_data(head).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_for_one_key_and_bounded_in_all() {
        let watchers = Arc::new(Watchers::default());
        let key = |number: usize| KeyId::from_bytes((number as u128).to_be_bytes());
        let mut places = Vec::new();
        for number in 0..WATCHERS_MAX / WATCHERS_PER_KEY_MAX {
            for _ in 0..WATCHERS_PER_KEY_MAX {
                places.push(watchers.enter(key(number)).unwrap());
            }
            assert!(watchers.enter(key(number)).is_none());
        }
        assert!(watchers.enter(key(usize::MAX)).is_none(), "one too many");
        places.pop();
        let last = watchers.enter(key(usize::MAX));
        assert!(last.is_some());
        drop((places, last));
        assert!(watchers.of_keys().is_empty(), "places are left behind");
    }
}
