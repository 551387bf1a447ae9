//! A digest of the server's tables.

use core::hash::{Hash, Hasher};

use super::Server;
use crate::store::Digest;

impl Server<'_> {
    /// Takes in all that later messages depend on.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        self.handle_slots.digest(digest);
        let handles = self.handle_slots.high_water() as usize;
        for handle in self.handles.iter().take(handles) {
            (
                handle.id,
                handle.clients,
                handle.queue_head,
                handle.queue_tail,
            )
                .hash(digest);
            (handle.readers, handle.writer, handle.owner_died).hash(digest);
            handle.revocations.hash(digest);
            handle.payer.hash(digest);
            let value = |value: &super::Value<'_>, digest: &mut Digest| digest.write(value.bytes());
            handle.value.digest(digest, value);
        }
        self.client_slots.digest(digest);
        let clients = self.client_slots.high_water() as usize;
        digest.add_all(self.clients.iter().take(clients));
        self.outbox.digest(digest);
        let (first, last) = (self.first_revoked, self.last_revoked);
        (first, last, self.last_revocation).hash(digest);
        self.quotas.digest(digest);
    }
}
