//! What a request's head means: how its body is framed, which host and URI it asks for, and whether
//! it is served at all. Whatever version it came in.

use crate::observe::Level;

use super::body::RequestBody;
use super::exchange::Exchange;
use super::h1::{connection as connection_field, framing, host, target};
use super::message::{Method, Range32};
use super::{route, tls, uri};

/// Decides framing, host and URI of a request whose head has been parsed, and finds its server.
///
/// # Errors
/// The status to refuse it with; why is in the log.
pub fn head(ex: &mut Exchange) -> Result<(), u16> {
    let request = &mut ex.request;
    request.options = connection_field::scan(&request.buf, &mut request.head.fields);
    let framing = match framing::request(&request.buf, &request.head) {
        Ok(framing) => framing,
        Err(error) => {
            return Err(refused(
                ex,
                error.status(),
                format_args!("client sent {error}"),
            ));
        }
    };
    request.framing = framing;
    request.body = RequestBody::announced(framing);
    let found = target::parse(&request.buf, request.head.target, request.head.method);
    let Some(target) = found else {
        return Err(refused(
            ex,
            400,
            format_args!("client sent invalid request"),
        ));
    };
    let host = host::of_request(&request.buf, &request.head, &target)
        .map_err(|error| refused(ex, 400, format_args!("{error}")))?;
    let request = &mut ex.request;
    if let Some(host) = host {
        host.write_name(&request.buf, &mut request.host);
    }
    route::choose_server(ex);
    tls::admit(ex)?;
    // What the location says to it is asked when there is an answer.
    ex.keepalive = ex.request.options.persistent(ex.request.head.version);
    // A tunnel to anywhere, and an echo of what the client cannot see of its own request.
    if matches!(ex.request.head.method, Method::Connect | Method::Trace) {
        let method = String::from_utf8_lossy(ex.request.method()).into_owned();
        return Err(refused(
            ex,
            405,
            format_args!("client sent {method} method"),
        ));
    }
    drop_unusual_fields(ex);
    set_uri(ex, target.path())
}

/// Logs why and returns the status.
fn refused(ex: &Exchange, status: u16, why: std::fmt::Arguments<'_>) -> u16 {
    ex.log(
        Level::Info,
        format_args!("{why} while reading client request headers"),
    );
    status
}

/// `ignore_invalid_headers`: nginx leaves fields with unusual names out of everything.
fn drop_unusual_fields(ex: &mut Exchange) {
    let client = &ex.generation.server(ex.server).client;
    let (ignore, underscores) = (client.ignore_invalid_headers, client.underscores_in_headers);
    let fields = &mut ex.request.head.fields;
    if fields
        .iter()
        .any(|field| field.is_ignored(ignore, underscores))
    {
        fields.retain(|field| !field.is_ignored(ignore, underscores));
    }
}

/// Fills `$uri` and `$args` from the path of the target.
fn set_uri(ex: &mut Exchange, path: Option<Range32>) -> Result<(), u16> {
    let merge = ex.generation.server(ex.server).client.merge_slashes;
    let request = &mut ex.request;
    let Some(path) = path else {
        // `OPTIONS *` asks about the server as a whole: what serves its root answers.
        request.path = request.head.target;
        request.uri.push(b'/');
        return Ok(());
    };
    request.path = path;
    let sent = path.of(&request.buf);
    match uri::normalize(sent, merge, &mut request.uri) {
        Ok(parts) => {
            if parts.simple {
                request.uri.extend_from_slice(parts.path.of(sent));
            }
            if let Some(args) = parts.args {
                request.args.extend_from_slice(args.of(sent));
            }
            Ok(())
        }
        Err(error) => {
            ex.log(Level::Info, format_args!("{error}"));
            Err(400)
        }
    }
}
