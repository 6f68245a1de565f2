//! stub, replaced by the variables module
use crate::base::clock;
use crate::http::exchange::{Exchange, join};
use crate::http::token::Token;
use crate::vars::Variable;
type O<'a> = &'a mut Vec<u8>;
fn host(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    if ex.request.host.is_empty() {
        out.extend_from_slice(&ex.generation.server(ex.server).name)
    } else {
        out.extend_from_slice(&ex.request.host)
    }
    true
}
fn proxy_host(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(&ex.proxy_host);
    true
}
fn http(ex: &mut Exchange, n: &[u8], out: O) -> bool {
    join(ex.request.head.fields.iter(), &ex.request.buf, n, out)
}
fn sent(ex: &mut Exchange, n: &[u8], out: O) -> bool {
    join(ex.response.fields.iter(), &ex.response.buf, n, out)
}
fn uphttp(ex: &mut Exchange, n: &[u8], out: O) -> bool {
    join(ex.response.upstream.fields.iter(), &ex.response.buf, n, out)
}
fn arg(ex: &mut Exchange, n: &[u8], out: O) -> bool {
    match crate::http::uri::argument(&ex.request.args, n) {
        Some(v) => {
            out.extend_from_slice(v);
            true
        }
        None => false,
    }
}
fn remote_addr(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(ex.client.remote_text.as_bytes());
    true
}
fn none(_: &mut Exchange, _: &[u8], _: O) -> bool {
    false
}
fn time_local(_: &mut Exchange, _: &[u8], out: O) -> bool {
    clock::time_local(out);
    true
}
fn request(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(ex.request.line());
    true
}
fn status(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(format!("{:03}", ex.response.status).as_bytes());
    true
}
fn body_bytes_sent(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(ex.response.body_bytes_sent.to_string().as_bytes());
    true
}
fn uri(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(&ex.request.uri);
    true
}
fn args(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(&ex.request.args);
    true
}
fn request_uri(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(ex.request.target());
    true
}
fn scheme(_: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(b"http");
    true
}
fn method(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(ex.request.method());
    true
}
fn server_name(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    out.extend_from_slice(&ex.generation.server(ex.server).name);
    true
}
fn is_args(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    if !ex.request.args.is_empty() {
        out.push(b'?')
    }
    true
}
fn upstream_addr(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    for (i, s) in ex.upstream.iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b", ")
        }
        if let Some(p) = &s.peer {
            out.extend_from_slice(p.conf.name.as_bytes())
        }
    }
    !ex.upstream.is_empty()
}
fn xff(ex: &mut Exchange, _: &[u8], out: O) -> bool {
    let had = join(
        ex.request
            .head
            .fields
            .iter()
            .filter(|f| f.token == Token::XForwardedFor),
        &ex.request.buf,
        b"x_forwarded_for",
        out,
    );
    if had {
        out.extend_from_slice(b", ")
    }
    out.extend_from_slice(ex.client.remote_text.as_bytes());
    true
}
static T: &[Variable<Exchange>] = &[
    Variable::new("host", host),
    Variable::new("proxy_host", proxy_host),
    Variable::family("http_", http),
    Variable::family("sent_http_", sent),
    Variable::family("upstream_http_", uphttp),
    Variable::family("arg_", arg),
    Variable::new("remote_addr", remote_addr),
    Variable::new("remote_user", none),
    Variable::new("time_local", time_local),
    Variable::new("request", request),
    Variable::new("status", status),
    Variable::new("body_bytes_sent", body_bytes_sent),
    Variable::new("uri", uri),
    Variable::new("args", args),
    Variable::new("request_uri", request_uri),
    Variable::new("scheme", scheme),
    Variable::new("request_method", method),
    Variable::new("server_name", server_name),
    Variable::new("is_args", is_args),
    Variable::new("upstream_addr", upstream_addr),
    Variable::new("proxy_add_x_forwarded_for", xff),
];
pub static TABLES: [&[Variable<Exchange>]; 1] = [T];
