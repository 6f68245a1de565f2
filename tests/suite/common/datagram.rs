//! UDP servers and clients of the tests.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::PATIENCE;

/// What came to an upstream: the sender and the datagram.
type Came = (SocketAddr, Vec<u8>);

/// A UDP server that lives as long as the process.
pub struct UdpBackend {
    /// Its port on 127.0.0.1.
    pub port: u16,
    came: Arc<Mutex<Vec<Came>>>,
}

impl UdpBackend {
    /// Answers each datagram with what `answers` makes of it.
    pub fn new(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> UdpBackend {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let came: Arc<Mutex<Vec<Came>>> = Arc::default();
        let seen = Arc::clone(&came);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
                let datagram = buffer[..count].to_vec();
                seen.lock().unwrap().push((peer, datagram.clone()));
                for answer in answers(&datagram) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        UdpBackend { port, came }
    }

    /// Returns each datagram behind its name.
    pub fn echo(name: &'static str) -> UdpBackend {
        UdpBackend::new(move |datagram| vec![[name.as_bytes(), datagram].concat()])
    }

    /// Takes what comes and never answers.
    pub fn silent() -> UdpBackend {
        UdpBackend::new(|_| Vec::new())
    }

    /// What has come, in its order.
    pub fn came(&self) -> Vec<Vec<u8>> {
        let came = self.came.lock().unwrap();
        came.iter().map(|(_, datagram)| datagram.clone()).collect()
    }

    /// Who has sent it.
    pub fn senders(&self) -> Vec<SocketAddr> {
        let came = self.came.lock().unwrap();
        came.iter().map(|(peer, _)| *peer).collect()
    }

    /// Number of senders: one for each session.
    pub fn sessions(&self) -> usize {
        self.senders().into_iter().collect::<BTreeSet<_>>().len()
    }
}

/// A port on which nobody takes datagrams.
pub fn dead_udp() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// A UDP client that speaks to one address, and hears nobody else.
pub struct UdpClient(UdpSocket);

impl UdpClient {
    /// To a port on 127.0.0.1.
    pub fn to(port: u16) -> UdpClient {
        UdpClient::between("127.0.0.1", SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// From one address to another.
    pub fn between(from: &str, to: SocketAddr) -> UdpClient {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(to).unwrap();
        UdpClient(socket)
    }

    /// Its own address.
    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Sends one datagram.
    pub fn send(&self, datagram: impl AsRef<[u8]>) -> &UdpClient {
        self.0.send(datagram.as_ref()).unwrap();
        self
    }

    /// The next datagram that comes.
    #[track_caller]
    pub fn next(&self) -> Vec<u8> {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let count = self.0.recv(&mut buffer).expect("a datagram");
        buffer.truncate(count);
        buffer
    }

    /// Sends and returns the answer as text.
    #[track_caller]
    pub fn ask(&self, datagram: impl AsRef<[u8]>) -> String {
        String::from_utf8(self.send(datagram).next()).unwrap()
    }

    /// Whether nothing comes for a while.
    pub fn hears_nothing(&self) -> bool {
        let pause = Duration::from_millis(100);
        self.0.set_read_timeout(Some(pause)).unwrap();
        self.0.recv(&mut [0; 10]).is_err()
    }
}
