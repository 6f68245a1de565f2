//! One HTTP/2 connection: `h2` is driven here, and what it brings is handed to lanes.
//!
//! Everything of a connection happens in its task: frames are read and written there, whoever has
//! something to send only wakes it. What all streams wrote in one turn leaves in one send.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use h2::Reason;
use h2::server::{self, Handshake};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::base::clock;
use crate::http::client::{self, Client};
use crate::http::exchange::Exchange;
use crate::http::modules::core::Lingering;
use crate::http::waiting::Call;
use crate::observe::Level;

use super::guard::{Guard, Violation};
use super::io::Io;
use super::lane::{Job, Lanes};
use super::piece::Piece;
use super::timers::Timer;

/// The first bytes of a client that speaks HTTP/2 (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// SETTINGS_MAX_FRAME_SIZE
const FRAME_MAX: u32 = 16 << 10;

/// Bytes of a response that `h2` keeps until they are written.
const SEND_BUFFER: usize = 64 << 10;

/// After a last send, how long until it is looked whether the connection is idle.
const LOOK_AGAIN_MS: u64 = 200;

/// How long a client may take to answer that it has seen the end of the connection announced.
const FAREWELL_MS: u64 = 1_000;

/// Whether bytes are the preface: `None` if there are too few to tell.
pub fn is_preface(input: &[u8]) -> Option<bool> {
    let seen = input.len().min(PREFACE.len());
    if input[..seen] != PREFACE[..seen] {
        return Some(false);
    }
    (seen == PREFACE.len()).then_some(true)
}

