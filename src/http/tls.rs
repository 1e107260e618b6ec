//! The TLS handshake of one connection. Which certificate is shown is not decided here.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What somebody is told who asks in plain HTTP. `curl` and browsers show it.
const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    this port speaks HTTPS: ask https://\n";

/// Shakes hands. A caller that speaks plain HTTP is told so, since its own error would be about garbage.
pub(super) async fn accept(mut stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    // A method begins with a letter, a handshake with 0x16.
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_alphabetic() {
        // What is left unread when a socket closes takes the answer away with it.
        _ = stream.read(&mut [0; 4096]).await?;
        stream.write_all(PLAIN.as_bytes()).await?;
        stream.shutdown().await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "plain HTTP on a port that speaks HTTPS"));
    }
    TlsAcceptor::from(config).accept(stream).await
}
