//! Listening, the limits of connections, and stopping.
//!
//! axum's own server sets no timer, so a client could hold a connection for ever by sending its
//! headers slowly. This loop sets one, bounds headers and connections, and finishes what is under
//! way before it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use statehold_repository::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::routes::router;
use crate::stream::Bounded;
use crate::tls::{Tls, TlsFiles};

/// Connections at once; further ones wait to be taken.
const CONNECTIONS_MAX: usize = 4_096;
/// How long a client may take over its headers, and over saying nothing between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// How long requests under way may take to finish once the gateway is to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when no connection can be taken, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A gateway that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    gateway: Gateway,
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// Listens at an address. Port 0 takes any that is free. Without TLS, keys are sent in the
    /// clear: that is for this machine alone, and for a proxy that ends TLS in front.
    pub async fn bind(
        address: SocketAddr,
        gateway: Gateway,
        tls: Option<TlsFiles>,
    ) -> Result<Self> {
        let tls = tls.map(Tls::load).transpose()?.map(Arc::new);
        let failed = |error: std::io::Error| Error::Unavailable {
            what: format!("the address {address}"),
            source: error.into(),
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            gateway,
            tls,
        })
    }

    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is over. Then it takes no more connections, finishes the requests
    /// under way and what they left behind, and returns.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let Self {
            listener,
            gateway,
            tls,
            ..
        } = self;
        let stopping = CancellationToken::new();
        let router = router(gateway.clone(), stopping.clone());
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let graceful = GracefulShutdown::new();
        let follow = async {
            match &tls {
                Some(tls) => tls.follow().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(shutdown, follow);
        loop {
            let take = async {
                let permit = Arc::clone(&connections).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = &mut shutdown => break,
                () = &mut follow => continue,
                taken = take => taken,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (router, watcher, tls) = (router.clone(), graceful.watcher(), tls.clone());
            tokio::spawn(async move {
                let _permit = permit;
                connection(stream, tls, router, watcher).await;
            });
        }
        drop(listener);
        // What goes on by itself would never be finished.
        stopping.cancel();
        tracing::info!(connections = graceful.count(), "stopping");
        let finish = async {
            graceful.shutdown().await;
            gateway.finish().await;
        };
        if tokio::time::timeout(STOP_TIMEOUT, finish).await.is_err() {
            tracing::warn!("some requests did not finish in time");
        }
        Ok(())
    }
}

async fn connection(stream: TcpStream, tls: Option<Arc<Tls>>, router: Router, watcher: Watcher) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small answers may be slow");
    }
    let Some(tls) = tls else {
        return talk(stream, router, watcher).await;
    };
    match tls.accept(stream).await {
        Ok(stream) => talk(stream, router, watcher).await,
        Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
    }
}

async fn talk<S>(stream: S, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let stream = TokioIo::new(Bounded::new(stream));
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(stream, service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}