/// Serves a connection whose client speaks HTTP/2 until it is over. `slot` is its place among
/// those that wait.
pub fn serve(ex: Exchange, client: Client, slot: usize) -> impl Future<Output = ()> {
    // In a box of its own, as it is large and soon over; what is left stays while the connection
    // is idle.
    let begun = Box::pin(begin(ex, client, slot));
    async move {
        let Some(Begun {
            io,
            lanes,
            driver,
            linger_ms,
        }) = begun.await
        else {
            return;
        };
        if let Some(mut driver) = driver {
            poll_fn(|cx| driver.poll(cx)).await;
            driver.wait_ended();
        }
        lanes.end();
        poll_fn(|cx| {
            lanes.watch(cx.waker());
            if lanes.busy() == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        linger(&io, linger_ms).await;
    }
}

/// A connection that has begun.
struct Begun {
    io: Io<Guard>,
    lanes: Rc<Lanes>,
    /// `None`: it is over already.
    driver: Option<Box<Driver>>,
    linger_ms: u64,
}

async fn begin(ex: Exchange, client: Client, slot: usize) -> Option<Begun> {
    let conn = client.into_connection()?;
    let timer = ex.local.timers.add();
    let reloads = ex.local.reloads();
    conn.sock.set_deadline(None);
    let (io, settings) = (take_over(conn), Settings::of(&ex));
    let linger_ms = settings.linger_ms;
    let handshake = settings
        .announced
        .builder()
        .handshake::<_, Piece>(io.clone());
    let lanes = Lanes::new(Rc::clone(&ex.local), ex.client);
    let conn = shake(handshake, &io, &lanes, &timer, settings.header_timeout_ms).await;
    let driver = conn.map(|conn| {
        Box::new(Driver {
            conn,
            io: io.clone(),
            lanes: Rc::clone(&lanes),
            timer,
            slot,
            settings,
            reloads,
            requests: 0,
            idle_since: None,
            stuck_since: None,
            is_leaving: false,
            is_barred: false,
        })
    });
    Some(Begun {
        io,
        lanes,
        driver,
        linger_ms,
    })
}

fn take_over(conn: client::Connection) -> Io<Guard> {
    Io::new(
        conn.sock,
        conn.tls,
        conn.recv,
        conn.input,
        Guard::new(FRAME_MAX),
    )
}

/// What the connection goes by: that of the server it began with, in the newest configuration.
struct Settings {
    announced: Announced,
    header_timeout_ms: u64,
    send_timeout_ms: u64,
    keepalive_timeout_ms: u64,
    keepalive_requests: u64,
    keepalive_time_ms: u64,
    /// `lingering_timeout`, 0 for no lingering close.
    linger_ms: u64,
}

/// What the client is told when the connection begins, and cannot change any more.
#[derive(PartialEq)]
struct Announced {
    streams_max: u32,
    stream_window: u32,
    connection_window: u32,
    head_max: u32,
}

impl Announced {
    fn builder(&self) -> server::Builder {
        let mut builder = server::Builder::new();
        builder
            .max_concurrent_streams(self.streams_max)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .enable_connect_protocol()
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(self.head_max);
        builder
    }
}

impl Settings {
    fn of(ex: &Exchange) -> Settings {
        let server = ex.generation.server(ex.server);
        let core = &ex.generation.location(server.root).core;
        let client = &server.client;
        let head_max = client.header_buffer_size + client.large_buffers * client.large_buffer_size;
        let announced = Announced {
            streams_max: server.http2.streams_max,
            stream_window: server.http2.stream_window,
            connection_window: server.http2.connection_window,
            // Somewhat more than is taken: what is too large for us gets an answer of ours.
            head_max: u32::try_from(head_max * 2).unwrap_or(u32::MAX),
        };
        Settings {
            announced,
            header_timeout_ms: client.header_timeout_ms,
            send_timeout_ms: core.send_timeout_ms,
            keepalive_timeout_ms: core.keepalive_timeout_ms,
            keepalive_requests: core.keepalive_requests,
            keepalive_time_ms: core.keepalive_time_ms,
            linger_ms: match core.lingering_close {
                Lingering::Off => 0,
                _ => core.lingering_timeout_ms,
            },
        }
    }
}

/// Sends our settings and reads the client's preface.
async fn shake(
    mut handshake: Handshake<Io<Guard>, Piece>,
    io: &Io<Guard>,
    lanes: &Lanes,
    timer: &Timer,
    timeout_ms: u64,
) -> Option<server::Connection<Io<Guard>, Piece>> {
    timer.set(Some(clock::now_ms() + timeout_ms));
    let mut farewell = None;
    let conn = poll_fn(|cx| {
        timer.watch(cx);
        let polled = match Pin::new(&mut handshake).poll(cx) {
            Poll::Ready(Ok(conn)) => Poll::Ready(Some(conn)),
            Poll::Ready(Err(_)) => Poll::Ready(None),
            Poll::Pending if timer.has_fired() => Poll::Ready(None),
            Poll::Pending => {
                farewell = io.with_watch(|guard| guard.violation());
                farewell.map_or(Poll::Pending, |_| Poll::Ready(None))
            }
        };
        if io.push(cx).is_err() {
            return Poll::Ready(None);
        }
        polled
    })
    .await;
    timer.reset();
    if let Some(violation) = farewell {
        log_violation(lanes, &violation);
        // `h2` has not come so far that it could say it.
        let _ = io.clone().write_all(&goaway(violation.code)).await;
        poll_fn(|cx| Pin::new(&mut io.clone()).poll_shutdown(cx))
            .await
            .ok();
    }
    conn
}

/// The frame that ends a connection of which no stream was seen.
fn goaway(code: Reason) -> [u8; 17] {
    let mut frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame[13..].copy_from_slice(&u32::from(code).to_be_bytes());
    frame
}

/// Writes what a client did to the error log.
fn log_violation(lanes: &Lanes, violation: &Violation) {
    log(
        lanes,
        format_args!(
            "client sent {} while processing HTTP/2 connection",
            violation.why
        ),
    );
}

fn log(lanes: &Lanes, message: std::fmt::Arguments<'_>) {
    let ex = Exchange::new(Rc::clone(&lanes.local), lanes.info.clone());
    ex.log(Level::Info, message);
}

/// What drives a connection.
struct Driver {
    conn: server::Connection<Io<Guard>, Piece>,
    io: Io<Guard>,
    lanes: Rc<Lanes>,
    timer: Rc<Timer>,
    slot: usize,
    settings: Settings,
    /// How often the configuration had been replaced when the settings were looked at.
    reloads: u64,
    requests: u64,
    /// Monotonic ms since when there is no request.
    idle_since: Option<u64>,
    /// Monotonic ms since when what is left of responses waits for the client's windows.
    stuck_since: Option<u64>,
    /// The end was announced.
    is_leaving: bool,
    /// The client did what ends the connection.
    is_barred: bool,
}

impl Driver {
    /// One turn of the connection. Ready when it is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.watch(cx);
        self.lanes.watch(cx.waker());
        loop {
            match self.conn.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.take(request, respond);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    self.log_error(&error);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            self.log_resets();
            if !self.is_barred
                && let Some(violation) = self.io.with_watch(|guard| guard.violation())
            {
                self.is_barred = true;
                log_violation(&self.lanes, &violation);
                self.conn.abrupt_shutdown(violation.code);
                continue;
            }
            if self.io.push(cx).is_err() {
                return Poll::Ready(());
            }
            match self.settle(cx) {
                Next::Wait => return Poll::Pending,
                Next::Again => {}
                Next::Over => return Poll::Ready(()),
            }
        }
    }

    fn take(&mut self, request: http::Request<h2::RecvStream>, respond: Respond) {
        self.wait_ended();
        self.requests += 1;
        self.lanes.serve(Job {
            request,
            respond,
            number: self.requests,
        });
        let age_ms = clock::now_ms().saturating_sub(self.lanes.info.accepted_at);
        if self.requests >= self.settings.keepalive_requests
            || age_ms > self.settings.keepalive_time_ms
        {
            self.leave();
        }
    }

    /// Announces that no more requests will be taken. Those under way are served.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            self.conn.graceful_shutdown();
        }
    }

    /// Looks what the connection waits for, and for how long it may.
    fn settle(&mut self, cx: &mut Context<'_>) -> Next {
        if self.lanes.has_panicked() && !self.is_barred {
            self.is_barred = true;
            self.conn.abrupt_shutdown(Reason::INTERNAL_ERROR);
            return Next::Again;
        }
        if self.reloads != self.lanes.local.reloads() && self.is_superseded() {
            self.leave();
            // The client has a moment to hear of it.
            self.wait_ended();
            return Next::Again;
        }
        let now_ms = clock::now_ms();
        let has_fired = self.timer.has_fired();
        self.timer.reset();
        if self.is_head_late(now_ms) {
            return Next::Again;
        }
        let is_busy = self.lanes.busy() > 0;
        if is_busy || self.conn.has_streams() {
            self.wait_ended();
            if !self.is_leaving && self.lanes.local.places.is_draining() {
                self.leave();
                return Next::Again;
            }
        }
        let sending_since = self.io.sending_since();
        if sending_since.is_some() || is_busy || !self.conn.has_streams() {
            self.stuck_since = None;
        } else {
            // A window update that lets something leave comes with a send.
            self.stuck_since.get_or_insert(now_ms);
        }
        if let Some(since) = sending_since.or(self.stuck_since) {
            let until = since + self.settings.send_timeout_ms;
            if now_ms >= until {
                let why = "client timed out (110: Connection timed out) while sending to client";
                log(&self.lanes, format_args!("{why}"));
                return Next::Over;
            }
            // That a send is done wakes nobody.
            let is_only_sending = !is_busy && self.stuck_since.is_none();
            let again = if is_only_sending {
                until.min(now_ms + LOOK_AGAIN_MS)
            } else {
                until
            };
            self.wait_until(again);
            return Next::Wait;
        }
        if is_busy || self.conn.has_streams() {
            return Next::Wait;
        }
        self.idle(cx, now_ms, has_fired)
    }

    /// Takes over what the newest configuration says. True if the client was told otherwise when
    /// the connection began, so that it has to make another.
    fn is_superseded(&mut self) -> bool {
        let local = &self.lanes.local;
        self.reloads = local.reloads();
        let ex = Exchange::new(Rc::clone(local), self.lanes.info.clone());
        let Some(listen) = ex.generation.http.listen_at(&ex.client.listen) else {
            return true;
        };
        let listen = &ex.generation.http.listens[listen as usize];
        let is_on = listen.http2 || ex.generation.server(ex.server).http2.enabled;
        let settings = Settings::of(&ex);
        let is_as_told = is_on && settings.announced == self.settings.announced;
        self.settings = settings;
        !is_as_told
    }

    /// Ends the connection if a header block has been on its way for too long; otherwise sees to it
    /// that this is looked at in time.
    fn is_head_late(&mut self, now_ms: u64) -> bool {
        let since = self.io.with_watch(|guard| guard.unfinished_since());
        let Some(since) = since.filter(|_| !self.is_barred) else {
            return false;
        };
        let until = since + self.settings.header_timeout_ms;
        if now_ms < until {
            self.timer.set(Some(until));
            return false;
        }
        let doing = "reading client request headers";
        let why = format_args!("client timed out (110: Connection timed out) while {doing}");
        log(&self.lanes, why);
        self.is_barred = true;
        self.conn.abrupt_shutdown(Reason::PROTOCOL_ERROR);
        true
    }

    /// Has a look at the connection at `at_ms` at the latest.
    fn wait_until(&self, at_ms: u64) {
        self.timer.set(Some(at_ms.min(self.timer.at_ms())));
    }

    /// There is no request.
    fn idle(&mut self, cx: &mut Context<'_>, now_ms: u64, has_fired: bool) -> Next {
        let waiting = &self.lanes.local.waiting;
        let since = *self.idle_since.get_or_insert_with(|| {
            waiting.begin(self.slot, now_ms, false);
            now_ms
        });
        let settings = &self.settings;
        let patience_ms = match self.requests {
            _ if self.is_leaving => FAREWELL_MS,
            0 => settings.header_timeout_ms,
            _ => settings.keepalive_timeout_ms,
        };
        match waiting.call(self.slot, cx.waker()) {
            Call::Close => return self.close(),
            Call::Park => {
                waiting.end(self.slot);
                waiting.begin(self.slot, since, true);
                self.lanes.rest();
                self.io.rest();
                self.lanes.local.freed();
                // Registers whom to call.
                waiting.call(self.slot, cx.waker());
            }
            Call::None => {}
        }
        let until = since + patience_ms;
        if now_ms >= until || (has_fired && patience_ms == 0) {
            return self.close();
        }
        self.wait_until(until);
        Next::Wait
    }

    /// Closes a connection on which nothing happens.
    fn close(&mut self) -> Next {
        self.wait_ended();
        self.is_leaving = true;
        self.conn.abrupt_shutdown(Reason::NO_ERROR);
        Next::Again
    }

    /// The connection is not among the idle ones any more.
    fn wait_ended(&mut self) {
        if self.idle_since.take().is_some() {
            self.lanes.local.waiting.end(self.slot);
        }
    }

    /// Tells of streams that `h2` reset because of what the client did.
    fn log_resets(&self) {
        while let Some((stream, code)) = self.io.with_watch(|guard| guard.take_reset()) {
            if !self.lanes.has_told(stream) {
                let doing = "while processing HTTP/2 connection";
                log(
                    &self.lanes,
                    format_args!("client broke stream {stream}: {code} {doing}"),
                );
            }
        }
    }

    fn log_error(&self, error: &h2::Error) {
        if !error.is_io() && !error.is_remote() {
            let doing = "while processing HTTP/2 connection";
            log(
                &self.lanes,
                format_args!("client broke HTTP/2: {error} {doing}"),
            );
        }
    }
}

