//! A connection that is listened to while its caller waits for a verdict.
//!
//! hyper reads no further once it has bytes from beyond the request: a stray line end, a pipelined request. It would
//! never learn then that the caller has hung up, and a result would count as heard. So while a call waits, whatever
//! comes is read ahead here, and handed on when hyper asks for it.

use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is read ahead, in bytes. Beyond it a hang-up goes unnoticed again.
const AHEAD: usize = 64 * 1024;

/// A connection, as hyper sees it and as whoever listens to it does. A cheap handle; all of them belong to one task.
#[derive(Clone, Debug)]
pub struct Line(Arc<Mutex<State>>);

/// What bytes come over: a socket, or TLS on one.
pub trait Wire: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Wire for T {}

#[derive(Debug)]
struct State {
    stream: Box<dyn Wire>,
    ahead: BytesMut,
    /// Whether a call has been read to its end and waits.
    waiting: bool,
}

/// A call that waits; dropped when it has its answer.
#[derive(Debug)]
pub struct Waiting(Line);

impl Line {
    /// Takes a connection over.
    pub fn new(stream: impl Wire + 'static) -> Self {
        Self(Arc::new(Mutex::new(State { stream: Box::new(stream), ahead: BytesMut::new(), waiting: false })))
    }

    /// From now on a hang-up is the end of the call. Not before its body is read, which may come with the end.
    pub fn wait(&self) -> Waiting {
        self.lock().waiting = true;
        Waiting(self.clone())
    }

    /// Is over when the caller closes its side, or the connection breaks, while a call waits. hyper takes the end of
    /// a connection that sends nothing more for the same.
    ///
    /// Polled in the task that serves the connection: so it needs nobody to tell it that a call waits.
    pub async fn hung_up(&self) {
        poll_fn(|context| self.lock().poll_hung_up(context)).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn poll_hung_up(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.waiting && self.ahead.len() < AHEAD {
            let mut bytes = [0; 1024];
            let mut read = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *self.stream).poll_read(context, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => self.ahead.extend_from_slice(read.filled()),
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().waiting = false;
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.ahead.is_empty() {
            return Pin::new(&mut *state.stream).poll_read(context, into);
        }
        let length = state.ahead.len().min(into.remaining());
        into.put_slice(&state.ahead[..length]);
        state.ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().stream.is_write_vectored()
    }
}
