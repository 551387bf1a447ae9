//! The addresses of the members of a family: Unix sockets, TCP or vsock.

use std::fmt;
use std::format;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::string::String;
use std::sync::Arc;

use super::network::{NetworkAddress, VsockAddress};
use crate::Vmid;

/// The addresses of the members of a family, by their VMIDs.
///
/// It is written as text as `unix:/run/family` (the path alone is read, too), `tcp:127.0.0.1:40000` or `vsock:1:40000`. A
/// command line can pass it on to a child. The two maps have no such text.
///
/// A member's own address has to be one at which this machine can listen.
#[derive(Clone)]
#[non_exhaustive]
pub enum Addresses {
    /// Unix sockets: member N listens at `{path}.N`. For processes of one user on one machine.
    Unix(PathBuf),
    /// TCP: member N listens at port `base` + N of `host`. For processes that reach each other there. VMIDs are
    /// not used twice, so the ports run out after some ten thousand processes.
    Tcp {
        /// The address of the machine on which all members are.
        host: IpAddr,
        /// The port below that of the leader.
        base: u16,
    },
    /// TCP, with an address for each member; `None` if a VMID has none.
    TcpMap(Arc<dyn Fn(Vmid) -> Option<SocketAddr> + Send + Sync>),
    /// The sockets of virtual machines: member N listens at port `base` + N of the machine `cid`.
    Vsock {
        /// The context identifier of the machine on which all members are.
        cid: u32,
        /// The port below that of the leader.
        base: u32,
    },
    /// The sockets of virtual machines, with an address for each member; `None` if a VMID has none. For members
    /// on a host and in its guests.
    VsockMap(Arc<dyn Fn(Vmid) -> Option<VsockAddress> + Send + Sync>),
}

impl Addresses {
    /// Returns the address of a member on a network.
    pub(super) fn on_network(&self, vmid: Vmid) -> Result<NetworkAddress> {
        let none = || {
            invalid(format!(
                "member {vmid} has no address: the map of addresses has to give one"
            ))
        };
        match self {
            Addresses::Unix(path) => Err(invalid(format!("{} is no network", path.display()))),
            Addresses::Tcp { host, base } => {
                let port = u32::from(*base).checked_add(vmid.get());
                let port = port.and_then(|port| u16::try_from(port).ok()).ok_or_else(|| {
                    let most = u16::MAX.saturating_sub(*base);
                    invalid(format!(
                        "member {vmid} has no port: above port {base} there are {most}, and no VMID is used twice; \
                         take a lower base, or `Addresses::TcpMap`"
                    ))
                })?;
                Ok(NetworkAddress::Tcp(SocketAddr::new(*host, port)))
            }
            Addresses::TcpMap(map) => map(vmid).map(NetworkAddress::Tcp).ok_or_else(none),
            Addresses::Vsock { cid, base } => {
                let port = base.checked_add(vmid.get()).ok_or_else(|| {
                    invalid(format!(
                        "member {vmid} has no port above {base}: take a lower base"
                    ))
                })?;
                Ok(NetworkAddress::Vsock(VsockAddress { cid: *cid, port }))
            }
            Addresses::VsockMap(map) => map(vmid).map(NetworkAddress::Vsock).ok_or_else(none),
        }
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addresses::Unix(path) => write!(f, "unix:{}", path.display()),
            Addresses::Tcp { host, base } => write!(f, "tcp:{}", SocketAddr::new(*host, *base)),
            Addresses::TcpMap(_) => f.write_str("tcp, with a map"),
            Addresses::Vsock { cid, base } => write!(f, "vsock:{cid}:{base}"),
            Addresses::VsockMap(_) => f.write_str("vsock, with a map"),
        }
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Addresses {
    type Err = Error;

    fn from_str(text: &str) -> Result<Addresses> {
        let form = |expected: &str| {
            invalid(format!(
                "{text:?} is no address of a family: expected {expected}"
            ))
        };
        if let Some(rest) = text.strip_prefix("tcp:") {
            let address = SocketAddr::from_str(rest).map_err(|_| form("tcp:ADDRESS:PORT"))?;
            return Ok(Addresses::Tcp {
                host: address.ip(),
                base: address.port(),
            });
        }
        if let Some(rest) = text.strip_prefix("vsock:") {
            let numbers = rest
                .split_once(':')
                .and_then(|(cid, base)| Some((cid.parse().ok()?, base.parse().ok()?)));
            let (cid, base) = numbers.ok_or_else(|| form("vsock:CID:PORT"))?;
            return Ok(Addresses::Vsock { cid, base });
        }
        Ok(Addresses::Unix(
            text.strip_prefix("unix:").unwrap_or(text).into(),
        ))
    }
}

fn invalid(why: String) -> Error {
    Error::new(ErrorKind::InvalidInput, why)
}
