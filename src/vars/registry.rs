//! The variables of one configuration: built-in ones, families, and those the file defines.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::{Get, Put, Slot, Stored, Subject, Variable};
use crate::config::{ConfigError, Result, Span, nearest};

/// A variable whose value is worked out from others: a `map`, a `geo`, a `split_clients`.
pub trait Compute<S>: Send + Sync {
    /// Appends the value to `out`; false (and nothing appended) when there is none.
    fn compute(&self, subject: &mut S, out: &mut Vec<u8>) -> bool;

    /// Whether the value is kept for the rest of the request; a `volatile` map's is not.
    fn cached(&self) -> bool {
        true
    }
}

/// All variables one configuration can name; used only while it is being compiled.
pub struct Variables<S: 'static> {
    builtin: HashMap<&'static str, &'static Variable<S>>,
    families: Vec<&'static Variable<S>>,
    /// Names which the file defines, or uses and may still define. Ordered, so that errors are
    /// reproducible.
    names: BTreeMap<Box<str>, Entry<S>>,
    slots: u32,
}

struct Entry<S: 'static> {
    definition: Arc<Definition<S>>,
    /// Where the name was first used, for the error when nothing defines it.
    used: Option<Span>,
    body: Option<Body<S>>,
}

/// What a name means; shared by all references to it and filled by [`Variables::finish`].
struct Definition<S: 'static> {
    slot: Slot,
    body: OnceLock<Body<S>>,
}

enum Body<S: 'static> {
    /// A value written by `set`.
    Set(Unset<S>),
    /// A value written by a regular expression's named group: missing until then.
    Group,
    /// A built-in variable or one of a family; with the name to hand to the getter.
    Builtin(Get<S>, Box<[u8]>),
    /// Worked out on demand.
    Computed(Box<dyn Compute<S>>),
}

/// How a variable of `set` reads before anything was written.
enum Unset<S: 'static> {
    /// As the built-in variable or family whose name it has.
    Builtin(Get<S>, Box<[u8]>),
    /// Empty; the subject is told the name.
    Empty(Box<str>),
}

/// One variable as a template holds it.
pub struct Reference<S: 'static> {
    link: Link<S>,
}

enum Link<S: 'static> {
    /// A built-in variable which nothing can redefine: one call away.
    Builtin(Get<S>, &'static str),
    /// Anything else.
    Named(Arc<Definition<S>>),
}

/// Where `set` writes.
pub enum Target<S: 'static> {
    /// The value is kept for the request.
    Slot(Slot),
    /// A built-in variable that takes it.
    Put(Put<S>),
}

