//! Ports for listeners: below the ephemeral range, so that no outgoing connection sits on one, and
//! reserved machine-wide, so that test processes running side by side never share one.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Socket, Type};

const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A TCP port that is ours until dropped.
pub struct Port {
    /// The port number.
    pub number: u16,
    /// Nobody sends to it. Two sockets cannot have this address at once, which is the reservation:
    /// a listener with SO_REUSEPORT would not notice another one on its TCP port.
    _reservation: UdpSocket,
}

/// Reserve a free port.
pub fn reserve() -> Port {
    let offset = (std::process::id() % 1_000) as u16 * 22;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let number = FIRST + (offset + step) % COUNT;
        let Ok(reservation) = UdpSocket::bind(("127.77.0.1", number)) else {
            continue;
        };
        if is_free(number) {
            return Port {
                number,
                _reservation: reservation,
            };
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Bound but not listening: a child that is being started may hold a copy of this socket for a
/// moment, and a listening one would be in the way.
fn is_free(number: u16) -> bool {
    let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, None) else {
        return false;
    };
    let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number));
    socket.set_reuse_address(true).is_ok() && socket.bind(&addr.into()).is_ok()
}
