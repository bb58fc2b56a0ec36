//! Who may call the server, and what is the same in all answers.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::refusal::Refusal;
use crate::server::Shared;

/// The address of the client of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) IpAddr);

/// What every answer says to a browser: nothing but this server's own files, no guessing of types, no frames.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// Checks a request before anything else does, and completes the answer.
pub(crate) async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let answer = match check(&shared, &request) {
        Ok(None) => next.run(request).await,
        Ok(Some(answer)) => answer,
        Err(refusal) => refusal.into_response(),
    };
    let mut answer = as_json(answer);
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// Refuses what must not be answered; the answer to a token in the address is a cookie.
fn check(shared: &Shared, request: &Request) -> Result<Option<Response>, Refusal> {
    let host = host(request).filter(|host| shared.answers_to(host.host())).ok_or_else(|| {
        let reason =
            "the server is called by another name than its own: use its address, or start it with --allow-host";
        Refusal::new(StatusCode::FORBIDDEN, reason)
    })?;
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        check_origin(request.headers(), &host)?;
    }
    let Some(token) = &shared.settings.token else { return Ok(None) };
    let cookie = format!("kakusan_{}", shared.port);
    if request.uri().path() == "/"
        && let Some(given) = request.uri().query().and_then(|query| parameter(query, "token"))
    {
        return match is_same(given, token) {
            true => Ok(Some(welcome(&cookie, token))),
            false => Err(Refusal::new(StatusCode::UNAUTHORIZED, "this is not the token of this server")),
        };
    }
    match presented(request.headers(), &cookie).any(|given| is_same(given, token)) {
        true => Ok(None),
        false => Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "this server needs its token: open /?token=TOKEN once in a browser, or send the header `Authorization: \
             Bearer TOKEN`",
        )),
    }
}

/// The name by which the client calls the server.
fn host(request: &Request) -> Option<Authority> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    match (host, more, request.uri().authority()) {
        (Some(host), None, None) => host.to_str().ok()?.parse().ok(),
        (Some(host), None, Some(authority)) if host.as_bytes() == authority.as_str().as_bytes() => {
            Some(authority.clone())
        }
        _ => None,
    }
}

/// A change that another site's page asks for is refused: a browser says where its page comes from.
fn check_origin(headers: &HeaderMap, host: &Authority) -> Result<(), Refusal> {
    let refuse = || Refusal::new(StatusCode::FORBIDDEN, "another site's page asks for this, which is not allowed");
    if let Some(site) = headers.get("sec-fetch-site")
        && !["same-origin", "none"].iter().any(|own| site.as_bytes() == own.as_bytes())
    {
        return Err(refuse());
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let own = origin.to_str().ok().and_then(|origin| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))?;
        authority.parse::<Authority>().ok()
    });
    if own.as_ref() == Some(host) { Ok(()) } else { Err(refuse()) }
}

/// The tokens that a request presents.
fn presented<'a>(headers: &'a HeaderMap, cookie: &'a str) -> impl Iterator<Item = &'a str> {
    let texts = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let bearer = texts(header::AUTHORIZATION).filter_map(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let cookies = texts(header::COOKIE).flat_map(|text| text.split(';')).filter_map(move |pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == cookie).then_some(value)
    });
    bearer.chain(cookies)
}

/// Remembers the token in the browser, and takes it out of the address.
fn welcome(cookie: &str, token: &str) -> Response {
    let mut answer = (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response();
    let value = format!("{cookie}={token}; HttpOnly; SameSite=Strict; Path=/");
    if let Ok(value) = HeaderValue::from_str(&value) {
        answer.headers_mut().insert(header::SET_COOKIE, value);
    }
    answer
}

/// The value of a parameter of an address, as it is written there.
pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(own, _)| *own == name).map(|(_, value)| value)
}

/// Compares in a time that does not depend on where the texts differ.
fn is_same(given: &str, token: &str) -> bool {
    let differ = given.bytes().zip(token.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0 && given.len() == token.len()
}

/// The refusals of the router have no body, or plain text.
fn as_json(answer: Response) -> Response {
    let status = answer.status();
    let is_json = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return answer;
    }
    let reason = match status {
        StatusCode::NOT_FOUND => "there is nothing at this address: GET /api/openapi.json describes what there is",
        StatusCode::METHOD_NOT_ALLOWED => "this address has another method: GET /api/openapi.json describes it",
        StatusCode::BAD_REQUEST => "the address cannot be read",
        _ => status.canonical_reason().unwrap_or("the request cannot be done"),
    };
    let mut json = Refusal::new(status, reason).into_response();
    if let Some(allow) = answer.headers().get(header::ALLOW) {
        json.headers_mut().insert(header::ALLOW, allow.clone());
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_whole_token() {
        assert!(is_same("0123456789abcdef", "0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdeg", "0123456789abcdef0", "x123456789abcdef"] {
            assert!(!is_same(wrong, "0123456789abcdef"), "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_the_host_itself() {
        let host: Authority = "localhost:7860".parse().unwrap();
        let with = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
        };
        assert!(check_origin(&HeaderMap::new(), &host).is_ok());
        for own in ["http://localhost:7860", "https://localhost:7860", "http://LOCALHOST:7860"] {
            assert!(check_origin(&with("origin", own), &host).is_ok(), "{own}");
        }
        for other in ["null", "", "http://localhost", "http://localhost:1", "http://evil.example", "file://"] {
            assert!(check_origin(&with("origin", other), &host).is_err(), "{other}");
        }
        assert!(check_origin(&with("sec-fetch-site", "same-origin"), &host).is_ok());
        assert!(check_origin(&with("sec-fetch-site", "cross-site"), &host).is_err());
        assert!(check_origin(&with("sec-fetch-site", "same-site"), &host).is_err()); // another port of this machine
    }
}
