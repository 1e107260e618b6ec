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
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::line::Line;
use super::router::{Peer, router};
use super::{Settings, State, tls};

/// How long the listener rests when the machine is out of files or memory.
const REST: Duration = Duration::from_millis(100);

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Serves until `shutdown` is over; then what was being answered has `close_grace` to be written.
///
/// The engine should be drained before, with the connections still open, so that calls that are held get their answer.
pub async fn serve(listener: TcpListener, state: State, shutdown: impl Future<Output = ()>) {
    // Told to finish, and then to be gone.
    let (closing, cut) = (CancellationToken::new(), CancellationToken::new());
    let connections = TaskTracker::new();
    let (settings, grace) = (Arc::clone(&state.settings), state.settings.close_grace);
    let stopping = state.stopping.clone();
    let app = router(state);
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, app.clone(), Arc::clone(&settings), closing.clone());
                connections.spawn(cut.clone().run_until_cancelled_owned(connection));
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
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are still open, and are cut");
        cut.cancel();
        connections.wait().await;
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    settings: Arc<Settings>,
    closing: CancellationToken,
) {
    // Answers are small: waiting for more to send only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "nodelay is not set");
    }
    let line = match &settings.tls {
        None => Line::new(stream),
        Some(tls) => {
            // The one of this moment: what was accepted before goes on with the one that it has.
            let config = Arc::clone(&tls.borrow());
            let handshake = tokio::time::timeout(settings.handshake_timeout, tls::accept(stream, config));
            match closing.run_until_cancelled(handshake).await {
                Some(Ok(Ok(stream))) => Line::new(stream),
                Some(Ok(Err(error))) => return tracing::debug!(%peer, %error, "no TLS handshake"),
                Some(Err(_)) => return tracing::debug!(%peer, "the TLS handshake took too long"),
                None => return,
            }
        }
    };
    let listened = line.clone();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(listened.clone());
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(line), service)
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
    let ended = tokio::select! {
        // In this order: a call that has just begun to wait is listened to at once.
        biased;
        ended = served => ended,
        // The call is dropped with its connection, as hyper does it by itself where it reads the end.
        () = listened.hung_up() => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "the connection broke");
    }
}

/// Faults of one connection, which say nothing of the next.
fn is_the_callers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
