//! The table of the `proxy_…` directives, and how those are read that are more than one value.

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, value};
use crate::http::conf::LocationKind;
use crate::http::scope::Scope;
use crate::http::token::{Token, TokenSet};
use crate::ssl;
use crate::upstream::RawBind;

use super::super::rewrite_fields;
use super::{HttpVersion, NextOn, Raw, Side, Url};

const HSL: Contexts = Contexts::HTTP.or(Contexts::SERVER).or(Contexts::LOCATION);
const NEXT_UPSTREAM: &[(&str, NextOn)] = &[
    ("error", NextOn::ERROR),
    ("timeout", NextOn::TIMEOUT),
    ("invalid_header", NextOn::INVALID_HEADER),
    ("non_idempotent", NextOn::NON_IDEMPOTENT),
    ("http_500", NextOn::HTTP_500),
    ("http_502", NextOn::HTTP_502),
    ("http_503", NextOn::HTTP_503),
    ("http_504", NextOn::HTTP_504),
    ("http_403", NextOn::HTTP_403),
    ("http_404", NextOn::HTTP_404),
    ("http_429", NextOn::HTTP_429),
    ("updating", NextOn(0)),
    ("off", NextOn::OFF),
];

type R = Row<Scope>;

/// What every way to an upstream has: `$prefix` begins the names, `$side` is where a scope keeps
/// the values, `$fields` is what is set where nothing is written.
macro_rules! common {
    ($prefix:literal, $side:ident, $fields:literal) => {
        &[
            R::custom(
                concat!($prefix, "_set_header"),
                HSL,
                Arity::Two,
                |_, s, node| set_header(&mut s.$side, node),
            )
            .default($fields)
            .doc("Sets or, with an empty value, drops a field of the upstream's request."),
            R::custom(
                concat!($prefix, "_pass_header"),
                HSL,
                Arity::One,
                |_, s, node| pass_header(&mut s.$side, node),
            )
            .doc("Passes a field of the response that is hidden by default."),
            R::custom(
                concat!($prefix, "_hide_header"),
                HSL,
                Arity::One,
                |_, s, node| hide_header(&mut s.$side, node),
            )
            .doc("Hides a field of the upstream's response."),
            R::flag(concat!($prefix, "_intercept_errors"), HSL, |s| {
                &mut s.$side.intercept_errors
            })
            .default("off")
            .doc("Let error_page replace responses with status 300 and above."),
            R::custom(
                concat!($prefix, "_ignore_headers"),
                HSL,
                Arity::AtLeast(1),
                |_, s, node| ignore_headers(&mut s.$side, node),
            )
            .doc("Response fields that are passed on but not acted upon."),
            R::custom(
                concat!($prefix, "_bind"),
                HSL,
                Arity::Between(1, 2),
                |_, s, node| set_bind(&mut s.$side, node),
            )
            .doc("Local address of connections to the upstream."),
            R::size(concat!($prefix, "_buffer_size"), HSL, |s| {
                &mut s.$side.buffer_size
            })
            .default("4k|8k")
            .doc("Largest response head."),
            R::flag(concat!($prefix, "_socket_keepalive"), HSL, |s| {
                &mut s.$side.socket_keepalive
            })
            .default("off")
            .doc("SO_KEEPALIVE on connections to the upstream."),
            R::time(concat!($prefix, "_connect_timeout"), HSL, |s| {
                &mut s.$side.connect_timeout
            })
            .default("60s")
            .doc("Time to connect to an upstream server."),
            R::time(concat!($prefix, "_send_timeout"), HSL, |s| {
                &mut s.$side.send_timeout
            })
            .default("60s")
            .doc("Time between two writes to the upstream."),
            R::time(concat!($prefix, "_read_timeout"), HSL, |s| {
                &mut s.$side.read_timeout
            })
            .default("60s")
            .doc("Time between two reads from the upstream."),
            R::custom(
                concat!($prefix, "_next_upstream"),
                HSL,
                Arity::AtLeast(1),
                |_, s, node| set_next_upstream(&mut s.$side, node),
            )
            .default("error timeout")
            .doc("When a request goes on to the next server."),
            R::number(concat!($prefix, "_next_upstream_tries"), HSL, |s| {
                &mut s.$side.next_upstream_tries
            })
            .default("0")
            .doc("How many servers a request may try; 0: all."),
            R::time(concat!($prefix, "_next_upstream_timeout"), HSL, |s| {
                &mut s.$side.next_upstream_timeout
            })
            .default("0")
            .doc("How long a request may go from server to server; 0: no limit."),
        ]
    };
}

/// What another way to an upstream may have too.
pub const COMMON_ROWS: &[Row<Scope>] = common!("proxy", proxy, "Host $proxy_host; Connection \"\"");

