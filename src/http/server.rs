//! The connections: accepted until the service stops, then given a moment to write their last answers.
//!
//! HTTP/1.1 only, which is what every caller speaks; over TLS where a certificate is configured.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::line::{Coming, Going, Line, Overdue, Times};
use super::router::{Peer, Reserve, router};
use super::seats::Seat;
use super::{Metrics, Settings, State, refusal, tls};
use crate::failpoint::{self, Point};

/// How long the listener rests when the machine is out of files or memory.
const REST: Duration = Duration::from_millis(100);

/// How much hyper reads at once at the most, beyond the longest headers.
const BUFFER: usize = 64 * 1024;

/// How long a caller has to read the last words of a connection while it is still sending.
const LINGER: Duration = Duration::from_secs(3);

/// The longest that a handshake takes, whatever the settings say: a time that no clock reaches can't be waited for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Serves until `shutdown` is over; then what was being answered has `close_grace` to be written.
///
/// The engine should be drained before, with the connections still open, so that calls that are held get their answer.
pub async fn serve(listener: TcpListener, state: State, shutdown: impl Future<Output = ()>) {
    // Told to finish, and then to be gone.
    let (closing, cut) = (CancellationToken::new(), CancellationToken::new());
    let connections = TaskTracker::new();
    let (seats, grace) = (state.seats.clone(), state.settings.close_grace);
    let stopping = state.stopping.clone();
    let served = Served {
        settings: Arc::clone(&state.settings),
        metrics: Arc::clone(&state.metrics),
        closing: closing.clone(),
        app: router(state),
    };
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let now = Instant::now();
                // With every seat in use, and those for saying so as well, nothing can be said.
                if let Some(seat) = seats.take(cut.child_token(), now).map(Arc::new) {
                    let told = seat.told.clone();
                    let connection = connection(stream, peer, now, seat, served.clone());
                    connections.spawn(told.run_until_cancelled_owned(connection));
                } else {
                    served.metrics.cut("full");
                }
                seats.settled().await;
            }
            Err(error) if is_the_callers(&error) => {}
            Err(error) => {
                tracing::error!(%error, "a connection can't be accepted; is the limit of open files too low?");
                tokio::time::sleep(REST).await;
            }
        }
    }
    drop(listener);
    closing.cancel();
    stopping.cancel();
    connections.close();
    if timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are still open, and are cut");
        cut.cancel();
        connections.wait().await;
    }
}

/// What every connection is served with.
#[derive(Clone)]
struct Served {
    app: Router,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    closing: CancellationToken,
}

/// How a connection came to its end, as far as it is not closed yet.
enum End {
    Served(hyper::Result<()>),
    HungUp,
    Overdue(Overdue),
}

async fn connection(stream: TcpStream, peer: SocketAddr, accepted: Instant, seat: Arc<Seat>, served: Served) {
    // Answers are small: waiting for more to send only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "nodelay is not set");
    }
    let Served { settings, metrics, closing, .. } = &served;
    let times = Times { header: settings.header_timeout, idle: settings.idle_timeout, write: settings.write_timeout };
    let line = match &settings.tls {
        None => Line::new(stream, Arc::clone(&seat), times, accepted),
        Some(tls) => {
            // The one of this moment: what was accepted before goes on with the one that it has.
            let config = Arc::clone(&tls.borrow());
            // The headers have what the handshake leaves of their time.
            let until = accepted + times.header.min(LONGEST);
            // Boxed, as are the last words: what is rare is no part of every connection's memory.
            let handshake = timeout_at(until, Box::pin(tls::accept(stream, config)));
            match closing.run_until_cancelled(handshake).await {
                Some(Ok(Ok(stream))) => Line::new(stream, Arc::clone(&seat), times, accepted),
                Some(Ok(Err(error))) => return tracing::debug!(%peer, %error, "no TLS handshake"),
                Some(Err(_)) => {
                    metrics.cut("handshake");
                    return tracing::debug!(%peer, "the TLS handshake took too long");
                }
                None => return,
            }
        }
    };
    let words = match requests(&line, peer, seat.is_reserve, &served).await {
        End::Served(Ok(())) => {
            failpoint::hit(Point::WrittenAfter);
            None
        }
        End::Served(Err(error)) => {
            tracing::debug!(%peer, %error, "the connection broke");
            refusal::of(line.refused(), &error, settings)
        }
        End::HungUp => return,
        End::Overdue(Overdue::Header) => {
            metrics.cut("header");
            Some((StatusCode::REQUEST_TIMEOUT, refusal::slow_header(settings)))
        }
        End::Overdue(Overdue::Idle) => return metrics.cut("idle"),
        End::Overdue(Overdue::Write) => {
            metrics.cut("write");
            return tracing::debug!(%peer, "the answer was not taken");
        }
    };
    let last = match words {
        Some((status, why)) => {
            tracing::warn!(source = "-", %peer, status = status.as_u16(), reason = why, "request refused");
            metrics.refused("-", status.as_u16());
            refusal::written(status, &why)
        }
        None if line.is_unread() => Vec::new(),
        None => return,
    };
    if let Ok(Err(error)) = timeout(LINGER, Box::pin(line.part(&last))).await {
        tracing::debug!(%peer, %error, "the connection broke");
    }
}

/// Answers the requests of a connection, one after the other.
async fn requests(line: &Line, peer: SocketAddr, is_reserve: bool, served: &Served) -> End {
    let Served { app, settings, closing, .. } = served;
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let open = line.open(!request.body().is_end_stream());
        let mut request = request.map(|body| Body::new(Coming { body, line: line.clone() }));
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(line.clone());
        if is_reserve {
            request.extensions_mut().insert(Reserve);
        }
        let app = app.clone();
        async move {
            let response = app.oneshot(request).await.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(response.map(|body| Going { body, _open: open }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .max_header_size(settings.max_header)
            .max_buf_size(settings.max_header.max(BUFFER))
            .serve_connection(TokioIo::new(line.clone()), service)
    );
    let served = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    tokio::select! {
        // In this order: a call that has just begun to wait is listened to at once, and what has just come was in time.
        biased;
        ended = served => End::Served(ended),
        // The call is dropped with its connection, as hyper does it by itself where it reads the end.
        () = line.hung_up() => End::HungUp,
        late = line.overdue() => End::Overdue(late),
    }
}

/// Faults of one connection, which say nothing of the next.
fn is_the_callers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
