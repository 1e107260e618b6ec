//! A connection: what has come over it and what has not, for as long as it may take.
//!
//! hyper reads no further once it has bytes from beyond the request: a stray line end, a pipelined request. It would
//! never learn then that the caller has hung up, and a result would count as heard. So while a call waits, whatever
//! comes is read ahead here, and handed on when hyper asks for it.
//!
//! Its times are kept here as well, since hyper knows one for the headers alone: each is a deadline for the whole, so
//! that a byte a second gains nothing; but for the answer, where whoever takes some of it may go on. The one of the body is the reader's of the body.

use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::seats::Seat;

/// The most that is read ahead, in bytes. Beyond it a hang-up goes unnoticed again.
const AHEAD: usize = 64 * 1024;

/// A connection, as hyper sees it and as whoever listens to it does. A cheap handle; all of them belong to one task.
#[derive(Clone, Debug)]
pub struct Line(Arc<Mutex<State>>);

/// What bytes come over: a socket, or TLS on one.
pub trait Wire: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Wire for T {}

/// How long a caller may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until the headers of a request are whole.
    pub header: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Without taking anything of its answer.
    pub write: Duration,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// Nothing came.
    Idle,
    /// The headers came in part.
    Header,
    /// The answer is not taken.
    Write,
}

#[derive(Debug)]
struct State {
    stream: Box<dyn Wire>,
    seat: Arc<Seat>,
    times: Times,
    ahead: BytesMut,
    /// Whether a call has been read to its end and waits.
    waiting: bool,
    phase: Phase,
    /// Since when it is in this phase.
    since: Instant,
    /// Whether the body of the request has not come as a whole.
    unread: bool,
    /// Whether what is written is an answer. What hyper writes of its own accord is none.
    answering: bool,
    /// The status that hyper would have refused the request with by itself.
    refused: Option<u16>,
    /// Since when nothing could be written.
    stalled: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing of a request has come yet; it is the first one, or not.
    Idle { first: bool },
    /// Its headers come.
    Header,
    /// It is there, and not answered yet.
    Open,
}

/// A call that waits; dropped when it has its answer.
#[derive(Debug)]
pub struct Waiting(Line);

/// A request that is open; dropped with the last of its answer.
#[derive(Debug)]
pub struct Open(Line);

impl Line {
    /// Takes a connection over that was accepted at this moment.
    pub fn new(stream: impl Wire + 'static, seat: Arc<Seat>, times: Times, accepted: Instant) -> Self {
        Self(Arc::new(Mutex::new(State {
            stream: Box::new(stream),
            seat,
            times,
            ahead: BytesMut::new(),
            waiting: false,
            phase: Phase::Idle { first: true },
            since: accepted,
            unread: false,
            answering: false,
            refused: None,
            stalled: None,
        })))
    }

