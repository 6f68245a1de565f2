//! `syslog:` targets of `error_log` and `access_log`: RFC 3164 datagrams over UDP or a unix socket.

use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::level::Level;
use crate::base::clock;

/// One datagram at most: what receivers commonly accept.
const DATAGRAM_MAX: usize = 2048;

/// The port of a `server=` without one.
const DEFAULT_PORT: u16 = 514;

/// Facility names in the order of their numbers.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "intern", "lpr", "news", "uucp", "clock", "authpriv",
    "ftp", "ntp", "audit", "alert", "cron", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];

/// Where and how to send: the parsed form of `syslog:server=…,facility=…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    address: Address,
    facility: u8,
    severity: Level,
    tag: Box<str>,
    with_hostname: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Udp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    /// Parses what follows `syslog:`. A host name is resolved here, once, so this may block: it is
    /// for configuration time. The error says what is wrong with the text.
    pub fn parse(text: &[u8]) -> Result<Target, String> {
        let text = std::str::from_utf8(text).map_err(|_| "invalid syslog parameters".to_owned())?;
        let mut address = None;
        let mut target = Target {
            address: Address::Unix(PathBuf::new()),
            facility: 23,
            severity: Level::Info,
            tag: "nginx".into(),
            with_hostname: true,
        };
        for parameter in text.split(',') {
            match parameter.split_once('=') {
                Some(("server", value)) if address.is_none() => {
                    address = Some(Address::parse(value)?);
                }
                Some(("server", _)) => return Err("duplicate syslog \"server\"".to_owned()),
                Some(("facility", value)) => {
                    target.facility = FACILITIES
                        .iter()
                        .position(|name| *name == value)
                        .ok_or_else(|| format!("unknown syslog facility \"{value}\""))?
                        as u8;
                }
                Some(("severity", value)) => {
                    target.severity = Level::parse(value.as_bytes())
                        .ok_or_else(|| format!("unknown syslog severity \"{value}\""))?;
                }
                Some(("tag", value)) => target.tag = parse_tag(value)?,
                None if parameter == "nohostname" => target.with_hostname = false,
                _ => return Err(format!("unknown syslog parameter \"{parameter}\"")),
            }
        }
        target.address = address.ok_or_else(|| "no syslog server specified".to_owned())?;
        Ok(target)
    }

    /// The severity of messages that have no level of their own: access log lines.
    pub fn severity(&self) -> Level {
        self.severity
    }

    fn append_header(&self, severity: u8, out: &mut Vec<u8>) {
        out.push(b'<');
        let _ = write!(
            out,
            "{}",
            u32::from(self.facility) * 8 + u32::from(severity)
        );
        out.push(b'>');
        clock::syslog_time(out);
        out.push(b' ');
        if self.with_hostname {
            out.extend_from_slice(hostname().as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(self.tag.as_bytes());
        out.extend_from_slice(b": ");
    }
}

impl Address {
    fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(format!("invalid syslog server \"{text}\""));
            }
            return Ok(Address::Unix(path.into()));
        }
        let has_port = text.rsplit_once(':').is_some_and(|(host, port)| {
            port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
        });
        let resolved = if has_port {
            text.to_socket_addrs().map(|mut found| found.next())
        } else {
            let host = text.trim_start_matches('[').trim_end_matches(']');
            (host, DEFAULT_PORT)
                .to_socket_addrs()
                .map(|mut found| found.next())
        };
        match resolved {
            Ok(Some(address)) => Ok(Address::Udp(address)),
            _ => Err(format!("host not found in syslog server \"{text}\"")),
        }
    }
}

/// The sending end, owned by the log writer. Connects when the first message is sent and again
/// after an error, so that a syslog daemon may start later or restart.
#[derive(Debug)]
pub struct Sender {
    target: Target,
    socket: Option<Socket>,
    datagram: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Sender {
    /// A sender that has not connected yet.
    pub fn new(target: Target) -> Sender {
        Sender {
            target,
            socket: None,
            datagram: Vec::new(),
        }
    }

    /// Sends each line of `lines` as one datagram with `severity`; never blocks. On an error the
    /// rest is dropped.
    pub fn send_lines(&mut self, severity: u8, lines: &[u8]) -> io::Result<()> {
        for line in lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            self.datagram.clear();
            self.target.append_header(severity, &mut self.datagram);
            self.datagram.extend_from_slice(line);
            self.datagram.truncate(DATAGRAM_MAX);
            self.send_datagram()?;
        }
        Ok(())
    }

