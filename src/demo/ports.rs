//! Ports on loopback for servers that are told theirs before they listen: brokers, nodes that are processes of their own.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Lowest port that is given.
const FIRST: u16 = 10_000;
/// Where Linux begins with ports for the near end of connections, unless it is set otherwise.
const EPHEMERAL: u16 = 32_768;

/// A loopback port on which nobody listens now. Nobody's connection is given it as its own end before somebody does:
/// those ports the system takes from a range above it. The same process is not given it again soon.
///
/// # Errors
/// All are in use.
pub fn free_port() -> io::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let from = range.ok().and_then(|range| range.split_whitespace().next()?.parse().ok());
    let count = u32::from(from.unwrap_or(EPHEMERAL).saturating_sub(FIRST));
    // Processes that run at the same time look in other places.
    let start = std::process::id().wrapping_mul(997);
    let listen = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    for _ in 0..count {
        let at = start.wrapping_add(u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % count;
        let port = FIRST + at as u16;
        if listen(port).is_ok() {
            return Ok(port);
        }
    }
    Ok(listen(0)?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::TcpStream;

    /// Connections that come and go while somebody is about to listen take no port that was given.
    #[test]
    fn no_connection_takes_what_was_given() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let given: BTreeSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(given.len(), 50);
        for _ in 0..50 {
            let near = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let near = near.local_addr().unwrap().port();
            assert!(given.iter().all(|port| *port < near), "{near} is above all of {given:?}");
        }
        for port in given {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