impl<S: Subject> Variables<S> {
    /// A registry which knows the variables of `tables`.
    ///
    /// # Panics
    /// When two tables declare one name: a mistake in the program, found by any test.
    pub fn new(tables: &[&'static [Variable<S>]]) -> Self {
        let mut builtin = HashMap::new();
        let mut families = Vec::new();
        for variable in tables.iter().copied().flatten() {
            debug_assert!(!variable.name.bytes().any(|b| b.is_ascii_uppercase()));
            if variable.prefix {
                families.push(variable);
            } else {
                let twice = builtin.insert(variable.name, variable).is_some();
                assert!(!twice, "variable \"{}\" is declared twice", variable.name);
            }
        }
        // `upstream_http_x` must not be taken for a shorter family.
        families.sort_by_key(|family| std::cmp::Reverse(family.name.len()));
        Self {
            builtin,
            families,
            names: BTreeMap::new(),
            slots: 0,
        }
    }

    /// The variable called `name` (without `$`, any case), for reading. It need not be defined yet:
    /// [`Variables::finish`] tells.
    pub fn reference(&mut self, name: &str, span: Span) -> Reference<S> {
        let name = name.to_ascii_lowercase();
        if let Some(variable) = self.builtin.get(name.as_str())
            && !variable.changeable
        {
            return Reference {
                link: Link::Builtin(variable.get, variable.name),
            };
        }
        let entry = self.entry(&name);
        entry.used.get_or_insert(span);
        Reference {
            link: Link::Named(Arc::clone(&entry.definition)),
        }
    }

    /// Defines `name` as written by `set` and says where to write.
    ///
    /// # Errors
    /// `the duplicate "x" variable` for a built-in one that cannot be changed.
    pub fn define_set(&mut self, name: &str, span: Span) -> Result<Target<S>> {
        let name = name.to_ascii_lowercase();
        if let Some(put) = self.changeable(&name, span)? {
            return Ok(Target::Put(put));
        }
        let unset = match self.builtin_getter(&name) {
            Some((get, rest)) => Unset::Builtin(get, rest),
            None => Unset::Empty(name.as_str().into()),
        };
        let entry = self.entry(&name);
        if matches!(entry.body, None | Some(Body::Group)) {
            entry.body = Some(Body::Set(unset));
        }
        Ok(Target::Slot(entry.definition.slot))
    }

    /// Defines `name` as a regular expression's named group.
    ///
    /// # Errors
    /// `the duplicate "x" variable` for a built-in one that cannot be changed.
    pub fn define_group(&mut self, name: &str, span: Span) -> Result<Slot> {
        let name = name.to_ascii_lowercase();
        self.changeable(&name, span)?;
        let entry = self.entry(&name);
        if entry.body.is_none() {
            entry.body = Some(Body::Group);
        }
        Ok(entry.definition.slot)
    }

    /// Defines `name` as computed. The latest definition of a name counts.
    ///
    /// # Errors
    /// `the duplicate "x" variable` for a built-in one that cannot be changed.
    pub fn define_computed(
        &mut self,
        name: &str,
        span: Span,
        compute: impl Compute<S> + 'static,
    ) -> Result<()> {
        let name = name.to_ascii_lowercase();
        self.changeable(&name, span)?;
        self.entry(&name).body = Some(Body::Computed(Box::new(compute)));
        Ok(())
    }

    /// Links every name to its definition. Call it once everything is compiled, before anything is
    /// evaluated.
    ///
    /// # Errors
    /// `unknown "x" variable`, at the first use of a name which nothing defines.
    pub fn finish(&mut self) -> Result<()> {
        let mut names = std::mem::take(&mut self.names);
        let unknown = names
            .iter_mut()
            .filter_map(|(name, entry)| Some((self.link(name, entry)?, name.clone())))
            .min();
        let error = unknown.map(|(span, name)| self.unknown(&name, span, names.keys()));
        self.names = names;
        error.map_or(Ok(()), Err)
    }

    /// Fills the definition of `entry`; the place of its use when nothing defines it.
    fn link(&self, name: &str, entry: &mut Entry<S>) -> Option<Span> {
        if entry.definition.body.get().is_some() {
            return None;
        }
        let body = entry.body.take().or_else(|| self.builtin_body(name));
        match body {
            Some(body) => {
                let fresh = entry.definition.body.set(body).is_ok();
                debug_assert!(fresh, "a definition is filled once");
                None
            }
            None => entry.used,
        }
    }

    fn builtin_body(&self, name: &str) -> Option<Body<S>> {
        let (get, name) = self.builtin_getter(name)?;
        Some(Body::Builtin(get, name))
    }

    /// The getter of a built-in variable or family, with the name to hand to it.
    fn builtin_getter(&self, name: &str) -> Option<(Get<S>, Box<[u8]>)> {
        if let Some(variable) = self.builtin.get(name) {
            return Some((variable.get, variable.name.as_bytes().into()));
        }
        self.families.iter().find_map(|family| {
            let rest = name.strip_prefix(family.name)?;
            Some((family.get, rest.as_bytes().into()))
        })
    }

    fn unknown<'a>(
        &self,
        name: &str,
        span: Span,
        names: impl Iterator<Item = &'a Box<str>>,
    ) -> ConfigError {
        let error = ConfigError::at(span, format!("unknown \"{name}\" variable"));
        let candidates = self.builtin.keys().copied();
        let candidates = candidates.chain(names.map(|n| &**n)).filter(|n| *n != name);
        match nearest(name, candidates) {
            Some(near) => error.help(format!("did you mean \"${near}\"?")),
            None => error,
        }
    }

