//! The task of a session: its phases, up to its log line.

use std::io;
use std::rc::Rc;

use crate::base::clock;
use crate::base::listen::ListenAddr;
use crate::base::proxy_protocol::Transport;
use crate::base::remote::Remote;
use crate::observe::{Level, os_error};
use crate::relay::Pace;
use crate::ring::DatagramSocket;
use crate::stream::conf::Content;
use crate::stream::drops::Watch;
use crate::stream::local::{Generation, Local};
use crate::stream::modules::log;
use crate::stream::phases;
use crate::stream::proxy::{self, Conf, Pass, Tries};
use crate::stream::serve::{End, Open};
use crate::stream::session::Session;
use crate::upstream::Outcome;
use crate::vars::Template;

use super::flow::Flow;
use super::progress::Limits;
use super::relay::{self, Ended};
use super::table::Entry;

/// A session that begins.
pub struct Opened {
    /// The worker it runs on.
    pub local: Rc<Local>,
    /// The configuration that it keeps.
    pub generation: Rc<Generation>,
    /// Index of the listening address in the configuration.
    pub listen: u32,
    /// The listening address.
    pub addr: Rc<ListenAddr>,
    /// Its datagrams, of which the first has come.
    pub flow: Rc<Flow>,
    /// Its place in the table.
    pub entry: Entry,
    /// Its place among the worker's connections.
    pub open: Open,
}

/// How many datagrams a session at this address has.
pub fn limits(generation: &Generation, listen: u32) -> Limits {
    let id = generation.stream.listens[listen as usize].default_server;
    let server = generation.server(id);
    match &server.content {
        Content::Proxy(_) => Limits::proxy(server.proxy.requests, server.proxy.responses),
        // Over with its first datagram.
        Content::Return(_) | Content::Pass(_) => Limits::proxy(1, Some(0)),
    }
}

/// Serves a session until it is over.
pub async fn serve(opened: Opened) {
    let flow = &*opened.flow;
    let mut session = Session::new(
        opened.local,
        opened.generation,
        opened.listen,
        opened.addr,
        Remote::Inet(flow.route.peer),
    );
    let s = &mut session;
    s.local_addr = Some(flow.route.local);
    s.log_plain(
        Level::Info,
        format_args!("udp client {} connected to {}", s.remote, s.listen_addr),
    );
    s.received = flow.received.get();
    s.status = match run(s, flow).await {
        Ok(()) => 200,
        Err(status) => status,
    };
    flow.report(s);
    log::write(s);
    drop((opened.entry, opened.open));
}

/// The phases between the first datagram and the log line.
async fn run(s: &mut Session, flow: &Flow) -> Result<(), End> {
    let generation = s.generation();
    phases::enter(s)?;
    match &generation.server(s.server).content {
        Content::Proxy(pass) => pass_on(s, flow, pass).await,
        Content::Return(text) => {
            answer(s, flow, text);
            Ok(())
        }
        Content::Pass(_) => {
            s.log(Level::Error, format_args!("cannot pass udp connection"));
            Err(500)
        }
    }
}

/// The content of `return`: one datagram, unless there is nothing in it. Whoever has no room for it
/// has lost it, as on the way.
fn answer(s: &mut Session, flow: &Flow, text: &Template<Session>) {
    text.with(s, |s, text| {
        if text.is_empty() {
            return;
        }
        if let (0, Err(error)) = flow.reply([text].into_iter()) {
            let shown = os_error(&error);
            s.log(Level::Info, format_args!("sendmsg() failed {shown}"));
        }
    });
}

