//! The description of the HTTP interface, as OpenAPI 3.1. It is written by hand, and the tests hold
//! it against the router and against real answers.

use axum::http::header;
use axum::response::IntoResponse;

use crate::routes::routes;

/// The description, a JSON text.
pub const DOCUMENT: &str = include_str!("openapi.json");

/// The paths that the router knows, with `{*name}` where the rest of an address is meant.
pub fn routed_paths() -> Vec<&'static str> {
    routes().paths
}

/// `GET /v1/openapi.json`
pub(crate) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
