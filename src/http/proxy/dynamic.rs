//! `proxy_pass` with variables: where a URL leads that is only known when the request is there.

use std::path::Path;
use std::sync::Arc;

use crate::http::exchange::Exchange;
use crate::observe::Level;
use crate::upstream::{Group, implicit};
use crate::vars::Template;

use super::conf::{Side, Url};

/// Finds the group for the URL that the template gives: an `upstream {}` of that name, an
/// address, or a name that the resolver knows. The error is the status for the client.
pub async fn find(
    ex: &mut Exchange,
    template: &Template<Exchange>,
    side: Side,
) -> Result<Arc<Group>, u16> {
    let mut text = Vec::new();
    template.eval(ex, &mut text);
    let url = match Url::parse(&text, side) {
        Ok(url) => url,
        Err(error) => {
            let shown = String::from_utf8_lossy(&text);
            ex.log(Level::Error, format_args!("{error} in \"{shown}\""));
            return Err(500);
        }
    };
    ex.proxy_scheme = url.scheme;
    ex.proxy_host = url.proxy_host();
    ex.proxy_port = url.port_or_default();
    if let Some(uri) = url.uri {
        if !uri.starts_with(b"/") {
            ex.proxy_uri.push(b'/');
        }
        ex.proxy_uri.extend_from_slice(uri);
    }
    let name = url.peer_name();
    if let Some(path) = url.unix {
        return Ok(ex.local.dynamic.borrow_mut().unix(&name, Path::new(path)));
    }
    if let Some(at) = ex.generation.http.groups.named(url.host) {
        ex.group = at;
        return Ok(Arc::clone(&ex.generation.http.groups[at as usize].group));
    }
    let host = String::from_utf8_lossy(url.host).to_ascii_lowercase();
    let bare = host
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(&host);
    let ips = match bare.parse() {
        Ok(ip) => Arc::new([ip]),
        Err(_) => resolve(ex, bare).await?,
    };
    Ok(ex
        .local
        .dynamic
        .borrow_mut()
        .group(&name, &ips, ex.proxy_port))
}

async fn resolve(ex: &Exchange, host: &str) -> Result<Arc<[std::net::IpAddr]>, u16> {
    let generation = ex.generation();
    let resolver = &generation.location(ex.location).core.resolver;
    let found = implicit::resolve(resolver.as_ref(), host).await;
    found.map_err(|message| {
        ex.log(Level::Error, format_args!("{message}"));
        502
    })
}
