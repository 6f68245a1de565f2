//! The sessions of one listening address, by the addresses their datagrams travel between.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use crate::base::listen::ListenAddr;
use crate::ring::Route;

use super::flow::Flow;

/// The tables of one worker: an address may have several sockets at a time, for example one that
/// lingers and a new one, between which the kernel shares the datagrams out.
#[derive(Default)]
pub struct Tables(RefCell<HashMap<ListenAddr, Weak<Table>>>);

/// The sessions of one listening address.
#[derive(Default)]
pub struct Table {
    /// Those that take datagrams.
    flows: RefCell<HashMap<Route, Rc<Flow>>>,
    /// Those that have all their requests, and wait for answers.
    detached: RefCell<HashMap<*const Flow, Rc<Flow>>>,
    count: Cell<usize>,
    wakers: RefCell<Vec<Waker>>,
}

/// A session's place in the table, until it is dropped.
pub struct Entry {
    table: Rc<Table>,
    flow: Rc<Flow>,
}

impl Tables {
    /// The table of an address: the one that there is, or a new one.
    pub fn at(&self, addr: &ListenAddr) -> Rc<Table> {
        let mut tables = self.0.borrow_mut();
        if let Some(table) = tables.get(addr).and_then(Weak::upgrade) {
            return table;
        }
        tables.retain(|_, table| table.strong_count() > 0);
        let table = Rc::default();
        tables.insert(addr.clone(), Rc::downgrade(&table));
        table
    }
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
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
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
        if table.count.get() == 0 {
            table.wakers.take().into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_one_address_share_their_sessions() {
        let tables = Tables::default();
        let addr = |port| ListenAddr::Udp(([127, 0, 0, 1], port).into());
        let one = tables.at(&addr(1));
        assert!(Rc::ptr_eq(&one, &tables.at(&addr(1))));
        assert!(!Rc::ptr_eq(&one, &tables.at(&addr(2))));
        drop(one);
        let _again = tables.at(&addr(3));
        assert_eq!(tables.0.borrow().len(), 1);
    }
}
