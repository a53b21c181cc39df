//! What time it is at a store, by the dates of its answers.
//!
//! Every answer over HTTP has a date, so knowing the store's clock costs no request of its own. A
//! store in a folder or in memory has no clock but this machine's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use statehold_core::time::Timestamp;

/// A store's clock, exact to a second and the way of an answer.
#[derive(Debug, Default)]
pub struct StoreClock {
    seen: Mutex<Option<(Timestamp, Instant)>>,
}

impl StoreClock {
    /// What time it is there; `None` before its first answer.
    pub fn now(&self) -> Option<Timestamp> {
        let (date, seen) = (*self.seen.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = i64::try_from(seen.elapsed().as_millis()).unwrap_or(i64::MAX);
        Some(Timestamp::from_millis(
            date.as_millis().saturating_add(since),
        ))
    }

    /// Takes in the date of an answer that has just come.
    pub fn set(&self, date: Timestamp) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, Instant::now()));
    }
}

/// Makes connections whose answers set a clock.
#[derive(Debug)]
pub(crate) struct DatedConnector(pub(crate) Arc<StoreClock>);

impl HttpConnector for DatedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        let clock = Arc::clone(&self.0);
        Ok(HttpClient::new(Dated { client, clock }))
    }
}

#[derive(Debug)]
struct Dated {
    client: HttpClient,
    clock: Arc<StoreClock>,
}

#[async_trait]
impl HttpService for Dated {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.client.execute(request).await?;
        let date = answer.headers().get("date");
        let date = date.and_then(|date| Timestamp::from_http_date(date.to_str().ok()?));
        if let Some(date) = date {
            self.clock.set(date);
        }
        Ok(answer)
    }
}