    fn send_datagram(&mut self) -> io::Result<()> {
        let sent = match self.send_once() {
            // The receiver was replaced: one new try on a fresh socket.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.socket = None;
                self.send_once()
            }
            other => other,
        };
        if sent.is_err() {
            self.socket = None;
        }
        sent
    }

    fn send_once(&mut self) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(Socket::connect(&self.target.address)?),
        };
        match socket {
            Socket::Udp(socket) => socket.send(&self.datagram)?,
            Socket::Unix(socket) => socket.send(&self.datagram)?,
        };
        Ok(())
    }
}

impl Socket {
    fn connect(address: &Address) -> io::Result<Socket> {
        match address {
            Address::Udp(address) => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                    SocketAddr::V6(_) => ([0u16; 8], 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Udp(socket))
            }
            Address::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Unix(socket))
            }
        }
    }
}

/// This machine's name in lower case, as `$hostname` and syslog lines show it.
pub fn hostname() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match read.trim() {
            "" => "localhost".to_owned(),
            name => name.to_ascii_lowercase(),
        }
    })
}

fn parse_tag(value: &str) -> Result<Box<str>, String> {
    if value.len() > 32 {
        return Err("syslog \"tag\" length exceeds 32".to_owned());
    }
    if !value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return Err("syslog \"tag\" only allows alphanumeric characters and underscore".to_owned());
    }
    Ok(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_every_parameter() {
        let target = Target::parse(
            b"server=127.0.0.1:1514,facility=local3,severity=warn,tag=edge_1,nohostname",
        )
        .unwrap();
        assert_eq!(
            target.address,
            Address::Udp("127.0.0.1:1514".parse().unwrap())
        );
        assert_eq!((target.facility, target.severity), (19, Level::Warn));
        assert_eq!((&*target.tag, target.with_hostname), ("edge_1", false));
        let plain = Target::parse(b"server=[::1]").unwrap();
        assert_eq!(plain.address, Address::Udp("[::1]:514".parse().unwrap()));
        let unix = Target::parse(b"server=unix:/dev/log").unwrap();
        assert_eq!(unix.address, Address::Unix("/dev/log".into()));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for (text, message) in [
            ("facility=local0", "no syslog server specified"),
            (
                "server=127.0.0.1,server=127.0.0.1",
                "duplicate syslog \"server\"",
            ),
            (
                "server=127.0.0.1,facility=x",
                "unknown syslog facility \"x\"",
            ),
            (
                "server=127.0.0.1,severity=x",
                "unknown syslog severity \"x\"",
            ),
            (
                "server=127.0.0.1,color=x",
                "unknown syslog parameter \"color=x\"",
            ),
        ] {
            assert_eq!(Target::parse(text.as_bytes()).unwrap_err(), message);
        }
        assert!(
            Target::parse(b"server=127.0.0.1,tag=a-b")
                .unwrap_err()
                .contains("alphanumeric")
        );
    }

    #[test]
    fn sends_one_datagram_per_line_over_udp() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let text = format!(
            "server={},facility=local7,nohostname",
            receiver.local_addr().unwrap()
        );
        let mut sender = Sender::new(Target::parse(text.as_bytes()).unwrap());
        sender
            .send_lines(Level::Error.severity(), b"one\ntwo\n")
            .unwrap();
        let mut buffer = [0; 256];
        for expected in ["one", "two"] {
            let length = receiver.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            // <PRI>Mon dd hh:mm:ss tag: message
            assert!(text.starts_with("<187>"), "{text}");
            assert_eq!(&text[20..], format!(" nginx: {expected}"), "{text}");
        }
    }

    #[test]
    fn finds_a_restarted_unix_receiver_again() {
        let path = std::env::temp_dir().join(format!("ringway-syslog-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let text = format!("server=unix:{},tag=edge", path.display());
        let mut sender = Sender::new(Target::parse(text.as_bytes()).unwrap());
        assert!(sender.send_lines(6, b"lost\n").is_err());
        for _ in 0..2 {
            let receiver = UnixDatagram::bind(&path).unwrap();
            sender.send_lines(6, b"here\n").unwrap();
            let mut buffer = [0; 256];
            let length = receiver.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert!(
                text.ends_with(&format!(" {} edge: here", hostname())),
                "{text}"
            );
            std::fs::remove_file(&path).unwrap();
        }
    }
}
