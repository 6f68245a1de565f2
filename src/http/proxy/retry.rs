//! The one gate that decides what happens after an attempt failed.
//!
//! Pure: what is known goes in, the decision comes out. Nothing else in the proxy retries.

use crate::observe::Level;

use super::conf::NextOn;

/// Why an attempt did not produce a response that can be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The connection could not be made, broke, or was closed.
    Error,
    /// It took too long.
    Timeout,
    /// What came was not an HTTP response that can be framed without doubt.
    InvalidHeader,
    /// A response with this status, which `proxy_next_upstream` may have named.
    Status(u16),
}

/// A failed attempt, as far as the decision needs it.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Why.
    pub cause: Cause,
    /// The connection had served a request before this one.
    pub reused: bool,
    /// At least one byte of an answer had come.
    pub answer_begun: bool,
    /// Bytes of the request had been handed to the kernel.
    pub request_sent: bool,
    /// The peer says that it did not look at the request, which can be sent again as a whole.
    pub refused: bool,
    /// How grave the log calls it if the connection just ends.
    pub level: Level,
}

impl Failure {
    /// A kept connection that dies before it answers was closed while it idled: nobody failed.
    pub fn is_stale(&self) -> bool {
        self.reused && !self.answer_begun && self.cause == Cause::Error
    }
}

/// The request and the configuration, as far as the decision needs them.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// `proxy_next_upstream`.
    pub next_upstream: NextOn,
    /// `proxy_next_upstream_timeout`, ms; 0: no limit.
    pub timeout_ms: u64,
    /// The method may be repeated without harm (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// The body can be sent again from its beginning.
    pub replayable: bool,
    /// How often a peer may still refuse the request without looking at it.
    pub refusals_left: u32,
}

/// How often peers may refuse a request without looking at it before that is a failure.
pub const REFUSALS_MAX: u32 = 4;

impl Terms {
    /// Whether the request, with its body, can and may reach a peer twice.
    pub fn may_repeat(&self) -> bool {
        self.replayable && (self.idempotent || self.next_upstream.has(NextOn::NON_IDEMPOTENT))
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The same peer again on a fresh connection; nobody failed.
    Again,
    /// The next peer; this one failed if `blame`.
    Next {
        /// Counts towards `max_fails`.
        blame: bool,
    },
    /// The client gets this status.
    GiveUp {
        /// 502 or 504.
        status: u16,
        /// Counts towards `max_fails`.
        blame: bool,
    },
    /// The response is passed on although its status is one of an error.
    Pass,
}

/// Decides. `tries_left` counts the peers that may still be tried, `elapsed_ms` runs since the
/// first attempt.
pub fn decide(terms: &Terms, failure: &Failure, tries_left: u32, elapsed_ms: u64) -> Decision {
    if is_repeated(terms, failure) {
        return Decision::Again;
    }
    let condition = match failure.cause {
        Cause::Error => NextOn::ERROR,
        Cause::Timeout => NextOn::TIMEOUT,
        Cause::InvalidHeader => NextOn::INVALID_HEADER,
        Cause::Status(status) => NextOn::of_status(status),
    };
    let wanted = terms.next_upstream.has(condition);
    let blame = match failure.cause {
        Cause::Status(403 | 404) => false,
        Cause::Status(_) => wanted,
        _ => !failure.is_stale(),
    };
    let may_repeat = !failure.request_sent || failure.refused || terms.may_repeat();
    let in_time = terms.timeout_ms == 0 || elapsed_ms < terms.timeout_ms;
    if wanted && may_repeat && in_time && tries_left > 0 {
        return Decision::Next { blame };
    }
    match failure.cause {
        Cause::Status(_) => Decision::Pass,
        Cause::Timeout => Decision::GiveUp { status: 504, blame },
        Cause::Error | Cause::InvalidHeader => Decision::GiveUp { status: 502, blame },
    }
}

/// The request of a stale connection goes to a fresh one if doing it twice does no harm, and one
/// that was not done at all in any case.
fn is_repeated(terms: &Terms, failure: &Failure) -> bool {
    if failure.refused {
        return terms.refusals_left > 0;
    }
    failure.is_stale() && terms.may_repeat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        next_upstream: NextOn(NextOn::ERROR.0 | NextOn::TIMEOUT.0),
        timeout_ms: 0,
        idempotent: true,
        replayable: true,
        refusals_left: 1,
    };
    const ERROR: Failure = Failure {
        cause: Cause::Error,
        reused: false,
        answer_begun: false,
        request_sent: true,
        refused: false,
        level: Level::Error,
    };

