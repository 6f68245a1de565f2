//! The sessions of one listening socket, by the addresses their datagrams travel between.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::ring::Route;

use super::flow::Flow;

/// The sessions of one listening socket.
#[derive(Default)]
pub struct Table {
    /// Those that take datagrams.
    flows: RefCell<HashMap<Route, Rc<Flow>>>,
    /// Those that have all their requests, and wait for answers.
    detached: RefCell<HashMap<*const Flow, Rc<Flow>>>,
    count: Cell<usize>,
    waker: Cell<Option<Waker>>,
}

/// A session's place in the table, until it is dropped.
pub struct Entry {
    table: Rc<Table>,
    flow: Rc<Flow>,
}

impl Table {
    /// Adds a session.
    pub fn add(self: &Rc<Table>, flow: &Rc<Flow>) -> Entry {
        self.count.set(self.count.get() + 1);
        self.flows.borrow_mut().insert(flow.route, Rc::clone(flow));
        Entry {
            table: Rc::clone(self),
            flow: Rc::clone(flow),
        }
    }

    /// The session for datagrams that come this way.
    pub fn find(&self, route: &Route) -> Option<Rc<Flow>> {
        self.flows.borrow().get(route).cloned()
    }

    /// The session takes no more datagrams: the next ones that come its way are another's.
    pub fn detach(&self, flow: &Rc<Flow>) {
        if self.forget(flow) {
            let key = Rc::as_ptr(flow);
            self.detached.borrow_mut().insert(key, Rc::clone(flow));
        }
    }

    /// Wakes the tasks of all sessions.
    pub fn call_all(&self) {
        self.flows.borrow().values().for_each(|flow| flow.call());
        self.detached.borrow().values().for_each(|flow| flow.call());
    }

    /// Ready when no session is left.
    pub fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.count.get() == 0 {
            return Poll::Ready(());
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Whether the session was one that takes datagrams.
    fn forget(&self, flow: &Rc<Flow>) -> bool {
        let mut flows = self.flows.borrow_mut();
        let is_here = flows
            .get(&flow.route)
            .is_some_and(|here| Rc::ptr_eq(here, flow));
        is_here && flows.remove(&flow.route).is_some()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let table = &self.table;
        if !table.forget(&self.flow) {
            table.detached.borrow_mut().remove(&Rc::as_ptr(&self.flow));
        }
        table.count.set(table.count.get() - 1);
        if table.count.get() == 0
            && let Some(waker) = table.waker.take()
        {
            waker.wake();
        }
    }
}
