//! The sync server of the C implementation, as its clients see it.
//!
//! It behaves as the protocol describes it, with its faults: after every message it walks once over
//! a handle's leases, it has a client that requests a stronger lease return its present one, and it
//! ends its process at an unexpected message.

/// The codes of the messages.
pub(crate) const REQUEST_UPGRADE: u8 = 9;
pub(crate) const REQUEST_DOWNGRADE: u8 = 10;
pub(crate) const REQUEST_CLOSE: u8 = 11;
pub(crate) const CONFIRM_UPGRADE: u8 = 12;
pub(crate) const CONFIRM_DOWNGRADE: u8 = 13;
pub(crate) const CONFIRM_CLOSE: u8 = 14;

/// The states of a lease.
pub(crate) const NONE: i32 = 0;
pub(crate) const INVALID: i32 = 1;
pub(crate) const SHARED: i32 = 2;
pub(crate) const EXCLUSIVE: i32 = 3;

/// A message to a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServerMessage {
    pub(crate) to: u32,
    pub(crate) code: u8,
    pub(crate) id: u64,
    pub(crate) state: i32,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
/// The lease of a client.
struct Lease {
    client: u32,
    state: i32,
    /// The state that the client has requested, or `NONE`.
    requested: i32,
    /// The state to which the server has asked the client to lower its lease, or `NONE`.
    revoked_to: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Handle {
    id: u64,
    /// The leases, with the newest request last.
    leases: Vec<Lease>,
    data: Vec<u8>,
}

/// The server: its handles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct CServer {
    handles: Vec<Handle>,
}

impl CServer {
    /// Handles a client's message, and returns the messages of the server.
    ///
    /// # Errors
    /// The text names the reason for which the server's process ends.
    pub(crate) fn on_message(
        &mut self,
        from: u32,
        code: u8,
        id: u64,
        state: i32,
        data: &[u8],
    ) -> Result<Vec<ServerMessage>, &'static str> {
        let at = match self.handles.iter().position(|handle| handle.id == id) {
            Some(at) => at,
            None if code == REQUEST_UPGRADE => {
                self.handles.push(Handle {
                    id,
                    leases: Vec::new(),
                    data: Vec::new(),
                });
                self.handles.len() - 1
            }
            None => return Err("an unknown handle"),
        };
        let handle = &mut self.handles[at];
        let mut messages = Vec::new();
        let place = handle.leases.iter().position(|lease| lease.client == from);
        match (code, place) {
            (REQUEST_UPGRADE, place) => {
                let mut lease = match place {
                    Some(place) => handle.leases.remove(place),
                    None => Lease {
                        client: from,
                        state: INVALID,
                        requested: NONE,
                        revoked_to: NONE,
                    },
                };
                if state <= lease.state {
                    return Err("a request that does not raise the state");
                }
                lease.requested = state;
                handle.leases.push(lease);
            }
            (CONFIRM_DOWNGRADE, Some(place)) => {
                let lease = &mut handle.leases[place];
                if state >= lease.state {
                    return Err("a confirmation that does not lower the state");
                }
                if lease.state == EXCLUSIVE {
                    handle.data = data.to_vec();
                } else if !data.is_empty() {
                    return Err("data of a client that only reads");
                }
                lease.state = state;
                if state <= lease.revoked_to {
                    lease.revoked_to = NONE;
                }
            }
            (REQUEST_CLOSE, Some(place)) => {
                if state == EXCLUSIVE {
                    handle.data = data.to_vec();
                }
                handle.leases.remove(place);
                messages.push(ServerMessage {
                    to: from,
                    code: CONFIRM_CLOSE,
                    id,
                    state: INVALID,
                    data: Vec::new(),
                });
            }
            _ => return Err("an unknown client, or a message that only a server sends"),
        }
        handle.process(&mut messages);
        if handle.leases.is_empty() {
            self.handles.remove(at);
        }
        Ok(messages)
    }

    /// Returns true if a client has a lease of that handle.
    pub(crate) fn is_used(&self, id: u64) -> bool {
        self.handles.iter().any(|handle| handle.id == id)
    }
}

impl Handle {
    /// Returns the number of leases in that state.
    fn count(&self, state: i32) -> usize {
        let leases = self.leases.iter();
        leases.filter(|lease| lease.state == state).count()
    }

    /// Grants the possible requests, and revokes conflicting leases.
    fn process(&mut self, messages: &mut Vec<ServerMessage>) {
        let id = self.id;
        for at in 0..self.leases.len() {
            let (readers, writers) = (self.count(SHARED), self.count(EXCLUSIVE));
            let data = self.data.clone();
            let lease = &mut self.leases[at];
            let is_granted = match lease.requested {
                SHARED => writers == 0,
                EXCLUSIVE => {
                    writers == 0 && (readers == 0 || readers == 1 && lease.state == SHARED)
                }
                _ => false,
            };
            if is_granted {
                lease.state = lease.requested;
                lease.requested = NONE;
                messages.push(ServerMessage {
                    to: lease.client,
                    code: CONFIRM_UPGRADE,
                    id,
                    state: lease.state,
                    data,
                });
            }
        }
        let is_requested = |state: i32| self.leases.iter().any(|lease| lease.requested == state);
        let (from, target) = if is_requested(EXCLUSIVE) {
            (SHARED, INVALID)
        } else if is_requested(SHARED) {
            (EXCLUSIVE, SHARED)
        } else {
            return;
        };
        for lease in &mut self.leases {
            let is_revoked = lease.revoked_to != NONE && lease.revoked_to <= target;
            if lease.state >= from && !is_revoked {
                lease.revoked_to = target;
                messages.push(ServerMessage {
                    to: lease.client,
                    code: REQUEST_DOWNGRADE,
                    id,
                    state: target,
                    data: Vec::new(),
                });
            }
        }
    }
}