    #[test]
    fn an_error_goes_to_the_next_peer_while_there_is_one() {
        assert_eq!(decide(&TERMS, &ERROR, 1, 0), Decision::Next { blame: true });
        let end = Decision::GiveUp {
            status: 502,
            blame: true,
        };
        assert_eq!(decide(&TERMS, &ERROR, 0, 0), end);
        let timeout = Failure {
            cause: Cause::Timeout,
            ..ERROR
        };
        let end = Decision::GiveUp {
            status: 504,
            blame: true,
        };
        assert_eq!(decide(&TERMS, &timeout, 0, 0), end);
    }

    #[test]
    fn a_request_that_changes_things_is_not_sent_twice() {
        let post = Terms {
            idempotent: false,
            ..TERMS
        };
        let end = Decision::GiveUp {
            status: 502,
            blame: true,
        };
        assert_eq!(decide(&post, &ERROR, 3, 0), end);
        let unsent = Failure {
            request_sent: false,
            ..ERROR
        };
        assert_eq!(decide(&post, &unsent, 3, 0), Decision::Next { blame: true });
        let allowed = NextOn(NextOn::ERROR.0 | NextOn::NON_IDEMPOTENT.0);
        let forced = Terms {
            next_upstream: allowed,
            ..post
        };
        assert_eq!(
            decide(&forced, &ERROR, 3, 0),
            Decision::Next { blame: true }
        );
    }

    #[test]
    fn a_stale_connection_is_nobodys_failure() {
        let stale = Failure {
            reused: true,
            ..ERROR
        };
        assert_eq!(decide(&TERMS, &stale, 0, 0), Decision::Again);
        let answered = Failure {
            answer_begun: true,
            ..stale
        };
        assert_ne!(decide(&TERMS, &answered, 0, 0), Decision::Again);
        let post = Terms {
            idempotent: false,
            ..TERMS
        };
        // The connection was old, which says nothing about the peer.
        let end = Decision::GiveUp {
            status: 502,
            blame: false,
        };
        assert_eq!(decide(&post, &stale, 1, 0), end);
        let forced = Terms {
            next_upstream: NextOn(NextOn::ERROR.0 | NextOn::NON_IDEMPOTENT.0),
            ..post
        };
        assert_eq!(decide(&forced, &stale, 1, 0), Decision::Again);
        let streamed = Terms {
            replayable: false,
            ..TERMS
        };
        assert_ne!(decide(&streamed, &stale, 0, 0), Decision::Again);
    }

    #[test]
    fn a_refused_request_is_repeated_whatever_it_is() {
        let refused = Failure {
            refused: true,
            ..ERROR
        };
        let post = Terms {
            idempotent: false,
            replayable: false,
            ..TERMS
        };
        assert_eq!(decide(&post, &refused, 0, 0), Decision::Again);
        let too_often = Terms {
            refusals_left: 0,
            ..post
        };
        let next = Decision::Next { blame: true };
        assert_eq!(decide(&too_often, &refused, 1, 0), next);
        let end = Decision::GiveUp {
            status: 502,
            blame: true,
        };
        assert_eq!(decide(&too_often, &refused, 0, 0), end);
    }

    #[test]
    fn statuses_move_on_only_where_they_are_named() {
        let not_found = Failure {
            cause: Cause::Status(404),
            answer_begun: true,
            ..ERROR
        };
        assert_eq!(decide(&TERMS, &not_found, 1, 0), Decision::Pass);
        let named = Terms {
            next_upstream: NextOn::HTTP_404,
            ..TERMS
        };
        assert_eq!(
            decide(&named, &not_found, 1, 0),
            Decision::Next { blame: false }
        );
        assert_eq!(decide(&named, &not_found, 0, 0), Decision::Pass);
        let broken = Failure {
            cause: Cause::Status(503),
            answer_begun: true,
            ..ERROR
        };
        let named = Terms {
            next_upstream: NextOn::HTTP_503,
            ..TERMS
        };
        assert_eq!(
            decide(&named, &broken, 1, 0),
            Decision::Next { blame: true }
        );
    }

    #[test]
    fn time_runs_out() {
        let limited = Terms {
            timeout_ms: 100,
            ..TERMS
        };
        assert_eq!(
            decide(&limited, &ERROR, 1, 99),
            Decision::Next { blame: true }
        );
        let end = Decision::GiveUp {
            status: 502,
            blame: true,
        };
        assert_eq!(decide(&limited, &ERROR, 1, 100), end);
    }
}
