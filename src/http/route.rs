//! Listening address → server → location, over the compiled matchers.

use super::conf::LocationTree;
use super::exchange::{Exchange, Generation};

/// Where a URI belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This location.
    Location(u32),
    /// No location matched; the settings of the enclosing scope stay in force.
    None,
    /// The URI with a slash appended is a location that wants a redirect.
    AddSlash(u32),
}

/// Chooses the virtual server for the request's host, by nginx's precedence: exact name, longest
/// leading wildcard, longest trailing wildcard, first matching regex, default server.
pub fn choose_server(ex: &mut Exchange) {
    let generation = ex.generation();
    let listen = &generation.http.listens[ex.listen as usize];
    let found = listen.names.find(&ex.request.host, &mut ex.store);
    let server = found.unwrap_or(listen.default_server);
    ex.server = server;
    ex.location = generation.server(server).root;
}

/// Chooses the server that speaks for the connection until a request names its host: by the name in
/// the TLS handshake.
pub fn choose_first_server(ex: &mut Exchange, name: &str) {
    let generation = ex.generation();
    let listen = &generation.http.listens[ex.listen as usize];
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let found = listen.names.find(name.as_bytes(), &mut ex.store);
    let server = found.unwrap_or(listen.default_server);
    ex.first_server = server;
    ex.server = server;
    ex.location = generation.server(server).root;
}

/// Finds the location for the exchange's URI in its server and makes it the one in force.
pub fn choose_location(ex: &mut Exchange) -> Found {
    let generation = ex.generation();
    let root = generation.server(ex.server).root;
    let found = descend(&generation, root, ex);
    if let Found::Location(location) = found {
        ex.location = location;
    } else if found == Found::None {
        ex.location = root;
    }
    found
}

/// The named location of the exchange's server.
pub fn named_location(ex: &Exchange, name: &[u8]) -> Option<u32> {
    let server = ex.generation.server(ex.server);
    server
        .named
        .iter()
        .find(|(n, _)| **n == *name)
        .map(|(_, id)| *id)
}

/// nginx's order within one level: exact, longest prefix (and what is nested in it), then the
/// regexes in the order of the file unless the prefix or something nested settled the matter.
fn descend(generation: &Generation, scope: u32, ex: &mut Exchange) -> Found {
    let tree = &generation.location(scope).nested;
    if let Some(location) = tree.exact(&ex.request.uri) {
        return Found::Location(location);
    }
    let prefix = tree.longest_prefix(&ex.request.uri);
    if prefix.is_none_or(|p| p.name.len() != ex.request.uri.len())
        && let Some(location) = tree.wants_slash(&ex.request.uri)
    {
        return Found::AddSlash(location);
    }
    let mut found = Found::None;
    let mut no_regex = false;
    if let Some(prefix) = prefix {
        found = Found::Location(prefix.location);
        no_regex = prefix.no_regex;
        match descend(generation, prefix.location, ex) {
            Found::None => {}
            nested @ Found::AddSlash(_) => return nested,
            Found::Location(nested) => {
                if generation.location(nested).kind != super::conf::LocationKind::Prefix {
                    return Found::Location(nested);
                }
                found = Found::Location(nested);
                no_regex |= is_no_regex(&generation.location(prefix.location).nested, nested);
            }
        }
    }
    if no_regex {
        return found;
    }
    for candidate in &tree.regexes {
        if candidate.pattern.exec(&mut ex.store, &ex.request.uri) {
            return match descend(generation, candidate.location, ex) {
                Found::None => Found::Location(candidate.location),
                nested => nested,
            };
        }
    }
    found
}

fn is_no_regex(tree: &LocationTree, location: u32) -> bool {
    tree.prefixes
        .iter()
        .any(|p| p.location == location && p.no_regex)
}

impl LocationTree {
    /// Sorts the tables and links each prefix to the longest other one that it begins with.
    /// Call once, when all locations of the level have been added.
    pub fn finish(&mut self) {
        self.exact.sort();
        self.prefixes.sort_by(|a, b| a.name.cmp(&b.name));
        for i in 0..self.prefixes.len() {
            let (before, rest) = self.prefixes.split_at_mut(i);
            let this = &mut rest[0];
            let mut candidate = i.checked_sub(1);
            while let Some(c) = candidate {
                if this.name.starts_with(&before[c].name) {
                    break;
                }
                candidate = before[c].parent.map(|p| p as usize);
            }
            this.parent = candidate.map(|c| c as u32);
        }
    }

    fn exact(&self, uri: &[u8]) -> Option<u32> {
        let at = self
            .exact
            .binary_search_by(|(name, _)| (**name).cmp(uri))
            .ok()?;
        Some(self.exact[at].1)
    }

    /// In sorted order everything between a prefix of the URI and the URI begins with that
    /// prefix, so the longest one is the greatest entry not above the URI, or one of its parents.
    fn longest_prefix(&self, uri: &[u8]) -> Option<&super::conf::Prefix> {
        let above = self.prefixes.partition_point(|p| *p.name <= *uri);
        let mut at = above.checked_sub(1);
        while let Some(i) = at {
            let prefix = &self.prefixes[i];
            if uri.starts_with(&prefix.name) {
                return Some(prefix);
            }
            at = prefix.parent.map(|p| p as usize);
        }
        None
    }

    fn wants_slash(&self, uri: &[u8]) -> Option<u32> {
        let mut at = self.prefixes.partition_point(|p| *p.name <= *uri);
        // `/x/` sorts behind `/x` but not always directly: `/x-y` and `/x!` come between.
        while let Some(prefix) = self.prefixes.get(at).filter(|p| p.name.starts_with(uri)) {
            if prefix.name.len() == uri.len() + 1
                && prefix.auto_redirect
                && prefix.name.ends_with(b"/")
            {
                return Some(prefix.location);
            }
            if prefix.name[uri.len()] > b'/' {
                return None;
            }
            at += 1;
        }
        None
    }
}
