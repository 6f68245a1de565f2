//! One operation on the ring: an SQE, what must stay in place until it completes, and its result.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use io_uring::{cqueue, squeue};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// The kernel's answer to one operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cqe {
    /// A count or descriptor, or a negated errno.
    pub(super) res: i32,
    /// `IORING_CQE_F_*`.
    pub(super) flags: u32,
}

impl Cqe {
    /// The result as the rest of the program speaks of results.
    pub(super) fn result(self) -> io::Result<usize> {
        if self.res < 0 {
            Err(io::Error::from_raw_os_error(-self.res))
        } else {
            Ok(self.res as usize)
        }
    }

    /// The id of the provided buffer that the operation used, if it used one. It is set on
    /// failures and at the end of a stream too, so it is looked at in every case.
    pub(super) fn buffer_id(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// An operation that the kernel has, or gets with the next batch, together with its data `D`.
///
/// Dropped before it completes, it leaves `D` with the ring until then, and its result is lost.
pub(super) struct Op<D: 'static>(InFlightOneshot<D, Raw<D>>);

impl<D: Unpin + 'static> Op<D> {
    /// Queues `sqe`; it reaches the kernel when the worker next has nothing else to do. What the
    /// SQE points to must be owned by `data`, on the heap.
    pub(super) fn submit(data: D, sqe: squeue::Entry) -> Op<D> {
        Op(UnsubmittedOneshot::new(data, Raw(PhantomData), sqe).submit())
    }

    /// The result if it is there already. Takes the place of the waker that was registered.
    pub(super) fn try_take(&mut self) -> Option<(Cqe, D)> {
        match self.poll_op(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    /// As [`Future::poll`], for callers that hold a plain reference.
    pub(super) fn poll_op(&mut self, cx: &mut Context<'_>) -> Poll<(Cqe, D)> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<D: Unpin + 'static> Future for Op<D> {
    type Output = (Cqe, D);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_op(cx)
    }
}

/// Hands the completion on as it is.
struct Raw<D>(PhantomData<fn() -> D>);

impl<D: 'static> OneshotOutputTransform for Raw<D> {
    type Output = (Cqe, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, cqe: cqueue::Entry) -> Self::Output {
        (
            Cqe {
                res: cqe.result(),
                flags: cqe.flags(),
            },
            data,
        )
    }
}

/// `IORING_RECVSEND_POLL_FIRST`: wait for readiness before the first attempt.
const POLL_FIRST: u16 = 1;

/// Tells a recv to wait for readiness first, since an attempt now would be wasted.
///
/// The crate has no setter for it, so the field is written where `struct io_uring_sqe` has it.
pub(super) fn poll_first(mut sqe: squeue::Entry) -> squeue::Entry {
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: `Entry` is `repr(C)` around the kernel's 64 byte `struct io_uring_sqe`, in which
    // `__u16 ioprio` stands at offset 2; every bit pattern is a valid u16.
    unsafe {
        std::ptr::from_mut(&mut sqe)
            .cast::<u16>()
            .add(1)
            .write(POLL_FIRST);
    }
    sqe
}
