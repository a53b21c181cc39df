//! Where a store is: a folder, memory, or a prefix of a bucket, written as one word; and how it is
//! opened with the credentials that the environment holds.
//!
//! The environment is handed in as a function, so that only the program's outermost layer reads it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use statehold_core::limits::STORE_PATIENCE_SECONDS;

use crate::error::{Error, Result};
use crate::store::{Listing, Store};
use crate::store_clock::{DatedConnector, StoreClock};

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreLocation {
    /// In a folder, by its absolute path.
    Folder(PathBuf),
    /// In this process's memory, and gone with it.
    Memory,
    /// In a bucket of a cloud.
    Bucket {
        /// Whose.
        cloud: Cloud,
        /// The bucket or container.
        bucket: String,
        /// The names of the folders in it that everything lies beneath.
        prefix: Vec<String>,
    },
}

/// A kind of object storage, by the protocol that it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cloud {
    /// Amazon S3 and everything that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
}

impl Cloud {
    const ALL: [Self; 3] = [Self::S3, Self::Google, Self::Azure];

    const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }
}

/// Text that is no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no store: {reason} (a store is an absolute path, file:///path, memory:, \
     s3://bucket/prefix, gs://bucket/prefix or az://container/prefix)"
)]
pub struct InvalidLocation {
    /// What stood there, without anything that may be a secret.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for StoreLocation {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| InvalidLocation {
            // Some people write credentials into addresses, and errors end up in logs.
            text: match text.rsplit_once('@') {
                Some((_, rest)) => format!("…@{rest}"),
                None => text.chars().take(200).collect(),
            },
            reason,
        })
    }
}

fn parse(text: &str) -> Result<StoreLocation, &'static str> {
    if text == "memory:" {
        return Ok(StoreLocation::Memory);
    }
    if let Some(path) = text.strip_prefix("file://") {
        return folder(path);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return folder(text);
    };
    let cloud = Cloud::ALL
        .into_iter()
        .find(|cloud| cloud.scheme() == scheme)
        .ok_or("no such kind of store is known")?;
    if rest.contains('@') {
        return Err("credentials belong in the environment");
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let named = |name: &str| {
        (1..=222).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if bucket.is_empty() {
        return Err("the bucket's name is missing");
    }
    if !named(bucket) {
        return Err("a bucket's name is made of letters, digits, dots, dashes and underscores");
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let prefix: Vec<String> = match prefix {
        "" => Vec::new(),
        prefix => prefix.split('/').map(str::to_owned).collect(),
    };
    if !prefix.iter().all(|name| named(name)) {
        return Err(
            "each folder of the prefix is made of letters, digits, dots, dashes and underscores, \
             and begins with a letter or a digit",
        );
    }
    Ok(StoreLocation::Bucket {
        cloud,
        bucket: bucket.to_owned(),
        prefix,
    })
}

fn folder(path: &str) -> Result<StoreLocation, &'static str> {
    if path.is_empty() {
        return Err("it is empty");
    }
    let folder = Path::new(path);
    if !folder.is_absolute() {
        return Err("the path of a folder begins at the root");
    }
    Ok(StoreLocation::Folder(folder.to_owned()))
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Memory => f.write_str("memory:"),
            Self::Bucket {
                cloud,
                bucket,
                prefix,
            } => {
                write!(f, "{}://{bucket}", cloud.scheme())?;
                prefix.iter().try_for_each(|name| write!(f, "/{name}"))
            }
        }
    }
}

/// Gives the value of an environment variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Asks the machine itself for credentials, where it runs in a cloud. Off unless this is set to 1:
/// the question goes to an address that on other machines may be anybody's, or nobody's for a minute.
pub const MACHINE_IDENTITY: &str = "STATEHOLD_MACHINE_IDENTITY";

