//! Collecting in the repositories of a gateway: when somebody asks for it, and by a schedule.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use futures::FutureExt as _;
use serde::Deserialize;
use statehold_repository::collect::{Collected, Collector, Usage};
use statehold_repository::wire::bodies::{CompactRequest, PurgeRequest, Role};
use statehold_repository::{Error, Repository, Result};

use crate::auth::Access;
use crate::gateway::Gateway;
use crate::handlers::{Answer, Asked, SMALL_BYTES_MAX, take_json};
use crate::replication::{every_repository, passes};
use crate::schedule::{Job, Schedule};

/// What the job is called that is claimed slot by slot.
const JOB: &str = "compact";

#[derive(Debug, Deserialize)]
pub(crate) struct UsageQuery {
    within: Option<u32>,
}

pub(crate) async fn usage(
    access: Access,
    State(gateway): State<Gateway>,
    Asked(query): Asked<UsageQuery>,
) -> Answer<Json<Usage>> {
    let repository = access.repository(Role::Read).await?;
    let usage = repository.usage(gateway.collecting(), query.within);
    Ok(Json(usage.await?))
}

pub(crate) async fn compact(
    access: Access,
    State(gateway): State<Gateway>,
    body: Body,
) -> Answer<Json<Collected>> {
    access.require(Role::Maintain)?;
    let CompactRequest { dry, approve } = take_json(&gateway, body, SMALL_BYTES_MAX).await?;
    let role = if approve { Role::Own } else { Role::Maintain };
    let repository = access.repository(role).await?;
    let settings = gateway.collecting();
    Ok(Json(match dry {
        true => repository.compact_dry(settings).await?,
        false => repository.compact(settings, approve).await?,
    }))
}

pub(crate) async fn purge(
    access: Access,
    State(gateway): State<Gateway>,
    body: Body,
) -> Answer<Json<Collected>> {
    let repository = access.repository(Role::Own).await?;
    let PurgeRequest { path } = take_json(&gateway, body, SMALL_BYTES_MAX).await?;
    let key = access.key().key;
    tracing::warn!(%key, repository = %access.repository_id(), %path, "purging");
    Ok(Json(repository.purge(gateway.collecting(), path).await?))
}

impl Gateway {
    /// Collects in every repository once in each slot of this length, by one of all gateways, for ever. What
    /// goes wrong is logged.
    pub async fn keep_collecting(&self, every: Duration) {
        let (clock, entropy) = self.environment();
        let schedule = Schedule::new(self.hosts().store().clone(), clock, entropy);
        let job = Job::new(JOB.to_owned(), every);
        schedule
            .run(&job, |_| self.collect_everywhere().boxed())
            .await;
    }

    /// One pass over all repositories. False where another one may do better.
    async fn collect_everywhere(&self) -> bool {
        // What was appended there would part it from its source.
        match self.awaits_promotion().await {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("nothing is collected in a replica that nobody has gone on with");
                return true;
            }
            Err(error) => {
                tracing::warn!(%error, "whether the store is a replica is not known");
                return false;
            }
        }
        let (clock, entropy) = self.environment();
        let repositories = every_repository(self.hosts().store(), clock, entropy).await;
        let repositories = match repositories {
            Ok(repositories) => repositories,
            Err(error) => {
                tracing::warn!(%error, "the repositories to collect in are not known");
                return false;
            }
        };
        let mut is_done = true;
        for (_, place) in repositories {
            let repository = place.prefix;
            match self.collect_in(place.store).await {
                Ok(Some(collected)) => tell(&repository, &collected),
                Ok(None) => {}
                // Somebody else is at it.
                Err(Error::Conflict { .. }) => {}
                Err(error) => {
                    tracing::error!(repository, %error, "collecting failed");
                    is_done &= !passes(&error);
                }
            }
        }
        is_done
    }

    async fn collect_in(
        &self,
        store: statehold_repository::store::Store,
    ) -> Result<Option<Collected>> {
        let (clock, entropy) = self.environment();
        let found = Repository::open_existing(store, Arc::clone(&clock), entropy).await?;
        let Some(repository) = found else {
            return Ok(None);
        };
        let collector = Collector::new(&repository, self.collecting());
        collector.collect(false).await.map(Some)
    }
}

/// Says what came of it, and loudly if it waits for somebody.
fn tell(repository: &str, collected: &Collected) {
    let compacted = &collected.compacted;
    let (expired, points) = (compacted.expired, compacted.points);
    if compacted.is_held {
        tracing::warn!(
            repository,
            expired,
            points,
            "over half of the earlier states would go; `statehold compact --approve` by an owner says that it is meant"
        );
    }
    let removed = collected.removed.as_ref();
    if removed.is_some_and(|removed| removed.is_refused) {
        tracing::error!(
            repository,
            "the store keeps what was deleted, so nothing is compacted in it any more until it lets go, or `statehold \
             compact --approve` by an owner says so; `serve --compact-every never` on a store that deletes nothing"
        );
    }
    let record = removed.and_then(|removed| removed.record);
    if compacted.record.is_some() || record.is_some() {
        let bytes = compacted.condemned_bytes;
        let packs = removed.map_or(0, |removed| removed.packs);
        tracing::info!(
            repository,
            expired,
            condemned_bytes = bytes,
            deleted_packs = packs,
            "collected"
        );
    }
}
