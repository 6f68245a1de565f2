//! A name server for run-time resolving: A records with a TTL, over UDP.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Name → addresses, changeable while it runs.
pub struct Dns {
    /// Its UDP port on 127.0.0.1.
    pub port: u16,
    names: Arc<Mutex<BTreeMap<String, Vec<Ipv4Addr>>>>,
    queries: Arc<AtomicUsize>,
}

impl Dns {
    /// Start with a TTL in seconds for every answer; ends with the process.
    pub fn start(ttl: u32) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let dns = Dns {
            port,
            names: Arc::default(),
            queries: Arc::default(),
        };
        let (names, queries) = (dns.names.clone(), dns.queries.clone());
        std::thread::spawn(move || {
            let mut packet = [0u8; 1500];
            while let Ok((n, peer)) = socket.recv_from(&mut packet) {
                queries.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = answer(&packet[..n], &names.lock().unwrap(), ttl) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        dns
    }

    /// The addresses of a name; none makes it NXDOMAIN.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        self.names
            .lock()
            .unwrap()
            .insert(name.to_owned(), addresses);
    }

    /// Queries so far.
    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }
}

fn answer(query: &[u8], names: &BTreeMap<String, Vec<Ipv4Addr>>, ttl: u32) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while *query.get(at)? != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let question = query.get(12..at + 5)?;
    let is_a = query.get(at + 1..at + 3)? == [0, 1];
    let known = names.get(&labels.join("."));
    let addresses = known.filter(|_| is_a).map_or(&[][..], Vec::as_slice);
    let code = if known.is_some_and(|known| !known.is_empty()) {
        0
    } else {
        3
    };
    let mut out = query[..2].to_vec();
    out.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        addresses.len() as u8,
        0,
        0,
        0,
        0,
    ]);
    out.extend(question);
    for address in addresses {
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}
