//! `proxy_pass` with variables: where a text leads that is only known when the session is there.

use std::net::IpAddr;
use std::sync::Arc;

use crate::observe::Level;
use crate::stream::serve::End;
use crate::stream::session::Session;
use crate::upstream::{Group, PeerAddr, Target, implicit};
use crate::vars::Template;

use super::Conf;

/// Finds the group for what the template comes to: an `upstream {}` of that name, an address, or a
/// name that the resolver knows. With the group's place in the configuration, if it has one.
pub async fn find(
    s: &mut Session,
    template: &Template<Session>,
    conf: &Conf,
) -> Result<(Arc<Group>, Option<u32>), End> {
    let text = template.with(s, |_, value| String::from_utf8_lossy(value).into_owned());
    if let Some(id) = s.generation.stream.groups.named(text.as_bytes()) {
        let group = &s.generation.stream.groups[id as usize].group;
        return Ok((Arc::clone(group), Some(id)));
    }
    let target = match Target::parse(&text, 0) {
        Ok(target) if target.port() == Some(0) => {
            s.log(Level::Error, format_args!("no port in upstream \"{text}\""));
            return Err(500);
        }
        Ok(target) => target,
        Err(error) => {
            s.log(Level::Error, format_args!("{error} in upstream \"{text}\""));
            return Err(500);
        }
    };
    let (ips, port): (Arc<[IpAddr]>, u16) = match target {
        Target::Addr(addr) => match addr {
            PeerAddr::Inet(addr) => (Arc::new([addr.ip()]), addr.port()),
            PeerAddr::Unix(path) => {
                let group = s.local.dynamic.borrow_mut().unix(&text, &path);
                return Ok((group, None));
            }
        },
        Target::Name { host, port } => (resolve(s, &host, conf).await?, port),
    };
    let group = s.local.dynamic.borrow_mut().group(&text, &ips, port);
    Ok((group, None))
}

async fn resolve(s: &Session, host: &str, conf: &Conf) -> Result<Arc<[IpAddr]>, End> {
    let found = implicit::resolve(conf.resolver.as_ref(), host).await;
    found.map_err(|message| {
        s.log(Level::Error, format_args!("{message}"));
        500
    })
}
