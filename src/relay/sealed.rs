//! A relay of which an end is encrypted: every byte passes through the record layer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use crate::ring::{Class, Expect};
use crate::tls::Transport;

use super::lane::Ended;
use super::{Conf, End, Flows, Link, Outcome, Side, Stop, Way};

/// Buffers above this are given up while a direction waits.
const KEPT_BYTES_MAX: usize = 4 << 10;

/// The encryption of an end, if there is any.
type Seal = Option<RefCell<Box<Transport>>>;

/// As [`super::relay`], with the encryption of the client's connection and of the upstream's.
/// There are no rates.
pub async fn relay_sealed(
    client: End<'_>,
    upstream: End<'_>,
    [client_tls, upstream_tls]: [Option<Box<Transport>>; 2],
    conf: &Conf,
    flows: &Flows,
    stop: &Stop,
) -> Outcome {
    let link = Link::new(&client, &upstream, conf, flows);
    let (client_tls, upstream_tls) = (client_tls.map(RefCell::new), upstream_tls.map(RefCell::new));
    let (mut client, mut upstream) = (client, upstream);
    let (first_up, first_down) = (take(&mut upstream.first), take(&mut client.first));
    let up = pass(
        link.way(Side::Client),
        first_up,
        client,
        &client_tls,
        &upstream_tls,
    );
    let down = pass(
        link.way(Side::Upstream),
        first_down,
        upstream,
        &upstream_tls,
        &client_tls,
    );
    let (mut up, mut down) = (pin!(up), pin!(down));
    let mut has_ended = [false; 2];
    poll_fn(|cx: &mut Context<'_>| {
        if stop.poll(cx) {
            return Poll::Ready(Outcome::Stopped);
        }
        for (at, from) in [Side::Client, Side::Upstream].into_iter().enumerate() {
            if has_ended[at] {
                continue;
            }
            let polled = match from {
                Side::Client => up.as_mut().poll(cx),
                Side::Upstream => down.as_mut().poll(cx),
            };
            let Poll::Ready(ended) = polled else { continue };
            has_ended[at] = true;
            let both = has_ended[0] && has_ended[1];
            if let Some(outcome) = link.end(from, ended, both || !conf.half_close) {
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    })
    .await
}

fn take(chunk: &mut crate::ring::Chunk) -> Vec<u8> {
    std::mem::take(chunk).to_vec()
}

/// Passes on what comes from one end until it ends.
async fn pass(way: Way<'_>, first: Vec<u8>, from: End<'_>, open: &Seal, seal: &Seal) -> Ended {
    let End { recv, early, .. } = from;
    let mut recv = recv;
    let mut plain = first;
    if !early.is_empty() {
        way.flow
            .received
            .set(way.flow.received.get() + early.len() as u64);
        plain.extend_from_slice(&early);
    }
    drop(early);
    let mut has_ended = None;
    loop {
        if !plain.is_empty() {
            match send(way, plain, seal).await {
                Ok(buffer) => plain = buffer,
                Err(error) => return Ended::Sending(error),
            }
        }
        if let Some(result) = has_ended {
            if let Some(seal) = seal {
                let wire = seal.borrow_mut().seal_close();
                let _ = way.to.send(wire).await;
            }
            return Ended::Received(result);
        }
        if plain.capacity() > KEPT_BYTES_MAX {
            plain = Vec::new();
        }
        let read = recv
            .take()
            .unwrap_or_else(|| way.from.recv(Expect::Later, Class::Stream));
        has_ended = match read.await {
            Ok(chunk) if chunk.is_empty() => Some(Ok(())),
            Ok(chunk) => {
                let opened = take_in(way, &chunk, &mut plain, open);
                way.has_received(plain.len() as u64);
                opened
            }
            Err(error) => Some(Err(error)),
        };
    }
}

/// Appends what was received to `plain`, and says whether and how the source has ended with it.
fn take_in(
    way: Way<'_>,
    received: &[u8],
    plain: &mut Vec<u8>,
    open: &Seal,
) -> Option<io::Result<()>> {
    let Some(open) = open else {
        plain.extend_from_slice(received);
        return None;
    };
    let mut open = open.borrow_mut();
    match open.open(received, plain) {
        Ok(()) => open.is_closed().then_some(Ok(())),
        Err(broken) => {
            drop(way.from.send(open.seal_alert(broken)));
            let error = io::Error::new(io::ErrorKind::InvalidData, broken.reason());
            Some(Err(error))
        }
    }
}

/// Sends what is in `plain` and gives the buffer back, empty.
async fn send(way: Way<'_>, mut plain: Vec<u8>, seal: &Seal) -> io::Result<Vec<u8>> {
    let count = plain.len() as u64;
    let Some(seal) = seal else {
        let (result, mut plain) = way.to.send(plain).await;
        result?;
        way.has_sent(count);
        plain.clear();
        return Ok(plain);
    };
    let wire = seal.borrow_mut().seal(&plain);
    plain.clear();
    let (result, wire) = way.to.send(wire).await;
    result?;
    way.has_sent(count);
    if wire.capacity() <= KEPT_BYTES_MAX {
        seal.borrow_mut().keep(wire);
    }
    Ok(plain)
}