/// What is passed on to the S3 client as it is.
const S3_VARIABLES: [&str; 16] = [
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_REQUEST_PAYER",
    "AWS_CHECKSUM_ALGORITHM",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// The names for an S3 key, its secret and the token that goes with it, in the order in which they
/// are looked for.
const S3_KEYS: [(&str, &str, Option<&str>); 2] = [
    (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        Some("AWS_SESSION_TOKEN"),
    ),
    ("DO_SPACES_KEY", "DO_SPACES_SECRET", None),
];

/// What is passed on to the Azure client as it is.
const AZURE_VARIABLES: [&str; 11] = [
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_STORAGE_CLIENT_ID",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_STORAGE_TENANT_ID",
    "AZURE_STORAGE_AUTHORITY_HOST",
    "AZURE_FEDERATED_TOKEN_FILE",
];

/// What opens a Google bucket. The first that is set counts; the client itself takes no two of them.
const GOOGLE_CREDENTIALS: [&str; 5] = [
    "GOOGLE_BEARER_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_APPLICATION_CREDENTIALS",
];

/// Where Google's storage is, if not at Google.
const GOOGLE_ENDPOINT: &str = "GOOGLE_BASE_URL";

/// What Azure's own command line calls these.
const AZURE_OTHER_NAMES: [(&str, AzureConfigKey); 3] = [
    ("AZURE_STORAGE_ACCOUNT", AzureConfigKey::AccountName),
    ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
    ("AZURE_STORAGE_SAS_TOKEN", AzureConfigKey::SasKey),
];

/// Before the name of a variable that is meant for the store to copy to.
pub const REPLICA_PREFIX: &str = "STATEHOLD_REPLICA_";

/// Variables that belong together: one store's region with its endpoint, one key with its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    S3Place,
    S3Key,
    GooglePlace,
    GoogleKey,
    Azure,
    Machine,
}

/// How many of [`S3_VARIABLES`], from the first, say where and how rather than who.
const S3_PLACE: usize = 10;

impl Group {
    fn of(name: &str) -> Self {
        match name {
            MACHINE_IDENTITY => Self::Machine,
            GOOGLE_ENDPOINT => Self::GooglePlace,
            _ if GOOGLE_CREDENTIALS.contains(&name) => Self::GoogleKey,
            _ if name.starts_with("AZURE_") => Self::Azure,
            _ if S3_VARIABLES.iter().take(S3_PLACE).any(|own| *own == name) => Self::S3Place,
            _ => Self::S3Key,
        }
    }

    /// Every variable that a store may look at.
    fn all() -> impl Iterator<Item = &'static str> {
        let keys = S3_KEYS.iter();
        let keys = keys.flat_map(|(id, secret, token)| [Some(*id), Some(*secret), *token]);
        let azure = AZURE_OTHER_NAMES.iter().map(|(name, _)| *name);
        S3_VARIABLES
            .into_iter()
            .chain(AZURE_VARIABLES)
            .chain(GOOGLE_CREDENTIALS)
            .chain([GOOGLE_ENDPOINT, MACHINE_IDENTITY])
            .chain(keys.flatten())
            .chain(azure)
    }
}

/// What the environment says about the store to copy to: `STATEHOLD_REPLICA_AWS_REGION` and so on,
/// and the plain names where there is none of those. Variables that belong together come from one
/// side: a key never with another key's secret or token, a region never with another one's endpoint.
pub fn replica_variable(environment: Lookup<'_>, name: &str) -> Option<String> {
    let own = |name: &str| {
        let value = environment(&format!("{REPLICA_PREFIX}{name}"));
        value.filter(|value| !value.is_empty())
    };
    let group = Group::of(name);
    if Group::all().any(|other| Group::of(other) == group && own(other).is_some()) {
        own(name)
    } else {
        environment(name)
    }
}

/// Whether opening a store looks at a variable of this name.
pub(crate) fn is_variable(name: &str) -> bool {
    let name = name.strip_prefix(REPLICA_PREFIX).unwrap_or(name);
    let mut keys = S3_KEYS.iter();
    S3_VARIABLES.contains(&name)
        || AZURE_VARIABLES.contains(&name)
        || GOOGLE_CREDENTIALS.contains(&name)
        || [GOOGLE_ENDPOINT, MACHINE_IDENTITY].contains(&name)
        || AZURE_OTHER_NAMES.iter().any(|(known, _)| *known == name)
        || keys.any(|(id, secret, token)| [Some(*id), Some(*secret), *token].contains(&Some(name)))
}

