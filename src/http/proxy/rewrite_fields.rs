//! `proxy_redirect` and `proxy_cookie_…`: what changes in Location, Refresh and Set-Cookie.

use crate::config::{ConfigError, Node, Reader, Result, Word, value};
use crate::http::exchange::Exchange;
use crate::http::respond;
use crate::http::scope::{Compiler, Scope};
use crate::http::token::Token;
use crate::inherit;
use crate::vars::{Pattern, Template};

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    redirect: Option<Vec<RawRule>>,
    cookie_domain: Option<Vec<RawRule>>,
    cookie_path: Option<Vec<RawRule>>,
    cookie_flags: Option<Vec<Vec<Word>>>,
}

#[derive(Clone)]
enum RawRule {
    /// `off`: nothing, and nothing inherited.
    Off,
    /// `proxy_redirect default`; implied where there is no word.
    Default(Option<Word>),
    /// From, to.
    Pair(Word, Word),
}

/// The compiled rules.
#[derive(Default)]
pub struct Rewrites {
    redirect: Vec<Rule>,
    cookie_domain: Vec<Rule>,
    cookie_path: Vec<Rule>,
    cookie_flags: Vec<FlagRule>,
}

/// One pair of a directive.
struct Rule {
    from: From,
    to: Template<Exchange>,
}

/// What a value is compared with.
enum From {
    /// A prefix (a whole domain for cookies).
    Text(Template<Exchange>),
    /// A regular expression; a match replaces it and its captures may stand in `to`.
    Regex(Pattern),
}

struct FlagRule {
    cookie: From,
    /// (flag, present, `samesite=` value)
    flags: Vec<Flag>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flag {
    Secure(bool),
    HttpOnly(bool),
    /// `Strict`, `Lax` or `None`.
    SameSite(&'static str),
    NoSameSite,
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; redirect, cookie_domain, cookie_path, cookie_flags);
    }

    /// The compiled rules of a location.
    pub fn compile(&self, c: &mut Compiler, scope: &Scope) -> Result<Rewrites> {
        let mut redirect = Vec::new();
        for rule in self
            .redirect
            .as_deref()
            .unwrap_or(&[RawRule::Default(None)])
        {
            match rule {
                RawRule::Off => {}
                RawRule::Pair(from, to) => redirect.push(compile_rule(from, to, c)?),
                RawRule::Default(word) => redirect.extend(default_redirect(word.as_ref(), scope)?),
            }
        }
        let mut pairs = |rules: &Option<Vec<RawRule>>| -> Result<Vec<Rule>> {
            let mut compiled = Vec::new();
            for rule in rules.iter().flatten() {
                if let RawRule::Pair(from, to) = rule {
                    compiled.push(compile_rule(from, to, c)?);
                }
            }
            Ok(compiled)
        };
        let (cookie_domain, cookie_path) = (pairs(&self.cookie_domain)?, pairs(&self.cookie_path)?);
        let mut cookie_flags = Vec::new();
        for words in self.cookie_flags.iter().flatten() {
            if !(words.len() == 1 && words[0].is("off")) {
                let flags = words[1..].iter().map(parse_flag).collect::<Result<_>>()?;
                cookie_flags.push(FlagRule {
                    cookie: compile_from(&words[0], c)?,
                    flags,
                });
            }
        }
        Ok(Rewrites {
            redirect,
            cookie_domain,
            cookie_path,
            cookie_flags,
        })
    }
}

/// What `proxy_pass` itself implies: its URL becomes the location's name.
fn default_redirect(word: Option<&Word>, scope: &Scope) -> Result<Option<Rule>> {
    let Some(pass) = &scope.proxy.pass else {
        return Ok(None);
    };
    if pass.text().contains('$') {
        let Some(word) = word else { return Ok(None) };
        return Err(ConfigError::at(
            word.span,
            "\"proxy_redirect default\" cannot be used with \"proxy_pass\" directive with variables",
        ));
    }
    let name = scope.place.name.as_ref().map_or(&b""[..], |n| &n.bytes);
    let has_uri = super::conf::Url::parse(&pass.bytes, super::conf::Side::Proxy)
        .is_ok_and(|u| u.uri.is_some());
    let mut from = pass.bytes.to_vec();
    let to = if has_uri {
        name
    } else {
        from.push(b'/');
        b"/"
    };
    Ok(Some(Rule {
        from: From::Text(Template::constant(&from)),
        to: Template::constant(to),
    }))
}

fn compile_rule(from: &Word, to: &Word, c: &mut Compiler) -> Result<Rule> {
    Ok(Rule {
        from: compile_from(from, c)?,
        to: c.template(to)?,
    })
}

