//! The page: files that are part of the program.

use axum::Router;
use axum::http::header;
use axum::routing::get;

/// The path, the type, and the bytes of each file.
const FILES: [(&str, &str, &[u8]); 3] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_bytes!("../page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_bytes!("../page/page.js")),
];

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, (path, kind, bytes)| {
        let headers = [(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")];
        router.route(path, get((headers, *bytes)))
    })
}