/// What follows a look at the connection.
enum Next {
    /// To wait.
    Wait,
    /// Something has changed for `h2`.
    Again,
    /// Nothing can be said to the client any more.
    Over,
}

type Respond = server::SendResponse<Piece>;

/// Reads on for a while: a socket closed with unread data resets the connection, and the reset may
/// overtake what we said last.
async fn linger(io: &Io<Guard>, timeout_ms: u64) {
    if timeout_ms == 0 || io.is_closed() {
        return;
    }
    io.with_socket(|sock| sock.set_deadline(Some(clock::now_ms() + timeout_ms)));
    poll_fn(|cx| io.poll_discard(cx)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_not_large() {
        fn future_size<F: Future>(_: impl FnOnce(Exchange, Client, usize) -> F) -> usize {
            size_of::<F>()
        }
        assert!(future_size(serve) <= 256, "{}", future_size(serve));
        assert!(size_of::<Driver>() <= 1792, "{}", size_of::<Driver>());
    }

    #[test]
    fn the_preface_is_told_from_requests() {
        assert_eq!(is_preface(b""), None);
        assert_eq!(is_preface(b"PRI * HTTP/2.0\r\n\r\nSM"), None);
        assert_eq!(is_preface(PREFACE), Some(true));
        assert_eq!(is_preface(&[PREFACE, b"more"].concat()), Some(true));
        assert_eq!(is_preface(b"PRI * HTTP/2.0\r\n\r\nXM"), Some(false));
        assert_eq!(is_preface(b"PUT"), Some(false));
    }
}
