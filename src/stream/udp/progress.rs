//! How far a session has come: counts in, decisions out.

/// `proxy_requests` and `proxy_responses`, and what follows from the content of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams of the client that belong to one session; `None`: all.
    requests: Option<u64>,
    /// Answers to each of them; `None`: nobody knows how many.
    responses: Option<u64>,
}

/// The datagrams of one session.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    limits: Limits,
    /// Datagrams from the client.
    pub requests: u64,
    /// Datagrams from the upstream.
    pub responses: u64,
    /// Whether an answer has come since the last datagram from the client.
    answered: bool,
}

impl Limits {
    /// Of a server that passes sessions on. `requests` 0 means any number.
    pub fn proxy(requests: u64, responses: Option<u64>) -> Limits {
        let requests = match (requests, responses) {
            // Over with its first datagram: the next one is another session's.
            (0, Some(0)) => Some(1),
            (0, _) => None,
            (count, _) => Some(count),
        };
        Limits {
            requests,
            responses,
        }
    }
}

impl Progress {
    /// Of a session that begins.
    pub fn new(limits: Limits) -> Progress {
        Progress {
            limits,
            requests: 0,
            responses: 0,
            answered: true,
        }
    }

    /// How many more datagrams of the client belong to the session.
    pub fn open_for(&self) -> u64 {
        let most = self.limits.requests.unwrap_or(u64::MAX);
        most.saturating_sub(self.requests)
    }

    /// Datagrams have come from the client.
    pub fn asked(&mut self, count: u64) {
        debug_assert!(count <= self.open_for());
        self.requests += count;
        self.answered &= count == 0;
    }

    /// Datagrams have come from the upstream.
    pub fn answered(&mut self, count: u64) {
        self.responses += count;
        self.answered |= count > 0;
    }

    /// Whether everything has come that there will be.
    pub fn is_done(&self) -> bool {
        let all_asked = self
            .limits
            .requests
            .is_none_or(|most| self.requests >= most);
        all_asked && self.limits.responses.is_some() && !self.is_owed()
    }

    /// Whether the upstream has failed if it is silent from now on: fewer answers have come than
    /// were to come.
    pub fn is_owed(&self) -> bool {
        let each = self.limits.responses.unwrap_or(0);
        self.responses < each.saturating_mul(self.requests)
    }

    /// Whether an end now would take an answer from the client, as far as can be known.
    pub fn is_waiting(&self) -> bool {
        match self.limits.responses {
            Some(_) => self.is_owed(),
            None => !self.answered,
        }
    }

    /// Whether the upstream has answered at all.
    pub fn has_answer(&self) -> bool {
        self.responses > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(limits: Limits, steps: &str) -> Progress {
        let mut progress = Progress::new(limits);
        for step in steps.bytes() {
            match step {
                b'>' => progress.asked(1),
                _ => progress.answered(1),
            }
        }
        progress
    }

    #[test]
    fn a_session_is_done_when_its_answers_have_come() {
        // requests, responses, what came, done, owed
        for (requests, responses, steps, done, owed) in [
            (0, None, "><", false, false),
            (0, None, ">", false, false),
            (0, Some(1), ">", false, true),
            (0, Some(1), "><", true, false),
            (0, Some(1), ">><", false, true),
            (0, Some(2), "><", false, true),
            (0, Some(2), "><<", true, false),
            (0, Some(1), "><<", true, false),
            (0, Some(0), ">", true, false),
            (2, Some(0), ">", false, false),
            (2, Some(0), ">>", true, false),
            (2, Some(1), "><", false, false),
            (2, Some(1), "><><", true, false),
            (2, Some(1), "><>", false, true),
            (2, None, ">><<", false, false),
        ] {
            let progress = after(Limits::proxy(requests, responses), steps);
            let case = (requests, responses, steps);
            assert_eq!(progress.is_done(), done, "{case:?}");
            assert_eq!(progress.is_owed(), owed, "{case:?}");
        }
    }

    #[test]
    fn a_session_takes_no_more_than_its_requests() {
        assert_eq!(after(Limits::proxy(0, None), ">>").open_for(), u64::MAX - 2);
        assert_eq!(after(Limits::proxy(2, None), ">").open_for(), 1);
        assert_eq!(after(Limits::proxy(2, None), ">>").open_for(), 0);
        assert_eq!(after(Limits::proxy(0, Some(0)), "").open_for(), 1);
    }

    #[test]
    fn what_a_client_still_waits_for() {
        for (responses, steps, waiting) in [
            (None, ">", true),
            (None, "><", false),
            (None, "><>", true),
            (Some(2), "><", true),
            (Some(2), "><<", false),
        ] {
            let progress = after(Limits::proxy(0, responses), steps);
            assert_eq!(progress.is_waiting(), waiting, "{responses:?} {steps}");
        }
    }
}
