//! Parcels as HTTP POSTs: NDJSON, compressed with zstd, one idempotency key a parcel.
//!
//! `node` makes it for `[uplink.targets.NAME.http]`. Only a 2xx acknowledges. 400, 413, 422 and their like are about the
//! records and refuse them; 401, 403, 404 and redirects are about the settings, and 408, 429 and 5xx about the
//! moment: the records wait. Redirects are not followed: a POST that turns into the GET of a login page would look
//! delivered. Parcels that are on the way at once have a connection each.

use std::io;
use std::sync::Arc;

use jiff::fmt::rfc2822;
use ureq::http::{HeaderName, HeaderValue, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::config::{HttpConfig, Secret};
use crate::link::{SetupError, secret, tls};
use crate::store::Parcel;
use crate::time::{Span, Timestamp, now};

use super::link::{LinkError, Outcome, Sending, Uplink};
use super::wire;

/// Bytes of an answer, about: its head.
const ANSWER_BYTES: usize = 150;
/// Bytes of an answer that are kept to explain it.
const ANSWER_MAX: u64 = 200;

/// An HTTP receiver.
#[derive(Debug)]
pub struct HttpUplink {
    url: String,
    poster: Arc<Poster>,
}

#[derive(Debug)]
struct Poster {
    agent: Agent,
    uri: Uri,
    token: Option<Secret>,
    headers: Vec<(HeaderName, HeaderValue)>,
    dictionary: bool,
}

impl HttpUplink {
    /// Checks the settings, certificates and secrets too.
    ///
    /// # Errors
    /// Whatever would make every send fail.
    pub fn new(config: &HttpConfig) -> Result<HttpUplink, SetupError> {
        let wrong = |why| SetupError::Url { url: config.url.clone(), why };
        let uri: Uri =
            config.url.parse().map_err(|_| wrong("write http://host/path or https://host/path"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(wrong("it must start with http:// or https://"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            let url = format!("…@{}", uri.host().unwrap_or_default());
            return Err(SetupError::Url { url, why: "credentials go into `token` or `headers`" });
        }
        config.token.as_ref().map(secret::resolve).transpose()?;
        let mut agent = Agent::config_builder()
            .timeout_global(Some(config.timeout.to_std()))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Alarms have places of their own, so there may be twice as many. A connection that is kept costs no handshake.
            .max_idle_connections(2 * config.in_flight)
            .max_idle_connections_per_host(2 * config.in_flight)
            .user_agent(concat!("forebay/", env!("CARGO_PKG_VERSION")));
        if uri.scheme_str() == Some("https") {
            let roots = tls::authorities(config.ca.as_deref())?;
            let roots: Vec<_> =
                roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
            let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots)).build();
            agent = agent.tls_config(tls);
        }
        let headers = config.headers.iter().map(header).collect::<Result<_, _>>()?;
        let (token, dictionary) = (config.token.clone(), config.dictionary);
        let poster = Poster { agent: agent.build().into(), uri, token, headers, dictionary };
        Ok(HttpUplink { url: config.url.clone(), poster: Arc::new(poster) })
    }
}

impl HttpUplink {
    /// Bytes that a parcel puts on the wire, its answer among them.
    ///
    /// # Errors
    /// It cannot be compressed.
    pub fn wire_bytes(&self, parcel: &Parcel, level: i32) -> Result<u64, LinkError> {
        let body = self.poster.pack(&parcel.ndjson(), level)?;
        Ok(self.poster.wire_bytes(&parcel.id, &body))
    }
}

impl Uplink for HttpUplink {
    fn send(&mut self, parcel: Arc<Parcel>, level: i32) -> Sending {
        let poster = Arc::clone(&self.poster);
        Box::pin(async move {
            let sent = Arc::clone(&parcel);
            let post = move || {
                let mut wire = 0;
                (poster.post(&sent.id, &sent.ndjson(), level, &mut wire), wire)
            };
            let posted = tokio::task::spawn_blocking(post).await;
            let (result, wire) =
                posted.unwrap_or_else(|error| (Err(LinkError::Lost(error.to_string())), 0));
            match result {
                Ok(()) => Outcome { acked: parcel.acked(), error: None, wire },
                Err(error) => Outcome { acked: parcel.acked_keys([]), error: Some(error), wire },
            }
        })
    }

    fn target(&self) -> &str {
        &self.url
    }
}

impl Poster {
    /// Says in `wire` what went over the link.
    fn post(&self, id: &str, lines: &[u8], level: i32, wire: &mut u64) -> Result<(), LinkError> {
        let body = self.pack(lines, level)?;
        let mut request = self.agent.post(&self.uri);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(token) = &self.token {
            request =
                request.header("authorization", format!("Bearer {}", secret::resolve(token)?));
        }
        let answer = request
            .header("content-type", wire::NDJSON)
            .header("content-encoding", "zstd")
            .header("idempotency-key", id)
            .send(&body[..]);
        let sent = self.wire_bytes(id, &body);
        *wire = match &answer {
            // Nobody was there to take a byte.
            Err(ureq::Error::HostNotFound | ureq::Error::ConnectionFailed) => 0,
            Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => 0,
            _ => sent,
        };
        // ureq's errors name the host and the reason, never a header.
        judge(answer.map_err(|error| LinkError::Lost(error.to_string()))?)
    }

    fn pack(&self, lines: &[u8], level: i32) -> Result<Vec<u8>, LinkError> {
        wire::pack(lines, level, self.dictionary)
            .map_err(|error| LinkError::Lost(format!("cannot compress a parcel: {error}")))
    }

    fn wire_bytes(&self, id: &str, body: &[u8]) -> u64 {
        (self.head_bytes(id) + body.len() + ANSWER_BYTES) as u64
    }

    /// Bytes of a request's head: the line, our headers, and those that every request has.
    fn head_bytes(&self, id: &str) -> usize {
        const USUAL: usize = "POST  HTTP/1.1\r\nhost: \r\nuser-agent: forebay/0.0.0\r\naccept: */*\r\n\
            content-type: application/x-ndjson\r\ncontent-encoding: zstd\r\ncontent-length: 00000\r\n\
            idempotency-key: \r\n\r\n"
            .len();
        let own = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        let uri = self.uri.authority().map_or(0, |host| host.as_str().len())
            + self.uri.path_and_query().map_or(1, |path| path.as_str().len());
        // A bearer token is a few dozen bytes; its length is not worth reading it again.
        let token = if self.token.is_some() { 80 } else { 0 };
        USUAL + own.sum::<usize>() + uri + token + id.len()
    }
}

fn judge(mut answer: ureq::http::Response<Body>) -> Result<(), LinkError> {
    let status = answer.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(());
    }
    let after = answer
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| retry_after(text, now()));
    let text = answer.body_mut().with_config().limit(ANSWER_MAX).lossy_utf8(true).read_to_string();
    let text = text.unwrap_or_default();
    let text = text.trim().replace(|c: char| c.is_control(), " ");
    let answer =
        if text.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {text}") };
    Err(match status {
        408 | 425 | 429 | 500..=599 => LinkError::Busy { answer, after },
        413 => LinkError::TooLarge { answer },
        300..=399 | 401 | 403 | 404 | 405 | 407 => LinkError::Unwelcome { answer },
        400..=499 => LinkError::Refused { answer },
        _ => LinkError::Lost(answer),
    })
}

/// Seconds, or a date.
fn retry_after(text: &str, now: Timestamp) -> Option<Span> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Span::seconds(i64::from(seconds)));
    }
    let at = rfc2822::parse(text).ok()?.timestamp();
    Some(Timestamp(at.as_microsecond()).since(now)).filter(|span| *span > Span::ZERO)
}

fn header((name, value): (&String, &String)) -> Result<(HeaderName, HeaderValue), SetupError> {
    let wrong = || SetupError::Range {
        key: "headers",
        // The value may be a secret that somebody put here anyway.
        found: format!("`{name}` with an unusable name or value"),
        expected: "header names and values of visible ASCII characters",
    };
    let value = HeaderValue::from_str(value).map_err(|_| wrong())?;
    Ok((name.parse().map_err(|_| wrong())?, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        assert_eq!(retry_after("120", now), Some(Span::seconds(120)));
        assert_eq!(retry_after("Sun, 01 Mar 2026 12:00:30 GMT", now), Some(Span::seconds(30)));
        assert_eq!(retry_after("Sun, 01 Mar 2026 11:00:00 GMT", now), None);
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-5", now), None);
    }
}
