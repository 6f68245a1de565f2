//! Whether a client's connection may serve another request, as far as the location says.

use super::exchange::Exchange;
use super::message::Method;
use super::modules::core::Conf;
use super::token::Token;

/// `keepalive_timeout`, `keepalive_requests`, `keepalive_time` and `keepalive_disable` of the
/// location that answers.
pub fn is_allowed(ex: &Exchange, core: &Conf) -> bool {
    let age_ms = ex.request.started_at.saturating_sub(ex.client.accepted_at);
    core.keepalive_timeout_ms > 0
        && ex.client.requests < core.keepalive_requests
        && age_ms <= core.keepalive_time_ms
        && !is_disabled(ex, core)
}

/// Old MSIE waits for more after the answer to a POST, and Safari misbehaves always.
fn is_disabled(ex: &Exchange, core: &Conf) -> bool {
    let msie6 = core.keepalive_disable_msie6 && ex.request.head.method == Method::Post;
    if !msie6 && !core.keepalive_disable_safari {
        return false;
    }
    ex.request.field(Token::UserAgent).is_some_and(|agent| {
        (msie6 && is_msie6(agent)) || (core.keepalive_disable_safari && is_safari(agent))
    })
}

/// MSIE 4 to 6, but not with the service pack that mended it.
fn is_msie6(agent: &[u8]) -> bool {
    let Some(at) = memchr::memmem::find(agent, b"MSIE ") else {
        return false;
    };
    let version = &agent[at + "MSIE ".len()..];
    let is_old = match version.first() {
        Some(b'4' | b'5') => true,
        Some(b'6') => memchr::memmem::find(version, b"SV1").is_none(),
        _ => false,
    };
    is_old && memchr::memmem::find(agent, b"Opera").is_none()
}

fn is_safari(agent: &[u8]) -> bool {
    let has = |what: &[u8]| memchr::memmem::find(agent, what).is_some();
    has(b"Safari/")
        && has(b"Mac OS X")
        && ![&b"Opera"[..], b"Gecko/", b"Chrome/"]
            .iter()
            .any(|o| has(o))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_told_apart() {
        assert!(is_msie6(
            b"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)"
        ));
        assert!(is_msie6(b"Mozilla/4.0 (compatible; MSIE 5.5)"));
        assert!(!is_msie6(
            b"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)"
        ));
        assert!(!is_msie6(b"Mozilla/4.0 (compatible; MSIE 6.0) Opera 8"));
        assert!(!is_msie6(b"Mozilla/4.0 (compatible; MSIE 7.0)"));
        let safari =
            b"Mozilla/5.0 (Macintosh; Intel Mac OS X) AppleWebKit/5 (KHTML, like Gecko) Safari/5";
        assert!(is_safari(safari));
        assert!(!is_safari(
            b"Mozilla/5.0 (Macintosh; Mac OS X) Chrome/9 Safari/5"
        ));
        assert!(!is_safari(b"Mozilla/5.0 (Windows) Safari/5"));
    }
}
