//! The page: files that are part of the program.

use axum::Router;
use axum::http::header;
use axum::routing::get;

const SCRIPT: &str = "text/javascript; charset=utf-8";
/// The path, the type, and the bytes of each file.
const FILES: [(&str, &str, &[u8]); 15] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_bytes!("../page/page.css")),
    ("/icon.svg", "image/svg+xml", include_bytes!("../page/icon.svg")),
    ("/page.js", SCRIPT, include_bytes!("../page/page.js")),
    ("/text.js", SCRIPT, include_bytes!("../page/text.js")),
    ("/dom.js", SCRIPT, include_bytes!("../page/dom.js")),
    ("/api.js", SCRIPT, include_bytes!("../page/api.js")),
    ("/form.js", SCRIPT, include_bytes!("../page/form.js")),
    ("/gallery.js", SCRIPT, include_bytes!("../page/gallery.js")),
    ("/draw.js", SCRIPT, include_bytes!("../page/draw.js")),
    ("/edit.js", SCRIPT, include_bytes!("../page/edit.js")),
    ("/mask.js", SCRIPT, include_bytes!("../page/mask.js")),
    ("/compare.js", SCRIPT, include_bytes!("../page/compare.js")),
    ("/watch.js", SCRIPT, include_bytes!("../page/watch.js")),
    ("/chart.js", SCRIPT, include_bytes!("../page/chart.js")),
];

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, (path, kind, bytes)| {
        let headers = [(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")];
        router.route(path, get((headers, *bytes)))
    })
}