impl StoreLocation {
    /// Opens the store. Nothing is asked of it yet, so wrong credentials show at the first request.
    pub fn open(&self, environment: Lookup<'_>) -> Result<Store> {
        let (cloud, bucket, prefix) = match self {
            Self::Folder(path) => return Store::folder(path),
            Self::Memory => return Ok(Store::memory()),
            Self::Bucket {
                cloud,
                bucket,
                prefix,
            } => (cloud, bucket, prefix),
        };
        // An empty variable is how one unsets it in many places.
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let clock = Arc::new(StoreClock::default());
        let http = DatedConnector(Arc::clone(&clock));
        let objects: Arc<dyn ObjectStore> = match cloud {
            Cloud::S3 => Arc::new(s3(bucket, &environment, http)?),
            Cloud::Google => Arc::new(google(bucket, &environment, http)?),
            Cloud::Azure => Arc::new(azure(bucket, &environment, http)?),
        };
        let store = Store::new(objects, Listing::Sorted)
            .with_clock(clock)
            .with_patience(Duration::from_secs(STORE_PATIENCE_SECONDS));
        Ok(prefix
            .iter()
            .fold(store, |store, folder| store.inside(folder)))
    }
}

/// One quick retry for a connection that went stale while it was kept, and no more: a [`Store`] has
/// attempts of its own, and knows what an answer to the second of two creates is worth.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 1,
        retry_timeout: Duration::from_secs(10),
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
    }
}

/// Only where an address with `http:` was given is anything sent in the clear.
fn connections(endpoint: Option<&str>) -> ClientOptions {
    let clear = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(10))
        // The store measures by the size of what travels; this would cut large objects off.
        .with_timeout_disabled()
        .with_config(
            ClientConfigKey::UserAgent,
            concat!("statehold/", env!("CARGO_PKG_VERSION")),
        )
        .with_allow_http(clear)
}

fn asks_machine(environment: Lookup<'_>) -> bool {
    environment(MACHINE_IDENTITY).is_some_and(|value| value == "1")
}

fn missing(what: &str) -> Error {
    Error::Denied {
        reason: format!(
            "no credentials for the store: set {what}; or, on a machine that its cloud knows, \
             {MACHINE_IDENTITY}=1"
        ),
    }
}

/// A setting that the client library doesn't take.
fn unusable(error: object_store::Error) -> Error {
    Error::refused(format!("the store can't be opened: {error}"))
}

fn s3(
    bucket: &str,
    environment: Lookup<'_>,
    http: DatedConnector,
) -> Result<impl ObjectStore + use<>> {
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
    for name in S3_VARIABLES {
        if let Some(value) = environment(name) {
            let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse().map_err(unusable)?;
            builder = builder.with_config(key, value);
        }
    }
    let mut known = asks_machine(environment);
    for (id, secret, token) in S3_KEYS {
        match (environment(id), environment(secret)) {
            (Some(id), Some(secret)) => {
                builder = builder
                    .with_access_key_id(id)
                    .with_secret_access_key(secret);
                if let Some(token) = token.and_then(environment) {
                    builder = builder.with_token(token);
                }
                known = true;
                break;
            }
            (None, None) => {}
            (Some(_), None) => return Err(missing(secret)),
            (None, Some(_)) => return Err(missing(id)),
        }
    }
    let set = |names: &[&str]| names.iter().all(|name| environment(name).is_some());
    known = known
        || set(&["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"])
        || set(&["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"])
        || set(&[
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        ]);
    if !known {
        return Err(missing(
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or DO_SPACES_KEY and DO_SPACES_SECRET",
        ));
    }
    let endpoint = environment("AWS_ENDPOINT_URL_S3").or_else(|| environment("AWS_ENDPOINT_URL"));
    let region = environment("AWS_REGION").or_else(|| environment("AWS_DEFAULT_REGION"));
    if endpoint.is_none() && region.is_none() {
        return Err(Error::refused(
            "the bucket's region is not known: set AWS_REGION, or AWS_ENDPOINT_URL for a service \
             other than Amazon's",
        ));
    }
    builder
        .with_http_connector(http)
        .with_retry(retries())
        .with_client_options(connections(endpoint.as_deref()))
        .build()
        .map_err(unusable)
}

