//! stub
use crate::http::exchange::Exchange;
use crate::vars::Variable;
fn host(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&ex.request.host);
    true
}
fn proxy_host(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&ex.proxy_host);
    true
}
fn upgrade(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    crate::http::exchange::join(
        ex.request.head.fields.iter(),
        &ex.request.buf,
        b"upgrade",
        out,
    )
}
static T: &[Variable<Exchange>] = &[
    Variable::new("host", host),
    Variable::new("proxy_host", proxy_host),
    Variable::new("http_upgrade", upgrade),
];
pub static TABLES: [&[Variable<Exchange>]; 1] = [T];
