//! The directives of nginx itself, so that one which is not implemented here is told from a
//! mistyped one.

use super::schema::Contexts;

/// A directive of nginx's as its documentation has it.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The directive's name.
    pub name: &'static str,
    /// Where nginx allows it.
    pub contexts: Contexts,
    /// Its default; empty if there is none.
    pub default: &'static str,
    /// The nginx module it belongs to.
    pub module: &'static str,
}

/// Every directive of the table, in its order. A name comes once for each module that has it.
pub fn known() -> impl Iterator<Item = Known> {
    let mut module = "";
    TABLE.lines().filter_map(move |line| {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            module = name;
            return None;
        }
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let mut parts = line.splitn(3, ' ');
        let (name, contexts) = (parts.next()?, parts.next()?);
        let contexts = contexts
            .split(',')
            .map(context)
            .fold(Contexts::NONE, Contexts::or);
        Some(Known {
            name,
            contexts,
            default: parts.next().unwrap_or_default(),
            module,
        })
    })
}

const TABLE: &str = include_str!("known.txt");

/// The place an abbreviation of the table means; nowhere for an unknown one, which a test forbids.
fn context(name: &str) -> Contexts {
    match name {
        "main" => Contexts::MAIN,
        "events" => Contexts::EVENTS,
        "http" => Contexts::HTTP,
        "server" => Contexts::SERVER,
        "location" => Contexts::LOCATION,
        "server_if" => Contexts::SERVER_IF,
        "location_if" => Contexts::LOCATION_IF,
        "limit_except" => Contexts::LIMIT_EXCEPT,
        "upstream" => Contexts::UPSTREAM,
        "stream" => Contexts::STREAM,
        "stream_server" => Contexts::STREAM_SERVER,
        "stream_upstream" => Contexts::STREAM_UPSTREAM,
        "mail" => Contexts::MAIL,
        "mail_server" => Contexts::MAIL_SERVER,
        "other" => Contexts::OTHER,
        "any" => Contexts::ANY,
        _ => Contexts::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let lines = TABLE
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with('['));
        assert_eq!(known().count(), lines.clone().count());
        for line in lines {
            let contexts = line.split(' ').nth(1).unwrap_or_default();
            for name in contexts.split(',') {
                assert!(!context(name).is_empty(), "{line}");
            }
        }
    }

    #[test]
    fn well_known_directives_are_there() {
        let of = |name| known().filter(move |known| known.name == name);
        assert_eq!(of("proxy_pass").count(), 2);
        let sendfile = of("sendfile").next().unwrap();
        assert_eq!(
            (sendfile.default, sendfile.module),
            ("off", "ngx_http_core_module")
        );
        assert!(sendfile.contexts.overlaps(Contexts::LOCATION_IF));
        assert_eq!(of("include").next().unwrap().contexts, Contexts::ANY);
    }
}