fn google(
    bucket: &str,
    environment: Lookup<'_>,
    http: DatedConnector,
) -> Result<impl ObjectStore + use<>> {
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket);
    let endpoint = environment(GOOGLE_ENDPOINT);
    if let Some(endpoint) = &endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let found = GOOGLE_CREDENTIALS
        .iter()
        .find_map(|name| environment(name).map(|value| (name, value)));
    match found {
        Some((name, value)) => {
            let key: GoogleConfigKey = name.to_ascii_lowercase().parse().map_err(unusable)?;
            builder = builder.with_config(key, value);
        }
        None if asks_machine(environment) => {}
        None => return Err(missing("GOOGLE_APPLICATION_CREDENTIALS")),
    }
    builder
        .with_http_connector(http)
        .with_retry(retries())
        .with_client_options(connections(endpoint.as_deref()))
        .build()
        .map_err(unusable)
}

fn azure(
    container: &str,
    environment: Lookup<'_>,
    http: DatedConnector,
) -> Result<impl ObjectStore + use<>> {
    let mut builder = MicrosoftAzureBuilder::new().with_container_name(container);
    for name in AZURE_VARIABLES {
        if let Some(value) = environment(name) {
            let key: AzureConfigKey = name.to_ascii_lowercase().parse().map_err(unusable)?;
            builder = builder.with_config(key, value);
        }
    }
    for (name, key) in AZURE_OTHER_NAMES {
        if let Some(value) = environment(name) {
            builder = builder.with_config(key, value);
        }
    }
    if builder
        .get_config_value(&AzureConfigKey::AccountName)
        .is_none()
    {
        return Err(missing("AZURE_STORAGE_ACCOUNT_NAME"));
    }
    let set = |key| builder.get_config_value(&key).is_some();
    let known = set(AzureConfigKey::AccessKey)
        || set(AzureConfigKey::SasKey)
        || set(AzureConfigKey::Token)
        || (set(AzureConfigKey::ClientSecret) || set(AzureConfigKey::FederatedTokenFile))
            && set(AzureConfigKey::ClientId)
        || asks_machine(environment);
    if !known {
        return Err(missing(
            "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY",
        ));
    }
    let endpoint = environment("AZURE_STORAGE_ENDPOINT");
    builder
        .with_http_connector(http)
        .with_retry(retries())
        .with_client_options(connections(endpoint.as_deref()))
        .build()
        .map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<StoreLocation>(), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected, "{text}"),
            (Err(found), Err(expected)) => {
                assert!(found.to_string().contains(expected), "{text}: {found}");
            }
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn locations_are_read_back() {
        check("/srv/statehold", Ok("/srv/statehold"));
        check("file:///srv/state hold", Ok("/srv/state hold"));
        check("memory:", Ok("memory:"));
        check("s3://bucket", Ok("s3://bucket"));
        check("s3://bucket/", Ok("s3://bucket"));
        check(
            "gs://my_bucket.example/a/b-2/",
            Ok("gs://my_bucket.example/a/b-2"),
        );
        check("az://container/team", Ok("az://container/team"));
    }

    #[test]
    fn what_is_no_location_says_why() {
        check("", Err("it is empty"));
        check("state", Err("begins at the root"));
        check("../state", Err("begins at the root"));
        check("file://host/path", Err("begins at the root"));
        check("s3://", Err("name is missing"));
        check("s3:///prefix", Err("name is missing"));
        check("S3://bucket", Err("no such kind"));
        check("https://example.org/bucket", Err("no such kind"));
        check("s3://buck et", Err("letters, digits"));
        check("s3://bucket?versioning", Err("letters, digits"));
        check("s3://bucket/a//b", Err("each folder"));
        check("s3://bucket/a/../b", Err("each folder"));
        check("s3://bucket/a/./b", Err("each folder"));
    }

    #[test]
    fn a_secret_in_an_address_is_not_repeated() {
        let error = "s3://AKIA:topsecret@bucket/x"
            .parse::<StoreLocation>()
            .unwrap_err();
        assert!(error.to_string().contains("in the environment"));
        assert!(!error.to_string().contains("topsecret"));
    }

    fn open(location: &str, variables: &[(&str, &str)]) -> Result<Store> {
        let environment = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        location
            .parse::<StoreLocation>()
            .unwrap()
            .open(&environment)
    }

    fn refusal(location: &str, variables: &[(&str, &str)]) -> String {
        open(location, variables).unwrap_err().to_string()
    }

    const KEY: (&str, &str) = ("AWS_ACCESS_KEY_ID", "id");
    const SECRET: (&str, &str) = ("AWS_SECRET_ACCESS_KEY", "secret");
    const REGION: (&str, &str) = ("AWS_REGION", "eu-central-1");

    #[test]
    fn what_is_missing_is_named() {
        for (location, variables, expected) in [
            ("s3://bucket", &[REGION][..], "DO_SPACES_KEY"),
            ("s3://bucket", &[REGION, KEY], "set AWS_SECRET_ACCESS_KEY"),
            ("s3://bucket", &[REGION, SECRET], "set AWS_ACCESS_KEY_ID"),
            (
                "s3://bucket",
                &[REGION, KEY, ("AWS_SECRET_ACCESS_KEY", "")],
                "set AWS_SECRET",
            ),
            (
                "s3://bucket",
                &[REGION, ("DO_SPACES_KEY", "x")],
                "set DO_SPACES_SECRET",
            ),
            ("s3://bucket", &[KEY, SECRET], "AWS_REGION"),
            ("gs://bucket", &[], "GOOGLE_APPLICATION_CREDENTIALS"),
            ("az://container", &[], "AZURE_STORAGE_ACCOUNT_NAME"),
            (
                "az://container",
                &[("AZURE_STORAGE_ACCOUNT", "account")],
                "AZURE_STORAGE_ACCOUNT_KEY",
            ),
        ] {
            let found = refusal(location, variables);
            assert!(
                found.contains(expected),
                "{location} {variables:?}: {found}"
            );
        }
    }

    #[test]
    fn each_cloud_opens_with_its_usual_variables() {
        let spaces = [
            ("DO_SPACES_KEY", "id"),
            ("DO_SPACES_SECRET", "secret"),
            ("AWS_ENDPOINT_URL", "https://region.example.org"),
        ];
        for (location, variables) in [
            ("s3://bucket/a/b", &[KEY, SECRET, REGION][..]),
            ("s3://bucket", &spaces),
            ("s3://bucket", &[REGION, (MACHINE_IDENTITY, "1")]),
            (
                "s3://bucket",
                &[KEY, SECRET, REGION, ("AWS_CHECKSUM_ALGORITHM", "SHA256")],
            ),
            ("gs://bucket", &[("GOOGLE_BEARER_TOKEN", "token")]),
            (
                "az://container/a",
                &[
                    ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
                    ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"),
                ],
            ),
            (
                "az://container",
                &[
                    ("AZURE_STORAGE_ACCOUNT", "account"),
                    ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=x"),
                ],
            ),
        ] {
            let store = open(location, variables);
            assert_eq!(store.unwrap().listing(), Listing::Sorted, "{location}");
        }
    }

    #[test]
    fn what_belongs_together_comes_from_one_side() {
        let look = |variables: &[(&str, &str)], name: &str| {
            let environment = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            replica_variable(&environment, name)
        };
        let plain = [KEY, SECRET, REGION, ("AWS_SESSION_TOKEN", "token")];
        assert_eq!(look(&plain, "AWS_ACCESS_KEY_ID").as_deref(), Some("id"));
        // Another region with the same key.
        let region = ("STATEHOLD_REPLICA_AWS_REGION", "us-west-2");
        let elsewhere = [plain.as_slice(), &[region, ("AWS_ENDPOINT_URL", "x")]].concat();
        assert_eq!(look(&elsewhere, "AWS_REGION").as_deref(), Some("us-west-2"));
        assert_eq!(look(&elsewhere, "AWS_ENDPOINT_URL"), None);
        assert_eq!(
            look(&elsewhere, "AWS_SESSION_TOKEN").as_deref(),
            Some("token")
        );
        // Another key in the same region.
        let own = ("STATEHOLD_REPLICA_DO_SPACES_KEY", "other");
        let other = [plain.as_slice(), &[own]].concat();
        assert_eq!(look(&other, "DO_SPACES_KEY").as_deref(), Some("other"));
        assert_eq!(look(&other, "AWS_ACCESS_KEY_ID"), None);
        assert_eq!(look(&other, "AWS_SESSION_TOKEN"), None);
        assert_eq!(look(&other, "AWS_REGION").as_deref(), Some("eu-central-1"));
        assert!(is_variable("STATEHOLD_REPLICA_AWS_REGION"));
        assert!(!is_variable("STATEHOLD_REPLICA_PATH"));
        assert_eq!(S3_VARIABLES[S3_PLACE], "AWS_ROLE_ARN");
        assert!(Group::all().all(is_variable));
    }
}
