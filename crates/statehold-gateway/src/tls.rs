//! Certificates: read from files, and read again when the files change, so that a renewal needs no
//! restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use statehold_repository::{Error, Result};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a client may take over its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the certificate and its key are.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate and those that vouch for it, as PEM.
    pub certificates: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

impl TlsFiles {
    fn load(&self) -> Result<Arc<ServerConfig>> {
        let file = |path: &Path| {
            std::fs::read(path).map_err(|error| Error::Unavailable {
                what: format!("the file {}", path.display()),
                source: error.into(),
            })
        };
        let bad = |path: &Path, error: &dyn std::fmt::Display| {
            Error::refused(format!("{} is of no use for TLS: {error}", path.display()))
        };
        let certificates = CertificateDer::pem_slice_iter(&file(&self.certificates)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad(&self.certificates, &error))?;
        let key = PrivateKeyDer::from_pem_slice(&zeroize::Zeroizing::new(file(&self.key)?))
            .map_err(|error| bad(&self.key, &error))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::refused)?
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|error| bad(&self.certificates, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// When the files were last changed, as far as that can be seen.
    fn changed(&self) -> [Option<SystemTime>; 2] {
        let changed = |path: &Path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        };
        [changed(&self.certificates), changed(&self.key)]
    }
}

/// The certificate in use.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    pub(crate) fn load(files: TlsFiles) -> Result<Self> {
        let config = RwLock::new(files.load()?);
        Ok(Self { files, config })
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let accept = TlsAcceptor::from(config).accept(stream);
        tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await?
    }

    /// Looks after the files for as long as it is polled. Files that are of no use, because they
    /// are being written as a rule, leave the certificate as it is.
    pub(crate) async fn follow(&self) {
        let mut known = self.files.changed();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let changed = self.files.changed();
            if changed == known {
                continue;
            }
            match self.files.load() {
                Ok(config) => {
                    known = changed;
                    *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
                    tracing::info!("the certificate was read again");
                }
                Err(error) => tracing::warn!(%error, "the certificate stays as it was"),
            }
        }
    }
}
