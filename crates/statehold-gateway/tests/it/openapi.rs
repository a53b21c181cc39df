//! The description of the interface, held against the router and against real answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use statehold_core::digest::Digest;
use statehold_core::id::{RepositoryId, TenantId};
use statehold_core::path::RepoPath;
use statehold_gateway::openapi::{DOCUMENT, routed_paths};
use statehold_repository::content::Pack;
use statehold_repository::remote::load;
use statehold_repository::store::Store;
use statehold_repository::wire::MEDIA_HEADS;
use statehold_repository::wire::bodies::{
    CompactRequest, NewInvite, NewTenant, Place, PurgeRequest, ReadRequest, RedeemRequest,
    RenameRequest, Role,
};
use statehold_repository::wire::key::{Invite, Key};
use statehold_repository::wire::problem::{Fault, Problem};
use statehold_repository::wire::push as wire;
use statehold_repository::wire::version;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{Random, Running, new_key, noise, push, start};

/// What the document says.
struct Description(Value);

impl Description {
    /// As strict as can be: what is not described may not be there, although readers pass over it.
    fn strict() -> Self {
        fn close(node: &mut Value) {
            match node {
                Value::Object(fields) => {
                    if fields.get("type") == Some(&json!("object"))
                        && fields.contains_key("properties")
                    {
                        fields.insert("additionalProperties".into(), json!(false));
                    }
                    fields.values_mut().for_each(close);
                }
                Value::Array(items) => items.iter_mut().for_each(close),
                _ => {}
            }
        }
        let mut document = serde_json::from_str(DOCUMENT).unwrap();
        close(&mut document);
        Self(document)
    }

    /// Operations by method and path.
    fn operations(&self) -> BTreeMap<(String, String), &Value> {
        let mut found = BTreeMap::new();
        for (path, methods) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                found.insert((method.to_uppercase(), path.clone()), operation);
            }
        }
        found
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        let key = (method.to_owned(), path.to_owned());
        let operations = self.operations();
        operations
            .get(&key)
            .unwrap_or_else(|| panic!("{method} {path} is not described"))
    }

    /// Follows a reference, if it is one.
    fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node["$ref"].as_str() {
            Some(to) => {
                let found = self.0.pointer(to.trim_start_matches('#'));
                self.resolve(found.unwrap_or_else(|| panic!("{to} is nowhere")))
            }
            None => node,
        }
    }

    fn check(&self, schema: &Value, value: &Value, what: &str) {
        let root = json!({"allOf": [schema], "components": self.0["components"]});
        let validator = jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&root)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:?} in {value}");
    }

    /// The address of a path, its parameters filled in with their examples or with `key`.
    fn address(&self, path: &str, operation: &Value, key: &Key) -> String {
        let (mut address, mut query) = (path.to_owned(), Vec::new());
        for parameter in operation["parameters"].as_array().unwrap() {
            let parameter = self.resolve(parameter);
            let name = parameter["name"].as_str().unwrap();
            let example = match &parameter["example"] {
                Value::String(text) if name != "key" => text.clone(),
                Value::String(_) => key.id().to_string(),
                other => other.to_string(),
            };
            match parameter["in"].as_str().unwrap() {
                "path" => address = address.replace(&format!("{{{name}}}"), &example),
                "query" if parameter["required"] == true => {
                    query.push(format!("{name}={example}"));
                }
                _ => {}
            }
        }
        assert!(
            !address.contains('{'),
            "{path}: a parameter is not described"
        );
        match query.is_empty() {
            true => address,
            false => format!("{address}?{}", query.join("&")),
        }
    }
}

#[test]
fn the_document_says_of_which_version_it_is() {
    let Description(document) = Description::strict();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], version::OWN);
}