    /// The headers of a request are there; `unread`: its body is not.
    pub fn open(&self, unread: bool) -> Open {
        let mut state = self.lock();
        (state.phase, state.unread, state.answering) = (Phase::Open, unread, true);
        state.take_seat();
        drop(state);
        Open(self.clone())
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

    /// Is over when the caller has taken too long. Polled as [`Line::hung_up`] is, after hyper.
    pub async fn overdue(&self) -> Overdue {
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut armed = None;
        poll_fn(|context| {
            let Some((at, why)) = self.lock().due() else { return Poll::Pending };
            if armed != Some(at) {
                timer.as_mut().reset(at);
                armed = Some(at);
            }
            timer.as_mut().poll(context).map(|()| why)
        })
        .await
    }

    /// The status that hyper refused the request with, of which nothing was sent.
    pub fn refused(&self) -> Option<u16> {
        self.lock().refused
    }

    /// Whether the caller is still about to send a body that nobody wants.
    pub fn is_unread(&self) -> bool {
        self.lock().unread
    }

    /// Writes the last words and parts: the other side is left the time to read them. What is unread when a socket
    /// closes takes the answer away with it.
    pub async fn part(mut self, words: &[u8]) -> io::Result<()> {
        {
            let mut state = self.lock();
            (state.answering, state.refused) = (true, None);
            state.seat.idle(Some(Instant::now()));
        }
        self.write_all(words).await?;
        self.shutdown().await?;
        let mut unwanted = [0; 4096];
        while self.read(&mut unwanted).await? > 0 {}
        Ok(())
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

    /// When what takes too long, as it stands. None too for a time beyond the clock's range.
    fn due(&self) -> Option<(Instant, Overdue)> {
        let Times { header, idle, write } = self.times;
        let (time, why) = match self.phase {
            Phase::Idle { first: true } => (Some(header), Overdue::Idle),
            Phase::Idle { first: false } => (Some(idle), Overdue::Idle),
            Phase::Header => (Some(header), Overdue::Header),
            Phase::Open => (None, Overdue::Idle),
        };
        let phase = time.and_then(|time| self.since.checked_add(time)).map(|at| (at, why));
        let stalled = self.stalled.and_then(|since| since.checked_add(write)).map(|at| (at, Overdue::Write));
        phase.into_iter().chain(stalled).min_by_key(|(at, _)| *at)
    }

    /// Says whether the connection may be given up for another.
    fn take_seat(&self) {
        let idle = match (self.stalled, self.phase) {
            (Some(since), _) => Some(since),
            (None, Phase::Open) if !self.unread => None,
            (None, _) => Some(self.since),
        };
        self.seat.idle(idle);
    }

    fn came(&mut self) {
        if let Phase::Idle { first } = self.phase {
            self.phase = Phase::Header;
            // The first has had its time since the connection came.
            if !first {
                self.since = Instant::now();
                self.take_seat();
            }
        }
    }

    /// Notes whether a write goes on.
    fn wrote<T>(&mut self, written: Poll<T>) -> Poll<T> {
        let before = self.stalled;
        self.stalled = match &written {
            Poll::Pending => before.or_else(|| Some(Instant::now())),
            Poll::Ready(_) => None,
        };
        if self.stalled != before {
            self.take_seat();
        }
        written
    }

    /// Takes hyper's own word, which says nothing but a status: what there is to say is said when hyper is done.
    fn keeps(&mut self, bytes: &[u8]) -> bool {
        if self.answering {
            return false;
        }
        let status = bytes.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
        self.refused = self.refused.or(status).or(Some(400));
        true
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().waiting = false;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.phase, state.since) = (Phase::Idle { first: false }, Instant::now());
        state.take_seat();
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.ahead.is_empty() {
            let before = into.filled().len();
            let read = Pin::new(&mut *state.stream).poll_read(context, into);
            if into.filled().len() > before {
                state.came();
            }
            return read;
        }
        let length = state.ahead.len().min(into.remaining());
        into.put_slice(&state.ahead[..length]);
        state.ahead.advance(length);
        if state.ahead.is_empty() {
            // It may have been as large as it gets.
            state.ahead = BytesMut::new();
        }
        state.came();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if state.keeps(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut *state.stream).poll_write(context, bytes);
        state.wrote(written)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        let flushed = Pin::new(&mut *state.stream).poll_flush(context);
        // hyper flushes when it has written all that it had: the answer is out.
        if flushed.is_ready() && state.phase != Phase::Open {
            state.answering = false;
        }
        state.wrote(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.refused.is_some() {
            return Poll::Ready(Ok(()));
        }
        let shut = Pin::new(&mut *state.stream).poll_shutdown(context);
        state.wrote(shut)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if !state.answering {
            let length = pieces.iter().map(|piece| piece.len()).sum();
            state.keeps(pieces.first().map_or(&[], |piece| piece));
            return Poll::Ready(Ok(length));
        }
        let written = Pin::new(&mut *state.stream).poll_write_vectored(context, pieces);
        state.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().stream.is_write_vectored()
    }
}

/// The body of a request, which notes when it has come as a whole.
#[derive(Debug)]
pub struct Coming<B> {
    pub body: B,
    pub line: Line,
}

/// The body of an answer, with which its request is over.
#[derive(Debug)]
pub struct Going<B> {
    pub body: B,
    pub _open: Open,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Coming<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            let mut state = self.line.lock();
            if std::mem::take(&mut state.unread) {
                state.take_seat();
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body + Unpin> Body for Going<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::http::seats::Seats;

    const TIMES: Times =
        Times { header: Duration::from_secs(10), idle: Duration::from_secs(100), write: Duration::from_secs(20) };

    fn line(accepted: Instant) -> (DuplexStream, Line) {
        let (caller, ours) = duplex(64);
        let seat = Seats::new(1).take(CancellationToken::new(), accepted).unwrap();
        (caller, Line::new(ours, Arc::new(seat), TIMES, accepted))
    }

    async fn byte(caller: &mut DuplexStream, line: &mut Line) {
        caller.write_all(b"x").await.unwrap();
        line.read_exact(&mut [0]).await.unwrap();
    }

    fn due(line: &Line) -> Option<(Instant, Overdue)> {
        line.lock().due()
    }

    #[tokio::test]
    async fn headers_have_one_time_for_all_of_their_bytes() {
        let accepted = Instant::now();
        let (mut caller, mut line) = line(accepted);
        assert_eq!(due(&line), Some((accepted + TIMES.header, Overdue::Idle)));
        for _ in 0..5 {
            byte(&mut caller, &mut line).await;
            assert_eq!(due(&line), Some((accepted + TIMES.header, Overdue::Header)));
        }
        let open = line.open(true);
        byte(&mut caller, &mut line).await;
        assert_eq!(due(&line), None, "the time of a body is its reader's");
        drop(open);
        let (until, why) = due(&line).unwrap();
        assert!(why == Overdue::Idle && until >= accepted + TIMES.idle);
        // Those of the next request have theirs from their first byte on.
        byte(&mut caller, &mut line).await;
        let next = due(&line);
        assert!(next.is_some_and(|(until, why)| why == Overdue::Header && until >= accepted + TIMES.header));
        byte(&mut caller, &mut line).await;
        assert_eq!(due(&line), next);
    }

    #[tokio::test]
    async fn an_answer_has_its_time_from_when_nothing_of_it_was_taken_any_more() {
        let (mut caller, mut line) = line(Instant::now());
        byte(&mut caller, &mut line).await;
        let _open = line.open(false);
        line.write_all(&[b'x'; 64]).await.unwrap();
        assert_eq!(due(&line), None);
        let mut first = None;
        for _ in 0..3 {
            assert!(futures_util::poll!(pin!(line.write(b"x"))).is_pending());
            first = first.or(due(&line));
            assert!(matches!(due(&line), Some((_, Overdue::Write))));
            assert_eq!(due(&line), first, "who asks again does not begin again");
        }
        caller.read_exact(&mut [0]).await.unwrap();
        line.write_all(b"x").await.unwrap();
        assert_eq!(due(&line), None, "something was taken");
    }

    #[tokio::test]
    async fn what_is_read_ahead_has_a_bound_and_comes_in_order() {
        let (mut caller, line) = line(Instant::now());
        let _open = line.open(false);
        let waiting = line.wait();
        let flood = tokio::spawn(async move {
            for number in 0..10_000_u32 {
                caller.write_all(&[number.to_be_bytes().as_slice(), &[0; 28]].concat()).await.unwrap();
            }
        });
        // Over when nothing more is taken: the caller is still there, and so this never ends.
        let mut hung_up = Box::pin(line.hung_up());
        let taken = async {
            while line.lock().ahead.len() < AHEAD {
                assert!(futures_util::poll!(hung_up.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            for _ in 0..1000 {
                assert!(futures_util::poll!(hung_up.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), taken).await.expect("it is read ahead");
        assert!(line.lock().ahead.len() < AHEAD + 1024);
        drop((waiting, hung_up));
        let mut line = line;
        let mut piece = [0; 32];
        for number in 0..10_000_u32 {
            line.read_exact(&mut piece).await.unwrap();
            assert_eq!(piece[..4], number.to_be_bytes());
        }
        flood.await.unwrap();
    }
}
