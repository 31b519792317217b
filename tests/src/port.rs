//! Ports that are nobody else's.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

use rand::RngExt;

/// Below those that the kernel hands out to connections and to listeners on port 0: a port that was free when it was chosen
/// is free still when the program for which it was chosen has started, and when it starts again.
const BLOCKS: Range<u16> = 100..320;
const BLOCK: u16 = 100;

/// Some ports in a row that this test program has for itself, until it ends.
struct Reserved {
    ports: Range<u16>,
    /// A name in the kernel, so that nothing has to be cleaned up.
    _claim: UnixListener,
}

impl Reserved {
    fn any() -> Self {
        // Test programs side by side begin in different places.
        let begin = rand::rng().random_range(BLOCKS);
        let claim = |block: u16| {
            let name = SocketAddr::from_abstract_name(format!("grantsmith-test-ports-{block}")).ok()?;
            let claim = UnixListener::bind_addr(&name).ok()?;
            Some(Self { ports: block * BLOCK..(block + 1) * BLOCK, _claim: claim })
        };
        let mut blocks = (begin..BLOCKS.end).chain(BLOCKS.start..begin);
        blocks.find_map(claim).expect("fewer test programs than there are ports for")
    }
}

/// A port that nobody has now, and that no other test is given.
pub fn free_port() -> u16 {
    static RESERVED: Mutex<Vec<Reserved>> = Mutex::new(Vec::new());
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
        if let Some(port) = reserved.last_mut().and_then(|block| block.ports.find(free)) {
            return port;
        }
        reserved.push(Reserved::any());
    }
}