    /// Whether the file may define `name`: yes unless it is a fixed built-in one. What takes its
    /// value from `set`, if anything.
    fn changeable(&self, name: &str, span: Span) -> Result<Option<Put<S>>> {
        match self.builtin.get(name) {
            None => Ok(None),
            Some(variable) if variable.changeable => Ok(variable.put),
            Some(_) => {
                let help = "the name belongs to a built-in variable; choose another one";
                let message = format!("the duplicate \"{name}\" variable");
                Err(ConfigError::at(span, message).help(help))
            }
        }
    }

    fn entry(&mut self, name: &str) -> &mut Entry<S> {
        if !self.names.contains_key(name) {
            let definition = Definition {
                slot: Slot(self.slots),
                body: OnceLock::new(),
            };
            self.slots += 1;
            let entry = Entry {
                definition: Arc::new(definition),
                used: None,
                body: None,
            };
            self.names.insert(name.into(), entry);
        }
        self.names
            .get_mut(name)
            .expect("inserted above when absent")
    }
}

impl<S: Subject> Reference<S> {
    /// Appends the value to `out`; false (and nothing appended) when there is none.
    pub fn eval(&self, subject: &mut S, out: &mut Vec<u8>) -> bool {
        match &self.link {
            Link::Builtin(get, name) => get(subject, name.as_bytes(), out),
            Link::Named(definition) => definition.eval(subject, out),
        }
    }

    /// The slot behind a variable written by `set` or a named group, once linked; None for computed
    /// and built-in ones.
    pub fn slot(&self) -> Option<Slot> {
        match &self.link {
            Link::Builtin(..) => None,
            Link::Named(definition) => match definition.body.get() {
                Some(Body::Set(_) | Body::Group) => Some(definition.slot),
                _ => None,
            },
        }
    }
}

impl<S: Subject> Definition<S> {
    fn eval(&self, subject: &mut S, out: &mut Vec<u8>) -> bool {
        match self.body.get() {
            Some(Body::Builtin(get, name)) => get(subject, name, out),
            Some(Body::Set(unset)) => match (subject.store().get(self.slot), unset) {
                (Stored::Found(value), _) => append(out, value),
                (_, Unset::Builtin(get, name)) => get(subject, name, out),
                (_, Unset::Empty(name)) => {
                    subject.uninitialized(name);
                    // From now on it is empty, so that this is told once.
                    subject.store_mut().set(self.slot, b"");
                    true
                }
            },
            Some(Body::Group) => match subject.store().get(self.slot) {
                Stored::Found(value) => append(out, value),
                _ => false,
            },
            Some(Body::Computed(computed)) => self.compute(&**computed, subject, out),
            None => {
                debug_assert!(false, "a variable is read before Variables::finish");
                false
            }
        }
    }

    /// The cached value, or a fresh one. A cycle reads as "no value".
    fn compute(&self, computed: &dyn Compute<S>, subject: &mut S, out: &mut Vec<u8>) -> bool {
        match subject.store().get(self.slot) {
            Stored::Found(value) => return append(out, value),
            Stored::Missing | Stored::Busy => return false,
            Stored::Unset => {}
        }
        let mut value = subject.store_mut().begin(self.slot);
        let found = computed.compute(subject, &mut value);
        out.extend_from_slice(&value);
        let store = subject.store_mut();
        store.finish(self.slot, value, found);
        if !computed.cached() {
            store.forget(self.slot);
        }
        found
    }
}

impl<S: Subject> Target<S> {
    /// Assigns `value`.
    pub fn write(&self, subject: &mut S, value: &[u8]) {
        match self {
            Self::Slot(slot) => subject.store_mut().set(*slot, value),
            Self::Put(put) => put(subject, value),
        }
    }
}

impl<S> Clone for Reference<S> {
    fn clone(&self) -> Self {
        let link = match &self.link {
            Link::Builtin(get, name) => Link::Builtin(*get, name),
            Link::Named(definition) => Link::Named(Arc::clone(definition)),
        };
        Self { link }
    }
}

impl<S> fmt::Debug for Reference<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.link {
            Link::Builtin(_, name) => write!(f, "${name}"),
            Link::Named(definition) => write!(f, "${:?}", definition.slot),
        }
    }
}