/// How TLS is spoken to the upstream.
pub const SSL_ROWS: &[Row<Scope>] =
    ssl::upstream::rows!(Scope, "proxy_ssl", HSL, proxy.ssl, "$proxy_host");

/// What the gRPC module has as the proxy module has it.
pub const GRPC_COMMON_ROWS: &[Row<Scope>] =
    common!("grpc", grpc, "Content-Length $content_length; Host \"\"");

/// How TLS is spoken to a gRPC upstream.
pub const GRPC_SSL_ROWS: &[Row<Scope>] =
    ssl::upstream::rows!(Scope, "grpc_ssl", HSL, grpc.ssl, "host from grpc_pass");

/// What only the gRPC module has.
pub const GRPC_ROWS: &[Row<Scope>] = &[R::custom(
    "grpc_pass",
    Contexts::LOCATION.or(Contexts::LOCATION_IF),
    Arity::One,
    set_grpc_pass,
)
.doc("Address of the gRPC server that answers here.")];

/// What only the proxy module has.
pub const ROWS: &[Row<Scope>] = &[
    R::custom(
        "proxy_pass",
        Contexts::LOCATION
            .or(Contexts::LOCATION_IF)
            .or(Contexts::LIMIT_EXCEPT),
        Arity::One,
        set_pass,
    )
    .doc("Protocol and address of the server that answers here."),
    R::flag("proxy_pass_request_headers", HSL, |s| {
        &mut s.proxy.pass_request_headers
    })
    .default("on")
    .doc("Pass the client's fields to the upstream."),
    R::flag("proxy_pass_request_body", HSL, |s| {
        &mut s.proxy.pass_request_body
    })
    .default("on")
    .doc("Pass the client's body to the upstream."),
    R::flag("proxy_pass_trailers", HSL, |s| &mut s.proxy.pass_trailers)
        .default("off")
        .doc("Pass the trailers of the upstream's response to the client."),
    R::word("proxy_method", HSL, |s| &mut s.proxy.method)
        .doc("Method of the request to the upstream."),
    R::word("proxy_set_body", HSL, |s| &mut s.proxy.set_body)
        .doc("Body of the request to the upstream."),
    R::custom("proxy_http_version", HSL, Arity::One, set_http_version)
        .default("1.1")
        .doc("HTTP version of the request to the upstream."),
    R::custom(
        "proxy_redirect",
        HSL,
        Arity::Between(1, 2),
        rewrite_fields::set_redirect,
    )
    .default("default")
    .doc("Changes Location and Refresh of the response."),
    R::custom(
        "proxy_cookie_domain",
        HSL,
        Arity::Between(1, 2),
        rewrite_fields::set_cookie_domain,
    )
    .default("off")
    .doc("Changes the domain of Set-Cookie."),
    R::custom(
        "proxy_cookie_path",
        HSL,
        Arity::Between(1, 2),
        rewrite_fields::set_cookie_path,
    )
    .default("off")
    .doc("Changes the path of Set-Cookie."),
    R::custom(
        "proxy_cookie_flags",
        HSL,
        Arity::Between(1, 4),
        rewrite_fields::set_cookie_flags,
    )
    .default("off")
    .doc("Sets flags of Set-Cookie."),
    R::flag("proxy_ignore_client_abort", HSL, |s| {
        &mut s.proxy.ignore_client_abort
    })
    .default("off")
    .doc("Finish the upstream's work although the client has gone."),
    R::flag("proxy_buffering", HSL, |s| &mut s.proxy.buffering)
        .default("on")
        .doc("Read ahead of the client, within the buffers."),
    R::custom("proxy_buffers", HSL, Arity::Two, set_buffers)
        .default("8 4k|8k")
        .doc("Number and size of the buffers for a response."),
    R::size("proxy_busy_buffers_size", HSL, |s| {
        &mut s.proxy.busy_buffers_size
    })
    .default("8k|16k")
    .doc("Most bytes on their way to the client."),
    R::flag("proxy_request_buffering", HSL, |s| {
        &mut s.proxy.request_buffering
    })
    .default("on")
    .doc("Read the whole request body before the upstream is contacted."),
    R::size("proxy_max_temp_file_size", HSL, |s| {
        &mut s.proxy.max_temp_file_size
    })
    .default("1024m")
    .doc("Largest part of a response kept in a file for a slow client."),
    R::size("proxy_temp_file_write_size", HSL, |s| {
        &mut s.proxy.temp_file_write_size
    })
    .default("8k|16k")
    .doc("Bytes written to the temporary file at once."),
    R::custom("proxy_temp_path", HSL, Arity::Between(1, 4), set_temp_path)
        .default("proxy_temp")
        .doc("Directory for responses that wait for a slow client."),
    R::word("proxy_limit_rate", HSL, |s| &mut s.proxy.limit_rate)
        .default("0")
        .doc("Bytes per second read from the upstream."),
    R::notice(
        "proxy_headers_hash_max_size",
        HSL,
        Arity::One,
        "sizes nginx's hash tables",
    ),
    R::notice(
        "proxy_headers_hash_bucket_size",
        HSL,
        Arity::One,
        "sizes nginx's hash tables",
    ),
    R::notice(
        "proxy_send_lowat",
        HSL,
        Arity::One,
        "tunes nginx's internals",
    ),
];

