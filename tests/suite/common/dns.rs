//! A name server for run-time resolving: A and SRV records with a TTL, over UDP.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Name → addresses, changeable while it runs.
pub struct Dns {
    /// Its UDP port on 127.0.0.1.
    pub port: u16,
    names: Arc<Mutex<Names>>,
    queries: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Names {
    addresses: BTreeMap<String, Vec<Ipv4Addr>>,
    services: BTreeMap<String, Vec<Srv>>,
}

/// Priority, weight, port and target of an SRV record.
pub type Srv = (u16, u16, u16, &'static str);

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
            .addresses
            .insert(name.to_owned(), addresses);
    }

    /// The SRV records of a name.
    pub fn set_services(&self, name: &str, services: &[Srv]) {
        self.names
            .lock()
            .unwrap()
            .services
            .insert(name.to_owned(), services.to_vec());
    }

    /// Queries so far.
    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }
}

fn answer(query: &[u8], names: &Names, ttl: u32) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while *query.get(at)? != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let question = query.get(12..at + 5)?;
    let kind = query.get(at + 1..at + 3)?;
    let name = labels.join(".");
    let addresses = names.addresses.get(&name).map_or(&[][..], Vec::as_slice);
    let services = names.services.get(&name).map_or(&[][..], Vec::as_slice);
    let records: Vec<Vec<u8>> = match kind {
        [0, 1] => addresses.iter().map(|a| a.octets().to_vec()).collect(),
        [0, 33] => services.iter().map(srv).collect(),
        _ => Vec::new(),
    };
    let is_known = !addresses.is_empty() || !services.is_empty();
    let code = if is_known { 0 } else { 3 };
    let mut out = query[..2].to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8]);
    out.extend([0; 4]);
    out.extend(question);
    for record in records {
        out.extend([0xc0, 12, 0, kind[1], 0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend((record.len() as u16).to_be_bytes());
        out.extend(record);
    }
    Some(out)
}

fn srv(&(priority, weight, port, target): &Srv) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [priority, weight, port] {
        out.extend(number.to_be_bytes());
    }
    for label in target.split('.') {
        out.push(label.len() as u8);
        out.extend(label.bytes());
    }
    out.push(0);
    out
}