impl<S> fmt::Debug for Target<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => slot.fmt(f),
            Self::Put(_) => f.write_str("Put"),
        }
    }
}

impl<S> fmt::Debug for Variables<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variables")
            .field("builtin", &self.builtin.len())
            .field("names", &self.names.keys())
            .finish_non_exhaustive()
    }
}

fn append(out: &mut Vec<u8>, value: &[u8]) -> bool {
    out.extend_from_slice(value);
    true
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::super::{Store, Template, define};
    use super::*;
    use crate::config::{Word, parse_text};

    /// A subject with a few variables: `$uri`, `$args` (settable), `$absent`, `$arg_NAME` (echoes
    /// NAME), `$count` (counts its calls).
    #[derive(Default)]
    pub struct Probe {
        pub store: Store,
        pub uri: Vec<u8>,
        pub args: Vec<u8>,
        pub calls: usize,
        pub uninitialized: Vec<String>,
    }

    impl Subject for Probe {
        fn uninitialized(&mut self, name: &str) {
            self.uninitialized.push(name.to_owned());
        }
        fn store(&self) -> &Store {
            &self.store
        }
        fn store_mut(&mut self) -> &mut Store {
            &mut self.store
        }
    }

    const TABLE: &[Variable<Probe>] = &[
        Variable::new("uri", |probe: &mut Probe, _, out| append(out, &probe.uri)).doc("the URI"),
        Variable::new("args", |probe: &mut Probe, _, out| append(out, &probe.args))
            .settable(|probe, value| probe.args = value.to_vec()),
        Variable::new("absent", |_, _, _| false),
        Variable::family("http_", |_, _, _| false),
        Variable::new("count", |probe, _, out| {
            probe.calls += 1;
            append(out, probe.calls.to_string().as_bytes())
        }),
        Variable::family("arg_", |_, name, out| append(out, name)),
        Variable::family("arg_long_", |_, name, out| {
            append(out, &[b"long:", name].concat())
        }),
    ];

    pub fn variables() -> Variables<Probe> {
        Variables::new(&[TABLE])
    }

    pub fn template(text: &str, variables: &mut Variables<Probe>) -> Template<Probe> {
        Template::compile(&Word::new(text, Span::START), variables).expect("the template compiles")
    }

    pub fn expand(template: &Template<Probe>, probe: &mut Probe) -> String {
        let mut out = Vec::new();
        template.eval(probe, &mut out);
        String::from_utf8(out).expect("tests expand to UTF-8")
    }

    /// Compiles a text of definitions (`map` and the like).
    pub fn definitions(text: &str) -> Result<Variables<Probe>> {
        let mut variables = variables();
        let (nodes, _) = parse_text(Path::new("test.conf"), text.as_bytes());
        for node in &nodes {
            define(node, &mut variables)?;
        }
        Ok(variables)
    }

    /// What `shown` expands to for each URI.
    pub fn values(text: &str, shown: &str, uris: &[&str]) -> Vec<String> {
        let mut variables = definitions(text).expect("the definitions compile");
        let shown = template(shown, &mut variables);
        variables.finish().expect("all names are known");
        let mut probe = Probe::default();
        let mut value = |uri: &&str| {
            probe.store.reset();
            probe.uri = uri.as_bytes().to_vec();
            expand(&shown, &mut probe)
        };
        uris.iter().map(&mut value).collect()
    }

    /// Counts how often it is asked and says so.
    struct Counter {
        cached: bool,
    }

    impl Compute<Probe> for Counter {
        fn compute(&self, probe: &mut Probe, out: &mut Vec<u8>) -> bool {
            probe.calls += 1;
            append(out, probe.calls.to_string().as_bytes())
        }
        fn cached(&self) -> bool {
            self.cached
        }
    }

    /// Expands a template; with a template that names itself, a cycle.
    struct Indirect(Template<Probe>);

    impl Compute<Probe> for Indirect {
        fn compute(&self, probe: &mut Probe, out: &mut Vec<u8>) -> bool {
            self.0.eval(probe, out);
            true
        }
    }

    #[test]
    fn definitions_may_come_after_uses() {
        let mut variables = variables();
        let text = template("[$later][${LATER}][$arg_x][$arg_long_y]", &mut variables);
        variables
            .define_computed("later", Span::START, Counter { cached: true })
            .expect("it is free");
        variables.finish().expect("all names are known");
        let mut probe = Probe::default();
        assert_eq!(expand(&text, &mut probe), "[1][1][x][long:y]");
        probe.store.reset();
        assert_eq!(expand(&text, &mut probe), "[2][2][x][long:y]");
    }

    #[test]
    fn values_that_are_not_cached_are_worked_out_each_time() {
        let mut variables = variables();
        variables
            .define_computed("v", Span::START, Counter { cached: false })
            .expect("it is free");
        let text = template("$v$v", &mut variables);
        variables.finish().expect("all names are known");
        assert_eq!(expand(&text, &mut Probe::default()), "12");
    }

    #[test]
    fn a_cycle_reads_as_nothing() {
        let mut variables = variables();
        let inner = template("<$b>", &mut variables);
        variables
            .define_computed("a", Span::START, Indirect(inner))
            .expect("it is free");
        let inner = template("($a)", &mut variables);
        variables
            .define_computed("b", Span::START, Indirect(inner))
            .expect("it is free");
        let text = template("$a", &mut variables);
        variables.finish().expect("all names are known");
        assert_eq!(expand(&text, &mut Probe::default()), "<()>");
    }

    #[test]
    fn unknown_names_are_reported_where_first_used_with_the_nearest_name() {
        let mut variables = variables();
        let second = Span {
            line: 7,
            ..Span::START
        };
        variables.reference("zzz", second);
        variables.reference("urii", Span::START);
        let error = variables.finish().expect_err("two names are unknown");
        assert_eq!(error.message, "unknown \"urii\" variable");
        assert_eq!(error.span, Some(Span::START));
        assert_eq!(error.help.as_deref(), Some("did you mean \"$uri\"?"));
    }

    #[test]
    fn fixed_variables_cannot_be_redefined_and_changeable_ones_can() {
        let mut variables = variables();
        let error = variables
            .define_set("URI", Span::START)
            .expect_err("it is built in");
        assert_eq!(error.message, "the duplicate \"uri\" variable");
        assert!(variables.define_group("uri", Span::START).is_err());
        assert!(
            variables
                .define_computed("uri", Span::START, Counter { cached: true })
                .is_err()
        );

        let target = variables
            .define_set("args", Span::START)
            .expect("it takes values");
        let text = template("$args", &mut variables);
        variables.finish().expect("all names are known");
        let mut probe = Probe::default();
        target.write(&mut probe, b"a=1");
        assert_eq!(
            (expand(&text, &mut probe), &*probe.args),
            ("a=1".into(), &b"a=1"[..])
        );
    }

    #[test]
    fn what_set_writes_shadows_a_family_from_then_on() {
        let mut variables = variables();
        let text = template("$arg_x", &mut variables);
        let target = variables
            .define_set("arg_x", Span::START)
            .expect("it is free");
        variables.finish().expect("all names are known");
        let mut probe = Probe::default();
        assert_eq!(expand(&text, &mut probe), "x");
        target.write(&mut probe, b"mine");
        assert_eq!(expand(&text, &mut probe), "mine");
    }

    #[test]
    fn unset_variables_are_empty_and_unmatched_groups_are_missing() {
        let mut variables = variables();
        variables.define_set("s", Span::START).expect("it is free");
        variables
            .define_group("g", Span::START)
            .expect("it is free");
        let [set, group, absent] =
            ["s", "g", "absent"].map(|n| variables.reference(n, Span::START));
        variables.finish().expect("all names are known");
        let mut probe = Probe::default();
        let mut out = Vec::new();
        assert!(set.eval(&mut probe, &mut out));
        assert!(set.eval(&mut probe, &mut out));
        assert_eq!(probe.uninitialized, ["s"]);
        assert!(!group.eval(&mut probe, &mut out));
        assert!(!absent.eval(&mut probe, &mut out));
        assert!(out.is_empty());
        assert!(set.slot().is_some() && absent.slot().is_none());
    }
}