fn compile_from(word: &Word, c: &mut Compiler) -> Result<From> {
    let Some(pattern) = word.strip("~") else {
        return Ok(From::Text(c.template(word)?));
    };
    let (pattern, caseless) = match pattern.strip_prefix(b"*") {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    Ok(From::Regex(Pattern::compile(
        pattern,
        caseless,
        word.span,
        &mut c.vars,
    )?))
}

fn parse_flag(word: &Word) -> Result<Flag> {
    let text = word.text().to_ascii_lowercase();
    Ok(match &*text {
        "secure" => Flag::Secure(true),
        "nosecure" => Flag::Secure(false),
        "httponly" => Flag::HttpOnly(true),
        "nohttponly" => Flag::HttpOnly(false),
        "samesite=strict" => Flag::SameSite("Strict"),
        "samesite=lax" => Flag::SameSite("Lax"),
        "samesite=none" => Flag::SameSite("None"),
        "nosamesite" => Flag::NoSameSite,
        _ => {
            let message = format!("invalid parameter \"{}\"", word.text());
            return Err(ConfigError::at(word.span, message)
                .help("secure, httponly, samesite=strict|lax|none, or one of them with \"no\""));
        }
    })
}

impl Rewrites {
    /// Whether fields with this token may change.
    pub fn is_on(&self, token: Token) -> bool {
        match token {
            Token::SetCookie => {
                !self.cookie_domain.is_empty()
                    || !self.cookie_path.is_empty()
                    || !self.cookie_flags.is_empty()
            }
            _ => !self.redirect.is_empty(),
        }
    }
}

/// Rewrites the fields of `ex.response` in place.
pub fn apply(ex: &mut Exchange, rewrites: &Rewrites) {
    let mut fields = std::mem::take(&mut ex.response.fields);
    for field in &mut fields {
        if !rewrites.is_on(field.token) {
            continue;
        }
        let value = field.value.of(&ex.response.buf).to_vec();
        let changed = match field.token {
            Token::Location => redirect(ex, &rewrites.redirect, &value).map(|to| absolute(ex, to)),
            Token::Refresh => refresh(ex, &rewrites.redirect, &value),
            Token::SetCookie => cookie(ex, rewrites, &value),
            _ => None,
        };
        if let Some(value) = changed {
            field.value = ex.response.store(&value);
        }
    }
    ex.response.fields = fields;
}

fn redirect(ex: &mut Exchange, rules: &[Rule], value: &[u8]) -> Option<Vec<u8>> {
    rules
        .iter()
        .find_map(|rule| replace_prefix(ex, rule, value))
}

/// A replacement may leave the server out: then it is this one, as `absolute_redirect` wants it.
fn absolute(ex: &Exchange, mut location: Vec<u8>) -> Vec<u8> {
    if matches!(ex.response.status, 201 | 300..=399) {
        let mut origin = Vec::new();
        respond::write_origin(ex, &location, &mut origin);
        location.splice(..0, origin);
    }
    location
}

/// `5; url=http://…`: only the URL changes.
fn refresh(ex: &mut Exchange, rules: &[Rule], value: &[u8]) -> Option<Vec<u8>> {
    let lower = value.to_ascii_lowercase();
    let at = memchr::memmem::find(&lower, b"url=")? + 4;
    let changed = redirect(ex, rules, &value[at..])?;
    Some([&value[..at], &changed].concat())
}

fn replace_prefix(ex: &mut Exchange, rule: &Rule, value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match &rule.from {
        From::Text(template) => {
            let mut from = Vec::new();
            template.eval(ex, &mut from);
            let rest = value.strip_prefix(&*from)?;
            rule.to.eval(ex, &mut out);
            out.extend_from_slice(rest);
        }
        From::Regex(pattern) => {
            if !pattern.exec(&mut ex.store, value) {
                return None;
            }
            rule.to.eval(ex, &mut out);
        }
    }
    Some(out)
}

fn cookie(ex: &mut Exchange, rewrites: &Rewrites, value: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = value
        .split(|b| *b == b';')
        .map(|p| p.trim_ascii().to_vec())
        .collect();
    let mut changed = false;
    for part in parts.iter_mut().skip(1) {
        let Some(at) = memchr::memchr(b'=', part) else {
            continue;
        };
        let (name, old) = (part[..at].to_ascii_lowercase(), part[at + 1..].to_vec());
        let new = match &*name {
            b"domain" => rewrites
                .cookie_domain
                .iter()
                .find_map(|r| replace_domain(ex, r, &old)),
            b"path" => rewrites
                .cookie_path
                .iter()
                .find_map(|r| replace_prefix(ex, r, &old)),
            _ => None,
        };
        if let Some(new) = new {
            part.truncate(at + 1);
            part.extend_from_slice(&new);
            changed = true;
        }
    }
    changed |= set_flags(ex, &rewrites.cookie_flags, &mut parts);
    changed.then(|| parts.join(&b"; "[..]))
}

fn replace_domain(ex: &mut Exchange, rule: &Rule, value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match &rule.from {
        From::Text(template) => {
            let mut from = Vec::new();
            template.eval(ex, &mut from);
            // A dot in front counts on neither side, and stays where it was.
            let bare = value.strip_prefix(b".").unwrap_or(value);
            if !from
                .strip_prefix(b".")
                .unwrap_or(&from)
                .eq_ignore_ascii_case(bare)
            {
                return None;
            }
            out.extend_from_slice(&value[..value.len() - bare.len()]);
        }
        From::Regex(pattern) => {
            if !pattern.exec(&mut ex.store, value) {
                return None;
            }
        }
    }
    rule.to.eval(ex, &mut out);
    Some(out)
}

fn set_flags(ex: &mut Exchange, rules: &[FlagRule], parts: &mut Vec<Vec<u8>>) -> bool {
    let end = memchr::memchr(b'=', &parts[0]).unwrap_or(parts[0].len());
    let name = parts[0][..end].to_vec();
    let matching = rules.iter().find(|rule| match &rule.cookie {
        From::Regex(pattern) => pattern.exec(&mut ex.store, &name),
        From::Text(template) => {
            let mut text = Vec::new();
            template.eval(ex, &mut text);
            text == name
        }
    });
    let Some(rule) = matching else { return false };
    let is = |part: &[u8], name: &str| {
        let key = part.split(|b| *b == b'=').next().unwrap_or(part);
        key.eq_ignore_ascii_case(name.as_bytes())
    };
    for flag in &rule.flags {
        let (name, text) = match flag {
            Flag::Secure(on) => ("secure", on.then(|| "Secure".to_string())),
            Flag::HttpOnly(on) => ("httponly", on.then(|| "HttpOnly".to_string())),
            Flag::SameSite(site) => ("samesite", Some(format!("SameSite={site}"))),
            Flag::NoSameSite => ("samesite", None),
        };
        let there = (1..parts.len()).find(|&at| is(&parts[at], name));
        match (there, text) {
            // A flag that is set already stays as it was written.
            (Some(_), Some(_)) if name != "samesite" => {}
            (Some(at), Some(text)) => parts[at] = text.into_bytes(),
            (None, Some(text)) => parts.push(text.into_bytes()),
            (Some(_), None) => {
                let mut at = 0;
                parts.retain(|part| {
                    at += 1;
                    at == 1 || !is(part, name)
                });
            }
            (None, None) => {}
        }
    }
    true
}

/// Reads `proxy_redirect`.
pub fn set_redirect(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let args = node.args();
    let rules = s.proxy.rewrites.redirect.get_or_insert_default();
    if args.len() == 1 {
        return match &*args[0].bytes {
            b"off" => only(rules, RawRule::Off, node),
            b"default" => {
                rules.push(RawRule::Default(Some(args[0].clone())));
                Ok(())
            }
            b"false" => Err(ConfigError::at(
                args[0].span,
                "invalid parameter \"false\", use \"off\" instead",
            )),
            _ => Err(ConfigError::at(
                args[0].span,
                format!("invalid parameter \"{}\"", args[0].text()),
            )),
        };
    }
    rules.push(RawRule::Pair(args[0].clone(), args[1].clone()));
    Ok(())
}

/// Reads `proxy_cookie_domain`.
pub fn set_cookie_domain(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    set_pair(s.proxy.rewrites.cookie_domain.get_or_insert_default(), node)
}

/// Reads `proxy_cookie_path`.
pub fn set_cookie_path(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    set_pair(s.proxy.rewrites.cookie_path.get_or_insert_default(), node)
}

fn set_pair(rules: &mut Vec<RawRule>, node: &Node) -> Result<()> {
    match node.args() {
        [from, to] => rules.push(RawRule::Pair(from.clone(), to.clone())),
        [word] if word.is("off") => return only(rules, RawRule::Off, node),
        other => {
            let message = format!("invalid parameter \"{}\"", other[0].text());
            return Err(ConfigError::at(other[0].span, message));
        }
    }
    Ok(())
}

fn only(rules: &mut Vec<RawRule>, rule: RawRule, node: &Node) -> Result<()> {
    if !rules.is_empty() {
        return Err(value::duplicate(node));
    }
    rules.push(rule);
    Ok(())
}

/// Reads `proxy_cookie_flags`.
pub fn set_cookie_flags(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let rules = s.proxy.rewrites.cookie_flags.get_or_insert_default();
    if node.args().len() == 1 && !node.args()[0].is("off") {
        let message = format!("invalid parameter \"{}\"", node.args()[0].text());
        return Err(ConfigError::at(node.args()[0].span, message));
    }
    rules.push(node.args().to_vec());
    Ok(())
}
