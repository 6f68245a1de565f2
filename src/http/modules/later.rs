//! Directives that have an effect only together with one that is not implemented yet: without it
//! nginx ignores them too, so they are accepted, and `-t` says so.

use crate::config::{Arity, Contexts, Row};
use crate::http::scope::Scope;

const HSL: Contexts = Contexts::HTTP.or(Contexts::SERVER).or(Contexts::LOCATION);
const NO_CACHE: &str = "has an effect only with proxy_cache, which is not implemented yet";

/// The directives.
pub const ROWS: &[Row<Scope>] = &[
    Row::notice("proxy_cache_bypass", HSL, Arity::AtLeast(1), NO_CACHE),
    Row::notice("proxy_no_cache", HSL, Arity::AtLeast(1), NO_CACHE),
    Row::notice("proxy_cache_valid", HSL, Arity::AtLeast(1), NO_CACHE),
    Row::notice("proxy_cache_key", HSL, Arity::One, NO_CACHE),
    Row::notice("proxy_cache_methods", HSL, Arity::AtLeast(1), NO_CACHE),
    Row::notice("proxy_cache_min_uses", HSL, Arity::One, NO_CACHE),
    Row::notice("proxy_cache_use_stale", HSL, Arity::AtLeast(1), NO_CACHE),
    Row::notice("proxy_cache_lock", HSL, Arity::Flag, NO_CACHE),
    Row::notice("proxy_cache_lock_timeout", HSL, Arity::One, NO_CACHE),
    Row::notice("proxy_cache_lock_age", HSL, Arity::One, NO_CACHE),
    Row::notice("proxy_cache_revalidate", HSL, Arity::Flag, NO_CACHE),
    Row::notice("proxy_cache_background_update", HSL, Arity::Flag, NO_CACHE),
    Row::notice("proxy_cache_convert_head", HSL, Arity::Flag, NO_CACHE),
];
