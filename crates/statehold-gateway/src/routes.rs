//! The route table. It fits on a screen, and should go on doing so.

use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post, put};
use axum::{Extension, Router};
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::guard::{guard, no_method, no_route};
use crate::handlers as h;
use crate::{collections, files, heads, openapi, pull, push};

/// A router that remembers its paths, so that they can be compared with what is described.
#[derive(Default)]
pub(crate) struct Routes {
    router: Router<Gateway>,
    pub(crate) paths: Vec<&'static str>,
}

impl Routes {
    fn route(mut self, path: &'static str, methods: MethodRouter<Gateway>) -> Self {
        self.router = self.router.route(path, methods);
        self.paths.push(path);
        self
    }
}

/// All routes of a gateway. Each stands in `openapi.json` too: a test compares the two.
pub(crate) fn routes() -> Routes {
    Routes::default()
        .route("/livez", get(h::livez))
        .route("/readyz", get(h::readyz))
        .route("/v1/info", get(h::info))
        .route("/v1/open", get(h::open))
        .route("/v1/log", get(h::log).post(h::append))
        .route("/v1/heads", get(heads::heads))
        .route("/v1/read", post(h::read))
        .route("/v1/packs/{id}", put(h::put_pack))
        .route(
            "/v1/files/{*path}",
            get(files::read).put(files::write).delete(files::remove),
        )
        .route("/v1/openapi.json", get(openapi::document))
        .route("/_push", post(push::push))
        .route("/_pull", get(pull::pull))
        .route("/v1/usage", get(collections::usage))
        .route("/v1/compact", post(collections::compact))
        .route("/v1/purge", post(collections::purge))
        .route("/v1/redeem", post(h::redeem))
        .route("/v1/invites", post(h::add_invite))
        .route("/v1/machines", get(h::machines))
        .route("/v1/machines/{key}/revoke", post(h::revoke))
        .route("/v1/machines/{key}/rename", post(h::rename))
        .route("/v1/admin/keys", get(h::admin_keys).post(h::admin_add_key))
        .route(
            "/v1/admin/tenants",
            get(h::admin_tenants).post(h::admin_add_tenant),
        )
        .route(
            "/v1/admin/invites",
            get(h::admin_invites).post(h::admin_add_invite),
        )
}

/// What answers requests, until it is told to stop.
pub(crate) fn router(gateway: Gateway, stopping: CancellationToken) -> Router {
    routes()
        .router
        .layer(Extension(stopping))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(gateway.clone(), guard))
        .with_state(gateway)
}
