//! The fixed order that every exchange passes, and what a jump back into it means.
//!
//! real ip → server rewrite → find location → rewrite → (again, where the URI changed) → real ip,
//! if it was left to the location → limits → access → content. Filters run when the content sends
//! its head, and the log when all is done.

use crate::observe::Level;

use super::body;
use super::client::Client;
use super::conf::Content;
use super::exchange::Exchange;
use super::modules::{access, error_page, limit_conn, realip, rewrite, statics};
use super::proxy;
use super::respond::{self, Reply};
use super::route::{self, Found};

/// How a phase or a content handler ends.
pub enum Outcome {
    /// The response was sent, or cut off because that was the only honest thing left.
    Finished(Finish),
    /// This is to be answered; `error_page` may still replace it.
    Answer(Reply),
    /// The exchange goes on at another URI or named location.
    Jump(Target),
}

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The response is complete; `Exchange::keepalive` says whether another may follow.
    Complete,
    /// The response could not be completed: the connection must close so that the client sees it.
    Truncated,
    /// Close without an answer (444, client gone).
    Drop,
    /// The connection was a tunnel and has ended.
    Tunnel,
}

/// Where an internal redirect leads.
pub enum Target {
    /// A URI with optional arguments.
    Uri(Vec<u8>),
    /// A path, already decoded; the arguments stay.
    Path(Vec<u8>),
    /// A named location, with its `@`.
    Named(Vec<u8>),
}

/// Takes a request whose head is complete through all phases until its response is sent.
pub async fn handle(ex: &mut Exchange, client: &mut Client) -> Finish {
    let outcome = match rewrite_server(ex) {
        Some(outcome) => outcome,
        None => content(ex, client).await,
    };
    finish(ex, client, outcome).await
}

/// Answers a request that is not sound enough to be served. `error_page` may still lead somewhere,
/// and then with a request of which nothing is left but the error.
pub async fn refuse(ex: &mut Exchange, client: &mut Client, status: u16) -> Finish {
    let reply = Reply::status(status);
    if status == 408 {
        return respond::send(ex, client, reply).await;
    }
    let outcome = match error_page::find(ex, reply) {
        error_page::Action::Reply(reply) => return respond::send(ex, client, reply).await,
        error_page::Action::Jump(target) => {
            ex.request.forget_unsound();
            Outcome::Jump(target)
        }
    };
    finish(ex, client, outcome).await
}

/// Follows what comes of an exchange until its response is sent.
async fn finish(ex: &mut Exchange, client: &mut Client, mut outcome: Outcome) -> Finish {
    loop {
        let target = match outcome {
            Outcome::Finished(finish) => return finish,
            Outcome::Jump(target) => target,
            Outcome::Answer(reply) => match error_page::find(ex, reply) {
                error_page::Action::Jump(target) => target,
                error_page::Action::Reply(reply) => return respond::send(ex, client, reply).await,
            },
        };
        outcome = match jump(ex, target) {
            Some(outcome) => outcome,
            None => content(ex, client).await,
        };
    }
}

/// Runs the server's rewrites, then finds the location. `None`: go on to the content.
fn rewrite_server(ex: &mut Exchange) -> Option<Outcome> {
    let generation = ex.generation();
    let root = generation.server(ex.server).root;
    ex.location = root;
    realip::apply(ex);
    match generation.location(root).rewrite.run(ex) {
        rewrite::Flow::Reply(reply) => Some(Outcome::Answer(reply)),
        rewrite::Flow::Next | rewrite::Flow::Relocate => find_location(ex),
    }
}

/// Finds the location and runs its rewrites, again where they changed the URI.
fn find_location(ex: &mut Exchange) -> Option<Outcome> {
    let generation = ex.generation();
    loop {
        if let Found::AddSlash(location) = route::choose_location(ex) {
            ex.location = location;
            return Some(Outcome::Answer(respond::add_slash(ex)));
        }
        let core = &generation.location(ex.location).core;
        if core.internal && !ex.request.internal {
            return Some(Outcome::Answer(Reply::status(404)));
        }
        if let Some(reply) = too_large(ex) {
            return Some(Outcome::Answer(reply));
        }
        if ex.location == generation.server(ex.server).root {
            // No location matched: the server's own rewrites have run already.
            return None;
        }
        match generation.location(ex.location).rewrite.run(ex) {
            rewrite::Flow::Reply(reply) => return Some(Outcome::Answer(reply)),
            rewrite::Flow::Next => return None,
            rewrite::Flow::Relocate => {
                if let Some(outcome) = cycle(ex) {
                    return Some(outcome);
                }
            }
        }
    }
}

async fn content(ex: &mut Exchange, client: &mut Client) -> Outcome {
    realip::apply(ex);
    if let Some(reply) = limit_conn::check(ex).or_else(|| access::check(ex)) {
        return Outcome::Answer(reply);
    }
    if let Some(outcome) = statics::try_files(ex).await {
        return outcome;
    }
    let generation = ex.generation();
    match &generation.location(ex.location).content {
        Content::Proxy(pass) => proxy::run(ex, client, pass).await,
        Content::Static => statics::serve(ex, client).await,
    }
}

/// An internal redirect: to a URI (all phases again) or a named location (from its rewrites).
/// `None`: go on to the content.
fn jump(ex: &mut Exchange, target: Target) -> Option<Outcome> {
    if let Some(outcome) = cycle(ex) {
        return Some(outcome);
    }
    ex.request.internal = true;
    if let Some(state) = ex.upstream.last_mut() {
        state.redirected_after = true;
    }
    ex.response.clear_answer();
    ex.proxy_host.clear();
    let name = match target {
        Target::Uri(uri) => {
            respond::set_uri(ex, &uri);
            return rewrite_server(ex);
        }
        Target::Path(path) => {
            respond::set_path(ex, &path);
            return rewrite_server(ex);
        }
        Target::Named(name) => name,
    };
    let Some(location) = route::named_location(ex, &name) else {
        let shown = String::from_utf8_lossy(&name);
        ex.log(
            Level::Error,
            format_args!("could not find named location \"{shown}\""),
        );
        return Some(Outcome::Answer(Reply::status(500)));
    };
    ex.location = location;
    let generation = ex.generation();
    match generation.location(location).rewrite.run(ex) {
        rewrite::Flow::Reply(reply) => Some(Outcome::Answer(reply)),
        rewrite::Flow::Relocate => find_location(ex),
        rewrite::Flow::Next => None,
    }
}

/// Counts one change of the URI; 500 when there were ten.
fn cycle(ex: &mut Exchange) -> Option<Outcome> {
    if ex.request.redirects_left > 0 {
        ex.request.redirects_left -= 1;
        return None;
    }
    let uri = String::from_utf8_lossy(&ex.request.uri);
    ex.log(
        Level::Error,
        format_args!("rewrite or internal redirection cycle while processing \"{uri}\""),
    );
    ex.response.error_page_applied = true;
    Some(Outcome::Answer(Reply::status(500)))
}

/// `client_max_body_size` for a body whose length is announced.
fn too_large(ex: &Exchange) -> Option<Reply> {
    let limit = ex
        .generation
        .location(ex.location)
        .core
        .client_max_body_size;
    let body::RequestBody::Length(length) = ex.request.body else {
        return None;
    };
    if limit == 0 || length <= limit {
        return None;
    }
    ex.log(
        Level::Error,
        format_args!("client intended to send too large body: {length} bytes"),
    );
    Some(Reply::status(413))
}
