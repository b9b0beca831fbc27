//! The page at `/`: three files, built into the program, that need nothing from anywhere else.
//!
//! `http` routes here. The page reads the same API as everybody (`page.js`).

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The page.
pub async fn html() -> Response {
    file("text/html; charset=utf-8", include_str!("page.html"))
}

/// Its looks.
pub async fn css() -> Response {
    file("text/css; charset=utf-8", include_str!("page.css"))
}

/// Its life.
pub async fn js() -> Response {
    file("text/javascript; charset=utf-8", include_str!("page.js"))
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    // Asked again after an update of the node, and small.
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], text)
        .into_response()
}
