//! All directives there are: those that ringway implements, and nginx's others.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::known::known;
use super::schema::{Arity, Contexts, NO_DEFAULT, Row, Set};

/// What ringway does with a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It works.
    Implemented,
    /// It is accepted without effect, for this reason.
    Notice(&'static str),
    /// nginx has it, ringway not yet.
    NotYet,
}

/// A directive in some of its contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The directive's name.
    pub name: &'static str,
    /// Where this entry holds.
    pub contexts: Contexts,
    /// How many arguments it takes, where ringway knows.
    pub arity: Option<Arity>,
    /// The default as the documentation gives it; `—` if there is none.
    pub default: &'static str,
    /// One line about it; nginx's module for a directive that is not implemented.
    pub doc: &'static str,
    /// What ringway does with it.
    pub status: Status,
}

/// Every directive by name.
#[derive(Debug, Default)]
pub struct Catalog {
    by_name: BTreeMap<&'static str, Vec<Meta>>,
}

impl Catalog {
    /// Builds the catalog: `add` is called with an empty one and adds every table of rows; nginx's
    /// other directives follow by themselves.
    pub fn new(add: impl FnOnce(&mut Self)) -> Self {
        let mut catalog = Self::default();
        catalog.add_include();
        add(&mut catalog);
        catalog.add_known();
        catalog
    }

    /// Adds a module's rows.
    pub fn add<S: 'static>(&mut self, rows: &[Row<S>]) {
        for row in rows {
            let status = match (&row.set, row.without_effect) {
                (&Set::Notice(why), _) | (_, Some(why)) => Status::Notice(why),
                _ => Status::Implemented,
            };
            self.push(Meta {
                name: row.name,
                contexts: row.contexts,
                arity: Some(row.arity),
                default: row.default,
                doc: row.doc,
                status,
            });
        }
    }

    /// The entries of a name; none for an unknown one.
    pub fn find(&self, name: &str) -> &[Meta] {
        self.by_name.get(name).map_or(&[], |entries| entries)
    }

    /// Every entry, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Meta> {
        self.by_name.values().flatten()
    }

    /// `include` is the parser's and has no row.
    fn add_include(&mut self) {
        self.push(Meta {
            name: "include",
            contexts: Contexts::ANY,
            arity: Some(Arity::One),
            default: NO_DEFAULT,
            doc: "Reads another file, or every file a pattern matches, in this place.",
            status: Status::Implemented,
        });
    }

    /// Adds nginx's directives for the contexts in which no row has them.
    fn add_known(&mut self) {
        for known in known() {
            let covered = self
                .find(known.name)
                .iter()
                .filter(|m| m.status != Status::NotYet);
            let covered = covered.fold(Contexts::NONE, |all, meta| all | meta.contexts);
            let contexts = known.contexts.without(covered);
            if contexts.is_empty() {
                continue;
            }
            self.push(Meta {
                name: known.name,
                contexts,
                arity: None,
                default: if known.default.is_empty() {
                    NO_DEFAULT
                } else {
                    known.default
                },
                doc: known.module,
                status: Status::NotYet,
            });
        }
    }

    fn push(&mut self, meta: Meta) {
        self.by_name.entry(meta.name).or_default().push(meta);
    }
}

/// The page `docs/nginx-compatibility.md`.
pub fn markdown(catalog: &Catalog) -> String {
    let count = |wanted: fn(Status) -> bool| catalog.iter().filter(|m| wanted(m.status)).count();
    let implemented = count(|status| status == Status::Implemented);
    let notices = count(|status| matches!(status, Status::Notice(_)));
    let missing = count(|status| status == Status::NotYet);
    let mut out = format!(
        "# nginx compatibility\n\n\
         Every directive of nginx 1.31, open source and commercial, and what ringway does with it: \
         {implemented} entries are implemented, {notices} are accepted without effect (`-t` says \
         so), {missing} are not there yet and refused (`--lenient` skips them with a warning). A \
         directive has several entries when contexts differ. This page is generated; do not edit \
         it.\n\n\
         | directive | contexts | default | status | what it does |\n|---|---|---|---|---|\n"
    );
    for meta in catalog.iter() {
        let contexts = meta.contexts.names().collect::<Vec<_>>().join(", ");
        let (status, doc) = match meta.status {
            Status::Implemented => ("implemented".into(), cell(meta.doc)),
            Status::Notice(why) => (format!("no effect: {}", cell(why)), cell(meta.doc)),
            Status::NotYet => ("not yet".into(), cell(meta.doc)),
        };
        let default = match meta.default {
            NO_DEFAULT => NO_DEFAULT.into(),
            default => format!("`{}`", cell(default)),
        };
        let _ = writeln!(
            out,
            "| `{}` | {contexts} | {default} | {status} | {doc} |",
            meta.name
        );
    }
    out
}

/// Text that does not end a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[Row<Option<bool>>] = &[
        Row::flag("sendfile", Contexts::HTTP, |scope| scope)
            .default("off")
            .doc("Sends a | b."),
        Row::notice(
            "use",
            Contexts::EVENTS,
            Arity::One,
            "ringway always uses io_uring",
        ),
    ];

    #[test]
    fn rows_take_their_contexts_and_nginx_keeps_the_rest() {
        let catalog = Catalog::new(|catalog| catalog.add(ROWS));
        let [ours, theirs] = catalog.find("sendfile") else {
            panic!("two entries expected")
        };
        assert_eq!(
            (ours.status, ours.contexts),
            (Status::Implemented, Contexts::HTTP)
        );
        assert_eq!(theirs.status, Status::NotYet);
        assert!(!theirs.contexts.overlaps(Contexts::HTTP));
        assert!(theirs.contexts.overlaps(Contexts::LOCATION));
        assert_eq!(catalog.find("include").len(), 1);
        assert!(catalog.find("pagespeed").is_empty());
    }

    #[test]
    fn the_page_has_a_line_for_each_entry() {
        let catalog = Catalog::new(|catalog| catalog.add(ROWS));
        let page = markdown(&catalog);
        assert!(page.contains("| `sendfile` | http | `off` | implemented | Sends a \\| b. |\n"));
        assert!(
            page.contains("| `use` | events | — | no effect: ringway always uses io_uring |  |")
        );
        assert!(page.contains("| `fastcgi_pass` | location, if in location | — | not yet |"));
        assert_eq!(page.lines().count(), catalog.iter().count() + 6);
    }
}