/// Passes the session to an upstream. As long as no answer has come, the next server gets the
/// datagrams of one that does not listen.
async fn pass_on(s: &mut Session, flow: &Flow, pass: &Pass) -> Result<(), End> {
    let generation = s.generation();
    let conf = &generation.server(s.server).proxy;
    let mut tries = Tries::new(s, pass, conf).await?;
    loop {
        let (mut pick, conn) = tries.connect::<DatagramSocket>(s, conf).await?;
        let peer = Rc::new(conn.sock);
        let may_go_on = tries.may_go_on(conf);
        let settings = settings(s, conf, may_go_on);
        let watch = conf
            .session_drop
            .then(|| s.local.sessions.watch(tries.group(), &pick));
        let stop = watch.as_ref().map(Watch::stop);
        let ended = relay::run(s, flow, &peer, settings, stop).await;
        drop(watch);
        flow.report(s);
        if let Some(state) = s.upstream.last_mut() {
            state.session_ms = Some(clock::precise_ms().saturating_sub(state.started_ms));
        }
        let is_all_back = flow.take_back();
        let end = judge(s, flow, ended);
        let outcome = match end {
            Verdict::Over(_) if flow.progress().has_answer() => Outcome::Ok,
            // Nobody can tell whether it is there.
            Verdict::Over(_) => Outcome::NotCounted,
            Verdict::Refused | Verdict::Silent => Outcome::Failed,
        };
        if outcome == Outcome::Ok {
            proxy::note_times(s, &mut pick);
        }
        let more = tries.may_go_on(conf);
        tries.release(s, pick, outcome);
        match end {
            Verdict::Over(result) => return result,
            Verdict::Refused if flow.progress().has_answer() => return Ok(()),
            Verdict::Refused if is_all_back && more => {}
            Verdict::Refused | Verdict::Silent => return Err(502),
        }
    }
}

fn settings(s: &mut Session, conf: &Conf, may_go_on: bool) -> relay::Conf {
    relay::Conf {
        timeout_ms: conf.timeout_ms,
        upload: Pace::new(proxy::rate(s, conf.upload_rate.as_ref())),
        download: Pace::new(proxy::rate(s, conf.download_rate.as_ref())),
        head: proxy::header(s, conf, Transport::Datagram),
        keep: may_go_on && conf.responses != Some(0),
    }
}

/// What the end of a relay means.
enum Verdict {
    /// The session is over.
    Over(Result<(), End>),
    /// The peer does not take datagrams.
    Refused,
    /// The peer has not answered as often as it was to.
    Silent,
}

/// Says in the log how the relay has ended.
fn judge(s: &mut Session, flow: &Flow, ended: Ended) -> Verdict {
    match ended {
        Ended::Done => flow.log(s, "udp done"),
        Ended::Shutdown => flow.log(s, "disconnected on shutdown"),
        Ended::Dropped => s.log(
            Level::Info,
            format_args!("session dropped, its server is gone"),
        ),
        Ended::TimedOut if !flow.progress().is_owed() => flow.log(s, "udp timed out"),
        Ended::TimedOut => {
            let error = io::Error::from_raw_os_error(libc::ETIMEDOUT);
            let shown = os_error(&error);
            s.log(Level::Error, format_args!("upstream timed out {shown}"));
            return Verdict::Silent;
        }
        Ended::UpstreamFailed { sending, error } => {
            let (doing, call) = match sending {
                true => ("proxying and sending to upstream", "sendmsg"),
                false => ("proxying and reading from upstream", "recv"),
            };
            s.doing = doing;
            s.log(
                Level::Error,
                format_args!("{call}() failed {}", os_error(&error)),
            );
            s.doing = "proxying connection";
            return Verdict::Refused;
        }
        Ended::ClientFailed(error) => {
            s.doing = "proxying and sending to client";
            s.log(
                Level::Info,
                format_args!("sendmsg() failed {}", os_error(&error)),
            );
        }
    }
    Verdict::Over(Ok(()))
}

impl Flow {
    /// Tells the session what the datagrams have come to.
    fn report(&self, s: &mut Session) {
        s.received = self.received.get();
        s.sent = self.sent.get();
        if let Some(state) = s.upstream.last_mut() {
            state.bytes_sent = self.up_sent.get();
            state.bytes_received = self.up_received.get();
            state.first_byte_ms = self
                .answered_ms
                .get()
                .map(|at_ms| at_ms.saturating_sub(state.started_ms));
        }
    }

    fn log(&self, s: &Session, what: &str) {
        let progress = self.progress();
        let (requests, responses) = (progress.requests, progress.responses);
        let (received, sent) = (self.received.get(), self.sent.get());
        let (from, to) = (self.up_received.get(), self.up_sent.get());
        s.log_plain(
            Level::Info,
            format_args!(
                "{what}, packets from/to client:{requests}/{responses}, bytes from/to \
                 client:{received}/{sent}, bytes from/to upstream:{from}/{to}"
            ),
        );
    }
}
