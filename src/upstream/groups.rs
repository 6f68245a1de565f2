//! All groups of one block: its `upstream {}`s, and those of addresses that `proxy_pass` names.

use std::collections::HashMap;
use std::ops::Index;
use std::sync::Arc;

use super::directives::{Kind, Upstream, UpstreamRaw};
use super::implicit;
use super::peer::{PeerAddr, Registry};
use super::pool::Group;
use super::resolve::Resolver;
use crate::config::Result;
use crate::vars::{Subject, Template, Variables};

/// The groups of `http {}` or of `stream {}`. Others remember a group by its place among them.
pub struct Groups<S: 'static> {
    kind: Kind,
    list: Vec<NamedGroup<S>>,
    /// Places by name in lower case; implicit groups as `host:port`.
    places: HashMap<Vec<u8>, u32>,
}

/// A group with what the block knows about it.
pub struct NamedGroup<S: 'static> {
    /// Its name, where it is an `upstream {}`.
    name: Option<Box<[u8]>>,
    /// The group.
    pub group: Arc<Group>,
    /// The key of `hash`.
    pub key: Option<Template<S>>,
    upstream: Option<Upstream>,
}

impl<S: Subject> Groups<S> {
    /// None yet.
    pub fn new(kind: Kind) -> Self {
        Groups {
            kind,
            list: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// Compiles an `upstream {}`. `resolver` is the one of the enclosing block.
    ///
    /// # Errors
    /// Those of [`UpstreamRaw::compile`] and of templates.
    pub fn add(
        &mut self,
        raw: &UpstreamRaw,
        resolver: Option<&Resolver>,
        vars: &mut Variables<S>,
    ) -> Result<()> {
        let upstream = raw.compile(Registry::global(), resolver)?;
        let key = upstream.hash_key.as_ref();
        let key = key.map(|word| Template::compile(word, vars)).transpose()?;
        let name = raw.name.bytes.clone();
        let group = NamedGroup {
            name: Some(name.clone()),
            group: Arc::clone(&upstream.group),
            key,
            upstream: Some(upstream),
        };
        self.push(&name, group);
        Ok(())
    }

    /// Adds the group of an address that `proxy_pass` names, and returns its place.
    pub fn add_implicit(&mut self, name: &str, addrs: Vec<PeerAddr>) -> u32 {
        let keepalive = self.kind.keepalive();
        let group = implicit::group(Registry::global(), name, addrs, keepalive);
        let group = NamedGroup {
            name: None,
            group: Arc::new(group),
            key: None,
            upstream: None,
        };
        self.push(name.as_bytes(), group)
    }

    fn push(&mut self, name: &[u8], group: NamedGroup<S>) -> u32 {
        let place = self.list.len() as u32;
        self.places.insert(name.to_ascii_lowercase(), place);
        self.list.push(group);
        place
    }

    /// The place of a group by its name, for implicit ones `host:port`. While loading.
    pub fn place(&self, name: &[u8]) -> Option<u32> {
        self.places.get(&name.to_ascii_lowercase()).copied()
    }

    /// The place of the `upstream {}` with this name.
    pub fn named(&self, name: &[u8]) -> Option<u32> {
        let is_it = |group: &NamedGroup<S>| {
            let own = group.name.as_deref();
            own.is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        self.list.iter().position(is_it).map(|at| at as u32)
    }

    /// Starts to follow the names of servers marked `resolve`: only for a configuration that goes
    /// into service, in the process that serves. They are looked up in the background; until then
    /// the last known addresses hold.
    pub fn watch(&self) {
        for upstream in self.list.iter().filter_map(|group| group.upstream.as_ref()) {
            let _ = upstream.watch(Registry::global());
        }
    }
}

impl<S> Index<usize> for Groups<S> {
    type Output = NamedGroup<S>;

    fn index(&self, place: usize) -> &NamedGroup<S> {
        &self.list[place]
    }
}