#[test]
fn every_schema_and_reference_is_sound() {
    let description = Description::strict();
    fn references<'a>(node: &'a Value, found: &mut Vec<&'a Value>) {
        match node {
            Value::Object(fields) => {
                if fields.contains_key("$ref") {
                    found.push(node);
                }
                fields.values().for_each(|node| references(node, found));
            }
            Value::Array(items) => items.iter().for_each(|node| references(node, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&description.0, &mut found);
    let used: BTreeSet<&str> = found
        .into_iter()
        .map(|reference| {
            description.resolve(reference);
            reference["$ref"].as_str().unwrap()
        })
        .collect();
    for (kind, parts) in description.0["components"].as_object().unwrap() {
        for (name, part) in parts.as_object().unwrap() {
            if kind == "schemas" {
                assert!(jsonschema::draft202012::meta::is_valid(part), "{name}");
            }
            let reference = format!("#/components/{kind}/{name}");
            let is_used = kind == "securitySchemes" || used.contains(&*reference);
            assert!(is_used, "nothing refers to {reference}");
        }
    }
    let ids: Vec<&str> = description
        .operations()
        .values()
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
}

/// Goal: a route cannot be added, taken away or renamed without its description.
/// Method: the router's own list of paths, and the methods that it itself allows at each.
#[tokio::test]
async fn every_route_is_described_and_nothing_else() {
    let running = start(&Store::memory()).await;
    let mut routed = BTreeSet::new();
    for path in routed_paths() {
        let described = path.replace("{*", "{");
        let address = path.replace(['{', '}', '*'], "x");
        let request = reqwest::Client::new().request(
            Method::from_bytes(b"PROPFIND").unwrap(),
            running.url(&address),
        );
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 405, "{path}");
        let allowed = answer.headers()["allow"].to_str().unwrap().to_owned();
        for method in allowed.split(',') {
            routed.insert((method.trim().to_owned(), described.clone()));
        }
    }
    let description = Description::strict();
    let mut described: BTreeSet<_> = description.operations().into_keys().collect();
    // HEAD goes wherever GET does; the document says so once.
    for (method, path) in described.clone() {
        if method == "GET" {
            described.insert(("HEAD".to_owned(), path));
        }
    }
    let missing: Vec<_> = routed.difference(&described).collect();
    assert!(missing.is_empty(), "not in openapi.json: {missing:?}");
    let invented: Vec<_> = described.difference(&routed).collect();
    assert!(invented.is_empty(), "only in openapi.json: {invented:?}");
}

const ROLES: [Role; 5] = [
    Role::Read,
    Role::Push,
    Role::Maintain,
    Role::Own,
    Role::Operator,
];

#[tokio::test]
async fn every_operation_takes_the_role_that_is_described() {
    let running = start(&Store::memory()).await;
    let description = Description::strict();
    let http = reqwest::Client::new();
    for ((method, path), operation) in description.operations() {
        let send = async |key: Option<&Key>, known: &Key| {
            let address = description.address(&path, operation, known);
            let request = http.request(method.parse().unwrap(), running.url(&address));
            let request = request.header("Content-Length", "0");
            let request = match key {
                Some(key) => request.bearer_auth(key.reveal().as_str()),
                None => request,
            };
            request.send().await.unwrap().status().as_u16()
        };
        let needed = operation["security"].as_array().unwrap().first();
        let needed: Option<Role> =
            needed.map(|one| one["key"][0].as_str().unwrap().parse().unwrap());
        let known = running.key(Role::Read).await;
        assert_eq!(
            send(None, &known).await == 401,
            needed.is_some(),
            "{method} {path}"
        );
        for role in ROLES {
            let key = running.key(role).await;
            let status = send(Some(&key), &key).await;
            let what = format!("{method} {path} as {role}: {status}");
            match needed.is_none_or(|needed| needed <= role) {
                true => assert!(!matches!(status, 401 | 403 | 500..), "{what}"),
                false => assert_eq!(status, 403, "{what}"),
            }
        }
    }
}

#[tokio::test]
async fn every_body_is_bounded_as_described() {
    let running = start(&Store::memory()).await;
    let description = Description::strict();
    let key = running.key(Role::Operator).await;
    for ((method, path), operation) in description.operations() {
        let body = &operation["requestBody"];
        if body.is_null() {
            continue;
        }
        let limit = body["x-max-bytes"].as_u64().unwrap();
        for (len, is_refused) in [(limit, false), (limit + 1, true)] {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            let address = description.address(&path, operation, &key);
            let head = format!(
                "{method} {address} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
                 Content-Length: {len}\r\n\r\n",
                key.reveal().as_str()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // A body that is not refused by its length is waited for, and does not come.
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            let refused = answer.starts_with(b"HTTP/1.1 413 ");
            assert_eq!(refused, is_refused, "{method} {path} with {len} bytes");
        }
    }
}

/// Every kind of problem there is.
fn faults() -> Vec<Fault> {
    let text = String::new;
    let faults = vec![
        Fault::NotFound { object: text() },
        Fault::Damaged {
            object: text(),
            reason: text(),
        },
        Fault::Conflict {
            number: 1,
            paths: vec![("a".parse().unwrap(), "A".parse().unwrap())],
            cut: true,
        },
        Fault::Refused { reason: text() },
        Fault::Unauthenticated,
        Fault::Denied { reason: text() },
        Fault::Unavailable {
            what: text(),
            reason: text(),
        },
        Fault::Unknown { number: 1 },
        Fault::ClockAhead { seconds: 301 },
        Fault::Diverged {
            number: 1,
            expected: Digest::of(b""),
            found: Digest::of(b""),
        },
        Fault::TooNew { what: text() },
        Fault::Expired {
            number: 2,
            before: Some(1),
            after: 3,
        },
        Fault::NotAFile { what: text() },
        Fault::PreconditionFailed,
        Fault::UnsatisfiableRange { size: 1 },
        Fault::NotAcceptable,
        Fault::UnsupportedMedia,
        Fault::VersionMismatch {
            client: text(),
            gateway: text(),
        },
        Fault::TooLarge { limit: 1 },
        Fault::Timeout,
        Fault::NoRoute,
        Fault::NoMethod,
        Fault::LengthRequired,
        Fault::Busy,
        Fault::Internal,
    ];
    for fault in &faults {
        // A new kind stops the build here, and belongs into the list above.
        match fault {
            Fault::NotFound { .. }
            | Fault::Damaged { .. }
            | Fault::Conflict { .. }
            | Fault::Refused { .. }
            | Fault::Unauthenticated
            | Fault::Denied { .. }
            | Fault::Unavailable { .. }
            | Fault::Unknown { .. }
            | Fault::ClockAhead { .. }
            | Fault::Diverged { .. }
            | Fault::TooNew { .. }
            | Fault::Expired { .. }
            | Fault::NotAFile { .. }
            | Fault::PreconditionFailed
            | Fault::UnsatisfiableRange { .. }
            | Fault::NotAcceptable
            | Fault::UnsupportedMedia
            | Fault::VersionMismatch { .. }
            | Fault::TooLarge { .. }
            | Fault::Timeout
            | Fault::NoRoute
            | Fault::NoMethod
            | Fault::LengthRequired
            | Fault::Busy
            | Fault::Internal
            | Fault::Other => {}
        }
    }
    faults
}

#[test]
fn every_problem_is_described() {
    let description = Description::strict();
    // Which status goes with which code.
    let mut described = BTreeSet::new();
    for answer in description.0["components"]["responses"]
        .as_object()
        .unwrap()
        .values()
    {
        let parts = &answer["content"]["application/problem+json"]["schema"]["allOf"][1];
        let status = parts["properties"]["status"]["const"].as_u64().unwrap();
        for code in parts["properties"]["code"]["enum"].as_array().unwrap() {
            described.insert((status, code.as_str().unwrap().to_owned()));
        }
    }
    // These two come from addresses that are not described.
    described.extend([(404, "no-route".to_owned()), (405, "no-method".to_owned())]);
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    let mut real = BTreeSet::new();
    for fault in faults() {
        let problem = serde_json::to_value(Problem::new(fault, "what happened")).unwrap();
        description.check(&schema, &problem, "a problem");
        let (status, code) = (&problem["status"], &problem["code"]);
        real.insert((status.as_u64().unwrap(), code.as_str().unwrap().to_owned()));
    }
    assert_eq!(described, real);
    let codes = &description.0["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
    let codes: BTreeSet<&str> = codes
        .as_array()
        .unwrap()
        .iter()
        .map(|code| code.as_str().unwrap())
        .collect();
    assert_eq!(codes, real.iter().map(|(_, code)| &**code).collect());
}

/// Sends requests and holds requests and answers against the description.
struct Checked<'a> {
    running: &'a Running,
    description: Description,
    http: reqwest::Client,
    /// Operations that were answered with success.
    done: Mutex<BTreeSet<(String, String)>>,
}

impl Checked<'_> {
    /// A request to the address of a described path.
    fn ask(&self, method: &str, address: &str, key: Option<&Key>) -> RequestBuilder {
        let request = self
            .http
            .request(method.parse().unwrap(), self.running.url(address));
        match key {
            Some(key) => request.bearer_auth(key.reveal().as_str()),
            None => request,
        }
    }

    /// The answer to a request, checked.
    async fn send(&self, path: &str, request: RequestBuilder) -> (u16, HeaderMap, Vec<u8>) {
        let request = request.build().unwrap();
        let method = request.method().to_string();
        let operation = self.description.operation(&method, path);
        let sent = request.body().and_then(|body| body.as_bytes());
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let sent = sent.and_then(|bytes| serde_json::from_slice(bytes).ok());
        let (sent, has_schema): (Option<Value>, bool) = (sent, !schema.is_null());

        let mut answer = self.http.execute(request).await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = match headers.get("content-type") {
            // It has no end that could be waited for.
            Some(media) if media == MEDIA_HEADS => answer.chunk().await.unwrap().unwrap(),
            _ => answer.bytes().await.unwrap(),
        };
        let body = body.to_vec();
        let what = format!("{method} {path}: {status}");
        if let (Some(sent), true, 200..300) = (&sent, has_schema, status) {
            self.description.check(schema, sent, &what);
        }
        let described = &operation["responses"][status.to_string()];
        assert!(!described.is_null(), "{what} is not described: {body:?}");
        let described = self.description.resolve(described);
        self.check_headers(described, &headers, status, &what);
        self.check_content(described, &headers, &body, &what);
        if status < 300 {
            self.done.lock().unwrap().insert((method, path.to_owned()));
        }
        (status, headers, body)
    }

    fn check_headers(&self, described: &Value, headers: &HeaderMap, status: u16, what: &str) {
        let empty = serde_json::Map::new();
        let named = described["headers"].as_object().unwrap_or(&empty);
        for (name, header) in named {
            let header = self.description.resolve(header);
            let needed = header["required"] == true || status >= 400;
            match headers.get(name) {
                Some(value) => {
                    let value = json!(value.to_str().unwrap());
                    let what = format!("{what}, {name}");
                    self.description.check(&header["schema"], &value, &what);
                }
                None => assert!(!needed, "{what}: {name} is missing"),
            }
        }
        assert_eq!(headers["x-statehold-version"], version::OWN, "{what}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{what}");
    }

    fn check_content(&self, described: &Value, headers: &HeaderMap, body: &[u8], what: &str) {
        let Some(content) = described["content"].as_object() else {
            assert!(body.is_empty(), "{what}: there is a body");
            return;
        };
        let media = headers["content-type"].to_str().unwrap();
        let described = content.get(media).or_else(|| content.get("*/*"));
        let described = described.unwrap_or_else(|| panic!("{what}: {media} is not described"));
        let value = match media {
            "application/json" | "application/problem+json" if !body.is_empty() => {
                serde_json::from_slice(body).unwrap()
            }
            _ => json!(String::from_utf8_lossy(body)),
        };
        self.description.check(&described["schema"], &value, what);
    }

    /// A call that succeeds, and what it was answered.
    async fn call(&self, path: &str, request: RequestBuilder) -> Value {
        let (status, _, body) = self.send(path, request).await;
        let said = String::from_utf8_lossy(&body).into_owned();
        assert!(status < 300, "{path}: {status}: {said}");
        serde_json::from_slice(&body).unwrap_or_default()
    }

    async fn assert_status(&self, path: &str, request: RequestBuilder, expected: u16) {
        let (status, _, body) = self.send(path, request).await;
        let said = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(status, expected, "{path}: {said}");
    }
}

async fn transfers(checked: &Checked<'_>, pusher: &Key, reader: &Key) {
    let running = checked.running;
    let get = |address: &str| checked.ask("GET", address, Some(reader));
    let remote = running.remote(pusher).await.unwrap();
    let state = load(&remote).await.unwrap().state;
    let (draft, pack) = push(&state, &[("small", b"1"), ("large", &noise(400_000))]);
    let pack = pack.unwrap();
    let path = format!("/v1/packs/{}", pack.id);
    let put = |bytes| checked.ask("PUT", &path, Some(pusher)).body(bytes);
    checked
        .call("/v1/packs/{id}", put(pack.bytes.clone()))
        .await;
    checked
        .assert_status("/v1/packs/{id}", put("no pack".into()), 422)
        .await;
    let append = |draft| checked.ask("POST", "/v1/log", Some(pusher)).body(draft);
    checked.call("/v1/log", append(draft.bytes.clone())).await;
    let (rival, _) = push(&state, &[("SMALL", b"2")]);
    checked
        .assert_status("/v1/log", append(rival.bytes), 409)
        .await;
    checked
        .assert_status("/v1/log", append("no draft".into()), 422)
        .await;
    let later = load(&remote).await.unwrap().state;
    let (draft, pack) = push(&later, &[("more", &noise(400_000))]);
    let stream = |packs: &[Pack], draft: &Bytes| wire::write(packs, draft).concat();
    let send = |body: Vec<u8>| checked.ask("POST", "/_push", Some(pusher)).body(body);
    let whole = stream(&[pack.unwrap()], &draft.bytes);
    checked.call("/_push", send(whole)).await;
    let (rival, _) = push(&later, &[("MORE", b"2")]);
    for (body, status) in [
        (stream(&[], &rival.bytes), 409),
        (b"no stream".to_vec(), 422),
    ] {
        checked.assert_status("/_push", send(body), status).await;
    }
    checked
        .call("/_pull", get("/_pull?since=0&scope=all"))
        .await;
    checked.assert_status("/_pull", get("/_pull"), 422).await;
    checked.call("/v1/log", get("/v1/log?after=0")).await;
    checked.assert_status("/v1/log", get("/v1/log"), 422).await;
    checked.call("/v1/open", get("/v1/open?at_most=1")).await;
    let (_, _, told) = checked.send("/v1/heads", get("/v1/heads")).await;
    let told = String::from_utf8(told).unwrap();
    let data = told.lines().find_map(|line| line.strip_prefix("data:"));
    let head = serde_json::from_str(data.unwrap()).unwrap();
    let schema = json!({"$ref": "#/components/schemas/Head"});
    checked.description.check(&schema, &head, "a head");
    let state = load(&remote).await.unwrap().state;
    let Some(statehold_core::entry::Entry::File(file)) = state.tree.get("large") else {
        panic!("it is not there");
    };
    let places = vec![Place::of(&file.chunks[0].at).unwrap()];
    let ask = |request: &ReadRequest| checked.ask("POST", "/v1/read", Some(reader)).json(request);
    let mut request = ReadRequest { places };
    checked.call("/v1/read", ask(&request)).await;
    request.places[0].object = format!("packs/{}", "0".repeat(32));
    checked.assert_status("/v1/read", ask(&request), 404).await;
    let old = get("/v1/info").header("X-Statehold-Version", "99.0.0");
    checked.assert_status("/v1/info", old, 426).await;
}

async fn files(checked: &Checked<'_>, pusher: &Key) {
    let at = "/v1/files/{path}";
    let ask = |method: &str, path: &str| {
        let address = format!("/v1/files/{path}");
        checked.ask(method, &address, Some(pusher))
    };
    let text = "some text, over and over\n".repeat(2_000);
    let put = || ask("PUT", "notes.md").body(text.clone());
    for (request, status) in [
        (put(), 201),
        (put(), 204),
        (put().header("If-None-Match", "*"), 412),
        (put().header("Content-Encoding", "br"), 415),
        (put().header("Content-Encoding", "gzip"), 422),
        (ask("PUT", "notes.md"), 411),
        (ask("PUT", "notes.md").body(vec![b'x'; 10_000_001]), 413),
        (ask("PUT", "a/b").body("b"), 201),
        (ask("PUT", "a").body("a"), 409),
        (ask("GET", "notes.md"), 200),
        (ask("GET", "notes.md?at=1"), 404),
        (ask("GET", "notes.md?at=99"), 404),
        (
            ask("GET", "notes.md").header("Accept-Encoding", "gzip"),
            200,
        ),
        (
            ask("GET", "notes.md").header("Accept-Encoding", "zstd"),
            200,
        ),
        (
            ask("GET", "notes.md").header("Accept-Encoding", "*;q=0"),
            406,
        ),
        (ask("GET", "notes.md").header("Range", "bytes=0-9"), 206),
        (ask("GET", "notes.md").header("Range", "bytes=999999-"), 416),
        (ask("GET", "notes.md").header("If-None-Match", "*"), 304),
        (ask("GET", "notes.md").header("If-Match", "\"x\""), 412),
        (ask("HEAD", "notes.md"), 200),
        (
            ask("HEAD", "notes.md").header("Accept-Encoding", "zstd"),
            200,
        ),
        (ask("HEAD", "notes.md").header("If-None-Match", "*"), 304),
        (ask("GET", "a"), 409),
        (ask("GET", "none"), 404),
        (ask("GET", "%ff"), 422),
        (ask("DELETE", "a"), 409),
        (ask("DELETE", "notes.md").header("If-Match", "\"x\""), 412),
        (ask("DELETE", "notes.md"), 204),
        (ask("DELETE", "notes.md"), 404),
    ] {
        checked.assert_status(at, request, status).await;
    }
}

async fn keys(checked: &Checked<'_>, operator: &Key, pusher: &Key) {
    let random = |_| Key::random(&Random);
    let [key, lost] = [0, 1].map(random);
    let (repository, tenant) = (RepositoryId::random(&Random), TenantId::random(&Random));
    let ask = |method: &str, address: &str| checked.ask(method, address, Some(operator));
    let new = NewTenant {
        tenant,
        repository,
        name: "another".into(),
    };
    let path = "/v1/admin/tenants";
    checked.call(path, ask("POST", path).json(&new)).await;
    let listed = checked.call(path, ask("GET", path)).await;
    assert_eq!(listed["tenants"].as_array().unwrap().len(), 2);

    let path = "/v1/admin/keys";
    let mut new = new_key(&lost, Role::Push, None);
    new.machine = Some(statehold_core::id::MachineId::random(&Random));
    new.expires = Some(running_end(checked));
    new.repositories = vec![repository];
    checked.call(path, ask("POST", path).json(&new)).await;
    checked.call(path, ask("GET", path)).await;
    checked
        .assert_status(path, ask("POST", path).body("{"), 422)
        .await;

    checked
        .call("/v1/usage", ask("GET", "/v1/usage?within=7"))
        .await;
    for dry in [true, false] {
        let request = CompactRequest {
            dry,
            approve: false,
        };
        let compact = ask("POST", "/v1/compact").json(&request);
        checked.call("/v1/compact", compact).await;
    }
    let path: RepoPath = "nothing/of/the/kind".parse().unwrap();
    let purge = ask("POST", "/v1/purge").json(&PurgeRequest { path });
    checked.call("/v1/purge", purge).await;

    for path in ["/v1/invites", "/v1/admin/invites"] {
        let invite = Invite::random(&Random);
        let new = NewInvite {
            invite: invite.id(),
            hash: invite.hash(),
            role: Role::Push,
            label: "for a laptop".into(),
            repositories: Vec::new(),
            expires: None,
        };
        checked.call(path, ask("POST", path).json(&new)).await;
        let key = match path == "/v1/invites" {
            true => &key,
            false => continue,
        };
        let request = RedeemRequest {
            invite: invite.reveal().to_string(),
            key: key.id(),
            hash: key.hash(),
            label: "laptop".into(),
            machine: None,
        };
        let redeem = || checked.ask("POST", "/v1/redeem", None).json(&request);
        checked.call("/v1/redeem", redeem()).await;
        let other = RedeemRequest {
            key: lost.id(),
            ..request.clone()
        };
        let again = checked.ask("POST", "/v1/redeem", None).json(&other);
        checked.assert_status("/v1/redeem", again, 403).await;
    }
    let path = "/v1/admin/invites";
    let listed = checked.call(path, ask("GET", path)).await;
    assert!(listed["invites"][0]["redeemed"].is_string());

    let own = |address: &str| checked.ask("POST", address, Some(&key));
    let address = format!("/v1/machines/{}/rename", key.id());
    let rename = RenameRequest {
        label: "old laptop".into(),
    };
    let path = "/v1/machines/{key}/rename";
    checked.call(path, own(&address).json(&rename)).await;
    let listed = checked.ask("GET", "/v1/machines", Some(&key));
    checked.call("/v1/machines", listed).await;
    let path = "/v1/machines/{key}/revoke";
    let revoke = |id| format!("/v1/machines/{id}/revoke");
    checked
        .assert_status(path, own(&revoke(pusher.id())), 403)
        .await;
    checked
        .assert_status(path, ask("POST", &revoke(Key::random(&Random).id())), 404)
        .await;
    checked.call(path, own(&revoke(key.id()))).await;
}

/// Some moment in the future.
fn running_end(checked: &Checked<'_>) -> statehold_core::time::Timestamp {
    use statehold_core::environment::Clock as _;
    let now = checked.running.clock.now().as_millis();
    statehold_core::time::Timestamp::from_millis(now + 86_400_000)
}

#[tokio::test]
async fn requests_and_answers_are_as_described() {
    let running = start(&Store::memory()).await;
    let checked = Checked {
        running: &running,
        description: Description::strict(),
        http: reqwest::Client::new(),
        done: Mutex::default(),
    };
    let pusher = running.key(Role::Push).await;
    let reader = running.key(Role::Read).await;
    let operator = running.operator.as_ref().unwrap();
    for path in ["/livez", "/readyz", "/v1/openapi.json", "/v1/info"] {
        let key = path.ends_with("info").then_some(&reader);
        checked.call(path, checked.ask("GET", path, key)).await;
    }
    let nobody = checked.ask("GET", "/v1/info", None);
    checked.assert_status("/v1/info", nobody, 401).await;
    let elsewhere = checked.ask("GET", "/v1/info", Some(&reader));
    let elsewhere = elsewhere.header("X-Statehold-Repository", "0".repeat(32));
    checked.assert_status("/v1/info", elsewhere, 403).await;
    transfers(&checked, &pusher, &reader).await;
    files(&checked, &pusher).await;
    keys(&checked, operator, &pusher).await;

    let done = checked.done.lock().unwrap();
    let operations = checked.description.operations();
    let missing: Vec<_> = operations
        .keys()
        .filter(|key| !done.contains(*key))
        .collect();
    assert!(missing.is_empty(), "described and never tried: {missing:?}");
}