fn set_grpc_pass(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    if !word.bytes.contains(&b'$') {
        Url::parse(&word.bytes, Side::Grpc).map_err(|e| ConfigError::at(word.span, e))?;
    }
    value::once(&mut s.grpc.pass, word.clone(), node)
}

fn set_pass(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    if s.proxy.pass.is_some() {
        return Err(value::duplicate(node));
    }
    let word = &node.args()[0];
    if !word.bytes.contains(&b'$') {
        let url =
            Url::parse(&word.bytes, Side::Proxy).map_err(|e| ConfigError::at(word.span, e))?;
        // Asked here, where it is written: an `if` may inherit what it must not say itself.
        let may_replace = matches!(
            s.place.kind,
            Some(LocationKind::Prefix | LocationKind::Exact)
        );
        if url.uri.is_some() && !may_replace {
            return Err(ConfigError::at(
                word.span,
                "\"proxy_pass\" cannot have URI part in location given by regular expression, \
                 or inside named location, or inside \"if\" statement, or inside \
                 \"limit_except\" block",
            ));
        }
    }
    s.proxy.pass = Some(word.clone());
    Ok(())
}

fn set_header(raw: &mut Raw, node: &Node) -> Result<()> {
    let pair = (node.args()[0].clone(), node.args()[1].clone());
    raw.set_headers.get_or_insert_default().push(pair);
    Ok(())
}

fn pass_header(raw: &mut Raw, node: &Node) -> Result<()> {
    raw.pass_headers
        .get_or_insert_default()
        .push(node.args()[0].clone());
    Ok(())
}

fn hide_header(raw: &mut Raw, node: &Node) -> Result<()> {
    raw.hide_headers
        .get_or_insert_default()
        .push(node.args()[0].clone());
    Ok(())
}

fn set_http_version(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let version = match &*node.args()[0].bytes {
        b"1.0" => HttpVersion::V10,
        b"1.1" => HttpVersion::V11,
        b"2" => HttpVersion::V2,
        _ => return Err(value::invalid_word(&node.args()[0])),
    };
    value::once(&mut s.proxy.http_version, version, node)
}

fn ignore_headers(raw: &mut Raw, node: &Node) -> Result<()> {
    const NAMES: &[&str] = &[
        "X-Accel-Redirect",
        "X-Accel-Expires",
        "X-Accel-Limit-Rate",
        "X-Accel-Buffering",
        "X-Accel-Charset",
        "Expires",
        "Cache-Control",
        "Set-Cookie",
        "Vary",
    ];
    let mut set = TokenSet::default();
    for word in node.args() {
        if !NAMES
            .iter()
            .any(|n| word.bytes.eq_ignore_ascii_case(n.as_bytes()))
        {
            return Err(value::invalid_word(word));
        }
        set.insert(Token::from_name(&word.bytes));
    }
    value::once(&mut raw.ignore_headers, set, node)
}

fn set_bind(raw: &mut Raw, node: &Node) -> Result<()> {
    value::once(&mut raw.bind, RawBind::read(node)?, node)
}

fn set_buffers(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let (number, size) = (
        value::number(&node.args()[0])?,
        value::size(&node.args()[1])?,
    );
    if number < 2 {
        return Err(ConfigError::at(
            node.span(),
            "there must be at least 2 \"proxy_buffers\"",
        ));
    }
    value::once(&mut s.proxy.buffers, (number, size), node)
}

fn set_temp_path(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let path = reader.path(&node.args()[0]);
    value::once(&mut s.proxy.temp_path, path, node)
}

fn set_next_upstream(raw: &mut Raw, node: &Node) -> Result<()> {
    let mut set = NextOn(0);
    for word in node.args() {
        match NEXT_UPSTREAM.iter().find(|(name, _)| word.is(name)) {
            Some((_, condition)) => set.0 |= condition.0,
            None => return Err(value::invalid_word(word)),
        }
    }
    if set.has(NextOn::OFF) {
        set = NextOn::OFF;
    }
    value::once(&mut raw.next_upstream, set, node)
}
