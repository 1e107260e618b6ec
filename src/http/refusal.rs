//! What is said to a caller whose request never became one, or has no place: raw, since nobody else answers it.

use http::StatusCode;

use super::Settings;
use crate::domain::span::Span;

/// The status and the reason of a request that hyper takes for none. hyper itself would say no more than a number.
pub fn of(status: Option<u16>, error: &hyper::Error, settings: &Settings) -> Option<(StatusCode, String)> {
    let status = match status.map(StatusCode::from_u16) {
        Some(Ok(status)) => status,
        // Of those that hyper says nothing to, only the one with HTTP/2 has asked for anything.
        _ if error.is_parse() => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        _ => return None,
    };
    let why = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => format!(
            "the headers are longer than {} bytes together, or more than 100; send fewer, or raise the setting \
             `server.maxHeader`",
            settings.max_header
        ),
        StatusCode::URI_TOO_LONG => "the path and query are longer than 65534 bytes; send less in them".to_owned(),
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
            "this port speaks HTTP/1.1; a proxy in front has to speak that to it".to_owned()
        }
        _ => format!("this is no request of HTTP/1.1 ({error}); see RFC 9112"),
    };
    Some((status, why))
}

/// The reason of a request whose headers took too long.
pub fn slow_header(settings: &Settings) -> String {
    let within = Span(settings.header_timeout);
    format!("the headers did not come within {within}; send them at once, or raise the setting `server.headerTimeout`")
}

/// A whole answer, after which the connection closes.
pub fn written(status: StatusCode, why: &str) -> Vec<u8> {
    let (code, title) = (status.as_u16(), status.canonical_reason().unwrap_or("Refused"));
    let length = why.len() + 1;
    format!(
        "HTTP/1.1 {code} {title}\r\ncontent-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n{why}\n"
    )
    .into_bytes()
}
